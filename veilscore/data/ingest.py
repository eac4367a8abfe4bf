"""Read one party's data set from CSV, Parquet or a database into a checked `Table`.

A CSV file carries no types, so a column's type is decided over the whole file: a number if every filled cell
is one, else a date if every one is, else a category. Where at least half of the filled cells of a text
column are numbers, but not all, the column is refused as mixed: it is more often a number column with stray
text than a category, and one cell must not turn turnover into text. Declare `kinds={"column": "category"}` to
keep it.
Parquet and databases carry types; the same refusal holds for their text columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from veilscore.data.ingest_file import file_columns, read_file
from veilscore.data.table import Kind, SourceColumns, Table, make_table


def read_table(
    source: str | Path,
    id_column: str,
    label_column: str | None = None,
    *,
    columns: Collection[str] | None = None,
    exclude: Collection[str] = (),
    weight_column: str | None = None,
    date_column: str | None = None,
    normaliser: str = "uscc",
    kinds: Mapping[str, Kind] | None = None,
    table: str | None = None,
    query: str | None = None,
) -> Table:
    """Read and check a data set.

    source : path of a .csv, .tsv, .csv.gz or .parquet file, or an SQLAlchemy URL (with `table` or `query`).
    id_column, label_column, weight_column, date_column : columns that are no features.
    columns, exclude : feature columns to take (default: all others) and to leave out.
    normaliser : kind of id, see `veilscore.data.ids.NORMALISERS`.
    kinds : column -> "number" or "category", where known beforehand (`CodeMap.kinds` when scoring).
    table, query : what to read from a database.
    Raises DataError and its children IdError, ColumnError, LabelError: with what to do; never with values of rows.
    """
    selection = SourceColumns(
        id_column, label_column, weight_column, date_column, None if columns is None else tuple(columns), tuple(exclude)
    )
    if "://" in str(source):
        from veilscore.data.ingest_database import read_database  # noqa: PLC0415 (only banks with databases load it)

        name, arrays, features = read_database(str(source), selection, kinds or {}, table=table, query=query)
    else:
        path = Path(source)
        name, (arrays, features) = path.name, read_file(path, selection, kinds or {})
    return make_table(
        arrays[id_column],
        {feature: arrays[feature] for feature in features},
        **{part: arrays[column] for part, column in selection.roles().items()},
        source=name,
        normaliser=normaliser,
        kinds=kinds,
    )


def list_columns(source: str | Path, *, table: str | None = None, query: str | None = None) -> tuple[str, ...]:
    """Return the names of all columns of a data set, in order, without reading its rows (see `read_table`)."""
    if "://" in str(source):
        from veilscore.data.ingest_database import database_columns  # noqa: PLC0415 (as in `read_table`)

        return database_columns(str(source), table=table, query=query)
    return file_columns(Path(source))
