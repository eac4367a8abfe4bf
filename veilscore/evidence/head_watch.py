"""A node asks the others which head of its log they countersigned last, so that a log put back is noticed.

Messages: HeadSeen, empty; the answer is the last head of the caller's log that was seen, or empty.
Reveals: to the caller a head that it signed itself.
Assumes: one other party that answers and kept what it countersigned.
Aborts: EvidenceError where a head shows that the own log was longer or another; the node stops.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from veilscore.errors import EvidenceError, VeilscoreError
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.recorder import FOLDER, EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2

CALL_S = 5.0
_LONGEST_PAUSE_S = 60.0


class HeadWatch:
    """Asks every other member until it has answered once, and answers the others.

    recorder, fabric : the node's own; `HeadSeen` is registered at the fabric.
    """

    def __init__(self, recorder: EvidenceRecorder, fabric: Fabric) -> None:
        self._recorder, self._fabric = recorder, fabric
        self._log = structlog.get_logger("veilscore.evidence.head_watch").bind(party=fabric.name)
        fabric.register("HeadSeen", {"bank", "holder", "coordinator"}, control_pb2.Empty, self._answer)

    async def _answer(self, _request: control_pb2.Empty, peer: Member) -> control_pb2.EvidenceReply:
        head = self._recorder.seen.get(peer.name)
        return control_pb2.EvidenceReply(body=b"" if head is None else head.to_bytes())

    async def watch(self) -> None:
        """Ask until all have answered, then wait; EvidenceError where one shows that this log was put back."""
        own = self._fabric.name
        members = [m for m in self._fabric.federation.members if m.address is not None and m.name != own]
        pauses = dict.fromkeys((m.name for m in members), 0.5)
        due = dict.fromkeys(pauses, 0.0)
        while due:
            for name in [name for name, at_s in due.items() if time.monotonic() >= at_s]:
                if await self._asked(name):
                    del due[name]
                else:
                    pauses[name] = min(2 * pauses[name], _LONGEST_PAUSE_S)
                    due[name] = time.monotonic() + pauses[name]
            await asyncio.sleep(0.2)
        await asyncio.Future()

    async def _asked(self, name: str) -> bool:
        """Compare with what one member saw; False if it does not answer with a head of this node, or nothing."""
        try:
            reply = await self._fabric.call(
                name, "HeadSeen", control_pb2.Empty(), control_pb2.EvidenceReply, timeout_s=CALL_S, retry=False
            )
            if not reply.body:
                return True
            head = SignedHead.parse(reply.body)
            head.verify(self._recorder.keys)
        except VeilscoreError as error:
            self._log.info("head not compared", member=name, error=type(error).__name__)
            return False
        if head.party == self._fabric.name and not self._recorder.log.continues(head):
            folder = self._recorder.home / FOLDER
            raise EvidenceError(
                f"{name} countersigned entry {head.size} of this node's log, which here has {self._recorder.log.size} "
                f"or goes another way: it was cut or is an older copy, and so is perhaps all state; restore {folder} "
                "and state/ from a backup as new as that (docs/evidence.md)",
                party=self._fabric.name,
            )
        return True
