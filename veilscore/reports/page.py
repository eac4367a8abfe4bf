"""Render a report as one HTML page that opens offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from veilscore.models import metrics
from veilscore.reports import plots
from veilscore.reports.data import PrivacySection, ReportData, StepCost

if TYPE_CHECKING:
    from jinja2 import Environment


def render(report: ReportData) -> str:
    """Return the report as one HTML page without scripts that loads nothing.

    Everything from a user or a peer passes Jinja's escaping; only the charts' own SVG is trusted, and it
    escapes the names in it.
    """
    template = environment().get_template("report.html.j2")
    return template.render(
        r=report,
        charts=_charts(report),
        by_kind={part.kind: part for part in report.evaluations},
        costs=_cost_table(report.costs),
        hues={party.name: number % 6 for number, party in enumerate(report.parties)},
    )


def _charts(report: ReportData) -> dict[str, Markup]:
    """Draw every chart that has data."""
    curves = {part.name: part.curve for part in report.evaluations if part.curve}
    gains = {part.name: part.gains for part in report.evaluations if part.gains}
    main = next((part for part in report.evaluations if part.kind == "joint"), None)
    edges = [row.low for row in report.cutoffs if row.low is not None]
    stability, convergence = report.stability, report.convergence
    wanted: dict[str, tuple[Any, ...]] = {}
    if curves:
        wanted["roc"] = (curves,)
    if main and main.curve:
        ks = metrics.Ks(main.discrimination.ks, main.discrimination.ks_score)
        wanted["ks"] = (main.curve, ks, report.score_name)
    if gains:
        wanted["gains"] = (gains,)
    if main and main.gains:
        wanted["lift"] = (main.gains,)
    if report.distribution:
        wanted["score"] = (report.distribution, report.score_name, edges)
    if report.calibration:
        wanted["calibration"] = (report.calibration,)
    if stability and stability.score:
        wanted["stability"] = (stability.score, stability.expected_name, stability.actual_name)
    if convergence and convergence.gradient_norm:
        wanted["convergence"] = (convergence.gradient_norm, convergence.tolerance)
    if report.boosting and report.boosting.validation:
        wanted["validation"] = (report.boosting.validation, report.boosting.n_trees)
    wanted |= _account(report.privacy)
    return {name: _chart(kind, wanted.get(kind)) for name, kind in _CHARTS.items()}


def _account(privacy: PrivacySection | None) -> dict[str, tuple[Any, ...]]:
    if privacy is None or not privacy.spending:
        return {}
    return {"account": (privacy.spending, privacy.job_limit, privacy.year_limit)}


def _chart(kind: str, figures: tuple[Any, ...] | None) -> Markup:
    """Return one drawing of `plots`, empty where there is nothing to draw."""
    if figures is None:
        return Markup()
    # Safe: to_svg escapes every text in the drawing.
    return Markup(getattr(plots, f"{kind}_chart")(*figures).to_svg())  # noqa: S704


def _cost_table(costs: Sequence[StepCost]) -> dict[str, dict[str, StepCost]]:
    """Return costs by step, in order of first mention, and party; repeated entries are added up."""
    table: dict[str, dict[str, StepCost]] = {}
    for cost in costs:
        row = table.setdefault(cost.step, {})
        old = row.get(cost.party)
        row[cost.party] = _added(old, cost) if old else cost
    return table


def _added(one: StepCost, other: StepCost) -> StepCost:
    known = one.cpu_seconds is not None and other.cpu_seconds is not None
    return StepCost(
        step=one.step,
        party=one.party,
        seconds=one.seconds + other.seconds,
        bytes_sent=one.bytes_sent + other.bytes_sent,
        cpu_seconds=(one.cpu_seconds or 0) + (other.cpu_seconds or 0) if known else None,
    )


def _number(value: float | None, digits: int = 3) -> str:
    """Format with a fixed count of decimals and thousands separators; a dash where there is none."""
    if value is None:
        return _DASH
    return f"{value + 0.0:,.{digits}f}".replace("-", _MINUS) if round(value, digits) else f"{0:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return _DASH if value is None else ("+" if round(value, digits) > 0 else "") + _number(value, digits)


def _percent(value: float | None, digits: int = 1) -> str:
    return _DASH if value is None else _number(100 * value, digits) + "%"


def _bytes(value: float) -> str:
    """Format bytes in decimal units, three figures."""
    power = min(int(math.log10(value) / 3), 4) if value >= 1 else 0
    scaled = value / 1000**power
    digits = 0 if power == 0 or scaled >= 100 else 1
    return f"{scaled:.{digits}f}\u00a0{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.0f}\u00a0ms"
    minutes, rest = divmod(value, 60)
    return f"{minutes:.0f}\u00a0min {rest:.0f}\u00a0s" if minutes else f"{value:.1f}\u00a0s"


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _scientific(value: float) -> str:
    return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-").replace("-", _MINUS)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Return the templates of reports, with their filters; what is put in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - a node starts without it

    environment = Environment(
        loader=PackageLoader("veilscore.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


_CHARTS: Final = {
    **{kind: kind for kind in ("roc", "ks", "gains", "lift", "calibration", "stability", "convergence", "validation")},
    "account": "account",
    "distribution": "score",
}


_DASH, _MINUS = "\u2013", "\u2212"


_FILTERS: Final[dict[str, Callable[..., str]]] = {
    "num": _number, "signed": _signed, "pct": _percent, "bytes": _bytes, "seconds": _seconds,
    "clip": _clip, "sci": _scientific,
}  # fmt: skip
