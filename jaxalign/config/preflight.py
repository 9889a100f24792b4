"""What the processes of a run must have alike, compared before anything is compiled: config, code, versions, devices; then the rows."""

from collections.abc import Mapping, Sequence
import faulthandler
import hashlib
from importlib import metadata
import json
from pathlib import Path
import platform

from ml_collections import ConfigDict

import jaxalign
from jaxalign.config import build
from jaxalign.config.command_line import Run
from jaxalign.config.prepared import Sets
from jaxalign.config.stages import training_stages
from jaxalign.data.rows import store
from jaxalign.hosts import agreement
from jaxalign.hosts.channel import Channel, connected
from jaxalign.hosts.watch import LOST_CODE, Watch
from jaxalign.training import runs
from jaxalign.training.sources import Source

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "jaxalign")
OF_EACH = ("data.prepared_dir", "data.processes")  # settings that may differ from host to host
DIGITS = 12  # of a hash
BEGINNING = 1 << 20  # bytes of a file of weights, which hold the names and shapes of its tensors
WAY_OUT = "Start all processes with the same command, config, code and environment, on hosts of one kind."
OTHER_ROWS = "Give all hosts the same data, tokenizer and weights, or a shared folder of them."


def check(stages: Mapping, *, channel: Channel | None) -> None:
    """Compares what the processes are started with; it starts the devices.

    Raises:
      ValueError: in every process, where one differs: it is named, with what differs.
    """
    if channel is not None:
        agreement.check("start", {**_settings(stages), **_code(), **_versions(), **_devices()}, channel=channel, way_out=WAY_OUT)


def check_rows(cfg: ConfigDict, name: str, sets: Sets, prepared: Sequence[str]) -> None:
    """Compares the rows of a stage and the weights that it starts from; errors as `check`.

    Of weights the sizes and the first bytes are compared, which tell one model from another: whole ones would be read twice.

    Args:
      prepared: what a checkpoint records of the rows.
    """
    if (channel := connected()) is None:
        return
    facts = {"rows": ", ".join(prepared), "tokenizer": build.renderer(cfg).identity()}
    for one in sets.all:
        facts |= {f"files of {folder.name}": store.META.digest(folder) for folder in (one.folder.parent, one.folder)}
    agreement.check(f"rows of {name}", facts | _weights(cfg), channel=channel, way_out=OTHER_ROWS)


def watch_of(asked: Run, *, lost_code: int = LOST_CODE) -> Watch:
    """The watch over a process that trains, or checks, the stages that were asked for; `lost_code` as in `Watch`."""
    sections = [cfg.train for cfg in training_stages(asked.stages).values()]
    limits = {}
    if sections:
        stalls = [section.stall_minutes for section in sections]
        limits = {"lost_s": 60 * max(section.lost_minutes for section in sections), "stall_s": None if None in stalls else 60 * max(stalls)}
    channel = connected()
    if channel is not None:
        faulthandler.enable()  # jax aborts where the first process is gone
    return Watch(channel, lost_code=lost_code, **limits)


def _weights(cfg) -> dict[str, str]:
    if cfg.model.checkpoint is None:
        return {}
    source = Source(cfg.model.checkpoint)
    if source.is_run:
        return {"weights": runs.SEAL.digest(source.folder)}
    return {f"weights {file.name}": _beginning(file) for file in sorted(source.folder.glob("*.safetensors"))}


def _beginning(file: Path) -> str:
    with open(file, "rb") as opened:
        return f"{file.stat().st_size} bytes {hashlib.sha256(opened.read(BEGINNING)).hexdigest()[:DIGITS]}"


def _settings(stages) -> dict[str, str]:
    texts = {}
    for stage, cfg in stages.items():
        for key, value in _flat(json.loads(json.dumps(cfg.to_dict(), default=str))):
            if key not in OF_EACH:
                texts[f"{stage}.{key}" if stage else key] = repr(value)
    return texts


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _code() -> dict[str, str]:
    """File of the package -> a hash of its content."""
    root = Path(jaxalign.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".jinja"))
    return {f"jaxalign/{path.relative_to(root)}": hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS] for path in files}


def _versions() -> dict[str, str]:
    texts = {"python": platform.python_version().rpartition(".")[0]}
    for name in PACKAGES:
        try:
            texts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            texts[name] = "missing"
    return texts


def _devices() -> dict[str, str]:
    import jax

    here = jax.local_devices()
    return {"devices": f"{len(here)} x {here[0].device_kind}"}
