"""DPO and its kin with Llama-3-8B-Instruct on UltraFeedback.

Paper:    SimPO, arXiv 2405.14734, which tuned these baselines: batch 128, 1 epoch, cosine, 10 % warm-up, at most 2,048 tokens. AlpacaEval 2
          LC % / Arena-Hard, reported by the README of its repository, with on-policy pairs, so expect less with the original answers used
          here: SFT 26.0 / 22.3, DPO 40.3 / 32.6, IPO 35.6 / 30.5, KTO 33.1 / 26.4, ORPO 28.5 / 25.8, R-DPO 41.1 / 33.1, SLiC-HF (without a
          reference; `hinge` has one) 26.9 / 26.2, SimPO 44.7 / 33.8; CPO's row there repeats KTO's, so it is left out. With pairs judged by
          a stronger reward model ("v0.2"; the names of its rows seem to have slipped by one): DPO 48.2 / 35.2, IPO 46.8 / 36.6,
          KTO 34.1 / 27.3.
Command:  python -m jaxalign.train --config configs/ultrafeedback_llama3_8b_dpo.py --workdir runs/uf_llama3
Variants: configs/ultrafeedback_llama3_8b_dpo.py:METHOD with METHOD a key of METHODS below.
Settings: DPO's and SimPO's are those of the README. Of the others it gives none: theirs are the objectives' published defaults, or where a
          comment marks it ours, at DPO's learning rate; the paper searched 3e-7 to 1e-6 for each of them.
Hardware: 8 x H100, or a TPU v5p 2x2x2 slice and larger; needs a network for model and data. Not yet run by us at this size.
Memory:   2026-11-20, DPO, compiled ahead of time for v5p 2x2x2 (8 chips, fsdp 8) with 16 rows per microbatch: 15.0 GiB of state and 12.4
          GiB of temporaries per chip, by the compiler's memory analysis; 95 s to compile.
Batch:    64 packed rows of 2,048 tokens with shared prompts are about 128 pairs; fewer of KTO, whose rows hold a mismatched answer too.
"""

from ml_collections import ConfigDict

RATE = 7e-7
METHODS: dict[str, dict] = {
    "dpo": dict(beta=0.01),
    "simpo": dict(beta=2.5, gamma=1.375, learning_rate=1e-6),  # gamma / beta 0.55
    "ipo": dict(tau=0.1),
    "kto": dict(beta=0.01),  # ours: DPO's
    "orpo": dict(lam=0.1),
    "cpo": dict(beta=0.1, alpha=1.0),
    "r_dpo": dict(beta=0.01, alpha=0.01),  # ours
    "hinge": dict(beta=0.01),  # SLiC with a reference; ours: DPO's
    "wpo": dict(beta=0.01),  # beta of its authors for this model, from memory
    "dpo_norm": dict(beta=5.0, learning_rate=5e-7),  # Tulu 3
    "dpo_nll": dict(beta=0.1, alpha=1.0),
    "apo_zero": dict(beta=0.1),
    "sppo": dict(beta=0.001),
    "exo": dict(beta=0.1),
    "nca": dict(beta=0.01),
    "bco": dict(beta=0.01),
}
ONE_BY_ONE = ("kto", "bco")
VARIANTS = tuple(METHODS)


def get_config(method: str = "dpo", checkpoint: str = "meta-llama/Meta-Llama-3-8B-Instruct") -> ConfigDict:
    """One epoch; the tokenizer's own chat template."""
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}.")
    objective = dict(METHODS[method])
    rate = objective.pop("learning_rate", RATE)
    source = dict(hf="HuggingFaceH4/ultrafeedback_binarized", format="paired", **(dict(feedback="label") if method in ONE_BY_ONE else {}))
    return ConfigDict(
        dict(
            model=dict(checkpoint=checkpoint),
            data=dict(
                train=dict(source, split="train_prefs"),
                eval=dict(source, split="test_prefs"),
                row_tokens=2048,
                max_prompt_tokens=1024,
            ),
            batch=dict(rows=64, gradient_accumulation_steps=4),
            objective=dict(name=method, **objective),
            optimizer=dict(learning_rate=rate, warmup_percent=10),
            train=dict(total_epochs=1, export=True),
        )
    )
