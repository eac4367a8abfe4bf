"""Draw charts for notebooks and for the report.

Each function returns a `Chart` (svg.py), which notebooks show inline and `save` writes as a file.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from veilscore.models.metrics import CalibrationCurve, Curve, GainsRow, Histogram, Ks
from veilscore.models.stability import ScoreStability
from veilscore.reports.data import SpendingRow
from veilscore.reports.svg import DASHED, DOTTED, FINE, Chart, percent

_LINES: Final = (("joint", ""), ("other", DASHED), ("third", DOTTED))


def roc_chart(curves: Mapping[str, Curve]) -> Chart:
    """Draw ROC curves by name, the first one as the main one."""
    chart = Chart("ROC curves: " + ", ".join(curves), "share of goods declined", "share of bads declined")
    return _with_lines(chart, {name: (curve.fpr, curve.tpr) for name, curve in curves.items()})


def ks_chart(curve: Curve, ks: Ks, score_name: str = "score") -> Chart:
    """Draw the cumulative distributions of goods and bads, with their largest distance."""
    chart = Chart(
        f"Cumulative distributions of goods and bads; largest distance {ks.value:.3f} at {ks.score:.4g}",
        score_name,
        "cumulative share of class",
    )
    rising = curve.score[-1] < curve.score[0]
    good, bad = (
        [1 - value for value in part] if rising else list(part) for part in (curve.good_below, curve.bad_below)
    )
    chart.line(curve.score, good, "good", label="goods", width=1.8)
    chart.line(curve.score, bad, "bad", label="bads", width=1.8, dash=DASHED)
    gaps = [abs(g - b) for g, b in zip(good, bad, strict=True)]
    where = gaps.index(max(gaps))
    low, high = sorted((good[where], bad[where]))
    chart.line([curve.score[where]] * 2, [low, high], "ink", width=1)
    # Below the lower curve and right of the line there is always room.
    chart.note(curve.score[where], low, f"KS {ks.value:.3f}", anchor="start", below=True)
    chart.y_limits, chart.y_format = (0, 1.02), percent
    chart.legend = "upper left" if rising else "lower right"
    return chart


def gains_chart(gains: Mapping[str, Sequence[GainsRow]]) -> Chart:
    """Draw the share of all bads found in the riskiest part of the rows."""
    chart = Chart("Gains: " + ", ".join(gains), "share of rows, riskiest first", "share of bads found")
    lines = {
        name: ([0, *(row.group / len(rows) for row in rows)], [0, *(row.captured for row in rows)])
        for name, rows in gains.items()
    }
    return _with_lines(chart, lines, dots=2)


def _with_lines(chart: Chart, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], dots: float = 0) -> Chart:
    """Draw lines between shares by name, the first as the main one, over the diagonal of a score without power."""
    drawn = [(name, x, y, *_LINES[number % len(_LINES)]) for number, (name, (x, y)) in enumerate(lines.items())]
    for number, (name, x, y, colour, dash) in enumerate(drawn):
        chart.line(x, y, colour, label=name, dash=dash, width=1.4 if number else 1.8, dots=dots, back=True)
    _diagonal(chart)
    chart.x_limits, chart.y_limits = (0, 1), (0, 1.02)
    chart.x_format = chart.y_format = percent
    chart.legend = "lower right"
    return chart


def _diagonal(chart: Chart, top: float = 1.0) -> None:
    chart.line([0, top], [0, top], "soft", dash=FINE, width=0.9, back=True)


def lift_chart(rows: Sequence[GainsRow]) -> Chart:
    """Draw the bad rate of each tenth of the rows over the overall bad rate."""
    chart = Chart("Lift by tenth of the rows, riskiest first", "tenth of the rows, riskiest first", "lift")
    groups = [row.group for row in rows]
    chart.bars(groups, [row.lift for row in rows], 0.72, "joint")
    chart.rule("ink", y=1, dash=DASHED)
    for row in rows:
        chart.note(row.group, row.lift, f"{row.lift:.2f}")
    chart.y_limits = (0, 1.1 * max(1.0, *(row.lift for row in rows)))
    chart.whole_x, chart.most_x, chart.grid_x = True, 12, False
    return chart


def score_chart(histogram: Histogram, score_name: str = "score", cutoffs: Sequence[float] = ()) -> Chart:
    """Draw the distribution of the score within goods and within bads, with band edges as vertical lines."""
    chart = Chart("Score distribution of goods and bads", score_name, "share of class")
    tops = []
    for name, part, dash in (("good", histogram.good, ""), ("bad", histogram.bad, DASHED)):
        total = sum(part) or 1.0
        share = [value / total for value in part]
        chart.steps(histogram.edges, share, name, label=name + "s", dash=dash)
        tops += share
    for edge in cutoffs:
        chart.rule("soft", x=edge, dash=DOTTED, width=0.8)
    # The legend stands above the bars, wherever the highest one is.
    chart.y_limits, chart.y_format, chart.legend = (0, 1.25 * max([*tops, 0.01])), percent, "upper right"
    return chart


def calibration_chart(found: CalibrationCurve) -> Chart:
    """Draw the observed against the predicted bad rate by group, with 95% intervals."""
    chart = Chart("Observed against predicted bad rate", "predicted bad rate", "observed bad rate")
    x, y = [row.predicted for row in found.rows], [row.observed for row in found.rows]
    low = [min(row.observed_low, row.observed) for row in found.rows]
    high = [max(row.observed_high, row.observed) for row in found.rows]
    top = min(1.0, 1.05 * max([*x, *high, 0.01]))
    _diagonal(chart, top)
    chart.whiskers(x, low, high, "joint")
    chart.line(x, y, "joint", width=0, dots=2.6)
    chart.x_limits = chart.y_limits = (0, top)
    chart.x_format = chart.y_format = percent
    return chart


def stability_chart(found: ScoreStability, expected_name: str, actual_name: str) -> Chart:
    """Draw the shares of two populations in the bins of a score."""
    chart = Chart(
        f"Share of rows by score bin; population stability index {found.psi:.3f}",
        "score bin, lowest score first",
        "share of rows",
    )
    for name, part, colour, shift in (
        (expected_name, found.expected, "other", -0.2),
        (actual_name, found.actual, "joint", 0.2),
    ):
        chart.bars([place + 1 + shift for place in range(len(part))], part, 0.36, colour, name)
    chart.whole_x, chart.most_x, chart.grid_x = True, 12, False
    chart.y_limits, chart.y_format = (0, 1.25 * max([*found.expected, *found.actual, 0.01])), percent
    chart.legend = "upper right"
    return chart


def convergence_chart(gradient_norm: Sequence[float], tolerance: float | None = None) -> Chart:
    """Draw the norm of the gradient at each step, on a logarithmic scale."""
    chart = Chart("Norm of the gradient at each step", "step", "gradient norm (log scale)")
    tiny = min((value for value in gradient_norm if value > 0), default=1e-12)
    norms = [max(value, tiny) for value in gradient_norm]
    chart.line(range(1, len(norms) + 1), norms, "joint", label="gradient norm", dots=2)
    if tolerance is not None and tolerance > 0:
        chart.rule("bad", y=tolerance, dash=DASHED, label="tolerance")
    chart.log_y, chart.whole_x, chart.legend = True, True, "upper right"
    return chart


def validation_chart(fall: Sequence[float], n_kept: int) -> Chart:
    """Draw the fall of the loss on validation rows up to each tree, and how many trees are kept."""
    chart = Chart("Fall of the validation loss up to each tree", "trees", "fall of the validation loss")
    chart.line(range(len(fall) + 1), [0.0, *fall], "joint", label="validation rows")
    chart.rule("bad", x=n_kept, dash=DASHED, label="trees kept")
    chart.whole_x, chart.legend = True, "lower right"
    return chart


ACCOUNT_WORDS = (
    "mu that jobs have spent of the account within a year", "day of the last opening", "mu", "all jobs", "a job",
    "most a year: %s", "most a job: %s",
)  # fmt: skip


def account_chart(
    spending: Sequence[SpendingRow], job_limit: float, year_limit: float, words: Sequence[str] = ACCOUNT_WORDS
) -> Chart:
    """Draw what each job of a year spent of an account, and the root of the sum of squares that they add up to.

    words : those of `ACCOUNT_WORDS`, in the reader's language.
    """
    *names, every, one, most_year, most_job = words
    chart = Chart(*names)
    days = [dt.date.fromisoformat(row.day).toordinal() for row in spending]
    together = [math.sqrt(mu2) for mu2 in accumulate(row.mu**2 for row in spending)]
    span = [min(days) - 1, max(days) + 1]
    x = [span[0], *(day for day in days for _ in (0, 1)), span[1]]
    y = [0.0, 0.0, *(mu for mu in together for _ in (0, 1))]
    chart.line(x, y, "joint", label=every)
    chart.line(days, [row.mu for row in spending], "other", label=one, width=0, dots=2.6)
    for limit, text, colour in ((year_limit, most_year, "joint"), (job_limit, most_job, "other")):
        chart.rule(colour, y=limit, dash=DASHED)
        chart.note(span[0], limit, text % f"{limit:g}", anchor="start")
    chart.whole_x, chart.most_x = True, 3
    chart.x_format = lambda day, _: dt.date.fromordinal(int(day)).isoformat()
    chart.y_limits, chart.legend = (0, 1.15 * max(year_limit, job_limit, *together)), "center right"
    return chart
