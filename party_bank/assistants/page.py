"""A credit report as one HTML page that loads nothing: every figure is a link to the line of its source.

A page on which a figure leads nowhere is not given out.
"""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser

from jinja2 import Environment, PackageLoader, StrictUndefined

from party_bank.assistants.credit_report import CreditReport
from party_bank.assistants.spoken import speak
from veilscore.errors import StateError
from veilscore.reports.facts import Locale
from veilscore.reports.figures import figure_in


def render_page(report: CreditReport, locale: Locale) -> str:
    """Return the page; StateError where a figure on it is no fact, which would be an error of this program."""
    return refuse_untraced(page_environment().get_template("report.html.j2").render(r=speak(report, locale)))


def refuse_untraced(page: str) -> str:
    """Return a page as it is; StateError where a figure on it leads to no source."""
    if untraced := untraced_figures(page):
        raise StateError(f"the page is not shown: {len(untraced)} figures have no source, first {untraced[0][:60]!r}")
    return page


def untraced_figures(page: str) -> tuple[str, ...]:
    """Return what on a page reads as a figure and is no link to a source, and links that lead nowhere."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lost = [f"link to {name}" for name in reader.links if name not in reader.targets]
    return (*reader.figures, *lost)


class _Reader(HTMLParser):
    """Collects figures outside of facts, quotes and the table of sources, and what links lead to."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.figures: list[str] = []
        self.links: list[str] = []
        self.targets: set[str] = set()
        self._inside: list[tuple[str, bool]] = []  # open elements, and whether figures may stand in them

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element, its id, and where it leads."""
        given = dict(attrs)
        if given.get("id"):
            self.targets.add(str(given["id"]))
        kinds = set((given.get("class") or "").split())
        may = bool(kinds & {"fact", "quote", "sources", "model"}) or tag == "style"
        if kinds & {"fact", "quote"}:
            self.links.append((given.get("href") or "").removeprefix("#"))
        if tag != "meta":
            self._inside.append((tag, may))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element of this kind."""
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Look for figures where none may stand."""
        text = " ".join(data.split())
        if text and not any(may for _, may in self._inside) and figure_in(text):
            self.figures.append(text)


@cache
def page_environment() -> Environment:
    """Return the templates of pages; what is put in is escaped."""
    return Environment(
        loader=PackageLoader("party_bank.assistants", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
