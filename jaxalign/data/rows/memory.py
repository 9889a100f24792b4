"""A set that was never written: groups of token ids in memory, as rows that batches are made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxalign.data.rows import pack, store

Ids = Sequence[int]


def prepared(
    groups: Sequence[tuple[Ids, Sequence[Ids]]],
    *,
    row_tokens: int,
    max_groups: int,
    rewards: np.ndarray | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    name: str,
) -> store.Prepared:
    """The set of these groups, every token of every response scored; group g of the set is groups[g].

    Sets with the same row_tokens, max_groups and number of responses have batches of one shape, whatever they hold.

    Args:
      groups: (ids of a prompt, ids of each of its responses), at least one token each; groups may differ in their number of responses.
      row_tokens: of a row; a group with all its responses fits into one.
      max_groups: groups per row.
      rewards: float32[n, K]; None: 0.
      columns: of responses, float32[n, K] each, by name.
      name: what messages call the set.

    Raises:
      ValueError: there is no group, or one is longer than a row.
    """
    if not groups:
        raise ValueError(f"there is no group for {name}.")
    most = max(len(responses) for _, responses in groups)
    empty = np.zeros(0, np.int32)
    pieces = [piece for prompt, responses in groups for piece in (prompt, *responses, *[empty] * (most - len(responses)))]
    lengths = np.array([len(piece) for piece in pieces], np.int64).reshape(-1, 1 + most)
    valid = np.arange(most) < np.array([[len(responses)] for _, responses in groups])
    flat = pack.Groups(
        tokens=np.concatenate([np.asarray(piece, np.int32) for piece in pieces]),
        scored=np.repeat(np.tile(np.arange(1 + most) > 0, len(groups)), lengths.ravel()).astype(np.uint8),
        offsets=np.concatenate([np.zeros(1, np.int64), lengths.ravel().cumsum()]),
        reward=np.zeros(valid.shape, np.float32) if rewards is None else np.asarray(rewards, np.float32),
        paired=np.zeros(len(groups), bool),
        valid=valid,
        columns=columns or {},
    )
    sizes = pack.group_tokens(flat, share_prompt=True)
    plan = pack.plan_rows(sizes, row_tokens=row_tokens, pack=True, max_groups=max_groups)
    return store.Prepared(Path(name, "rows"), {"row_tokens": row_tokens, "share_prompt": True}, flat, plan, np.arange(len(groups)))
