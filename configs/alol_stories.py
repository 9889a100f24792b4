"""A-LoL at small size: its variants and baselines on the scored HH rows, every method from the same reference.

Paper:    A-LoL, arXiv 2305.14718, the HHA experiment (Table 2); there LLaMA-7B with QLoRA on 143,000 pairs.
Model:    stories260K: 0.26M parameters, trained on children's stories; it travels in the package.
Data:     3,281 prompts of Anthropic HH with two answers each and their scores by a reward model, rewards sigmoid(score); 464 prompts held
          out; cut to 48 tokens of prompt and 64 per answer. Not in the package, as the scores have no stated licence: JAXALIGN_DATA names a
          folder with hh_rlhf_scored/{helpful_base,harmless_base}.{train,test}.jsonl.gz, JSON lines "prefix" (a list of which the first is
          the turns of the prompt), "suffix" (the answers) and "reward" (their scores), as data/hh_test of abaheti95/LoL-RL on GitHub.
Command:  JAXALIGN_DATA=FOLDER python -m jaxalign.train --config configs/alol_stories.py:0 --workdir runs/alol_0
Hardware: 1 CPU core, shared, no network; 8 to 10 CPU minutes per seed, compiling included.
Measured: 2026-11-20, 100 steps of 8 rows per method, learning rate 3e-4 for all (not tuned), seeds 0, 1, 2: share
          of 464 pairs of answers ranked as their scores are, by log pi - log pi_ref, and KL to the reference in nats per token, held out.
            nll               50.3 % (48.5 to 52.2)     0.026 (0.025 to 0.026)
            wbc               50.3 % (48.3 to 52.8)     0.027 (0.026 to 0.027)
            gold              50.6 % (49.6 to 51.5)     0.187 (0.183 to 0.194)
            rlol              51.3 % (49.1 to 53.2)     0.042 (0.042 to 0.043)
            alol              53.1 % (51.7 to 54.8)     0.070 (0.070 to 0.071)
            alol_ref_free     51.7 % (50.1 to 53.9)     0.042 (0.041 to 0.043)
            alol_seq          50.8 % (49.5 to 52.9)     0.195 (0.187 to 0.207)
            alol_kl           51.6 % (48.6 to 54.9)     0.019 (0.018 to 0.019)
            alol_kl_published 48.4 % (47.3 to 50.0)     0.203 (0.151 to 0.305)
            pro               50.9 % (49.6 to 52.6)     0.027 (0.027 to 0.028)
            dpo               53.9 % (52.2 to 56.6)     0.081 (0.079 to 0.083)
            alol_shuffled     51.0 % (47.5 to 53.7)     0.051 (0.048 to 0.056)
          Two standard errors are 4.6 %, chance is 50 %. The value head explains little beyond the mean: its correlation with rewards
          held out is 0.04 to 0.12 within a set (3 seeds). 45 % of the answers that people chose have no positive advantage (seed 0:
          32 % of the harmless ones, 58 % of the helpful ones).
Reading:  the machinery works from end to end; the paper's order (A-LoL above the cloning baselines) does not appear: nearly everything
          is within the noise of chance, as 200 steps of the value head give almost a constant and the methods are short. What shows is
          how far each method moves: `alol`, with priority sampling and the ratio, further than the same loss without either one;
          the penalty of alol_kl holds the policy back most; the published penalty, which is none, lets it drift ten times as far. The
          paper discards 33 % of the chosen answers; here nearly half, as the helpful answers score below an almost constant value.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

FILES = {"helpful": "hh_rlhf_scored/helpful_base.{}.jsonl.gz", "harmless": "hh_rlhf_scored/harmless_base.{}.jsonl.gz"}
COLUMNS = {"prompt": "prefix.0", "completions": "suffix", "scores": "reward"}
DRAWN = dict(computed=dict(advantage=dict(kind="advantage", model="stage:value")), sampling="priority")
METHODS = {  # stage -> (objective, how its data differ)
    "nll": ("nll", {}),
    "wbc": ("wbc", {}),
    "gold": ("gold", {}),
    "rlol": ("rlol", {}),
    "alol": ("alol", DRAWN),
    "alol_ref_free": ("alol_ref_free", DRAWN),
    "alol_seq": ("alol_seq", DRAWN),
    "alol_kl": ("alol_kl", DRAWN),
    "alol_kl_published": ("alol_kl_published", DRAWN),
    "pro": ("pro", {}),
    "dpo": ("dpo", dict(feedback="pair")),
    "alol_shuffled": ("alol", dict(DRAWN, sampling="shuffle")),
}


def rows(name: str, part: str, feedback: str | None) -> dict:
    """A source of answers with reward-model scores in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError("set JAXALIGN_DATA to the folder that holds hh_rlhf_scored/; the header of this config names its files.")
    path = str(Path(os.environ["JAXALIGN_DATA"]) / FILES[name].format(part))
    return dict(path=path, format="scored", rename=COLUMNS, score_transform="sigmoid", feedback=feedback)


def stage(method: str, seed: int, *, model: dict, rate: float, steps: int, feedback: str | None = None, **data) -> ConfigDict:
    """What all stages share: prompts are cut to their last 48 tokens and answers to their first 64."""
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(model, remat="none"),
            data=dict(
                train=tuple(rows(name, "train", feedback) for name in FILES),
                eval={name: rows(name, "test", feedback) for name in FILES},
                template="hh",
                row_tokens=192,
                max_prompt_tokens=48,
                max_response_tokens=64,
                response_truncation="keep_start",
                processes=1,
                **data,
            ),
            batch=dict(rows=8),
            objective=dict(name=method),
            reference=dict(rule="none" if method in ("sft", "value") else "frozen"),
            optimizer=dict(learning_rate=rate),
            mesh=dict(cpu_devices=1),
            train=dict(total_steps=steps, eval_every_percent=100, save_every_percent=100, log_every_steps=20),
        )
    )


def get_config(seed: str = "0") -> ConfigDict:
    """One reference, its value head, then every method from that reference."""
    if not seed.isdecimal():
        raise ValueError(f"seed {seed!r} is not 0, 1, 2, ...; write SEED, for example configs/alol_stories.py:0.")
    number, reference = int(seed), dict(checkpoint="stage:sft")
    head = dict(reference, value_head=1.0, trainable="value_head")
    stages = {
        "sft": stage("sft", number, model=dict(checkpoint="package:stories260k"), rate=3e-3, steps=400),
        "value": stage("value", number, model=head, rate=1e-3, steps=200),
    }
    for name, (objective, data) in METHODS.items():
        stages[name] = stage(objective, number, model=reference, rate=3e-4, steps=100, **data)
    return ConfigDict(dict(stages=tuple(stages), **stages))
