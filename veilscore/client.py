"""Asks a bank's door for scores, from a loan system: `DoorClient`, with typed answers and errors.

    with DoorClient("https://door.bank.example:7443", "handover") as door:
        answer = door.score("91310000MA1K35TQ6F", "joint-best", request_id="application-4711")
        print(answer.step, answer.probability_of_default)

It needs Python's own HTTP and pydantic, no network library; docs/integration.md has the same for curl and gRPC.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from veilscore import __version__
from veilscore.errors import ConfigError, DoorError
from veilscore.terms.door import DecisionAsked, DecisionReply, HealthAnswer, Problem, ScoreAnswer, ScoreAsked
from veilscore.terms.settings import parse

A = TypeVar("A", bound=BaseModel)
_MOST_BYTES = 1 << 20  # of an answer
_PATIENCE_S = 2.0  # beyond a request's own time, for its answer to come back
_PAUSE_S = 0.2


class DoorClient:
    """Speaks with one door over one connection at a time; usable from several threads.

    address : https://HOST:PORT, where HOST is one of the names in the door's certificate.
    folder : with caller.pem, caller-key.pem and door.pem, as `veilscore door add --to` makes it; other places are given
        by certificate, key and trust.
    passphrase : of the key, where it is encrypted.
    Raises ConfigError where a file cannot be used.
    """

    def __init__(
        self,
        address: str,
        folder: Path | str = ".",
        *,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        trust: Path | str | None = None,
        passphrase: str | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(f"address {address[:200]!r} of a door: write https://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 7443
        folder = Path(folder)
        files = certificate or folder / "caller.pem", key or folder / "caller-key.pem", trust or folder / "door.pem"
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            self._tls.load_cert_chain(files[0], files[1], passphrase or "")
            self._tls.load_verify_locations(files[2])
        except (OSError, ssl.SSLError, ValueError) as error:
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "damaged, or a wrong passphrase"
            raise ConfigError(f"one of {', '.join(map(str, files))} cannot be used: {why}") from error
        self._lock = threading.Lock()
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def health(self, timeout_s: float = 5.0) -> HealthAnswer:
        """Return who the door takes this caller for; DoorError where it cannot be reached or refuses."""
        return self._until(HealthAnswer, "GET", "/v1/health", b"", timeout_s)

    def score(
        self,
        firm_id: str,
        model: str,
        *,
        request_id: str | None = None,
        output: Literal["score", "band", "exact"] = "score",
        steps: int | None = None,
        on_missing: Literal["fail", "missing_code", "neutral"] = "fail",
        purpose: str = "",
        features: Mapping[str, str] | None = None,
        consent: str = "",
        reasons: int = 4,
        timeout_s: float = 10.0,
    ) -> ScoreAnswer:
        """Score one firm.

        request_id : your own of this request, best the number of the application: under it a repeat, also one of
            another process, gets the same answer; None: a random one.
        timeout_s : for all tries together. What may be sent again is, under the same id, until then.
        Other arguments are those of `veilscore score`; features are text, empty for missing.

        Raises ConfigError where an argument cannot be used, DoorError where there is no score: it says why.
        """
        asked = {
            "request_id": request_id or secrets.token_hex(16),
            "firm_id": firm_id,
            "model": model,
            "output": output,
            "steps": steps,
            "on_missing": on_missing,
            "purpose": purpose,
            "features": dict(features or {}),
            "consent": consent,
            "reasons": reasons,
            "timeout_s": timeout_s,
        }
        body = parse(ScoreAsked, asked, "request").model_dump_json(exclude_defaults=True).encode()
        return self._until(ScoreAnswer, "POST", "/v1/scores", body, timeout_s)

    def decide(
        self,
        firm_id: str,
        decision: str,
        *,
        request_id: str | None = None,
        on_missing: Literal["fail", "missing_code"] = "fail",
        purpose: str = "",
        features: Mapping[str, str] | None = None,
        consent: str = "",
        timeout_s: float = 10.0,
    ) -> DecisionReply:
        """Decide on one firm by a filed decision: its step and nothing else; arguments and errors as of `score`."""
        asked = {
            "request_id": request_id or secrets.token_hex(16),
            "firm_id": firm_id,
            "decision": decision,
            "on_missing": on_missing,
            "purpose": purpose,
            "features": dict(features or {}),
            "consent": consent,
            "timeout_s": timeout_s,
        }
        body = parse(DecisionAsked, asked, "request").model_dump_json(exclude_defaults=True).encode()
        return self._until(DecisionReply, "POST", "/v1/decisions", body, timeout_s)

    # tries

    def _until(self, kind: type[A], method: str, path: str, body: bytes, timeout_s: float) -> A:
        """Ask until there is an answer, a problem that a repeat does not mend, or no time left."""
        end_s = time.monotonic() + timeout_s
        while True:
            left_s = end_s - time.monotonic()
            try:
                return self._once(kind, method, path, body, max(left_s, 0.001) + _PATIENCE_S)
            except DoorError as error:
                pause_s = max(_PAUSE_S, error.after_s)
                if not error.may_repeat or time.monotonic() + pause_s >= end_s:
                    raise
            time.sleep(pause_s)

    def _once(self, kind: type[A], method: str, path: str, body: bytes, timeout_s: float) -> A:
        headers = {"Accept": "application/json", "User-Agent": f"veilscore/{__version__}"}
        if body:
            headers["Content-Type"] = "application/json"
        with self._lock:
            try:
                status, after, data = self._sent(method, path, body, headers, timeout_s)
            except ssl.SSLError as error:
                self._drop()
                why = getattr(error, "verify_message", "") or error.reason or "TLS failed"
                raise DoorError(
                    f"{self._host}:{self._port} and this caller do not trust each other: {why}; compare door.pem with "
                    "the door's certificate, and ask the bank whether this caller is admitted"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                slow = isinstance(error, TimeoutError)
                why = "did not answer in time" if slow else "cannot be reached, or closed the connection"
                raise DoorError(f"the door {self._host}:{self._port} {why}", may_repeat=True) from error
        return _read(kind, status, after, data)

    def _sent(
        self, method: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> tuple[int, str, bytes]:
        """Send a request and return status, Retry-After and body; once more where a kept connection has ended."""
        for fresh in (self._connection is None, True):
            if self._connection is None:
                self._connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=timeout_s, context=self._tls
                )
            connection = self._connection
            try:
                connection.timeout = timeout_s
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                connection.request(method, path, body or None, headers)
                response = connection.getresponse()
                return response.status, response.headers.get("Retry-After", ""), response.read(_MOST_BYTES)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._drop()
                if fresh:
                    raise
        raise http.client.HTTPException

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


def _read(kind: type[A], status: int, after: str, data: bytes) -> A:
    try:
        found: Any = json.loads(data)
        if status == http.HTTPStatus.OK:
            return kind.model_validate(found)
        problem = Problem.model_validate(found)
    except (ValueError, ValidationError, RecursionError) as error:
        raise DoorError(f"the door answered with status {status} and nothing that this client can read") from error
    raise DoorError(
        problem.detail,
        kind=problem.kind,
        status=problem.status,
        request_id=problem.request_id,
        may_repeat=problem.may_repeat,
        after_s=int(after) if after.isascii() and after.isdigit() else 0,
        parties={party.party: party.status for party in problem.parties},
    )
