"""How many rows each rule dropped or changed, with the first such row and its message."""

import collections
import dataclasses


class RowError(ValueError):
    """A row that breaks a rule: `rule` is its short name, the message says the value and the way out."""

    def __init__(self, rule: str, message: str):
        super().__init__(message)
        self.rule = rule

    def __reduce__(self):
        return RowError, (self.rule, str(self))  # between processes


@dataclasses.dataclass
class Rule:
    """What one rule did."""

    effect: str  # "dropped" or "changed"
    rows: int
    first_row: int  # number of the raw row, from 0
    message: str  # about the first row


class Counts:
    """Rows read and kept, a `Rule` for every rule that touched a row, and the columns of kept rows that nothing reads."""

    def __init__(self):
        self.read = 0
        self.kept = 0
        self.rules: dict[str, Rule] = {}
        self.unread: collections.Counter[str] = collections.Counter()  # column or NAME[].FIELD -> kept rows that have it

    def add(self, rule: str, effect: str, row: int, message: str) -> None:
        """Counts a row under a rule."""
        self._add(rule, Rule(effect, 1, row, message))

    def _add(self, name, new):
        old = self.rules.get(name)
        if old is None:
            self.rules[name] = dataclasses.replace(new)
            return
        old.rows += new.rows
        if new.first_row < old.first_row:
            old.first_row, old.message = new.first_row, new.message

    def merge(self, other: "Counts") -> None:
        """Adds the counts of other rows."""
        self.read += other.read
        self.kept += other.kept
        self.unread += other.unread
        for name, rule in other.rules.items():
            self._add(name, rule)

    def to_dict(self) -> dict:
        """As plain values, for JSON."""
        rules = {name: dataclasses.asdict(rule) for name, rule in self.rules.items()}
        return {"read": self.read, "kept": self.kept, "rules": rules, "unread": dict(self.unread)}

    @classmethod
    def from_dict(cls, values: dict) -> "Counts":
        """The inverse of to_dict."""
        counts = cls()
        counts.read, counts.kept = values["read"], values["kept"]
        counts.rules = {name: Rule(**rule) for name, rule in values["rules"].items()}
        counts.unread = collections.Counter(values["unread"])
        return counts

    def lines(self) -> list[str]:
        """One line of text per rule, the most frequent first, and one that names what was not read."""
        lines = [f"{self.kept:,} of {self.read:,} rows kept"]
        for name, rule in sorted(self.rules.items(), key=lambda item: -item[1].rows):
            lines.append(f"  {rule.effect} {rule.rows:,} by {name}; first is row {rule.first_row}: {rule.message}")
        if self.unread:
            names = ", ".join(f"{name} ({rows:,} rows)" for name, rows in self.unread.most_common())
            lines.append(f"  not read: {names}; name a column of ours that should hold it with rename")
        return lines
