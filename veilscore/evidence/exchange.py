"""The parties of a finished job sign each other's heads and gather its receipt, over the coordinator.

Order, each round at all parties at once, the coordinator's own log included:
    close        each writes its statement on the job and returns it with its signed head, and the sizes of the others'
                 heads that it saw before.
    prove        each gives consistency proofs from those sizes to its head.
    countersign  each gets all heads with the proofs for it, checks them, remembers them, and countersigns.
    keep         each gets the whole receipt, verifies it like a stranger would, and keeps it.

Messages : canonical JSON documents below, inside EvidenceCall and EvidenceReply.
Assumes  : nothing of the coordinator: it carries signed documents and can only hold them back, which leaves a party
           without a receipt.
Aborts   : EvidenceError at the party that finds something wrong; ForkError leaves a proof in HOME/evidence/forks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import Count, Document, Party, Path64
from veilscore.evidence.heads import Countersignature, ForkError, SignedHead, check_successor
from veilscore.evidence.receipt import JobReceipt, JobStatement, Logged
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.evidence.verify import verify_job
from veilscore.terms.job import Job

MAX_PARTIES = 64
CROSSING_S = 30.0  # from the first round to the third: until then no head is taken that would outrun their proofs
MAX_AGE_MS = 600_000  # between a head's time and the clock of who countersigns it
Sizes = Annotated[dict[Party, Count], Field(max_length=MAX_PARTIES)]


class Nothing(Document):
    """An answer without content."""


class Closing(Document):
    """A party's statement with its head, and how much of the others' logs it saw before."""

    statement: Logged
    seen: Sizes


class ProofsWanted(Document):
    """Says from which sizes to prove that the head of `size` entries continues them."""

    size: Count
    earlier: Annotated[tuple[Count, ...], Field(max_length=MAX_PARTIES)]


class Proofs(Document):
    """Consistency paths, in the order of the sizes in `ProofsWanted`."""

    paths: Annotated[tuple[Path64, ...], Field(max_length=MAX_PARTIES)]


class Offer(Document):
    """A head to countersign, with the proof that it continues the one seen before."""

    head: SignedHead
    path: Path64 = ()


class Offers(Document):
    """The heads of all others."""

    offers: Annotated[tuple[Offer, ...], Field(max_length=MAX_PARTIES)]


class Countersigned(Document):
    """Countersignatures by the party whose head each is for."""

    signatures: Annotated[dict[Party, Countersignature], Field(max_length=MAX_PARTIES)]


class CrossSigning:
    """Answers for one node, whose log `recorder` keeps.

    job_of : returns the job of an id if this node accepted it, and raises otherwise.
    """

    def __init__(self, recorder: EvidenceRecorder, job_of: Callable[[str], Job]) -> None:
        self._recorder = recorder
        self._job_of = job_of

    def answer(self, ask: str, job_id: str, body: bytes) -> bytes:
        """Answer one round; EvidenceError for an unknown one and for whatever does not verify."""
        job = self._job_of(job_id)
        if ask == "close":
            return self.close(job_id, job).to_bytes()
        if ask == "prove":
            return self.prove(ProofsWanted.parse(body)).to_bytes()
        if ask == "countersign":
            return self.countersign(Offers.parse(body), job).to_bytes()
        if ask == "keep":
            self.keep(JobReceipt.parse(body), job_id)
            return Nothing().to_bytes()
        raise EvidenceError(f"round {ask[:20]!r} of cross-signing is unknown")

    def close(self, job_id: str, job: Job) -> Closing:
        """Return this party's statement on the job, under a head of today."""
        index = self._recorder.job_finished(job_id, job)
        self._recorder.crossing_until_s = time.monotonic() + CROSSING_S
        self._recorder.renew_head(MAX_AGE_MS // 2)  # half, so that it is young enough when the others look at it
        others = {*job.parties, job.coordinator} - {self._recorder.node.name}
        seen = {name: head.size for name, head in self._recorder.seen.items() if name in others}
        return Closing(statement=Logged.of(self._recorder.log, index), seen=seen)

    def prove(self, wanted: ProofsWanted) -> Proofs:
        """Return proofs that the own head continues earlier ones."""
        log = self._recorder.log
        return Proofs(paths=tuple(tuple(h.hex() for h in log.consistency(n, wanted.size)) for n in wanted.earlier))

    def countersign(self, offered: Offers, job: Job) -> Countersigned:
        """Check every head against the one seen before, then countersign all or none."""
        recorder = self._recorder
        others = {*job.parties, job.coordinator} - {recorder.node.name}
        heads = {offer.head.party: offer for offer in offered.offers}
        if len(heads) != len(offered.offers) or set(heads) - others:
            raise EvidenceError("heads of parties that are not in this job, or one twice", party=recorder.node.name)
        seen, now_ms = recorder.seen, recorder.log.now_ms()
        for name, offer in heads.items():
            if abs(now_ms - offer.head.time_ms) > MAX_AGE_MS:
                raise EvidenceError(
                    f"head of {name} is dated more than ten minutes from now: check the clocks", party=name
                )
            try:
                check_successor(seen.get(name), offer.head, offer.path, recorder.keys)
            except ForkError as fork:
                recorder.keep_fork(fork)
                raise
        # remembered before they are signed: no crash may leave a countersignature on a head that is forgotten
        recorder.keep_heads({name: offer.head for name, offer in heads.items()})
        recorder.crossing_until_s = 0.0
        me = recorder.signer()
        return Countersigned(
            signatures={name: Countersignature.sign(me, offer.head, now_ms) for name, offer in heads.items()}
        )

    def keep(self, receipt: JobReceipt, job_id: str) -> None:
        """Verify the receipt and keep it; its statement of this party must be the one logged here."""
        statements, _ = verify_job(receipt, self._recorder.keys)
        mine = statements.get(self._recorder.node.name)
        index = self._recorder.job_finished(job_id, self._job_of(job_id))
        if receipt.job_id != job_id or mine != JobStatement.parse(self._recorder.log.entry(index)):
            raise EvidenceError("the receipt is of another job, or shows another statement than this party's")
        self._recorder.save_receipt(receipt)


def assemble(job_id: str, job: Job, closings: dict[str, Closing], signed: dict[str, Countersigned]) -> JobReceipt:
    """Return the receipt of what the parties answered; EvidenceError if one is missing or answered for another."""
    statements = []
    for party in (*job.parties, job.coordinator):
        if party not in closings or closings[party].statement.head.party != party:
            raise EvidenceError(f"{party} did not state its part of the job", party=party)
        by = [signed[other].signatures.get(party) for other in sorted(signed) if other != party]
        found = tuple(one for one in by if one is not None)
        statements.append(closings[party].statement.model_copy(update={"countersignatures": found}))
    return JobReceipt(job_id=job_id, request=job.canonical().decode(), statements=tuple(statements))
