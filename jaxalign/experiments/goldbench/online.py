"""Online methods of the bench: every few steps the policy answers training prompts, and the same noisy rater judges what it said."""

from collections.abc import Callable
from functools import partial
import zlib

import numpy as np

from jaxalign.data.raw.prompts import Asked
from jaxalign.experiments.goldbench import feedback, world
from jaxalign.rollout.feedback import FEEDBACK
from jaxalign.rollout.layout import Layout, group_tokens
from jaxalign.rollout.prompts import Prompts
from jaxalign.rollout.source import Rollouts
from jaxalign.rollout.window import REWARD, Speech, Windows
from jaxalign.sampling.speaker import Speaker
from jaxalign.scoring import rules
from jaxalign.scoring.rewards import Reward
from jaxalign.training.step import ROLLOUT_LOGPS

EVERY = 2  # steps of a window
ROWS, PROMPTS = 16, 32  # of a batch


def layout(kind: str, *, responses: int, mismatched: bool) -> Layout:
    """The layout of a batch of 32 prompts in 16 rows."""
    paired = FEEDBACK[kind].paired
    longest = group_tokens(world.MOST_PROMPT_TOKENS + 1, responses=responses + mismatched, new_tokens=world.LONGEST, share_prompt=True)
    return Layout(
        ROWS,
        longest * PROMPTS // ROWS,
        prompts=PROMPTS,
        responses=responses,
        paired=paired,
        share_prompt=True,
        mismatched=mismatched,
        columns=(REWARD, *FEEDBACK[kind].columns),
        token_columns=(ROLLOUT_LOGPS,),
    )


def source(made: world.World, kind: str, reward: Callable, look: Callable, *, samples: int, mismatched: bool, seed: int):
    """(the source of batches, what the state carries): windows of EVERY steps of fresh samples.

    Args:
      made: the world whose training prompts are answered.
      kind: of feedback, see `rollout.feedback`.
      reward: (prompts, texts) -> float64[n].
      look: (state, batch) -> (columns of tokens, KL), see `training.step.make_rollout_look`.
      samples: of each prompt.
      mismatched: whether the objective reads responses of other prompts.
      seed: of prompts and samples.
    """
    plan = layout(kind, responses=FEEDBACK[kind].responses(samples), mismatched=mismatched)
    ids = [tuple(map(int, prompt)) for prompt in made.train.prompts]
    asked = [Asked(i, text) for i, text in enumerate(made.prompt_texts["train"])]
    speaker = Speaker(made.renderer, (made.tokenizer.eos_id, made.tokenizer.bos_id))
    draw = world.sampler(made.model, made.tokenizer, longest=world.LONGEST, lanes=samples)
    speech = Speech(Prompts(asked, ids, PROMPTS, seed), draw, speaker, samples)
    scored = Reward("gold", {}, rules.Rule(lambda prompts, texts, _: list(map(float, reward(prompts, texts)))))
    windows = Windows(speech, plan, FEEDBACK[kind].judge, scored, missing_eos_penalty=0.0)
    rollouts = Rollouts(
        None, 0, windows=windows, every=EVERY, epochs=1, speaker=lambda state: state.trainable, look=look, share=1.0, seed=seed
    )
    return rollouts, partial(Rollouts.carried, plan, EVERY)


def utilities(judge: feedback.Judged, gold: Callable[[list[str], list[str]], np.ndarray], *, seed: int) -> Callable:
    """(prompts, texts) -> the rater's utility of new texts on the scale of its scores: 0 at the median of those it has judged.

    A text has the same noise whenever it is said.
    """

    def of(prompts, texts):
        draws = [
            np.random.default_rng((seed, 3, zlib.crc32(f"{prompt}\n{text}".encode()))) for prompt, text in zip(prompts, texts, strict=True)
        ]
        utility = gold(prompts, texts) / judge.temperature + np.array([draw.gumbel() for draw in draws])
        return feedback.SQUASH * (utility - np.median(judge.utility)) / judge.utility.std()

    return of
