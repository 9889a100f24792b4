"""The goal that is kept beside the checkpoints of a run: made once, made again where its file is cut, and not needed to be kept."""

import types

import numpy as np
import pytest

from jaxalign.config import goal_of_run
from jaxalign.scoring import goal

CFG = types.SimpleNamespace(batch=types.SimpleNamespace(rows=4))
AIM = goal.Goal(np.array([1.0, -0.5], np.float32), "w", 7, {"tokenizer": "t", "template": "plain"})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run of one set, and the goals that were made."""
    made = []
    place = types.SimpleNamespace(place=(tmp_path / "run", 3))
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(goal_of_run, "Source", lambda name: place)
    monkeypatch.setattr(goal_of_run.scorer, "of_reward_model", lambda *_, **__: types.SimpleNamespace(weights="w"))
    monkeypatch.setattr(goal_of_run, "prepared_sets", lambda cfg: types.SimpleNamespace(train=["set"]))
    monkeypatch.setattr(goal_of_run.goal, "of_answers", lambda *_, **__: made.append(1) or AIM)
    return tmp_path / "run", made


def aim():
    return goal_of_run.guide("run", CFG, dtype=np.float32, quiet=True).aim


def test_a_goal_is_made_once(run):
    folder, made = run
    np.testing.assert_array_equal(aim().vector, aim().vector)
    assert made == [1] and [path.name for path in (folder / "goals").iterdir()] == ["3.json"]


@pytest.mark.parametrize("cut", [0, 40, -3])
def test_a_goal_whose_file_is_cut_is_made_and_written_again(run, cut):
    folder, made = run
    aim()
    file = folder / "goals" / "3.json"
    whole = file.read_text()
    file.write_text(whole[:cut])
    assert aim().answers == 7 and made == [1, 1] and file.read_text() == whole


def test_a_goal_that_cannot_be_kept_is_used_and_the_cause_told(run, capsys):
    folder, made = run
    (folder / "goals").write_text("a file in the place of the folder")
    assert aim().answers == aim().answers == 7 and made == [1, 1]
    assert "the goal of run is not kept" in capsys.readouterr().err


def test_a_save_that_is_interrupted_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    AIM.save(tmp_path / "3.json")
    whole = (tmp_path / "3.json").read_text()

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", dies)
    with pytest.raises(KeyboardInterrupt):
        goal.Goal(AIM.vector, "other", 1, AIM.writing).save(tmp_path / "3.json")
    assert [path.name for path in tmp_path.iterdir()] == ["3.json"] and (tmp_path / "3.json").read_text() == whole
