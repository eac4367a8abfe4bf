"""Whole jobs of decisions in one process: equal to the plain decision, files, refusals, what holders count."""

from __future__ import annotations

import json

import pytest
from finished_jobs import finished
from trial_decisions import consent, decide_job, decided, expected, file_decisions, run_locally
from trial_scoring import copy_of


@pytest.fixture(scope="module")
def filed(tmp_path_factory):
    """Homes with filed decisions, which no test changes."""
    folder = copy_of(finished(file_decisions), tmp_path_factory.mktemp("filed"))
    consent(folder, "proactive")
    return folder


def test_every_firm_gets_the_step_of_the_plain_decision(filed):
    run_locally(filed, decide_job("told", "proactive"))
    steps = expected(filed, "told")
    found = decided(filed)
    assert {firm: int(row["step"]) for firm, row in found.items()} == steps
    assert len(set(steps.values())) == 6
    assert {row["measure"] for row in found.values()} == {"capacity", "card", "risk", "bound"}
    print(json.dumps(sorted(steps.values())[::100]))
