"""The batches of a window: samples of a model for their prompts, rewarded on the host, laid into rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from functools import partial
import math
import time

import jax
import numpy as np

from jaxalign.rollout.computed import REWARD
from jaxalign.rollout.feedback import Judged, tied, without_end
from jaxalign.rollout.layout import Layout
from jaxalign.rollout.prompts import DONORS, DRAW, Prompts, generator
from jaxalign.sampling.sampler import Sample, Sampler
from jaxalign.sampling.speaker import Speaker
from jaxalign.scoring.rewards import Reward

NAME = "rollout"  # what stands before the names of the metrics


@dataclasses.dataclass
class Window:
    """What was drawn for some batches."""

    arrays: dict[int, dict]  # number of the batch -> this host's rows, without the columns that the devices compute
    metrics: dict[str, float]
    lines: list[str]  # what a reader of the run should know


@dataclasses.dataclass
class Speech:
    """Who speaks, and what about."""

    prompts: Prompts
    sampler: Sampler
    speaker: Speaker
    samples: int  # of every prompt


class Windows:
    """Draws windows. Every process draws and rewards all of a window, by rewards that are the same in each, and lays its own rows."""

    def __init__(
        self,
        speech: Speech,
        layout: Layout,
        judge: Callable[[np.ndarray], Judged],
        reward: Reward | None,
        *,
        missing_eos_penalty: float = 0.0,
        missing_eos_most: float | None = None,
    ):
        """Compiles nothing yet.

        Args:
          speech: who speaks.
          layout: of the batches.
          judge: float32[P, K] rewards, NaN where there is none -> what is trained.
          reward: of a sample; None: there is none, and nothing fails.
          missing_eos_penalty, missing_eos_most: of the reward of a sample that its length ended, see `feedback.without_end`.
        """
        self._speech, self.layout, self._judge, self._reward = speech, layout, judge, reward
        self._without_end = partial(without_end, penalty=missing_eos_penalty, most=missing_eos_most)
        self._known: set[str] = set()  # what a reader was told of already

    def draw(self, params, numbers: Sequence[int], *, step: int) -> Window:
        """The window of the batches with these numbers.

        Args:
          params: of the decoder that speaks.
          numbers: of batches, not empty.
          step: names the window in messages.

        Raises:
          ValueError: no sample has a reward.
        """
        began, speech = time.perf_counter(), self._speech
        prompts = [speech.prompts.of_batch(number) for number in numbers]
        flat = [prompt for own in prompts for prompt in own]
        samples = self._samples(params, flat, seed=(speech.prompts.seed, DRAW, numbers[0]))
        rewards, faults = self._rewards(flat, samples)
        trained = self._without_end(rewards, np.array([[sample.stop != "length" for sample in own] for own in samples]))
        metrics = _metrics(rewards, trained, samples, faults)
        arrays, size, some = {}, speech.prompts.batch, False
        for i, number in enumerate(numbers):
            part = slice(i * size, (i + 1) * size)
            judged = self._judge(trained[part])
            arrays[number] = self._laid(prompts[i], samples[part], trained[part], judged, number)
            some = some or judged.valid.any()  # of all rows, in every process
        lines = list(self._told(step, trained, metrics, faults, some=some))
        return Window(arrays, metrics | {"speed/rollout_s": time.perf_counter() - began}, lines)

    def _samples(self, params, prompts: Sequence[int], *, seed) -> list[list[Sample]]:
        """The samples of every prompt. One that stands in the list again gets others there: those of a further round."""
        speech, seen = self._speech, dict.fromkeys(prompts, 0)
        drawn: list[list] = [[None] * speech.samples for _ in prompts]
        rounds: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            rounds.setdefault(seen[prompt], []).append(place)
            seen[prompt] += 1
        room = max(map(len, speech.prompts.ids))
        for number, places in sorted(rounds.items()):
            key = int(generator(*seed, number).integers(2**32))
            ids = [speech.prompts.ids[prompts[place]] for place in places]
            for sample in speech.sampler.draw(params, ids, samples=speech.samples, seed=key, room=room):
                drawn[places[sample.prompt]][sample.number] = sample
        return drawn

    def _rewards(self, prompts, samples) -> tuple[np.ndarray, dict[str, int]]:
        """(float32[n, K], NaN where there is none; how many samples have none, by the reason): the same in every process."""
        speech, reward = self._speech, self._reward
        if reward is None:
            return np.ones((len(prompts), speech.samples), np.float32), {}
        asked = [(speech.prompts.ids[prompt], speech.prompts.asked[prompt]) for prompt in prompts for _ in range(speech.samples)]
        flat, before = [sample for own in samples for sample in own], dict(reward.faults.counts)
        stopping = speech.sampler.stopping
        texts = [speech.speaker.spoken(ids, sample, stopping) for (ids, _), sample in zip(asked, flat, strict=True)]
        rewards = np.asarray(reward([one.prompt for _, one in asked], texts, [one.columns for _, one in asked]), np.float32)
        faults = {rule: count - before.get(rule, 0) for rule, count in reward.faults.counts.items()}
        return rewards.reshape(len(prompts), speech.samples), {rule: count for rule, count in faults.items() if count}

    def _laid(self, prompts, samples, rewards, judged: Judged, number: int) -> dict:
        columns = {REWARD: np.take_along_axis(np.nan_to_num(rewards), judged.chosen, 1)}
        ids = [self._speech.prompts.ids[prompt] for prompt in prompts]
        responses = [[own[k].token_ids for k in chosen] for own, chosen in zip(samples, judged.chosen.tolist(), strict=True)]
        here = self.layout.rows // jax.process_count()
        rows = slice(jax.process_index() * here, (jax.process_index() + 1) * here)
        seed = int(generator(self._speech.prompts.seed, DONORS, number).integers(2**32))
        return self.layout.arrays(ids, responses, judged, columns, rows=rows, seed=seed)

    def _told(self, step, rewards, metrics, faults, *, some: bool) -> Iterator[str]:
        """What is not as it should be, each kind of it once; `rewards` are those that are trained on, if `some` are."""
        reward = self._reward
        if np.isnan(rewards).all():
            raise ValueError(
                f"none of the {rewards.size:,} samples of step {step} has a reward, so there is nothing to train on; the newest checkpoint "
                f"is kept. {' '.join(reward.lines())}"
            )
        remarks = {} if reward is None else reward.remarks()
        if faults.keys() - self._known:
            yield from reward.lines()
        else:
            yield from (line for kind, line in remarks.items() if kind not in self._known)
        if not some:
            yield from self._once(f"step {step}: no sample of the window is trained on: {_why_alike(rewards)}.")
        elif reward is not None and rewards.shape[1] > 1 and tied(rewards).all():
            yield from self._once(f"step {step}: {_why_alike(rewards)}, so no sample of a prompt is better than another.")
        if not metrics[f"{NAME}/stopped"]:
            yield from self._once(f"step {step}: every sample of the window goes on until max_new_tokens and never stops by itself.")
        self._known |= faults.keys() | remarks.keys()

    def _once(self, line):
        kind = line.partition(": ")[2]
        if kind not in self._known:
            self._known.add(kind)
            yield line


def _why_alike(rewards) -> str:
    """Why no samples of a prompt can be told apart."""
    equal, few = tied(rewards), np.isfinite(rewards).sum(1) < 2
    reasons = [reason for reason, there in (("are all equal", equal.any()), ("are missing but one", few.any())) if there]
    return f"the rewards of a prompt's samples {' or '.join(reasons)}"


def _metrics(rewards, trained, samples, faults: Mapping[str, int]) -> dict[str, float]:
    flat, known = [sample for own in samples for sample in own], rewards[np.isfinite(rewards)]
    values = {
        "reward": known.mean() if known.size else math.nan,
        "reward_std": known.std() if known.size else math.nan,
        "ties": tied(trained).mean(),
        "tokens": np.mean([len(sample.token_ids) for sample in flat]),
        "stopped": np.mean([sample.stop != "length" for sample in flat]),
        **{f"faults/{rule}": count for rule, count in faults.items()},
    }
    return {f"{NAME}/{name}": float(value) for name, value in values.items()}
