"""The order in which the loader takes rows. Not a test itself."""

from jaxalign.data.rows import loader


def row_order(sets, *, rows, seed, steps, sampling=loader.SHUFFLE):
    """The (set, groups) of every row of the global batches of steps 0 to steps - 1, as `loader.batches` uses them; -1 is no group."""
    order = loader._order(sets, rows=rows, seed=seed, sampling=sampling)
    places = [[order[step * rows + i] for i in range(rows)] for step in range(steps)]
    return [[(number, tuple(members.tolist())) for number, members in step] for step in places]
