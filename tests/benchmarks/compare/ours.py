"""Our side: the objects of `config.build` for a configuration of the case, fed with the pairs as packed rows."""

from collections.abc import Callable
from functools import partial
from importlib import metadata
import time

import numpy as np

from tests.benchmarks.compare import workload
from tests.benchmarks.compare.cases import Case
from tests.benchmarks.compare.link import Clock, Link, peak_rss

MULTIPLE = {"cpu": 64, "gpu": 128}  # row lengths are multiples of it: a block of attention
RULE = {"dpo": "frozen", "kto": "frozen", "sft": "none"}


def serve(link: Link, asked: dict) -> None:
    """Answers with the losses and times of as many steps as are asked for."""
    started = time.perf_counter()
    import jax

    from jaxalign.config import build
    from jaxalign.data.rows import loader

    case = Case(**asked["case"])
    cfg = configuration(case, asked["folder"], asked["settings"])
    with jax.set_mesh(build.mesh(cfg)):
        imported = time.perf_counter()
        sizes = {"rows": cfg.batch.rows, "multiple": MULTIPLE[asked["device"]]}
        batches, fill = rows_of(case, workload.read(asked["pairs"]), block=asked["block"], **sizes)
        model, made = objects(cfg)
        state = jax.block_until_ready(made.init_state(build.params(cfg, model)))
        loaded = time.perf_counter()
        if case.precomputed:
            batches = with_reference(cfg, model, state, batches)
        first = batches[0]()
        step = made.train_step.lower(state, loader.to_device(first)).compile()
        compiled = time.perf_counter()
        seconds = {"imports": imported - started, "weights": loaded - imported, "compile": compiled - loaded}
        versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
        shape = " x ".join(map(str, first["tokens"].shape))
        rate = {"gemm_flops": gemm_flops()} if asked["device"] == "cpu" else {}
        link.say(seconds=seconds, versions=versions, device=jax.devices()[0].device_kind, rows=shape, fill=fill, **rate)
        ahead = iter(batches)
        while True:
            count = link.ask()
            clock, metrics = Clock(), []
            for _ in range(count):
                state, values = step(state, loader.to_device(next(ahead)()))
                metrics.append(values)
            jax.block_until_ready(state)
            times = clock.read()
            metrics = jax.device_get(metrics)
            link.say(**times, losses=[float(one["loss"]) for one in metrics], **first_logps(metrics[0], case), memory=memory())


def gemm_flops(size: int = 2048, times: int = 5) -> float:
    """FLOP/s of a product of two float32 matrices of this size, the fastest of some."""
    import jax
    import jax.numpy as jnp

    product, square = jax.jit(jnp.matmul), jnp.ones((size, size))
    seconds = []
    for _ in range(1 + times):
        start = time.perf_counter()
        jax.block_until_ready(product(square, square))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def configuration(case: Case, folder: str, settings: dict):
    """The resolved configuration of the case; `settings` (section.key -> value) override it."""
    from ml_collections import ConfigDict

    from jaxalign.config.resolve import resolve

    rule = "precomputed" if case.precomputed else RULE[case.method]
    cfg = ConfigDict(
        dict(
            model=dict(checkpoint=folder, tokenizer=folder, dtype=case.dtype, remat=case.remat),
            data=dict(train=dict(path="pairs"), row_tokens=64),
            batch=dict(rows=case.rows, gradient_accumulation_steps=case.parts),
            objective=dict(name=case.method),
            reference=dict(rule=rule, keep_initial=False),
            optimizer=dict(learning_rate=case.learning_rate, schedule="constant", max_grad_norm=1.0),
            mesh=dict(),
            train=dict(total_steps=1000, eval_every_steps=0, save_every_steps=0),
        )
    )
    if case.rank:
        cfg.model.lora = ConfigDict(dict(rank=case.rank, alpha=2.0 * case.rank))
    for key, value in settings.items():
        section, _, name = key.partition(".")
        cfg[section][name] = value
    return resolve(cfg)


def objects(cfg):
    """(model, functions) of a resolved configuration whose run lasts for its total_steps."""
    from jaxalign.config import build, functions
    from jaxalign.config.durations import Durations

    objective, model = functions.objective(cfg), build.model(cfg)
    steps = cfg.train.total_steps
    lengths = Durations(total=steps, planned=steps, warmup=0, log_every=1, eval_every=0, save_every=0)
    return model, build.functions(cfg, objective, model, lengths)


def rows_of(
    case: Case, steps: list[list[workload.Pair]], *, block: int, rows: int, multiple: int
) -> tuple[list[Callable[[], dict]], float]:
    """(functions that make the arrays of every step, share of the places of what is timed that hold a token).

    A checked step holds its own pairs. Later the pairs of a block of steps go into the rows of the block, packed as `prepare` packs a data
    set, so a step has about its number of pairs; all rows have the least length with which that works.
    """
    from jaxalign.data.rows import pack

    checked = steps[: workload.CHECKED]
    blocks = [sum(steps[at : at + block], []) for at in range(workload.CHECKED, len(steps), block)]
    parts = [(groups(case, pairs), 1) for pairs in checked] + [(groups(case, pairs, of_step=case.pairs), block) for pairs in blocks]
    sizes = [pack.group_tokens(one, share_prompt=True) for one, _ in parts]
    least = max(max(int(size.max()), -(-int(size.sum()) // (rows * count))) for size, (_, count) in zip(sizes, parts, strict=True))
    length = -(-least // multiple) * multiple
    while True:
        plans = [pack.plan_rows(size, row_tokens=length, pack=True) for size in sizes]
        if all(len(plan) <= rows * count for plan, (_, count) in zip(plans, parts, strict=True)):
            break
        length += multiple
    width = max(plan.shape[1] for plan in plans)
    makers = []
    for plan, (one, count) in zip(plans, parts, strict=True):
        whole = np.full((rows * count, width), -1, np.int32)
        whole[: len(plan), : plan.shape[1]] = plan
        # rows come in decreasing order of their groups: every step takes one of each kind
        makers += [partial(pack.assemble, one, whole[i::count], row_tokens=length, share_prompt=True) for i in range(count)]
    timed = range(min(workload.CHECKED, len(sizes) - 1), len(sizes))
    return makers, sum(int(sizes[i].sum()) for i in timed) / (length * rows * sum(parts[i][1] for i in timed))


def groups(case: Case, pairs: list[workload.Pair], *, of_step: int | None = None):
    """The pairs as `pack.Groups`.

    For KTO a group has one answer, good and bad in turn, and the answer of the prompt before it in its step of `of_step` pairs.
    """
    from jaxalign.data.rows import pack

    pieces, scored = [], []
    for pair in pairs:
        for piece, counts in ((pair.prompt, 0), *((answer, 1) for answer in pair.answers)):
            pieces.append(np.asarray(piece, np.int32))
            scored.append(np.full(len(piece), counts, np.uint8))
    offsets = np.cumsum([0, *map(len, pieces)])
    count, answers = len(pairs), case.answers
    reward = np.tile(np.float32([1, 0]), (count, 1)) if answers == 2 else np.float32([[labelled(i)] for i in range(count)])
    donors = None
    if case.method == "kto":
        step, places = of_step or count, np.arange(count)
        before = places // step * step + (places - 1) % step
        donors = np.stack([before, np.zeros(count, int), [len(pairs[i].answers[0]) for i in before]], 1).astype(np.int32)
    arrays = np.concatenate(pieces), np.concatenate(scored), offsets, reward
    return pack.Groups(*arrays, paired=np.full(count, answers == 2), valid=np.ones((count, answers), bool), donors=donors)


def labelled(place: int) -> bool:
    """Whether the answer at this place of a step is a good one, for KTO."""
    return place % 2 == 0


def with_reference(cfg, model, state, batches: list[Callable[[], dict]]) -> list[Callable[[], dict]]:
    """The batches with the column of the reference's log-probs."""
    import jax

    from jaxalign.config import build
    from jaxalign.data.rows import loader
    from jaxalign.training import forward, reference, step

    options = {"dtype": build.dtype(cfg), "remat": build.remat_of(cfg), "attention": cfg.model.attention}
    look = jax.jit(step.make_policy_logps(partial(forward.next_token, model, **options)))

    def whole(make):
        arrays = make()
        arrays["columns"][reference.COLUMN] = np.asarray(look(state, loader.to_device(arrays)))
        return lambda: arrays

    return [whole(make) for make in batches]


def first_logps(metrics: dict, case: Case) -> dict:
    """{"logps": [...]}: mean log-probs of the first step's answers, preferred ones first, where the objective reports them."""
    names = ("logps/chosen", "logps/rejected") if case.answers == 2 else ("logps/responses",)
    return {"logps": [float(metrics[name]) for name in names if name in metrics]}


def memory() -> int:
    """Bytes that were in use at most: of the device, or on CPU of the process."""
    import jax

    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else peak_rss()
