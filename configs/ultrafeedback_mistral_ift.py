"""Intuitive Fine-Tuning of Mistral-7B on UltraFeedback's chosen answers and UltraChat, against plain SFT.

Paper:    IFT, arXiv 2405.11870, its one-stage table on 120,000 examples, read by us in the paper (one seed). Average of ARC, MMLU,
          TruthfulQA, WinoGrande and GSM8K / AlpacaEval 2 LC: base 54.79 / 0.35, SFT 58.65 / 8.67, IFT 59.61 / 13.27, with noisy mixing
          60.56 / not given; DPO 58.28 / 8.58, ORPO 57.70 / 12.34. The gain over SFT is mostly TruthfulQA and GSM8K. The best of many
          checkpoints on these same tests is reported, so expect less.
Command:  python -m jaxalign.train --config configs/ultrafeedback_mistral_ift.py --workdir runs/uf_mistral_ift
Variants: configs/ultrafeedback_mistral_ift.py:VARIANT with VARIANT ift; noisy (mixing 0.2 times 1 + 0.5 xi, one xi per step);
          stopgrad_weights (constant weights: the ablation that matters, see jaxalign/objectives/ift.py); plain (mixing 0, gamma 0: SFT as
          the mean over each answer, embeddings read as constants like IFT's, the baseline that differs in nothing else); sft (the paper's
          baseline, whose embeddings train; ours takes the mean over tokens).
Settings: gamma 0.95, mixing 0.2, RMSprop, learning rate 5e-7, warm-up and cosine, clip 10, batch 512, 3 epochs and 1,024 tokens are
          published (warm-up 10 % in the paper, 15 % in its scripts). Which 60,000 rows of UltraChat were drawn is not; here the first ones.
          The published runs keep their weights in bfloat16, where steps this small are lost; ours are float32, so the same rate trains
          more: try a few. The template is Zephyr's: the base model has none.
Hardware: 8 x 80 GB GPUs, or a TPU v5p 2x2x2 slice; needs a network for model and data. Not yet run by us at this size. Two passes cost
          a third more than SFT.
Batch:    rows are not packed, so 512 of them are the paper's 512 conversations; packed ones give the same gradients with fewer rows.
"""

from ml_collections import ConfigDict

# variant -> objective and forward
VARIANTS: dict[str, dict] = {
    "ift": dict(objective=dict(name="ift", gamma=0.95), forward=dict(mixing=0.2)),
    "noisy": dict(objective=dict(name="ift", gamma=0.95), forward=dict(mixing=0.2, mixing_noise=0.5)),
    "stopgrad_weights": dict(objective=dict(name="ift", gamma=0.95, mode="stopgrad_weights"), forward=dict(mixing=0.2)),
    "plain": dict(objective=dict(name="ift", gamma=0.0), forward=dict(mixing=0.0)),
    "sft": dict(objective=dict(name="sft")),
}
ULTRAFEEDBACK = dict(hf="HuggingFaceH4/ultrafeedback_binarized", format="paired", responses="chosen")
ULTRACHAT = dict(hf="HuggingFaceH4/ultrachat_200k", split="train_sft[:60000]", format="messages")


def get_config(variant: str = "ift") -> ConfigDict:
    """Three epochs of a half-and-half mixture."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(VARIANTS)}.")
    return ConfigDict(
        dict(
            model=dict(checkpoint="mistralai/Mistral-7B-v0.1"),
            data=dict(
                train=(dict(ULTRAFEEDBACK, split="train_prefs"), ULTRACHAT),
                eval=dict(ULTRAFEEDBACK, split="test_prefs"),
                template="zephyr",
                train_turns="all",
                row_tokens=1024,
                max_prompt_tokens=512,
                response_truncation="keep_start",
                pack=False,
            ),
            batch=dict(rows=512, gradient_accumulation_steps=16),
            optimizer=dict(name="rmsprop", decay=0.99, learning_rate=5e-7, warmup_percent=10, max_grad_norm=10.0),
            train=dict(total_epochs=3, export=True),
            **VARIANTS[variant],
        )
    )
