"""What all pages of a running console share (home, store, link, texts, templates), and one visit to one of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import structlog
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from veilscore import __version__
from veilscore.console.counts import RequestCounts
from veilscore.console.home import ConsoleHome
from veilscore.console.language import LANGUAGES, Locale, catalogue, noted
from veilscore.console.link import NodeLink
from veilscore.console.page import OidcEntry, Page, Site
from veilscore.console.passkeys import Passkeys
from veilscore.console.store import ConsoleSession, ConsoleStore
from veilscore.reports.svg import Chart

_MOST_PAGE = 1_000_000
DONE = {  # what a page says after a redirect
    "approved": noted("The job was approved. The answer is signed and in the log."),
    "rejected": noted("The job was rejected. The answer is signed and in the log."),
    "cancelled": noted("The job was cancelled at every party."),
    "submitted": noted("The job was submitted. Every party answers it by its own rules."),
    "resumed": noted("The job goes on from its last completed step."),
    "left": noted("You have left the console."),
    "removed": noted("It was removed."),
    "ended": noted("The other sessions were ended."),
    "begun": noted("It runs now. Load the page again to see what came of it."),
    "signed": noted("Your word was kept. A version decides with the second steward's."),
    "saved": noted("It was saved."),
}
STATIC = {  # all files that a browser gets, by name; nothing else is looked up
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "passkey.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}


class ConsoleDesk:
    """Holds one console while it runs.

    pages : all pages of this node; sites : what institutions added; oidc : the provider, where there is one.
    session_cookie : its own, so that two sites under one host name do not end each other's sessions.
    """

    session_cookie = "__Host-session"

    def __init__(
        self,
        home: ConsoleHome,
        store: ConsoleStore,
        link: NodeLink,
        passkeys: Passkeys,
        origin: str,
        pages: Sequence[Page],
        sites: Sequence[Site] = (),
        oidc: OidcEntry | None = None,
    ) -> None:
        self.home, self.store, self.link, self.passkeys, self.origin = home, store, link, passkeys, origin
        self.pages, self.sites, self.oidc = tuple(pages), tuple(sites), oidc
        self.requests = RequestCounts()
        self.log = structlog.get_logger("veilscore.console").bind(party=home.name)
        self.static = {name: files("veilscore.console").joinpath("static", name).read_bytes() for name in STATIC}
        self._catalogues = tuple(site.catalogues for site in sites if site.catalogues is not None)
        self._environments = {language: self._environment(language) for language in LANGUAGES}

    @cached_property
    def menu(self) -> dict[str, list[Page]]:
        """Return the pages of the navigation by section, in their order."""
        found: dict[str, list[Page]] = {}
        for page in self.pages:
            if page.name:
                found.setdefault(page.section, []).append(page)
        return found

    def told(self, language: str, text: str) -> str:
        """Return a text in a language."""
        return catalogue(language, self._catalogues).gettext(text)

    def _environment(self, language: str) -> Environment:
        """Return the templates in one language; what is put in is escaped."""
        folders = [Path(site.templates) for site in self.sites if site.templates is not None]
        environment = Environment(
            loader=ChoiceLoader([PackageLoader("veilscore.console", "templates"), *map(FileSystemLoader, folders)]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
            auto_reload=False,
        )
        environment.install_gettext_translations(  # type: ignore[attr-defined]
            catalogue(language, self._catalogues), newstyle=True
        )
        locale = Locale(language, dt.UTC)
        environment.filters.update(
            number=locale.number,
            percent=locale.percent,
            day=locale.day,
            moment=locale.moment,
            lasted=locale.lasted,
            size=locale.size,
            money=locale.money,
            clip=_clip,
        )
        environment.globals.update(language=language, languages=LANGUAGES, version=__version__)
        return environment

    def show(self, visit: Visit, template: str, status: int, content: Mapping[str, Any]) -> Response:
        """Return a page: its template with the frame of every page around it."""
        menu = [
            (section, [page for page in pages if page.may & visit.roles])
            for section, pages in self.menu.items()
            if any(page.may & visit.roles for page in pages)
        ]
        return self.rendered(
            visit,
            template,
            status,
            {
                "node": self.home.name,
                "node_role": self.home.role,
                "menu": menu,
                "here": visit.request.url.path,
                "done_text": DONE.get(visit.asked("done"), ""),
                **content,
            },
        )

    def rendered(self, visit: Visit, template: str, status: int, content: Mapping[str, Any]) -> Response:
        """Return a template as a page, in the visit's language and with the token of its forms."""
        csrf = "" if visit.session is None else visit.session.csrf
        found = self._environments[visit.language].get_template(template)
        return HTMLResponse(found.render(visit=visit, csrf=csrf, **content), status)


@dataclass
class Visit:
    """One request, as its handler sees it.

    session : None where nobody entered; roles : what the person may do here.
    subject : what an act is about, for the log; the handler sets it.
    """

    desk: ConsoleDesk
    request: Request
    request_id: str
    language: str
    session: ConsoleSession | None = None
    roles: frozenset[str] = frozenset()
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    data: Any = field(default=None, repr=False)
    subject: str = ""
    person_override: str = ""

    @property
    def person(self) -> str:
        """Return who asks; "" where nobody entered."""
        return self.session.person if self.session is not None else self.person_override

    @property
    def locale(self) -> Locale:
        """Return how figures and dates are written."""
        return Locale(self.language, dt.UTC)

    def part(self, name: str) -> str:
        """Return a part of the path."""
        return str(self.request.path_params[name])

    def asked(self, name: str, most: int = 200) -> str:
        """Return a word of the query, cut to a length; "" where it is missing."""
        return self.request.query_params.get(name, "").strip()[:most]

    def page_number(self) -> int:
        """Return which page of a list is asked for, from 1."""
        text = self.asked("page", 7)
        return min(max(int(text), 1), _MOST_PAGE) if text.isascii() and text.isdigit() else 1

    def told(self, text: str) -> str:
        """Return a text of the console in the person's language."""
        return self.desk.told(self.language, text)

    def show(self, template: str, http_status: int = 200, /, **content: Any) -> Response:
        """Return a page made of a template."""
        return self.desk.show(self, template, http_status, content)

    def go_to(self, path: str, done: str = "") -> Response:
        """Return a redirect to a page of this console, which then says what was done (a key of `desk.DONE`)."""
        return RedirectResponse(path + (f"?{urlencode({'done': done})}" if done else ""), 303)


def bar_chart(
    names: tuple[str, str, str], x: Sequence[float], heights: Sequence[float], *, least: float = 0.0, most_x: int = 12
) -> Chart:
    """Return bars over whole numbers; names : title, x axis, y axis; least : how high the axis is at least."""
    chart = Chart(*names)
    chart.bars(x, heights, 0.7, "joint")
    chart.y_limits, chart.grid_x, chart.whole_x, chart.most_x = (0, max(least, 1.1 * max(heights))), False, True, most_x
    if least:  # so high that no tick stands between whole numbers
        chart.y_format = lambda value, _: f"{value:,.0f}"
    return chart


def drawn(chart: Chart | None) -> Markup:
    """Return a drawing for a page; nothing where there is none. Its own texts are escaped in it."""
    return Markup() if chart is None else Markup(chart.to_svg())  # noqa: S704


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
