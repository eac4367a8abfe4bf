"""Opens a database by its SQLAlchemy URL, SQLite or PostgreSQL, and says what its errors mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from veilscore.errors import ConfigError

READS = {"veilscore_reads": True}  # of an engine's or connection's execution options: its transactions only read
_BUSY_S = 10.0


def open_engine(url: str, key: str) -> Engine:
    """Return an engine whose transactions on SQLite begin IMMEDIATE, with full sync and a file of mode 0600.

    With the options `READS` a transaction takes no lock: readers wait for nobody and hold up nobody, see one state, and
    are refused what would change it.
    key : of the configuration, for errors; ConfigError if the URL or its driver cannot be used.
    """
    try:
        parsed = sa.engine.make_url(url)
        arguments: dict[str, Any] = {"timeout": _BUSY_S} if parsed.get_backend_name() == "sqlite" else {}
        if parsed.get_backend_name() == "postgresql":
            arguments = {"connect_timeout": int(_BUSY_S)}
        served = parsed.get_backend_name() != "sqlite"  # a server may have closed a connection, a file does not
        engine = sa.create_engine(parsed, connect_args=arguments, pool_pre_ping=served)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(
            f"{key} is not a usable SQLAlchemy URL (sqlite:///... or postgresql+psycopg://...)"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key} needs the package {error.name}; install veilscore[postgres]") from error
    if engine.dialect.name == "sqlite":
        if parsed.database and Path(parsed.database).parent.is_dir() and not Path(parsed.database).exists():
            os.close(os.open(parsed.database, os.O_CREAT | os.O_RDWR, 0o600))
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _reads(db: Connection) -> bool:
    return READS.items() <= db.get_execution_options().items()


def _begin_sqlite(db: Connection) -> None:
    db.exec_driver_sql(f"PRAGMA query_only={'ON' if _reads(db) else 'OFF'}")  # of the connection, which is used again
    db.exec_driver_sql("BEGIN" if _reads(db) else "BEGIN IMMEDIATE")


def _begin_postgresql(db: Connection) -> None:
    if _reads(db):  # by itself each statement would see what was committed before it
        db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin too late, and not IMMEDIATE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def reason(error: sa.exc.DBAPIError) -> str:
    """Say what went wrong and what to do, without statement or parameters."""
    text = str(error.orig)
    if getattr(error.orig, "sqlstate", None) == "53100" or "disk is full" in text or "No space left" in text:
        return "disk full or over quota; free space, then repeat what was not done (a job: resume it)"
    if "readonly" in text or "unable to open" in text:
        return "cannot be opened for writing; check folder, owner and mode"
    if "locked" in text:
        return "locked by another process; see which one runs on it, and try again"
    if "malformed" in text or "not a database" in text:
        return "the file is damaged; restore it from a backup"
    return f"database error ({type(error.orig).__name__}); is the server running, and may this user write?"
