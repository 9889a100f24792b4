"""How long the rows of a source are: the number of tokens per row that holds almost all of its groups whole and leaves little padding."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from jaxalign.data.raw.sources import Rows
from jaxalign.data.rows import pack
from jaxalign.data.rows.shards import Recipe, encode_rows

SAMPLE = 2000  # rows of a source that are measured, spread evenly over it
HELD = 0.99  # share of the groups that are to fit
FILLED = 0.97  # share of the places of packed rows that are to hold a token
FEWEST = 64  # groups that tell how full rows get
MULTIPLE = 64  # tokens per row are a multiple of this: the blocks of attention kernels
LONGEST_ROW = 8192  # what a longer row holds is rare, and its memory is not
NO_LIMIT = 1 << 24


def needed(rows: Rows, recipe: Recipe, *, context: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(tokens per row that each group of a sample needs to be kept whole, tokens that it takes in its row): int64[n] twice.

    The row_tokens of `recipe` does not matter.

    A prompt with a response longer than `context`, the positions of the model, counts as that long: a longer row would not help it.
    """
    limits = dataclasses.replace(recipe.limits, row_tokens=NO_LIMIT)
    recipe = dataclasses.replace(recipe, limits=limits, on_bad_row="drop")
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).round().astype(int)).tolist()
    groups, _, _ = encode_rows([rows.read(i) for i in numbers], first=0, recipe=recipe, renderer=recipe.renderer())
    both = np.array([_needed(group, limits, context or NO_LIMIT) for group in groups], np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def fitting(measured: Iterable[tuple[np.ndarray, np.ndarray]], *, packed: bool) -> int | None:
    """The smallest multiple of `MULTIPLE` that keeps the share `HELD` of the groups of every source whole; None where there is no group.

    Where most groups are longer than half of such a row, few share one. Packed rows are then the shortest that fill up to `FILLED`.

    Args:
      measured: `needed` of each source.
    """
    several = [(need, sizes) for need, sizes in measured if len(need)]
    if not several:
        return None
    whole = max(float(np.quantile(need, HELD, method="higher")) for need, _ in several)
    shortest = min(LONGEST_ROW, -(-int(whole) // MULTIPLE) * MULTIPLE)
    if not packed or min(len(need) for need, _ in several) < FEWEST:
        return shortest
    candidates = range(shortest, LONGEST_ROW + 1, MULTIPLE)
    return next((tokens for tokens in candidates if _fill([sizes for _, sizes in several], tokens) >= FILLED), shortest)


def _fill(several, tokens):
    """The share of the places of packed rows that hold a token, without the last row of each source, which fills up in a larger one."""
    fitting = [sizes[sizes <= tokens] for sizes in several]
    rows = sum(len(pack.plan_rows(sizes, row_tokens=tokens, pack=True)) - 1 for sizes in fitting if len(sizes))
    return sum(int(sizes.sum()) for sizes in fitting) / max(rows * tokens, 1)


def _needed(group, limits, context):
    # as `encode.Limits` counts: a response has an equal share of the row, and the whole group must fit
    lengths = [len(ids) for ids in group.responses]
    count, total = len(lengths), sum(lengths)
    if limits.mismatched:
        count, total = count + 1, total + -(-total // count)
    prompt = len(group.prompt)
    prompts = prompt - 1 + count if limits.share_prompt and count > 1 else prompt * count
    share = (max(lengths) + 2) * count if limits.max_response_tokens is None else 0
    return min(max(prompts + total, share), context * count), min(prompts + total, context * count)
