"""A response of another prompt for every group: what KTO (arXiv 2402.01306, section 4.1) estimates its reference point from.

The set is shuffled as a whole and then paired, so neighbours in a file, like the two answers of one pair, do not meet. Published code
shifts a batch by one instead, which pairs a row with itself in a batch of one, or with its own prompt where pairs stand side by side.
"""

import numpy as np

from jaxalign.data.rows.pack import Groups, group_tokens

# Responses that are looked at for one that fits a row in full, before one is cut: keeps the search linear in the set.
TRIES = 64


def choose(groups: Groups, *, row_tokens: int, share_prompt: bool, seed: int, uncut: np.ndarray | None = None) -> np.ndarray:
    """For every group another group, its response, and how many of its first tokens are taken: int32[n, 3].

    The prompts of the two have different tokens, and different numbers in `uncut` (uint64[n], of the prompts before any cut: rows of one
    prompt may be cut to different lengths). All of the response is taken where one of the first `TRIES` candidates fits the row
    beside the group, else the start of the first candidate, at least 1 token. A pure function of its arguments.

    Raises:
      ValueError: all groups have the same prompt, or a group leaves no room in its row.
    """
    prompts = _prompt_numbers(groups, uncut)
    if prompts.max() == 0:
        raise ValueError(
            f"all {len(groups)} groups have the same prompt, so there is no response of another prompt, which the objective needs; "
            "use data with more than one prompt."
        )
    room = _room(groups, row_tokens=row_tokens, share_prompt=share_prompt)
    responses = np.random.default_rng(seed).permutation(np.argwhere(groups.valid).astype(np.int32))
    lengths = groups.lengths()[responses[:, 0], 1 + responses[:, 1]]
    asked = prompts[responses[:, 0]]
    other = _next_other(asked)
    donors = np.empty((len(groups), 3), np.int32)
    for group, (own, left) in enumerate(zip(prompts.tolist(), room.tolist(), strict=True)):
        at, first = group % len(responses), None
        for _ in range(TRIES):
            at = int(other[at]) if asked[at] == own else at
            first = at if first is None else first
            if lengths[at] <= left:
                break
            at = (at + 1) % len(responses)
        else:
            at = first
        donors[group] = (*responses[at], min(int(lengths[at]), left))
    return donors


def _prompt_numbers(groups, uncut):
    # the same number for the same tokens or the same uncut prompt, and what is linked by a chain of those: int64[n], from 0 without gaps
    parents = list(range(len(groups)))

    def root(g):
        while parents[g] != g:
            parents[g] = g = parents[parents[g]]
        return g

    first: dict[bytes | int, int] = {}
    for g in range(len(groups)):
        for key in (groups.piece(g, 0)[0].tobytes(), *(() if uncut is None else (int(uncut[g]),))):
            parents[root(g)] = root(first.setdefault(key, g))
    return np.unique([root(g) for g in range(len(groups))], return_inverse=True)[1]


def _room(groups, *, row_tokens, share_prompt):
    # tokens that each group leaves for the response itself, its prompt or the prompt's last token counted already: int64[n]
    prompt = groups.lengths()[:, 0]
    taken = group_tokens(groups, share_prompt=share_prompt)
    room = row_tokens - taken - (1 if share_prompt else prompt)
    if room.min() < 1:
        group = int(room.argmin())
        raise ValueError(
            f"group {group} has {int(taken[group])} tokens, which leaves a response of another prompt no room in row_tokens={row_tokens}; "
            "raise data.row_tokens, or lower data.max_prompt_tokens or data.max_response_tokens."
        )
    return room


def _next_other(asked):
    # for every place the next one, around the end, that has another number: int64[m]
    changes = np.flatnonzero(asked != np.roll(asked, -1)) + 1
    return changes[np.searchsorted(changes, np.arange(len(asked)), side="right") % len(changes)] % len(asked)
