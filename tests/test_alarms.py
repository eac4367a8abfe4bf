"""Alarms and cases of the bank's book on SQLite; the joint decision of a notebook raises them."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import sqlalchemy as sa
from alarm_contract import AlarmContract, owing
from bank_trial import SETTINGS, Clock, new_url, table_of

from party_bank import alarms
from party_bank.alarm_budget import alarm_cutoffs, decision_job
from party_bank.book import Book
from party_bank.book_tables import ALARMS, DECISIONS
from party_bank.in_process import DecisionInProcess
from party_bank.joint import DecisionsFile
from veilscore.api import Decision, JointScorecard
from veilscore.errors import ConfigError, DataError
from veilscore.models.decided import load_decision
from veilscore.terms.decide import Decide
from veilscore.terms.job import parse_job
from veilscore.terms.settings import parse


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def book(tmp_path_factory, clock):
    book = Book(new_url(tmp_path_factory.mktemp("book")), clock=clock)
    yield book
    book.close()


class TestSqlite(AlarmContract):
    pass


def test_a_file_of_levels_counts_the_bits_of_a_year(tmp_path):
    (tmp_path / "d.csv").write_text("id,step\nA,2\nB,0\n", encoding="utf-8")
    found = DecisionsFile(tmp_path / "d.csv", 2, ("tax",), job="j")(["A"], model="m", purpose="watch", reference="r")
    assert (found.bits, found.job) == (pytest.approx(np.log2(91)), "j")  # C(14, 2) ways to rise in twelve months


def test_months_of_a_watch_are_of_firms():
    with pytest.raises(ConfigError, match="months of a watch are linked by firm: take data sets with one row a firm"):
        parse(Decide, {"decision": "w", "watch": True, "rows": "firm_dates"}, "job")
    assert parse(Decide, {"decision": "w", "rows": "firm_dates"}, "job").rows == "firm_dates"


@pytest.mark.slow  # trains, files and decides twice
def test_a_hazard_of_a_notebook_raises_alarms_within_its_budget(tmp_path):
    """Panel rows train, the hold-out sets cut-offs, a watch is asked month by month, the book takes its levels."""
    rng, clock = np.random.default_rng(5), Clock()
    book = Book(new_url(tmp_path), clock=clock)
    firms = np.array(owing(book, 300, limit=100_000))
    first, second = "2026-09-30", "2026-10-31"

    def world(day):
        own, other = rng.normal(size=firms.size), rng.normal(size=firms.size)
        bad = rng.random(firms.size) < 1 / (1 + np.exp(1 - own - 1.5 * other))
        key = {"firm": firms, "as_of": [day] * firms.size}
        return {**key, "own": own, "bad": bad.astype(float)}, {**key, "other": other}

    def both(worlds):
        return tuple({name: np.concatenate([w[k][name] for w in worlds]) for name in worlds[0][k]} for k in (0, 1))

    bank, tax = both([world(first), world(second)])
    options = {"rows": "firm_dates", "rows_per_firm": 2, "disclosure": "exact", "id_normaliser": "text", "max_bin": 5}
    card = JointScorecard(name="hazard", **options).fit(bank, {"tax": tax}, id=("firm", "as_of"), label="bad")
    shares = [level.share for level in SETTINGS.warnings.levels]
    filed = card._fitted.home / "bank" / "models" / "hazard"
    cutoffs = alarm_cutoffs(filed, shares)
    assert cutoffs[0] > cutoffs[1]
    job = parse_job(decision_job("bank", {"bank": "now", "tax": "now"}, SETTINGS, filed.name, cutoffs))
    assert job.parameters.decision.cutoffs_of("hazard") == tuple(sorted(cutoffs))
    assert job.parameters.decision.steps == ("look", "act")
    form = {"name": "watch", "purpose": "watch", "watch": True, "steps": ["look", "act"]}
    watch = Decision({**form, "measures": {"hazard": {"model": "hazard", "cutoffs": cutoffs}}}, card)
    months = {alarms.reference_of(dt.date(2026, 11, 1)): world("2026-10-31"),
              alarms.reference_of(dt.date(2026, 12, 1)): world("2026-11-30")}  # fmt: skip

    def tables(asked, reference):
        mine, theirs = months[reference]
        assert asked == tuple(firms)
        return {name: values for name, values in mine.items() if name != "bad"}, {"tax": theirs}

    joint, settings = DecisionInProcess(watch, tables), SETTINGS
    plain = []
    for month, (mine, theirs) in months.items():
        alarms.run(book, settings, joint, book.today(), "test")
        points = card.score_points(mine, {"tax": theirs})
        plain.append(sum((points < cutoff).astype(int) for cutoff in cutoffs))
        told = book.rows(sa.select(DECISIONS.c.step).where(DECISIONS.c.reference == month).order_by(DECISIONS.c.firm))
        assert [row["step"] for row in told] == np.maximum.reduce(plain).tolist()  # levels only rise
        clock.days(15)
    assert 0.04 < (plain[0] > 0).mean() < 0.2  # of a budget of a tenth
    rose = (plain[0] > 0).sum() + (plain[1] > plain[0]).sum()
    assert len(table_of(book, ALARMS)) == rose > 20
    assert load_decision(watch._folder / "bank", "watch").decision.watch
    with pytest.raises(DataError, match="this is decision watch for watch; r needs other for watch"):
        joint(firms.tolist(), model="other", purpose="watch", reference="r")
    book.close()
