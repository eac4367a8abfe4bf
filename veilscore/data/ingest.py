"""Read one party's data set from CSV, Parquet or a database into a checked `Table`.

A CSV file carries no types, so a column's type is decided over the whole file: a number if every filled cell
is one, else a date if every one is, else a category (`text_columns`). What is in doubt is refused, and declared by
the owner (`ReadingRules`). Parquet, databases and data frames carry types; their text is read by the same forms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from veilscore.data.ingest_file import file_columns, read_file
from veilscore.data.table import Kind, SourceColumns, Table, checked_table
from veilscore.terms.reading import NOTHING_SAID, ReadingRules


def read_table(
    source: str | Path,
    id_column: str | tuple[str, str],
    label_column: str | None = None,
    *,
    columns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    weight_column: str | None = None,
    date_column: str | None = None,
    normaliser: str = "uscc",
    kinds: Mapping[str, Kind] | None = None,
    rules: ReadingRules = NOTHING_SAID,
    table: str | None = None,
    query: str | None = None,
) -> Table:
    """Read and check a data set.

    source : path of a CSV (perhaps in gzip), Parquet or Excel file, or an SQLAlchemy URL (with `table` or `query`).
    id_column, label_column, weight_column, date_column : columns that are no features; two id columns are those of
        firms at dates, and the second stands for date_column where that is not given.
    columns, exclude : feature columns to take (default: all others) and to leave out.
    normaliser : kind of id, see `veilscore.data.ids.NORMALISERS`.
    kinds : column -> "number" or "category", where known beforehand (`CodeMap.kinds` when scoring).
    rules : what the owner says of how columns are read (`DatasetConfig` is such); it goes before `kinds`.
    table, query : what to read from a database.
    Raises DataError and its children IdError, ColumnError, LabelError: with what to do; never with values of rows.
    """
    id_column, day_column = (id_column, None) if isinstance(id_column, str) else id_column
    selection = SourceColumns(
        id_column,
        label_column,
        weight_column,
        None if date_column == day_column else date_column,
        None if columns is None else tuple(columns),
        tuple(exclude),
        day_column,
    )
    if "://" in str(source):
        from veilscore.data.ingest_database import read_database  # noqa: PLC0415 (only banks with databases load it)

        name, read = read_database(str(source), selection, kinds or {}, rules, table=table, query=query)
    else:
        path = Path(source)
        name, read = path.name, read_file(path, selection, kinds or {}, rules)
    return checked_table(
        read.arrays[id_column],
        {feature: read.arrays[feature] for feature in read.features},
        {part: read.arrays[column] for part, column in selection.roles().items()},
        source=name,
        normaliser=normaliser,
        rules=rules,
        notes=read.notes,
    )


def list_columns(
    source: str | Path, *, rules: ReadingRules = NOTHING_SAID, table: str | None = None, query: str | None = None
) -> tuple[str, ...]:
    """Return the names of all columns of a data set, in order, without reading its rows (see `read_table`)."""
    if "://" in str(source):
        from veilscore.data.ingest_database import database_columns  # noqa: PLC0415 (as in `read_table`)

        return database_columns(str(source), table=table, query=query)
    return file_columns(Path(source), rules)
