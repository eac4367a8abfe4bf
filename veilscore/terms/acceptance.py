"""A party signs that it accepts or refuses one job.

The signature covers the job's id and digest, the party, its answer, and what it was bound to (code, data set, model and
policy: `veilscore.release.binding`), so that nobody can use it for another job or turn a refusal into an acceptance.
"""

from __future__ import annotations

from veilscore.errors import ProtocolError
from veilscore.keys.identity import Certificate, Identity
from veilscore.keys.key_history import PartyKeys
from veilscore.terms.job import Job
from veilscore.v1 import control_pb2

PURPOSE = "job acceptance"
_MOST_BOUND = 4096


def sign_acceptance(
    identity: Identity, job_id: str, job: Job, *, accepted: bool, reason: str, bound: str = ""
) -> control_pb2.Acceptance:
    """Return the signed answer of the party of `identity`."""
    data = _signed_bytes(job_id, identity.name, job.sha256, bound, accepted=accepted)
    return control_pb2.Acceptance(
        job_id=job_id,
        party=identity.name,
        accepted=accepted,
        reason=reason,
        job_sha256=job.sha256,
        bound=bound,
        signature=identity.sign(data, PURPOSE),
    )


def verify_acceptance(
    answer: control_pb2.Acceptance, certificate: Certificate | PartyKeys, job_id: str, job: Job
) -> None:
    """Check that `answer` is this party's word on exactly this job.

    Raises ProtocolError where it is about another job or party, IdentityError where the signature is wrong.
    """
    if (answer.job_id, answer.party, answer.job_sha256) != (job_id, certificate.name, job.sha256):
        raise ProtocolError(f"answer of {certificate.name} is about another job or party", party=certificate.name)
    data = _signed_bytes(job_id, answer.party, job.sha256, answer.bound, accepted=answer.accepted)
    certificate.verify(data, answer.signature, PURPOSE)


def _signed_bytes(job_id: str, party: str, sha256: bytes, bound: str, *, accepted: bool) -> bytes:
    if len(bound) > _MOST_BOUND:
        raise ProtocolError("what an acceptance is bound to is too long", party=party)
    fields = (job_id.encode(), party.encode(), sha256, b"accepted" if accepted else b"refused", bound.encode())
    return b"".join(len(field).to_bytes(2, "little") + field for field in fields)
