"""The configuration that a run stored, perhaps by an earlier version, whose rules were others than those for what a person writes today."""

from collections.abc import Collection, Mapping
import copy
import logging
from typing import Any

from jaxalign.config import former, idle, sections

LOG = logging.getLogger(__name__)


def settled(stored: Mapping[str, Any], *, typed: Collection[str] = ()) -> dict[str, Any]:
    """A copy of the configuration under present names, in which keys without effect have their defaults; a line names each of them.

    Args:
      stored: of a run's checkpoint, with the overrides of the command line.
      typed: the keys of these overrides, "data.eval.path"; what a person typed is left as it is, for `resolve` to refuse.
    """
    config = former.translate(copy.deepcopy(dict(stored)))
    checked, bad = sections.check(copy.deepcopy(config))
    if isinstance(config.get("model", {}).get("lora"), Mapping):  # its keys are fewer in earlier versions
        config["model"]["lora"] = {**checked["model"]["lora"], **config["model"]["lora"]}
    for name in idle.SECTIONS.keys() - bad.keys():
        for place, own in zip(idle.places(checked, name), idle.places(config, name), strict=True):
            for rule in place.idle:
                key = f"{place.name}.{rule.key}"
                if rule.key in own.values and idle.has_no_effect(rule, place.values, place.schema) and not _is_typed(key, typed):
                    LOG.warning("the run stored %s=%r, which has no effect %s: it is passed over.", key, own.values[rule.key], rule.beside)
                    own.values[rule.key] = place.schema[rule.key].default
    return config


def _is_typed(key, typed):
    return any(key == whole or key.startswith(f"{whole}.") for whole in typed)
