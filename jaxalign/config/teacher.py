"""The teacher of a run: the reference where it is another model, with a checkpoint, a size and a forward of its own."""

from functools import partial

from ml_collections import ConfigDict

from jaxalign import offload
from jaxalign.data.text.renderer import Renderer
from jaxalign.data.text.tokenizer import Tokenizer, load
from jaxalign.data.text.tokenizer_files import locate
from jaxalign.hf import trained
from jaxalign.models import model as models
from jaxalign.training import forward, runs
from jaxalign.training.reference import RULES
from jaxalign.training.sources import Source
from jaxalign.types import TrainState


def has_one(cfg: ConfigDict) -> bool:
    """Whether the reference of the run is another model."""
    return RULES[cfg.reference.rule].separate


def model(cfg: ConfigDict) -> models.Model | None:
    """The teacher's definition, None without a teacher; nothing is allocated or read but its config.json."""
    return models.build(Source(cfg.reference.checkpoint).config()) if has_one(cfg) else None


def settle(cfg: ConfigDict, student: models.Model, tokenizer: Tokenizer) -> str | None:
    """A hash of the weights of the teacher, which is checked, see `check`; None without a teacher.

    A run as the teacher is named with its step from here on, whatever it is named by, so that all who read it read the same weights.
    """
    if not has_one(cfg):
        return None
    cfg.reference.checkpoint = Source(cfg.reference.checkpoint).with_step
    check(cfg, student, tokenizer)
    return Source(cfg.reference.checkpoint).identity()


def check(cfg: ConfigDict, student: models.Model, tokenizer: Tokenizer) -> None:
    """Checks the teacher before its weights are read; `tokenizer` is the student's.

    Raises:
      ValueError: there is no such teacher, its weights do not fit, it does not read and write the student's tokens, or objective.top_k
        keeps all of them.
    """
    if not has_one(cfg):
        return
    name, source, teacher = cfg.reference.checkpoint, Source(cfg.reference.checkpoint), model(cfg)
    way = "Distillation compares the two models token by token, so choose a teacher with the student's tokenizer."
    theirs, ours = (one and one.model.get_vocab(with_added_tokens=True) for one in (_tokenizer(source), tokenizer))
    sizes = [one.config.vocab_size for one in (teacher, student)]
    if sizes[0] != sizes[1] and theirs == ours and len(ours) <= min(sizes):
        raise ValueError(
            f"reference.checkpoint={name!r} has the student's tokenizer and a table of {sizes[0]:,} tokens, the student's has "
            f"{sizes[1]:,}, beyond the {len(ours):,} of the tokenizer; bring one of the two to the size of the other, with transformers' "
            "resize_token_embeddings and save_pretrained."
        )
    if sizes[0] != sizes[1]:
        raise ValueError(f"reference.checkpoint={name!r} has {sizes[0]:,} tokens in its vocabulary and the student {sizes[1]:,}. {way}")
    if theirs is None:
        runs.to_stderr(f"reference.checkpoint={name!r} has no tokenizer files: its {sizes[0]:,} tokens are taken to be the student's.")
    elif theirs != ours:
        token = min(ours.items() - theirs.items() or theirs.items() - ours.items(), key=lambda item: item[1])[0]
        raise ValueError(
            f"reference.checkpoint={name!r} has another vocabulary: {token!r} is token {ours.get(token)} of the student and "
            f"{theirs.get(token)} of the teacher. {way}"
        )
    if cfg.objective.get("top_k", 0) >= sizes[0]:
        raise ValueError(f"objective.top_k={cfg.objective.top_k} keeps all {sizes[0]:,} tokens of the vocabulary; use 0, which does so.")
    source.check(teacher)


def stop_ids(cfg: ConfigDict, renderer: Renderer) -> tuple[int, ...]:
    """The tokens after which the teacher stops by its own tokenizer and settings, and those that end an answer for the student."""
    source = Source(cfg.reference.checkpoint)
    tokenizer = _tokenizer(source)
    if tokenizer is None:
        return trained.stop_ids(renderer, source.folder)
    own = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    return tuple(dict.fromkeys((*trained.stop_ids(renderer, locate(source.tokenizer())), *own)))


def _tokenizer(source):
    """The teacher's tokenizer; None where only its weights are there, of which nothing is known but the size of the vocabulary."""
    try:
        return load(source.tokenizer())
    except FileNotFoundError:
        return None


def look(cfg: ConfigDict):
    """The teacher's forward, None where the reference is no other model. It keeps nothing for a backward pass."""
    if not has_one(cfg):
        return None
    return partial(forward.next_token, model(cfg), dtype=models.dtype_of(cfg.model.dtype), remat="none", attention=cfg.model.attention)


def seated(cfg: ConfigDict, state: TrainState) -> TrainState:
    """The state with the teacher's weights, read from their own checkpoint into their shards on the mesh in scope."""
    if not has_one(cfg):
        return state
    weights = Source(cfg.reference.checkpoint).load(model(cfg))
    return state.replace(reference=offload.on_host(weights) if "reference" in cfg.mesh.offload else weights)


def left_out(cfg: ConfigDict, state: TrainState) -> TrainState:
    """The state as a checkpoint of the run holds it: without a teacher's weights."""
    return state.replace(reference=None) if has_one(cfg) else state
