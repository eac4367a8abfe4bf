"""The sessions of one node: which are accepted, what each counted, and when they end. No I/O."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from veilscore.errors import IdentityError, MessageError, ProtocolError
from veilscore.v1 import wire_pb2
from veilscore.wire.framing import kind_of
from veilscore.wire.inbox import SENT_AHEAD, Inbox, WireLimits

AcceptSession = Callable[[str, str], bool]
_CLOSED_KEPT = 1024  # ended sessions whose last digests and byte counts are remembered


@dataclass(frozen=True)
class KindTraffic:
    """Counts messages and bytes of one kind that one party sent another in one session."""

    sender: str
    recipient: str
    kind: str
    messages: int
    bytes: int


class _Sending:
    """Numbers the messages to one recipient of a session, of which `SENT_AHEAD` may be under way at once.

    The recipient refuses one that is further ahead (`Inbox.has_it`), so whoever sends waits here.
    """

    def __init__(self, to: str, session: str) -> None:
        self._to, self._session = to, session
        self._next = 0
        self._unconfirmed: dict[int, bytes] = {}  # number -> digest
        self._under_way: set[int] = set()
        self._room = asyncio.Semaphore(SENT_AHEAD)

    @property
    def acknowledged(self) -> int:
        """Return the lowest number that the recipient has not acknowledged."""
        return min(self._unconfirmed, default=self._next)

    @contextlib.asynccontextmanager
    async def numbered(self, digest: bytes) -> AsyncIterator[int]:
        """Give the message its number while it is under way; numbers follow the order of these calls.

        One that failed or was cancelled may have arrived all the same, so its number is kept for the same bytes:
        ProtocolError if others come next.
        """
        async with self._room:
            failed = self._unconfirmed.keys() - self._under_way
            number = min(failed, default=self._next)
            if self._unconfirmed.setdefault(number, digest) != digest:
                raise ProtocolError(
                    f"message {number} to {self._to} failed before and may have arrived: send the same bytes again, or "
                    "end the session",
                    session=self._session,
                )
            self._next = max(self._next, number + 1)
            self._under_way.add(number)
            try:
                yield number
                del self._unconfirmed[number]
            finally:
                self._under_way.discard(number)


@dataclass
class SessionState:
    """One session as this node sees it: what arrived, what it sends, what it counted."""

    inbox: Inbox
    accepted: set[str] = field(default_factory=set)
    sending: dict[str, _Sending] = field(default_factory=dict)
    calls: set[Any] = field(default_factory=set)
    counts: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)

    def sending_to(self, recipient: str) -> _Sending:
        """Return what numbers the messages to a recipient."""
        return self.sending.setdefault(recipient, _Sending(recipient, self.inbox.session))

    def count(self, sender: str, recipient: str, payload: bytes) -> None:
        """Count one delivered message."""
        key = (sender, recipient, kind_of(payload))
        messages, size = self.counts.get(key, (0, 0))
        self.counts[key] = (messages + 1, size + len(payload))


class Sessions:
    """Keeps all sessions of the node called `party`.

    accept_session : called as (session id, sender) at a sender's first message of a session.
    """

    def __init__(self, party: str, limits: WireLimits, accept_session: AcceptSession) -> None:
        self._party = party
        self._limits = limits
        self._accept_session = accept_session
        self._sessions: OrderedDict[str, SessionState] = OrderedDict()

    def get(self, session_id: str) -> SessionState:
        """Return the state of a session, new if there is none."""
        if session_id not in self._sessions:
            self._sessions[session_id] = SessionState(Inbox(session_id, self._limits))
        return self._sessions[session_id]

    def incoming(self, header: wire_pb2.Header, peer: str) -> SessionState:
        """Return the session that a header from `peer` belongs to.

        Raises IdentityError where the sender in the header is not the peer of the connection, ProtocolError for another
            recipient or a session that is not accepted from this peer, MessageError for a message that is too long or a
            malformed header.
        """
        party = self._party
        if header.sender != peer:
            raise IdentityError(f"{peer} sent a message in the name of another party", party=party)
        if header.recipient != party:
            raise ProtocolError(f"message from {peer} is for another party", party=party)
        if not 0 < len(header.session) <= 200 or len(header.sha256) != 32:
            raise MessageError(f"header from {peer} has no proper session id or digest", party=party)
        session = header.session
        if header.size_bytes > self._limits.message_bytes:
            raise MessageError(
                f"message from {peer} refused: {header.size_bytes} bytes declared, the limit is "
                f"{self._limits.message_bytes}",
                session=session,
                party=party,
            )
        known = self._sessions.get(session)
        if known is None or peer not in known.accepted:
            if not self._accept_session(session, peer):
                raise ProtocolError(
                    f"session is unknown at {party}, or {peer} takes no part in it",
                    session=session,
                    party=party,
                )
            known = self.get(session)
            known.accepted.add(peer)
        return known

    def close(self, session_id: str, reason: str) -> None:
        """End a session: drop what is unread, wake readers, cancel what is being sent."""
        state = self.get(session_id)  # also of a session that has not begun: what comes for it later is refused
        if state.inbox.closed is not None:
            return
        state.inbox.close(reason)
        for call in list(state.calls):
            call.cancel()
        self._sessions.move_to_end(session_id)
        closed = [key for key, value in self._sessions.items() if value.inbox.closed is not None]
        for key in closed[:-_CLOSED_KEPT]:
            del self._sessions[key]

    def close_all(self, reason: str) -> None:
        """End every session."""
        for session_id in list(self._sessions):
            self.close(session_id, reason)

    def traffic(self, session_id: str) -> list[KindTraffic]:
        """Return messages and bytes of one session by sender, recipient and kind."""
        state = self._sessions.get(session_id)
        return [KindTraffic(*key, *count) for key, count in state.counts.items()] if state else []
