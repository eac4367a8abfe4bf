"""A key statement says that a member goes over to a new key or address, or that a key is no longer to be trusted.

A statement is signed by whom it binds and carries everything needed to check it, so that it can be passed on by
anybody. The list of them stands in the federation file under the certificates first pinned; `KeyHistory`
(key_history.py) says what follows from it. Any two nodes with one set of statements come to one result.

Source: the shape of RFC 5011 (old key signs new, both accepted for a time) and of RFC 5280 (revocation by date).
Signed by: a rotation by the old key and the new one; a move by the key in use; a revocation by the member's recovery
key, which its certificate commits to, or (one statement each) by a majority of the other nodes of the federation; one
that also names the key that goes on, by all of them.
Does not protect: against a thief of a key before anybody revokes it; a recovery key that is kept beside the key.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from veilscore.errors import ConfigError, IdentityError
from veilscore.keys.identity import Certificate, Identity, check_address, fingerprint_of_key

PURPOSE = "key statement"
DAY_S = 86_400
MAX_OVERLAP_S = 90 * DAY_S
MAX_STATEMENT_BYTES = 16 * 1024
_LABEL = b"veilscore recovery statement 1\n"  # a recovery key signs nothing else
_HEX = r"^[0-9a-f]{64}$"
_SIGNATURE = r"^([0-9a-f]{2}){8,80}$"
_PEM_CHARACTERS = 4096
_LATEST_MS = 1 << 47  # in the year 6429: with an overlap a date stays within the calendar
K = TypeVar("K", bound="KeyStatement")


class KeyStatement(BaseModel):
    """Replaces or revokes a key, by signature."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Literal["rotate", "revoke", "move"] = Field(
        description="rotate: to a new key; revoke: it is not trusted any more; move: the node is reached elsewhere"
    )
    federation: str = Field(max_length=200, description="name of the federation in which it holds")
    member: str = Field(max_length=63, description="whose key")
    fingerprint: str = Field(pattern=_HEX, description="which key: SHA-256 of its certificate")
    certificate: str | None = Field(
        default=None, max_length=_PEM_CHARACTERS, description="of the key that goes on, PEM; null where none does"
    )
    date_ms: int = Field(ge=0, le=_LATEST_MS, description="when it was signed, milliseconds since 1970 (UTC)")
    overlap_s: int = Field(
        default=0, ge=0, le=MAX_OVERLAP_S, description="seconds for which the old key stays accepted"
    )
    address: str | None = Field(default=None, max_length=300, description="move: host:port where peers reach the node")
    by: str = Field(max_length=63, description="who signed: the member, or another one that asks for the revocation")
    signer: str = Field(pattern=_HEX, description="fingerprint of the key that signed, or SHA-256 of the recovery key")
    recovery_key: str | None = Field(default=None, max_length=_PEM_CHARACTERS, description="recovery public key, PEM")
    signature: str = Field(default="00" * 8, pattern=_SIGNATURE, description="signature, hexadecimal")
    successor_signature: str | None = Field(default=None, pattern=_SIGNATURE, description="rotate: of the new key")

    @field_validator("address")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        try:
            return address if address is None else check_address(address)
        except ConfigError as error:
            raise ValueError(error.message) from error

    @property
    def date_s(self) -> float:
        """Return when it was signed, seconds since the epoch."""
        return self.date_ms / 1000

    @property
    def ends_s(self) -> float:
        """Return when the old key of a rotation stops being accepted, seconds since the epoch."""
        return self.date_s + self.overlap_s

    def signed_bytes(self) -> bytes:
        """Return what the signatures cover: every other field, as canonical JSON."""
        absent = {"address"} if self.address is None else set()  # as statements were before nodes could move
        content = self.model_dump(exclude={"signature", "successor_signature", *absent})
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def to_bytes(self) -> bytes:
        """Return the form in which nodes pass it on."""
        return self.model_dump_json(exclude_none=True).encode()

    @property
    def order(self) -> tuple[int, bytes]:
        """Return date and digest, which tell two statements apart; ECDSA signatures do not, one text having many."""
        return self.date_ms, hashlib.sha256(self.signed_bytes()).digest()

    def verify_member(self, certificate: Certificate) -> None:
        """Check that the key of `certificate` signed; IdentityError otherwise."""
        certificate.verify(self.signed_bytes(), bytes.fromhex(self.signature), PURPOSE)

    def verify_successor(self, certificate: Certificate) -> None:
        """Check that the new key signed too; IdentityError otherwise."""
        certificate.verify(self.signed_bytes(), bytes.fromhex(self.successor_signature or ""), PURPOSE)

    def verify_recovery(self, commitment: str | None) -> None:
        """Check that the recovery key with this SHA-256 signed; IdentityError otherwise."""
        try:
            key = serialization.load_pem_public_key((self.recovery_key or "").encode())
            if not isinstance(key, ec.EllipticCurvePublicKey) or fingerprint_of_key(key) != commitment:
                raise IdentityError(f"the recovery key is not the one that {self.member}'s certificate commits to")
            key.verify(bytes.fromhex(self.signature), _LABEL + self.signed_bytes(), ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise IdentityError(f"signature of {self.member}'s recovery key is wrong") from error


def parse_statement(data: bytes, sender: str) -> KeyStatement:
    """Return the statement that a peer sent; IdentityError if it is none. `KeyHistory` checks its signatures."""
    if len(data) > MAX_STATEMENT_BYTES:
        raise IdentityError(f"key statement from {sender} has {len(data)} bytes, more than {MAX_STATEMENT_BYTES}")
    try:
        return KeyStatement.model_validate_json(data)
    except ValidationError as error:
        raise IdentityError(f"key statement from {sender} is malformed") from error


def rotate(old: Identity, new: Identity, federation: str, overlap_s: int, date_ms: int) -> KeyStatement:
    """Return the statement by which `old` names `new` as its successor."""
    statement = KeyStatement(
        kind="rotate",
        federation=federation,
        member=old.name,
        fingerprint=old.fingerprint,
        certificate=new.certificate.pem.decode(),
        date_ms=date_ms,
        overlap_s=overlap_s,
        by=old.name,
        signer=old.fingerprint,
    )
    return _signed(statement, old.sign(statement.signed_bytes(), PURPOSE), new)


def move(own: Identity, address: str, federation: str, date_ms: int) -> KeyStatement:
    """Return the statement by which a node says where it is reached from now on."""
    statement = KeyStatement(
        kind="move",
        federation=federation,
        member=own.name,
        fingerprint=own.fingerprint,
        date_ms=date_ms,
        address=address,
        by=own.name,
        signer=own.fingerprint,
    )
    return _signed(statement, own.sign(statement.signed_bytes(), PURPOSE), None)


def revoke_by_vote(
    voter: Identity,
    member: str,
    fingerprint: str,
    federation: str,
    date_ms: int,
    replacement: Certificate | None = None,
) -> KeyStatement:
    """Return one node's vote that another member's key is not to be trusted; a majority of them revokes it.

    replacement : the key that goes on; it does once all other nodes have named the same one.
    """
    statement = KeyStatement(
        kind="revoke",
        federation=federation,
        member=member,
        fingerprint=fingerprint,
        certificate=replacement.pem.decode() if replacement else None,
        date_ms=date_ms,
        by=voter.name,
        signer=voter.fingerprint,
    )
    return _signed(statement, voter.sign(statement.signed_bytes(), PURPOSE), None)


def revoke_by_recovery(
    key: ec.EllipticCurvePrivateKey,
    member: str,
    fingerprint: str,
    federation: str,
    date_ms: int,
    replacement: Identity | None = None,
) -> KeyStatement:
    """Return a revocation by the member's own recovery key; `replacement` is the key it goes on with."""
    public = key.public_key()
    statement = KeyStatement(
        kind="revoke",
        federation=federation,
        member=member,
        fingerprint=fingerprint,
        certificate=replacement.certificate.pem.decode() if replacement else None,
        date_ms=date_ms,
        by=member,
        signer=fingerprint_of_key(public),
        recovery_key=public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
    )
    signature = key.sign(_LABEL + statement.signed_bytes(), ec.ECDSA(hashes.SHA256()))
    return _signed(statement, signature, replacement)


def _signed(statement: K, signature: bytes, successor: Identity | None) -> K:
    second = successor.sign(statement.signed_bytes(), PURPOSE).hex() if successor else None
    return statement.model_copy(update={"signature": signature.hex(), "successor_signature": second})
