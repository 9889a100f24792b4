"""A raw row that remembers which of its columns were read, so that the others can be named."""

from collections.abc import Collection, Iterator, Mapping

EMPTY = (None, "", [], {}, ())
MISSING = ("nan", "none", "null", "<na>", "n/a", "na", "#n/a", "-")  # what tables hold in letters where a value is missing
REPLACED = "(replaced by rename)"  # a column with what the data set has under the names that `rename` gives to other columns


class Record(Mapping):
    """A raw row: a mapping from column to value. Reading a column by name counts; listing the names does not.

    Args:
      renamed: columns that the source has under another name here, also as paths ("metadata.score"), so that they count as read.
    """

    def __init__(self, values: Mapping, renamed: Collection[str] = ()):
        self._values = dict(values)
        self._given = self._values.keys() - {REPLACED}
        self._renamed = frozenset(renamed)
        self._origins: dict[str, str] = {}  # column that was derived -> what it stands for
        self._read: set[str] = set()
        self.fields: set[str] = set()  # NAME[].FIELD of messages and answers that nothing reads
        self.changed: dict[str, str] = {}  # rule -> message: what was not taken as it stands

    def __getitem__(self, name: str) -> object:
        self._read.add(self.origin(name))
        return self._values[name]

    def get(self, name: str, default=None) -> object:
        """The value of a column, `default` where the row lacks it."""
        self._read.add(self.origin(name))
        return self._values.get(name, default)

    @property
    def given(self) -> str:
        """The names of the columns that the source gives, for a message: those that were added to the row are not among them."""
        return ", ".join(sorted(self._given))

    def peek(self, name: str) -> object:
        """The value of a column, None where the row lacks it; this does not count as reading it."""
        return self._values.get(name)

    def put(self, name: str, value: object) -> None:
        """Adds a column that is made from others, or takes the place of one."""
        self._values[name] = value
        self._read.add(name)

    def derive(self, name: str, value: object, *, origin: str) -> None:
        """Adds a column that stands for another, or for a field of answers: where nothing reads it, `origin` is what was not read.

        A column that the row has already stays as it is.
        """
        if self._values.get(name) in EMPTY:
            self._values[name] = value
            self._origins[name] = origin

    def origin(self, name: str) -> str:
        """What a derived column stands for: the name that the data set has for it."""
        return self._origins.get(name, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values  # Mapping would read the column

    def first(self, names: Collection[str]) -> str | None:
        """The first of these columns that holds something, None where none does. It alone counts as read."""
        return next((name for name in names if self._values.get(name) not in EMPTY), None)

    def note_missing(self, but: Collection[str]) -> None:
        """Notes a column that was read and holds but the word for a missing value; `but`: columns in which that is no text."""
        for name, value in self._values.items():
            if name not in but and isinstance(value, str) and self.origin(name) in self._read and value.strip().lower() in MISSING:
                self.changed["missing_word"] = f"{name} is {value!r}, as tables write a missing value; it is taken as that text"

    def unread(self) -> list[str]:
        """Names of the columns that hold something and were not read, then of such fields of messages and answers, sorted.

        Of a column of which a renamed path takes a part, the other parts are named.
        """
        names = {self.origin(name): value for name, value in self._values.items()}
        replaced = names.pop(REPLACED, {})
        left = {part for name, value in names.items() if name not in self._read for part in _left(name, value, self._renamed)}
        left |= {f"{part} {REPLACED}" for name, value in replaced.items() for part in _left(name, value, self._renamed)}
        return sorted((left | self.fields) - self._read, key=lambda name: ("[]." in name, name))


def _left(name, value, renamed):
    # what renamed paths leave of a column
    if value in EMPTY or name in renamed:
        return
    inside = any(path.startswith(f"{name}.") for path in renamed)
    if inside and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _left(f"{name}.{key}", item, renamed)
    elif inside and isinstance(value, list):
        for i, item in enumerate(value):
            path = f"{name}.{i}" if f"{name}.{i - len(value)}" not in renamed else f"{name}.{i - len(value)}"
            yield from (part if part != path else f"{name}[]" for part in _left(path, item, renamed))
    else:
        yield name
