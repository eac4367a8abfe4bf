"""The door's HTTP: JSON over TLS 1.3 with client certificates, by Starlette and uvicorn (the extra `door`).

uvicorn gives no client certificate to an application and waits for ever for a request's first lines; both are mended
in `_Connection`. It is driven here without its own server, which would take the node's signals.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

import h11
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from veilscore.errors import ConfigError
from veilscore.online.door import DoorDesk, ProblemError
from veilscore.online.door_listener import DoorListener
from veilscore.online.door_openapi import openapi
from veilscore.terms.door import DoorConfig, Problem

_HEADER_BYTES = 16_384
_IDLE_S = 75.0  # between the requests of a connection
_NEVER_KEPT = {"cache-control": "no-store"}


def application(desk: DoorDesk) -> Starlette:
    """Return the application: scores, decisions, health, and the description of all."""

    async def score(request: Request) -> Response:
        answer = await desk.score(_certificate(request), lambda: _body(request, desk.door.most_bytes))
        return JSONResponse(answer.model_dump(mode="json", exclude_none=True), headers=_NEVER_KEPT)

    async def decide(request: Request) -> Response:
        answer = await desk.decide(_certificate(request), lambda: _body(request, desk.door.most_bytes))
        return JSONResponse(answer.model_dump(mode="json", exclude_none=True), headers=_NEVER_KEPT)

    async def health(request: Request) -> Response:
        return JSONResponse((await desk.health(_certificate(request))).model_dump(mode="json"), headers=_NEVER_KEPT)

    async def description(request: Request) -> Response:
        desk.admit(_certificate(request))
        return JSONResponse(openapi())

    return Starlette(
        routes=[
            Route("/v1/scores", score, methods=["POST"]),
            Route("/v1/decisions", decide, methods=["POST"]),
            Route("/v1/health", health, methods=["GET"]),
            Route("/v1/openapi.json", description, methods=["GET"]),
        ],
        exception_handlers={ProblemError: _problem, HTTPException: _no_route, ClientDisconnect: _gone},
    )


def _certificate(request: Request) -> bytes:
    return bytes(request.scope["state"]["certificate"])


async def _body(request: Request, most: int) -> bytes:
    """Return the body of a request; ProblemError where it is too long or not JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(Problem.of("wrong-type", "send the header Content-Type: application/json"))
    too_large = ProblemError(Problem.of("too-large", f"a request has at most {most} bytes here"))
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > most:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise too_large
    return bytes(body)


def _answer(problem: Problem, after_s: int = 0) -> Response:
    headers = dict(_NEVER_KEPT)
    if after_s:
        headers["retry-after"] = str(after_s)
    if problem.kind in {"slow", "too-large", "wrong-type", "not-admitted"}:
        headers["connection"] = "close"  # what is left of the body is not read; who is not admitted keeps no place
    return JSONResponse(problem.body(), problem.status, headers, media_type="application/problem+json")


async def _problem(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return _answer(error.problem, error.after_s)


async def _no_route(_request: Request, error: Exception) -> Response:
    kind = "wrong-method" if isinstance(error, HTTPException) and error.status_code == 405 else "not-found"
    says = {"wrong-method": "this path takes another method", "not-found": "see /v1/openapi.json for what there is"}
    response = _answer(Problem.of(kind, says[kind]))
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it: the caller closed the connection within its request


class _Connection(H11Protocol):
    """One connection of a caller: gives its certificate to the application, and ends it where it says nothing."""

    door: DoorConfig
    of_certificate: Counter[bytes]  # connections that are open, of all callers
    certificate = b""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.app_state = {**self.app_state, "certificate": self.certificate}
        self.of_certificate[self.certificate] += 1
        of_one = self.of_certificate[self.certificate]
        if len(self.connections) > self.door.connections or of_one > self.door.connections_of_one:
            transport.close()
        self._waits(waits=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waits(waits=False)
        self.of_certificate[self.certificate] -= 1
        if not self.of_certificate[self.certificate]:
            del self.of_certificate[self.certificate]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._waits(waits=self.conn.their_state is h11.IDLE and not self.transport.is_closing())

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request of HTTP with problem details, as everything else is."""
        body = json.dumps(Problem.of("malformed", msg).body()).encode()
        headers = [("content-type", "application/problem+json"), ("connection", "close")]
        headers.append(("content-length", str(len(body))))
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
            self._waiting = self.loop.call_later(self.door.read_s, self.transport.close)
        elif not waits and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class HttpDoor:
    """Listens for callers.

    desk : answers them.
    certificate, key, passphrase : files of the server's certificate, with its chain, and of its key.
    """

    def __init__(self, desk: DoorDesk, certificate: Path, key: Path, passphrase: str | None) -> None:
        self._door = desk.door
        self._tls = _tls(certificate, key, passphrase)
        self._config = Config(
            application(desk),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=int(_IDLE_S),
        )
        self._state = ServerState()
        self._listener: DoorListener | None = None
        self.port: int | None = None

    def trust(self, roots: bytes) -> None:
        """Let callers with these certificates (PEM) through TLS from now on, besides those of before."""
        if roots:
            self._tls.load_verify_locations(cadata=roots.decode())

    def tick(self) -> None:
        """Renew the header that says what time it is."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]

    async def start(self) -> None:
        """Listen; ConfigError if the address cannot be bound."""
        self._config.load()
        door, loop = self._door, asyncio.get_running_loop()
        kind = type("_Connection", (_Connection,), {"door": door, "of_certificate": Counter()})
        self.tick()
        self._listener = DoorListener(
            self._tls, lambda: kind(config=self._config, server_state=self._state, app_state={}, _loop=loop)
        )
        try:
            self.port = self._listener.start(door.host, door.port)
        except OSError as error:
            raise _not_bound(door, door.port) from error

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


def _not_bound(door: DoorConfig, port: int) -> ConfigError:
    return ConfigError(
        f"the door cannot listen on {door.host}:{port}: the port is in use, or the host is not this machine; see the "
        "door section of node.yaml"
    )


def _tls(certificate: Path, key: Path, passphrase: str | None) -> ssl.SSLContext:
    """Return what TLS of the server is: 1.3 alone, a client certificate always, and no resumption without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key, password=passphrase or "")
    except (OSError, ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or "damaged, or a wrong passphrase"
        raise ConfigError(f"certificate {certificate} and key {key} of the door cannot be used: {why}") from error
    return context
