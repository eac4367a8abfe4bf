"""Rows for early warnings against a plain oracle: labels, point in time, feedback, files; cut-offs within a budget."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest
from bank_trial import SETTINGS, Clock, Joint, add_firms, consent, lend, new_url

from party_bank import alarms
from party_bank.alarm_budget import alarm_cutoffs, followed_cutoffs, month_job, totals_below, training_jobs
from party_bank.book import Book
from party_bank.book_tables import CASES
from party_bank.contracts import draw, months_after, repay
from party_bank.settings import BankSettings, WarningRules
from party_bank.warning_rows import (
    CaseFeedback,
    LabelledRows,
    OverdueFirms,
    Owing,
    feedback_of,
    labelled,
    no_feedback,
    overdue_of,
    owing_of,
    write_rows,
)
from veilscore.data.ingest import read_table
from veilscore.errors import ConfigError, DataError
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import NodeConfig

RULES = WarningRules.model_validate({"overdue": {"path": "overdue.csv", "after_days": 40}})
NEVER = np.datetime64("9999-12-31")
TODAY = dt.date(2026, 11, 30)


def days(*texts):
    return np.array(texts, "datetime64[D]")


def world(seed, n=120):
    """Loans, firms overdue, and feedback over three years around TODAY, some of it still to come."""
    rng = np.random.default_rng(seed)

    def day(size, low=-800, high=300):
        return np.datetime64(TODAY) + rng.integers(low, high, size).astype("timedelta64[D]")

    def names(size):
        return np.array([f"F{k:03d}" for k in rng.integers(0, n, size)])

    begins, fell, said = day(2 * n), day(n), day(n)
    cured = np.where(rng.random(n) < 0.5, fell + rng.integers(1, 200, n).astype("timedelta64[D]"), NEVER)
    feedback = CaseFeedback(names(n), said, said + rng.integers(0, 60, n), rng.choice(["true", "false", "other"], n))
    owing = Owing(names(2 * n), begins, begins + rng.integers(30, 400, 2 * n).astype("timedelta64[D]"))
    return owing, OverdueFirms(names(n), fell, fell + np.timedelta64(40, "D"), cured), feedback


def plainly(owing, overdue, rules, as_of, feedback):
    """The same by loops over firms and days: (firm, day) -> label."""
    today, found = np.datetime64(as_of), {}
    events = [e for e in zip(overdue.firms, overdue.begins, overdue.known, overdue.cured, strict=True) if e[2] <= today]
    ends = [np.datetime64(f"{year}-{month:02d}-01") - 1 for year in range(2024, 2027) for month in range(1, 13)]
    for day in (end for end in ends if end < np.datetime64("2026-11-01")):
        reach = np.datetime64(months_after(day.item(), rules.months))
        for firm in set(owing.firms.tolist()):
            loans = zip(owing.firms, owing.begins, owing.ends, strict=True)
            owes = any(f == firm and b <= day < e for f, b, e in loans)
            late = any(f == firm and b <= day and (c > day or c > today) for f, b, _, c in events)
            if not owes or late:
                continue
            falls = any(f == firm and day < b <= reach for f, b, _, _ in events)
            words = {
                w for f, b, e, w in zip(feedback.firms, feedback.begins, feedback.ends, feedback.word, strict=True)
                if f == firm and b <= day <= e <= today
            }  # fmt: skip
            if reach + rules.overdue.after_days <= today:
                if falls or "other" not in words:
                    found[firm, str(day)] = float(falls or "true" in words)
            elif words & {"true", "false"}:
                found[firm, str(day)] = float(falls or "true" in words)
    return found


def as_dict(rows: LabelledRows):
    keys = zip(rows.firms.tolist(), rows.days.astype(str).tolist(), strict=True)
    return dict(zip(keys, rows.overdue.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_those_of_the_oracle(seed):
    made = world(seed)
    rows = labelled(made[0], made[1], RULES, TODAY, made[2])
    assert as_dict(rows) == plainly(*made[:2], RULES, TODAY, made[2])
    assert 0 < rows.overdue.sum() < rows.overdue.size


@pytest.mark.parametrize("seed", range(3))
def test_nothing_after_the_day_of_making_moves_a_row(seed):
    """Whatever begins, becomes known, is cured or said after it may be anything."""
    owing, overdue, feedback = world(seed)
    rows = as_dict(labelled(owing, overdue, RULES, TODAY, feedback))
    today, (other_owing, other_overdue, other_said) = np.datetime64(TODAY), world(seed + 100)
    later = owing.begins > today
    changed = Owing(np.where(later, other_owing.firms, owing.firms), owing.begins, np.where(later, NEVER, owing.ends))
    unknown = overdue.known > today
    cured = np.where((overdue.cured > today) & ~unknown, NEVER, overdue.cured)
    fallen = OverdueFirms(
        np.where(unknown, other_overdue.firms, overdue.firms), np.where(unknown, today - 90, overdue.begins),
        overdue.known, cured,
    )  # fmt: skip
    unsaid = feedback.ends > today
    said = replace(feedback, word=np.where(unsaid, other_said.word, feedback.word), firms=feedback.firms.copy())
    assert unknown.any() and later.any() and unsaid.any()  # noqa: PT018 - the world has all of it
    assert as_dict(labelled(changed, fallen, RULES, TODAY, said)) == rows
    assert as_dict(labelled(owing, overdue, RULES, TODAY + dt.timedelta(days=31), feedback)) != rows


def test_without_both_kinds_there_is_nothing_to_learn():
    owing = Owing(np.array(["A"]), days("2025-01-01"), days("2026-01-01"))
    none = OverdueFirms(np.zeros(0, "<U1"), days(), days(), days())
    with pytest.raises(DataError, match=r"^of 12 firm-months whose 3 months are over on 2026-11-30, 0 fell overdue"):
        labelled(owing, none, RULES, TODAY, no_feedback())
    with pytest.raises(DataError, match="of 0 firm-months"):
        labelled(Owing(np.zeros(0, "<U1"), days(), days()), none, RULES, TODAY, no_feedback())


# --- from the book and files -----------------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path):
    book = Book(new_url(tmp_path), clock=Clock())
    yield book
    book.close()


def with_files(**warnings):
    return BankSettings.model_validate({**SETTINGS.model_dump(), "id_normaliser": "text", "warnings": warnings})


def test_what_is_owed_is_read_from_the_book_and_the_table_of_loans(book, tmp_path):
    add_firms(book, ["A", "B", "C"])
    numbers = {firm: lend(book, firm, 1_000_000) for firm in "ABC"}
    draw(book, numbers["A"], 1_000, "d1", "test")
    draw(book, numbers["B"], 1_000, "d2", "test")
    book._clock.days(20)
    repay(book, numbers["B"], 1_000, "r1", "test")
    from party_bank.contracts import end

    end(book, numbers["B"], "test")
    (tmp_path / "loans.csv").write_text("uscc,drawn_on,due_on\nC,2024-02-01,2024-08-01\nC,2025-01-01,\n")
    owing = owing_of(book, with_files(loans={"path": "loans.csv"}), tmp_path)
    found = sorted(zip(owing.firms.tolist(), owing.begins.astype(str), owing.ends.astype(str), strict=True))
    assert found == [
        ("A", "2026-11-30", "2027-11-30"),
        ("B", "2026-11-30", "2026-12-20"),
        ("C", "2024-02-01", "2024-08-01"),
        ("C", "2025-01-01", "9999-12-31"),
    ]


def test_a_table_of_firms_overdue(tmp_path):
    path = tmp_path / "overdue.csv"
    path.write_text("uscc,overdue_on,paid\nA,2026-05-01,2026-06-01\nA,2026-08-01,\n")
    found = overdue_of(with_files(overdue={"path": "overdue.csv", "after_days": 30, "cured": "paid"}), tmp_path)
    assert found.begins.astype(str).tolist() == ["2026-04-01", "2026-07-02"]
    assert found.cured.astype(str).tolist() == ["2026-06-01", "9999-12-31"]
    assert found.known_by(np.datetime64("2026-05-02")).cured.tolist() == [NEVER.item()]
    with pytest.raises(ConfigError, match=r"names no table of firms overdue: write warnings: \{overdue"):
        overdue_of(with_files(), tmp_path)
    with pytest.raises(DataError, match=r"overdue\.csv has no column 'fell'; it has"):
        overdue_of(with_files(overdue={"path": "overdue.csv", "day": "fell"}), tmp_path)
    path.write_text("uscc,overdue_on\nA,2026-05-01\nB,\n")
    with pytest.raises(DataError, match=r"overdue\.csv has no day in column 'overdue_on' of row 2: fill it"):
        overdue_of(with_files(overdue={"path": "overdue.csv"}), tmp_path)


def test_a_word_of_a_person_is_a_label_of_the_next_training(book):
    add_firms(book, firms := ["A", "B", "C", "D"])
    for firm in firms:
        draw(book, lend(book, firm), 1_000, f"d-{firm}", "test")
    consent(book, firms, "watch")
    alarms.run(book, SETTINGS, Joint(dict.fromkeys(firms, 1)), book.today(), "test")
    book._clock.days(5)
    for case, word in zip(book.rows(CASES.select().order_by(CASES.c.id)), ("true", "false", "other"), strict=False):
        alarms.settle(book, str(case["id"]), word, "", "li")
    said = feedback_of(book)
    assert list(zip(said.firms.tolist(), said.begins.astype(str), said.word.tolist(), strict=True)) == [
        ("A", "2026-10-31", "true"), ("B", "2026-10-31", "false"), ("C", "2026-10-31", "other"),
    ]  # fmt: skip
    n = len(firms)
    owing = Owing(np.array(firms), np.full(n, np.datetime64("2026-09-15")), np.full(n, np.datetime64("2027-09-15")))
    none = OverdueFirms(np.zeros(0, "<U1"), days(), days(), days())
    rows = as_dict(labelled(owing, none, RULES, book.today(), said))
    assert rows == {
        ("A", "2026-10-31"): 1.0,
        ("B", "2026-10-31"): 0.0,
        ("A", "2026-11-30"): 1.0,
        ("B", "2026-11-30"): 0.0,
    }


EVENTS = """
name: trial
id_normaliser: text
tables: {bookings: {source: bookings.parquet, firm: uscc, time: booked_on, known_after: 0d, numbers: [amount]}}
variables: [{table: bookings, of: amount, windows: [90d], aggregate: [sum]}]
"""


def test_rows_are_written_with_variables_as_of_their_days(tmp_path):
    (tmp_path / "trial.yaml").write_text(EVENTS)
    with duckdb.connect() as db:
        db.execute("CREATE TABLE b (uscc TEXT, booked_on DATE, amount DOUBLE)")
        db.execute("INSERT INTO b VALUES ('A', '2026-05-30', 1), ('A', '2026-05-31', 10), ('B', '2026-01-01', 100)")
        db.table("b").write_parquet(str(tmp_path / "bookings.parquet"))
    rows = LabelledRows(
        np.array(["A", "B", "A"]), days("2026-05-31", "2026-05-31", "2026-06-30"), np.array([1.0, 0.0, 0.0])
    )
    entry = {
        "path": tmp_path / "panel.parquet", "id_columns": ["uscc", "as_of"], "label_column": "overdue",
        "features": {"catalogue": str(tmp_path / "trial.yaml"), "events": tmp_path},
    }  # fmt: skip
    node = NodeConfig.model_validate({"name": "bank", "role": "bank", "datasets": {"panel": entry}})
    path = write_rows(node, with_files(dataset="panel"), rows)
    read = read_table(path, ("uscc", "as_of"), "overdue", normaliser="text")
    assert read.ids.tolist() == ["A@2026-05-31", "B@2026-05-31", "A@2026-06-30"]
    assert read.label.tolist() == [1.0, 0.0, 0.0]
    assert read.columns["bookings.amount.sum.90d"].tolist() == [1.0, 0.0, 11.0]
    with pytest.raises(ConfigError, match=r"bank\.yaml needs warnings: \{dataset: ...\}.*it has: panel"):
        write_rows(node, with_files(dataset="other"), rows)
    entry.pop("label_column")
    bare = NodeConfig.model_validate({"name": "bank", "role": "bank", "datasets": {"panel": entry}})
    with pytest.raises(ConfigError, match=r"set id_columns: \[uscc, as_of\] and label_column"):
        write_rows(bare, with_files(dataset="panel"), rows)
    jobs = training_jobs("bank", {"bank": "panel", "tax": "panel"}, with_files(), rows)
    card, trees = (parse_job(text) for text in jobs.values())
    assert (card.parameters.rows_per_firm, card.parameters.firm_weight, len(card.parameters.as_of)) == (2, "shared", 2)
    assert (card.parameters.max_bin, card.parameters.min_bin_fraction) == (64, 0.005)  # the smallest level has 2 %
    assert (trees.task, trees.parameters.rows_per_firm, trees.holders) == ("train_boosting", 1, ("tax",))


# --- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_limits", [9, 31])
def test_cut_offs_disturb_the_share_of_firms_that_is_allowed(n_limits):
    rng = np.random.default_rng(n_limits)
    totals = 500 + 80 * rng.standard_normal(200_000)
    limits = np.quantile(totals, (np.arange(n_limits) + 1) / (n_limits + 1))
    counts = np.histogram(totals, [-np.inf, *limits, np.inf])[0] + rng.normal(0, 30, n_limits + 1)
    shares = (0.2, 0.1, 0.05, 0.02)  # the last lies beyond the lowest limit
    found = totals_below(limits, counts, shares)
    assert [(totals < cut).mean() for cut in found] == pytest.approx(shares, rel=0.1)
    with pytest.raises(ConfigError, match="the model tells no firms apart"):
        totals_below(np.array([1.0]), np.array([5.0, 5.0]), shares)


def test_a_month_s_job_goes_on_from_the_last():
    datasets, watch = {"bank": "now", "tax": "now"}, {"watch": "early"}
    settings = with_files().model_copy(update={"decisions": watch})
    last = f"alarms-2026-10-{'0' * 8}-{'1' * 16}"
    job = parse_job(month_job("bank", datasets, settings, dt.date(2026, 11, 3), last))
    assert (job.name, job.purpose, job.parameters.decision, job.parameters.last) == (
        "alarms-2026-11",
        "watch",
        "early",
        last,
    )
    assert parse_job(month_job("bank", datasets, settings, dt.date(2026, 11, 3), None)).parameters.last is None
    with pytest.raises(ConfigError, match="names no decision for watch"):
        month_job("bank", datasets, settings.model_copy(update={"decisions": {}}), TODAY, None)


MODEL = SimpleNamespace(scaling=SimpleNamespace(units=100), sha256=bytes(32))


def sizing(folder, counts, cutoffs, **changes):
    """A job's folder with counts of none, look and act."""
    folder.mkdir(exist_ok=True)
    steps = dict(zip(("none", "look", "act"), counts, strict=True))
    said = {"decision": "early", "noise": 5.0, "steps": steps, "order": list(steps), "cutoffs": {"hazard": cutoffs},
            "watch": True, "models": {"hazard": MODEL.sha256.hex()}}  # fmt: skip
    (folder / "sized.json").write_text(json.dumps(said | changes), encoding="utf-8")
    return folder


def test_cut_offs_follow_the_firms_of_today(tmp_path, monkeypatch):
    monkeypatch.setattr("party_bank.alarm_budget.load_model", lambda _: MODEL)
    points = np.random.default_rng(4).normal(540, 30, 200_000)  # meant were a tenth and a fiftieth below 560 and 545
    below = [float((points < cutoff).sum()) for cutoff in (545, 560)]
    counts = (points.size - below[1], below[1] - below[0], below[0])
    assert below[1] / points.size > 0.7
    found = followed_cutoffs(sizing(tmp_path / "job", counts, [545, 560]), tmp_path, [0.1, 0.02])
    assert [float((points < cutoff).mean()) for cutoff in found] == pytest.approx([0.1, 0.02], abs=0.005)
    for counts, why in (
        ((5000.0, 4.0, 300.0), "counted 4 firms at a level with noise of 5"),
        ((9.0,) * 3, "counted 9"),
    ):
        with pytest.raises(ConfigError, match=why):
            followed_cutoffs(sizing(tmp_path / "job", counts, [545, 560]), tmp_path, [0.1, 0.02])
    counts = (600.0, 300.0, 100.0)
    for changes, why in (
        ({"watch": False}, "counted by decision early, which is no watch"),
        ({"models": {"hazard": "ab" * 32}}, "by another model than .* as it is filed"),
        ({"models": {}}, "no counts of a watch with one measure"),
    ):
        with pytest.raises(ConfigError, match=why):
            followed_cutoffs(sizing(tmp_path / "job", counts, [545, 560], **changes), tmp_path, [0.1, 0.02])
    with pytest.raises(ConfigError, match="3 counts for 3 cut-offs"):
        followed_cutoffs(sizing(tmp_path / "job", counts, [540, 545, 560]), tmp_path, [0.1, 0.02])
    with pytest.raises(ConfigError, match="job has no counts of a watch with one measure"):
        followed_cutoffs(sizing(tmp_path / "job", (1.0,) * 3, [545, "x"]), tmp_path, [0.1])
    with pytest.raises(ConfigError, match="counts of a sizing not found"):
        followed_cutoffs(tmp_path, tmp_path, [0.1])


def test_a_model_without_a_hold_out_has_no_cut_offs(tmp_path):
    with pytest.raises(ConfigError, match="has no counts of a hold-out, which say how many firms a cut-off disturbs"):
        alarm_cutoffs(tmp_path, [0.1])


@pytest.mark.parametrize(
    ("levels", "why"),
    [
        ([{"name": "a", "share": 0.1, "next_step": "x"}, {"name": "b", "share": 0.2, "next_step": "x"}], "must fall"),
        ([{"name": "a", "share": 0.2, "next_step": "x"}, {"name": "a", "share": 0.1, "next_step": "x"}], "one name"),
        ([], "at least 1"),
    ],
)
def test_levels_that_mean_nothing_are_refused(levels, why):
    with pytest.raises(ValueError, match=why):
        WarningRules.model_validate({"levels": levels})
