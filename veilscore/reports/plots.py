"""Draw charts for notebooks and for the report.

Each function returns a `Chart`, a matplotlib figure that notebooks show as inline SVG. Nothing touches
pyplot, so no figure stays registered and no display is needed. `Chart.to_svg` is deterministic, loads nothing
from outside, keeps text as text, and names its colours by CSS variables (with the light palette as fallback),
so that one drawing fits a light page, a dark page and paper. Colours follow Okabe and Ito's palette, and
lines also differ by dashes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import math
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from veilscore.models.metrics import CalibrationCurve, Curve, GainsRow, Histogram, Ks
from veilscore.models.stability import ScoreStability
from veilscore.reports.data import SpendingRow

PALETTE: Final = {
    "ink": "#1b2430",
    "soft": "#5b6673",
    "grid": "#dde2e7",
    "joint": "#0072b2",
    "other": "#8a6d9e",
    "third": "#009e73",
    "good": "#4c9fd0",
    "bad": "#d55e00",
}
_LINES: Final = (("joint", "-"), ("other", "--"), ("third", ":"))
_RC: Final[dict[Any, Any]] = {"svg.fonttype": "none", "svg.hashsalt": "veilscore", "path.simplify": True}
# matplotlib's settings are one dictionary per process.
_RC_LOCK: Final = threading.Lock()


class Chart(Figure):
    """A figure with one styled pair of axes; its title is for screen readers and tooltips."""

    def __init__(self, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
        super().__init__(figsize=(4.9, 3.3), dpi=100, layout="constrained")
        self.title_text = title
        self.patch.set_alpha(0)
        self.axes_ = axes = self.add_subplot()
        axes.patch.set_alpha(0)
        axes.grid(visible=True, color=PALETTE["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(PALETTE["soft"])
        axes.spines[["left", "bottom"]].set_linewidth(0.7)
        axes.tick_params(colors=PALETTE["soft"], labelsize=8, width=0.7, length=3)
        for label in (axes.set_xlabel(xlabel), axes.set_ylabel(ylabel)):
            label.set(color=PALETTE["ink"], fontsize=8.5)

    def legend_(self, where: Any = "best") -> None:
        """Add a legend without a frame, in the chart's type."""
        self.axes_.legend(loc=where, frameon=False, fontsize=8, labelcolor=PALETTE["ink"], handlelength=2.4)

    def note(self, x: float, y: float, text: str, **where: Any) -> None:
        """Write `text` at data coordinates, literally (a `$` starts no formula)."""
        self.axes_.annotate(
            text, (x, y), color=PALETTE["ink"], fontsize=8, parse_math=False, annotation_clip=False, **where
        )

    def to_svg(self) -> str:
        """Return the chart as one `<svg>` element for an HTML page."""
        buffer = io.StringIO()
        with _RC_LOCK, mpl.rc_context(_RC), warnings.catch_warnings():
            # The browser chooses the font; matplotlib's own only serves to leave room.
            warnings.filterwarnings("ignore", message="Glyph")
            self.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _inline(buffer.getvalue(), self.title_text)

    def _repr_html_(self) -> str:
        return f'<div style="max-width:38rem">{self.to_svg()}</div>'


def _inline(svg: str, title: str) -> str:
    """Strip what a page does not need, scope the ids by content, and name the colours."""
    start = svg.index("<svg")
    opening, _, body = svg[start:].replace("\n", " ").partition(">")
    view = re.search(r'viewBox="([\d. ]+)"', opening)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body)
    scope = "c" + hashlib.sha256((title + body).encode()).hexdigest()[:10]
    used = dict.fromkeys(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", body))
    names = {old: f"{scope}-{number}" for number, old in enumerate(used)}
    # Names of the caller stand between tags only, so nothing here can change them.
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], names), body)
    label = _escape(title)
    return (
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="{view[1] if view else "0 0 353 238"}">'
        f"<title>{label}</title>{re.sub(r'> +<', '><', body).strip()}"
    )


def _tag(tag: str, names: Mapping[str, str]) -> str:
    """Return one tag with its ids scoped or dropped, its colours named, its font the page's."""
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*", _font, tag)
    for name, colour in PALETTE.items():
        tag = tag.replace(colour, f"var(--{name}, {colour})")
    tag = re.sub(r' id="([^"]*)"', lambda hit: f' id="{names[hit[1]]}"' if hit[1] in names else "", tag)
    return re.sub(r"(?:xlink:)?(url\(#|href=\"#)([^\")]+)", lambda hit: hit[1] + names.get(hit[2], hit[2]), tag)


def _font(hit: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", hit[0])
    return f"font-size: {size[0]}; font-family: inherit" if size else "font-family: inherit"


def _escape(text: str) -> str:
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(raw, safe)
    return text


def _literal(text: str) -> str:
    """Return text that matplotlib neither reads as a formula nor hides from the legend."""
    return text.replace("$", r"\$").lstrip("_") or " "


def roc_chart(curves: Mapping[str, Curve]) -> Chart:
    """Draw ROC curves by name, the first one as the main one."""
    chart = Chart("ROC curves: " + ", ".join(curves), "share of goods declined", "share of bads declined")
    return _with_lines(chart, {name: (curve.fpr, curve.tpr) for name, curve in curves.items()})


def ks_chart(curve: Curve, ks: Ks, score_name: str = "score") -> Chart:
    """Draw the cumulative distributions of goods and bads, with their largest distance."""
    chart = Chart(
        f"Cumulative distributions of goods and bads; largest distance {ks.value:.3f} at {ks.score:.4g}",
        _literal(score_name),
        "cumulative share of class",
    )
    axes = chart.axes_
    rising = curve.score[-1] < curve.score[0]
    good, bad = (
        [1 - value for value in part] if rising else list(part) for part in (curve.good_below, curve.bad_below)
    )
    axes.plot(curve.score, good, color=PALETTE["good"], linewidth=1.8, label="goods")
    axes.plot(curve.score, bad, color=PALETTE["bad"], linewidth=1.8, linestyle="--", label="bads")
    gaps = [abs(g - b) for g, b in zip(good, bad, strict=True)]
    where = gaps.index(max(gaps))
    low, high = sorted((good[where], bad[where]))
    axes.vlines(curve.score[where], low, high, color=PALETTE["ink"], linewidth=1)
    # Below the lower curve and right of the line there is always room.
    place: dict[str, Any] = {"xytext": (6, -2), "textcoords": "offset points"}
    chart.note(curve.score[where], low, f"KS {ks.value:.3f}", ha="left", va="top", **place)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    chart.legend_("upper left" if rising else "lower right")
    return chart


def gains_chart(gains: Mapping[str, Sequence[GainsRow]]) -> Chart:
    """Draw the share of all bads found in the riskiest part of the rows."""
    chart = Chart("Gains: " + ", ".join(gains), "share of rows, riskiest first", "share of bads found")
    lines = {
        name: ([0, *(row.group / len(rows) for row in rows)], [0, *(row.captured for row in rows)])
        for name, rows in gains.items()
    }
    return _with_lines(chart, lines, marker="o", markersize=3)


def _with_lines(chart: Chart, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], **style: Any) -> Chart:
    """Draw lines between shares by name, the first as the main one, over the diagonal of a score without power."""
    axes = chart.axes_
    _diagonal(axes)
    for number, (name, (x, y)) in enumerate(lines.items()):
        colour, dash = _LINES[number % len(_LINES)]
        width = 1.8 if number == 0 else 1.4
        axes.plot(
            x,
            y,
            color=PALETTE[colour],
            linestyle=dash,
            linewidth=width,
            label=_literal(name),
            zorder=5 - number,
            **style,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    chart.legend_("lower right")
    return chart


def _diagonal(axes: Any, top: float = 1.0) -> None:
    axes.plot([0, top], [0, top], color=PALETTE["soft"], linewidth=0.8, linestyle=(0, (1, 3)))


def lift_chart(rows: Sequence[GainsRow]) -> Chart:
    """Draw the bad rate of each tenth of the rows over the overall bad rate."""
    chart = Chart("Lift by tenth of the rows, riskiest first", "tenth of the rows, riskiest first", "lift")
    axes = chart.axes_
    groups = [row.group for row in rows]
    axes.bar(groups, [row.lift for row in rows], width=0.72, color=PALETTE["joint"])
    axes.axhline(1, color=PALETTE["ink"], linewidth=0.9, linestyle="--")
    for row in rows:
        chart.note(
            row.group, row.lift, f"{row.lift:.2f}", ha="center", va="bottom", xytext=(0, 2), textcoords="offset points"
        )
    axes.set_xticks(groups)
    axes.grid(visible=False, axis="x")
    return chart


def score_chart(histogram: Histogram, score_name: str = "score", cutoffs: Sequence[float] = ()) -> Chart:
    """Draw the distribution of the score within goods and within bads, with band edges as vertical lines."""
    chart = Chart("Score distribution of goods and bads", _literal(score_name), "share of class")
    axes = chart.axes_
    for name, part, dash in (("good", histogram.good, "-"), ("bad", histogram.bad, "--")):
        total = sum(part) or 1.0
        share = [value / total for value in part]
        axes.stairs(share, histogram.edges, fill=True, color=PALETTE[name], alpha=0.22)
        axes.stairs(share, histogram.edges, color=PALETTE[name], linewidth=1.5, linestyle=dash, label=name + "s")
    for edge in cutoffs:
        axes.axvline(edge, color=PALETTE["soft"], linewidth=0.7, linestyle=(0, (1, 2)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylim(bottom=0)
    chart.legend_()
    return chart


def calibration_chart(found: CalibrationCurve) -> Chart:
    """Draw the observed against the predicted bad rate by group, with 95% intervals."""
    chart = Chart("Observed against predicted bad rate", "predicted bad rate", "observed bad rate")
    axes = chart.axes_
    x = [row.predicted for row in found.rows]
    y = [row.observed for row in found.rows]
    below = [row.observed - row.observed_low for row in found.rows]
    above = [row.observed_high - row.observed for row in found.rows]
    top = min(1.0, 1.05 * max([*x, *(row.observed_high for row in found.rows), 0.01]))
    _diagonal(axes, top)
    axes.errorbar(
        x,
        y,
        yerr=(_not_negative(below), _not_negative(above)),
        fmt="o",
        markersize=4,
        linewidth=1,
        capsize=2,
        color=PALETTE["joint"],
    )
    axes.set(xlim=(0, top), ylim=(0, top))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    return chart


def stability_chart(found: ScoreStability, expected_name: str, actual_name: str) -> Chart:
    """Draw the shares of two populations in the bins of a score."""
    chart = Chart(
        f"Share of rows by score bin; population stability index {found.psi:.3f}",
        "score bin, lowest score first",
        "share of rows",
    )
    axes = chart.axes_
    for name, part, colour, shift in (
        (expected_name, found.expected, "other", -0.2),
        (actual_name, found.actual, "joint", 0.2),
    ):
        place = [number + 1 + shift for number in range(len(part))]
        axes.bar(place, part, width=0.36, color=PALETTE[colour], label=_literal(name))
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylim(0, 1.25 * max([*found.expected, *found.actual, 0.01]))
    chart.legend_("upper right")
    return chart


def convergence_chart(gradient_norm: Sequence[float], tolerance: float | None = None) -> Chart:
    """Draw the norm of the gradient at each step, on a logarithmic scale."""
    chart = Chart("Norm of the gradient at each step", "step", "gradient norm (log scale)")
    axes = chart.axes_
    steps = range(1, len(gradient_norm) + 1)
    tiny = min((value for value in gradient_norm if value > 0), default=1e-12)
    axes.plot(
        steps,
        [max(value, tiny) for value in gradient_norm],
        color=PALETTE["joint"],
        linewidth=1.6,
        marker="o",
        markersize=3.2,
        label="gradient norm",
    )
    if tolerance is not None and tolerance > 0:
        axes.axhline(tolerance, color=PALETTE["bad"], linewidth=1, linestyle="--", label="tolerance")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    chart.legend_("upper right")
    return chart


def validation_chart(fall: Sequence[float], n_kept: int) -> Chart:
    """Draw the fall of the loss on validation rows up to each tree, and how many trees are kept."""
    chart = Chart("Fall of the validation loss up to each tree", "trees", "fall of the validation loss")
    axes = chart.axes_
    axes.plot(range(len(fall) + 1), [0.0, *fall], color=PALETTE["joint"], linewidth=1.6, label="validation rows")
    axes.axvline(n_kept, color=PALETTE["bad"], linewidth=1, linestyle="--", label="trees kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    chart.legend_("lower right")
    return chart


def account_chart(spending: Sequence[SpendingRow], job_limit: float, year_limit: float) -> Chart:
    """Draw what each job of a year spent of an account, and the root of the sum of squares that they add up to."""
    chart = Chart("mu that jobs have spent of the account within a year", "day of the last opening", "mu")
    axes = chart.axes_
    days = [dt.date.fromisoformat(row.day).toordinal() for row in spending]
    together = [math.sqrt(mu2) for mu2 in accumulate(row.mu**2 for row in spending)]
    span = [min(days) - 1, max(days) + 1]
    axes.step(
        [span[0], *days, span[1]],
        [0.0, *together, together[-1]],
        where="post",
        color=PALETTE["joint"],
        linewidth=1.6,
        label="all jobs",
    )
    axes.plot(days, [row.mu for row in spending], "o", color=PALETTE["other"], markersize=4, label="a job")
    for limit, name, colour in ((year_limit, "year", "joint"), (job_limit, "job", "other")):
        axes.axhline(limit, color=PALETTE[colour], linewidth=1, linestyle="--")
        chart.note(span[0], limit, f"most a {name}: {limit:g}", va="bottom", ha="left")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda day, _: dt.date.fromordinal(int(day)).isoformat()))
    axes.set_ylim(0, 1.15 * max(year_limit, job_limit, *together))
    chart.legend_("center right")
    return chart


def _not_negative(values: Sequence[float]) -> list[float]:
    return [max(value, 0.0) for value in values]
