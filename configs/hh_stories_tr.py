"""DPO, IPO and KTO against their trust-region forms, in which the reference moves, at small size.

Paper:    TR, arXiv 2404.09656, Anthropic-HH: a moving reference gives better answers at the same distance to the initial model; there
          Pythia 2.8B to 12B. beta and alpha are the paper's (0.05, of IPO 0.01; 0.6). It moves its reference every 512 steps; here soft
          every 5 % of the run and hard every 10 %, as the run is shorter than that.
Model:    stories260K (A. Karpathy, MIT), 0.26M parameters, trained on children's stories; it travels in the package.
Data:     Anthropic HH (MIT), helpful-base and harmless-base, cut from the official test splits: 1,666 and 1,613 pairs, and 118 and 120
          held out. JAXALIGN_DATA names a folder with hh_rlhf/{helpful,harmless}_base.{train,test}.jsonl.gz: JSON lines of dialogues
          "chosen" and "rejected", as in Anthropic/hh-rlhf on the hub; of helpful_base a list "text" [chosen, rejected]. Prompts are cut
          to 48 tokens, whole old turns first, and answers to their first 64 (130 letters). Variant dialogue,SEED: the quickstart's pairs,
          which travel in the package and need no JAXALIGN_DATA.
Command:  for seed in 0 1 2; do python -m jaxalign.train --config configs/hh_stories_tr.py:hh,$seed --workdir runs/hh_$seed; done
          python -m jaxalign.compare --runs runs/hh_0 runs/hh_1 runs/hh_2 --stages dpo tr_dpo_soft tr_dpo_hard ipo tr_ipo_hard kto
          tr_kto_hard --metrics initial/accuracy initial/kl --x initial/kl --y initial/accuracy --out runs/hh
Hardware: 1 CPU core, 14 minutes per seed of hh, 6 of dialogue, at 4,500 to 11,000 tokens/s.
Measured: 2026-11-21, hh, three seeds: mean (least to greatest). SFT: held-out loss, mean of both sets, 3.109 -> 2.137, 2.141, 2.141 nats
          per token. Share of held-out pairs that the log-ratios against the start rank right, mean of both sets, and KL to the start in
          nats per token: dpo 50.0 (47.8 to 51.6) %, KL 0.134 (0.129 to 0.137); tr_dpo_soft 51.2 (50.8 to 51.7) %, KL 0.228 (0.209 to
          0.241); tr_dpo_hard 51.4 (50.4 to 52.5) %, KL 0.233 (0.213 to 0.245); ipo 50.6 (48.7 to 52.5) %, KL 0.144 (0.139 to 0.148);
          tr_ipo_hard 51.4 (50.4 to 52.9) %, KL 0.237 (0.216 to 0.250); kto 51.4 (50.0 to 53.7) %, KL 0.180 (0.171 to 0.186);
          tr_kto_hard 51.4 (50.0 to 52.1) %, KL 0.270 (0.242 to 0.290). With 160 steps of SFT and 40 of each method all rank 52 to 53 %,
          and a moving reference goes 6 to 9 % further.
          dialogue, three seeds, 80 steps at 5e-5, 214 held-out pairs (two standard errors 6.8 %), the same two numbers: dpo 64.8 (64.5 to
          65.0) %, KL 0.137 (0.098 to 0.186); tr_dpo_soft 64.2 (64.0 to 64.5) %, 0.155 (0.103 to 0.217); tr_dpo_hard 64.2 (64.0 to 64.5) %,
          0.156 (0.103 to 0.219); ipo 65.1 (65.0 to 65.4) %, 0.139 (0.099 to 0.188); tr_ipo_hard 64.2 (64.0 to 64.5) %, 0.157 (0.104 to
          0.220); kto 64.3 (63.6 to 65.4) %, 0.137 (0.103 to 0.175); tr_kto_hard 64.0 (63.6 to 64.5) %, 0.176 (0.115 to 0.248).
Reading:  nothing of the paper's gain appears: on HH all methods are within chance (238 pairs, two standard errors 6.5 %; harmless alone
          54 to 58 % of 120 pairs), so this model learns next to nothing of HH that carries over. What appears is the direction: with a
          moving reference the policy goes further, on HH 1.6 to 1.8 times as far in KL for DPO and IPO, 1.4 to 1.6 times for KTO, in
          every seed, at the same accuracy; on the dialogues 5 to 17 % further, with KTO 12 to 42 %.
"""

import os
from pathlib import Path

from ml_collections import ConfigDict

SOURCES = {
    "helpful": dict(path="hh_rlhf/helpful_base.{}.jsonl.gz", rename=dict(chosen="text.0", rejected="text.1")),
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
        raise ValueError(f"set JAXALIGN_DATA to the folder that holds {file}; the header of this config describes it.")
    return dict(SOURCES[name], path=str(Path(os.environ["JAXALIGN_DATA"]) / file), format="hh", **options)


def data(name: str, *, responses: str, row_tokens: int) -> dict:
    """The data section: prompts are cut to 48 tokens and answers to their first 64, one prompt with its answers per row."""
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
    name, _, seed = variant.partition(",")
    if name not in ("hh", "dialogue") or not seed.isdecimal():
        raise ValueError(f"variant {variant!r} is not hh,SEED or dialogue,SEED; write for example configs/hh_stories_tr.py:hh,0.")
    first, steps, rate = dict(hh=(400, 200, 1e-4), dialogue=(200, 80, 5e-5))[name]
    sft = dict(objective=dict(name="sft"), optimizer=dict(learning_rate=2e-3), data=data(name, responses="chosen", row_tokens=116))
    stages = {"sft": stage(int(seed), model="package:stories260k", steps=first, **sft)}
    for method, sections in METHODS.items():
        # KTO gets an answer to another prompt beside the two.
        pairs = data(name, responses="all", row_tokens=256 if "kto" in method else 184)
        stages[method] = stage(int(seed), model="stage:sft", steps=steps, data=pairs, optimizer=dict(learning_rate=rate), **sections)
    return ConfigDict(dict(stages=tuple(stages), **stages))
