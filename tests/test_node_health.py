"""What an operator of a node is told to look at, each thing made to happen in a home."""

from __future__ import annotations

import datetime as dt
import shutil

import pytest
from trial_federation import make_homes

from veilscore.keys.identity import RECOVERY_FILE
from veilscore.node import health
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import load_node_config


@pytest.fixture
def home(tmp_path):
    make_homes(tmp_path)
    return tmp_path / "tax"


def told(home):
    config = load_node_config(home)
    found = health.findings(home, config, load_federation(config.federation))
    return {one.text % one.values: one.critical for one in found}


def test_a_home_in_order_says_only_that_no_node_runs(home):
    (home / "identity" / RECOVERY_FILE).unlink(missing_ok=True)
    assert told(home) == {"The node does not run: start it with `veilscore node start`.": True}


@pytest.mark.parametrize(("days", "critical"), [(29, False), (0, True), (40, None)])
def test_a_certificate_that_ends_soon(home, monkeypatch, days, critical):
    config = load_node_config(home)
    (certificate,) = load_federation(config.federation).history.accepted("tax", dt.datetime.now(dt.UTC).timestamp())

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return certificate.not_after.astimezone(tz) - dt.timedelta(days=days, hours=1)

    monkeypatch.setattr(health.dt, "datetime", Clock)
    assert told(home).get(f"The node's certificate expires in {days} days.") is critical


def test_a_full_disk_a_recovery_key_and_a_fork(home, monkeypatch):
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(health.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    (home / "identity" / RECOVERY_FILE).write_bytes(b"")
    forks = home / "evidence" / "forks"
    forks.mkdir(parents=True, exist_ok=True)
    (forks / "bank.json").write_text("{}")
    assert told(home) == {
        "The node does not run: start it with `veilscore node start`.": True,
        "Only 1000 of disk are free.": True,
        "The recovery key lies beside the key that it revokes: move it to a safe place.": False,
        "A party signed two histories: see evidence/forks in the home.": False,
    }
