"""The rules between the keys of a configuration: which functions it names, their options, and what goes with what.

Options of objectives, forwards, optimizers and reference rules are the keyword arguments of the function that the configuration names.
"""

from collections.abc import Collection
import importlib.util

from jaxalign.config import columns, functions, idle, lora, mesh_rules, rollout_rules, trace
from jaxalign.config.schema import SCHEMA, SOURCE, named_sets, units
from jaxalign.hparams import hparams_of

OF_RAW_ROWS = ("path", "hf", "tfds", "data_dir", "config", "split", "rename", "limit")  # keys of a source that any use of its rows reads
OF_FORMAT = ("format", "score_range", "score_weights", "score_transform")
HEADS = ("value_head", "reward_head", "critic")  # keys of the section model, and of the parameters


def check(resolved: dict, *, bad: Collection[str] = ()) -> list[str]:
    """What the rules between keys object to. Rules that read one of the `bad` sections, which have problems already, are passed over."""
    return [problem for rule, sections in RULES if not set(sections) & set(bad) for problem in rule(resolved)]


def _batch_rule(resolved):
    from jaxalign import sharding

    batch = resolved["batch"]
    try:  # the devices are not known yet
        sharding.check_rows(batch["rows"], parts=batch["gradient_accumulation_steps"])
    except ValueError as error:
        yield str(error)


def _model_rule(resolved):
    from jaxalign.models import features, presets

    model = resolved["model"]
    origins = [key for key in ("checkpoint", "preset", "config") if model[key] is not None]
    if len(origins) != 1:
        yield f"model names {' and '.join(origins) or 'no origin'}; give just one of model.checkpoint, model.preset, model.config."
    if model["checkpoint"] is None and model["tokenizer"] is None:
        yield "model.tokenizer is missing: a model with random weights brings no tokenizer; name a tokenizer folder."
    if model["value_head"] == 0:
        yield "model.value_head=0.0: the values of a head lie between 0 and this; give the largest reward, above 0."
    try:
        features.head_of(model["reward_head"])
    except ValueError as error:
        yield f"model.reward_head: {error}"
    if model["preset"] is not None:
        try:
            presets.preset(model["preset"])
        except ValueError as error:
            yield str(error)


def _data_rule(resolved):
    from jaxalign.data.raw import scores

    data = resolved["data"]
    for key in ("max_prompt_tokens", "max_response_tokens"):
        if None not in (data[key], data["row_tokens"]) and data[key] >= data["row_tokens"]:
            yield f"data.{key}={data[key]} leaves no room in data.row_tokens={data['row_tokens']}; make it smaller."
    if data["eval"] is not None and data["eval_fraction"]:
        yield "data.eval and data.eval_fraction are both given; keep one of them."
    if not 0 <= data["eval_fraction"] < 1:
        yield f"data.eval_fraction={data['eval_fraction']} is not in [0, 1)."
    if data["eval_fraction"] and isinstance(data["train"], tuple):
        yield "data.eval_fraction holds out rows of one source, and data.train is a mixture; name the held-out rows in data.eval."
    if wrong := [token for token in data["add_tokens"] or () if not token.strip()]:
        yield f"data.add_tokens={data['add_tokens']!r}: {wrong[0]!r} is no text of a token; name tokens like '<|im_start|>'."
    for source in data["train"] if isinstance(data["train"], tuple) and len(data["train"]) > 1 else ():
        if not source["weight"] > 0:
            yield f"data.train: weight={source['weight']} of a source is not above 0; leave the source out."
    for where, source in columns.sources(data):
        try:
            scores.Scoring(source["score_range"], tuple((source["score_weights"] or {}).items()), source["score_transform"])
        except ValueError as error:
            yield f"{where}: {error}"


def _optimizer_rule(resolved):
    from jaxalign.training import optim

    section = resolved["optimizer"]
    if section["learning_rate"] == 0:
        yield "optimizer.learning_rate=0.0 trains nothing; give a peak above 0."
    try:
        optim.RULES[section["name"]]({}, **functions.options(resolved, "optimizer"))
    except ValueError as error:
        yield str(error)


def _train_rule(resolved):
    train, data = resolved["train"], resolved["data"]
    if train["keep_best"] and not _holds_out(data) and not resolved["eval"]["generate"] and not resolved["eval"]["multiple_choice"]:
        yield f"train.keep_best={train['keep_best']} needs an evaluation; set data.eval, data.eval_fraction or eval.generate."
    if train["wandb"] and importlib.util.find_spec("wandb") is None:
        yield "train.wandb=True but the package wandb is not installed; pip install wandb, or leave train.wandb out."


def _holds_out(data):
    return data["eval"] is not None or bool(data["eval_fraction"])


def _generate_rule(resolved):
    from jaxalign.config import judges
    from jaxalign.sampling import law

    spec = resolved["eval"]["generate"]
    if resolved["eval"]["by"] is not None and not _holds_out(resolved["data"]):
        yield f"eval.by={resolved['eval']['by']!r} divides held-out rows, and none are held out; set data.eval or data.eval_fraction."
    if spec is None:
        return
    if spec["prompts"] is None and not _holds_out(resolved["data"]):
        yield "eval.generate needs prompts, and no rows are held out; set eval.generate.prompts, data.eval or data.eval_fraction."
    if wrong := [name for name in spec["rewards"] or {} if "/" in name or name == judges.JUDGE]:
        yield f"eval.generate.rewards.{wrong[0]}: a name has no / and is not {judges.JUDGE!r}, as eval.generate.judge is; choose another."
    if spec["judge"] is not None and spec["against"] is None:
        yield f"eval.generate.judge={spec['judge']!r} has no effect without eval.generate.against; name what answers are compared with."
    try:
        judges.metrics(spec)
        law.of(spec)
    except ValueError as error:
        yield f"eval.generate: {str(error).removeprefix('eval.generate: ')}"


def _beside(section):
    """Names of the metrics of the section eval; none of eval.generate where it has a problem, which is reported by itself."""
    from jaxalign.config import judges
    from jaxalign.evaluators import multiple_choice

    sets = named_sets(section["multiple_choice"]) if section["multiple_choice"] else ()
    names = {name for one in sets for name in multiple_choice.names(one)}
    try:
        return names if section["generate"] is None else names | judges.metrics(section["generate"])
    except ValueError:
        return names


def _eval_sources_rule(resolved):
    section, found = resolved["eval"], {}
    if section["generate"] and isinstance(section["generate"]["prompts"], dict):
        found["eval.generate.prompts"] = section["generate"]["prompts"], (*OF_RAW_ROWS, *OF_FORMAT)
    if (rollout := resolved["data"]["rollout"]) and isinstance(rollout["prompts"], dict):
        found["data.rollout.prompts"] = rollout["prompts"], (*OF_RAW_ROWS, *OF_FORMAT)
    for name, source in named_sets(section["multiple_choice"] or {"": {}}).items():
        found[f"eval.multiple_choice.{name}" if name else "eval.multiple_choice"] = source, OF_RAW_ROWS
    for where, (source, keys) in found.items():
        for key in [key for key, value in source.items() if key not in keys and value != SOURCE[key].default]:
            yield f"{where}.{key}={source[key]!r} has no effect on rows that are only asked; leave it out."


def _answers_rule(resolved):
    if "no_logps" in functions.objective(resolved).reads:
        for key in [key for key, value in resolved["eval"].items() if value is not None]:
            name = resolved["objective"]["name"]
            yield f"eval.{key}: the model of objective {name!r} scores answers and predicts no tokens, so it gives none; leave the key out."


def _best_metric_rule(resolved):
    from jaxalign.training.reference import RULES

    given, data, reference = resolved["train"]["best_metric"], resolved["data"], resolved["reference"]
    chosen = resolved["train"]["keep_best"] or given != SCHEMA["train"]["best_metric"].default
    beside = _beside(resolved["eval"])
    of_label = resolved["eval"]["by"] is not None and "by/" in given  # the labels are known with the rows
    if not chosen or of_label or given.removeprefix("-") in beside or (not _holds_out(data) and not beside):
        return
    sets = {"": None} if data["eval"] is None else named_sets(data["eval"])
    starts_anew = (rule := RULES[reference["rule"]]).moves and rule.holds == "weights"
    sign, metric = ("-", given[1:]) if given.startswith("-") else ("", given)
    where, _, name = ("", "", metric) if "" in sets else metric.partition("/")
    where += "/" if where else ""
    if "" not in sets and where[:-1] not in sets:
        yield f"train.best_metric={given!r} is of no held-out set; begin it with one of {', '.join(sets)}, as in {next(iter(sets))}/loss."
        return
    if name.startswith("initial/") and not (starts_anew and reference["keep_initial"]):
        yield f"train.best_metric={given!r} needs a reference that moves and reference.keep_initial; leave initial/ out, or set them."
        return
    if starts_anew and (name in ("loss", "kl") or name.startswith("rewards/")):
        first = f"use '{sign}{where}initial/{name}'" + ("" if reference["keep_initial"] else " and reference.keep_initial=True")
        yield f"train.best_metric={given!r} starts anew whenever reference.rule={reference['rule']!r} moves the reference; {first}."
        return
    names = {f"{where}{other}" for other in trace.metrics(resolved, functions.objective(resolved))} if _holds_out(data) else set()
    yield from trace.unknown_metric(given, names | beside)


def _reference_rule(resolved):
    import jax

    from jaxalign.training.reference import RULES

    section = resolved["reference"]
    name, rule = section["rule"], RULES[section["rule"]]
    given = [f"every_{unit}" for unit in units("every") if section.get(f"every_{unit}") is not None]
    if rule.moves and not given:
        yield f"reference.every is missing: rule {name!r} moves the reference every so often; give one of {_one_of('reference.every')}."
    if rule.moves and given and not section[given[0]] > 0:
        yield f"reference.{given[0]}={section[given[0]]!r} never moves the reference; make it larger, or use rule 'frozen'."
    if given and not rule.moves:
        moving = ", ".join(name for name, other in RULES.items() if other.moves)
        yield f"reference.{given[0]}: rule {name!r} never moves the reference; leave it out, or use one of {moving}."
    if rule.separate and not isinstance(section.get("checkpoint"), str):
        yield f"reference.checkpoint={section.get('checkpoint')!r} names no teacher; give a folder, package:NAME, stage:NAME, or a run."
        return
    try:  # on shapes: nothing may start the devices yet
        jax.eval_shape(rule.bind(every_steps=1, **functions.options(resolved, "reference")), 0.0, 0.0, 1)
    except ValueError as error:
        yield str(error)


def _forward_rule(resolved):
    from jaxalign.training import forward, reference

    section, rule = resolved["forward"], resolved["reference"]["rule"]
    if section["name"] != "two_pass":
        return
    if reference.RULES[rule].holds == "logps":
        yield f"reference.rule={rule!r} keeps log-probs of one plain pass, and forward.name='two_pass' reads mixed text; use 'frozen'."
    try:
        forward.check_mixing(**{key: section[key] for key in hparams_of(forward.check_mixing)})
    except ValueError as error:
        yield str(error)


def _one_of(name):
    return ", ".join(f"{name}_{unit}" for unit in units("every"))


def _rate_of_heads(optimizer, model):
    own, trained = optimizer["heads_learning_rate"], model["trainable"]
    if own is not None and trained in HEADS:
        yield f"optimizer.heads_learning_rate={own}: the {trained.replace('_', ' ')} alone is trained; set optimizer.learning_rate."
    elif own is not None and all(model[head] is None for head in HEADS):
        yield f"optimizer.heads_learning_rate={own}: the model has no value head, reward head or critic; leave the key out."
    elif own is not None and not optimizer["learning_rate"]:
        yield f"optimizer.heads_learning_rate={own} goes by the schedule of optimizer.learning_rate, which is 0; set model.trainable."


def _objective_rule(resolved):
    from jaxalign.models import features
    from jaxalign.training.reference import RULES

    name, rule, model = resolved["objective"]["name"], resolved["reference"]["rule"], resolved["model"]
    objective = functions.objective(resolved)
    reads = objective.reads
    if rule == "none" and "reference" in reads:
        yield f"reference.rule='none': objective {name!r} needs a reference; leave the key out or use 'frozen'."
        return
    if (RULES[rule].moves or RULES[rule].holds == "logps") and "reference" not in reads:
        yield f"reference.rule={rule!r}: objective {name!r} reads no reference; leave the key out, or use 'frozen' to measure against."
    for head in HEADS:
        if model[head] is not None and head not in reads:
            yield f"model.{head}={model[head]!r}: objective {name!r} does not read it; leave the key out."
        if model["trainable"] == head and model[head] is None:
            how = {"value_head": "to the largest reward", "reward_head": "to 'linear'"}[head]
            yield f"model.trainable={head!r} but the model has none; set model.{head} {how}."
        if model["trainable"] == head and head not in reads:
            yield f"model.trainable={head!r} but objective {name!r} does not read the {head.replace('_', ' ')}; leave the key out."
    yield from _rate_of_heads(resolved["optimizer"], model)
    if model["critic_checkpoint"] is not None and model["critic"] is None:
        yield f"model.critic_checkpoint={model['critic_checkpoint']!r}: the model has no critic; set model.critic='linear'."
    if "no_logps" in reads and rule != "none":
        yield f"reference.rule={rule!r}: objective {name!r} reads no log-probs, which a reference is measured by; leave the key out."
    if "no_logps" in reads and resolved["forward"]["name"] == "two_pass":
        yield f"forward.name='two_pass': the model of objective {name!r} predicts no tokens to mix; leave the key out."
    if model["reward_head"] not in (None, "linear") and resolved["train"]["export"]:
        yield "train.export=True: transformers has no class with such a model.reward_head; use 'linear', or leave train.export out."
    for head in ("value_head", "reward_head"):
        if f"{head}_alone" in reads and model["trainable"] != head:
            what = head.replace("_", " ")
            yield f"model.trainable={model['trainable']!r}: objective {name!r} teaches the {what} alone; set model.trainable={head!r}."
    yield from columns.of_features(resolved, reads)
    if "scores_of_prompts" in reads and model["value_head"] not in (None, 1):
        yield f"model.value_head={model['value_head']}: objective {name!r} reads values in (0, 1) here; set model.value_head=1.0."
    yield from columns.unread(resolved, (*reads, *(f"columns.{feature}" for feature in features.names_of(model["reward_head"]))))
    try:
        trace.check(resolved, objective)
    except ValueError as error:
        yield str(error)


RULES = (  # (rule, the sections that it reads)
    (columns.check, ("data",)),
    (_batch_rule, ("batch",)),
    (_model_rule, ("model",)),
    (lora.check, ("model", "data", "reference")),
    (_data_rule, ("data",)),
    (_optimizer_rule, ("optimizer",)),
    (mesh_rules.check, ("mesh", "data", "eval", "model", "reference", "optimizer", "train")),
    (_train_rule, ("train", "data", "eval")),
    (_generate_rule, ("eval", "data")),
    (_eval_sources_rule, ("eval", "data")),
    (rollout_rules.check, ("data", "objective", "reference", "train", "optimizer", "forward")),
    (_answers_rule, ("eval", "objective")),
    (_best_metric_rule, ("train", "data", "eval", "reference", "objective", "model")),
    (_reference_rule, ("reference",)),
    (_forward_rule, ("forward", "reference")),
    *((idle.check(section), (section,)) for section in idle.SECTIONS),
    (_objective_rule, ("objective", "reference", "model", "data", "forward", "train")),
)
