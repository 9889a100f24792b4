"""Every method of jaxalign, from the same start on the same rows: SFT, then the method, of the quickstart's model on its pairs.

Paper:    that of each objective, named in its file; at this size it shows whether a method does what its formula asks for, not
          which one is best.
Model:    stories260K (A. Karpathy, MIT), 0.26M parameters. Data: the quickstart's 412 training and 214 held-out pairs (MIT).
Command:  python -m jaxalign.train --config configs/every_method.py:METHOD      (or METHOD,SEED; or all, or all,SEED)
Variants: METHODS below: every file of jaxalign/objectives, the forms of feedback and offsets of UNA, and moving references (tr_*).
Hardware: 1 CPU core, no network.
Compare:  held-out "accuracy", the share of pairs whose better answer gained more than the worse one against the start, and
          "ranking/logps", of pairs whose better answer is likelier per token; the same rows and the same rule for every method.
          With a moving reference read "initial/accuracy". Two standard errors on 214 pairs are 6.8 %; chance is 50 %. `sft` and `ift` read
          otherwise: the start of the first is the model before any training, and the second ranks by its second pass, whose input is mixed.
Settings: one epoch at one learning rate for all, 1e-4, twice that of the quickstart's DPO for a third of its length; exceptions stand
          beside the method. Hyper-parameters are the objectives' defaults (of UNA on thumbs the paper's beta 0.01), how often a reference
          moves is ours. One judgement travels with the pairs, so MODPO's margin is that same score, given as a column: it shows the
          arithmetic, not two objectives in conflict.
Measured: 2026-11-21, all, seed 0: 17 minutes for the 51 stages on one core, 20 s each, beside other work. Held-out loss of the SFT model
          4.770 -> 1.321 nats per token. Objectives of pairs and thumbs rank 59 to 66 % of the held-out pairs right, but for discopop
          33.6 %, dpop 55.1 % and orpo 53.7 %; those of scores 55 to 56 %, those without a ranking 42 to 59 %. The table and its reading:
          configs/README.md, "Every method".
"""

from ml_collections import ConfigDict

SCORES = dict(feedback="score", score_range=(1, 6))
ONE_BY_ONE = dict(feedback="label")  # the two answers of a pair as a good and a bad one
MISMATCHED = dict(source=ONE_BY_ONE, data=dict(row_tokens=384))  # beside them one to another prompt, which needs room
CHOSEN = dict(responses="chosen")
ADVANTAGE = dict(
    source=SCORES,
    data=dict(computed=dict(advantage=dict(kind="advantage", model="stage:value")), sampling="priority"),
)
TAUGHT = dict(source=CHOSEN, reference=dict(checkpoint="stage:dpo"))  # by a model that ranks better than the start
OWN = dict(  # samples of the policy, a group of them to every prompt
    prompts=dict(path="package:sf_dialogue/train.jsonl.gz", format="paired"), samples=1, feedback="samples", max_new_tokens=64,
    prompts_per_step=8,
)  # fmt: skip
REWARD = dict(source=SCORES, data=dict(sampling="priority", sampling_column="reward"))
MARGIN = dict(source=dict(keep_columns=dict(margin="score")), objective=dict(weights=(0.9, 0.1)))  # better first, then the margin
SOFT = dict(rule="soft", alpha=0.6, every_percent=6.25)
HARD = dict(rule="hard", every_percent=12.5)


def moving(name: str, reference: dict, **parts) -> dict:
    """A method whose reference moves."""
    return dict(parts, reference=reference, objective=dict(name=name))


def una(source: dict, **objective) -> dict:
    """A form of UNA."""
    return dict(source=source, objective=dict(name="una", **objective))


# Method -> what it needs that others do not: options of its source, and sections of its stage.
METHODS: dict[str, dict] = {
    "sft": dict(
        source=CHOSEN, model=dict(checkpoint="package:stories260k"), optimizer=dict(learning_rate=2e-3), train=dict(total_epochs=4)
    ),
    "value": dict(
        source=SCORES,
        model=dict(value_head=1.0, trainable="value_head"),
        optimizer=dict(learning_rate=1e-3),
        train=dict(total_epochs=2),
    ),
    "reward": dict(model=dict(reward_head="linear"), reference=dict(rule="none"), optimizer=dict(learning_rate=1e-3)),
    "goal_reward": dict(model=dict(reward_head="linear"), reference=dict(rule="none"), optimizer=dict(learning_rate=1e-3)),
    "feature_reward": dict(  # on the score of one judge, which orders the pairs: it shows the arithmetic
        source=dict(keep_columns=dict(score="score")),
        model=dict(reward_head=dict(features=dict(score=dict(range=(1, 6)))), trainable="reward_head"),
        reference=dict(rule="none"),
        optimizer=dict(learning_rate=1e-2),
    ),
    # pairs
    **{name: {} for name in ("dpo", "cdpo", "rdpo", "ipo", "hinge", "exo", "nca", "apo_zero", "apo_down", "sppo", "discopop", "dpo_norm")},
    **{name: {} for name in ("dpo_nll", "dpop", "kto_pair", "r_dpo", "wpo", "simpo", "cpo", "cpo_simpo", "orpo")},
    "ipo_sum": dict(objective=dict(name="ipo", length_normalised=False)),
    "tr_dpo_soft": moving("dpo", SOFT),
    "tr_dpo_hard": moving("dpo", HARD),
    "tr_ipo_soft": moving("ipo", SOFT),
    "tr_ipo_hard": moving("ipo", HARD),
    "modpo": MARGIN,
    "modpo_hinge": MARGIN,
    # good and bad answers, one by one
    "kto": MISMATCHED,
    "bco": dict(source=ONE_BY_ONE),
    "tr_kto_soft": moving("kto", SOFT, **MISMATCHED),
    "tr_kto_hard": moving("kto", HARD, **MISMATCHED),
    "una_binary": una(ONE_BY_ONE, beta=0.01),
    "una_binary_bce": una(ONE_BY_ONE, beta=0.01, loss="bce"),
    "una_kl_batch": una(ONE_BY_ONE, beta=0.01, offset="kl_batch") | MISMATCHED,
    # scores
    "una_score": una(SCORES),
    "una_ema": una(SCORES, offset="ema"),
    "una_value_head": dict(una(SCORES, offset="value_head"), model=dict(value_head=1.0)),
    "pro": dict(source=SCORES),
    "wbc": REWARD,
    "gold": REWARD,
    "rlol": REWARD,
    **{name: ADVANTAGE for name in ("alol", "alol_seq", "alol_ref_free", "alol_kl", "alol_kl_published")},
    # chosen answers alone
    "nll": dict(source=CHOSEN),
    "ift": dict(source=CHOSEN),
    "distill": TAUGHT,
    "distill_sampled": dict(
        reference=TAUGHT["reference"], data=dict(train=None, row_tokens=None, rollout=OWN), train=dict(total_epochs=None, total_steps=52)
    ),
}
VARIANTS = ("all", *METHODS)


def stage(method: str, seed: int) -> ConfigDict:
    """A method's stage. Its held-out rows are always both answers, so that they can be ranked."""
    own = METHODS[method]
    source = own.get("source", {})
    held_out = SCORES if source == CHOSEN else source
    return ConfigDict(
        dict(
            seed=seed,
            model=dict(checkpoint="stage:sft", remat="dots") | own.get("model", {}),
            data=dict(
                train=dict(source, path="package:sf_dialogue/train.jsonl.gz", format="paired"),
                eval=dict(held_out, path="package:sf_dialogue/test.jsonl.gz", format="paired"),
                template="plain",
                row_tokens=256,
                processes=1,
            )
            | own.get("data", {}),
            batch=dict(rows=8),
            objective=dict(name=method) | own.get("objective", {}),
            reference=own.get("reference", dict(rule="frozen")),  # also where the method needs none: to measure against the start
            optimizer=own.get("optimizer", dict(learning_rate=1e-4)),
            mesh=dict(cpu_devices=1),
            train=dict(total_epochs=1, eval_every_percent=100, save_every_percent=100) | own.get("train", {}),
        )
    )


def get_config(argument: str = "dpo") -> ConfigDict:
    """SFT, the value head where the method reads advantages, the teacher where it has one, and the method."""
    method, _, seed = argument.partition(",")
    if method not in VARIANTS or not (seed or "0").isdecimal():
        raise ValueError(f"{argument!r} is not METHOD or METHOD,SEED, for example kto,0; METHOD is one of {', '.join(VARIANTS)}.")
    taught = "checkpoint" in METHODS.get(method, {}).get("reference", {})
    before = "value" if METHODS.get(method) is ADVANTAGE else "dpo" if taught else "sft"
    names = tuple(METHODS) if method == "all" else ("sft", before, method)
    names = tuple(dict.fromkeys(names))
    return ConfigDict(dict(stages=names, **{name: stage(name, int(seed or 0)) for name in names}))
