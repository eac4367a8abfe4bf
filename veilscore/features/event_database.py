"""Copy an event table of a database into DuckDB, a chunk of rows at a time, through SQLAlchemy."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from veilscore.data.text_columns import quoted
from veilscore.errors import DataError

_CHUNK_ROWS = 50_000


def copy_table(database: duckdb.DuckDBPyConnection, url: str, name: str, label: str) -> str:
    """Copy a table ("name" or "schema.name") of a database and return the name of the copy.

    label : what the table is to the user, for errors. Raises DataError where it cannot be read.
    """
    schema, _, bare = name.rpartition(".")
    try:
        engine = sa.create_engine(url)
    except ModuleNotFoundError as error:
        raise DataError(f"{label}: the database driver {error.name!r} is not installed; install it") from None
    except SQLAlchemyError:
        raise DataError(f"{label}: the database URL cannot be understood; write dialect://user@host/database") from None
    try:
        table = sa.Table(bare, sa.MetaData(), schema=schema or None, autoload_with=engine)
        with engine.connect().execution_options(stream_results=True, yield_per=_CHUNK_ROWS) as connection:
            return _copy(
                database, connection.execute(sa.select(table)), [column.name for column in table.columns], table
            )
    except (OperationalError, ProgrammingError) as error:
        raise DataError(f"{label}: {name} cannot be read: {str(error.orig).strip().splitlines()[0]}") from None
    except SQLAlchemyError as error:
        raise DataError(f"{label}: {name} cannot be read: {type(error).__name__}; check that it exists") from None
    finally:
        engine.dispose()


def _copy(database: duckdb.DuckDBPyConnection, result: Any, names: list[str], table: sa.Table) -> str:
    copy = f"source_{len(database.execute('SHOW TABLES').fetchall())}"
    types = [_duckdb_type(column.type) for column in table.columns]
    shown = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(names, types, strict=True))
    database.execute(f"CREATE TABLE {copy} ({shown})")
    for rows in result.partitions(_CHUNK_ROWS):
        columns = {f"c{i}": _array(values) for i, values in enumerate(zip(*rows, strict=True))}
        database.register("chunk", columns)
        casts = ", ".join(f"CAST(c{i} AS {kind})" for i, kind in enumerate(types))
        database.execute(f"INSERT INTO {copy} SELECT {casts} FROM chunk")
        database.unregister("chunk")
    return copy


def _duckdb_type(kind: sa.types.TypeEngine[Any]) -> str:
    for family, name in (
        (sa.Boolean, "BOOLEAN"),
        (sa.Integer, "BIGINT"),
        (sa.Numeric, "DOUBLE"),
        (sa.DateTime, "TIMESTAMP WITH TIME ZONE" if getattr(kind, "timezone", False) else "TIMESTAMP"),
        (sa.Date, "DATE"),
    ):
        if isinstance(kind, family):
            return name
    return "VARCHAR"


def _array(values: tuple[Any, ...]) -> Any:
    """Return cells as texts that DuckDB casts to the column's type; None where they are NULL."""
    found = np.empty(len(values), dtype=object)
    found[:] = [None if v is None else format(v, "f") if isinstance(v, Decimal) else str(v) for v in values]
    return found
