"""Runs the console of a home: makes its certificate at first, listens with TLS 1.3, and ends with a signal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from veilscore.console.desk import ConsoleDesk
from veilscore.console.home import ConsoleHome
from veilscore.console.link import NodeLink, hand_over_acts
from veilscore.console.page import OidcEntry
from veilscore.console.passkeys import Passkeys
from veilscore.console.site import application, pages_of, sites_of
from veilscore.console.store import FOLDER, ConsoleStore
from veilscore.errors import ConfigError
from veilscore.fabric.https import HttpsPlace, HttpsServer
from veilscore.fabric.process import log_to
from veilscore.files.private import check_private, keep_private
from veilscore.online.door_callers import server_files
from veilscore.terms.console import ConsoleConfig

LOG = "visits.log"
_LOOK_S = 0.5  # for people whose certificates came, and the clock in the headers
_GRACE_S = 2.0
R = TypeVar("R")


class RunningConsole:
    """One console that listens.

    port : that it got; server : its listener; desk : what its pages share; certificate : the file to trust.
    """

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        self.home = ConsoleHome(home)
        self._config = self.home.config.console
        if port is not None:
            self._config = self._config.model_copy(update={"port": port})
        check_passkeys(self._config)
        certificate, key, passphrase = server_files(home, self.home.config, self._config, FOLDER)
        self.certificate = certificate
        self._roots = b""
        self.place = HttpsPlace(
            "console",
            self._config.host,
            self._config.port,
            certificate,
            key,
            passphrase,
            clients=ssl.CERT_OPTIONAL,
            connections=self._config.connections,
        )
        self.store = ConsoleStore(home, self._config.idle_minutes * 60, self._config.session_hours * 3600)
        self._work: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen; ConfigError where the address cannot be bound."""
        self.link = NodeLink(self.home)
        self._server = HttpsServer(self._application, self.place)
        self._look()
        await self._server.start()
        self.port = self._server.port or self._config.port
        origin = self._config.origin_at(self.port)
        passkeys = Passkeys(self.store, self._config.rp_id, origin, self.home.name)
        sites, oidc = sites_of(self.home), oidc_of(self._config, origin)
        self.desk = ConsoleDesk(
            self.home, self.store, self.link, passkeys, origin, pages_of(self.home, sites), sites, oidc
        )
        self._app = application(self.desk, self._config, hosts_of(self._config, self.port))
        self._work = [
            asyncio.create_task(hand_over_acts(self.link, self.store, self.home.name)),
            asyncio.create_task(self._watch()),
        ]
        self.desk.log.info("console open", origin=origin)

    async def _application(self, scope: object, receive: object, send: object) -> None:
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no more requests, and let go of everything."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._server.stop(grace_s)
        await self.link.close()
        for site in self.desk.sites:
            site.close()
        self.store.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._server.tick()
            with contextlib.suppress(Exception):  # a file that is being written; the next look finds it whole
                await asyncio.to_thread(self._look)

    def _look(self) -> None:
        """Let TLS take the certificates of people who came; who left is refused at the next request already."""
        roots = self.home.roots()
        if roots != self._roots:
            self._server.trust(roots)
            self._roots = roots


def oidc_of(config: ConsoleConfig, origin: str) -> OidcEntry | None:
    """Return the way in by the party's own provider, where the configuration names one; loads an extra."""
    if config.oidc is None:
        return None
    try:
        entry: OidcEntry = importlib.import_module("veilscore.console.oidc").OidcLogin(config.oidc, origin)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"authlib", "requests", "joserfc"}:
            raise
        raise ConfigError(f"console.oidc needs {error.name}: run `pip install 'veilscore[oidc]'`") from error
    return entry


def hosts_of(config: ConsoleConfig, port: int) -> frozenset[str]:
    """Return what the Host header of a request may say."""
    names = [name.lower() for name in config.names]
    shown = [f"[{name}]" if ":" in name else name for name in names]
    behind = [] if config.origin is None else [config.origin.removeprefix("https://")]
    return frozenset([*(f"{name}:{port}" for name in shown), *(shown if port == 443 else ()), *behind])


def check_passkeys(config: ConsoleConfig, section: str = "console") -> None:
    """Refuse names that passkeys cannot be bound to (ConfigError)."""
    try:
        ipaddress.ip_address(config.rp_id)
    except ValueError:
        return
    raise ConfigError(f"passkeys are bound to a host name: let `names` in the {section} section begin with one")


def invitation(home: Path, person: str, hours: float) -> str:
    """Return a link by which a person makes a passkey, once; ConfigError for somebody without a role here."""
    found = ConsoleHome(home)
    if not found.roles(person):
        raise ConfigError(
            f"{person[:60]} has no role at {found.name}: name the person under `people` in {home / 'node.yaml'} first"
        )
    config = found.config.console
    if not config.port and config.origin is None:
        raise ConfigError("the console takes a free port at each start (port: 0): set console.port or console.origin")
    store = ConsoleStore(home)
    try:
        token = store.invite(person, hours)
        store.note("(command line)", "invite", person, "done")
    finally:
        store.close()
    return f"{config.origin_at(config.port)}/enter#{token}"


@contextlib.asynccontextmanager
async def running_console(home: Path, *, port: int | None = None) -> AsyncIterator[RunningConsole]:
    """Yield a console that listens, until the block ends."""
    console = RunningConsole(home, port=port)
    await console.start()
    try:
        yield console
    finally:
        await console.stop()


def serve_console(home: Path, told: Callable[[RunningConsole], None]) -> None:
    """Serve until SIGTERM or SIGINT; `told` is called once it listens."""
    serve_site(home, LOG, running_console, told)


def serve_site(
    home: Path,
    log: str,
    running: Callable[[Path], contextlib.AbstractAsyncContextManager[R]],
    told: Callable[[R], None],
) -> None:
    """Serve one site of a home until SIGTERM or SIGINT.

    log : its file in the home; running : opens it and lets go of it; told : called with it once it listens.
    """
    home = home.resolve()
    keep_private()
    check_private(home, "home")
    log_to(home, log)

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with running(home) as site:
            told(site)
            await stopped.wait()

    asyncio.run(work())
