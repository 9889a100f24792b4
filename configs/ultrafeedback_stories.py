"""One set of judged answers in three forms, at small size: scores (UNA-score), thumbs (UNA-binary, KTO) and pairs (DPO).

Paper:    UNA, arXiv 2408.15339, the offline comparison: UNA-score before UNA-binary before or beside KTO and DPO; there Mistral-7B with
          LoRA on 20,000 answers of HelpSteer2. Its betas: 0.03, of UNA-binary 0.01; one learning rate for all here, and for scores
          a second time the paper's six times as high (una_score_fast).
Model:    stories260K (A. Karpathy, MIT), 0.26M parameters, trained on children's stories; it travels in the package.
Data:     a sample of UltraFeedback (MIT) with GPT-4 scores 1 to 10: 776 prompts with two answers, 151 held out. JAXALIGN_DATA names a
          folder with ultrafeedback_mini/uf_train.train.jsonl.gz and uf_eval.test.jsonl.gz: JSON lines "prompt", "chosen", "rejected"
          (texts) and "metadata", {"score_chosen", "score_rejected"}; such rows are in trl-lib/ultrafeedback_binarized on the hub. Prompts
          are cut to their last 48 tokens and answers to their first 64 (130 letters), the same for every method: 770 of 776
          rows kept, by DPO 769.
          The held-out ranking goes by the scores for all: 134 pairs of different scores, DPO 133 (cutting makes one pair equal, which DPO
          drops). In training 93 pairs of equal scores keep the order of the file for thumbs and pairs.
Command:  for seed in 0 1 2; do python -m jaxalign.train --config configs/ultrafeedback_stories.py:$seed --workdir runs/uf_$seed; done
          python -m jaxalign.compare --runs runs/uf_0 runs/uf_1 runs/uf_2 --stages una_score una_score_fast una_binary kto dpo --out runs/uf
          --metrics accuracy ranking/logps kl
Hardware: 1 CPU core, 6 minutes per seed, at 5,000 to 8,000 tokens/s.
Measured: 2026-11-20 and again 2026-11-21 with the same numbers, three seeds: mean (least to greatest). SFT: held-out loss 5.084 -> 2.819,
          2.807, 2.800 nats per token, flat since half the run. Share of held-out pairs that the log-ratios rank as the scores do, and KL to
          the start in nats per token: una_score 49.6 (46.6 to 53.0) %, KL 0.0049 (0.0046 to 0.0052); una_score_fast 47.8 (44.0 to 50.0) %,
          KL 0.0402 (0.0379 to 0.0423); una_binary 42.3 (39.6 to 44.8) %, KL 0.1449 (0.1392 to 0.1510); kto 42.0 (40.7 to 43.7) %, KL
          0.1639 (0.1577 to 0.1688); dpo 41.4 (37.6 to 45.1) %, KL 0.1606 (0.1592 to 0.1625). Rate 5e-5, of una_score_fast six times that
          as in the paper; 5e-5 is between two tried for DPO on seed 0: 2e-5 (42.1 % held out after 90 steps of 147) and 1e-4 (46.6 %
          after 120).
Reading:  no order of methods appears. 134 pairs have two standard errors of 8.6 %, so 42 % is not surely below chance; nothing shows that
          the first 130 letters hold what GPT-4 judged. Thumbs and pairs move the policy as far as each other and rank held-out pairs no
          better than chance; scores move the policy 30 times less at the same learning rate, and four times less at six times the rate,
          where their held-out loss already rises (0.067 to 0.071). The paper's order, UNA-score first, is not contradicted and not shown.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

TRAIN, TEST = "ultrafeedback_mini/uf_train.train.jsonl.gz", "ultrafeedback_mini/uf_eval.test.jsonl.gz"
SCORES = dict(score_range=(1, 10), rename={"score_chosen": "metadata.score_chosen", "score_rejected": "metadata.score_rejected"})
# What a method is told of the same two answers.
METHODS = {
    "una_score": dict(feedback="score", objective=dict(name="una", loss="mse", beta=0.03)),
    "una_score_fast": dict(feedback="score", objective=dict(name="una", loss="mse", beta=0.03), learning_rate=3e-4),
    "una_binary": dict(feedback="label", objective=dict(name="una", loss="mse", beta=0.01)),
    "kto": dict(feedback="label", objective=dict(name="kto", beta=0.03)),
    "dpo": dict(feedback="pair", objective=dict(name="dpo", beta=0.03)),
}


def rows(file: str, **options) -> dict:
    """A source in the folder that JAXALIGN_DATA names."""
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; the header of this config describes it.")
    return dict(path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="paired", **options)


def stage(seed: int, *, model: str, train: dict, held_out: dict, row_tokens: int, **sections) -> ConfigDict:
    """What all stages share: prompts are cut to their last 48 tokens and answers to their first 64, one prompt with its answers per row."""
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
    if not seed.isdecimal():
        raise ValueError(f"seed {seed!r} is not 0, 1, 2, ...; write SEED, for example configs/ultrafeedback_stories.py:0.")
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
            optimizer=dict(learning_rate=method.get("learning_rate", 5e-5)),
        )
    for name, cfg in stages.items():
        first = name == "sft"
        cfg.train = dict(total_epochs=4 if first else 2, eval_every_percent=50 if first else 33, save_every_percent=100)
    return ConfigDict(dict(stages=tuple(stages), **stages))
