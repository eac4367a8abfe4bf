"""Holds what has arrived in one session and waits to be read: order, repeats and a bound on memory; no I/O.

Rules, for each sender of a session:
1. Sequences count from 0 and are read without gaps. Up to `SENT_AHEAD` may arrive side by side, in any order: one that
   came early waits for those before it. A sender says what it knows to be here; where that is missing, a node was
   restarted within a step, and the message is refused.
2. A repeat with the same digest is acknowledged and dropped, one with another digest is refused.
3. Unread bytes of a session stay below `WireLimits.inbox_bytes`, and unread messages, which may be empty, below
   `MOST_UNREAD`; a sender waits for space, except that the message that somebody already waits for always gets in
   (otherwise a full inbox could wait for itself).
All methods belong to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from veilscore.errors import ConfigError, PeerError, ProtocolError
from veilscore.v1 import wire_pb2

MIB = 1 << 20
SENT_AHEAD = 4  # messages of one sender to one recipient under way at once
MOST_UNREAD = 1 << 16  # of one session; each takes some 300 bytes besides its own


class QueueFullError(PeerError):
    """The reader was too slow: there was no space in the inbox before the deadline, and the sender may try again."""


@dataclass(frozen=True)
class WireLimits:
    """Bounds on sizes (bytes) and times (seconds) of the fabric."""

    message_bytes: int = 256 * MIB  # one protocol message
    inbox_bytes: int = 256 * MIB  # unread messages of one session, from all senders
    control_bytes: int = 16 * MIB  # one request or reply of the control plane
    retry_s: float = 120.0  # how long a message is retried before the peer counts as lost
    receive_timeout_s: float = 600.0  # how long a step waits for a peer's next message
    deliver_timeout_s: float = 60.0  # one attempt at a message, plus one second for each MiB
    queue_wait_s: float = 20.0  # how long a full inbox makes a sender wait before it is told so
    connect_timeout_s: float = 10.0  # first contact before a stream
    clock_skew_s: float = 300.0  # largest difference between two nodes' clocks

    def __post_init__(self) -> None:
        """Refuse limits that cannot work together."""
        if not 0 < self.message_bytes <= self.inbox_bytes:
            raise ConfigError(
                f"message limit of {self.message_bytes} bytes must be positive and at most the inbox's "
                f"{self.inbox_bytes}"
            )

    def attempt_s(self, size_bytes: int) -> float:
        """Return the deadline of one attempt at a message of this size, in seconds."""
        return self.deliver_timeout_s + size_bytes / MIB


@dataclass
class _Sender:
    queue: deque[bytes] = field(default_factory=deque)
    digests: dict[int, bytes] = field(default_factory=dict)
    next_sequence: int = 0
    readers: int = 0
    let_in: int = 0  # over the limit, because somebody waits for it


class Inbox:
    """Holds the messages of one session for one party."""

    def __init__(self, session: str, limits: WireLimits) -> None:
        self.session = session
        self.used_bytes = 0
        self.unread = 0
        self.closed: str | None = None
        self._limits = limits
        self._senders: dict[str, _Sender] = {}
        self._waiters: set[asyncio.Future[None]] = set()

    def check_open(self) -> None:
        """Raise PeerError if the session is closed."""
        if self.closed is not None:
            raise PeerError(f"session is closed: {self.closed}", session=self.session)

    def has_it(self, header: wire_pb2.Header) -> bool:
        """Say whether this message is a repeat; refuse a changed repeat, one too early, anything new once closed."""
        known = self._senders.setdefault(header.sender, _Sender())
        if header.sequence < known.next_sequence:
            digest = known.digests.get(header.sequence)
            if digest == header.sha256:
                return True
            why = "was closed since" if digest is None else "arrived before with other content"
            raise ProtocolError(
                f"message {header.sequence} from {header.sender} refused: it {why}", session=self.session
            )
        self.check_open()
        if header.acknowledged > known.next_sequence or header.sequence >= known.next_sequence + SENT_AHEAD:
            raise self._out_of_order(header, known)
        return False

    def _out_of_order(self, header: wire_pb2.Header, known: _Sender) -> ProtocolError:
        return ProtocolError(
            f"message {header.sequence} from {header.sender} is out of order: {known.next_sequence} comes "
            "next (was a node restarted within this step? then the step has to start again)",
            session=self.session,
        )

    @contextlib.asynccontextmanager
    async def space(self, header: wire_pb2.Header, wait_s: float) -> AsyncIterator[None]:
        """Hold room for one message while it arrives; QueueFullError if there is none within `wait_s`."""
        known, size_bytes = self._senders.setdefault(header.sender, _Sender()), header.size_bytes

        def fits() -> bool:
            return self.used_bytes + size_bytes <= self._limits.inbox_bytes and self.unread < MOST_UNREAD

        def awaited() -> bool:
            comes_next = header.sequence == known.next_sequence and not known.queue
            return comes_next and known.readers > 0 and not known.let_in

        if not await self._until(lambda: fits() or awaited(), wait_s):
            raise QueueFullError(
                f"queue full: {self.used_bytes} bytes wait to be read, the limit is {self._limits.inbox_bytes} "
                f"(messages: {self.unread} of at most {MOST_UNREAD})",
                session=self.session,
            )
        over = not fits()
        self._take_in(size_bytes)
        known.let_in += over
        try:
            yield
        finally:
            known.let_in -= over
            self._let_go(size_bytes)
            self._wake()

    async def turn(self, header: wire_pb2.Header, wait_s: float) -> None:
        """Wait until all messages before this one are here; QueueFullError if they are not within `wait_s`."""
        known = self._senders[header.sender]
        if not await self._until(lambda: known.next_sequence >= header.sequence, wait_s):
            raise QueueFullError(
                f"message {header.sequence} from {header.sender} waited {wait_s:g} s for message {known.next_sequence}",
                session=self.session,
            )

    def put(self, header: wire_pb2.Header, payload: bytes) -> bool:
        """Store a complete message; return True if it was there already."""
        if self.has_it(header):
            return True
        known = self._senders[header.sender]
        if header.sequence != known.next_sequence:
            raise self._out_of_order(header, known)
        known.digests[header.sequence] = header.sha256
        known.next_sequence += 1
        known.queue.append(payload)
        self._take_in(len(payload))
        self._wake()
        return False

    async def get(self, sender: str, timeout_s: float) -> bytes:
        """Return the next message from a sender; PeerError if none comes in time or the session is closed."""
        known = self._senders.setdefault(sender, _Sender())
        known.readers += 1
        self._wake()
        try:
            if not await self._until(lambda: bool(known.queue), timeout_s):
                raise PeerError(
                    f"no message from {sender} within {timeout_s:g} s: see whether {sender} is running",
                    session=self.session,
                    party=sender,
                )
        finally:
            known.readers -= 1
        payload = known.queue.popleft()
        self._let_go(len(payload))
        self._wake()
        return payload

    def close(self, reason: str) -> None:
        """Drop what is unread and wake all who wait; the last digests stay, so that a late repeat is acknowledged."""
        self.closed = reason
        for known in self._senders.values():
            for payload in known.queue:
                self._let_go(len(payload))
            known.queue.clear()
            first = known.next_sequence - SENT_AHEAD  # the acknowledgement of each of these may have been lost
            known.digests = {k: v for k, v in known.digests.items() if k >= first}
        self._wake()

    def _take_in(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self.unread += 1

    def _let_go(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        self.unread -= 1

    async def _until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `ready`, and return False when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    self.check_open()
                    if ready():
                        return True
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        return False

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
