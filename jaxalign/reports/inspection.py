"""What a prepared set contains, for a reader: decoded rows with the trained tokens marked, counts per rule, duplicates, lengths, fill."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxalign.data.rows import pack, store
from jaxalign.data.rows.store import Prepared
from jaxalign.data.summary import report
from jaxalign.data.text import tokenizer
from jaxalign.data.text.tokenizer import Tokenizer

BARS = 12
BAR_WIDTH = 50


def show(folder: str | Path, *, rows: int, tokenizer_path: str | None = None) -> None:
    """Prints the inspection of one prepared set with `rows` decoded examples, spread evenly over it.

    The rows are decoded with the tokenizer at `tokenizer_path`; None: with the one that the set was first made with.

    Raises:
      ValueError: no prepared set, or the tokenizer is not the one of the set.
      FileNotFoundError: there is no tokenizer any more.
    """
    from rich.console import Console

    prepared = store.read(folder)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in [*report(folder), *duplicate_lines(prepared.groups), *length_lines(prepared), ""]:
        console.print(line)
    if rows < 1:
        return
    loaded = _tokenizer(prepared, tokenizer_path)
    spread = np.linspace(0, len(prepared.groups) - 1, min(rows, len(prepared.groups))).round().astype(int)
    for group in spread.tolist():
        _print_group(console, prepared, group, loaded)


def decoded(prepared: Prepared, group: int, response: int, loaded: Tokenizer) -> list[tuple[str, bool]]:
    """The text of a prompt and one of its responses, cut where training begins and ends: [(text, trained)]."""
    prompt, _ = prepared.groups.piece(group, 0)
    tokens, scored = prepared.groups.piece(group, 1 + response)
    ids = [*prompt.tolist(), *tokens.tolist()]
    trained = np.concatenate([np.zeros(len(prompt), bool), scored.astype(bool)])
    cuts = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    texts = [loaded.decode(ids[:cut]) for cut in cuts]
    return [
        (texts[i + 1][len(texts[i]) :], bool(trained[start])) for i, start in enumerate(cuts[:-1]) if cuts[i + 1] > start
    ]


def marked(parts: Sequence[tuple[str, bool]]) -> str:
    """The text with [[ ]] around what is trained."""
    return "".join(f"[[{text}]]" if trained else text for text, trained in parts)


def duplicate_lines(groups: pack.Groups) -> list[str]:
    """How many groups have the prompt, and how many responses the tokens, of an earlier one."""
    prompts = [groups.piece(g, 0)[0].tobytes() for g in range(len(groups))]
    responses = [groups.piece(g, 1 + int(k))[0].tobytes() for g in range(len(groups)) for k in np.flatnonzero(groups.valid[g])]
    whole = [tuple(groups.piece(g, piece)[0].tobytes() for piece in range(1 + groups.valid.shape[1])) for g in range(len(groups))]
    lines = []
    for name, items in (("prompts", prompts), ("responses", responses), ("whole examples", whole)):
        repeated = len(items) - len(set(items))
        lines.append(f"  duplicates: {repeated:,} of {len(items):,} {name} ({repeated / max(len(items), 1):.1%}) stand there already")
    return lines


def length_lines(prepared: Prepared) -> list[str]:
    """Histograms of prompts, responses and rows in tokens, and what sharing the prompts saves."""
    groups = prepared.groups
    lengths = groups.lengths()
    sizes = pack.group_tokens(groups, share_prompt=prepared.share_prompt)
    in_row = np.array([sizes[row[row >= 0]].sum() for row in prepared.plan])
    lines = [
        *histogram("prompt tokens", lengths[:, 0]),
        *histogram("response tokens", lengths[:, 1:][groups.present]),
        *histogram(f"tokens in a row of {prepared.row_tokens}", in_row),
    ]
    unshared, shared = prepared.meta["unshared_tokens"], prepared.meta["row_real_tokens"]
    if shared < unshared:
        lines.append(f"  shared prompts: {shared:,} tokens instead of {unshared:,}, {1 - shared / unshared:.1%} fewer")
    scored = int(np.count_nonzero(groups.scored))
    lines.append(f"  trained: {scored:,} tokens, {scored / shared:.1%} of what the rows hold")
    return lines


def histogram(title: str, lengths: np.ndarray) -> list[str]:
    """Text bars of how many items have how many tokens, under a line with the quantiles."""
    lengths = np.asarray(lengths)
    low, middle, high = np.percentile(lengths, [5, 50, 95]).astype(int).tolist()
    lines = [f"  {title}: mean {lengths.mean():.0f}, median {middle}, 5 to 95 %: {low} to {high}, longest {lengths.max()}"]
    bars = min(BARS, int(lengths.max() - lengths.min()) + 1)
    counts, edges = np.histogram(lengths, bars)
    for count, start, stop in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        lines.append(f"  {start:8,.0f} - {stop:7,.0f}  {'█' * round(BAR_WIDTH * count / counts.max()):<{BAR_WIDTH}} {count:,}")
    return lines


def _tokenizer(prepared, path):
    stored = prepared.meta["tokenizer_path"]
    try:
        loaded = tokenizer.load(path or stored).with_added(prepared.meta["depends"].get("add_tokens", ()))
    except FileNotFoundError as error:
        if path:
            raise
        raise FileNotFoundError(
            f"the tokenizer that {prepared.folder} was made with is gone from {stored}; give --config instead of --prepared, which reads "
            "the tokenizer that the config names, or --rows 0 for the counts alone."
        ) from error
    if loaded.content != prepared.meta["tokenizer"]:
        raise ValueError(f"the tokenizer at {path or stored} has changed since {prepared.folder} was made; prepare again.")
    return loaded


def _print_group(console, prepared, group, loaded):
    from rich.text import Text

    groups = prepared.groups
    kind = "a pair, the first is preferred" if groups.paired[group] else "judged one by one"
    console.rule(f"row {int(prepared.source_rows[group])} of the source, {kind}", align="left", characters="-")
    for k in np.flatnonzero(groups.present[group]).tolist():
        parts = decoded(prepared, group, k, loaded)
        what = f"reward {float(groups.reward[group, k]):g}" if k < groups.valid.shape[1] else "of another prompt"
        sizes = f"response {k}, {what}, {len(groups.piece(group, 1 + k)[0])} tokens: "
        if not console.is_terminal:
            console.print(sizes + marked(parts if k == 0 else parts[1:]))
            continue
        text = Text(sizes, style="bold")
        for i, (part, trained) in enumerate(parts):
            if k == 0 or i:  # the prompt is the same for all
                text.append(part, style="green" if trained else "dim")
        console.print(text)
