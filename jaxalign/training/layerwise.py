"""An update whose moments rest in the memory of the host: layer by layer, so that the device holds those of one layer at a time.

All rules of `optim` but adafactor treat every layer by itself, so the numbers are those of an update of the whole, up to what one program
rounds once and another twice. What is in no layer, as tables are, is brought whole.
"""

import jax
import optax

from jaxalign import offload


def layer_by_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same rule with the same state, whose arrays it leaves in the memory where they lie.

    A program that brought all moments at once would hold them beside parameters and gradients, as if none rested on the host: a compiler
    starts such copies as early as it can. A loop brings what it needs.
    """

    def update(gradients, state, params=None):
        depth = _depth(gradients)
        direct, whole = (_parts(tree, depth, stacked=False) for tree in (gradients, state)), _parts(params, depth, stacked=False)
        updates, after = _update(rule, *direct, whole)
        if depth is None:
            return updates, after
        given = _parts(params, depth, stacked=True)

        def one_layer(layer, carry):
            slices = jax.tree.map(lambda x: _at(x, layer), (*carry, given))
            return jax.tree.map(lambda x, new: _put(x, new, layer), carry, _update(rule, *slices))

        layers = jax.lax.fori_loop(0, depth, one_layer, tuple(_parts(tree, depth, stacked=True) for tree in (gradients, state)))
        return tuple(jax.tree.map(_either, *pair, is_leaf=_is_masked) for pair in zip((updates, after), layers, strict=True))

    return optax.GradientTransformation(rule.init, update)


def _update(rule, gradients, state, params):
    updates, after = rule.update(gradients, offload.on_device(state), params)
    return updates, offload.put_back(after, state)


def _depth(tree) -> int | None:
    """How many layers are stacked; None where there are none."""
    return next((len(x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if offload.in_layers(path)), None)


def _parts(tree, depth, *, stacked: bool):
    """The tree with what is stacked to this depth, or with the rest, and optax's mark in the places of the others; scalars are in both."""

    def part(path, x):
        is_stacked = bool(x.ndim) and offload.in_layers(path) and len(x) == depth
        return x if is_stacked == stacked or not x.ndim else optax.MaskedNode()

    return jax.tree_util.tree_map_with_path(part, tree)


def _at(x, layer):
    return jax.lax.dynamic_slice_in_dim(x, layer, 1) if x.ndim else x


def _put(x, new, layer):
    # every layer sees the counts of the step before; those of the rest are the ones that count on
    return jax.lax.dynamic_update_slice_in_dim(x, new, layer, 0) if x.ndim else x


def _is_masked(x) -> bool:
    return isinstance(x, optax.MaskedNode)


def _either(first, second):
    return second if _is_masked(first) else first
