"""The self-check of several processes over loopback, and how they agree on a verdict."""

import dataclasses
from pathlib import Path
import sys

import pytest
import several_processes

from jaxalign import selfcheck
from jaxalign.checking import verdicts

TINY = Path(__file__).parents[1] / "tiny.py"
GOOD = verdicts.verdict("sums", True, "difference 0", "")
BAD = verdicts.verdict("sums", False, "difference 1", "a sum is missing")


@dataclasses.dataclass
class Channel:
    number: int
    texts: dict

    def put(self, key, text):
        self.texts[key] = text

    def below(self, folder):
        return {key.removeprefix(f"{folder}/"): text for key, text in self.texts.items() if key.startswith(f"{folder}/")}


@pytest.fixture
def agreed(monkeypatch):
    """(verdicts of the processes) -> the verdict that each has in the end."""

    def run(*own):
        texts = {}

        def one(number):
            monkeypatch.setattr(verdicts, "connected", lambda: Channel(number, texts))
            return verdicts.agreed(own[number], 7)

        monkeypatch.setattr(verdicts.watch, "barrier", lambda name: None)
        for number in range(len(own)):
            one(number)
        return [one(number) for number in range(len(own))]

    return run


def test_a_check_that_fails_on_one_process_fails_on_all_and_names_it(agreed):
    assert agreed(GOOD, GOOD) == [GOOD] * 2
    assert agreed(GOOD, GOOD, BAD) == [dataclasses.replace(BAD, found="process 2: difference 1")] * 3
    assert agreed(BAD, BAD) == [BAD] * 2


def outcome(folder, objective, *command):
    """(exit codes, tables) of two processes with one device each."""
    settings = [f"--config.{setting}" for setting in ("data.eval=None", "mesh.fsdp=2", f"data.prepared_dir={folder}")]
    command = [sys.executable, *command, "--config", f"{TINY}:{objective}", *settings, "--workdir", str(folder / "run")]
    return several_processes.outcome([command] * 2, devices=2, stream="stdout")


@pytest.mark.slow
def test_two_processes_pass_every_check_and_leave_nothing(tmp_path):
    codes, tables = outcome(tmp_path, "sft", "-m", "jaxalign.selfcheck")
    assert codes == [0, 0] and "0 of 16 checks failed" in tables[0], tables
    assert tables[0].count("skip ") == 1 and "there is no reference" in tables[0]
    for name in ("mesh = one device", "gradient = finite difference", "sampler = forward pass", "export round trip", "resume is exact"):
        assert f"pass  {name}" in tables[0]
    assert "pass" not in tables[1] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_find_dropout_and_both_end_with_the_code_of_a_failed_check(tmp_path):
    codes, tables = outcome(tmp_path, "dpo", str(Path(__file__).with_name("dropout_worker.py")), "--cheap")
    assert codes == [selfcheck.FAILED] * 2 and "FAIL  forward pass repeats itself" in tables[0] and "1 of 7 checks" in tables[0], tables
