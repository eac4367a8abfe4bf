"""A console in this process, a browser without a screen for it, and a passkey made of software."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.cookies
import json
import secrets
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import cbor2
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from veilscore.console.desk import ConsoleDesk
from veilscore.console.home import ConsoleHome
from veilscore.console.link import NodeLink
from veilscore.console.passkeys import Passkeys
from veilscore.console.running import hosts_of
from veilscore.console.site import application, pages_of, sites_of
from veilscore.console.store import ConsoleStore

if TYPE_CHECKING:
    from pathlib import Path

PORT = 7445
ORIGIN = f"https://localhost:{PORT}"
PEOPLE = {
    "mo": ["modeller"],
    "stella": ["steward"],
    "ada": ["auditor"],
    "otto": ["operator"],
    "all": ["modeller", "steward", "auditor", "operator", "account_manager"],
}


def with_people(home: Path, people: dict[str, list[str]] = PEOPLE, **console: Any) -> Path:
    """A home whose node.yaml has these people, and a section `console` where one is given."""
    path = home / "node.yaml"
    content = yaml.safe_load(path.read_text()) | {"people": people} | ({"console": console} if console else {})
    path.write_text(yaml.safe_dump(content))
    return home


class OpenedConsole:
    """A console's application without a listener; `clock` may be moved."""

    def __init__(self, home: Path) -> None:
        self.home = ConsoleHome(home)
        config = self.home.config.console
        self.now_s = 1_800_000_000.0
        self.store = ConsoleStore(home, config.idle_minutes * 60, config.session_hours * 3600, lambda: self.now_s)
        self.link = NodeLink(self.home)
        self.passkeys = Passkeys(self.store, "localhost", ORIGIN, self.home.name, lambda: self.now_s)
        sites = sites_of(self.home)
        self.pages = pages_of(self.home, sites)
        self.desk = ConsoleDesk(self.home, self.store, self.link, self.passkeys, ORIGIN, self.pages, sites)
        self.app = application(self.desk, config, hosts_of(config, PORT))
        self.loop = asyncio.new_event_loop()

    def browser(self, person: str = "", **settings: Any) -> Browser:
        """A browser, in the session of a person if one is named."""
        browser = Browser(self.app, self.loop, **settings)
        if person:
            browser.cookies["__Host-session"], session = self.store.begin(person, "passkey")
            browser.csrf = session.csrf
        return browser

    def acts(self) -> list[tuple[str, str, str]]:
        """Person, act and outcome of all that was noted."""
        return [(body["person"], body["act"], body["outcome"]) for _, _, body in self.store.not_logged(1000)]

    def close(self) -> None:
        self.loop.run_until_complete(self.link.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.let_go()

    def let_go(self) -> None:
        """Close files alone, where a test's own loop had the rest."""
        self.loop.close()
        for site in self.desk.sites:
            site.close()
        self.store.close()


@dataclass
class Answered:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


@dataclass
class Browser:
    """Sends requests straight into an application, with cookies and what browsers say of where a request is from."""

    app: Any
    loop: asyncio.AbstractEventLoop
    certificate: bytes = b""
    address: str = "127.0.0.1"
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""

    def get(self, path: str, **headers: str) -> Answered:
        return self.loop.run_until_complete(self.asked("GET", path, b"", headers))

    def post(self, path: str, /, **form: str) -> Answered:
        return self.loop.run_until_complete(self.posting(path, **form))

    def raw(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answered:
        return self.loop.run_until_complete(self.asked(method, path, body, headers or {}))

    async def getting(self, path: str, **headers: str) -> Answered:
        return await self.asked("GET", path, b"", headers)

    async def posting(self, path: str, /, **form: str) -> Answered:
        body = urlencode({"csrf": self.csrf} | form).encode()
        return await self.asked("POST", path, body, {"content-type": "application/x-www-form-urlencoded"})

    def send(self, path: str, content: Any, **headers: str) -> Answered:
        return self.raw("POST", path, json.dumps(content).encode(), JSON | {"x_csrf_token": self.csrf} | headers)

    async def asked(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answered:
        said = {"host": f"localhost:{PORT}"} | ({"origin": ORIGIN} if method == "POST" else {}) | headers
        said = {name.replace("_", "-"): value for name, value in said.items() if value}
        if self.cookies:
            said["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in said.items()], "client": (self.address, 5),
            "server": ("localhost", PORT), "state": {"certificate": self.certificate},
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        pieces = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pieces:
                return pieces.pop()
            await asyncio.Future()
            return {}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = next(m for m in sent if m["type"] == "http.response.start")
        found = [(k.decode(), v.decode("latin-1")) for k, v in start["headers"]]
        self._keep([value for name, value in found if name == "set-cookie"])
        return Answered(start["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))

    def _keep(self, lines: list[str]) -> None:
        for line in lines:
            for name, one in http.cookies.SimpleCookie(line).items():
                flags = (one["secure"], one["httponly"], one["samesite"], one["path"], one["domain"])
                strict = "lax" if name == "__Host-oidc" else "strict"  # which a provider's redirect has to bring
                assert flags == (True, True, strict, "/", ""), line
                if one["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = one.value


JSON = {"content-type": "application/json"}


class SoftKey:
    """An authenticator in software: one passkey, with user verification unless told otherwise."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.id = secrets.token_bytes(32)
        self.count = 0
        self.flags = 0x05  # user present, user verified

    def made(self, options: dict[str, Any], origin: str = ORIGIN) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        data = self._data(options["rp"]["id"], 0x40) + bytes(16) + struct.pack(">H", len(self.id)) + self.id
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data + cbor2.dumps(cose)})
        client = _client("webauthn.create", options["challenge"], origin)
        return self._told({"clientDataJSON": b64(client), "attestationObject": b64(attestation)})

    def signed(self, options: dict[str, Any], origin: str = ORIGIN) -> dict[str, Any]:
        self.count += 1
        data, client = self._data(options["rpId"]), _client("webauthn.get", options["challenge"], origin)
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        response = {"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(signature)}
        return self._told(response | {"userHandle": None})

    def _data(self, rp_id: str, more: int = 0) -> bytes:
        return hashlib.sha256(rp_id.encode()).digest() + struct.pack(">BI", self.flags | more, self.count)

    def _told(self, response: dict[str, Any]) -> dict[str, Any]:
        return {"id": b64(self.id), "rawId": b64(self.id), "type": "public-key", "response": response}


def _client(kind: str, challenge: str, origin: str) -> bytes:
    return json.dumps({"type": kind, "challenge": challenge, "origin": origin, "crossOrigin": False}).encode()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
