"""Faults against real processes in short: 3 schedules (`make campaign-real` runs 100); a soak of a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soak
from conftest import ROOT

HERE = Path(__file__).parent


def run(script: str, *options: object) -> str:
    command = [sys.executable, HERE / script, *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.federation
def test_schedules_against_real_processes():
    assert "3 schedules" in run("real_campaign.py", "--schedules", 3, "--seed", 0)


@pytest.mark.slow
@pytest.mark.federation
def test_a_soak_serves_all_kinds_of_load(tmp_path):
    said = run("soak.py", "--hours", 0.02, "--out", tmp_path)
    for done in ("batches, done", "single scores, scored", "pages, 200"):
        assert done in said
    assert "did not run" not in said
    assert {path.name for path in tmp_path.iterdir()} >= {"report.md", "memory.svg", "disk.svg"}


def test_a_slope_has_bounds_that_hold_it():
    rng, t = np.random.default_rng(1), np.arange(0.0, 3600.0, 5.0)
    for per_hour in (0.0, 40.0):
        found = [
            soak.slope(list(zip(t.tolist(), (100 + per_hour * t / 3600 + noise).tolist(), strict=True)))
            for noise in rng.normal(0, 5, (20, t.size))
        ]
        assert sum(low <= per_hour <= high for _, low, high in found) >= 15
    assert soak.slope([(0.0, 1.0)]) is None
