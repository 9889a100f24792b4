"""draft"""

import os
from pathlib import Path

from ml_collections import ConfigDict

TRAIN, TEST = "ultrafeedback_mini/uf_train.train.jsonl.gz", "ultrafeedback_mini/uf_eval.test.jsonl.gz"
SCORES = dict(score_range=(1, 10), columns={"score_chosen": "metadata.score_chosen", "score_rejected": "metadata.score_rejected"})
# What a method is told of the same two answers.
METHODS = {
    "una_score": dict(feedback="score", objective=dict(name="una", loss="mse", beta=0.03)),
    "una_binary": dict(feedback="label", objective=dict(name="una", loss="mse", beta=0.01)),
    "kto": dict(feedback="label", objective=dict(name="kto", beta=0.03)),
    "dpo": dict(feedback="pair", objective=dict(name="dpo", beta=0.03)),
}


def rows(file: str, **options) -> dict:
    """A source in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; configs/ultrafeedback_stories.py says what that is.")
    return dict(path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="paired", **options)


def stage(seed: int, *, model: str, train: dict, held_out: dict, row_tokens: int, **sections) -> ConfigDict:
    """What all stages share: prompts are cut to their last 48 tokens and answers to their first 64, one prompt with its answers a row."""
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint=model, remat="dots"),
            data=dict(
                train=train,
                eval=held_out,
                template="plain",
                row_tokens=row_tokens,
                max_prompt_tokens=48,
                max_response_tokens=64,
                response_truncation="keep_start",
                pack=False,
                processes=1,
            ),
            batch=dict(rows=16),
            mesh=dict(cpu_devices=1),
            **sections,
        )
    )


def get_config(seed: str = "0") -> ConfigDict:
    """SFT on the chosen answers; then every method from there."""
    stages = {
        "sft": stage(
            int(seed),
            model="package:stories260k",
            train=rows(TRAIN, responses="chosen"),
            held_out=rows(TEST, responses="chosen"),
            row_tokens=116,
            objective=dict(name="sft"),
            optimizer=dict(learning_rate=2e-3),
        )
    }
    for name, method in METHODS.items():
        feedback, objective = method["feedback"], method["objective"]
        stages[name] = stage(
            int(seed),
            model="stage:sft",
            train=rows(TRAIN, feedback=feedback, **(SCORES if feedback == "score" else {})),
            # By its scores for all, so that all rank the same pairs: those of equal scores have no order.
            held_out=rows(TEST, feedback="pair" if feedback == "pair" else "score", **SCORES),
            row_tokens=256 if name == "kto" else 184,  # KTO has an answer to another prompt beside the two
            objective=objective,
            optimizer=dict(learning_rate=5e-5),
        )
    for name, cfg in stages.items():
        first = name == "sft"
        cfg.train = dict(total_epochs=4 if first else 2, eval_every_percent=50 if first else 33, save_every_percent=100)
    return ConfigDict(dict(stages=tuple(stages), **stages))
