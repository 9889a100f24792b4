"""Facts of several processes are compared by hash, and the odd process is named with what differs."""

import json

from ml_collections import ConfigDict
import pytest
from test_watch import Memory

from jaxalign.config import preflight
from jaxalign.hosts import agreement
from jaxalign.manifest import content_hash


def told(facts_of_others):
    texts = {}
    for number, facts in enumerate(facts_of_others, start=1):
        texts |= {f"facts/start/{number}": json.dumps(facts), f"hash/start/{number}": content_hash(facts)}
    return Memory(0, len(facts_of_others) + 1, texts)


def test_equal_facts_pass_and_are_told_to_the_others():
    facts, channel = {"jax": "0.10.2"}, told([{"jax": "0.10.2"}] * 3)
    agreement.check("start", facts, channel=channel, way_out="")
    assert channel.get("hash/start/0") == content_hash(facts)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ([{"jax": "0.10.2", "a": "1"}], "process 1 has jax 0.10.2 (process 0: 0.12.0). Mend"),  # two: the first is the measure
        ([{"jax": "0.10.2", "a": "1"}] * 2, "process 0 has jax 0.12.0 (process 1: 0.10.2). Mend"),  # most decide
        ([{"jax": "0.12.0"}, {"jax": "0.12.0", "a": "1"}], "process 1 has a nothing (process 0: 1). Mend"),
        ([{str(i): "x" for i in range(9)}, {"jax": "0.12.0", "a": "1"}], "and 8 more. Mend"),
    ],
)
def test_the_odd_process_is_named(facts, words):
    with pytest.raises(ValueError, match="the processes of this run are not alike") as error:
        agreement.check("start", {"jax": "0.12.0", "a": "1"}, channel=told(facts), way_out="Mend it.")
    assert words in str(error.value)


def test_many_odd_processes_are_counted():
    with pytest.raises(ValueError, match="1 more processes differ"):
        agreement.check("start", {"a": "0"}, channel=told([{"a": "0"}] * 5 + [{"a": str(i)} for i in range(1, 5)]), way_out="")


def test_what_is_compared_of_a_start():
    stage = ConfigDict({"seed": 1, "data": {"processes": 3, "train": ({"path": "x"},)}, "eval": {}})
    facts = {**preflight._settings({"sft": stage}), **preflight._code(), **preflight._versions(), **preflight._devices()}
    assert facts["sft.seed"] == "1" and "sft.data.processes" not in facts and facts["sft.data.train"] == "[{'path': 'x'}]"
    assert len(facts["jaxalign/train.py"]) == preflight.DIGITS and any(name.endswith(".jinja") for name in facts)
    assert facts["devices"] == "8 x cpu" and "missing" not in facts["jax"] and facts["jaxalign"] != "missing"
    preflight.check({"sft": stage}, channel=None)
