"""Configurations of several stages, each a whole configuration, and what one stage takes from another: "stage:NAME"."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
import re

from ml_collections import ConfigDict

from jaxalign.config import idle, lora
from jaxalign.config.resolve import ConfigError, raise_problems, resolve
from jaxalign.config.schema import SCHEMA
from jaxalign.suggest import meant

NAME = re.compile(r"\w[\w.-]*")  # of a stage: a folder of the run is called so
STAGE = "stage:"  # what stands before the name of an earlier stage where a checkpoint is named
MODEL = "model:"  # what stands before the name of a reward model


def training_stages(stages: Mapping[str, ConfigDict]) -> dict[str, ConfigDict]:
    """The stages that train a model; the others are experiments."""
    return {name: cfg for name, cfg in stages.items() if "experiment" not in cfg}


def place_stages(cfg: ConfigDict, workdir: Path) -> None:
    """Replaces every "stage:NAME" of a stage's configuration by what that stage leaves in the run's folder: its export, or its folder."""
    if (cfg.model.checkpoint or "").startswith(STAGE):
        left = workdir / cfg.model.checkpoint.removeprefix(STAGE)
        cfg.model.checkpoint = str(left if lora.goes_on(cfg) else left / "export")
    if (cfg.model.critic_checkpoint or "").startswith(STAGE):
        cfg.model.critic_checkpoint = str(workdir / cfg.model.critic_checkpoint.removeprefix(STAGE) / "export")
    if (cfg.reference.get("checkpoint") or "").startswith(STAGE):
        cfg.reference.checkpoint = str(workdir / cfg.reference.checkpoint.removeprefix(STAGE) / "export")
    if cfg.eval.generate and (cfg.eval.generate.against or "").startswith(STAGE):
        cfg.eval.generate.against = str(workdir / cfg.eval.generate.against.removeprefix(STAGE))
    for _, section, key in _rewards(cfg):
        if any(name.startswith(STAGE) for name in _models(section[key])):
            section[key] = _with_models(section[key], lambda name: _placed(name, workdir))
    for column in cfg.data.computed.values():
        for key in ("model", "reference"):
            if (column[key] or "").startswith(STAGE):
                left = workdir / column[key].removeprefix(STAGE)
                column[key] = str(left if column.kind == "advantage" else left / "export")


def check_placed(cfg: ConfigDict, stage: str | None) -> None:
    """Raises ValueError where a stage by itself, without the folder of its run, takes something from another: "stage:NAME"."""
    rewards = {where for where, *_ in _rewards(cfg)}
    for key, source in _named(cfg):
        if source.startswith(STAGE) and not key.startswith("data.rollout."):  # it is evaluated, and draws no rollouts
            folder = f"{MODEL}FOLDER" if key in rewards else "FOLDER"
            raise ValueError(f"{key} of {stage} is {source!r}, which has no folder here; name it with --config.{stage}.{key}={folder}.")


def _rewards(cfg) -> Iterator[tuple[str, ConfigDict, str]]:
    """The rewards of a configuration: (where it stands, the section, the key)."""
    generate, rollout = cfg.eval.generate, cfg.data.rollout
    sections = [("data.rollout", rollout, ("reward",)), ("eval.generate", generate, ("judge",))]
    if generate and generate.rewards:
        sections.append(("eval.generate.rewards", generate.rewards, tuple(generate.rewards)))
    return ((f"{where}.{key}", section, key) for where, section, keys in sections if section for key in keys if section[key] is not None)


def _placed(name, workdir):
    return str(workdir / name.removeprefix(STAGE)) if name.startswith(STAGE) else name


def _models(spec) -> list[str]:
    """The reward models that the spec of a reward names."""
    names: list[str] = []
    _with_models(spec, lambda name: names.append(name) or name)
    return names


def _with_models(spec, place: Callable[[str], str]):
    """The spec of a reward, with another name for every reward model that it names."""
    if isinstance(spec, str):
        return f"{MODEL}{place(spec.removeprefix(MODEL))}" if spec.startswith(MODEL) else spec
    spec = dict(spec)
    if spec.get("kind") == "model" and isinstance(spec.get("model"), str):
        spec["model"] = place(spec["model"])
    if spec.get("kind") == "sum":
        spec["of"] = {name: (_with_models(part, place), weight) for name, (part, weight) in spec["of"].items()}
    return ConfigDict(spec)


def exported_stages(stages: dict[str, ConfigDict]) -> set[str]:
    """Names of the stages whose export a later stage reads."""
    training = training_stages(stages).values()
    sources = [name for cfg in training for name in (cfg.model.critic_checkpoint, cfg.reference.get("checkpoint"))]
    sources += [cfg.model.checkpoint for cfg in training if not lora.goes_on(cfg)]
    columns = [column for cfg in training for column in cfg.data.computed.values() if column.kind != "advantage"]
    sources += [column[key] for column in columns for key in ("model", "reference")]
    return {source.removeprefix(STAGE) for source in sources if (source or "").startswith(STAGE)}


def resolve_stages(config: ConfigDict) -> dict[str, ConfigDict]:
    """Stage name -> resolved configuration. Problems of all stages are reported together."""
    if "stages" not in config:
        whole = resolve(config)
        raise_problems([] if "experiment" in whole else [*_earlier_stages("", whole, ()), *_idle_exports({"": whole})])
        return {"": whole}
    plain, problems, resolved = config.to_dict(), [], {}
    names = plain.pop("stages")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise_problems([f"stages={names!r} is no tuple of names; write stages=('first', 'second') and a configuration under each name."])
    problems += [f"stages: {name!r} is named {names.count(name)} times; give each stage a name of its own." for name in _repeated(names)]
    wrong = [name for name in names if not NAME.fullmatch(name)]
    problems += [f"stages: {name!r} is no name of a stage, whose folder is called so; use letters, digits, _, - and ." for name in wrong]
    for key in plain:
        if key not in names:
            whole = ", ".join(f"{name}.{key}" for name in names)
            way = f"did you mean {whole}?" if key in SCHEMA else f"it is no stage of these{meant(key, names)}."
            problems.append(f"{key}: unknown key beside stages={tuple(names)}, each of which is a whole configuration; {way}")
    for name in names:
        if name not in plain:
            close = meant(name, plain.keys() - set(names))
            problems.append(f"stages: {name!r} is named but not given{close}; add config.{name} = ConfigDict(...).")
            continue
        if not isinstance(plain[name], dict):
            problems.append(f"{name}={plain[name]!r} is no configuration; a stage is a ConfigDict of sections.")
            continue
        try:
            resolved[name] = resolve(ConfigDict(plain[name]))
        except ConfigError as error:
            problems += [f"{name}.{line}" for line in str(error).splitlines()[1:]]
    raise_problems(problems)
    training = training_stages(resolved)
    for i, name in enumerate(training):
        problems += _earlier_stages(name, training[name], list(training)[:i])
        problems += _adapters(name, training)
    problems += [*_mirrors(training), *_idle_exports(resolved)]
    raise_problems(problems)
    return resolved


def _idle_exports(stages):
    exported = exported_stages(stages)
    for name, cfg in training_stages(stages).items():
        if name not in exported:
            yield from idle.problems(idle.EXPORT, cfg.train, f"{name}.train" if name else "train", SCHEMA["train"])


def _repeated(names):
    return sorted({name for name in names if names.count(name) > 1})


def _earlier_stages(name, cfg, earlier):
    """Problems of the stages that a stage names."""
    for key, source in _named(cfg):
        if source.startswith(STAGE) and source.removeprefix(STAGE) not in earlier:
            where, there = f"{name}.{key}" if name else key, ", ".join(earlier) or "none"
            close = meant(source.removeprefix(STAGE), earlier)
            yield f"{where}={source!r} does not name an earlier stage{close}; earlier ones: {there}."


def _adapters(name, training):
    """Problems of a stage that trains the adapters of an earlier one on."""
    cfg, earlier = training[name], training.get((training[name].model.checkpoint or "").removeprefix(STAGE))
    if lora.goes_on(cfg) and cfg.model.checkpoint.startswith(STAGE) and earlier is not None:
        for problem in lora.unlike(cfg, earlier):
            yield f"{name}.model.lora.start='checkpoint' trains the adapters of {cfg.model.checkpoint!r} on, {problem}."


def _mirrors(training):
    """Problems of stages whose copies would lie in one place, where each would go on from the other's checkpoints."""
    stage_of = {}
    for name, mirror in ((name, cfg.train.mirror.rstrip("/")) for name, cfg in training.items() if cfg.train.mirror):
        other = stage_of.setdefault(mirror, name)
        if other != name:
            yield f"{name}.train.mirror={mirror!r} is that of {other} too; give each stage one of its own, like {mirror}/{name}."


def _named(cfg) -> list[tuple[str, str]]:
    """(key, the model that it names); the reward of several models has as many."""
    named = {"model.checkpoint": cfg.model.checkpoint, "model.critic_checkpoint": cfg.model.critic_checkpoint}
    named |= {"reference.checkpoint": cfg.reference.get("checkpoint")}
    named |= {"eval.generate.against": cfg.eval.generate.against} if cfg.eval.generate else {}
    named |= {f"data.computed.{column}.{key}": spec[key] for column, spec in cfg.data.computed.items() for key in ("model", "reference")}
    of_rewards = [(where, model) for where, section, key in _rewards(cfg) for model in _models(section[key])]
    return [(key, source) for key, source in named.items() if source is not None] + of_rewards
