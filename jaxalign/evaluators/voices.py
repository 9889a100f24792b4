"""Models that answer the same prompts again and again, and what can be counted in their answers."""

from collections.abc import Sequence
import dataclasses
import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxalign.data.raw.prompts import Asked
from jaxalign.models import model as models
from jaxalign.sampling.law import Law
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.speaker import Speaker
from jaxalign.sampling.stopping import Stopping

WORD = re.compile(r"\w+|[^\w\s]")


class Answer(NamedTuple):
    """One sample as text and as ids."""

    text: str  # without what ended it
    ids: np.ndarray  # int32[L]; the stop token included
    stop: str  # what ended it, see `sampler.Sample`


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How answers are drawn."""

    samples: int  # of every prompt
    law: Law
    max_new_tokens: int
    stop: tuple[str, ...]  # texts that end an answer
    seed: int
    places: int  # prompts that are answered at a time

    def stopping(self, speaker: Speaker) -> Stopping:
        """When an answer of this speaker ends."""
        return Stopping(self.max_new_tokens, ids=speaker.stop_ids, strings=self.stop)


class Voice:
    """A model, without its numbers, and the prompts that it answers. Its programs are compiled at the first answer and then kept."""

    def __init__(self, model: models.Model, speaker: Speaker, asked: Sequence[Asked], drawing: Drawing, *, dtype: jnp.dtype):
        """Needs a mesh in scope.

        Args:
          model: the decoder, perhaps with heads.
          speaker: its tokenizer and template.
          asked: the prompts.
          drawing: how answers are drawn.
          dtype: of the matmuls.

        Raises:
          ValueError: a prompt that the template cannot write, or longer than the model.
        """
        self.prompts = [speaker.ids(one) for one in asked]
        self._speaker, self._drawing, self._stopping = speaker, drawing, drawing.stopping(speaker)
        self._sampler = Sampler(
            model,
            law=drawing.law,
            stopping=self._stopping,
            seed=drawing.seed,
            places=min(drawing.places, max(1, len(asked)) * drawing.samples),
            lanes=max(1, drawing.samples // 4),
            dtype=dtype,
            attention="xla",
            text_of=speaker.text,
        )
        self._sampler.check(self.prompts)

    def shown(self, prompt: int) -> str:
        """The text of a prompt as the model sees it, special tokens included."""
        return self._speaker.shown(self.prompts[prompt])

    def answers(self, params) -> list[list[Answer]]:
        """The samples of every prompt, in order, from float32 parameters; heads among them are not read."""
        answers: list[list[Answer]] = [[None] * self._drawing.samples for _ in self.prompts]
        for sample in self._sampler.draw(models.without_head(params), self.prompts, samples=self._drawing.samples):
            text = self._speaker.spoken(self.prompts[sample.prompt], sample, self._stopping)
            answers[sample.prompt][sample.number] = Answer(text, sample.token_ids, sample.stop)
        return answers


def distinct(text: str, n: int = 2) -> float:
    """The share of a text's runs of n words that occur in it for the first time, 1 where nothing repeats; NaN below n words.

    Distinct-n of arXiv 1510.03055 within one text, so that it does not depend on how many texts there are. A sign is a word.
    """
    words = WORD.findall(text.lower())
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(runs)) / len(runs) if runs else float("nan")
