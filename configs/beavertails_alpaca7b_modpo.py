"""MODPO on PKU-SafeRLHF with Alpaca-7B: helpful and safe at several weights, with a DPO model of the safer answers as the margin.

Paper:    MODPO, arXiv 2310.03708, its safety task. The fronts are published as figures without a table and with one run a point. Reported
          by two independent readings: MODPO matches or beats MORLHF and lies above DPO-soups and mixed DPO losses, at a third of MORLHF's
          GPU hours (4.0 against 13.8 per policy). What to look for: fronts in that order, and rewards that follow the weight.
Command:  python -m jaxalign.train --config configs/beavertails_alpaca7b_modpo.py --workdir runs/modpo_safety
Variants: configs/beavertails_alpaca7b_modpo.py:W with W one weight of "better" or several, 0.1,0.5,0.9 as published by default. Stage
          modpo_10 has weight 0.1; weight 0 is the stage `safer` itself, weight 1 is DPO on the better pairs.
Order:    weights=(w, 1 - w): first that of the pairs in the batch ("better"), then the margin's. The paper writes them the other way round.
Data:     PKU-Alignment/PKU-SafeRLHF-10K judges response_0 and response_1 twice, by better_response_id and safer_response_id, and fits no
          format. Write it twice: data/pku_better.{train,eval}.jsonl and data/pku_safer.{train,eval}.jsonl with `prompt`, the text
          "BEGINNING OF CONVERSATION: USER: ... ASSISTANT:" around it, and `chosen`, `rejected` by one judgement. Published: 90 % to train.
Settings: beta 0.1 (of the margin too), AdamW, weight decay 0.05, cosine, 3 epochs and 96 pairs per step (64 in the paper's text) are
          published; its warm-up of "0.1" is a tenth of a step, so none. It trains LoRA (r 64, alpha 1) at 5e-4; LoRA is not there yet, so
          all parameters are trained at 1e-6: ours. Published runs take the checkpoint of least held-out loss of four; here it is kept, but
          the margin and the exports are those of the last step. They drop pairs of which an answer with its prompt has more than 512
          tokens; here those with a prompt above 128 or an answer above 384, which is not quite the same set.
Hardware: 8 x 80 GB GPUs, or a TPU v5p 2x2x2 slice. Not yet run by us at this size.
"""

from ml_collections import ConfigDict

MODEL = "PKU-Alignment/alpaca-7b-reproduced"
BETA = 0.1
VARIANTS = ("0.1,0.5,0.9", "0.1", "0.5", "0.9")


def stage(judgement: str, objective: dict, **data) -> ConfigDict:
    """What all stages share: the start, which is the reference too, and the recipe."""
    return ConfigDict(
        dict(
            model=dict(checkpoint=MODEL),
            data=dict(
                train=dict(path=f"data/pku_{judgement}.train.jsonl", format="paired"),
                eval=dict(path=f"data/pku_{judgement}.eval.jsonl", format="paired"),
                template="plain",
                row_tokens=1024,
                max_prompt_tokens=128,
                max_response_tokens=384,
                prompt_truncation="drop",
                pack=False,
                **data,
            ),
            batch=dict(rows=96, gradient_accumulation_steps=4),
            objective=objective,
            optimizer=dict(learning_rate=1e-6, weight_decay=0.05, warmup_steps=0),
            train=dict(total_epochs=3, eval_every_percent=25, keep_best=1, export=True),
        )
    )


def get_config(weights: str = VARIANTS[0]) -> ConfigDict:
    """The margin's model once, then MODPO for every weight of "better"."""
    margin = dict(kind="implicit_reward", model="stage:safer", reference=MODEL, beta=BETA)
    stages = {"safer": stage("safer", dict(name="dpo", beta=BETA))}
    for weight in map(float, weights.split(",")):
        if not 0 < weight < 1:
            raise ValueError(f"weight {weight} of the better pairs is not between 0 and 1; 0 is the stage safer, 1 is DPO.")
        objective = dict(name="modpo", beta=BETA, weights=(weight, round(1 - weight, 6)), margins=("margin",))
        stages[f"modpo_{round(100 * weight)}"] = stage("better", objective, computed=dict(margin=margin))
    return ConfigDict(dict(stages=tuple(stages), **stages))
