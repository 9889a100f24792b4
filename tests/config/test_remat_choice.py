"""model.remat "auto": what a run and a plan take, by the memory of a device."""

import dataclasses
import types

import jax
import pytest

from jaxalign import chips, sharding
from jaxalign.config import build, planning, remat
from jaxalign.config.resolve import resolve
from jaxalign.models import model as models
from jaxalign.planning import topology
from tests import plans


def sections(**model):
    return dict(model=dict(preset="tiny", tokenizer="none", **model), data=dict(train=dict(path="none.jsonl"), row_tokens=512))


def resolved(**model):
    return resolve(plans.config(**sections(**model)))


def job(memory: float, **model):
    """On one device with so many bytes of memory."""
    one = topology.parse("local:1")
    return plans.job(dataclasses.replace(one, chip=dataclasses.replace(one.chip, memory_bytes=memory)), **sections(**model))


@pytest.fixture(scope="module", autouse=True)
def traces():
    """Each policy is traced once: a step on shapes does not depend on the memory of its device."""
    kept, trace = {}, planning.trace

    def once(one):
        policy = one.cfg.model.remat
        if policy not in kept:
            kept[policy] = trace(one)
        return kept[policy]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "trace", once)
        yield


@pytest.fixture(scope="module")
def needed(traces):
    """Bytes of a step by policy, as a plan estimates them."""
    return {name: planning.quick(job(1e12, remat=name))["total_gib"] * 2**30 for name in planning.REMATS}


@pytest.mark.parametrize(("tight", "otherwise"), [("dots", "attention"), ("attention", "full"), ("full", "full")])
def test_a_plan_takes_the_fastest_policy_that_leaves_a_tenth_of_the_memory(needed, tight, otherwise):
    for factor, chosen in ((1.001, tight), (0.999, otherwise)):
        assert planning.quick(job(needed[tight] / planning.ROOM * factor))["remat"] == chosen


def test_a_policy_that_is_named_is_taken_even_where_it_does_not_fit(needed):
    plan = planning.quick(job(needed["full"], remat="dots"))
    assert plan["remat"] == "dots" and not plan["fits"]


@pytest.fixture
def here(monkeypatch):
    """Gives the devices of the run so much memory."""

    def give(memory):
        monkeypatch.setattr(remat, "_memory_bytes", lambda chip: memory)

    return give


def chosen(cfg, before=remat.NOTHING):
    with jax.set_mesh(sharding.make_mesh(fsdp=8)):
        remat.settle(cfg, build.model(cfg), before)
    return cfg.model.remat


def test_a_run_takes_what_the_plan_of_its_devices_takes(monkeypatch, here, capsys):
    planned = []
    plan = {"remat": "attention", "total_gib": 5.0, "capacity_gib": 6.0, "fits": True}
    monkeypatch.setattr(planning, "quick", lambda one: planned.append(one) or plan)
    here(1e6)
    assert chosen(resolved()) == "attention"
    assert planned[0].topology.memory_bytes == 1e6 and planned[0].topology.devices == 8
    assert "model.remat=attention is chosen: a step takes some 5 of 0.000931 GiB per device" in capsys.readouterr().err


def test_a_step_that_fits_in_no_way_is_told_and_runs(here, capsys):
    here(1e5)
    assert chosen(resolved()) == "full"
    assert "it may not fit: choose fewer or shorter rows" in capsys.readouterr().err


def test_an_estimate_that_fails_ends_no_run(monkeypatch, here, capsys):
    monkeypatch.setattr(planning, "quick", lambda one: {}["jax names it otherwise"])
    here(1e5)
    assert chosen(resolved()) == "full" and "cannot be estimated (KeyError: 'jax names it otherwise')" in capsys.readouterr().err


def test_a_small_step_is_not_traced_to_choose(monkeypatch, capsys):
    monkeypatch.setattr(planning, "quick", lambda _: pytest.fail("the step is traced"))
    assert chosen(resolved()) == "dots" and "model.remat=dots is chosen: all that it keeps fits" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["none", "attention"])
def test_a_run_that_goes_on_keeps_its_policy_and_says_so(policy, here, capsys):
    here(1e5)
    assert chosen(resolved(), {"config": {"model": {"remat": policy}}}) == policy
    assert f"model.remat={policy} is kept from the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("before", [{}, {"config": None}, {"config": {"model": {}}}, {"config": {"model": {"remat": "auto"}}}])
def test_a_checkpoint_that_records_no_policy_keeps_none(before):
    assert chosen(resolved(), before) == "dots"


def test_devices_of_which_nothing_is_known_take_the_most_frugal_policy(monkeypatch, capsys):
    def unknown():
        raise ValueError("'Nobody 1' is not in the table of chips")

    monkeypatch.setattr(remat, "devices_here", unknown)
    assert chosen(resolved()) == "full" and "'Nobody 1' is not in the table" in capsys.readouterr().err


def test_reward_models_of_rollouts_and_evaluations_take_their_share(here, capsys):
    cfg = resolved()
    cfg.data.rollout = dict(reward=dict(kind="sum", of=dict(one=("model:small", 1.0), other=("length", 1.0))))
    cfg.eval.generate = dict(rewards=dict(good=dict(kind="model", model="large"), again="model:small"), judge="judge:some@http://host")
    model = build.model(cfg)
    with jax.set_mesh(sharding.make_mesh(fsdp=8)):
        assert remat.beside_bytes(cfg, model) == 3 * 4 * sum(leaf.size for leaf in jax.tree.leaves(model.shapes)) / 8
    cfg.data.rollout = None
    here(1e5)
    assert chosen(cfg) == "full" and "beside reward models of" in capsys.readouterr().err


@pytest.mark.parametrize("depth", [1, 5])
def test_a_critic_of_another_depth_raises_the_estimate(depth):
    own = job(1e12, remat="dots")
    config = dataclasses.replace(own.model.config, layers=depth, windows=())
    deeper = dataclasses.replace(own, model=dataclasses.replace(own.model, critic_decoder=models.build(config)))
    assert planning._setting(deeper).depths == {own.model.config.layers, depth}
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        assert remat.generous_bytes(own.cfg, deeper.model) > remat.generous_bytes(own.cfg, own.model)


def test_the_generous_sum_is_above_what_a_step_needs_without_remat(needed):
    cfg = resolved()
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        generous = remat.generous_bytes(cfg, build.model(cfg))
    assert generous > planning.quick(job(1e12, remat="none"))["total_gib"] * 2**30 > needed["dots"] > needed["attention"] > needed["full"]


def test_nothing_is_settled_where_the_user_names_a_policy(capsys):
    cfg = resolved(remat="attention")
    remat.settle(cfg, None)
    assert cfg.model.remat == build.remat_of(cfg) == "attention" and not capsys.readouterr().err


def test_the_devices_here_share_the_memory_of_the_machine():
    here = remat.devices_here()
    assert here.platform == "cpu" and here.devices == jax.device_count()
    assert 2**28 < here.memory_bytes * jax.local_device_count() < 2**46


def test_a_card_that_tells_nothing_has_the_memory_of_its_kind(monkeypatch):
    silent = types.SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [silent])
    assert remat._memory_bytes(chips.named("h100")) == 80e9
