"""Carries messages between roles of one process, for tests, notebooks and local federations."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from veilscore.errors import PeerError, ProtocolError
from veilscore.v1 import wire_pb2
from veilscore.wire.driver import Channel, run
from veilscore.wire.framing import PIECE_BYTES, Assembly, parse
from veilscore.wire.inbox import Inbox, WireLimits
from veilscore.wire.protocol import Protocol, Session
from veilscore.wire.transcript import Transcript

Tamper = Callable[[str, str, int, bytes], list[bytes]]


class MemoryNetwork:
    """All parties of one session in one process.

    tamper : a dishonest sender: it is called as (sender, recipient, sequence, payload) for each message, and returns
        the messages that are sent in its place.
    faults : a bad wire: it is called likewise with the frame (header and message, as over gRPC), and returns the frames
        that arrive in its place; receivers then check order, repeats, session and digest as over gRPC.
    timeout_s : how long a receive waits before the peer counts as lost.
    session : the id that frames carry.
    """

    def __init__(
        self,
        *,
        tamper: Tamper | None = None,
        faults: Tamper | None = None,
        timeout_s: float = 60.0,
        session: str = "memory",
    ) -> None:
        self._queues: defaultdict[tuple[str, str], asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)
        self._meant: Counter[tuple[str, str]] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._inboxes: dict[str, Inbox] = {}
        self._tamper = tamper
        self._faults = faults
        self._timeout_s = timeout_s
        self._session = session

    def channel(self, party: str) -> Channel:
        """Return the channel of one party."""
        return _MemoryChannel(self, party)

    async def deliver(self, sender: str, recipient: str, payload: bytes) -> None:
        """Put one message into the recipient's queue."""
        pair = (sender, recipient)
        items = [payload]
        if self._tamper:
            items = self._tamper(sender, recipient, self._meant[pair], payload)
            self._meant[pair] += 1
        for item in items:
            frames = [item]
            if self._faults:
                sequence = self._sent[pair]
                self._sent[pair] += 1
                whole = frame(self._session, sender, recipient, sequence, item)
                frames = self._faults(sender, recipient, sequence, whole)
            for arriving in frames:
                await self._queues[pair].put(arriving)

    async def take(self, sender: str, recipient: str) -> bytes:
        """Return the next message for the recipient."""
        # not asyncio.wait_for: before Python 3.12 it swallows a cancellation that meets a message
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    item = await self._queues[sender, recipient].get()
                    if not self._faults:
                        return item
                    if self._accept(item, sender, recipient):
                        return await self._inboxes[recipient].get(sender, self._timeout_s)
        except TimeoutError as error:
            raise PeerError(f"no message from {sender} within {self._timeout_s:g} s", party=recipient) from error

    def _accept(self, item: bytes, sender: str, recipient: str) -> bool:
        """Check a frame as a node does; return False for a repeat."""
        header, payload = _unframe(item, sender)
        if (header.session, header.sender, header.recipient) != (self._session, sender, recipient):
            raise ProtocolError(
                f"message from {sender} is of another session or for another party", session=self._session
            )
        whole = Assembly(header)
        for at in range(0, len(payload), PIECE_BYTES):
            whole.add(payload[at : at + PIECE_BYTES])
        inbox = self._inboxes.setdefault(recipient, Inbox(self._session, WireLimits()))
        return not inbox.put(header, whole.finish())


def frame(session: str, sender: str, recipient: str, sequence: int, payload: bytes) -> bytes:
    """Return one message as it stands on a wire: a length-prefixed header, and the content."""
    header = wire_pb2.Header(
        session=session,
        sender=sender,
        recipient=recipient,
        sequence=sequence,
        size_bytes=len(payload),
        sha256=hashlib.sha256(payload).digest(),
    ).SerializeToString()
    return len(header).to_bytes(4, "little") + header + payload


def _unframe(item: bytes, sender: str) -> tuple[wire_pb2.Header, bytes]:
    end = 4 + int.from_bytes(item[:4], "little")
    return parse(wire_pb2.Header, item[4:end], sender), item[end:]


class _MemoryChannel:
    def __init__(self, network: MemoryNetwork, party: str) -> None:
        self._network = network
        self._party = party

    async def send(self, to: str, payload: bytes, digest: bytes | None = None) -> None:  # noqa: ARG002 - no wire
        await self._network.deliver(self._party, to, payload)

    async def receive(self, sender: str) -> bytes:
        return await self._network.take(sender, self._party)


def simulate(
    roles: dict[str, Protocol[Any]],
    sessions: dict[str, Session],
    *,
    tamper: Tamper | None = None,
    faults: Tamper | None = None,
    timeout_s: float = 60.0,
    transcripts: dict[str, Transcript] | None = None,
    checkpoints: dict[str, list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Run all roles of one session in memory and return each party's result; the first error is raised."""

    async def all_roles() -> list[Any]:
        session = next(iter(sessions.values())).id
        network = MemoryNetwork(tamper=tamper, faults=faults, timeout_s=timeout_s, session=session)
        tasks = []
        for party, role in roles.items():
            transcript = None if transcripts is None else transcripts.setdefault(party, Transcript(keep=True))
            checkpoint = None if checkpoints is None else checkpoints.setdefault(party, []).append
            running = run(role, network.channel(party), sessions[party], transcript=transcript, checkpoint=checkpoint)
            tasks.append(asyncio.create_task(running))
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    try:
        return dict(zip(roles, asyncio.run(all_roles()), strict=True))
    finally:
        for role in roles.values():  # at once: the garbage collector may come where their threads cannot be waited for
            role.close()
