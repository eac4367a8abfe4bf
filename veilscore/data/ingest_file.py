"""Read CSV, Parquet and Excel files as typed arrays, through DuckDB; `text_columns` says how text is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from veilscore.data import dates
from veilscore.data.excel_file import sheet_as_csv
from veilscore.data.table import Column, Kind, ReadColumns, SourceColumns
from veilscore.data.text_columns import TextSource, open_database, plain_column, quoted, read_texts
from veilscore.data.text_file import check_names, csv_relation, file_literal, form_of, plain_text
from veilscore.errors import ColumnError, DataError, IdError
from veilscore.terms.reading import ReadingRules

_WHOLE_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
                "UHUGEINT")  # fmt: skip
_NUMERIC_TYPES = (*_WHOLE_TYPES, "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")
_DATE_TYPES = ("DATE", "TIMESTAMP")
_LONGEST_LINE = 2_000_000  # bytes, DuckDB's bound; a missing quote makes one line of the rest of a file


def read_file(path: Path, selection: SourceColumns, expected: Mapping[str, Kind], rules: ReadingRules) -> ReadColumns:
    """Read a CSV, Parquet or Excel file; `expected` has the kinds of columns that a model was trained on."""
    with opened(path, rules) as source:
        return _read_relation(replace(source, expected=expected), selection)


def file_columns(path: Path, rules: ReadingRules) -> tuple[str, ...]:
    """Return the names of all columns of a file, in order."""
    with opened(path, rules) as source:
        return tuple(column_types(source))


@contextmanager
def opened(path: Path, rules: ReadingRules) -> Iterator[TextSource]:
    """Yield a file that is there as what SQL reads; what DuckDB says of it becomes DataError."""
    if not path.is_file():
        raise DataError(f"data file {path} does not exist; check the path in the configuration")
    if path.stat().st_size == 0:
        raise DataError(f"data file {path.name} is empty; export it again")
    form = form_of(path)
    with open_database(rules.zone) as database:
        try:
            if form == "parquet":
                _check_parquet_names(database, path)
                relation = f"read_parquet({file_literal(path)}, hive_partitioning=false)"
                yield TextSource(database, relation, path.name, rules, has_types=True)
            else:
                text = sheet_as_csv(path, rules.sheet) if form == "zip" else plain_text(path, rules.encoding)
                with text as plain:
                    yield TextSource(database, csv_relation(plain, path.name), path.name, rules)
        except duckdb.Error as error:
            raise DataError(f"data file {path.name} cannot be read: {_reason(error)}") from None


def column_types(source: TextSource) -> dict[str, str]:
    """Return the SQL type of every column, in order."""
    described = source.database.execute(f"DESCRIBE SELECT * FROM {source.relation}").fetchall()  # noqa: S608 (quoted)
    return {str(row[0]): str(row[1]) for row in described}


def _check_parquet_names(database: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse names that differ in case alone, which DuckDB would rename without a word."""
    rows = database.execute(f"SELECT name, num_children FROM parquet_schema({file_literal(path)})").fetchall()  # noqa: S608
    names, nested = [], 0
    for name, children in rows[1:]:
        if nested:
            nested += int(children or 0) - 1
        else:
            names.append(str(name))
            nested = int(children or 0)
    check_names(names, f"data file {path.name}")


def _read_relation(source: TextSource, selection: SourceColumns) -> ReadColumns:
    types = column_types(source)
    features = selection.features(tuple(types), source.name, source.rules)
    roles = {selection.weight_column: "number", selection.date_column: "date", selection.day_column: "date"}
    asked = {name: kind for name, kind in roles.items() if name is not None}
    rules = source.rules.model_copy(update={"kinds": {**source.rules.kinds, **asked}})
    texts = replace(source, rules=rules, lenient=frozenset(asked))
    parts, notes = column_parts(texts, {name: types[name] for name in (*features, *asked)})
    if selection.label_column is not None:
        parts[selection.label_column] = _label_sql(source, selection.label_column)
    parts[selection.id_column] = _id_sql(selection.id_column, types[selection.id_column], source.name)
    arrays = fetch(source, parts)
    if not len(arrays[selection.id_column]):
        raise DataError(f"data file {source.name} has a header but no rows; export it again")
    return ReadColumns(arrays, features, notes)


def fetch(source: TextSource, parts: Mapping[str, str]) -> dict[str, Column]:
    """Return the values of SQL expressions over all rows, by name."""
    selected = ", ".join(f"{sql} AS c{index}" for index, sql in enumerate(parts.values()))
    fetched = source.database.execute(f"SELECT {selected} FROM {source.relation}").fetchnumpy()  # noqa: S608 (quoted)
    return {name: plain_column(fetched[f"c{index}"]) for index, name in enumerate(parts)}


def column_parts(source: TextSource, types: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the SQL of every column's values, and notes on how they are read."""
    numbers = {
        name: kind for name, kind in types.items() if kind.partition("(")[0] in _NUMERIC_TYPES and kind[-1] != "]"
    }
    dated = [name for name in numbers if source.kind(name) == "date"]
    if dated:  # 20240105 and Excel's serial days as numbers: their digits are read as text would be
        cast = ", ".join(f"CAST(CAST({quoted(name)} AS BIGINT) AS VARCHAR) AS {quoted(name)}" for name in dated)
        source = replace(source, relation=f"(SELECT * REPLACE ({cast}) FROM {source.relation})")  # noqa: S608
    texts = [name for name, kind in types.items() if kind == "VARCHAR" or name in dated]
    readings = read_texts(source, texts)
    parts = {
        name: readings[name].sql if name in readings else _typed_sql(name, kind, source.kind(name))
        for name, kind in types.items()
    }
    parts = {name: f"({sql})" for name, sql in parts.items()}
    return parts, tuple(reading.note for reading in readings.values() if reading.note)


def _typed_sql(name: str, sql_type: str, kind: str | None) -> str:
    """Write SQL of a column whose type the source knows."""
    plain, column = sql_type.partition("(")[0], quoted(name)
    nested = sql_type.endswith("]")
    if plain in _NUMERIC_TYPES and not nested:
        if kind != "category":
            return f"CAST({column} AS DOUBLE)"
        if plain in {"FLOAT", "DOUBLE"}:  # 3 and 3.0 are the same level
            whole = f"{column} = floor({column}) AND abs({column}) < 1e15"
            return (
                f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
            )
        return f"CAST({column} AS VARCHAR)"
    if sql_type.startswith(_DATE_TYPES) and not nested:
        return f"CAST({column} AS VARCHAR)" if kind == "category" else dates.days_sql(f"CAST({column} AS TIMESTAMP)")
    if sql_type.startswith("ENUM"):
        return f"CAST({column} AS VARCHAR)"
    if sql_type.strip('"') == "NULL":
        return "CAST(NULL AS DOUBLE)"
    raise ColumnError(f"column {name!r} is of type {sql_type}, which is no feature; exclude it or cast it")


def _id_sql(name: str, sql_type: str, source: str) -> str:
    scale = re.fullmatch(r"DECIMAL\(\d+,(\d+)\)", sql_type)
    if sql_type in {"FLOAT", "DOUBLE"} or (scale and scale[1] != "0"):
        raise IdError(
            f"ids of {source} are decimal numbers, so digits may be lost already; store the id column as text"
        )
    return f"CAST({quoted(name)} AS VARCHAR)"


def _label_sql(source: TextSource, name: str) -> str:
    """Write the SQL of a label; a cell that is no number and no truth value raises ColumnError."""
    text = f"NULLIF(TRIM(CAST({quoted(name)} AS VARCHAR)), '')"
    plain = f"CASE WHEN contains({text}, '_') THEN NULL ELSE TRY_CAST({text} AS DOUBLE) END"
    number = f"COALESCE({plain}, CAST(TRY_CAST({text} AS BOOLEAN) AS DOUBLE))"
    (wrong,) = source.ask([f"COUNT({text}) - COUNT({number})"])
    if wrong:
        raise ColumnError(f"column {name!r} of {source.name} is no number in {wrong} rows; recode them")
    return number


def _reason(error: duckdb.Error) -> str:
    """Say where DuckDB stumbled, without the line itself that its message quotes."""
    text = str(error)
    line = re.search(r"Line: (\d+)", text)
    if "nicode" in text or "utf-8" in text.lower():
        return "it is not UTF-8; convert it, for instance from GB 18030, or declare its encoding (encoding: gb18030)"
    if line and "aximum line size" in text:
        most = f"{_LONGEST_LINE // 1_000_000} MB"
        return f"line {line[1]} is longer than {most}; a closing quote is missing, or a cell is too large"
    if line:
        return f"line {line[1]} does not have the columns that the first line names; correct or remove it"
    return "check that the file is whole and of the type its name says"
