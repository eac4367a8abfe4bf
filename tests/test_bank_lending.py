"""Campaigns, applications and renewals of the bank on SQLite, its portraits and portfolio, and what a kill leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa
from bank_trial import SETTINGS, Clock, Joint, add_firms, consent, lend, new_url
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lending_contract import LendingContract, apply, asked

from party_bank import policy
from party_bank.applications import by_ladder, by_policy
from party_bank.book import Book
from party_bank.book_tables import DECISIONS
from party_bank.joint import DecisionsFile, no_joint_decision
from party_bank.policy.graph import load_graph
from party_bank.portfolio import LimitCandidates, plan_portfolio
from party_bank.portrait import make_portrait
from party_bank.renewals import fitted_months, inflow_of, own_inflow
from party_bank.settings import BankSettings, Budget
from veilscore.errors import BookError, ConfigError, DataError
from veilscore.terms.node_config import NodeConfig

NODE = NodeConfig(name="bank", role="bank")


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def book(tmp_path_factory, clock):
    book = Book(new_url(tmp_path_factory.mktemp("book")), clock=clock)
    yield book
    book.close()


class TestSqlite(LendingContract):
    pass


@pytest.fixture
def fresh(tmp_path):
    book = Book(new_url(tmp_path), clock=Clock())
    yield book
    book.close()


@pytest.mark.slow  # some 50 runs of the story, each with a copy of the book
def test_killed_at_every_step_the_story_ends_the_same(tmp_path):
    """kill -9 before each commit, then the same calls again: each program run is a fork of one process."""
    worker = Path(__file__).with_name("killed_bank.py")
    done = subprocess.run([sys.executable, worker, tmp_path], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    n, wrong = json.loads(done.stdout)
    assert n >= 12
    assert wrong == []


def test_the_admission_policy_judges(fresh):
    firms = ["P1", "P2", "P3"]
    add_firms(fresh, firms)
    consent(fresh, firms, "application")
    graph = load_graph(Path(policy.__file__).with_name("graphs") / "admission.json")
    own = {"P1": {}, "P2": {"blacklisted": True}, "P3": {"relationship_years": None}}
    known = {"blacklisted": False, "overdue_days": 0, "relationship_years": 4.0}
    ladder = {"ladder": [10_000, 20_000, 30_000, 40_000], "rate_bp": 500}
    settings = BankSettings.model_validate({**SETTINGS.model_dump(), "products": {"tax": ladder}})
    judge = by_policy(graph, lambda firm: {**known, **own[firm]})
    joint = Joint(dict.fromkeys(firms, 4))
    found = [apply(fresh, asked(firm), joint, judge, settings) for firm in firms]
    assert [row["status"] for row in found] == ["approved", "declined", "referred"]
    assert [row["reasons"] for row in found[1:]] == [["blacklist"], ["unknown to the bank"]]
    decided = fresh.rows(sa.select(DECISIONS).order_by(DECISIONS.c.id))[1]
    assert (decided["policy"], decided["policy_sha256"]) == ("admission 0", graph.sha256)
    assert decided["policy_row"] == "knock-outs 1, tiers 1"
    assert decided["inputs"]["step"] == 4


def test_a_portrait_names_source_time_and_owner_of_each_field(fresh, tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text("id,default,balance,sector\nA,0,12.5,retail\nB,1,,\n", encoding="utf-8")
    dataset = {"path": path, "id_column": "id", "label_column": "default"}
    node = NodeConfig.model_validate({"name": "bank", "role": "bank", "datasets": {"main": dataset}})
    settings = BankSettings.model_validate({**SETTINGS.model_dump(), "dataset": "main", "id_normaliser": "text"})
    add_firms(fresh, ["A"])
    consent(fresh, ["A"], "application")
    apply(fresh, asked("A"), Joint({"A": 2}))
    lend(fresh, "A", 5_000_000)
    found = make_portrait(fresh, settings, "A", node)
    by_group = {}
    for one in found.fields:
        assert one.source
        assert one.owner
        assert one.at.startswith("20")
        by_group.setdefault(one.group, {})[one.name] = one
    assert by_group["own data"]["balance"].value == 12.5
    assert "default" not in by_group["own data"]
    assert by_group["lines"].keys() == {"tax", "flow"}
    decision = by_group["decisions"]["application"]
    assert (decision.value, decision.owner) == ("step 2, approved", "tax, registry")
    assert by_group["bits left"]["tax"].value == 8.4
    assert by_group["exposure"]["flow"].value == 50_000
    assert by_group["room"]["tax"].value == 60_000
    assert by_group["consents"]["application"].owner == "portal"
    assert json.loads(found.as_json())["fields"][0] == {
        "group": "firm", "name": "name", "value": "Firm A", "source": "book", "at": found.fields[0].at, "owner": "bank",
    }  # fmt: skip
    with pytest.raises(BookError, match="the book has no firm 'Z'"):
        make_portrait(fresh, SETTINGS, "Z", NODE)
    with pytest.raises(ConfigError, match=r"bank\.yaml names data set 'main'"):
        make_portrait(fresh, settings, "A", NODE)


@given(
    n=st.integers(1, 30),
    total=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    industries=st.dictionaries(st.sampled_from("ab"), st.integers(1, 30)),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_portfolio_is_within_its_budgets_and_its_prices_prove_it(n, total, seed, industries):
    rng = np.random.default_rng(seed)
    amount = rng.integers(1, 8, n) * 100
    earns = rng.integers(-2, 6, n) / 100
    industry, region = rng.choice(["a", "b", "c"], n), rng.choice(["x", "y"], n)
    candidates = LimitCandidates([str(k) for k in range(n)], amount, earns, industry.tolist(), region.tolist())
    plan = plan_portfolio(candidates, Budget(total=total, industries=industries, regions={"x": 20}))
    caps = {"total": total, "region x": 20, **{f"industry {name}": most for name, most in industries.items()}}
    member = {"total": np.ones(n, bool), "region x": region == "x"}
    member |= {f"industry {name}": industry == name for name in industries}
    for name, most in caps.items():
        assert amount[plan.granted & member[name]].sum() <= most * 100
    worth = sum(plan.prices[name] * member[name] for name in caps)
    dual = sum(plan.prices[name] * most * 100 for name, most in caps.items())
    dual += (amount * np.maximum(0, earns - worth)).sum()
    assert dual == pytest.approx(plan.bound, abs=1e-3)  # weak duality: no portfolio earns more
    assert plan.earned <= plan.bound + 1e-3
    assert plan.earned >= plan.bound - 4 * 700 * 0.05 - 1e-6  # at most as many limits are split as there are budgets
    for row in range(n):
        assert plan.reason(row).startswith("yes" if plan.granted[row] else "no")
        assert plan.granted[row] <= (earns[row] >= worth[row] - 1e-9)


def test_reasons_name_the_budget_that_is_scarce():
    rows = LimitCandidates(
        ["A", "B", "C"], np.array([100, 200, 100]), np.array([0.05, 0.02, -0.01]), ["b"] * 3, ["n"] * 3
    )
    plan = plan_portfolio(rows, Budget(total=10, industries={"b": 2}))
    earns = "earns 2.00% of its limit a year"
    assert [plan.reason(row) for row in range(3)] == [
        "yes: earns 5.00% of its limit a year; the budgets it takes are worth 2.00% (industry b)",
        f"no: {earns}, just what the budgets are worth (2.00% (industry b)), and its limit no longer fits whole",
        "no: earns -1.00% of its limit a year, which is no gain",
    ]
    with pytest.raises(BookError, match=r"the budget of industry b is 2 and 3\.00 is lent already"):
        plan_portfolio(rows, Budget(total=10, industries={"b": 2}), {"industry b": 300})
    with pytest.raises(ConfigError, match="positive amount"):
        plan_portfolio(LimitCandidates(["A"], np.array([0]), np.array([0.1]), ["b"], ["n"]), Budget(total=10))


def test_a_term_ends_when_money_comes_in(tmp_path):
    import datetime as dt

    import duckdb

    start = dt.date(2026, 11, 30)
    assert fitted_months(None, start, 12) == 12
    assert fitted_months([1.0] * 12, start, 12) == 12
    assert fitted_months([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], start, 12) == 14  # January
    with pytest.raises(ConfigError, match="12 calendar months, not 3"):
        fitted_months([1, 2, 3], start, 12)
    with duckdb.connect() as db:
        db.execute("CREATE TABLE b (uscc TEXT, booked_on DATE, direction TEXT, amount DOUBLE)")
        rows = [("2025-03-01", "in", 10.0), ("2026-03-02", "in", 30.0), ("2026-04-01", "out", 9.0)]
        db.executemany("INSERT INTO b VALUES ('A', ?, ?, ?)", rows)
        db.table("b").write_parquet(str(tmp_path / "b.parquet"))
    inflow = inflow_of(tmp_path / "b.parquet")
    assert inflow("A")[2:4] == [20.0, 0.0]
    assert inflow("B") is None
    of = lambda at: SimpleNamespace(datasets={"main": SimpleNamespace(features=SimpleNamespace(events=at))})  # noqa: E731
    settings = SETTINGS.model_copy(update={"dataset": "main"})
    assert own_inflow(SETTINGS, of(tmp_path)) is None
    assert own_inflow(settings, of(tmp_path)) is None, "no bookings there"
    (tmp_path / "b.parquet").rename(tmp_path / "bookings.parquet")
    assert own_inflow(settings, of(tmp_path))("A") == [0.0, 0.0, 20.0, *[0.0] * 9]
    (tmp_path / "bookings.parquet").write_text("no table")
    with pytest.raises(DataError, match="is no table of bookings"):
        own_inflow(settings, of(tmp_path))("A")


@pytest.mark.parametrize(
    ("text", "why"),
    [("id,stp\nA,1\n", "needs a column id"), ("id,step\nA,8\n", "from 0 to 7"), ("id,step\nA,x\n", "from 0 to 7")],
)
def test_a_file_of_decisions_is_checked(tmp_path, text, why):
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=why):
        DecisionsFile(tmp_path / "d.csv", 7, ("tax",))(["A"], model="m", purpose="proactive", reference="r")
    with pytest.raises(ConfigError, match="cannot be read"):
        DecisionsFile(tmp_path / "none.csv", 7, ("tax",))(["A"], model="m", purpose="proactive", reference="r")
    with pytest.raises(BookError, match="run one, and give its steps with --decisions FILE"):
        no_joint_decision(["A"], model="m", purpose="proactive", reference="r")


def test_a_file_of_decisions(tmp_path):
    (tmp_path / "d.csv").write_text("id,step,measure\nA,7,risk\nB,,\nC,0,\n", encoding="utf-8")
    found = DecisionsFile(tmp_path / "d.csv", 7, ("tax",))(["A", "B"], model="m", purpose="proactive", reference="r")
    assert (found.steps, found.measures, found.bits) == ({"A": 7, "B": None}, {"A": "risk"}, 3.0)


def test_a_decide_job_leaves_all_that_is_needed(tmp_path):
    """The form is that of veilscore/tasks/decide_files.py."""
    text = "id,step,name,tax_status\nA,2,high,ok\nB,1,low,unknown\n"
    (tmp_path / "decisions.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="result of a decide job not found"):
        DecisionsFile.of_job(tmp_path)
    decided = {"decision": "limit", "n_rows": 2, "steps": {"none": 0, "low": 1, "high": 1}, "unknown": {"tax": 1}}
    (tmp_path / "decided.json").write_text(json.dumps(decided), encoding="utf-8")
    job = DecisionsFile.of_job(tmp_path)
    found = job(["A", "B"], model="limit", purpose="proactive", reference="r")
    assert (found.steps, found.holders, job.n_steps) == ({"A": 2, "B": None}, ("tax",), 2)
    with pytest.raises(DataError, match=r"is of decision limit; r \(proactive\) needs other"):
        job(["A"], model="other", purpose="proactive", reference="r")
    (tmp_path / "decided.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="is no folder of a job of task decide"):
        DecisionsFile.of_job(tmp_path)


def test_the_ladder_says_which_measure_bound():
    inputs = {"step": 0, "bound": "the measure risk gives no limit", "amount": 1, "limit": 0}
    assert by_ladder(inputs).reasons == ("the measure risk gives no limit",)
