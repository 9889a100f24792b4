"""Values that no key takes: elements of another type, numbers out of range, and keys that have no effect beside the others."""

import math

from ml_collections import ConfigDict
import pytest
from test_config import good

from jaxalign import evaluate
from jaxalign.config import files
from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import resolve_stages

RATE = dict(learning_rate=1e-4)
STEPS = dict(total_steps=9)


def source(**keys):
    """Sections with one training source."""
    return dict(data=dict(train={"path": "x", **keys}))


def held_out(sets):
    """Sections with held-out sources."""
    return dict(data=dict(train=dict(path="x"), eval=sets))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (source(rename={"prompt": 5}), "data.train.rename={'prompt': 5}: 5 is int, not str or None"),
        (source(rename={1: "a"}), "data.train.rename={1: 'a'}: 1 is int, not str"),
        (source(rename={"x": ["a", "b"]}), "data.train.rename={'x': ['a', 'b']}: ['a', 'b'] is list, not str or None"),
        (source(keep_columns={"x": None}), "data.train.keep_columns={'x': None}: None is NoneType, not str"),
        (source(path=("a.jsonl", 3)), "data.train.path=('a.jsonl', 3): 3 is int, not str"),
        (dict(data=dict(train=(dict(path="x"), {"path": "y", 2: 3}))), "data.train[1].2: unknown key"),
        (source(score_weights={"help": "much"}), "'much' is str, not float"),
        (source(score_range=(0, 10**400)), "is int, not float"),
        (dict(data=dict(train=dict(path="x"), add_tokens=("<a>", 1))), "1 is int, not str"),
        (dict(data=dict(train=dict(path="x"), computed=dict(a=dict(kind={"a": 1}, model="x")))), "data.computed.a.kind={'a': 1} is dict"),
        (dict(data=dict(train=dict(path="x"), computed=dict(a=dict(kind="advantage", model="x", rewards=(1, {}))))), "1 is int, not str"),
        (held_out({"": dict(path="y"), "b": dict(path="z")}), "data.eval names a set '' beside b"),
        (held_out({"a": dict(path="y"), "b": 5}), "data.eval.b=5 is not a source"),
        (held_out({"a/b": dict(path="y")}), "the name 'a/b' of a set is no file name"),
    ],
)
def test_names_and_elements_of_another_type_are_one_problem(sections, words):
    assert words in problem(good(**sections))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (dict(seed=2**32), "seed=4294967296 is not at most 4,294,967,295"),
        (dict(optimizer=dict(learning_rate=math.inf)), "optimizer.learning_rate=inf is no finite number"),
        (dict(optimizer=dict(learning_rate=0)), "optimizer.learning_rate=0.0 trains nothing"),
        (dict(optimizer=dict(RATE, weight_decay=math.nan)), "optimizer.weight_decay=nan is no finite number"),
        (dict(optimizer=dict(RATE, min_lr_ratio=1.5)), "optimizer.min_lr_ratio=1.5 is not at most 1"),
        (dict(optimizer=dict(RATE, b1=1.0)), "optimizer.b1=1.0 of 'adamw' is not in [0, 1)"),
        (dict(optimizer=dict(RATE, name="lion", b2=-0.1)), "optimizer.b2=-0.1 of 'lion' is not in [0, 1)"),
        (dict(optimizer=dict(RATE, name="muon", beta=2.0)), "optimizer.beta=2.0 of 'muon' is not in [0, 1)"),
        (dict(optimizer=dict(RATE, eps=0.0)), "optimizer.eps=0.0 of 'adamw' is not above 0"),
        (dict(optimizer=dict(RATE, name="rmsprop", decay=1.0)), "optimizer.decay=1.0 of 'rmsprop' is not in [0, 1)"),
        (dict(data=dict(train=(dict(path="x", weight=math.inf), dict(path="y")))), "data.train[0].weight=inf is no finite number"),
        (dict(data=dict(train=dict(path="x"), row_tokens=2**21)), "data.row_tokens=2097152 is not at most 1,048,576"),
        (dict(data=dict(train=dict(path="x"), max_response_tokens=1)), "data.max_response_tokens=1 is not at least 2"),
        (dict(batch=dict(rows=2**40)), "is not at most 1,048,576"),
        (dict(data=dict(train=(dict(path="x", weight=0),))), "data.train.weight=0.0 has no effect on a source"),
        (dict(train=dict(total_steps=1.5)), "train.total_steps=1.5 is not a whole number, and there are no parts of steps"),
        (dict(train=dict(STEPS, eval_every_examples=0.5)), "train.eval_every_examples=0.5 is not a whole number"),
        (dict(model=dict(checkpoint="")), "model.checkpoint='' is empty; give a value, or leave the key out"),
        (dict(train=dict(total_steps=2**31)), "train.total_steps=2147483648 is not a finite number >= 0 and below 2,147,483,648"),
        (dict(model=dict(checkpoint="a", value_head=10**400)), "is int, not float or None"),
        (dict(objective=dict(name="dpo", beta=10**400)), "is int, not float"),
    ],
)
def test_a_number_is_finite_and_in_the_range_of_its_key(sections, words):
    assert words in problem(good(**sections))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (source(path="x.csv.gz", split="test"), "data.train.split='test' has no effect on files"),
        (source(path=("a.jsonl", "b.*.parquet"), split="validation[:9]"), "data.train.split='validation[:9]' has no effect on files"),
        (source(config="abc"), "data.train.config='abc' has no effect on path"),
        (dict(data=dict(train=dict(hf="x", data_dir="y"))), "data.train.data_dir='y' has no effect without tfds"),
        (dict(data=dict(train=dict(tfds="x", config="y"))), "data.train.config='y' has no effect on tfds"),
        (source(weight=2.0), "data.train.weight=2.0 has no effect"),
        (held_out(dict(a=dict(path="y", weight=0.5))), "data.eval.a.weight=0.5 has no effect"),
        (source(format="messages", score_range=(0, 5)), "data.train.score_range=(0, 5) has no effect on a format without scores"),
        (source(format="binary", score_transform="sigmoid"), "data.train.score_transform='sigmoid' has no effect"),
        (dict(data=dict(train=dict(path="x"), pack=False, max_groups_per_row=3)), "data.max_groups_per_row=3 has no effect on data.pack="),
        (dict(optimizer=dict(RATE, schedule="constant", min_lr_ratio=0.1)), "optimizer.min_lr_ratio=0.1 has no effect"),
        (dict(train=dict(STEPS, extend_learning_rate=1e-5)), "train.extend_learning_rate=1e-05 has no effect without train.extend_"),
        (dict(train=dict(STEPS, export_dtype="bfloat16")), "train.export_dtype='bfloat16' has no effect without train.export"),
    ],
)
def test_a_key_without_effect_is_named(sections, words):
    assert words in problem(good(**sections))


def test_keys_that_have_an_effect_and_defaults_that_are_written_out_pass():
    rows = dict(path="x.jsonl", split="train[:90%]", weight=1.0, config=None, format="paired", score_range=(1, 10))
    data = dict(train=(dict(rows, weight=3), dict(path="folder", split="test")), eval=dict(path="y"))
    export = dict(export=True, export_dtype="bfloat16")
    train = dict(STEPS, keep_best=1, best_metric="-accuracy", extend_steps=3, extend_learning_rate=1e-5, **export)
    resolved = resolve_stages(good(data=data, train=train, seed=2**32 - 1, optimizer=dict(RATE, b1=0.0)))[""]
    assert resolve_stages(ConfigDict(resolved.to_dict()))[""] == resolved  # as a stored configuration is read


def test_a_stage_that_a_later_one_starts_from_is_exported_in_its_dtype():
    first = good(train=dict(STEPS, export_dtype="bfloat16"))
    resolve_stages(ConfigDict(dict(stages=("a", "b"), a=first, b=good(model=dict(checkpoint="stage:a")))))
    with pytest.raises(ConfigError, match="a.train.export_dtype='bfloat16' has no effect"):
        resolve_stages(ConfigDict(dict(stages=("a", "b"), a=first, b=good())))


@pytest.mark.parametrize("name", ["", "a/b", "..", "/tmp"])
def test_the_name_of_a_stage_is_the_name_of_a_folder(name):
    config = ConfigDict({"stages": (name,), name: good()}, allow_dotted_keys=True)
    assert f"stages: {name!r} is no name of a stage" in problem(config)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.model.config={[]:1}", "model.config='{[]:1}' is str, not dict or None"),
        ("--config.data.train.rename={1:2}", "1 is int, not str"),
        (f"--config.optimizer.learning_rate=1{'0' * 400}", "is int, not float"),
        (f"--config.data.train.path={'(' * 300}", "no effect"),
    ],
)
def test_an_override_that_is_no_value_of_its_key_is_refused_by_name(argument, words):
    config = good(data=dict(train=dict(path="x", weight=2.0)))
    with pytest.raises(ConfigError) as error:
        files.override(config, [argument])
        resolve_stages(config)
    assert words in str(error.value)


def test_a_folder_in_the_place_of_a_config_names_its_files(tmp_path):
    (tmp_path / "mine.py").touch()
    with pytest.raises(ConfigError, match=r"it is a folder; name one of its Python files: mine\.py\."):
        files.load_file(str(tmp_path))


def test_a_key_of_another_section_leads_there():
    assert "train.learning_rate is called optimizer.learning_rate here." in problem(good(train=dict(STEPS, learning_rate=1e-4)))


def test_evaluate_explains_the_keys_of_held_out_sources(capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--help-config", "data.eval"])
    assert stop.value.code in (None, 0) and "score_range" in capsys.readouterr().out


def problem(config):
    """The message of the one problem that the configuration has."""
    with pytest.raises(ConfigError) as error:
        resolve_stages(config)
    assert "has 1 problem:" in str(error.value)
    return str(error.value)
