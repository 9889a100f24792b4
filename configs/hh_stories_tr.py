"""draft"""

import os
from pathlib import Path

from ml_collections import ConfigDict

SOURCES = {
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", columns=dict(chosen="text.0", rejected="text.1")),
    "harmless": dict(path="hh_rlhf/harmless_base.{}.jsonl.gz"),
}
SOFT = dict(rule="soft", alpha=0.6, every_percent=5)
HARD = dict(rule="hard", every_percent=10)
METHODS = {
    "dpo": dict(objective=dict(name="dpo", beta=0.05)),
    "tr_dpo_soft": dict(objective=dict(name="dpo", beta=0.05), reference=SOFT),
    "tr_dpo_hard": dict(objective=dict(name="dpo", beta=0.05), reference=HARD),
    "ipo": dict(objective=dict(name="ipo", tau=0.01, length_normalised=False)),
    "tr_ipo_hard": dict(objective=dict(name="ipo", tau=0.01, length_normalised=False), reference=HARD),
    "kto": dict(objective=dict(name="kto", beta=0.05)),
    "tr_kto_hard": dict(objective=dict(name="kto", beta=0.05), reference=HARD),
}


def rows(name: str, split: str, *, responses: str, limit: int | None = None) -> dict:
    """Pairs of a source in the folder that JAXALIGN_DATA names."""
    file = SOURCES[name]["path"].format(split)
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; configs/hh_stories_tr.py says what that is.")
    return dict(SOURCES[name], path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="hh", limit=limit, responses=responses)


def stage(seed: int, *, model: str, row_tokens: int, steps: int, responses: str = "all", **sections) -> ConfigDict:
    """What all stages share: prompts are cut to 48 tokens and answers to their first 64, one prompt with its answers a row."""
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint=model, remat="dots"),
            data=dict(
                train=tuple(rows(name, "train", responses=responses) for name in SOURCES),
                eval={name: rows(name, "test", responses=responses, limit=120) for name in SOURCES},
                template="hh",
                row_tokens=row_tokens,
                max_prompt_tokens=48,
                max_response_tokens=64,
                response_truncation="keep_start",
                pack=False,
                processes=1,
            ),
            batch=dict(rows=16),
            mesh=dict(cpu_devices=1),
            train=dict(total_steps=steps, eval_every_percent=50, save_every_percent=100),
            **sections,
        )
    )


def get_config(seed: str = "0") -> ConfigDict:
    """SFT on the chosen answers; then every method from there."""
    stages = {
        "sft": stage(
            int(seed), model="package:stories260k", row_tokens=116, steps=160, responses="chosen",
            objective=dict(name="sft"), optimizer=dict(learning_rate=2e-3),
        )
    }  # fmt: skip
    for name, method in METHODS.items():
        # KTO gets an answer to another prompt beside the two.
        room = 256 if method["objective"]["name"] == "kto" else 184
        stages[name] = stage(
            int(seed), model="stage:sft", row_tokens=room, steps=80, optimizer=dict(learning_rate=5e-5), **method
        )
    return ConfigDict(dict(stages=tuple(stages), **stages))
