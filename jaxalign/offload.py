"""Parts of a train state that rest in the memory of the host, pinned, and come to a device where they are read.

The memory that an array lies in is part of its type, like its partition: a step moves what rests on the host (`on_device`) and puts back
what it replaces (`put_back`), and needs no option for it. What rests there is a pinned copy of each device's own part, so the host of a
device holds as many bytes as the device is spared.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxalign.types import TrainState

FIELDS = {"reference": ("reference", "initial"), "optimizer": ("opt_state",)}  # part -> fields of the train state
KIND = "pinned_host"


def check(parts: Sequence[str], device) -> None:
    """Raises ValueError where the memory of the host cannot be used from this device."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if parts and KIND not in kinds:
        raise ValueError(
            f"mesh.offload={tuple(parts)!r} needs memory of kind {KIND!r}, and {device.device_kind} has {', '.join(kinds)}; leave it out, "
            "or use a TPU or a GPU."
        )


def place(state: TrainState, parts: Sequence[str]) -> TrainState:
    """The state with these parts in the memory of the host, also inside jit."""
    return state.replace(**{name: on_host(getattr(state, name)) for part in parts for name in FIELDS[part]})


def described(state: TrainState, parts: Sequence[str]) -> TrainState:
    """The same of a state of shapes with shardings: `jax.eval_shape` does not return the memory that an array lies in."""

    def moved(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind(KIND))

    return state.replace(**{name: _matrices(moved, getattr(state, name)) for part in parts for name in FIELDS[part]})


def on_host(tree: Any) -> Any:
    """The tree with its matrices in the memory of the host."""
    return _matrices(_to_host, tree)


def on_device(tree: Any) -> Any:
    """The tree with all of its arrays in the memory of the devices."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device) if is_on_host(x) else x, tree)


def but_layers_on_device(params: Any) -> Any:
    """The same of parameters, but for their stacked layers, which a forward pass brings one at a time."""

    def moved(path, x):
        return x if _names(path)[:1] == ["layers"] else on_device(x)

    return jax.tree_util.tree_map_with_path(moved, params)


def put_back(tree: Any, before: Any) -> Any:
    """The arrays of a tree, each in the memory that its predecessor in a tree of the same shape lies in."""
    return jax.tree.map(lambda x, old: _to_host(x) if is_on_host(old) else x, tree, before)


def in_layers(path: tuple) -> bool:
    """Whether the array at this path of parameters, or of their moments, is a stack of layers."""
    return "layers" in _names(path)


def is_on_host(x: jax.Array) -> bool:
    """Whether an array, or a tracer of one, lies in the memory of the host."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def _to_host(x):
    return x if is_on_host(x) else jax.device_put(x, jax.memory.Space.Host)


def _matrices(move, tree):
    """The tree with its matrices moved, those of moments and of stacked layers too. What is left is small, and a TPU would have the host
    itself slice it: a round trip for every layer."""

    def moved(path, x):
        return move(x) if x.ndim - in_layers(path) > 1 and "bias" not in _names(path) else x

    return jax.tree_util.tree_map_with_path(moved, tree)


def _names(path):
    return [getattr(key, "key", None) for key in path]
