"""The rotary positions of a config.json, in the keys of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters).

Where a file holds both and they differ, versions of transformers disagree about which one counts: it is refused.
"""

from typing import Any, NamedTuple

from jaxalign.hf.values import Values
from jaxalign.models.config import RopeScaling

SECTIONS = ("rope_scaling", "rope_parameters")
LAYER_KINDS = ("full_attention", "sliding_attention")


class Rotary(NamedTuple):
    """How heads are rotated."""

    theta: float
    scaling: RopeScaling
    fraction: float  # of each head


class Keys(NamedTuple):
    """The top-level keys of a family, and what absent ones mean."""

    theta: str = "rope_theta"
    default_theta: float = 10000.0
    fraction: str = "partial_rotary_factor"
    default_fraction: float = 1.0


PLAIN = Keys()


def read(values: Values, keys: Keys = PLAIN) -> Rotary:
    """The rotary positions of all layers.

    Raises:
      ValueError: a kind of scaling that the decoder does not compute, or values that contradict each other.
    """
    sections = {key: section for key in SECTIONS if (section := values.section(key)) is not None}
    for key, section in sections.items():
        if set(section.keys()) & set(LAYER_KINDS):
            raise ValueError(f"config.json nests {key} by kinds of layers; of the supported families only gemma3_text does.")
    return _agreed({key: _one(values, section, keys) for key, section in sections.items()}) or _one(values, Values({}), keys)


def read_local(values: Values) -> tuple[Rotary, float]:
    """Gemma 3: the rotary positions of its full layers, and the base of its sliding layers.

    Raises:
      ValueError: as `read`; also scaled sliding layers.
    """
    keys = Keys(default_theta=1e6)
    nested, scaling = values.section("rope_parameters"), values.section("rope_scaling")
    if nested is not None and (flat := [key for key in nested.keys() if key not in LAYER_KINDS]):
        raise ValueError(
            f"config.json has rope_parameters.{flat[0]}; rope_parameters of a gemma3_text hold full_attention and sliding_attention."
        )
    full = None if nested is None else nested.section("full_attention")
    sections = {"rope_parameters.full_attention": full, "rope_scaling": scaling}
    rotary = _agreed({key: _one(values, section, keys) for key, section in sections.items() if section is not None})
    sliding = (nested and nested.section("sliding_attention")) or Values({})
    local = _one(values, sliding, Keys("rope_local_base_freq"))
    if local.scaling.kind != "none":
        raise ValueError("config.json scales the rotary positions of sliding layers; only full_attention layers may be scaled.")
    return rotary or _one(values, Values({}), keys), local.theta


def to_json(scaling: RopeScaling) -> dict[str, Any] | None:
    """The value of rope_scaling; None for positions that are not scaled."""
    if scaling.kind == "none":
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency,
        "high_freq_factor": scaling.high_frequency,
        "original_max_position_embeddings": scaling.original_positions,
    }


def _agreed(found: dict[str, Rotary]) -> Rotary | None:
    if len(set(found.values())) > 1:
        written = " and ".join(f"{key} ({_describe(rotary)})" for key, rotary in found.items())
        raise ValueError(f"config.json has {written}, which differ; remove the one that does not belong to these weights.")
    return next(iter(found.values()), None)


def _one(values: Values, section: Values, keys: Keys) -> Rotary:
    theta = _either(values, section, keys.theta, "rope_theta", keys.default_theta)
    fraction = _either(values, section, keys.fraction, "partial_rotary_factor", keys.default_fraction)
    return Rotary(theta, _scaling(values, section), fraction)


def _either(values: Values, section: Values, key: str, nested: str, default: float) -> float:
    outer = values.number(key, default)
    inner = section.number(nested, outer)
    if key in values and inner != outer:
        raise ValueError(f"config.json sets {key} to {outer} and {nested} of its rotary section to {inner}; keep the right one.")
    return inner


def _scaling(values: Values, section: Values) -> RopeScaling:
    older = section.text("type", "default")
    kind = section.text("rope_type", older)
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling("linear", section.number("factor"))
    if kind == "llama3":
        low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
        original = section.size("original_max_position_embeddings", values.size("max_position_embeddings"))
        return RopeScaling("llama3", section.number("factor"), low, high, original)
    raise ValueError(
        f"config.json asks in {section.where} for rotary scaling of type {kind!r}; supported are 'default', 'linear' and 'llama3'. "
        "Within the pretrained context, removing it from config.json gives the unscaled model."
    )


def _describe(rotary: Rotary) -> str:
    scaled = "unscaled" if rotary.scaling.kind == "none" else f"{rotary.scaling.kind} by {rotary.scaling.factor:g}"
    return f"{scaled}, base {rotary.theta:g}"
