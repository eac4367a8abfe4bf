"""Runs one site of a home, the console or a bank's portal, at an address of its own until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from veilscore.console.desk import ConsoleDesk
from veilscore.console.home import ConsoleHome
from veilscore.console.link import NodeLink, hand_over_acts
from veilscore.console.passkeys import Passkeys
from veilscore.console.site import application
from veilscore.console.store import ConsoleStore
from veilscore.errors import ConfigError
from veilscore.fabric.https import HttpsPlace, HttpsServer
from veilscore.fabric.process import log_to
from veilscore.fabric.traces import tracing
from veilscore.files.private import check_private, keep_private
from veilscore.online.door_callers import server_files
from veilscore.terms.console import ConsoleConfig
from veilscore.terms.node_config import load_node_config

_LOOK_S = 0.5  # for people whose certificates came, and the clock in the headers
_GRACE_S = 2.0


class RunningSite:
    """One site that listens.

    name : of its section in the configuration, and what errors call it; folder : below the home; clients : whether TLS
    asks browsers for certificates; shown : what passkeys name.
    port : that it got; desk : what its pages share; certificate : the file to trust.
    """

    port: int
    link: NodeLink
    desk: ConsoleDesk

    def __init__(
        self,
        home: ConsoleHome,
        config: ConsoleConfig,
        store: ConsoleStore,
        *,
        name: str,
        folder: str,
        clients: ssl.VerifyMode,
        shown: str,
    ) -> None:
        self.config, self.store, self._of, self._shown = config, store, home, shown
        self.certificate, key, passphrase = server_files(home.path, home.config, config, folder)
        self.place = HttpsPlace(
            name,
            config.host,
            config.port,
            self.certificate,
            key,
            passphrase,
            clients=clients,
            connections=config.connections,
        )
        self._work: list[asyncio.Task[None]] = []

    async def opened(self, passkeys: Passkeys, origin: str) -> ConsoleDesk:
        """Return the desk of the site, once its address is known."""
        raise NotImplementedError

    async def before(self) -> None:
        """Do what comes before it listens."""

    def look(self, server: HttpsServer) -> None:
        """Do what comes back every half second, in a thread; what it raises, the next look may not."""

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """Return what goes on while it listens, besides bringing acts into the node's log."""
        return []

    def let_go(self) -> None:
        """Close what the site itself opened."""

    async def start(self) -> None:
        """Listen; ConfigError where the address cannot be bound."""
        self.link = NodeLink(self._of)
        await self.before()
        self._server = HttpsServer(self._application, self.place)
        self.look(self._server)
        await self._server.start()
        self.port = self._server.port or self.config.port
        origin = self.config.origin_at(self.port)
        self.desk = await self.opened(Passkeys(self.store, self.config.rp_id, origin, self._shown), origin)
        self._app = application(self.desk, self.config, hosts_of(self.config, self.port))
        works = [hand_over_acts(self.link, self.store, self._of.name), self._watch(), *self.works()]
        self._work = [asyncio.create_task(one) for one in works]
        self.desk.log.info("site open", site=self.place.what, origin=origin)

    async def _application(self, scope: object, receive: object, send: object) -> None:
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no more requests, and let go of everything."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._server.stop(grace_s)
        await self.link.close()
        self.let_go()
        self.store.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._server.tick()
            with contextlib.suppress(Exception):  # a file that is being written; the next look finds it whole
                await asyncio.to_thread(self.look, self._server)


S = TypeVar("S", bound=RunningSite)


@contextlib.asynccontextmanager
async def running(site: S) -> AsyncIterator[S]:
    """Yield a site that listens, until the block ends."""
    await site.start()
    try:
        yield site
    finally:
        await site.stop()


def serve_site(home: Path, log: str, made: Callable[[Path], S], told: Callable[[S], None]) -> None:
    """Serve one site of a home until SIGTERM or SIGINT.

    log : its file in the home; made : makes the site; told : called with it once it listens.
    """
    home = home.resolve()
    keep_private()
    check_private(home, "home")
    log_to(home, log)

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with running(made(home)) as site:
            told(site)
            await stopped.wait()

    config = load_node_config(home)
    with tracing(config.traces, config.name, log.removesuffix(".log")):
        asyncio.run(work())


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
