"""What the data section can say reaches a whole run: mismatched responses, numbers of the data set, drawn groups."""

import json
from pathlib import Path

import pytest

from jaxalign import train
from jaxalign.reports import log

OPTIMIZED = True
TINY = Path(__file__).parent / "tiny.py"


@pytest.fixture
def start(tmp_path):
    """Runs the tiny configuration on rows of this test with further settings; returns its exit code."""

    def run(workdir, objective, rows, data="", **source):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(tmp_path / "rows.jsonl"), **source}
        (tmp_path / "config.py").write_text(
            "import importlib.util\n"
            f"spec = importlib.util.spec_from_file_location('tiny', {str(TINY)!r})\n"
            "tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)\n"
            "def get_config():\n"
            f"    config = tiny.get_config({objective!r})\n"
            f"    config.data.train = config.data.eval = {source!r}\n"
            f"    config.data.update(dict(prepared_dir={str(tmp_path / 'cache')!r}, {data}))\n"
            "    del config.train.total_steps\n"
            "    config.train.update(total_epochs=1, log_every_steps=1, eval_every_percent=100, save_every_percent=100)\n"
            "    del config.train.eval_every_steps, config.train.save_every_steps\n"
            "    return config\n"
        )
        return train.main(["--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / workdir)])

    return run


def pair(number):
    return {"prompt": f"Question {number}?", "chosen": f"Yes {number}.", "rejected": f"No, {number}."}


@pytest.mark.slow
@pytest.mark.parametrize("feedback", [None, "label"])
def test_kto_gets_responses_of_other_prompts_from_the_configuration_alone(start, tmp_path, feedback):
    assert start("run", "kto", [pair(i) for i in range(150)], feedback=feedback) == 0
    lines = log.read_metrics(tmp_path / "run", "train")
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-5) and lines[0]["z0"] == 0
    assert lines[-1]["z0/raw"] != 0


@pytest.mark.slow
def test_groups_are_drawn_by_a_number_of_the_data_set_and_an_epoch_shrinks_with_them(start, tmp_path, capsys):
    rows = [{"prompt": f"Question {i}?", "completion": f"Answer {i}.", "gain": i - 35.5} for i in range(60)]
    drawn = "sampling='priority', max_groups_per_row=1"
    assert start("run", "alol_ref_free", rows, drawn, keep_columns={"advantage": "gain"}) == 0
    assert len(log.read_metrics(tmp_path / "run", "train")) == 3  # 24 of the 60 rows in batches of 8
    assert start("bad", "alol_ref_free", rows, f"{drawn}, sampling_column='luck'", keep_columns={"advantage": "gain"}) == 1
    assert "goes by the column 'luck'" in capsys.readouterr().err


def test_an_unknown_way_of_sampling_is_refused_by_the_configuration(start, capsys):
    assert start("run", "sft", [pair(0)], "sampling='best'", responses="chosen") == 1
    assert "data.sampling='best' is not one of 'shuffle', 'positive', 'priority'" in capsys.readouterr().err
