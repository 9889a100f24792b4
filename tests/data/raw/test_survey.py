"""A forgotten setting that would turn judgements around stops the run, with what the set holds and the way out."""

import pytest

from jaxalign.data.raw import sources, survey
from jaxalign.data.raw.scores import Scoring


def check(write_jsonl, rows, *, format, scoring=None, feedback=None):
    return survey.check(sources.read({"path": write_jsonl(rows)}), format=format, scoring=scoring or Scoring(), feedback=feedback)


def answers(name, values, **more):
    return [{"prompt": "p", "completion": "c", name: value, **more} for value in values]


def pairs(name, values, suffixes):
    return [{"prompt": "p", **{f"response{suffix}": suffix for suffix in suffixes}, name: value} for value in values]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (answers("score", [1, 9] * 60), {"format": "scored"}, r"go from 1 to 9, 60 of 120 outside \[0, 1\].*Set score_range"),
        (answers("score", ["0.5", "7"]), {"format": "scored"}, "go from 0.5 to 7"),
        (answers("score", [0.5] * 500 + [1.1]), {"format": "scored"}, "1 of 501 outside"),
        (answers("score", [1, 9] * 60), {"format": "scored", "scoring": Scoring((1, 5))}, r"60 of 120 outside score_range=\(1, 5\)"),
        ([{"prompt": "p", "answers": [{"answer": "a", "score": 8}]}], {"format": "scored"}, "from 8 to 8"),
        ([{"score_chosen": 8, "score_rejected": 2}], {"format": "paired", "feedback": "score"}, "from 2 to 8"),
        (answers("label", [1, 2] * 9), {"format": "binary"}, r"labels of .* are '1' \(9 rows\), '2' \(9 rows\).*true and false"),
        (answers("label", ["good", "awful"]), {"format": "binary"}, "'awful'"),
        (answers("label", [-1, 0, 1]), {"format": "binary"}, "is 0 bad or neither"),
        (pairs("choice", [0, 1, 2], ("_a", "_b")), {"format": "choice"}, "leave open which answer"),
        (pairs("choice", [0, 1], ("_1", "_2")), {"format": "choice"}, "leave open which answer"),
        (pairs("preferred", [1, 1], ("_a", "_b")), {"format": "choice"}, "1 may be the first or the second.*rename"),
        (pairs("preferred", [1] * 398 + [0, 2], ("A", "B")), {"format": "choice"}, "leave open which answer"),
        (pairs("label", [0, 1], ("_a", "_b")), {"format": "choice"}, "in label, are 0"),
        ([{"prompt": "p", "responses": ["a", "b"], "choice": 1}] * 3, {"format": "choice"}, "1 may be the first or the second"),
        (pairs("choice", [1, 2], ("_0", "_1")), {"format": "choice"}, "leave open which answer"),
        (pairs("overall_preference", [0.1, 0.9] * 5, ("1", "2")), {"format": "choice"}, "goes from 0.1 to 0.9; below 0 .* another one"),
        (pairs("preference_strength", ["1", "5"] * 5, ("_1", "_2")), {"format": "choice"}, "no row is below"),
    ],
)
def test_judgements_that_the_settings_do_not_cover_stop_the_run(write_jsonl, rows, options, words):
    with pytest.raises(ValueError, match=words):
        check(write_jsonl, rows, **options)


@pytest.mark.parametrize(
    ("rows", "options", "base"),
    [
        (answers("score", [0, 0.5, 1]), {"format": "scored"}, None),
        (answers("score", [-8, 9]), {"format": "scored", "scoring": Scoring(transform="sigmoid")}, None),
        (answers("score", [3] * 200 + [11]), {"format": "scored", "scoring": Scoring((1, 10))}, None),
        (answers("label", [-1, 1]), {"format": "binary"}, None),
        (answers("label", [True, "0", "1"]), {"format": "binary"}, None),
        (answers("label", ["yes"] * 200 + ["?"]), {"format": "binary"}, None),
        (pairs("choice", [0, 1], ("_a", "_b")), {"format": "choice"}, 0),
        (pairs("choice", [1, 2], ("_a", "_b")), {"format": "choice"}, 1),
        (pairs("choice", [0, 0], ("_a", "_b")), {"format": "choice"}, 0),
        (pairs("choice", [2, 2], ("_a", "_b")), {"format": "choice"}, 1),
        (pairs("choice", [1] * 200 + [2] * 3, ("_a", "_b")), {"format": "choice"}, 1),
        (pairs("label", [1, 2], ("_a", "_b")), {"format": "choice"}, 1),
        (pairs("label", [0, 1], ("_0", "_1")), {"format": "choice"}, 0),
        ([{"prompt": "p", "responses": ["a", "b"], "choice": choice} for choice in (0, 1)], {"format": "choice"}, 0),
        (pairs("winner", ["a", "b"], ("_a", "_b")), {"format": "choice"}, None),
        (pairs("choice", [1, 1], ("_1", "_2")), {"format": "choice"}, 1),
        (pairs("choice", [1, 1], ("_0", "_1")), {"format": "choice"}, 0),
        (pairs("overall_preference", [-3, 2], ("1", "2")), {"format": "choice"}, None),
        (pairs("overall_preference", [1, 2], ("1", "2")), {"format": "choice"}, None),
        (pairs("overall_preference", [3] * 20 + [-1], ("1", "2")), {"format": "choice"}, None),
        ([{"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 8, "score_rejected": 2}], {"format": "paired"}, None),
    ],
)
def test_judgements_that_are_covered_pass(write_jsonl, rows, options, base):
    assert check(write_jsonl, rows, **options) == base
