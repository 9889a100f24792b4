"""`python -m jaxalign.export` writes the parameters that the checkpoint module restores."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxalign
from jaxalign import checkpoint, export, sharding
from jaxalign.hf.load import load, load_config
from jaxalign.models import model as models

FOLDER = Path(jaxalign.__file__).parent / "assets" / "stories260k"


def test_export_writes_the_restored_step_with_its_tokenizer(tmp_path, monkeypatch, capsys):
    asked = {}

    def restore_params(workdir, step=None):
        asked.update(workdir=workdir, step=step)
        model = models.build(load_config(FOLDER))
        return model, load(FOLDER, model), str(FOLDER)

    monkeypatch.setattr(checkpoint, "restore_params", restore_params)
    export.main(["--workdir", "run", "--out", str(tmp_path / "out"), "--step", "30", "--dtype", "bfloat16"])
    assert asked == {"workdir": "run", "step": 30}
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()
    model = models.build(load_config(tmp_path / "out"))
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        ours, theirs = load(tmp_path / "out", model), load(FOLDER, model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), ours, theirs)


def test_export_refuses_an_unknown_dtype(capsys):
    with pytest.raises(SystemExit):
        export.main(["--workdir", "run", "--out", "out", "--dtype", "float16"])
    assert "invalid choice: 'float16'" in capsys.readouterr().err
