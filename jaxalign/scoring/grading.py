"""A language model that grades single answers: a reward from an OpenAI-compatible endpoint.

The form of "single answer grading" of Zheng et al., "Judging LLM-as-a-judge" (arXiv 2306.05685, section 3.1): reasons first, then a grade.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from jaxalign.scoring import asking, endpoint, rules
from jaxalign.scoring.faults import Fault, Prompt

INSTRUCTIONS = (
    "Grade how well an answer serves the user: whether it does what was asked, is correct, and is clear. Its length is no merit."
)
FORM = (
    "First give your reasons in a few sentences. Then end with a line that holds nothing but the grade in double brackets, from "
    "[[{lowest:g}]] for the worst to [[{highest:g}]] for the best."
)
NUMBER = r"(-?\d+(?:\.\d+)?)"
MARK = re.compile(rf"\[\[\s*{NUMBER}\s*\]\]")
BARE = re.compile(rf"\W*?{NUMBER}\W*")  # a judge that gives no reasons


def judge(
    *,
    model: str,
    url: str | None = None,
    instructions: str = INSTRUCTIONS,
    lowest: float = 1.0,
    highest: float = 10.0,
    key_from: str | None = "OPENAI_API_KEY",
    options: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
    retries: int = 4,
    wait_s: float = 1.0,
    parallel: int = 8,
    cache: str | None = "",
) -> rules.Rule:
    """The grade that a language model behind an endpoint gives an answer; several processes ask once.

    Args:
      model: its name, or MODEL@https://HOST/v1.
      url: what stands before /chat/completions, where model does not have it.
      instructions: by what it is to grade.
      lowest, highest: the worst and the best grade; what lies outside is a fault.
      key_from, options, timeout_s, retries, wait_s, parallel, cache: see `judge.judge_of`.

    Raises:
      ValueError: an option is wrong.
    """
    if url is None:
        model, url = endpoint.model_and_url(model)
    if not lowest < highest:
        raise ValueError(f"reward 'judge': lowest={lowest:g} must be below highest={highest:g}.")
    how = {"key_from": key_from, "options": options, "timeout_s": timeout_s, "retries": retries, "wait_s": wait_s, "cache": cache}
    grader = Grader(endpoint.made(url=url, model=model, parallel=parallel, **how), instructions, lowest, highest, parallel)
    return rules.Rule(grader.score, ready=grader.ready, writes_prompt=True)


@dataclasses.dataclass(frozen=True)
class Grader:
    """A model behind an endpoint and the grades that it may give."""

    endpoint: endpoint.Endpoint
    instructions: str
    lowest: float
    highest: float
    parallel: int  # requests at a time

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str], metadata: Sequence[Mapping]) -> list[float | Fault]:
        """The grade of every completion; several processes ask once."""
        questions = list(zip(prompts, completions, strict=True))
        return asking.ask_all(self._grade, questions, parallel=self.parallel, doing=f"asking {self.endpoint.model}", quiet=True)

    def ready(self) -> None:
        """Raises ValueError where the endpoint does not grade a plain case."""

        def answer():
            try:
                return self._grade(("How much is 2 + 2?", "4"))
            except Fault as fault:
                raise ValueError(f"the judge {self.endpoint.model} at {self.endpoint.url} does not grade: {fault}") from None

        asking.from_first(answer)

    def _grade(self, question) -> float:
        prompt, completion = question
        form = FORM.format(lowest=self.lowest, highest=self.highest)
        text = f"{asking.written(prompt)}\n\n[Answer]\n{completion}\n[End of the answer]\n\n{form}"
        messages = [{"role": "system", "content": self.instructions}, {"role": "user", "content": text}]
        reply = self.endpoint.ask(messages, keep=lambda reply: grade_of(reply) is not None)
        value = grade_of(reply)
        if value is None:
            raise Fault("unreadable", f"the reply {reply[-100:]!r} names no grade.")
        if not self.lowest <= value <= self.highest:
            raise Fault("out_of_range", f"the grade {value:g} is not from {self.lowest:g} to {self.highest:g}.")
        return value


def grade_of(reply: str) -> float | None:
    """The grade of a reply; None where it names none, or several at its end."""
    last = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    marks = set(MARK.findall(last) or MARK.findall(reply))
    if bare := BARE.fullmatch(reply.strip()):
        marks = {bare[1]}
    return float(marks.pop()) if len(marks) == 1 else None
