"""SFT, DPO and TR-DPO on dialogues, judged by a reward model on what they say, at every evaluation.

Papers:   DPO, arXiv 2305.18290; TR-DPO, arXiv 2404.09656 (soft, alpha 0.6); the reward model is Bradley-Terry's.
Model:    stories260K (A. Karpathy, MIT), 0.26M parameters; it travels in the package.
Data:     626 pairs of answers of a dialogue system (MIT), in the package, of which 214 are held out; 64 of their prompts are answered,
          twice each, by the policy and by the model that its stage started from.
Variants: "reward": SFT, then the reward model. "0", "1", ...: the policies with this seed, judged by the reward model that
          runs/judged_reward holds; JAXALIGN_REWARD names another.
Command:  python -m jaxalign.train --config configs/judged_stories.py:reward --workdir runs/judged_reward
          for seed in 0 1; do
            python -m jaxalign.train --config configs/judged_stories.py:$seed --workdir runs/judged_$seed
            for stage in dpo tr_dpo; do
              python -m jaxalign.evaluate --workdir runs/judged_$seed/$stage --against runs/judged_$seed/sft
            done
          done
          python -m jaxalign.report runs/judged_0 runs/judged_1 --stages sft dpo tr_dpo --out runs/judged.html
Hardware: 1 CPU core, 2.5 minutes for the reward model, 5 minutes per seed beside other work, of which half answers and judges.
Measured: 2026-11-26. The reward model ranks 66.8 % of 214 held-out pairs right (two standard errors 6.4 %). Seeds 0 and 1, mean (least to
          greatest), at the end: reward of the answers sft 0.25 (0.21 to 0.29), dpo 0.63 (0.60 to 0.67), tr_dpo 0.51 (0.38 to 0.63); KL to
          the start on own answers, nats per answer, dpo 19.3 (18.4 to 20.2), tr_dpo 28.6 (27.8 to 29.4). The page: dpo's answers are
          worth more than sft's by 0.39 (0.03 to 0.74, all comparisons together in 95 of 100 cases); between dpo and tr_dpo it cannot be
          told, 0.13 (-0.57 to 0.83). Won against the model that each started from: sft 68.0 % (55.7 to 80.3 %), dpo 57.9 % (49.1 to
          66.8 %), tr_dpo 52.3 % (31.2 to 73.4 %): of the last two it cannot be told.
Reading:  the reward model that judges was trained on the same pairs, so that a gain is a gain by its taste. Chosen answers become
          less likely with both (-48.5 -> -72.0 and -83.1 nats, seed 0), of which the page warns.
"""

import os

from ml_collections import ConfigDict

VARIANTS = ("reward", "0")
FILE = "package:sf_dialogue/{}.jsonl.gz"


def stage(seed: int, objective: dict, responses: str, *, checkpoint: str, rows: int, rate: float, epochs: int, **sections) -> ConfigDict:
    """What all stages share."""
    rows_of = {split: dict(path=FILE.format(split), format="paired", responses=responses) for split in ("train", "test")}
    return ConfigDict(
        dict(
            seed=seed,
            data=dict(train=rows_of["train"], eval=rows_of["test"], template="plain", row_tokens=256),
            model=dict(checkpoint=checkpoint, remat="dots", **sections.pop("model", {})),
            batch=dict(rows=rows),
            objective=objective,
            optimizer=dict(learning_rate=rate),
            train=dict(total_epochs=epochs, eval_every_percent=20),
            mesh=dict(cpu_devices=1),
            **sections,
        )
    )


def get_config(variant: str = "0") -> ConfigDict:
    """The stages of a variant."""
    seed = "0" if variant == "reward" else variant
    if not seed.isdecimal():
        raise ValueError(f"variant {variant!r} is neither reward nor a seed; write for example configs/judged_stories.py:0.")
    pairs = dict(checkpoint="stage:sft", rows=8)
    sft = dict(objective=dict(name="sft"), responses="chosen", checkpoint="package:stories260k", rows=16, rate=2e-3, epochs=8)
    if variant == "reward":
        head = dict(objective=dict(name="reward"), responses="all", model=dict(reward_head="linear"), rate=1e-3, epochs=4, **pairs)
        return ConfigDict(dict(stages=("sft", "reward"), sft=stage(int(seed), **sft), reward=stage(int(seed), **head)))
    judge = f"model:{os.environ.get('JAXALIGN_REWARD', 'runs/judged_reward/reward')}"
    spoken = dict(eval=dict(generate=dict(rewards=dict(helpful=judge), against="reference", samples=2, max_new_tokens=48)))
    dpo = dict(objective=dict(name="dpo", beta=0.1), responses="all", rate=2e-4, epochs=3, **pairs, **spoken)
    soft = dict(reference=dict(rule="soft", alpha=0.6, every_percent=5))
    policies = dict(sft=stage(int(seed), **sft, **spoken), dpo=stage(int(seed), **dpo), tr_dpo=stage(int(seed), **dpo, **soft))
    return ConfigDict(dict(stages=tuple(policies), **policies))
