"""A set of which nothing can be used is refused in one sentence that names the file once, what is wrong and the way out."""

import json

import prepare_runs
import pytest

from jaxalign import paths


@pytest.fixture
def folder(tmp_path):
    return prepare_runs.make_folder(tmp_path)


def refused(folder, text, name="rows.jsonl", **options):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=name) as error:
        prepare_runs.run(folder, {"path": str(folder / name)}, **options)
    return str(error.value)


@pytest.mark.parametrize("text", ['{"prompt": ', "[1]", '{"question": "a"}', '{"prompt": "p", "responses": "[{\\"a\\": 1, \\"a\\": 2}]"}'])
def test_a_file_without_a_usable_row_is_named_once(folder, text):
    assert refused(folder, text).count(str(folder / "rows.jsonl")) == 1


def test_a_held_out_side_without_rows_is_refused_with_the_setting(folder):
    rows = "".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(3))
    message = refused(folder, rows, side="eval", eval_fraction=1e-6)
    assert "eval_fraction=1e-06 puts none of the 3 rows" in message and "on the eval side" in message and "Mend the data" not in message


def test_a_home_folder_that_there_is_not_is_named():
    with pytest.raises(FileNotFoundError, match="'~nobody-has-this/a.jsonl' begins with ~nobody-has-this, which is no home folder"):
        paths.resolve("~nobody-has-this/a.jsonl")
