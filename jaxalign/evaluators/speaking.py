"""Evaluation of a train state by what its policy says: the same prompts, the same others and the same judges at every step."""

from collections.abc import Callable
import dataclasses
from typing import Any

from jaxalign.evaluators.divergence import Divergence
from jaxalign.evaluators.generation import Generation, Others
from jaxalign.evaluators.measured import Measured
from jaxalign.evaluators.voices import Answer, Voice
from jaxalign.sampling.law import Law

Params = dict[str, Any]


@dataclasses.dataclass
class Speaking:
    """What a policy says is drawn, and judged.

    Args:
      generation: the prompts and the judges.
      voice: the policy's.
      origin: whose answers those of the policy are compared with; None: nobody's.
      texts: `origin`'s answers, `samples` for every prompt, from a train state and what its policy says; called once.
      start: what is trained, as it was before the first step, from a train state: the reference of the KL; None: no KL is measured.
      divergence: measures the KL.
      plain: the policy's voice at temperature 1, where `voice` draws otherwise.
      longest: most tokens of an answer.
    """

    generation: Generation
    voice: Voice
    longest: int
    origin: str | None = None
    texts: Callable[[Any, list[list[Answer]]], list[list[str | None]]] | None = None
    start: Callable[[Any], Params] | None = None
    divergence: Divergence | None = None
    plain: Voice | None = None
    _others: Others | None = None

    def names(self) -> list[str]:
        """Whole names of the metrics that `measure` gives."""
        return self.generation.judging.metrics(against=self.origin is not None, kl=self.start is not None)

    def faults(self) -> list[str]:
        """What went wrong with rewards and judges so far, a line per reason."""
        judging = self.generation.judging
        return [line for one in filter(None, [*judging.rewards.values(), judging.compare]) for line in one.lines()]

    def measure(self, state) -> Measured:
        """The metrics of a train state, by prompt, and a line for every answer. Needs a mesh in scope."""
        params = {**(state.frozen or {}), **state.trainable}
        answers = self.voice.answers(params)
        if self.origin is not None and self._others is None:
            self._others = self.generation.others(self.origin, self.texts(state, answers))
        return self.generation.measure(self.voice, answers, self._others, self._kl(state, params, answers))

    def _kl(self, state, params, answers: list[list[Answer]]):
        if self.start is None:
            return None
        voice, answers = (self.voice, answers) if self.plain is None else (self.plain, self.plain.answers(params))
        ids = [[answer.ids for answer in own] for own in answers]
        against = state.replace(reference=self.start(state))
        return self.divergence.measure(against, voice.prompts, ids, longest=self.longest)


PLAIN = Law()  # the model's own distribution, of which KL is an expectation
