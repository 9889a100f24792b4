"""Keys that this package had under another name: they still work, and a line names the present one."""

from collections.abc import Mapping
import logging
from typing import Any

from jaxalign.config.schema import named_sets

LOG = logging.getLogger(__name__)

FORMER = {
    "batch": {"microbatches": "gradient_accumulation_steps"},
    "data": {"columns": "computed"},
    "model": {"train": "trainable"},
    "optimizer": {"clip_norm": "max_grad_norm", "final_fraction": "min_lr_ratio"},
}
FORMER_OF_SOURCES = {"columns": "rename", "response_columns": "keep_columns"}


def translate(given: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the configuration under present names. A former name beside its present one is left for the check of unknown keys."""
    sections = {key: _renamed(value, FORMER.get(key, {}), key) for key, value in given.items()}
    data = sections.get("data")
    if isinstance(data, Mapping):
        sections["data"] = data | {key: _sources(data[key], f"data.{key}") for key in ("train", "eval") if key in data}
    return sections


def _sources(value, name):
    if isinstance(value, list | tuple):
        return tuple(_renamed(source, FORMER_OF_SOURCES, f"{name}[{i}]") for i, source in enumerate(value))
    if not isinstance(value, Mapping):
        return value
    sets = named_sets(dict(value))
    renamed = {key: _renamed(source, FORMER_OF_SOURCES, f"{name}.{key}" if key else name) for key, source in sets.items()}
    return renamed[""] if renamed.keys() == {""} else renamed


def _renamed(section, names, name):
    if not isinstance(section, Mapping):
        return section
    present = {}
    for key, value in section.items():
        now = names.get(key, key)
        if now != key and now in section:
            now = key
        if now != key:
            LOG.warning("%s.%s is now called %s.%s; the former name still works.", name, key, name, now)
        present[now] = value
    return present
