"""Every type of a PostgreSQL and a MariaDB server as a column: the right value, or a refusal in one sentence."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import require
from database_servers import mariadb, postgres

from veilscore.data.ingest import list_columns, read_table
from veilscore.errors import ColumnError, DataError
from veilscore.terms.reading import ReadingRules

DAY = 19727.0  # 2024-01-05
COMMON = {
    "id": ("VARCHAR(20)", ["'001'", "'002'"], None),
    "small": ("SMALLINT", ["1", "NULL"], [1, np.nan]),
    "money": ("NUMERIC(20,2)", ["1627.51", "-0.01"], [1627.51, -0.01]),
    "ratio": ("DOUBLE PRECISION", ["0.1", "NULL"], [0.1, np.nan]),
    "flag": ("BOOLEAN", ["TRUE", "FALSE"], [1, 0]),
    "opened": ("DATE", ["'2024-01-05'", "NULL"], [DAY, np.nan]),
    "code": ("VARCHAR(20)", ["'0111'", "'1E2'"], ["0111", "1E2"]),
    "word": ("TEXT", ["'餐饮'", "'-'"], ["餐饮", "-"]),
    "amount": ("VARCHAR(20)", ["'1,627.51'", "'(3)'"], [1627.51, -3]),
    "written": ("VARCHAR(20)", ["'5.1.2024'", "'6.1.2024'"], [DAY, DAY + 1]),
    "no_zone": ("TIMESTAMP NULL", ["'2024-01-05 20:00:00'", "NULL"], [DAY + 20 / 24, np.nan]),
}
POSTGRES = {
    "zoned": ("TIMESTAMPTZ", ["'2024-01-05 20:00:00+00'", "NULL"], [DAY + 28 / 24, np.nan]),
    "big": ("BIGINT", ["9007199254740993", "2"], [9007199254740992, 2]),
    "fixed": ("CHAR(5)", ["'ab'", "'cd'"], ["ab", "cd"]),
}
MARIADB = {
    "zoned": ("DATETIME", ["'2024-01-05 20:00:00'", "NULL"], [DAY + 20 / 24, np.nan]),
    "year": ("YEAR", ["2024", "1999"], [2024, 1999]),
    "choice": ("ENUM('x','y')", ["'x'", "'y'"], ["x", "y"]),
    "positive": ("BIGINT UNSIGNED", ["18446744073709551615", "1"], [2.0**64, 1]),
}
REFUSED = {
    postgres: {"span": ("INTERVAL", "'1 day'"), "raw": ("BYTEA", "'x'"), "list": ("INT[]", "'{1,2}'"), "uid": (
        "UUID", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"), "doc": ("JSONB", """'{"a": 1}'""")},
    mariadb: {"span": ("TIME", "'10:00:00'"), "raw": ("VARBINARY(9)", "'x'"), "bits": ("BIT(3)", "b'101'")},
}  # fmt: skip
RULES = ReadingRules(zone="Asia/Shanghai")


@pytest.fixture(scope="module", params=[postgres, mariadb], ids=["PostgreSQL", "MariaDB"])
def server(request):
    if request.param is mariadb:
        driver = importlib.util.find_spec("pymysql")
        require(driver, "the driver of MariaDB is not installed (pip install pymysql)")
    with request.param() as url:
        if request.param is mariadb:
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                connection.exec_driver_sql("ALTER DATABASE test CHARACTER SET utf8mb4")
            engine.dispose()
        yield request.param, url


def fill(url, columns):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS firms"))
        connection.execute(sa.text(f"CREATE TABLE firms ({', '.join(f'{n} {c[0]}' for n, c in columns.items())})"))
        for row in zip(*(cells for _, cells, _ in columns.values()), strict=True):
            connection.exec_driver_sql(f"INSERT INTO firms VALUES ({', '.join(row)})")  # noqa: S608
    engine.dispose()


def test_types(server):
    kind, url = server
    columns = {**COMMON, **(POSTGRES if kind is postgres else MARIADB)}
    fill(url, columns)
    table = read_table(url, "id", normaliser="text", table="firms", rules=RULES)
    assert table.ids.tolist() == ["001", "002"]
    assert list_columns(url, table="firms") == tuple(columns)
    for name, (_, _, expected) in columns.items():
        if expected is not None:
            np.testing.assert_array_equal(
                table.columns[name], np.array(expected, table.columns[name].dtype), err_msg=name
            )
    assert len([text for text in table.warnings if "is read as" in text]) == 2
    dated = read_table(url, "id", normaliser="text", table="firms", date_column="written", columns=["small"])
    assert dated.dates.astype(str).tolist() == ["2024-01-05", "2024-01-06"]


def test_types_that_are_no_features(server):
    kind, url = server
    for name, (sql_type, cell) in REFUSED[kind].items():
        fill(url, {"id": ("VARCHAR(9)", ["'a'"], None), name: (sql_type, [cell], None)})
        with pytest.raises(ColumnError, match=f"column '{name}' is of mixed or unusable type"):
            read_table(url, "id", normaliser="text", table="firms")
    if kind is postgres:
        fill(url, {"id": ("VARCHAR(9)", ["'a'"], None), "day": ("DATE", ["'infinity'"], None)})
        with pytest.raises(DataError, match="driver cannot convert a value"):
            read_table(url, "id", normaliser="text", table="firms")
