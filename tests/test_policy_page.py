"""The blocks of docs/policy.md are run, one after the other, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from test_policy_graphs import bank  # noqa: F401 - a fixture

from veilscore.terms.job import parse_job

TEXT = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
SHOW, TEST, GAP, PAST, ACTIVATE, DECIDE, PRICE, JOB, MINE = range(9)
CHURN = "annual_rate,churn_A,churn_B\n0.04,0,0\n0.06,0.2,0.1\n0.09,0.5,0.4\n"


@pytest.fixture
def folder(bank):  # noqa: F811
    rows = ["step,blacklisted,overdue_days,relationship_years,amount,default"]
    rows += [f"{k % 9},false,{k % 40},{k % 5 or ''},{1000 * k + 1},{'' if k % 3 else k % 2}" for k in range(60)]
    (bank / "past.csv").write_text("\n".join(rows))
    (bank / "churn.csv").write_text(CHURN)
    (bank / "wider").mkdir()
    return bank


def run(command, folder):
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # noqa: PTH120
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "COLUMNS": "220"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_the_page_shows_works_as_printed(folder):
    assert [language for language, _ in BLOCKS] == ["", "", "", "", "", "python", "", "yaml", ""]
    run(["sh", "-ec", BLOCKS[SHOW][1]], folder)
    said = run(["sh", "-ec", BLOCKS[TEST][1]], folder)
    assert BLOCKS[GAP][1].strip() in said
    assert said.endswith("refused\n")
    said = run(["sh", "-ec", BLOCKS[PAST][1]], folder)
    assert "40 of 60 firms have no outcome" in said
    assert "swapped in" in said
    assert "active: anna and bert" in run(["sh", "-ec", BLOCKS[ACTIVATE][1]], folder)
    said = run([sys.executable, "-c", BLOCKS[DECIDE][1]], folder)
    assert said.startswith("approve [('knock-outs', 3, ")
    assert "pricing.json: " in run(["sh", "-ec", BLOCKS[PRICE][1]], folder)
    assert parse_job(BLOCKS[JOB][1]).steps == ("align", "mine", "verify")
    assert BLOCKS[MINE][1].startswith("veilscore bank mining show ")  # tests/test_mining.py runs it after a job
