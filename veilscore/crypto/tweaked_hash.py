"""The hash of wire labels behind garbling and transfers: pi(y) xor y with y = sigma(label) xor tweak.

Source: Guo, Katz, Wang and Yu 2020. sigma(l, r) = (l xor r, l) is a linear orthomorphism, pi AES-128 under a public
    key, one for each array of labels; tweaks count up, and none is used twice under one key. An adversary that tries
    2^k blocks finds the offset between labels with chance 2^k q / 2^127, where q counts the hashes under one key alone
    (Guo et al. 2020b): hence a key an array, not one for the billion gates of a session.

With AES instructions a label is hashed where it is used, in one pass of compiled code (`hash_label`); elsewhere OpenSSL
permutes whole arrays. Both give the same bits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from veilscore.arrays import Words
from veilscore.crypto import aes
from veilscore.crypto.aes import encrypt, expand_key
from veilscore.kernels import inlined, kernel

Labels = Words

NO_OFFSET: Labels = np.zeros(2, np.uint64)


@dataclass(frozen=True)
class ArrayHash:
    """The hash of one array of labels: a public key, as bytes and as compiled code takes it, and the first tweak."""

    key: bytes
    first: np.uint64

    @property
    def words(self) -> NDArray[np.uint32]:
        """The key for compiled code."""
        return np.frombuffer(self.key, "<u4")

    @cached_property
    def _permutation(self) -> CipherContext:
        # single blocks under a public key are the point: it is a permutation, not a mode of encryption
        return Cipher(algorithms.AES(self.key), modes.ECB()).encryptor()  # noqa: S305

    def digests(self, labels: Labels, offset: Labels, *, start: int = 0, step: int = 1) -> Labels:
        """Hash labels xor offset (n, 2); label i goes with tweak first + start + i step."""
        tweak, out = self.first + np.uint64(start), np.empty_like(labels)
        if aes.has_aes():
            _digests(labels, offset, tweak, np.uint64(step), self.words, out)
            return out
        _blocks(labels, offset, tweak, np.uint64(step), out)
        permuted = np.empty(out.size + 2, np.uint64)  # OpenSSL wants room for a block more than it writes
        self._permutation.update_into(out.reshape(-1).view(np.uint8).data, permuted.view(np.uint8).data)
        out ^= permuted[: out.size].reshape(out.shape)
        return out


class TweakedHash:
    """The hashes of a session; both sides count alike.

    label : names protocol, session and purpose. No two hashes under one offset may have the same.
    """

    def __init__(self, label: bytes) -> None:
        self._label = hashlib.shake_256(b"veilscore/garbled/v2" + label).digest(32)
        self.tweak = 0

    def advance(self, n_tweaks: int) -> ArrayHash:
        """Return the hash of the next array, which uses up to so many tweaks."""
        first = np.uint64(self.tweak)
        return ArrayHash(self.key(n_tweaks), first)

    def key(self, n_tweaks: int) -> bytes:
        """Return the key of the next array alone, which uses up to so many tweaks."""
        key = hashlib.shake_256(self._label + self.tweak.to_bytes(8, "little")).digest(aes.KEY_BYTES)
        self.tweak += n_tweaks
        return key


@inlined
def hash_label(low: Any, high: Any, tweak: Any, schedule: Any) -> Any:
    """Hash of one label, where there are AES instructions."""
    y0, y1 = low ^ high, low ^ tweak
    p0, p1 = encrypt(y0, y1, schedule)
    return p0 ^ y0, p1 ^ y1


@kernel("(u8[:,::1], u8[::1], u8, u8, Array(u4, 1, 'C', True), u8[:,::1])", needs=aes.has_aes)
def _digests(labels: Any, offset: Any, tweak: Any, step: Any, key: Any, out: Any) -> None:
    schedule = expand_key(key)
    for i in range(labels.shape[0]):
        low, high = labels[i, 0] ^ offset[0], labels[i, 1] ^ offset[1]
        out[i, 0], out[i, 1] = hash_label(low, high, tweak, schedule)
        tweak += step


@kernel("(Array(u8, 2, 'C', True), Array(u8, 1, 'C', True), u8, u8, u8[:,::1])", strict=True)
def _blocks(labels: Any, offset: Any, tweak: Any, step: Any, out: Any) -> None:
    """What pi is applied to: sigma(label) xor tweak."""
    for i in range(labels.shape[0]):
        low, high = labels[i, 0] ^ offset[0], labels[i, 1] ^ offset[1]
        out[i, 0], out[i, 1] = low ^ high, low ^ tweak
        tweak += step
