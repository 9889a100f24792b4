"""Chat templates render as Hugging Face renders them: 35 templates of the wild, and the built-in ones."""

import json

import pytest

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import templates

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]


def load(name, *, own=None, bos="<s>", eos="</s>", writes_bos=True):
    special = {"bos_token": bos, "eos_token": eos}
    return templates.load(name, own={"default": own} if own else {}, special=special, writes_bos=writes_bos)


def test_all_560_goldens_come_out_the_same(shared):
    goldens = json.loads((shared / "chat_templates" / "rendered_goldens.json").read_text())
    wrong, seen = [], 0
    for file, cases in goldens["rendered"].items():
        template = load(str(shared / "chat_templates" / file))
        for case, golden in cases.items():
            seen += 1
            messages = goldens["conversations"][case.removesuffix("+gen")]
            try:
                same = template.render(messages, add_generation_prompt=case.endswith("+gen")) == golden.get("text")
            except RowError as error:
                cause = error.__cause__
                # the goldens keep the first 82 characters of a message
                same = "error" in golden and type(cause).__name__ == golden["error"] and str(cause).startswith(golden["message"])
            if not same:
                wrong.append((file, case))
    assert seen == 560 and not wrong


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hh", "<s>Be brief.\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye\n\nAssistant:"),
        (
            "chatml",
            "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s>[INST] Be brief.\n\nHi [/INST] Hello.</s>[INST] Bye [/INST]"),
        (
            "gemma",
            "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n<start_of_turn>user\nBye"
            "<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("zephyr", "<s><|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n<|user|>\nBye</s>\n<|assistant|>\n"),
    ],
)
def test_the_built_in_templates_render_as_their_families_do(name, text):
    assert name in templates.BUILT_IN
    assert load(name).render(CONVERSATION, add_generation_prompt=True) == text


def test_a_built_in_template_writes_no_bos_where_the_tokenizer_writes_none():
    rendered = load("hh", bos="<|endoftext|>", writes_bos=False).render(CONVERSATION[1:2], add_generation_prompt=True)
    assert rendered == "\n\nHuman: Hi\n\nAssistant:"


def test_generation_tags_render_as_their_body_and_dates_are_fixed():
    own = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}{{ strftime_now('%d %b %Y') }}"
    assert load("auto", own=own).render(CONVERSATION[:2], add_generation_prompt=False) == "Be brief.Hi26 Jul 2024"


@pytest.mark.parametrize(
    ("name", "own", "error", "words"),
    [
        ("auto", None, ValueError, "has none; use one of the built-in chatml, gemma, hh, llama3, mistral, zephyr"),
        ("chatlm", None, ValueError, "no template 'chatlm'.*chatml"),
        ("nowhere/mine.jinja", None, FileNotFoundError, "no template file 'nowhere/mine.jinja'"),
        ("auto", "{% for %}", ValueError, "not valid jinja: line 1"),
    ],
)
def test_a_template_that_cannot_be_had_is_refused_with_the_choices(name, own, error, words):
    with pytest.raises(error, match=words):
        load(name, own=own)


def test_a_conversation_that_the_template_refuses_is_a_bad_row():
    own = "{{ raise_exception('system turns are not supported') }}"
    with pytest.raises(RowError, match="'auto' refuses the conversation: system turns are not supported") as error:
        load("auto", own=own).render(CONVERSATION, add_generation_prompt=False)
    assert error.value.rule == "template"


def test_a_template_cannot_reach_outside_its_sandbox():
    with pytest.raises(RowError, match="unsafe"):
        load("auto", own="{{ ''.__class__.__mro__ }}").render(CONVERSATION, add_generation_prompt=False)
