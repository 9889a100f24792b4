"""Online methods of the bench: every few steps the policy answers training prompts, and the same noisy rater judges what it said.

Two samples tied in gold are not trained, as no such pair is offline, so that a batch may train fewer than one of fixed samples.
"""

from collections.abc import Callable
import zlib

import numpy as np

from jaxalign.data.raw.prompts import Asked
from jaxalign.experiments.goldbench import feedback, world
from jaxalign.experiments.goldbench.methods import Method
from jaxalign.models import model as models
from jaxalign.rollout.computed import REWARD
from jaxalign.rollout.feedback import FEEDBACK
from jaxalign.rollout.layout import Layout, group_tokens
from jaxalign.rollout.prompts import Prompts
from jaxalign.rollout.source import Rollouts
from jaxalign.rollout.window import Speech, Windows
from jaxalign.sampling.sampler import Sampler
from jaxalign.sampling.speaker import Speaker
from jaxalign.scoring import rules
from jaxalign.scoring.faults import Fault
from jaxalign.scoring.rewards import Reward
from jaxalign.training import metrics, step
from jaxalign.training.step import ROLLOUT_LOGPS

EVERY = 2  # steps of a window
ROWS, RESPONSES = 16, 64  # of a batch, online and offline
TIED = Fault("tied", "its gold is that of the sample beside it, and such pairs are not judged offline either.")


def layout(kind: str, *, samples: int, mismatched: bool) -> Layout:
    """The layout of a batch of 64 samples in 16 rows; of more than two of a prompt "pairs" trains two."""
    chosen, prompts = FEEDBACK[kind].responses(samples), RESPONSES // samples
    size = {"responses": chosen + mismatched, "new_tokens": world.LONGEST, "share_prompt": True}
    return Layout(
        ROWS,
        group_tokens(world.MOST_PROMPT_TOKENS + 1, **size) * -(-prompts // ROWS),
        prompts=prompts,
        responses=chosen,
        paired=FEEDBACK[kind].paired,
        share_prompt=True,
        mismatched=mismatched,
        columns=(REWARD,),
        computed=FEEDBACK[kind].columns,
        token_columns=(ROLLOUT_LOGPS, *FEEDBACK[kind].token_columns),
    )


def source(made: world.World, method: Method, draw: Sampler, look: Callable, reward: Callable, *, steps: int, seed: int):
    """(the source of batches, what the state carries): windows of EVERY steps of fresh samples.

    Args:
      made: the world whose training prompts are answered.
      method: an online one.
      draw: a sampler, of whose lanes a prompt has one for each sample.
      look: the forward pass of its model.
      reward: (prompts, texts) -> float64[n], NaN for what is not trained.
      steps: of the training.
      seed: of prompts and samples.
    """
    kind = FEEDBACK[method.online]
    judge, compute, finish = kind.bound(kind.options | dict(method.rollout))
    plan = layout(method.online, samples=method.samples, mismatched="mismatched" in method.bound().reads)
    ids = [tuple(map(int, prompt)) for prompt in made.train.prompts]
    asked = [Asked(i, text) for i, text in enumerate(made.prompt_texts["train"])]
    speaker = Speaker(made.renderer, (made.tokenizer.eos_id, made.tokenizer.bos_id))
    speech = Speech(Prompts(asked, ids, plan.prompts, seed), draw, speaker, method.samples)
    rollouts = Rollouts(
        None,
        0,
        windows=Windows(speech, plan, judge, rewarded(reward), missing_eos_penalty=0.0),
        every=EVERY,
        epochs=1,
        speaker=lambda state: models.without_head(state.trainable),
        look=step.make_rollout_look(look, metrics.kl, compute),
        finish=finish,
        share=(1.0, None),
        steps=steps,
        seed=seed,
    )
    return rollouts, Rollouts.carried(plan, EVERY)


def rewarded(reward: Callable) -> Reward:
    """The Reward that gives what `reward` of (prompts, texts) gives; NaN is the fault TIED, and such samples are not trained."""
    return Reward("gold", {}, rules.Rule(lambda prompts, texts, _: [TIED if np.isnan(u) else float(u) for u in reward(prompts, texts)]))


def utilities(judge: feedback.Judged, gold: Callable[[list[str], list[str]], np.ndarray], *, seed: int) -> Callable:
    """(prompts, texts) -> the rater's utility of new texts on the scale of its scores: 0 at the median of those it has judged.

    A text has the same noise whenever it is said. Samples 0 and 1 of a prompt, which follow each other, are a pair, as are 2 and 3; both of
    a pair that is tied in gold are NaN, as `feedback.pair_members` leaves it out.
    """

    def of(prompts, texts):
        draws = [
            np.random.default_rng((seed, 3, zlib.crc32(f"{prompt}\n{text}".encode()))) for prompt, text in zip(prompts, texts, strict=True)
        ]
        golds = gold(prompts, texts)
        utility = golds / judge.temperature + np.array([draw.gumbel() for draw in draws])
        utility[np.repeat(golds[::2] == golds[1::2], 2)] = np.nan
        return feedback.SQUASH * (utility - np.median(judge.utility)) / judge.utility.std()

    return of
