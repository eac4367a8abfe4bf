"""From ciphertext coefficients to shares: rounding in residues, without large integers.

Where t divides q (q = t D), round(v / D) mod t is (v - e) / D with e the remainder of v modulo D, centred; it
is found from the limbs of D alone. Where t is coprime to q, round(v t / q) is a sum of one fraction a limb.
Fractions carry at least 68 bits, so that the arithmetic rounds wrongly far less often than the noise does.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from veilscore.arrays import Limbs, Words
from veilscore.errors import ParameterError
from veilscore.kernels import inlined, kernel
from veilscore.lattice import ntt
from veilscore.lattice.params import ParameterSet

u64 = np.uint64
_TILE = 512


class ExactScale:
    """Division by D modulo t, for parameter sets whose t divides q: t = p1 p2, or one prime (then p1 alone)."""

    def __init__(self, params: ParameterSet) -> None:
        if params.n_message not in {1, 2}:
            raise ParameterError(f"{params.name}: exact scaling needs t = p1 p2 or one prime dividing q")
        message, divisors = params.primes[: params.n_message], params.primes[params.n_message :]
        D = math.prod(divisors)
        self.t = params.t
        self.message = np.array(message, np.uint64)
        self.divisors = np.array(divisors, np.uint64)
        self.D_mod = np.array([D % p for p in message], np.uint32)
        self._to_message, self._to_divisors = _reducers(message), _reducers(divisors)
        self._punctured_inverse = _factors([(pow(D // d, -1, d), d) for d in divisors])
        self._punctured = np.array([[D // d % p for d in divisors] for p in message], np.uint64)
        self._minus_D = np.array([-D % p for p in message], np.uint64)
        self._D_inverse = _factors([(pow(D, -1, p), p) for p in message])
        self._p1_inverse = _factors([(pow(message[0], -1, message[1]), message[1])] if len(message) > 1 else [(0, 1)])
        self._p1_mod = np.array([message[0] % d for d in divisors], np.uint64)
        self._minus_t = np.array([-params.t % d for d in divisors], np.uint64)
        self._shift = 64 - max(divisors).bit_length()
        digits = [(1 << 3 * self._shift) // d for d in divisors]
        mask = (1 << self._shift) - 1
        self._reciprocal = np.array([[v >> k * self._shift & mask for v in digits] for k in (2, 1, 0)], np.uint64)

    def centred_remainder(self, limbs: Limbs) -> Limbs:
        """Return e mod p1, p2 as (B, 2, n) from the limbs of D (B, L - 2, n): e = v mod D in [-D/2, D/2)."""
        out = np.empty((limbs.shape[0], self.message.size, limbs.shape[2]), np.uint32)
        tables = (self._punctured_inverse, self._reciprocal, self._punctured, self._minus_D, self._to_message)
        _remainder(np.ascontiguousarray(limbs), *tables, u64(self._shift), out)
        return out

    def quotient(self, message_limbs: Limbs, remainder: Limbs) -> Words:
        """Return (v - e) / D mod t as (B, n) from v and e mod p1, p2, each array (B, 2, n)."""
        out = np.empty(message_limbs.shape, np.uint32)
        _divide(np.ascontiguousarray(message_limbs), remainder, self._D_inverse, out)
        return self.join(out)

    def join(self, residues: Limbs) -> Words:
        """Return integers below t of shape (..., n) from residues (..., 2, n)."""
        out = np.empty((*residues.shape[:-2], residues.shape[-1]), np.uint64)
        flat = np.ascontiguousarray(residues, np.uint32).reshape(-1, *residues.shape[-2:])
        _join(flat, self.message, self._p1_inverse, out.reshape(-1, out.shape[-1]))
        return out

    def lift_centred(self, residues: Limbs) -> Limbs:
        """Return the limbs of D (B, L - 2, n) of integers in [-t/2, t/2) given modulo p1, p2 (B, 2, n)."""
        out = np.empty((residues.shape[0], self.divisors.size, residues.shape[2]), np.uint32)
        tables = (self.message, self._p1_inverse, self._p1_mod, self._minus_t, self._to_divisors)
        _lift_centred(residues, *tables, u64(self.t // 2), out)
        return out

    def split(self, values: Words) -> Limbs:
        """Return residues (..., 2, n) of integers below t of shape (..., n)."""
        n = values.shape[-1]
        out = np.empty((*values.shape[:-1], self.message.size, n), np.uint32)
        flat = np.ascontiguousarray(values).reshape(-1, n)
        _split(flat, self._to_message, out.reshape(-1, self.message.size, n))
        return out

    def round(self, limbs: Limbs) -> Words:
        """Return round(v / D) mod t as (B, n) from all limbs (B, L, n)."""
        cut = self.message.size
        return self.quotient(limbs[:, :cut], self.centred_remainder(limbs[:, cut:]))

    def embed(self, values: Words, limbs: Limbs) -> None:
        """Add D v to limbs (..., L, n) in place, for v below t (..., n)."""
        # D = 0 modulo its own limbs, so the message lives in the limbs of t
        n = values.shape[-1]
        _embed(values.reshape(-1, n), self.D_mod, self._to_message, limbs.reshape(-1, limbs.shape[-2], n))


class RoundedScale:
    """Messages modulo a t that is coprime to q: v stands as round(q v / t)."""

    def __init__(self, params: ParameterSet) -> None:
        self._params = params
        self._primes = np.array(params.primes, np.uint64)

    def round(self, limbs: Limbs) -> Words:
        """Return round(v t / q) mod t as (B, n) from limbs (B, L, n)."""
        return round_scaled(limbs, self._params)

    def embed(self, values: Words, limbs: Limbs) -> None:
        """Add round(q v / t) to limbs (L, n) in place, for v below t (n,): a table, not rows."""
        total = limbs.astype(np.uint64) + encode_scaled(values, self._params).T
        limbs[:] = (total % self._primes[:, None]).astype(np.uint32)


def scale_of(params: ParameterSet) -> ExactScale | RoundedScale:
    """Return how messages of a parameter set are scaled."""
    return exact_scale(params) if params.n_message else RoundedScale(params)


@lru_cache(maxsize=8)
def exact_scale(params: ParameterSet) -> ExactScale:
    """Return the scaling constants of a parameter set, made once a process."""
    return ExactScale(params)


def encode_scaled(values: Words, params: ParameterSet) -> Limbs:
    """Return round(q v / t) as residues (..., L) of integers v below t (a table, not rows: big integers)."""
    big = (values.astype(object) * params.q + params.t // 2) // params.t
    return np.stack([(big % p).astype(np.uint32) for p in params.primes], axis=-1)


def round_scaled(limbs: Limbs, params: ParameterSet) -> Words:
    """Return round(v t / q) mod t as (B, n) from limbs (B, L, n), t a power of two coprime to q."""
    q = params.q
    inverse = np.array([pow(q // p, -1, p) for p in params.primes], np.uint64)
    primes = np.array(params.primes, np.uint64)
    shift = u64(64 - max(p.bit_length() for p in params.primes))
    out = np.empty((limbs.shape[0], limbs.shape[2]), np.uint64)
    _scale(limbs, primes, inverse, u64(params.t), shift, out)
    return out


def _factors(pairs: list[tuple[int, int]]) -> Words:
    """Rows (factor, its Shoup quotient, modulus) of factors modulo primes, as `times` takes them."""
    return np.array([(w, (w << 32) // p, p) for w, p in pairs], np.uint64)


def _reducers(primes: tuple[int, ...]) -> Words:
    """Rows (p, 2^32 mod p, floor(2^(2 bits) / p), bits) of primes, as `reduced` takes them."""
    rows = [(p, (1 << 32) % p, (1 << 2 * p.bit_length()) // p, p.bit_length()) for p in primes]
    if min(primes).bit_length() < 17:
        raise ParameterError("limbs below 17 bits are not reduced by two folds")
    return np.array(rows, np.uint64)


@inlined
def _row(table: Words, i: int) -> tuple[np.uint64, ...]:
    # values, not views: the compiler must see that a loop's writes leave them alone
    return table[i, 0], table[i, 1], table[i, 2], table[i, -1]


@inlined
def times(y: np.uint32, factor: tuple[np.uint64, ...]) -> np.uint32:
    """Y times a row of `_factors`, below its modulus, for any 32-bit y."""
    p = np.uint32(factor[2])
    r = ntt.shoup(y, np.uint32(factor[0]), np.uint32(factor[1]), p)
    return min(r, np.uint32(r - p))


@inlined
def reduced(z: np.uint64, prime: tuple[np.uint64, ...]) -> np.uint32:
    """Z modulo the prime of a row of `_reducers`, for z < 2^63."""
    return ntt.barrett(ntt.fold(ntt.fold(z, prime[1]), prime[1]), prime[0], prime[2], prime[3])


@kernel("(u4[:,:,::1], u8[:,::1], u8[:,::1], u8[:,::1], u8[::1], u8[:,::1], u8, u4[:,:,::1])")
def _remainder(
    limbs: Limbs,
    inverse: Words,
    reciprocal: Words,
    punctured: Words,
    minus_D: Words,
    message: Words,
    shift: np.uint64,
    out: Limbs,
) -> None:
    """Sum y_j D / d_j with y_j = v (D / d_j)^-1 mod d_j, less D for each whole in the sum of the fractions y_j / d_j.

    A fraction is y_j times three digits of 1 / d_j, in units of 2^(-2 shift); loops over a tile become vector code.
    """
    half = u64(1) << (shift - u64(1))
    y = np.empty(_TILE, np.uint32)
    high, low = np.empty(_TILE, np.uint64), np.empty(_TILE, np.uint64)
    sums = np.empty((message.shape[0], _TILE), np.uint64)
    for b in range(limbs.shape[0]):
        for start in range(0, limbs.shape[2], _TILE):
            size = min(_TILE, limbs.shape[2] - start)
            high[:] = half
            low[:] = u64(0)
            sums[:] = u64(0)
            for j in range(inverse.shape[0]):
                x = limbs[b, j, start : start + size]
                factor = _row(inverse, j)
                for i in range(size):
                    y[i] = times(x[i], factor)
                _add_fraction(y[:size], reciprocal[:, j], shift, high, low)
                for m in range(message.shape[0]):
                    weight, total = punctured[m, j], sums[m]
                    for i in range(size):
                        total[i] += u64(y[i]) * weight
            for m in range(message.shape[0]):
                z, total, weight, prime = out[b, m, start : start + size], sums[m], minus_D[m], _row(message, m)
                for i in range(size):
                    total[i] += ((high[i] + (low[i] >> shift)) >> shift) * weight
                for i in range(size):
                    z[i] = reduced(total[i], prime)


@inlined
def _add_fraction(y: Limbs, digits: Words, shift: np.uint64, high: Words, low: Words) -> None:
    """Add y / d to sums kept as two digits; 1 / d has three."""
    mask = (u64(1) << shift) - u64(1)
    r0, r1, r2 = digits[0], digits[1], digits[2]
    for i in range(y.size):
        wide = u64(y[i])
        middle = wide * r1 + (wide * r2 >> shift)
        high[i] += wide * r0 + (middle >> shift)
        low[i] += middle & mask


@inlined
def _above(first: np.uint32, second: np.uint32, p1_inverse: tuple[np.uint64, ...]) -> np.uint64:
    """Return k of the integer first + p1 k below p1 p2 with these residues; p2 < p1 < 2 p2 < 2^31."""
    return u64(times(np.uint32(u64(second) + u64(2) * p1_inverse[2] - u64(first)), p1_inverse))


@kernel("(u4[:,:,::1], u8[::1], u8[:,::1], u8[:,::1])")
def _join(residues: Limbs, p: Words, p1_inverse: Words, out: Words) -> None:
    p1, inverse = p[0], _row(p1_inverse, 0)
    for b in range(out.shape[0]):
        z, first = out[b], residues[b, 0]
        if p.size == 1:
            z[:] = first
        else:
            second = residues[b, 1]
            for i in range(z.size):
                z[i] = u64(first[i]) + p1 * _above(first[i], second[i], inverse)


@kernel("(u4[:,:,::1], u4[:,:,::1], u8[:,::1], u4[:,:,::1])")
def _divide(v: Limbs, e: Limbs, D_inverse: Words, out: Limbs) -> None:
    for b in range(v.shape[0]):
        for m in range(v.shape[1]):
            factor = _row(D_inverse, m)
            x, r, z = v[b, m], e[b, m], out[b, m]
            for i in range(z.size):
                z[i] = times(np.uint32(u64(x[i]) + factor[2] - u64(r[i])), factor)


@kernel("(u4[:,:,::1], u8[::1], u8[:,::1], u8[::1], u8[::1], u8[:,::1], u8, u4[:,:,::1])")
def _lift_centred(
    residues: Limbs,
    p: Words,
    p1_inverse: Words,
    p1_mod: Words,
    minus_t: Words,
    divisors: Words,
    half: np.uint64,
    out: Limbs,
) -> None:
    p1, inverse = p[0], _row(p1_inverse, 0)
    above, negative, wide = np.zeros(_TILE, np.uint64), np.empty(_TILE, np.uint64), np.empty(_TILE, np.uint64)
    for b in range(residues.shape[0]):
        for start in range(0, residues.shape[2], _TILE):
            size = min(_TILE, residues.shape[2] - start)
            first = residues[b, 0, start : start + size]
            if p.size > 1:
                second = residues[b, 1, start : start + size]
                for i in range(size):
                    above[i] = _above(first[i], second[i], inverse)
            for i in range(size):
                negative[i] = (half - (u64(first[i]) + p1 * above[i])) >> u64(63)
            for j in range(divisors.shape[0]):
                z, prime, weight, minus = out[b, j, start : start + size], _row(divisors, j), p1_mod[j], minus_t[j]
                for i in range(size):
                    wide[i] = u64(first[i]) + weight * above[i] + minus * negative[i]
                for i in range(size):
                    z[i] = reduced(wide[i], prime)


@kernel("(u8[:,::1], u8[:,::1], u4[:,:,::1])")
def _split(values: Words, message: Words, out: Limbs) -> None:
    for b in range(values.shape[0]):
        for m in range(message.shape[0]):
            z, x, prime = out[b, m], values[b], _row(message, m)
            for i in range(x.size):
                z[i] = reduced(x[i], prime)


@kernel("(u8[:,::1], u4[::1], u8[:,::1], u4[:,:,::1])", "(u8[:,::1], u4[::1], u8[:,::1], u4[:,:,:])")
def _embed(values: Words, D_mod: Limbs, message: Words, limbs: Limbs) -> None:
    for b in range(values.shape[0]):
        for m in range(message.shape[0]):
            z, x, prime, scale = limbs[b, m], values[b], _row(message, m), u64(D_mod[m])
            for i in range(x.size):
                z[i] = reduced(u64(reduced(x[i], prime)) * scale + u64(z[i]), prime)


@kernel("(u4[:,:,::1], u8[::1], u8[::1], u8, u8, u8[:,::1])")
def _scale(limbs: Limbs, primes: Words, inverse: Words, t: np.uint64, shift: np.uint64, out: Words) -> None:
    half = u64(1) << (shift - u64(1))
    for b in range(limbs.shape[0]):
        for i in range(limbs.shape[2]):
            whole = u64(0)
            high = u64(0)
            low = u64(0)
            for j in range(primes.size):
                p = primes[j]
                y = u64(limbs[b, j, i]) * inverse[j] % p * t
                quotient = y // p
                whole += quotient
                wide = (y - quotient * p) << shift
                quotient = wide // p
                high += quotient
                low += ((wide - quotient * p) << shift) // p
            high += low >> shift
            out[b, i] = (whole + ((high + half) >> shift)) % t
