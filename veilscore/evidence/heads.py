"""A party signs heads of its own log and countersigns those of others.

Source   : signed tree heads of RFC 9162, section 4.10; cosigning as in witnessed transparency logs.
Parties  : every party of a job, and the coordinator.
Messages : SignedHead with a consistency proof from the head that the other saw before; Countersignature.
Reveals  : number of entries and one hash.
Assumes  : one honest party besides the owner: it refuses a second history, and its countersignature shows the first.
Aborts   : ForkError with both signed heads, which together prove that their owner signed two histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import ValidationError

from veilscore.errors import EvidenceError, StateError
from veilscore.evidence.documents import (
    Count,
    Digest,
    DigestOrNone,
    Document,
    Keys,
    Party,
    SignatureHex,
    Signer,
    Time,
    canonical,
    signature_of,
    unhex,
)
from veilscore.evidence.merkle import check_consistency
from veilscore.files.store import JobStore

HEAD = "evidence log head"
COUNTERSIGN = "evidence log countersignature"


class ForkError(EvidenceError):
    """A party signed two heads that do not belong to one log; `heads` prove it."""

    def __init__(self, message: str, heads: tuple[SignedHead, SignedHead]) -> None:
        super().__init__(message, party=heads[0].party)
        self.heads = heads


class SignedHead(Document):
    """A party's signature over its log.

    size : number of entries.
    root : of the Merkle tree over them.
    previous : SHA-256 of the head before it in the log, so that no head can be left out; empty for the first.
    time_ms : when it was signed by the party's clock, milliseconds since the epoch.
    """

    party: Party
    size: Count
    root: Digest
    previous: DigestOrNone
    time_ms: Time
    signature: SignatureHex

    @classmethod
    def sign(cls, signer: Signer, size: int, root: bytes, previous: str, time_ms: int) -> Self:
        """Return a head signed with the party's key."""
        claim = _claim(signer.name, size, root.hex(), previous, time_ms)
        return cls(
            party=signer.name,
            size=size,
            root=root.hex(),
            previous=previous,
            time_ms=time_ms,
            signature=signature_of(signer, claim, HEAD),
        )

    def verify(self, keys: Keys) -> None:
        """Check the signature; EvidenceError if it does not hold."""
        claim = _claim(self.party, self.size, self.root, self.previous, self.time_ms)
        keys.verify(self.party, claim, self.signature, HEAD, self.time_ms)

    @classmethod
    def kept(cls, store: JobStore, party: str) -> Self:
        """Return the head of a party that a store keeps; StateError if it is damaged."""
        try:
            return cls.model_validate(store.load_json(party))
        except ValidationError as error:
            raise StateError(f"the head of {party} kept in {store.path} is damaged; restore it from backup") from error

    @property
    def root_bytes(self) -> bytes:
        """Return the root as 32 bytes."""
        return bytes.fromhex(self.root)


class Countersignature(Document):
    """A party's signature that another's head continues what it saw of that log before."""

    by: Party
    time_ms: Time
    signature: SignatureHex

    @classmethod
    def sign(cls, signer: Signer, head: SignedHead, time_ms: int) -> Self:
        """Return a countersignature; call it only after `check_successor`."""
        signature = signature_of(signer, _counterclaim(signer.name, head, time_ms), COUNTERSIGN)
        return cls(by=signer.name, time_ms=time_ms, signature=signature)

    def verify(self, head: SignedHead, keys: Keys) -> None:
        """Check that it is for this head; EvidenceError if it is not."""
        if self.by == head.party:
            raise EvidenceError(f"{self.by} countersigned its own head, which proves nothing", party=self.by)
        keys.verify(self.by, _counterclaim(self.by, head, self.time_ms), self.signature, COUNTERSIGN, self.time_ms)


def _claim(party: str, size: int, root: str, previous: str, time_ms: int) -> bytes:
    return canonical({"party": party, "size": size, "root": root, "previous": previous, "time_ms": time_ms})


def _counterclaim(by: str, head: SignedHead, time_ms: int) -> bytes:
    return canonical({"by": by, "head": head.model_dump(mode="json"), "time_ms": time_ms})


def check_successor(seen: SignedHead | None, head: SignedHead, path: Sequence[str], keys: Keys) -> None:
    """Check that `head` is signed and continues the head seen before.

    path : consistency proof from `seen` to `head`; empty if nothing was seen before.
    Raises ForkError where it does not continue it although both are signed, EvidenceError on a wrong signature or
        another party's head.
    """
    head.verify(keys)
    if seen is None:
        if path:
            raise EvidenceError("a proof without an earlier head", party=head.party)
        return
    if seen.party != head.party:
        raise EvidenceError(f"head of {head.party} was given for one of {seen.party}", party=head.party)
    if (head.size, head.root) == (seen.size, seen.root):
        return  # the same log, seen meanwhile on another way: a proof from an older head is no proof against it
    try:
        check_consistency(seen.size, seen.root_bytes, head.size, head.root_bytes, unhex(tuple(path)))
    except EvidenceError as error:
        if head.size > seen.size or (head.size < seen.size and head.time_ms <= seen.time_ms):
            # the proof may have been lost or changed on the way, and an older head may have come after a newer one
            raise EvidenceError(
                f"head of {head.party} is not countersigned: {error.message}", party=head.party
            ) from error
        raise ForkError(f"{head.party} signed two histories of its log: {error.message}", (seen, head)) from error
