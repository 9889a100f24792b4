"""draft"""

import os
from pathlib import Path

from ml_collections import ConfigDict

SOURCES = {
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", columns=dict(chosen="text.0", rejected="text.1")),
    "harmless": dict(path="hh_rlhf/harmless_base.{}.jsonl.gz"),
}
SOFT = dict(rule="soft", alpha=0.6, every_percent=5)
HARD = dict(rule="hard", every_percent=10)
METHODS = {
    "dpo": dict(objective=dict(name="dpo", beta=0.05)),
    "tr_dpo_soft": dict(objective=dict(name="dpo", beta=0.05), reference=SOFT),
    "tr_dpo_hard": dict(objective=dict(name="dpo", beta=0.05), reference=HARD),
    "ipo": dict(objective=dict(name="ipo", tau=0.01, length_normalised=False)),
    "tr_ipo_hard": dict(objective=dict(name="ipo", tau=0.01, length_normalised=False), reference=HARD),
    "kto": dict(objective=dict(name="kto", beta=0.05)),
    "tr_kto_hard": dict(objective=dict(name="kto", beta=0.05), reference=HARD),
}


def rows(name: str, split: str, **options) -> dict:
    """Pairs of a source in the folder that JAXALIGN_DATA names."""
    file = SOURCES[name]["path"].format(split)
    if "JAXALIGN_DATA" not in os.environ:
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; configs/hh_stories_tr.py says what that is.")
    return dict(SOURCES[name], path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="hh", **options)


def data(name: str, *, responses: str, row_tokens: int) -> dict:
    """The data section: prompts are cut to 48 tokens and answers to their first 64, one prompt with its answers a row."""
    if name == "hh":
        train = tuple(rows(name, "train", responses=responses) for name in SOURCES)
        held_out = {name: rows(name, "test", responses=responses, limit=120) for name in SOURCES}
    else:
        train, held_out = (dict(path=f"package:sf_dialogue/{s}.jsonl.gz", format="paired", responses=responses) for s in ("train", "test"))
    return dict(
        train=train,
        eval=held_out,
        template="hh" if name == "hh" else "plain",
        row_tokens=row_tokens,
        max_prompt_tokens=48,
        max_response_tokens=64,
        response_truncation="keep_start",
        pack=False,
        processes=1,
    )


def stage(seed: int, *, model: str, steps: int, **sections) -> ConfigDict:
    """What all stages share."""
    train = dict(total_steps=steps, eval_every_percent=50, save_every_percent=100)
    model = dict(checkpoint=model, remat="dots")
    return ConfigDict(dict(seed=seed, model=model, batch=dict(rows=16), mesh=dict(cpu_devices=1), train=train, **sections))


def get_config(variant: str = "dialogue,0") -> ConfigDict:
    """SFT on the chosen answers; then every method from there. The variant is hh,SEED or dialogue,SEED."""
    name, seed = variant.split(",")
    first, steps, rate = dict(hh=(160, 40, 1e-4), dialogue=(200, 80, 5e-5))[name]
    sft = dict(objective=dict(name="sft"), optimizer=dict(learning_rate=2e-3), data=data(name, responses="chosen", row_tokens=116))
    stages = {"sft": stage(int(seed), model="package:stories260k", steps=first, **sft)}
    for method, sections in METHODS.items():
        # KTO gets an answer to another prompt beside the two.
        pairs = data(name, responses="all", row_tokens=256 if "kto" in method else 184)
        stages[method] = stage(int(seed), model="stage:sft", steps=steps, data=pairs, optimizer=dict(learning_rate=rate), **sections)
    return ConfigDict(dict(stages=tuple(stages), **stages))
