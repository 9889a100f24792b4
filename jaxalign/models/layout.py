"""Where the tokens of activations lie: [R, T, ...] by row, or [N, ...] with N = R * T, the layout of the dense layers.

N lies on the logical axis WHOLE, or on SPREAD between linear maps, where every device along "tensor" has a part of the tokens.
"""

import math

import jax

from jaxalign import sharding

Array = jax.Array
WHOLE, SPREAD = "all_tokens", "spread_tokens"


def merge_rows(x: Array) -> Array:
    """[R, T, ...] -> [N, ...] on WHOLE: one matrix product over all tokens is the fastest on every backend.

    Where tokens are split, every device merges its own part; the order of the whole is then that of the devices.
    """
    rest = tuple(jax.typeof(x).sharding.spec[2:])
    if jax.typeof(x).sharding.spec[1] is None:
        return x.reshape(-1, *x.shape[2:], out_sharding=sharding.rows_spec(1) + rest)
    in_specs, out_specs = sharding.spec("rows", "tokens") + rest, sharding.spec(WHOLE) + rest
    return jax.shard_map(lambda x: x.reshape(-1, *x.shape[2:]), in_specs=in_specs, out_specs=out_specs)(x)


def split_rows(x: Array, rows: int) -> Array:
    """[N, ...] on WHOLE -> [R, T, ...], what `merge_rows` undoes.

    The partition is explicit: a bare reshape would share axes between R and T.
    """
    by_row, rest = sharding.rows_spec(1), tuple(jax.typeof(x).sharding.spec[1:])
    if not by_token(x):
        return x.reshape(rows, -1, *x.shape[1:], out_sharding=by_row + (None,) + rest)
    here = rows // math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in sharding.mesh_axes("rows"))
    in_specs, out_specs = sharding.spec(WHOLE) + rest, sharding.spec("rows", "tokens") + rest
    return jax.shard_map(lambda x: x.reshape(here, -1, *x.shape[1:]), in_specs=in_specs, out_specs=out_specs)(x)


def by_token(x: Array) -> bool:
    """Whether the tokens of a row lie on several devices along context in x [N, ...]."""
    return bool(set(sharding.mesh_axes("tokens")) & set(sharding.axis_names(jax.typeof(x).sharding.spec[0])))


def axis_for(count: int) -> str:
    """The axis of so many tokens between linear maps: SPREAD where they divide."""
    parts = math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in sharding.mesh_axes(SPREAD))
    return WHOLE if count % parts else SPREAD


def axis_of(x: Array) -> str:
    """The axis of the tokens of x [N, ...]."""
    return SPREAD if set(sharding.axis_names(jax.typeof(x).sharding.spec[0])) - set(sharding.RULES[WHOLE]) else WHOLE


def lay(x: Array, axis: str) -> Array:
    """x [N, ...] with its tokens on this axis."""
    if axis_of(x) == axis:
        return x
    return jax.reshard(x, sharding.spec(axis) + tuple(jax.typeof(x).sharding.spec[1:]))
