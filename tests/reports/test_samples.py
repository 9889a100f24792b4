"""Samples that are followed through a run: which prompts, whose log-probs, and what a run that is continued keeps."""

from pathlib import Path

import numpy as np
import pytest
import tiny_data

from jaxalign.data.rows import store
from jaxalign.reports.samples import Samples


class Letters:
    """A tokenizer of one letter per token."""

    def decode(self, ids):
        return "".join(chr(65 + i % 26) for i in ids)


def prepared(n=5, *, paired=True, responses=2):
    groups = tiny_data.make_groups([2] * n, [[1] * responses] * n, paired=paired)
    plan = np.full((n, 2), -1, np.int32)
    plan[:, 0] = np.arange(n)[::-1]  # the rows are in another order than the prompts
    meta = {"row_tokens": 8, "share_prompt": True, "tokenizer": "t"}
    return store.Prepared(Path("set/rows"), meta, groups, plan, np.arange(n))


def by_prompt(n, add=0.0, names=("logps/chosen", "logps/rejected"), per=2):
    """Metric -> (sums, weights) in the order of the rows: prompt p has the value p + add, and 10 more on the rejected side."""
    prompts = np.zeros(n * per)
    prompts[::per] = np.arange(n)[::-1]
    weights = np.zeros(n * per)
    weights[::per] = 2.0
    return {name: ((prompts + add + 10 * number) * weights, weights) for number, name in enumerate(names)}


def test_log_probs_before_and_after_are_those_of_the_prompts_shown(tmp_path):
    data = prepared()
    samples = Samples(tmp_path, data, start_step=0)
    samples.record(0, by_prompt(5))
    samples.record(5, by_prompt(5, add=0.25))
    samples.record(10, by_prompt(5, add=0.5))
    texts = samples.texts(data, Letters())
    assert [sample["prompt"] for sample in texts] == [Letters().decode(data.groups.piece(g, 0)[0]) for g in (0, 2, 4)]
    assert texts[1]["responses"] == [
        {"text": Letters().decode(data.groups.piece(2, 1)[0]), "what": "chosen", "before": 2.0, "after": 2.5},
        {"text": Letters().decode(data.groups.piece(2, 2)[0]), "what": "rejected", "before": 12.0, "after": 12.5},
    ]


def test_a_run_that_is_continued_keeps_what_it_started_from_and_drops_what_came_later(tmp_path):
    data = prepared()
    first = Samples(tmp_path, data, start_step=0)
    for step in (0, 5, 10):
        first.record(step, by_prompt(5, add=step))
    second = Samples(tmp_path, data, start_step=5)
    assert [r["after"] - r["before"] for r in second.texts(data, Letters())[0]["responses"]] == [5.0, 5.0]
    second.record(10, by_prompt(5, add=1.0))
    assert [r["after"] - r["before"] for r in second.texts(data, Letters())[0]["responses"]] == [1.0, 1.0]


@pytest.mark.parametrize(("responses", "expected"), [(1, 3.0), (2, None)])
def test_a_mean_over_several_responses_is_not_taken_for_one_of_them(tmp_path, responses, expected):
    data = prepared(4, paired=False, responses=responses)
    samples = Samples(tmp_path, data, start_step=0)
    samples.record(0, by_prompt(4, names=("logps/responses",)))
    sample = samples.texts(data, Letters())[-1]
    assert [response["before"] for response in sample["responses"]] == [expected] * responses


def test_texts_are_shown_where_nothing_was_measured(tmp_path):
    data = prepared(1)
    (sample,) = Samples(tmp_path, data, start_step=0).texts(data, Letters())
    assert sample["prompt"] and [response["before"] for response in sample["responses"]] == [None, None]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"0": 3}', b'{"a": []}', b"\xff"])
def test_a_damaged_file_is_named_and_what_was_before_training_is_missing(tmp_path, caplog, content):
    data = prepared()
    (tmp_path / "samples.json").write_bytes(content)
    samples = Samples(tmp_path, data, start_step=5)
    samples.record(5, by_prompt(5))
    response = samples.texts(data, Letters())[0]["responses"][0]
    assert response["before"] is None and response["after"] is not None
    assert f"{tmp_path / 'samples.json'} is damaged" in caplog.text
