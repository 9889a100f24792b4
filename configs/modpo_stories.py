"""MODPO at small size: helpfulness against harmlessness on Anthropic HH, at three weights, against DPO with mixed losses.

Paper:    MODPO, arXiv 2310.03708, the fronts of its safety experiment: Alpaca-7B on BeaverTails. Its DPO-LW is dpo_lw_* here.
Model:    stories260K: 0.26M parameters, trained on children's stories; it travels in the package.
Data:     Anthropic HH (MIT): 1,653 helpful and 1,602 harmless pairs, 221 and 241 held out, cut to 48 tokens of prompt and 64 per answer.
          Not in the package: JAXALIGN_DATA names a folder with hh_rlhf/{helpful_base,harmless_base}.{train,test}.jsonl.gz, dialogues
          "chosen" and "rejected" as in Anthropic/hh-rlhf on the hub (leave out `rename` below), or a list "text" of the two.
Command:  JAXALIGN_DATA=FOLDER python -m jaxalign.train --config configs/modpo_stories.py:0 --workdir runs/modpo_0
Hardware: 1 CPU core, shared, no network; 8 CPU minutes per seed, compiling included.
Measured: 2026-11-20, 180 steps of 8 rows per policy, beta 0.1, learning rate 3e-4 for all (the middle of 1e-4, 3e-4 and 1e-3, tried with
          DPO on seed 0), seeds 0, 1, 2: mean (least to greatest), held out, of beta * log-ratio margins and of the share of pairs in order.
                       margin, helpful            margin, harmless           accuracy, helpful      accuracy, harmless
            helpful    +0.067 (+0.036 to +0.091)  -0.006 (-0.034 to +0.008)  50.5 % (48.0 to 54.8)  48.7 % (46.9 to 51.0)
            modpo_75   +0.020 (-0.013 to +0.038)  +0.026 (-0.007 to +0.047)  47.4 % (46.2 to 48.9)  51.0 % (49.4 to 53.9)
            modpo_50   -0.039 (-0.076 to -0.003)  +0.069 (+0.032 to +0.094)  46.2 % (44.3 to 47.1)  54.1 % (53.1 to 55.2)
            modpo_25   -0.106 (-0.159 to -0.054)  +0.118 (+0.081 to +0.142)  44.0 % (43.0 to 44.8)  56.2 % (55.2 to 57.7)
            dpo_lw_75  +0.004 (-0.013 to +0.018)  +0.072 (+0.038 to +0.098)  47.7 % (44.8 to 49.8)  52.1 % (51.0 to 53.5)
            dpo_lw_50  -0.078 (-0.106 to -0.061)  +0.124 (+0.106 to +0.142)  45.6 % (42.5 to 48.0)  55.6 % (54.4 to 56.4)
            dpo_lw_25  -0.159 (-0.226 to -0.107)  +0.207 (+0.171 to +0.231)  43.7 % (41.2 to 48.0)  58.2 % (56.8 to 59.8)
            harmless   -0.238 (-0.283 to -0.180)  +0.243 (+0.220 to +0.273)  41.5 % (39.8 to 43.0)  56.7 % (55.6 to 58.1)
          Area above (-0.3, -0.3) in margins: MODPO 0.146 (0.134 to 0.163), dpo_lw 0.156 (0.143 to 0.170); above (0.4, 0.4) in
          accuracies: 0.014 (0.011 to 0.017) and 0.015 (0.010 to 0.018).
Reading:  the weight does what it should: with less of it on helpfulness the margin on helpful pairs falls and that on harmless ones
          rises at every step, for both methods in all three seeds. The paper's order, MODPO above DPO with mixed losses, does not
          appear: the area of the mixed losses is a little larger in all three seeds, as MODPO, which sees no harmless pair but through
          the margin model, moves less. Accuracies on helpful pairs are at chance even for DPO on them (two standard errors are 6.7 %)
          and below it once harmlessness counts, probably because shorter answers win more often there and less often here.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

BETA = 0.1
WEIGHTS = (75, 50, 25)  # percent, of helpfulness
PAIRS = {  # the hub's own files have columns chosen and rejected instead of the list text
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", rename=dict(chosen="text.0", rejected="text.1")),
    "harmless": dict(path="hh_rlhf/harmless_base.{}.jsonl.gz"),
}


def rows(name: str, part: str, **options) -> dict:
    """A source of pairs in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError("set JAXALIGN_DATA to the folder that holds hh_rlhf/; the header of this config names its files and their source.")
    path = str(Path(os.environ["JAXALIGN_DATA"]) / PAIRS[name]["path"].format(part))
    return dict(PAIRS[name], path=path, format="hh", **options)


def stage(method: str, sources: tuple, seed: int, *, responses: str = "all", model: str = "stage:sft", **sections) -> ConfigDict:
    """What all stages share: prompts are cut to their last 48 tokens and answers to their first 64."""
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint=model, remat="none"),
            data=dict(
                train=sources,
                eval={name: rows(name, "test", responses=responses) for name in PAIRS},
                template="hh",
                row_tokens=192,
                max_prompt_tokens=48,
                max_response_tokens=64,
                response_truncation="keep_start",
                processes=1,
                computed=sections.get("computed", {}),
            ),
            batch=dict(rows=8),
            objective=dict(name=method, **sections.get("options", {})),
            optimizer=dict(learning_rate=sections.get("rate", 3e-4)),
            mesh=dict(cpu_devices=1),
            train=dict(total_steps=sections.get("steps", 180), eval_every_percent=100, save_every_percent=100, log_every_steps=20),
        )
    )


def get_config(seed: str = "0") -> ConfigDict:
    """One SFT, the two ends, then MODPO and loss weighting at every weight between them, and the front."""
    if not seed.isdecimal():
        raise ValueError(f"seed {seed!r} is not 0, 1, 2, ...; write SEED, for example configs/modpo_stories.py:0.")
    number, stages = int(seed), {}
    chosen = tuple(rows(name, "train", responses="chosen") for name in PAIRS)
    stages["sft"] = stage("sft", chosen, number, responses="chosen", model="package:stories260k", rate=3e-3, steps=500)
    for name in PAIRS:
        stages[name] = stage("dpo", (rows(name, "train"),), number, options=dict(beta=BETA))
    reward = dict(kind="implicit_reward", model="stage:harmless", reference="stage:sft", beta=BETA)
    for percent in WEIGHTS:
        share = percent / 100
        options = dict(beta=BETA, weights=(share, 1 - share))
        stages[f"modpo_{percent}"] = stage("modpo", (rows("helpful", "train"),), number, options=options, computed=dict(margin=reward))
        mixture = rows("helpful", "train", weight=share), rows("harmless", "train", weight=1 - share)
        stages[f"dpo_lw_{percent}"] = stage("dpo", mixture, number, options=dict(beta=BETA))
    ends = ["harmless"], ["helpful"]
    methods = {
        "MODPO": [*ends[1], *(f"modpo_{percent}" for percent in WEIGHTS), *ends[0]],
        "DPO, mixed losses": [*ends[1], *(f"dpo_lw_{percent}" for percent in WEIGHTS), *ends[0]],
    }
    kl = tuple(f"{name}/kl" for name in PAIRS)
    for front, metric, corner in (("front", "accuracy", (0.4, 0.4)), ("front_margins", "rewards/margins", (-0.3, -0.3))):
        axes = dict(x=f"helpful/{metric}", y=f"harmless/{metric}", corner=corner, kl=kl)
        stages[front] = ConfigDict(dict(experiment=dict(name="front", methods=methods, **axes)))
    return ConfigDict(dict(stages=tuple(stages), **stages))
