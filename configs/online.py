"""Every method online: each window of batches is what the policy says at that moment, judged by a rule; a small model on a laptop.

Methods:  those of preference learning on fresh feedback (dpo, ipo, kto, una; tr_* with a reference that moves), UNA's own form for rollouts
          (una_online, arXiv 2408.15339 v2), and policy gradients (ppo, grpo, dr_grpo, rloo, reinforce).
Model:    stories260K (A. Karpathy, MIT), 0.26M parameters, first SFT on the quickstart's chosen answers (MIT).
Reward:   `reward` below, from -1 to 1: does the answer contain the words of the values in the prompt, and has it about ten words?
Command:  python -m jaxalign.train --config configs/online.py:METHOD            (or METHOD,SEED; or all, or all,SEED)
Compare:  held-out "generate/reward" of 64 prompts with four answers each against "generate/kl", before and after.
Hardware: 1 CPU core, no network; 70 CPU seconds per method, after one minute of SFT.
Measured: 2026-11-26, seed 0, reward of the start -0.069; its change over the 64 prompts with the standard error, and the KL in nats per
          answer: dpo +0.158 (0.020) at 8.9, grpo +0.117 (0.023) at 6.6, una_online +0.049 (0.023) at 5.5. The three are at different KL, so
          this is no order of methods (configs/gold.py makes one); the others are set up here and not measured.
"""

import math
from pathlib import Path
import re

from ml_collections import ConfigDict

PROMPTS = "package:sf_dialogue/train.jsonl.gz"
NEW_TOKENS = 48  # of an answer at most
WORDS, WIDTH = 10, 4  # of an answer, and how far from it the reward falls to 0.6
SOFT = dict(rule="soft", alpha=0.6, every_steps=8)
HARD = dict(rule="hard", every_steps=8)

# Method -> what it needs that others do not: its feedback, options of its rollouts, and sections of its stage.
METHODS: dict[str, dict] = {
    "dpo": dict(feedback="pairs"),
    "ipo": dict(feedback="pairs"),
    "tr_dpo_soft": dict(feedback="pairs", objective=dict(name="dpo"), reference=SOFT),
    "tr_dpo_hard": dict(feedback="pairs", objective=dict(name="dpo"), reference=HARD),
    "kto": dict(feedback="labels", row_tokens=512),
    "una": dict(feedback="scores", rollout=dict(score_transform="linear", score_range=(-1, 1)), objective=dict(beta=0.1)),
    "una_online": dict(feedback="scores", objective=dict(form="raw", beta=0.1)),
    "sft_best": dict(feedback="best", objective=dict(name="sft")),
    "ppo": dict(feedback="gae", rollout=dict(epochs=2), model=dict(critic="linear")),
    "grpo": dict(feedback="group_advantage", rollout=dict(epochs=2), objective=dict(beta=0.04)),
    "dr_grpo": dict(
        feedback="group_advantage",
        rollout=dict(epochs=2, scale="none"),
        objective=dict(name="grpo", reduction="constant", max_tokens=NEW_TOKENS),
    ),
    "rloo": dict(feedback="group_advantage", rollout=dict(baseline="leave_one_out", scale="none", beta=0.05)),
    "reinforce": dict(feedback="group_advantage", rollout=dict(every_steps=1, baseline="none", scale="none", beta=0.05)),
}
VARIANTS = ("all", *METHODS)


def reward(prompts, completions, metadata) -> list[float]:
    """The share of the words in quotes in the prompt that the answer contains, and how near it is to ten words, both 0 to 1, less 1."""
    scores = []
    for prompt, completion in zip(prompts, completions, strict=True):
        wanted = [word for value in re.findall(r"'([^']*)'", prompt) for word in value.lower().split()]
        said = completion.lower().split()
        named = sum(word in said for word in wanted) / len(wanted) if wanted else 1.0
        scores.append(named + math.exp(-(((len(said) - WORDS) / WIDTH) ** 2) / 2) - 1)
    return scores


def stage(method: str, seed: int) -> ConfigDict:
    """A method's stage."""
    own = METHODS[method]
    rollout = dict(
        prompts=dict(path=PROMPTS, format="paired"),
        samples=4,
        reward=f"{Path(__file__).resolve()}:reward",
        feedback=own["feedback"],
        every_steps=4,
        max_new_tokens=NEW_TOKENS,
    )
    answers = dict(prompts=dict(path=PROMPTS.replace("train", "test"), format="paired"), samples=4, max_new_tokens=NEW_TOKENS)
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint="stage:sft", remat="dots") | own.get("model", {}),
            data=dict(rollout=rollout | own.get("rollout", {}), template="plain", row_tokens=own.get("row_tokens", 384), processes=1),
            batch=dict(rows=8),
            objective=dict(name=method) | own.get("objective", {}),
            reference=own.get("reference", dict(rule="frozen")),
            optimizer=dict(learning_rate=3e-4) | own.get("optimizer", {}),
            mesh=dict(cpu_devices=1),
            train=dict(total_steps=64, eval_every_percent=100, save_every_percent=100),
            eval=dict(generate=dict(answers, rewards=dict(rule=rollout["reward"]))),
        )
    )


def sft(seed: int) -> ConfigDict:
    """The start of all methods: the chosen answers made likely."""
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint="package:stories260k", remat="dots"),
            data=dict(
                train=dict(path=PROMPTS, format="paired", responses="chosen"), template="plain", row_tokens=256, processes=1
            ),
            batch=dict(rows=8),
            objective=dict(name="sft"),
            optimizer=dict(learning_rate=2e-3),
            mesh=dict(cpu_devices=1),
            train=dict(total_epochs=4, eval_every_percent=0, save_every_percent=100),
        )
    )


def get_config(argument: str = "dpo") -> ConfigDict:
    """SFT, and the method."""
    method, _, seed = argument.partition(",")
    if method not in VARIANTS or not (seed or "0").isdecimal():
        raise ValueError(f"{argument!r} is not METHOD or METHOD,SEED, for example dpo,0; METHOD is one of {', '.join(VARIANTS)}.")
    names = tuple(METHODS) if method == "all" else (method,)
    number = int(seed or 0)
    return ConfigDict(dict(stages=("sft", *names), sft=sft(number), **{name: stage(name, number) for name in names}))
