"""Receipts of single scores at the bank: made of its statement in the log after a score has left, kept for 90 days."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import Message

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import canonical, digest
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.log import FOLDER, Log
from veilscore.evidence.receipt import SALT_BYTES, Logged, OnlineReceipt, commitment
from veilscore.files.journal import Journal
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import pack_fields, unpack_fields

ONLINE_FILE = "online.db"


@dataclass(frozen=True, repr=False)
class OnlineAsked:
    """The part of a bank's statement on one score that is known before the score is.

    body : the request as canonical JSON; `commitment` is to it, under `salt`.
    consent : digest of the consent document; empty if none came.
    """

    request_id: str
    salt: bytes
    body: bytes
    commitment: str
    consent: str

    @classmethod
    def of(cls, request: pb.ScoreRequest) -> OnlineAsked:
        """Return it for a request; it is made while the holders compute."""
        salt, body = secrets.token_bytes(SALT_BYTES), as_json(request)
        consent = digest(request.consent) if request.consent else ""
        return cls(request.request_id, salt, body, commitment(salt, body), consent)

    def left(self, index: int) -> bytes:
        """Return what a receipt is made of later; `index` is that of the statement in the log."""
        return pack_fields(index.to_bytes(8, "little"), self.salt, self.body)


@dataclass(frozen=True, repr=False)
class Receiptless:
    """A score that has left and whose receipt is still to be made.

    response : as it left; left : from `scores_released`; the log may have been closed and opened since.
    output : canonical JSON of the response, where it is at hand.
    """

    request_id: str
    response: bytes
    left: bytes
    output: bytes = b""

    def receipt(self, log: Log, head: SignedHead) -> OnlineReceipt:
        """Return the receipt, proved by a head; EvidenceError where the log is another one now."""
        number, salt, body = unpack_fields(self.left, 3)
        output = self.output or as_json(pb.ScoreResponse.FromString(self.response))
        index = int.from_bytes(number, "little")
        entry = log.entry(index)
        if not all(commitment(salt, shown).encode() in entry for shown in (body, output)):
            raise EvidenceError("the log is not the one of this score: restore it from backup")
        # made of what this node has just written: its form is checked by whoever reads it
        path = tuple(step.hex() for step in log.inclusion(index, head.size))
        logged = Logged.model_construct(entry=entry.decode(), index=index, path=path, head=head)
        return OnlineReceipt.model_construct(
            statement=logged, request=body.decode(), output=output.decode(), salt=salt.hex()
        )


def as_json(message: Message) -> bytes:
    """Return the canonical JSON of a request or response, without the consent document in it."""
    body = json_format.MessageToDict(message, preserving_proto_field_name=True)
    body.pop("consent", None)
    return canonical(body)


def online_receipt(home: Path, request_id: str) -> OnlineReceipt:
    """Return the receipt of a score released online, from the bank's home; EvidenceError if there is none."""
    path = home / FOLDER / ONLINE_FILE
    if not path.is_file():
        raise EvidenceError(f"no scores were released online from {home}")
    journal = Journal(path)
    try:
        kept = journal.get(request_id)
    finally:
        journal.close()
    if kept is None:
        raise EvidenceError(
            "no score was released online under this request id, or more than 90 days ago; of a score just released, "
            "the receipt is made in a moment, or when the node starts again"
        )
    return OnlineReceipt.parse(kept[1])
