"""The rules about data.rollout: what goes with its feedback, and with training on rollouts at all."""

from collections.abc import Iterator, Mapping

from jaxalign.config import columns, functions
from jaxalign.config.schema import DURATIONS
from jaxalign.hparams import hparams_of

OF_ROWS = ("epochs", "examples")  # units of durations that count the rows of training sets
LEFT_OUT = "leave the key out"
SETTLED = {"rloo": {"baseline": "leave_one_out", "scale": "none"}}  # options of data.rollout that an objective is defined by
OF_SOME = ("best", "pairs", "labels")  # feedback that leaves samples out though they have rewards
OF_RATIOS = "set 1, or use 'rloo' or 'grpo'"


def check(resolved: dict) -> Iterator[str]:
    """Yields a problem for each thing that does not go with data.rollout; nothing where it is None."""
    spec, data = resolved["data"]["rollout"], resolved["data"]
    yield from _own_samples(resolved)
    yield from _roll_back(resolved)
    if spec is None:
        if data["train"] is None:
            yield "data.train=None: there is nothing to train on; name a source of rows, or set data.rollout."
        if resolved["train"]["max_kl"] is not None:
            yield f"train.max_kl={resolved['train']['max_kl']} is about rollouts, and data.rollout is None; {LEFT_OUT}."
        return
    yield from _windows(spec, data)
    yield from _draws(spec, data)
    yield from _judgements(spec)
    yield from _computed(resolved)
    yield from _durations(resolved)
    yield from _beside(resolved)
    yield from _objective(resolved)
    yield from _log_probs(resolved)
    yield from _rewards(resolved)


def _roll_back(resolved):
    from jaxalign.training.reference import RULES

    train, rule = resolved["train"], resolved["reference"]["rule"]
    table = RULES[rule].holds == "logps" and RULES[rule].moves
    for key in ("on_nan", "on_spike"):
        if train[key] == "roll_back" and (table or resolved["data"]["rollout"] is not None):
            what = f"reference.rule={rule!r} keeps log-probs" if table else "data.rollout keeps batches"
            yield f"train.{key}='roll_back' goes on with later batches, and {what} of a window of steps in the checkpoint; use 'skip'."


def _windows(spec, data):
    every, epochs, share, most = spec["every_steps"], spec["epochs"], least_share(spec), max(spec["share"], spec["share_end"] or 0.0)
    if every % epochs:
        yield f"data.rollout.every_steps={every} is no multiple of epochs={epochs}, the visits of each batch; choose one that is."
    if most == 0:
        yield f"data.rollout.share=0.0 trains on no rollout; give a share of the steps above 0, or {LEFT_OUT.replace('key', 'section')}."
    if share < 1 and data["train"] is None:
        yield f"data.rollout.share={share}: the other steps need data.train, which is None; set it, or leave share out."
    if share < 1 and epochs > 1:
        yield f"data.rollout.epochs={epochs} visits a batch in steps one after the other, of which share={share} leaves some out; use one."
    if share < 1 and data["row_tokens"] is None:
        yield f"data.rollout.share={share}: rows of data.train and of rollouts have one length; set data.row_tokens."
    if share == 1 and data["train"] is not None:
        yield "data.train has no effect beside data.rollout, whose share is 1.0; set data.train=None, or a share below 1."


def _draws(spec, data):
    from jaxalign.rollout import layout
    from jaxalign.rollout.feedback import FEEDBACK
    from jaxalign.sampling import law

    try:
        law.of(spec)
    except ValueError as error:
        yield f"data.rollout: {error}"
    if spec["temperature"] == 0 and spec["samples"] > 1:
        yield f"data.rollout.temperature=0.0 draws the same sample {spec['samples']} times; choose one above 0, such as 1.0."
    if spec["feedback"] in FEEDBACK and data["row_tokens"] is not None:
        size = {"responses": FEEDBACK[spec["feedback"]].responses(spec["samples"]), "new_tokens": spec["max_new_tokens"]}
        if (needed := layout.group_tokens(1, **size, share_prompt=data["share_prompt"])) > data["row_tokens"]:
            yield (
                f"data.row_tokens={data['row_tokens']:,}: {size['responses']} responses of max_new_tokens={size['new_tokens']:,} take "
                f"{needed:,} tokens; raise it, or lower data.rollout.samples or max_new_tokens."
            )


def _judgements(spec):
    from jaxalign.rollout.feedback import FEEDBACK
    from jaxalign.scoring import rewards

    if spec["feedback"] not in FEEDBACK:
        return  # reported already
    kind = FEEDBACK[spec["feedback"]]
    if spec["samples"] < kind.least:
        yield f"data.rollout.samples={spec['samples']}: feedback {spec['feedback']!r} compares samples; draw at least {kind.least}."
    if spec["reward"] is None and kind.rewarded:
        yield f"data.rollout.reward is missing: feedback {spec['feedback']!r} is made of the rewards of samples."
    for key, default in (("missing_eos_penalty", 0.0), ("missing_eos_most", None)):
        if spec["reward"] is None and spec[key] != default:
            yield f"data.rollout.{key}={spec[key]} lowers a reward, and there is none; {LEFT_OUT}."
    try:
        if spec["reward"] is not None:
            rewards.parse(spec["reward"])
        kind.check(**{name: spec[name] for name in functions.rollout_options(spec["feedback"])})
    except ValueError as error:
        yield f"data.rollout: {str(error).removeprefix('data.rollout.')}"


def _computed(resolved):
    spec, kind = resolved["data"]["rollout"], resolved["data"]["rollout"]["feedback"]
    if kind == "gae" and resolved["model"].get("critic") is None:
        yield "data.rollout.feedback='gae' reads the values of a critic, and the model has none; set model.critic='linear'."
    if kind in ("group_advantage", "gae") and spec["beta"] and resolved["reference"]["rule"] == "none":
        yield f"data.rollout.beta={spec['beta']} pulls to a reference, and reference.rule is 'none'; set 'frozen', or beta=0.0."
    target = resolved["objective"].get("target_kl")
    if kind == "gae" and target and not spec["beta"] and not resolved["objective"]["beta"]:
        yield f"objective.target_kl={target} steers the strength of a KL, and there is none; set data.rollout.beta, or objective.beta."


def _durations(resolved):
    if resolved["data"]["train"] is not None:
        return
    for section, names in DURATIONS.items():
        for name in names:
            for unit in OF_ROWS:
                if resolved[section].get(f"{name}_{unit}") is not None:
                    way = "steps" if (section, name) == ("train", "total") else "steps or percent"
                    yield f"{section}.{name}_{unit} counts rows of data.train, which is None; give {name} in {way}."


def _beside(resolved):
    from jaxalign.training.reference import RULES

    data, rule = resolved["data"], RULES[resolved["reference"]["rule"]]
    if data["train"] is None and data["eval_fraction"]:
        yield f"data.eval_fraction={data['eval_fraction']} holds out rows of data.train, which is None; name held-out rows in data.eval."
    if data["computed"]:
        yield "data.computed: rollouts have no columns that a model computed before the run; leave it out."
    if rule.holds == "logps":
        yield f"reference.rule={resolved['reference']['rule']!r} computes log-probs of rows ahead, and rollouts come later; use 'frozen'."
    if data["rollout"]["speaker"] == "teacher" and not rule.separate:
        yield (
            f"data.rollout.speaker='teacher': reference.rule={resolved['reference']['rule']!r} is no teacher; set "
            "reference=dict(rule='teacher', checkpoint=...)."
        )
    if resolved["train"]["max_kl"] is not None and rule.holds != "weights":
        yield f"train.max_kl={resolved['train']['max_kl']}: without a reference in memory no KL is measured; set reference.rule='frozen'."
    if resolved["train"]["max_kl"] is not None and rule.moves and not resolved["reference"]["keep_initial"]:
        yield (
            f"train.max_kl={resolved['train']['max_kl']}: reference.rule={resolved['reference']['rule']!r} moves the reference after the "
            "policy, so no KL to it is a limit; set reference.keep_initial=True."
        )


def _objective(resolved):
    from jaxalign.rollout.computed import REWARD
    from jaxalign.rollout.feedback import FEEDBACK

    data, spec, objective = resolved["data"], resolved["data"]["rollout"], functions.objective(resolved)
    if spec["feedback"] not in FEEDBACK:
        return
    name, reads, kind = f"objective {objective.name!r}", objective.reads, FEEDBACK[spec["feedback"]]
    if "no_logps" in reads:
        yield f"data.rollout: the model of {name} predicts no tokens, so it says nothing; leave data.rollout out."
    if "ranked" in reads:
        yield f"data.rollout: {name} reads ranked lists, which no feedback makes; use one of pairs, such as 'dpo'."
    if "paired" in reads and not kind.paired:
        yield f"data.rollout.feedback={spec['feedback']!r}: {name} reads pairs; set feedback='pairs'."
    rewarded = REWARD in objective.columns
    if "unpaired" in reads and (kind.paired or (rewarded and spec["feedback"] in OF_SOME)):
        yield f"data.rollout.feedback={spec['feedback']!r}: {name} trains on every response; set feedback={_fitting(objective)!r}."
    if rewarded and spec["reward"] is None and not kind.rewarded:
        yield f"data.rollout.reward is missing: {name} fits the rewards of samples."
    own = {column for names in columns.of_rollouts(spec) for column in names} & {key.rpartition("columns.")[2] for key in reads}
    if own and (data["eval"] is not None or least_share(spec) < 1):
        where = "data.eval" if data["eval"] is not None else f"data.rollout.share={least_share(spec)}"
        yield f"{where}: {name} reads {', '.join(sorted(own))}, which rollouts alone have; leave it out, and evaluate with eval.generate."


def _log_probs(resolved):
    """What is computed of the log-probs of the policy that drew a sample: they are those of the trainer, and of that policy alone."""
    from jaxalign.rollout.computed import REWARD
    from jaxalign.rollout.feedback import FEEDBACK
    from jaxalign.sampling.law import Law
    from jaxalign.training.step import ROLLOUT_LOGPS

    spec, objective = resolved["data"]["rollout"], functions.objective(resolved)
    if spec["feedback"] not in FEEDBACK:
        return
    ratios, kind, own = ROLLOUT_LOGPS in objective.token_columns, FEEDBACK[spec["feedback"]], "own_samples" in objective.reads
    fitted = f"columns.{REWARD}" in objective.reads  # its optimum is that of PPO on samples of the policy itself
    if not ratios and kind.compute is None and not own and not fitted:
        return
    who = f"objective {objective.name!r}" if ratios or own or fitted else f"feedback {spec['feedback']!r}"
    if spec["speaker"] != "policy":
        yield f"data.rollout.speaker={spec['speaker']!r}: {who} is about samples of the policy itself; {LEFT_OUT}, or train 'sft' on them."
    for key, plain in vars(Law()).items():
        if spec[key] not in (None, plain):
            yield f"data.rollout.{key}={spec[key]}: {who} takes samples as drawn from the model's own distribution; {LEFT_OUT}."
    if resolved["forward"]["name"] == "two_pass":
        yield f"forward.name='two_pass' gives log-probs of mixed text, and {who} takes those of the text that was drawn; {LEFT_OUT}."
    if not ratios and (own or "columns.advantage" in objective.reads) and spec["every_steps"] > 1:
        yield (
            f"data.rollout.every_steps={spec['every_steps']}: objective {objective.name!r} has no ratio to the policy that drew a sample, "
            f"so only the first step would be right; {'set 1' if own else OF_RATIOS}."
        )


def _own_samples(resolved):
    spec, objective = resolved["data"]["rollout"], functions.objective(resolved)
    if "own_samples" not in objective.reads:
        return
    trains = f"objective {objective.name!r} is right on the policy's own samples alone"
    if spec is None:
        yield f"data.rollout=None: {trains}; set it, with feedback='samples', or use 'distill', which goes with any text."
    elif least_share(spec) < 1:
        yield f"data.rollout.share={least_share(spec)}: {trains}; leave share and share_end out."


def least_share(spec: Mapping) -> float:
    """The least share of the steps that train on rollouts, at the beginning of the run or at its end."""
    return spec["share"] if spec["share_end"] is None else min(spec["share"], spec["share_end"])


def _rewards(resolved):
    """What an objective takes as the reward of a sample."""
    from jaxalign.rollout.computed import REWARD
    from jaxalign.rollout.feedback import FEEDBACK

    spec, objective = resolved["data"]["rollout"], functions.objective(resolved)
    if spec["feedback"] not in FEEDBACK:
        return
    kind, name = FEEDBACK[spec["feedback"]], f"objective {objective.name!r}"
    if wrong := _unfit(spec, kind, objective):
        yield f"data.rollout.feedback={spec['feedback']!r} {wrong.format(name)}; set feedback={_fitting(objective)!r}."
    if REWARD in objective.columns and "rewards" not in objective.reads:
        for option in [option for option, default in hparams_of(kind.judge).items() if spec[option] != default]:
            yield f"data.rollout.{option}={spec[option]!r} has no effect: {name} reads rewards as they are; {LEFT_OUT}."
    elif spec.get("score_transform") == "raw" and objective.hparams.get("loss") != "raw":
        yield f"data.rollout.score_transform='raw': {name} takes scores from 0 to 1; set 'sigmoid', 'linear', or una's loss='raw'."
    for option, value in SETTLED.get(objective.name, {}).items():
        if spec.get(option, value) != value:
            yield f"data.rollout.{option}={spec[option]!r}: {name} is defined by {option}={value!r}; set that, or use 'grpo'."


def _unfit(spec, kind, objective) -> str:
    """What the feedback gives that the objective, {}, does not read, or reads in vain; "" if nothing. `_objective` judges pairs."""
    from jaxalign.rollout.computed import REWARD

    computed = (*kind.columns, *kind.token_columns)
    if computed and not {*objective.columns, *objective.token_columns} & {*computed}:
        return f"computes {', '.join(computed)}, and {{}} reads none of them"
    if not (computed or kind.paired or kind.alike or REWARD in objective.columns) and "unpaired" in objective.reads:
        return "grades samples, and {} trains on good and bad ones alike"
    if not kind.paired and kind.responses(spec["samples"]) < spec["samples"] and "own_samples" in objective.reads:
        return "leaves out samples by their reward, and {} is right on all that the policy draws"
    if kind.alike and "rewards" in objective.reads and least_share(spec) == 1:  # rows of data.train may have others
        return "gives every response the reward 1, and {} tells responses apart by their rewards"
    return ""


def _fitting(objective) -> str:
    """The feedback of single responses that an objective reads all of."""
    from jaxalign.rollout.computed import REWARD

    if "unpaired" not in objective.reads or REWARD in objective.columns:
        return "labels" if "threshold" in objective.hparams else "scores"
    return "samples" if "teacher" in objective.reads else "best"  # whose loss is of the teacher, or of the samples


def room_of_prompts(key: str, new_tokens: int, positions: int) -> int:
    """The tokens that samples of so many new tokens, as this key sets them, leave to a prompt in a model of so many positions.

    Raises:
      ValueError: none is left.
    """
    if new_tokens >= positions:
        raise ValueError(f"{key}={new_tokens:,} leaves a prompt no room in the model's {positions:,} positions; lower it.")
    return positions - new_tokens


def source_of_prompts(spec: Mapping) -> dict:
    """The source that data.rollout.prompts or eval.generate.prompts names."""
    return {"path": spec["prompts"]} if isinstance(spec["prompts"], str) else dict(spec["prompts"])
