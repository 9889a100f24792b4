"""Whole runs with adapters: what their checkpoints hold, how they go on, and what reads them afterwards."""

import contextlib
import json
from pathlib import Path
import shutil

import jax
import numpy as np
import pytest

from jaxalign import evaluate, export, paths, sharding, train
from jaxalign.config import build
from jaxalign.config.command_line import from_command_line
from jaxalign.hf import load
from jaxalign.models import lora, merge
from jaxalign.models import model as models
from jaxalign.training import bases, sources

OPTIMIZED = True
HERE = Path(__file__).parents[1]
LORA = "--config.model.lora={'rank': 4, 'alpha': 8.0, 'targets': ('attention.*', 'down')}"


def arguments(workdir, base, *overrides):
    where = [f"--config.model.checkpoint={base}", f"--config.data.prepared_dir={workdir.parent / 'prepared'}"]
    return ["--config", str(HERE / "tiny.py"), "--workdir", str(workdir), *where, LORA, *overrides]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(paths.resolve("package:stories260k"), folder)
    return folder


@pytest.fixture(scope="module")
def run(base):
    workdir = base.parent / "run"
    assert train.main(arguments(workdir, base)) == 0
    return workdir


@contextlib.contextmanager
def other_weights(folder):
    """The last numbers of its weights are zeros for a while."""
    file = folder / "model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-64] + bytes(64))
    try:
        yield
    finally:
        file.write_bytes(kept)


def restored(workdir, step=None):
    with jax.set_mesh(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])):
        model, params, record = sources.restore_params(workdir, step)
        return model, jax.device_get(params), record


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained_and_the_hash_of_the_base(run):
    folder = run / "checkpoints" / "10"
    held = sum(file.stat().st_size for file in (folder / "trainable").rglob("*") if file.is_file())
    model, params, record = restored(run)
    trained = sum(leaf.nbytes for leaf in jax.tree.leaves(params[models.LORA]))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"trainable", "rest", "run"}
    # Parts are compressed, and the store adds some tens of KiB of its own, which differ from run to run.
    assert trained / 2 < held < trained + 2**18 < sum(leaf.nbytes for leaf in jax.tree.leaves(lora.off(params)))
    assert record["weights"] and record["base_dtype"] == model.base_dtype == "float32"


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit_on_its_own_base_only(run, base, tmp_path, capsys):
    again = run.parent / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "10")
    with other_weights(base):
        assert train.main(arguments(again, base)) == 1
        assert "started from other weights" in capsys.readouterr().err
        assert evaluate.main(["--workdir", str(run), "--out", str(tmp_path / "numbers.json")]) == 1
        assert "adapters fit the base that they were trained on alone" in capsys.readouterr().err
    assert train.main(arguments(again, tmp_path / "nowhere")) == 1
    assert train.main(arguments(again, base)) == 0
    assert "continues at step 5" in capsys.readouterr().err
    for ours, theirs in zip(jax.tree.leaves(restored(again)[1]), jax.tree.leaves(restored(run)[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_an_export_is_merged_and_evaluates_as_the_run_does(run, base, tmp_path):
    assert export.main(["--workdir", str(run), "--out", str(tmp_path / "merged")]) == 0
    with jax.set_mesh(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])):
        model, params, _ = sources.restore_params(run)
        plain, whole = merge.merged(model, params)
        written = load.load(tmp_path / "merged", plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), written, whole)
        assert export.main(["--workdir", str(run), "--out", str(tmp_path / "adapter"), "--adapter"]) == 0
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == str(base.resolve())
        of_adapter = sources.Source(str(tmp_path / "adapter"))
        assert of_adapter.identity() and of_adapter.tokenizer() == of_adapter.name
        jax.tree.map(np.testing.assert_array_equal, of_adapter.load(plain), whole)
        as_a_source = sources.Source(str(run)).load(plain)
        jax.tree.map(np.testing.assert_array_equal, as_a_source, whole)
    assert evaluate.main(["--workdir", str(run), "--out", str(tmp_path / "numbers.json")]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["start"]["loss"]["value"] == pytest.approx(np.log(2), rel=1e-6)
    assert numbers["checkpoint"]["kl"]["value"] == pytest.approx(last["kl"], rel=1e-5) and last["kl"] > 0.01


@pytest.mark.slow
def test_the_adapters_of_a_folder_begin_as_they_are_and_others_than_the_section_describes_are_refused(run, base, tmp_path, capsys):
    folder = tmp_path / "adapter"
    assert export.main(["--workdir", str(run), "--out", str(folder), "--adapter"]) == 0
    asked = from_command_line(arguments(tmp_path / "run", folder, "--config.model.lora.start=checkpoint"), "", train.FLAGS)
    with jax.set_mesh(sharding.make_mesh(fsdp=1, devices=jax.devices()[:1])):
        started = jax.device_get(build.params(asked.stages[""], build.model(asked.stages[""])))
    jax.tree.map(np.testing.assert_array_equal, started, restored(run)[1])

    def message(*overrides, checkpoint=folder):
        capsys.readouterr()
        assert train.main([*arguments(tmp_path / "refused", checkpoint), "--config.model.lora.start=checkpoint", *overrides]) == 1
        return capsys.readouterr().err

    assert "model.lora.rank=8, and theirs is 4; model.lora.alpha=16.0, and theirs is 8.0" in message(
        "--config.model.lora.rank=8", "--config.model.lora.alpha=16.0"
    )
    assert "model.lora.targets=('q',) are attention.q, and theirs are attention.k," in message("--config.model.lora.targets=('q',)")
    assert f"model.checkpoint='{base}' on, and it has none" in message(checkpoint=base)
    with other_weights(base):
        assert "was trained on weights with content" in message()


def test_a_base_that_is_gone_or_another_is_refused():
    run = {"weights": "abc", "config": {"model": {"checkpoint": "base"}, "seed": 0}}
    bases.check(run, "abc", "runs/x")
    with pytest.raises(ValueError, match="with content abc, and the content there is gone: adapters fit the base"):
        bases.check(run, None, "runs/x")
    with pytest.raises(ValueError, match="the content there is xyz"):
        bases.check(run, "xyz", "runs/x")
