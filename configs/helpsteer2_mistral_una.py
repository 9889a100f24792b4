"""UNA on HelpSteer2 with Mistral-7B (base): the same answers as scores, as thumbs and as pairs.

Paper:    UNA, arXiv 2408.15339 v2, its offline tables; one seed, no error bars. Read by us in the paper, average of the new Open LLM
          Leaderboard / IFEval / TruthfulQA / MT-Bench: base 28.61 / 23.22 / 42.58 / 3.15, DPO 28.53 / 26.3 / 44.75 / 6.1,
          KTO 28.56 / 24.18 / 47.72 / 5.99, una_binary_mse 28.88 / 26.1 / 48.23 / 6.78, una_binary_bce 28.93 / 26.49 / 48.33 / 6.23,
          una_score 30.92 / 37.25 / 55.09 / 6.72. Compare the order, not the decimals: all of the gain in the first column is IFEval, and
          una_score had six times the learning rate of the others.
          uft: UFT, arXiv 2410.21438, UltraChat as answers of score 1 in the same loss. Read by us in the paper: 32.81 / 46.03 / 54.05 /
          6.78; SFT on UltraChat alone 29.87 / 29.5 / 51.06 / 6.33.
Command:  python -m jaxalign.train --config configs/helpsteer2_mistral_una.py --workdir runs/hs2_una_score
Variants: configs/helpsteer2_mistral_una.py:VARIANT with VARIANT una_score, una_binary_mse, una_binary_bce, kto, dpo (which the paper calls
          UNA-pair), uft.
Data:     una_score and uft read the hub's rows, one answer each; of 20,000 conversations of UltraChat the last answer is trained, while UFT
          cuts them into single turns. The others read pairs, two neighbouring rows of the hub's as one row of
          data/helpsteer2_pairs.{train,validation}.jsonl with `prompt`, `chosen`, `rejected`, which you write: chosen is the answer with
          the larger 0.65 helpfulness + 0.8 correctness + 0.45 coherence. The paper gives ties to the second answer; leave them out.
Settings: betas, epochs, schedule and batch (8 answers; of dpo 8 pairs) are those of the paper's scripts. They train LoRA (r 32, alpha 16,
          all linear maps; uft r 16) at 3e-5 (una_score, uft) and 5e-6 (the rest); LoRA is not there yet, so all parameters are trained, and
          a tenth of these rates is ours. For a fair comparison run every variant at una_score's rate too. The template is Mistral's.
Hardware: 8 x 80 GB GPUs, or a TPU v5p 2x2x2 slice; needs a network for model and data. Not yet run by us at this size.
"""

from ml_collections import ConfigDict

# variant -> objective, learning rate
VARIANTS: dict[str, tuple[dict, float]] = {
    "una_score": (dict(name="una", loss="mse", beta=0.03), 3e-6),
    "uft": (dict(name="una", loss="mse", beta=0.01), 3e-6),
    "una_binary_mse": (dict(name="una", loss="mse", beta=0.01), 5e-7),
    "una_binary_bce": (dict(name="una", loss="bce", beta=0.01), 5e-7),
    "kto": (dict(name="kto", beta=0.03), 5e-7),
    "dpo": (dict(name="dpo", beta=0.03), 5e-7),
}
SCORES = dict(
    hf="nvidia/HelpSteer2",
    format="scored",
    score_range=(0, 4),
    score_weights=dict(helpfulness=0.65, correctness=0.8, coherence=0.45),
)
ULTRACHAT = dict(hf="HuggingFaceH4/ultrachat_200k", split="train_sft[:20000]", format="messages")
SINGLE = ("una_score", "uft")


def rows(variant: str, split: str) -> dict:
    """The source that a variant reads: scores of single answers, pairs, or the two answers of a pair judged one by one."""
    if variant in SINGLE:
        return dict(SCORES, split=split)
    feedback = {} if variant == "dpo" else dict(feedback="label")
    return dict(path=f"data/helpsteer2_pairs.{split}.jsonl", format="paired", **feedback)


def get_config(variant: str = "una_score") -> ConfigDict:
    """Two epochs; a row holds one judged answer, or both answers of a pair, so that a batch counts what the paper's counts."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}.")
    objective, rate = VARIANTS[variant]
    labels = variant not in (*SINGLE, "dpo")
    return ConfigDict(
        dict(
            model=dict(checkpoint="mistralai/Mistral-7B-v0.1"),
            data=dict(
                train=(rows(variant, "train"), ULTRACHAT) if variant == "uft" else rows(variant, "train"),
                eval=rows(variant, "validation"),
                template="mistral",
                # 1,024 of the prompt and 2,048 in all, as published; a second and KTO's third answer need room of their own
                row_tokens=2048 if variant in SINGLE else 4096 if variant == "kto" else 3072,
                max_prompt_tokens=1024,
                max_response_tokens=1022,
                response_truncation="keep_start",
                pack=False,
            ),
            batch=dict(rows=4 if labels else 8),  # 8 answers, or 8 pairs
            objective=objective,
            optimizer=dict(learning_rate=rate, warmup_percent=10),
            mesh=dict(tensor=2 if labels else 1),
            train=dict(total_epochs=2, export=True),
        )
    )
