"""Firms consent by signed tokens for one firm and signed lists for many; signed revocations end it. All verify offline.

Source    : Ed25519 (RFC 8032); commitments are SHA-256 of a random salt and the firm's id.
Parties   : the issuer (a portal of the bank or of the government, where the firm itself says yes), the bank (carries
            consents), the holder (verifies; its policy lists the issuers' public keys).
Documents : a body (canonical JSON, signed with its kind as label), and for a list the commitments, whose digest stands
            in the body. A token's and a list's salt are in the body, so whoever has the document can test a guessed
            id against it: a holder learns which firms it can guess are on a list. Lists are sorted: order says nothing.
Assumes   : the issuer's key is its own, and it signs for a firm only what the firm agreed to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Self

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from veilscore.arrays import Mask, Words
from veilscore.errors import ConfigError, IdentityError, MessageError, ParameterError
from veilscore.release.scope import LATEST_S, Scope
from veilscore.terms.settings import parse_json
from veilscore.v1 import control_pb2

SALT_BYTES = 32
COMMITMENT_BYTES = 32
MAX_FIRMS = 1 << 24
MAX_BODY_BYTES = 1 << 20
_LEAST_REVOKED = 64  # commitments in every revocation list
_LABEL = b"veilscore/1 consent firm"


_STATED = tuple(f.name for f in fields(Scope))
_SEVERAL = ("tasks", "models", "holders", "fields")
_NOT_OF_ALL = ("holders", "bits", "contract", "fields")  # stated where a consent has them


@dataclass(frozen=True)
class Claim:
    """What the body of a token or list says, verified or not.

    salt : of its commitments.
    once : the token serves one request only.
    id : 128 random bits, hexadecimal; what a revocation names.
    """

    scope: Scope
    salt: bytes = field(repr=False)
    once: bool
    id: str

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """Return what a body says; MessageError where a field is missing or cannot be."""
        try:
            stated: dict[str, Any] = {n: body[n] for n in _STATED if n in body or n not in _NOT_OF_ALL}
            several: dict[str, Any] = {n: tuple(stated[n]) for n in _SEVERAL if n in stated}
            scope = Scope(**stated | several)
            salt, once, number = bytes.fromhex(body["salt"]), body["once"], body["id"]
        except (KeyError, TypeError, ValueError, ParameterError) as error:
            raise MessageError("a consent lacks a field or has one that cannot be") from error
        if len(salt) != SALT_BYTES or not isinstance(once, bool) or not isinstance(number, str) or len(number) != 32:
            raise MessageError("a consent has a field of the wrong size")
        return cls(scope, salt, once, number)


@dataclass(frozen=True)
class Consent:
    """A token or list that was verified; `Claim` has the meaning of its fields.

    commitments : (n, 32) uint8, in the order of their bytes.
    """

    kind: str
    issuer: str
    id: str
    scope: Scope
    once: bool
    salt: bytes = field(repr=False)
    commitments: NDArray[np.uint8] = field(repr=False, compare=False)

    def covers_one(self, firm: str) -> bool:
        """Return whether a token is this firm's (normalised id)."""
        return commit_one(self.salt, firm) == self.commitments.tobytes()

    def covers(self, ids: Iterable[str]) -> Mask:
        """Return which of these firms (normalised ids) are covered, (n,)."""
        return is_in(commit(self.salt, ids), self.commitments)


@dataclass(frozen=True)
class Revocations:
    """A revocation list that was verified.

    revoked : ids of tokens and lists, and single firms of a list as `id:commitment`.
    number : of the issuer's list; it rises with each, and the highest counts for firms.
    firms : (n, 32) commitments under `salt` to firms whose every consent ended, among random ones.
    """

    issuer: str
    issued_s: float
    revoked: frozenset[str]
    number: int = 0
    salt: bytes = field(default=b"", repr=False)
    firms: NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, COMMITMENT_BYTES), np.uint8), repr=False, compare=False
    )

    def covers(self, ids: Iterable[str]) -> Mask:
        """Return which of these firms (normalised ids) ended every consent, (n,)."""
        return is_in(commit(self.salt, ids), self.firms)


@dataclass(frozen=True)
class Signed:
    """A document as it travels and is stored; nothing of it is trusted before `read_consent` or `read_revocations`."""

    body: bytes
    signature: bytes
    commitments: bytes = b""

    def to_text(self) -> str:
        """Return JSON for a file."""
        parts = {"body": self.body.decode(), "signature": base64.b64encode(self.signature).decode()}
        if self.commitments:
            parts["commitments"] = base64.b64encode(self.commitments).decode()
        return json.dumps(parts, indent=1)

    @classmethod
    def from_text(cls, text: str, source: str) -> Self:
        """Return the document of a file; ConfigError if it is none."""
        try:
            parts = parse_json(text)
            blobs = [base64.b64decode(parts.get(name, ""), validate=True) for name in ("signature", "commitments")]
            return cls(parts["body"].encode(), *blobs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{source} is not a consent document: damaged, or another file") from error

    def to_message(self) -> control_pb2.SignedConsent:
        """Return the message for the wire."""
        return control_pb2.SignedConsent(body=self.body, signature=self.signature, commitments=self.commitments)

    @classmethod
    def from_bytes(cls, data: bytes, party: str) -> Self:
        """Return the document of a peer's bytes; MessageError if they are none."""
        try:
            message = control_pb2.SignedConsent.FromString(data)
        except DecodeError as error:
            raise MessageError("a consent cannot be read", party=party) from error
        return cls(message.body, message.signature, message.commitments)


def commit(salt: bytes, ids: Iterable[str]) -> NDArray[np.uint8]:
    """Return commitments (n, 32) to firm ids in their order."""
    base = hashlib.sha256(_LABEL + salt)

    def one(firm: str) -> bytes:
        digest = base.copy()
        digest.update(firm.encode())
        return digest.digest()

    data = b"".join([one(firm) for firm in ids])  # 0.7 us a firm: the hash itself is the cost
    return np.frombuffer(data, np.uint8).reshape(-1, COMMITMENT_BYTES)


def commit_one(salt: bytes, firm: str) -> bytes:
    """Return the commitment to one firm id."""
    return hashlib.sha256(_LABEL + salt + firm.encode()).digest()


def is_in(rows: NDArray[np.uint8], ordered: NDArray[np.uint8]) -> Mask:
    """Return which rows (n, 32) are among `ordered` (m, 32), which is in the order of its bytes."""
    if not len(ordered):
        return np.zeros(len(rows), bool)
    keys, wanted = _as_keys(ordered), _as_keys(rows)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: Mask = keys[place] == wanted
    # equal first halves are decided on all bytes
    found &= (np.ascontiguousarray(ordered)[place] == rows).all(axis=1)
    return found


def _as_keys(rows: NDArray[np.uint8]) -> Words:
    """Return the first 8 bytes of each row as an integer that sorts as the bytes do."""
    return np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)


def _in_order(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return rows[np.argsort(_as_keys(rows), kind="stable")]


# --- the issuer ------------------------------------------------------------------------------------------------------


def issue_token(key: Ed25519PrivateKey, issuer: str, firm: str, scope: Scope, *, once: bool = True) -> Signed:
    """Return the issuer's token for one firm (its normalised id), by default for one request."""
    salt = secrets.token_bytes(SALT_BYTES)
    return _sign(key, "token", issuer, _body(scope, salt, once=once), commit(salt, [firm]).tobytes())


def issue_list(key: Ed25519PrivateKey, issuer: str, firms: Sequence[str], scope: Scope) -> Signed:
    """Return the issuer's list for many firms (normalised ids), which serves as often as needed while it is valid."""
    if not 0 < len(firms) <= MAX_FIRMS or len(set(firms)) != len(firms):
        raise ParameterError(f"a consent list has 1 to {MAX_FIRMS} firms, each once")
    salt = secrets.token_bytes(SALT_BYTES)
    commitments = _in_order(commit(salt, firms))
    return _sign(key, "list", issuer, _body(scope, salt, once=False), commitments.tobytes())


def issue_revocations(
    key: Ed25519PrivateKey,
    issuer: str,
    revoked: Iterable[str],
    now_s: float | None = None,
    *,
    firms: Sequence[str] = (),
    number: int = 0,
) -> Signed:
    """Return the issuer's list of all that it has revoked so far.

    firms : normalised ids of those that end every consent. The list names them by commitments under a fresh salt,
        filled up with random ones to a power of two: neither their number shows, nor which of them were there before.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    n_rows = max(_LEAST_REVOKED, 1 << (len(firms) - 1).bit_length())
    filled = secrets.token_bytes(COMMITMENT_BYTES * (n_rows - len(firms)))
    rows = np.frombuffer(commit(salt, firms).tobytes() + filled, np.uint8).reshape(-1, COMMITMENT_BYTES)
    body = {
        "issued_s": time.time() if now_s is None else now_s,
        "revoked": sorted(set(revoked)),
        "number": number,
        "salt": salt.hex(),
    }
    return _sign(key, "revocations", issuer, body, _in_order(rows).tobytes())


def _body(scope: Scope, salt: bytes, *, once: bool) -> dict[str, Any]:
    stated = {name: getattr(scope, name) for name in _STATED}
    stated = {name: value for name, value in stated.items() if value or name not in _NOT_OF_ALL}
    return {**stated, "id": secrets.token_hex(16), "once": once, "salt": salt.hex()}


def _sign(key: Ed25519PrivateKey, kind: str, issuer: str, body: dict[str, Any], commitments: bytes) -> Signed:
    full = {**body, "kind": kind, "issuer": issuer, "commitments_sha256": hashlib.sha256(commitments).hexdigest()}
    data = json.dumps(full, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return Signed(data, key.sign(_labelled(kind, data)), commitments)


def _labelled(kind: str, body: bytes) -> bytes:
    return b"veilscore/1 consent " + kind.encode() + b"\n" + body


# --- whoever verifies ------------------------------------------------------------------------------------------------


def read_consent(signed: Signed, issuers: dict[str, str]) -> Consent:
    """Check a token or list against the issuers' public keys (name -> 64 hexadecimal digits).

    Raises IdentityError where it is not of these issuers or was changed after it was signed, MessageError where its
        shape is wrong although the signature holds.
    """
    body = _verified(signed, issuers, ("token", "list"))
    claim = Claim.of(body)
    n, left = divmod(len(signed.commitments), COMMITMENT_BYTES)
    if left or not (n == 1 if body["kind"] == "token" else 0 < n <= MAX_FIRMS):
        raise MessageError("a consent has a field of the wrong size")
    commitments = np.frombuffer(signed.commitments, np.uint8).reshape(n, COMMITMENT_BYTES)
    keys = _as_keys(commitments) if n > 1 else commitments[:0]
    if (keys[1:] < keys[:-1]).any():
        raise MessageError("the commitments of a consent list are out of order")
    return Consent(body["kind"], body["issuer"], claim.id, claim.scope, claim.once, claim.salt, commitments)


def read_revocations(signed: Signed, issuers: dict[str, str]) -> Revocations:
    """Check a revocation list; the errors are those of `read_consent`."""
    body = _verified(signed, issuers, ("revocations",))
    revoked, issued_s = body.get("revoked"), body.get("issued_s")
    if not isinstance(revoked, list) or not all(isinstance(r, str) for r in revoked):
        raise MessageError("a revocation list has no list of ids")
    if not isinstance(issued_s, (int, float)) or not 0 <= issued_s <= LATEST_S:
        raise MessageError("a revocation list does not say when it was issued")
    number, salt = body.get("number", 0), body.get("salt", "")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise MessageError("a revocation list has no number that can be")
    n, left = divmod(len(signed.commitments), COMMITMENT_BYTES)
    if left or n > MAX_FIRMS or not isinstance(salt, str) or len(salt) > 2 * SALT_BYTES:
        raise MessageError("a revocation list has a field of the wrong size")
    firms = np.frombuffer(signed.commitments, np.uint8).reshape(n, COMMITMENT_BYTES)
    try:
        salted = bytes.fromhex(salt)
    except ValueError as error:
        raise MessageError("a revocation list has a salt that is none") from error
    keys = _as_keys(firms)
    if (keys[1:] < keys[:-1]).any():
        raise MessageError("the commitments of a revocation list are out of order")
    return Revocations(body["issuer"], float(issued_s), frozenset(revoked), number, salted, firms)


def body_of(signed: Signed) -> dict[str, Any]:
    """Return what a document says, of which nothing is verified; ConfigError if it does not even say its kind."""
    try:
        body: dict[str, Any] = parse_json(signed.body)
        if isinstance(body["kind"], str):
            return body
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("the document does not say of which kind it is") from error
    raise ConfigError("the document does not say of which kind it is")


def claim_of(signed: Signed) -> Claim:
    """Return what a token or list says, of which nothing is verified; ConfigError if it says nothing."""
    try:
        return Claim.of(body_of(signed))
    except MessageError as error:
        raise ConfigError("the consent does not say what it allows: damaged, or another document") from error


@lru_cache(256)
def _public_key(digits: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(digits))


def _verified(signed: Signed, issuers: dict[str, str], kinds: tuple[str, ...]) -> dict[str, Any]:
    most = MAX_BODY_BYTES if "revocations" not in kinds else 64 * MAX_BODY_BYTES  # they name single firms, for ever
    if not 0 < len(signed.body) <= most:
        raise MessageError("the body of a consent is empty or too long")
    try:
        body = parse_json(signed.body)
    except ValueError as error:
        raise MessageError("the body of a consent cannot be read") from error
    if not isinstance(body, dict) or body.get("kind") not in kinds:
        raise MessageError(f"a consent document is not a {' or '.join(kinds)}")
    public = issuers.get(str(body.get("issuer")))
    if public is None:
        raise IdentityError("a consent is of an issuer whose key this holder's policy does not list")
    try:
        _public_key(public).verify(signed.signature, _labelled(body["kind"], signed.body))
    except InvalidSignature as error:
        raise IdentityError("the signature of a consent is not its issuer's, or the consent was changed") from error
    if body.get("commitments_sha256") != hashlib.sha256(signed.commitments).hexdigest():
        raise IdentityError("the firms of a consent are not those its issuer signed")
    return body
