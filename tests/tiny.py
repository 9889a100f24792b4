"""A configuration small enough that a whole run takes seconds: the shipped model on some of the shipped pairs. Not a test itself."""

from ml_collections import ConfigDict


def get_config(objective: str = "dpo") -> ConfigDict:
    responses = "chosen" if objective == "sft" else "all"
    source = dict(path="package:sf_dialogue/train.jsonl.gz", format="paired", limit=40, responses=responses)
    return ConfigDict(
        dict(
            model=dict(checkpoint="package:stories260k"),
            data=dict(
                train=source,
                eval=dict(source, path="package:sf_dialogue/test.jsonl.gz", limit=20),
                template="plain",
                row_tokens=192,
                processes=1,
            ),
            batch=dict(rows=8),
            objective=dict(name=objective),
            optimizer=dict(learning_rate=1e-3, weight_decay=0.1),
            train=dict(total_steps=10, log_every_steps=2, eval_every_steps=5, save_every_steps=5),
        )
    )
