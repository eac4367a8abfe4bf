"""Keep one party's data set in memory: ids, columns as numpy arrays, label; all checked once, on the way in.

Numbers are float64 with NaN for missing; categories are object arrays of str with None for missing. Whole
numbers beyond 2^53 are rounded to float64, the same way in every table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from veilscore.arrays import Array, Mask, Vector
from veilscore.data.frames import moments_of, plain_array
from veilscore.data.ids import Ids, check_ids, id_warnings, normalise_ids, rows_text
from veilscore.data.panel import Panel
from veilscore.data.text_columns import TextRules, read_arrays
from veilscore.errors import ColumnError, DataError, LabelError
from veilscore.terms.reading import NOTHING_SAID, ReadingRules

Kind = Literal["number", "category"]
Column = Array
MANY_LEVELS = 1_000  # a category with more levels than this looks like a name or an address
DAY = np.timedelta64(1, "D")
FIRST_DATE, LAST_DATE = 19000101, 21001231  # as whole numbers


@dataclass(frozen=True, repr=False)
class Table:
    """A checked data set; made by `make_table` or `veilscore.data.ingest.read_table`.

    ids : (n_rows,) array of str, normalised, unique; of a panel the keys of firms at dates.
    columns : name -> (n_rows,) float64 (NaN missing) or object array of str (None missing).
    label : (n_rows,) float64 of 0 and 1 (1 is bad), or None.
    weight : (n_rows,) float64, positive, or None.
    dates : (n_rows,) datetime64[D], or None.
    source : where it came from, without passwords.
    warnings : what the owner should look at, in words.
    special : column -> values that have bins of their own.
    panel : firms and days of rows that are firms at dates, else None.
    """

    ids: Ids
    columns: Mapping[str, Column]
    label: Vector | None = None
    weight: Vector | None = None
    dates: NDArray[np.datetime64] | None = None
    source: str = "memory"
    warnings: tuple[str, ...] = ()
    special: Mapping[str, tuple[float | str, ...]] = field(default_factory=dict)
    panel: Panel | None = None

    def __repr__(self) -> str:
        """Show sizes only: the values stay private."""
        return f"Table(n_rows={self.n_rows}, n_columns={len(self.columns)}, source={self.source!r})"

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

    @property
    def firms(self) -> Ids:
        """Return the id of each row's firm, (n_rows,)."""
        return self.ids if self.panel is None else self.panel.firms

    @property
    def kinds(self) -> dict[str, Kind]:
        """Return column name -> "number" or "category"."""
        return {name: kind_of(values) for name, values in self.columns.items()}

    def take(self, rows: Array) -> Table:
        """Return the rows given by an index or mask array, in that order."""
        return replace(
            self,
            ids=self.ids[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            label=None if self.label is None else self.label[rows],
            weight=None if self.weight is None else self.weight[rows],
            dates=None if self.dates is None else self.dates[rows],
            panel=None if self.panel is None else self.panel.take(rows),
        )


def kind_of(values: Column) -> Kind:
    """Return the kind of a column already typed."""
    return "category" if values.dtype == object else "number"


def missing_in(values: Column) -> Mask:
    """Return which values of a typed column are missing: (n,)."""
    none = np.array(None, dtype=object)
    return np.equal(values, none) if kind_of(values) == "category" else np.isnan(values)


def make_table(
    ids: npt.ArrayLike,
    columns: Mapping[str, npt.ArrayLike],
    label: npt.ArrayLike | None = None,
    *,
    weight: npt.ArrayLike | None = None,
    dates: npt.ArrayLike | None = None,
    days: npt.ArrayLike | None = None,
    source: str = "memory",
    normaliser: str = "uscc",
    kinds: Mapping[str, Kind] | None = None,
    rules: ReadingRules = NOTHING_SAID,
) -> Table:
    """Check and type arrays and make a Table of them.

    ids : (n,) ids, normalised here by `normaliser`.
    columns : name -> (n,) numbers, text, dates or booleans, as arrays, lists or series.
    label, weight, dates : (n,) arrays or None.
    days : (n,) day of each row where rows are firms at dates, so that ids may repeat; None: rows are firms.
    kinds : columns whose kind is known beforehand (a code book of numbers is a "category").
    rules : what the owner says of how columns are read.
    Raises IdError, ColumnError, LabelError, DataError: with the column and row numbers (from 1), never values.
    """
    wanted = {name: values for name, values in columns.items() if name not in rules.left_out}
    parts = {"label": label, "weight": weight}
    parts |= {"dates": _days(dates, rules, source), "days": _days(days, rules, source)}
    typed, notes = typed_columns(wanted, kinds or {}, rules, source)
    return checked_table(
        plain_array(ids)[0],
        typed,
        {part: values for part, values in parts.items() if values is not None},
        source=source,
        normaliser=normaliser,
        rules=rules,
        notes=notes,
    )


def checked_table(
    ids: npt.ArrayLike,
    typed: Mapping[str, Column],
    parts: Mapping[str, npt.ArrayLike],
    *,
    source: str,
    normaliser: str,
    rules: ReadingRules = NOTHING_SAID,
    notes: Sequence[str] = (),
) -> Table:
    """Make a Table of columns that have their types; the rest is that of `make_table`.

    parts : of label, weight, dates and days (of firms at dates) those that there are.
    notes : on how columns were read.
    """
    ids = normalise_ids(ids, normaliser)
    for name, values in (*typed.items(), *parts.items()):
        if len(np.asarray(values)) != len(ids):
            raise DataError(f"{name!r} of {source} has another number of rows than the ids: {len(ids)} expected")
    if not len(ids):
        raise DataError(f"{source} has no rows; check the file or the query")
    panel = Panel(ids, checked_dates(parts["days"], source)) if "days" in parts else None
    check_ids(ids, normaliser, source=source, keys=None if panel is None else lambda: panel.keys)
    columns = {name: _checked(name, _with_rules(name, values, rules), source) for name, values in typed.items()}
    found = [text for name, values in columns.items() for text in column_warnings(name, values, rules)]
    days = None if panel is None else panel.days
    return Table(
        ids if panel is None else panel.keys,
        columns,
        checked_label(parts["label"], source) if "label" in parts else None,
        checked_weight(parts["weight"], source) if "weight" in parts else None,
        checked_dates(parts["dates"], source) if "dates" in parts else days,
        source,
        (*notes, *id_warnings(ids, normaliser), *found),
        {name: values for name, values in rules.special.items() if name in columns},
        panel,
    )


def _days(dates: npt.ArrayLike | None, rules: ReadingRules, source: str) -> npt.ArrayLike | None:
    """Return dates in memory, where they are text as days since 1970-01-01, by the same forms as columns."""
    if dates is None:
        return None
    array, _ = plain_array(dates, rules.zone)
    if array.dtype.kind == "O" and not _all_text(array):
        return array if array.ndim != 1 else moments_of("date", array.tolist(), rules.zone)
    if array.dtype.kind not in "OU":
        return array
    known = TextRules(rules.model_copy(update={"kinds": {"date": "date"}}), {}, source, frozenset({"date"}))
    return read_arrays({"date": array.astype(object)}, known)[0]["date"]


def typed_columns(
    columns: Mapping[str, npt.ArrayLike], expected: Mapping[str, Kind], rules: ReadingRules, source: str
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Return columns with their types, and notes on how texts were read as numbers or dates."""
    typed: dict[str, Column] = {}
    texts: dict[str, Column] = {}
    for name, values in columns.items():
        array, of_levels = plain_array(values, rules.zone)
        kind = rules.kinds.get(name) or ("category" if of_levels else expected.get(name))
        if kind == "category":
            typed[name] = typed_column(name, array, "category", rules.zone)
        elif kind == "date" and array.dtype.kind in "iuf":
            texts[name] = np.array([None if cell != cell else f"{cell:.0f}" for cell in array.tolist()], dtype=object)  # noqa: PLR0124 (NaN)
        elif array.dtype.kind == "U" or (array.dtype.kind == "O" and _all_text(array)):
            texts[name] = array.astype(object)
        else:
            typed[name] = typed_column(name, array, "number" if kind == "number" else None, rules.zone)
    notes: tuple[str, ...] = ()
    if texts:
        found, notes = read_arrays(texts, TextRules(rules, expected, source))
        typed |= found
    return {name: typed[name] for name in columns}, notes


def _all_text(array: Column) -> bool:
    return array.ndim == 1 and {str} == set(map(type, array.tolist())) - {type(None)}


def typed_column(name: str, values: npt.ArrayLike, kind: Kind | None = None, zone: str = "UTC") -> Column:
    """Turn a column into float64 (NaN missing) or object (str, None missing); refuse mixed types."""
    array, _ = plain_array(values, zone)
    if array.ndim != 1:
        raise ColumnError(f"column {name!r} has {array.ndim} dimensions; give one value per row")
    if array.dtype.kind == "M":
        days = array.astype("datetime64[us]") - np.datetime64("1970-01-01", "us")
        array = np.where(np.isnat(array), np.nan, days / DAY)
    if array.dtype.kind in "biuf" and kind != "category":
        return array.astype(np.float64)
    return _typed_objects(name, array.astype(object), kind, zone)


def _typed_objects(name: str, array: Column, kind: Kind | None, zone: str) -> Column:
    cells = [None if cell is None or cell == "" or cell != cell else cell for cell in array.tolist()]  # noqa: PLR0124 (NaN)
    found = {type(cell) for cell in cells if cell is not None}
    if kind == "category":
        return np.fromiter((None if cell is None else _as_level(cell) for cell in cells), object, len(cells))
    if found == {str} and kind != "number":
        return np.fromiter(cells, object, len(cells))
    if found and all(issubclass(one, date) for one in found):
        return typed_column(name, moments_of(name, cells, zone))
    if all(issubclass(one, (Real, Decimal)) for one in found):
        return np.array([np.nan if cell is None else float(cell) for cell in cells], dtype=np.float64)
    kinds_found = ", ".join(sorted(one.__name__ for one in found))
    raise ColumnError(
        f"column {name!r} is of mixed or unusable type ({kinds_found}); make it all numbers or all text, "
        f"declare its kind as 'category', or exclude it"
    )


def _as_level(cell: Any) -> str:
    """Return the text of a level: 3 and 3.0 are the same level."""
    return f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell)


def _with_rules(name: str, values: Column, rules: ReadingRules) -> Column:
    """Return a column without the values that stand for missing by its owner's word; special values must fit it."""
    number = kind_of(values) == "number"
    wrong = [one for one in rules.special.get(name, ()) if isinstance(one, str) == number]
    if wrong:
        what = "numbers without quotes" if number else "words in quotes"
        raise ColumnError(f"special values of {name!r}, a column of kind {kind_of(values)}, must be {what}")
    said = rules.missing_in(name)
    gone = [one for one in said if isinstance(one, float)] if number else [_as_level(one) for one in said]
    if not gone:
        return values
    listed = np.isin(values, gone) if number else np.array([cell in gone for cell in values.tolist()], dtype=np.bool_)
    if listed.any():
        values = values.copy()
        values[listed] = np.nan if number else None
    return values


def _checked(name: str, values: Column, source: str) -> Column:
    if kind_of(values) == "number":
        remedy = "leave such cells empty or exclude the column"
        _refuse_rows(np.isinf(values), ColumnError, f"column {name!r} of {source} has", remedy, "infinite values")
    return values


def column_warnings(name: str, values: Column, rules: ReadingRules = NOTHING_SAID) -> list[str]:
    """Say in words what is odd about a column: one value, all missing, many levels, numbers that look like dates."""
    if kind_of(values) == "number":
        present = values[~np.isnan(values)]
        n_distinct = 0 if not len(present) else 1 if present.min() == present.max() else 2
        if n_distinct == 2 and name not in rules.kinds and _like_dates(present):
            remedy = "declare its kind as 'date' or 'number'"
            return [f"column {name!r} is read as numbers that all look like dates (20240105); {remedy}"]
    else:
        n_distinct = len(set(values.tolist()) - {None})
    if n_distinct == 0:
        return [f"column {name!r} is missing in every row and will be dropped"]
    if n_distinct == 1:
        return [f"column {name!r} has one value only and will be dropped unless its missing rows tell something"]
    if kind_of(values) == "category" and n_distinct > MANY_LEVELS and rules.kinds.get(name) != "category":
        remedy = "if it holds names or addresses, exclude it or declare its kind as 'text'"
        return [f"column {name!r} is text with {n_distinct} levels; {remedy}"]
    return []


def _like_dates(present: Vector) -> bool:
    if present.min() < FIRST_DATE or present.max() > LAST_DATE:
        return False
    month, day = present // 100 % 100, present % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (day == np.floor(day))).all())


def checked_label(values: npt.ArrayLike, source: str) -> Vector:
    """Return the label as (n,) float64 of 0 and 1; anything else raises LabelError."""
    try:
        label = plain_array(values)[0].astype(np.float64)
    except (ValueError, TypeError):
        raise LabelError(f"the label of {source} is not 0/1; recode it: 1 for bad, 0 for good") from None
    _refuse_rows(np.isnan(label), LabelError, f"the label of {source} is missing in", "remove them")
    wrong = (label != 0) & (label != 1)
    _refuse_rows(wrong, LabelError, f"the label of {source} is not 0/1 in", "recode it: 1 for bad, 0 for good")
    if label.min() == label.max():
        raise LabelError(f"the label of {source} has one value only; a model needs good and bad firms")
    return label


def checked_weight(values: npt.ArrayLike, source: str) -> Vector:
    """Return weights as (n,) float64; missing, infinite or non-positive ones raise ColumnError."""
    weight = typed_column("weight", values, "number")
    wrong = ~(np.isfinite(weight) & (weight > 0))
    before = f"the weight of {source} is missing, infinite or not positive in"
    _refuse_rows(wrong, ColumnError, before, "correct or remove them")
    return weight


def checked_dates(values: npt.ArrayLike, source: str) -> NDArray[np.datetime64]:
    """Return dates as (n,) datetime64[D]; missing or unreadable ones raise ColumnError."""
    array: Column = plain_array(values)[0]
    try:
        if array.dtype.kind == "f":  # days since 1970-01-01, as `typed_column` makes of dates
            array = np.where(np.isnan(array), np.datetime64("NaT"), np.floor(array).astype("datetime64[D]"))
        dates = array.astype("datetime64[D]")
    except (ValueError, TypeError):
        raise ColumnError(f"the date column of {source} is not of dates; write them as YYYY-MM-DD") from None
    before = f"the date of {source} is missing or unreadable in"
    _refuse_rows(np.isnat(dates), ColumnError, before, "write it as YYYY-MM-DD")
    return dates


def _refuse_rows(wrong: Mask, error: type[DataError], before: str, remedy: str, things: str = "rows") -> None:
    """Raise an error that counts and names the wrong rows, if there are any."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise error(f"{before} {len(rows)} {things} (row {rows_text(rows)}); {remedy}")


@dataclass(frozen=True)
class SourceColumns:
    """Says which columns of a source play which part; `day_column` is that of firms at dates."""

    id_column: str
    label_column: str | None
    weight_column: str | None
    date_column: str | None
    columns: tuple[str, ...] | None
    exclude: tuple[str, ...]
    day_column: str | None = None

    def features(self, available: Sequence[str], source: str, rules: ReadingRules = NOTHING_SAID) -> tuple[str, ...]:
        """Return the names of the feature columns; a named column that is not there raises ColumnError."""
        roles = [self.id_column, *self.roles().values()]
        if len(set(roles)) < len(roles):
            raise ColumnError(f"one column of {source} is named for two parts (id, day, label, weight, date)")
        for name in (*roles, *(self.columns or ()), *self.exclude, *rules.named):
            if name not in available:
                raise ColumnError(absent(name, available, source))
        wanted = available if self.columns is None else self.columns
        left_out = {*roles, *self.exclude, *rules.left_out}
        features = tuple(name for name in wanted if name not in left_out)
        if not features and self.columns != ():  # whoever wants no column wants the ids
            raise ColumnError(f"{source} has no feature column left; check `columns` and `exclude`")
        return features

    def roles(self) -> dict[str, str]:
        """Return part -> column name, for those that are named."""
        parts = {"label": self.label_column, "weight": self.weight_column, "dates": self.date_column}
        parts["days"] = self.day_column
        return {part: name for part, name in parts.items() if name is not None}


@dataclass(frozen=True, repr=False)
class ReadColumns:
    """What was read of a source: arrays by column name, names of the features, notes on how they were read."""

    arrays: Mapping[str, Column]
    features: tuple[str, ...]
    notes: tuple[str, ...] = ()


def absent(name: str, available: Sequence[str], source: str) -> str:
    """Return the message about a column that is not there, with the nearest name that is."""
    near = difflib.get_close_matches(name, available, n=1) or [
        other for other in available if other.lower() == name.lower()
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(available[:20])}"
    return f"{source} has no column {name!r}; {hint}"
