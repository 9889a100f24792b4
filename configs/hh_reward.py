"""A reward model on Anthropic-HH: the Bradley-Terry baseline that the goal-conditioned reward models are compared with, and a small one.

Paper:    arXiv 2407.13887 and its released scripts, settings of the HH reward model: Llama-3-8B-Instruct, batch 64, one epoch, learning
          rate 1e-5, AdamW (0.9, 0.95), cosine, 3 % warm-up, clipping at 1, answers up to 4,096 tokens. Their loss is the plain one of
          pairs (InstructGPT, arXiv 2203.02155, equation 1); a centering of 0.01 (arXiv 2312.09244) is ours and pins the mean of the scores.
Command:  python -m jaxalign.train --config configs/hh_reward.py --workdir runs/hh_reward
          python -m jaxalign.export --workdir runs/hh_reward --out FOLDER          a LlamaForSequenceClassification for other libraries
Variants: configs/hh_reward.py:llama3_8b; configs/hh_reward.py:pythia28 starts from the SFT stage of configs/hh_pythia28_sft.py; and
          configs/hh_reward.py:stories,SEED, the quickstart's model of 0.26M parameters on pairs cut as in configs/hh_stories_tr.py, whose
          header describes the files below JAXALIGN_DATA.
Hardware: llama3_8b: eight 80 GB GPUs or a TPU v5e 4x4 slice, and a network for model and data; not yet run by us at this size. stories:
          1 CPU core.
Batch:    24 packed rows of 1,024 tokens with shared prompts are about 64 pairs.
Compare:  held-out "accuracy", the share of pairs whose better answer has the higher reward, with "ranking/length" beside it: what length
          alone ranks right.
Measured: 2026-11-26, stories,0, one seed, 3 minutes on a shared core: after one epoch, 77 steps, 55.1 % of 118 helpful and 55.8 % of 120
          harmless held-out pairs (two standard errors 9.2 %), which cannot be told from chance; length alone ranks 61.9 % and 44.6 % right.
          llama3_8b and pythia28: not yet.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

FILES = {
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", rename=dict(chosen="text.0", rejected="text.1")),
    "harmless": dict(path="hh_rlhf/harmless_base.{}.jsonl.gz"),
}
MODELS = {"llama3_8b": "meta-llama/Meta-Llama-3-8B-Instruct", "pythia28": "runs/hh_sft/export"}
TEMPLATES = {"llama3_8b": "auto", "pythia28": "hh"}
OBJECTIVE = dict(name="reward", centering=0.01)


def rows(name: str, split: str, **options) -> dict:
    """Pairs of a file in the folder that JAXALIGN_DATA names."""
    file = FILES[name]["path"].format(split)
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; the header of this config describes it.")
    return dict(FILES[name], path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="hh", **options)


def stories(seed: int) -> dict:
    """One epoch of the small model on helpful and harmless pairs."""
    train = tuple(rows(name, "train") for name in FILES)
    return dict(
        seed=seed,
        model=dict(checkpoint="package:stories260k", reward_head="linear", remat="dots"),
        data=dict(
            train=train,
            eval={name: rows(name, "test", limit=120) for name in FILES},
            template="hh",
            row_tokens=256,
            max_prompt_tokens=48,
            max_response_tokens=64,
            response_truncation="keep_start",
            processes=1,
        ),
        batch=dict(rows=32),
        objective=OBJECTIVE,
        optimizer=dict(learning_rate=1e-3, b2=0.95),
        mesh=dict(cpu_devices=1),
        train=dict(total_epochs=1, eval_every_percent=50, save_every_percent=100),
    )


def get_config(variant: str = "llama3_8b") -> ConfigDict:
    """The reward model of a variant."""
    name, _, seed = variant.partition(",")
    if name == "stories" and seed.isdecimal():
        return ConfigDict(stories(int(seed)))
    if variant not in MODELS:
        raise ValueError(f"variant {variant!r} is not one of {', '.join(MODELS)} or stories,SEED; write for example stories,0.")
    source = dict(hf="Anthropic/hh-rlhf", format="hh")
    return ConfigDict(
        dict(
            model=dict(checkpoint=MODELS[name], reward_head="linear"),
            data=dict(
                train=dict(source, split="train"),
                eval=dict(source, split="test"),
                template=TEMPLATES[name],
                row_tokens=1024,
                max_prompt_tokens=256,
                max_response_tokens=256,
            ),
            batch=dict(rows=24),
            objective=OBJECTIVE,
            optimizer=dict(learning_rate=1e-5, b2=0.95, warmup_percent=3),
            train=dict(total_epochs=1),
        )
    )
