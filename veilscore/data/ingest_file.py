"""Read CSV and Parquet files as typed arrays, through DuckDB; `veilscore.data.ingest` says how types are decided."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from veilscore.data.table import Column, Kind, SourceColumns
from veilscore.errors import ColumnError, DataError

MIXED_SHARE = 0.5  # share of numbers in a text column from which it counts as a number column with stray text
MISSING = ("", "NA", "N/A", "NULL", "null", "NaN", "nan")
_NUMERIC_TYPES = (
    "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
    "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN",
)  # fmt: skip
_DATE_TYPES = ("DATE", "TIMESTAMP")


def read_file(
    path: Path, selection: SourceColumns, kinds: Mapping[str, Kind]
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Return arrays by column name, and the names of the features, of a CSV or Parquet file."""
    with _opened(path) as database:
        return _read_relation(database, path, selection, kinds)


def file_columns(path: Path) -> tuple[str, ...]:
    """Return the names of all columns of a CSV or Parquet file, in order."""
    with _opened(path) as database:
        return tuple(_column_types(database, path))


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a database for reading a file that is there; what DuckDB says of it becomes DataError."""
    if not path.is_file():
        raise DataError(f"data file {path} does not exist; check the path in the configuration")
    if path.stat().st_size == 0:
        raise DataError(f"data file {path.name} is empty; export it again")
    with duckdb.connect() as database:
        try:
            yield database
        except duckdb.Error as error:
            raise DataError(f"data file {path.name} cannot be read: {_reason(error)}") from None


def _is_text(path: Path) -> bool:
    return not path.name.endswith((".parquet", ".pq"))


def _relation(path: Path) -> str:
    return csv_relation(path) if _is_text(path) else f"read_parquet({literal(str(path))})"


def _column_types(database: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    described = database.execute(f"DESCRIBE SELECT * FROM {_relation(path)}").fetchall()  # noqa: S608 (quoted)
    return {str(row[0]): str(row[1]) for row in described}


def _read_relation(
    database: duckdb.DuckDBPyConnection, path: Path, selection: SourceColumns, kinds: Mapping[str, Kind]
) -> tuple[dict[str, Column], tuple[str, ...]]:
    is_text, relation = _is_text(path), _relation(path)
    types = _column_types(database, path)
    features = selection.features(tuple(types), path.name)
    texts = [name for name in features if types[name] == "VARCHAR"]
    counts = _count_castable(database, relation, texts)
    parts = {
        name: _feature_sql(name, types[name], counts.get(name), kinds.get(name), is_text=is_text) for name in features
    }
    for name in (selection.label_column, selection.weight_column):
        if name is not None:
            parts[name] = _number_sql(database, relation, name, path.name)
    if selection.date_column is not None:
        parts[selection.date_column] = f"TRY_CAST({quoted(selection.date_column)} AS DATE)"
    parts[selection.id_column] = f"CAST({quoted(selection.id_column)} AS VARCHAR)"
    selected = ", ".join(f"{sql} AS c{index}" for index, sql in enumerate(parts.values()))
    fetched = database.execute(f"SELECT {selected} FROM {relation}").fetchnumpy()  # noqa: S608 (quoted by `quoted`)
    arrays = {name: _unmasked(fetched[f"c{index}"]) for index, name in enumerate(parts)}
    if not len(arrays[selection.id_column]):
        raise DataError(f"data file {path.name} has a header but no rows; export it again")
    return arrays, features


def csv_relation(path: Path) -> str:
    """Write SQL that reads a CSV file with every cell as text; only the separator is guessed.

    DuckDB's own detection may skip lines that it finds odd; a line of the wrong width must be an error.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        first = file.readline(1 << 20)  # a file of one endless line must not fill the memory
    try:
        header = first.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"data file {path.name} is not UTF-8; convert it, for instance from GB 18030") from None
    separator = max(",;\t|", key=header.count)
    names = next(csv.reader(io.StringIO(header), delimiter=separator), [])
    if not names or any(not name.strip() for name in names):
        raise ColumnError(f"data file {path.name} has a column without a name; its first line must name them all")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ColumnError(f"data file {path.name} has two columns named {repeated[0]!r}; rename one")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    missing = ", ".join(literal(text) for text in MISSING)
    return (
        f"read_csv({literal(str(path))}, auto_detect=false, header=true, delim={literal(separator)}, "
        f"quote='\"', escape='\"', columns={{{columns}}}, nullstr=[{missing}])"
    )


def quoted(name: str) -> str:
    """Quote a column name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def _cell(name: str) -> str:
    return f"NULLIF(TRIM({quoted(name)}), '')"


def _count_castable(
    database: duckdb.DuckDBPyConnection, relation: str, names: list[str]
) -> dict[str, tuple[int, int, int]]:
    """Count, for each text column, filled cells, those that are numbers, and those that are dates."""
    if not names:
        return {}
    parts = [
        f"COUNT({_cell(n)}), COUNT(TRY_CAST({_cell(n)} AS DOUBLE)), COUNT(TRY_CAST({_cell(n)} AS TIMESTAMP))"
        for n in names
    ]
    row: Any = database.execute(f"SELECT {', '.join(parts)} FROM {relation}").fetchone()  # noqa: S608 (quoted)
    return {name: (row[3 * i], row[3 * i + 1], row[3 * i + 2]) for i, name in enumerate(names)}


def _feature_sql(
    name: str, sql_type: str, counts: tuple[int, int, int] | None, kind: Kind | None, *, is_text: bool
) -> str:
    """Write the SQL expression that types one feature column."""
    if counts is None:
        if sql_type.partition("(")[0] in _NUMERIC_TYPES and not sql_type.endswith("]"):
            return f"CAST({quoted(name)} AS {'VARCHAR' if kind == 'category' else 'DOUBLE'})"
        if sql_type.startswith(_DATE_TYPES) and not sql_type.endswith("]"):
            return _days_sql(quoted(name))
        if sql_type.startswith("ENUM"):
            return f"CAST({quoted(name)} AS VARCHAR)"
        raise ColumnError(f"column {name!r} is of type {sql_type}, which is no feature; exclude it or cast it")
    n_filled, n_numbers, n_dates = counts
    if kind == "category":
        return _cell(name)
    if n_numbers == n_filled and (is_text or kind == "number"):
        return f"CAST({_cell(name)} AS DOUBLE)"
    if n_numbers < n_filled and (kind == "number" or n_numbers >= MIXED_SHARE * n_filled):
        raise ColumnError(
            f"column {name!r} is of mixed type: {n_numbers} of {n_filled} filled cells are numbers, the "
            f"others text; leave those cells empty, or declare its kind as 'category', or exclude it"
        )
    return _days_sql(f"CAST({_cell(name)} AS TIMESTAMP)") if is_text and n_dates == n_filled else _cell(name)


def _days_sql(expression: str) -> str:
    """Write SQL that gives days since 1970-01-01 as a number."""
    return f"epoch({expression}) / 86400.0"


def _number_sql(database: duckdb.DuckDBPyConnection, relation: str, name: str, source: str) -> str:
    """Write the SQL of a label or weight; a cell that is no number raises ColumnError."""
    text = f"NULLIF(TRIM(CAST({quoted(name)} AS VARCHAR)), '')"
    number = f"COALESCE(TRY_CAST({text} AS DOUBLE), CAST(TRY_CAST({text} AS BOOLEAN) AS DOUBLE))"
    row: Any = database.execute(f"SELECT COUNT({text}) - COUNT({number}) FROM {relation}").fetchone()  # noqa: S608
    if row[0]:
        raise ColumnError(f"column {name!r} of {source} is no number in {row[0]} rows; recode them")
    return number


def _unmasked(values: Any) -> Column:
    """Turn DuckDB's masked array into a plain one: NaN, NaT or None for missing."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    fill: Any = {"f": np.nan, "M": np.datetime64("NaT")}.get(values.dtype.kind)
    if values.dtype.kind == "O":
        plain = np.array(values.data, dtype=object)
        plain[np.ma.getmaskarray(values)] = None
        return plain
    return np.asarray(values.filled(fill))


def _reason(error: duckdb.Error) -> str:
    """Say where DuckDB stumbled, without the line itself that its message quotes."""
    text = str(error)
    line = re.search(r"Line: (\d+)", text)
    if "nicode" in text or "utf-8" in text.lower():
        return "it is not UTF-8; convert it, for instance from GB 18030"
    if line:
        return f"line {line[1]} does not have the columns that the first line names; correct or remove it"
    return f"{type(error).__name__}; check that the file is whole and of the type its name says"
