"""Rows from which early warnings are learned: firms at ends of months, and whether each fell overdue within N months.

Point in time. A row at a day has variables of events before that day. Its label is 1 where the firm falls overdue after
the day and within N months, 0 where it does not; it is a row only once that is known, which is when the months and the
days after which the bank learns of a firm overdue have passed. Nothing that happened or became known after the day of
making (`as_of`) moves any row. A person's feedback on an alarm is known earlier and counts where nothing was overdue:
true is 1, false is 0, other takes the row out.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import ArrayLike, NDArray

from party_bank.alarms import FEEDBACK
from party_bank.book import Book, day_of
from party_bank.book_tables import ALARMS, CASES, CONTRACTS, DRAWS, REPAYMENTS
from party_bank.contracts import months_after
from party_bank.settings import FILE, BankSettings, WarningRules
from veilscore.arrays import Array, Vector
from veilscore.data.ids import Ids, normalise_ids
from veilscore.data.ingest_file import read_file
from veilscore.data.table import SourceColumns
from veilscore.errors import ConfigError, DataError
from veilscore.features.build import DAY_COLUMN, FIRM_COLUMN, build_rows, earlier_terms
from veilscore.features.catalogue import find_catalogue
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.reading import ReadingRules

Days = NDArray[np.datetime64]
_NEVER = np.datetime64("9999-12-31")


@dataclass(frozen=True, repr=False)
class Owing:
    """Says from when until when firms owe: `firms`, `begins`, `ends`, all (n,); the last day is no longer owed on."""

    firms: Ids
    begins: Days
    ends: Days

    def and_also(self, other: Owing) -> Owing:
        """Return both together."""
        return Owing(
            np.concatenate([self.firms, other.firms]),
            np.concatenate([self.begins, other.begins]),
            np.concatenate([self.ends, other.ends]),
        )


@dataclass(frozen=True, repr=False)
class OverdueFirms:
    """Says which firms fell overdue, from which day on, when the bank knew, and when they had paid; all (n,)."""

    firms: Ids
    begins: Days
    known: Days
    cured: Days

    def known_by(self, day: np.datetime64) -> OverdueFirms:
        """Return those that the bank knew of on a day; of what was paid later, it did not know that it would be."""
        kept = self.known <= day
        cured = np.where(self.cured[kept] <= day, self.cured[kept], _NEVER)
        return OverdueFirms(self.firms[kept], self.begins[kept], self.known[kept], cured)


@dataclass(frozen=True, repr=False)
class CaseFeedback:
    """Says what persons found of alarms: firms, first month and last day of the case, and their word; all (n,)."""

    firms: Ids
    begins: Days
    ends: Days
    word: NDArray[np.str_]


@dataclass(frozen=True, repr=False)
class LabelledRows:
    """Rows for training: `firms` and `days` (n,), `overdue` (n,) 1 or 0."""

    firms: Ids
    days: Days
    overdue: Vector


def no_feedback() -> CaseFeedback:
    """Return feedback of no case."""
    return CaseFeedback(np.zeros(0, "<U1"), _days([]), _days([]), np.zeros(0, "<U5"))


def labelled(
    owing: Owing, overdue: OverdueFirms, rules: WarningRules, as_of: dt.date, feedback: CaseFeedback, *, most: int = 60
) -> LabelledRows:
    """Return the rows whose outcome is known on a day, at ends of months, the latest `most` of those that are over.

    A firm is in a row while it owes and is not overdue already. Raises DataError where there is none, or none of either
    class.
    """
    today = np.datetime64(as_of)
    happened, lag = overdue.known_by(today), rules.overdue.after_days if rules.overdue is not None else 0
    said = feedback.ends <= today
    owed = owing.begins[owing.begins <= today]
    rows: list[tuple[Ids, np.datetime64, Vector]] = []
    days = _ends_of_months(owed.min(), as_of) if owed.size else []
    reaches = dict(zip(days, reach_of(_days(days), rules.months), strict=True))
    over = [day for day in days if reaches[day] + np.timedelta64(lag, "D") <= today]
    for day in days[max(0, len(over) - most) :]:
        reach = reaches[day]
        firms = at_risk(owing, happened, day)
        falls = np.isin(firms, happened.firms[(happened.begins > day) & (happened.begins <= reach)])
        here = said & (feedback.begins <= day) & (day <= feedback.ends)
        true, false, other = (np.isin(firms, feedback.firms[here & (feedback.word == word)]) for word in FEEDBACK)
        # until a day's months are over, firms that fell overdue are known and those that stay good are not: without
        # the latter there would be too many bads, so that of such a day only rows with a person's word are taken
        known = falls | ~other if day in over else true | false
        rows.append((firms[known], day, (falls | true)[known].astype(np.float64)))
    made = LabelledRows(
        np.concatenate([firms for firms, _, _ in rows] or [np.zeros(0, "<U1")]),
        np.concatenate([np.full(firms.size, day) for firms, day, _ in rows] or [_days([])]),
        np.concatenate([labels for _, _, labels in rows] or [np.zeros(0)]),
    )
    bad = int(made.overdue.sum())
    if not 0 < bad < made.overdue.size:
        raise DataError(
            f"of {made.overdue.size:,} firm-months whose {rules.months} months are over on {as_of}, {bad:,} fell "
            "overdue: to learn takes both kinds; give older loans and firms overdue under warnings in bank.yaml"
        )
    return made


def reach_of(days: Days, months: int) -> Days:
    """Return for each day the same day so many months later, (n,)."""
    each, place = np.unique(days, return_inverse=True)
    return _days(months_after(day, months) for day in each.tolist())[place]


def at_risk(owing: Owing, overdue: OverdueFirms, day: np.datetime64) -> Ids:
    """Return the firms that owe on a day and are not overdue then, sorted."""
    owe = np.unique(owing.firms[(owing.begins <= day) & (day < owing.ends)])
    late = overdue.firms[(overdue.begins <= day) & (day < overdue.cured)]
    return owe[~np.isin(owe, late)]


def _ends_of_months(first: np.datetime64, last: dt.date) -> list[np.datetime64]:
    """Return the last days of months from that of a day to the latest that is over."""
    months = np.arange(first.astype("datetime64[M]"), np.datetime64(last, "D").astype("datetime64[M]"))
    return list((months + 1).astype("datetime64[D]") - np.timedelta64(1, "D"))


def write_rows(node: NodeConfig, settings: BankSettings, rows: LabelledRows) -> Path:
    """Write the data set of bank.yaml (`warnings.dataset`): variables of each row as of its day, and the label.

    Return its file. Raises ConfigError where node.yaml does not have it as a panel with features and a label.
    """
    name = settings.warnings.dataset
    entry = node.datasets.get(name or "")
    if entry is None or entry.features is None or entry.path is None:
        raise ConfigError(
            f"{FILE} needs warnings: {{dataset: ...}}, a data set of node.yaml with features (catalogue and events); "
            f"it has: {', '.join(node.datasets) or 'none'}"
        )
    if entry.id_columns != (FIRM_COLUMN, DAY_COLUMN) or entry.label_column is None:
        raise ConfigError(
            f"data set {name} of node.yaml holds firms at dates with a label: set id_columns: [{FIRM_COLUMN}, "
            f"{DAY_COLUMN}] and label_column"
        )
    catalogue = find_catalogue(entry.features.catalogue)
    fixed, label = earlier_terms(entry.path, catalogue), {entry.label_column: rows.overdue}
    build_rows(
        catalogue, entry.features.source, entry.path, rows.firms.tolist(), rows.days, fixed_terms=fixed, more=label
    )
    return entry.path


# --- where they come from ---------------------------------------------------------------------------------------------


def overdue_of(settings: BankSettings, home: Path) -> OverdueFirms:
    """Read the bank's table of firms overdue; ConfigError where bank.yaml names none."""
    table = settings.warnings.overdue
    if table is None:
        raise ConfigError(f"{FILE} names no table of firms overdue: write warnings: {{overdue: {{path: ...}}}}")
    days = (table.day, *((table.cured,) if table.cured else ()))
    firms, found = _read(home / table.path, table.firm, days, settings.id_normaliser)
    known = _filled(found[table.day], home / table.path, table.day)
    cured = np.where(np.isnat(found[table.cured]), _NEVER, found[table.cured]) if table.cured else _never(firms)
    return OverdueFirms(firms, known - np.timedelta64(table.after_days, "D"), known, cured)


def owing_of(book: Book, settings: BankSettings, home: Path) -> Owing:
    """Return from when until when firms owe, by contracts of the book that were drawn on and by the table of loans.

    A contract that ended counts until its last repayment, one that runs until its term ends.
    """
    first, last = sa.func.min(DRAWS.c.drawn_on), sa.func.max(REPAYMENTS.c.paid_on)
    drawn = sa.select(DRAWS.c.contract, first.label("begins")).group_by(DRAWS.c.contract).subquery()
    paid = sa.select(REPAYMENTS.c.contract, last.label("paid")).group_by(REPAYMENTS.c.contract).subquery()
    query = (
        sa.select(CONTRACTS.c.firm, CONTRACTS.c.status, CONTRACTS.c.ends_on, drawn.c.begins, paid.c.paid)
        .join(drawn, drawn.c.contract == CONTRACTS.c.id)
        .outerjoin(paid, paid.c.contract == CONTRACTS.c.id)
    )
    rows = book.rows(query)
    ends = [row["paid"] or row["ends_on"] if row["status"] == "ended" else row["ends_on"] for row in rows]
    found = Owing(_ids([row["firm"] for row in rows]), _days([row["begins"] for row in rows]), _days(ends))
    loans = settings.warnings.loans
    if loans is None:
        return found
    firms, days = _read(home / loans.path, loans.firm, (loans.begins, loans.ends), settings.id_normaliser)
    begins = _filled(days[loans.begins], home / loans.path, loans.begins)
    return found.and_also(Owing(firms, begins, np.where(np.isnat(days[loans.ends]), _NEVER, days[loans.ends])))


def feedback_of(book: Book) -> CaseFeedback:
    """Return what persons found of alarms, of cases that are closed."""
    first = sa.select(ALARMS.c.case, sa.func.min(ALARMS.c.month).label("month")).group_by(ALARMS.c.case).subquery()
    query = sa.select(CASES, first.c.month).join(first, first.c.case == CASES.c.id).where(CASES.c.status == "closed")
    rows = book.rows(query.order_by(CASES.c.id))
    # levels are of variables as of the end of the month before, which is the row that the word is of
    begins = [row["month"] - dt.timedelta(days=1) for row in rows]
    ends = [day_of(row["closed_s"]) for row in rows]
    return CaseFeedback(
        _ids([row["firm"] for row in rows]),
        _days(begins),
        _days(ends),
        np.array([row["feedback"] for row in rows], "<U5"),
    )


def _read(path: Path, firm: str, days: Sequence[str], normaliser: str) -> tuple[Ids, dict[str, Days]]:
    """Return ids and days of a file's rows; a firm may have several."""
    selection = SourceColumns(firm, None, None, None, tuple(days), ())
    read = read_file(path, selection, {}, ReadingRules(kinds=dict.fromkeys(days, "date")))
    found = {name: _from_numbers(read.arrays[name]) for name in days}
    return normalise_ids(read.arrays[firm], normaliser), found


def _from_numbers(values: ArrayLike) -> Days:
    """Return days from whole days since 1970-01-01 (NaN: missing)."""
    numbers = np.asarray(values, dtype=np.float64)
    days = np.where(np.isnan(numbers), 0, np.floor(numbers)).astype(np.int64).astype("datetime64[D]")
    return np.where(np.isnan(numbers), np.datetime64("NaT", "D"), days)


def _filled(days: Days, path: Path, column: str) -> Days:
    if np.isnat(days).any():
        row = int(np.flatnonzero(np.isnat(days))[0]) + 1
        raise DataError(f"{path.name} has no day in column {column!r} of row {row}: fill it, or leave the row out")
    return days


def _never(firms: Ids) -> Days:
    return np.full(firms.size, _NEVER)


def _ids(firms: Sequence[str]) -> Ids:
    return np.array(firms, dtype=np.str_) if firms else np.zeros(0, "<U1")


def _days(days: Iterable[Any]) -> Days:
    found: Array = np.array(list(days), dtype="datetime64[D]")
    return found
