"""What reports show of a noised curve: ranking, gains, cut-offs and calibration, each with its error bars.

Steps are named by the points of their lowest total; a row in a step has at least these points.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from veilscore.arrays import Integers, Vector
from veilscore.models import metrics
from veilscore.models.curve import NoisedCurve

_CALIBRATION_GROUPS = 10
_TWO_SIDED = 1.959964  # of a 95 % interval


def lowest_points(limits: Integers, units: float) -> Vector:
    """Return the points (steps,) of the lowest total of each step; the first is as wide as its neighbour."""
    width = limits[1] - limits[0] if limits.size > 1 else units
    return np.concatenate([[limits[0] - width], limits]) / units


def ranking(curve: NoisedCurve, lowest: Vector) -> tuple[metrics.Discrimination, metrics.Curve]:
    """Return the measures of ranking, unbiased but for the width of steps, and the curve of the fitted counts."""
    table, errors, auc, ks = _table(curve.fitted, lowest), curve.errors(), curve.auc(), curve.ks()
    found = replace(
        table.discrimination(),
        auc=auc,
        auc_se=errors.auc,
        gini=2 * auc - 1,
        ks=ks,
        ks_se=errors.ks,
        auc_noise=errors.auc_noise,
        ks_noise=errors.ks_noise,
    )
    return found, table.curve()


def gains(curve: NoisedCurve, lowest: Vector) -> tuple[metrics.GainsRow, ...]:
    """Return gains and lift by tenth of the rows."""
    drawn = [[row.captured for row in _table(counts, lowest).gains()] for counts in curve.drawn_again]
    rows = zip(_table(curve.fitted, lowest).gains(), np.std(drawn, axis=0).tolist(), strict=True)
    return tuple(replace(row, captured_se=error) for row, error in rows)


def cutoffs(
    curve: NoisedCurve, lowest: Vector, edges: Vector, names: tuple[str, ...] | None
) -> tuple[metrics.CutoffRow, ...]:
    """Return the cut-off table; every edge is the lowest of a step, so that the step is in one band."""
    steps = lowest.size
    label = np.repeat([0.0, 1.0], steps)
    rows = metrics.cutoff_table(label, np.tile(lowest, 2), edges, curve.fitted.ravel(), names=names)
    band = np.searchsorted(edges, lowest, side="right")
    found = []
    for k, row in enumerate(rows):  # best band first
        inside, worse = band == len(rows) - 1 - k, band < len(rows) - 1 - k
        rate, declined = curve.deviation(inside)[0], curve.deviation(worse)[1]
        found.append(replace(row, bad_rate_se=rate if row.n > 0 else None, bads_declined_se=declined))
    return tuple(found)


def fifths(curve: NoisedCurve, lowest: Vector) -> Vector:
    """Return edges between steps that cut the fitted rows into about equal fifths, (4,) or fewer."""
    below = np.cumsum(curve.fitted.sum(axis=0))[:-1] / curve.known.sum()
    edges: Vector = lowest[1:][np.unique([np.abs(below - share).argmin() for share in (0.2, 0.4, 0.6, 0.8)])]
    return edges


def calibration(curve: NoisedCurve, risk: Vector) -> metrics.CalibrationCurve:
    """Compare the probability (steps,) expected in each step with the bad rate found, in about ten groups of rows."""
    good, bad = curve.fitted
    n = good + bad
    group = np.minimum((_CALIBRATION_GROUPS * (np.cumsum(n) - n / 2) / n.sum()).astype(int), _CALIBRATION_GROUPS - 1)
    rows, statistic = [], 0.0
    for inside in (group == k for k in np.unique(group)[::-1]):  # least risk first
        total, found = float(n[inside].sum()), float(bad[inside].sum())
        if total < 1:
            continue
        mean, rate = float(n[inside] @ risk[inside]) / total, found / total
        half = _TWO_SIDED * curve.deviation(inside)[0]
        rows.append(metrics.CalibrationRow(total, mean, rate, max(rate - half, 0.0), min(rate + half, 1.0)))
        noise = curve.sigma**2 * inside.sum() * (mean**2 + (1 - mean) ** 2)
        statistic += (found - mean * total) ** 2 / (total * mean * (1 - mean) + noise)
    everything = curve.known.sum()
    safe = np.clip(risk, 1e-12, 1 - 1e-12)
    return metrics.CalibrationCurve(
        rows=tuple(rows),
        predicted=float(n @ risk / everything),
        observed=float(curve.known[1] / everything),
        brier=float((bad @ (1 - risk) ** 2 + good @ risk**2) / everything),
        log_loss=float(-(bad @ np.log(safe) + good @ np.log1p(-safe)) / everything),
        hosmer_lemeshow=statistic,
        p_value=metrics.chi2_tail(statistic, len(rows)),
    )


def distribution(curve: NoisedCurve, lowest: Vector, *, n_bars: int = 20) -> metrics.Histogram:
    """Return bars of equal width, each step's rows spread evenly over it."""
    ends = np.append(lowest, 2 * lowest[-1] - lowest[-2])
    edges = np.linspace(ends[0], ends[-1], n_bars + 1)
    below = (np.concatenate([[0.0], np.cumsum(row)]) for row in curve.fitted)
    good, bad = (np.diff(np.interp(edges, ends, row)) for row in below)
    return metrics.Histogram(tuple(edges.tolist()), tuple(good.tolist()), tuple(bad.tolist()))


def _table(counts: Vector, lowest: Vector) -> metrics.ScoreTable:
    """Return goods and bads by falling points, a step as one score."""
    return metrics.ScoreTable(-lowest[::-1], counts[0, ::-1], counts[1, ::-1], points=True)
