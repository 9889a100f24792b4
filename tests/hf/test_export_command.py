"""`python -m jaxalign.export` writes the parameters that the checkpoint module restores."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxalign
from jaxalign import export, sharding
from jaxalign.hf.load import load, load_config
from jaxalign.manifest import Manifest
from jaxalign.models import model as models
from jaxalign.training import runs, sources

FOLDER = Path(jaxalign.__file__).parent / "assets" / "stories260k"


@pytest.fixture
def restored(monkeypatch):
    """Stands in for a run with a checkpoint of step 30; what was asked of it."""
    asked = {}

    def restore_params(workdir, step=None):
        asked.update(workdir=workdir, step=step)
        model = models.build(load_config(FOLDER))
        return model, load(FOLDER, model), {"tokenizer": str(FOLDER)}

    monkeypatch.setattr(sources, "restore_params", restore_params)
    monkeypatch.setattr(runs, "chosen", lambda _, step: step)
    monkeypatch.setattr(runs, "tokenizer", lambda *_: str(FOLDER))
    monkeypatch.setattr(Manifest, "digest", lambda *_: "0123")
    return asked


def test_export_writes_the_restored_step_with_its_tokenizer(tmp_path, restored, capsys):
    export.main(["--workdir", "run", "--out", str(tmp_path / "out"), "--step", "30", "--dtype", "bfloat16"])
    assert restored == {"workdir": "run", "step": 30}
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    origin = json.loads((tmp_path / "out" / "jaxalign.json").read_text())
    assert {"run": "run", "step": 30, "checkpoint": "0123", "dtype": "bfloat16"}.items() <= origin.items()
    model = models.build(load_config(tmp_path / "out"))
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        ours, theirs = load(tmp_path / "out", model), load(FOLDER, model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), ours, theirs)


@pytest.mark.parametrize("flags", [[], ["--adapter"]])
def test_a_folder_that_is_there_is_refused_before_any_weight_is_read(tmp_path, restored, flags, capsys):
    assert export.main(["--workdir", "run", "--out", str(tmp_path), "--step", "30", *flags]) == 1
    assert f"{tmp_path} exists; choose another folder or remove it" in capsys.readouterr().err and not restored


def test_export_refuses_an_unknown_dtype(capsys):
    with pytest.raises(SystemExit):
        export.main(["--workdir", "run", "--out", "out", "--dtype", "float16"])
    assert "invalid choice: 'float16'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (runs.CheckpointError("no checkpoint here"), "CheckpointError: no checkpoint here"),
        (ValueError("wrong shape"), "ValueError: wrong shape"),
        (FileNotFoundError("no tokenizer"), "FileNotFoundError: no tokenizer"),
    ],
)
def test_export_says_what_is_wrong_without_a_traceback(tmp_path, restored, monkeypatch, capsys, error, words):
    def restore_params(workdir, step=None):
        raise error

    monkeypatch.setattr(sources, "restore_params", restore_params)
    assert export.main(["--workdir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.strip().startswith(words)


def test_export_names_the_stages_of_a_run_that_has_some(tmp_path, capsys):
    for stage in ("sft", "dpo"):
        (tmp_path / stage / "checkpoints").mkdir(parents=True)
    assert export.main(["--workdir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path} is a run of stages dpo, sft; name one of them, like {tmp_path / 'sft'}" in capsys.readouterr().err


def test_export_of_a_folder_that_is_not_there_is_refused_in_one_line(tmp_path, capsys):
    assert export.main(["--workdir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert f"there is no run in {tmp_path / 'nowhere'}; give the folder of a run" in capsys.readouterr().err
