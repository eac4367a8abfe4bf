"""A party's records of single firms: an id is normalised once for every firm alike, so that time tells nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from veilscore.data.codes import CodeMap
from veilscore.data.ingest import read_table
from veilscore.errors import IdError
from veilscore.online import records as module
from veilscore.online.holder_decision import HolderDecisions, _OwnPart
from veilscore.online.records import Records
from veilscore.online.response import own_record
from veilscore.release.single import Allowed, Passed
from veilscore.terms.node_config import DatasetConfig
from veilscore.terms.policy import NodePolicy
from veilscore.v1 import control_pb2 as pb

KNOWN, UNKNOWN = "firm 7", "firm 700"


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "firms.csv"
    path.write_text("id,size\n" + "".join(f"firm {k},{k}\n" for k in range(200)))
    dataset = DatasetConfig(path=path, id_column="id")
    table = read_table(dataset.source, dataset.key, normaliser="text", rules=dataset)
    node = SimpleNamespace(name="tax", datasets={"firms": dataset})
    job = SimpleNamespace(datasets={"tax": "firms"}, parameters=SimpleNamespace(id_normaliser="text"))
    return Records(node, job, CodeMap.fit(table))


def test_unknown_firms_take_no_more_work_than_known_ones(records, monkeypatch):
    """An id that is not found was looked up in another spelling too, and its codes were made anew."""
    assert [asyncio.run(records.find(firm)).known for firm in (KNOWN, UNKNOWN)] == [True, False]
    steps, unknown_firms = [], CodeMap.unknown_firms
    normalise_one = module.normalise_one
    monkeypatch.setattr(module, "normalise_one", lambda *args: steps.append(args) or normalise_one(*args))
    monkeypatch.setattr(CodeMap, "unknown_firms", lambda *args: steps.append(args) or unknown_firms(*args))
    for firm in (KNOWN, UNKNOWN):
        steps.clear()
        found = asyncio.run(records.find(records.normalise(firm)))
        assert (found.known, len(steps)) == (firm == KNOWN, 1)


def test_a_budget_that_is_used_up_takes_the_same_work_for_unknown_firms(records, tmp_path):
    """A firm that the ledger is through with is checked again as unknown, and noted, whether known here or not."""
    asked = []

    def check_release(*of):
        asked.append(of)
        return Passed(None, None, 1, used_up=True)

    guard = SimpleNamespace(check_consent=lambda *_: None, check_release=check_release)
    (tmp_path / "state").mkdir()
    desk = HolderDecisions(tmp_path, SimpleNamespace(name="tax"), None, None, guard, lambda: None)
    desk._log = SimpleNamespace(warning=lambda *_, **said: asked.append(said))
    part = _OwnPart("capacity", records, points=SimpleNamespace(units=lambda _codes: [0]))
    filed = SimpleNamespace(decision=SimpleNamespace(name="limit", bits=3.0), holders=("tax",))
    held = SimpleNamespace(filed=filed, job=SimpleNamespace(holders=("tax",)), single=None, parts=(part,))
    by = Allowed(None, NodePolicy())
    for firm in (KNOWN, UNKNOWN):
        asked.clear()
        found = asyncio.run(desk._passed("bank", pb.EncryptRecord(firm_id=firm), held, by))
        assert not found.known
        assert [type(one) for one in asked] == [tuple, dict, tuple]
        assert asked[1]["known"] == (firm == KNOWN)


def test_the_bank_finds_its_own_firm_in_any_spelling(records):
    model = SimpleNamespace(records=records)
    codes, note = asyncio.run(own_record(model, pb.ScoreRequest(firm_id=f"  {KNOWN} ")))
    assert (codes.shape, note) == ((1, 1), "")
    with pytest.raises(IdError):
        asyncio.run(own_record(model, pb.ScoreRequest(firm_id=" ")))
