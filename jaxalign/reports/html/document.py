"""The page: one HTML file with its style and charts inside, which needs no script and loads nothing."""

from collections.abc import Sequence
from pathlib import Path

from jaxalign.reports.html import answer, charts, curves, tables, texts
from jaxalign.reports.html.contents import Entry
from jaxalign.reports.html.markup import Markup, folded, join, tag

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"  # a browser runs and loads nothing


def page(entries: Sequence[Entry], remarks: Sequence[str]) -> str:
    """The whole document; sections without data are left out.

    Args:
      remarks: sentences about what is missing or damaged.
    """
    title = answer.listed([entry.name for entry in entries])
    legend = charts.legend([(entry.name, entry.number) for entry in entries])
    generated, followed = texts.generated(entries), texts.followed(entries)
    both = join(generated, folded("Held-out answers before and after", followed) if generated and followed else followed)
    sections = [
        ("answer", "Which is better", join(answer.section(entries), tables.results(entries))),
        ("kl", "Reward against KL", _with(legend, curves.trade_off(entries))),
        ("curves", "Curves", _with(legend, curves.over_steps(entries))),
        ("texts", "What they say", both or None),
        ("settings", "What differs" if len(entries) > 1 else "Settings", tables.settings(entries)),
        ("data", "Data", tables.data(entries)),
        ("cost", "Speed and memory", tables.cost(entries)),
        ("made", "How it was made", tables.made(entries)),
    ]
    there = [(anchor, heading, body) for anchor, heading, body in sections if body is not None]
    links = [tag("a", heading, href=f"#{anchor}") for anchor, heading, _ in there]
    notice = tag("div", tag("b", "Missing or damaged"), tag("ul", *(tag("li", one) for one in remarks)), class_="notice")
    body = [
        tag("header", tag("h1", title), tag("div", _subtitle(entries), class_="soft")),
        tag("nav", *links, aria_label="sections"),
        notice if remarks else None,
        *(tag("section", tag("h2", heading), body, id=anchor) for anchor, heading, body in there),
    ]
    return _document(title, tag("main", *body))


def _with(legend: Markup, panels: Markup | None) -> Markup | None:
    return None if panels is None else join(legend, panels)


def _subtitle(entries) -> str:
    runs = sum(len(entry.runs) for entry in entries)
    dates = sorted({run.facts["run"]["date"] for entry in entries for run in entry.runs if "run" in run.facts})
    what = f"{len(entries)} configurations, {runs} runs" if len(entries) > 1 else f"{runs} run{'s' if runs > 1 else ''}"
    return ", ".join([what, *([" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else [])])


def _document(title, body) -> str:
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    ]
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', body), lang='en')}\n"
