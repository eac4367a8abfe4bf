"""The console calls nodes with the identity of its home, over the fabric, like the command line does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from veilscore.console.home import ConsoleHome, WhileUnchanged
from veilscore.console.store import ConsoleStore
from veilscore.errors import VeilscoreError
from veilscore.evidence.console_acts import METHOD
from veilscore.evidence.documents import canonical
from veilscore.fabric.calling import CALL_S, calling_fabric
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.watches import described, for_ever
from veilscore.keys.identity import Identity, current_folder
from veilscore.terms.federation import Federation
from veilscore.terms.membership import load_membership
from veilscore.v1 import control_pb2 as pb

_AGAIN_S = 1.0
M = TypeVar("M", bound=Message)


class NodeLink:
    """Holds connections to the nodes of the federation, and makes them anew when keys changed."""

    def __init__(self, home: ConsoleHome) -> None:
        self._home = home
        self._fabric: Fabric | None = None
        self._of: object = None
        config = home.config
        self._membership = WhileUnchanged(
            lambda: load_membership(home.path, home.config), config.federation, current_folder(config.identity)
        )
        self._membership()  # asks for a passphrase now, if at all
        self._one = asyncio.Lock()

    def membership(self) -> tuple[Identity, Federation]:
        """Return the identity and the federation that hold now."""
        return self._membership()

    async def fabric(self) -> Fabric:
        """Return the fabric with the identity and the federation that hold now."""
        async with self._one:
            found = await asyncio.to_thread(self._membership)
            if self._fabric is None or found is not self._of:
                before = self._fabric
                self._fabric = calling_fabric(*found)
                self._of = found
                if before is not None:
                    await before.stop(0.1)
            return self._fabric

    async def call(self, peer: str, method: str, request: Message, reply: type[M], timeout_s: float = CALL_S) -> M:
        """Call a node once; not repeated, so that nothing is done twice."""
        fabric = await self.fabric()
        return await fabric.call(peer, method, request, reply, timeout_s=timeout_s, retry=False)

    async def coordinator(self, method: str, request: Message, reply: type[M]) -> M:
        """Call the coordinator."""
        return await self.call(self._home.federation.coordinator.name, method, request, reply)

    async def own(self, method: str, request: Message, reply: type[M]) -> M:
        """Call the node of this home."""
        return await self.call(self._home.name, method, request, reply)

    async def watch(self, job_id: str) -> AsyncIterator[pb.JobEvent]:
        """Yield the events of a job at the coordinator until it ends."""
        fabric = await self.fabric()
        ref, name = pb.JobRef(job_id=job_id), self._home.federation.coordinator.name
        events = fabric.stream(name, "WatchJob", ref, pb.JobEvent)
        async with contextlib.aclosing(events):  # type: ignore[type-var]
            async for event in events:
                yield event

    async def close(self) -> None:
        """Close all connections."""
        if self._fabric is not None:
            await self._fabric.stop(0.1)


async def hand_over_acts(link: NodeLink, store: ConsoleStore, party: str) -> None:
    """Bring what people did into the node's log, for ever; what it cannot take now waits."""
    log, told = structlog.get_logger("veilscore.console").bind(party=party), False

    async def hand_over() -> None:
        nonlocal told
        try:
            for number, at_s, body in await asyncio.to_thread(store.not_logged):
                act = canonical({"number": number, "at_ms": int(at_s * 1000), **body})
                await link.own(METHOD, pb.EvidenceCall(ask="note", body=act), pb.EvidenceReply)
                await asyncio.to_thread(store.logged, number)
            told = False
        except VeilscoreError as error:  # the node does not run, most often
            if not told:
                log.warning("acts wait for the node", error=error.message)
            told = True

    await for_ever(_AGAIN_S, [hand_over], lambda error: log.error("acts", **described(error)), at_once=True)
