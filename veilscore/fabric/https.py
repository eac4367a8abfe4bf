"""Serves HTTP over TLS 1.3 by uvicorn, for the bank's door and for the console (their extras).

uvicorn gives no client certificate to an application and waits for ever for a request's first lines; both are mended
in `_Connection`. It is driven here without its own server, which would take the process's signals and does not bound
handshakes, as `TlsListener` does.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from veilscore.errors import ConfigError
from veilscore.fabric.tls_listener import TlsListener

_HEADER_BYTES = 16_384
_IDLE_S = 75.0  # between the requests of a connection

Malformed = Callable[[str], tuple[str, bytes]]


@dataclass(frozen=True)
class HttpsPlace:
    """Says where and how an application is served.

    what : "door" or "console", which is also the section of node.yaml that errors name.
    certificate, key, passphrase : files of the server's certificate, with its chain, and of its key.
    clients : whether a client must show a certificate (CERT_REQUIRED) or may (CERT_OPTIONAL).
    read_s : seconds for the first lines of a request; connections : at one time, of_one : with one client certificate.
    """

    what: str
    host: str
    port: int
    certificate: Path
    key: Path
    passphrase: str | None
    clients: ssl.VerifyMode = ssl.CERT_REQUIRED
    read_s: float = 10.0
    connections: int = 256
    of_one: int = 256


class _Connection(H11Protocol):
    """One connection: gives its client's certificate to the application (b"" without), and ends it if it is silent."""

    place: HttpsPlace
    of_certificate: Counter[bytes]  # connections that are open, of all clients that show one
    certificate = b""
    malformed: Malformed = staticmethod(lambda text: ("text/plain; charset=utf-8", text.encode()))
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        self.app_state = {**self.app_state, "certificate": self.certificate}
        if self.certificate:
            self.of_certificate[self.certificate] += 1
        if len(self.connections) > self.place.connections or self.of_certificate[self.certificate] > self.place.of_one:
            transport.close()
        self._waits(waits=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waits(waits=False)
        if self.certificate:
            self.of_certificate[self.certificate] -= 1
            if not self.of_certificate[self.certificate]:
                del self.of_certificate[self.certificate]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._waits(waits=self.conn.their_state is h11.IDLE and not self.transport.is_closing())

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request of HTTP in the application's own form."""
        kind, body = self.malformed(msg)
        headers = [("content-type", kind), ("connection", "close"), ("content-length", str(len(body)))]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _waits(self, *, waits: bool) -> None:
        """Give the first lines of a request their time, from the connection or from their first byte on."""
        if waits and self._waiting is None:
            self._waiting = self.loop.call_later(self.place.read_s, self.transport.close)
        elif not waits and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class HttpsServer:
    """Listens for one application.

    application : of ASGI.
    malformed : makes content type and body of the answer to what is no request of HTTP.
    """

    def __init__(self, application: Any, place: HttpsPlace, malformed: Malformed | None = None) -> None:
        self._place = place
        self._tls = _tls(place)
        self._config = Config(
            application,
            interface="asgi3",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=int(_IDLE_S),
        )
        own: dict[str, Any] = {"place": place, "of_certificate": Counter()}
        if malformed is not None:
            own["malformed"] = staticmethod(malformed)
        self._kind = type("_Connection", (_Connection,), own)
        self._state = ServerState()
        self._listener: TlsListener | None = None
        self.port: int | None = None

    def trust(self, roots: bytes) -> None:
        """Let clients with these certificates (PEM) through TLS from now on, besides those of before."""
        if roots:
            self._tls.load_verify_locations(cadata=roots.decode())

    def tick(self) -> None:
        """Renew the header that says what time it is."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]

    async def start(self) -> None:
        """Listen; ConfigError if the address cannot be bound."""
        self._config.load()
        place, loop = self._place, asyncio.get_running_loop()
        self.tick()
        self._listener = TlsListener(
            self._tls, lambda: self._kind(config=self._config, server_state=self._state, app_state={}, _loop=loop)
        )
        try:
            self.port = self._listener.start(place.host, place.port)
        except OSError as error:
            raise _not_bound(place) from error

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, give running requests some time, close all."""
        if self._listener is None:
            return
        await self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace_s)
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        self._listener = None


def _not_bound(place: HttpsPlace) -> ConfigError:
    return ConfigError(
        f"the {place.what} cannot listen on {place.host}:{place.port}: the port is in use, or the host is not this "
        f"machine; see the {place.what} section of node.yaml"
    )


def _tls(place: HttpsPlace) -> ssl.SSLContext:
    """Return what TLS of the server is: 1.3 alone, client certificates as the place says, and no resumption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = place.clients
    context.num_tickets = 0
    try:
        context.load_cert_chain(place.certificate, place.key, password=place.passphrase or "")
    except (OSError, ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "damaged, or a wrong passphrase"
        raise ConfigError(
            f"certificate {place.certificate} and key {place.key} of the {place.what} cannot be used: {why}"
        ) from error
    return context
