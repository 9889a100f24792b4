"""What a summary contains beside the metrics: the data, the machine, the versions."""

from importlib import metadata
import platform
from typing import Any

import jax

from jaxalign.data.raw.counts import Counts
from jaxalign.data.rows.store import Prepared
from jaxalign.reports import flops

PACKAGES = ("jaxalign", "jax", "jaxlib", "optax", "orbax-checkpoint")


def of_set(prepared: Prepared) -> dict[str, Any]:
    """A prepared set: its source, rows read and kept, what each rule did, and what is left of it."""
    meta, counts = prepared.meta, Counts.from_dict(prepared.meta["counts"])
    rules = sorted(counts.rules.items(), key=lambda item: -item[1].rows)
    return {
        "source": meta["name"],
        "format": meta["format"],
        "read": counts.read,
        "kept": counts.kept,
        "rules": [f"{rule.effect} {rule.rows:,} by {name}" for name, rule in rules],
        "prompts": len(prepared.groups),
        "pairs": int(prepared.groups.paired.sum()),
        "tokens": meta["tokens"],
        "fill": meta["fill"],
    }


def of_machine() -> dict[str, str]:
    """Devices, the most memory in use so far, and versions."""
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}, in {jax.process_count()} process(es)",
        "peak memory": f"{flops.peak_memory_bytes() / 2**30:.2f} GiB",
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
    }


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "not installed"
