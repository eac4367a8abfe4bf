"""From ciphertext coefficients to shares: rounding in residues, without large integers.

Where t divides q (q = t D), round(v / D) mod t is (v - e) / D with e the remainder of v modulo D, centred; it
is found from the limbs of D alone. Where t is coprime to q, round(v t / q) is a sum of one fraction a limb.
Fractions carry at least 68 bits, so that the arithmetic rounds wrongly far less often than the noise does.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from veilscore.errors import ParameterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from veilscore.lattice.params import ParameterSet

    Limbs = NDArray[np.uint32]
    Words = NDArray[np.uint64]

u64 = np.uint64


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
        self._punctured_inverse = np.array([pow(D // d, -1, d) for d in divisors], np.uint64)
        self._punctured = np.array([[D // d % p for d in divisors] for p in message], np.uint64)
        self._minus_D = np.array([-D % p for p in message], np.uint64)
        self.D_mod = np.array([D % p for p in message], np.uint32)
        self.D_inverse = np.array([pow(D, -1, p) for p in message], np.uint64)
        self._p1_inverse = u64(pow(message[0], -1, message[1]) if len(message) > 1 else 0)
        self._p1_mod = np.array([message[0] % d for d in divisors], np.uint64)
        self._minus_t = np.array([-params.t % d for d in divisors], np.uint64)

    def centred_remainder(self, limbs: Limbs) -> Limbs:
        """Return e mod p1, p2 as (B, 2, n) from the limbs of D (B, L - 2, n): e = v mod D in [-D/2, D/2)."""
        out = np.empty((limbs.shape[0], self.message.size, limbs.shape[2]), np.uint32)
        _remainder(
            limbs,
            self.divisors,
            self._punctured_inverse,
            self._punctured,
            self._minus_D,
            self.message,
            u64(64 - int(self.divisors.max()).bit_length()),
            out,
        )
        return out

    def divide(self, message_limbs: Limbs, remainder: Limbs) -> Limbs:
        """Return (v - e) / D mod p1, p2, each array (B, 2, n)."""
        p = self.message[:, None]
        lifted = message_limbs.astype(np.uint64) + p - remainder
        return (lifted % p * self.D_inverse[:, None] % p).astype(np.uint32)

    def join(self, residues: Limbs) -> Words:
        """Return integers below t of shape (..., n) from residues (..., 2, n)."""
        first: Words = residues[..., 0, :].astype(np.uint64)
        if self.message.size == 1:
            return first
        second = residues[..., 1, :].astype(np.uint64)
        p1, p2 = self.message
        out: Words = first + p1 * ((second + p2 - first % p2) % p2 * self._p1_inverse % p2)
        return out

    def lift_centred(self, residues: Limbs) -> Limbs:
        """Return the limbs of D (B, L - 2, n) of integers in [-t/2, t/2) given modulo p1, p2 (B, 2, n)."""
        out = np.empty((residues.shape[0], self.divisors.size, residues.shape[2]), np.uint32)
        if self.message.size == 1:
            _lift_centred_one(residues, self.divisors, self._minus_t, u64(self.t // 2), out)
            return out
        _lift_centred(
            residues,
            self.message,
            self._p1_inverse,
            self.divisors,
            self._p1_mod,
            self._minus_t,
            u64(self.t // 2),
            out,
        )
        return out

    def split(self, values: Words) -> Limbs:
        """Return residues (..., 2, n) of integers below t of shape (..., n)."""
        return (values[..., None, :] % self.message[:, None]).astype(np.uint32)

    def round(self, limbs: Limbs) -> Words:
        """Return round(v / D) mod t as (B, n) from all limbs (B, L, n)."""
        cut = self.message.size
        remainder = self.centred_remainder(np.ascontiguousarray(limbs[:, cut:]))
        return self.join(self.divide(limbs[:, :cut], remainder))

    def embed(self, values: Words, limbs: Limbs) -> None:
        """Add D v to limbs (L, n) in place, for v below t (n,)."""
        # D = 0 modulo its own limbs, so the message lives in the limbs of t
        message = self.split(values).astype(np.uint64) * self.D_mod[:, None] + limbs[: self.message.size]
        limbs[: self.message.size] = (message % self.message[:, None]).astype(np.uint32)


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


def encode_scaled(values: NDArray[np.uint64], params: ParameterSet) -> Limbs:
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


@njit(cache=True, nogil=True)
def _remainder(
    limbs: Limbs,
    d: Words,
    inverse: Words,
    punctured: Words,
    minus_D: Words,
    p: Words,
    shift: np.uint64,
    out: Limbs,
) -> None:
    half = u64(1) << (shift - u64(1))
    sums = np.empty(p.size, np.uint64)
    for b in range(limbs.shape[0]):
        for i in range(limbs.shape[2]):
            high = u64(0)
            low = u64(0)
            sums[:] = u64(0)
            for j in range(d.size):
                y = u64(limbs[b, j, i]) * inverse[j] % d[j]
                wide = y << shift
                quotient = wide // d[j]
                high += quotient
                low += ((wide - quotient * d[j]) << shift) // d[j]
                for m in range(p.size):
                    sums[m] += y * punctured[m, j]
            wraps = (high + (low >> shift) + half) >> shift
            for m in range(p.size):
                out[b, m, i] = np.uint32((sums[m] + wraps * minus_D[m]) % p[m])


@njit(cache=True, nogil=True)
def _lift_centred(
    residues: Limbs,
    p: Words,
    p1_inverse: np.uint64,
    d: Words,
    p1_mod: Words,
    minus_t: Words,
    half: np.uint64,
    out: Limbs,
) -> None:
    for b in range(residues.shape[0]):
        for i in range(residues.shape[2]):
            first = u64(residues[b, 0, i])
            k = (u64(residues[b, 1, i]) + p[1] - first % p[1]) * p1_inverse % p[1]
            negative = u64(first + p[0] * k > half)
            for j in range(d.size):
                out[b, j, i] = np.uint32((first + p1_mod[j] * k + negative * minus_t[j]) % d[j])


@njit(cache=True, nogil=True)
def _lift_centred_one(residues: Limbs, d: Words, minus_t: Words, half: np.uint64, out: Limbs) -> None:
    for b in range(residues.shape[0]):
        for j in range(d.size):
            for i in range(residues.shape[2]):
                value = u64(residues[b, 0, i])
                out[b, j, i] = np.uint32((value + u64(value > half) * minus_t[j]) % d[j])


@njit(cache=True, nogil=True)
def _scale(
    limbs: Limbs, primes: Words, inverse: Words, t: np.uint64, shift: np.uint64, out: NDArray[np.uint64]
) -> None:
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
