"""SFT, then DPO and UNA-score, of a real pretrained model on two CPU cores within an hour: 200 judged pairs, answers before and after.

Papers:   DPO, arXiv 2305.18290; UNA, arXiv 2408.15339.
Model:    SmolLM2-135M-Instruct (Apache-2.0), from the hub or from the folder that JAXALIGN_MODEL names.
Data:     the first 200 rows of a sample of UltraFeedback (MIT) with GPT-4 scores 1 to 10; 40 others are held out. JAXALIGN_DATA names its
          folder, as in configs/ultrafeedback_stories.py. Prompts are cut to their last 96 tokens and answers to their first 128.
Command:  python -m jaxalign.train --config configs/ultrafeedback_smollm2.py --workdir runs/smollm2
          python -m jaxalign.report runs/smollm2 --stages sft dpo una --out runs/smollm2.html
Hardware: 2 CPU cores, 6.4 GiB; 49 minutes: 11 for SFT and 19 for each of the others, a third of it for answers and what is held out.
Measured: 2026-11-28, one seed, before -> after with standard errors; answers of 24 prompts against those of the stage's start.
          SFT, 18 steps: held-out loss 1.950 -> 1.903 (0.104; 40 answers), win rate by length 0.65 (0.10), KL 0.24 (0.03) nats per answer.
          DPO, 27 steps: accuracy 50 -> 53 % (8.0; 40 pairs), 220 -> 233 characters (21), win rate 0.48 (0.10), KL 0.15 (0.01).
          UNA, 27 steps: accuracy 50 -> 56 % (8.6; 34 pairs that differ in score), held-out loss 0.072 -> 0.065 (0.007), 220 -> 204
          characters (24), win rate 0.46 (0.10), KL 0.14 (0.01). Neither accuracy can be told from chance, and no order of the two.
          With 300 pairs and 60 held out (50 steps, two CPU hours): DPO 58 %, UNA 56 %, which cannot be told from chance either.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

TRAIN, TEST = "ultrafeedback_mini/uf_train.train.jsonl.gz", "ultrafeedback_mini/uf_eval.test.jsonl.gz"
SCORES = dict(score_range=(1, 10), rename={"score_chosen": "metadata.score_chosen", "score_rejected": "metadata.score_rejected"})
OBJECTIVES = {"sft": dict(name="sft"), "dpo": dict(name="dpo", beta=0.1), "una": dict(name="una", loss="mse", beta=0.03)}
SOURCES = {"sft": dict(responses="chosen"), "dpo": {}, "una": dict(feedback="score", **SCORES)}


def rows(file: str, limit: int, **options) -> dict:
    """A source in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; the header of this config describes it.")
    return dict(path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="paired", limit=limit, **options)


def stage(name: str, *, model: str) -> ConfigDict:
    """One epoch of an objective; 24 fixed prompts are answered at its start and at its end."""
    return ConfigDict(
        dict(
            model=dict(checkpoint=model),
            data=dict(
                train=rows(TRAIN, 200, **SOURCES[name]),
                eval=rows(TEST, 40, **SOURCES[name]),
                row_tokens=1024,
                max_prompt_tokens=96,
                max_response_tokens=128,
                response_truncation="keep_start",
            ),
            batch=dict(rows=2),
            objective=OBJECTIVES[name],
            optimizer=dict(learning_rate=1e-5),
            eval=dict(generate=dict(limit=24, max_new_tokens=64, rewards=dict(length="length"), against="reference")),
            train=dict(total_epochs=1, eval_every_percent=100, save_every_percent=100),
            mesh=dict(cpu_devices=1),
        )
    )


def get_config() -> ConfigDict:
    """SFT on the chosen answers; then DPO and UNA from there."""
    models = {"sft": os.environ.get("JAXALIGN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct"), "dpo": "stage:sft", "una": "stage:sft"}
    stages = {name: stage(name, model=model) for name, model in models.items()}
    return ConfigDict(dict(stages=tuple(stages), **stages))
