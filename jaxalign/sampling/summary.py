"""What was drawn: how many samples of how many prompts, how fast, and what ended them."""

import collections
from collections.abc import Sequence
import dataclasses
import time

from jaxalign.data.raw.counts import Counts
from jaxalign.sampling.sampler import Usage
from jaxalign.sampling.stopping import Stopping


@dataclasses.dataclass
class Summary:
    """What is drawn with a sampler from now on.

    Args:
      usage: of the sampler, which has drawn nothing yet.
      stopping: when its samples end.
      counts: of the rows with the prompts.
      steps: most lines of an answer, where each is chosen by itself.
    """

    usage: Usage
    stopping: Stopping
    counts: Counts
    steps: int | None = None
    ends: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # what ended samples -> how many
    begin: float = dataclasses.field(default_factory=time.monotonic)

    def lines(self, strings: Sequence[str] = ()) -> list[str]:
        """The summary up to now; `strings` are the user's own stop strings, of which each should end some sample."""
        usage, seconds = self.usage, time.monotonic() - self.begin
        ways = {
            "stop": "by a stop token",
            "string": "by a stop string",
            "length": f"at {self.stopping.max_new_tokens:,} tokens",
            "steps": f"after {self.steps} lines",
            "positions": "where the model's positions were used up, so they are cut",
        }
        ended = ", ".join(f"{self.ends[why]:,} {way}" for why, way in ways.items() if self.ends[why])
        rate = f"{usage.tokens:,} tokens in {seconds:.1f} s, {usage.tokens / max(seconds, 1e-9):,.0f} per second with compilation"
        busy = f"{usage.busy:.0%} of the lanes were busy"
        count = self.ends.total()
        lines = [f"{count:,} sample{'' if count == 1 else 's'}: {rate}; {busy}; {ended or 'nothing was left to draw'}"]
        if strings and self.ends and not self.ends["string"]:
            texts = ", ".join(map(repr, strings))
            lines.append(f"no sample contained --stop {texts}: each went on until something else ended it.")
        if dropped := self.counts.read - self.counts.kept:
            lines.append(f"rows without a sample: {dropped:,} of {self.counts.read:,}; the lines at the beginning tell why.")
        return lines
