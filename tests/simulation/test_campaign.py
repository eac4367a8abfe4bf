"""The fault campaign in short (`make campaign` runs more): schedules of jobs and of single scores, and old failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")
# seeds that failed, by what they found
ONCE_FAILED = {
    "a write that was cut off left its temporary file for ever": (1, 9, 25, 41, 69),
    "an answer to a job was kept and acted on, and the log lacked it": (122, 187, 264),
    "a job whose end met a full disk stayed `running`, and nobody worked on it": (26, 38, 61, 91),
    "a call that was cut off left a job's model unfiled until the next start": (1544, 1598),
}

SCORES_ONCE_FAILED = {
    "a loss of power took the table of what auditors need, and the bank did not start": (11,),
    "a kill came between the log and the ledger, which are written at once, and the holder did not start": (235,),
}

pytestmark = pytest.mark.slow


def run(*options: object) -> str:
    done = subprocess.run([sys.executable, CAMPAIGN, *map(str, options)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_schedules():
    said = run("--schedules", 120)
    for kind in ("disk full", "doubled", "loss of power", "torn journal", "clock jump", "partition", "kill at a turn"):
        assert kind in said


def test_schedules_that_once_failed():
    seeds = sorted(seed for found in ONCE_FAILED.values() for seed in found)
    assert f"{len(seeds)} schedules" in run("--only", *seeds)


def test_schedules_of_single_scores():
    said = run("--scores", "--schedules", 15, "--seed", 100)
    for kind in ("kill at a turn", "kill at an operation on disk", "connection lost with its answer"):
        assert kind in said


def test_schedules_of_single_scores_that_once_failed():
    seeds = sorted(seed for found in SCORES_ONCE_FAILED.values() for seed in found)
    assert f"{len(seeds)} schedules" in run("--scores", "--only", *seeds)
