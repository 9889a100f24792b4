"""DPO of Llama-3-8B-Instruct on UltraFeedback with low-rank adapters: on one accelerator, where training all weights takes eight.

Paper:    LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314. Data, beta and batch are those of ultrafeedback_llama3_8b_dpo, which trains all
          weights; rank 16, alpha 32 and all linear maps are usual, and so is a rate ten times that of full training, with no decay.
Command:  python -m jaxalign.train --config configs/ultrafeedback_llama3_8b_lora.py --workdir runs/uf_lora
          python -m jaxalign.export --workdir runs/uf_lora --out FOLDER --adapter   writes the adapters for peft; without --adapter merged
Variants: configs/ultrafeedback_llama3_8b_lora.py:STORED with STORED what the weights of the model are stored in: bfloat16, int8 or nf4.
Hardware: one GPU or TPU chip of 40 GB or more with bfloat16, of 24 GB with nf4; needs a network for model and data. Not yet run by us.
          On 16 chips of a v5e 4x4 add --config.batch.gradient_accumulation_steps=4: 9.1 GiB a chip by the plan.
Memory:   weights, adapters and both moments, from their shapes: 15.4 GiB in bfloat16, 9.3 in int8, 6.1 in nf4. The reference is the
          model with its adapters off and takes none. The whole step by the plan, python -m jaxalign.plan --quick --topology gpu:h100:1:
          40.8 GiB with remat dots, which the run chooses where it fits, as on a chip of 80 GB; 22.3 and 15 % slower with attention, 20.3
          and 22 % slower with full; 86 without, which fits no such chip.
"""

from ml_collections import ConfigDict

VARIANTS = ("bfloat16", "int8", "nf4")


def get_config(stored: str = "bfloat16", checkpoint: str = "meta-llama/Meta-Llama-3-8B-Instruct") -> ConfigDict:
    """One epoch; the tokenizer's own chat template."""
    if stored not in VARIANTS:
        raise ValueError(f"{stored!r} is not one of {', '.join(VARIANTS)}.")
    source = dict(hf="HuggingFaceH4/ultrafeedback_binarized", format="paired")
    return ConfigDict(
        dict(
            model=dict(checkpoint=checkpoint, lora=dict(rank=16, alpha=32.0, base_dtype=stored)),
            data=dict(
                train=dict(source, split="train_prefs"),
                eval=dict(source, split="test_prefs"),
                row_tokens=2048,
                max_prompt_tokens=1024,
            ),
            batch=dict(rows=64, gradient_accumulation_steps=16),
            objective=dict(name="dpo", beta=0.01),
            optimizer=dict(learning_rate=7e-6, warmup_percent=10),
            train=dict(total_epochs=1),
        )
    )
