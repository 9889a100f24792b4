"""The attention rule as flash kernels for NVIDIA GPUs, in Pallas with its Triton backend, forward and backward.

Every program owns a block of queries (of keys, for the gradients of keys and values) and meets the blocks that `blocks` lists for it: those
that are seen whole without a mask, then the others under the rule. The soft-max is carried from block to block and the backward pass
computes the scores again from the log-sum-exp of every query (arXiv 2307.08691, algorithms 1 and 2); exponentials are powers of 2.

Why not cuDNN: `jax.nn.dot_product_attention(implementation="cudnn")` takes plain segments by their lengths, and a prompt that several
answers share only as a dense bias [R, H, T, T], which costs what the row costs and not what its groups cost.
"""

from functools import partial
import math

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from jaxalign.models.attention import blocks
from jaxalign.models.attention.gpu_tiles import Tile, Tiles, refusal, tiles_for

__all__ = ["attend_locally", "refusal"]
Array = jax.Array
LOG2_E = math.log2(math.e)
FEWEST_ELEMENTS = 16  # of a head that the matrix units multiply


def attend_locally(
    q: Array,
    k: Array,
    v: Array,
    positions: Array,
    segments: Array,
    prefixes: Array,
    window: Array,
    first: Array | int = 0,
    *,
    softcap: float,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Array:
    """Attention of scaled queries, see `rule.attend`. Scores, soft-max and sums are float32.

    Products of float32 arrays have jax's default precision, that of the matrix units. tiles: shapes of the programs; None: those of
    `tiles_for`. The queries are those of whole rows. interpret runs the kernels as plain operations on any device, for tests.
    """
    length, size = q.shape[1], q.shape[3]
    if tiles is None:
        device = jax.sharding.get_abstract_mesh().abstract_device
        tiles = tiles_for(q.dtype.itemsize, size, device.device_kind if device else None)
    rest = -length % max(max(tile.queries, tile.keys) for tile in tiles)
    more = max(FEWEST_ELEMENTS, pl.next_power_of_2(size)) - size
    q, k, v = (_filled(x, [(0, 0), (0, rest), (0, 0), (0, more)]) for x in (q, k, v))
    positions, segments, prefixes = (_filled(x, [(0, 0), (0, rest)]) for x in (positions, segments, prefixes))
    out = _attention(q, k, v, positions, segments, prefixes, window, softcap, tiles, interpret)
    return out[:, :length, :, :size]


def _filled(x: Array, widths: list[tuple[int, int]]) -> Array:
    return jnp.pad(x, widths) if any(after for _, after in widths) else x


@partial(jax.custom_vjp, nondiff_argnums=(7, 8, 9))
def _attention(q, k, v, positions, segments, prefixes, window, softcap, tiles, interpret):
    return _forward(q, k, v, positions, segments, prefixes, window, softcap, tiles, interpret)[0]


def _forward(q, k, v, positions, segments, prefixes, window, softcap, tiles, interpret):
    marks = positions, segments, prefixes, window
    call = _Call(q, k, marks, tiles.attention, softcap, interpret)
    out, normalizer = call.over_queries(
        _attention_kernel,
        "attention",
        [(q, call.of_queries), (k, call.all_keys), (v, call.all_keys)],
        [(jax.ShapeDtypeStruct(q.shape, q.dtype), call.of_queries), (call.numbers, call.numbers_of_queries)],
    )
    out, normalizer = checkpoint_name(out, blocks.ATTENDED), checkpoint_name(normalizer, blocks.ATTENDED)
    return out, (q, k, v, marks, out, normalizer)


def _backward(softcap, tiles, interpret, saved, gradient):
    q, k, v, marks, out, normalizer = saved
    # d scores = weights (d weights - sum_t weights d weights), and that sum is out . gradient
    mean = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    call = _Call(q, k, marks, tiles.queries, softcap, interpret)
    numbers = [(x, call.numbers_of_queries) for x in (normalizer, mean)]
    (dq,) = call.over_queries(
        _queries_kernel,
        "attention_dq",
        [(q, call.of_queries), (k, call.all_keys), (v, call.all_keys), (gradient, call.of_queries), *numbers],
        [(jax.ShapeDtypeStruct(q.shape, q.dtype), call.of_queries)],
    )
    call = _Call(q, k, marks, tiles.keys, softcap, interpret)
    numbers = [(x, call.numbers_of_group) for x in (normalizer, mean)]
    dk, dv = call.over_keys(
        _keys_kernel,
        "attention_dkv",
        [(q, call.of_group), (k, call.of_keys), (v, call.of_keys), (gradient, call.of_group), *numbers],
        [(jax.ShapeDtypeStruct(x.shape, x.dtype), call.of_keys) for x in (k, v)],
    )
    return dq, dk, dv, None, None, None, None


_attention.defvjp(_forward, _backward)


class _Call:
    """The grid, the blocks of arrays and the lists that the kernels of one tile share.

    Programs stand in a grid of (heads, blocks, rows): those that run at the same time read the same keys, and the longest begin first.
    """

    def __init__(self, q: Array, k: Array, marks: tuple[Array, ...], tile: Tile, softcap: float, interpret: bool):
        positions, segments, prefixes, window = marks
        self.rows, length, self.heads, size = q.shape
        self.kv_heads, group = k.shape[2], q.shape[2] // k.shape[2]
        self.query_blocks, self.key_blocks = length // tile.queries, length // tile.keys
        self.tile, self.interpret, self.options = tile, interpret, {"tile": tile, "softcap": softcap}
        self.seen = blocks.seen(positions, segments, prefixes, window, tile.queries, tile.keys)
        # Padding sees nothing: its segment and its missing prefix become ids that no key has.
        own, shared = jnp.where(segments == 0, -1, segments), jnp.where((prefixes == 0) | (segments == 0), -1, prefixes)
        self.marks = positions, own, shared, segments
        self.window = jnp.where(window == 0, jnp.iinfo(jnp.int32).max, window).reshape(1)
        self.numbers = jax.ShapeDtypeStruct((self.rows, self.heads, length), jnp.float32)  # one per query and head

        last, ratio = self.query_blocks - 1, group
        self.of_queries = pl.BlockSpec((None, tile.queries, None, size), lambda h, i, r: (r, last - i, h, 0))
        self.numbers_of_queries = pl.BlockSpec((None, None, tile.queries), lambda h, i, r: (r, h, last - i))
        self.all_keys = pl.BlockSpec((None, length, None, size), lambda h, i, r: (r, 0, jax.lax.div(h, jnp.int32(ratio)), 0))
        self.of_keys = pl.BlockSpec((None, tile.keys, None, size), lambda h, i, r: (r, i, h, 0))
        self.of_group = pl.BlockSpec((None, length, group, size), lambda h, i, r: (r, 0, h, 0))
        self.numbers_of_group = pl.BlockSpec((None, group, length), lambda h, i, r: (r, h, 0))

    def over_queries(self, kernel, name: str, inputs, outputs) -> list[Array]:
        """Outputs of a kernel whose programs own a block of queries; inputs and outputs are (array, its blocks)."""
        return self._run(kernel, name, self.heads, self.query_blocks, blocks.listed(*self.seen), inputs, outputs, backwards=True)

    def over_keys(self, kernel, name: str, inputs, outputs) -> list[Array]:
        """Outputs of a kernel whose programs own a block of keys of one group of heads."""
        lists = blocks.listed(*(x.swapaxes(1, 2) for x in self.seen))
        return self._run(kernel, name, self.kv_heads, self.key_blocks, lists, inputs, outputs, backwards=False)

    def _run(self, kernel, name, heads, count, lists, inputs, outputs, *, backwards):
        def of_program(h, i, r):
            return r, (count - 1 - i if backwards else i)

        places = pl.BlockSpec((None, None, lists.places.shape[2]), lambda *program: (*of_program(*program), 0))
        number, row = pl.BlockSpec((None, None), of_program), pl.BlockSpec((None, self.numbers.shape[2]), lambda h, i, r: (r, 0))
        arrays = [self.window, *lists, *self.marks, *(x for x, _ in inputs)]
        specs = [pl.BlockSpec((1,), lambda h, i, r: (0,)), places, number, number, row, row, row, row, *(x for _, x in inputs)]
        return pl.pallas_call(
            partial(kernel, **self.options, backwards=backwards),
            grid=(heads, count, self.rows),
            in_specs=specs,
            out_specs=[x for _, x in outputs],
            out_shape=[x for x, _ in outputs],
            compiler_params=triton.CompilerParams(num_warps=self.tile.warps, num_stages=self.tile.stages),
            interpret=self.interpret,
            name=name,
        )(*arrays)


# In the kernels: the window int32[1]; the list of the program's block int32[others] with its two counts; positions, segments of queries,
# prefixes of queries and segments of keys int32[T]. A block of scores is [queries, keys], of the third kernel [keys, queries].


def _attention_kernel(window, places, whole, count, position, own, shared, segment, q, k, v, out, normalizer, *, tile, softcap, backwards):
    block = _block(backwards)
    queries = _queries(block * tile.queries, tile, position, own, shared)
    loaded = q[...]

    def meet(i, carry, *, masked):
        largest, total, attended, other = carry
        keys = pl.ds(other * tile.keys, tile.keys)
        scores, _ = _scores(loaded, k[keys, :], softcap)
        if masked:
            seen = _seen([x[:, None] for x in queries], [x[None] for x in _keys(keys, position, segment)], window[0])
            scores = jnp.where(seen, scores, -jnp.inf)
        new = jnp.maximum(largest, scores.max(1))
        finite = jnp.where(new == -jnp.inf, 0.0, new) if masked else new  # of a query that has seen nothing yet
        powers, kept = jnp.exp2(scores - finite[:, None]), jnp.exp2(largest - finite)
        attended = attended * kept[:, None] + _product(powers.astype(v.dtype), v[keys, :], 1, 0)
        return new, total * kept + powers.sum(1), attended, _next(places, i)

    start = jnp.full(tile.queries, -jnp.inf), jnp.zeros(tile.queries, jnp.float32), jnp.zeros(loaded.shape, jnp.float32)
    largest, total, attended = _over_blocks(meet, places, whole, count, start)
    empty = total == 0.0  # padding
    total = jnp.where(empty, 1.0, total)
    out[...] = (attended / total[:, None]).astype(out.dtype)
    normalizer[...] = jnp.where(empty, 0.0, largest + jnp.log(total) * LOG2_E)


def _queries_kernel(
    window, places, whole, count, position, own, shared, segment, q, k, v, gradient, normalizer, mean, dq, *, tile, softcap, backwards
):
    block = _block(backwards)
    queries = _queries(block * tile.queries, tile, position, own, shared)
    loaded, given, normal, offset = q[...], gradient[...], normalizer[...], mean[...]

    def meet(i, carry, *, masked):
        total, other = carry
        keys = pl.ds(other * tile.keys, tile.keys)
        loaded_keys = k[keys, :]
        scores, slope = _scores(loaded, loaded_keys, softcap)
        if masked:
            seen = _seen([x[:, None] for x in queries], [x[None] for x in _keys(keys, position, segment)], window[0])
            scores = jnp.where(seen, scores, -jnp.inf)
        ds = jnp.exp2(scores - normal[:, None]) * (_product(given, v[keys, :], 1, 1) - offset[:, None])
        ds = ds if slope is None else ds * slope
        return total + _product(ds.astype(k.dtype), loaded_keys, 1, 0), _next(places, i)

    (total,) = _over_blocks(meet, places, whole, count, (jnp.zeros(loaded.shape, jnp.float32),))
    dq[...] = total.astype(dq.dtype)


def _keys_kernel(
    window, places, whole, count, position, own, shared, segment, q, k, v, gradient, normalizer, mean, dk, dv, *, tile, softcap, backwards
):
    block = _block(backwards)
    keys = _keys(pl.ds(block * tile.keys, tile.keys), position, segment)
    loaded, values = k[...], v[...]

    def meet(i, carry, *, masked, head):
        total_keys, total_values, other = carry
        start = other * tile.queries
        rows = pl.ds(start, tile.queries)
        loaded_queries, given = q[rows, head, :], gradient[rows, head, :]
        scores, slope = _scores(loaded, loaded_queries, softcap)
        if masked:
            queries = _queries(start, tile, position, own, shared)
            scores = jnp.where(_seen([x[None] for x in queries], [x[:, None] for x in keys], window[0]), scores, -jnp.inf)
        powers = jnp.exp2(scores - normalizer[head, rows][None])
        total_values += _product(powers.astype(v.dtype), given, 1, 0)
        ds = powers * (_product(values, given, 1, 1) - mean[head, rows][None])
        ds = ds if slope is None else ds * slope
        return total_keys + _product(ds.astype(k.dtype), loaded_queries, 1, 0), total_values, _next(places, i)

    def one_head(head, totals):
        return _over_blocks(partial(meet, head=head), places, whole, count, totals)

    zeros = jnp.zeros(loaded.shape, jnp.float32)
    total_keys, total_values = jax.lax.fori_loop(0, q.shape[1], one_head, (zeros, zeros))
    dk[...], dv[...] = total_keys.astype(dk.dtype), total_values.astype(dv.dtype)


def _block(backwards: bool) -> Array:
    """The number of the block that this program owns."""
    return pl.num_programs(1) - 1 - pl.program_id(1) if backwards else pl.program_id(1)


def _over_blocks(meet, places, whole, count, start: tuple) -> tuple:
    """`start` after `meet`(number, (*carry, block), masked=) of every listed block."""
    # The next block's number is carried, so that its load does not delay those of the block itself.
    carry = jax.lax.fori_loop(0, whole[...], partial(meet, masked=False), (*start, places[0]))
    return jax.lax.fori_loop(whole[...], count[...], partial(meet, masked=True), carry)[:-1]


def _next(places, i: Array) -> Array:
    return places[jnp.minimum(i + 1, places.shape[0] - 1)]


def _product(a: Array, b: Array, along_a: int, along_b: int) -> Array:
    # The highest precision is three products of 10-bit factors: those of the plain units take a minute to compile.
    exact = a.dtype == jnp.float32 and jax.config.jax_default_matmul_precision in ("highest", "float32")
    precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3 if exact else None
    return jax.lax.dot_general(a, b, (((along_a,), (along_b,)), ((), ())), precision, jnp.float32)


def _scores(a: Array, b: Array, softcap: float) -> tuple[Array, Array | None]:
    """(scores in powers of 2, the slope of the cap; None without one)."""
    scores = _product(a, b, 1, 1)
    if not softcap:
        return scores * LOG2_E, None
    # tanh(x) = 1 - 2 / (e^2x + 1)
    capped = 1.0 - 2.0 / (jnp.exp2(scores * (2 * LOG2_E / softcap)) + 1.0)
    return capped * (softcap * LOG2_E), 1.0 - capped * capped


def _queries(start: Array, tile: Tile, position, own, shared) -> list[Array]:
    """Index, position, segment and prefix of a block of queries."""
    places = pl.ds(start, tile.queries)
    return [start + jnp.arange(tile.queries, dtype=jnp.int32), position[places], own[places], shared[places]]


def _keys(places, position, segment) -> list[Array]:
    """Index, position and segment of a block of keys."""
    return [places.start + jnp.arange(places.size, dtype=jnp.int32), position[places], segment[places]]


def _seen(queries: list[Array], keys: list[Array], window: Array) -> Array:
    """The rule."""
    (index, position, own, shared), (key_index, key_position, segment) = queries, keys
    return (key_index <= index) & ((segment == own) | (segment == shared)) & (position - key_position < window)
