"""A --workdir that each host has for itself is found before anything is compiled."""

from concurrent.futures import ThreadPoolExecutor
import threading

import pytest
from test_watch import Memory

from jaxalign.hosts import folder, watch


@pytest.fixture
def check(monkeypatch):
    """(folders) -> what the processes that have them raise, or None."""

    def run(*folders):
        texts, gate, mine = {}, threading.Barrier(len(folders)), threading.local()
        monkeypatch.setattr(folder, "connected", lambda: mine.channel)
        monkeypatch.setattr(watch, "barrier", lambda name: gate.wait(30))

        def one(number):
            mine.channel = Memory(number, len(folders), texts)
            try:
                folder.check_seen_by_all(folders[number])
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(len(folders)) as threads:
            return list(threads.map(one, range(len(folders))))

    return run


def test_a_folder_that_all_see_passes_and_stays_as_it_was(check, tmp_path):
    assert check(tmp_path, tmp_path, tmp_path) == [None] * 3 and not list(tmp_path.iterdir())


def test_the_processes_that_have_a_folder_of_their_own_are_named_by_all(check, tmp_path):
    own = [tmp_path / str(number) / "run" for number in range(2)]
    for each in own:
        each.mkdir(parents=True)
    told = check(own[0], own[0], own[1], own[1])
    assert all("is not the same folder on all hosts: process 2, 3 cannot see what process 0 wrote there" in text for text in told)


def test_a_scratch_folder_is_one_for_all_processes_and_leaves_nothing(monkeypatch, tmp_path):
    texts, gate, mine, run = {}, threading.Barrier(2), threading.local(), tmp_path / "runs" / "new"
    monkeypatch.setattr(folder, "connected", lambda: mine.channel)
    monkeypatch.setattr(watch, "barrier", lambda name, **options: gate.wait(30))

    def one(number):
        mine.channel = Memory(number, 2, texts)
        with folder.scratch(run) as path:
            (path / str(number)).touch()
            gate.wait(30)
            return path, len(list(path.iterdir()))

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(one, range(2))
    assert first == second and first[1] == 2 and first[0].parent == run and not run.exists()
