"""Binds the bank before each attempt: to its seed, its job and the files that it reads.

Source   : docs/adr/0009; a salted hash commitment (the secret seed is in what is hashed), and replay by an auditor.
Parties  : The bank commits to every holder of the session.
Messages : StepCommitment to each holder, before anything else of the step.
Reveals  : Nothing; the digest of this message opens the chain of digests that each holder logs of the attempt.
Assumes  : SHA-256 binds and hides a 256-bit seed.
Aborts   : MessageError on a commitment of wrong size.
"""

from __future__ import annotations

from typing import TypeVar

from veilscore.errors import MessageError
from veilscore.evidence.opening import Opening
from veilscore.v1 import wire_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, Session, receive
from veilscore.wire.randomness import replayable

R = TypeVar("R")
COMMITMENT_BYTES = 32


def bank_committed(session: Session, opening: Opening, protocol: Protocol[R]) -> Protocol[R]:
    """Bank: commit to the opening, then run the role with all secrets drawn from its seed."""
    for holder in session.holders:
        yield Send(holder, pb.StepCommitment(commitment=opening.commitment))
    return (yield from replayable(bytes.fromhex(opening.seed), protocol))


def holder_committed(session: Session, protocol: Protocol[R]) -> Protocol[R]:
    """Holder: take the commitment, then run the role."""
    message = yield from receive(session.bank, pb.StepCommitment)
    if len(message.commitment) != COMMITMENT_BYTES:
        raise MessageError(f"a commitment has {COMMITMENT_BYTES} bytes", party=session.bank)
    return (yield from protocol)
