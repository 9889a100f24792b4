"""Ranks and scores that stand inside answers or beside them are used, agree, or are named."""

import pytest

from jaxalign.data.raw import detect, formats
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record
from jaxalign.data.raw.scores import Scoring


def convert(row, name=None, **options):
    record = Record(row)
    return formats.to_example(record, name=name or detect.detect(row)[0], **options), record


def answers(*numbers):
    return {"prompt": "p", "responses": [{"text": text, **fields} for text, fields in zip("abc", numbers, strict=False)]}


FIRST, SECOND = {"rank": 1, "score": 0.1}, {"rank": 2, "score": 0.9}


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        (answers(FIRST, SECOND), None, r"responses\[\].score and responses\[\].rank order answers 0 and 1 \(from 0\) the other way"),
        (answers(FIRST, SECOND), "ranked", r"responses\[\].rank and responses\[\].score order answers"),
        ({**answers({"rank": 1}, {"rank": 2}), "scores": [0.1, 0.9]}, None, r"scores and responses\[\].rank order"),
        ({**answers({}, {}), "ranks": ["1", "2"], "scores": [0.1, 0.9]}, None, "scores and ranks order"),
        ({**answers({}, {}, {}), "scores": "[0.9, 0.1, 0.5]"}, "ranked", "the order of the answers and scores order"),
        ({**answers({}, {}), "ratings": [1, 5]}, None, "the order of the answers and ratings order answers 0 and 1"),
        ({**answers({}, {}), "rewards": [-1.5, 2]}, None, "the order of the answers and rewards"),
        ({**answers({}, {}), "votes": [1, 9]}, None, "the order of the answers and votes"),
        ({**answers({}, {}, {}), "order": [2, 1, 3]}, None, "the order of the answers and order order"),
        (answers({"score": 0.9, "rating": 1}, {"score": 0.2, "rating": 5}), None, r"responses\[\].score and responses\[\].rating order"),
        ({**answers({"rating": 0.3}, {"rating": 0.1}), "scores": [0.2, 0.4]}, None, r"scores and responses\[\].rating order"),
        ({**answers({}, {}), "ranks": [1, 2], "human_scores": [2, 3]}, None, "ranks and human_scores"),
    ],
)
def test_numbers_that_contradict_what_judges_the_answers_refuse_the_row(row, name, words):
    with pytest.raises(RowError, match=words) as error:
        convert(row, name)
    assert error.value.rule == "scores_against_order"


@pytest.mark.parametrize(
    ("row", "options", "unread"),
    [
        (answers({"rank": 2, "score": 0.1}, {"rank": 1, "score": 0.9}), {}, []),
        (answers({"rank": 2, "score": 0.5}, {"rank": 1, "score": 0.5}), {}, []),
        (answers(FIRST, SECOND), {"scoring": Scoring((1, 0))}, []),
        (answers({"score": 0.9, "overall_score": 0.1, "rating": 0.3}), {}, ["responses[].overall_score", "responses[].rating"]),
        (answers({"score": 0.9, "rating": 1}, {"score": 0.2}), {}, ["responses[].rating"]),
        ({**answers({"rating": 0.1}, {"rating": 0.3}), "scores": [0.2, 0.4]}, {}, []),
        ({**answers({"rating": 0.1}, {"rating": 0.3}), "scores": [0.2, 0.4], "rating": "good"}, {}, ["rating", "responses[].rating"]),
        ({**answers({"score": 0.3}), "label": True}, {}, ["responses[].score"]),
        ({**answers({}, {}), "scores": [0.2, 0.4], "rank": [1]}, {}, ["rank"]),
        ({**answers({}, {}), "ratings": [5, 1], "lengths": [1, 2]}, {}, ["lengths"]),
        ({**answers({}, {}), "ranks": [1, 2], "rewards": [2, 3]}, {}, ["rewards"]),
        ({**answers({}, {}), "ranks": [1, 2], "other_scores": [2, 3]}, {"keep_columns": {"m": "other_scores"}}, []),
    ],
)
def test_numbers_that_agree_are_read_and_others_are_named(row, options, unread):
    assert convert(row, **options)[1].unread() == unread


def test_the_first_number_of_an_answer_is_its_score():
    row = answers({"score": 0.9, "rating": 0.8}, {"rating": 0.1, "score": 0.2})
    assert convert(row)[0].rewards == (0.9, 0.2)
    with pytest.raises(RowError, match="the row needs a number in scores"):
        convert(answers({"score": 0.9}, {"rating": 0.8}))


CHOSEN_BELOW = {"prompt": "p", "response_0": "a", "response_1": "b", "choice": 0, "score_0": 0.1, "score_1": 0.9}


def test_the_advice_on_a_choice_names_columns_that_the_data_set_has():
    with pytest.raises(RowError, match=r"score_0 of the chosen answer is 0.1 .*rename=\{'score_0': None, 'score_1': None\}"):
        convert(CHOSEN_BELOW)
    without = {name: value for name, value in CHOSEN_BELOW.items() if not name.startswith("score")}
    assert convert(without)[0].responses == ("a", "b")


def test_a_message_lists_the_columns_that_the_data_set_has():
    with pytest.raises(RowError, match="has choice, prompt, response_0, response_1, score_0, score_1; keep_columns names") as error:
        convert({**CHOSEN_BELOW, "choice": 1}, keep_columns={"m": "safety"})
    assert error.value.rule == "missing_score"


def test_columns_of_two_answers_that_nothing_reads_are_named():
    row = {**CHOSEN_BELOW, "choice": 1, "is_response_0_safe": True, "is_response_1_safe": False, "length_0": 3, "length_1": 5}
    assert convert(row)[1].unread() == ["is_response_0_safe", "is_response_1_safe", "length_0", "length_1"]
    example, record = convert(row, keep_columns={"size": "length"})
    assert example.columns == {"size": (5.0, 3.0)} and record.unread() == ["is_response_0_safe", "is_response_1_safe"]


TURNS = [{"role": "user", "content": "p"}]


@pytest.mark.parametrize("column", ["completion", "response", "answers", "outputs"])
def test_messages_may_hold_the_question_of_an_answer_that_stands_beside(column):
    row = {"messages": TURNS, column: ["c"] if column.endswith("s") else "c", "label": True}
    example, record = convert(row)
    assert example.prompt[-1]["content"] == "p" and example.responses[0][0]["content"] == "c" and record.unread() == []
    with pytest.raises(RowError, match="does not end with a user turn"):
        convert({**row, "messages": [*TURNS, {"role": "assistant", "content": "a"}]})
    two = {"messages": TURNS, "response_0": "a", "response_1": "b", "choice": 1}
    assert convert(two)[0].responses == ("b", "a")


def test_a_pair_with_equal_scores_is_counted():
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 8.5, "score_rejected": "8.50"}
    assert convert(row)[1].changed.keys() == {"equal_scores"}
    assert not convert({**row, "score_rejected": 8})[1].changed


@pytest.mark.parametrize(
    ("word", "found"), [("nan", True), (" None", True), ("null", True), ("NA", True), ("-", True), ("None of them", False)]
)
def test_a_text_that_tables_write_for_a_missing_value_is_counted(word, found):
    assert ("missing_word" in convert({"prompt": "p", "completion": word})[1].changed) == found
    assert not convert({"prompt": "p", "completion": "c", "note": word})[1].changed


def test_a_character_that_was_lost_before_is_counted():
    assert convert({"prompt": "p", "completion": "caf\ufffd"})[1].changed.keys() == {"lost_character"}
    assert convert({"messages": [*TURNS, {"role": "assistant", "content": "\ufffd"}]})[1].changed.keys() == {"lost_character"}


@pytest.mark.parametrize("column", ["chosen", "choice", "best_response_id", "preferred_idx", "Winner"])
def test_answers_are_not_taken_as_best_first_where_a_column_may_choose_among_them(column):
    row = {"prompt": "p", "responses": ["a", "b", "c"], column: 1}
    with pytest.raises(RowError, match=rf"{column} is '1'.*rename=\{{'{column}': None\}}") as error:
        convert(row, "ranked")
    assert error.value.rule == "choice"
    assert convert({**row, "ranks": [2, 1, 3]}, "ranked")[0].responses == ("b", "a", "c")
    assert convert({**row, column: None})[0].responses == ("a", "b", "c")


def test_a_choice_between_two_answers_that_are_objects_is_read_with_their_numbers():
    row = {**answers({"score": 0.9}, {"score": 0.1}), "choice": 0}
    example, record = convert(row)
    assert example.responses == ("a", "b") and record.unread() == []
    with pytest.raises(RowError, match=r"responses\[\].score of the chosen answer is 0.1 and responses\[\].score of the rejected"):
        convert({**row, "choice": 1})
    with pytest.raises(RowError, match=r"ratings of the chosen answer is 1 .*rename=\{'ratings': None\}"):
        convert({**answers({}, {}), "choice": 0, "ratings": [1, 5]})


def test_equal_answers_that_are_judged_differently_are_counted():
    row = {**answers({}, {}), "responses": ["a", "a"], "scores": [0.1, 0.9]}
    assert convert(row)[1].changed.keys() == {"equal_responses"}
    assert not convert({**row, "responses": ["a", "a "]})[1].changed


def test_a_prompt_beside_conversations_that_ask_otherwise_is_counted_and_an_empty_question_refused():
    pair = {name: [*TURNS, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    assert not convert({**pair, "prompt": " p "})[1].changed
    assert convert({**pair, "prompt": "p?"})[1].changed.keys() == {"prompt_beside_conversation"}
    for prompt in (" ", [{"role": "user", "content": " "}]):
        with pytest.raises(RowError, match="the prompt is empty"):
            convert({"prompt": prompt, "system": "s", "completion": "c"}, "completion")


@pytest.mark.parametrize(
    ("row", "options", "unread"),
    [
        ({"prompt": "p", "instruction": "i", "completion": "c"}, {}, ["instruction"]),
        ({"prompt": "p", "instruction": "p", "completion": "c"}, {}, []),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "scores": [1, 2], "score_chosen": 1, "score_rejected": 0},
         {"scoring": Scoring((0, 1))}, ["scores"]),
        ({**CHOSEN_BELOW, "score_1": 0, "outputs": ["a", "b"]}, {}, ["outputs"]),
        ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "a", "lang": "en"}]}, {}, ["conversations[].lang"]),
    ],
)  # fmt: skip
def test_a_column_that_is_only_looked_at_is_named(row, options, unread):
    assert convert(row, **options)[1].unread() == unread


def test_an_answer_that_is_a_number_is_refused_as_one():
    with pytest.raises(RowError, match="completion is float '3.5'; it must be text or a list of messages"):
        convert({"prompt": "p", "completion": 3.5})
    assert not convert({"messages": [*TURNS, {"role": "assistant", "content": "c"}], "tools": "null"})[1].changed
