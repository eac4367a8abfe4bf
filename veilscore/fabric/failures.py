"""A fixed table says which status an error has for a peer; what a peer says of an error is cut to plain text.

What a peer says of an error is trusted for nothing beyond its class; an error outside the tree reaches the peer as
"internal error" only. Statuses are gRPC's, by name. No I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

from veilscore import errors
from veilscore.errors import (
    ConfigError,
    IdentityError,
    MessageError,
    ParameterError,
    PeerError,
    RefusedError,
    StateError,
    VeilscoreError,
)
from veilscore.terms.federation import Member
from veilscore.terms.settings import parse_json
from veilscore.wire.inbox import QueueFullError

INTERNAL = "INTERNAL"
_TEXT_LIMIT = 1000

# Sent to the peer: the nearest class in the tree counts.
_STATUS_OF_ERROR: dict[type, str] = {
    VeilscoreError: "FAILED_PRECONDITION",
    ConfigError: "INVALID_ARGUMENT",
    MessageError: "INVALID_ARGUMENT",
    ParameterError: "INVALID_ARGUMENT",
    StateError: "INTERNAL",
    QueueFullError: "RESOURCE_EXHAUSTED",
    PeerError: "ABORTED",
    IdentityError: "UNAUTHENTICATED",
    RefusedError: "PERMISSION_DENIED",
}
# Received without an error of ours, so made by gRPC itself.
_ERROR_OF_STATUS: dict[str, tuple[type[VeilscoreError], str]] = {
    "UNAVAILABLE": (PeerError, "cannot be reached: it is not running, or refused the connection"),
    "DEADLINE_EXCEEDED": (PeerError, "did not answer in time"),
    "CANCELLED": (PeerError, "stopped while answering"),
    "RESOURCE_EXHAUSTED": (PeerError, "is overloaded"),
    "UNIMPLEMENTED": (PeerError, "does not offer this call: another kind of node, or another version"),
    "UNAUTHENTICATED": (IdentityError, "refused this node's identity"),
    "PERMISSION_DENIED": (RefusedError, "refused"),
}
_CLASS_OF_NAME: dict[str, type[VeilscoreError]] = {
    cls.__name__: cls
    for cls in (*vars(errors).values(), QueueFullError)
    if isinstance(cls, type) and issubclass(cls, VeilscoreError)
}


class CallFailure(Exception):  # noqa: N818 - it carries the error, and is never seen by a caller
    """Carries the error of a call that did not come to its end, and whether the same bytes may be sent again."""

    def __init__(self, error: VeilscoreError, *, may_repeat: bool, unreachable: bool) -> None:
        super().__init__(error)
        self.error, self.may_repeat, self.unreachable = error, may_repeat, unreachable


def status_of(error: VeilscoreError) -> str:
    """Return the status that goes with an error: that of the nearest class in the table."""
    return next(_STATUS_OF_ERROR[cls] for cls in type(error).__mro__ if cls in _STATUS_OF_ERROR)


def text_of(error: VeilscoreError) -> str:
    """Return the words that go with a status."""
    return f"{type(error).__name__}: {error.message[:200]}"


def told(error: VeilscoreError, party: str) -> bytes:
    """Return what the caller needs to rebuild an error; `party` is where it arose if it does not say."""
    body = {
        "error": type(error).__name__,
        "message": error.message[:_TEXT_LIMIT],
        "session": error.session,
        "party": error.party or party,
    }
    return json.dumps(body, ensure_ascii=False).encode()


def failure_of(status: str, text: str, sent: bytes | None, peer: Member) -> CallFailure:
    """Return the error of the tree for a failed call.

    text : gRPC's own words; sent : what the peer's node said by `told`, if it did.
    """
    error = _error_of(status, text, sent, peer)
    made_by_grpc = type(error) is PeerError and status in {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"}
    may_repeat = isinstance(error, QueueFullError) or made_by_grpc
    return CallFailure(error, may_repeat=may_repeat, unreachable=status == "UNAVAILABLE")


def _error_of(status: str, text: str, sent: bytes | None, peer: Member) -> VeilscoreError:
    if sent is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            body = parse_json(sent)
            cls = _CLASS_OF_NAME.get(str(body["error"]), PeerError)
            session, party = (_plain(body[key]) if body[key] else None for key in ("session", "party"))
            return cls(_plain(body["message"]), session=session, party=party)
    where = f"{peer.name} at {peer.address}"
    if "CERTIFICATE_VERIFY_FAILED" in text or "TSI_PROTOCOL_FAILURE" in text or "Hostname" in text:
        return IdentityError(
            f"{where} does not show the certificate that the federation file pins for it: another node is "
            "there, it has a new identity, its certificate has expired, or it speaks no TLS 1.3",
            party=peer.name,
        )
    if status == "UNAVAILABLE" and "failed to connect" in text and "Socket closed" in text:
        return PeerError(
            f"{where} closed the connection at once: it does not know this node's certificate (compare the "
            "federation files), finds it expired, or is stopping",
            party=peer.name,
        )
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in text:
        return MessageError(f"message to or from {where} is over the size limit", party=peer.name)
    cls, what = _ERROR_OF_STATUS.get(status, (PeerError, "failed"))
    return cls(f"{where} {what} ({status}: {_plain(text)[:200]})", party=peer.name)


def cut_or(error: asyncio.CancelledError, peer: Member) -> BaseException:
    """Return PeerError if the call's connection was closed here, or the cancellation if that was asked for."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return error
    return PeerError(
        f"the connection to {peer.name} was closed at this node: it stops, or a key changed", party=peer.name
    )


def _plain(text: object) -> str:
    """Return text from a peer, printable and short."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:_TEXT_LIMIT])
