"""Task size_decision: counts by step are those of the plain decision beside their noise, and nobody's step is told."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from conftest import ROOT
from finished_jobs import finished
from memory_decisions import World
from trial_audit import audit
from trial_decisions import expected, file_decisions, head, run_decisions
from trial_scoring import copy_of, set_policy

from veilscore.errors import ConfigError, RefusedError
from veilscore.models.curve import sensitivity
from veilscore.models.decided import load_decision
from veilscore.protocols.decision import holder_receive_decision
from veilscore.protocols.decision_counts import bank_size, holder_size
from veilscore.tasks.context import account_of
from veilscore.tasks.sizing import charge_of
from veilscore.tasks.table import leakage_table, step_of
from veilscore.terms.job import parse_job
from veilscore.terms.sizing import SizeDecision
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session

HOLDERS = ("tax", "registry")
QUIET = Charge("counts by step", "all", 1e14)


def sized(world, charge, *, told=False, refusals=None, spent=None):
    """Run the roles of all parties; what each returns."""
    sessions = {p: Session("job1/size/1", p, "bank", world.holders) for p in ("bank", *world.holders)}

    def holder(name):
        asked = yield from holder_receive_decision(sessions[name], world.n_rows)
        answer = world.answer(name, refusal=(refusals or {}).get(name, ""))
        return (yield from holder_size(sessions[name], asked, answer, charge, told=told))

    bank = bank_size(
        sessions["bank"], world.request, world.circuit, world.measures(), world.bound, charge, tell_holders=told
    )
    spend = {
        name: (lambda one, name=name: (spent if spent is not None else []).append((name, one)))
        for name in world.holders
    }
    roles = {"bank": bank} | {name: holder(name) for name in world.holders}
    return simulate(roles, sessions, timeout_s=20.0, spend=spend)


@pytest.mark.parametrize("tell", [False, True])
def test_counts_are_those_of_the_plain_decision(tell):
    world, spent = World(3, HOLDERS, 90, n_steps=5 if tell else 7, n_trees=1, tell_measure=tell), []
    found = sized(world, QUIET, told=tell, spent=spent)
    steps, _ = world.expected()
    plain = np.bincount(steps, minlength=len(world.limits[0]) + 1)
    assert (plain > 0).sum() > 3
    for party in ("bank", *(HOLDERS if tell else ())):
        assert found[party] == pytest.approx(plain, abs=0.01)
    assert tell or found["tax"] is None
    assert {name for name, one in spent if one == QUIET} == set(HOLDERS)


def test_a_holder_that_refuses_opens_and_pays_nothing():
    spent = []
    with pytest.raises(RefusedError, match="not now"):
        sized(World(3, HOLDERS, 30, n_trees=1), QUIET, refusals={"registry": "not now"}, spent=spent)
    assert spent == []


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Homes with filed decisions, and no consent of any firm."""
    return copy_of(finished(file_decisions), tmp_path_factory.mktemp("homes"))


def size(name="size", decision="limit", purpose="proactive", **parameters):
    asked = json.dumps({"decision": decision, **parameters})
    return f"{head(purpose)}name: {name}\ntask: size_decision\nparameters: {asked}\n"


@pytest.fixture(scope="module")
def run(homes):
    return run_decisions(homes, size(mu=0.5, tell_holders=True), keep=True, audited=True)


@pytest.mark.slow
def test_a_bank_sizes_a_campaign_without_any_consent(homes, run):
    said = {party: run.stores[party].load_json("sized") for party in ("bank", *HOLDERS)}
    steps, decision = expected(homes, "limit"), load_decision(homes / "bank", "limit").decision
    plain = {decision.name_of(k): list(steps.values()).count(k) for k in range(decision.n_steps + 1)}
    for party, of in said.items():
        assert (of["decision"], of["n_rows"]) == ("limit", len(steps))
        assert set(of["steps"]) == set(plain)
        assert max(abs(of["steps"][name] - plain[name]) for name in plain) < 6 * of["noise"], party
    sigma = sensitivity() / 0.5
    assert [round(said[p]["noise"] / sigma, 1) for p in said] == [1.0, 1.0, 1.4]  # tax leads: it knows its own noise
    assert len({tuple(of["steps"].values()) for of in said.values()}) == 2  # holders were told the same
    for party in HOLDERS:
        account = account_of(homes / party, run.nodes[party], run.job)
        assert account.knows("counts by step")
    assert not (run.stores["bank"].path / "decisions.csv").exists()


@pytest.mark.slow
def test_every_message_of_a_sizing_is_in_the_table_and_every_row_occurs(run):
    table, seen = {(leak.kind, leak.to) for leak in step_of(run.job, "size").learns}, set()
    for party, transcript in run.transcripts.items():
        for entry, _ in transcript.messages:
            if "/size/" not in entry.session or entry.recipient != party:
                continue
            mine = {"bank"} if party == "bank" else {"holder", "lead"} if party == "tax" else {"holder"}
            found = {(entry.kind, role) for role in mine} & table
            assert found, f"{entry.kind} to {party} is not in the table"
            seen |= found
    assert seen == table
    shown = {row.step: row for row in leakage_table(run.job.parameters)}
    assert shown["size"].how_much == "mu 0.50"
    assert "noised counts of firms by step" in shown["size"].bank


@pytest.mark.slow
def test_an_honest_bank_of_a_sizing_is_confirmed(run):
    found = audit(run)
    assert {name: one.verdict for name, one in found.items()} == {"align.1": "confirmed", "size.1": "confirmed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "error", "says"),
    [
        (size(decision="nothing"), ConfigError, "no decision 'nothing' is filed here"),
        (size(purpose="renewal"), ConfigError, "decision limit is for proactive"),
        (size(decision_sha256="ab" * 32), ConfigError, "in use in another version"),
        (size(mu=0.6), RefusedError, "lets a job spend mu 0.5 and this one asks for 0.6"),
    ],
)
def test_refusals_of_a_sizing_say_what(homes, job, error, says):
    with pytest.raises(error, match=says):
        run_decisions(homes, job)


@pytest.mark.slow
def test_a_retired_decision_is_not_counted_either(homes, tmp_path):
    own = copy_of(homes, tmp_path / "own")
    set_policy(own, "tax", retired_models=["limit"])
    with pytest.raises(RefusedError, match="decision 'limit' is retired here"):
        run_decisions(own, size())


def test_counts_are_of_firms_each_once():
    with pytest.raises(Exception, match="use rows: firms"):
        parse_job(size(rows="firm_dates"))
    assert charge_of(SizeDecision(decision="limit", mu=0.4)) == Charge("counts by step", "all", 0.4**2)


def test_the_page_shows_a_job_that_is_one():
    """docs/decisions.md, with the parties that every job names."""
    shown = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    parties = {"name": "size", "purpose": "proactive", "bank": "bank", "holders": ["tax"]}
    job = parse_job(json.dumps({**parties, "datasets": {"bank": "main", "tax": "main"}, **yaml.safe_load(shown)}))
    assert job.of(SizeDecision).tell_holders
