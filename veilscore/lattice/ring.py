"""The ring Z_q[X]/(X^N + 1) on limbs, and its bytes on the wire.

Arrays of ring elements are uint32 of shape (..., L, N): one residue a limb and coefficient (or a value, in
the NTT domain), each below its prime. `Ring` holds the tables; `pack` and `unpack` are the wire format: limb
by limb, each residue in ceil(bits / 8) little-endian bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Limbs
from veilscore.errors import MessageError, ParameterError
from veilscore.kernels import inlined, kernel
from veilscore.lattice import ntt
from veilscore.lattice.params import ParameterSet


def primitive_root(p: int, order: int) -> int:
    """Return the smallest primitive root of unity modulo p of an `order` that is a power of two."""
    for base in range(2, p):
        root = pow(base, (p - 1) // order, p)
        if pow(root, order // 2, p) == p - 1:
            # the others are its odd powers
            return int((_powers(root * root % p, order // 2, p) * np.uint64(root) % np.uint64(p)).min())
    raise ParameterError(f"{p} has no root of unity of order {order}")


def _powers(root: int, n: int, p: int) -> NDArray[np.uint64]:
    """Return root^i mod p for i < n, a power of two; p is below 2^32, so that no product overflows."""
    powers = np.ones(1, np.uint64)
    while powers.size < n:
        powers = np.concatenate([powers, powers * np.uint64(pow(root, powers.size, p)) % np.uint64(p)])
    return powers


def _bit_reversed(n: int) -> NDArray[np.int64]:
    """Return brv(i) for i < n, a power of two."""
    order = np.zeros(1, np.int64)
    while order.size < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


class Ring:
    """Transforms and arithmetic of one parameter set (read-only tables; safe to share between threads).

    N : ring dimension.
    primes : the limbs, each 1 mod 2N and below 2^30.
    """

    def __init__(self, N: int, primes: tuple[int, ...]) -> None:
        self.N = N
        self.primes = primes
        self.primes_u32 = np.array(primes, np.uint32)
        self.mu = np.array([(1 << 2 * p.bit_length()) // p for p in primes], np.uint64)
        roots = [primitive_root(p, 2 * N) for p in primes]
        self._w, self._w_shoup = self._tables(roots)
        self._inverse, self._inverse_shoup = self._tables([pow(r, -1, p) for r, p in zip(roots, primes, strict=True)])
        n_inv = [pow(N, -1, p) for p in primes]
        self._n_inv = np.array(n_inv, np.uint32)
        self._n_inv_shoup = np.array([(v << 32) // p for v, p in zip(n_inv, primes, strict=True)], np.uint32)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"Ring(N={self.N}, limbs={len(self.primes)})"

    def _tables(self, roots: list[int]) -> tuple[Limbs, Limbs]:
        """Return the powers root^brv(i) of each limb and their Shoup quotients, both (L, N)."""
        order = _bit_reversed(self.N)
        wide = np.stack([_powers(r, self.N, p)[order] for r, p in zip(roots, self.primes, strict=True)])
        shoup = (wide << np.uint64(32)) // self.primes_u32.astype(np.uint64)[:, None]
        return wide.astype(np.uint32), shoup.astype(np.uint32)

    @property
    def tables(self) -> tuple[Limbs, Limbs, Limbs]:
        """Powers, their Shoup quotients (L, N) and primes (L,), for kernels that transform by themselves."""
        return self._w, self._w_shoup, self.primes_u32

    def _batch(self, a: Limbs) -> Limbs:
        return a.reshape(-1, len(self.primes), self.N)

    def ntt(self, a: Limbs) -> Limbs:
        """Transform ring elements (..., L, N) to values."""
        out = np.array(a, np.uint32, order="C")
        ntt.forward_all(self._batch(out), self._w, self._w_shoup, self.primes_u32)
        return out

    def intt(self, a: Limbs) -> Limbs:
        """Transform values (..., L, N) back to coefficients."""
        out = np.array(a, np.uint32, order="C")
        ntt.backward_all(
            self._batch(out),
            self._inverse,
            self._inverse_shoup,
            self.primes_u32,
            self._n_inv,
            self._n_inv_shoup,
        )
        return out

    def lift(self, small: NDArray[np.int8]) -> Limbs:
        """Write signed integers (..., N), smaller than every prime, as residues (..., L, N)."""
        out = np.empty((*small.shape[:-1], len(self.primes), self.N), np.uint32)
        ntt.lift_all(small.reshape(-1, self.N), self.primes_u32, self._batch(out))
        return out

    def multiply(self, a: Limbs, b: Limbs) -> Limbs:
        """Multiply pointwise: a (..., L, N) by b of the same shape or (L, N)."""
        out = np.empty(a.shape, np.uint32)
        ntt.multiply_all(self._batch(a), self._batch(b), self.primes_u32, self.mu, self._batch(out))
        return out

    def add_to(self, a: Limbs, b: Limbs) -> None:
        """Add b (the shape of a, or (L, N)) to the contiguous array a in place."""
        ntt.add_all(self._batch(a), self._batch(b), self.primes_u32)

    def negate(self, a: Limbs) -> Limbs:
        """Return -a, (..., L, n)."""
        out = np.empty(a.shape, np.uint32)
        flat = (-1, *a.shape[-2:])
        ntt.negate_all(np.ascontiguousarray(a).reshape(flat), self.primes_u32, out.reshape(flat))
        return out


@lru_cache(maxsize=16)
def ring(N: int, primes: tuple[int, ...]) -> Ring:
    """Return the ring of dimension N on these limbs, with its tables made once a process."""
    return Ring(N, primes)


def ring_of(params: ParameterSet) -> Ring:
    """Return the ring of a parameter set."""
    return ring(params.N, params.primes)


def widths(primes: tuple[int, ...]) -> list[int]:
    """Return the bytes that a residue of each limb takes on the wire."""
    return [math.ceil(p.bit_length() / 8) for p in primes]


def packed_size(shape: tuple[int, ...], primes: tuple[int, ...]) -> int:
    """Return the bytes of limbs of this shape (..., L, n)."""
    return math.prod(shape[:-2]) * shape[-1] * sum(widths(primes))


def pack(limbs: Limbs, primes: tuple[int, ...]) -> bytes:
    """Write residues (..., L, n) as bytes, limb by limb, each residue little-endian in ceil(bits/8) bytes."""
    if limbs.ndim < 2 or limbs.shape[-2] != len(primes):
        raise ParameterError(f"limbs of shape {limbs.shape} do not match {len(primes)} primes")
    out = np.empty(packed_size(limbs.shape, primes), np.uint8)
    flat = np.ascontiguousarray(limbs, np.uint32).reshape(-1, len(primes), limbs.shape[-1])
    _pack(flat, np.array(widths(primes)), out)
    return out.tobytes()


def unpack(data: bytes, shape: tuple[int, ...], primes: tuple[int, ...]) -> Limbs:
    """Read residues of this shape (..., L, n).

    Raises MessageError: the length is wrong, or a residue is not below its prime.
    """
    size = packed_size(shape, primes)
    if shape[-2] != len(primes):
        raise ParameterError(f"limbs of shape {shape} do not match {len(primes)} primes")
    if len(data) != size:
        raise MessageError(f"ring elements of shape {shape} take {size} bytes; the message has {len(data)}")
    out = np.empty(shape, np.uint32)
    # a copy, because kernels are compiled for writable arrays
    raw = np.frombuffer(data, np.uint8).copy()
    flat = out.reshape(-1, len(primes), shape[-1])
    if not _unpack(raw, np.array(widths(primes)), np.array(primes, np.uint32), flat):
        raise MessageError("a residue is not below its prime: the message is damaged or of another modulus")
    return out


@kernel("(u4[:,:,::1], i8[::1], u1[::1])")
def _pack(limbs: Limbs, width: Integers, out: NDArray[np.uint8]) -> None:
    k = 0
    for b in range(limbs.shape[0]):
        for limb in range(width.size):
            row = limbs[b, limb]
            step = width[limb]
            part = out[k : k + row.size * step]
            # a constant step lets the compiler use vector code
            if step == 4:
                _split(row, 4, part)
            elif step == 3:
                _split(row, 3, part)
            else:
                _split(row, step, part)
            k += row.size * step


@inlined
def _split(row: Limbs, step: int, part: NDArray[np.uint8]) -> None:
    for i in range(row.size):
        for j in range(step):
            part[i * step + j] = (row[i] >> np.uint32(8 * j)) & np.uint32(255)


@kernel("(u1[::1], i8[::1], u4[::1], u4[:,:,::1])")
def _unpack(raw: NDArray[np.uint8], width: Integers, primes: Limbs, out: Limbs) -> bool:
    k = 0
    good = True
    for b in range(out.shape[0]):
        for limb in range(width.size):
            row = out[b, limb]
            step = width[limb]
            part = raw[k : k + row.size * step]
            if step == 4:
                _join(part, 4, row)
            elif step == 3:
                _join(part, 3, row)
            else:
                _join(part, step, row)
            good &= row.max() < primes[limb]
            k += row.size * step
    return good


@inlined
def _join(part: NDArray[np.uint8], step: int, row: Limbs) -> None:
    for i in range(row.size):
        value = np.uint32(0)
        for j in range(step):
            value |= np.uint32(part[i * step + j]) << np.uint32(8 * j)
        row[i] = value
