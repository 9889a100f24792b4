"""Small models, batches and steps for the tests of the train step: random weights and random text of uneven lengths."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxalign import sharding
from jaxalign.data.rows import pack
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.models.lora import LoraConfig
import jaxalign.objectives
from jaxalign.training import forward, reference, step
from jaxalign.types import Batch

OBJECTIVES = sorted(path.stem for path in pathlib.Path(jaxalign.objectives.__file__).parent.glob("*.py") if path.stem != "__init__")
RESPONSES = 2
READ = {key for name in OBJECTIVES for key in jaxalign.objectives.bind(name).reads}
COLUMNS = tuple(sorted(key.removeprefix("columns.") for key in READ if key.startswith("columns.")))
TOKEN_COLUMNS = tuple(sorted(key.removeprefix("token_columns.") for key in READ if key.startswith("token_columns.")))

CONFIG = ModelConfig(
    family="qwen3", vocab_size=61, width=32, layers=2, heads=8, kv_heads=4, head_dim=4, mlp_width=48, max_positions=256,
    norm_eps=1e-5, qkv_bias=True, qk_norm=True,
)  # fmt: skip
LORA = LoraConfig(rank=3, alpha=2.0)


@functools.cache
def model(config: ModelConfig = CONFIG) -> models.Model:
    return models.build(config)


def params(seed: int, config: ModelConfig = CONFIG) -> dict:
    """Random host parameters; norms too, so that no weight is at a special value. Rows beyond the vocabulary are zeros."""
    draw = np.random.default_rng(seed)

    def leaf(shape, start, axes):
        values = start[0] + 0.3 * draw.standard_normal(shape.shape)
        if axes[0] == "vocab":
            values[config.vocab_size :] = 0
        return values.astype(np.float32)

    built = model(config)
    return jax.tree.map(leaf, built.shapes, built.starts, built.axes)


def groups(count: int, seed: int, *, vocab_size: int = CONFIG.vocab_size) -> pack.Groups:
    """Pairs of uneven lengths. Group 0 has a prompt of one token, group 1 no second response; group 2 has unscored response tokens.

    Every third group is judged one by one; every group has a response of another prompt, and numbers in all columns that objectives read,
    in those of tokens from a generator of their own; log-probs are about those of the light model.
    """
    draw = np.random.default_rng(seed)
    pieces, scored = [], []
    for g in range(count):
        lengths = [1 if g == 0 else draw.integers(2, 9), *draw.integers(1, 11, RESPONSES)]
        if g == 1:
            lengths[2] = 0
        for k, length in enumerate(lengths):
            pieces.append(draw.integers(1, vocab_size, length))
            mask = np.full(length, k > 0)
            if g == 2 and k:
                mask[: length // 2] = False
            scored.append(mask)
    valid = np.ones((count, RESPONSES), bool)
    valid[1, 1] = False
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    donors = np.stack([(np.arange(count) + 3) % count, np.zeros(count, int), np.minimum(np.roll(np.diff(offsets)[1::3], -3), 4)], 1)
    donated, apart = int(donors[:, 2].sum()), np.random.default_rng([seed, 1])
    of_tokens = {}
    for name in TOKEN_COLUMNS:
        centre, spread = (-4.0, 0.5) if name.endswith("logps") else (0.0, 1.0)
        for of, size in ((name, int(offsets[-1])), (f"{name}@{pack.MISMATCHED}", donated)):
            of_tokens[of] = (centre + spread * apart.standard_normal(size)).astype(np.float32)
    return pack.Groups(
        tokens=np.concatenate(pieces).astype(np.int32),
        scored=np.concatenate(scored).astype(np.uint8),
        offsets=offsets,
        reward=draw.random((count, RESPONSES)).astype(np.float32),
        paired=np.arange(count) % 3 != 2,
        valid=valid,
        donors=donors.astype(np.int32),
        columns={name: draw.standard_normal((count, RESPONSES)).astype(np.float32) for name in COLUMNS} | of_tokens,
    )


def mesh(shape: tuple[int, ...] = (1, 1, 1)):
    """Devices on a torus whose sides are 2: fsdp = 8 is 4 x 2 of its mesh axes. The sizes are those of data, fsdp, tensor and context."""
    context = shape[3] if len(shape) > 3 else 1
    return sharding.make_mesh(*shape[:3], devices=jax.devices()[: int(np.prod(shape))], context=context, torus=(2, 2, 2))


def place(arrays: dict[str, np.ndarray]) -> Batch:
    """The batch on the mesh in scope."""
    return Batch(**jax.tree.map(lambda x: jax.device_put(x, sharding.named(sharding.rows_spec(x.ndim))), arrays))


def place_params(values: dict, config: ModelConfig = CONFIG) -> dict:
    """The parameters on the mesh in scope."""
    return jax.tree.map(lambda x, partition: jax.device_put(x, sharding.named(partition)), values, models.shardings(model(config)))


def keep_gradient(learning_rate: float = 0.1) -> optax.GradientTransformation:
    """Gradient descent whose state is the last gradient: `state.opt_state[0].trace`."""
    return optax.chain(optax.trace(decay=0.0), optax.scale_by_learning_rate(learning_rate))


def objective(name: str):
    """(function, REQUIRES) of the objective in the file of this name."""
    module = importlib.import_module(f"jaxalign.objectives.{name}")
    return getattr(module, name), module.REQUIRES


@functools.cache
def headed_model(*, lora: bool = False) -> models.Model:
    """The model of CONFIG with a value head, a reward head and a critic, and with adapters of LORA."""
    return models.build(CONFIG, ValueHeadConfig(heads=4), "linear", critic="linear", lora=LORA if lora else None)


def headed_params(seed: int, *, lora: bool = False) -> dict:
    """Random parameters of `headed_model` on the mesh in scope."""
    built, draw = headed_model(lora=lora), np.random.default_rng(seed + 100)
    added = [name for name in (*models.HEADS, models.LORA) if name in built.shapes]
    heads = {name: jax.tree.map(lambda shape: 0.3 * draw.standard_normal(shape.shape), built.shapes[name]) for name in added}
    values = {**params(seed), **heads}
    return jax.tree.map(lambda x, p: jax.device_put(x.astype(np.float32), sharding.named(p)), values, models.shardings(built))


def looks(kind: str, *, lora: bool = False):
    """A forward of the headed model, by its name."""
    options = {"train_embeddings": True, "mixing": 0.3} if kind == "two_pass" else {}
    return functools.partial(forward.FORWARDS[kind], headed_model(lora=lora), dtype=jnp.float32, remat="none", attention="xla", **options)


def statistics(name: str) -> tuple[str, ...]:
    """What the objective carries from step to step."""
    return jaxalign.objectives.bind(name).statistics_names


def next_token(config: ModelConfig = CONFIG, *, dtype=jnp.float32, remat: str = "none"):
    return functools.partial(forward.next_token, model(config), dtype=dtype, remat=remat, attention="xla")


def make_step(name: str, *, microbatches: int = 1, optimizer=None, config: ModelConfig = CONFIG, **options):
    """The train step of an objective, by its file name."""
    rule = reference.RULES["frozen" if "reference" in objective(name)[1] else "none"].bind()
    optimizer = optimizer or keep_gradient()
    bound, schedule = jaxalign.objectives.bind(name), optax.constant_schedule(0.1)
    return step.make_train_step(next_token(config, **options), bound, rule, optimizer, schedule, microbatches=microbatches)


def make_state(name: str, *, optimizer=None, config: ModelConfig = CONFIG, same: bool = False):
    """The state before the first step; policy and reference have different weights unless `same`."""
    with_reference = "reference" in objective(name)[1]
    state = step.init_state(
        place_params(params(0, config), config),
        optimizer or keep_gradient(),
        rule=reference.RULES["frozen" if with_reference else "none"],
        seed=0,
        statistics=statistics(name),
    )
    return state if same or not with_reference else state.replace(reference=place_params(params(1, config), config))
