"""The self-check passes on a sound run, and finds each of the faults that are planted here."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxalign import selfcheck, sharding
from jaxalign.checking import cheap, verdicts
from jaxalign.config import build, checked, selfchecks
from jaxalign.config.files import load_file, override
from jaxalign.config.resolve import resolve
from jaxalign.models.attention import cached
from jaxalign.training import forward, reference, step

TINY = str(Path(__file__).parents[1] / "tiny.py")


def config(folder, *settings):
    cfg = load_file(TINY)
    override(cfg, [f"--config.{setting}" for setting in ("data.eval=None", f"data.prepared_dir={folder}", *settings)])
    return resolve(cfg)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(autouse=True, scope="module")
def one_device():
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def case(folder):
    return selfchecks.case(config(folder))


@pytest.fixture(scope="module")
def subject(case):
    return selfchecks.subject(case, build.params(case.cfg, case.model))


def named(found, name):
    return next(one for one in found if one.name == name)


def with_groups(case, **changes):
    prepared = dataclasses.replace(case.prepared, groups=dataclasses.replace(case.prepared.groups, **changes))
    return dataclasses.replace(case, sets=dataclasses.replace(case.sets, train=[prepared]))


def of_texts(case):
    return list(selfchecks._of_texts(case))


def test_sound_texts_pass(case):
    assert [one.result for one in of_texts(case)] == [verdicts.PASSED] * 2


def test_a_second_stop_token_is_found(case):
    groups = case.prepared.groups
    stop, tokens = build.renderer(case.cfg).stop_id, np.array(groups.tokens)
    end = int(groups.offsets[int(case.groups[0]) * 3 + 2])  # of the first response
    assert tokens[end - 1] == stop
    tokens[end - 2] = stop
    found = named(of_texts(with_groups(case, tokens=tokens)), "responses end once")
    assert found.result == verdicts.FAILED and "1 have two" in found.found and "template" in found.cause


@pytest.mark.parametrize("shift", [1, 2])
def test_a_mask_that_is_shifted_is_found(case, shift):
    groups = case.prepared.groups
    *_, last = verdicts.failed(of_texts(with_groups(case, scored=np.roll(groups.scored, shift))))
    assert "mask" in last.cause


def test_a_large_weight_that_a_rule_leaves_whole_is_found(case, monkeypatch):
    def found():
        with jax.set_mesh(sharding.make_mesh(fsdp=4, devices=jax.devices()[:4])):
            return cheap.layout(build.abstract_params(case.model), "parameters", sharding.mesh_shape())

    assert found().result == verdicts.PASSED
    monkeypatch.setitem(sharding.RULES, "mlp", ("fsdp",))
    monkeypatch.setitem(sharding.RULES, "embed", ())
    whole = found()
    assert whole.result == verdicts.FAILED and "whole on every device" in whole.found


def test_a_forward_pass_with_dropout_is_found(case, monkeypatch):
    plain = forward.next_token

    def dropped(model, params, batch, step, **options):
        outputs = plain(model, params, batch, step, **options)
        kept = jax.random.bernoulli(jax.random.fold_in(jax.random.key(0), step), 0.9, outputs.logps.shape)
        return outputs.replace(logps=outputs.logps * kept)

    monkeypatch.setitem(forward.FORWARDS, "next_token", dropped)
    found = cheap.repeats(selfchecks.subject(case, build.params(case.cfg, case.model)), case.arrays, noisy=False)
    assert found.result == verdicts.FAILED and "dropout" in found.cause


def test_a_reference_table_of_another_model_is_found(subject, case):
    def found(apart):
        arrays = {**case.arrays, "columns": {reference.COLUMN: subject.logps(case.arrays) + apart}}
        return cheap.start(subject, arrays, holds="logps", separate=False, recorded=True)

    assert found(0.0).result == verdicts.PASSED
    stale = found(0.1)
    assert stale.result == verdicts.FAILED and "another model" in stale.cause


def test_a_reference_that_is_not_the_start_is_found(subject, case):
    other = jax.tree.map(lambda x: x * 1.1, subject.state.reference)
    moved = dataclasses.replace(subject, state=subject.state.replace(reference=other))
    assert cheap.start(subject, case.arrays, holds="weights", separate=False, recorded=False).result == verdicts.PASSED
    assert cheap.start(moved, case.arrays, holds="weights", separate=False, recorded=False).result == verdicts.FAILED


@pytest.mark.slow
def test_means_of_means_are_found(case, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "_weighted_sum", lambda value, weight: (value.sum() / weight.sum(), weight.sum() / weight.sum()))
    found = next(one for one in selfchecks.costly_half(case, tmp_path) if "microbatches" in one.name)
    assert found.result == verdicts.FAILED and "added up" in found.cause


@pytest.mark.slow
def test_a_reference_that_is_the_policy_itself_is_found(case, monkeypatch, tmp_path):
    rule = dataclasses.replace(reference.RULES["frozen"], move=lambda reference, trainable, step: trainable)
    monkeypatch.setitem(reference.RULES, "frozen", rule)
    found = named(selfchecks._whole_steps(case, tmp_path), "a step trains the policy alone")
    assert found.result == verdicts.FAILED and "policy itself" in found.cause


@pytest.mark.slow
def test_a_sampler_one_position_off_is_found(case, subject, monkeypatch):
    plain = cached.Cache.positions
    monkeypatch.setattr(cached.Cache, "positions", lambda self: plain(self) + 1)
    found = selfchecks._sampler(case, subject)
    assert found.result == verdicts.FAILED and "positions" in found.cause


@pytest.mark.slow
def test_a_sound_run_passes_every_check(folder, capsys):
    arguments = ["--config", TINY, "--config.data.eval=None", f"--config.data.prepared_dir={folder}", "--config.model.dtype=bfloat16"]
    assert selfcheck.main([*arguments, "--config.mesh.fsdp=4", "--config.mesh.tensor=2"]) == 0  # the tests' eight devices
    shown = capsys.readouterr().out
    assert "0 of 18 checks failed" in shown and "pass  mesh = one device" in shown and "skip" not in shown


def test_what_has_no_rows_is_refused(folder):
    with pytest.raises(ValueError, match="data.train is None"):
        cfg = config(folder)
        cfg.data.train = None
        selfchecks.case(cfg)


def test_a_run_asked_to_check_itself_first_stops_where_a_check_fails(case, monkeypatch, capsys, tmp_path):
    bad = verdicts.verdict("forward pass repeats itself", False, "difference 1", "dropout or other noise is left on")
    monkeypatch.setattr(selfchecks, "case", lambda cfg: case)
    monkeypatch.setattr(selfchecks, "cheap_half", lambda one: iter([bad]))
    checked.first({"": case.cfg}, None, workdir=tmp_path)
    with pytest.raises(ValueError, match="the self-check failed: forward pass repeats itself"):
        checked.first({"": case.cfg}, "cheap", workdir=tmp_path)
    assert "likely cause: dropout" in capsys.readouterr().err
