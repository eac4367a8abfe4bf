"""Randomness of the kernel: secret streams of a fresh key, public elements from a labelled XOF.

Both expand a 256-bit key with AES-CTR. A `SecretStream` takes its key from `veilscore.wire.randomness` and lives
for one query, so that no two queries share a secret. A `PublicStream` takes its key
from SHAKE-256 of a label, so that no peer chooses a public ring element (FrodoKEM expands its matrix alike).
"""

from __future__ import annotations

import hashlib
import math
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import ParameterError, SecretReuseError
from veilscore.files.machine import process_id
from veilscore.kernels import inlined, kernel
from veilscore.lattice.params import DITHER_SD, T
from veilscore.wire.randomness import secret_bytes

XOF_DOMAIN = b"veilscore/lattice/v1"
KEY_BYTES = 32
_CHUNK = 1 << 16  # words drawn at once: bounds the zeros kept for the cipher
_ZEROS = bytes(8 * _CHUNK)


class _Stream:
    """AES-256-CTR key stream read as little-endian words."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._process = process_id()

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return f"<{type(self).__name__}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        """Refuse copies, which would repeat the stream."""
        raise SecretReuseError("a random stream cannot be copied or stored; make a new one")

    def words(self, count: int) -> Words:
        """Return `count` uniform 64-bit words (a writable array)."""
        if process_id() != self._process:
            raise SecretReuseError("a random stream was carried into another process; make a new one there")
        out = np.empty(count + 2, np.uint64)  # OpenSSL wants room for a block more than it writes
        buffer = out.view(np.uint8).data
        for start in range(0, count, _CHUNK):
            size = 8 * min(_CHUNK, count - start)
            self._cipher.update_into(memoryview(_ZEROS)[:size], buffer[8 * start : 8 * start + size + 15])
        return out[:count]

    def uniform(self, shape: tuple[int, ...], primes: tuple[int, ...]) -> Limbs:
        """Return residues (..., L, n) uniform below each prime, by rejection."""
        if shape[-2] != len(primes):
            raise ParameterError(f"limbs of shape {shape} do not match {len(primes)} primes")
        out = np.empty(shape, np.uint32)
        for part in out.reshape(-1, *shape[-2:]):
            for limb, p in zip(part, primes, strict=True):
                filled = 0
                while filled < limb.size:
                    need = limb.size - filled
                    words = self.words(need // 2 + need // 64 + 1).view(np.uint32)
                    mask = np.uint32((1 << p.bit_length()) - 1)
                    filled += _accept_below(words, mask, np.uint32(p), limb[filled:])
        return out


class PublicStream(_Stream):
    """Public pseudo-random ring elements of a label.

    label : who, what and which session the elements are for; both parties must give the same bytes.
    purpose : the role of the element within the protocol.
    """

    def __init__(self, label: bytes, purpose: bytes) -> None:
        if not label:
            raise ParameterError("a public element needs a label that names protocol, session and purpose")
        parts = (XOF_DOMAIN, label, purpose)
        framed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        super().__init__(hashlib.shake_256(framed).digest(KEY_BYTES))


class SecretStream(_Stream):
    """Secrets, noise and masks of one query, under a fresh key."""

    def __init__(self) -> None:
        super().__init__(secret_bytes(KEY_BYTES))

    def ternary(self, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Return integers uniform in {-1, 0, 1}."""
        out = np.empty(math.prod(shape), np.int8)
        filled = 0
        while filled < out.size:
            need = out.size - filled
            raw = self.words(need // 8 + need // 512 + 1).view(np.uint8)
            filled += _accept_ternary(raw, out[filled:])
        return out.reshape(shape)

    def noise(self, shape: tuple[int, ...]) -> NDArray[np.int8]:
        """Return centred binomial integers with eta = 21 (variance 10.5)."""
        words = self.words(math.prod(shape))
        out = np.empty(words.size, np.int8)
        _centred_binomial(words, out)
        return out.reshape(shape)

    def gaussian(self, shape: tuple[int, ...], sd: float) -> Integers:
        """Return Gaussian integers: normal values of standard deviation `sd`, rounded."""
        words = self.words(2 * math.prod(shape)).reshape(2, -1)
        # 53 bits, moved off zero so that the logarithm is finite
        uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        normal = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
        rounded: Integers = np.rint(sd * normal).astype(np.int64)
        return rounded.reshape(shape)


def dither(shape: tuple[int, ...], modulus: int = T, sd: float = DITHER_SD) -> Words:
    """Return fresh rounded Gaussian noise modulo `modulus`: add it to a histogram share before it is opened."""
    residues: Words = (SecretStream().gaussian(shape, sd) % np.int64(modulus)).astype(np.uint64)
    return residues


@kernel("(u4[::1], u4, u4, u4[::1])")
def _accept_below(words: Limbs, mask: np.uint32, p: np.uint32, out: Limbs) -> int:
    filled = 0
    for word in words:
        value = word & mask
        if filled < out.size:
            out[filled] = value
            filled += value < p
    return filled


@kernel("(u1[::1], i1[::1])")
def _accept_ternary(raw: NDArray[np.uint8], out: NDArray[np.int8]) -> int:
    filled = 0
    for byte in raw:
        # 255 = 3 * 85, so bytes below it are uniform modulo 3
        if byte < 255 and filled < out.size:
            out[filled] = np.int8(byte % 3) - np.int8(1)
            filled += 1
    return filled


@kernel("(u8[::1], i1[::1])")
def _centred_binomial(words: Words, out: NDArray[np.int8]) -> None:
    low = np.uint64((1 << 21) - 1)
    for i in range(words.size):
        out[i] = _popcount(words[i] & low) - _popcount((words[i] >> np.uint64(21)) & low)


@inlined
def _popcount(x: np.uint64) -> np.int64:
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))
