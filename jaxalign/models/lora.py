"""Low-rank adapters (LoRA, arXiv 2106.09685) as a part of the parameter tree: params[LORA] beside the decoder's own parts.

A linear map with the kernel W then gives x W + scale (x A) B, with A [*inputs, rank] and B [rank, *outputs] on the logical axes of W, so
that fsdp and tensor split them as they split W. Without params[LORA] the same model is the base: the adapter is off. A starts random and B
as zeros, as in the paper, so a fresh adapter changes nothing, and its first step moves B.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from fnmatch import fnmatchcase
import math
from typing import Any

from flax import struct
import jax

LORA = "lora"  # the top-level key of the params of a model with adapters
A, B = "a", "b"  # of one map, below its path
RANK = "rank"  # logical axis


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What the adapters of a model are.

    Raises:
      ValueError: a rank below 1, an alpha that is not above 0, or no targets.
    """

    rank: int
    alpha: float  # the product is scaled by alpha / rank
    targets: tuple[str, ...] = ("*",)  # patterns of linear maps of a layer, "attention.q" or "q"
    rank_stabilised: bool = False  # scale by alpha / sqrt(rank) (arXiv 2312.03732)

    def __post_init__(self):
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"lora rank={self.rank}, alpha={self.alpha}: both must be above 0; 16 and 32.0 are usual.")
        if not self.targets:
            raise ValueError("lora targets=() adapt no map; '*' is all of them.")

    @property
    def scale(self) -> float:
        """The factor of (x A) B."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@struct.dataclass
class Adapted:
    """The kernel of a linear map with its adapter, in the place of the kernel."""

    kernel: Any
    a: jax.Array
    b: jax.Array
    scale: float = struct.field(pytree_node=False)


def chosen(maps: Sequence[str], targets: Sequence[str]) -> list[str]:
    """The linear maps, named like "attention.q", that a pattern matches, by their whole or their last name.

    Raises:
      ValueError: a pattern that matches none.
    """
    names = {name: (name, name.rpartition(".")[2]) for name in maps}
    matched = {target: [name for name in maps if any(fnmatchcase(one, target) for one in names[name])] for target in targets}
    if idle := [target for target, found in matched.items() if not found]:
        raise ValueError(f"model.lora.targets: {idle[0]!r} is no linear map of this model; there are {', '.join(maps)}, and '*' is all.")
    return [name for name in maps if any(name in found for found in matched.values())]


def declared(
    kernels: Mapping[tuple[str, ...], tuple[tuple[int, ...], tuple[str | None, ...], int]], lora: LoraConfig
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], tuple[str | None, ...], float]]:
    """(path, shape, logical axes, standard deviation) of every A and B.

    A has the variance that the widely used implementation gives it, 1 / (3 inputs).

    Args:
      kernels: path -> shape and axes with the leading axis of layers, and the number of axes that are inputs.
    """
    names = {path: ".".join(path[1:-1]) for path in kernels}
    targets = set(chosen(list(names.values()), lora.targets))
    for path, (shape, axes, inputs) in kernels.items():
        if names[path] in targets:
            end, of_map = 1 + inputs, (LORA, *path[:-1])
            size = math.prod(shape[1:end])
            yield (*of_map, A), (*shape[:end], lora.rank), (*axes[:end], RANK), (3 * size) ** -0.5
            yield (*of_map, B), (shape[0], lora.rank, *shape[end:]), (axes[0], RANK, *axes[end:]), 0.0


def attached(tree: dict[str, Any], adapters: dict[str, Any], scale: float) -> dict[str, Any]:
    """The tree with `Adapted` kernels where there are adapters."""
    if A in adapters:
        return {**tree, "kernel": Adapted(tree["kernel"], adapters[A], adapters[B], scale)}
    return {**tree, **{name: attached(tree[name], below, scale) for name, below in adapters.items()}}


def off(tree: dict[str, Any]) -> dict[str, Any]:
    """The params, or a tree of the same keys, without adapters."""
    return {name: below for name, below in tree.items() if name != LORA}


def maps(tree: dict[str, Any]) -> list[str]:
    """The linear maps of a layer that have adapters in params[LORA], as targets name them: "attention.q"."""
    return sorted({".".join(key.key for key in path[1:-1]) for path, _ in jax.tree.leaves_with_path(tree)})


def size(shapes: dict[str, Any]) -> int | None:
    """How many parameters the adapters have; None where there are none."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes[LORA])) if LORA in shapes else None
