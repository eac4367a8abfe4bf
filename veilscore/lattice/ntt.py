"""Negacyclic number-theoretic transform on 32-bit limbs.

Source: Harvey, "Faster arithmetic for number-theoretic transforms" (2014): butterflies with Shoup's
quotients, values kept below 4p. Order of the output as in SEAL: position i holds the value at
psi^(2 brv(i) + 1), so reversing an array of values replaces X by 1/X.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Limbs, Words
from veilscore.kernels import inlined, kernel

U32 = np.uint32
U64 = np.uint64


u32 = np.uint32
u64 = np.uint64


@inlined
def shoup(y: U32, w: U32, w_shoup: U32, p: U32) -> U32:
    """Y w mod p in [0, 2p), for any 32-bit y and w_shoup = floor(2^32 w / p)."""
    quotient = u64(u64(y) * u64(w_shoup)) >> u64(32)
    return u32(u64(y) * u64(w) - quotient * u64(p))


@inlined
def barrett(z: U64, p: U64, mu: U64, bits: U64) -> U32:
    """Z mod p for z < 2^(2 bits), mu = floor(2^(2 bits) / p), p of that many bits."""
    quotient = ((z >> (bits - u64(1))) * mu) >> (bits + u64(1))
    r = u32(z - quotient * p)
    r = min(r, u32(r - u32(p)))
    return min(r, u32(r - u32(p)))


@inlined
def fold(z: U64, top: U64) -> U64:
    """Return a value below 2^63 congruent to z, given top = 2^32 mod p < 2^30."""
    return (z >> u64(32)) * top + (z & u64(0xFFFFFFFF))


@kernel()
def forward(a: Limbs, w: Limbs, w_shoup: Limbs, p: U32) -> None:
    """Transform one limb (N,) in place; input and output in [0, p)."""
    two = u32(u64(p) * u64(2))
    t = a.size >> 1
    m = 1
    while t >= 8:
        for i in range(m):
            x = a[2 * i * t : 2 * i * t + t]
            y = a[2 * i * t + t : 2 * i * t + 2 * t]
            for j in range(t):
                X = min(x[j], u32(x[j] - two))
                Y = shoup(y[j], w[m + i], w_shoup[m + i], p)
                x[j] = u32(X + Y)
                y[j] = u32(X - Y + two)
        t >>= 1
        m <<= 1
    _last_layers(a, w, w_shoup, p, m)
    for j in range(a.size):
        X = min(a[j], u32(a[j] - two))
        a[j] = min(X, u32(X - p))


@inlined
def _last_layers(a: Limbs, w: Limbs, w_shoup: Limbs, p: U32, m: int) -> None:
    """Layers of distance 4, 2, 1, written so that the loop over groups becomes vector code."""
    two = u32(u64(p) * u64(2))
    for i in range(m):
        for j in range(8 * i, 8 * i + 4):
            X = min(a[j], u32(a[j] - two))
            Y = shoup(a[j + 4], w[m + i], w_shoup[m + i], p)
            a[j] = u32(X + Y)
            a[j + 4] = u32(X - Y + two)
    m <<= 1
    w2 = w[m : 2 * m]
    s2 = w_shoup[m : 2 * m]
    for i in range(m):
        k = 4 * i
        X = min(a[k], u32(a[k] - two))
        Y = shoup(a[k + 2], w2[i], s2[i], p)
        X1 = min(a[k + 1], u32(a[k + 1] - two))
        Y1 = shoup(a[k + 3], w2[i], s2[i], p)
        a[k] = u32(X + Y)
        a[k + 2] = u32(X - Y + two)
        a[k + 1] = u32(X1 + Y1)
        a[k + 3] = u32(X1 - Y1 + two)
    m <<= 1
    w1 = w[m : 2 * m]
    s1 = w_shoup[m : 2 * m]
    for i in range(m):
        k = 2 * i
        X = min(a[k], u32(a[k] - two))
        Y = shoup(a[k + 1], w1[i], s1[i], p)
        a[k] = u32(X + Y)
        a[k + 1] = u32(X - Y + two)


@kernel()
def backward(a: Limbs, w: Limbs, w_shoup: Limbs, p: U32, n_inv: U32, n_inv_shoup: U32) -> None:
    """Undo `forward` in place, with the tables of inverse powers; input and output in [0, p)."""
    two = u32(u64(p) * u64(2))
    m = a.size >> 1
    _first_layers(a, w, w_shoup, p)
    m >>= 3
    t = 8
    while m >= 1:
        for i in range(m):
            x = a[2 * i * t : 2 * i * t + t]
            y = a[2 * i * t + t : 2 * i * t + 2 * t]
            for j in range(t):
                X = x[j]
                Y = y[j]
                total = u32(X + Y)
                x[j] = min(total, u32(total - two))
                y[j] = shoup(u32(X - Y + two), w[m + i], w_shoup[m + i], p)
        t <<= 1
        m >>= 1
    for j in range(a.size):
        X = shoup(a[j], n_inv, n_inv_shoup, p)
        a[j] = min(X, u32(X - p))


@inlined
def _first_layers(a: Limbs, w: Limbs, w_shoup: Limbs, p: U32) -> None:
    """Inverse layers of distance 1, 2, 4."""
    two = u32(u64(p) * u64(2))
    m = a.size >> 1
    w1 = w[m : 2 * m]
    s1 = w_shoup[m : 2 * m]
    for i in range(m):
        X = a[2 * i]
        Y = a[2 * i + 1]
        total = u32(X + Y)
        a[2 * i] = min(total, u32(total - two))
        a[2 * i + 1] = shoup(u32(X - Y + two), w1[i], s1[i], p)
    m >>= 1
    w2 = w[m : 2 * m]
    s2 = w_shoup[m : 2 * m]
    for i in range(m):
        k = 4 * i
        X = a[k]
        Y = a[k + 2]
        X1 = a[k + 1]
        Y1 = a[k + 3]
        total = u32(X + Y)
        total1 = u32(X1 + Y1)
        a[k] = min(total, u32(total - two))
        a[k + 1] = min(total1, u32(total1 - two))
        a[k + 2] = shoup(u32(X - Y + two), w2[i], s2[i], p)
        a[k + 3] = shoup(u32(X1 - Y1 + two), w2[i], s2[i], p)
    m >>= 1
    for i in range(m):
        for j in range(8 * i, 8 * i + 4):
            X = a[j]
            Y = a[j + 4]
            total = u32(X + Y)
            a[j] = min(total, u32(total - two))
            a[j + 4] = shoup(u32(X - Y + two), w[m + i], w_shoup[m + i], p)


@kernel("(u4[:,:,::1], u4[:,::1], u4[:,::1], u4[::1])")
def forward_all(a: Limbs, w: Limbs, w_shoup: Limbs, primes: Limbs) -> None:
    """Transform a batch (B, L, N) in place."""
    for b in range(a.shape[0]):
        for k in range(primes.size):
            forward(a[b, k], w[k], w_shoup[k], primes[k])


@kernel("(u4[:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[::1], u4[::1])")
def backward_all(a: Limbs, w: Limbs, w_shoup: Limbs, primes: Limbs, n_inv: Limbs, n_inv_shoup: Limbs) -> None:
    """Undo `forward_all` in place."""
    for b in range(a.shape[0]):
        for k in range(primes.size):
            backward(a[b, k], w[k], w_shoup[k], primes[k], n_inv[k], n_inv_shoup[k])


@kernel("(u4[:,:,::1], u4[:,:,::1], u4[::1], u8[::1], u4[:,:,::1])")
def multiply_all(
    a: Limbs,
    b: Limbs,
    primes: Limbs,
    mu: Words,
    out: Limbs,
) -> None:
    """Write out = a b pointwise: a is (B, L, N), b is (B, L, N) or one (1, L, N) for all."""
    for i in range(a.shape[0]):
        for k in range(primes.size):
            p = u64(primes[k])
            bits = u64(64 - _leading_zeros(p))
            x = a[i, k]
            y = b[i if b.shape[0] > 1 else 0, k]
            z = out[i, k]
            for j in range(x.size):
                z[j] = barrett(u64(x[j]) * u64(y[j]), p, mu[k], bits)


@inlined
def _leading_zeros(p: U64) -> int:
    zeros = 64
    while p:
        p >>= u64(1)
        zeros -= 1
    return zeros


@kernel("(u4[:,:,::1], u4[:,:,::1], u4[::1])")
def add_all(a: Limbs, b: Limbs, primes: Limbs) -> None:
    """Add b to a modulo the primes: a is (B, L, N), b is (B, L, N) or one (1, L, N) for all."""
    for i in range(a.shape[0]):
        for k in range(primes.size):
            p = primes[k]
            x = a[i, k]
            y = b[i if b.shape[0] > 1 else 0, k]
            for j in range(x.size):
                total = u32(x[j] + y[j])
                x[j] = min(total, u32(total - p))


@kernel("(u4[:,:,::1], u4[::1], u4[:,:,::1])")
def negate_all(a: Limbs, primes: Limbs, out: Limbs) -> None:
    """Write out = -a modulo the primes, (B, L, N)."""
    for i in range(a.shape[0]):
        for k in range(primes.size):
            x = a[i, k]
            z = out[i, k]
            for j in range(x.size):
                z[j] = min(u32(primes[k] - x[j]), u32(u32(0) - x[j]))


@kernel("(i1[:,::1], u4[::1], u4[:,:,::1])")
def lift_all(small: NDArray[np.int8], primes: Limbs, out: Limbs) -> None:
    """Write signed small integers (B, N) as residues (B, L, N)."""
    for i in range(small.shape[0]):
        for k in range(primes.size):
            p = primes[k]
            x = small[i]
            z = out[i, k]
            for j in range(x.size):
                v = u32(np.int32(x[j]))
                z[j] = min(v, u32(v + p))
