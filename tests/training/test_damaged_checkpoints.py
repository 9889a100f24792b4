"""A checkpoint that was damaged on disk is named and passed over: the run goes on from the newest good one, bit for bit."""

import argparse
import json
import os
from pathlib import Path
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxalign import evaluate, export, sharding, train
from jaxalign.training import runs, sources
from jaxalign.training.checkpoint import Checkpoints

OPTIMIZED = True
pytestmark = pytest.mark.slow  # whole runs
TINY = str(Path(__file__).parents[1] / "tiny.py") + ":sft"
SETTINGS = ("train.total_steps=4", "train.save_every_steps=2", "train.eval_every_steps=2", "train.log_every_steps=1")
FEW, MANY = range(1), range(1, 1 + int(os.environ.get("DAMAGES", 1)))  # a sweep: DAMAGES=60 python -m pytest -m slow THIS_FILE


def start(workdir, cache):
    arguments = ["--config", TINY, "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    return train.main([*arguments, *(f"--config.{setting}" for setting in SETTINGS)])


def lines(workdir):
    """metrics.jsonl without what depends on the clock."""
    parsed = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "speed/" not in key} for line in parsed]


def params(workdir, step=None):
    with jax.set_mesh(sharding.make_mesh(fsdp=-1)):
        return jax.device_get(sources.restore_params(workdir, step)[1])


def assert_same(ours, theirs):
    for (path, left), right in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A run with checkpoints of steps 2 and 4, what it wrote, and its last parameters."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert start(workdir, cache) == 0
    return workdir, lines(workdir), params(workdir)


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def any_file(workdir, draw):
    files = sorted(path for path in (workdir / "checkpoints" / "4").rglob("*") if path.is_file())
    return draw.choice([file for file in files if file.stat().st_size])


def flip(workdir, seed):
    draw = random.Random(f"flip {seed}")
    file = any_file(workdir, draw)
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    return file


def cut(workdir, seed):
    draw = random.Random(f"cut {seed}")
    file = any_file(workdir, draw)
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    return file


def empty(workdir, _):
    file = any_file(workdir, random.Random("empty"))
    file.write_bytes(b"")
    return file


def remove(workdir, _):
    file = any_file(workdir, random.Random("remove"))
    file.unlink()
    return file


def add(workdir, _):
    file = workdir / "checkpoints" / "4" / "trainable" / "d" / "0123"
    file.write_bytes(b"1")
    return file


def half_a_manifest(workdir, _):
    file = workdir / "checkpoints" / "4" / runs.SEAL.name
    file.rename(file.with_name(f"{runs.SEAL.name}.partial"))
    return file


DAMAGES = [(damage, 0) for damage in (empty, remove, add, half_a_manifest)] + [(damage, seed) for damage in (flip, cut) for seed in FEW]


@pytest.mark.parametrize(("damage", "seed"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_is_taken(trained, copied, damage, seed):
    file, told = damage(copied, seed), []
    saved = Checkpoints(copied)
    assert saved.begin(tell=told.append) == 2
    assert "the checkpoint of step 4" in told[0] and file.name in told[0] and "passed over" in told[0]
    assert saved.steps() == [2] and (copied / "damaged" / "4").is_dir() and str(copied / "damaged" / "4") in told[1]
    assert_same(params(copied), params(trained[0], 2))


WHOLE_RUNS = [(flip, 99), *(pytest.param(damage, seed, marks=pytest.mark.slow) for damage in (flip, cut) for seed in MANY)]


@pytest.mark.parametrize(("damage", "seed"), WHOLE_RUNS)
def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_it_had_not_been(trained, copied, cache, capsys, damage, seed):
    file = damage(copied, seed)
    assert start(copied, cache) == 0
    message = capsys.readouterr().err
    assert file.name in message and "continues at step 2" in message
    assert lines(copied) == trained[1]
    assert_same(params(copied), trained[2])


def test_the_parameters_of_a_damaged_step_are_refused_and_those_of_another_are_not(trained, copied):
    flip(copied, 0)
    with pytest.raises(runs.CheckpointError, match=r"step 4 is damaged.*choose another step: \[2\]"):
        params(copied, 4)
    assert_same(params(copied), params(trained[0], 2))
    assert runs.steps(copied) == [2, 4]  # reading moves nothing


def test_where_all_checkpoints_are_damaged_the_run_does_not_start_over_by_itself(copied, cache, capsys):
    for step in (2, 4):
        (copied / "checkpoints" / str(step) / "run" / "metadata").write_text("{}")
    assert start(copied, cache) == 1
    message = capsys.readouterr().err
    assert "every checkpoint in" in message and "step 4 is damaged" in message and "step 2 is damaged" in message
    assert "delete" not in message and runs.steps(copied) == [2, 4]


def test_checkpoints_without_a_manifest_are_read_with_a_note(trained, copied, capsys):
    for step in (2, 4):
        (copied / "checkpoints" / str(step) / runs.SEAL.name).unlink()
    assert_same(params(copied), trained[2])
    assert "step 4 has no manifest.json (an earlier version wrote it): it cannot be checked" in capsys.readouterr().err


def test_what_desktops_leave_in_a_checkpoint_damages_nothing(copied):
    for name in (".DS_Store", "trainable/._d", "Thumbs.db"):
        (copied / "checkpoints" / "4" / name).write_bytes(b"1")
    assert runs.newest_good(copied, tell=pytest.fail) == 4


def test_a_folder_that_is_not_named_as_a_step_is_no_checkpoint(copied):
    for name in ("04", "\u00b2", "4.bak"):
        (copied / "checkpoints" / name).mkdir()
    (copied / "checkpoints" / "7").write_text("")
    assert runs.steps(copied) == [2, 4]


def test_a_checkpoint_in_the_folder_of_another_step_is_passed_over(copied):
    (copied / "checkpoints" / "4").rename(copied / "checkpoints" / "3")
    told = []
    assert runs.newest_good(copied, tell=told.append) == 2 and "step 3 is that of step 4 in another's folder" in told[0]
    with pytest.raises(runs.CheckpointError, match=r"step 3 is that of step 4.*choose another step: \[2\]"):
        runs.chosen(copied, 3)


@pytest.mark.parametrize("content", [None, "", "[]"])
def test_an_evaluation_goes_by_the_record_of_the_step_that_it_measures(copied, content):
    record = copied / "checkpoints" / "4" / "run" / "metadata"
    record.write_text(record.read_text().replace('"weight_decay": 0.1', '"weight_decay": 0.9') if content is None else content)
    subject = evaluate._of_run(argparse.Namespace(workdir=str(copied), stage=None, step=None, out=None), [])
    assert subject.weights[1] == 2 and subject.cfg.optimizer.weight_decay == 0.1
    if content is not None:  # an earlier version wrote no manifest that would contradict it
        for step in (2, 4):
            (copied / "checkpoints" / str(step) / runs.SEAL.name).unlink()
        assert runs.newest_good(copied) == 2


def test_an_evaluation_reads_the_run_before_it_starts_the_devices(copied):
    flip(copied, 0)
    program = "import sys; from jaxalign.training import runs; step = runs.chosen(sys.argv[1], None); runs.record(sys.argv[1], step); "
    program += "import jax; jax.config.update('jax_num_cpu_devices', 3); print(step, jax.device_count())"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    answer = subprocess.run([sys.executable, "-c", program, str(copied)], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["2", "3"] and "the checkpoint of step 4" in answer.stderr


def test_a_tokenizer_that_is_not_as_the_run_wrote_it_is_refused_and_written_anew(copied, cache, tmp_path, capsys):
    file = copied / "tokenizer" / "tokenizer.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"a"', b'"b"', 1))
    assert export.main(["--workdir", str(copied), "--out", str(tmp_path / "out")]) == 1
    assert f"the tokenizer of the run is damaged: {file.parent}: tokenizer.json has" in capsys.readouterr().err
    shutil.rmtree(file.parent)
    with pytest.raises(runs.CheckpointError, match=r"is missing, .* is missing.*start its training command again"):
        runs.tokenizer(copied, 4)
    assert start(copied, cache) == 0 and file.read_bytes() == content
    assert runs.tokenizer(copied, 4) == runs.tokenizer(copied, 2) == str(file.parent)


def test_a_run_of_an_earlier_version_takes_its_tokenizer_as_it_is(copied):
    step = copied / "checkpoints" / "4"
    record = json.loads((step / "run" / "metadata").read_text())
    del record["tokenizer_files"]
    (step / "run" / "metadata").write_text(json.dumps(record))
    runs.SEAL.write(step)
    (copied / "tokenizer" / "tokenizer.json").write_text("{}")
    assert runs.tokenizer(copied, 4) == str(copied / "tokenizer")
    shutil.rmtree(copied / "tokenizer")
    assert runs.tokenizer(copied, 4) == record["tokenizer"]


def test_two_damages_of_one_step_are_both_set_aside(trained, copied):
    for _ in range(2):
        shutil.copytree(trained[0] / "checkpoints" / "4", copied / "checkpoints" / "4", dirs_exist_ok=True)
        flip(copied, 1)
        assert Checkpoints(copied).begin() == 2
    assert sorted(path.name for path in (copied / "damaged").iterdir()) == ["4", "4-2"]


def test_a_manifest_names_sizes_and_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"12")
    runs.SEAL.write(tmp_path)
    assert runs.SEAL.damage(tmp_path) == ""
    (tmp_path / "a").write_bytes(b"123")
    assert runs.SEAL.damage(tmp_path) == "a has 3 bytes instead of 2"
    (tmp_path / "a").write_bytes(b"13")
    assert runs.SEAL.damage(tmp_path) == "a has other bytes than were written"
