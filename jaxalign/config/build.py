"""From a resolved configuration to the objects that the loop runs. With the entry points, the only reader of configs."""

from collections.abc import Callable
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxalign import manifest, objectives, offload, sharding
from jaxalign.config import adapters, critic, lora, optimizers, teacher
from jaxalign.config import functions as functions_of
from jaxalign.config.durations import Durations
from jaxalign.config.functions import options
from jaxalign.data.rows import store
from jaxalign.data.rows.sampling import Sampling
from jaxalign.data.text import render, tokenizer_files
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer import load as load_tokenizer
from jaxalign.evaluators import held_out
from jaxalign.hf import config as hf_config
from jaxalign.hf import trained, vocabulary
from jaxalign.hparams import hparams_of
from jaxalign.models import model as models
from jaxalign.models import presets
from jaxalign.models.attention import rule
from jaxalign.models.config import ModelConfig
from jaxalign.models.features import FeatureHeadConfig, head_of
from jaxalign.models.heads import ValueHeadConfig
from jaxalign.rollout import source
from jaxalign.training import checkpoint, compiler_options, forward, guards, metrics, reference, runs, step
from jaxalign.training.sources import Source
from jaxalign.types import TrainState


@dataclasses.dataclass(frozen=True)
class Functions:
    """What runs on the devices."""

    init_state: Any  # params -> TrainState
    train_step: Any  # (state, batch) -> (state, metrics)
    eval_step: Any  # (state, batch) -> {name: (sums, weights)} by prompt
    source: Callable[..., source.Rows | source.Rollouts]  # (dataset, first step) -> the source of the batches


def mesh(cfg: ConfigDict) -> jax.sharding.Mesh:
    """The mesh of the configuration, over all devices.

    Raises:
      ValueError: it does not cover the devices, the batch does not split over it, the devices of a row lie on several hosts, or the devices
        cannot use the memory of the host that mesh.offload needs.
    """
    made = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, context=cfg.mesh.context)
    parts, shape = cfg.batch.gradient_accumulation_steps, sharding.mesh_shape(made)
    sharding.check_rows(cfg.batch.rows, parts=parts, data=shape["data"], fsdp=shape["fsdp"])
    sharding.check_hosts(made)
    offload.check(cfg.mesh.offload, jax.local_devices()[0])
    if cfg.data.row_tokens is not None:
        sharding.check_tokens(cfg.data.row_tokens, context=shape["context"])
    return made


def dtype(cfg: ConfigDict) -> jnp.dtype:
    """The dtype of the matmuls."""
    return models.dtype_of(cfg.model.dtype)


def remat_of(cfg: ConfigDict) -> str:
    """The policy of remat; the most frugal one where none was chosen (`config.remat`), as for a step that is only evaluated."""
    return "full" if cfg.model.remat == "auto" else cfg.model.remat


def tokenizer_name(cfg: ConfigDict) -> str:
    """The tokenizer's folder or name: the one named, or the checkpoint's."""
    return cfg.model.tokenizer or Source(cfg.model.checkpoint).tokenizer()


def tokenizer_folder(cfg: ConfigDict) -> str:
    """Where the tokenizer is: the one named, or the checkpoint's."""
    return str(tokenizer_files.locate(tokenizer_name(cfg)))


def renderer(cfg: ConfigDict) -> Renderer:
    """How text becomes tokens in this run."""
    tokenizer = load_tokenizer(tokenizer_folder(cfg)).with_added(cfg.data.add_tokens or ())
    return render.make(tokenizer, template=cfg.data.template, reasoning=cfg.data.reasoning)


def write_tokenizer(cfg: ConfigDict, folder: Path, *, before: dict[str, Any]) -> dict[str, list]:
    """Writes the tokenizer as this run trains with it, template and stop tokens included; returns what its files are like.

    The first process does. A folder that is as the record of the checkpoint that a run continues from, `before`, has it stays.
    """
    known = before.get("tokenizer_files")
    if jax.process_index() == 0 and not (known and not manifest.difference(folder, known)):
        trained.write(folder, renderer(cfg), source=tokenizer_folder(cfg), all_turns=cfg.data.train_turns == "all")
    return manifest.describe(folder) if jax.process_index() == 0 else {}


def gained(cfg: ConfigDict) -> vocabulary.Gained | None:
    """The tokens that data.add_tokens adds to the tokenizer; None where it has them, or none are named."""
    if not cfg.data.add_tokens:
        return None
    before = load_tokenizer(tokenizer_folder(cfg))
    new = vocabulary.gained(before, before.with_added(cfg.data.add_tokens), cfg.data.add_tokens)
    return new if new.ids else None


def model_config(cfg: ConfigDict) -> ModelConfig:
    """The config of the model as it is named, before it gains tokens or is rid of its table of output tokens.

    Raises:
      ValueError: there is no such model, or it has not what the objective reads: log-probs, or a reward head of the kind asked for.
    """
    if cfg.model.checkpoint is not None:
        source = Source(cfg.model.checkpoint)
        if not _without_logps(cfg):
            return source.config()
        if source.reward_head not in (None, reward_head(cfg)):
            theirs = source.reward_head
            what = f"of kind {theirs!r}" if isinstance(theirs, str) else f"on the features {', '.join(theirs.names)}"
            raise ValueError(
                f"{source.name} has a reward head {what}, another than model.reward_head; set the same, or start from a language model."
            )
        return source.decoder()
    if cfg.model.config is not None:
        return hf_config.from_json(cfg.model.config.to_dict())
    return presets.preset(cfg.model.preset)


def _without_logps(cfg):
    return "no_logps" in functions_of.objective(cfg).reads


def reward_head(cfg: ConfigDict) -> str | FeatureHeadConfig | None:
    """The reward head that the configuration names or describes."""
    return head_of(cfg.to_dict()["model"]["reward_head"])


def model(cfg: ConfigDict) -> models.Model:
    """The model's definition, with rows for the tokens that it gains; nothing is allocated or read but config.json and a tokenizer.

    For an objective that reads no log-probs it is without a table of output tokens, as if that were tied to the embedding.

    Raises:
      ValueError: its attention cannot run on the devices of the mesh in scope.
    """
    head = None if cfg.model.value_head is None else ValueHeadConfig(max_value=cfg.model.value_head)
    config, new = model_config(cfg), gained(cfg)
    config = config if new is None else dataclasses.replace(config, vocab_size=new.vocab_size(config.vocab_size))
    if _without_logps(cfg):
        config = dataclasses.replace(config, tied=True)
    rule.choose(cfg.model.attention, config.head_dim)
    return models.build(config, head, reward_head(cfg), **critic.described(cfg, config), **adapters.stored(cfg))


def params(cfg: ConfigDict, built: models.Model):
    """The parameters on the mesh in scope: the checkpoint's, or random ones from the seed, as those of heads and adapters."""
    if cfg.model.checkpoint is not None:
        source, config, new = Source(cfg.model.checkpoint), model_config(cfg), gained(cfg)
        kept = critic.kept(cfg, source)
        below = {"base_dtype": built.base_dtype}
        if lora.goes_on(cfg):
            adapters.check_start(cfg, built)
            below["lora"] = built.lora
        named = models.build(config, reward_head=source.reward_head, critic=kept, **below)
        loaded = {name: tree for name, tree in source.load(named).items() if name in built.shapes}
        loaded = loaded if new is None else vocabulary.grow(loaded, named, built, new)
        return critic.begun(cfg, built, {**models.init_heads(built, jax.random.key(cfg.seed)), **loaded})
    return critic.begun(cfg, built, models.init(built, jax.random.key(cfg.seed)))


def check_weights(cfg: ConfigDict) -> None:
    """Raises ValueError where a named model's weights are not there or do not fit its config, or model.lora; they are not read yet."""
    if lora.goes_on(cfg):
        adapters.check_start(cfg, model(cfg))
    named = [column[key] for column in cfg.data.computed.values() for key in ("model", "reference")]
    for origin in (Source(name) for name in (cfg.model.checkpoint, cfg.model.critic_checkpoint, *named) if name is not None):
        origin.check(models.build(origin.decoder(), reward_head=origin.reward_head))


def weights_identity(cfg: ConfigDict) -> str | None:
    """A hash of the weights that the run starts from, whatever their path; None for random ones, and where they are not there any more."""
    return None if cfg.model.checkpoint is None else Source(cfg.model.checkpoint).identity()


def abstract_params(built: models.Model):
    """The parameters as shapes on the mesh in scope."""
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.named(p)), built.shapes, models.shardings(built)
    )


def work(cfg: ConfigDict, built: models.Model) -> dict[str, Any]:
    """What a step makes beside the forward pass of the policy, as `flops.step_flops` takes it.

    Passes without a gradient are those of a reference that is no teacher, and the first of IFT.
    """
    rule = reference.RULES[cfg.reference.rule]
    forwards = ((rule.holds == "weights" and not rule.separate) or rule.moves) + (cfg.forward.name == "two_pass" and cfg.forward.mixing > 0)
    own = built.critic_decoder and built.critic_decoder.config
    return {"forwards": forwards, "critic": own, "adapters": models.adapters.size(built.shapes)}


def sampling(cfg: ConfigDict) -> Sampling:
    """How the groups of an epoch are chosen."""
    return Sampling(cfg.data.sampling, cfg.data.sampling_column)


def functions(cfg: ConfigDict, objective: objectives.Objective, built: models.Model, lengths: Durations, rolling=None) -> Functions:
    """The jitted functions of this run, and the source of its batches; `rolling`: see `rollouts.rolling`. Nothing is compiled yet."""
    whole = {"dtype": dtype(cfg), "remat": remat_of(cfg), "attention": cfg.model.attention}
    kind = forward.FORWARDS[cfg.forward.name]
    seed = {"seed": cfg.seed} if "seed" in hparams_of(kind) else {}
    look = partial(kind, built, **whole, **seed, **options(cfg, "forward"))
    rule = reference.RULES[cfg.reference.rule]
    trained = runs.trained(cfg.model, built)
    schedule = optimizers.learning_rate(cfg, lengths)
    optimizer = optimizers.optimizer(cfg, built, schedule, trained)
    make_source, carried = _source(cfg, look, lengths, rolling)
    init_state = partial(
        step.init_state,
        optimizer=optimizer,
        rule=rule,
        seed=cfg.seed,
        keep_initial=cfg.reference.keep_initial and _measures(cfg),
        trained=trained,
        silent=() if lora.goes_on(cfg) else (models.LORA,),
        statistics=objective.statistics_names,
        source=carried,
        on_host=cfg.mesh.offload,
    )
    theirs, parts = teacher.look(cfg), cfg.batch.gradient_accumulation_steps
    moves, largest = rule.bind(every_steps=lengths.every, **options(cfg, "reference")), policy(cfg).largest_norm
    train_step = step.make_train_step(look, objective, moves, optimizer, schedule, microbatches=parts, teacher=theirs)
    return Functions(
        init_state,
        compiler_options.with_options(step.skipping(train_step, largest)),
        step.make_eval_step(look, objective, metrics.kl, teacher=theirs),
        make_source,
    )


def policy(cfg: ConfigDict) -> guards.Policy:
    """What becomes of steps that go wrong."""
    train, rate = cfg.train, cfg.optimizer.learning_rate
    return guards.Policy(train.on_nan, train.on_spike, train.spike_grad_norm, max_roll_backs=train.max_roll_backs, learning_rate=rate)


def _measures(cfg) -> bool:
    """Whether anything is measured against the first reference."""
    data = cfg.data
    return bool(data.eval is not None or data.eval_fraction or data.rollout is not None or cfg.eval.generate)


def _source(cfg, look, lengths, rolling):
    """((dataset, first step) -> the source of the batches, what makes that which it carries)."""
    rule, parts = reference.RULES[cfg.reference.rule], cfg.batch.gradient_accumulation_steps
    if rolling is not None:
        rollout_look = step.make_rollout_look(look, metrics.kl, rolling.compute, teacher=teacher.look(cfg), microbatches=parts)
        return partial(rolling.source, look=rollout_look, steps=lengths.planned), rolling.carried
    if rule.holds == "logps" and rule.moves:
        policy_logps = step.make_policy_logps(look, microbatches=parts)
        options = {"policy_logps": policy_logps, "column": reference.COLUMN, "every": lengths.every}
        carried = partial(source.PolicyLogps.carried, lengths.every, cfg.batch.rows, cfg.data.row_tokens)
        return partial(source.PolicyLogps, **options), carried
    return source.Rows, lambda: None


def abstract_state(cfg: ConfigDict, built: models.Model, init_state) -> TrainState:
    """The train state as shapes on the mesh in scope, with the base of adapters and the weights of a teacher."""
    state = checkpoint.abstract_like(jax.eval_shape(init_state, abstract_params(built)))
    if teacher.has_one(cfg):
        state = state.replace(reference=abstract_params(teacher.model(cfg)))
    return offload.described(state, cfg.mesh.offload)


def held_out_metrics(cfg: ConfigDict, built: models.Model, made: Functions, sets: dict[str, store.Prepared]) -> set[str]:
    """Names of the metrics that evaluations of this run will give; nothing is computed."""
    state = abstract_state(cfg, built, made.init_state)
    return held_out.names(made.eval_step, state, sets, rows=cfg.batch.rows)


def export_folder(workdir: Path) -> Path:
    """Where a run writes its Hugging Face folder."""
    return workdir / "export"
