"""Rows are as long as the data needs: almost all groups are kept whole, within what the model can see."""

import json

import numpy as np
import prepare_runs
import pytest

from jaxalign.data import prepared, summary
from jaxalign.data.rows import pack, store

OPTIONS = {"template": "plain", "share_prompt": True, "mismatched": False}


@pytest.fixture
def folder(tmp_path):
    return prepare_runs.make_folder(tmp_path)


def write(folder, lengths):
    """Pairs whose prompt, chosen and rejected have so many letters; the tokenizer adds BOS and EOS."""
    rows = [{"prompt": f"{i:03}".ljust(p, "p"), "chosen": "c" * c, "rejected": "r" * r} for i, (p, c, r) in enumerate(lengths)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def fitting(folder, *, context=None, **options):
    source = {"path": str(folder / "pairs.jsonl")}
    return prepared.fitting_row_tokens([source], {**OPTIONS, "tokenizer": str(folder / "tokenizer"), **options}, context=context)


# A pair of 50, 20 and 30 letters: 50 + 2 prompt tokens (BOS, and the last one again), 21 and 31 of the answers: 104.
@pytest.mark.parametrize(
    ("lengths", "options", "tokens"),
    [
        ([(50, 20, 30)] * 5, {}, 128),
        ([(50, 20, 30)] * 5, {"share_prompt": False}, 192),  # 51 + 21 + 51 + 31 = 154
        ([(5, 20, 300)] * 5, {}, 640),  # an answer has an equal share of the row: 2 * (301 + 2) = 606
        ([(5, 20, 300)] * 5, {"max_response_tokens": 301}, 384),  # 5 + 2 + 21 + 301 = 329
        ([(50, 20, 30)] * 200 + [(50, 20, 3000)], {}, 320),  # one row of 201 is no reason; 3 groups of 104 fill 97.5 % of a row
        ([(50, 20, 30)] * 200 + [(50, 20, 3000)], {"pack_rows": False}, 128),
        ([(50, 20, 30)] * 97 + [(50, 20, 3000)] * 3, {}, 6016),  # 2 * 3003
        ([(50, 20, 30)] * 5, {"mismatched": True}, 192),  # and an answer of 26 with its own last prompt token: 131
        ([(50, 20, 3000)] * 5, {"context": 500}, 1024),  # 2 * 500
        ([(50, 20, 30000)] * 5, {}, 8192),
    ],
)
def test_the_row_is_as_long_as_almost_all_groups_need(folder, lengths, options, tokens):
    write(folder, lengths)
    assert fitting(folder, **options) == tokens
    if tokens % 1000 and "context" not in options and tokens < 8192:
        made = prepare_runs.run(folder, **{**OPTIONS, **options, "row_tokens": tokens})
        counts = store.read(made).meta["counts"]
        assert counts["kept"] >= 0.99 * counts["read"] and "prompt_cut" not in counts["rules"]


def test_much_that_is_dropped_is_the_first_line_of_the_report(folder):
    write(folder, [(5, 20, 10)] * 90 + [(5, 60, 10)] * 10)
    first = summary.report(prepare_runs.run(folder, row_tokens=64))[0]
    assert first.startswith("WARNING: 10 rows of ") and "(10.0%) are dropped, 10 of them by response_too_long" in first
    write(folder, [(5, 20, 10)] * 98 + [(5, 60, 10)] * 2)
    assert "WARNING" not in summary.report(prepare_runs.run(folder, row_tokens=64))[0]


# Tokens of a pair of HH are about log-normal with median 190; shorter than 20 is rare, and longer than the row is dropped before.
@pytest.mark.parametrize("row_tokens", [1024, 2048, 4096])
def test_rows_are_full_whatever_their_length(row_tokens):
    sizes = np.random.default_rng(0).lognormal(np.log(190), 0.8, 4000).clip(20, 1024).astype(int)
    plan = pack.plan_rows(sizes, row_tokens=row_tokens, pack=True)
    assert pack.fill(sizes, plan, row_tokens=row_tokens) > 0.97
    assert pack.fill(sizes, pack.plan_rows(sizes, row_tokens=4096, pack=True, max_groups=16), row_tokens=4096) < 0.97
    assert sorted(plan[plan >= 0]) == list(range(4000))


def test_groups_per_row_are_bounded_by_the_tokens_of_the_row():
    plan = pack.plan_rows(np.full(5000, 2), row_tokens=1024, pack=True)
    assert plan.shape[1] == 64 and pack.plan_rows(np.full(50, 2), row_tokens=64, pack=True).shape[1] == 16


def test_rows_that_choose_by_a_number_are_measured_whichever_answer_it_names(folder):
    row = {"prompt": "p" * 50, "response_a": "a" * 20, "response_b": "b" * 30, "choice": 2}
    (folder / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 5)
    assert fitting(folder) == 128  # as a pair of these lengths
    (folder / "pairs.jsonl").write_text((json.dumps({**row, "choice": 1}) + "\n") * 5)
    with pytest.raises(ValueError, match="leave open which answer"):
        fitting(folder)
