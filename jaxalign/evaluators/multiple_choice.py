"""Multiple choice by log-probability: the model answers with the choice that it finds likeliest."""

from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
import numpy as np

from jaxalign import objectives
from jaxalign.data.raw.counts import Counts, RowError
from jaxalign.data.raw.multiple_choice import Question
from jaxalign.data.rows import memory
from jaxalign.data.rows.store import Prepared
from jaxalign.data.text.renderer import Renderer
from jaxalign.evaluators import held_out
from jaxalign.evaluators.held_out import ByPrompt
from jaxalign.evaluators.measured import Measured
from jaxalign.training import step
from jaxalign.types import Array, Batch, Outputs, Terms, column, sum_responses

NAME = "multiple_choice"  # what stands before the names of the metrics
SUM, PER_BYTE, CHANCE = METRICS = ("accuracy", "accuracy_per_byte", "chance")
BYTES = "bytes"  # the column with the length of every choice
BUCKET, TOKENS_PER_GROUP = 64, 32  # a row has a multiple of so many tokens, and places for that many questions


class MultipleChoice:
    """Sets of questions that are answered at every evaluation.

    "accuracy" is the share of questions whose right choice has the largest log-probability, "accuracy_per_byte" that of the largest
    log-probability per byte of its text, which does not favour short choices; choices that are equally likely share the point. "chance" is
    what guessing gives.

    Args:
      look: (params, batch, step) -> Outputs, see `training.forward`.
      sets: name -> questions, from `encoded`; one without a name is called "".
      rows: of a batch.
    """

    def __init__(self, look: Callable, sets: Mapping[str, Prepared], *, rows: int):
        self._sets, self._rows = sets, rows
        self._eval_step = step.make_eval_step(look, objectives.plain(right_choices), lambda *_: None)

    def names(self) -> list[str]:
        """Whole names of the metrics that `measure` gives."""
        return [name for one in self._sets for name in names(one)]

    def measure(self, state) -> Measured:
        """The metrics of a train state, by question. Needs a mesh in scope."""
        alone = state.replace(reference=None, initial=None, statistics={})
        return Measured({_place(name): self._of_set(alone, data) for name, data in self._sets.items()})

    def faults(self) -> list[str]:
        """Nothing goes wrong with single questions."""
        return []

    def _of_set(self, state, data) -> ByPrompt:
        found = held_out.measure(self._eval_step, state, data, rows=self._rows)
        return {name: found[f"{NAME}/{name}"] for name in METRICS}


def names(of_set: str) -> list[str]:
    """Whole names of the metrics of the set of this name."""
    return [f"{_place(of_set)}/{metric}" for metric in METRICS]


def encoded(questions: Iterable[Question], renderer: Renderer, counts: Counts, *, most_tokens: int, name: str) -> Prepared:
    """The questions with their choices as rows.

    A choice is written as an answer of the model, without the stop token; in plain text a blank comes before it where the question does
    not end with one. Questions that cannot be written, or are longer than most_tokens with a choice, are counted as dropped.

    Raises:
      ValueError: no question is left.
    """
    groups, right, sizes = [], [], []
    for question in questions:
        try:
            groups.append(_ids(question, renderer, most_tokens))
        except RowError as error:
            counts.add(error.rule, "dropped", counts.read - 1, str(error))
            counts.kept -= 1
            continue
        right.append(question.right)
        sizes.append([len(choice.encode()) for choice in question.choices])
    if not groups:
        raise ValueError(f"{name} has no question that can be asked:\n" + "\n".join(counts.lines()))
    most = max(map(len, sizes))
    longest = max(len(prompt) + sum(map(len, choices)) + len(choices) for prompt, choices in groups)
    tokens = -(-longest // BUCKET) * BUCKET
    rewards = np.arange(most) == np.array(right)[:, None]
    lengths = np.array([[*own, *[1] * (most - len(own))] for own in sizes], np.float32)
    places = max(1, tokens // TOKENS_PER_GROUP)
    return memory.prepared(groups, row_tokens=tokens, max_groups=places, rewards=rewards, columns={BYTES: lengths}, name=name)


def right_choices(policy: Outputs, reference: Outputs | None, batch: Batch) -> Terms:
    """An objective without a loss, whose metrics are those of `MultipleChoice`; reward 1 marks the right response of a group."""
    logps = sum_responses(policy.logps, batch)
    asked = batch.valid.any(1).astype(jnp.float32)
    chance = asked / jnp.maximum(batch.valid.sum(1), 1)
    found = {SUM: _right(logps, batch), PER_BYTE: _right(logps / column(batch, BYTES), batch), CHANCE: chance}
    zeros = jnp.zeros_like(logps)
    return Terms(zeros, zeros, {f"{NAME}/{name}": (value, asked) for name, value in found.items()})


def _right(values: Array, batch: Batch) -> Array:
    """1 where the response of reward 1 has the largest value of its group, 1/m where m responses have it, else 0: float32[N]."""
    values = jnp.where(batch.valid, values, -jnp.inf)
    best = values == values.max(1, keepdims=True)
    return (best & batch.valid & (batch.reward == 1)).any(1) / jnp.maximum((best & batch.valid).sum(1), 1)


def _ids(question, renderer, most_tokens):
    """(ids of the question, ids of every choice)."""
    prompt = renderer.prompt(question.prompt)
    blank = "" if renderer.template is not None or prompt.text[-1:].isspace() else " "
    choices = [renderer.response(prompt, blank + choice, train_turns="last").ids[:-1] for choice in question.choices]
    if not prompt.ids or not all(choices):
        raise RowError("empty", "the question or a choice has no tokens.")
    if (longest := len(prompt.ids) + max(map(len, choices))) > most_tokens:
        raise RowError("question_too_long", f"the question with a choice has {longest} tokens, and the model has {most_tokens} positions.")
    return prompt.ids, choices


def _place(name):
    return f"{NAME}/{name}" if name else NAME
