"""Runs the portal of a bank's home at an address of its own, with none of the console's pages, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from party_bank.applications import Judge, active_judge
from party_bank.book import Book
from party_bank.console.open_book import OpenBook
from party_bank.joint import JointDecision
from party_bank.joint_online import OnlineJoint
from party_bank.portal import consent_pages, credit_pages, entry
from party_bank.portal.consents import OwnerConsents
from party_bank.portal.desk import PAGES, SITE, PortalDesk, read_own_files
from party_bank.portal.owner import Portal, PortalHome
from party_bank.portal.pushes import WithdrawalPushes
from party_bank.portal.store import FOLDER, OwnerStore
from party_bank.settings import PortalSite, load_settings
from veilscore.console.link import NodeLink, hand_over_acts
from veilscore.console.page import Page
from veilscore.console.passkeys import Passkeys
from veilscore.console.serve import check_passkeys, hosts_of, serve_site
from veilscore.console.site import application
from veilscore.errors import ConfigError
from veilscore.fabric.https import HttpsPlace, HttpsServer
from veilscore.online.door_callers import server_files

LOG = "portal.log"
_TICK_S = 0.5
_GRACE_S = 2.0
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
    return (*credit_pages.pages(portal), *consent_pages.pages(portal), *entry.pages(portal), *PAGES)


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


def site_of(home: PortalHome) -> PortalSite:
    """Return the portal's section of bank.yaml; ConfigError for a home that is no bank's."""
    if home.role != "bank":
        raise ConfigError(f"{home.path} is the home of a {home.role}; the portal is a bank's")
    return load_settings(home.path).portal_site.below(home.path)


class RunningPortal:
    """One portal that listens.

    port : that it got; desk, portal : what its pages share; certificate : the file to trust.
    """

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        self.home = PortalHome(home)
        self._site = site_of(self.home)
        if port is not None:
            self._site = self._site.model_copy(update={"port": port})
        check_passkeys(self._site, "portal_site")
        certificate, key, passphrase = server_files(home, self.home.config, self._site, FOLDER)
        self.certificate = certificate
        self.place = HttpsPlace(
            "portal",
            self._site.host,
            self._site.port,
            certificate,
            key,
            passphrase,
            clients=ssl.CERT_NONE,
            connections=self._site.connections,
        )
        self.store = OwnerStore(home, self._site.idle_minutes * 60, self._site.session_hours * 3600)
        self._work: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen; ConfigError where the address cannot be bound."""
        loop = asyncio.get_running_loop()
        self.link = NodeLink(self.home)
        node = LinkedNode(self.home, self.link, loop)
        self.portal = await asyncio.to_thread(
            portal_of, self.home, self.store, self.link, lambda book: OnlineJoint(book, node)
        )
        await asyncio.to_thread(self.portal.consents.catch_up, self.portal.open.book)
        self._server = HttpsServer(self._application, self.place)
        await self._server.start()
        self.port = self._server.port or self._site.port
        origin = self._site.origin_at(self.port)
        passkeys = Passkeys(self.store, self._site.rp_id, origin, self._site.bank_name or self.home.name)
        self.desk = desk_of(self.portal, self.link, passkeys, origin)
        self._app = application(self.desk, self._site, hosts_of(self._site, self.port))
        self._work = [
            asyncio.create_task(hand_over_acts(self.link, self.store, self.home.name)),
            asyncio.create_task(self.portal.pushes.keep_pushing()),
            asyncio.create_task(self._tick()),
        ]
        self.desk.log.info("portal open", origin=origin)

    async def _application(self, scope: object, receive: object, send: object) -> None:
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._server.tick()

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no more requests, and let go of everything."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._server.stop(grace_s)
        await self.link.close()
        self.portal.close()
        self.store.close()


def link_for(home: Path, firm: str, hours: float) -> tuple[str, int]:
    """Return a link by which a firm's owner enters, once, and how many passkeys open the firm besides.

    It ends older links, the codes of offers, and sessions; passkeys stay (`forget`).
    """
    own = PortalHome(home)
    site, open_ = site_of(own), OpenBook(own)
    if not site.port and site.origin is None:
        raise ConfigError("the portal takes a free port at each start (port: 0): set portal_site.port or its origin")
    store = OwnerStore(home)
    try:
        row = open_.firm(firm)
        secret = store.link(row["firm"], hours, entry.codes_of(open_.book, row["firm"]))
        person = store.person_of(row["firm"])
        store.note("(command line)", "portal: make a link", person, "done")
        n_passkeys = len(store.passkeys(person))
    finally:
        store.close()
        open_.close()
    return f"{site.origin_at(site.port)}/enter#{secret}", n_passkeys


def forget(home: Path, firm: str) -> int:
    """Remove all passkeys, links and sessions of a firm's owner; return how many passkeys there were."""
    own = PortalHome(home)
    open_, store = OpenBook(own), OwnerStore(home)
    try:
        person = store.person_of(open_.firm(firm)["firm"])
        count = store.forget(person)
        store.note("(command line)", "portal: forget", person, "done")
    finally:
        store.close()
        open_.close()
    return count


@contextlib.asynccontextmanager
async def running_portal(home: Path, *, port: int | None = None) -> AsyncIterator[RunningPortal]:
    """Yield a portal that listens, until the block ends."""
    portal = RunningPortal(home, port=port)
    await portal.start()
    try:
        yield portal
    finally:
        await portal.stop()


def serve_portal(home: Path, told: Callable[[RunningPortal], None]) -> None:
    """Serve until SIGTERM or SIGINT; `told` is called once it listens."""
    serve_site(home, LOG, running_portal, told)
