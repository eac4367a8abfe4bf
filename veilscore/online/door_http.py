"""The door's HTTP: JSON over TLS 1.3 with client certificates, by Starlette and uvicorn (the extra `door`)."""

from __future__ import annotations

import json
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from veilscore.fabric.https import HttpsPlace, HttpsServer
from veilscore.online.door import DoorDesk, ProblemError
from veilscore.online.door_openapi import openapi
from veilscore.terms.door import Problem

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


class HttpDoor(HttpsServer):
    """Listens for callers.

    desk : answers them.
    certificate, key, passphrase : files of the server's certificate, with its chain, and of its key.
    """

    def __init__(self, desk: DoorDesk, certificate: Path, key: Path, passphrase: str | None) -> None:
        door = desk.door
        place = HttpsPlace(
            "door",
            door.host,
            door.port,
            certificate,
            key,
            passphrase,
            read_s=door.read_s,
            connections=door.connections,
            of_one=door.connections_of_one,
        )
        super().__init__(application(desk), place, _malformed)


def _malformed(text: str) -> tuple[str, bytes]:
    """Return problem details for what is no request of HTTP, as for everything else."""
    return "application/problem+json", json.dumps(Problem.of("malformed", text).body()).encode()
