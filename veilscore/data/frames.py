"""Turn columns as notebooks and drivers hold them (arrays, lists, pandas series of any dtype) into plain arrays.

pandas is not imported: its nullable, arrow, categorical and zoned dtypes say by themselves what they are.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array
from veilscore.data.text_columns import open_database
from veilscore.errors import ColumnError

_NO_VALUE = ("NAType", "NaTType")  # pandas' own marks, which compare with nothing


def plain_array(values: Any, zone: str = "UTC") -> tuple[Array, bool]:
    """Return a column as a numpy array, None for missing among objects, and whether it is of levels by its dtype.

    zone : in which zoned moments have their day.
    """
    dtype = getattr(values, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype):
        array: Array = np.asarray(values)
        if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
            array = np.array(values, dtype=object)  # numpy would turn the numbers of a mixed list into text
        if array.dtype.kind == "O" and array.ndim == 1:
            array = _without_marks(array)
        return array, False
    if not hasattr(values, "isna"):  # another library's column
        return np.asarray(values), False
    kind = getattr(dtype, "kind", "O")
    if getattr(dtype, "tz", None) is not None or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None) is not None:
        clock = values.dt if hasattr(values, "dt") else values  # an index has these methods itself
        moments = clock.tz_convert("UTC")
        moments = (moments.dt if hasattr(moments, "dt") else moments).tz_localize(None)
        return wall_clock(moments.to_numpy(dtype="datetime64[us]", na_value=np.datetime64("NaT")), zone), False
    if kind in "biuf":
        return values.to_numpy(dtype=np.float64, na_value=np.nan), False
    if kind == "M":
        return values.to_numpy(dtype="datetime64[us]", na_value=np.datetime64("NaT")), False
    cells = np.array(np.asarray(values.astype(object)), dtype=object)
    cells[np.asarray(values.isna(), dtype=bool)] = None
    return _without_marks(cells), hasattr(dtype, "categories") or "dictionary" in str(dtype)


def _without_marks(array: Array) -> Array:
    """Return objects with None in place of pandas' marks of missing values."""
    marks = [type(cell).__name__ in _NO_VALUE for cell in array.tolist()]
    if any(marks):
        array = array.copy()
        array[marks] = None
    return array


def wall_clock(moments: NDArray[np.datetime64], zone: str) -> NDArray[np.datetime64]:
    """Return what clocks in a zone showed at moments (n,) given in UTC."""
    if zone == "UTC" or not len(moments):
        return moments
    with open_database(zone) as database:
        database.register("moments", {"moment": moments.astype("datetime64[us]")})
        there = database.execute(
            "SELECT CAST(timezone('UTC', moment) AS TIMESTAMP) AS there FROM moments"
        ).fetchnumpy()["there"]
    filled = there.filled(np.datetime64("NaT")) if isinstance(there, np.ma.MaskedArray) else there
    return np.asarray(filled, dtype="datetime64[us]")


def moments_of(name: str, cells: list[Any], zone: str) -> NDArray[np.datetime64]:
    """Return dates and datetimes (None: missing) as datetime64[us]; a mixture with and without zone is refused."""
    zoned = {cell.tzinfo is not None for cell in cells if isinstance(cell, datetime)}
    plain_days = any(isinstance(cell, date) and not isinstance(cell, datetime) for cell in cells)
    if zoned == {True} and not plain_days:
        utc = [None if cell is None else cell.astimezone(UTC).replace(tzinfo=None) for cell in cells]
        return wall_clock(np.array(utc, dtype="datetime64[us]"), zone)
    if True in zoned:
        raise ColumnError(f"column {name!r} has moments with and without a time zone; give all of them one")
    return np.array(cells, dtype="datetime64[us]")
