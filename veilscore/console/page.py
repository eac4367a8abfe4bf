"""What a page is.

Every path of the console is a `Page` in a table (`site.py`), with the roles that may see it; the guard reads nothing
else, so that no handler forgets a check.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlencode

from starlette.responses import Response

from veilscore.terms.people import PERSON_ROLES

ANYBODY: frozenset[str] = frozenset({"anybody"})  # without a session too
ANY_PERSON: frozenset[str] = frozenset(PERSON_ROLES)
PAGE_ROWS = 50
MOST_FORM_BYTES = 64_000

Answer = Response | Awaitable[Response]


class OidcEntry(Protocol):
    """Lets people in by an OpenID provider (`oidc.py`, the extra `oidc`)."""

    def begin(self, to: str) -> tuple[str, str]:
        """Return where the browser has to go, and the secret of its cookie; `to`: where it goes in the end."""

    def finish(self, secret: str, state: str, code: str) -> tuple[str, str]:
        """Return whom the provider names, and where to go; IdentityError where it is nobody."""


@dataclass(frozen=True)
class Page:
    """One path and method.

    handle : takes a `Visit` (desk.py).
    may : roles of which a person needs one.
    act : of what changes something, as the node's log calls it; every POST has one.
    name, section : where it stands in the navigation; "" where it does not.
    kind : page, data (JSON, and no redirect to the entry) or events.
    roles : of nodes that have it.
    attempts : it counts as an attempt to enter; most_bytes : of what it is sent.
    """

    path: str
    handle: Callable[[Any], Answer]
    may: frozenset[str]
    method: Literal["GET", "POST"] = "GET"
    act: str = ""
    name: str = ""
    section: str = ""
    kind: Literal["page", "data", "events"] = "page"
    roles: tuple[str, ...] = ("bank", "holder", "coordinator")
    attempts: bool = False
    most_bytes: int = MOST_FORM_BYTES


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
