"""How messages travel: one interface, and its in-memory form for simulated runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from veilscore.errors import PeerError
from veilscore.protocol import Protocol, Session, Transcript, run


class Channel(Interface):
    """Ordered, reliable, authenticated delivery between the parties of one session."""

    async def send(self, to: str, payload: bytes) -> None:
        """Deliver `payload` to party `to`; returns when the peer has it."""

    async def receive(self, sender: str) -> bytes:
        """Next message from `sender`, in the order sent."""


Tamper = Callable[[str, str, int, bytes], list[bytes]]


class MemoryNetwork:
    """All parties of one session in one process.

    Parameters
    ----------
    tamper : called as (sender, recipient, sequence, payload) for each message and returns what arrives
        in its place (nothing, twice, changed): the faults of the simulation tests.
    timeout_s : how long a receive waits before the peer counts as lost.
    """

    def __init__(self, *, tamper: Tamper | None = None, timeout_s: float = 60.0) -> None:
        self._queues: dict[tuple[str, str], asyncio.Queue[bytes]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._tamper = tamper
        self._timeout_s = timeout_s

    def _queue(self, sender: str, recipient: str) -> asyncio.Queue[bytes]:
        return self._queues.setdefault((sender, recipient), asyncio.Queue())

    def channel(self, party: str) -> Channel:
        """Channel of one party."""
        return _MemoryChannel(self, party)

    async def deliver(self, sender: str, recipient: str, payload: bytes) -> None:
        """Put one message into the recipient's queue."""
        sequence = self._counts.get((sender, recipient), 0)
        self._counts[sender, recipient] = sequence + 1
        arriving = self._tamper(sender, recipient, sequence, payload) if self._tamper else [payload]
        for item in arriving:
            await self._queue(sender, recipient).put(item)

    async def take(self, sender: str, recipient: str) -> bytes:
        """Next message for the recipient."""
        try:
            return await asyncio.wait_for(self._queue(sender, recipient).get(), self._timeout_s)
        except TimeoutError as error:
            raise PeerError(f"no message from {sender} within {self._timeout_s:g} s", party=recipient) from error


class _MemoryChannel:
    def __init__(self, network: MemoryNetwork, party: str) -> None:
        self._network = network
        self._party = party

    async def send(self, to: str, payload: bytes) -> None:
        await self._network.deliver(self._party, to, payload)

    async def receive(self, sender: str) -> bytes:
        return await self._network.take(sender, self._party)


def simulate(
    roles: dict[str, Protocol[Any]],
    sessions: dict[str, Session],
    *,
    tamper: Tamper | None = None,
    timeout_s: float = 60.0,
    transcripts: dict[str, Transcript] | None = None,
    checkpoints: dict[str, list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Run all roles of one session in memory; returns each party's result, raises the first error."""

    async def all_roles() -> list[Any]:
        network = MemoryNetwork(tamper=tamper, timeout_s=timeout_s)
        tasks = [
            asyncio.create_task(
                run(
                    role,
                    network.channel(party),
                    sessions[party],
                    transcript=transcripts.setdefault(party, Transcript(keep=True))
                    if transcripts is not None
                    else None,
                    checkpoint=checkpoints.setdefault(party, []).append if checkpoints is not None else None,
                )
            )
            for party, role in roles.items()
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return dict(zip(roles, asyncio.run(all_roles()), strict=True))
