"""Columns that models give the data: what they hold, that they are kept and checked, and that a run with them is the run without."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import toys

from jaxalign import annotate, train
from jaxalign.config import build, command_line
from jaxalign.config.computed import with_columns
from jaxalign.config.prepared import Sets, prepared_sets
from jaxalign.config.resolve import ConfigError
from jaxalign.data.rows import columns, loader

OPTIMIZED = ONE_DEVICE = True
TINY = str(Path(__file__).parent / "tiny.py")
SETTINGS = ("train.total_steps=4", "train.save_every_steps=4", "train.log_every_steps=1", "data.eval=None")
FOUR_STEPS = tuple(f"--config.{setting}" for setting in SETTINGS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def resolved(cache, *overrides, objective="dpo"):
    arguments = ["--config", f"{TINY}:{objective}", f"--config.data.prepared_dir={cache}", "--config.data.eval=None", *overrides]
    return command_line.from_command_line(arguments, "test").stages[""]


def run(workdir, cache, *overrides, objective="dpo"):
    arguments = ["--config", f"{TINY}:{objective}", "--workdir", str(workdir), f"--config.data.prepared_dir={cache}"]
    usual = [setting for setting in FOUR_STEPS if setting.partition("=")[0] not in {text.partition("=")[0] for text in overrides}]
    assert train.main([*arguments, *usual, *overrides]) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["split"] == "train"]


def opened(cfg):
    return prepared_sets(cfg, tell=lambda _: None)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, cache):
    """(workdir, losses) of a run of KTO, which reads log-probs of mismatched responses too."""
    workdir = tmp_path_factory.mktemp("frozen")
    return workdir, run(workdir, cache, objective="kto")


@pytest.mark.slow
def test_a_run_on_precomputed_log_probs_is_the_run_with_a_frozen_reference(tmp_path, cache, frozen):
    column = run(tmp_path / "column", cache, "--config.reference.rule=precomputed", objective="kto")
    np.testing.assert_allclose(column, frozen[1], rtol=1e-5)
    saved = {path.name for path in (tmp_path / "column" / "checkpoints" / "4" / "rest").iterdir()}
    assert saved and not any("reference" in name for name in saved)  # the reference's weights are nowhere


@pytest.mark.slow
def test_a_run_with_a_table_of_log_probs_is_the_run_with_a_moving_reference(tmp_path, cache):
    every = "--config.reference.every_steps=3"
    moving = run(tmp_path / "moving", cache, "--config.reference.rule=hard", every)
    table = run(tmp_path / "table", cache, "--config.reference.rule=hard_table", every)
    np.testing.assert_allclose(table, moving, rtol=1e-5)


def test_a_table_of_log_probs_needs_a_column_for_held_out_rows_only(cache):
    cfg = resolved(cache, "--config.reference.rule=hard_table", "--config.reference.every_steps=3")
    with jax.set_mesh(build.mesh(cfg)):
        (prepared,) = opened(cfg).train
        sets = with_columns(cfg, Sets([prepared], {"a": prepared}), quiet=True)
    assert not sets.train[0].groups.columns and set(sets.held_out["a"].groups.columns) == {"reference_logps"}


def scored(cfg, name, spec):
    with jax.set_mesh(build.mesh(cfg)):
        cfg.data.computed = {name: {"kind": None, "model": None, "reference": None, "beta": 0.1, "rewards": ("reward",), **spec}}
        (prepared,) = with_columns(cfg, opened(cfg), quiet=True).train
    return prepared


def shipped(tmp_path, *, scale=1.01):
    """A copy of the shipped model with slightly other weights."""
    from jaxalign.hf import load, save
    from jaxalign.models import model as models

    folder = Path(train.__file__).parent / "assets" / "stories260k"
    with jax.set_mesh(toys.mesh()):
        built = models.build(load.load_config(folder))
        other = jax.tree.map(lambda x: x * scale, load.load(folder, built))
        save.save(tmp_path / "other", built, other, tokenizer_from=folder)
    return str(tmp_path / "other")


def test_a_model_that_says_no_numbers_is_refused(tmp_path, cache):
    with pytest.raises(ValueError, match="numbers that are not finite: these weights are damaged"):
        scored(resolved(cache), "seen", {"kind": "logps", "model": shipped(tmp_path, scale=np.nan)})


def test_an_implicit_reward_is_beta_times_the_log_ratio_of_whole_responses(tmp_path, cache):
    cfg, other = resolved(cache), shipped(tmp_path)
    spec = {"kind": "implicit_reward", "model": other, "reference": "package:stories260k", "beta": 0.25}
    margin = scored(cfg, "margin", spec).groups.columns["margin"]
    by_token = [scored(cfg, "logps", {"kind": "logps", "model": name}).groups for name in (other, "package:stories260k")]
    groups = by_token[0]
    for group in range(0, len(groups), 7):
        for k in range(2):
            at = group * 3 + 1 + k
            span = slice(groups.offsets[at], groups.offsets[at + 1])
            gap = sum(sign * part.columns["logps"][span].sum(dtype=np.float64) for sign, part in zip((1, -1), by_token, strict=True))
            np.testing.assert_allclose(margin[group, k], 0.25 * gap, rtol=1e-4, atol=1e-4)
    assert np.abs(margin).max() > 0.05


@pytest.mark.slow
def test_token_log_probs_stand_beside_their_tokens(cache):
    cfg = resolved(cache)
    prepared = scored(cfg, "seen", {"kind": "logps", "model": "package:stories260k"})
    with jax.set_mesh(build.mesh(cfg)):
        model = build.model(cfg)
        params, functions = build.params(cfg, model), toys.forward.next_token
        for arrays in loader.eval_batches(prepared, rows=8):
            expected = functions(model, params, loader.to_device(arrays), 0, dtype=np.float32, remat="none", attention="xla").logps
            np.testing.assert_allclose(arrays["columns"]["seen"], expected, rtol=1e-4, atol=1e-4)


def folders(prepared):
    return sorted(path.name for path in (prepared.folder.parent / "columns").iterdir() if not path.name.endswith(".lock"))


def test_a_column_is_made_once_and_again_for_other_weights(tmp_path, cache):
    cfg, spec = resolved(cache), {"kind": "logps", "model": "package:stories260k"}
    before = folders(first := scored(cfg, "kept", spec))
    path = columns_of(first, "kept")
    written = path.stat().st_mtime_ns
    scored(cfg, "kept", spec)
    assert folders(first) == before and path.stat().st_mtime_ns == written
    scored(cfg, "kept", {**spec, "model": shipped(tmp_path)})
    assert len(folders(first)) == len(before) + 1


def columns_of(prepared, name):
    (folder,) = [path for path in (prepared.folder.parent / "columns").iterdir() if path.name.startswith(f"{name}-")]
    return folder


def test_a_column_that_does_not_agree_with_its_model_is_refused(cache):
    cfg, spec = resolved(cache), {"kind": "logps", "model": "package:stories260k"}
    path = columns_of(scored(cfg, "stale", spec), "stale")
    values = columns.read(path)
    columns.write(path, {"stale": values["stale"] - 0.5}, meta={})
    with pytest.raises(ValueError, match=r"does not agree with the model.*differ by 0\.\d+.*Delete the folder"):
        scored(cfg, "stale", spec)


def test_a_damaged_column_is_named_and_computed_again(cache, caplog):
    cfg, spec = resolved(cache), {"kind": "logps", "model": "package:stories260k"}
    path = columns_of(scored(cfg, "flipped", spec), "flipped")
    values, content = columns.read(path)["flipped"], bytearray((path / "flipped.npy").read_bytes())
    content[-1] ^= 64
    (path / "flipped.npy").write_bytes(content)
    again = scored(cfg, "flipped", spec)
    assert f"{path} is damaged: flipped.npy has other bytes than were written; it is made again" in caplog.text
    np.testing.assert_array_equal(again.groups.columns["flipped"], values)


def test_the_command_writes_the_columns_and_says_what_they_hold(tmp_path, cache, capsys):
    arguments = ["--config", f"{TINY}:dpo", f"--config.data.prepared_dir={cache}", "--config.reference.rule=precomputed"]
    assert annotate.main([*arguments, "--workdir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("reference_logps") == 2  # of the training and of the held-out rows
    assert "mean -" in printed


@pytest.mark.parametrize("flag", [["--column", "x"], ["--margin", "0"], ["--limit", "0"], ["--pairs"]])
def test_a_flag_that_columns_of_a_config_do_not_read_is_refused(flag, capsys):
    assert annotate.main(["--config", TINY, *flag]) == 1
    assert f"{flag[0]} has no effect with --config" in capsys.readouterr().err


@pytest.mark.slow
def test_an_advantage_without_its_reward_column_or_head_is_refused(cache, frozen):
    with pytest.raises(ValueError, match="is a run without a value head"):
        scored(resolved(cache), "advantage", {"kind": "advantage", "model": str(frozen[0])})


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"kind": "logps"}, "data.computed.x.model is missing"),
        ({"kind": "implicit_reward", "model": "a"}, "data.computed.x.reference is missing"),
        ({"kind": "guess", "model": "a"}, "data.computed.x.kind='guess' is not one of"),
        ("a", "data.computed.x='a' is not a column"),
        ({"kind": "logps", "model": "a", "beta": 0.2}, "data.computed.x.beta=0.2 has no effect on kind='logps'"),
        ({"kind": "advantage", "model": "a", "reference": "b"}, "data.computed.x.reference='b' has no effect on kind='advantage'"),
    ],
)
def test_a_wrong_column_is_reported_before_anything_is_loaded(cache, column, words):
    with pytest.raises(ConfigError, match=words):
        resolved(cache, f"--config.data.computed={{'x': {column!r}}}")


def test_columns_that_are_none_are_reported(cache):
    with pytest.raises(ConfigError, match="data.computed=3 is int, not dict"):
        resolved(cache, "--config.data.computed=3")


@pytest.mark.slow
def test_an_advantage_may_sum_a_column_whose_name_comes_later_and_is_made_again_with_it(tmp_path, cache):
    model = shipped(tmp_path)
    style = {"kind": "implicit_reward", "model": model, "reference": "package:stories260k", "beta": 1e-6}
    summed = (f"--config.data.computed={{'style': {style!r}}}", "--config.objective.rewards=('reward','style')")
    value = ("--config.model.value_head=1.0", "--config.model.trainable=value_head", "--config.train.export=True")
    run(tmp_path / "value", cache, *value, *summed, objective="value")
    assert (tmp_path / "value" / "export" / "config.json").exists()  # of the decoder, which was not trained
    cfg = resolved(cache)
    given = {"kind": None, "model": None, "reference": None, "beta": 0.1, "rewards": ("reward",)}
    with pytest.raises(ValueError, match=r"learned \('reward', 'style'\).*sum the same on both sides"):
        scored(cfg, "advantage", {"kind": "advantage", "model": str(tmp_path / "value")})
    names = []
    for beta in (0.1, 0.3):
        style = {**given, "kind": "implicit_reward", "model": model, "reference": "package:stories260k", "beta": beta}
        advantage = {**given, "kind": "advantage", "model": str(tmp_path / "value"), "rewards": ("reward", "style")}
        cfg.data.computed = {"advantage": advantage, "style": style}
        with jax.set_mesh(build.mesh(cfg)):
            (prepared,) = with_columns(cfg, opened(cfg), quiet=True).train
            (again,) = with_columns(cfg, opened(cfg), quiet=True).train  # from the disk
        np.testing.assert_array_equal(again.groups.columns["advantage"], prepared.groups.columns["advantage"])
        found = prepared.groups
        values = found.reward + found.columns["style"] - found.columns["advantage"]
        assert ((values > 0) & (values < 1)).all()
        names += [name for name in prepared.meta["columns"] if name.startswith("advantage")]
    assert len(set(names)) == 2
