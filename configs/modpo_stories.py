"""MODPO at small size: helpfulness against harmlessness on Anthropic HH, at three weights, against DPO with mixed losses.

Paper:    MODPO, arXiv 2310.03708, the fronts of its safety experiment: Alpaca-7B on BeaverTails. Its DPO-LW is dpo_lw_* here.
Model:    stories260K: 0.26M parameters, trained on children's stories; it travels in the package.
Data:     Anthropic HH (MIT): 1,653 helpful and 1,602 harmless pairs, 221 and 241 held out, cut to 48 tokens of prompt and 64 an answer.
          Not in the package: JAXALIGN_DATA names a folder with hh_rlhf/{helpful_base,harmless_base}.{train,test}.jsonl.gz, dialogues
          "chosen" and "rejected" as in Anthropic/hh-rlhf on the hub (leave out `columns` below), or a list "text" of the two.
Command:  JAXALIGN_DATA=FOLDER python -m jaxalign.train --config configs/modpo_stories.py:0 --workdir runs/modpo_0
Hardware: a part of 2 CPU cores, no network.
Measured: not yet.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

BETA = 0.1
WEIGHTS = (75, 50, 25)  # percent, of helpfulness
PAIRS = {  # the hub's own files have columns chosen and rejected instead of the list text
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", columns=dict(chosen="text.0", rejected="text.1")),
    "harmless": dict(path="hh_rlhf/harmless_base.{}.jsonl.gz"),
}


def rows(name: str, part: str, **options) -> dict:
    """A source of pairs in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError("set JAXALIGN_DATA to the folder that holds hh_rlhf/; configs/modpo_stories.py says which files and where from.")
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
                columns=sections.get("columns", {}),
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
    number, stages = int(seed), {}
    chosen = tuple(rows(name, "train", responses="chosen") for name in PAIRS)
    stages["sft"] = stage("sft", chosen, number, responses="chosen", model="package:stories260k", rate=3e-3, steps=500)
    for name in PAIRS:
        stages[name] = stage("dpo", (rows(name, "train"),), number, options=dict(beta=BETA))
    reward = dict(kind="implicit_reward", model="stage:harmless", reference="stage:sft", beta=BETA)
    for percent in WEIGHTS:
        share = percent / 100
        options = dict(beta=BETA, weights=(share, 1 - share))
        stages[f"modpo_{percent}"] = stage("modpo", (rows("helpful", "train"),), number, options=options, columns=dict(margin=reward))
        mixture = rows("helpful", "train", weight=share), rows("harmless", "train", weight=1 - share)
        stages[f"dpo_lw_{percent}"] = stage("dpo", mixture, number, options=dict(beta=BETA))
    ends = ["harmless"], ["helpful"]
    methods = {
        "MODPO": [*ends[1], *(f"modpo_{percent}" for percent in WEIGHTS), *ends[0]],
        "DPO, mixed losses": [*ends[1], *(f"dpo_lw_{percent}" for percent in WEIGHTS), *ends[0]],
    }
    kl = tuple(f"{name}/kl" for name in PAIRS)
    for front, metric, corner in (("front", "ranking/log_ratios", (0.4, 0.4)), ("front_margins", "rewards/margins", (-0.3, -0.3))):
        axes = dict(x=f"helpful/{metric}", y=f"harmless/{metric}", corner=corner, kl=kl)
        stages[front] = ConfigDict(dict(experiment=dict(name="front", methods=methods, **axes)))
    return ConfigDict(dict(stages=tuple(stages), **stages))
