"""Scores become rewards in [0, 1] as the source says, one set becomes pairs, labels or scores, and further numbers are kept."""

import json
import math

import numpy as np
import prepare_runs
import pytest
from tiny_data import write_tokenizer

from jaxalign.data.raw import formats
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.scores import Scoring
from jaxalign.data.rows import loader, store

HELPSTEER = Scoring((0, 4), (("helpfulness", 0.65), ("correctness", 0.8), ("coherence", 0.45)))
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
SCORED_PAIR = {**PAIR, "score_chosen": 7, "score_rejected": 4}
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: "
HH = {"chosen": DIALOGUE + "c", "rejected": DIALOGUE + "r", "score_chosen": 7, "score_rejected": 4}
LIST = {"prompt": "p", "completions": ["a", "b", "c"], "scores": [4, 10, 1]}
TEN = Scoring((1, 10))
KEEP = {"keep_columns": {"m": "safety"}}


def convert(row, name, **options):
    return formats.to_example(row, name=name, **options)


@pytest.mark.parametrize(("attributes", "target"), [((4, 4, 4), 1.0), ((1, 0, 3), 0.2631578947), ((2, 3, 4), 0.7236842105)])
def test_helpsteer_attributes_give_the_targets_of_una(attributes, target):
    row = {"prompt": "p", "completion": "c", **dict(zip(("helpfulness", "correctness", "coherence"), attributes, strict=True))}
    (reward,) = convert(row, "scored", scoring=HELPSTEER).rewards
    helpfulness, correctness, coherence = attributes
    assert reward == pytest.approx((0.65 * helpfulness + 0.8 * correctness + 0.45 * coherence) / 7.6, abs=1e-12)
    assert reward == pytest.approx(target, abs=1e-9)


def test_attributes_of_a_pair_and_of_a_list_are_weighed_too():
    names = ("helpfulness", "correctness", "coherence")
    pair = {**PAIR, **{f"{name}_{side}": value for name in names for side, value in (("chosen", 3), ("rejected", 1))}}
    assert convert(pair, "paired", scoring=HELPSTEER).rewards == pytest.approx((0.75, 0.25))
    several = {"prompt": "p", "completions": ["a", "b"], "helpfulness": [4, 0], "correctness": [0, 4], "coherence": [0, 0]}
    assert convert(several, "scored", scoring=HELPSTEER).rewards == pytest.approx((0.65 / 1.9, 0.8 / 1.9))


def test_ultrafeedback_ratings_of_1_to_10_are_mapped_linearly():
    assert convert(LIST, "scored", scoring=TEN).rewards == pytest.approx((3 / 9, 1.0, 0.0))


@pytest.mark.parametrize("logit", [-800.0, -2.0, 0.0, 3.5, 800.0])
def test_logits_of_a_reward_model_go_through_the_sigmoid(logit):
    (reward,) = convert({"prompt": "p", "completion": "c", "score": logit}, "scored", scoring=Scoring(transform="sigmoid")).rewards
    assert reward == pytest.approx(1 / (1 + math.exp(-max(logit, -700))), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transform": "log"}, "score_transform='log' is not one of linear, sigmoid"),
        ({"transform": "sigmoid", "range": (0, 1)}, r"score_range=\(0, 1\) with score_transform='sigmoid'.*leave one of them out"),
        ({"weights": (("a", 0),)}, "score_weights={'a': 0} must be finite numbers above 0"),
        ({"weights": (("a", "x"),)}, "score_weights={'a': 'x'} must be finite numbers"),
    ],
)
def test_scoring_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Scoring(**options)


@pytest.mark.parametrize(("row", "name"), [(SCORED_PAIR, "paired"), (HH, "hh")])
@pytest.mark.parametrize(
    ("feedback", "scoring", "rewards", "paired"),
    [
        (None, None, (1.0, 0.0), True),
        (None, TEN, (6 / 9, 3 / 9), True),
        ("pair", None, (1.0, 0.0), True),
        ("label", None, (1.0, 0.0), False),
        ("label", TEN, (1.0, 0.0), False),
        ("score", TEN, (6 / 9, 3 / 9), False),
    ],
)
def test_one_set_of_pairs_gives_three_forms_of_feedback(row, name, feedback, scoring, rewards, paired):
    example = convert(row, name, feedback=feedback, scoring=scoring)
    assert (example.rewards, example.paired) == (pytest.approx(rewards), paired) and len(example.responses) == 2


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)])
def test_a_pair_of_a_scored_list_is_the_best_and_the_worst_whatever_the_order(order):
    completions, scores = ["a", "b", "c", "d"], [5, 10, 10, 2]
    row = {"prompt": "p", "completions": [completions[k] for k in order], "scores": [scores[k] for k in order]}
    example = convert({**row, "helps": [k for k in order]}, "scored", feedback="pair", scoring=TEN, keep_columns={"help": "helps"})
    assert example.responses == ("c", "d") and example.paired and example.rewards == pytest.approx((1.0, 1 / 9))
    assert example.columns == {"help": (2.0, 3.0)}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_kept_column_of_a_ranked_row_stays_with_its_answers(order):
    row = {"prompt": "p", "completions": [("a", "b", "c")[k] for k in order], "ranks": [k + 1 for k in order]}
    example = convert({**row, "helps": [10 * k for k in order]}, "ranked", keep_columns={"help": "helps"})
    assert example.responses == ("a", "b", "c") and example.columns == {"help": (0.0, 10.0, 20.0)}


@pytest.mark.parametrize(
    ("row", "name", "options", "rule", "words"),
    [
        ({**LIST, "scores": [3, 3, 3]}, "scored", {"feedback": "pair", "scoring": TEN}, "tie", "all 3 responses have the same score"),
        ({**LIST, "completions": ["a"], "scores": [1]}, "scored", {"feedback": "pair"}, "too_few", "feedback='pair' of 1 response"),
        ({**LIST, "completions": ["a"] * 3}, "scored", {"feedback": "pair", "scoring": TEN}, "same_response", "equal"),
        (PAIR, "paired", {"feedback": "score"}, "missing_score", "a number in score_chosen and score_rejected and has chosen"),
        (PAIR, "paired", {"scoring": TEN}, "missing_score", "score_chosen and score_rejected.*; name it with rename"),
        (SCORED_PAIR, "paired", {"feedback": "score"}, "score_range", r"score 7 is outside \[0.0, 1.0\]; set score_range"),
        (LIST, "scored", {"scoring": HELPSTEER}, "missing_score", "needs a number in helpfulness"),
        (LIST, "scored", {"scoring": Scoring((1, 5))}, "score_range", r"score 10 is outside \[1, 5\]; check score_range"),
        (LIST, "scored", {"scoring": TEN, **KEEP}, "missing_score", "needs a number in safety.*; keep_columns names a column"),
        ({**LIST, "safety": [1, 2]}, "scored", {"scoring": TEN, **KEEP}, "wrong_type", "3 completions have 2 safety"),
        ({**LIST, "safety": [1, 2, math.nan]}, "scored", {"scoring": TEN, **KEEP}, "wrong_type", "safety nan is not"),
        ({**PAIR, "safety_chosen": 1}, "paired", KEEP, "missing_score", "keep_columns names COLUMN of COLUMN_chosen and"),
        ({**PAIR, "safety_chosen": 1, "safety_rejected": "x"}, "paired", KEEP, "wrong_type", "'x' is not"),
    ],
)
def test_a_row_whose_numbers_do_not_do_is_dropped_by_rule(row, name, options, rule, words):
    with pytest.raises(RowError, match=words) as error:
        convert(row, name, **options)
    assert error.value.rule == rule


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def prepared(folder, rows, name="pairs.jsonl", **source):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return store.read(prepare_runs.run(folder, {"path": str(folder / name), **source}))


def test_numbers_of_the_data_set_are_kept_as_columns_of_the_groups(folder):
    lengths = {"len_chosen": 1, "len_rejected": 2}
    rows = [{**PAIR, "prompt": f"p{i}", "safety_chosen": i, "safety_rejected": i % 2 == 0, **lengths} for i in range(9)]
    rows[4]["safety_chosen"] = None
    one = prepared(folder, rows, keep_columns={"margin": "safety", "length": "len"})
    assert one.meta["counts"]["rules"]["missing_score"]["rows"] == 1
    kept = one.source_rows
    np.testing.assert_array_equal(one.groups.columns["margin"], np.stack([kept, kept % 2 == 0], 1).astype(np.float32))
    batch = loader.eval_batches(one, rows=len(one))[0]
    members = one.plan.ravel()
    np.testing.assert_array_equal(batch["columns"]["margin"][members >= 0], one.groups.columns["margin"][members[members >= 0]])
    np.testing.assert_array_equal(batch["columns"]["length"][batch["valid"][:, 0]], [[1, 2]] * 8)


def test_lists_and_single_responses_keep_their_numbers(folder):
    rows = [{**LIST, "helps": [1, 2, 3]}, {"prompt": "p", "completions": ["a"], "scores": [1], "helps": [7]}]
    one = prepared(folder, rows, score_range=(1, 10), keep_columns={"help": "helps"})
    np.testing.assert_array_equal(one.groups.columns["help"], [[1, 2, 3], [7, 0, 0]])
    single = prepared(folder, [{"prompt": "p", "completion": "a", "label": True, "help": 3}], "b.jsonl", keep_columns={"help": "help"})
    np.testing.assert_array_equal(single.groups.columns["help"], [[3]])


def test_ties_are_counted_and_attributes_alone_are_detected_as_scores(folder):
    one = prepared(folder, [LIST, {**LIST, "scores": [2, 2, 2]}], score_range=(1, 10), feedback="pair")
    assert one.meta["counts"]["rules"]["tie"]["rows"] == 1 and one.groups.paired.tolist() == [True]
    rows = [{"prompt": "p", "response": "c", "helpfulness": 4, "correctness": 2}]
    source = {"score_weights": {"helpfulness": 1.0, "correctness": 1.0}, "score_range": (0, 4)}
    two = prepared(folder, rows, "b.jsonl", **source)
    assert two.meta["format_because"] == "it has score_weights" and two.groups.reward.tolist() == [[0.75]]


@pytest.mark.parametrize(
    "source",
    [{"feedback": "label"}, {"feedback": "score", "score_range": (1, 10)}, {"feedback": "score", "score_transform": "sigmoid"},
     {"score_range": (1, 10)}, {"score_range": (0, 10)}, {"score_weights": {"score": 2.0}, "score_range": (1, 10)},
     {"keep_columns": {"a": "score"}}, {"keep_columns": {"b": "score"}}],
)  # fmt: skip
def test_everything_said_about_scores_makes_another_folder(folder, source):
    plain, other = prepared(folder, [SCORED_PAIR]), prepared(folder, [SCORED_PAIR], **source)
    assert plain.folder.parent != other.folder.parent


def test_a_dict_setting_that_is_none_is_refused(folder):
    with pytest.raises(ValueError, match="score_weights='score' of a source is not a dict"):
        prepared(folder, [SCORED_PAIR], score_weights="score")


@pytest.mark.parametrize("format", ["messages", "completion"])
def test_instruction_rows_mix_with_scored_rows_as_responses_of_score_1(folder, format):
    def instruction(number):
        turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a"}]
        return {"messages": turns} if format == "messages" else {"prompt": f"q{number}", "completion": "a"}

    (folder / "b.jsonl").write_text("".join(json.dumps(instruction(i)) + "\n" for i in range(8)))
    (folder / "a.jsonl").write_text("".join(json.dumps({**LIST, "prompt": f"p{i}"}) + "\n" for i in range(8)))
    sources = ({"path": str(folder / "a.jsonl"), "score_range": (1, 10)}, {"path": str(folder / "b.jsonl")})
    made = [prepare_runs.run(folder, source, template="hh", pack_rows=False) for source in sources]
    batch = loader.batches([store.read(one) for one in made], rows=4, seed=0, steps=1)[0]
    single, several = (batch["valid"].sum(1) == count for count in (1, 3))
    assert single.sum() == several.sum() == 2 and not batch["paired"].any()
    assert batch["reward"][single, 0].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(batch["reward"][several], [[1 / 3, 1, 0]] * 2, rtol=1e-6)
