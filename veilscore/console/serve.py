"""Runs the console of a home: makes its certificate at first, listens with TLS 1.3, and ends with a signal."""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Callable
from pathlib import Path

from veilscore.console.desk import ConsoleDesk
from veilscore.console.home import ConsoleHome
from veilscore.console.page import OidcEntry
from veilscore.console.passkeys import Passkeys
from veilscore.console.running import RunningSite, check_passkeys, serve_site
from veilscore.console.sandboxes import RUNNING
from veilscore.console.site import pages_of, sites_of
from veilscore.console.store import FOLDER, ConsoleStore
from veilscore.errors import ConfigError
from veilscore.fabric.https import HttpsServer
from veilscore.terms.console import ConsoleConfig

LOG = "visits.log"


class RunningConsole(RunningSite):
    """One console that listens."""

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        self.home = ConsoleHome(home)
        config = self.home.config.console
        if port is not None:
            config = config.model_copy(update={"port": port})
        check_passkeys(config)
        store = ConsoleStore(home, config.idle_minutes * 60, config.session_hours * 3600)
        super().__init__(
            self.home, config, store, name="console", folder=FOLDER, clients=ssl.CERT_OPTIONAL, shown=self.home.name
        )
        self._roots = b""

    async def opened(self, passkeys: Passkeys, origin: str) -> ConsoleDesk:
        """Return the desk, with what institutions add; a run of submitted code that was cut off goes on."""
        sites, oidc = sites_of(self.home), oidc_of(self.config, origin)
        pages = pages_of(self.home, sites)
        desk = ConsoleDesk(self.home, self.store, self.link, passkeys, origin, pages, sites, oidc)
        await asyncio.to_thread(RUNNING.resume, desk)
        return desk

    def let_go(self) -> None:
        """Close what institutions opened."""
        for site in self.desk.sites:
            site.close()

    def look(self, server: HttpsServer) -> None:
        """Let TLS take the certificates of people who came; who left is refused at the next request already."""
        roots = self.home.roots()
        if roots != self._roots:
            server.trust(roots)
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
        token = store.invite(person, hours, "(command line)")
    finally:
        store.close()
    return f"{config.origin_at(config.port)}/enter#{token}"


def serve_console(home: Path, told: Callable[[RunningConsole], None]) -> None:
    """Serve until SIGTERM or SIGINT; `told` is called once it listens."""
    serve_site(home, LOG, RunningConsole, told)
