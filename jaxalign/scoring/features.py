"""The reward of a new text from declared features: each is a number of its row, or itself a reward, and a trained head combines them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.models import model as models
from jaxalign.models.features import COLUMN, FeatureHeadConfig
from jaxalign.scoring import rules
from jaxalign.scoring.faults import Fault
from jaxalign.training.sources import Source


@dataclasses.dataclass(frozen=True)
class FeatureModel:
    """A run of objective `feature_reward` as a function of text. Its weights are read when it first scores; that needs a mesh in scope."""

    source: Source
    head: FeatureHeadConfig
    rewards: Mapping[str, Callable]  # feature -> reward, for those that are no column of the row

    @functools.cached_property
    def model(self) -> tuple[models.Model, Any]:
        """The model and its parameters."""
        return self.source.restore()[:2]

    def __call__(self, prompts: Sequence, completions: Sequence[str], metadata: Sequence[Mapping]) -> list[float | Fault]:
        """The reward of every completion, not squashed; a `Fault` where a feature is missing."""
        values = np.full((len(completions), len(self.head.features)), np.nan)
        for i, name in enumerate(self.head.names):
            reward = self.rewards.get(name)
            values[:, i] = [_number(row.get(name)) for row in metadata] if reward is None else reward(prompts, completions, metadata)
        model, params = self.model
        scores = jax.device_get(models.feature_rewards(model, params, jnp.asarray(values[None], jnp.float32))[0])[0]
        missing = [np.flatnonzero(np.isnan(row)) for row in values]
        return [
            Fault("feature", f"it has no number for the feature {self.head.names[where[0]]!r}.") if len(where) else float(score)
            for where, score in zip(missing, scores, strict=True)
        ]


def rule(source: Source, make: Callable[[str], Callable]) -> rules.Rule:
    """The rule that scores with a run whose reward head reads features.

    Args:
      source: the run.
      make: a reward from its spec, `rewards.make`.

    Raises:
      ValueError, FileNotFoundError: a feature's reward cannot be made.
    """
    head = source.reward_head
    made = {feature.name: make(feature.of) for feature in head.features if feature.of != COLUMN}
    columns = tuple(feature.name for feature in head.features if feature.of == COLUMN)
    return rules.Rule(FeatureModel(source, head, made), columns, tuple(made.values()))


def _number(value) -> float:
    """A finite number, NaN for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if usable else float("nan")
