"""inspect shows exactly what is trained."""

import json

import numpy as np
import pytest
from tiny_data import write_tokenizer

from jaxalign import inspect
from jaxalign.data.prepared import prepare as make_prepared
from jaxalign.data.rows import store
from jaxalign.data.text import tokenizer
from jaxalign.reports import inspection


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "What?", "chosen": "Yes.", "rejected": "No."}\n')
    return tmp_path


def run(folder):
    options = {"template": "plain", "row_tokens": 64, "processes": 1, "quiet": True, "out_root": folder / "out"}
    return make_prepared({"path": str(folder / "pairs.jsonl")}, tokenizer=str(folder / "tokenizer"), **options)


def test_the_trained_text_is_the_response_with_its_stop_token(folder):
    prepared, loaded = store.read(run(folder)), tokenizer.load(folder / "tokenizer")
    assert inspection.marked(inspection.decoded(prepared, 0, 0, loaded)) == "<s>What?[[Yes.</s>]]"
    assert inspection.marked(inspection.decoded(prepared, 0, 1, loaded)) == "<s>What?[[No.</s>]]"


def test_the_page_has_rows_counts_duplicates_lengths_and_fill(folder, capsys):
    row = {"prompt": "What?", "chosen": "Yes.", "rejected": "No."}
    rows = [row, row, {**row, "prompt": "Why?"}, {**row, "rejected": ""}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = run(folder)
    assert inspect.main(["--prepared", str(made), "--rows", "1"]) == 0
    page = capsys.readouterr().out
    for words in (
        "3 of 4 rows kept",
        "dropped 1 by empty_response; first is row 3",
        "1 of 3 prompts (33.3%)",
        "4 of 6 responses",
        "1 of 3 whole examples",
        "% full",
        "prompt tokens: mean",
        "shared prompts:",
        "row 0 of the source, a pair",
        "reward 1, 5 tokens: <s>What?[[Yes.</s>]]",
        "reward 0, 4 tokens: [[No.</s>]]",
    ):
        assert words in page


def test_rows_of_a_base_model_are_shown_with_the_markers_that_its_tokenizer_gained(folder, capsys):
    write_tokenizer(folder / "base", bos=None, eos=None, writes_bos=False, extra=())
    options = {"template": "chatml", "add_tokens": ("<|im_start|>", "<|im_end|>"), "row_tokens": 128, "processes": 1, "quiet": True}
    made = make_prepared({"path": str(folder / "pairs.jsonl")}, tokenizer=str(folder / "base"), out_root=folder / "out", **options)
    assert inspect.main(["--prepared", str(made), "--rows", "1"]) == 0
    assert "<|im_start|>assistant\n[[Yes.<|im_end|>]]" in capsys.readouterr().out.replace("↵", "")


def test_the_histogram_counts_every_item_once():
    lengths = np.random.default_rng(0).integers(1, 500, 1000)
    lines = inspection.histogram("tokens", lengths)
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines[1:]) == 1000
    assert f"longest {lengths.max()}" in lines[0]


def test_lengths_that_are_all_the_same_make_one_bar():
    assert len(inspection.histogram("tokens", np.full(7, 5))) == 2


def test_what_is_no_prepared_set_is_refused_in_one_line(capsys):
    assert inspect.main(["--prepared", "nowhere"]) == 1
    assert "nowhere is not a prepared set" in capsys.readouterr().err


def test_a_tokenizer_that_has_changed_since_is_refused(folder, capsys):
    made = run(folder)
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "<s>"}))
    assert inspect.main(["--prepared", str(made)]) == 1
    assert "has changed since" in capsys.readouterr().err


def write_config(folder, tokenizer_name):
    (folder / "config.py").write_text(
        "def get_config():\n"
        "    return dict(\n"
        f"        model=dict(checkpoint='package:stories260k', tokenizer={str(folder / tokenizer_name)!r}),\n"
        f"        data=dict(train=dict(path={str(folder / 'pairs.jsonl')!r}), template='plain', row_tokens=64,\n"
        f"                  prepared_dir={str(folder / 'out')!r}, processes=1),\n"
        "        batch=dict(rows=8), objective=dict(name='dpo'), optimizer=dict(learning_rate=1e-3), train=dict(total_epochs=1))\n"
    )
    return ["--config", str(folder / "config.py"), "--rows", "1"]


def test_a_prepared_set_is_shown_from_another_working_directory(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    options = {"template": "plain", "row_tokens": 64, "processes": 1, "quiet": True, "out_root": "out"}
    made = make_prepared({"path": "pairs.jsonl"}, tokenizer="tokenizer", **options).absolute()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert inspect.main(["--prepared", str(made)]) == 0
    assert "[[Yes.</s>]]" in capsys.readouterr().out


def test_a_configuration_is_shown_with_its_own_tokenizer_though_another_copy_was_first(folder, capsys):
    made = run(folder)
    (folder / "tokenizer").rename(folder / "moved")
    assert inspect.main(write_config(folder, "moved")) == 0
    page = capsys.readouterr().out
    assert str(made) in page and "[[Yes.</s>]]" in page
    assert inspect.main(["--prepared", str(made)]) == 1
    error = capsys.readouterr().err
    assert f"is gone from {folder / 'tokenizer'}; give --config" in error
    assert inspect.main(["--prepared", str(made), "--rows", "0"]) == 0
