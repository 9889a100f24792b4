"""Lines of samples: their order, and a file that goes on where it was cut."""

import json

import pytest

from jaxalign.sampling.lines import Lines

IDS = (7, "b")  # of the prompts
KEYS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def lines_of(file, **settings):
    return Lines(file, ids=IDS, samples=2, settings={"seed": 0, **settings})


def line(key):
    return {"id": IDS[key[0]], "sample": key[1]}


def written(file):
    return [json.loads(text) for text in file.read_text().splitlines()]


def test_lines_stand_in_order_however_the_samples_end(tmp_path):
    file = tmp_path / "a" / "out.jsonl"
    lines = lines_of(file)
    for key in ((1, 1), (0, 1), (0, 0)):
        lines.add(key, line(key))
    assert written(file) == [line(key) for key in KEYS[:2]]
    lines.add((1, 0), line((1, 0)))
    assert written(file) == [line(key) for key in KEYS]


def test_lines_are_read_as_they_were_added_also_those_with_separators_of_unicode(tmp_path):
    lines, text = lines_of(tmp_path / "out.jsonl"), "one\u2028two\u2029three\x85four\nfive"
    assert lines.read() == []
    for key in KEYS[:2]:
        lines.add(key, line(key) | {"text": text})
    assert lines.read() == [line(key) | {"text": text} for key in KEYS[:2]]


@pytest.mark.parametrize("cut", [0, 3, 14, 20, 28, 56])
def test_a_file_that_was_cut_is_continued_after_its_last_whole_line(tmp_path, cut):
    file = tmp_path / "out.jsonl"
    with lines_of(file) as lines:
        for key in KEYS:
            lines.add(key, line(key))
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    again = lines_of(file)
    assert again.done == set(KEYS[: whole[:cut].count(b"\n")])
    for key in KEYS:
        if key not in again.done:
            again.add(key, line(key))
    assert file.read_bytes() == whole


def begun(file):
    with lines_of(file) as lines:
        lines.add(KEYS[0], line(KEYS[0]))


def test_lines_of_other_settings_are_not_continued_and_where_there_is_none_a_file_begins(tmp_path):
    begun(tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match=r"its lines were made with seed=0, not 1\. Give another --out"):
        lines_of(tmp_path / "out.jsonl", seed=1)
    lines_of(tmp_path / "guided.jsonl", guide="run").add(KEYS[0], line(KEYS[0]))
    with pytest.raises(ValueError, match=r"its lines were made with guide='run', not None\. Give another --out"):
        lines_of(tmp_path / "guided.jsonl")
    (tmp_path / "out.jsonl").write_text("")
    with lines_of(tmp_path / "out.jsonl", seed=1) as lines:
        assert lines.done == set()


def test_a_file_that_another_process_writes_is_left_alone(tmp_path):
    with lines_of(tmp_path / "out.jsonl"):
        with pytest.raises(ValueError, match="another process writes .*out.jsonl; wait for it, or give another --out"):
            lines_of(tmp_path / "out.jsonl")
    with lines_of(tmp_path / "out.jsonl"):
        pass


def test_a_file_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="there is no out.jsonl.settings.json beside it"):
        lines_of(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("number", "text", "words"),
    [
        (1, '{"broken', "line 1 is no sample: '{\"broken'"),
        (1, "[]", "line 1 is no sample"),
        (1, "", "line 1 is no sample: ''"),
        (1, '{"id": 7, "sample": 0}', "line 1 is sample 0 of prompt 7, where sample 1 of prompt 7 belongs"),
        (2, '{"id": 1, "sample": 0}', "line 2 is sample 0 of prompt 1, where sample 0 of prompt 'b' belongs"),
        (4, '{"id": "b", "sample": 1}', "it has 5 lines, and 4 samples are asked for"),
    ],
)
def test_a_file_with_a_line_that_is_not_the_one_of_its_place_is_left_alone(number, text, words, tmp_path):
    file = tmp_path / "out.jsonl"
    with lines_of(file) as lines:
        for key in KEYS:
            lines.add(key, line(key))
    content = file.read_text().splitlines()
    content[number : number + 1] = [text]
    file.write_text("\n".join(content) + "\n")
    before = file.read_bytes()
    with pytest.raises(ValueError) as error:
        lines_of(file)
    assert f"out.jsonl is there and cannot be continued: {words}" in str(error.value) and file.read_bytes() == before


@pytest.mark.parametrize("text", ['{"hash":', "[]", "{}", '{"hash": 1, "settings": []}', ""])
def test_damaged_settings_are_named(text, tmp_path):
    begun(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"out\.jsonl\.settings\.json is damaged, .* remove both files"):
        lines_of(tmp_path / "out.jsonl")


def test_settings_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", dies)
        lines_of(tmp_path / "out.jsonl")
    assert lines_of(tmp_path / "out.jsonl").done == set()
