"""A run as the model of another one; weights are told apart by content; exports know the checkpoint that they are of."""

import json
from pathlib import Path
import shutil

import checkpoints
import jax
import numpy as np
import pytest

import jaxalign
from jaxalign import train
from jaxalign.hf import tensors
from jaxalign.hf.load import load_config
from jaxalign.models import model as models
from jaxalign.reports import log
from jaxalign.training import exports, runs, sources
from jaxalign.training.sources import Source

OPTIMIZED = True
pytestmark = pytest.mark.slow  # whole runs
TINY = str(Path(__file__).parents[1] / "tiny.py")
STORIES = Path(jaxalign.__file__).parent / "assets" / "stories260k"
SETTINGS = ("train.total_steps=2", "train.save_every_steps=1", "train.eval_every_steps=1", "optimizer.learning_rate=1e-2")


def start(workdir, cache, *settings, objective="sft"):
    arguments = ["--config", f"{TINY}:{objective}", "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    return train.main([*arguments, *(f"--config.{setting}" for setting in (*SETTINGS, *settings))])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("runs") / "sft"
    assert start(workdir, cache) == 0
    return workdir


@pytest.fixture
def weights(tmp_path):
    """A copy of the shipped model in another folder."""
    return Path(shutil.copytree(STORIES, tmp_path / "moved"))


def test_a_run_is_a_model_at_its_newest_best_or_named_step(run):
    assert Source(str(run)).step == 2 and Source(f"{run}@1").step == 1
    losses = {line["step"]: line["loss"] for line in log.read_metrics(run, "eval") if line["step"]}
    assert Source(f"{run}@best").step == min(losses, key=losses.get)
    model = models.build(Source(str(run)).config())
    with jax.set_mesh(checkpoints.one_device()):
        ours, theirs = Source(f"{run}@1").load(model), sources.restore_params(run, 1)[1]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_text_is_written_as_the_run_was_trained_whatever_template_its_tokenizer_has(run, weights, monkeypatch):
    (weights / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}")
    monkeypatch.setattr(Source, "tokenizer", lambda self: str(weights))
    assert Source(str(weights)).renderer().template is not None
    assert runs.record(run, 2)["config"]["data"]["template"] == "plain"
    assert Source(str(run)).renderer().template is None
    assert Source(str(run)).renderer("auto").template is not None


@pytest.mark.slow
def test_training_starts_from_a_run_where_that_run_ended(run, cache, tmp_path):
    assert start(tmp_path, cache, f"model.checkpoint={run}") == 0
    ended, begun = log.read_metrics(run, "eval")[-1], log.read_metrics(tmp_path, "eval")[0]
    assert begun["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert Source(str(tmp_path)).tokenizer() == str(tmp_path / "tokenizer")


def test_a_run_of_stages_and_a_run_that_is_not_there_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "all" / "sft" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is a run of stages sft; name one of them, like .*all/sft"):
        Source(str(tmp_path / "all"))
    with pytest.raises(runs.CheckpointError, match="there is no run in"):
        Source(str(tmp_path / "nowhere")).restore()


def test_a_run_goes_on_with_the_same_weights_at_another_path(run, cache, weights, capsys):
    assert start(run, cache, f"model.checkpoint={weights}") == 0
    assert "continues at step 2" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_weights(run, cache, weights, capsys):
    file = weights / "model.safetensors"
    stored = tensors.scan(file)["model.norm.weight"]
    content = bytearray(file.read_bytes())
    content[stored.offset] ^= 1
    file.write_bytes(content)
    assert start(run, cache, f"model.checkpoint={weights}") == 1
    message = capsys.readouterr().err
    assert "a run that started from other weights" in message and "package:stories260k" in message and "delete" not in message
    assert runs.steps(run) == [1, 2]


def test_a_run_does_not_go_on_with_a_model_of_another_shape(run, cache, weights, capsys):
    values = json.loads((weights / "config.json").read_text())
    (weights / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 4}))
    assert start(run, cache, f"model.checkpoint={weights}") == 1
    message = capsys.readouterr().err
    assert "a run of another model (layers: 5 -> 4" in message and "delete" not in message


def test_weights_that_are_cut_short_are_found_before_any_data_is_tokenized(cache, weights, tmp_path, capsys):
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert start(tmp_path / "run", tmp_path / "empty", f"model.checkpoint={weights}", f"model.tokenizer={STORIES}") == 1
    assert "it was cut short" in capsys.readouterr().err and not (tmp_path / "empty").exists()


@pytest.mark.slow
def test_a_stale_export_is_moved_aside_and_written_anew(tmp_path, capsys):
    model = models.build(load_config(STORIES))
    with jax.set_mesh(checkpoints.one_device()):
        params = models.init(model, jax.random.key(0))
        shutil.copytree(STORIES, tmp_path / "tokenizer")

        def saved(content):
            (tmp_path / "checkpoints" / "2" / "run").mkdir(parents=True, exist_ok=True)
            (tmp_path / "checkpoints" / "2" / "x").write_text(content)
            record = {"tokenizer": str(tmp_path / "tokenizer"), "data": {"step": 2}}
            (tmp_path / "checkpoints" / "2" / runs.RECORD).write_text(json.dumps(record))
            runs.SEAL.write(tmp_path / "checkpoints" / "2")

        def refresh(dtype="float32"):
            exports.refresh(tmp_path / "export", model, params, workdir=tmp_path, step=2, dtype=dtype)
            return sorted(path.name for path in tmp_path.glob("export*"))

        saved("one")
        assert refresh() == ["export"]
        (tmp_path / "export" / "seen").touch()
        assert refresh() == ["export"] and (tmp_path / "export" / "seen").exists()
        saved("two")
        assert refresh() == ["export", "export-2"] and not (tmp_path / "export" / "seen").exists()
        assert "was moved to" in capsys.readouterr().err
        assert refresh("bfloat16") == ["export", "export-2", "export-3"]
        weights = tmp_path / "export" / "model.safetensors"
        content = weights.read_bytes()
        for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
            weights.write_bytes(damaged)
            with pytest.raises(ValueError, match="export is damaged: model.safetensors has"):
                exports.check(tmp_path / "export")
            refresh("bfloat16")
            assert weights.read_bytes() == content
            exports.check(tmp_path / "export")
        assert len(refresh("bfloat16")) == 5


def test_a_source_whose_export_is_damaged_is_refused_and_one_of_an_earlier_version_is_taken(weights):
    exports.SEAL.write(weights, {"step": 2})
    model = models.build(load_config(weights))
    (weights / "generation_config.json").write_text("{}")  # a person's own settings
    Source(str(weights)).check(model)
    content = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="model.safetensors has other bytes than were written; remove it and write it anew"):
        Source(str(weights)).load(model)
    (weights / "jaxalign.json").write_text(json.dumps({"step": 2, "checkpoint": "0", "dtype": "float32"}))
    Source(str(weights)).check(model)
