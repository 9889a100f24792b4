"""A tiny configuration of DPO to plan, whose data nobody reads."""

from ml_collections import ConfigDict

from jaxalign.config import planning
from jaxalign.config.resolve import resolve
from jaxalign.planning import topology
from jaxalign.planning.topology import Topology


def config(**sections) -> ConfigDict:
    """The configuration, with sections in the place of its own."""
    return ConfigDict(
        dict(
            model=dict(preset="tiny", tokenizer="none"),
            data=dict(train=dict(path="none.jsonl"), row_tokens=64),
            batch=dict(rows=16),
            objective=dict(name="dpo"),
            optimizer=dict(learning_rate=1e-3),
            train=dict(total_steps=20),
        )
        | sections
    )


def job(where: str | Topology = "v5e:2x4", **sections) -> planning.Job:
    """Its job on a topology."""
    chips = topology.parse(where) if isinstance(where, str) else where
    return planning.job(resolve(config(**sections)), chips, name="test", preset=None, price=None)
