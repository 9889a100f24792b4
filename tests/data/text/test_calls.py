"""What a tool call holds beside texts, numbers and truth values, is written by the template, or the row is refused."""

import pytest

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import render, tokenizer

ASKED = [{"role": "user", "content": "Hi"}]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}CALL {{ c.function.name }}"
    "{% set arguments = c.function.arguments %}WRITTEN{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS_ONLY = "{% for k, v in arguments.items() %} {{ k }}{% if v is string %}={{ v }}{% endif %}{% endfor %}"
WHOLE = [
    "{{ arguments | tojson }}",
    "{{ arguments }}",
    "{% for k, v in arguments.items() %}<{{ k }}>{{ v if v is string or v is mapping else v | tojson }}</{{ k }}>{% endfor %}",
]


def train(make_tokenizer, written, arguments, content=""):
    folder = make_tokenizer(chat_template=TEMPLATE.replace("WRITTEN", written))
    renderer = render.make(tokenizer.load(folder), template="auto")
    call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
    turn = {"role": "assistant", "content": content, "tool_calls": [call]}
    return renderer.response(renderer.prompt(ASKED), [turn], train_turns="last")


@pytest.mark.parametrize(
    ("arguments", "content", "named"),
    [
        ({"x": "abc", "n": 3}, "", "3"),
        ({"x": "3 of them", "n": 3}, "", "3"),
        ({"x": "abc", "n": 3}, "The 3 of them", "3"),
        ({"x": "abc", "ok": True}, "", "true"),
        ({"x": "abc", "l": [1.5]}, "", "1.5"),
        ({"x": "13", "n": -3}, "", "-3"),
    ],
)
def test_a_template_that_leaves_out_what_is_no_text_refuses_the_row(make_tokenizer, arguments, content, named):
    with pytest.raises(RowError, match=f"does not write {named} of a tool call") as error:
        train(make_tokenizer, TEXTS_ONLY, arguments, content)
    assert error.value.rule == "tool_calls"


@pytest.mark.parametrize("written", WHOLE)
def test_templates_that_write_every_value_in_their_own_notation_train_it(make_tokenizer, written):
    arguments = {"code": "x = 3\n3 \u00e93 \"3\" 3.", "n": 3, "l": [1.5, True, False, None, -3, 1e-7, 1e20], "d": {"n": 3, "ok": True}}
    assert 1 in train(make_tokenizer, written, arguments, "I take 3, it is True.").scored
