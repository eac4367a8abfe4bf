"""What a holder released, counted by month, bank and kind in its ledger's file, without reading who the firms are."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from veilscore.files.sqlite_file import told
from veilscore.release.ledger import LEDGER


@dataclass(frozen=True)
class MonthOfReleases:
    """Openings to one bank of one kind (batch, online, watch, evaluation) within a month.

    openings : how many; firms : that were in them, each time counted.
    """

    month: str
    bank: str
    kind: str
    openings: int
    firms: int


_QUERY = """SELECT strftime('%Y-%m', at_s, 'unixepoch'), bank, kind, COUNT(*), SUM(LENGTH(firms) / 8) FROM releases
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""


def released_by_month(home: Path) -> tuple[MonthOfReleases, ...]:
    """Return all months in which something was released, the oldest first; StateError if the file cannot be read."""
    path = home / LEDGER
    if not path.is_file():
        return ()
    with (
        told(f"release ledger {path}", "restore it from backup"),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)) as db,
    ):
        return tuple(MonthOfReleases(*row) for row in db.execute(_QUERY))
