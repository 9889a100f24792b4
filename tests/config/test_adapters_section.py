"""The section model.lora where it trains adapters on: what it needs, and what a stage takes of an earlier one."""

from pathlib import Path

from ml_collections import ConfigDict
import pytest

from jaxalign.config.resolve import ConfigError
from jaxalign.config.stages import exported_stages, place_stages, resolve_stages


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
