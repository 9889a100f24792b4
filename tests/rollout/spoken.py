"""A run on rollouts small enough to be done in seconds: a random model of one layer, and a reward from this file. Not a test itself."""

import os
from pathlib import Path

from ml_collections import ConfigDict

LLAMA = dict(
    model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=512, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
)  # fmt: skip
FEEDBACK = dict(dpo="pairs", kto="labels", grpo="group_advantage", ppo="gae", sft="samples")


def get_config(objective: str = "grpo") -> ConfigDict:
    rollout = dict(
        prompts=dict(path="package:sf_dialogue/train.jsonl.gz", format="paired", limit=40),
        samples=4,
        reward=f"{Path(__file__).resolve()}:letters",
        feedback=FEEDBACK[objective],
        every_steps=4,
        epochs=2,
        max_new_tokens=8,
    )
    critic = dict(critic="linear") if objective == "ppo" else {}
    return ConfigDict(
        dict(
            model=dict(config=LLAMA, tokenizer="package:stories260k", **critic),
            data=dict(rollout=rollout, template="plain", row_tokens=128, max_prompt_tokens=48),
            batch=dict(rows=8),
            objective=dict(name=objective),
            reference=dict(rule="frozen"),
            optimizer=dict(learning_rate=1e-2, schedule="constant", warmup_steps=0),
            train=dict(total_steps=8, log_every_steps=1, eval_every_steps=0, save_every_steps=1, keep_last=20),
        )
    )


def letters(prompts, completions, metadata):
    """Different letters of the answer."""
    return [len(set(completion)) for completion in completions]


def noise(prompts, completions, metadata):
    """No function of anything."""
    return [int.from_bytes(os.urandom(2), "big") / 2**16 for _ in completions]
