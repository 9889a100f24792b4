"""A model's tables for more tokens: the rows of tokens that a tokenizer gained start as the mean of the rows of those it had.

Source: John Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021: a token with the mean row is no likelier
than the others are on average, so the distribution over these hardly moves. A random row can take most of the probability.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxalign.hf.load import put
from jaxalign.models import model as models

TABLES = (("embed", "tokens"), ("head", "kernel"))  # where a vocabulary has a row per token; a tied model has the first only


@dataclasses.dataclass(frozen=True)
class Gained:
    """The tokens that a tokenizer gained."""

    ids: tuple[int, ...]
    known: int  # tokens that it had before

    def vocab_size(self, before: int) -> int:
        """The rows that a model of `before` rows needs."""
        return max([before, *(number + 1 for number in self.ids)])


def grow(params: dict[str, Any], before: models.Model, after: models.Model, gained: Gained) -> dict[str, Any]:
    """The params with the tables of `after`, in their shards on the mesh in scope; the same numbers on every mesh."""
    grown = {**params}
    for part, name in TABLES:
        if part in params:
            table = _whole(params[part][name])[: before.config.vocab_size]
            mean = table[: gained.known].mean(0, dtype=np.float64)
            rows = np.zeros((after.config.padded_vocab, table.shape[1]), np.float32)
            rows[: len(table)] = table
            rows[list(gained.ids)] = mean
            grown[part] = {**params[part], name: put(rows, after.axes[part][name])}
    return grown


def _whole(leaf: jax.Array) -> np.ndarray:
    return np.asarray(leaf) if leaf.is_fully_addressable else np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def gained(before, after, tokens: Sequence[str]) -> Gained:
    """What `after`, a tokenizer that `before` became, knows of `tokens` that `before` does not."""
    new = [after.model.token_to_id(token) for token in tokens if before.model.token_to_id(token) is None]
    return Gained(tuple(sorted(set(new))), before.vocab_size)
