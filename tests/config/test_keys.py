"""What a person can read of the keys: every key and option has a meaning, and the written table is that of today."""

from pathlib import Path

import pytest

from jaxalign import annotate, evaluate, inspect, prepare, train
from jaxalign.config import functions, keys
from jaxalign.config.schema import DURATIONS, HELP_OF_DURATIONS, SCHEMA, SECTIONS

TABLE = Path(__file__).parents[2] / "configs" / "KEYS.md"


def test_the_table_of_keys_is_current():
    assert TABLE.read_text(encoding="utf-8") == keys.markdown(), "run: python -m jaxalign.config.keys > configs/KEYS.md"


def test_every_section_and_duration_is_explained():
    assert SECTIONS.keys() == SCHEMA.keys()
    assert HELP_OF_DURATIONS.keys() == {f"{section}.{name}" for section, names in DURATIONS.items() for name in names}


@pytest.mark.parametrize("section", keys.sections())
def test_every_key_has_a_type_and_a_meaning(section):
    for key in keys.rows(section):
        assert key.kind and key.default and len(key.meaning) > 3, key


@pytest.mark.parametrize("command", [train, prepare, annotate, inspect, evaluate])
def test_help_of_a_section_is_printed_without_a_config(capsys, command):
    with pytest.raises(SystemExit) as end:
        command.main(["--help-config", "batch"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "gradient_accumulation_steps: int >= 1; default 1" in shown and "rows: int >= 1; default (required)" in shown


def test_help_without_a_section_lists_them(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help-config"])
    shown = capsys.readouterr().out
    assert all(f"  {section}" in shown for section in (*SCHEMA, "experiment"))


@pytest.mark.parametrize(("name", "beta"), [("kto", 0.1), ("una", 0.03)])
def test_help_of_an_objective_shows_its_options_with_their_meanings(name, beta):
    shown = keys.text(f"objective.{name}")
    assert all(f"  {option}: " in shown for option in functions.accepted("objective", name))
    assert f"beta: float; default {beta}" in shown


@pytest.mark.parametrize(("section", "words"), [("objektive", "did you mean objective?"), ("objective.kt", "did you mean objective.kto?")])
def test_a_misspelt_section_is_met_with_the_one_that_is_meant(capsys, section, words):
    assert train.main(["--help-config", section]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("stages", "stages: tuple; default (required)"),
        ("data.eval", "  score_range: tuple or None"),
        ("data.eval.path", "  path: str or tuple or None"),
        ("optimizer.learning_rate", "  learning_rate: float >= 0; default (required)"),
        ("train.total_epochs", "  total_[steps|epochs|examples]: number >= 0"),
        ("objective.dpo.beta", "  beta: float; default 0.1"),
        ("objective.nll", "objective.nll"),
    ],
)
def test_help_is_there_below_a_section_too(section, words):
    shown = keys.text(section)
    assert words in shown
    if section.count(".") == 2 or section.startswith(("optimizer", "train")):  # one key
        assert shown.count("; default ") == 1


def test_help_on_a_section_without_keys_names_none():
    assert keys.rows("objective.nll") == []


def test_every_section_that_the_list_names_is_explained():
    listed = [line.split()[0] for line in keys.text().splitlines()[1:]]
    assert {*SCHEMA, "stages", "experiment"} == set(listed) and all(keys.rows(section) for section in listed)
