"""A reward model of seven numbers: which of two summaries of product reviews people prefer, from the scores of a judge.

Paper:    arXiv 2402.15473, its reward model on OpinPref: a network over seven scores, 0 to 5, that a language model gave each summary.
Data:     OpinPref (MIT): 638 pairs of summaries, 110 held out. Not in the package: JAXALIGN_DATA names a folder with
          opinpref/{opinpref_train.train,opinpref_valid.test}.jsonl.gz, the annotations as published.
Command:  JAXALIGN_DATA=FOLDER python -m jaxalign.train --config configs/opinpref_features.py      (or :VARIANT or :VARIANT,SEED)
Variants: linear; monotone, a linear map whose weights are not negative; mlp, with a hidden layer of 5; deep, with 6, 4 and 2; ensemble, 5
          monotone members.
Hardware: 1 CPU core; 10 seconds.
Measured: 2026-11-26, seeds 0, 1, 2 (ensemble: seed 0), 1,000 steps of 32 pairs, held-out pairs in order (110; two standard errors 8.1 %):
          monotone 75.9 % in all, ensemble 75.9 %, mlp 72.3 % in all, deep 71.4, 70.5 and 68.6 %, linear 75.9, 73.2 and 74.1 %.
          Without training: the plain mean of the seven 73.6 %, the best of them alone (hallucination) 73.2 %.
Reading:  weights that may not be negative are the one constraint that helps here; more layers overfit 638 pairs. All this lies within the
          error of 110 pairs, the plain mean too.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

FEATURES = (
    "aspect-coverage", "opinion-faithfulness", "opinion-coverage", "conciseness", "relevance", "hallucination", "language-correctness",
)  # fmt: skip
COLUMNS = tuple(name.replace("-", "_") for name in FEATURES)
NETWORKS = {
    "linear": {},
    "monotone": dict(monotone=True),
    "mlp": dict(hidden=(5,)),
    "deep": dict(hidden=(6, 4, 2)),
    "ensemble": dict(monotone=True, members=5),
}


def rows(file: str) -> dict:
    """A source of pairs in the folder that JAXALIGN_DATA names; the reviews are not read, as the scores are made of them."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError("set JAXALIGN_DATA to the folder that holds opinpref/; the header of this config names its files.")
    rename = dict(prompt="unique-id", preference="preference-data")
    for number, side in enumerate(("one", "two"), 1):
        summary = f"summary-pairs.summary-{side}"
        rename[f"summary_{number}"] = f"{summary}.summary-text"
        rename |= {f"{column}_{number}": f"{summary}.summary-score.{name}" for column, name in zip(COLUMNS, FEATURES, strict=True)}
    path = str(Path(os.environ["JAXALIGN_DATA"]) / "opinpref" / file)
    return dict(path=path, format="choice", rename=rename, keep_columns={column: column for column in COLUMNS})


def get_config(argument: str = "monotone") -> ConfigDict:
    """A head on the seven scores. The decoder is not computed, so texts are cut to a few tokens."""
    variant, _, seed = argument.partition(",")
    if variant not in NETWORKS or not (seed or "0").isdecimal():
        raise ValueError(f"{argument!r} is not VARIANT or VARIANT,SEED, for example mlp,1; VARIANT is one of {', '.join(NETWORKS)}.")
    features = {column: dict(range=(0, 5)) for column in COLUMNS}
    return ConfigDict(
        dict(
            seed=int(seed or 0),
            model=dict(
                checkpoint="package:stories260k", trainable="reward_head", reward_head=dict(features=features, **NETWORKS[variant])
            ),
            data=dict(
                train=rows("opinpref_train.train.jsonl.gz"),
                eval=rows("opinpref_valid.test.jsonl.gz"),
                template="plain",
                row_tokens=640,
                max_prompt_tokens=4,
                max_response_tokens=32,  # shorter beginnings would be the same in some pairs, which are then dropped
                response_truncation="keep_start",
                max_groups_per_row=8,
                processes=1,
            ),
            batch=dict(rows=4),  # 32 pairs
            objective=dict(name="feature_reward"),
            optimizer=dict(learning_rate=2e-2, weight_decay=0.05),
            mesh=dict(cpu_devices=1),
            train=dict(total_epochs=50, eval_every_percent=100, save_every_percent=100, log_every_percent=10),
        )
    )
