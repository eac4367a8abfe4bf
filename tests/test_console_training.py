"""A modeller's day in Chromium on real nodes and data: submit a training, see it end, open the report and the model."""

from __future__ import annotations

import re

import pytest
from browsing import SitesOnNodes, launched, shot, visiting
from conftest import ROOT
from console_visits import with_people
from trial_federation import PARTIES
from trial_scoring import TRAIN

from veilscore.data.simulate import simulate
from veilscore.node.founding import DataFiles, found_federation

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]
SHOTS = ROOT / "build" / "console"


class Lab(SitesOnNodes):
    """Nodes of a federation with simulated firms, and the bank's console."""

    shots, parties = SHOTS, ("bank",)

    def __init__(self, folder):
        simulate(1800, 7, folder / "data")
        found_federation(folder, PARTIES, data=DataFiles(folder / "data"), exact=True)
        people = {"mo": ["modeller"], "mia": ["modeller"], "ada": ["auditor"]}
        self.homes = with_people(folder / "bank", people, per_minute=100_000).parent


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")).running() as opened:
        yield opened


@pytest.fixture(scope="module")
def chromium(lab):
    with launched(lab, SHOTS) as browser:
        yield browser


def test_a_modeller_trains_and_opens_the_report(lab, chromium):
    with visiting(chromium, lab, "bank", "mo") as page:
        page.goto("/jobs/new")
        page.get_by_label("The job, as YAML").fill(TRAIN)
        page.get_by_role("button", name="Show the plan").click()
        assert page.get_by_role("heading", name="Plan of firms").is_visible()
        page.get_by_role("button", name="Submit this job").click()
        page.wait_for_url(re.compile(r"/jobs/firms-.*done=submitted$"))
        job = page.url.rpartition("/")[2].partition("?")[0]
        page.wait_for_selector("h1 .badge.done", timeout=120_000)  # by the events, without a click
        page.goto(f"/jobs/{job}")
        assert page.get_by_text("kept at every party").get_attribute("href") is None, "receipts are no modeller's page"
        shot(page, SHOTS / "job-trained.png")
        page.get_by_role("link", name=re.compile("report", re.IGNORECASE)).first.click()
        page.wait_for_url(f"**/jobs/{job}/report")
        assert "AUC" in page.inner_text("body")
        page.screenshot(path=SHOTS / "job-report.png")
        page.goto("/models/firms")
        assert job in page.inner_text("main")
        shot(page, SHOTS / "model.png")
    with visiting(chromium, lab, "bank", "mia") as page:
        assert page.goto(f"/jobs/{job}/report").status == 422, "it is another modeller's"
    with visiting(chromium, lab, "bank", "ada") as page:
        assert page.goto(f"/jobs/{job}/report").status == 200
        page.goto(f"/jobs/{job}")
        page.get_by_role("link", name="kept at every party").click()
        assert page.get_by_role("heading", name="It holds, and proves").is_visible()
