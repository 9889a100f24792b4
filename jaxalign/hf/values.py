"""The values of a config.json: read by key, with type and range checked. What was never read can be listed afterwards."""

from typing import Any

MISSING = object()
LARGEST = 2**24  # of any size; above every published model (vocabulary 262,208, MLP 53,248)


class Values:
    """A section of a config.json.

    Args:
      values: the parsed section.
      where: what stands before its keys in messages; "" for the whole file.
    """

    def __init__(self, values: dict[str, Any], where: str = ""):
        self._values, self._where, self._read, self._sections = values, where, set(), []

    @property
    def where(self) -> str:
        """The key of the section; "" for the whole file."""
        return self._where.rstrip(".")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str, default: Any = MISSING) -> Any:
        """The value as it stands in the file.

        Raises:
          ValueError: the key is missing and has no default. So do all methods below, and where the value has the wrong type.
        """
        self._read.add(key)
        if key in self._values:
            return self._values[key]
        if default is MISSING:
            raise ValueError(f"config.json has no key {self._where + key!r}; it is needed to build the model.")
        return default

    def size(self, key: str, default: Any = MISSING, *, least: int = 1, most: int = LARGEST, null: bool = False) -> int | None:
        """A whole number within bounds; None for null where `null` allows it."""
        value = self.raw(key, default)
        if value is None and null:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, f"a whole number from {least:,} to {most:,}")
        if not least <= value <= most:
            raise self.wrong(key, f"from {least:,} to {most:,}")
        return value

    def number(self, key: str, default: Any = MISSING, *, null: bool = False) -> float | None:
        """A finite number above 0; None for null where `null` allows it."""
        value = self.raw(key, default)
        if value is None and null:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.wrong(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: Any = MISSING) -> bool:
        """True or false."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: Any = MISSING) -> str:
        """A string."""
        value = self.raw(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def section(self, key: str) -> "Values | None":
        """The values below a key; None where it is missing or null."""
        value = self.raw(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "a section of keys")
        self._sections.append(Values(value, f"{self._where}{key}."))
        return self._sections[-1]

    def keys(self) -> list[str]:
        """The keys of the section."""
        return list(self._values)

    def wrong(self, key: str, wanted: str) -> ValueError:
        """The error for a value that is not what is wanted."""
        return ValueError(f"config.json sets {self._where}{key} to {str(self._values.get(key))[:60]!r}; it must be {wanted}.")

    def unread(self, known: frozenset[str]) -> list[str]:
        """The keys with a value that nobody asked for, without the known ones; those of sections as SECTION.KEY."""
        own = [self._where + key for key, value in self._values.items() if key not in self._read | known and value is not None]
        return own + [key for section in self._sections for key in section.unread(frozenset())]
