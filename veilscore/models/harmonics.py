"""Give the sigmoid and its derivative as series of one base turn, so that margins stay shared from tree to tree.

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
from veilscore.lattice.params import T
from veilscore.models.loss import angle_tables, fit_series, grid, sigmoid

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


@dataclass(frozen=True, eq=False)
class Harmonics:
    """p(x) ~ 1/2 + sum_k c_k sin(pi k x / L) and p (1 - p) ~ d_0 + sum_k d_k cos(pi k x / L), |x| <= R, L = BASE_L / r.

    r : which harmonic.
    R : the series are good to `MAX_ERROR` on [-R, R], **wrong** beyond.
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
        """Return the number of terms."""
        return self.sines.size

    def tables(self, share: Words) -> tuple[Vector, Vector]:
        """Return sines and cosines of one party's share (n,) modulo T: each (K, n)."""
        return angle_tables(share, np.float64(self.r) * 2.0 * np.pi / T, self.K)

    def probability(self, margin: Vector) -> tuple[Vector, Vector]:
        """Return p and p (1 - p) of the series at log-odds (n,), in the clear."""
        angle = np.outer(np.arange(1, self.K + 1), margin) * (np.pi * self.r / BASE_L)
        return 0.5 + self.sines @ np.sin(angle), self.constant + self.cosines @ np.cos(angle)


@cache
def harmonics(r: int) -> Harmonics:
    """Return the series of harmonic r, the same numbers for every caller; ParameterError if there is none."""
    if r not in _SHAPES:
        raise ParameterError(f"there is no sigmoid series of harmonic {r}; there are {sorted(_SHAPES)}")
    R, K = _SHAPES[r]
    x = grid(R)
    angle = np.outer(x, np.arange(K + 1)) * (np.pi * r / BASE_L)
    p = sigmoid(x)
    c, d = fit_series(np.sin(angle[:, 1:]), p - 0.5), fit_series(np.cos(angle), p * (1 - p))
    # the series of h dips below zero by its error; sums of h must not
    lift = max(0.0, -float((np.cos(angle) @ d).min()))
    return Harmonics(r, R, c, d[1:], float(d[0]) + np.ceil(np.ldexp(lift, 40)) * 2.0**-40)


def for_bound(bound: float) -> Harmonics:
    """Return the cheapest series for margins of absolute value up to `bound`; ParameterError beyond `LARGEST`."""
    for r, (R, _) in _SHAPES.items():
        if bound <= R:
            return harmonics(r)
    raise ParameterError(f"margins may reach {bound:.1f}, beyond {LARGEST}: lower learning_rate or n_estimators")


def to_units(margin: Vector) -> Words:
    """Return log-odds as integers modulo T, to 2^-44 or so."""
    whole = np.rint(np.asarray(margin, np.float64) / UNIT).astype(np.int64)
    return np.where(whole < 0, whole + np.int64(T), whole).astype(np.uint64)
