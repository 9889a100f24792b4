"""A conversation as the prompts of its answers: messages for a chat template, or a text that a model without one continues."""

from collections.abc import Iterator
import dataclasses

from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.speaker import Speaker

LOOK_STEPS = 4  # tokens between two looks at an answer


@dataclasses.dataclass(frozen=True)
class Turn:
    """A line of a person and the answer to it."""

    line: str
    answer: str
    ended: bool  # by the model itself, not by a limit or a person


class Talker:
    """One model in a conversation: it remembers what was said, and answers.

    With a chat template every line is a message. Without one the model continues the text: a line follows what the model has said, or
    begins another text where the model ended the last one.
    """

    def __init__(self, name: str, speaker: Speaker, sampler: Sampler, params):
        self.name, self._speaker, self._sampler, self._params = name, speaker, sampler, params
        self.turns: list[Turn] = []
        self.system: str | None = None
        self.why: str | None = None  # what ended the last answer, see `Sample.stop`; None: nothing yet, or a person

    @property
    def template(self) -> str | None:
        """The name of its chat template; None: it continues texts."""
        return self._speaker.renderer.template and self._speaker.renderer.template.name

    @property
    def goes_on(self) -> bool:
        """Whether an empty line has a meaning: to continue a text that the model did not end."""
        return self.template is None and bool(self.turns) and not self.turns[-1].ended

    def answers(self, line: str, *, seed: int) -> Iterator[str]:
        """Yields the answer to a line as it grows, whole every time. When it ends, or is left early, it becomes part of the conversation.

        Raises:
          ValueError: the template cannot write the conversation, or the model has no room for it.
        """
        ids = tuple(self._speaker.renderer.prompt_ids(self._prompt(line)))
        self._check_room(ids)
        text, self.why = "", None
        try:
            for sample in self._sampler.stream(self._params, ids, seed=seed, steps=LOOK_STEPS):
                if sample.stop is None:
                    text = self._sampler.stopping.settled(self._speaker.text(ids, sample.token_ids.tolist()))
                else:
                    text, self.why = self._speaker.spoken(ids, sample, self._sampler.stopping), sample.stop
                yield text
        finally:
            if text or self.why:
                self.turns.append(Turn(line, text, self.why in ("stop", "string")))

    def _prompt(self, line):
        if self.template is None:
            text = ""
            for turn in self.turns:
                text = "" if turn.ended else text + turn.line + turn.answer
            return text + line
        system = [] if self.system is None else [("system", self.system)]
        said = [pair for turn in self.turns for pair in (("user", turn.line), ("assistant", turn.answer.strip()))]
        return [{"role": role, "content": content} for role, content in (*system, *said, ("user", line))]

    def _check_room(self, ids):
        new, room = self._sampler.stopping.max_new_tokens, self._sampler.model.config.max_positions
        if len(ids) + new > room:
            raise ValueError(
                f"the conversation has {len(ids)} tokens, and with --max-new-tokens {new} that is more than the {room} positions of "
                f"{self.name}; /undo takes back the last turn, /reset begins anew, and fewer --max-new-tokens leave more room."
            )
