"""A raw row that remembers which of its columns were read, so that the others can be named."""

from collections.abc import Collection, Iterator, Mapping

EMPTY = (None, "", [], {}, ())


class Record(Mapping):
    """A raw row: a mapping from column to value. Reading a column by name counts; listing the names does not.

    Args:
      renamed: columns that the source has under another name here, so that they count as read.
    """

    def __init__(self, values: Mapping, renamed: Collection[str] = ()):
        self._values = dict(values)
        self._read = set(renamed)
        self.fields: set[str] = set()  # NAME[].FIELD of messages and answers that nothing reads
        self.changed: dict[str, str] = {}  # rule -> message: what was not taken as it stands

    def __getitem__(self, name: str) -> object:
        self._read.add(name)
        return self._values[name]

    def get(self, name: str, default=None) -> object:
        """The value of a column, `default` where the row lacks it."""
        self._read.add(name)
        return self._values.get(name, default)

    def put(self, name: str, value: object) -> None:
        """Adds a column that is made from others, or takes the place of one."""
        self._values[name] = value
        self._read.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def first(self, names: Collection[str]) -> str | None:
        """The first of these columns that holds something, None where none does. It alone counts as read."""
        return next((name for name in names if self._values.get(name) not in EMPTY), None)

    def unread(self) -> list[str]:
        """Names of the columns that hold something and were not read, then of such fields of messages, sorted."""
        columns = [name for name, value in self._values.items() if name not in self._read and value not in EMPTY]
        return sorted(columns) + sorted(self.fields)
