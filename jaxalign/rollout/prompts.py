"""The prompts of rollouts, and which of them belong to which batch: a pure function of the seed and the batch's number."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jaxalign.data.raw.prompts import Asked
from jaxalign.manifest import content_hash

ORDER, COIN, DRAW, DONORS = range(4)  # what random numbers are for: no two of them share any


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts of different tokens.

    Raises:
      ValueError: fewer prompts than a batch has.
    """

    asked: Sequence[Asked]
    ids: Sequence[tuple[int, ...]]  # tokens of each
    batch: int  # prompts per batch
    seed: int

    def __post_init__(self):
        if len(self.ids) < self.batch:
            raise ValueError(
                f"data.rollout.prompts has {len(self.ids):,} prompts and a step takes {self.batch:,}; give more prompts, or set "
                "data.rollout.prompts_per_step, or lower batch.rows."
            )

    def of_batch(self, number: int) -> list[int]:
        """The numbers of the prompts of a batch. An epoch takes no prompt twice, in an order of its own; what fills no batch rests."""
        epoch, place = divmod(number, len(self.ids) // self.batch)
        order = generator(self.seed, ORDER, epoch).permutation(len(self.ids))
        return order[place * self.batch : (place + 1) * self.batch].tolist()

    def identity(self) -> str:
        """A hash of their tokens and of their rows."""
        return content_hash({"ids": list(map(list, self.ids)), "rows": [dict(one.columns) for one in self.asked]})


def generator(seed: int, *use: int) -> np.random.Generator:
    """The random numbers of one use, the same for the same seed everywhere."""
    return np.random.default_rng([seed, *use])
