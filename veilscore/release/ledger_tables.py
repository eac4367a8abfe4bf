"""Tables of a holder's release ledger (`veilscore.release.ledger`) and how its SQLite file is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from veilscore.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

SCHEMA_VERSION = 1
_BUSY_S = 10.0

metadata = sa.MetaData()

META = sa.Table(
    "release_meta",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

# one row a batch, hold-out or single firm; firms are keyed hashes, 8 bytes each, ordered
RELEASES = sa.Table(
    "releases",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("bank", sa.String(80), nullable=False),
    sa.Column("reference", sa.String(160), nullable=False, unique=True),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("code_map", sa.String(64), nullable=False),
    sa.Column("firms", sa.LargeBinary, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Column("at_s", sa.Double, nullable=False, index=True),
)

TOKENS = sa.Table(
    "tokens",
    metadata,
    sa.Column("issuer", sa.String(80), primary_key=True),
    sa.Column("token", sa.String(32), primary_key=True),
    sa.Column("reference", sa.String(160), nullable=False),
    sa.Column("at_s", sa.Double, nullable=False),
)

# what a job was bound to at its first step: the model it names must stay that one
PINS = sa.Table(
    "pins",
    metadata,
    sa.Column("job_id", sa.String(80), primary_key=True),
    sa.Column("model", sa.String(64), nullable=False),
)

# statements made once: building one anew costs more than running it
NEWER = sa.select(RELEASES).where(RELEASES.c.number > sa.bindparam("seen")).order_by(RELEASES.c.number)
UNDER = sa.select(RELEASES.c.number).where(RELEASES.c.reference == sa.bindparam("reference"))
ADD = RELEASES.insert()
USED_BY = sa.select(TOKENS.c.reference).where(
    TOKENS.c.issuer == sa.bindparam("issuer"), TOKENS.c.token == sa.bindparam("token")
)
USE = TOKENS.insert()


def open_ledger_file(path: Path) -> Engine:
    """Engine on one SQLite file (mode 0600); StateError if it cannot be made."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StateError(f"release ledger {path} cannot be opened: {error.strerror}") from error
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S, "check_same_thread": False})
    sa.event.listen(engine, "connect", _configure)
    sa.event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin too late, and not IMMEDIATE
    # NORMAL survives the end of the process; a loss of power may drop the last entries, never damage the file
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
