"""What became of the rows of a prepared set, in a few lines of text."""

from pathlib import Path

import numpy as np

from jaxalign.data.rows import store
from jaxalign.data.rows.store import Prepared


def report(folder: str | Path) -> list[str]:
    """Rows kept and dropped by rule, balance of the rewards, fill of the rows: lines of text."""
    prepared = store.read(folder)
    meta = prepared.meta
    return [
        f"{meta['name']}, format {meta['format']} ({meta['format_because']}): {folder}",
        *(f"  {line}" for line in store.Counts.from_dict(meta["counts"]).lines()),
        *_balance(prepared),
        f"  {meta['groups']:,} groups of up to {meta['responses']} responses, {meta['tokens']:,} tokens, in {meta['rows']:,} rows of "
        f"{meta['row_tokens']:,}: {meta['fill']:.1%} full, {meta['padding']:.1%} padding",
    ]


def label_counts(prepared: Prepared, threshold: float) -> tuple[int, int]:
    """(desirable, undesirable) responses of a set: those with a reward above the threshold, and the others.

    The two responses of a pair count too, mismatched ones do not. KTO's class weights depend on the two numbers.
    """
    desirable = int(np.count_nonzero(prepared.groups.reward[prepared.groups.valid] > threshold))
    return desirable, int(np.count_nonzero(prepared.groups.valid)) - desirable


def _balance(prepared):
    groups = prepared.groups
    if groups.paired.all():
        return []
    above, others = label_counts(prepared, 0.5)
    mean = float(groups.reward[groups.valid].mean())
    return [f"  rewards: mean {mean:.3f}; {above:,} of {above + others:,} responses above 0.5 ({above / (above + others):.1%})"]
