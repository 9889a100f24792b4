"""A template is somebody else's program: whatever it does, the row is refused by name and the run goes on."""

import pytest

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import sandbox, templates

HI = [{"role": "user", "content": "Hi"}]


def render(text, messages=HI, **options):
    template = templates.load("auto", own={"default": text}, special={"pad_token": "<pad>"}, writes_bos=True)
    return template.render(messages, add_generation_prompt=False, **options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[7]['content'] }}", "has no element 7"),
        ("{{ messages[0]['content'] + 1 }}", "concatenate"),
        ("{% for i in range(10000000) %}a{% endfor %}", "Range too big"),
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "more than 2,000,000 steps"),
        pytest.param(
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "more than 2,000,000 steps",
            marks=pytest.mark.slow,
        ),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
        ("{{ 'a' * 1000000000 }}", "1,000,000,000 characters"),
        ("{{ '%999999999d' % 1 }}", "999,999,999 characters"),
        ("{{ 9 ** 999999999 }}", "characters, more than"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", "more than 50,000,000"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "more than 50,000,000"),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
            "more than 50,000,000",
        ),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 'a' | center(2000000000) }}", "2,000,000,000 characters"),
        ("{{ 'a'.ljust(2000000000) }}", "2,000,000,000 characters"),
        ("{{ '{:>2000000000}'.format(1) }}", "2,000,000,000 characters"),
        ("{{ '%*d' % (2000000000, 1) }}", "2,000,000,000 characters"),
        ("{{ [1] | tojson(indent=2000000000) }}", "characters, more than"),
        ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "10,000,100,000 characters"),
        ("{{ (['a' * 5000] * 100000) | map('string') | join }}", "500,000,000 characters"),
    ],
)
def test_a_template_that_fails_or_does_not_end_refuses_the_row(text, words):
    with pytest.raises(RowError, match=words) as error:
        render(text)
    assert error.value.rule == "template"


SHARED = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
SHARED += "{% set ns.y = {'a': ns.y, 'b': ns.y} %}{% endfor %}"


@pytest.mark.parametrize(
    "text",
    [
        "{{ ns.x }}", "{{ ns.y | tojson }}", "{{ ns.x | string }}", "{{ ns.x | upper }}", "{{ 'a' ~ ns.x }}", "{{ '%s' % [ns.x] }}",
        "{{ '{}'.format(ns.x) }}", "{{ ', '.join(ns.x) }}", "{{ [ns.x] | map('string') | join }}", "{{ raise_exception(ns.x) }}",
        "{% set s %}{{ ns.y }}{% endset %}", "{% set ns.z = [ns.x, 0] %}{{ ns.z == [ns.y, 0] }}", "{{ ['a' * 10000] * 10000 }}",
        "{{ ns.x is eq(ns.y) }}", "{{ [ns.x].index(ns.y) }}", "{{ {}.get((ns.x, 1)) }}", "{{ {(ns.x, 1): 2} }}", "{{ {}[(ns.x, 1)] }}",
    ],
)  # fmt: skip
def test_lists_that_hold_one_list_twice_become_no_endless_text(text):
    with pytest.raises(RowError, match="more than"):
        render(SHARED + text)


def test_lists_that_hold_one_list_twice_may_be_passed_on():
    assert render(SHARED + "{{ ns.x | first | length }}{{ ns.y | length }}{{ [[1, 'a'], {'b': none}] }}") == "22[[1, 'a'], {'b': None}]"


def test_numbers_and_digits_in_what_a_template_writes_are_no_widths():
    text = "{{ 1700000000 | tojson }} {{ '{} {}'.format('5551234567', 1700000000) }} {{ [1700000000] | join(',') }}"
    assert render(text) == "1700000000 5551234567 1700000000 1700000000"


def test_a_refused_rendering_leaves_the_next_one_all_its_steps(monkeypatch):
    monkeypatch.setattr(sandbox, "MOST_STEPS", 10)
    text = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(RowError, match="more than 10 steps"):
        render(text, HI * 11)
    assert render(text, HI * 10) == "Hi" * 10
    with pytest.raises(RowError, match="more than 10 steps"):
        render("{{ ('a' * 20000) | upper }}")  # what a filter makes counts by its size


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ pad_token }}{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}", "<pad>TrueTrueFalse"),
        ("{% for m in messages %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ m.role ~ '!' }}{% endfor %}", "1True1user!"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}.", "."),
        ("{% for t in tools %}{{ t.name }}{% endfor %}", ""),
        ("{{ enable_thinking is defined }}", "False"),
    ],
)
def test_the_variables_and_loops_of_a_template_are_the_librarys(text, rendered):
    assert render(text) == rendered


def test_tools_choose_the_template_for_tools_where_there_is_one():
    own = {"default": "plain", "tool_use": "{{ tools[0].name }}"}
    template = templates.load("auto", own=own, special={}, writes_bos=False)
    assert template.render(HI, add_generation_prompt=False) == "plain"
    assert template.render(HI, add_generation_prompt=False, tools=[{"name": "find"}]) == "find"


def test_a_thought_stands_under_both_names_and_a_weight_under_none():
    message = {"role": "assistant", "content": "4", "reasoning_content": "2 + 2", "weight": 0}
    text = "{% for m in messages %}{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.weight is defined }}{% endfor %}"
    assert render(text, [message]) == "2 + 2|2 + 2|False"
