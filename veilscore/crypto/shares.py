"""Additive shares modulo the ring of the kernel: encode, add, open.

A value v (float) is the integer round(v * 2**24) modulo T; two uint64 arrays in [0, T) that add to it are its shares.
Shares wrap, so nothing is ever truncated locally.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Vector, Words
from veilscore.errors import MessageError, ParameterError
from veilscore.kernels import kernel
from veilscore.lattice.params import SCALE_BITS, T_PRIMES, T
from veilscore.lattice.sampling import dither

_T = np.uint64(T)
_LOW = np.uint64((1 << 30) - 1)
_P, _Q = (np.uint64(prime) for prime in T_PRIMES)
_P_INVERSE = np.uint64(pow(T_PRIMES[0], -1, T_PRIMES[1]))


def to_ring(values: Integers, modulus: int = T) -> Words:
    """Signed integers of absolute value at most half the modulus to the ring; refuses others (`ParameterError`)."""
    if max(int(values.max(initial=0)), -int(values.min(initial=0))) > modulus // 2:
        raise ParameterError("a value does not fit half of the share ring")
    return np.where(values < 0, values + np.int64(modulus), values).astype(np.uint64)


def from_ring(values: Words, modulus: int = T) -> Integers:
    """Ring elements to the signed integers from minus half the modulus to half of it."""
    signed = values.astype(np.int64)
    return np.where(signed >= modulus // 2, signed - np.int64(modulus), signed)


def encode(values: Vector, scale_bits: int = SCALE_BITS) -> Words:
    """Fixed point at scale 2**scale_bits; refuses what would wrap (`ParameterError`)."""
    scaled = np.rint(values * float(1 << scale_bits))
    if not (np.abs(scaled) < T / 4).all():  # so written, it refuses NaN too
        raise ParameterError(f"a value does not fit the share ring at scale 2**{scale_bits}")
    return to_ring(scaled.astype(np.int64))


def add(left: Words, right: Words, modulus: int = T) -> Words:
    """Sum modulo T, or another modulus below 2^63."""
    total, m = left + right, np.uint64(modulus)
    return np.where(total >= m, total - m, total)


def sum_shares(shares: Words, axis: int = -1) -> Words:
    """Sum along an axis modulo T (T is just below 2**60, so 32-bit halves are summed)."""
    low = (shares & np.uint64(0xFFFFFFFF)).sum(axis=axis, dtype=np.uint64)
    high = (shares >> np.uint64(32)).sum(axis=axis, dtype=np.uint64)
    # high < 2**28 * n: reduce it before it is shifted back, eight bits at a time
    for _ in range(4):
        high = (high % _T) << np.uint64(4)
        high = (high % _T) << np.uint64(4)
    total: Words = (high % _T + low % _T) % _T
    return total


def join_halves(low: Words, high: Words) -> Words:
    """(low + 2**30 high) modulo T, for sums of the 30-bit halves of shares."""
    high = high % _T
    for _ in range(10):
        high = (high << np.uint64(3)) % _T
    joined: Words = (low % _T + high) % _T
    return joined


def scale(shares: Words, factors: Integers) -> Words:
    """Return the element by element product of shares with public or own signed integers below T/2, modulo T."""
    if np.abs(factors).max(initial=0) >= T // 2:
        raise ParameterError(f"factor of a share must be below {T // 2}")
    return times(shares, to_ring(np.asarray(factors, np.int64)))


def round_share(shares: Words, drop_bits: int) -> Words:
    """Drop the low bits of the share that is opened: the reader learns the value only to 2**drop_bits."""
    return (shares + np.uint64(1 << drop_bits >> 1)) >> np.uint64(drop_bits)


def open_rounded(own: Words, opened: Words, drop_bits: int, scale_bits: int, modulus: int = T) -> Vector:
    """Value from one's own share and the other's rounded share."""
    other = (opened << np.uint64(drop_bits)) % np.uint64(modulus)
    value: Vector = from_ring(add(own, other, modulus), modulus) / float(1 << scale_bits)
    return value


def shares_to_bytes(shares: Words) -> bytes:
    """Little-endian 64-bit words."""
    return np.ascontiguousarray(shares, dtype="<u8").tobytes()


def shares_from_bytes(data: bytes, shape: tuple[int, ...], *, below: int = T) -> Words:
    """Parse and check words of a peer: exact length, every word in [0, below)."""
    if len(data) != 8 * int(np.prod(shape)):
        raise MessageError(f"expected {int(np.prod(shape))} words of 8 bytes, got {len(data)} bytes")
    shares = np.frombuffer(data, dtype="<u8").reshape(shape).astype(np.uint64)
    if shares.size and int(shares.max()) >= below:
        raise MessageError("a word lies outside the share ring")
    return shares


def bits_to_bytes(mask: Mask) -> bytes:
    """One bit an entry, little endian."""
    return np.packbits(mask, bitorder="little").tobytes()


def bits_from_bytes(data: bytes, n_bits: int) -> Mask:
    """Inverse of `bits_to_bytes`; wrong length or set padding bits raise `MessageError`."""
    if len(data) != -(-n_bits // 8):
        raise MessageError(f"expected a mask of {n_bits} bits, got {len(data)} bytes")
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little").astype(bool)
    if bits[n_bits:].any():
        raise MessageError("a mask has bits beyond its length")
    return bits[:n_bits]


def times(left: Words, right: Words) -> Words:
    """Return the product modulo T of ring elements, element by element; the two may be broadcast together."""
    shape = np.broadcast_shapes(left.shape, right.shape)
    one, other = (
        np.require(np.broadcast_to(part, shape), requirements=["C", "W"]).reshape(-1) for part in (left, right)
    )
    out = np.empty(one.size, np.uint64)
    _times(one, other, out)
    return out.reshape(shape)


@kernel("(u8[::1], u8[::1], u8[::1])")
def _times(left: Words, right: Words, out: Words) -> None:
    # by residues modulo the two primes of T: a product of 60 bits by 60 fits no word
    for i in range(out.size):
        first = (left[i] % _P) * (right[i] % _P) % _P
        second = (left[i] % _Q) * (right[i] % _Q) % _Q
        out[i] = first + _P * ((second + _Q - first % _Q) % _Q * _P_INVERSE % _Q)


def round_dithered(shares: Words, drop_bits: int, modulus: int = T) -> Words:
    """Return the part of a share that is opened, dithered below its last bit.

    Bare rounding would leak sums of the encryption noise, which the reader knows.
    """
    if drop_bits <= 0:
        return shares
    sd = float(1 << min(16, max(0, drop_bits - 2)))
    return round_share(add(shares, dither(shares.shape, modulus, sd), modulus), drop_bits)


def cell_sums(codes: CodeArray, n_codes: Integers, shares: Words) -> Words:
    """Return the sums modulo T of shares (V, n) over the rows of each cell, in the clear: (V, cells)."""
    first = np.concatenate(([0], np.cumsum(n_codes)))
    low = np.zeros((int(first[-1]), shares.shape[0]), np.uint64)
    high = np.zeros_like(low)
    _add_words(codes, first[:-1], np.ascontiguousarray(shares.T), low, high)
    return join_halves(low, high).T.copy()


@kernel(
    "(u1[:,::1], i8[::1], u8[:,::1], u8[:,::1], u8[:,::1])",
    "(u2[:,::1], i8[::1], u8[:,::1], u8[:,::1], u8[:,::1])",
)
def _add_words(codes: CodeArray, first: Integers, x: Words, low: Words, high: Words) -> None:
    """Add the halves of x (n, V) of every row to its cells (cells, V); no sum of 2^30 rows overflows."""
    for i in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            cell = first[c] + np.int64(codes[i, c])
            for v in range(x.shape[1]):
                low[cell, v] += x[i, v] & np.uint64(0x3FFFFFFF)
                high[cell, v] += x[i, v] >> np.uint64(30)
