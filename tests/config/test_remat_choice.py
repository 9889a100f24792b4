"""model.remat "auto": what a run and a plan take, by the memory of a device."""

import dataclasses

import jax
from ml_collections import ConfigDict
import pytest

from jaxalign import sharding
from jaxalign.config import build, planning, remat
from jaxalign.config.resolve import resolve
from jaxalign.planning import topology

SECTIONS = dict(
    model=dict(preset="tiny", tokenizer="none"),
    data=dict(train=dict(path="none.jsonl"), row_tokens=512),
    batch=dict(rows=16),
    objective=dict(name="dpo"),
    optimizer=dict(learning_rate=1e-3),
    train=dict(total_steps=20),
)


def resolved(**model):
    return resolve(ConfigDict({**SECTIONS, "model": {**SECTIONS["model"], **model}}))


def job(memory: float, **model):
    """On one device with so many bytes of memory."""
    one = topology.parse("local:1")
    one = dataclasses.replace(one, chip=dataclasses.replace(one.chip, memory_bytes=memory))
    return planning.job(resolved(**model), one, name="test", preset=None, price=None)


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


def test_a_run_takes_what_the_plan_of_its_devices_takes(needed, monkeypatch):
    here = job(needed["attention"] / planning.ROOM * 1.001).topology
    monkeypatch.setattr(remat, "devices_here", lambda: here)
    cfg = resolved()
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        why = remat.settle(cfg, build.model(cfg))
    assert cfg.model.remat == "attention" and why.startswith("model.remat=attention is chosen: ") and "GiB per device" in why


def test_a_small_step_is_not_traced_to_choose(monkeypatch):
    monkeypatch.setattr(planning, "quick", lambda _: pytest.fail("the step is traced"))
    cfg = resolved()
    with jax.set_mesh(sharding.make_mesh(fsdp=8)):
        assert remat.settle(cfg, build.model(cfg)) == "model.remat=dots is chosen: all that it keeps fits"


def test_the_generous_sum_is_above_what_a_step_needs_without_remat(needed):
    cfg = resolved()
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        generous = remat.generous_bytes(cfg, build.model(cfg))
    assert generous > planning.quick(job(1e12, remat="none"))["total_gib"] * 2**30 > needed["dots"] > needed["attention"] > needed["full"]


def test_nothing_is_settled_where_the_user_names_a_policy():
    cfg = resolved(remat="attention")
    assert remat.settle(cfg, None) is None and cfg.model.remat == build.remat(cfg) == "attention"


def test_the_devices_here_share_the_memory_of_the_machine():
    here = remat.devices_here()
    assert here.platform == "cpu" and here.devices == jax.device_count()
    assert 2**28 < here.memory_bytes * jax.local_device_count() < 2**46
