"""Makes the tables of a new book, and refuses one of another version; alembic is loaded only where tables change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from party_bank.book_tables import metadata
from veilscore.errors import ConfigError, StateError
from veilscore.files.database import open_engine, reason

VERSIONS = ("0001", "0002")  # in order; each is a file in migrations/versions
_TABLE = "book_version"
_LOCK = 0x766273  # of PostgreSQL: one process at a time makes the tables
_MIGRATIONS = Path(__file__).with_name("migrations")


def make_or_check(db: Connection, where: str) -> None:
    """Make the tables in an empty database; StateError for a book of another version or tables of something else."""
    if db.dialect.name == "postgresql":
        db.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = _version(db)
    if found is None:
        taken = sorted(set(sa.inspect(db).get_table_names()) & set(metadata.tables))
        if taken:
            raise StateError(f"{where} has a table {taken[0]} that is no book's: give the book a database of its own")
        _migrate(db)
    elif found not in VERSIONS:
        raise StateError(f"book {where} is of version {found[:40]}, newer than this program: install the newer one")
    elif found != VERSIONS[-1]:
        raise StateError(
            f"book {where} is of version {found}, older than this program: save it (`veilscore backup`), then run "
            "`veilscore bank book upgrade`"
        )


def upgrade(url: str) -> tuple[str, str]:
    """Bring an older book to this program's version and return both; a newer one is refused."""
    engine = open_engine(url, "book.url")
    where = engine.url.render_as_string(hide_password=True)
    try:
        with engine.begin() as db:
            before = _version(db) or ""
            if before and before not in VERSIONS:
                make_or_check(db, where)
            _migrate(db)
    except sa.exc.DBAPIError as error:
        raise StateError(f"book {where}: {reason(error)}") from error
    finally:
        engine.dispose()
    return before, VERSIONS[-1]


def _version(db: Connection) -> str | None:
    if not sa.inspect(db).has_table(_TABLE):
        return None
    found = db.execute(sa.text(f"SELECT version_num FROM {_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def _migrate(db: Connection) -> None:
    try:
        from alembic import command  # noqa: PLC0415 - an extra, and slow
        from alembic.config import Config  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"a book needs the package {error.name}: run `pip install 'veilscore[bank]'`") from error
    attributes: dict[str, Any] = {"connection": db, "version_table": _TABLE}
    config = Config(attributes=attributes)
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
