"""The adapters of a run by its section model.lora: what they are, what they stand on, and what they start from."""

from typing import Any

from ml_collections import ConfigDict

from jaxalign.config.lora import goes_on, same_base
from jaxalign.models import lora
from jaxalign.models import model as models
from jaxalign.training import runs
from jaxalign.training.bases import Base
from jaxalign.training.sources import Source


def stored(cfg: ConfigDict) -> dict[str, Any]:
    """What `models.build` takes of the section: the adapters, and what the weights that rest are stored in."""
    section = cfg.model.lora
    if section is None:
        return {}
    dtype = models.dtype_of("auto").name if section.base_dtype == "auto" else section.base_dtype
    return {"lora": runs.lora_of(section.to_dict()), "base_dtype": dtype}


def base(cfg: ConfigDict) -> Base | None:
    """What the adapters of a run with this configuration stand on; None where it trains none."""
    if cfg.model.lora is None:
        return None
    return Source(cfg.model.checkpoint).stands_on() if goes_on(cfg) else Base(cfg.model.checkpoint, cfg.seed)


def settle(cfg: ConfigDict, before: dict[str, Any] | None) -> None:
    """Names the run that adapters stand on, or go on from, with its step, so that it may go on while they are of use.

    Args:
      before: the record of the run that is continued, whose step is kept where the same run is named without one.
    """
    name = cfg.model.checkpoint
    if cfg.model.lora is None or name is None or not Source(name).is_run:
        return
    was = before and before["config"]["model"]["checkpoint"]
    cfg.model.checkpoint = was if was and was.partition("@")[0] == name else Source(name).with_step


def check_start(cfg: ConfigDict, ours: models.Model) -> None:
    """Raises ValueError where the adapters that are to be trained on are not there, or are others than the section describes."""
    source = Source(cfg.model.checkpoint)
    if source.lora is None:
        raise ValueError(
            f"model.lora.start='checkpoint' trains the adapters of model.checkpoint={source.name!r} on, and it has none; name a folder of "
            "peft or a run with model.lora, or leave start out for new ones."
        )
    theirs = models.build(source.decoder(), lora=source.lora)
    maps = [lora.maps(model.shapes[lora.LORA]) for model in (ours, theirs)]
    differing = [
        f"model.lora.{key}={getattr(ours.lora, key)!r}, and theirs is {getattr(theirs.lora, key)!r}"
        for key in ("rank", "alpha", "rank_stabilised")
        if getattr(ours.lora, key) != getattr(theirs.lora, key)
    ]
    if maps[0] != maps[1]:
        differing.append(f"model.lora.targets={ours.lora.targets!r} are {', '.join(maps[0])}, and theirs are {', '.join(maps[1])}")
    stored_as = runs.record(*source.place)["base_dtype"] if source.is_run else ours.base_dtype
    random = source.stands_on().checkpoint is None  # weights of another type are drawn otherwise
    if not same_base(ours.base_dtype, stored_as) or (random and ours.base_dtype != stored_as):
        differing.append(f"model.lora.base_dtype is {ours.base_dtype!r}, and theirs is {stored_as!r}")
    if differing:
        raise ValueError(
            f"model.lora.start='checkpoint' trains the adapters of {source.name} on, which the section does not describe: "
            f"{'; '.join(differing)}. Set what they have, or leave start out for new adapters on the merged model."
        )
