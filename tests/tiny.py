"""A configuration small enough that a whole run takes seconds: the shipped model on a few of the shipped pairs. Not a test itself."""

from ml_collections import ConfigDict


def get_config(objective: str = "dpo") -> ConfigDict:
    source = dict(path="package:hh_helpful/train.jsonl.gz", format="hh", limit=60, responses="chosen" if objective == "sft" else "all")
    return ConfigDict(
        dict(
            model=dict(checkpoint="package:stories260k"),
            data=dict(
                train=source,
                eval=dict(source, path="package:hh_helpful/test.jsonl.gz", limit=30),
                template="hh",
                row_tokens=256,
                max_prompt_tokens=64,
                max_response_tokens=80,
                processes=1,
            ),
            batch=dict(rows=8),
            objective=dict(name=objective),
            optimizer=dict(learning_rate=1e-3, weight_decay=0.1),
            train=dict(total_steps=10, log_every_steps=2, eval_every_steps=5, save_every_steps=5),
        )
    )
