"""Every kind of feedback becomes the same record; rows that break a rule are named by the rule."""

import pytest

from jaxalign.data.raw import detect, formats, scores
from jaxalign.data.raw.counts import Counts, RowError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def convert(row, name=None, **options):
    scoring = scores.Scoring(options.pop("score_range", None))
    return formats.to_example(row, name=name or detect.detect(row)[0], scoring=scoring, **options)


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name?\n\nAssistant: "


@pytest.mark.parametrize(
    ("row", "name", "prompt", "responses", "rewards", "paired"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "paired", "p", ("c", "r"), (1.0, 0.0), True),
        (
            {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
            "paired",
            (user("p"),),
            ((assistant("c"),), (assistant("r"),)),
            (1.0, 0.0),
            True,
        ),
        (
            {"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            "paired",
            (user("p"),),
            ((assistant("c"),), (assistant("r"),)),
            (1.0, 0.0),
            True,
        ),
        (
            {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
            "paired",
            (user("p"),),
            ((assistant("c"),), (assistant("r"),)),
            (1.0, 0.0),
            True,
        ),
        (
            {"prompt": [{"from": "human", "value": "p"}], "chosen": {"from": "gpt", "value": "c"}, "rejected": [assistant("r")]},
            "paired",
            (user("p"),),
            ((assistant("c"),), (assistant("r"),)),
            (1.0, 0.0),
            True,
        ),
        (
            {"chosen": HH + "Ann.", "rejected": HH + "Bob."},
            "hh",
            (user("Hi"), assistant("Hello."), user("Name?")),
            ((assistant("Ann."),), (assistant("Bob."),)),
            (1.0, 0.0),
            True,
        ),
        ({"prompt": "p", "completion": "c", "label": False}, "binary", "p", ("c",), (0.0,), False),
        ({"prompt": "p", "response": "c", "label": "yes"}, "binary", "p", ("c",), (1.0,), False),
        ({"messages": [user("p"), assistant("c")], "label": True}, "binary", (user("p"),), ((assistant("c"),),), (1.0,), False),
        ({"prompt": "p", "completion": "c", "score": 0.25}, "scored", "p", ("c",), (0.25,), False),
        ({"prompt": "p", "completions": ["c", "d"], "scores": [0.5, 1]}, "scored", "p", ("c", "d"), (0.5, 1.0), False),
        ({"prompt": "p", "responses": ["a", "b", "c"]}, "ranked", "p", ("a", "b", "c"), (1.0, 0.5, 0.0), True),
        (
            {"messages": [user("p"), assistant("c"), user("q"), assistant("d")]},
            "messages",
            (user("p"),),
            ((assistant("c"), user("q"), assistant("d")),),
            (1.0,),
            False,
        ),
        ({"prompt": "p", "completion": "c"}, "completion", "p", ("c",), (1.0,), False),
        ({"text": "once"}, "text", None, ("once",), (1.0,), False),
    ],
)
def test_a_row_of_each_format_is_detected_and_becomes_an_example(row, name, prompt, responses, rewards, paired):
    assert detect.detect(row)[0] == name
    assert convert(row) == formats.Example(prompt, responses, rewards, paired)


def test_detection_says_why():
    assert detect.detect({"prompt": "p", "completion": "c", "label": True}) == ("binary", "it has label")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a", "answer": "b"}, "answer, question fit none.*set format"),
        ({"prompt": "p", "chosen": "c"}, "needs chosen and rejected"),
    ],
)
def test_columns_that_fit_nothing_are_refused_with_the_formats(row, words):
    with pytest.raises(ValueError, match=words):
        detect.detect(row)


@pytest.mark.parametrize(
    ("row", "name", "rule", "words"),
    [
        ({"prompt": "p", "chosen": "c"}, "paired", "missing_column", "no rejected but chosen, prompt"),
        ({"prompt": "p", "chosen": "c", "rejected": None}, "paired", "missing_column", "no rejected"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "paired", "same_response", "chosen and rejected are equal"),
        ({"prompt": "p", "chosen": "c", "rejected": "  "}, "paired", "empty_response", "response 1 is empty"),
        ({"prompt": " ", "chosen": "c", "rejected": "r"}, "paired", "empty_prompt", "prompt is empty"),
        ({"prompt": "p", "chosen": 3, "rejected": "r"}, "paired", "wrong_type", "chosen is int '3'; it must be text"),
        ({"chosen": HH + "A", "rejected": HH + "A"}, "hh", "same_response", "equal"),
        ({"chosen": HH + "A", "rejected": HH.replace("Hello", "Ho") + "B"}, "hh", "part_early", "part after 1 turns"),
        ({"chosen": HH + "A", "rejected": HH}, "hh", "empty_response", "response 1 is empty"),
        ({"chosen": "Human: a", "rejected": "Human: b"}, "hh", "roles", "does not begin"),
        ({"chosen": HH + "A", "rejected": HH + "B\n\nAssistant: C"}, "hh", "roles", "two assistant turns in a row"),
        ({"messages": [user("a"), user("b")]}, "messages", "roles", "two user turns in a row, at places 0 and 1"),
        ({"messages": [assistant("a")]}, "messages", "roles", "begins with an assistant turn, so there is no user turn followed by it"),
        ({"messages": [user("a")]}, "messages", "roles", "no user turn followed by an assistant turn"),
        ({"messages": [user("a"), {"role": "critic", "content": "b"}]}, "messages", "roles", "role 'critic'; known roles are"),
        ({"messages": [user("a"), {"role": "system", "content": "b"}]}, "messages", "roles", "system turn at place 1"),
        ({"messages": [user("a"), {"role": "assistant", "content": None}]}, "messages", "wrong_type", "in messages is missing"),
        ({"messages": "hello"}, "messages", "wrong_type", "must be a list of messages"),
        ({"prompt": "p", "completion": "c", "label": "maybe"}, "binary", "wrong_type", "label is 'maybe'"),
        ({"prompt": "p", "completion": "c", "score": 7}, "scored", "score_range", r"score 7 is outside \[0.0, 1.0\]; set score_range"),
        ({"prompt": "p", "completion": "c", "score": "high"}, "scored", "wrong_type", "'high' is not a finite number"),
        ({"prompt": "p", "completions": ["c", "d"], "scores": [1]}, "scored", "wrong_type", "2 completions have 1 scores"),
        ({"prompt": "p", "responses": ["a"]}, "ranked", "too_few", "at least 2"),
        ({"completion": "c"}, "completion", "missing_column", "no prompt"),
    ],
)
def test_a_bad_row_is_refused_by_the_rule_that_it_breaks(row, name, rule, words):
    with pytest.raises(RowError, match=words) as error:
        convert(row, name)
    assert error.value.rule == rule


def test_scores_are_mapped_from_their_range_to_0_and_1():
    row = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 4]}
    assert convert(row, score_range=(1, 5)).rewards == (0.0, 0.75)
    assert convert(row, score_range=(5, 1)).rewards == (1.0, 0.25)
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 9, "score_rejected": 5}
    assert convert(pair, score_range=(1, 9)).rewards == (1.0, 0.5)
    assert convert(pair).rewards == (1.0, 0.0)


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "c"),
        ({"prompt": "p", "completions": ["a", "b"], "scores": [0.1, 0.9]}, "b"),
        ({"prompt": "p", "completion": "c", "label": True}, "c"),
    ],
)
def test_the_chosen_side_alone_is_kept_for_fine_tuning(row, response):
    example = convert(row, responses="chosen")
    assert example.responses == (response,) and not example.paired


def test_a_response_labelled_false_is_not_fine_tuned_on():
    with pytest.raises(RowError, match="labelled false"):
        convert({"prompt": "p", "completion": "c", "label": False}, responses="chosen")


def test_dialogues_of_turns_that_begin_with_their_role_are_read():
    prompt = ["<|prompter|>Hi", "<|assistant|>Hello.", "<|prompter|>Name?", "<|assistant|>"]
    row = {"prompt": prompt, "completions": ["Ann.", "Bob."], "scores": [1, 0]}
    example = convert(row, "scored")
    assert example.prompt == (user("Hi"), assistant("Hello."), user("Name?"))
    assert example.responses == ((assistant("Ann."),), (assistant("Bob."),))
    with pytest.raises(RowError, match="prompt has the role 'judge'"):
        convert({**row, "prompt": ["<|judge|>Hi"]}, "scored")
    with pytest.raises(RowError, match="prompt holds 'Hi', which is not a message"):
        convert({**row, "prompt": ["Hi"]}, "scored")


def test_real_scored_dialogues_become_lists_and_pairs(shared):
    from jaxalign.data.raw import sources

    file = {"path": str(shared / "hh_rlhf_scored" / "helpful_base.test.jsonl.gz")}
    several = sources.read({**file, "rename": {"prompt": "prefix.0", "completions": "suffix", "scores": "reward"}})
    example = formats.to_example(several[0], name=detect.detect(several[0])[0], scoring=scores.Scoring(transform="sigmoid"))
    assert not example.paired and len(example.responses) == 2 and all(0 < reward < 1 for reward in example.rewards)
    sides = {"prompt": "prefix.0", "chosen": "suffix.0", "rejected": "suffix.1", "score_chosen": "reward.0", "score_rejected": "reward.1"}
    pairs = sources.read({**file, "rename": sides})
    pair = formats.to_example(pairs[0], name="paired", keep_columns={"gain": "score"})
    assert pair.paired and pair.columns["gain"] == tuple(several[0]["scores"])
    assert pair.prompt == example.prompt


def test_counts_add_up_and_keep_the_first_row_of_a_rule():
    first, second = Counts(), Counts()
    second.add("empty_response", "dropped", 40, "later")
    second.read = 50
    first.add("empty_response", "dropped", 7, "earlier")
    first.read, first.kept = 30, 29
    second.merge(first)
    assert (second.read, second.kept, second.rules["empty_response"].rows) == (80, 29, 2)
    assert second.rules["empty_response"].first_row == 7 and second.rules["empty_response"].message == "earlier"
    assert Counts.from_dict(second.to_dict()).to_dict() == second.to_dict()


def test_real_hh_rows_are_almost_all_usable(shared):
    from jaxalign.data.raw import sources

    rows = sources.read({"path": str(shared / "hh_rlhf" / "harmless_base.train.jsonl.gz")})
    rules = []
    for i in range(len(rows)):
        try:
            convert(rows[i], "hh")
        except RowError as error:
            rules.append(error.rule)
    assert len(rows) == 1613 and len(rules) < 0.01 * len(rows)
    assert set(rules) <= {"roles", "empty_response", "part_early"}
