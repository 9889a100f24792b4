"""The section model.lora where it trains adapters on: what it needs, and what a stage takes of an earlier one."""

from pathlib import Path
from types import SimpleNamespace

from ml_collections import ConfigDict
import pytest

from jaxalign.config import adapters
from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import exported_stages, place_stages, resolve_stages
from jaxalign.models.lora import LoraConfig


def two_stages(start="checkpoint", first=None, **second):
    """Two stages with adapters, the second of which starts from the first."""
    lora = dict(rank=4, alpha=8.0)

    def stage(checkpoint, section, objective):
        model = dict(checkpoint=checkpoint, lora=section)
        rows = dict(train=dict(path="rows.jsonl", format="paired"), template="plain", row_tokens=64)
        steps = dict(optimizer=dict(learning_rate=1e-3), train=dict(total_steps=1), batch=dict(rows=1))
        return dict(model=model, data=rows, objective=dict(name=objective), **steps)

    sft = stage("base", lora if first is None else first or None, "sft")
    sft["data"]["train"]["responses"] = "chosen"
    dpo = stage("stage:sft", {**lora, "start": start, **second}, "dpo")
    return resolve_stages(ConfigDict(dict(stages=("sft", "dpo"), sft=sft, dpo=dpo)))


@pytest.mark.parametrize(("start", "exported", "place"), [("checkpoint", set(), "run/sft"), ("fresh", {"sft"}, "run/sft/export")])
def test_a_stage_that_trains_adapters_on_takes_the_run_and_another_its_merged_export(start, exported, place):
    stages = two_stages(start)
    assert exported_stages(stages) == exported
    place_stages(stages["dpo"], Path("run"))
    assert stages["dpo"].model.checkpoint == place


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(rank=8), "dpo.model.lora.start='checkpoint' trains the adapters of 'stage:sft' on, whose rank is 4 and not 8"),
        (dict(targets=("q",)), r"whose targets is \('\*',\) and not \('q',\); set the same in both"),
        (dict(base_dtype="nf4"), "whose base_dtype is 'auto' and not 'nf4': adapters make up for what the codes of their base have lost"),
        (dict(first={}), "which trains no adapters; give it a section model.lora too"),
    ],
)
def test_adapters_that_an_earlier_stage_will_not_leave_are_refused_before_it_is_trained(changes, words):
    with pytest.raises(ConfigError, match=words):
        two_stages(**changes)


def test_adapters_to_train_on_must_be_named():
    stages = two_stages()
    alone = stages["dpo"].to_dict()
    alone["model"] |= {"checkpoint": None, "preset": "tiny"}
    with pytest.raises(ConfigError, match="model.lora.start='checkpoint' trains adapters on that are there already; name them with"):
        resolve_stages(ConfigDict(alone))


def test_a_soft_reference_is_refused_with_the_period_of_hard_that_lags_as_much():
    alone = two_stages()["dpo"].to_dict()
    alone["reference"] = dict(rule="soft", alpha=0.5, every_steps=1)
    with pytest.raises(ConfigError, match=r"rank grows with every move.*'hard', which is exact and lags .* a reference.every_\* 3 times"):
        resolve_stages(ConfigDict(dict(stages=("sft", "dpo"), sft=two_stages()["sft"].to_dict(), dpo=alone)))


def test_targets_that_adapt_nothing_are_refused():
    alone = two_stages()["dpo"].to_dict()
    alone["model"]["lora"]["targets"] = ()
    with pytest.raises(ConfigError, match=r"model.lora.targets=\(\) adapts no map; '\*' is all of them"):
        resolve_stages(ConfigDict(alone))
    with pytest.raises(ValueError, match=r"targets=\(\) adapt no map"):
        LoraConfig(4, 8.0, ())


@pytest.mark.parametrize(
    ("named", "before", "settled"),
    [
        ("runs/sft", None, "runs/sft@20"),
        ("runs/sft", "runs/sft@10", "runs/sft@10"),  # the run that is continued stands on that step, however far the other one went on
        ("runs/sft@15", "runs/sft@10", "runs/sft@15"),
        ("runs/other", "runs/sft@10", "runs/other@20"),
        ("folder", None, "folder"),
    ],
)
def test_a_run_below_adapters_is_named_with_its_step(monkeypatch, named, before, settled):
    def source(name):
        step = name.partition("@")[2] or "20"
        return SimpleNamespace(is_run=name.startswith("runs/"), with_step=f"{name.partition('@')[0]}@{step}")

    monkeypatch.setattr(adapters, "Source", source)
    cfg = ConfigDict(dict(model=dict(checkpoint=named, lora=dict(rank=4))))
    adapters.settle(cfg, before and {"config": {"model": {"checkpoint": before}}})
    assert cfg.model.checkpoint == settled
