"""The report on a prepared set tells how its rewards are balanced."""

import json

import prepare_runs
import pytest

from jaxalign.data import summary
from jaxalign.data.rows import store


def prepared(tmp_path, rows, **options):
    folder = prepare_runs.make_folder(tmp_path)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare_runs.run(folder, options.pop("source", None), **options)


LABELS = [{"prompt": f"p{i}", "completion": "c", "label": i < 9} for i in range(12)]


def test_the_report_shows_the_balance_of_labels(tmp_path):
    page = "\n".join(summary.report(prepared(tmp_path, LABELS, mismatched=True)))
    assert "rewards: mean 0.750; 9 of 12 responses above 0.5 (75.0%)" in page


def test_pairs_are_balanced_anyway(tmp_path):
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
    assert "rewards:" not in "\n".join(summary.report(prepared(tmp_path, rows)))


@pytest.mark.parametrize(("threshold", "counts"), [(0.5, (1, 2)), (0.0, (2, 1)), (1.0, (0, 3))])
def test_a_response_above_the_threshold_is_desirable(tmp_path, threshold, counts):
    rows = [{"prompt": "p", "completions": ["a", "b"], "scores": [0.5, 1]}, {"prompt": "q", "completion": "c", "score": 0}]
    assert summary.label_counts(store.read(prepared(tmp_path, rows)), threshold) == counts
    with_mismatched = store.read(prepare_runs.run(tmp_path, mismatched=True))
    assert with_mismatched.groups.donors is not None and summary.label_counts(with_mismatched, threshold) == counts
