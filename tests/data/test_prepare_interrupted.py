"""A prepare that is killed, run twice at once, or meets a full disk leaves what is right or nothing."""

import errno
import signal
import subprocess
import sys
import time

import numpy as np
import prepare_runs
from prepare_runs import OPTIONS, contents, run
import pytest

from jaxalign.data.prepared import prepare as make_prepared
from jaxalign.data.rows import shards, store


@pytest.fixture
def folder(tmp_path):
    return prepare_runs.make_folder(tmp_path)


SCRIPT = """
import sys, time
from jaxalign.data.prepared import prepare
from jaxalign.data.rows import shards

shards.SHARD_ROWS = 20
write = shards._write
def slowly(*arguments):
    time.sleep({pause})
    write(*arguments)
shards._write = slowly
folder = {folder!r}
print(prepare({{"path": folder + "/pairs.jsonl"}}, tokenizer=folder + "/tokenizer", out_root=folder + "/out", **{options!r}))
"""


def start(folder, pause):
    script = SCRIPT.format(folder=str(folder), pause=pause, options=OPTIONS)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_prepare_goes_on_with_the_missing_shards(folder, monkeypatch):
    process = start(folder, 0.2)
    deadline = time.monotonic() + 30
    while len(list(folder.glob("out/.*.partial/shard-*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = sorted(path.name for path in folder.glob("out/.*.partial/shard-*.npz"))
    assert 3 <= len(done) < 15 and not list(folder.glob("out/*/meta.json"))
    written = []
    monkeypatch.setattr(shards, "SHARD_ROWS", 20)
    write = store.write_shard
    monkeypatch.setattr(store, "write_shard", lambda folder, number, *rest: (written.append(number), write(folder, number, *rest)))
    resumed = run(folder)
    assert written == list(range(len(done), 15))
    assert contents(resumed) == contents(
        make_prepared({"path": str(folder / "pairs.jsonl")}, tokenizer=str(folder / "tokenizer"), out_root=folder / "fresh", **OPTIONS)
    )
    assert not list(folder.glob("out/.*.partial"))


def test_two_processes_that_prepare_the_same_make_it_once_and_agree(folder):
    both = [start(folder, 0.02) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert len(store.read(outputs[0][0].strip()).groups) == 300
    assert len(list(folder.glob("out/*/meta.json"))) == 1


def test_a_full_disk_is_named_and_leaves_nothing_that_looks_complete(folder, monkeypatch):
    save = np.savez
    monkeypatch.setattr(shards, "SHARD_ROWS", 100)
    calls = []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            arguments[0].write(b"half a sh")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"disk of .* is full .*MiB free.*data.prepared_dir"):
        run(folder)
    assert not list(folder.glob("out/*/meta.json"))
    assert [path.name for path in folder.glob("out/.*.partial/*")] == ["shard-00000.npz"]
    monkeypatch.setattr(np, "savez", save)
    assert len(store.read(run(folder)).groups) == 300


def test_a_disk_that_fills_up_while_the_columns_are_joined_is_named_too(folder):
    # Files of more than 24 KiB fail here as on a full disk: the shards of 20 rows fit, their tokens together do not.
    script = SCRIPT.format(folder=str(folder), pause=0, options=OPTIONS)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (24 << 10, 24 << 10))\n" + script
    process = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert process.returncode == 1 and "is full" in process.stderr and "data.prepared_dir" in process.stderr
    assert len(list(folder.glob("out/.*.partial/shard-*.npz"))) == 15 and not list(folder.glob("out/*/meta.json"))
