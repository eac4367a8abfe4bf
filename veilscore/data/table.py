"""Keep one party's data set in memory: ids, columns as numpy arrays, label; all checked once, on the way in.

Numbers are float64 with NaN for missing; categories are object arrays of str with None for missing. Whole
numbers beyond 2^53 are rounded to float64, the same way in every table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from veilscore.arrays import Array, Mask, Vector
from veilscore.data.ids import Ids, check_ids, normalise_ids, rows_text
from veilscore.errors import ColumnError, DataError, LabelError

Kind = Literal["number", "category"]
Column = Array
MANY_LEVELS = 1_000  # a category with more levels than this looks like a name or an address
DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, repr=False)
class Table:
    """A checked data set; made by `make_table` or `veilscore.data.ingest.read_table`.

    ids : (n_rows,) array of str, normalised, unique.
    columns : name -> (n_rows,) float64 (NaN missing) or object array of str (None missing).
    label : (n_rows,) float64 of 0 and 1 (1 is bad), or None.
    weight : (n_rows,) float64, positive, or None.
    dates : (n_rows,) datetime64[D], or None.
    source : where it came from, without passwords.
    warnings : what the owner should look at, in words.
    """

    ids: Ids
    columns: Mapping[str, Column]
    label: Vector | None = None
    weight: Vector | None = None
    dates: NDArray[np.datetime64] | None = None
    source: str = "memory"
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show sizes only: the values stay private."""
        return f"Table(n_rows={self.n_rows}, n_columns={len(self.columns)}, source={self.source!r})"

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return len(self.ids)

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
    source: str = "memory",
    normaliser: str = "uscc",
    kinds: Mapping[str, Kind] | None = None,
) -> Table:
    """Check and type arrays and make a Table of them.

    ids : (n,) ids, normalised here by `normaliser`.
    columns : name -> (n,) numbers, text, dates or booleans.
    label, weight, dates : (n,) arrays or None.
    kinds : columns whose kind is known beforehand (a code book of numbers is a "category").
    Raises IdError, ColumnError, LabelError, DataError: with the column and row numbers (from 1), never values.
    """
    ids = normalise_ids(ids, normaliser)
    check_ids(ids, normaliser, source=source)
    typed = {name: typed_column(name, values, (kinds or {}).get(name)) for name, values in columns.items()}
    parts = {**typed, "label": label, "weight": weight, "dates": dates}
    for name, values in parts.items():
        if values is not None and len(np.asarray(values)) != len(ids):
            raise DataError(f"{name!r} of {source} has another number of rows than the ids: {len(ids)} expected")
    if not len(ids):
        raise DataError(f"{source} has no rows; check the file or the query")
    return Table(
        ids,
        {name: _checked(name, values, source) for name, values in typed.items()},
        None if label is None else checked_label(label, source),
        None if weight is None else checked_weight(weight, source),
        None if dates is None else checked_dates(dates, source),
        source,
        tuple(text for name, values in typed.items() for text in column_warnings(name, values)),
    )


def typed_column(name: str, values: npt.ArrayLike, kind: Kind | None = None) -> Column:
    """Turn a column into float64 (NaN missing) or object (str, None missing); refuse mixed types."""
    array: Column = np.asarray(values)
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        array = np.array(values, dtype=object)  # numpy would turn the numbers of a mixed list into text
    if array.ndim != 1:
        raise ColumnError(f"column {name!r} has {array.ndim} dimensions; give one value per row")
    if array.dtype.kind == "M":
        days = array.astype("datetime64[us]") - np.datetime64("1970-01-01", "us")
        array = np.where(np.isnat(array), np.nan, days / DAY)
    if array.dtype.kind in "biuf" and kind != "category":
        return array.astype(np.float64)
    return _typed_objects(name, array.astype(object), kind)


def _typed_objects(name: str, array: Column, kind: Kind | None) -> Column:
    cells = [None if cell is None or cell == "" or cell != cell else cell for cell in array.tolist()]  # noqa: PLR0124 (NaN)
    found = {type(cell) for cell in cells if cell is not None}
    if kind == "category":
        return np.fromiter((None if cell is None else _as_level(cell) for cell in cells), object, len(cells))
    if found == {str} and kind != "number":
        return np.fromiter(cells, object, len(cells))
    if found <= {date, datetime} and found:
        return typed_column(name, np.array(cells, dtype="datetime64[us]"))
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


def _checked(name: str, values: Column, source: str) -> Column:
    if kind_of(values) == "number":
        remedy = "leave such cells empty or exclude the column"
        _refuse_rows(np.isinf(values), ColumnError, f"column {name!r} of {source} has", remedy, "infinite values")
    return values


def column_warnings(name: str, values: Column) -> list[str]:
    """Say in words what is odd about a column: one value, all missing, or very many levels."""
    if kind_of(values) == "number":
        present = values[~np.isnan(values)]
        n_distinct = 0 if not len(present) else 1 if present.min() == present.max() else 2
    else:
        n_distinct = len(set(values.tolist()) - {None})
    if n_distinct == 0:
        return [f"column {name!r} is missing in every row and will be dropped"]
    if n_distinct == 1:
        return [f"column {name!r} has one value only and will be dropped unless its missing rows tell something"]
    if kind_of(values) == "category" and n_distinct > MANY_LEVELS:
        return [f"column {name!r} is text with {n_distinct} levels; if it holds names or addresses, exclude it"]
    return []


def checked_label(values: npt.ArrayLike, source: str) -> Vector:
    """Return the label as (n,) float64 of 0 and 1; anything else raises LabelError."""
    try:
        label = np.asarray(values).astype(np.float64)
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
    array: Column = np.asarray(values)
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
    """Says which columns of a source play which part."""

    id_column: str
    label_column: str | None
    weight_column: str | None
    date_column: str | None
    columns: tuple[str, ...] | None
    exclude: tuple[str, ...]

    def features(self, available: Sequence[str], source: str) -> tuple[str, ...]:
        """Return the names of the feature columns; a named column that is not there raises ColumnError."""
        special = [self.id_column, self.label_column, self.weight_column, self.date_column]
        roles = [name for name in special if name is not None]
        if len(set(roles)) < len(roles):
            raise ColumnError(f"one column of {source} is named for two parts (id, label, weight, date)")
        for name in (*roles, *(self.columns or ()), *self.exclude):
            if name not in available:
                raise ColumnError(absent(name, available, source))
        wanted = available if self.columns is None else self.columns
        features = tuple(name for name in wanted if name not in roles and name not in self.exclude)
        if not features:
            raise ColumnError(f"{source} has no feature column left; check `columns` and `exclude`")
        return features

    def roles(self) -> dict[str, str]:
        """Return part -> column name, for those that are named."""
        parts = {"label": self.label_column, "weight": self.weight_column, "dates": self.date_column}
        return {part: name for part, name in parts.items() if name is not None}


def absent(name: str, available: Sequence[str], source: str) -> str:
    """Return the message about a column that is not there, with the nearest name that is."""
    near = difflib.get_close_matches(name, available, n=1) or [
        other for other in available if other.lower() == name.lower()
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(available[:20])}"
    return f"{source} has no column {name!r}; {hint}"
