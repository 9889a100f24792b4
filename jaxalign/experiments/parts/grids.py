"""Maps of Frozen Lake without slipping: where actions lead, and which ones are optimal by value iteration.

States count row by row; actions are 0 left, 1 down, 2 right, 3 up; a wall keeps one in place; S start, F ice, H hole, G goal.
"""

import dataclasses

import numpy as np

ACTIONS = "LDRU"
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
DISCOUNT = 0.99


@dataclasses.dataclass(frozen=True)
class Grid:
    """A map with an optimal and a worse way to its goal, as letters of ACTIONS."""

    rows: tuple[str, ...]
    optimal: str
    other: str

    @property
    def letters(self) -> str:
        """The map in one line; state i stands on letters[i]."""
        return "".join(self.rows)

    def inner(self) -> np.ndarray:
        """States from which one moves on: neither hole nor goal."""
        return np.array([i for i, letter in enumerate(self.letters) if letter in "SF"])

    def next_states(self) -> np.ndarray:
        """int[states, 4]; holes and goals keep one."""
        height, width = len(self.rows), len(self.rows[0])
        table = np.tile(np.arange(height * width)[:, None], (1, 4))
        for state in self.inner():
            for action, (down, right) in enumerate(MOVES):
                row, column = state // width + down, state % width + right
                if 0 <= row < height and 0 <= column < width:
                    table[state, action] = row * width + column
        return table

    def optimal_policy(self) -> np.ndarray:
        """float[states, 4]: equally likely optimal actions, reward 1 on entering the goal; rows of holes and goal are 0."""
        goal, table, inner = self.letters.index("G"), self.next_states(), self.inner()
        values = np.zeros(len(self.letters))
        for _ in self.letters:
            returns = (table == goal) + DISCOUNT * values[table]
            values[inner] = returns[inner].max(1)
        best = np.zeros(table.shape)
        best[inner] = np.isclose(returns[inner], returns[inner].max(1, keepdims=True), rtol=0, atol=1e-9)
        return best / np.maximum(best.sum(1, keepdims=True), 1)

    def path(self, actions: str) -> tuple[list[int], list[int]]:
        """(states, actions) of a way that begins at the start; the goal at its end is left out.

        Raises:
          ValueError: it does not end at the goal.
        """
        table, state, states, numbers = self.next_states(), self.letters.index("S"), [], [ACTIONS.index(a) for a in actions]
        for action in numbers:
            states.append(int(state))
            state = table[state, action]
        if self.letters[state] != "G":
            raise ValueError(f"the way {actions!r} ends on {self.letters[state]!r} at {state}, not at the goal.")
        return states, numbers


GRIDS = {
    "standard": Grid(("SFFF", "FHFH", "FFFH", "HFFG"), "DDRDRR", "RRDDLDRR"),
    "open": Grid(("SFFF", "FFFF", "FFFF", "FFFG"), "DDDRRR", "RLDUDRDLDRRR"),
    "corridors": Grid(("SFFF", "FHHF", "FHHF", "GFFF"), "DDD", "RRRDDDLLL"),
}
