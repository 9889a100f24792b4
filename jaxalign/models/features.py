"""A reward head on declared features of a response, numbers that come as columns of the batch; it does not read the decoder.

A reward model from domain knowledge, arXiv 2402.15473: a small network over a few scores. Unlike the published code, the activation stands
after every hidden layer and the output is linear: there a ReLU after the output left both answers of a pair at 0 for good.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from jaxalign.models import layers

Array = jax.Array
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
COLUMN = "column"


@dataclasses.dataclass(frozen=True)
class Feature:
    """A number of a response.

    Raises:
      ValueError: an empty range or an unknown direction.
    """

    name: str  # of the column
    range: tuple[float, float] = (0.0, 1.0)  # mapped to [0, 1]; numbers beyond it go beyond
    direction: int = 1  # 1: more is better; -1: less is better; 0: unknown
    of: str = COLUMN  # what gives it for a new text: "column", a number in its row, or a reward, see `scoring.rewards`

    def __post_init__(self):
        if len(self.range) != 2 or not all(map(_is_number, self.range)):
            raise ValueError(f"feature {self.name!r}: range={self.range!r} must be two numbers, (smallest, largest).")
        low, high = self.range
        object.__setattr__(self, "range", (float(low), float(high)))
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"feature {self.name!r}: range={self.range} must go from a smaller number to a larger one.")
        if isinstance(self.direction, bool) or self.direction not in (-1, 0, 1):
            raise ValueError(f"feature {self.name!r}: direction={self.direction} is not 1 (more is better), -1 or 0 (unknown).")


@dataclasses.dataclass(frozen=True)
class FeatureHeadConfig:
    """A network over features.

    Raises:
      ValueError: no feature, or an option out of its range.
    """

    features: tuple[Feature, ...]
    hidden: tuple[int, ...] = ()  # sizes of the hidden layers; (): a linear map
    activation: str = "tanh"
    monotone: bool = False  # the reward never falls with a feature of direction 1, nor rises with one of direction -1
    members: int = 1  # networks of different random weights, trained side by side
    pessimism: float = 0.0  # k: the reward is the mean of the members less k standard deviations

    def __post_init__(self):
        names = [feature.name for feature in self.features]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"reward head over features {tuple(names)}: name at least one, and none twice.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"reward head over features: activation={self.activation!r} is not one of {', '.join(ACTIVATIONS)}.")
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in (*self.hidden, self.members)):
            raise ValueError(f"reward head over features: hidden={self.hidden}, members={self.members} are sizes of at least 1.")
        if not 0 <= self.pessimism < math.inf or (self.pessimism and self.members == 1):
            raise ValueError(f"reward head over features: pessimism={self.pessimism} must be >= 0, and above 0 needs members=2 or more.")
        # d(mean - k std)/d(member) = (1 - k (member - mean) / std) / E, and (member - mean) / std is at most sqrt(E - 1)
        if self.monotone and self.members > 1 and self.pessimism > (most := (self.members - 1) ** -0.5):
            raise ValueError(
                f"reward head over features: with pessimism={self.pessimism} and members={self.members} the reward can fall where all "
                f"members rise, so it is not monotone; set pessimism to at most {most:.3g}, or monotone=False."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the inputs."""
        return tuple(feature.name for feature in self.features)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "FeatureHeadConfig":
        """The head that a config or a run's record describes: dict(features={name: dict(range=..., ...)}, hidden=..., ...).

        Raises:
          ValueError: an unknown key, or one of another type.
        """
        rest, features = {**given}, given.get("features")
        if not isinstance(features, Mapping) or not features or not all(isinstance(one, Mapping) for one in features.values()):
            raise ValueError(f"reward head over features: features={features!r}; write dict(NAME=dict(range=(0, 5), direction=1), ...).")
        rest["features"] = tuple(_made(Feature, {"name": name, **one}, f"features.{name}") for name, one in features.items())
        return _made(cls, rest, "reward head over features")

    def record(self) -> dict[str, Any]:
        """The plain values that `of` reads."""
        whole = dataclasses.asdict(self)
        return {**whole, "features": {feature.pop("name"): feature for feature in whole["features"]}}


def _made(kind, given: Mapping[str, Any], where: str):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - fields.keys(), key=str):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(fields)}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    for name, value in values.items():
        default = fields[name].default
        kinds = (float, int) if isinstance(default, float) else type(default)
        if default is not dataclasses.MISSING and not isinstance(value, kinds):
            raise ValueError(f"{where}: {name}={value!r} is {type(value).__name__}, not {type(default).__name__}.")
    return kind(**values)


def _is_number(x) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def names_of(given) -> tuple[str, ...]:
    """Names of the features of a config's reward head, as far as it has any."""
    return tuple(given["features"]) if isinstance(given, Mapping) and isinstance(given.get("features"), Mapping) else ()


def head_of(given):
    """The reward head that a config or a record describes: None, a kind, or a `FeatureHeadConfig`.

    Raises:
      ValueError: as `FeatureHeadConfig.of`.
    """
    return FeatureHeadConfig.of(given) if isinstance(given, Mapping) else given


class FeatureLayer(nnx.Module):
    """A linear map of each member."""

    def __init__(self, members: int, source: int, target: int, *, monotone: bool):
        # softplus(start) = 1 / source: a monotone layer begins near a mean
        self.start, std = (math.log(math.expm1(1 / source)), 0.1) if monotone else (0.0, source**-0.5)
        self.kernel = layers.weight((members, source, target), (None, None, None), std=std, fill=self.start)
        self.bias = layers.weight((members, target), (None, None))

    def __call__(self, x: Array, kernel: Array) -> Array:
        """[N, K, E, source] to [N, K, E, target] with what `kernel` is made of self.kernel."""
        return jnp.einsum("nkei,eio->nkeo", x, kernel, precision=jax.lax.Precision.HIGHEST) + self.bias.get_value()


class FeatureHead(nnx.Module):
    """Scores of features, one per member. Float32."""

    def __init__(self, config: FeatureHeadConfig):
        sizes = (len(config.features), *config.hidden, 1)
        for number, (source, target) in enumerate(zip(sizes, sizes[1:], strict=False)):
            setattr(self, f"layer_{number}", FeatureLayer(config.members, source, target, monotone=config.monotone))
        self.config = config

    def __call__(self, features: Array) -> Array:
        """Rewards float32[N, K, E] of scaled features [N, K, F]."""
        config = self.config
        x = jnp.broadcast_to(features[:, :, None], (*features.shape[:2], config.members, features.shape[2]))
        for number in range(len(config.hidden) + 1):
            layer = getattr(self, f"layer_{number}")
            x = ACTIVATIONS[config.activation](x) if number else x
            x = layer(x, self._kernel(layer, first=not number))
        return x[..., 0]

    def _kernel(self, layer: FeatureLayer, *, first: bool) -> Array:
        kernel = layer.kernel.get_value()
        if not self.config.monotone:
            return kernel
        directions = jnp.array([feature.direction for feature in self.config.features], jnp.float32)[:, None]
        positive = jax.nn.softplus(kernel)
        return jnp.where(directions == 0, kernel - layer.start, directions * positive) if first else positive


def scaled(values: Array, config: FeatureHeadConfig) -> Array:
    """Features [..., F] with their ranges mapped to [0, 1]."""
    low, high = jnp.array([feature.range for feature in config.features], jnp.float32).T
    return (values - low) / (high - low)


def combined(members: Array, pessimism: float) -> Array:
    """The mean of the members [N, K, E] less `pessimism` standard deviations: float32[N, K]."""
    mean = members.mean(-1)
    return mean - pessimism * members.std(-1) if pessimism else mean
