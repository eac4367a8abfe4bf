"""Parameters of the ring-LWE kernel: derived, checked, and refused in this one place.

Source: Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption" (2024, eprint 2024/463): the
largest modulus of a ring of dimension N at 128 bits of classical security with ternary secrets and an error of
standard deviation 3.19. Errors here are centred binomial with eta = 21 (standard deviation 3.24), as in SEAL. Sizes
are in bits unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from veilscore.errors import ParameterError

SECURITY_BITS = {2048: 53, 4096: 106, 8192: 214}
"""Largest bits of q at 128 bits of security, by ring dimension; only the dimensions that a set here uses."""
MAX_PRIME_BITS = 30  # lazy reduction keeps values below 4p in 32 bits
NOISE_ETA = 21
NOISE_SD = math.sqrt(NOISE_ETA / 2)
SCALE_BITS = 24
TAIL_SDS = 10.0  # a sub-Gaussian value leaves 10 sd with probability below 2^-71
LEAK_BITS = 40  # statistical distance of an opening or a garbled block
DITHER_SD = float(1 << 16)  # units of the last place, added before a share is opened
MAX_SAMPLES = 1 << 24
MAX_CELLS = 1 << 14
MAX_CODES = 1 << 16
MAX_VECTORS = 1 << 12
MAX_SUMMED = 1 << 16  # vectors of one opened product, over all its chunks
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # deterministic Miller-Rabin below 2^64


def is_prime(n: int) -> bool:
    """Tell whether `n` < 2^64 is prime (deterministic Miller-Rabin)."""
    if n < 2 or any(n % p == 0 for p in _WITNESSES):
        return n in _WITNESSES
    odd = n - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for base in _WITNESSES:
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def largest_primes(bits: int, step: int, count: int) -> tuple[int, ...]:
    """Return the `count` largest primes below 2^bits that are 1 modulo `step`, largest first."""
    found: list[int] = []
    candidate = ((1 << bits) - 2) // step * step + 1
    while len(found) < count:
        if candidate <= step:
            raise ParameterError(f"there are not {count} primes of {bits} bits that are 1 mod {step}")
        if is_prime(candidate):
            found.append(candidate)
        candidate -= step
    return tuple(found)


@dataclass(frozen=True)
class ParameterSet:
    """A ring Z_q[X]/(X^N + 1) and the plaintext modulus carried in it.

    name : what it is for.
    N : ring dimension, a power of two.
    t : plaintext modulus.
    primes : the limbs; q is their product.
    n_message : leading limbs whose product is t (then D = q/t), or 0 where t is coprime to q.
    """

    name: str
    N: int
    t: int
    primes: tuple[int, ...]
    n_message: int

    def __post_init__(self) -> None:
        """Refuse a set that is below 128 bits or that the arithmetic cannot carry."""
        bits = SECURITY_BITS.get(self.N)
        if bits is None:
            raise ParameterError(f"{self.name}: ring dimension {self.N} is not in the security table")
        if self.q.bit_length() > bits:
            raise ParameterError(
                f"{self.name}: a modulus of {self.q.bit_length()} bits at N = {self.N} is below 128 bits of "
                f"security (at most {bits}); take fewer limbs or a larger ring"
            )
        if len(set(self.primes)) != len(self.primes):
            raise ParameterError(f"{self.name}: limbs must differ")
        for p in self.primes:
            if p >> MAX_PRIME_BITS or p % (2 * self.N) != 1 or not is_prime(p):
                raise ParameterError(f"{self.name}: limb {p} is not a prime below 2^30, 1 mod {2 * self.N}")
        if self.n_message and math.prod(self.primes[: self.n_message]) != self.t:
            raise ParameterError(f"{self.name}: t must be the product of the first {self.n_message} limbs")

    @property
    def q(self) -> int:
        """The ciphertext modulus."""
        return math.prod(self.primes)

    @property
    def delta(self) -> int:
        """Distance of two neighbouring plaintexts: D where t divides q, else floor(q/t)."""
        return self.q // self.t


@dataclass(frozen=True)
class NoiseBudget:
    """Noise of a result before rounding.

    sd : standard deviation (an upper bound) of one coefficient's noise, in units of 1/q.
    bound : noise that is exceeded with probability below 2^-71.
    log2_failure : base-2 logarithm of the probability that one share is off by one unit.
    """

    sd: float
    bound: float
    log2_failure: float


T_PRIMES: tuple[int, int] = largest_primes(30, 16384, 2)  # type: ignore[assignment]  # exactly two
T = T_PRIMES[0] * T_PRIMES[1]
ONLINE_T = 33538049  # of one firm's score: a prime of 25 bits, 1 modulo 2 * 8192, so that a ciphertext has 8192 slots

HISTOGRAM = ParameterSet("histogram", 4096, T, T_PRIMES + largest_primes(23, 8192, 2), 2)
LOOKUP_TRAIN = ParameterSet(
    "lookup in training", 2048, 1 << 24, largest_primes(29, 4096, 1) + largest_primes(24, 4096, 1), 0
)
LOOKUP_OPEN = ParameterSet("lookup, opened", 4096, 1 << 24, largest_primes(26, 8192, 4), 0)
PRODUCT = ParameterSet("product", 8192, T, T_PRIMES + largest_primes(24, 16384, 6), 2)

SCORE_T: int = largest_primes(22, 16384, 1)[0]
"""Modulus of the totals of trees: a prime, so that a product has slots and a lookup can share it."""
PRODUCT_OPEN = ParameterSet("product, opened", 8192, SCORE_T, (SCORE_T, *largest_primes(24, 16384, 4)), 1)
LOOKUP_TREES = ParameterSet("lookup, trees", 4096, SCORE_T, LOOKUP_OPEN.primes, 0)

INNER_T_PRIMES = largest_primes(22, 8192, 2)
_INNER_DIVISORS = largest_primes(21, 8192, 2) + largest_primes(20, 8192, 1)
INNER = ParameterSet("inner product", 4096, math.prod(INNER_T_PRIMES), INNER_T_PRIMES + _INNER_DIVISORS, 2)
"""Of sums of products; a reply leaves out the last two limbs, and looked-up factors need no more either."""
INNER_REPLY = ParameterSet("inner product, reply", 4096, INNER.t, INNER.primes[:3], 2)
LOOKUP_INNER = ParameterSet("lookup, inner product", 4096, INNER.t, INNER.primes[:3], 2)


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (value, most) in sizes.items():
        if not 1 <= value <= most:
            raise ParameterError(f"{name.replace('_', ' ')} is {value}; it must be between 1 and {most}")


def _budget(params: ParameterSet, sd: float) -> NoiseBudget:
    bound = TAIL_SDS * sd
    if 4 * bound >= params.delta:
        raise ParameterError(f"{params.name}: noise of 2^{math.log2(bound):.0f} does not fit under q/t")
    # an offset of E|noise| moves a uniform mask over the rounding boundary with probability E|noise| / delta
    return NoiseBudget(sd, bound, math.log2(math.sqrt(2 / math.pi) * sd) - math.log2(params.delta))


def check_histogram(n_samples: int, n_cells: int, n_vectors: int = 1) -> NoiseBudget:
    """Bound the noise of a secure histogram, or raise ParameterError.

    noise = <m_r, e> - <e_r, s> + <e4, sigma_r>, at most n_samples terms in the first.
    """
    _check_sizes(
        number_of_samples=(n_samples, MAX_SAMPLES),
        number_of_cells=(n_cells, MAX_CELLS),
        number_of_vectors=(n_vectors, MAX_VECTORS),
    )
    return _budget(HISTOGRAM, NOISE_SD * math.sqrt(n_samples + 2 * HISTOGRAM.N))


def check_lookup(params: ParameterSet, n_samples: int, n_columns: int, n_cells: int) -> NoiseBudget:
    """Bound the noise of a secure lookup sum, or raise ParameterError.

    noise = sum over cells of m e_cell - e_k s + e4 sigma_k, and half a unit of q a column from rounding.
    """
    _check_sizes(
        number_of_samples=(n_samples, MAX_SAMPLES),
        number_of_columns=(n_columns, n_cells),
        number_of_cells=(n_cells, MAX_CELLS),
    )
    budget = _budget(params, NOISE_SD * math.sqrt(params.N * (n_columns + 2)) + n_columns / 2)
    if params in (LOOKUP_OPEN, LOOKUP_TREES) and budget.log2_failure + math.log2(n_samples) > -LEAK_BITS:
        raise ParameterError(f"opening {n_samples} sums of {n_columns} columns is inexact")
    return budget


def check_row_lookup(n_samples: int, n_columns: int, n_cells: int) -> NoiseBudget:
    """Bound the noise of a lookup by rows, or raise ParameterError.

    noise = <m_r, e> - <e_r, s> + <e4, sigma_r>, n_columns terms in the first, and half a unit of q a column from
    rounding.
    """
    _check_sizes(
        number_of_samples=(n_samples, MAX_CELLS),
        number_of_columns=(n_columns, n_cells),
        number_of_cells=(n_cells, MAX_CELLS),
    )
    return _budget(LOOKUP_TRAIN, NOISE_SD * math.sqrt(n_columns + 2 * LOOKUP_TRAIN.N) + n_columns / 2)


def check_vectors(n_vectors: int) -> None:
    """Refuse a query of too many vectors, or of none."""
    _check_sizes(number_of_vectors=(n_vectors, MAX_VECTORS))


def check_inner(n_products: int) -> NoiseBudget:
    """Bound the noise of a secure inner product once its reply is divided by the limbs it leaves out, or refuse.

    noise = (sum over products of e v, |v| <= t/2 in each of N coefficients, plus the encryption of zero) / divisor, and
    half a unit of c0 and of c1 times the secret from each of two divisions.

    n_products : products of whole blocks in one sum.
    """
    _check_sizes(number_of_products=(n_products, MAX_SUMMED))
    divisor = INNER.q / INNER_REPLY.q
    zero = NOISE_SD * math.sqrt(2 * INNER.N + 1)
    sd = (NOISE_SD * math.sqrt(n_products * INNER.N) * (INNER.t / 2) + zero) / divisor
    return _budget(INNER_REPLY, sd + 2 * math.sqrt((1 + INNER.N * 2 / 3) / 12))


def check_product(n_vectors: int, openings: int, params: ParameterSet = PRODUCT) -> NoiseBudget:
    """Bound the noise of a secure product, or raise ParameterError.

    noise = sum over vectors of e v, |v| <= t/2 in each of N coefficients, plus the encryption of zero.

    n_vectors : products summed under encryption.
    openings : coefficients decrypted under all keys of a job; one that rounds wrongly garbles its block.
    """
    most = MAX_VECTORS if params is PRODUCT else MAX_SUMMED
    _check_sizes(number_of_vectors=(n_vectors, most), number_of_openings=(openings, 1 << 60))
    zero = NOISE_SD * math.sqrt(2 * params.N + 1)
    sd = NOISE_SD * math.sqrt(n_vectors * params.N) * (params.t / 2) + zero
    budget = _budget(params, sd)
    # the mask is uniform, so the opened set may count the probability itself, as the opened lookup does
    exact = params is PRODUCT_OPEN and budget.log2_failure + math.log2(openings) <= -LEAK_BITS
    if not exact and budget.bound * openings * 2.0**LEAK_BITS > params.delta:
        raise ParameterError(
            f"{openings} openings of {n_vectors} summed products leave less than {LEAK_BITS} bits; "
            "use fewer rows or steps under one job"
        )
    return budget
