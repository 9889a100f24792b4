"""Lines of samples: their order, and a file that goes on where it was cut."""

import json

import pytest

from jaxalign.sampling.lines import Lines

KEYS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def lines_of(file, **settings):
    return Lines(file, prompts=2, samples=2, settings={"seed": 0, **settings})


def written(file):
    return [json.loads(line)["key"] for line in file.read_text().splitlines()]


def test_lines_stand_in_order_however_the_samples_end(tmp_path):
    file = tmp_path / "a" / "out.jsonl"
    lines = lines_of(file)
    for key in ((1, 1), (0, 1), (0, 0)):
        lines.add(key, {"key": key})
    assert written(file) == [[0, 0], [0, 1]]
    lines.add((1, 0), {"key": (1, 0)})
    assert written(file) == [list(key) for key in KEYS]


@pytest.mark.parametrize("cut", [0, 3, 14, 20, 28, 56])
def test_a_file_that_was_cut_is_continued_after_its_last_whole_line(tmp_path, cut):
    file = tmp_path / "out.jsonl"
    lines = lines_of(file)
    for key in KEYS:
        lines.add(key, {"key": key})
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    again = lines_of(file)
    assert again.done == set(KEYS[: whole[:cut].count(b"\n")])
    for key in KEYS:
        if key not in again.done:
            again.add(key, {"key": key})
    assert file.read_bytes() == whole


def test_lines_of_other_settings_are_not_continued(tmp_path):
    lines_of(tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match=r"its lines were made with seed=0, not 1\. Give another --out"):
        lines_of(tmp_path / "out.jsonl", seed=1)


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="there is no out.jsonl.settings.json beside it"):
        lines_of(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
