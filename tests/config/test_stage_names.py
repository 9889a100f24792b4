"""What is said of a stage that is named where it is not, and of a key that stands beside the stages."""

from pathlib import Path

from ml_collections import ConfigDict
import pytest
import tiny

from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import place_stages, resolve_stages
from jaxalign.scoring import rewards


def plain(**model):
    cfg = tiny.get_config()
    cfg.model.update(model)
    return cfg


def staged(**beside):
    return ConfigDict(dict(stages=("sft", "dpo"), sft=plain(), dpo=plain(checkpoint="stage:sft"), **beside))


def with_mirrors(*urls):
    cfg = staged()
    for stage, url in zip(("sft", "dpo"), urls, strict=True):
        cfg[stage].train.mirror = url
    return cfg


def with_column():
    cfg = plain()
    cfg.objective.name = "alol"
    cfg.data.computed = dict(advantage=dict(kind="advantage", model="stage:value"))
    return cfg


def with_reward(reward, stages=("sft", "dpo")):
    online = plain(checkpoint="stage:sft")
    online.data = ConfigDict(dict(rollout=dict(prompts="prompts.jsonl", samples=2, feedback="pairs", reward=reward)))
    online.train = ConfigDict(dict(total_steps=2))
    return ConfigDict(dict(stages=stages, **{name: online if name == "dpo" else plain() for name in stages}))


@pytest.mark.parametrize(
    "reward",
    ["model:stage:rm", dict(kind="model", model="stage:rm"), dict(kind="sum", of=dict(rm=("model:stage:rm", 1.0), size=("length", 0.1)))],
)
def test_a_reward_model_may_be_an_earlier_stage(reward):
    dpo = resolve_stages(with_reward(reward, stages=("sft", "rm", "dpo")))["dpo"]
    place_stages(dpo, Path("runs/x"))
    placed = dpo.data.rollout.to_dict()["reward"]
    assert "runs/x/rm" in str(placed) and "stage:" not in str(placed)
    assert rewards.parse(placed)["kind"] in ("model", "sum")


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (plain(checkpoint="stage:sft"), r"\nmodel.checkpoint='stage:sft' does not name an earlier stage; earlier ones: none\."),
        (with_column(), "\ndata.computed.advantage.model='stage:value' does not name an earlier stage; earlier ones: none"),
        (ConfigDict(dict(stages=("a", "b"), a=plain(), b=plain(checkpoint="stage:c"))), "b.model.checkpoint='stage:c' .* earlier ones: a"),
        (staged(objective=dict(beta=0.3)), r"objective: unknown key beside stages=.*did you mean sft.objective, dpo.objective\?"),
        (with_reward("model:stage:rm"), r"dpo.data.rollout.reward='stage:rm' does not name an earlier stage; earlier ones: sft"),
        (with_mirrors("s3://b/r", "s3://b/r/"), "dpo.train.mirror='s3://b/r' is that of sft too; .* like s3://b/r/dpo"),
        (staged(kto=plain()), r"kto: unknown key beside stages=\('sft', 'dpo'\).*it is no stage of these"),
    ],
)
def test_what_stages_cannot_have_of_each_other_is_refused_with_the_way_out(cfg, words):
    with pytest.raises(ConfigError, match=words):
        resolve_stages(cfg)


def test_stages_may_have_copies_in_places_of_their_own():
    assert len(resolve_stages(with_mirrors("s3://b/r/sft", "s3://b/r/dpo"))) == 2
