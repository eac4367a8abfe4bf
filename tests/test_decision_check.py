"""`veilscore decision`: what it says of a decision before it is filed, and of one that is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from local_jobs import PARTIES
from test_cli_trust import trial, veilscore  # noqa: F401 - a fixture
from test_decision_model import ALARM
from written_models import file_capacity, filing

from veilscore.errors import ConfigError, RefusedError
from veilscore.models.decision_check import Measured, check
from veilscore.models.filed import load_model
from veilscore.models.hand_written import HandWritten
from veilscore.models.stability import load_expected
from veilscore.models.versions import roll_back
from veilscore.node.local import open_job
from veilscore.tasks.context import account_of
from veilscore.tasks.fixed_bins import load
from veilscore.terms.decision import DecisionModel
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import load_node_config

DECISION = {
    "name": "limit",
    "purpose": "proactive",
    "steps": [100_000, 500_000],
    "measures": {
        "capacity": {"model": "capacity", "cutoffs": [100_000, 500_000]},
        "room": {"column": "limit", "cutoffs": [0, 1]},
    },
    "knock_outs": [{"party": "registry", "column": "sector", "is": ["steel"]}],
}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Homes of all parties with a hand-written model and a decision over it, as a command finds them."""
    written = file_capacity(tmp_path_factory.mktemp("homes"))
    open_job(filing(DECISION), written.nodes, written.folder / "homes").run()
    for party in PARTIES:
        role = "bank" if party == "bank" else "holder"
        (written.folder / "homes" / party / "node.yaml").write_text(f"name: {party}\nrole: {role}\n")
    return written.folder / "homes"


@pytest.fixture(scope="module")
def capacity(homes):
    return load_model(homes / "bank" / "models" / "capacity" / "model.json", HandWritten)


def decision(cutoffs, **changes):
    measures = {"capacity": {"model": "capacity", "cutoffs": cutoffs}}
    return DecisionModel.model_validate({**DECISION, "measures": measures, **changes})


def said(found):
    return [(finding.text, finding.serious) for finding in found]


def test_cut_offs_that_no_total_reaches(capacity):
    low, high = capacity.extremes()
    assert capacity.score(np.array([high]))[0] == high * 1000
    found = check(decision([100_000, high * 1000 + 1]), {"capacity": Measured(capacity)})
    assert said(found) == [(f"no total reaches cut-off {high * 1000 + 1}: the highest is {high * 1000}", True)]
    assert not check(decision([100_000, high * 1000]), {"capacity": Measured(capacity)})
    found = check(decision([low * 1000 - 5, 100_000]), {"capacity": Measured(capacity)})
    assert said(found) == [(f"every total reaches cut-off {low * 1000 - 5}: the lowest is {low * 1000}", False)]
    found = check(decision([low * 1000 - 5, low * 1000]), {"capacity": Measured(capacity)})
    assert [finding.serious for finding in found] == [True]


def test_what_does_not_bind_on_the_hold_out(capacity):
    limits, counts = np.array([50.0, 100.0, 500.0]), np.array([0.0, 1.0, 60.0, 939.0])
    found = check(decision([50_000, 100_000]), {"capacity": Measured(capacity, limits, counts)})
    assert said(found) == [("it never binds: under 0.5% of the hold-out lies below its highest cut-off 100000", False)]
    found = check(decision([100_000, 400_000]), {"capacity": Measured(capacity, limits, counts)})
    assert not found
    rare = np.array([900.0, 99.0, 0.0, 1.0])
    found = check(decision([100_000, 500_000]), {"capacity": Measured(capacity, limits, rare)})
    assert said(found) == [("under 0.5% of the hold-out reaches cut-offs 100000, 500000", False)]


def test_models_and_units_that_do_not_fit(capacity):
    assert said(check(decision([1, 2]), {})) == [("model capacity is not filed at this bank", True)]
    (finding,) = check(decision([1, 9e9]), {"capacity": Measured(capacity)})
    assert finding.serious
    assert "totals have at most 8388607" in finding.text


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"limits": [2, 1], "counts": [1, 1, 1]}', '{"limits": [1], "counts": [1]}']
)
def test_damaged_counts(tmp_path, text):
    (tmp_path / "expected.json").write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        load_expected(tmp_path / "expected.json")
    assert load_expected(tmp_path / "absent.json") is None


# --- the command -----------------------------------------------------------------------------------------------------


def test_check(homes, tmp_path):
    file = tmp_path / "decision.yaml"
    file.write_text(yaml.safe_dump(DECISION))
    shown = veilscore("decision", "check", file, "--home", homes / "bank")
    assert "Every step can be reached, and every measure decides." in shown
    assert "proactive: none, 100000, 500000; tells 1.6 bits of a firm" in shown
    assert "is steel" in shown
    high = {**DECISION, "measures": {"capacity": {"model": "capacity", "cutoffs": [1, 8e9]}}}
    file.write_text(yaml.safe_dump(high))
    shown = veilscore("decision", "check", file, "--home", homes / "bank", exit_code=1)
    assert "measure capacity: cut-off 8e+09 is 8000000 units" not in shown
    assert "measure capacity: no total reaches cut-off 8000000000" in shown
    file.write_text(yaml.safe_dump({**DECISION, "steps": [2, 1]}))
    with pytest.raises(ConfigError, match=r"decision\.yaml: steps: out of order: 1 comes after 2"):
        veilscore("decision", "check", file, "--home", homes / "bank")


def test_a_watch_is_shown_as_one(homes, tmp_path):
    file = tmp_path / "alarm.yaml"
    file.write_text(
        yaml.safe_dump({**ALARM, "measures": {"risk": {"model": "capacity", "cutoffs": [200_000, 100_000]}}})
    )
    shown = veilscore("decision", "check", file, "--home", homes / "bank")
    assert "levels below these totals" in shown
    assert "tells 6.5 bits of a firm a contract year" in shown


def test_list_and_show(homes):
    for party in PARTIES:
        assert "limit" in veilscore("decision", "list", "--home", homes / party)
        shown = veilscore("decision", "show", "limit", "--home", homes / party)
        assert "hand-written" in shown
        assert "in use" in shown
    assert "hand-written" in veilscore("model", "list", "--home", homes / "bank")
    assert "decision" in veilscore("model", "list", "--home", homes / "bank")
    assert "hand-written in units of 1000" in veilscore("model", "show", "capacity", "--home", homes / "bank")
    with pytest.raises(ConfigError, match="limit is a decision: `veilscore decision show limit`"):
        veilscore("model", "show", "limit", "--home", homes / "bank")
    with pytest.raises(ConfigError, match="no decision 'capacity' is filed here"):
        veilscore("decision", "show", "capacity", "--home", homes / "bank")
    with pytest.raises(ConfigError, match="no version before the one in use"):
        roll_back(homes / "bank", "limit")
    with pytest.raises(ConfigError, match="hand-written: the file of its job says all of it"):
        veilscore("model", "export", "capacity", homes / "c.json", "--home", homes / "bank", "--format", "json")


def test_what_a_holder_publishes(trial):  # noqa: F811
    path = trial / "tax" / "node.yaml"
    content = yaml.safe_load(path.read_text())
    columns = ["vat_turnover", "absent"]
    with (trial.parent / "data" / "tax.csv").open() as file:
        columns[0] = file.readline().strip().split(",")[1]
    content["policy"]["publish_bins"] = columns
    path.write_text(yaml.safe_dump(content))
    veilscore("dataset", "publish", "main", "--home", trial / "tax")
    shown = veilscore("dataset", "show", trial / "tax" / "published" / "main.json", "--federation", trial)
    assert columns[0] in shown
    assert "Bins that points and knock-outs may be written for" in shown
    config, fixed = load_node_config(trial / "tax"), load(trial / "tax", "main")
    job = {"name": "x", "purpose": "credit", "task": "score_batch", "bank": "bank", "holders": ["tax"]}
    job |= {"datasets": {"bank": "main", "tax": "main"}, "parameters": {"model": "x"}}
    account = account_of(trial / "tax", config, parse_job(json.dumps(job)))
    assert account.knows(f"bins {fixed.hash[:16]}")
    veilscore("dataset", "publish", "main", "--home", trial / "tax")  # again, and not charged again
    assert "publication" in veilscore("account", "show", "--home", trial / "tax")


def test_a_bank_without_room_left_is_not_told(trial):  # noqa: F811
    path = trial / "tax" / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["policy"] |= {"publish_bins": ["x"], "privacy": {"job": 0.1, "year": 0.1}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RefusedError):
        veilscore("dataset", "publish", "main", "--home", trial / "tax")
    assert not (trial / "tax" / "published" / "main.json").exists()
