"""What a config file may be, and what is said of one that is not; the name of a run; overrides."""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict
import pytest
from test_config import good

from jaxalign import objectives
from jaxalign.config import files
from jaxalign.config.command_line import from_command_line
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.stages import resolve_stages

WHOLE = (
    "def get_config(objective='dpo'):\n"
    "    return dict(model=dict(checkpoint='package:stories260k'), data=dict(train=dict(path='x')), batch=dict(rows=8),\n"
    "                objective=dict(name=objective), optimizer=dict(learning_rate=1e-4), train=dict(total_steps=1))\n"
)


@pytest.fixture
def write(tmp_path):
    """Writes a config file and returns its path as text."""

    def make(text):
        (tmp_path / "mine.py").write_text(text)
        return str(tmp_path / "mine.py")

    return make


@pytest.mark.parametrize(
    ("text", "argument", "words"),
    [
        ("def get_config(): return {}", ":foo", "get_config: too many positional arguments; give .*mine.py without :foo"),
        ("def get_config(size): return {}", "", "get_config: missing a required argument: 'size'; give .*mine.py:ARGUMENT"),
        ("def get_config(): return 3", "", "mine.py: get_config.. returns int; it must return an ml_collections.ConfigDict"),
        ("def get_config(): raise ValueError('no such size')", "", "mine.py, line 1: ValueError: no such size"),
        ("open('/nowhere/at/all')", "", "mine.py, line 1: FileNotFoundError"),
        ("def get_config(): return 1 + {}", "", "mine.py, line 1: TypeError: unsupported operand"),
        ("x = 1\n1 / 0", "", "mine.py, line 2: ZeroDivisionError"),
        ("def get_config():\n    return {}['model']", "", "mine.py, line 2: KeyError: 'model'"),
        ("def get_config():\n    return dict(a=1", "", "mine.py, line 2: SyntaxError: '\\(' was never closed"),
        ("def get_config(:", "", "mine.py, line 1: SyntaxError"),
        ("import nothing_like_this", "", "mine.py, line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "", "mine.py, line 2: SystemExit: 3"),
        ("def get_config(): return dict(data={1: 2})", "", "mine.py: data: the key 1 is int; a key is text"),
        ("def get_config(): return (" + "(" * 500, "", "mine.py.*"),
    ],
)
def test_a_file_that_gives_no_config_is_refused_with_the_way_out(write, text, argument, words):
    with pytest.raises(ConfigError, match=words):
        files.load_file(write(text) + argument)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bad", b"PK\x03\x04\x00\x00", b"\x00" * 10])
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "mine.py").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--config .*mine.py"):
        files.load_file(str(tmp_path / "mine.py"))


def test_a_config_of_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"mine.json: a config is a Python file"):
        files.load_file(str(tmp_path / "mine.json"))


def test_a_misspelt_file_is_met_with_its_neighbours(write):
    path = write(WHOLE)
    with pytest.raises(ConfigError, match=r"no such file; in .* there are mine.py"):
        files.load_file(path.replace("mine", "nine"))


def test_a_plain_dict_is_a_config(write):
    loaded = files.load_file(write("def get_config(): return dict(a=dict(b=1))"))
    assert isinstance(loaded.a, ConfigDict) and loaded.a.b == 1


@pytest.mark.parametrize(("argument", "name"), [("", "mine"), (":cdpo", "mine_cdpo")])
def test_variants_of_a_config_are_runs_of_different_names(write, argument, name):
    run = from_command_line(["--config", write(WHOLE) + argument], "")
    assert run.name == name and run.stages[""].objective.name == (argument[1:] or "dpo")


def test_an_override_without_its_value_is_refused(write):
    with pytest.raises(ConfigError, match="--config.seed has no value; write --config.seed=VALUE"):
        from_command_line(["--config", write(WHOLE), "--config.seed"], "")


def variants():
    """FILE.py:ARGUMENT for every argument that a shipped config names in VARIANTS."""
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (f"{path}:{argument}" for argument in vars(module).get("VARIANTS", ()))


@pytest.mark.parametrize("reference", variants(), ids=lambda reference: reference.rpartition("/")[2])
def test_every_variant_of_a_shipped_config_passes_the_check(reference):
    assert resolve_stages(files.load_file(reference))


def test_every_objective_has_a_config_that_runs_on_a_laptop():
    configs = [Path(__file__).parents[2] / "configs" / f"{name}.py:all" for name in ("every_method", "online")]
    stages = [cfg for path in configs for cfg in resolve_stages(files.load_file(str(path))).values()]
    without = set(objectives.names()) - {cfg.objective.name for cfg in stages}
    assert without == set(), "add a line for each to METHODS of configs/every_method.py, or of configs/online.py"


SEEDED = {  # config -> arguments that it takes, and some that it does not
    "alol_stories": (("1",), ("x", "1,2", "-1")),
    "distilled_stories": (("1",), ("x", "1,2")),
    "every_method": (("kto,1", "all,1"), ("kto,x", "kto,1,2")),
    "hh_reward": (("stories,1",), ("stories", "foo,0", "stories,x")),
    "hh_stories_tr": (("hh,1", "dialogue,1"), ("hh", "foo,0", "hh,x")),
    "judged_stories": (("1",), ("x", "1,2")),
    "modpo_stories": (("1",), ("x",)),
    "online": (("dpo,1", "all,1"), ("dpo,x", "foo,1")),
    "opinpref_features": (("mlp,1",), ("mlp,x", "foo,1")),
    "ultrafeedback_stories": (("1",), ("x",)),
}


@pytest.mark.parametrize("reference", [f"configs/{name}.py:{each}" for name, (taken, _) in SEEDED.items() for each in taken])
def test_every_stage_of_a_shipped_config_has_the_seed_that_is_asked_for(reference, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("JAXALIGN_DATA", str(tmp_path))
    stages = resolve_stages(files.load_file(reference)).values()
    assert {cfg.seed for cfg in stages if "experiment" not in cfg} == {1}


@pytest.mark.parametrize(("name", "argument"), [(name, each) for name, (_, refused) in SEEDED.items() for each in refused])
def test_an_argument_that_names_no_seed_is_refused_with_an_example(name, argument, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("JAXALIGN_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"{argument}'.* for example "):
        files.load_file(f"configs/{name}.py:{argument}")


def test_every_config_that_takes_a_seed_is_tried():
    texts = {path.stem: path.read_text() for path in (Path(__file__).parents[2] / "configs").glob("*.py")}
    assert SEEDED.keys() == {name for name, text in texts.items() if "int(seed" in text}


@pytest.mark.parametrize("path", sorted({reference.partition(":")[0] for reference in variants()}), ids=lambda path: Path(path).stem)
def test_an_unknown_variant_is_refused(path):
    with pytest.raises(ConfigError, match="nonsense"):
        files.load_file(f"{path}:nonsense")


def test_a_config_that_is_named_without_its_folder_is_suggested_with_it(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.py").write_text(WHOLE)
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.py", "configs/quickstart"):
        with pytest.raises(ConfigError, match="did you mean configs/quickstart.py"):
            files.load_file(name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.train.total_steps=3", "--config.train.total_epochs=1"], "total_steps and --config.train.total_epochs are both given"),
        (["--config.data.train.limit=3"], "--config.data.train.limit: data.train is a list"),
    ],
)
def test_overrides_that_contradict_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        files.override(good(data=dict(train=(dict(path="a"), dict(path="b")))), arguments)


def test_overrides_reach_keys_that_the_file_does_not_name():
    cfg = good()
    files.override(cfg, ["--config.mesh.fsdp=4", "--config.data.pack=False", "--config.optimizer.learning_rate=1e-6"])
    resolved = resolve(cfg)
    assert (resolved.mesh.fsdp, resolved.data.pack, resolved.optimizer.learning_rate) == (4, False, 1e-6)


@pytest.mark.parametrize(("written", "expected"), [("none", "none"), ("None", None), ("true", True), ("False", False)])
def test_none_on_the_command_line_is_a_name_and_None_is_no_value(written, expected):
    cfg = ConfigDict()
    files.override(cfg, [f"--config.reference.rule={written}"])
    assert cfg.reference.rule == expected


def test_a_duration_on_the_command_line_replaces_the_one_of_the_file():
    cfg = good(train=dict(total_epochs=3))
    files.override(cfg, ["--config.train.total_steps=7"])
    assert resolve(cfg).train.total_steps == 7


def test_a_missing_config_file_names_its_neighbours(tmp_path):
    (tmp_path / "other.py").write_text("")
    with pytest.raises(ConfigError, match="other.py"):
        files.load_file(str(tmp_path / "mine.py"))
    with pytest.raises(ConfigError, match="defines no get_config"):
        files.load_file(str(tmp_path / "other.py"))


def test_a_config_file_takes_an_argument(tmp_path):
    (tmp_path / "c.py").write_text("from ml_collections import ConfigDict\ndef get_config(x='a'):\n    return ConfigDict(dict(x=x))\n")
    assert files.load_file(f"{tmp_path / 'c.py'}:b").x == "b"
