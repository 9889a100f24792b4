"""The rollouts that a configuration names in data.rollout: their prompts, their reward, and the source of their batches."""

from collections.abc import Callable
import dataclasses
from functools import partial

from ml_collections import ConfigDict

from jaxalign import objectives, offload
from jaxalign.config import build, teacher
from jaxalign.config.prepared import to_stderr
from jaxalign.config.rollout_rules import room_of_prompts, source_of_prompts
from jaxalign.data.prepared import judgements
from jaxalign.data.raw import prompts as raw_prompts
from jaxalign.data.raw import sources
from jaxalign.data.raw.counts import Counts
from jaxalign.evaluators import prompts as fixed_prompts
from jaxalign.hf import trained
from jaxalign.models import model as models
from jaxalign.rollout.computed import REWARD
from jaxalign.rollout.feedback import FEEDBACK
from jaxalign.rollout.layout import Layout, group_tokens
from jaxalign.rollout.prompts import Prompts
from jaxalign.rollout.source import Rollouts
from jaxalign.rollout.window import Speech, Windows
from jaxalign.sampling import law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.speaker import Speaker
from jaxalign.sampling.stopping import Stopping
from jaxalign.scoring import rewards
from jaxalign.scoring.rewards import Reward
from jaxalign.training.step import ROLLOUT_LOGPS

BUCKET = 64  # rows have a multiple of so many tokens where data.row_tokens is None
LANES = 256  # samples that are drawn side by side, of all prompts together


@dataclasses.dataclass(frozen=True)
class Rolling:
    """What `build.functions` needs of rollouts."""

    source: Callable[..., Rollouts]  # (dataset, first step, look=...) -> the source of the batches
    carried: Callable  # () -> what the state carries
    compute: Callable | None  # what the devices compute, see `step.make_rollout_look`
    prepared: str  # names the prompts by a hash of their content, and the shape of their batches, which the state carries
    described: str  # for a reader


def check(cfg: ConfigDict, model: models.Model) -> Reward | None:
    """The reward of data.rollout, None where there is none: made before any row of a run is read and prepared.

    Raises:
      ValueError, OSError: data.rollout names what cannot be had.
    """
    spec = cfg.data.rollout
    if spec is None:
        return None
    room_of_prompts("data.rollout.max_new_tokens", spec.max_new_tokens, _positions(cfg, model))
    sources.read(sources.given(source_of_prompts(spec.to_dict())))
    return None if spec.reward is None else rewards.make(spec.to_dict()["reward"])


def pulls(cfg: ConfigDict) -> list[str]:
    """The keys that hold the policy nearer to the reference where they are raised; none with a teacher, which it is to come near to."""
    if teacher.has_one(cfg) or cfg.data.rollout is None:
        return []
    sections = {"data.rollout": cfg.data.rollout, "objective": cfg.objective}
    return [f"{name}.{key}" for name, section in sections.items() for key in ("beta", "tau") if key in section]


def rolling(
    cfg: ConfigDict,
    model: models.Model,
    objective: objectives.Objective,
    *,
    reward: Reward | None,
    tell: Callable[[list[str]], None] = to_stderr,
) -> Rolling | None:
    """The rollouts of a configuration, None where it names none. Needs a mesh in scope; nothing is compiled yet.

    A data.row_tokens of None becomes the number of tokens that holds the longest prompt with the longest samples.

    Args:
      reward: what `check` made.
      tell: gets what became of the prompts, as lines of text.

    Raises:
      ValueError: no prompt is left, or too few, or the rows lack what the reward reads.
    """
    if cfg.data.rollout is None:
        return None
    spec, kind = cfg.data.rollout.to_dict(), FEEDBACK[cfg.data.rollout.feedback]
    speaker = _speaker(cfg, spec)
    mismatched = "mismatched" in objective.reads
    size = {"responses": kind.responses(spec["samples"]) + mismatched, "new_tokens": spec["max_new_tokens"]}
    room_of = partial(group_tokens, **size, share_prompt=cfg.data.share_prompt)
    speaking, params_of = (teacher.model(cfg), _teacher) if spec["speaker"] == "teacher" else (model, _policy)
    asked = _asked(cfg, spec, _positions(cfg, model), speaker, room_of, tell)
    ids = [speaker.ids(one) for one in asked]
    longest = room_of(max(map(len, ids)))
    if cfg.data.row_tokens is None:
        cfg.data.row_tokens = -(-longest // BUCKET) * BUCKET
    prompts = Prompts(asked, ids, _prompts_per_step(cfg, spec, longest, mismatched), cfg.seed if spec["seed"] is None else spec["seed"])
    if reward is not None:
        reward.check([one.columns for one in asked])
    distinct = spec["every_steps"] // spec["epochs"]
    layout = _layout(cfg, kind, prompts.batch, spec, mismatched=mismatched)
    judge, compute, finish = kind.bound(spec)
    speech = Speech(prompts, _sampler(cfg, spec, speaking, speaker, distinct * prompts.batch), speaker, spec["samples"])
    missing_eos = {key: spec[key] for key in ("missing_eos_penalty", "missing_eos_most")}
    windows = Windows(speech, layout, judge, reward, **missing_eos)
    options = {"every": spec["every_steps"], "epochs": spec["epochs"], "seed": prompts.seed, "speaker": params_of}
    options["share"] = spec["share"], spec["share_end"]
    described = f"rollouts: {prompts.batch:,} of {len(ids):,} prompts per step with {spec['samples']} samples each, {spec['feedback']}"
    make, carried = partial(Rollouts, windows=windows, finish=finish, **options), partial(Rollouts.carried, layout, distinct)
    prepared = f"prompts-{prompts.identity()}, {prompts.batch} per step in rows of {cfg.data.row_tokens} tokens"
    return Rolling(make, carried, compute, prepared, described)


def _positions(cfg, model) -> int:
    """The positions of the models that read rollouts."""
    return min(one.config.max_positions for one in (model, teacher.model(cfg)) if one is not None)


def _speaker(cfg, spec) -> Speaker:
    """A teacher that speaks stops where it has learned to, too."""
    renderer = build.renderer(cfg)
    own = trained.stop_ids(renderer, build.tokenizer_folder(cfg))
    theirs = teacher.stop_ids(cfg, renderer) if spec["speaker"] == "teacher" else ()
    return Speaker(renderer, tuple(dict.fromkeys((*own, *theirs))))


def _layout(cfg, kind, prompts, spec, *, mismatched) -> Layout:
    return Layout(
        cfg.batch.rows,
        cfg.data.row_tokens,
        prompts=prompts,
        responses=kind.responses(spec["samples"]),
        paired=kind.paired,
        share_prompt=cfg.data.share_prompt,
        mismatched=mismatched,
        columns=(REWARD,),
        computed=kind.columns,
        token_columns=(ROLLOUT_LOGPS, *kind.token_columns),
    )


def _asked(cfg, spec, positions, speaker, room_of, tell):
    """The different prompts that leave room for their samples, in each model that reads them and in a row."""
    most = room_of_prompts("data.rollout.max_new_tokens", spec["max_new_tokens"], positions)
    if cfg.data.max_prompt_tokens is not None:
        most = min(most, cfg.data.max_prompt_tokens)
    if cfg.data.row_tokens is not None:
        most = max((n for n in range(min(most, cfg.data.row_tokens) + 1) if room_of(n) <= cfg.data.row_tokens), default=0)
    given, counts = sources.given(source_of_prompts(spec)), Counts()
    how = {"format": given.get("format"), "scoring": judgements(given)["scoring"], "chat": speaker.renderer.template is not None}
    rows = raw_prompts.read(sources.read(given), counts, **how)
    asked = fixed_prompts.chosen(rows, speaker, counts, limit=spec["limit"], most_tokens=most)
    if counts.rules:
        tell([f"prompts of data.rollout: {counts.lines()[0]}", *counts.lines()[1:]])
    return asked


def _prompts_per_step(cfg, spec, longest, mismatched) -> int:
    per_row = cfg.data.row_tokens // longest
    if cfg.data.max_groups_per_row is not None:
        per_row = min(per_row, cfg.data.max_groups_per_row)
    most, asked = cfg.batch.rows * (per_row if cfg.data.pack else 1), spec["prompts_per_step"]
    if asked is not None and asked > most:
        raise ValueError(
            f"data.rollout.prompts_per_step={asked:,}: batch.rows={cfg.batch.rows} rows of data.row_tokens={cfg.data.row_tokens:,} hold "
            f"{most:,} prompts with samples of the greatest length, {longest:,} tokens each; lower it, or raise one of the two."
        )
    batch = most if asked is None else asked
    if mismatched and batch < 2:
        raise ValueError(
            f"objective {cfg.objective.name!r} reads responses of other prompts, and a step has one prompt; raise batch.rows or "
            "data.row_tokens."
        )
    return batch


def _sampler(cfg, spec, model, speaker, prompts: int) -> Sampler:
    places = min(spec["places"], prompts)
    return Sampler(
        models.decoder(model),
        law=law.of(spec),
        stopping=Stopping(spec["max_new_tokens"], ids=speaker.stop_ids, strings=tuple(spec["stop"])),
        seed=0,
        places=places,
        lanes=max(1, min(spec["samples"], LANES // places)),
        dtype=build.dtype(cfg),
        attention=cfg.model.attention,
        text_of=speaker.text,
    )


def _policy(state):
    """The parameters of the policy's decoder."""
    return models.without_head({**(state.frozen or {}), **state.trainable})


def _teacher(state):
    """The parameters of the teacher's decoder."""
    return offload.on_device(models.without_head(state.reference))
