"""Special tokens by one rule: a template owns its own, plain text gets BOS and EOS; each exactly once, where it belongs."""

import pytest
from tiny_data import CHATML

from jaxalign.data import render, tokenizer
from jaxalign.data.counts import RowError

BOS, EOS, START, END = 256, 257, 258, 259
PROMPT = [{"role": "user", "content": "Hi"}]
ANSWER = [{"role": "assistant", "content": "Yo"}]


def make(make_tokenizer, template, **options):
    return render.make(tokenizer.load(make_tokenizer(**options)), template=template)


def test_plain_text_gets_one_bos_and_one_eos(make_tokenizer):
    renderer = make(make_tokenizer, "plain")
    assert renderer.prompt_ids("Hi") == [BOS, *b"Hi"]
    assert renderer.response_ids("Hi", " Yo", train_turns="last") == ([*b" Yo", EOS], [1, 1, 1, 1])


def test_plain_text_gets_no_bos_from_a_tokenizer_that_writes_none(make_tokenizer):
    renderer = make(make_tokenizer, "plain", bos="</s>", writes_bos=False)
    assert renderer.prompt_ids("Hi") == [*b"Hi"]


def test_a_template_owns_its_special_tokens_and_only_its_stop_token_is_scored(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    assert renderer.prompt_ids(PROMPT) == [START, *b"user\nHi", END, *b"\n", START, *b"assistant\n"]
    # The template goes on with a line break after the stop token; nothing follows it, so it is left out.
    assert renderer.response_ids(PROMPT, ANSWER, train_turns="last") == ([*b"Yo", END], [1, 1, 1])


def test_text_prompts_and_responses_are_one_user_and_one_assistant_turn_for_a_template(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    assert renderer.prompt_ids("Hi") == renderer.prompt_ids(PROMPT)
    assert renderer.response_ids("Hi", "Yo", train_turns="last") == renderer.response_ids(PROMPT, ANSWER, train_turns="last")


def test_the_boundary_of_hh_text_is_where_the_assistant_begins(make_tokenizer):
    renderer = make(make_tokenizer, "hh")
    assert renderer.prompt_ids(PROMPT) == [BOS, *b"\n\nHuman: Hi\n\nAssistant:"]
    assert renderer.response_ids(PROMPT, ANSWER, train_turns="last") == ([*b" Yo", EOS], [1] * 4)


def test_no_token_spans_the_boundary(shared):
    renderer = render.make(tokenizer.load(shared / "weights" / "stories260K" / "hf"), template="hh")
    prompt = renderer.prompt_ids(PROMPT)
    ids, scored = renderer.response_ids(PROMPT, [{"role": "assistant", "content": "the cat"}], train_turns="last")
    assert renderer.tokenizer.decode(prompt) == "<s>\n\nHuman: Hi\n\nAssistant:".replace("<s>", "<s> ")
    assert renderer.tokenizer.decode(prompt + ids).endswith("Assistant: the cat</s>")
    assert ids[-1] == renderer.stop_id and all(scored)


LATER = [
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "B"},
]
MIDDLE = [START, *b"user\nQ", END, *b"\n", START, *b"assistant\n"]


def test_all_assistant_turns_are_trained_or_the_last_alone(make_tokenizer):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    ids = [*b"A", END, *b"\n", *MIDDLE, *b"B", END]
    between = [0] * (1 + len(MIDDLE))
    assert renderer.response_ids(PROMPT, LATER, train_turns="all") == (ids, [1, 1, *between, 1, 1])
    assert renderer.response_ids(PROMPT, LATER, train_turns="last") == (ids, [0, 0, *between, 1, 1])


def test_a_template_that_rewrites_its_history_is_refused_by_the_row(make_tokenizer):
    cuts_thinking = (
        "{% for m in messages %}<|im_start|>{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    renderer = make(make_tokenizer, "auto", chat_template=cuts_thinking)
    turns = [{"role": "assistant", "content": "<think>x</think>A"}, *LATER[1:]]
    with pytest.raises(RowError, match="first 2 turns differently when more turns follow.*use another template") as error:
        renderer.response_ids(PROMPT, turns, train_turns="all")
    assert error.value.rule == "template_prefix"
    assert renderer.response_ids(PROMPT, turns, train_turns="last")[0][-2:] == [*b"B", END]


@pytest.mark.parametrize("text", ["Yo</s>", "Yo<|im_end|> more"])
def test_a_stop_token_inside_a_text_is_refused(make_tokenizer, text):
    renderer = make(make_tokenizer, "auto", chat_template=CHATML)
    with pytest.raises(RowError, match="more than one stop token") as error:
        renderer.response_ids(PROMPT, [{"role": "assistant", "content": text}], train_turns="last")
    assert error.value.rule == "stop_token"


@pytest.mark.parametrize(
    ("template", "options", "words"),
    [
        ("auto", {}, "this tokenizer has none; use one of the built-in chatml"),
        ("plain", {"eos": None}, "no EOS token.*eos_token in tokenizer_config.json"),
        ("hh", {"eos": None}, "'hh' ends an assistant turn with ''.*no EOS token"),
        ("llama3", {}, r"'llama3' ends an assistant turn with '<\|eot_id\|>'.*no special token of this tokenizer"),
        ("auto", {"chat_template": "{{ bos_token }}" + "{{ bos_token }}" + CHATML}, "writes the BOS token '<s>' twice"),
        (
            "auto",
            {"chat_template": "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}{{ eos_token }}"},
            "2 special tokens, '</s>' '</s>'; keep one",
        ),
        ("auto", {"chat_template": "{% for m in messages %}{{ m['role'] }}{% endfor %}"}, "does not write the assistant's text"),
    ],
)
def test_a_tokenizer_or_template_that_cannot_work_is_refused_before_any_row(make_tokenizer, template, options, words):
    with pytest.raises(ValueError, match=words):
        make(make_tokenizer, template, **options)


def test_plain_text_refuses_messages(make_tokenizer):
    with pytest.raises(RowError, match="use a chat template"):
        make(make_tokenizer, "plain").prompt_ids(PROMPT)
