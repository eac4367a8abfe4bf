"""Runs the portal of a bank's home at an address of its own, with none of the console's pages, until a signal."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from party_bank.applications import Judge, active_judge
from party_bank.book import Book
from party_bank.console.open_book import OpenBook
from party_bank.joint import JointDecision
from party_bank.joint_online import OnlineJoint
from party_bank.portal import consent_pages, credit_pages, entry
from party_bank.portal.consents import OwnerConsents
from party_bank.portal.desk import PAGES, SITE, PortalDesk, read_own_files
from party_bank.portal.owner import Portal, PortalHome, site_of
from party_bank.portal.pushes import WithdrawalPushes
from party_bank.portal.store import FOLDER, OwnerStore
from veilscore.console.link import NodeLink
from veilscore.console.page import Page
from veilscore.console.passkeys import Passkeys
from veilscore.console.running import RunningSite, check_passkeys, serve_site

LOG = "portal.log"
M = TypeVar("M", bound=Message)


class LinkedNode:
    """Lets `OnlineJoint` call the bank's node from any thread, over the portal's one link."""

    def __init__(self, home: PortalHome, link: NodeLink, loop: asyncio.AbstractEventLoop) -> None:
        self.home, self.name = home.path, home.name
        self._link, self._loop = link, loop

    def ask(self, method: str, request: Message, reply: type[M], timeout_s: float) -> M:
        """Call the node once and return its reply."""
        work = self._link.call(self.name, method, request, reply, timeout_s)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def pages_of(portal: Portal) -> tuple[Page, ...]:
    """Return all pages of the portal."""
    of_book = (*credit_pages.pages(portal), *consent_pages.pages(portal), *entry.pages(portal))
    return (*portal.open.in_one_state(of_book), *PAGES)


def portal_of(home: PortalHome, store: OwnerStore, link: NodeLink, joint: Callable[[Book], JointDecision]) -> Portal:
    """Return what the pages of a bank's portal work with."""
    open_ = OpenBook(home)
    site = site_of(home)
    consents = OwnerConsents(home.path, home.name, site.issuer)

    pushes = WithdrawalPushes(consents, link, lambda: consents.catch_up(open_.book))

    def judge() -> Judge:
        return active_judge(home.path, home.name)

    return Portal(home, open_, store, consents, pushes, joint(open_.book), judge)


def desk_of(portal: Portal, link: NodeLink, passkeys: Passkeys, origin: str) -> PortalDesk:
    """Return the desk of a portal."""
    desk = PortalDesk(portal.home, portal.store, link, passkeys, origin, pages_of(portal), (SITE,))
    desk.portal, desk.own_files = portal, read_own_files()
    return desk


class RunningPortal(RunningSite):
    """One portal that listens; portal : what its pages work with."""

    portal: Portal
    desk: PortalDesk

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        self.home = PortalHome(home)
        site = site_of(self.home)
        if port is not None:
            site = site.model_copy(update={"port": port})
        check_passkeys(site, "portal_site")
        self._owners = OwnerStore(home, site.idle_minutes * 60, site.session_hours * 3600)
        shown = site.bank_name or self.home.name
        super().__init__(
            self.home, site, self._owners, name="portal", folder=FOLDER, clients=ssl.CERT_NONE, shown=shown
        )

    async def before(self) -> None:
        """Open the book, and sign what was taken back while no portal ran."""
        node = LinkedNode(self.home, self.link, asyncio.get_running_loop())
        self.portal = await asyncio.to_thread(
            portal_of, self.home, self._owners, self.link, lambda book: OnlineJoint(book, node)
        )
        await asyncio.to_thread(self.portal.consents.catch_up, self.portal.open.book)

    async def opened(self, passkeys: Passkeys, origin: str) -> PortalDesk:
        """Return the desk."""
        return desk_of(self.portal, self.link, passkeys, origin)

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return the pushing of withdrawals."""
        return [self.portal.pushes.keep_pushing()]

    def let_go(self) -> None:
        """Close the book."""
        self.portal.close()


def serve_portal(home: Path, told: Callable[[RunningPortal], None]) -> None:
    """Serve until SIGTERM or SIGINT; `told` is called once it listens."""
    serve_site(home, LOG, RunningPortal, told)
