"""Rollouts as rows: every batch of a run has one shape, with room for prompts and samples of the greatest length."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from jaxalign.data.rows import mismatch, pack
from jaxalign.data.rows.pack import Groups
from jaxalign.rollout.feedback import Judged

Ids = Sequence[int]


def group_tokens(prompt: int, *, responses: int, new_tokens: int, share_prompt: bool) -> int:
    """Tokens of a row that a prompt of so many tokens takes at most, with responses of at most `new_tokens` tokens."""
    if responses == 1 or not share_prompt:
        return responses * (prompt + new_tokens)
    return prompt - 1 + responses * (1 + new_tokens)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the samples of a batch stand in its rows: prompt i is group i // rows of row i % rows."""

    rows: int
    row_tokens: int
    prompts: int  # per batch
    responses: int  # of a prompt, without the mismatched one
    paired: bool
    share_prompt: bool
    mismatched: bool  # whether every group has a response of another prompt
    columns: tuple[str, ...]  # of responses
    computed: tuple[str, ...]  # of responses, which the devices compute
    token_columns: tuple[str, ...]  # of tokens, likewise

    @property
    def groups(self) -> int:
        """Groups per row."""
        return -(-self.prompts // self.rows)

    def empty(self, rows: int) -> dict:
        """So many rows of padding, as numpy arrays with the names of `types.Batch`."""
        dims = dict.fromkeys(self.columns, 2) | ({pack.MISMATCHED: 2} if self.mismatched else {})
        responses = self.responses + self.mismatched
        return pack.empty_batch(rows, groups=self.groups, responses=responses, row_tokens=self.row_tokens, columns=dims)

    def arrays(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        judged: Judged,
        columns: Mapping[str, np.ndarray],
        *,
        rows: slice,
        seed: int,
    ) -> dict:
        """Some rows of a batch, without the columns that the devices compute: numpy arrays with the names of `types.Batch`.

        Args:
          prompts: token ids of each.
          responses: token ids of the M chosen samples of each.
          judged: what the feedback made of them.
          columns: of responses, float32[P, M].
          rows: of the batch.
          seed: of the choice of mismatched responses.

        Raises:
          ValueError: mismatched responses are needed and all prompts have the same tokens.
        """
        groups = self._groups(prompts, responses, judged, columns, seed)
        plan = np.full(self.groups * self.rows, -1, np.int32)
        plan[: self.prompts] = np.arange(self.prompts)
        members = plan.reshape(self.groups, self.rows).T[rows]
        arrays = self.empty(len(members))
        for row, own in enumerate(members):
            pack.write_row(arrays, row, groups, own, share_prompt=self.share_prompt)
        return arrays

    def _groups(self, prompts, responses, judged, columns, seed) -> Groups:
        pieces = [np.asarray(piece, np.int32) for prompt, own in zip(prompts, responses, strict=True) for piece in (prompt, *own)]
        lengths = np.array([len(piece) for piece in pieces], np.int64)
        is_response = np.tile(np.arange(1 + self.responses) > 0, len(prompts))
        groups = Groups(
            tokens=np.concatenate(pieces),
            scored=np.repeat(is_response, lengths).astype(np.uint8),
            offsets=np.concatenate([np.zeros(1, np.int64), lengths.cumsum()]),
            reward=judged.reward,
            paired=np.full(len(prompts), self.paired),
            valid=np.ones_like(judged.valid),
            columns=columns,
        )
        if self.mismatched:
            donors = mismatch.choose(groups, row_tokens=self.row_tokens, share_prompt=self.share_prompt, seed=seed)
            groups = dataclasses.replace(groups, donors=donors)
        return dataclasses.replace(groups, valid=judged.valid)
