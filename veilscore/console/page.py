"""What a page is, and what its handler knows of the request.

Every path of the console is a `Page` in a table (`site.py`), with the roles that may see it; the guard reads nothing
else, so that no handler forgets a check.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veilscore.console.language import Locale
from veilscore.console.store import Session
from veilscore.errors import RefusedError
from veilscore.terms.people import PERSON_ROLES

if TYPE_CHECKING:
    from veilscore.console.desk import ConsoleDesk

ANYBODY: frozenset[str] = frozenset({"anybody"})  # without a session too
ANY_PERSON: frozenset[str] = frozenset(PERSON_ROLES)
PAGE_ROWS = 50
_MOST_PAGE = 1_000_000

Answer = Response | Awaitable[Response]


@dataclass(frozen=True)
class Page:
    """One path and method.

    may : roles of which a person needs one.
    act : of what changes something, as the node's log calls it; every POST has one.
    name, section : where it stands in the navigation; "" where it does not.
    kind : page, data (JSON, and no redirect to the entry) or events.
    roles : of nodes that have it.
    attempts : it counts as an attempt to enter.
    """

    path: str
    handle: Callable[[Visit], Answer]
    may: frozenset[str]
    method: Literal["GET", "POST"] = "GET"
    act: str = ""
    name: str = ""
    section: str = ""
    kind: Literal["page", "data", "events"] = "page"
    roles: tuple[str, ...] = ("bank", "holder", "coordinator")
    attempts: bool = False


@dataclass(frozen=True)
class Site:
    """What an institution's package adds to the console of its nodes (entry point group `veilscore.console`).

    pages : more pages; templates, catalogues : folders, or None.
    close : lets go of what the pages hold.
    """

    pages: tuple[Page, ...]
    templates: Path | None = None
    catalogues: Path | None = None
    close: Callable[[], None] = lambda: None


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
    session: Session | None = None
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


@dataclass(frozen=True)
class Listing:
    """One page of a list that is counted at the server.

    rows : of this page; total : of all pages; query : what is searched for, as it goes into links.
    """

    rows: Sequence[Any]
    total: int
    number: int
    query: Mapping[str, str]
    size: int = PAGE_ROWS

    @property
    def pages(self) -> int:
        """Return how many pages there are, at least one."""
        return max(1, -(-self.total // self.size))

    @property
    def first(self) -> int:
        """Return the number of the first row, from 1; 0 where there is none."""
        return 0 if not self.rows else (self.number - 1) * self.size + 1

    @property
    def last(self) -> int:
        """Return the number of the last row."""
        return 0 if not self.rows else self.first + len(self.rows) - 1

    def link(self, number: int) -> str:
        """Return the query of another page."""
        return "?" + urlencode({**{k: v for k, v in self.query.items() if v}, "page": str(number)})


def page_of(rows: Sequence[Any], number: int, query: Mapping[str, str], size: int = PAGE_ROWS) -> Listing:
    """Return one page of rows that are all there."""
    return Listing(rows[(number - 1) * size : number * size], len(rows), number, query, size)


def needed(visit: Visit, *roles: str) -> None:
    """Refuse an act within a page that only some of those who see it may do."""
    if not visit.roles & set(roles):
        raise RefusedError(f"this needs the role {' or '.join(sorted(roles))} at this node")
