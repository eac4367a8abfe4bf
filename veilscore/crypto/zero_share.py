"""Shares of zero between holders, so that whoever adds up their partials sees the sum only.

Source: pairwise masks as in Bonawitz et al. 2017, without dropouts; each pair agrees by X25519 and
HKDF-SHA256 on a key; the ChaCha20 stream of HMAC-SHA256(key, context) is added by one of the two and
subtracted by the other. Security notion: the shares of any holders but one are uniform to who lacks a key
of those left out. It does *not* protect two sums that were opened with the same context: their difference
shows. One context, one opening.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from veilscore.arrays import Integers, Words
from veilscore.errors import MessageError, ParameterError

_KEY_BYTES = 32
_MAX_MODULUS = 1 << 62  # so that sums of two fit int64


@dataclass(frozen=True)
class PairwiseKey:
    """Key that exactly two holders share."""

    key: bytes = field(repr=False)


def pairwise_key(private: X25519PrivateKey, peer_public: bytes, label: bytes) -> PairwiseKey:
    """Agree on a key with another holder.

    peer_public : 32 bytes, authenticated by the federation (its sender is known).
    label : the same on both sides; names the two holders and what the key is for.
    Raises MessageError: not a public key, or one of small order.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        raise MessageError("a holder's key for zero-shares is not a valid X25519 key") from error
    return PairwiseKey(HKDF(SHA256(), _KEY_BYTES, salt=None, info=label).derive(shared))


def share_context(request_id: str, parties: Iterable[str], model_hash: bytes, scored: bytes) -> bytes:
    """Bytes that bind one zero-share to the request, the holders that take part, the model, and what is scored.

    scored : online the firm's normalised id, in a batch the rows. Holders that were asked for different firms under one
        request have shares that do not cancel: a bank gets a uniform number, not the part of one of them.
    """
    fields = [
        b"veilscore/1 zero-share",
        request_id.encode(),
        model_hash,
        scored,
        *(p.encode() for p in sorted(parties)),
    ]
    return b"".join(len(f).to_bytes(4, "little") + f for f in fields)


def zero_share(party: str, keys: Mapping[str, PairwiseKey], context: bytes, n_records: int, modulus: int) -> Words:
    """Share of zero: over `party` and all holders of `keys` they add up to 0, and any fewer are uniform.

    party : this holder's name.
    keys : the other holders that take part -> key with each; empty with one holder, whose share is zero.
    context : `share_context`, used for one opening only.
    modulus : below 2^62; the ring of the partials.
    Returns uint64 (n_records,) in [0, modulus).
    """
    if party in keys:
        raise ParameterError(f"{party} cannot share a key with itself")
    if not 1 < modulus < _MAX_MODULUS:
        raise ParameterError(f"a zero-share's modulus is between 2 and 2^62, got {modulus}")
    total = np.zeros(n_records, np.int64)
    for peer, pairwise in keys.items():
        stream = _stream(hmac.digest(pairwise.key, context, "sha256"), n_records, modulus)
        total = (total + (stream if party < peer else -stream)) % modulus
    return total.astype(np.uint64)


def uniform_masks(seed: bytes, context: bytes, n: int, modulus: int) -> Words:
    """Return masks (n,) uniform in [0, modulus) that two parties draw alike from a secret seed, one context once."""
    return _stream(hmac.digest(seed, context, "sha256"), n, modulus).astype(np.uint64)


def _stream(key: bytes, n: int, modulus: int) -> Integers:
    """Draw n values uniform in [0, modulus) from ChaCha20, by rejection; the same key gives the same."""
    mask = np.uint64((1 << modulus.bit_length()) - 1)
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    found = np.zeros(0, np.uint64)
    while len(found) < n:
        words = np.frombuffer(cipher.update(bytes(8 * (n - len(found) + 16))), "<u8") & mask
        found = np.concatenate([found, words[words < modulus]])
    return found[:n].astype(np.int64)
