"""A private scorecard as a job: its steps, its charges, its model, what it leaves and what it refuses."""

import math

import numpy as np
import pytest
from local_jobs import firms, job, nodes, run_job, write

from veilscore.data.fixed_bins import MU
from veilscore.errors import RefusedError
from veilscore.models import residual
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.release.account import FILE, accounts
from veilscore.tasks import fixed_bins
from veilscore.tasks import residual as tasks
from veilscore.tasks.context import account_of
from veilscore.tasks.table import charges_of, leakage_table
from veilscore.terms.privacy import PrivacyRules, total

PRIVATE = {"disclosure": "private", "holdout_scores": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_job(tmp_path_factory.mktemp("private"), firms(6000, seed=3), keep=True, **PRIVATE)


def account(run, holder):
    return account_of(run.stores[holder].path.parent.parent, run.nodes[holder], run.job)


def test_the_card_adds_the_holders_columns_to_the_banks_own(run):
    card = load_model(run.stores["bank"].path / "model.json")
    bank, tax, registry = card.parts
    assert all(column.coefficient is not None for column in bank.columns)
    rows = run.stores["bank"].load_arrays("rows")
    own = card.own_units(rows["codes"])
    total_units = own.astype(float)
    for part in (tax, registry):
        codes = run.stores[part.party].load_arrays("rows")["codes"].astype(int)
        at = np.concatenate(([0], np.cumsum(part.n_codes)))[:-1]
        total_units += part.points[codes + at].sum(axis=1)
    held, bad = ~rows["train"], rows["target"] == 1

    def auc(units):
        good, worse = units[held & ~bad], units[held & bad]
        return (good[:, None] > worse[None, :]).mean()

    assert auc(total_units) > auc(own) + 0.03
    assert max(column.iv for column in tax.columns) > 0.05
    for column in (*tax.columns, *registry.columns):
        assert not any((*column.bad, *column.good, *column.rows)), "no count of a holder is known"


def test_each_holder_is_charged_for_its_own_openings_alone(run):
    for holder in run.job.holders:
        lines = account(run, holder).lines()
        assert [(x.step, x.charge.opening.split()[0], x.charge.rows) for x in lines] == [
            ("bin", "bins", "all"),
            ("bin", "cells", "train"),
            ("train", "gradient", "train"),
            ("train", "moments", "train"),
        ]
        assert sum(x.charge.mu2 for x in lines[1:]) == pytest.approx(0.25)
        assert lines[0].charge.mu2 == pytest.approx(MU**2)
        home = run.stores[holder].path.parent.parent
        assert len(accounts(home / FILE, PrivacyRules())) == 1


def test_a_second_job_uses_the_same_bins_and_does_not_pay_for_them(run, tmp_path):
    folder = run.stores["bank"].path.parent.parent.parent
    again = open_job(job(name="again", **PRIVATE), run.nodes, folder).run()
    for holder in run.job.holders:
        lines = [x for x in account(again, holder).lines() if x.job_id == again.job_id]
        assert {x.charge.opening for x in lines} == {"cells", "gradient", "moments"}
        first, second = (one.stores[holder].load_json("code_map") for one in (run, again))
        assert first != second, "code numbers are drawn anew"
    third = job(name="third", mu=0.5, **PRIVATE)
    open_job(third, run.nodes, folder)
    with pytest.raises(RefusedError, match="account of data set 'd' with bank is exhausted"):
        open_job(job(name="fourth", mu=0.5, **PRIVATE), run.nodes, folder)


def test_a_repeated_attempt_is_charged_anew(tmp_path):
    run = open_job(job(**PRIVATE), nodes(write(tmp_path / "data", firms(1500, seed=4))), tmp_path / "homes", keep=False)
    run.step("align")
    run.step("bin")
    run.step("bin", attempt=2)
    lines = account(run, "tax").lines()
    assert [(x.attempt, x.charge.opening.split()[0]) for x in lines] == [(1, "bins"), (1, "cells"), (2, "cells")]


def test_a_repeated_attempt_trains_on_the_same_rows(tmp_path):
    """A firm that trained once and is then held out would pay for both, where the account counts the larger."""
    parts = firms(1500, seed=4)
    data = write(tmp_path / "data", parts)
    run = open_job(job(holdout_from="2022-10-01", **PRIVATE), nodes(data), tmp_path / "homes", keep=False)
    run.step("align")
    run.step("bin")
    spent = account(run, "tax").spent()
    parts["bank"]["opened"] = parts["bank"]["opened"][::-1]
    write(tmp_path / "data", {"bank": parts["bank"]})
    with pytest.raises(RefusedError, match="other rows train than in an earlier attempt"):
        run.step("bin", attempt=2)
    assert account(run, "tax").spent() == spent


@pytest.mark.parametrize("refuses", ["bank", "holders"])
def test_rows_that_sums_cannot_carry_are_refused_before_anything_of_them_is_charged(tmp_path, monkeypatch, refuses):
    """Step train found it out once the cells were charged: the rest of the account would have gone for nothing."""
    monkeypatch.setattr(residual, "MOST_ROWS", 1000)
    run = open_job(job(**PRIVATE), nodes(write(tmp_path / "data", firms(1500, seed=4))), tmp_path / "homes", keep=False)
    run.step("align")
    if refuses == "holders":  # a bank of another version, that knows no bound
        sums = tasks.bank_sums

        def unbounded(*args, **kwargs):
            role = sums(*args, **kwargs)
            with monkeypatch.context() as patch:
                patch.setattr(residual, "MOST_ROWS", 10**9)
                command = next(role)
            answer = yield command
            while True:
                try:
                    command = role.send(answer)
                except StopIteration as stop:
                    return stop.value
                answer = yield command

        monkeypatch.setattr(tasks, "bank_sums", unbounded)
    with pytest.raises(RefusedError, match=r"1,1\d\d rows train, and a private scorecard takes 1,000 at most"):
        run.step("bin")
    for holder in run.job.holders:
        assert all(line.charge.opening.startswith("bins") for line in account(run, holder).lines())


def test_the_job_states_what_it_spends_and_tells():
    p = job(**PRIVATE).parameters
    assert {c.opening for c in charges_of(p)} == {"cells", "gradient", "moments"}
    assert math.sqrt(total(charges_of(p))) == pytest.approx(0.5)
    table = {row.step: row for row in leakage_table(p)}
    assert "noised sums of the bank's residuals" in table["bin"].bank
    assert "counts" not in table["bin"].bank
    assert "noised gradient" in table["train"].bank


def test_a_policy_bounds_what_a_job_asks_for(tmp_path):
    data = write(tmp_path / "data", firms(300, seed=4))
    small = nodes(data, holder_policy={"privacy": PrivacyRules(job=0.3, year=0.4)})
    with pytest.raises(RefusedError, match=r"lets a job spend mu 0.3 and this one asks for 0.5; lower mu"):
        open_job(job(**PRIVATE), small, tmp_path / "homes")
    open_job(job(mu=0.3, **PRIVATE), small, tmp_path / "homes")


def test_fixed_bins_are_made_once_even_by_two_at_a_time(tmp_path):
    from veilscore.data.table import Table

    ids = np.array([f"f{i}" for i in range(500)])
    table = Table(ids, {"x": np.arange(500.0)}, source="made up")
    first = fixed_bins.make(tmp_path, "d", table)
    assert fixed_bins.make(tmp_path, "d", table).hash == first.hash
    assert fixed_bins.load(tmp_path, "d").hash == first.hash
    assert fixed_bins.make(tmp_path, "d", table, renew=True).hash != first.hash
    assert fixed_bins.path_of(tmp_path, "d").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in fixed_bins.path_of(tmp_path, "d").parent.iterdir()] == ["d.json"]
