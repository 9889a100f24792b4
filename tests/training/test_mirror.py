"""The copy of a run in an object store: complete or not there, checked, and what a run on a new disk goes on from."""

import json
from pathlib import Path

import fsspec
import jax.numpy as jnp
import pytest

from jaxalign.reports.log import RunLog
from jaxalign.training import runs
from jaxalign.training.checkpoint import Checkpoints
from jaxalign.training.mirror import Mirror
from jaxalign.training.runs import SEAL, CheckpointError
from jaxalign.types import TrainState

URL = "memory://bucket/run"


@pytest.fixture
def store():
    """The names of all files in an empty store, and the store."""
    memory = fsspec.filesystem("memory", use_listings_cache=False)
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def run(tmp_path):
    """A folder with a log and finished checkpoints, without arrays."""

    def make(*steps, name="run"):
        workdir = tmp_path / name
        for step in steps:
            write(workdir, step)
        (workdir / "metrics.jsonl").write_text(f"to {steps[-1]}")
        return workdir

    return make


def write(workdir, step, text="weights"):
    folder = runs.checkpoints(workdir) / str(step)
    (folder / "run").mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(f"{text} {step}")
    (folder / runs.RECORD).write_text(json.dumps({"data": {"step": step}}))
    SEAL.write(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_on_a_new_disk_is_that_of_its_copy(store, run, tmp_path):
    workdir, lines = run(1, 2), []
    Mirror(URL, workdir).copy()
    Mirror(URL, tmp_path / "new").fetch(tell=lines.append)
    assert files(tmp_path / "new") == files(workdir)
    assert "checkpoints of steps 1, 2" in lines[0]


def test_what_a_run_deletes_or_writes_anew_changes_in_its_copy_and_nothing_else(store, run, tmp_path):
    workdir = run(1, 2)
    store.pipe_file("/bucket/run/checkpoints/9/manifest.json", b"{}")  # of somebody else
    mirror = Mirror(URL, workdir)
    mirror.copy()
    (runs.checkpoints(workdir) / "1").rename(tmp_path / "away")
    write(workdir, 2, "others")
    write(workdir, 3)
    (runs.checkpoints(workdir) / "3" / SEAL.name).unlink()  # its save is under way
    mirror.copy()
    names = {path.removeprefix("/bucket/run/checkpoints/").split("/")[0] for path in store.find("/bucket/run/checkpoints")}
    assert names == {"2", "9"}
    assert store.cat_file("/bucket/run/checkpoints/2/weights") == b"others 2"


def test_a_run_that_goes_on_from_its_copy_has_each_step_once_in_its_logs(store, run, tmp_path, monkeypatch):
    workdir, log = run(2), tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(f'{{"step": {step}, "split": "train", "loss": 0.5}}\n' for step in range(5)))  # the steps after it are lost
    at_seal, put = [], type(store).put_file

    def put_file(self, local, remote, **options):
        if remote.endswith(SEAL.name):
            at_seal.append(store.cat_file("/bucket/run/metrics.jsonl"))
        put(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", put_file)
    Mirror(URL, workdir).copy()
    assert at_seal == [log.read_bytes()]  # the checkpoint counts from here on: a copy that is cut before has no step without its line
    Mirror(URL, tmp_path / "new").fetch(tell=print)
    options = {"start_step": 2, "total_steps": 5, "wandb": False, "name": "run", "config": {}, "quiet": False}
    RunLog(tmp_path / "new", **options).close()
    assert [json.loads(line)["step"] for line in (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("harm", ["cut", "no_manifest"])
def test_a_copy_that_is_damaged_or_not_complete_is_passed_over(store, run, tmp_path, harm):
    Mirror(URL, run(1, 2)).copy()
    if harm == "cut":
        store.pipe_file("/bucket/run/checkpoints/2/weights", b"we")
    else:
        store.rm("/bucket/run/checkpoints/2/manifest.json")
    lines = []
    Mirror(URL, tmp_path / "new").fetch(tell=lines.append)
    assert runs.steps(tmp_path / "new") == [1]
    assert ("step 2 at memory://bucket/run is damaged: weights has 2 bytes instead of 9" in lines[-1]) == (harm == "cut")
    assert not any(path.name.startswith(".from") for path in runs.checkpoints(tmp_path / "new").iterdir())


def test_a_run_that_is_further_than_its_copy_is_left_alone(store, run):
    Mirror(URL, run(1, 2, name="old")).copy()
    workdir, lines = run(3), []
    Mirror(URL, workdir).fetch(tell=lines.append)
    assert runs.steps(workdir) == [3] and not lines and (workdir / "metrics.jsonl").read_text() == "to 3"


def test_problems_of_the_store_are_told_before_anything_else(store, run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"train.mirror='nowhere://b/run' cannot be used.*s3://BUCKET/RUN"):
        Mirror("nowhere://b/run", tmp_path)
    Mirror(URL, run(1)).copy()
    store.pipe_file("/bucket/run/checkpoints/1/weights", b"we")
    with pytest.raises(CheckpointError, match="every checkpoint at memory://bucket/run is damaged"):
        Mirror(URL, tmp_path / "new").fetch(tell=print)
    store.pipe_file("/bucket/run/../outside", b"")
    with pytest.raises(CheckpointError, match=r"'\.\./outside', which would lie outside"):
        Mirror(URL, tmp_path / "new")._names("/bucket/run")
    monkeypatch.setattr(type(store), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("403 Forbidden")))
    with pytest.raises(CheckpointError, match="train.mirror=memory://bucket/run cannot be read and written: 403 Forbidden"):
        Mirror(URL, tmp_path / "new").fetch(tell=print)


def save(saved, step):
    state = dict.fromkeys(TrainState.__dataclass_fields__) | {"trainable": {"w": jnp.full((4,), float(step))}, "step": jnp.int32(step)}
    saved.save(TrainState(**state), step=step, run={"config": {"train": {"best_metric": "loss"}}, "data": {"step": step}})


def test_checkpoints_are_copied_as_they_are_saved_and_a_store_that_fails_stops_no_training(store, tmp_path, monkeypatch, capsys):
    saved = Checkpoints(tmp_path / "run", keep_last=1, mirror=URL)
    save(saved, 1)
    saved.wait()
    with monkeypatch.context() as broken:
        broken.setattr(type(store), "put_file", lambda *_, **__: (_ for _ in ()).throw(OSError("the network is down")))
        save(saved, 2)
        saved.wait()
        with pytest.raises(CheckpointError, match="the run is whole in .* could not be copied to .*: the network is down"):
            saved.copy()
    assert "could not be copied" in capsys.readouterr().err
    save(saved, 3)
    saved.close()
    again = Checkpoints(tmp_path / "new", mirror=URL)
    assert again.begin() == 3 and again.steps() == [3]
    again.close()


@pytest.mark.slow
def test_a_run_is_copied_to_an_s3_server_and_goes_on_from_there(run, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="needs s3fs: pip install -e '.[store]'")
    servers = pytest.importorskip("moto.server", reason="needs a local S3 server: pip install -e '.[store]'")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        address, port = server.get_host_and_port()
        for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
        with pytest.raises(CheckpointError, match="train.mirror=s3://bucket/runs/a cannot be read and written: .*bucket"):
            Mirror("s3://bucket/runs/a", tmp_path / "new").fetch(tell=print)
        s3 = fsspec.filesystem("s3")
        s3.mkdir("bucket")
        workdir = run(1, 2)
        mirror = Mirror("s3://bucket/runs/a", workdir)
        mirror.copy()
        (runs.checkpoints(workdir) / "1").rename(tmp_path / "away")
        mirror.copy()
        s3.pipe_file("bucket/runs/a/checkpoints/3/weights", b"half")  # a copy that was killed
        Mirror("s3://bucket/runs/a", tmp_path / "new").fetch(tell=print)
        assert files(tmp_path / "new") == files(workdir)
    finally:
        server.stop()
