"""State files of version 1, which had no version in them, are opened and marked; those of a newer program are not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from veilscore.errors import StateError
from veilscore.files.journal import Journal
from veilscore.files.sqlite_file import open_sqlite
from veilscore.release.account import FILE, Account, charged, held_jobs, voided
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.terms.privacy import PrivacyRules
from veilscore.wire.protocol import Charge

KEPT = Path(__file__).parent / "fixtures" / "state_1"
ANSWERED = "state/online.db"
BEGUN_S = 1_790_000_000.0


@pytest.fixture
def home(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    for file in (FILE, LEDGER, ANSWERED):
        with closing(sqlite3.connect(tmp_path / file)) as db:
            db.executescript((KEPT / f"{Path(file).stem}.sql").read_text())
            assert version(db) == 0
    return tmp_path


def version(db):
    return db.execute("PRAGMA user_version").fetchone()[0]


def test_kept_files_are_read_and_marked(home, monkeypatch):
    monkeypatch.setattr("time.time", lambda: BEGUN_S)
    assert charged(home / FILE) == {
        ("main", "bank", "job-1", "train", "1", "gradients"): Charge("gradients", "train", 0.01)
    }
    assert (held_jobs(home / FILE), voided(home / FILE)) == ({"job-1"}, {("main", "bank", "job-2")})
    with closing(ReleaseLedger(home / LEDGER)) as ledger:
        (release,) = ledger.releases(0)
        assert (release.reference, release.bits, release.firms.size) == ("job-3/score/1", 3.0, 2)
        assert sorted(ledger.firms(["firm 1", "firm 2"]).tolist()) == release.firms.tolist()
        assert ledger.token_used("portal", "t1", "another")
    with closing(Journal(home / ANSWERED)) as journal:
        assert journal.get("bank/r1") == (b"d" * 32, b"answer")
        assert (journal.unfinished(), journal.mark("bank")) == ([("bank/r1", b"answer", b"rest")], 7)
    for file in (FILE, LEDGER, ANSWERED):
        with closing(sqlite3.connect(home / file)) as db:
            assert version(db) == 1


def test_a_newer_file_is_refused(home):
    for file in (FILE, LEDGER, ANSWERED):
        with closing(sqlite3.connect(home / file)) as db:
            db.execute("PRAGMA user_version=2")
    account = Account(home / FILE, "main", "bank", PrivacyRules())
    for read in (account.lines, lambda: ReleaseLedger(home / LEDGER), lambda: Journal(home / ANSWERED)):
        with pytest.raises(StateError, match="is of version 2, and this program knows 1: it was written by a newer"):
            read()


def test_migrations_run_once_and_whole(home):
    added = "ALTER TABLE lines ADD COLUMN said TEXT NOT NULL DEFAULT 'x'"
    with pytest.raises(sqlite3.Error):
        open_sqlite(home / FILE, (), migrations=(added, "ALTER TABLE none ADD COLUMN said TEXT"))
    for migrations in ((added,), (added, "DELETE FROM held"), (added, "DELETE FROM held")):
        with closing(open_sqlite(home / FILE, (), migrations=migrations)) as db:
            assert db.execute("SELECT said FROM lines").fetchall() == [("x",)]
            assert version(db) == 1 + len(migrations)
    assert held_jobs_of(home) == 0


def held_jobs_of(home):
    with closing(sqlite3.connect(home / FILE)) as db:
        return db.execute("SELECT COUNT(*) FROM held").fetchone()[0]


def test_a_new_file_is_of_the_newest_version(tmp_path):
    tables = ("CREATE TABLE IF NOT EXISTS a (b TEXT, c TEXT)",)
    with closing(open_sqlite(tmp_path / "new.db", tables, migrations=("ALTER TABLE a ADD COLUMN c TEXT",))) as db:
        assert version(db) == 2
