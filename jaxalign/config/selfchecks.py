"""The checks of `jaxalign.selfcheck` on a configuration: its own model, its own first rows, its own mesh."""

from collections.abc import Iterator, Mapping
import dataclasses
from functools import partial
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from jaxalign import sharding
from jaxalign.checking import cheap, costly, steps, texts
from jaxalign.checking.verdicts import Verdict, skipped
from jaxalign.config import build, computed, functions, planned, remat, teacher
from jaxalign.config.durations import durations
from jaxalign.config.prepared import prepared_sets, training_sources
from jaxalign.config.sets import check_rows
from jaxalign.data.prepared import judgements
from jaxalign.data.raw import sources
from jaxalign.data.rows import loader, pack
from jaxalign.data.rows.store import Prepared
from jaxalign.hf import save, trained
from jaxalign.hosts import watch
from jaxalign.hparams import hparams_of
from jaxalign.models import model as models
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.stopping import Stopping
from jaxalign.training import checkpoint, forward, reference
from jaxalign.training.sources import Source

PARTS = 2  # microbatches that one part is compared with
LEAST_ROWS = 4  # that are used
ONE_DEVICE = 2e9  # parameters up to which one device is tried against the mesh
NEW_TOKENS, PROMPTS = 16, 4  # that the sampler draws
NOISY = ("mixing_noise", "mixing_warmup_steps")  # options of a forward pass that differ from step to step
LAYOUT = "the attention rule, positions or the prompt's share in the loss depend on how rows are laid out"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is checked: a configuration with its model and its first rows, on the mesh in scope."""

    cfg: ConfigDict
    model: models.Model
    sets: object  # config.prepared.Sets
    groups: np.ndarray  # of the first training set, those in the rows that are used
    arrays: Mapping  # of these rows, as from `pack.assemble`

    @property
    def prepared(self) -> Prepared:
        """The first training set."""
        return self.sets.train[0]


def case(cfg: ConfigDict) -> Case:
    """The case of a resolved configuration. Needs a mesh in scope.

    Raises:
      ValueError: it has no training rows of its own, or what a run would refuse.
    """
    if not training_sources(cfg):
        raise ValueError("data.train is None: there are no rows to check; name some in data.train for the self-check.")
    objective, model = functions.objective(cfg), build.model(cfg)
    sets = prepared_sets(cfg)
    cfg = cfg.copy_and_resolve_references()  # a run that follows chooses for itself
    remat.settle(cfg, model)
    check_rows(cfg, objective, model, sets.all)
    sets = computed.with_columns(cfg, sets)
    prepared = sets.train[0]
    plan = _rows(prepared.plan, max(unit() * PARTS, LEAST_ROWS))
    options = {"row_tokens": prepared.row_tokens, "share_prompt": prepared.share_prompt}
    arrays = _with_reference(cfg, pack.assemble(prepared.groups, plan, **options))
    return Case(cfg, model, sets, plan[plan >= 0], arrays)


def unit() -> int:
    """Rows that the mesh in scope divides."""
    sizes = sharding.mesh_shape()
    return sizes["data"] * sizes["fsdp"]


def subject(one: Case, params) -> steps.Subject:
    """The case's own step with these parameters, which are consumed."""
    cfg, objective = one.cfg, functions.objective(one.cfg)
    kind = forward.FORWARDS[cfg.forward.name]
    options = functions.options(cfg, "forward") | ({"seed": cfg.seed} if "seed" in hparams_of(kind) else {})
    look = partial(kind, one.model, remat=build.remat_of(cfg), attention=cfg.model.attention, **options)
    theirs = teacher.look(cfg)
    made = build.functions(cfg, objective, one.model, planned.LENGTHS)
    state = made.init_state(params, optimizer=steps.recorder(), keep_initial=False, source=lambda: None, on_host=())
    exact = theirs and partial(theirs, dtype=jnp.dtype("float32"))
    return steps.Subject(
        partial(look, dtype=build.dtype(cfg)), partial(look, dtype=jnp.dtype("float32")), exact, objective, teacher.seated(cfg, state)
    )


def cheap_half(one: Case) -> Iterator[Verdict]:
    """Checks that need no gradient, as they are done."""
    yield from _of_texts(one)
    mine, mesh, cfg = subject(one, _params(one)), sharding.mesh_shape(), one.cfg
    yield cheap.layout(mine.state.trainable, "parameters", mesh)
    if jax.tree.leaves(mine.state.reference):
        yield cheap.layout(mine.state.reference, "reference", mesh)
    rule = reference.RULES[cfg.reference.rule]
    if "no_logps" not in mine.objective.reads:
        recorded = rule.holds == "logps" and not rule.moves
        yield cheap.start(mine, one.arrays, holds=rule.holds, separate=rule.separate, recorded=recorded)
        yield cheap.repeats(mine, one.arrays, noisy=any(cfg.forward.get(key) for key in NOISY))
        yield cheap.likelihood(mine, one.arrays, one.model.config.vocab_size)
        if build.dtype(cfg) != jnp.float32:
            yield cheap.drift(mine, one.arrays, str(build.dtype(cfg)))


def costly_half(one: Case, scratch: Path) -> Iterator[Verdict]:
    """Checks of gradients, whole steps, checkpoints, exports and the sampler, as they are done.

    Args:
      scratch: an empty folder that all processes see.
    """
    mine = subject(one, _params(one))
    baseline = mine.measure(one.arrays), steps.copied(mine.gradient)
    yield from _layouts(one, mine, baseline)
    cause = "a part's mean is averaged: sums and weights must be added up over the parts, and divided once"
    yield costly.same_gradient(mine, f"1 x {PARTS} microbatches = {PARTS} x 1", baseline, one.arrays, cause, parts=PARTS)
    yield _against_one_device(one, mine, baseline)
    if "no_logps" not in mine.objective.reads:
        yield costly.finite_difference(mine, one.arrays)
        yield _sampler(one, mine)
    yield _export(one, mine, scratch / "export")
    del mine, baseline
    yield from _whole_steps(one, scratch / "run")


def _params(one):
    watch.at("the weights of the self-check", limited=False)
    params = build.params(one.cfg, one.model)
    watch.at("the self-check")
    return params


def _of_texts(one):
    cfg, prepared = one.cfg, one.prepared
    responses = texts.pieces(prepared, one.groups.tolist())
    renderer = build.renderer(cfg)
    stop_ids = {*trained.stop_ids(renderer, build.tokenizer_folder(cfg)), renderer.stop_id}
    if cfg.data.response_truncation == "drop":
        yield texts.end_once(responses, stop_ids)
    if cfg.data.reasoning != "keep":
        yield skipped("trained tokens are the response", "data.reasoning changes the text")
        return
    source = sources.given(training_sources(cfg)[0])
    options = judgements(source) | {"chat": renderer.template is not None}
    options["keep_columns"] = dict(options["keep_columns"])
    options["base"] = prepared.meta.get("base")
    how = {"stop_ids": stop_ids, "decode": renderer.tokenizer.decode_after, "train_turns": cfg.data.train_turns}
    yield texts.trained_text(prepared, responses, sources.read(source), options=options, **how)


def _layouts(one, mine, baseline):
    groups, prepared, members = one.prepared.groups, one.prepared, one.groups
    shared = prepared.share_prompt
    alone = _filled(members[:, None], -(-len(members) // unit()) * unit())
    arrays = pack.assemble(groups, alone, row_tokens=prepared.row_tokens, share_prompt=shared)
    yield costly.same_gradient(mine, "packed = one group per row", baseline, _with_reference(one.cfg, arrays), LAYOUT)
    sizes = pack.group_tokens(groups, share_prompt=not shared)[members]
    context = sharding.mesh_shape()["context"]
    tokens = -(-max(prepared.row_tokens, int(sizes.max())) // context) * context
    plan = pack.plan_rows(sizes, row_tokens=tokens, pack=True)
    plan = _filled(np.where(plan >= 0, members[plan], -1), -(-len(plan) // unit()) * unit())
    arrays = pack.assemble(groups, plan, row_tokens=tokens, share_prompt=not shared)
    yield costly.same_gradient(mine, "prompt shared = prompt repeated", baseline, _with_reference(one.cfg, arrays), LAYOUT)


def _against_one_device(one, mine, baseline) -> Verdict:
    name, count = "mesh = one device", sum(x.size for x in jax.tree.leaves(one.model.shapes))
    if jax.device_count() == 1:
        return skipped(name, "there is one device")
    if count > ONE_DEVICE:
        return skipped(name, "the model is too large for one device")
    norms = np.array([float(x) for x in steps.leaf_norms(baseline[1])])
    with jax.set_mesh(sharding.make_mesh(devices=jax.local_devices()[:1])):  # of every process, which do the same side by side
        alone = subject(one, _params(one))
        metrics = alone.measure(one.arrays)
        theirs = np.array([float(x) for x in steps.leaf_norms(alone.gradient)])
    loss = abs(metrics["loss"] - baseline[0]["loss"]) / max(abs(baseline[0]["loss"]), 1e-6)
    apart = float(np.abs(norms - theirs).max() / max(theirs.max(), 1e-30))
    return costly.close(name, max(loss, apart), costly.SAME, "a sum over devices is missing or done twice")


def _sampler(one, mine) -> Verdict:
    if sharding.mesh_shape()["context"] > 1:
        return skipped("sampler = forward pass", "nothing is sampled on a mesh that splits the tokens of a row")
    prompts = list(dict.fromkeys(tuple(one.prepared.groups.piece(group, 0)[0].tolist()) for group in one.groups.tolist()))
    room = one.model.config.max_positions - NEW_TOKENS
    prompts = [ids for ids in prompts if len(ids) <= room][:PROMPTS]
    if not prompts:
        return skipped("sampler = forward pass", "no prompt leaves room for an answer")
    renderer = build.renderer(one.cfg)
    sampler = Sampler(
        one.model, law=Law(), stopping=Stopping(NEW_TOKENS, ids=(renderer.stop_id,)), seed=one.cfg.seed, places=len(prompts), lanes=1,
        dtype=jnp.dtype("float32"), attention=one.cfg.model.attention,
    )  # fmt: skip
    with jax.default_matmul_precision(steps.PRECISION):
        drawn = list(sampler.draw(models.without_head(mine.params), prompts, samples=1))
    rows, length = -(-len(drawn) // unit()) * unit(), max(len(prompts[one.prompt]) + len(one.token_ids) for one in drawn)
    arrays = pack.empty_batch(rows, groups=1, responses=1, row_tokens=length)
    places = []
    for row, sample in enumerate(drawn):
        ids = [*prompts[sample.prompt], *sample.token_ids.tolist()]
        arrays["tokens"][row, : len(ids)], arrays["positions"][row, : len(ids)] = ids, np.arange(len(ids))
        arrays["segments"][row, : len(ids)] = 1
        arrays["slots"][row, len(prompts[sample.prompt]) : len(ids)] = 0
        places.append((row, slice(len(prompts[sample.prompt]), len(ids))))
    logps = mine.logps(arrays)
    return costly.samples([(sample.token_ids, sample.logps) for sample in drawn], [logps[place] for place in places])


def _export(one, mine, written: Path) -> Verdict:
    tokenizer = build.tokenizer_folder(one.cfg)
    params = mine.params if one.model.reward_head is not None else models.without_head(mine.params)
    params = {name: tree for name, tree in params.items() if name not in (models.VALUE_HEAD, models.CRITIC)}
    if one.model.features is not None or one.model.lora is not None or "no_logps" in mine.objective.reads:
        return skipped("export round trip", "such a model is kept in the run's checkpoints, or merged")

    def load(path):
        built = models.build(one.model.config, reward_head=build.reward_head(one.cfg))
        return Source(str(path)).load(built)

    return costly.exports(lambda path: save.save(path, one.model, params, tokenizer_from=tokenizer), load, params, written)


def _whole_steps(one, scratch: Path):
    cfg, objective = one.cfg, functions.objective(one.cfg)
    lengths = durations(cfg, one.sets.train)
    made = build.functions(cfg, objective, one.model, lengths)
    state = teacher.seated(cfg, made.init_state(_params(one)))
    yield cheap.layout(state.opt_state, "optimizer", sharding.mesh_shape())
    parts = cfg.batch.gradient_accumulation_steps
    rows = unit() * parts
    plan = _filled(one.prepared.plan[:rows], rows)
    options = {"row_tokens": one.prepared.row_tokens, "share_prompt": one.prepared.share_prompt}
    batch = loader.shared(_with_reference(cfg, pack.assemble(one.prepared.groups, plan, **options)))
    rule, due = cfg.reference.rule, reference.RULES[cfg.reference.rule].moves and lengths.every == 1
    found, state, _ = costly.reference_stays(made.train_step, state, batch, rule=rule, due=due)
    yield found
    record = checkpoint.run_record(cfg.to_dict(), one.model, build.tokenizer_folder(cfg), step=1, prepared=[])
    found, _ = costly.resumes(made.train_step, state, batch, record, scratch)
    yield found


def _with_reference(cfg, arrays) -> dict:
    """The batch with a column of zeros for log-probs that the run itself would compute on the way."""
    rule = reference.RULES[cfg.reference.rule]
    if rule.holds == "logps" and reference.COLUMN not in arrays["columns"]:
        arrays["columns"][reference.COLUMN] = np.zeros(arrays["tokens"].shape, np.float32)
    return arrays


def _rows(plan: np.ndarray, count: int) -> np.ndarray:
    """So many rows of a plan: those of most groups and those of fewest in turn, so that microbatches have different weights."""
    order = np.argsort(-(plan >= 0).sum(1), kind="stable")
    half = min(count, len(plan)) // 2
    most, fewest = order[: min(count, len(plan)) - half], order[len(order) - half :]
    chosen = [row for pair in itertools.zip_longest(most, fewest) for row in pair if row is not None]
    return _filled(plan[chosen], count)


def _filled(plan: np.ndarray, rows: int) -> np.ndarray:
    """The rows of a plan, and empty ones up to so many."""
    return np.concatenate([plan, np.full((rows - len(plan), plan.shape[1]), -1, plan.dtype)])
