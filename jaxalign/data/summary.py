"""What became of the rows of a prepared set, in a few lines of text."""

from pathlib import Path

import numpy as np

from jaxalign.data.rows import store
from jaxalign.data.rows.store import Prepared

WARN_SHARE = 0.03  # of the rows; a few bad rows are usual in every data set


def report(folder: str | Path) -> list[str]:
    """Rows kept and dropped by rule, balance of the rewards, fill of the rows: lines of text."""
    prepared = store.read(folder)
    meta = prepared.meta
    return [
        *_warning(meta),
        f"{meta['name']}, format {meta['format']} ({meta['format_because']}): {folder}",
        *(f"  {line}" for line in store.Counts.from_dict(meta["counts"]).lines()),
        *(f"  rename leaves out the column {column}, which no row has; mend or remove it" for column in meta["absent"]),
        *_balance(prepared),
        f"  {meta['groups']:,} groups of up to {meta['responses']} responses, {meta['tokens']:,} tokens, in {meta['rows']:,} rows of "
        f"{meta['row_tokens']:,}: {meta['fill']:.1%} full, {meta['padding']:.1%} padding",
    ]


def _warning(meta):
    # the first line where a run would train on much less than the source holds
    rules = {name: rule for name, rule in meta["counts"]["rules"].items() if rule["effect"] == "dropped" and name != "held_out"}
    dropped = sum(rule["rows"] for rule in rules.values())
    held_out = meta["counts"]["rules"].get("held_out", {"rows": 0})["rows"]
    share = dropped / max(meta["counts"]["read"] - held_out, 1)
    if share <= WARN_SHARE:
        return []
    name, rule = max(rules.items(), key=lambda item: item[1]["rows"])
    return [f"WARNING: {dropped:,} rows of {meta['name']} ({share:.1%}) are dropped, {rule['rows']:,} of them by {name}: {rule['message']}"]


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
