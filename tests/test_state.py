"""The coordinator's state on SQLite: the contract, full disks, damaged and foreign files."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa
from state_contract import StateContract, add

from coordinator.state import State
from veilscore.errors import ConfigError, StateError


class TestSqlite(StateContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path / 'state.db'}"

    @pytest.fixture
    def state(self, url):
        state = State(url)
        yield state
        state.close()

    @pytest.fixture
    def reopen(self, url):
        return lambda: State(url)

    def test_settings(self, state):
        with state._transaction() as db:
            assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2

    def test_full_disk(self, state):
        @sa.event.listens_for(state._engine, "connect")
        def limit(connection, _record):
            connection.execute("PRAGMA max_page_count=30")

        state._engine.dispose()
        jobs = []

        def fill():
            for _ in range(10_000):
                jobs.append(add(state))  # noqa: PERF401 - what was added before the disk was full counts

        with pytest.raises(StateError, match=r"state\.db: disk full.*resume"):
            fill()
        assert {row.job_id for row in state.jobs()} >= set(jobs)

    def test_damaged_file(self, tmp_path):
        (tmp_path / "state.db").write_bytes(b"not a database, " * 1000)
        with pytest.raises(StateError, match="damaged"):
            State(f"sqlite:///{tmp_path / 'state.db'}")

    def test_missing_folder(self, tmp_path):
        with pytest.raises(StateError, match="cannot be opened"):
            State(f"sqlite:///{tmp_path / 'none' / 'state.db'}")

    def test_another_version(self, tmp_path, url):
        State(url).close()
        with sqlite3.connect(tmp_path / "state.db") as db:
            db.execute("UPDATE veilscore_meta SET version = 99")
        db.close()
        with pytest.raises(StateError, match="version 99"):
            State(url)


@pytest.mark.parametrize("url", ["nonsense", "nodialect://x"])
def test_bad_url(url):
    with pytest.raises(ConfigError, match="state_url"):
        State(url)


def test_password_is_not_shown():
    with pytest.raises(StateError) as caught:
        State("postgresql+psycopg://user:topsecret@127.0.0.1:1/db?connect_timeout=2")
    assert "topsecret" not in str(caught.value)
    assert "is the server running" in str(caught.value)
