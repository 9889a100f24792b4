"""DPO of Pythia-2.8B on Anthropic-HH, after configs/hh_pythia28_sft.py: the DPO paper's dialogue experiment.

Paper:    DPO, arXiv 2305.18290, section 6 (beta 0.1, batch 64); its reference implementation for learning rate and optimizer.
Command:  python -m jaxalign.train --config configs/hh_pythia28_dpo.py --workdir runs/hh_dpo
Variants: configs/hh_pythia28_dpo.py:cdpo and :rdpo, with 10 % label smoothing.
Hardware: one 80 GB GPU, or a TPU v5e 4x4 slice; needs a network for model and data. Not yet run by us at this size.
Batch:    24 packed rows of 1,024 tokens with shared prompts are about 64 pairs.
"""

from ml_collections import ConfigDict


def get_config(objective: str = "dpo") -> ConfigDict:
    """The DPO stage on the SFT stage's export."""
    source = dict(hf="Anthropic/hh-rlhf", format="hh")
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
            batch=dict(rows=24),
            objective=dict(name=objective, beta=0.1),
            optimizer=dict(name="rmsprop", learning_rate=5e-7, schedule="constant", warmup_steps=150, clip_norm=10.0),
            train=dict(total_epochs=1),
        )
    )
