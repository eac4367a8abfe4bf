"""The binary code that tells apart what a receiver of transfers put in: 76 bits to 512, any two words 172 apart.

Source: Bose and Ray-Chaudhuri 1960: a polynomial that vanishes at 170 powers in a row of an element of order 511 has
    multiples of weight at least 171. That is BCH [511, 76, 171], the code of Orru, Orsini and Scholl 2017; a parity bit
    makes it 172.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Words
from veilscore.kernels import kernel

DIMENSION = 76
LENGTH = 512
DISTANCE = 172

_ORDER = LENGTH - 1
_ROOTS = 170
_FIELD = 0b1000010001  # X^9 + X^4 + 1, primitive
_GROUP = 4  # columns of a message whose sums are made ahead
_GROUPS = DIMENSION // _GROUP


def powers_of_x() -> list[int]:
    """Return the powers 0 .. 510 of X in GF(2^9), each a polynomial with the coefficient of 1 lowest."""
    powers, power = [], 1
    for _ in range(_ORDER):
        powers.append(power)
        power <<= 1
        power ^= _FIELD if power >> 9 else 0
    return powers


def generator_polynomial() -> int:
    """Return the product of the minimal polynomials of the powers 1 .. 170 of X, the coefficient of 1 lowest."""
    powers = powers_of_x()
    log = {power: k for k, power in enumerate(powers)}
    product, seen = [1], set[int]()
    for first in range(1, _ROOTS + 1):
        root = first
        while root not in seen:  # a polynomial over GF(2) vanishes at the squares of its roots
            seen.add(root)
            shifted = [0, *product]
            for k, c in enumerate(product):
                shifted[k] ^= powers[(log[c] + root) % _ORDER] if c else 0
            product, root = shifted, 2 * root % _ORDER
    return sum(c << k for k, c in enumerate(product))


def _generator_rows() -> Words:
    """Return the codewords of single bits: (76, 8)."""
    polynomial = generator_polynomial()
    rows = [polynomial << k for k in range(DIMENSION)]
    words = [row | row.bit_count() % 2 << _ORDER for row in rows]
    return np.frombuffer(b"".join(word.to_bytes(LENGTH // 8, "little") for word in words), "<u8").reshape(DIMENSION, -1)


ROWS = _generator_rows()


def _sums() -> NDArray[np.uint8]:
    """Return which sum of each group of columns of a message goes into each column of the code: (512, groups)."""
    bits = np.unpackbits(ROWS.view(np.uint8), axis=1, bitorder="little").reshape(_GROUPS, _GROUP, LENGTH)
    return np.ascontiguousarray((bits << np.arange(_GROUP, dtype=np.uint8)[:, None]).sum(axis=1, dtype=np.uint8).T)


_SUMS = _sums()


def add_code(message: Words, out: Words) -> None:
    """XOR the code of a message's columns (76, n) into `out` (512, n)."""
    _add_code(message, _SUMS, out)


def tables(rows: Words) -> Words:
    """Return the sums of eight rows at a time, by the byte that says which: (8 g, w) to (g, 256, w)."""
    groups = rows.reshape(-1, 8, rows.shape[1])
    out = np.zeros((groups.shape[0], 256, rows.shape[1]), np.uint64)
    for bit in range(8):
        np.bitwise_xor(out[:, : 1 << bit], groups[:, bit, None], out=out[:, 1 << bit : 2 << bit])
    return out


@kernel("(u8[:,::1], u1[:,::1], u8[:,::1])")
def _add_code(message: Any, sums: Any, out: Any) -> None:
    """All sums of four columns, a stretch of words at a time, as long as they fit the processor's second cache."""
    stretch = 64
    made = np.zeros((_GROUPS + 1, 1 << _GROUP, stretch), np.uint64)  # the last group's are zero
    for start in range(0, message.shape[1], stretch):
        n = min(stretch, message.shape[1] - start)
        for g in range(_GROUPS):
            for k in range(_GROUP):
                for value in range(1 << k):
                    for i in range(n):
                        made[g, (1 << k) + value, i] = made[g, value, i] ^ message[_GROUP * g + k, start + i]
        for column in range(out.shape[0]):
            for g in range(0, _GROUPS, 4):  # four at a time: each word of `out` is read and written five times, not 19
                a, b = made[g, sums[column, g]], made[g + 1, sums[column, g + 1]]
                c = made[g + 2, sums[column, g + 2]]
                d = made[g + 3, sums[column, g + 3] if g + 3 < _GROUPS else 0]
                for i in range(n):
                    out[column, start + i] ^= a[i] ^ b[i] ^ c[i] ^ d[i]
