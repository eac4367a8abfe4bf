"""What early warnings were good for: coverage, and never without budget, lead, and the good firms disturbed.

A row is a firm under watch in a month, at the day on which its level was told: it *owes* and is not overdue. A row
*foretells* the firm's next day of falling overdue if that is after the row's day and within the horizon.

budget    : share of rows that are at a level, of all rows; that is, of the firms under watch in a mean month.
coverage  : share of the firms that fell overdue of which at least one row that foretells it was at a level.
lead      : months from the first of these rows to the day, the median of those warned.
disturbed : share of the firms that did not fall overdue of which any row was at a level.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from party_bank.alarms import WATCH, month_of
from party_bank.book import Book, day_of
from party_bank.book_tables import ALARMS, CASES, DECISIONS
from party_bank.contracts import months_after
from party_bank.settings import BankSettings
from party_bank.warning_rows import Days, OverdueFirms, overdue_of, reach_of
from veilscore.arrays import Integers, Mask, Vector
from veilscore.data.ids import Ids, normalise_ids
from veilscore.data.ingest import read_table
from veilscore.errors import DataError
from veilscore.reports.svg import DASHED, Chart, percent

_MONTH_DAYS = 365.25 / 12
REACHED = 0.9  # of the firms overdue, of which the budget is told


@dataclass(frozen=True, repr=False)
class WatchedRows:
    """Firms under watch by month: `firms` (n,) as the book spells them, `days` (n,) on which levels were told."""

    firms: Ids
    days: Days


@dataclass(frozen=True)
class MonthOfWarnings:
    """What a month was: firms under watch, those at a level, those overdue within the horizon, those of them warned."""

    day: str
    watched: int
    alarmed: int
    overdue: int
    warned: int


@dataclass(frozen=True)
class WarningFigures:
    """The figures of a report; see the module for what they are. Shares are NaN where there is nothing to share."""

    horizon_months: int
    firm_months: int
    budget: float
    overdue: int
    warned: int
    coverage: float
    lead_months: float
    good: int
    disturbed: float
    months: tuple[MonthOfWarnings, ...]


def foretold(rows: WatchedRows, overdue: OverdueFirms, horizon_months: int) -> Integers:
    """Return for each row the place in `overdue` of what it foretells, (n,), -1 for none."""
    names, both = np.unique(np.concatenate([rows.firms, overdue.firms]), return_inverse=True)
    of_row, of_fall = both[: rows.firms.size], both[rows.firms.size :]
    day, begins = rows.days.astype(np.int64), overdue.begins.astype(np.int64)
    order = np.lexsort((begins, of_fall))
    span = 1 << 24  # days are far fewer
    keys = of_fall[order] * span + begins[order]
    place = np.searchsorted(keys, of_row * span + day, side="right")  # the first that begins after the row's day
    at = order[np.minimum(place, order.size - 1)] if order.size else np.zeros(rows.firms.size, np.int64)
    found: Integers = np.full(rows.firms.size, -1, np.int64)
    if names.size and order.size:
        reach = reach_of(rows.days, horizon_months)
        here = (place < order.size) & (of_fall[at] == of_row) & (overdue.begins[at] <= reach)
        found[here] = at[here]
    return found


def measure(rows: WatchedRows, alarmed: Mask, overdue: OverdueFirms, horizon_months: int) -> WarningFigures:
    """Return the figures of rows at a level (`alarmed`, (n,)); `overdue` has all that is known to have fallen overdue.

    Rows whose horizon is not over tell too little: leave them out.
    """
    if not rows.firms.size:
        raise DataError("no firm was under watch in a month whose outcome is known: there is nothing to report yet")
    falls = foretold(rows, overdue, horizon_months)
    fell, warned = np.unique(falls[falls >= 0]), np.unique(falls[(falls >= 0) & alarmed])
    leads = []
    if warned.size:
        hit = np.flatnonzero((falls >= 0) & alarmed)
        first = np.full(overdue.firms.size, np.iinfo(np.int64).max)
        np.minimum.at(first, falls[hit], rows.days[hit].astype(np.int64))
        leads = (overdue.begins[warned].astype(np.int64) - first[warned]) / _MONTH_DAYS
    ever = foretold(rows, overdue, 1200) >= 0
    firms, of_row = np.unique(rows.firms, return_inverse=True)
    bad, met = (np.bincount(of_row[which], minlength=firms.size) > 0 for which in (ever, alarmed))
    months = []
    for day in np.unique(rows.days):
        here = rows.days == day
        ahead = here & (falls >= 0)
        months.append(
            MonthOfWarnings(str(day), *(int(m.sum()) for m in (here, here & alarmed, ahead, ahead & alarmed)))
        )
    return WarningFigures(
        horizon_months, rows.firms.size, float(alarmed.mean()), int(fell.size), int(warned.size),
        _share(warned.size, fell.size), float(np.median(leads)) if warned.size else float("nan"),
        int((~bad).sum()), _share((met & ~bad).sum(), (~bad).sum()), tuple(months),
    )  # fmt: skip


def riskiest(risk: Vector, days: Days, alarmed: Mask) -> Mask:
    """Return as many rows of each day as are at a level there, those of the highest risk: another model's alarms."""
    found = np.zeros(risk.size, bool)
    for day in np.unique(days):
        here = np.flatnonzero(days == day)
        n = int(alarmed[here].sum())
        found[here[np.argsort(-risk[here], kind="stable")[:n]]] = True
    return found


def budget_for(risk: Vector, rows: WatchedRows, overdue: OverdueFirms, horizon_months: int, coverage: float) -> float:
    """Return the least share of each month's firms, by risk, with which so many of the firms overdue are reached."""
    falls, rank = foretold(rows, overdue, horizon_months), np.zeros(risk.size)
    for day in np.unique(rows.days):
        here = np.flatnonzero(rows.days == day)
        rank[here] = np.searchsorted(np.sort(-risk[here]), -risk[here], side="right") / here.size
    best = np.full(overdue.firms.size, np.inf)
    np.minimum.at(best, falls[falls >= 0], rank[falls >= 0])
    reached = np.sort(best[np.isfinite(best)])
    return float(reached[int(np.ceil(coverage * reached.size)) - 1]) if reached.size else float("nan")


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float("nan")


def months_chart(figures: WarningFigures) -> Chart:
    """Draw by month the share of firms at a level, and of those overdue within the horizon the share warned."""
    text = f"Share of firms at a level, and of those overdue within {figures.horizon_months} months, by month"
    chart = Chart(text, "month", "share of firms")
    n = [float(number) for number in range(1, len(figures.months) + 1)]
    ahead = [(x, month) for x, month in zip(n, figures.months, strict=True) if month.overdue]
    chart.line(
        n, [m.alarmed / m.watched for m in figures.months], "other", label="all: alarm budget", dash=DASHED, dots=2
    )
    if ahead:
        warned = [month.warned / month.overdue for _, month in ahead]
        chart.line([x for x, _ in ahead], warned, "joint", label="overdue soon: warned", dots=2)
    days = [month.day[:7] for month in figures.months]
    chart.x_format = lambda x, _: days[min(len(days), max(1, round(x))) - 1]
    chart.legend = "upper right"
    chart.whole_x, chart.y_limits, chart.y_format = True, (0, 1.02), percent
    return chart


# --- of a bank's own book ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WarningReport:
    """What the alarms of a book were good for.

    joint : of the levels that were told, None until a month's horizon is over; bank_only : of another model with as
        many alarms each month, None without one.
    joint_reach : budget of the fewest levels that warned `REACHED` of the firms overdue, None where all levels together
        did not; bank_only_reach : the least budget with which the other model warns so many.
    feedback : closed cases by what persons found; open_cases : those that are open.
    """

    until: str
    joint: WarningFigures | None
    bank_only: WarningFigures | None
    alarms: int
    feedback: dict[str, int]
    open_cases: int
    joint_reach: float | None = None
    bank_only_reach: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as values of JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def report(book: Book, settings: BankSettings, home: Path, own: Path | None = None) -> WarningReport:
    """Return what the alarms of the book were good for, of months whose horizon is over.

    own : file with the risk by the bank's present means (columns uscc, month as YYYY-MM-DD, risk; higher is worse).
    """
    today, rules = book.today(), settings.warnings
    overdue = overdue_of(settings, home).known_by(np.datetime64(today))
    lag = rules.overdue.after_days if rules.overdue is not None else 0
    query = sa.select(DECISIONS.c.firm, DECISIONS.c.step, DECISIONS.c.reference, DECISIONS.c.decided_s)
    told = book.rows(query.where(DECISIONS.c.kind == WATCH, DECISIONS.c.step.is_not(None)).order_by(DECISIONS.c.id))
    day_told = {row["reference"]: day_of(row["decided_s"]) for row in reversed(told)}
    closed = [
        row for row in told
        if months_after(day_told[row["reference"]], rules.months) + dt.timedelta(days=lag) <= today
    ]  # fmt: skip
    rows = WatchedRows(
        np.array([row["firm"] for row in closed], dtype=np.str_),
        np.array([day_told[row["reference"]] for row in closed], dtype="datetime64[D]"),
    )
    steps = np.array([row["step"] for row in closed], dtype=np.int64)
    late, joint, other, reach, own_reach = steps > 0, None, None, None, None
    if closed:
        joint = measure(rows, late, overdue, rules.months)
        each = (measure(rows, steps >= least, overdue, rules.months) for least in range(int(steps.max()), 0, -1))
        reach = next((found.budget for found in each if found.coverage >= REACHED), None)
        if own is not None:
            risk = _own_risk(own, settings.id_normaliser, [(row["firm"], month_of(row["reference"])) for row in closed])
            other = measure(rows, riskiest(risk, rows.days, late), overdue, rules.months)
            own_reach = budget_for(risk, rows, overdue, rules.months, REACHED)
    cases = book.rows(sa.select(CASES.c.feedback, sa.func.count().label("n")).group_by(CASES.c.feedback))
    feedback = {row["feedback"]: row["n"] for row in cases}
    n_open = feedback.pop("", 0)
    n_alarms = book.rows(sa.select(sa.func.count().label("n")).select_from(ALARMS))[0]["n"]
    return WarningReport(today.isoformat(), joint, other, n_alarms, feedback, n_open, reach, own_reach)


def _own_risk(path: Path, normaliser: str, wanted: list[tuple[str, dt.date]]) -> Vector:
    """Return the bank's own risk of firms in months; DataError where one lacks."""
    table = read_table(path, ("uscc", "month"), normaliser=normaliser)
    if table.panel is None or "risk" not in table.columns or table.kinds["risk"] != "number":
        raise DataError(f"{path.name} needs columns uscc, month (its first day) and risk, a number")
    months = table.panel.days.astype("datetime64[M]").astype(str)
    risks = dict(zip(zip(table.firms.tolist(), months.tolist(), strict=True), table.columns["risk"], strict=True))
    firms = normalise_ids([firm for firm, _ in wanted], normaliser).tolist()
    keys = [(firm, f"{month:%Y-%m}") for firm, (_, month) in zip(firms, wanted, strict=True)]
    missing = [key for key in keys if not np.isfinite(risks.get(key, np.nan))]
    if missing:
        raise DataError(f"{path.name} lacks the risk of {len(missing):,} of {len(keys):,} firm-months under watch")
    return np.array([risks[key] for key in keys], dtype=np.float64)


def _plain(value: Any) -> Any:
    clean: Callable[[Any], Any] = lambda one: None if isinstance(one, float) and np.isnan(one) else one  # noqa: E731
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else clean(value)
