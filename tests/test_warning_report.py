"""Coverage, lead, disturbed and budget of early warnings against loops; the report of a book."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
from alarm_contract import WatchJoint, next_month, owing, run
from bank_trial import SETTINGS, Clock, new_url

from party_bank.book import Book
from party_bank.contracts import months_after
from party_bank.settings import BankSettings
from party_bank.warning_report import WatchedRows, budget_for, foretold, measure, months_chart, report, riskiest
from party_bank.warning_rows import OverdueFirms
from veilscore.errors import DataError

NEVER = np.datetime64("9999-12-31")


def world(seed, n=150, n_months=10):
    rng = np.random.default_rng(seed)
    ends = [months_after(dt.date(2025, 1, 31), k) for k in range(n_months)]
    cells = [(f"F{k:03d}", day) for k in range(n) for day in ends if rng.random() < 0.8]
    rows = WatchedRows(np.array([f for f, _ in cells]), np.array([d for _, d in cells], "datetime64[D]"))
    m = n // 2
    fell = np.datetime64("2025-01-01") + rng.integers(0, 420, m).astype("timedelta64[D]")
    overdue = OverdueFirms(np.array([f"F{k:03d}" for k in rng.integers(0, n + 20, m)]), fell, fell, np.full(m, NEVER))
    return rows, overdue, rng.random(len(cells)), rng


def plainly(rows, alarmed, overdue, months):
    """Figures by loops over events and firms."""
    cells = list(zip(rows.firms.tolist(), rows.days.tolist(), alarmed.tolist(), strict=True))
    events = sorted(zip(overdue.firms.tolist(), overdue.begins.tolist(), strict=True))
    fell, warned, leads = 0, 0, []
    for n, (firm, on) in enumerate(events):
        earlier = [day for other, day in events[:n] if other == firm]
        mine = [(day, late) for f, day, late in cells if f == firm and day < on <= months_after(day, months)]
        mine = [(day, late) for day, late in mine if not any(day < other < on for other in earlier)]
        if (firm, on) in events[:n]:
            continue  # the same day twice is one
        fell += bool(mine)
        hits = [day for day, late in mine if late]
        warned += bool(hits)
        leads += [(on - min(hits)).days / (365.25 / 12)] if hits else []
    firms = {f for f, _, _ in cells}
    bad = {f for f, day, _ in cells if any(firm == f and on > day for firm, on in events)}
    met = {f for f, _, late in cells if late}
    return fell, warned, np.median(leads), len(firms - bad), len(met - bad) / len(firms - bad), alarmed.mean()


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_oracle(seed):
    rows, overdue, risk, _ = world(seed)
    for share in (0.05, 0.3):
        late = risk > 1 - share
        found = measure(rows, late, overdue, 3)
        fell, warned, lead, good, disturbed, budget = plainly(rows, late, overdue, 3)
        assert (found.overdue, found.warned, found.good) == (fell, warned, good)
        assert (found.lead_months, found.disturbed, found.budget) == pytest.approx((lead, disturbed, budget))
        assert found.coverage == pytest.approx(warned / fell)
        assert sum(month.alarmed for month in found.months) == late.sum()
        assert sum(month.overdue for month in found.months) == (foretold(rows, overdue, 3) >= 0).sum()


def test_a_budget_that_reaches_a_share_of_the_firms_overdue():
    """The least share of each month by risk: taken, it reaches them; one firm less a month does not."""
    rows, overdue, risk, _ = world(7)
    budget = budget_for(risk, rows, overdue, 3, 0.9)

    def coverage(share):
        late = np.zeros(risk.size, bool)
        for day in np.unique(rows.days):
            here = np.flatnonzero(rows.days == day)
            late[here[np.argsort(-risk[here])[: int(np.floor(share * here.size + 1e-9))]]] = True
        return measure(rows, late, overdue, 3).coverage

    assert coverage(budget - 1e-6) < 0.9 <= coverage(budget)
    assert np.isnan(budget_for(risk, rows, OverdueFirms(*(part[:0] for part in vars(overdue).values())), 3, 0.9))


def test_another_model_gets_as_many_alarms_each_month():
    rows, _, risk, rng = world(3)
    late = risk > 0.9
    other = riskiest(rng.random(risk.size), rows.days, late)
    for day in np.unique(rows.days):
        assert other[rows.days == day].sum() == late[rows.days == day].sum()
    assert (other != late).any()
    assert np.array_equal(riskiest(risk, rows.days, late), late)


def test_nothing_that_was_watched_is_nothing_to_report():
    rows, overdue, _, _ = world(0)
    with pytest.raises(DataError, match="no firm was under watch"):
        measure(WatchedRows(rows.firms[:0], rows.days[:0]), np.zeros(0, bool), overdue, 3)
    assert (foretold(rows, OverdueFirms(*(part[:0] for part in vars(overdue).values())), 3) == -1).all()


def test_the_report_of_a_book(tmp_path):
    clock = Clock()
    book = Book(new_url(tmp_path), clock=clock)
    files = {"warnings": {"months": 2, "overdue": {"path": "overdue.csv", "day": "on"}}, "id_normaliser": "text"}
    settings = BankSettings.model_validate({**SETTINGS.model_dump(), **files})
    firms = owing(book, 4)
    joint, told = WatchJoint(dict(zip(firms, (1, 0, 1, 0), strict=True))), []
    for _ in range(2):
        told.append(book.today())
        run(book, joint)
        next_month(book, clock)
    lines = [f"{firms[0]},{told[0] + dt.timedelta(days=45)}", f"{firms[1]},{told[0] + dt.timedelta(days=10)}"]
    (tmp_path / "overdue.csv").write_text("\n".join(["uscc,on", *lines]) + "\n")
    early = report(book, settings, tmp_path)
    assert (early.joint, early.alarms, early.open_cases, early.feedback) == (None, 2, 2, {})
    next_month(book, clock)
    next_month(book, clock)
    months = [f"{day:%Y-%m}-01" for day in told]
    risks = [f"{firm},{month},{risk}" for firm, risk in zip(firms, (1, 9, 5, 2), strict=True) for month in months]
    (tmp_path / "own.csv").write_text("\n".join(["uscc,month,risk", *risks]) + "\n")
    found = report(book, settings, tmp_path, tmp_path / "own.csv")
    # the first firm was warned 45 days before; the second was not, and the bank's own risk would have seen it
    assert (found.joint.firm_months, found.joint.overdue, found.joint.warned, found.joint.good) == (8, 2, 1, 2)
    assert (found.joint.budget, found.joint.coverage, found.joint.disturbed) == (0.5, 0.5, 0.5)
    assert found.joint.lead_months == pytest.approx(45 / 30.4375)
    assert (found.bank_only.budget, found.bank_only.coverage, found.bank_only.warned) == (0.5, 0.5, 1)
    assert found.joint_reach is None  # half of the firms overdue were at a level
    assert found.bank_only_reach == 1.0  # the first firm is of the lowest risk
    assert [month.watched for month in found.joint.months] == [4, 4]
    drawn = months_chart(found.joint).to_svg()
    assert "overdue soon: warned" in drawn
    assert f"{told[0]:%Y-%m}" in drawn
    body = json.loads(json.dumps(found.as_json()))
    assert body["joint"]["months"][0]["alarmed"] == 2
    assert body["bank_only"]["good"] == 2
    (tmp_path / "own.csv").write_text("uscc,month,risk\n" + "\n".join(risks[1:]) + "\n")
    with pytest.raises(DataError, match=r"own\.csv lacks the risk of 1 of 8 firm-months under watch"):
        report(book, settings, tmp_path, tmp_path / "own.csv")
    (tmp_path / "own.csv").write_text("uscc,month,level\n" + "\n".join(risks) + "\n")
    with pytest.raises(DataError, match=r"own\.csv needs columns uscc, month .* and risk, a number"):
        report(book, settings, tmp_path, tmp_path / "own.csv")
    book.close()
