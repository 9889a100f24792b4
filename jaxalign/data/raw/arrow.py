"""Rows of arrow tables: parquet files, and the sets that `datasets` reads.

Every value of an arrow column has the same fields, so that a call of a tool also has the arguments of all other tools, as None. These are
taken out again: a field that is None and one that is not there are the same in arrow.
"""

from collections.abc import Mapping, Sequence

from jaxalign.data.raw.counts import RowError

FREE = ("arguments", "parameters", "tools", "functions")  # objects whose fields differ from row to row


class Filled(Sequence):
    """Rows of arrow without the fields of tools and calls that arrow has filled in."""

    def __init__(self, rows: Sequence):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> object:
        return unfilled(self._rows[i])


def unfilled(value: object, *, free: bool = False) -> object:
    """A row without the fields that are None in what `FREE` names; `free`: the value stands in one of these."""
    if isinstance(value, Mapping):
        return {key: unfilled(item, free=free or key in FREE) for key, item in value.items() if not (free and item is None)}
    return [unfilled(item, free=free) for item in value] if isinstance(value, list) else value


def parquet(data, path) -> Sequence:
    """The rows of the bytes of a parquet file; asking for one that holds a date beyond all calendars raises a RowError.

    Raises:
      ValueError: it is no parquet file, is damaged, or has two columns of one name.
    """
    import pyarrow  # slow to import, needed for this format only
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(pyarrow.py_buffer(data)))
        names = file.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path} has two columns of the name {twice!r}; name every column once.")
        return Filled(_Table(file.read(), path))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet file or is damaged: {error}. Get the file again.") from error


class _Table(Sequence):
    def __init__(self, table, path):
        self._table, self._path = table, path

    def __len__(self):
        return self._table.num_rows

    def __getitem__(self, i):
        row = {}
        for name, column in zip(self._table.column_names, self._table.slice(i, 1).columns, strict=True):
            try:
                row[name] = column[0].as_py()
            except (OverflowError, ValueError) as error:  # a time that Python's calendar does not have
                raise RowError("wrong_type", f"{self._path}: row {i} has a value in {name} that cannot be read: {error}.") from error
        return row
