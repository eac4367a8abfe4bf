"""Data frames of every dtype: the same table as from a file."""

import datetime as dt

import numpy as np
import pytest

from veilscore.data.table import make_table
from veilscore.data.table_source import TableReader
from veilscore.errors import ColumnError, ConfigError
from veilscore.terms.reading import ReadingRules
from veilscore.terms.training import TrainScorecard

pd = pytest.importorskip("pandas")
IDS = ["a", "b", "c"]
DAY = 19727.0  # 2024-01-05


def one(values, **options):
    return make_table(IDS, {"x": values}, normaliser="text", **options).columns["x"].tolist()


def same(found, expected):
    np.testing.assert_array_equal(np.array(found, dtype=object if None in expected else None), expected)


def series():
    yield pd.Series([1, None, 3], dtype="Int64"), [1, np.nan, 3]
    yield pd.Series([1.5, None, 3], dtype="Float64"), [1.5, np.nan, 3]
    yield pd.Series([True, None, False], dtype="boolean"), [1, np.nan, 0]
    yield pd.Series([1, 2, 3], dtype="uint8"), [1, 2, 3]
    yield pd.Series(["u", None, "v"], dtype="string"), ["u", None, "v"]
    yield pd.Series(["u", None, "v"]), ["u", None, "v"]
    yield pd.Series(["u", pd.NA, "v"], dtype=object), ["u", None, "v"]
    yield pd.Series([1, pd.NA, 3], dtype=object), [1, np.nan, 3]
    yield pd.Series(["u", None, "v"], dtype="category"), ["u", None, "v"]
    yield pd.Series([3, None, 1]).astype("category"), ["3", None, "1"]
    yield pd.Series(["1,5", "2,25", None], dtype="category"), ["1,5", "2,25", None]
    yield pd.Series(["1,5", "2,25", None], dtype="string"), [1.5, 2.25, np.nan]
    yield pd.Series(pd.to_datetime(["2024-01-05", None, "2024-01-06"])), [DAY, np.nan, DAY + 1]
    yield pd.Series([dt.date(2024, 1, 5), None, dt.date(2024, 1, 6)]), [DAY, np.nan, DAY + 1]
    yield (
        pd.Series([pd.Timestamp("2024-01-05"), pd.NaT, pd.Timestamp("2024-01-06")], dtype=object),
        [DAY, np.nan, DAY + 1],
    )
    yield pd.Series(pd.arrays.SparseArray([0.0, 0.0, 2.0])), [0, 0, 2]


@pytest.mark.parametrize(("values", "expected"), list(series()), ids=lambda one: str(getattr(one, "dtype", "")))
def test_dtypes(values, expected):
    same(one(values), expected)
    same(one(values.to_numpy() if values.dtype == object else values.array), expected)


def test_zoned_moments_have_the_day_of_the_declared_zone():
    moments = pd.Series(pd.to_datetime(["2024-01-05T20:00Z", None, "2024-01-04T16:00Z"])).dt.tz_convert(
        "America/New_York"
    )
    for values in (moments, moments.astype(object)):
        same(one(values), [DAY + 20 / 24, np.nan, DAY - 1 + 16 / 24])
        same(one(values, rules=ReadingRules(zone="Asia/Shanghai")), [DAY + 28 / 24, np.nan, DAY])
    with pytest.raises(ColumnError, match="with and without a time zone"):
        one(pd.Series([moments[0], pd.Timestamp("2024-01-05"), None], dtype=object))


def test_arrow_dtypes():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for dtype, cells, expected in (
        ("int64[pyarrow]", [1, None, 3], [1, np.nan, 3]),
        ("double[pyarrow]", [1.5, None, 3], [1.5, np.nan, 3]),
        ("bool[pyarrow]", [True, None, False], [1, np.nan, 0]),
        ("string[pyarrow]", ["u", None, "v"], ["u", None, "v"]),
        ("date32[pyarrow]", [dt.date(2024, 1, 5), None, dt.date(2024, 1, 6)], [DAY, np.nan, DAY + 1]),
        ("timestamp[us][pyarrow]", [dt.datetime(2024, 1, 5), None, dt.datetime(2024, 1, 6)], [DAY, np.nan, DAY + 1]),  # noqa: DTZ001
        ("timestamp[us, tz=UTC][pyarrow]", [dt.datetime(2024, 1, 5, tzinfo=dt.UTC)] * 3, [DAY] * 3),
    ):
        same(one(pd.Series(cells, dtype=dtype)), expected)


def test_a_reader_takes_frames_with_ids_aside_and_rules():
    frame = pd.DataFrame(
        {
            "default": [0, 1, 0],
            "day": ["31.12.2023", "5.1.2024", "5.1.2024"],
            "x": [-999, 1, 2],
            "gone": ["u", "v", "w"],
        },
        index=pd.Index(IDS, name="id", dtype="string"),
    )
    said = ReadingRules(kinds={"gone": "ignore"}, special={"x": [-999]})
    parameters = TrainScorecard(id_normaliser="text", holdout_from=dt.date(2024, 1, 1))
    reader = TableReader("id", "default", None, "day", parameters, {"bank": said})
    table = reader.bank("bank", frame)
    assert table.ids.tolist() == IDS
    assert table.dates.astype(str).tolist() == ["2023-12-31", "2024-01-05", "2024-01-05"]
    assert list(table.columns) == ["x"]
    assert table.special == {"x": (-999.0,)}
    assert reader.again("bank", frame, table.kinds).columns["x"].tolist() == [-999, 1, 2]
    with pytest.raises(ColumnError, match="no column 'y'"):
        TableReader("id", "default", None, None, parameters, {"tax": ReadingRules(kinds={"y": "number"})}).holder(
            "tax", frame
        )
    with pytest.raises(ConfigError, match="pass a Table, a path, or columns by name"):
        reader.holder("tax", [1, 2])
