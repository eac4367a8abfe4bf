"""A person's word given with a passkey in a browser, which the person's own key has vouched for.

Source  : W3C Web Authentication, level 2, section 7.2 (the signature over authenticator data and client data).
Protects: the word is for this content and purpose, of an authenticator that verified its user; that this is the
          person's passkey says the person's own key of the federation, so that whoever hands out links to a console
          cannot speak for others.
Does not: tell when it was given; what it must be fresh for stands in the content.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, fields

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from veilscore.errors import IdentityError
from veilscore.keys.identity import Certificate, Identity

_VOUCH = "passkey of a console"
_PRESENT, _VERIFIED = 0x01, 0x04  # flags of the authenticator data
_FLAGS_AT = 32


def challenge_of(content: bytes, purpose: str) -> bytes:
    """Return what a passkey signs as its challenge, for content of one purpose."""
    return hashlib.sha256(b"veilscore passkey word 1\n" + purpose.encode() + b"\n" + content).digest()


def vouch_for(person: Identity, party: str, key: bytes) -> bytes:
    """Return a person's signature that a passkey of one party's console is the person's; key : SubjectPublicKeyInfo."""
    return person.sign(_vouched(party, key), _VOUCH)


def check_vouch(person: Certificate, party: str, key: bytes, vouch: bytes) -> None:
    """Check such a signature; IdentityError if it is not the person's, or of another passkey or party."""
    person.verify(_vouched(party, key), vouch, _VOUCH)


def _vouched(party: str, key: bytes) -> bytes:
    return json.dumps({"party": party, "key": key.hex()}, sort_keys=True).encode()


@dataclass(frozen=True)
class PasskeyWord:
    """What a browser brought: a passkey's signature, with all that it takes to verify it later.

    key : SubjectPublicKeyInfo, DER; vouch : by the person's own key; the rest as WebAuthn has it.
    """

    key: bytes
    vouch: bytes
    authenticator_data: bytes
    client_data: bytes
    signature: bytes

    @staticmethod
    def looks_so(stored: bytes) -> bool:
        """Return whether this is such a word, and not a signature of a person's own key (which is DER)."""
        return stored.startswith(b"{")

    def to_bytes(self) -> bytes:
        """Return it as JSON, to be kept."""
        return json.dumps({name: value.hex() for name, value in asdict(self).items()}).encode()

    @classmethod
    def from_bytes(cls, stored: bytes) -> PasskeyWord:
        """Return what was kept; IdentityError if it is damaged."""
        try:
            found = json.loads(stored)
            return cls(*(bytes.fromhex(found[field.name]) for field in fields(cls)))
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityError("a word that was given with a passkey is damaged") from error

    def verify(self, person: Certificate, party: str, content: bytes, purpose: str) -> None:
        """Check that the person gave this word for this content and purpose; IdentityError if not."""
        check_vouch(person, party, self.key, self.vouch)
        wanted = base64.urlsafe_b64encode(challenge_of(content, purpose)).rstrip(b"=").decode()
        try:
            client = json.loads(self.client_data)
            holds = client["type"] == "webauthn.get" and client["challenge"] == wanted
            flags = self.authenticator_data[_FLAGS_AT]
            holds = holds and flags & _PRESENT and flags & _VERIFIED
            self._check_signature()
        except (ValueError, KeyError, TypeError, IndexError, InvalidSignature) as error:
            raise IdentityError(
                f"a word for {purpose!r} is not of {person.name}'s passkey", party=person.name
            ) from error
        if not holds:
            raise IdentityError(f"{person.name}'s passkey signed something else than {purpose!r}", party=person.name)

    def _check_signature(self) -> None:
        signed = self.authenticator_data + hashlib.sha256(self.client_data).digest()
        key = load_der_public_key(self.key)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(self.signature, signed, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(self.signature, signed, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(self.signature, signed)
        else:
            raise InvalidSignature("a kind of key that no console takes")
