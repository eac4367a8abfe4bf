"""Read database tables and queries as typed arrays, through SQLAlchemy, a chunk of rows at a time.

The rows come through a server-side cursor; each chunk becomes arrays before the next is fetched, so Python
objects of `CHUNK_ROWS` rows at most exist at once. Passwords in the URL stay out of names and messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from veilscore.data.table import Column, Kind, ReadColumns, SourceColumns, kind_of, typed_column, typed_columns
from veilscore.errors import ColumnError, DataError
from veilscore.terms.reading import ReadingRules

CHUNK_ROWS = 50_000


def read_database(
    url: str,
    selection: SourceColumns,
    expected: Mapping[str, Kind],
    rules: ReadingRules,
    *,
    table: str | None,
    query: str | None,
) -> tuple[str, ReadColumns]:
    """Return the name of the source and its columns.

    expected : kinds of columns that a model was trained on.
    rules : what the owner says of how columns are read.
    table, query : exactly one: a table ("name" or "schema.name") or a SELECT statement of the owner.
    """
    with _opened(url, table, query) as (name, engine):
        return name, _read(engine, selection, expected, rules, name, _statement(table, query))


def database_columns(url: str, *, table: str | None, query: str | None) -> tuple[str, ...]:
    """Return the names of all columns of a table or query, in order."""
    with (
        _opened(url, table, query) as (_, engine),
        engine.connect().execution_options(stream_results=True) as connection,
        connection.execute(_statement(table, query)) as result,
    ):
        return tuple(result.keys())


@contextmanager
def _opened(url: str, table: str | None, query: str | None) -> Iterator[tuple[str, sa.Engine]]:
    """Yield the name of the source and its engine; what the database says becomes DataError."""
    if (table is None) == (query is None):
        raise DataError("a database source needs either a table or a query; name exactly one")
    try:
        engine = sa.create_engine(url)
    except ModuleNotFoundError as error:
        raise DataError(f"the database driver {error.name!r} is not installed; install it") from None
    except SQLAlchemyError:
        raise DataError("the database URL cannot be understood; write dialect://user@host/database") from None
    name = f"{engine.url.render_as_string(hide_password=True)} {table or 'query'}"
    try:
        yield name, engine
    except (OperationalError, ProgrammingError) as error:
        raise DataError(f"{name} cannot be read: {str(error.orig).strip().splitlines()[0]}") from None
    except SQLAlchemyError:
        raise DataError(
            f"{name} cannot be read: its driver cannot convert a value, or the connection broke; cast the column "
            "in a query"
        ) from None
    finally:
        engine.dispose()


def _statement(table: str | None, query: str | None) -> sa.Executable:
    if table is None:
        return sa.text(str(query))
    schema, _, bare = table.rpartition(".")
    return sa.select(sa.text("*")).select_from(sa.table(bare, schema=schema or None))


def _read(
    engine: sa.Engine,
    selection: SourceColumns,
    expected: Mapping[str, Kind],
    rules: ReadingRules,
    source: str,
    statement: sa.Executable,
) -> ReadColumns:
    with engine.connect().execution_options(stream_results=True, max_row_buffer=CHUNK_ROWS) as connection:
        result = connection.execute(statement)
        available = tuple(result.keys())
        repeated = sorted({name for name in available if available.count(name) > 1})
        if repeated:
            raise ColumnError(f"{source} has two columns named {repeated[0]!r}; rename one in the query")
        features = selection.features(available, source, rules)
        names = (*features, selection.id_column, *selection.roles().values())
        # ids are text although they may look like numbers, whose leading zeros would go
        levels = {name for name in names if (rules.kinds.get(name) or expected.get(name)) == "category"}
        levels.add(selection.id_column)
        positions = [available.index(name) for name in names]
        chunks = list(_typed_chunks(result.partitions(CHUNK_ROWS), names, positions, levels, rules.zone))
    if not chunks:
        raise DataError(f"{source} has no rows; check the table or the query")
    columns = {name: _joined(name, [chunk[name] for chunk in chunks]) for name in names}
    asked = {selection.weight_column: "number", selection.date_column: "date", selection.day_column: "date"}
    kinds = {**rules.kinds, **{name: kind for name, kind in asked.items() if name is not None}}
    roles = {selection.id_column, selection.label_column} - {None}
    read, notes = typed_columns(
        {name: values for name, values in columns.items() if name not in roles},
        expected,
        rules.model_copy(update={"kinds": kinds}),
        source,
    )
    return ReadColumns({**columns, **read}, features, notes)


def _typed_chunks(
    partitions: Iterator[Sequence[Any]],
    names: Sequence[str],
    positions: Sequence[int],
    levels: AbstractSet[str],
    zone: str,
) -> Iterator[dict[str, Column]]:
    known: dict[str, dict[Any, Any]] = {name: {} for name in names}
    for rows in partitions:
        cells = list(zip(*rows, strict=True))
        chunk = {}
        for name, position in zip(names, positions, strict=True):
            cells_of = np.fromiter(cells[position], object, len(rows))
            values = typed_column(name, cells_of, "category" if name in levels else None, zone)
            if kind_of(values) == "category":
                # one object per level, not per row: text columns repeat
                seen = known[name]
                values = np.fromiter((seen.setdefault(cell, cell) for cell in values), object, len(values))
            chunk[name] = values
        yield chunk


def _joined(name: str, parts: list[Column]) -> Column:
    """Join the chunks of one column; a chunk without any filled cell fits either kind."""
    kinds = {kind_of(part) for part in parts if not _is_empty(part)}
    if len(kinds) > 1:
        raise ColumnError(
            f"column {name!r} is of mixed type: numbers in some rows, text in others; cast it in the query, "
            f"declare its kind as 'category', or exclude it"
        )
    if kinds == {"category"}:
        parts = [np.full(len(part), None, dtype=object) if _is_empty(part) else part for part in parts]
    return np.concatenate(parts)


def _is_empty(part: Column) -> bool:
    return kind_of(part) == "number" and bool(np.isnan(part).all())
