"""From log-odds to filed numbers: prior correction, recalibration, integer points, bands.

Source: King and Zeng, Political Analysis 9 (2001), for the prior; Cox, Biometrika 45 (1958), for slope and
intercept; Siddiqi, Intelligent Credit Scoring, chapter 6, for points to double the odds.

Points are integers in units of 10^-decimals of a point, rounded once per cell at export. A total is the sum of
integers, so batch and online scoring add up to the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veilscore.errors import ConfigError, LabelError, ParameterError
from veilscore.modelling.loss import sigmoid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from veilscore.modelling.model import Scaling
    from veilscore.modelling.woe import WoeTable

    Vector = NDArray[np.float64]

MAX_POINTS = 1 << 22  # units of one cell; sums of a few hundred cells stay in 31 bits


def prior_correction(intercept: float, sample_bad_rate: float, population_bad_rate: float) -> float:
    """Intercept for a population whose bad rate differs from the (weighted) training sample's.

    Raises
    ------
    ConfigError : a rate is not between 0 and 1.
    """
    for name, rate in (("sample", sample_bad_rate), ("population", population_bad_rate)):
        if not 0 < rate < 1:
            raise ConfigError(f"The bad rate of the {name} is {rate:g}; it must lie between 0 and 1.")
    return intercept + _logit(population_bad_rate) - _logit(sample_bad_rate)


def _logit(rate: float) -> float:
    return float(np.log(rate) - np.log1p(-rate))


@dataclass(frozen=True)
class Recalibration:
    """Log-odds on new data: intercept + slope * eta. Slope 1 and intercept 0 mean a calibrated model."""

    slope: float
    intercept: float

    def apply(self, eta: Vector) -> Vector:
        """Recalibrated log-odds (n,)."""
        return self.intercept + self.slope * np.asarray(eta, dtype=np.float64)

    def theta(self, beta: Vector, intercept: float) -> tuple[Vector, float]:
        """Coefficients and intercept with the recalibration worked in."""
        return self.slope * beta, self.intercept + self.slope * intercept


def recalibrate(eta: Vector, y: Vector, weight: Vector | None = None, *, fixed_slope: bool = False) -> Recalibration:
    """Fit slope and intercept on hold-out log-odds by Newton's method.

    Parameters
    ----------
    eta, y : (n,) log-odds and labels in {0, 1}.
    weight : (n,) positive, or None.
    fixed_slope : keep slope 1, fit the intercept only.

    Raises
    ------
    LabelError : the hold-out has one class only.
    ParameterError : the classes are separated, or a higher log-odds does not mean a higher risk.
    """
    eta, y = np.asarray(eta, np.float64), np.asarray(y, np.float64)
    w = np.ones_like(eta) if weight is None else np.asarray(weight, np.float64)
    if not 0 < float(w @ y) < float(w.sum()):
        raise LabelError("The hold-out is all of one class; recalibration needs both.")
    x = np.stack([np.ones_like(eta), eta])
    fit = np.array([0.0, 1.0])
    n_free = 1 if fixed_slope else 2
    for _ in range(100):
        p = sigmoid(fit @ x)
        gradient = (x @ (w * (p - y)))[:n_free]
        hessian = ((x * (w * p * (1.0 - p))) @ x.T)[:n_free, :n_free]
        if np.linalg.cond(hessian) > 1e12:
            break
        move = np.linalg.solve(hessian, gradient)
        fit[:n_free] -= move / max(1.0, float(np.abs(move).max()))
        if np.abs(move).max() < 1e-10:
            if fit[1] <= 0:
                raise ParameterError(
                    "On the hold-out a higher score does not mean a lower risk; do not file this model."
                )
            return Recalibration(slope=float(fit[1]), intercept=float(fit[0]))
    raise ParameterError("Recalibration found no maximum: the hold-out is too small or perfectly separated.")


@dataclass(frozen=True, eq=False)
class PointsTable:
    """Integer points; score in units = base_points + sum over columns of points[cell].

    Attributes
    ----------
    points : (cells,) int64, units.
    base_points : int, units.
    rounding : largest difference between a total and the unrounded scale, in units.
    """

    points: NDArray[np.int64]
    base_points: int
    rounding: float


def points_table(scaling: Scaling, table: WoeTable, beta: Vector, intercept: float) -> PointsTable:
    """Points of every cell: offset + factor * ln(odds good:bad), shared out over base and cells.

    Parameters
    ----------
    scaling : base score, base odds, points to double the odds, decimals.
    table : WOE of the cells, as trained.
    beta, intercept : (d,) coefficients (0 for a column left out) and intercept.

    Raises
    ------
    ParameterError : a cell has more than 2^22 units.
    """
    exact = -scaling.factor * np.repeat(beta, table.n_codes) * table.woe
    base = scaling.offset - scaling.factor * intercept
    if max(float(np.abs(exact).max(initial=0.0)), abs(base)) >= MAX_POINTS:
        raise ParameterError("Points do not fit: choose a smaller pdo or fewer decimals.")
    points = np.rint(exact).astype(np.int64)
    missed = np.abs(points - exact)
    starts = table.offsets
    worst = float(np.maximum.reduceat(missed, starts).sum()) if len(missed) else 0.0
    return PointsTable(points, round(base), worst + abs(round(base) - base))


def cut_off(scaling: Scaling, pd: float) -> float:
    """Score at which the probability of default is `pd`, in points."""
    if not 0 < pd < 1:
        raise ConfigError(f"The probability of default {pd:g} must lie between 0 and 1.")
    return (scaling.offset - scaling.factor * _logit(pd)) / scaling.units


@dataclass(frozen=True)
class BandRow:
    """One score band on labelled rows.

    Attributes
    ----------
    name, lowest : name and lowest score of the band; -inf for the scores below all bands.
    n, bad : (weighted) rows and bad rows.
    pd : probability of default, (bad + 0.5) / (n + 1), moved to the population's bad rate where one is given.
    """

    name: str
    lowest: float
    n: float
    bad: float
    pd: float


def band_table(
    score: Vector,
    y: Vector,
    bands: Mapping[str, float],
    *,
    weight: Vector | None = None,
    population_bad_rate: float | None = None,
) -> tuple[BandRow, ...]:
    """Rows, bad rows and probability of default of each band, the safest first.

    Parameters
    ----------
    score, y : (n,) points and labels in {0, 1}.
    bands : name -> lowest score.
    weight : (n,) positive, or None.
    population_bad_rate : moves each band's odds by the prior correction.

    Raises
    ------
    ConfigError : no band, or two with one lowest score.
    """
    if not bands or len(set(bands.values())) != len(bands):
        raise ConfigError("Bands need at least one name and different lowest scores.")
    score, y = np.asarray(score, np.float64), np.asarray(y, np.float64)
    w = np.ones_like(score) if weight is None else np.asarray(weight, np.float64)
    named = sorted(((float(low), name) for name, low in bands.items()), reverse=True)
    edges = [*named, (-np.inf, "below all bands")]
    sample_rate = float(w @ y) / float(w.sum()) if w.sum() > 0 else 0.0
    rows, top = [], np.inf
    for low, name in edges:
        inside = (score >= low) & (score < top)
        n, bad, top = float(w[inside].sum()), float(w[inside] @ y[inside]), low
        pd = (bad + 0.5) / (n + 1.0)
        if population_bad_rate is not None:
            pd = float(sigmoid(np.array(prior_correction(_logit(pd), sample_rate, population_bad_rate))))
        rows.append(BandRow(name, low, n, bad, pd))
    return tuple(rows)
