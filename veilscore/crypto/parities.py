"""Parities of long columns of bits, by which extensions of transfers compare columns: random sums over GF(2^128).

Source: Keller, Orsini and Scholl 2015; Ames, Hazay, Ishai and Venkitasubramaniam 2017 (a random sum of words is as far
    from a code as the words are, but with chance 2^-121, up to a third of the code's distance); Fiat and Shamir 1986
    (the message draws the coefficients).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import aes
from veilscore.crypto.aes import multiply
from veilscore.kernels import inlined, kernel
from veilscore.wire.protocol import pack_fields

SPARE = 2  # words of random bits at the end of a column, which mask its 128 parities


def draw_coefficients(label: bytes, number: int, data: Words) -> Words:
    """Return the coefficients (n, 2) that a message's columns (c, words) draw: nobody knows them before all are fixed.

    label, number : of the session and of the message in it.
    """
    drawn_by = hashlib.sha256(pack_fields(b"veilscore/parities/v3", label, number.to_bytes(8, "little")))
    drawn_by.update(data.data)
    n = (data.shape[1] - SPARE + 1) // 2
    return np.frombuffer(hashlib.shake_256(drawn_by.digest()).digest(16 * n), "<u8").reshape(n, 2)


def parities(coefficients: Words, columns: Words) -> Words:
    """Return 128 parities of each column (c, words + 2), masked by its last words: (c, 2).

    They are the sum of its words, two by two, times the coefficients.
    """
    out = np.empty((columns.shape[0], 2), np.uint64)
    (_sums if aes.has_clmul() else _sums_by_table)(columns, coefficients, out)
    return out


@inlined
def _reduced(low0: Any, low1: Any, high0: Any, high1: Any) -> Any:
    """Modulo X^128 + X^7 + X^2 + X + 1."""
    back0, back1 = multiply(high1, np.uint64(0x87))
    low1 ^= back0
    back0, back1 = multiply(high0 ^ back1, np.uint64(0x87))
    return low0 ^ back0, low1 ^ back1


@kernel("(u8[:,::1], Array(u8, 2, 'C', True), u8[:,::1])", needs=aes.has_clmul, strict=True)
def _sums(columns: Any, coefficients: Any, out: Any) -> None:
    """Products of 128 bits from three of 64 (Karatsuba), reduced once a column."""
    n_words = columns.shape[1] - SPARE
    for c in range(columns.shape[0]):
        column = columns[c]
        low0 = low1 = mixed0 = mixed1 = high0 = high1 = np.uint64(0)
        for i in range(coefficients.shape[0]):
            a0, a1 = coefficients[i, 0], coefficients[i, 1]
            b0 = column[2 * i]
            b1 = column[2 * i + 1] if 2 * i + 1 < n_words else np.uint64(0)
            p0, p1 = multiply(a0, b0)
            low0 ^= p0
            low1 ^= p1
            p0, p1 = multiply(a1, b1)
            high0 ^= p0
            high1 ^= p1
            p0, p1 = multiply(a0 ^ a1, b0 ^ b1)
            mixed0 ^= p0
            mixed1 ^= p1
        mixed0 ^= low0 ^ high0
        mixed1 ^= low1 ^ high1
        sum0, sum1 = _reduced(low0, low1 ^ mixed0, high0 ^ mixed1, high1)
        out[c, 0], out[c, 1] = sum0 ^ column[n_words], sum1 ^ column[n_words + 1]


# Without instructions for such products: multiples of a coefficient, looked up by bytes. Memory is then touched by
# secret columns, which whoever shares the machine's caches may observe.


@kernel()
def _multiples(low: Any, high: Any, out: Any) -> None:
    """Products of a coefficient with each value of each byte, modulo X^128 + X^7 + X^2 + X + 1: (16, 256, 2)."""
    for byte in range(16):
        for bit in range(8):
            step = 1 << bit
            for value in range(step):
                out[byte, step + value, 0] = out[byte, value, 0] ^ low
                out[byte, step + value, 1] = out[byte, value, 1] ^ high
            over = high >> np.uint64(63)
            high = (high << np.uint64(1)) | (low >> np.uint64(63))
            low = (low << np.uint64(1)) ^ (over * np.uint64(0x87))


@kernel("(u8[:,::1], Array(u8, 2, 'C', True), u8[:,::1])", strict=True)
def _sums_by_table(columns: Any, coefficients: Any, out: Any) -> None:
    n_words = columns.shape[1] - SPARE
    out[:] = columns[:, n_words:]
    multiples = np.zeros((16, 256, 2), np.uint64)
    for i in range(coefficients.shape[0]):
        _multiples(coefficients[i, 0], coefficients[i, 1], multiples)
        for c in range(columns.shape[0]):
            for half in range(min(2, n_words - 2 * i)):
                word = columns[c, 2 * i + half]
                for byte in range(8):
                    row = multiples[8 * half + byte, np.int64(word >> np.uint64(8 * byte) & np.uint64(255))]
                    out[c, 0] ^= row[0]
                    out[c, 1] ^= row[1]
