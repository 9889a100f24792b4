"""What all commands share: help at once, one sentence for every error, exit codes, flags."""

import errno
from pathlib import Path
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from jaxalign import annotate, compare, evaluate, export, inspect, prepare, train
from jaxalign.config import command_line, files
from jaxalign.config.resolve import ConfigError
from jaxalign.data import prepared
from jaxalign.planning import compiled
from jaxalign.scoring import endpoint

FILES = Path(train.__file__).parent.glob("*.py")
COMMANDS = sorted(path.stem for path in FILES if "command_line" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_fast_and_imports_neither_jax_nor_torch(command):
    code = f"import sys; from jaxalign import {command}\ntry:\n    {command}.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('jax', 'torch', 'tensorflow', 'transformers', 'datasets') if m in sys.modules])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 10  # a tenth of that on a quiet machine; jax alone takes longer than that on a busy one
    assert f"usage: python -m jaxalign.{command}" in done.stdout and done.stdout.strip().endswith("[]")


def raises(error):
    def body(argv):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("no such key"), "ConfigError: no such key"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b'. Free some space and start again with the same command"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b'. Check the path and its permissions"),
        (FileNotFoundError("there is no data at 'x'"), "FileNotFoundError: there is no data at 'x'\n"),
        (FloatingPointError("loss is nan"), "FloatingPointError: loss is nan"),
        (KeyError("inner"), "KeyError inside jaxalign, which is a fault of its own: 'inner'"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else "",
)
def test_an_error_is_one_sentence_and_exit_code_1(capsys, error, words):
    assert command_line.run(raises(error)) == 1
    message = capsys.readouterr().err
    assert words in message and "JAXALIGN_TRACEBACK=1" in message and "Traceback" not in message


def test_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    monkeypatch.setenv("JAXALIGN_TRACEBACK", "1")
    assert command_line.run(raises(ValueError("inner"))) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith("ValueError: inner\n\n") and "in body" in shown


def test_exit_codes_are_those_of_the_body_and_of_ctrl_c():
    assert command_line.run(lambda argv: None) == 0
    assert command_line.run(lambda argv: 75) == 75
    assert command_line.run(raises(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("command", [train, prepare, inspect])
def test_a_broken_config_file_is_one_sentence(tmp_path, capsys, command):
    (tmp_path / "mine.py").write_text("def get_config():\n    return dict(model=\n")
    assert command.main(["--config", str(tmp_path / "mine.py")]) == 1
    message = capsys.readouterr().err
    assert "mine.py, line 2: SyntaxError" in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (train, ["--config", "x.py", "--worcdir=a"], "did you mean --workdir?"),
        (train, ["--workdir", "a"], "--config FILE.py is missing"),
        (inspect, [], "--config FILE.py is missing; or give --prepared"),
        (inspect, ["--config", "x.py", "--prepared", "a"], "--prepared stands in the place of --config"),
        (export, ["--workdir", "a"], "--out"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_flags_that_are_wrong_or_missing_are_named(capsys, command, arguments, words):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_machine_without_a_tpu_does_not_start_libtpu(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: name if name == "libtpu" else None)
    monkeypatch.setattr(command_line.glob, "glob", lambda pattern: [])
    command_line.run(lambda argv: None)
    assert command_line.os.environ.pop("JAX_PLATFORMS") == "cpu"


@pytest.mark.parametrize(("package", "vendors"), [("jax_plugins", []), ("libtpu", ["0x1ae0"])])
def test_an_accelerator_is_left_to_jax(monkeypatch, tmp_path, package, vendors):
    (tmp_path / "vendor").write_text("".join(vendors) + "\n")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: name if name in ("libtpu", package) else None)
    monkeypatch.setattr(command_line.glob, "glob", lambda pattern: [str(tmp_path / "vendor")])
    command_line.run(lambda argv: None)
    assert "JAX_PLATFORMS" not in command_line.os.environ


@pytest.mark.parametrize("command", [train, annotate, evaluate, export, compare, inspect])
def test_a_folder_in_a_flag_may_begin_with_the_home_folder(monkeypatch, tmp_path, command):
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = [name for name, _ in command.FLAGS if name in ("--workdir", "--out", "--prepared", "--runs")]
    options = command_line.parse([f"{name}=~/a" for name in folders], "", command.FLAGS, command="x")
    given = [getattr(options, name.strip("-")) for name in folders]
    assert given and all(value in (str(tmp_path / "a"), [str(tmp_path / "a")]) for value in given)


def test_a_config_may_lie_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("def get_config(x='a'):\n    return dict(seed=x)\n")
    assert files.load_file("~/mine.py:b").seed == "b"


def test_a_home_folder_that_is_not_there_is_named(capsys):
    assert train.main(["--config", "~nobody-of-this-name/mine.py"]) == 1
    assert "begins with ~nobody-of-this-name, which is no home folder here" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--config=a.py", "--config.seed=1", "--workdir=a"])
def test_a_flag_or_a_key_that_is_given_twice_is_refused(argument, capsys):
    with pytest.raises(SystemExit) as end:
        train.main(["--config=b.py", "--workdir=b", "--config.seed=2", argument])
    assert end.value.code == 2 and f"{argument.partition('=')[0]} is given 2 times; keep one of them" in capsys.readouterr().err


def test_what_would_show_or_compute_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "def get_config():\n"
        "    return dict(model=dict(checkpoint='package:stories260k'), data=dict(train=dict(path='x')), batch=dict(rows=8),\n"
        "                objective=dict(name='dpo'), optimizer=dict(learning_rate=1e-4), train=dict(total_steps=1.0))\n"
    )
    for command, flags, words in ((inspect, ["--rows", "-1"], "--rows -1 is below 0"), (annotate, [], "mine.py computes no column")):
        assert command.main(["--config", str(tmp_path / "mine.py"), *flags]) == 1
        assert words in capsys.readouterr().err


def test_an_empty_name_of_the_cache_is_none_wherever_something_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXALIGN_CACHE", "")
    kept = tmp_path / ".cache" / "jaxalign"
    how = dict(key_from=None, options=None, timeout_s=1.0, retries=0, wait_s=0.0, parallel=1)
    assert endpoint.made(url="http://h/v1", model="m", cache="", **how).cache == kept / "judge"
    assert prepared._root(None) == kept / "prepared"
    lowered = SimpleNamespace(as_text=lambda: "a step")
    monkeypatch.setattr(compiled, "_compile", lambda *_: compiled.Compiled(0.0, 0.0, "", 0.0))
    compiled.compile_step(lowered, target="cpu", options={})
    assert len(list((kept / "plans").iterdir())) == 2


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"JAXALIGN_CACHE": "/cache"}, "/cache/programs"),
        ({"HOME": "/mine"}, "/mine/.cache/jaxalign/programs"),
        ({"HOME": "/mine", "JAXALIGN_CACHE": ""}, "/mine/.cache/jaxalign/programs"),
        ({"JAXALIGN_CACHE": "~/kept"}, "/mine/kept/programs"),
        ({"JAXALIGN_PROGRAMS": "/programs", "JAXALIGN_CACHE": "/cache"}, "/programs"),
        ({"JAXALIGN_PROGRAMS": "off"}, None),
        ({"JAX_COMPILATION_CACHE_DIR": "/jax"}, "/jax"),
    ],
)
def test_compiled_programs_are_kept_where_the_environment_asks(environ, folder, monkeypatch):
    monkeypatch.setenv("HOME", "/mine")
    command_line.keep_programs(environ)
    kept = environ.get("JAX_COMPILATION_CACHE_DIR")
    assert kept == folder or kept.startswith(f"{folder}/")


@pytest.mark.parametrize(
    ("environ", "share"),
    [({}, "0.93"), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "0.5"), ({"XLA_CLIENT_MEM_FRACTION": "0.5"}, None)],
)
def test_a_card_gives_what_a_plan_counts_on_unless_the_user_says_otherwise(environ, share):
    command_line.take_gpu_memory(environ)
    assert environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == share
