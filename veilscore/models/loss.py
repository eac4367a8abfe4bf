"""Give the sigmoid as a sine series, so that two shares of a log-odds become shares of a probability.

Source: `docs/protocols`, sigmoid on shares. sigma(x) - 1/2 ~ sum_k c_k sin(pi k x / L) on |x| <= R, fitted by
ridge regression, which keeps every |c_k| below .7 where plain least squares reaches thousands.

Conventions, used in the whole package: y = 1 is bad, eta is the log-odds of bad, p = sigma(eta), the loss of a
row is w (log(1 + exp(eta)) - y eta), its gradient in eta is w (p - y). An eta shared between two parties is an
integer modulo 2^24 in units of 2L / 2^24, so one turn of the integers is one period 2L of the series.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from veilscore.arrays import Integers, Vector, Words
from veilscore.errors import ParameterError
from veilscore.kernels import kernel

TURN_BITS = 24
TURN = 1 << TURN_BITS
MAX_FIT_ERROR = 2.5e-5
MAX_COEFFICIENT = 0.7

# R: (L / R, K), the least K whose largest error is below MAX_FIT_ERROR.
_SHAPES: dict[int, tuple[float, int]] = {
    4: (1.85, 7),
    8: (1.40, 11),
    12: (1.275, 15),
    16: (1.20, 19),
    24: (1.13, 27),
    32: (1.10, 37),
    48: (1.065, 53),
    64: (1.05, 69),
}
BOUNDS = tuple(_SHAPES)
_RIDGE = 1e-9  # per sample of the grid; 1e-5 on the usual grid of 10^4 points
_GRID = 4000  # points of [0, R] that a series is fitted on


@dataclass(frozen=True, eq=False)
class SigmoidSeries:
    """sigma(x) ~ 1/2 + sum_k c_k sin(pi k x / L) for |x| <= R.

    R : the series is good to `max_error` on [-R, R] and **wrong** beyond.
    L : half the period.
    coefficients : (K,) float64, c_1 ... c_K.
    max_error : largest |series - sigma| on [-R, R], measured at construction.
    """

    R: float
    L: float
    coefficients: Vector
    max_error: float

    @property
    def K(self) -> int:  # noqa: N802 - the number of terms is K in the paper
        """Return the number of terms."""
        return len(self.coefficients)

    @property
    def unit(self) -> float:
        """Return the log-odds per unit of a shared eta."""
        return 2.0 * self.L / TURN

    def row_noise(self, bits: int, weighted_bits: int) -> float:
        """Return the deviation of one p from tables of so many fraction bits, the second being the weighted one."""
        plain = float(np.linalg.norm(self.coefficients)) * 2.0**-bits
        return float(np.hypot(plain, np.sqrt(self.K) * 2.0**-weighted_bits) / np.sqrt(12.0))

    def to_units(self, eta: Vector) -> Words:
        """Turn log-odds (n,) into integers modulo 2^24, rounded to the nearest unit."""
        return (np.rint(np.asarray(eta) / self.unit).astype(np.int64) % TURN).astype(np.uint64)

    def probability(self, eta: Vector) -> Vector:
        """Return the series at log-odds (n,), in the clear; shape (n,)."""
        return 0.5 + self.coefficients @ self.tables(self.to_units(eta))[0]

    def tables(self, share_units: Words) -> tuple[Vector, Vector]:
        """Return sin(2 pi k s / 2^24) and cos(2 pi k s / 2^24) of one party's share s, k = 1..K: each (K, n) float64.

        share_units : (n,) uint64, the share of eta modulo 2^24; higher bits are ignored.
        """
        return angle_tables(share_units & np.uint64(TURN - 1), 2.0 * np.pi / TURN, self.K)

    def encoded_tables(self, share_units: Words, bits: int, *, weighted: bool) -> tuple[Integers, Integers]:
        """Return `tables` as fixed-point integers of scale 2^bits, rounded to nearest even: each (K, n) int64.

        A share is uniform, so the rounding has no bias to speak of; the sum over a million rows stays within
        a hundredth of its standard error (tested).
        bits : fraction bits, 1..40.
        weighted : multiply row k by c_k first. Exactly one of the two parties weights. Its table has to be finer:
            an error of the weighted table reaches p as it is, one of the other table shrinks by c_k.
        """
        if not 1 <= bits <= 40:
            raise ParameterError(f"Tables of {bits} fraction bits asked for; choose 1 to 40.")
        sines, cosines = self.tables(share_units)
        weights = np.ldexp(self.coefficients if weighted else np.ones(self.K), bits)[:, None]
        for table in (sines, cosines):
            np.multiply(table, weights, out=table)
            np.rint(table, out=table)
        return sines.astype(np.int64), cosines.astype(np.int64)


def angle_tables(units: Words, step: float, n_terms: int) -> tuple[Vector, Vector]:
    """Return sines and cosines of k * step * unit for k = 1..n_terms: each (n_terms, n)."""
    sines, cosines = np.empty((n_terms, units.size)), np.empty((n_terms, units.size))
    _rotate(np.ascontiguousarray(units, np.uint64), np.float64(step), sines, cosines)
    return sines, cosines


@kernel("(u8[::1], f8, f8[:,::1], f8[:,::1])")
def _rotate(units: Words, step: float, sines: Vector, cosines: Vector) -> None:
    # one sine and cosine a unit, then a rotation a term: calling sin and cos for every term costs several times more
    n_terms, n = sines.shape
    block = 1024  # two rows of a block and its start stay in the first cache
    for begin in range(0, n, block):
        end = min(n, begin + block)
        for i in range(begin, end):
            angle = np.float64(units[i]) * step
            sines[0, i] = np.sin(angle)
            cosines[0, i] = np.cos(angle)
        for k in range(1, n_terms):
            for i in range(begin, end):
                s, c = sines[k - 1, i], cosines[k - 1, i]
                sines[k, i] = s * cosines[0, i] + c * sines[0, i]
                cosines[k, i] = c * cosines[0, i] - s * sines[0, i]


def _basis(x: Vector, L: float, K: int) -> Vector:
    return np.sin(np.outer(x, np.arange(1, K + 1)) * (np.pi / L))


def grid(R: float) -> Vector:
    """Return the points of [0, R] that a series is fitted on: (n,)."""
    return np.asarray((np.arange(_GRID, dtype=np.float64) + 0.5) * (R / _GRID))


def fit_series(basis: Vector, values: Vector, ridge: float = _RIDGE) -> Vector:
    """Return the coefficients (K,), read-only, of a basis (n, K) for values (n,) on the grid, by ridge regression."""
    gram = basis.T @ basis / _GRID + ridge * np.eye(basis.shape[1])
    # 40 bits: the last bits of a fit depend on the machine, and both holders of shares must use the same series
    fitted = np.ldexp(np.rint(np.ldexp(np.linalg.solve(gram, basis.T @ values / _GRID), 40)), -40)
    fitted.setflags(write=False)
    return np.asarray(fitted)


@cache
def sigmoid_series(R: int) -> SigmoidSeries:
    """Return the series for |x| <= R, R one of `BOUNDS`; the same numbers for every caller.

    Raises ParameterError where R is not one of `BOUNDS`, or the fit misses its accuracy.
    """
    if R not in _SHAPES:
        raise ParameterError(f"No sigmoid series for R = {R}; the choices are {', '.join(map(str, BOUNDS))}.")
    ratio, K = _SHAPES[R]
    L = R * ratio
    x = grid(R)
    coefficients = fit_series(_basis(x, L, K), sigmoid(x) - 0.5)
    check = np.linspace(0.0, R, 8001)
    error = float(np.abs(_basis(check, L, K) @ coefficients + 0.5 - sigmoid(check)).max())
    if error > MAX_FIT_ERROR or np.abs(coefficients).max() > MAX_COEFFICIENT:
        raise ParameterError(f"The sigmoid series for R = {R} misses its accuracy: error {error:.1e}.")
    return SigmoidSeries(R=float(R), L=L, coefficients=coefficients, max_error=error)


def for_bound(bound: float) -> SigmoidSeries:
    """Return the series of the least R >= bound.

    Raises ParameterError where no series reaches so far, or the bound is not a number.
    """
    for R in BOUNDS:
        if bound <= R:
            return sigmoid_series(R)
    raise ParameterError(
        f"Log-odds may reach {bound:.1f}, beyond {BOUNDS[-1]}, the largest sigmoid series: "
        "strengthen the penalty (smaller C) or use fewer columns."
    )


def sigmoid(eta: Vector) -> Vector:
    """Return the probability of bad at log-odds eta, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(eta, dtype=np.float64)))


def log_loss(eta: Vector, y: Vector, weight: Vector | None = None) -> float:
    """Return the weighted sum of the logistic loss at log-odds eta (n,) and labels y (n,) in {0, 1}."""
    loss = np.logaddexp(0.0, eta) - y * eta
    return float(loss.sum() if weight is None else weight @ loss)
