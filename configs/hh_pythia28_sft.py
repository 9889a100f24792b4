"""SFT of Pythia-2.8B on the chosen answers of Anthropic-HH: the first stage of the DPO paper's dialogue experiment.

Paper:    DPO, arXiv 2305.18290, section 6 and appendix B; recipe of its reference implementation (batch 64, 1 epoch).
Command:  python -m jaxalign.train --config configs/hh_pythia28_sft.py --workdir runs/hh_sft
Hardware: one 80 GB GPU, or a TPU v5e 4x4 slice; needs a network for model and data. Not yet run by us at this size.
Batch:    24 packed rows of 1,024 tokens are about 64 dialogues.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The SFT stage; `export` writes the folder that configs/hh_pythia28_dpo.py starts from."""
    source = dict(hf="Anthropic/hh-rlhf", format="hh", responses="chosen")
    return ConfigDict(
        dict(
            model=dict(checkpoint="EleutherAI/pythia-2.8b"),
            data=dict(
                train=dict(source, split="train"),
                eval=dict(source, split="test"),
                template="hh",
                row_tokens=1024,
                max_prompt_tokens=512,
                max_response_tokens=510,
            ),
            batch=dict(rows=24),
            objective=dict(name="sft"),
            # lr 5e-7, RMSprop, 150 steps of warm-up, clip 10: the reference implementation's defaults, for SFT and DPO alike
            optimizer=dict(name="rmsprop", learning_rate=5e-7, schedule="constant", warmup_steps=150, max_grad_norm=10.0),
            train=dict(total_epochs=1, export=True),
        )
    )
