"""Parameters: derived primes, the security table, refusals."""

from __future__ import annotations

import math

import pytest

from veilscore.errors import ParameterError
from veilscore.lattice import params
from veilscore.lattice.params import ParameterSet

SETS = (
    params.HISTOGRAM,
    params.LOOKUP_TRAIN,
    params.LOOKUP_OPEN,
    params.PRODUCT,
    params.PRODUCT_OPEN,
    params.LOOKUP_TREES,
)


def naive_prime(n):
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def test_primality_agrees_with_trial_division():
    assert [n for n in range(2000) if params.is_prime(n)] == [n for n in range(2000) if naive_prime(n)]
    assert not params.is_prime(3215031751)  # strong pseudoprime to bases 2, 3, 5, 7
    assert params.is_prime((1 << 61) - 1)


def test_primes_are_the_largest():
    found = params.largest_primes(14, 256, 3)
    assert list(found) == [n for n in range((1 << 14) - 1, 1, -1) if n % 256 == 1 and naive_prime(n)][:3]


@pytest.mark.parametrize("parameters", SETS, ids=lambda s: s.name)
def test_sets_are_within_the_security_table(parameters):
    """The figures are those of the guidelines of 2024; those of 2018 were 54, 109 and 218."""
    assert parameters.q.bit_length() <= {2048: 53, 4096: 106, 8192: 214}[parameters.N]
    assert all(p % (2 * parameters.N) == 1 and naive_prime(p) for p in parameters.primes)


def test_share_ring():
    p1, p2 = params.T_PRIMES
    assert p1 * p2 == params.T
    assert (1 << 30) - (1 << 20) < p2 < p1 < 1 << 30
    assert p1 % 16384 == p2 % 16384 == 1
    assert params.HISTOGRAM.q % params.T == params.PRODUCT.q % params.T == 0


@pytest.mark.parametrize(
    ("N", "t", "primes", "n_message", "why"),
    [
        (4096, 1 << 24, params.largest_primes(30, 8192, 4), 0, "128 bits"),
        (4096, params.T, params.T_PRIMES + params.largest_primes(24, 8192, 2), 2, "at most 106"),
        (2048, 1 << 24, params.largest_primes(30, 4096, 1) + params.largest_primes(24, 4096, 1), 0, "at most 53"),
        (8192, params.T, params.T_PRIMES + params.largest_primes(26, 16384, 6), 2, "at most 214"),
        (3000, 1 << 24, params.largest_primes(30, 8192, 2), 0, "security table"),
        (4096, 1 << 24, (8193, 16760833), 0, "not a prime"),
        (4096, 1 << 24, (12289,) * 2, 0, "differ"),
        (4096, 1 << 24, params.largest_primes(30, 16384, 2), 1, "product of the first"),
        (4096, 1 << 24, params.largest_primes(31, 8192, 1), 0, "not a prime below"),
    ],
)
def test_weak_or_wrong_sets_are_refused(N, t, primes, n_message, why):
    with pytest.raises(ParameterError, match=why):
        ParameterSet("bad", N, t, primes, n_message)


def test_noise_budgets():
    assert params.check_histogram(120_000, 640).log2_failure < -36
    assert params.check_histogram(1_000_000, 640, 64).log2_failure < -34.5
    assert params.check_lookup(params.LOOKUP_TRAIN, 1_000_000, 20, 200).log2_failure < -19.8
    assert params.check_lookup(params.LOOKUP_OPEN, 1_000_000, 20, 200).log2_failure + 20 < -50
    assert params.check_row_lookup(params.MAX_CELLS, 100, 1200).log2_failure < -21
    product = params.check_product(48, 1 << 28)
    assert product.bound * 2.0**68 < params.PRODUCT.delta


@pytest.mark.parametrize(
    "call",
    [
        lambda: params.check_histogram(0, 1),
        lambda: params.check_histogram(params.MAX_SAMPLES + 1, 1),
        lambda: params.check_histogram(1, params.MAX_CELLS + 1),
        lambda: params.check_histogram(1, 1, 0),
        lambda: params.check_lookup(params.LOOKUP_TRAIN, 1, 2, 1),
        lambda: params.check_lookup(params.LOOKUP_OPEN, params.MAX_SAMPLES + 1, 1, 1),
        lambda: params.check_row_lookup(params.MAX_CELLS + 1, 1, 1),
        lambda: params.check_row_lookup(1, 2, 1),
        lambda: params.check_vectors(0),
        lambda: params.check_product(0, 1),
        lambda: params.check_product(24, 1 << 40),
        lambda: params.largest_primes(14, 8192, 9),
    ],
)
def test_what_would_overflow_is_refused(call):
    with pytest.raises(ParameterError):
        call()


def test_opened_product_bound():
    assert params.check_product(750, 5_000_000, params.PRODUCT_OPEN).log2_failure < -62
    for too_much in ((750, 1 << 24), (params.MAX_SUMMED + 1, 1)):
        with pytest.raises(params.ParameterError):
            params.check_product(*too_much, params.PRODUCT_OPEN)
