"""The story of docs/assistants.md, run as it stands."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT
from page_story import typed
from report_world import drawn_features, make_world

from party_bank.assistants.page import untraced_figures
from veilscore.data.simulate import firm_ids
from veilscore.reports.section_fields import section_fields
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import parse, parse_yaml

TEXT = (ROOT / "docs" / "assistants.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def trial(tmp_path, monkeypatch):
    firms = [str(one) for one in firm_ids(np.random.default_rng(5), 3)]
    world = make_world(tmp_path, firms)
    drawn_features(world)
    rows = [f"{firm},Firm {number},trade,north,li" for number, firm in enumerate(firms)]
    (tmp_path / "firms.csv").write_text("\n".join(["id,name,industry,region,manager", *rows]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return world


def test_the_story_runs(trial):
    said = {" ".join(words[:3]): text for words, text in typed(BLOCKS)}
    assert "3 fields for bank" in said["section write report.json"] or "2 fields" in said["section write report.json"]
    assert said["bank report take"].count("taken:") == 2
    assert re.search(r"[\d.]+ of 63 fields filled from sources", said["bank report write"])
    assert "3 firms" in said["bank report batch"]
    page = (trial.folder / "report.zh.html").read_text(encoding="utf-8")
    assert "开票销售额" in page
    assert untraced_figures(page) == untraced_figures((trial.folder / "after.html").read_text(encoding="utf-8")) == ()


def test_the_figures_of_the_page_are_those_of_the_fields():
    tax = section_fields().of_catalogue("tax")
    assert f"{len(section_fields().fields)} fields" in TEXT
    assert f"all {len(tax)} fields of a tax bureau tells up to {sum(one.bits for one in tax.values()):.0f}" in " ".join(
        TEXT.split()
    )
    (yaml,) = [text for kind, text in BLOCKS if kind == "yaml"]
    assert parse(NodeConfig, {"name": "bank", "role": "bank", **parse_yaml(yaml, "page")}, "page").language_model
