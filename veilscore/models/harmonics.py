"""The sigmoid and its derivative as series of one base turn, so that margins stay shared from tree to tree.

Source: `loss.py` (the sigmoid on shares), with one change. A margin in boosting is never shared again, so its period
cannot change with its range: all series are harmonics of one base period 2 * BASE_L. A series of half-period
BASE_L / r has the angles 2 pi r k s / T of a share s modulo T. A margin is an integer modulo T (the share ring) in
units of 2 * BASE_L / T.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from veilscore.arrays import Vector, Words
from veilscore.errors import ParameterError
from veilscore.kernels import kernel
from veilscore.lattice.params import T
from veilscore.models.loss import sigmoid

BASE_L = 96.0
UNIT = 2.0 * BASE_L / T  # log-odds per unit of a shared margin
MAX_ERROR = 3e-4  # of p and of h, inside the range
# harmonic r: (range R, number of terms K), the least K within MAX_ERROR
_SHAPES: dict[int, tuple[float, int]] = {
    16: (3.33, 5),
    12: (5.33, 7),
    8: (9.23, 11),
    6: (13.3, 15),
    5: (16.6, 18),
    4: (20.8, 23),
    3: (29.0, 30),
    2: (45.0, 45),
    1: (90.0, 90),
}
LARGEST = 90.0
_RIDGE = 1e-9
_GRID = 4000


@dataclass(frozen=True, eq=False)
class Harmonics:
    """p(x) ~ 1/2 + sum_k c_k sin(pi k x / L) and p (1 - p) ~ d_0 + sum_k d_k cos(pi k x / L), |x| <= R, L = BASE_L / r.

    Attributes
    ----------
    r : which harmonic.
    R : good to `MAX_ERROR` on [-R, R], **wrong** beyond.
    sines, cosines : (K,) c and d.
    constant : d_0.
    """

    r: int
    R: float
    sines: Vector
    cosines: Vector
    constant: float

    @property
    def K(self) -> int:  # noqa: N802 - the number of terms is K in the paper
        """Number of terms."""
        return self.sines.size

    def tables(self, share: Words) -> tuple[Vector, Vector]:
        """Sines and cosines of one party's share (n,) modulo T: each (K, n)."""
        sines, cosines = np.empty((self.K, share.size)), np.empty((self.K, share.size))
        _rotate(np.ascontiguousarray(share, np.uint64), np.float64(self.r) * 2.0 * np.pi / T, sines, cosines)
        return sines, cosines

    def probability(self, margin: Vector) -> tuple[Vector, Vector]:
        """Series at log-odds (n,), in the clear: p and p (1 - p)."""
        angle = np.outer(np.arange(1, self.K + 1), margin) * (np.pi * self.r / BASE_L)
        return 0.5 + self.sines @ np.sin(angle), self.constant + self.cosines @ np.cos(angle)


@kernel("(u8[::1], f8, f8[:,::1], f8[:,::1])")
def _rotate(share: Words, step: float, sines: Vector, cosines: Vector) -> None:
    """Fill row k with the sine and cosine of k steps of each share, by repeated rotation."""
    for i in range(share.size):
        angle = np.float64(share[i]) * step
        s, c = np.sin(angle), np.cos(angle)
        sines[0, i], cosines[0, i] = s, c
        for k in range(1, sines.shape[0]):
            a, b = sines[k - 1, i], cosines[k - 1, i]
            sines[k, i] = a * c + b * s
            cosines[k, i] = b * c - a * s


@cache
def harmonics(r: int) -> Harmonics:
    """Series of harmonic r, the same numbers for every caller; ParameterError if there is none."""
    if r not in _SHAPES:
        raise ParameterError(f"there is no sigmoid series of harmonic {r}; there are {sorted(_SHAPES)}")
    R, K = _SHAPES[r]
    x: Vector = (np.arange(_GRID, dtype=np.float64) + 0.5) * (R / _GRID)
    angle = np.outer(x, np.arange(K + 1)) * (np.pi * r / BASE_L)
    p = sigmoid(x)
    c = _fit(np.sin(angle[:, 1:]), p - 0.5)
    d = _fit(np.cos(angle), p * (1 - p))
    for array in (c, d):
        array.setflags(write=False)
    # the series of h dips below zero by its error; sums of h must not
    lift = max(0.0, -float((np.cos(angle) @ d).min()))
    return Harmonics(r, R, c, d[1:], float(d[0]) + np.ceil(np.ldexp(lift, 40)) * 2.0**-40)


def _fit(basis: Vector, values: Vector) -> Vector:
    gram = basis.T @ basis / _GRID + _RIDGE * np.eye(basis.shape[1])
    # 40 bits: the last bits of a fit depend on the machine
    solved = np.linalg.solve(gram, basis.T @ values / _GRID)
    fitted: Vector = np.asarray(np.ldexp(np.rint(np.ldexp(solved, 40)), -40), dtype=np.float64)
    return fitted


def for_bound(bound: float) -> Harmonics:
    """Cheapest series for margins of absolute value up to `bound`; ParameterError beyond `LARGEST`."""
    for r, (R, _) in _SHAPES.items():
        if bound <= R:
            return harmonics(r)
    raise ParameterError(f"margins may reach {bound:.1f}, beyond {LARGEST}: lower learning_rate or n_estimators")


def to_units(margin: Vector) -> Words:
    """Log-odds as integers modulo T, to 2^-44 or so."""
    whole = np.rint(np.asarray(margin, np.float64) / UNIT).astype(np.int64)
    return np.where(whole < 0, whole + np.int64(T), whole).astype(np.uint64)
