"""Rows in the shapes of public sets become what they mean; what they hold beside it is named."""

import pytest

from jaxalign.data.raw import detect, formats
from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.records import Record

HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name?\n\nAssistant:"


def turn(role, content):
    return {"role": role, "content": content}


def convert(row, name=None, **options):
    record = Record(row)
    return formats.to_example(record, name=name or detect.detect(row)[0], **options), record


def texts(example):
    return tuple(answer if isinstance(answer, str) else answer[-1]["content"] for answer in example.responses)


ASKED = turn("user", "p")
PKU = {"prompt": "p", "response_0": "a", "response_1": "b", "safer_response_id": 0, "better_response_id": 1}
HELPSTEER3 = {"context": [turn("user", "p")], "response1": "a", "response2": "b", "overall_preference": -2}
SHP = {"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "score_A": 9, "score_B": 3}
ARENA = {
    "conversation_a": [turn("user", "p"), turn("assistant", "a")],
    "conversation_b": [turn("user", "p"), turn("assistant", "b")],
    "winner": "model_b",
}
ARENA_55K = {"prompt": "p", "response_a": "a", "response_b": "b", "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}
NECTAR = {"prompt": HH, "answers": [{"answer": "b", "rank": 2, "model": "m"}, {"answer": "a", "rank": 1}, {"answer": "c", "rank": 3}]}


@pytest.mark.parametrize(
    ("row", "because", "best_first"),
    [
        (PKU, "it has response_0 and response_1, of which better_response_id chooses", ("b", "a")),
        ({"prompt": "p", "summaries": 0, "responses": ["a", "b"], "choice": 1}, "of which choice chooses", ("b", "a")),
        (HELPSTEER3, "of which overall_preference chooses", ("a", "b")),
        ({**HELPSTEER3, "overall_preference": 3}, "of which overall_preference chooses", ("b", "a")),
        (SHP, "it has human_ref_A and human_ref_B, of which labels chooses", ("a", "b")),
        ({**SHP, "labels": 0, "score_A": 3, "score_B": 9}, "of which labels chooses", ("b", "a")),
        (ARENA, "of which winner chooses", ("b", "a")),
        ({"question": "p", "answer_0": "a", "answer_1": "b", "score_0": -0.5, "score_1": 0.5}, "score_0 and score_1", ("b", "a")),
        ({**ARENA_55K, "winner_model_b": 1}, "winner_model_a and winner_model_b", ("b", "a")),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "rank_1": "1", "rank_2": "2"}, "rank_1 and rank_2", ("a", "b")),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preferred": "1"}, "of which preferred chooses", ("a", "b")),
        ({"prompt": "p", "response1": "a", "response2": "b", "overall_preference": "1"}, "overall_preference", ("b", "a")),
        ({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": "-2"}, "preference_strength", ("a", "b")),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "preference": "B"}, "of which preference chooses", ("b", "a")),
        (NECTAR, "it has answers with ranks", ("a", "b", "c")),
        ({"prompt": "p", "responses": ["b", "a"], "ranks": ["1", "0"]}, "it has responses with ranks", ("a", "b")),
        ({"conversations": [ASKED], "chosen": {"from": "gpt", "value": "a"}, "rejected": turn("assistant", "b")}, "chosen", ("a", "b")),
    ],
)
def test_two_answers_and_a_choice_become_best_first(row, because, best_first):
    assert because in detect.detect(row)[1]
    example, _ = convert(row)
    assert texts(example) == best_first and example.paired and list(example.rewards) == sorted(example.rewards, reverse=True)
    asked = example.prompt if isinstance(example.prompt, str) else example.prompt[-1]["content"]
    assert asked in ("p", "Name?")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({**HELPSTEER3, "overall_preference": 0}, "tie"),
        ({**ARENA, "winner": "tie (bothbad)"}, "tie"),
        (ARENA_55K, "tie"),
        ({**ARENA, "winner": "model_c"}, "choice"),
        ({**PKU, "better_response_id": 2}, "choice"),
        ({**PKU, "better_response_id": [1]}, "choice"),
        ({"prompt": "p", "response_a": "a", "response_b": "b", "preferred": True}, "choice"),
        ({**SHP, "score_A": 1}, "scores_against_order"),
        ({"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 1, 2]}, "tie"),
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [1]}, "wrong_type"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "rank_chosen": 2, "rank_rejected": 1}, "scores_against_order"),
        ({"prompt": "p", "chosen": "c", "rejected": "r", "chosen-rating": 1, "rejected-rating": "4.5"}, "scores_against_order"),
        ({"prompt": "p", "input": "about this", "chosen": "c", "rejected": "r"}, "input"),
        ({"prompt": "p", "context": {"a": 1}, "chosen": "c", "rejected": "r"}, "context"),
        ({"prompt": "p", "history": [["q"]], "chosen": "c", "rejected": "r"}, "history"),
        ({"prompt": "elsewhere", "chosen": [ASKED, turn("assistant", "c")], "rejected": [ASKED, turn("assistant", "r")]}, "prompt_differs"),
        ({"prompt": "<|im_start|>user\nHi<|im_end|>", "completion": "c"}, "rendered_text"),
        ({"prompt": "[INST] Hi [/INST]", "completion": "c"}, "rendered_text"),
        ({"prompt": "Below is a task.\n### Response:", "completion": "c"}, "rendered_text"),
        ({"prompt": "p", "completion": "c<end_of_turn>"}, "rendered_text"),
        ({"prompt": "A chat. USER: hi ASSISTANT:", "completion": "c"}, "rendered_text"),
        ({"prompt": "A chat.\nUser: hi\nthere Assistant: ", "completion": "c"}, "rendered_text"),
        ({"prompt": "p", "chosen": "[{'role': 'user' 'content': 3}]", "rejected": "r"}, "written_messages"),
        ({"prompt": "p", "completion": "half \ud83d"}, "unicode"),
        ({"prompt": "p", "completion": "c", "score": 10**400}, "wrong_type"),
        ({"prompt": "p", "completion": "c", "score": "1e39"}, "wrong_type"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_by_name(row, rule):
    with pytest.raises(RowError) as error:
        convert(row)
    assert error.value.rule == rule


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Sum up.", "input": "Once.", "output": "c"}, "Sum up.\nOnce."),
        ({"instruction": "Sum up.", "input": "", "output": "c"}, "Sum up."),
        ({"instruction": "Sum up.", "input": " \n", "output": "c"}, "Sum up."),
        ({"prompt": "Sum up.", "instruction": "Sum up.", "input": "Once.", "completion": "c"}, "Sum up.\nOnce."),
        ({"instruction": "Sum up.", "context": "Once.", "response": "c"}, "Sum up.\nOnce."),
        ({"prompt": "Sum up: Once.", "input": "Once.", "completion": "c"}, "Sum up: Once."),
    ],
)
def test_an_instruction_keeps_its_subject(row, prompt):
    example, record = convert(row)
    assert example.prompt == prompt and texts(example) == ("c",) and record.unread() == []


@pytest.mark.parametrize("column", ["input", "context"])
def test_a_subject_whose_words_stand_in_the_instruction_too_is_asked_about(column):
    row = {"instruction": "Classify as cat or dog", column: "cat", "output": "c"}
    assert convert(row)[0].prompt == "Classify as cat or dog\ncat"
    example, record = convert({"prompt": "Is a cat a dog?", column: "cat", "completion": "c"})
    assert example.prompt == "Is a cat a dog?" and set(record.changed) == {f"{column}_in_prompt"}
    assert not convert({"prompt": "Which is a pet?\ncat\nelk", column: "cat", "completion": "c"})[1].changed


@pytest.mark.parametrize(("first", "values"), [(1, ["1", "2"]), (0, ["0", "1"]), (1, ["1.0", 2])])
def test_choices_counted_from_the_number_of_the_set_are_read_as_text_too(first, values):
    rows = [{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": value} for value in values]
    assert [texts(convert(row, base=first)[0])[0] for row in rows] == ["a", "b"]


def test_a_history_stands_before_the_question():
    example, _ = convert({"instruction": "c?", "history": [["a?", "a"], ["b?", "b"]], "output": "c"})
    assert [turn["content"] for turn in example.prompt] == ["a?", "a", "b?", "b", "c?"]


@pytest.mark.parametrize(
    "written", ["[{'role': 'assistant', 'content': 'c'}]", '[{"role": "assistant", "content": "c"}]', '{"from": "gpt", "value": "c"}']
)
def test_conversations_written_as_text_are_read_and_counted(written):
    example, record = convert({"prompt": "p", "chosen": written, "rejected": "r"})
    assert texts(example) == ("c", "r") and set(record.changed) == {"written_messages"}


@pytest.mark.parametrize("answer", ['{"role": "admin", "content": 3}', '[{"a": 1}]', "{'role': x}", "[1, 2]"])
def test_answers_in_json_that_are_no_messages_stay_text(answer):
    example, record = convert({"prompt": "p", "completion": answer})
    assert texts(example) == (answer,) and not record.changed


def test_a_dialogue_in_the_prompt_becomes_turns_for_a_template_and_stays_text_for_none():
    row = {"prompt": HH, "chosen": " a", "rejected": " b"}
    example, record = convert(row)
    assert [turn["content"] for turn in example.prompt] == ["Hi", "Hello.", "Name?"] and texts(example) == ("a", "b")
    assert set(record.changed) == {"hh_prompt"}
    assert convert(row, chat=False)[0].prompt == HH


def test_calls_that_both_sides_made_are_part_of_both_answers():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    shared = [turn("user", "p"), call, turn("tool", "3")]
    example, _ = convert({"chosen": [*shared, turn("assistant", "a")], "rejected": [*shared, turn("assistant", "b")]})
    assert len(example.prompt) == 1 and [len(answer) for answer in example.responses] == [3, 3]


def test_what_nothing_reads_is_named_and_a_left_out_turn_is_counted():
    row = {"messages": [turn("user", "p"), {**turn("assistant", "a"), "lang": "en"}, turn("user", "q")], "id": 3, "empty": None}
    _, record = convert(row)
    assert record.unread() == ["id", "messages[].lang"] and set(record.changed) == {"last_turn_unanswered"}
    assert convert(PKU)[1].unread() == ["safer_response_id"]
    assert convert(NECTAR)[1].unread() == ["answers[].model"]


def test_dialogues_as_text_beside_their_prompt_are_read_as_turns():
    row = {"prompt": HH, "chosen": HH + " a", "rejected": HH + " b"}
    expected = convert({"chosen": HH + " a", "rejected": HH + " b"})[0]
    assert (expected.prompt[-1]["content"], texts(expected)) == ("Name?", ("a", "b"))
    assert formats.to_example(row, name="paired") == expected


@pytest.mark.parametrize(
    "answer", ["\n\nHuman: q\n\nAssistant: a", "Human: q\n\nAssistant: a", " a\n\nHuman: next", "\n\nAssistant: a"], ids=repr
)
@pytest.mark.parametrize("made", ["completion", "chosen", "messages"])
def test_an_answer_that_holds_turns_as_text_is_refused_where_a_template_writes_turns(answer, made):
    row = {"prompt": "q", "completion": answer} if made == "completion" else {"prompt": "q", "chosen": answer, "rejected": "b"}
    row = row if made != "messages" else {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]}
    name = {"chosen": "paired"}.get(made, made)
    with pytest.raises(RowError, match="as text") as error:
        convert(row, name)
    assert error.value.rule == "hh_answer"
    if made != "messages":
        assert convert(row, name, chat=False)[0].responses[0] == answer


def test_half_a_character_is_shown_with_the_text_before_it_alone():
    with pytest.raises(RowError, match=r"holds '\\udce9' after 'caf':"):
        convert({"prompt": "caf\udce9", "completion": "c"})


def test_an_answer_that_opens_its_own_turn_and_one_that_mentions_a_human_are_read():
    assert texts(convert({"prompt": "\n\nHuman: q", "completion": "\n\nAssistant: a"})[0]) == ("a",)
    pair = {"prompt": "\n\nHuman: q", "chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}
    assert texts(convert(pair)[0]) == ("a", "b")
    assert convert({"prompt": "q", "completion": "Human: a word\nHuman: again"})[0].responses == ("Human: a word\nHuman: again",)


@pytest.mark.parametrize("label", [True, 1, "1", 1.0, "Yes", "+1", "thumbs_up", -1, "false", 0, "NO"])
def test_labels_of_every_spelling_are_read(label):
    good = label in (True, 1, "1", "Yes", "+1", "thumbs_up")
    assert convert({"prompt": "p", "completion": "c", "label": label})[0].rewards == (float(good),)
