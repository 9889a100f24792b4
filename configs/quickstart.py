"""Quickstart: SFT, then DPO, of a real 260K-parameter model on real human preferences, on a laptop's CPU.

Paper:    DPO, arXiv 2305.18290 (its recipe: SFT on the chosen answers first, then DPO against that model).
Model:    stories260K (A. Karpathy, MIT), which has only ever seen children's stories; it travels in the package.
Data:     1,5xx pairs of Anthropic HH-RLHF helpful-base (MIT), in the package; split by prompt.
Command:  python -m jaxalign.train --config configs/quickstart.py
"""

from ml_collections import ConfigDict


def stage(objective: dict, **sections) -> ConfigDict:
    """What both stages share."""
    return ConfigDict(
        dict(
            data=dict(
                train=dict(path="package:hh_helpful/train.jsonl.gz", format="hh"),
                eval=dict(path="package:hh_helpful/test.jsonl.gz", format="hh"),
                template="hh",
                row_tokens=1024,
                max_prompt_tokens=200,
                max_response_tokens=224,
            ),
            objective=objective,
            **sections,
        )
    )


def get_config() -> ConfigDict:
    """SFT on the chosen answers, then DPO on the pairs."""
    sft = stage(
        dict(name="sft"),
        model=dict(checkpoint="package:stories260k", remat="none"),
        batch=dict(rows=8),
        optimizer=dict(learning_rate=2e-3, b2=0.95),
        train=dict(total_epochs=4),
    )
    for source in (sft.data.train, sft.data.eval):
        source.responses = "chosen"
    dpo = stage(
        dict(name="dpo", beta=0.1),
        model=dict(checkpoint="stage:sft", remat="none"),
        batch=dict(rows=8),
        optimizer=dict(learning_rate=5e-4, b2=0.95),
        train=dict(total_epochs=3),
    )
    return ConfigDict(dict(stages=("sft", "dpo"), sft=sft, dpo=dpo))
