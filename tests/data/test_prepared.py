"""Prepared sets: right or not there, made once, resumed after a kill, and another one whenever anything relevant differs."""

import json
from pathlib import Path

from ml_collections import ConfigDict
import numpy as np
import prepare_runs
from prepare_runs import OPTIONS, contents, run
import pytest
from tiny_data import write_pairs

from jaxalign import prepare
from jaxalign.config.prepared import prepared_sets, prepared_stages
from jaxalign.data import prepared as preparing
from jaxalign.data import summary
from jaxalign.data.prepared import prepare as make_prepared
from jaxalign.data.raw import sources
from jaxalign.data.rows import pack, shards, store
from jaxalign.data.text import tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = SHARED / "weights" / "stories260K" / "hf"

@pytest.fixture
def folder(tmp_path):
    return prepare_runs.make_folder(tmp_path)


def test_the_rows_on_disk_decode_to_the_source_rows(folder):
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    prepared = store.read(run(folder))
    loaded = tokenizer.load(folder / "tokenizer")
    assert len(prepared.groups) == 300 and prepared.meta["counts"]["kept"] == 300
    for group in range(300):
        row = rows[prepared.source_rows[group]]
        texts = [loaded.decode(prepared.groups.piece(group, piece)[0]) for piece in range(3)]
        assert texts == ["<s>" + row["prompt"], row["chosen"] + "</s>", row["rejected"] + "</s>"]
    assert sorted(prepared.plan[prepared.plan >= 0].tolist()) == list(range(300))


def test_what_is_there_is_not_made_again(folder, monkeypatch):
    first = run(folder)
    monkeypatch.setattr(shards, "write_all", None)
    assert run(folder) == first


def test_processes_change_nothing_in_what_is_written(folder, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 50)
    first = run(folder, processes=1)
    before = contents(first)
    assert run(folder, processes=2) == first
    other = make_prepared(
        {"path": str(folder / "pairs.jsonl")}, tokenizer=str(folder / "tokenizer"), out_root=folder / "other", **{**OPTIONS, "processes": 2}
    )
    assert other.parent.name == first.parent.name and contents(other) == before


def _edit_source(folder):
    with open(folder / "pairs.jsonl", "a") as file:
        file.write(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")


def _edit_tokenizer(folder):
    settings = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": False}))


def _nothing(folder):
    pass


@pytest.mark.parametrize(
    ("edit", "options", "source"),
    [
        (_edit_source, {}, {}),
        (_edit_tokenizer, {}, {}),
        (_nothing, {"template": "hh"}, {}),
        (_nothing, {"max_prompt_tokens": 9}, {}),
        (_nothing, {"max_response_tokens": 9}, {}),
        (_nothing, {"response_truncation": "keep_start"}, {}),
        (_nothing, {"prompt_truncation": "drop"}, {}),
        (_nothing, {"row_tokens": 70}, {}),
        (_nothing, {"share_prompt": False}, {}),
        (_nothing, {"side": "train", "eval_fraction": 0.5}, {}),
        (_nothing, {}, {"responses": "chosen"}),
        (_nothing, {}, {"limit": 10}),
        (_nothing, {}, {"rename": {"chosen": "rejected", "rejected": "chosen"}}),
    ],
)
def test_another_folder_whenever_anything_relevant_differs(folder, edit, options, source):
    first = run(folder)
    edit(folder)
    assert run(folder, source, **options).parent != first.parent


@pytest.mark.parametrize(("version", "same_groups"), [("GROUPS_FORMAT", False), ("PLAN_FORMAT", True)])
def test_another_version_of_the_format_makes_another_folder(folder, monkeypatch, version, same_groups):
    first = run(folder)
    monkeypatch.setattr(preparing, version, 1000)
    again = run(folder)
    assert again != first and (again.parent == first.parent) == same_groups


def test_packing_alone_makes_another_plan_of_the_same_tokens(folder):
    packed, unpacked, narrow = run(folder), run(folder, pack_rows=False), run(folder, max_groups=2)
    assert len({packed, unpacked, narrow}) == 3 and packed.parent == unpacked.parent == narrow.parent
    assert store.read(unpacked).plan.shape == (300, 1) and store.read(narrow).plan.shape[1] == 2
    assert store.read(packed).meta["fill"] > store.read(narrow).meta["fill"] > store.read(unpacked).meta["fill"]


@pytest.mark.parametrize("name", ["tokens.npy", "plan.npy"])
def test_a_column_that_is_cut_short_is_named(folder, name):
    made = run(folder)
    file = next(path for path in (made / name, made.parent / name) if path.exists())
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"is damaged: {name}.*jaxalign.prepare"):
        store.read(made)


def test_a_folder_that_is_no_prepared_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a prepared set.*jaxalign.prepare"):
        store.read(tmp_path)


BAD_ROWS = [
    {"prompt": "p", "chosen": "c"},
    {"prompt": "p", "chosen": "c", "rejected": "c"},
    {"prompt": "p", "chosen": "", "rejected": "r"},
    {"prompt": "p" * 100, "chosen": "c", "rejected": "r"},
]


def test_bad_rows_are_dropped_and_counted_by_rule_with_the_first_of_each(folder):
    lines = (folder / "pairs.jsonl").read_text().splitlines()[:5] + [json.dumps(row) for row in BAD_ROWS for _ in range(2)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    made = run(folder, prompt_truncation="drop")
    rules = {name: (rule["rows"], rule["first_row"]) for name, rule in store.read(made).meta["counts"]["rules"].items()}
    assert rules == {"missing_column": (2, 5), "same_response": (2, 7), "empty_response": (2, 9), "prompt_too_long": (2, 11)}
    report = "\n".join(summary.report(made))
    assert "5 of 13 rows kept" in report and "dropped 2 by missing_column; first is row 5: the row has no rejected" in report


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (BAD_ROWS[0], "row 1: the row has no rejected.*on_bad_row='drop'"),
        (BAD_ROWS[1], "row 1: chosen and rejected are equal"),
        (BAD_ROWS[2], "row 1: response 0 is empty"),
        (BAD_ROWS[3], "row 1: the prompt has 101 tokens.*row_tokens=64"),
    ],
)
def test_the_first_bad_row_is_an_error_where_that_is_asked_for(folder, row, words):
    good = (folder / "pairs.jsonl").read_text().splitlines()[0]
    (folder / "pairs.jsonl").write_text(good + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=words):
        run(folder, on_bad_row="error", prompt_truncation="drop")


def test_rows_that_are_all_bad_are_an_error_even_where_bad_rows_are_dropped(folder):
    (folder / "pairs.jsonl").write_text((json.dumps(BAD_ROWS[1]) + "\n") * 3)
    with pytest.raises(ValueError, match="no row of .*pairs.jsonl can be used:\n0 of 3 rows kept\n  dropped 3 by same_response"):
        run(folder)


def test_eval_fraction_puts_every_question_on_one_side(folder):
    rows = write_pairs(folder / "pairs.jsonl", 200)
    doubled = rows + [{**row, "chosen": "another answer"} for row in rows]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in doubled))
    train, held_out = (store.read(run(folder, side=side, eval_fraction=0.25)) for side in ("train", "eval"))
    assert sorted([*train.source_rows, *held_out.source_rows]) == list(range(400))
    assert {doubled[i]["prompt"] for i in train.source_rows}.isdisjoint(doubled[i]["prompt"] for i in held_out.source_rows)
    assert 60 <= len(held_out.source_rows) <= 140


def config(folder, **data):
    values = {
        "train": {"path": str(folder / "pairs.jsonl")},
        "eval": None,
        "eval_fraction": 0.0,
        "row_tokens": 64,
        "max_prompt_tokens": None,
        "max_response_tokens": None,
        "prompt_truncation": "keep_end",
        "response_truncation": "drop",
        "template": "plain",
        "train_turns": "last",
        "reasoning": "keep",
        "add_tokens": None,
        "pack": True,
        "share_prompt": True,
        "max_groups_per_row": 4,
        "on_bad_row": "drop",
        "processes": 1,
        "prepared_dir": str(folder / "out"),
    }
    model = {"tokenizer": str(folder / "tokenizer"), "checkpoint": None}
    return ConfigDict({"model": model, "data": {**values, **data}, "objective": {"name": "dpo", "beta": 0.1}})


def test_a_configuration_gives_training_sets_with_weights_and_a_held_out_set(folder):
    write_pairs(folder / "more.jsonl", 50, seed=1)
    mixture = ({"path": str(folder / "pairs.jsonl"), "weight": 2.0}, {"path": str(folder / "more.jsonl")})
    sets = prepared_sets(config(folder, train=mixture, eval={"path": str(folder / "more.jsonl"), "limit": 7}))
    assert [one.weight for one in sets.train] == [2.0, 1.0]
    assert len(sets.held_out[""].groups) == 7 and len(sets.all) == 3
    told = []
    assert prepared_sets(config(folder), tell=told.append).held_out == {}
    assert len(told) == 1 and "format paired (detected because it has chosen and rejected)" in told[0][0]


def test_a_configuration_with_eval_fraction_cuts_its_one_source(folder):
    sides = prepared_sets(config(folder, eval_fraction=0.2)).all
    assert sum(len(side.groups) for side in sides) == 300 and all(len(side.groups) for side in sides)


def test_undetectable_columns_are_refused(folder):
    (folder / "pairs.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(ValueError, match="pairs.jsonl: the columns answer, question fit none"):
        run(folder)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")
def test_real_hh_rows_fill_their_rows_and_hold_what_the_source_holds(tmp_path):
    source = {"path": str(SHARED / "hh_rlhf" / "harmless_base.train.jsonl.gz")}
    made = make_prepared(source, tokenizer=str(STORIES), template="hh", row_tokens=1024, out_root=tmp_path, processes=1, quiet=True)
    prepared = store.read(made)
    assert prepared.meta["format"] == "hh" and prepared.meta["fill"] >= 0.97
    assert prepared.meta["counts"]["kept"] >= 0.96 * 1613
    loaded, rows = tokenizer.load(STORIES), sources.read(source)
    cut = prepared.meta["counts"]["rules"]["prompt_turns_cut"]["rows"]
    assert cut < 0.1 * len(prepared.groups)
    for group in range(0, len(prepared.groups), 50):
        prompt, chosen, _ = (prepared.groups.piece(group, piece)[0] for piece in range(3))
        raw = rows[prepared.source_rows[group]]["chosen"]
        assert prompt[0] == loaded.bos_id and chosen[-1] == loaded.eos_id
        assert loaded.decode(prompt[1:]).strip().endswith("Assistant:")
        assert "".join(raw.split()).endswith("".join(loaded.decode(chosen[:-1]).split()))
    arrays = pack.assemble(prepared.groups, prepared.plan, row_tokens=1024, share_prompt=True)
    assert np.count_nonzero(arrays["slots"] >= 0) == np.count_nonzero(prepared.groups.scored)
    sizes = pack.group_tokens(prepared.groups, share_prompt=True)
    fills = [pack.fill(sizes, pack.plan_rows(sizes, row_tokens=tokens, pack=True), row_tokens=tokens) for tokens in (1024, 2048, 4096)]
    assert min(fills) >= 0.97


def test_the_command_line_prepares_every_stage_and_reports(folder, capsys):
    (folder / "config.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(\n"
        f"        model=dict(checkpoint='package:stories260k', tokenizer={str(folder / 'tokenizer')!r}),\n"
        f"        data=dict(train=dict(path={str(folder / 'pairs.jsonl')!r}), template='plain', row_tokens=64,\n"
        f"                  prepared_dir={str(folder / 'out')!r}, processes=1),\n"
        "        batch=dict(rows=8), objective=dict(name='dpo', beta=0.1), optimizer=dict(learning_rate=1e-3),\n"
        "        train=dict(total_epochs=1)))\n"
    )
    assert prepare.main(["--config", str(folder / "config.py"), "--config.data.max_groups_per_row=3"]) == 0
    page = capsys.readouterr().out
    assert "format paired (detected" in page and "300 of 300 rows kept" in page and "% full" in page
    assert prepare.main(["--config", str(folder / "config.py"), "--config.data.train.path=nowhere.jsonl"]) == 1
    assert "there is no data at 'nowhere.jsonl'" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_prepared_folder_at_or_below_a_file_is_refused(folder, below):
    with pytest.raises(ValueError, match="prepared rows cannot be kept in .*pairs.jsonl.*Set data.prepared_dir"):
        prepared_sets(config(folder, prepared_dir=str(folder / "pairs.jsonl" / below)))


def test_a_score_range_of_one_number_is_refused_and_the_best_score_may_be_the_lowest(folder):
    rows = [{"prompt": "p", "completion": "c", "score": score} for score in (1, 2, 5)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="must be .worst, best."):
        run(folder, {"score_range": (1,)})
    assert store.read(run(folder, {"score_range": [5, 1]})).groups.reward.ravel().tolist() == [1, 0.75, 0]


def test_a_stage_that_begins_where_another_ends_is_prepared_before_that_one_has_run(folder):
    first, second = config(folder), config(folder, row_tokens=80)
    second.model = ConfigDict({"tokenizer": None, "checkpoint": "stage:first"})
    sets = prepared_stages({"first": first, "second": second}, tell=lambda lines: None)
    assert len({made.folder for made, _ in sets}) == 2 and {path for _, path in sets} == {str(folder / "tokenizer")}
