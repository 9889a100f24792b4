"""HTML from nested calls: whatever is not markup already is escaped, so that no text of a user becomes markup."""

import html
from typing import Any

VOID = {"meta", "br"}  # elements that have no end


class Markup(str):
    """Text that is HTML already."""


def escaped(value: Any) -> Markup:
    """The value as HTML: markup as it is, everything else as text; signs that no page may contain become U+FFFD."""
    if isinstance(value, Markup):
        return value
    text = "".join(sign if sign >= " " or sign in "\n\t" else "�" for sign in str(value))
    return Markup(html.escape(text.encode("utf-8", "replace").decode("utf-8")))


def join(*parts: Any) -> Markup:
    """The parts one after the other; None is left out."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def tag(element: str, *children: Any, **attributes: Any) -> Markup:
    """An element; an attribute of None is left out, `class_` is written class, and `stroke_width` stroke-width."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items() if value is not None)
    return Markup(f"<{element}{written}>" if element in VOID else f"<{element}{written}>{join(*children)}</{element}>")


def table(columns: list, rows: list[list], *, name: str | None = None) -> Markup:
    """A table that scrolls by itself where it is wider than the page; the first cell of a row is its heading.

    Args:
      name: CSS class of the table.
    """
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    lines = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    return tag("div", tag("table", head, tag("tbody", *lines), class_=name), class_="scroll", tabindex="0")


def folded(summary: Any, *body: Any) -> Markup:
    """What a click unfolds."""
    return tag("details", tag("summary", summary), *body)
