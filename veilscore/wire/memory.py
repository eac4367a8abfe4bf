"""Carries messages between roles of one process, for tests, notebooks and local federations."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from veilscore.errors import PeerError
from veilscore.wire.driver import Channel, run
from veilscore.wire.protocol import Charge, Protocol, Session
from veilscore.wire.transcript import Transcript

Tamper = Callable[[str, str, int, bytes], list[bytes]]


class MemoryNetwork:
    """Connects all parties of one session in one process.

    tamper : a dishonest sender: it is called as (sender, recipient, sequence, payload) for each message, and returns
        the messages that are sent in its place.
    timeout_s : how long a receive waits before the peer counts as lost.
    """

    def __init__(self, *, tamper: Tamper | None = None, timeout_s: float = 60.0) -> None:
        self._queues: defaultdict[tuple[str, str], asyncio.Queue[bytes]] = defaultdict(asyncio.Queue)
        self._sent: Counter[tuple[str, str]] = Counter()
        self._tamper, self._timeout_s = tamper, timeout_s

    def channel(self, party: str) -> Channel:
        """Return the channel of one party."""
        return _MemoryChannel(self, party)

    async def deliver(self, sender: str, recipient: str, payload: bytes) -> None:
        """Put one message into the recipient's queue."""
        pair = (sender, recipient)
        items = self._tamper(sender, recipient, self._sent[pair], payload) if self._tamper else [payload]
        self._sent[pair] += 1
        for item in items:
            await self._queues[pair].put(item)

    async def take(self, sender: str, recipient: str) -> bytes:
        """Return the next message for the recipient."""
        # not asyncio.wait_for: before Python 3.12 it swallows a cancellation that meets a message
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._queues[sender, recipient].get()
        except TimeoutError as error:
            raise PeerError(f"no message from {sender} within {self._timeout_s:g} s", party=recipient) from error


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
    timeout_s: float = 60.0,
    network: MemoryNetwork | None = None,
    transcripts: dict[str, Transcript] | None = None,
    checkpoints: dict[str, list[dict[str, Any]]] | None = None,
    spend: Mapping[str, Callable[[Charge], None]] | None = None,
) -> dict[str, Any]:
    """Run all roles of one session in memory and return each party's result; the first error is raised.

    checkpoints, spend : take what each party checkpoints, and what a holder charges for its openings.
    network : one that loses or changes messages; else one is made from `tamper` and `timeout_s`.
    """
    wire = network or MemoryNetwork(tamper=tamper, timeout_s=timeout_s)

    async def all_roles() -> list[Any]:
        tasks = []
        for party, role in roles.items():
            transcript = None if transcripts is None else transcripts.setdefault(party, Transcript(keep=True))
            checkpoint = None if checkpoints is None else checkpoints.setdefault(party, []).append
            charge = None if spend is None else spend.get(party)
            channel, session = wire.channel(party), sessions[party]
            running = run(role, channel, session, transcript=transcript, checkpoint=checkpoint, spend=charge)
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
