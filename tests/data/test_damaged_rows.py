"""A prepared set that is not as it was written is named, and made again where its source is at hand."""

import json
import os

from prepare_runs import contents, make_folder, run
import pytest

from jaxalign import manifest
from jaxalign.data.rows import store


@pytest.fixture
def made(tmp_path):
    return run(make_folder(tmp_path))


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


COLUMNS = ("tokens", "scored", "offsets", "reward", "valid", "prompts")
FILES = [*(f"../{name}.npy" for name in COLUMNS), "../meta.json", "plan.npy", "meta.json"]
DAMAGES = (flip, cut, empty, os.remove)
CASES = [  # one kind of damage to every file is quick, after the other
    pytest.param(name, damage, marks=() if number % 4 == at % 4 else pytest.mark.slow)
    for at, name in enumerate(FILES)
    for number, damage in enumerate(DAMAGES)
]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_file_is_named_and_the_set_is_made_again(made, name, damage, caplog):
    before, path = contents(made), made / name
    damage(path)
    with pytest.raises(ValueError, match=f"(?s){path.name}.*jaxalign.prepare"):
        store.read(made)
    again = run(made.parents[2])
    assert again == made and contents(again) == before and len(store.read(again).groups) == 300
    if damage is not os.remove or path.name != "meta.json":  # without it the folder does not count as written
        assert f"is damaged: {path.name}" in caplog.text


@pytest.mark.parametrize("key", ["row_tokens", "groups", "depends"])
def test_an_edited_setting_is_no_longer_what_was_written(made, key):
    path = made / "meta.json" if key == "row_tokens" else made.parent / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, key: 1}))
    with pytest.raises(ValueError, match="meta.json is damaged"):
        store.read(made)


def test_sound_files_are_hashed_once(made, monkeypatch):
    hashed, digest = [], manifest.hashlib.file_digest
    monkeypatch.setattr(manifest.hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name))
    store.read(made)
    first = len(hashed)
    store.read(made)
    assert len(hashed) == first == len({*hashed})
    flip(made / "plan.npy")
    with pytest.raises(ValueError, match="plan.npy has other bytes"):
        store.read(made)
    assert len(hashed) == first + 1
