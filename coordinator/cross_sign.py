"""The coordinator's part in cross-signing: it carries the rounds of `veilscore.evidence.exchange` to all parties."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import Document
from veilscore.evidence.exchange import (
    Closing,
    Countersigned,
    CrossSigning,
    Nothing,
    Offer,
    Offers,
    Proofs,
    ProofsWanted,
    assemble,
)
from veilscore.evidence.receipt import JobReceipt
from veilscore.fabric.fabric import Fabric
from veilscore.terms.job import Job
from veilscore.v1 import control_pb2

D = TypeVar("D", bound="Document")
ROUND_S = 10.0


async def cross_sign(fabric: Fabric, own: CrossSigning, job_id: str, job: Job) -> JobReceipt:
    """Run all rounds, after which every party has the receipt; it is returned.

    Raises EvidenceError where a party's answer does not fit, and PeerError where a party cannot be reached or refuses.
    """
    rounds = _Rounds(fabric, own, job_id)
    parties = (*job.parties, job.coordinator)
    closings = await rounds.ask("close", dict.fromkeys(parties, Nothing()), Closing)
    # nobody signs a head before its owner has proved that it continues the log that the others saw before
    wanted = {
        party: ProofsWanted(size=closings[party].statement.head.size, earlier=tuple(_earlier(closings, party).values()))
        for party in parties
    }
    proofs = await rounds.ask("prove", wanted, Proofs)
    offers = {party: Offers(offers=_offers(closings, proofs, party)) for party in parties}
    signed = await rounds.ask("countersign", offers, Countersigned)
    receipt = assemble(job_id, job, closings, signed)
    await rounds.ask("keep", dict.fromkeys(parties, receipt), Nothing)
    return receipt


class _Rounds:
    def __init__(self, fabric: Fabric, own: CrossSigning, job_id: str) -> None:
        self._fabric, self._own, self._job_id = fabric, own, job_id

    async def ask(self, ask: str, bodies: Mapping[str, Document], kind: type[D]) -> dict[str, D]:
        """Ask all parties at once and return their answers."""
        replies = await asyncio.gather(*(self._one(party, ask, body.to_bytes()) for party, body in bodies.items()))
        return {party: kind.parse(reply) for party, reply in zip(bodies, replies, strict=True)}

    async def _one(self, party: str, ask: str, body: bytes) -> bytes:
        if party == self._fabric.name:
            return await asyncio.to_thread(self._own.answer, ask, self._job_id, body)
        call = control_pb2.EvidenceCall(ask=ask, job_id=self._job_id, body=body)
        reply = await self._fabric.call(party, "Evidence", call, control_pb2.EvidenceReply, timeout_s=ROUND_S)
        return reply.body


def _earlier(closings: Mapping[str, Closing], party: str) -> dict[str, int]:
    """Return the sizes of the party's log that the others saw before."""
    return {other: c.seen[party] for other, c in closings.items() if other != party and party in c.seen}


def _offers(closings: Mapping[str, Closing], proofs: Mapping[str, Proofs], to: str) -> tuple[Offer, ...]:
    """Return the heads of all others for one party, each with the proof from the size that it saw before."""
    offers = []
    for party, closing in closings.items():
        if party == to:
            continue
        places = list(_earlier(closings, party))
        if len(proofs[party].paths) != len(places):
            raise EvidenceError(f"{party} did not prove that its log continues", party=party)
        path = proofs[party].paths[places.index(to)] if to in places else ()
        offers.append(Offer(head=closing.statement.head, path=path))
    return tuple(offers)
