"""A decision is filed at all parties as one file, with the versions of its models; what does not fit is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_jobs import HOLDERS, PARTIES, job
from test_parsers import few
from written_models import PUBLISH, Written, capacity, file_capacity, filing

from veilscore.data.ingest import read_table
from veilscore.errors import ConfigError, MessageError, RefusedError
from veilscore.evidence.filings import made_for
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.decided import (
    FiledDecision,
    Pins,
    bank_bound,
    bank_columns,
    kind_filed,
    load_decision,
    map_file,
    model_file,
)
from veilscore.models.filed import load_model
from veilscore.models.hand_written import WrittenPart
from veilscore.models.versions import roll_back, versions
from veilscore.node.local import open_job
from veilscore.tasks.context import load_code_map
from veilscore.tasks.table import answer_to
from veilscore.terms.decision import DecisionModel

CAUTION = {"unit": 1, "columns": {"registry": {"flag": {"edges": [0], "points": [10, 0]}}}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Homes with two hand-written models: capacity, of all parties, and caution, of the registry alone."""
    written = file_capacity(tmp_path_factory.mktemp("base"))
    caution = job("write_model", name="caution", holders=("registry",), **CAUTION)
    open_job(caution, written.nodes, written.folder / "homes").run()
    return written


@pytest.fixture
def homes(base, tmp_path):
    shutil.copytree(base.folder, tmp_path, dirs_exist_ok=True)
    return Written(tmp_path, base.parameters, base.run)


KNOCK_OUT = {"party": "tax", "column": "arrears", "above": 3}


def limits(base, **changes):
    years = base.parameters["columns"]["registry"]["years"]["edges"]
    return {
        "name": "limit",
        "purpose": "proactive",
        "steps": [100_000, 500_000],
        "measures": {
            "capacity": {"model": "capacity", "cutoffs": [100_000, 500_000]},
            "caution": {"model": "caution", "cutoffs": [1, 10]},
            "room": {"column": "limit", "cutoffs": [-1, 0.5]},
        },
        "knock_outs": [
            {"party": "registry", "column": "sector", "is": ["steel"]},
            {"party": "registry", "column": "years", "up_to": years[0]},
            {"party": "bank", "column": "product", "is": ["card"]},
        ],
        **changes,
    }


def file(where, decision):
    return open_job(filing(decision), where.nodes, where.folder / "homes").run()


def test_all_parties_file_the_same(homes):
    file(homes, limits(homes))
    filed = [load_decision(homes.folder / "homes" / party, "limit") for party in PARTIES]
    assert filed[0] == filed[1] == filed[2]
    assert len({one.sha256 for one in filed}) == 1
    pin = filed[0].pins["capacity"]
    model = load_model(homes.folder / "homes" / "bank" / "models" / "capacity" / "model.json")
    assert pin.model_sha256 == model.sha256.hex()
    assert pin.limits == (100, 500)
    assert pin.written
    assert filed[0].holders_of("capacity") == tuple(sorted(HOLDERS))
    assert filed[0].holders_of("caution") == ("registry",)
    assert set(filed[0].knock_outs) == {"registry"}
    assert {kind_filed(homes.folder / "homes" / party, "limit") for party in PARTIES} == {"decision"}
    own = homes.folder / "homes" / "bank" / "models"
    assert load_model(own / "limit" / model_file("capacity")) == model  # whole by itself
    assert (own / "limit" / map_file("capacity")).read_text() == (own / "capacity" / "code_map.json").read_text()


def test_knock_outs_are_points_of_a_map_of_their_own(homes):
    file(homes, limits(homes))
    folder = homes.folder / "homes" / "registry" / "models"
    code_map, part = load_code_map(folder, "limit"), WrittenPart.load(folder / "limit")
    assert code_map.hash == part.map_sha256 == load_decision(folder.parent, "limit").knock_outs["registry"]
    source = homes.nodes["registry"].datasets["d"]
    table = read_table(source.source, "firm", columns=("years", "sector"), normaliser="text")
    failures = part.units(code_map.transform(table).codes)
    least = limits(homes)["knock_outs"][1]["up_to"]
    plain = (table.columns["years"] <= least).astype(int) + (table.columns["sector"] == "steel")
    assert np.array_equal(failures, plain)
    assert 0 < failures.mean() < 2
    assert part.units(code_map.unknown_firms(1).codes) == 0
    assert not (homes.folder / "homes" / "tax" / "models" / "limit" / "code_map.json").exists()


def test_the_banks_own_bound(homes):
    decision = DecisionModel.model_validate(limits(homes))
    assert bank_columns(decision, "bank") == ("limit", "product")
    columns = {"limit": np.array([-2, -1, 0.5, np.nan, 3]), "product": np.array(["loan", "loan", None, "loan", "card"])}
    assert bank_bound(decision, "bank", columns, 5).tolist() == [0, 1, 2, 0, 0]
    with pytest.raises(ConfigError, match="measure room: column 'limit' of bank has no numbers"):
        bank_bound(decision, "bank", {**columns, "limit": columns["product"]}, 5)
    with pytest.raises(ConfigError, match=r"knock-out on bank\.product has numbers: use above or up_to"):
        bank_bound(decision, "bank", {**columns, "product": columns["limit"]}, 5)


def test_versions_and_rollback(homes):
    home = homes.folder / "homes" / "bank"
    first = file(homes, limits(homes))
    other = file(homes, limits(homes, steps=[100_000, 600_000]))
    assert [one.job_id for one in versions(home, "limit")] == [first.job_id, other.job_id]
    assert load_decision(home, "limit").decision.amounts == (100_000, 600_000)
    roll_back(home, "limit")
    assert load_decision(home, "limit").decision.amounts == (100_000, 500_000)


def refused(where, decision, error=RefusedError):
    with pytest.raises(error) as refusal:
        file(where, decision)
    for party in PARTIES:  # nothing is filed anywhere
        assert not (where.folder / "homes" / party / "models" / decision["name"]).exists()
    return str(refusal.value)


def test_another_version_of_a_code_map_is_refused(homes):
    models = homes.folder / "homes" / "registry" / "models"
    shutil.rmtree(models / "capacity")
    shutil.copytree(models / "caution", models / "capacity")
    said = refused(homes, limits(homes))
    assert "measure capacity: registry has another version of its code map of model capacity: go back to" in said


def test_a_model_that_is_gone_is_refused(homes):
    shutil.rmtree(homes.folder / "homes" / "tax" / "models" / "capacity")
    said = refused(homes, limits(homes))
    assert "measure capacity: tax has no model capacity any more: train it again" in said


def test_a_model_of_another_bank_is_refused(homes):
    """At a node whose ledger says for which bank a model was made; a batch holds its decision against it as well."""
    home, asked = homes.folder / "homes" / "tax", capacity()
    made = job("write_model", name="capacity", **asked | {"columns": {p: asked["columns"][p] for p in HOLDERS}})
    (version,) = versions(home, "capacity")
    for bank in ("other", "bank"):  # the newest job of the name counts, where the ledger has lost a version's own
        changes = {"bank": bank, "datasets": dict.fromkeys((bank, *made.holders), "d")}
        one = made.model_copy(update=changes)
        ledger = Ledger(home / "state" / "jobs")
        ledger.add(f"capacity-00000000-{one.sha256.hex()[:16]}", one, "accepted", "")
        for folder in (version.folder, home / "models" / "capacity"):
            assert made_for(home, ledger, "capacity", folder) == bank
        if bank == "other":
            assert "measure capacity: tax has model capacity of another bank" in refused(homes, limits(homes))
        else:
            file(homes, limits(homes))


def test_a_model_that_is_retired_is_refused_at_once(homes):
    nodes = homes.nodes
    tax = nodes["tax"].model_copy(
        update={"policy": nodes["tax"].policy.model_copy(update={"retired_models": ("capacity",)})}
    )
    answer = answer_to(filing(limits(homes)), tax)
    assert answer.status == "refused"
    assert "tax: measure capacity: model 'capacity' is retired here" in answer.reason
    other = tax.model_copy(update={"policy": tax.policy.model_copy(update={"retired_models": ("limit",)})})
    assert "decision 'limit' is retired here" in answer_to(filing(limits(homes)), other).reason
    scoring = job("score_batch", name="batch", model="capacity", on_missing="missing_code")
    assert "model 'capacity' is retired here" in answer_to(scoring, tax).reason


def test_parts_that_were_changed_are_refused(homes):
    folder = homes.folder / "homes" / "tax" / "models" / "capacity"
    (folder / "written.json").write_text("{}")
    assert "measure capacity: tax: " in refused(homes, limits(homes))


def test_what_the_bank_has_to_have(homes):
    measures = limits(homes)["measures"]
    absent = {**measures, "capacity": {"model": "absent", "cutoffs": [1, 2]}}
    said = refused(homes, limits(homes, measures=absent), ConfigError)
    assert "measure capacity: model not found" in said
    high = {**measures, "capacity": {"model": "capacity", "cutoffs": [1, 9e9]}}
    assert "totals have at most 8388607" in refused(homes, limits(homes, measures=high), ConfigError)
    alone = filing(limits(homes, knock_outs=[]), holders=("tax",))
    with pytest.raises(ConfigError, match="model capacity has a part of registry, which is no holder of this job"):
        open_job(alone, homes.nodes, homes.folder / "homes").run()


def test_knock_outs_on_what_is_not_published(homes):
    def knock_out(**condition):
        return limits(homes, knock_outs=[{"party": "registry", **condition}])

    assert "registry: does not publish bins of a column 'noise'" in refused(homes, knock_out(column="noise", above=0))
    assert "registry: 1.234 is no published edge of years" in refused(homes, knock_out(column="years", above=1.234))
    said = refused(homes, knock_out(column="sector", **{"is": ["listed"]}))
    assert "registry: 'listed' is no published level of sector" in said


def test_a_name_of_a_model_is_refused(homes):
    with pytest.raises(ConfigError, match="'caution' is the name of a hand-written model at"):
        file(homes, limits(homes, name="caution"))


@pytest.mark.parametrize(
    ("policy", "changes", "says"),
    [
        ({}, {"tell_measure": True}, "tax: does not let decisions tell which measure decided; set tell_measure: false"),
        ({"release": {"bits_per_score": 1}}, {}, "a score or band of 3 values tells more than 1 bits"),
        ({"publish_bins": []}, {"knock_outs": [KNOCK_OUT]}, "tax: does not publish bins of a column 'arrears'"),
        ({"publish_bins": []}, {"knock_outs": [{**KNOCK_OUT, "party": "registry"}]}, ""),  # another party's
        ({"purposes": ["application"]}, {}, "purpose 'proactive' is not among the purposes tax allows"),
        ({"tell_measure": True, "release": {"bits_per_score": 3}}, {"tell_measure": True}, ""),
    ],
)
def test_a_holder_answers_by_its_policy(base, policy, changes, says):
    given_policy = base.nodes["tax"].policy.model_validate({"accept": "auto", **PUBLISH, **policy})
    answer = answer_to(filing(limits(base, **changes)), base.nodes["tax"].model_copy(update={"policy": given_policy}))
    assert says in answer.reason
    assert (answer.status == "accepted") == (not says)


def test_a_file_that_was_changed(homes):
    file(homes, limits(homes))
    path = homes.folder / "homes" / "bank" / "models" / "limit" / "decision.json"
    path.write_text(path.read_text().replace("100000", "90000", 1))
    with pytest.raises(ConfigError, match="was changed"):
        FiledDecision.load(path.parent)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="is not a filed decision"):
        FiledDecision.load(path.parent)
    with pytest.raises(ConfigError, match="no decision 'absent' is filed here"):
        load_decision(homes.folder / "homes" / "bank", "absent")


@pytest.mark.parametrize("pins", [b"", b"[]", b"{}", b'{"pins": {}}', b"\xff"])
def test_a_bank_that_sends_other_pins(homes, monkeypatch, pins):
    monkeypatch.setattr(Pins, "to_bytes", lambda _self: pins)
    with pytest.raises(MessageError, match="the bank's versions of models are not those of the decision"):
        file(homes, limits(homes))


@few
@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(str).map(str.encode))
def test_pins_of_any_bytes(data):
    try:
        found = Pins.from_bytes(data)
    except ValueError:
        return
    assert Pins.from_bytes(found.to_bytes()) == found
