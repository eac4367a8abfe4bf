"""Stands before every page: who asks, from where, how often, and whether the table lets them.

In this order: the host that was asked for, the rate of the address, the page by path and method, the session (of a
client certificate only with that certificate), the roles by node.yaml as it is now, and of what changes something the
origin, the size and the token of the form. After it: the headers of every answer, the act in the log, and one line in
the console's own log, with the page's pattern and no id of a firm.

Protects: pages and acts from other sites (CSRF, clickjacking, rebinding of names), from people without the role, from
          sessions that were fixed, stolen with a certificate, or left open.
Does not: protect from whoever can read the home's files: they hold the node's own key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import inspect
import ipaddress
import json
import secrets
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from veilscore.console.desk import ConsoleDesk, Visit
from veilscore.console.language import LANGUAGES, wanted
from veilscore.console.limits import RateLimit
from veilscore.console.page import ANYBODY, Page
from veilscore.console.store import ConsoleSession
from veilscore.errors import ConfigError, IdentityError, RefusedError, StateError, VeilscoreError
from veilscore.fabric.traces import span
from veilscore.fabric.watches import described
from veilscore.terms.console import ConsoleConfig

LANGUAGE_COOKIE, ENTRY_COOKIE = "__Host-language", "__Host-entry"
_READ_S = 10.0
_MAPPED_BITS = 96  # of ::ffff:0:0/96, in which IPv6 has the addresses of IPv4
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    "strict-transport-security": "max-age=31536000",
    "cache-control": "no-store",
}


class NoEntryError(IdentityError):
    """Nobody entered, or the session is over."""


class PageGuard:
    """Serves each page of the table.

    config : the console's section of node.yaml, as it was at the start; hosts : that it answers to.
    """

    def __init__(self, desk: ConsoleDesk, config: ConsoleConfig, hosts: frozenset[str]) -> None:
        self._desk, self._hosts = desk, hosts
        self._proxies = config.proxies
        self._all = RateLimit(config.per_minute)
        self._attempts = RateLimit(config.entries_per_minute)

    def endpoint(self, pages: Mapping[str, Page]) -> Callable[[Request], Awaitable[Response]]:
        """Return what serves one path; `pages` by method."""

        async def serve(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            return await self._serve(request, pages.get(method))

        return serve

    async def missing(self, request: Request, error: Exception) -> Response:
        """Answer a path that no page has."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        return await self._serve(request, None, 404 if status == 404 else 405)

    async def _serve(self, request: Request, page: Page | None, status: int = 405) -> Response:
        began_s, request_id = time.monotonic(), secrets.token_hex(8)
        visit = Visit(self._desk, request, request_id, self._language(request))
        path = "" if page is None else page.path
        with span(f"{request.method[:10]} {path or 'no page'}", request=request_id) as traced:
            response = await self._answered(visit, page, status)
            if traced is not None:
                traced.set_attribute("http.response.status_code", response.status_code)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers["x-request-id"] = request_id
        took_s = time.monotonic() - began_s
        self._desk.requests.add(path, page.method if page is not None else "", response.status_code, took_s)
        self._desk.log.info(
            "request",
            request=request_id,
            page=path,
            method=request.method[:10],
            status=response.status_code,
            person=visit.person,
            ms=round(1000 * took_s, 1),
        )
        return response

    async def _answered(self, visit: Visit, page: Page | None, status: int) -> Response:
        try:
            self._check_host(visit.request)
            self._check_rate(visit.request, page)
            await self._enter(visit, ANYBODY if page is None else page.may)
            return self._error(visit, None, status, "") if page is None else await self._done(visit, page)
        except Exception as error:  # noqa: BLE001 - nothing that is not foreseen may reach a browser
            return self._failed(visit, page, error)

    def _failed(self, visit: Visit, page: Page | None, error: Exception) -> Response:
        """Answer an error; an act that was refused or failed goes into the log, also by an error of ours."""
        if isinstance(error, NoEntryError) and page is not None and (page.method, page.kind) == ("GET", "page"):
            return self._to_entry(visit)
        status, says = _told(error)
        if visit.session is None and isinstance(error, ConfigError | StateError):
            says = ""  # it names files and servers, which are nothing for strangers
        if _is_noted(visit, error):
            # what other errors say may name a firm, which no log does
            outcome = f"refused: {says}" if status == 403 else f"failed: {type(error).__name__}"
            try:
                self._note(visit, page, outcome)
            except VeilscoreError as unwritten:
                told = described(unwritten)  # all that a log may tell
                self._desk.log.error("act not noted", request=visit.request_id, outcome=outcome, **told)  # noqa: TRY400
        if not says and status != 404 and not isinstance(error, HTTPException):
            self._desk.log.error("page failed", request=visit.request_id, **described(error))
        response = self._error(visit, page, status, says)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})
        return response

    # --- what comes before a page ------------------------------------------------------------------------------------

    def _check_host(self, request: Request) -> None:
        if "\0" in request.url.path or "%00" in request.url.query:
            raise HTTPException(400, "the address has a sign that no page has")  # and that no file or text may have
        if request.headers.get("host", "").lower() not in self._hosts:
            raise HTTPException(421, "this console does not answer to that host name")

    def _check_rate(self, request: Request, page: Page | None) -> None:
        address = _folded(self._address(request))
        wait_s = self._all.take(address)
        if not wait_s and page is not None and page.attempts:
            wait_s = self._attempts.take(address)
        if wait_s:
            raise HTTPException(429, f"too many requests: come again in {wait_s} s", {"retry-after": str(wait_s)})

    def _address(self, request: Request) -> str:
        """Return who asks: of a request by a proxy of the party's own the nearest address that is no such proxy."""
        address = request.client.host if request.client is not None else ""
        said = ",".join(request.headers.getlist("x-forwarded-for")).split(",") if self._proxies else []
        while said and any(_within(address, network) for network in self._proxies):
            before = said.pop().strip()  # the browser's own words stand to the left of what proxies added
            if _read_address(before) is None:
                break  # no address: all that this proxy brings counts as one
            address = before
        return address

    async def _enter(self, visit: Visit, may: frozenset[str]) -> None:
        """Find the session and what its person may do; NoEntryError, RefusedError."""
        secret = visit.request.cookies.get(self._desk.session_cookie, "")
        session = self._desk.store.session(secret) if secret else None
        if session is not None and not self._same_certificate(visit.request, session):
            self._desk.store.end(session)
            session = None
        roles = self._desk.home.roles(session.person) if session is not None else frozenset()
        if session is not None and not roles:
            self._desk.store.end(session)
            session = None
        visit.session, visit.roles = session, roles
        if may is ANYBODY:
            return
        if session is None:
            raise NoEntryError("enter first: nobody is in this session, or it is over")
        if not roles & may:
            has = ", ".join(sorted(roles))
            raise RefusedError(
                f"this needs the role {' or '.join(sorted(may))} at {self._desk.home.name}; {session.person} has {has}"
            )

    def _same_certificate(self, request: Request, session: ConsoleSession) -> bool:
        """Return whether a session that was entered by a certificate still shows it, and it is still that person's."""
        if not session.certificate:
            return True
        try:
            person, fingerprint = self._desk.home.person_of(shown_certificate(request))
        except IdentityError:
            return False
        return (person, fingerprint) == (session.person, session.certificate)

    async def _read(self, visit: Visit, page: Page) -> None:
        """Check where a request that changes something comes from, and read what it carries."""
        request = visit.request
        origin = request.headers.get("origin")
        same = origin == self._desk.origin if origin else request.headers.get("sec-fetch-site") == "same-origin"
        if not same:
            raise RefusedError("this came from another site's page, or from none: nothing was done")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != ("application/json" if page.kind == "data" else "application/x-www-form-urlencoded"):
            raise HTTPException(415, "this kind of content is not taken here")
        body = await _body(request, page.most_bytes)
        try:
            if page.kind == "data":
                visit.data = json.loads(body)
            else:
                visit.form = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100))
            _check_words([visit.data, visit.form])
        except (ValueError, RecursionError):
            raise HTTPException(400, "the form cannot be read") from None
        if visit.session is None or (page.may is ANYBODY and page.attempts):  # who enters gets a new session
            return
        token = visit.form.get("csrf", "") if page.kind == "page" else request.headers.get("x-csrf-token", "")
        if not hmac.compare_digest(token.encode(), visit.session.csrf.encode()):
            raise RefusedError("the form is of another session: go back, load the page again, and repeat")

    # --- the page ----------------------------------------------------------------------------------------------------

    async def _done(self, visit: Visit, page: Page) -> Response:
        """Run the handler; what it did, or was refused, goes into the log."""
        if page.method == "POST":
            await self._read(visit, page)
        try:
            response = await _run(visit, page)
        except asyncio.CancelledError:  # the site ends, while a thread goes on with what it began
            with contextlib.suppress(VeilscoreError):
                self._note(visit, page, "cut off: it may have been done")
            raise
        self._note(visit, page, "done")
        return response

    def _note(self, visit: Visit, page: Page | None, outcome: str) -> None:
        if page is not None and page.act:
            self._desk.store.note(visit.person or "(nobody)", page.act, visit.subject, outcome)

    # --- answers that are no page ------------------------------------------------------------------------------------

    def _language(self, request: Request) -> str:
        chosen = request.cookies.get(LANGUAGE_COOKIE, "")
        return chosen if chosen in LANGUAGES else wanted(request.headers.get("accept-language", "")[:200])

    def _to_entry(self, visit: Visit) -> Response:
        url = visit.request.url
        there = url.path + (f"?{url.query}" if url.query else "")
        query = "" if there == "/" else "?" + urllib.parse.urlencode({"next": there})
        return RedirectResponse(f"/login{query}", 303)

    def _error(self, visit: Visit, page: Page | None, status: int, says: str) -> Response:
        if page is not None and page.kind != "page":
            return JSONResponse({"error": says, "request": visit.request_id}, status)
        if status == 421:
            return PlainTextResponse(f"{says}\n", status)
        return visit.show("error.html", status, status=status, says=says)


def shown_certificate(request: Request) -> bytes:
    """Return the certificate (DER) that TLS has checked; IdentityError where none was shown."""
    found = bytes(request.scope.get("state", {}).get("certificate", b""))
    if not found:
        raise IdentityError("your browser showed no certificate")
    return found


def _check_words(value: Any) -> None:
    """Refuse signs that neither files nor PostgreSQL take, and half a pair of UTF-16; ValueError."""
    if any("\0" in word.encode().decode() for word in _words(value)):
        raise ValueError("a text has the sign of number 0 in it")


def _words(value: Any) -> Iterator[str]:
    """Yield all texts of what a request carried."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _words([name, one])
    elif isinstance(value, list):
        for one in value:
            yield from _words(one)


def _is_noted(visit: Visit, error: Exception) -> bool:
    """Return whether an act that failed so is noted; not what strangers send by the thousand, as what is no form."""
    if isinstance(error, HTTPException):
        return visit.session is not None and error.status_code not in {421, 429}
    return not isinstance(error, NoEntryError)


def _told(error: Exception) -> tuple[int, str]:
    """Return status and sentence of an error; no sentence of one that is not ours."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail
    if isinstance(error, ClientDisconnect):
        return 400, "the request ended within itself"  # nobody reads it
    if not isinstance(error, VeilscoreError):
        return 500, ""
    for kinds, status in ((NoEntryError, 401), ((RefusedError, IdentityError), 403), (StateError, 500)):
        if isinstance(error, kinds):
            return status, error.message
    return 422, error.message


async def _run(visit: Visit, page: Page) -> Response:
    """Run a handler, in a thread unless it is a coroutine."""
    handle: Any = page.handle
    if inspect.iscoroutinefunction(handle):
        found: Response = await handle(visit)
        return found
    return await asyncio.to_thread(handle, visit)


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_S):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise HTTPException(413, "the form is too long")
    except TimeoutError:
        raise HTTPException(408, "the form did not arrive in time") from None
    return bytes(body)


def _read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a text's address, None if it is none; IPv4 within IPv6 (::ffff:192.0.2.1, of dual sockets) is IPv4."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _within(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Return whether a text is an address, and in a network; one of IPv4 within IPv6 is meant as of IPv4."""
    found = _read_address(address)
    if found is None:
        return False
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        network = ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return found in network


def _folded(address: str) -> str:
    """Return what counts as one address: of IPv6 a network of 64 bits, which one host usually has whole."""
    found = _read_address(address)
    if found is None or found.version == 4:
        return address if found is None else str(found)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
