"""How long the rows of a source are: the number of tokens per row that holds almost all of its groups whole."""

from collections.abc import Iterable
import dataclasses

import numpy as np

from jaxalign.data.raw.sources import Rows
from jaxalign.data.rows.shards import Recipe, encode_rows

SAMPLE = 2000  # rows of a source that are measured, spread evenly over it
HELD = 0.99  # share of the groups that are to fit
MULTIPLE = 64  # tokens per row are a multiple of this: the blocks of attention kernels
LONGEST_ROW = 8192  # what a longer row holds is rare, and its memory is not
NO_LIMIT = 1 << 24


def needed(rows: Rows, recipe: Recipe, *, context: int | None) -> np.ndarray:
    """Tokens per row that each group of a sample needs to be kept whole: int64[n]; the row_tokens of `recipe` does not matter.

    A prompt with a response longer than `context`, the positions of the model, counts as that long: a longer row would not help it.
    """
    limits = dataclasses.replace(recipe.limits, row_tokens=NO_LIMIT)
    recipe = dataclasses.replace(recipe, limits=limits, on_bad_row="drop")
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).round().astype(int)).tolist()
    groups, _, _ = encode_rows([rows.read(i) for i in numbers], first=0, recipe=recipe, renderer=recipe.renderer())
    return np.array([_needed(group, limits, context or NO_LIMIT) for group in groups], np.int64)


def fitting(needs: Iterable[np.ndarray]) -> int | None:
    """The smallest multiple of `MULTIPLE` that keeps the share `HELD` of the groups of every source whole; None where there is no group."""
    shares = [float(np.quantile(need, HELD, method="higher")) for need in needs if len(need)]
    return min(LONGEST_ROW, -(-int(max(shares)) // MULTIPLE) * MULTIPLE) if shares else None


def _needed(group, limits, context):
    # as `encode.Limits` counts: a response has an equal share of the row, and the whole group must fit
    lengths = [len(ids) for ids in group.responses]
    count, total = len(lengths), sum(lengths)
    if limits.mismatched:
        count, total = count + 1, total + -(-total // count)
    prompt = len(group.prompt)
    prompts = prompt - 1 + count if limits.share_prompt and count > 1 else prompt * count
    share = (max(lengths) + 2) * count if limits.max_response_tokens is None else 0
    return min(max(prompts + total, share), context * count)
