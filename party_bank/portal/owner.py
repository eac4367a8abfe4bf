"""Who is in the portal: a firm's owner, and how much of the firm the session may see; what all its pages share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank.applications import Judge
from party_bank.book import Row
from party_bank.book_tables import FIRMS, LINES, OFFERS
from party_bank.console.open_book import OpenBook
from party_bank.joint import JointDecision
from party_bank.portal.consents import OwnerConsents
from party_bank.portal.pushes import WithdrawalPushes
from party_bank.portal.store import LINK, OwnerStore
from party_bank.settings import PortalSite, load_settings
from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.errors import BookError, ConfigError, DataError, PeerError, StateError, VeilscoreError

OWNER_ROLE = "owner"
OWNERS = frozenset({OWNER_ROLE})
PASSKEY = "passkey"
_JOINT_AT_ONCE = 8
T = TypeVar("T")


class OwnerError(VeilscoreError):
    """Says to an owner, in the owner's language, what cannot be done and why."""


class PortalHome(ConsoleHome):
    """Reads the bank's home; who is in the portal is an owner and nothing else, whatever node.yaml says of a name."""

    def roles(self, person: str) -> frozenset[str]:  # noqa: ARG002 - of one kind are all
        """Return the one role that there is here."""
        return OWNERS


def site_of(home: PortalHome) -> PortalSite:
    """Return the portal's section of bank.yaml; ConfigError for a home that is no bank's."""
    if home.role != "bank":
        raise ConfigError(f"{home.path} is the home of a {home.role}; the portal is a bank's")
    return load_settings(home.path).portal_site.below(home.path)


@dataclass(frozen=True)
class Owner:
    """Who is in: the firm's row of the book, and the offer to which the session is bound; "" where to none."""

    firm: str
    name: str
    manager: str
    offer: str

    @property
    def whole(self) -> bool:
        """Return whether the session sees all of the firm: it was entered by a link or a passkey."""
        return not self.offer


@dataclass
class Portal:
    """What pages work with.

    joint, judge : as of an application and a renewal; working : threads in which holders are waited for.
    making : secret of the passkey that a session is making, by the session's key.
    """

    home: PortalHome
    open: OpenBook
    store: OwnerStore
    consents: OwnerConsents
    pushes: WithdrawalPushes
    joint: JointDecision
    judge: Callable[[], Judge]
    working: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_JOINT_AT_ONCE, "portal"))
    making: dict[bytes, str] = field(default_factory=dict, repr=False)
    _busy: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def owner(self, visit: Visit) -> Owner:
        """Return who is in the session of a visit; OwnerError where the bank no longer has the firm."""
        firm = self.store.firm_of(visit.person)
        rows = [] if firm is None else self.open.book.rows(sa.select(FIRMS).where(FIRMS.c.firm == firm))
        if not rows or visit.session is None:
            raise OwnerError(visit.told(noted("The bank does not have your firm in its book. Ask it for a new link.")))
        by = visit.session.entered_by
        offer = "" if by in {LINK, PASSKEY} else by
        return Owner(rows[0]["firm"], rows[0]["name"], rows[0]["manager"], offer)

    def within(self, owner: Owner, table: sa.Table) -> sa.ColumnElement[bool]:
        """Return which rows of a table an owner may see: the firm's, and of an offer's session those of its line."""
        own = table.c.firm == owner.firm
        if owner.whole:
            return own
        line = sa.select(OFFERS.c.line).where(OFFERS.c.number == owner.offer, OFFERS.c.firm == owner.firm)
        return sa.and_(own, (LINES.c.id if table is LINES else table.c.line) == line.scalar_subquery())

    def one(self, owner: Owner, table: sa.Table, column: sa.Column[Any], value: str | int) -> Row:
        """Return the owner's own row; for all others, and those that there are not, the same: no such page."""
        found = self.open.book.rows(sa.select(table).where(column == value, self.within(owner, table)))
        if not found:
            raise HTTPException(404)
        return found[0]

    def alone(self, owner: Owner, visit: Visit, act: Callable[[], T]) -> T:
        """Run what waits for holders, one at a time for a firm."""
        with self._lock:
            if owner.firm in self._busy:
                raise OwnerError(visit.told(noted("This is being worked on. Look again in a moment.")))
            self._busy.add(owner.firm)
        try:
            return act()
        finally:
            with self._lock:
                self._busy.discard(owner.firm)

    def close(self) -> None:
        """Let go of the book and of the threads."""
        self.working.shutdown(wait=False, cancel_futures=True)
        self.open.close()


def for_owners(handle: Callable[[Any, Visit], Response]) -> Callable[[Any, Visit], Response]:
    """Make a handler say to an owner that something cannot be done, in place of words for the bank's people."""

    @functools.wraps(handle)
    def run(pages: Any, visit: Visit) -> Response:
        try:
            return handle(pages, visit)
        except (BookError, ConfigError, DataError, PeerError, StateError) as error:
            structlog.get_logger("party_bank.portal").info(
                "not done", request=visit.request_id, error=type(error).__name__
            )
            raise OwnerError(
                visit.told(noted("This could not be done now. Load the page again, or ask your account manager."))
            ) from error

    return run
