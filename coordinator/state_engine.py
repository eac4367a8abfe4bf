"""Opens the database of the coordinator's state, and says what its errors mean."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from coordinator.state_tables import META, SCHEMA_VERSION
from veilscore.errors import ConfigError, StateError

_BUSY_S = 10.0


def open_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL; ConfigError if the URL or its driver cannot be used."""
    try:
        parsed = sa.engine.make_url(url)
        arguments: dict[str, Any] = {"timeout": _BUSY_S} if parsed.get_backend_name() == "sqlite" else {}
        if parsed.get_backend_name() == "postgresql":
            arguments = {"connect_timeout": int(_BUSY_S)}
        engine = sa.create_engine(parsed, connect_args=arguments, pool_pre_ping=True)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(
            "state_url is not a usable SQLAlchemy URL (sqlite:///... or postgresql+psycopg://...)"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"state_url needs the package {error.name}; install veilscore[postgres]") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin too late, and not IMMEDIATE
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def check_version(db: Connection, where: str) -> None:
    """Mark a new database with this version; refuse another one."""
    version = db.execute(sa.select(META.c.version)).scalar()
    if version is None:
        db.execute(META.insert().values(version=SCHEMA_VERSION))
    elif version != SCHEMA_VERSION:
        raise StateError(
            f"coordinator state {where} is of version {version}, this program needs {SCHEMA_VERSION}: "
            "use the program that wrote it, or an empty database"
        )


def reason(error: sa.exc.DBAPIError) -> str:
    """Say what went wrong and what to do, without statement or parameters."""
    text = str(error.orig)
    if getattr(error.orig, "sqlstate", None) == "53100" or "disk is full" in text or "No space left" in text:
        return "disk full or over quota; free space, then resume the job"
    if "readonly" in text or "unable to open" in text:
        return "cannot be opened for writing; check folder, owner and mode"
    if "locked" in text:
        return "locked by another process; is a second coordinator running on it?"
    if "malformed" in text or "not a database" in text:
        return "the file is damaged; restore it from a backup"
    return f"database error ({type(error.orig).__name__}); is the server running, and may this user write?"
