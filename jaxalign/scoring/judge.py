"""A language model as a judge of two answers: an OpenAI-compatible endpoint, asked in both orders.

Who judges, and how, follows Zheng et al., "Judging LLM-as-a-judge" (arXiv 2306.05685, section 3.4): a win is a win in both orders, what
turns with the order is a tie. The share of what stands first, by which such judges differ most, is measured and told.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from jaxalign.hparams import REQUIRED, hparams_of
from jaxalign.reports.intervals import Interval, wilson
from jaxalign.scoring import asking, endpoint
from jaxalign.scoring.faults import Fault, Faults, Prompt, shown
from jaxalign.suggest import meant

INSTRUCTIONS = (
    "Decide which of two answers serves the user better: whether it does what was asked, is correct, and is clear. "
    "Neither the order of the answers nor their length is a merit."
)
FORM = (
    "First give your reasons in a few sentences. Then end with a line that holds nothing but [[A]] if answer A is better, "
    "[[B]] if answer B is better, or [[C]] if neither is."
)
MARK = re.compile(r"\[\[\s*([ABC])\s*\]\]")
BARE = re.compile(r"\W*([ABC])\W*")  # a judge that gives no reasons
FIRST = {"A": 1.0, "B": 0.0, "C": 0.5}


@dataclasses.dataclass
class Judge:
    """Compares answers. What could not be judged is counted in `faults`; `preferences` is what it preferred by place."""

    endpoint: endpoint.Endpoint
    instructions: str
    parallel: int  # requests at a time
    faults: Faults = dataclasses.field(default_factory=Faults)
    preferences: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # for the first place, in either order of a pair

    def __call__(self, prompts: Sequence[Prompt], firsts: Sequence[str], seconds: Sequence[str], *, quiet: bool = True) -> np.ndarray:
        """1 where the first answer wins in both orders, 0 where the second does, else 0.5; NaN without a verdict: float64[n].

        Equal answers are a tie that nobody is asked about.

        Args:
          prompts: text or messages.
          firsts, seconds: two answers to each.
          quiet: show no progress.
        """
        differ = [number for number in range(len(prompts)) if firsts[number] != seconds[number]]
        asked = [self._messages(prompts[i], *pair) for i in differ for pair in ((firsts[i], seconds[i]), (seconds[i], firsts[i]))]
        how = {"parallel": self.parallel, "doing": f"asking {self.endpoint.model}", "quiet": quiet}
        replies = asking.ask_all(self._preference, asked, **how)
        verdict, faults = np.full(len(prompts), 0.5), []
        for number, one, other in zip(differ, replies[::2], replies[1::2], strict=True):
            fault = next((reply for reply in (one, other) if isinstance(reply, Fault)), None)
            if fault is not None:
                faults.append((shown(prompts[number]), fault))
                verdict[number] = np.nan
                continue
            self.preferences.append((one, other))
            verdict[number] = one if one + other == 1 else 0.5  # the same answer was preferred at both places
        self.faults.add(len(prompts), faults)
        return verdict

    def check(self) -> None:
        """Raises ValueError where the endpoint does not judge a plain case: before a run that would need it."""

        def answer():
            try:
                return self._preference(self._messages("How much is 2 + 2?", "4", "5"))
            except Fault as fault:
                raise ValueError(f"the judge {self.endpoint.model} at {self.endpoint.url} does not answer: {fault}") from None

        asking.from_first(answer)

    def first_place(self) -> tuple[float, Interval]:
        """The share of verdicts for the answer that stands first, and its Wilson interval over pairs; 0.5 of a judge without this bias."""
        share = float(np.mean(self.preferences)) if self.preferences else float("nan")
        return share, wilson(share, len(self.preferences))

    def lines(self) -> list[str]:
        """What a reader of its verdicts has to know: faults, how many verdicts turned with the order, and whether it follows the place."""
        name, lines = f"judge {self.endpoint.model}", []
        if self.preferences:
            turned = sum(one + other != 1 for one, other in self.preferences)
            share, interval = self.first_place()
            lines.append(f"{name}: {turned:,} of {len(self.preferences):,} verdicts turned with the order of the answers: ties")
            if not interval.low <= 0.5 <= interval.high:
                place = "first" if share > 0.5 else "second"
                lines.append(f"{name}: it prefers what stands {place}: first {share:.1%} of the time ({interval}); its verdicts say little")
        return [*lines, *(f"{name}: {line}" for line in self.faults.lines("left out"))]

    def _messages(self, prompt, first, second):
        text = f"{asking.written(prompt)}\n\n[Answer A]\n{first}\n[End of answer A]\n\n[Answer B]\n{second}\n[End of answer B]\n\n{FORM}"
        return [{"role": "system", "content": self.instructions}, {"role": "user", "content": text}]

    def _preference(self, messages) -> float:
        """1 for the answer at the first place, 0 for the second, 0.5 for neither. Raises Fault."""
        reply = self.endpoint.ask(messages, keep=lambda reply: verdict_of(reply) is not None)
        letter = verdict_of(reply)
        if letter is None:
            raise Fault("unreadable", f"the reply {reply[-100:]!r} names no verdict.")
        return FIRST[letter]


def make(spec: str | Mapping) -> Judge:
    """The judge that a spec names: "MODEL@URL", or dict(url=..., model=..., ...) with the options of `judge_of`.

    Raises:
      ValueError: an option is missing, unknown or wrong.
    """
    return judge_of(**parse(spec))


def parse(spec: str | Mapping) -> dict[str, Any]:
    """The options that a spec holds.

    Raises:
      ValueError: it is none, or an option is missing or unknown.
    """
    if isinstance(spec, str):
        model, url = endpoint.model_and_url(spec)
        return {"model": model, "url": url}
    if not isinstance(spec, Mapping):
        raise ValueError(f"a judge is a text MODEL@URL or a dict, not {type(spec).__name__}.")
    accepted = hparams_of(judge_of)
    if unknown := [name for name in spec if name not in accepted]:
        raise ValueError(f"the judge has no option {unknown[0]!r}{meant(unknown[0], accepted)}; it takes {', '.join(accepted)}.")
    if missing := [name for name, default in accepted.items() if default is REQUIRED and name not in spec]:
        raise ValueError(f"the judge needs {', '.join(missing)}.")
    return dict(spec)


def judge_of(
    *,
    url: str,
    model: str,
    key_from: str | None = "OPENAI_API_KEY",
    instructions: str = INSTRUCTIONS,
    options: Mapping[str, Any] | None = None,
    timeout_s: float = 60.0,
    retries: int = 4,
    wait_s: float = 1.0,
    parallel: int = 8,
    cache: str | None = "",
) -> Judge:
    """A judge behind an OpenAI-compatible endpoint.

    Args:
      url: what stands before /chat/completions, as https://HOST/v1.
      model: its name there.
      key_from: the environment variable that holds the key; None sends none.
      instructions: by what it is to judge.
      options: further fields of the request; None: temperature 0.
      timeout_s: of one request.
      retries: after a request that failed.
      wait_s: before the first retry, doubled from one to the next.
      parallel: requests at a time.
      cache: folder that keeps replies by content; "": judge in $JAXALIGN_CACHE or ~/.cache/jaxalign; None keeps none.

    Raises:
      ValueError: an option is wrong.
    """
    how = {"key_from": key_from, "options": options, "timeout_s": timeout_s, "retries": retries, "wait_s": wait_s, "cache": cache}
    return Judge(endpoint.made(url=url, model=model, parallel=parallel, **how), instructions, parallel)


def verdict_of(reply: str) -> str | None:
    """ "A", "B" or "C" (neither) of a reply; None where it names none, or several at its end."""
    last = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    marks = set(MARK.findall(last) or MARK.findall(reply))
    if bare := BARE.fullmatch(reply.strip()):
        marks = {bare[1]}
    return marks.pop() if len(marks) == 1 else None
