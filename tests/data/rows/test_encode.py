"""Rows in token space: one BOS, one stop token, the mask on the response, lengths cut by rule and counted."""

import pytest
from tiny_data import CHATML, response_ids

from jaxalign.data.raw.counts import RowError
from jaxalign.data.raw.formats import Example
from jaxalign.data.rows import encode
from jaxalign.data.text import render, tokenizer

BOS, EOS, END = 256, 257, 259


def pair(prompt="prompt", chosen="good", rejected="bad"):
    return Example(prompt, (chosen, rejected), (1.0, 0.0), True)


def run(renderer, example, *, train_turns="last", **limits):
    changed = []
    limits = encode.Limits(**{"row_tokens": 1000, "share_prompt": True, **limits})
    encoded = encode.encode(
        example, row=0, renderer=renderer, limits=limits, train_turns=train_turns, changed=lambda rule, _: changed.append(rule)
    )
    return encoded, changed


@pytest.fixture
def plain(make_tokenizer):
    return render.make(tokenizer.load(make_tokenizer(chat_template=CHATML)), template="plain")


def test_a_pair_has_one_bos_one_stop_token_a_response_and_a_mask_on_the_response(plain):
    encoded, changed = run(plain, pair())
    assert encoded.prompt.tolist() == [BOS, *b"prompt"]
    assert [response.tolist() for response in encoded.responses] == [[*b"good", EOS], [*b"bad", EOS]]
    assert [mask.tolist() for mask in encoded.scored] == [[1] * 5, [1] * 4]
    assert not changed


TURNS = (("system", "Be kind."), ("user", "1st"), ("assistant", "one"), ("user", "2nd"), ("assistant", "two"), ("user", "third"))
CONVERSATION = tuple({"role": role, "content": content} for role, content in TURNS)


@pytest.mark.parametrize(
    ("spare", "policy", "left", "rule"),
    [
        (0, "keep_end", CONVERSATION, None),
        (5, "keep_end", (CONVERSATION[0], *CONVERSATION[3:]), "prompt_turns_cut"),
        (5, "keep_end", (CONVERSATION[0], CONVERSATION[5]), "prompt_turns_cut"),
        (0, "keep_end", (CONVERSATION[0], {"role": "user", "content": "ird"}), "prompt_cut"),
        (0, "keep_start", (*CONVERSATION[:5], {"role": "user", "content": "thi"}), "prompt_cut"),
    ],
)
def test_a_long_conversation_loses_whole_old_turns_and_then_text_but_never_its_template(make_tokenizer, spare, policy, left, rule):
    renderer = render.make(tokenizer.load(make_tokenizer(chat_template=CHATML)), template="auto")
    response = ({"role": "assistant", "content": "yes"},)
    example = Example(CONVERSATION, (response,), (1.0,), False)
    most = len(renderer.prompt_ids(left)) + spare
    encoded, changed = run(renderer, example, max_prompt_tokens=most, prompt_truncation=policy)
    assert encoded.prompt.tolist() == renderer.prompt_ids(left)
    assert changed == ([rule] if rule else [])
    assert encoded.responses[0].tolist() == response_ids(renderer, left, response, train_turns="last")[0]


def test_a_limit_that_the_template_alone_fills_drops_the_row(make_tokenizer):
    renderer = render.make(tokenizer.load(make_tokenizer(chat_template=CHATML)), template="auto")
    with pytest.raises(RowError, match="max_prompt_tokens=6, which its template alone fills") as error:
        run(renderer, pair(), max_prompt_tokens=6)
    assert error.value.rule == "prompt_too_long"


@pytest.mark.parametrize(("policy", "prompt"), [("keep_end", [BOS, *b"mpt"]), ("keep_start", [BOS, *b"pro"])])
def test_a_long_prompt_keeps_its_end_or_its_start_and_always_its_bos(plain, policy, prompt):
    encoded, changed = run(plain, pair(), max_prompt_tokens=4, prompt_truncation=policy)
    assert encoded.prompt.tolist() == prompt and changed == ["prompt_cut"]


@pytest.mark.parametrize("template", ["plain", "auto"])
@pytest.mark.parametrize("policy", ["keep_end", "keep_start"])
@pytest.mark.parametrize("question", ["😀" * 20, "漢" * 20])
def test_a_cut_that_leaves_no_character_of_the_question_drops_the_row(make_tokenizer, template, policy, question):
    renderer = render.make(tokenizer.load(make_tokenizer(chat_template=CHATML)), template=template)
    around = len(renderer.prompt_ids("x")) - 1
    with pytest.raises(RowError, match="raise it") as error:
        run(renderer, pair(prompt=question), max_prompt_tokens=around + 2, prompt_truncation=policy)
    assert error.value.rule == "prompt_too_long"
    whole = len(question[0].encode())
    prompt = run(renderer, pair(prompt=question), max_prompt_tokens=around + whole, prompt_truncation=policy)[0].prompt
    assert question[0] in renderer.tokenizer.decode(prompt.tolist())


def test_a_prompt_at_the_limit_is_left_alone(plain):
    encoded, changed = run(plain, pair(), max_prompt_tokens=7)
    assert len(encoded.prompt) == 7 and not changed


def test_a_long_response_loses_its_stop_token_or_the_row_is_dropped(plain):
    encoded, changed = run(plain, pair(), max_response_tokens=4, response_truncation="keep_start")
    assert [response.tolist() for response in encoded.responses] == [[*b"good"], [*b"bad", EOS]]
    assert changed == ["response_keep_start"]
    with pytest.raises(RowError, match="response has 5 tokens, more than 4.*keep_start") as error:
        run(plain, pair(), max_response_tokens=4)
    assert error.value.rule == "response_too_long"


@pytest.mark.parametrize(
    ("prompt", "responses", "limits", "sizes"),
    [
        ("0123456789", "a" * 100, {}, (11, [53])),  # the row of 64 less the prompt
        ("0123456789", "abc", {}, (11, [4])),
        ("p" * 70, "a" * 100, {}, (32, [32])),  # half and half
        ("0123456789", ("a" * 50, "b" * 40), {}, (11, [26, 26])),  # 10 + 2 * 27 tokens, one of each 27 the prompt's last
        ("0123456789", ("a" * 50, "b" * 2), {}, (11, [30, 3])),  # an equal share leaves enough
        ("0123456789", ("a" * 50, "b" * 40), {"share_prompt": False}, (11, [21, 21])),
        ("0123456789", ("a" * 50, "b" * 40), {"mismatched": True}, (11, [17, 17])),
        ("0123456789", "a" * 100, {"max_prompt_tokens": 5}, (5, [59])),
    ],
)
def test_responses_that_are_cut_leave_room_for_the_prompt(plain, prompt, responses, limits, sizes):
    example = Example(prompt, (responses,), (1.0,), False) if isinstance(responses, str) else pair(prompt, *responses)
    encoded, changed = run(plain, example, row_tokens=64, response_truncation="keep_start", **limits)
    assert (len(encoded.prompt), [len(response) for response in encoded.responses]) == sizes
    assert changed.count("response_keep_start") == (max(map(len, example.responses)) > 10)


def test_only_a_row_that_is_kept_counts_as_changed(plain):
    changed = []
    limits = encode.Limits(row_tokens=64, share_prompt=True, max_response_tokens=4, response_truncation="keep_start")
    with pytest.raises(RowError, match="same tokens"):
        encode.encode(
            pair(chosen="goodness", rejected="good"), row=0, renderer=plain, limits=limits, train_turns="last", changed=changed.append
        )
    assert changed == []


def test_the_prompt_gets_what_the_responses_leave_of_the_row(plain):
    # shared: P - 1 prompt tokens, then 1 + 5 and 1 + 4
    encoded, changed = run(plain, pair(), row_tokens=15)
    assert len(encoded.prompt) == 5 and changed == ["prompt_cut"]
    encoded, changed = run(plain, pair(), row_tokens=19, share_prompt=False)
    assert len(encoded.prompt) == 5 and changed == ["prompt_cut"]


@pytest.mark.parametrize(
    ("limits", "rule", "words"),
    [
        ({"max_prompt_tokens": 4, "prompt_truncation": "drop"}, "prompt_too_long", "7 tokens, more than max_prompt_tokens=4"),
        ({"row_tokens": 15, "prompt_truncation": "drop"}, "prompt_too_long", "leave room for 5 of row_tokens=15"),
        ({"row_tokens": 11, "max_response_tokens": 5}, "row_tokens", "leave room for 1 of row_tokens=11; raise row_tokens"),
    ],
)
def test_a_prompt_longer_than_the_row_is_dropped_by_name(plain, limits, rule, words):
    with pytest.raises(RowError, match=words) as error:
        run(plain, pair(), **limits)
    assert error.value.rule == rule


def test_responses_that_are_cut_to_the_same_tokens_are_no_pair(plain):
    with pytest.raises(RowError, match="same tokens") as error:
        run(plain, pair(chosen="goodness", rejected="good"), max_response_tokens=4, response_truncation="keep_start")
    assert error.value.rule == "same_tokens"


@pytest.mark.parametrize("prompt", ["a<s>b", "a</s>b"])
def test_bos_inside_a_row_is_refused_and_eos_inside_a_prompt_is_not(plain, prompt):
    if prompt == "a</s>b":
        assert run(plain, pair(prompt=prompt))[0].prompt.tolist() == [BOS, 97, EOS, 98]
        return
    with pytest.raises(RowError, match="BOS '<s>' stands inside the row") as error:
        run(plain, pair(prompt=prompt))
    assert error.value.rule == "bos"


def test_a_response_of_its_stop_token_alone_is_empty(make_tokenizer):
    trims = CHATML.replace("+ message['content'] +", "+ message['content'] | trim +")
    renderer = render.make(tokenizer.load(make_tokenizer(chat_template=trims)), template="auto")
    with pytest.raises(RowError, match="an answer that is to be trained is empty") as error:
        run(renderer, pair(rejected=" "))
    assert error.value.rule == "empty_response"


@pytest.mark.parametrize(("writes_bos", "first"), [(True, BOS), (False, EOS)])
def test_plain_text_is_predicted_from_its_first_token_on(make_tokenizer, writes_bos, first):
    renderer = render.make(tokenizer.load(make_tokenizer(writes_bos=writes_bos)), template="plain")
    encoded, _ = run(renderer, Example(None, ("once",), (1.0,), False))
    assert encoded.prompt.tolist() == [first] and encoded.responses[0].tolist() == [*b"once", EOS]


def test_a_tokenizer_whose_bos_is_its_eos_is_no_trouble(make_tokenizer):
    renderer = render.make(tokenizer.load(make_tokenizer(bos="</s>", writes_bos=False)), template="plain")
    encoded, _ = run(renderer, pair())
    assert encoded.prompt.tolist() == [*b"prompt"] and encoded.responses[1].tolist() == [*b"bad", 256]


def test_a_mask_with_several_turns_covers_each_trained_turn_and_its_stop_token(make_tokenizer):
    renderer = render.make(tokenizer.load(make_tokenizer(chat_template=CHATML)), template="auto")
    turns = ({"role": "assistant", "content": "A"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"})
    example = Example(({"role": "user", "content": "p"},), (turns,), (1.0,), False)
    encoded, _ = run(renderer, example, train_turns="all")
    assert encoded.responses[0][encoded.scored[0] == 1].tolist() == [*b"A", END, *b"B", END]
    encoded, _ = run(renderer, example, train_turns="last")
    assert encoded.responses[0][encoded.scored[0] == 1].tolist() == [*b"B", END]


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"prompt_truncation": "keep_middle"}, "'keep_middle' is not one of keep_end"), ({"max_prompt_tokens": 1}, "leaves no room")],
)
def test_limits_that_no_row_can_meet_are_refused(plain, limits, words):
    with pytest.raises(ValueError, match=words):
        run(plain, pair(), **limits)
