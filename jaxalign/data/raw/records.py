"""A raw row that remembers which of its columns were read, so that the others can be named."""

from collections.abc import Iterator, Mapping


class Record(Mapping):
    """A raw row: a mapping from column to value. Reading a column by name counts; listing the names does not."""

    def __init__(self, values: Mapping):
        self._values = values
        self._read: set[str] = set()
        self.fields: set[str] = set()  # NAME[].FIELD of messages and answers that nothing reads

    def __getitem__(self, name: str) -> object:
        self._read.add(name)
        return self._values[name]

    def get(self, name: str, default=None) -> object:
        """The value of a column, `default` where the row lacks it."""
        self._read.add(name)
        return self._values.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def unread(self) -> list[str]:
        """Names of the columns that hold something and were not read, then of such fields of messages, sorted."""
        columns = [name for name, value in self._values.items() if name not in self._read and value not in (None, "", [], {}, ())]
        return sorted(columns) + sorted(self.fields)
