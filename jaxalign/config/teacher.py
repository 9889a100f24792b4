"""The teacher of a run: the reference where it is another model, with a checkpoint, a size and a forward of its own."""

from functools import partial

from ml_collections import ConfigDict

from jaxalign.data.text.tokenizer import Tokenizer, load
from jaxalign.models import model as models
from jaxalign.training import forward
from jaxalign.training.reference import RULES
from jaxalign.training.sources import Source
from jaxalign.types import TrainState


def has_one(cfg: ConfigDict) -> bool:
    """Whether the reference of the run is another model."""
    return RULES[cfg.reference.rule].separate


def model(cfg: ConfigDict) -> models.Model:
    """The teacher's definition; nothing is allocated or read but its config.json."""
    return models.build(Source(cfg.reference.checkpoint).config())


def check(cfg: ConfigDict, student: models.Model, tokenizer: Tokenizer) -> None:
    """Checks the teacher before its weights are read; `tokenizer` is the student's.

    Raises:
      ValueError: there is no such teacher, its weights do not fit, or it does not read and write the student's tokens.
    """
    if not has_one(cfg):
        return
    name, source, teacher = cfg.reference.checkpoint, Source(cfg.reference.checkpoint), model(cfg)
    way = "Distillation compares the two models token by token, so choose a teacher with the student's tokenizer."
    sizes = [one.config.vocab_size for one in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"reference.checkpoint={name!r} has {sizes[0]:,} tokens in its vocabulary and the student {sizes[1]:,}. {way}")
    theirs, ours = (one.model.get_vocab(with_added_tokens=True) for one in (_tokenizer(source) or tokenizer, tokenizer))
    if theirs != ours:
        token = min(ours.items() - theirs.items() or theirs.items() - ours.items(), key=lambda item: item[1])[0]
        raise ValueError(
            f"reference.checkpoint={name!r} has another vocabulary: {token!r} is token {ours.get(token)} of the student and "
            f"{theirs.get(token)} of the teacher. {way}"
        )
    source.check(teacher)


def _tokenizer(source):
    """The teacher's tokenizer; None where only its weights are there, of which nothing is known but the size of the vocabulary."""
    try:
        return load(source.tokenizer())
    except (FileNotFoundError, ValueError):
        return None


def look(cfg: ConfigDict):
    """The teacher's forward, None where the reference is no other model. It keeps nothing for a backward pass."""
    if not has_one(cfg):
        return None
    return partial(forward.next_token, model(cfg), dtype=models.dtype_of(cfg.model.dtype), remat="none", attention=cfg.model.attention)


def identity(cfg: ConfigDict) -> str | None:
    """A hash of the teacher's weights, whatever their path; None without a teacher."""
    return Source(cfg.reference.checkpoint).identity() if has_one(cfg) else None


def seated(cfg: ConfigDict, state: TrainState) -> TrainState:
    """The state with the teacher's weights, read from their own checkpoint into their shards on the mesh in scope."""
    return state.replace(reference=Source(cfg.reference.checkpoint).load(model(cfg))) if has_one(cfg) else state


def left_out(cfg: ConfigDict, state: TrainState) -> TrainState:
    """The state as a checkpoint of the run holds it: without a teacher's weights."""
    return state.replace(reference=None) if has_one(cfg) else state
