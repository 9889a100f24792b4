"""DPO and its kin on Anthropic-HH with Pythia-2.8B, after configs/hh_pythia28_sft.py: the dialogue experiments of DPO and of TR-DPO.

Paper:    DPO, arXiv 2305.18290, section 6 (beta 0.1, batch 64); its reference implementation for learning rate and optimizer. Best win rate
          against the chosen answers 62.9 %, reported by second-hand readings of the paper.
          tr_*: TR-DPO, arXiv 2404.09656. Its body was not open to us: alpha 0.6 and tau 512 are reported by its reviews and by TRL; beta
          0.05 of DPO, rate, clipping and warm-up by TRL's pages on the paper's tables; betas 0.01 (IPO) and 0.05 (KTO) are from memory.
          Its abstract: with Pythia-6.9B on TL;DR, 8.4 (DPO), 14.3 (IPO) and 15 (KTO) points over the frozen form. No table of HH is known
          to us to compare with; a later paper (epsilon-DPO) finds more KL and no higher win rate on HH with Gemma-2-2B.
Command:  python -m jaxalign.train --config configs/hh_pythia28_dpo.py --workdir runs/hh_dpo
Variants: configs/hh_pythia28_dpo.py:VARIANT with VARIANT dpo, cdpo and rdpo (10 % label smoothing), ipo (mean per token), kto; and
          tr_dpo_soft, tr_dpo_hard, tr_dpo_frozen, likewise tr_ipo_* and tr_kto_*: the frozen ones are the baselines with the same settings.
Hardware: one 80 GB GPU, or a TPU v5e 4x4 slice; needs a network for model and data; a moving reference holds one more copy of the weights
          to measure against (reference.keep_initial=False leaves it out). Not yet run by us at this size.
Batch:    24 packed rows of 1,024 tokens with shared prompts are about 64 pairs; with KTO's mismatched answers beside them, 32 rows.
Traps:    how often the soft reference moves is nowhere said; 64 steps is ours, the first default of TRL, and epsilon-DPO took 128. A tau
          above the number of steps never fires, which a run refuses: an epoch here has about 2,500 steps, one of UltraFeedback at batch 128
          only 477. Read the held-out metrics that begin with "initial/"; those against a moving reference start anew at every move.
          The sums in tr_ipo_* are those of TR's published code; its beta is no beta of the mean form, which `ipo` here has.
"""

from ml_collections import ConfigDict

RATES = dict(name="rmsprop", learning_rate=5e-7, schedule="constant", warmup_steps=150, max_grad_norm=10.0)
TR_RATES = dict(learning_rate=1e-6, warmup_steps=100, max_grad_norm=2.0)  # AdamW and the cosine: the authors' tutorial
OBJECTIVES = {
    "dpo": dict(name="dpo", beta=0.1),
    "cdpo": dict(name="cdpo", beta=0.1, label_smoothing=0.1),
    "rdpo": dict(name="rdpo", beta=0.1, label_smoothing=0.1),
    "ipo": dict(name="ipo", tau=0.1),  # TRL's and HALOs' strength
    "kto": dict(name="kto", beta=0.1),
    "tr_dpo": dict(name="dpo", beta=0.05),
    "tr_ipo": dict(name="ipo", tau=0.01, length_normalised=False),
    "tr_kto": dict(name="kto", beta=0.05),
}
REFERENCES = {
    "soft": dict(rule="soft", alpha=0.6, every_steps=64),
    "hard": dict(rule="hard", every_steps=512),
    "frozen": dict(rule="frozen"),
}
VARIANTS = ("dpo", "cdpo", "rdpo", "ipo", "kto", *(f"{method}_{rule}" for method in ("tr_dpo", "tr_ipo", "tr_kto") for rule in REFERENCES))


def get_config(variant: str = "dpo") -> ConfigDict:
    """The preference stage on the SFT stage's export."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}.")
    trust_region = variant.startswith("tr_")
    method, _, rule = variant.rpartition("_") if trust_region else (variant, "", "frozen")
    objective = OBJECTIVES[method]
    one_by_one = objective["name"] == "kto"
    source = dict(hf="Anthropic/hh-rlhf", format="hh", **(dict(feedback="label") if one_by_one else {}))
    return ConfigDict(
        dict(
            model=dict(checkpoint="runs/hh_sft/export"),
            data=dict(
                train=dict(source, split="train"),
                eval=dict(source, split="test"),
                template="hh",
                row_tokens=1024,
                max_prompt_tokens=256,
                max_response_tokens=256,
            ),
            batch=dict(rows=32 if one_by_one else 24),
            objective=objective,
            reference=REFERENCES[rule],
            optimizer=TR_RATES if trust_region else RATES,
            train=dict(total_epochs=1),
        )
    )
