"""Rows of T tokens out of groups of tokenized pieces: which group goes into which row, and the arrays of a batch.

A group is one prompt with its K responses; it is never split over rows. With a shared prompt (design: attention rule) the prompt
stands once in the row whatever K is, which is the layout of prefix sharing for preference pairs (arXiv 2410.20305).
"""

from collections.abc import Mapping
import dataclasses
import functools

import numpy as np

MISMATCHED = "mismatched"  # the column of a batch that marks responses of other prompts


@dataclasses.dataclass(frozen=True)
class Groups:
    """Tokenized groups, ragged: piece g * (K + 1) is the prompt of group g, the K pieces after it are its responses.

    An empty response piece stands where a group has fewer than K responses. The arrays may be memory maps.

    With `donors` every group has one more response, number K: the first tokens of another group's response, never valid, see `mismatch`.
    `columns` are numbers for objectives: float32[n, K], one per response (0 for a donor), or float32[total], one per token beside `tokens`,
    of which those of responses count. A token's number depends on what stands before it, so donors need their own: "NAME@mismatched",
    float32[sum of the donors' tokens], in the order of the groups.

    Raises:
      ValueError: a column of another shape, or a column of tokens without the one of the donors.
    """

    tokens: np.ndarray  # int32[total]
    scored: np.ndarray  # uint8[total]; 1: the token is trained
    offsets: np.ndarray  # int64[n * (K + 1) + 1]; piece i is tokens[offsets[i] : offsets[i + 1]]
    reward: np.ndarray  # float32[n, K]
    paired: np.ndarray  # bool[n]
    valid: np.ndarray  # bool[n, K]
    donors: np.ndarray | None = None  # int32[n, 3]; another group, its response, and how many tokens of it are taken
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        donated = 0 if self.donors is None else int(self.donors[:, 2].sum())
        for name, column in self.columns.items():
            of_donors = name.endswith(f"@{MISMATCHED}")
            allowed = [(donated,)] if of_donors else [self.reward.shape, self.tokens.shape]
            if name == MISMATCHED or column.shape not in allowed:
                expected = "a name of its own" if name == MISMATCHED else f"the shape {' or '.join(map(str, allowed))}"
                raise ValueError(f"column {name!r} has shape {column.shape}; it needs {expected}. Write it again for these rows.")
            if self.donors is not None and column.ndim == 1 and not of_donors and f"{name}@{MISMATCHED}" not in self.columns:
                raise ValueError(
                    f"column {name!r} has numbers of tokens, and the set has mismatched responses, whose tokens need their own: "
                    f"give {name}@{MISMATCHED} too, with shape ({donated},)."
                )

    def __len__(self) -> int:
        return len(self.paired)

    @property
    def responses(self) -> int:
        """K, the most responses that any group has; one more with donors."""
        return self.reward.shape[1] + (self.donors is not None)

    @property
    def column_dims(self) -> dict[str, int]:
        """Names of the columns of a batch, with 2 for one number a response and 1 for one a token."""
        dims = {name: column.ndim for name, column in self.columns.items() if not name.endswith(f"@{MISMATCHED}")}
        return dims if self.donors is None else {**dims, MISMATCHED: 2}

    @functools.cached_property
    def present(self) -> np.ndarray:
        """Which responses a group lays into its row: bool[n, responses]: the valid ones and its donor's."""
        donated = np.ones((len(self), self.responses - self.valid.shape[1]), bool)
        return np.concatenate([self.valid, donated], 1)

    def piece(self, group: int, piece: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32[L] and scored uint8[L] of a piece: 0 is the prompt, 1 + k response k."""
        span = self._span(group, piece)
        return self.tokens[span], self.scored[span]

    def column(self, name: str, group: int, response: int) -> np.ndarray:
        """The numbers of a response in a column: float32[L] for a column of tokens, else float32[]."""
        own = self.valid.shape[1]
        if self.columns[name].ndim == 2:
            return np.float32(0) if response == own else self.columns[name][group, response]
        if response < own:
            return self.columns[name][self._span(group, 1 + response)]
        stop = int(self._donated[group])
        return self.columns[f"{name}@{MISMATCHED}"][stop - int(self.donors[group, 2]) : stop]

    def lengths(self) -> np.ndarray:
        """Tokens of every piece: int64[n, responses + 1], column 0 the prompt."""
        own = np.diff(self.offsets).reshape(len(self), self.valid.shape[1] + 1)
        return own if self.donors is None else np.concatenate([own, self.donors[:, 2:].astype(np.int64)], 1)

    @functools.cached_property
    def _donated(self):
        return np.cumsum(self.donors[:, 2], dtype=np.int64)

    def _span(self, group, piece):
        own, most = self.valid.shape[1], None
        if piece > own:
            group, response, most = self.donors[group].tolist()
            piece = 1 + response
        at = group * (own + 1) + piece
        start, stop = int(self.offsets[at]), int(self.offsets[at + 1])
        return slice(start, stop if most is None else start + most)


def group_tokens(groups: Groups, *, share_prompt: bool) -> np.ndarray:
    """Tokens that each group occupies in a row: int64[n].

    Shared: P - 1 prompt tokens, then each response headed by the last prompt token. Unshared: the prompt before every response.
    """
    lengths = groups.lengths()
    prompt, responses = lengths[:, 0], lengths[:, 1:].sum(1)
    count = groups.present.sum(1)
    if share_prompt:
        return np.where(count > 1, prompt - 1 + count, prompt) + responses
    return prompt * count + responses


def plan_rows(sizes: np.ndarray, *, row_tokens: int, pack: bool, max_groups: int | None = None) -> np.ndarray:
    """Which groups each row holds: int32[rows, G], -1 where a row holds fewer than G.

    Best fit in decreasing order of size; the same sizes give the same plan. Without `pack` every group has its own row (G = 1).
    G is `max_groups`, or as many as the fullest row holds; without `max_groups` that is at most a sixteenth of its tokens, or 16, so that
    the arrays of judgements stay small beside the tokens.

    Raises:
      ValueError: a group larger than a row, or no group at all.
    """
    sizes = np.asarray(sizes, np.int64)
    if sizes.size == 0:
        raise ValueError("there is no group to put into rows; see the counts of dropped rows for the reason.")
    if sizes.max() > row_tokens:
        raise ValueError(
            f"group {int(sizes.argmax())} has {int(sizes.max())} tokens, which is more than row_tokens={row_tokens}; "
            "raise row_tokens, or lower max_prompt_tokens or max_response_tokens."
        )
    if max_groups is not None and max_groups < 1:
        raise ValueError(f"max_groups={max_groups} must be at least 1, or None for as many as fit.")
    if not pack:
        return np.arange(len(sizes), dtype=np.int32)[:, None]
    rows = _best_fit(sizes, row_tokens=row_tokens, max_groups=max_groups or max(16, row_tokens // 16))
    width = max_groups or max(len(row) for row in rows)
    plan = np.full((len(rows), width), -1, np.int32)
    for r, row in enumerate(rows):
        plan[r, : len(row)] = row
    return plan


def _best_fit(sizes, *, row_tokens, max_groups):
    # Open rows are kept by the space left in them; `spaces` has bit s set where some open row has s tokens left, so the
    # smallest space that still fits is one shift and one lowest-set-bit on an integer of row_tokens bits.
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    spaces = 0
    for group in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[group])
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
            rows[row].append(group)
        else:
            space, row = row_tokens, len(rows)
            rows.append([group])
        left = space - size
        if left and len(rows[row]) < max_groups:
            by_space[left].append(row)
            spaces |= 1 << left
    return rows


def fill(sizes: np.ndarray, plan: np.ndarray, *, row_tokens: int) -> float:
    """Share of the R * T places of a plan that hold a token, 0 to 1; the rest is padding."""
    return float(np.asarray(sizes)[plan[plan >= 0]].sum() / (plan.shape[0] * row_tokens))


def empty_batch(
    rows: int, *, groups: int, responses: int, row_tokens: int, columns: Mapping[str, int] | None = None
) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
    """A batch of `rows` rows of padding: the fields of `types.Batch` as numpy arrays; nothing is valid. `columns`: see `column_dims`."""
    by_token, by_group = (rows, row_tokens), rows * groups
    arrays = {name: np.zeros(by_token, np.int32) for name in ("tokens", "positions", "segments", "prefixes")}
    arrays["slots"] = np.full(by_token, -1, np.int32)
    arrays["reward"] = np.zeros((by_group, responses), np.float32)
    arrays["paired"] = np.zeros(by_group, bool)
    arrays["valid"] = np.zeros((by_group, responses), bool)
    shapes = {name: (by_group, responses) if dims == 2 else by_token for name, dims in (columns or {}).items()}
    arrays["columns"] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return arrays


def assemble(groups: Groups, plan: np.ndarray, *, row_tokens: int, share_prompt: bool) -> dict[str, np.ndarray | dict[str, np.ndarray]]:
    """The batch of some rows of a plan (int32[R, G]; -1 = no group): a dict with the arrays of `types.Batch`."""
    rows, width = plan.shape
    arrays = empty_batch(rows, groups=width, responses=groups.responses, row_tokens=row_tokens, columns=groups.column_dims)
    for r in range(rows):
        write_row(arrays, r, groups, plan[r], share_prompt=share_prompt)
    return arrays


def write_row(arrays: dict, row: int, groups: Groups, members: np.ndarray, *, share_prompt: bool) -> None:
    """Writes the groups `members` (int[<= G]; -1 = none) into row `row` of an empty batch, which may have more responses than they."""
    rows = arrays["tokens"].shape[0]
    width, responses = arrays["paired"].shape[0] // rows, arrays["valid"].shape[1]
    own = groups.valid.shape[1]
    at, segment = 0, 0
    for g, group in enumerate(int(m) for m in members):
        if group < 0:
            continue
        n = row * width + g
        arrays["paired"][n] = groups.paired[group]
        arrays["valid"][n, :own] = groups.valid[group]
        arrays["reward"][n, :own] = groups.reward[group]
        if groups.donors is not None:
            arrays["columns"][MISMATCHED][n, own] = 1
        present = np.flatnonzero(groups.present[group])
        prompt, _ = groups.piece(group, 0)
        prefix = 0
        if share_prompt and len(present) > 1 and len(prompt) > 1:
            segment += 1
            prefix = segment
            at = _write(arrays, row, at, prompt[:-1], position=0, segment=segment)
        for k in present.tolist():
            tokens, scored = groups.piece(group, 1 + k)
            segment += 1
            head = prompt[-1:] if prefix else prompt
            start = len(prompt) - len(head)
            at = _write(arrays, row, at, head, position=start, segment=segment, prefix=prefix)
            end = _write(arrays, row, at, tokens, position=len(prompt), segment=segment, prefix=prefix)
            arrays["slots"][row, at:end] = np.where(scored, g * responses + k, -1)
            _write_columns(arrays["columns"], groups, (group, k), (n, k), (row, slice(at, end)))
            at = end


def _write_columns(columns, groups, response, slot, place):
    for name, dims in groups.column_dims.items():
        if name != MISMATCHED:
            columns[name][slot if dims == 2 else place] = groups.column(name, *response)


def _write(arrays, row, at, tokens, *, position, segment, prefix=0):
    end = at + len(tokens)
    arrays["tokens"][row, at:end] = tokens
    arrays["positions"][row, at:end] = np.arange(position, position + len(tokens))
    arrays["segments"][row, at:end] = segment
    arrays["prefixes"][row, at:end] = prefix
    return end
