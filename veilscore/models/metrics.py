"""Measure how well a score ranks and predicts: AUC, Gini, KS, gains, calibration, cut-offs.

Labels are 0 (good) and 1 (bad). A score is either a *risk* (a probability or log-odds: higher is worse) or
*points* (higher is better: pass `points=True`). Ranking measures start from one sort into a `ScoreTable`,
which can also be built from the good and bad counts of a histogram when scores of rows must not be seen.

Sources: Fawcett, "An introduction to ROC analysis" (2006); DeLong et al. (1988) for the standard error of an
AUC; Hosmer and Lemeshow (1980) for calibration; Siddiqi, "Credit Risk Scorecards" (2006) for gains and cut-offs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from veilscore.arrays import Vector
from veilscore.errors import DataError, LabelError

Label = npt.ArrayLike
Values = npt.ArrayLike


@dataclass(frozen=True)
class Ks:
    """Largest distance of the two cumulative distributions, and the score at which it is reached."""

    value: float
    score: float


@dataclass(frozen=True)
class Curve:
    """Cumulative shares of goods and bads at most this risky, from the safest score to the riskiest.

    `score` is in the caller's own scale; `good_below` and `bad_below` run from 0 to 1, all of one length.
    """

    score: tuple[float, ...]
    good_below: tuple[float, ...]
    bad_below: tuple[float, ...]

    @property
    def fpr(self) -> tuple[float, ...]:
        """Return the share of goods called bad when everything riskier than `score` is."""
        return tuple(1 - value for value in self.good_below)

    @property
    def tpr(self) -> tuple[float, ...]:
        """Return the share of bads called bad when everything riskier than `score` is."""
        return tuple(1 - value for value in self.bad_below)


@dataclass(frozen=True)
class Discrimination:
    """Ranking power; `auc_se` is DeLong's standard error, `n` and `n_bad` are sums of weights.

    ks_se, auc_noise, ks_noise : of a noised curve alone (`models.curve`), whose `auc_se` has the noise in it too.
    """

    n: float
    n_bad: float
    auc: float
    auc_se: float
    gini: float
    ks: float
    ks_score: float
    ks_se: float | None = None
    auc_noise: float | None = None
    ks_noise: float | None = None


@dataclass(frozen=True)
class GainsRow:
    """One group of rows of equal weight, the riskiest group first (number 1)."""

    group: int
    n: float
    n_bad: float
    bad_rate: float
    captured: float  # share of all bads in this and riskier groups
    lift: float
    cumulative_lift: float
    captured_se: float | None = None  # of a noised curve


@dataclass(frozen=True)
class CalibrationRow:
    """One group of rows of like predicted probability, with Wilson's 95% interval of the observed rate."""

    n: float
    predicted: float
    observed: float
    observed_low: float
    observed_high: float


@dataclass(frozen=True)
class CalibrationCurve:
    """Predicted against observed bad rates; `p_value` is that of the Hosmer-Lemeshow statistic."""

    rows: tuple[CalibrationRow, ...]
    predicted: float
    observed: float
    brier: float
    log_loss: float
    hosmer_lemeshow: float
    p_value: float


@dataclass(frozen=True)
class Histogram:
    """Weights of goods and bads between consecutive `edges` (one more than bars)."""

    edges: tuple[float, ...]
    good: tuple[float, ...]
    bad: tuple[float, ...]


@dataclass(frozen=True)
class CutoffRow:
    """One band of points, the best band first; cumulative columns accept this band and all better ones."""

    band: str
    low: float | None
    high: float | None
    n: float
    bad_rate: float | None
    cumulative_approval: float
    cumulative_bad_rate: float | None
    bads_declined: float
    bad_rate_se: float | None = None  # these two of a noised curve
    bads_declined_se: float | None = None


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Keeps the weights of goods and bads at each distinct risk.

    risk : (n_scores,) strictly ascending; the negative of the score if `points`.
    good, bad : (n_scores,) weights or counts, not negative, both sums positive.
    points : whether the caller's score is higher for better rows.
    """

    risk: Vector
    good: Vector
    bad: Vector
    points: bool = False

    def __post_init__(self) -> None:
        if not self.risk.shape == self.good.shape == self.bad.shape or self.risk.ndim != 1:
            raise DataError("a score table needs three arrays of one length")
        if not (np.isfinite(self.good).all() and np.isfinite(self.bad).all()):
            raise DataError("a score table has weights that are not finite")
        if min(self.good.min(initial=0), self.bad.min(initial=0)) < 0:
            raise DataError("a score table has negative weights")
        if not (np.diff(self.risk) > 0).all():
            raise DataError("the risks of a score table must be strictly ascending")
        if self.good.sum() <= 0 or self.bad.sum() <= 0:
            raise LabelError("measures of ranking need at least one good and one bad row")

    def _below(self) -> tuple[Vector, Vector]:
        """Return the shares of goods and bads with at most each risk, from 0 (n_scores + 1 values each)."""
        good = np.concatenate(([0.0], np.cumsum(self.good)))
        bad = np.concatenate(([0.0], np.cumsum(self.bad)))
        return good / good[-1], bad / bad[-1]

    def _score(self, index: NDArray[np.intp]) -> Vector:
        values = self.risk[np.maximum(index - 1, 0)]
        return -values if self.points else values

    def placements(self) -> tuple[Vector, Vector]:
        """Return the share of goods safer than each risk and of bads riskier, ties counted half (DeLong's V10, V01)."""
        good, bad = self._below()
        return (good[:-1] + good[1:]) / 2, 1 - (bad[:-1] + bad[1:]) / 2

    def auc(self) -> float:
        """Return the probability that a random bad is riskier than a random good, ties counted half."""
        return float(np.dot(self.placements()[0], self.bad) / self.bad.sum())

    def auc_se(self) -> float:
        """Return DeLong's standard error of the AUC, weights read as counts (0 where a class has one row)."""
        area = self.auc()
        variance = 0.0
        for place, count in zip(self.placements(), (self.bad, self.good), strict=True):
            total = count.sum()
            if total > 1:
                variance += float(np.dot((place - area) ** 2, count)) / (total * (total - 1))
        return math.sqrt(variance)

    def ks(self) -> Ks:
        """Return the Kolmogorov-Smirnov distance between goods and bads."""
        good, bad = self._below()
        gap = np.abs(good - bad)
        where = int(np.argmax(gap))
        return Ks(float(gap[where]), float(self._score(np.array([where]))[0]))

    def curve(self, max_points: int = 400) -> Curve:
        """Return the ROC and KS curve in at most `max_points` exact points, the ends and the KS point among them."""
        good, bad = self._below()
        index = np.arange(good.size)
        if good.size > max_points:
            # Both axes' progress counts alike, so steep and flat stretches keep points.
            even = np.searchsorted(good + bad, np.linspace(0, 2, max_points - 3))
            keep = (0, good.size - 1, int(np.argmax(np.abs(good - bad))))
            index = np.unique(np.concatenate((np.minimum(even, good.size - 1), keep)))
        return Curve(*(tuple(part.tolist()) for part in (self._score(index), good[index], bad[index])))

    def gains(self, n_groups: int = 10) -> tuple[GainsRow, ...]:
        """Return gains and lift by groups of equal weight; a tie across a border is shared out evenly."""
        total = np.concatenate(([0.0], np.cumsum((self.good + self.bad)[::-1])))
        bads = np.concatenate(([0.0], np.cumsum(self.bad[::-1])))
        border = np.linspace(0, total[-1], n_groups + 1)
        caught = np.interp(border, total, bads)
        base = bads[-1] / total[-1]
        n = total[-1] / n_groups
        rows = []
        for group in range(n_groups):
            in_group = caught[group + 1] - caught[group]
            rows.append(
                GainsRow(
                    group=group + 1,
                    n=float(n),
                    n_bad=float(in_group),
                    bad_rate=float(in_group / n),
                    captured=float(caught[group + 1] / bads[-1]),
                    lift=float(in_group / n / base),
                    cumulative_lift=float(caught[group + 1] / border[group + 1] / base),
                )
            )
        return tuple(rows)

    def discrimination(self) -> Discrimination:
        """Return all measures of ranking at once."""
        area, ks = self.auc(), self.ks()
        bads = float(self.bad.sum())
        return Discrimination(
            n=float(self.good.sum()) + bads,
            n_bad=bads,
            auc=area,
            auc_se=self.auc_se(),
            gini=2 * area - 1,
            ks=ks.value,
            ks_score=ks.score,
        )


def score_table(y: Label, score: Values, weight: Values | None = None, *, points: bool = False) -> ScoreTable:
    """Sort rows by score and add up goods and bads at each distinct score.

    y : (n_samples,) labels, 1 = bad.
    score : (n_samples,) risk, or points with `points=True`; finite.
    weight : (n_samples,) not negative; 1 each by default.
    Raises LabelError for labels other than 0 and 1 or one class only, DataError where lengths differ or scores or
    weights are not finite.
    """
    label, value, w = _checked(y, score, weight)
    risk = -value if points else value
    order = np.argsort(risk)
    risk, w = risk[order], w[order]
    bad = w * label[order]
    start = np.concatenate(([0], np.flatnonzero(np.diff(risk)) + 1))
    if start.size < risk.size:  # rounding may leave a class slightly below zero
        bads, total = np.add.reduceat(bad, start), np.add.reduceat(w, start)
        return ScoreTable(risk[start], np.maximum(total - bads, 0), bads, points=points)
    return ScoreTable(risk, w - bad, bad, points=points)


def auc(y: Label, score: Values, weight: Values | None = None, *, points: bool = False) -> float:
    """Return the area under the ROC curve, ties counted half (see `score_table` for arguments and errors)."""
    return score_table(y, score, weight, points=points).auc()


def auc_difference(y: Label, score: Values, other: Values, *, points: bool = False) -> tuple[float, float]:
    """Return the AUC of `score` less that of `other` on the same rows, and DeLong's standard error of it."""
    label = _checked(y, score, None)[0] > 0
    first, second = (_row_placements(y, values, points=points) for values in (score, other))
    gap = first - second
    variance = sum(float(np.var(gap[rows], ddof=1)) / int(rows.sum()) for rows in (label, ~label) if rows.sum() > 1)
    return float(gap[label].mean()), math.sqrt(variance)


def _row_placements(y: Label, score: Values, *, points: bool) -> Vector:
    """Return the placement of each row among the rows of the other class."""
    table = score_table(y, score, points=points)
    value = np.asarray(score, dtype=np.float64)
    index = np.searchsorted(table.risk, -value if points else value)
    of_bad, of_good = table.placements()
    return np.where(np.asarray(y) > 0, of_bad[index], of_good[index])


def brier(y: Label, pd: Values, weight: Values | None = None) -> float:
    """Return the mean squared difference of predicted probability and label."""
    label, p, w = _checked_probability(y, pd, weight)
    return float(np.average((p - label) ** 2, weights=w))


def log_loss(y: Label, pd: Values, weight: Values | None = None) -> float:
    """Return the mean negative log-likelihood in nats; probabilities are kept one rounding step off 0 and 1."""
    label, p, w = _checked_probability(y, pd, weight)
    tiny = np.finfo(np.float64).eps
    p = np.clip(p, tiny, 1 - tiny)
    return float(-np.average(label * np.log(p) + (1 - label) * np.log1p(-p), weights=w))


def calibration(y: Label, pd: Values, weight: Values | None = None, *, n_groups: int = 10) -> CalibrationCurve:
    """Compare predicted with observed bad rates in groups of like prediction (deciles; ties stay together).

    The Hosmer-Lemeshow statistic is read against as many degrees of freedom as groups, which is right for
    rows that the model was not fitted on; weights are read as counts.
    """
    label, p, w = _checked_probability(y, pd, weight)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, n_groups + 1)[1:-1]))
    group = np.searchsorted(edges, p, side="left")
    n, bads, expected = (np.bincount(group, weights=part, minlength=edges.size + 1) for part in (w, w * label, w * p))
    rows, statistic = [], 0.0
    for total, bad, mean in zip(n.tolist(), bads.tolist(), expected.tolist(), strict=True):
        if total <= 0:
            continue
        low, high = wilson(bad, total)
        # the minima take off what rounding adds
        rows.append(CalibrationRow(total, min(mean / total, 1.0), min(bad / total, 1.0), low, high))
        spread = mean * (1 - mean / total)
        statistic += (bad - mean) ** 2 / spread if spread > 0 else 0.0
    return CalibrationCurve(
        rows=tuple(rows),
        predicted=float(np.average(p, weights=w)),
        observed=float(np.average(label, weights=w)),
        brier=brier(y, pd, weight),
        log_loss=log_loss(y, pd, weight),
        hosmer_lemeshow=statistic,
        p_value=chi2_tail(statistic, len(rows)),
    )


def wilson(n_bad: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a rate of `n_bad` in `n`."""
    z2, rate = 1.959964**2, n_bad / n
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(max(z2 * (rate * (1 - rate) + z2 / (4 * n)) / n, 0.0)) / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def chi2_tail(x: float, degrees: int) -> float:
    """Return P(chi-squared with whole `degrees` > x), by the finite sums of Abramowitz and Stegun 26.4.4-5."""
    if x <= 0:
        return 1.0
    half, odd = x / 2, degrees % 2
    tail = math.erfc(math.sqrt(half)) if odd else math.exp(-half)
    powers = (k - odd / 2 for k in range(1, (degrees + odd) // 2))
    return min(tail + sum(math.exp(k * math.log(half) - math.lgamma(k + 1) - half) for k in powers), 1.0)


def score_histogram(y: Label, score: Values, weight: Values | None = None, *, n_bins: int = 40) -> Histogram:
    """Return the weights of goods and bads in `n_bins` bars of equal width."""
    label, value, w = _checked(y, score, weight)
    span = (float(value.min()), float(value.max()))
    good, edges = np.histogram(value, n_bins, span, weights=w * (1 - label))
    bad, _ = np.histogram(value, n_bins, span, weights=w * label)
    return Histogram(tuple(edges.tolist()), tuple(good.tolist()), tuple(bad.tolist()))


def cutoff_table(
    y: Label, points: Values, edges: Values, weight: Values | None = None, *, names: tuple[str, ...] | None = None
) -> tuple[CutoffRow, ...]:
    """Return the cut-off table by band of points, the best band first.

    points : (n_samples,) score, higher is better.
    edges : (n_bands - 1,) strictly ascending; a score equal to an edge is in the band above it.
    names : n_bands names from the best band to the worst; "A", "B", ... by default.
    """
    label, value, w = _checked(y, points, weight)
    border = np.asarray(edges, dtype=np.float64)
    if border.ndim != 1 or not np.isfinite(border).all() or not (np.diff(border) > 0).all():
        raise DataError("band edges must be finite and strictly ascending")
    n_bands = border.size + 1
    if names is None:
        names = tuple(chr(ord("A") + k) if n_bands <= 26 else str(k + 1) for k in range(n_bands))
    if len(names) != n_bands:
        raise DataError(f"{n_bands} bands need {n_bands} names, got {len(names)}")
    band = np.searchsorted(border, value, side="right")
    n, bads = (np.bincount(band, weights=part, minlength=n_bands)[::-1] for part in (w, w * label))
    limits = [None, *border.tolist(), None]
    accepted, accepted_bad = np.cumsum(n), np.cumsum(bads)
    return tuple(
        CutoffRow(
            band=names[k],
            low=limits[n_bands - 1 - k],
            high=limits[n_bands - k],
            n=float(n[k]),
            bad_rate=_rate(bads[k], n[k]),
            cumulative_approval=float(accepted[k] / accepted[-1]),
            cumulative_bad_rate=_rate(accepted_bad[k], accepted[k]),
            bads_declined=float(max(1 - accepted_bad[k] / accepted_bad[-1], 0.0)),
        )
        for k in range(n_bands)
    )


def _rate(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _checked(y: Label, score: Values, weight: Values | None) -> tuple[Vector, Vector, Vector]:
    """Return label, score and weight as float arrays of one length, or say what is wrong."""
    label, value = np.asarray(y, dtype=np.float64), np.asarray(score, dtype=np.float64)
    w = np.ones(label.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    if label.ndim != 1 or not label.shape == value.shape == w.shape:
        raise DataError(f"labels, scores and weights differ in shape: {label.shape}, {value.shape}, {w.shape}")
    if not ((label == 0) | (label == 1)).all():
        raise LabelError("labels must be 0 (good) or 1 (bad)")
    if not np.isfinite(value).all():
        raise DataError(f"{int((~np.isfinite(value)).sum())} scores are missing or infinite")
    if not np.isfinite(w).all() or (w < 0).any():
        raise DataError("weights must be finite and not negative")
    if not (w * label).sum() > 0 or not (w * (1 - label)).sum() > 0:
        raise LabelError("the label is constant: measures need at least one good and one bad row")
    return label, value, w


def _checked_probability(y: Label, pd: Values, weight: Values | None) -> tuple[Vector, Vector, Vector]:
    label, p, w = _checked(y, pd, weight)
    if p.min() < 0 or p.max() > 1:
        raise DataError("predicted probabilities must lie between 0 and 1")
    return label, p, w
