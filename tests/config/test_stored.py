"""Configurations that runs stored: keys without effect, which earlier versions took, neither stop a continuation nor an evaluation."""

import json

from ml_collections import ConfigDict
import pytest
from test_config import good

from jaxalign.config import stored
from jaxalign.config.resolve import ConfigError, resolve
from jaxalign.config.resume import check_same_run

RATE = dict(learning_rate=1e-4)
STEPS = dict(total_steps=9)
COLUMNS = dict(m=dict(kind="implicit_reward", model="a", reference="b"))
MARGINS = dict(data=dict(train=dict(path="x"), computed=COLUMNS), objective=dict(name="modpo", margins=("m",)))


def of_earlier_version(config, **changes):
    """What a run stores of a configuration, as JSON, with keys (whole names) set to what is refused today."""
    plain = json.loads(json.dumps(resolve(config).to_dict()))
    for name, value in changes.items():
        *parents, key = name.split("__")
        node = plain
        for parent in parents:
            node = node[int(parent) if parent.isdigit() else parent]
        node[key] = value
    return plain


MIXTURE = dict(data=dict(train=(dict(path="x.jsonl", weight=2), dict(path="y")), eval=dict(a=dict(path="z"))))
ROLLOUT = dict(prompts="p.jsonl", samples=2, reward="length", feedback="pairs")
IDLE = [
    (good(data=dict(rollout=ROLLOUT)), dict(data__max_response_tokens=64), "data.max_response_tokens=64"),
    (good(), dict(data__train__weight=3.0), "data.train.weight=3.0"),
    (good(), dict(data__train__split="test", data__train__data_dir="/x"), "data.train.split='test'"),
    (good(**MIXTURE), dict(data__train__0__config="abc"), "data.train[0].config='abc'"),
    (good(**MIXTURE), dict(data__eval__a__weight=0.5), "data.eval.a.weight=0.5"),
    (good(optimizer=dict(RATE, schedule="constant")), dict(optimizer__min_lr_ratio=0.1), "optimizer.min_lr_ratio=0.1"),
    (good(), dict(train__extend_learning_rate=1e-5), "train.extend_learning_rate=1e-05"),
    (good(), dict(data__sampling_column="reward"), "data.sampling_column='reward'"),
    (good(**MARGINS), dict(data__computed__m__rewards=["reward", "m"]), "data.computed.m.rewards=('reward', 'm')"),
]


@pytest.mark.parametrize(("config", "changes", "named"), IDLE, ids=[named for _, _, named in IDLE])
def test_a_stored_key_without_effect_is_named_and_passed_over(config, changes, named, caplog):
    before = of_earlier_version(config, **changes)
    with pytest.raises(ConfigError, match="has no effect"):  # of a person's own configuration
        resolve(ConfigDict(before))
    assert resolve(ConfigDict(stored.settled(before))) == resolve(config)
    assert [line for line in caplog.messages if named.replace("('reward', 'm')", "['reward', 'm']") in line]
    check_same_run(before, resolve(config).to_dict(), "run")


def test_a_stored_configuration_of_today_is_settled_without_a_word(caplog):
    for config in (good(), good(**MIXTURE), good(**MARGINS)):
        assert resolve(ConfigDict(stored.settled(of_earlier_version(config)))) == resolve(config)
    assert not caplog.messages


def test_a_setting_with_effect_is_still_another_run():
    with pytest.raises(ValueError, match=r"data.train: .*weight.*3.0"):
        check_same_run(of_earlier_version(good(**MIXTURE), data__train__0__weight=3.0), resolve(good(**MIXTURE)).to_dict(), "run")


def test_former_names_in_a_stored_configuration_are_the_present_ones():
    before = of_earlier_version(good())
    before["optimizer"]["clip_norm"] = before["optimizer"].pop("max_grad_norm")
    check_same_run(before, resolve(good()).to_dict(), "run")


@pytest.mark.parametrize("typed", ["data.eval.split", "data.eval", "data"])
def test_what_a_person_types_over_a_stored_configuration_is_still_refused(typed):
    before = of_earlier_version(good(data=dict(train=dict(path="x"), eval=dict(path="y.jsonl"))), data__eval__split="test")
    with pytest.raises(ConfigError, match=r"data\.eval\.split='test' has no effect on files"):
        resolve(ConfigDict(stored.settled(before, typed=[typed])))
    assert resolve(ConfigDict(stored.settled(before, typed=["data.eval.spli", "data.eva"]))).data.eval.split is None


def test_a_stored_key_that_an_override_makes_idle_is_passed_over():
    before = of_earlier_version(good(data=dict(train=dict(path="x"), eval=dict(hf="a/b", split="test", config="c"))))
    before["data"]["eval"] |= {"hf": None, "path": "y.jsonl"}
    settled = resolve(ConfigDict(stored.settled(before, typed=["data.eval.hf", "data.eval.path"])))
    assert (settled.data.eval.split, settled.data.eval.config, settled.data.eval.path) == (None, None, "y.jsonl")


def test_what_is_wrong_for_another_reason_stays_for_the_check():
    before = of_earlier_version(good())
    before["data"]["trian"] = 3
    with pytest.raises(ConfigError, match="data.trian: unknown key"):
        resolve(ConfigDict(stored.settled(before)))
