"""A few held-out prompts whose responses are followed through a run: their log-probs before training and now."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.data.rows.store import Prepared
from jaxalign.data.text.tokenizer import Tokenizer

LOG = logging.getLogger(__name__)
FILE = "samples.json"
PROMPTS = 3
BY_RESPONSE = ("logps/chosen", "logps/rejected")  # metrics that hold the log-prob of one response of a prompt
OF_ALL = "logps/responses"  # the metric of objectives that do not tell chosen from rejected


class Samples:
    """The samples of one run, kept in WORKDIR/samples.json so that a run that is continued goes on with them.

    Args:
      workdir: folder of the run.
      prepared: the held-out set that they are from; prompts are spread evenly over it.
      start_step: what a run that was interrupted has written about later steps is dropped.
    """

    def __init__(self, workdir: Path, prepared: Prepared, *, start_step: int):
        self._path, count = workdir / FILE, min(PROMPTS, len(prepared.groups))
        self._prompts = np.linspace(0, len(prepared.groups) - 1, count).round().astype(int).tolist()
        places = prepared.plan.ravel().tolist()
        self._places = [places.index(prompt) if prompt in places else None for prompt in self._prompts]
        self._steps = {step: values for step, values in self._read().items() if int(step) <= start_step}

    def _read(self) -> dict[str, list[dict]]:
        """Step -> the log-probs of each sample, as `record` writes them; empty, after a warning, where the file is damaged."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            of_prompts = [dict] * len(self._prompts)
            if all(step.isdecimal() and [*map(type, values)] == of_prompts for step, values in known.items()):
                return known
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            pass
        LOG.warning("%s is damaged and is passed over; the log-probs of the samples before this start are lost.", self._path)
        return {}

    def record(self, step: int, by_prompt: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Writes the log-probs of the samples at a step, from metrics by prompt (see `evaluators.held_out.measure`)."""
        names = [name for name in (*BY_RESPONSE, OF_ALL) if name in by_prompt]
        self._steps[str(step)] = [{name: _mean(by_prompt[name], place) for name in names} for place in self._places]
        self._path.write_text(json.dumps(self._steps), encoding="utf-8")

    def texts(self, prepared: Prepared, tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """[{"prompt": text, "responses": [{"text", "what", "before", "after"}]}]; log-probs in nats, None where they were not measured."""
        nothing = [{}] * len(self._prompts)
        first, last = self._steps.get("0", nothing), self._steps[max(self._steps, key=int)] if self._steps else nothing
        return [
            _sample(prepared, prompt, tokenizer, before, after)
            for prompt, before, after in zip(self._prompts, first, last, strict=False)
        ]


def _sample(prepared, prompt, tokenizer, before, after):
    groups = prepared.groups
    ids = groups.piece(prompt, 0)[0].tolist()
    question, responses, paired = tokenizer.decode(ids), [], bool(groups.paired[prompt])
    valid = np.flatnonzero(groups.valid[prompt]).tolist()
    sides = {k: BY_RESPONSE[k if paired else int(groups.reward[prompt, k] <= 0.5)] for k in valid}
    names = {k: side if side in after else OF_ALL for k, side in sides.items()}
    for k in valid:
        text = tokenizer.decode([*ids, *groups.piece(prompt, 1 + k)[0].tolist()])[len(question) :]
        what = ("chosen", "rejected")[k] if paired else f"reward {float(groups.reward[prompt, k]):g}"
        alone = list(names.values()).count(names[k]) == 1  # else the metric is a mean over several responses
        logps = [steps.get(names[k]) if alone else None for steps in (before, after)]
        responses.append({"text": text, "what": what, **dict(zip(("before", "after"), logps, strict=True))})
    return {"prompt": question, "responses": responses}


def _mean(parts, place):
    sums, weights = parts
    return float(sums[place] / weights[place]) if place is not None and weights[place] > 0 else None
