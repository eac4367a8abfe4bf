"""Evidence is made of canonical JSON documents, and of signatures that public keys verify.

A document is UTF-8 JSON, keys sorted, no spaces, no number but integers; other bytes for the same content are refused,
so that a digest or signature over the bytes is one over the content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self
from typing import Protocol as Interface

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veilscore.errors import ConfigError, EvidenceError, IdentityError, VeilscoreError
from veilscore.keys.identity import Certificate, parse_certificate
from veilscore.terms.federation import Federation, load_federation

MAX_DOCUMENT_BYTES = 8 << 20
_MAX_KEYS_BYTES = 4 << 20
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (FIPS 186-5)
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DigestOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
SignatureHex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,80}$")]
Party = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Text = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Time = Annotated[int, Field(ge=0, lt=1 << 47)]  # milliseconds since the epoch, to the year 6429: a calendar has it
Path64 = Annotated[tuple[Digest, ...], Field(max_length=64)]


class Document(BaseModel):
    """Base of every signed or logged document: it has exact keys, exact types and one form."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    def to_bytes(self) -> bytes:
        """Return the canonical form."""
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the document of a canonical form; EvidenceError for anything else."""
        if len(data) > MAX_DOCUMENT_BYTES:
            raise EvidenceError(f"{cls.__name__} of {len(data)} bytes is longer than {MAX_DOCUMENT_BYTES}")
        try:
            found = cls.model_validate_json(data)
        except (ValidationError, RecursionError) as error:
            places = "; ".join(".".join(map(str, e["loc"])) or e["type"] for e in _errors(error)[:3])
            raise EvidenceError(f"{cls.__name__} cannot be read: cut, changed or of another kind ({places})") from error
        if found.to_bytes() != data:
            raise EvidenceError(f"{cls.__name__} is not in canonical form: it was changed after it was made")
        return found


def _errors(error: ValidationError | RecursionError) -> list[Any]:
    return error.errors() if isinstance(error, ValidationError) else []


def canonical(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces; ValueError or TypeError for what JSON does not have."""
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def unhex(path: tuple[str, ...]) -> list[bytes]:
    """Return the hashes of a proof as bytes."""
    return [bytes.fromhex(step) for step in path]


class Signer(Interface):
    """Signs for a party, as `veilscore.keys.identity.Identity` does."""

    @property
    def name(self) -> str:
        """Return the name of the party."""

    def sign(self, data: bytes, purpose: str) -> bytes:
        """Return a signature that is bound to the purpose."""


def signature_of(signer: Signer, data: bytes, purpose: str) -> str:
    """Return a signature, hexadecimal, in its one form: of the two that ECDSA allows, the one with the smaller s."""
    r, s = decode_dss_signature(signer.sign(data, purpose))
    return encode_dss_signature(r, min(s, _ORDER - s)).hex()


def _read_signature(text: str) -> bytes:
    signature = bytes.fromhex(text)
    try:
        r, s = decode_dss_signature(signature)
    except ValueError as error:
        raise IdentityError("a signature is damaged") from error
    # with a second valid signature anybody could give a document another digest
    if 2 * s > _ORDER or encode_dss_signature(r, s) != signature:
        raise IdentityError("a signature is not in its one form: it was changed")
    return signature


class Keys(Interface):
    """Verifies signatures of parties by their public keys."""

    def verify(self, party: str, data: bytes, signature: str, purpose: str, time_ms: int) -> None:
        """Check a signature (hexadecimal) that says it was made at `time_ms`; EvidenceError if it does not hold."""


class FederationKeys:
    """Verifies by the keys of a federation's members, former ones too; `current` gives the federation as it is now."""

    def __init__(self, current: Callable[[], Federation]) -> None:
        self._current = current

    def verify(self, party: str, data: bytes, signature: str, purpose: str, time_ms: int) -> None:
        """Check a signature against every key that the member had at that time."""
        try:
            self._current().keys_of(party).verify(data, _read_signature(signature), purpose, time_ms / 1000)
        except VeilscoreError as error:
            raise EvidenceError(error.message, party=party) from error


class CertificateKeys:
    """Verifies by certificates alone; several of one party stand for its rotated keys."""

    def __init__(self, certificates: list[Certificate]) -> None:
        self._of: dict[str, list[Certificate]] = {}
        for certificate in certificates:
            self._of.setdefault(certificate.name, []).append(certificate)

    def verify(self, party: str, data: bytes, signature: str, purpose: str, time_ms: int) -> None:
        """Check a signature against every certificate of this name that was valid at that time."""
        for certificate in self._of.get(party, ()):
            try:
                certificate.check_valid(time_ms / 1000)
                certificate.verify(data, _read_signature(signature), purpose)
            except VeilscoreError:
                continue
            return
        reason = "is not its own, or what it signed was changed" if party in self._of else "cannot be checked: no key"
        raise EvidenceError(f"signature of {party} for {purpose!r} {reason}", party=party)


class AnyKeys:
    """Verifies by keys out of several files, each tried in turn."""

    def __init__(self, keys: Sequence[Keys]) -> None:
        self._keys = tuple(keys)

    def verify(self, party: str, data: bytes, signature: str, purpose: str, time_ms: int) -> None:
        """Check a signature against each until one holds; else EvidenceError of the first."""
        first: EvidenceError | None = None
        for keys in self._keys:
            try:
                return keys.verify(party, data, signature, purpose, time_ms)
            except EvidenceError as error:
                first = first or error
        raise first or EvidenceError(f"signature of {party} cannot be checked: no public keys were given", party=party)


def load_keys(path: Path) -> Keys:
    """Return the public keys of a federation file or of a file of PEM certificates.

    Raises ConfigError or IdentityError where it is neither.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEYS_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"public keys {path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_KEYS_BYTES:
        raise ConfigError(f"{path} is too long for a file of public keys")
    if not data.lstrip().startswith(_BEGIN):
        federation = load_federation(path)
        return FederationKeys(lambda: federation)
    parts = [part for part in data.split(_END) if _BEGIN in part]
    return CertificateKeys([parse_certificate(part[part.index(_BEGIN) :] + _END + b"\n") for part in parts])
