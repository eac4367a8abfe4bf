"""Keeps apart databases of the coordinator's state that other versions of this program wrote."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from coordinator.state_tables import META, SCHEMA_VERSION
from veilscore.errors import StateError


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
