"""How the coordinator asks one party whether it accepts a job."""

from __future__ import annotations

from coordinator.state_tables import AcceptanceRow
from veilscore.errors import PeerError
from veilscore.fabric.fabric import Fabric
from veilscore.terms.acceptance import verify_acceptance
from veilscore.terms.federation import Member
from veilscore.terms.job import Job
from veilscore.v1 import control_pb2


async def ask(fabric: Fabric, party: Member, job_id: str, job: Job, timeout_s: float) -> AcceptanceRow:
    """Propose a job to a party, and check its answer.

    Raises PeerError where the party cannot be reached or its signature is wrong, and ProtocolError where its answer is
    about another job.
    """
    proposal = control_pb2.JobProposal(job_id=job_id, job_yaml=job.canonical().decode(), job_sha256=job.sha256)
    try:
        answer = await fabric.call(party.name, "Propose", proposal, control_pb2.Acceptance, timeout_s=timeout_s)
    except PeerError as error:
        raise type(error)(
            f"{party.name} did not answer the proposal: {error.message}; see that its node runs, then "
            f"`veilscore job resume {job_id}`",
            party=party.name,
        ) from error
    if answer.pending:
        return AcceptanceRow(party.name, "pending", answer.reason[:1000], b"", b"")
    verify_acceptance(answer, fabric.federation.keys_of(party.name), job_id, job)
    status = "accepted" if answer.accepted else "refused"
    return AcceptanceRow(party.name, status, answer.reason[:1000], answer.job_sha256, answer.signature, answer.bound)
