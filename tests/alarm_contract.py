"""What alarms and cases promise, run against SQLite and PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter

import pytest
import sqlalchemy as sa
from bank_trial import SETTINGS, Joint, add_firms, consent, lend, table_of

from party_bank import alarms
from party_bank.book import day_of
from party_bank.book_check import check_book
from party_bank.book_tables import ALARMS, CASES, DECISIONS, FIRMS, HISTORY, LINES, case_number
from party_bank.contracts import draw
from party_bank.due import do_due
from party_bank.firms import withdraw_consent
from party_bank.joint import OpenedSteps
from party_bank.recurring import tasks
from party_bank.settings import BankSettings
from veilscore.errors import BookError, ConfigError, DataError

_firms = itertools.count()


class WatchJoint(Joint):
    """Answers each month under a job of its own."""

    job = ""

    def __call__(self, firms, *, model, purpose, reference):
        found = super().__call__(firms, model=model, purpose=purpose, reference=reference)
        return OpenedSteps(found.steps, found.model_sha256, found.holders, 6.5, self.job or f"job-of-{reference}")


def owing(book, n, manager="li", *, watched=True, limit=5_000_000):
    """Firms that drew on a contract and, unless told otherwise, consented to a watch."""
    firms = [f"A{next(_firms):05d}" for _ in range(n)]
    add_firms(book, firms, manager)
    for firm in firms:
        draw(book, lend(book, firm, limit), 100_000, f"draw-{firm}", "test")
    if watched:
        consent(book, firms, "watch")
    return firms


def silence(book):
    """End all consents, so that the firms of earlier tests are not under watch."""
    with book.writing("test") as entry:
        entry.db.execute(sa.text("UPDATE consents SET revoked_s = :now WHERE revoked_s IS NULL"), {"now": entry.at_s})


def of(book, table, firms):
    return book.rows(sa.select(table).where(table.c.firm.in_(firms)).order_by(table.c.id))


def run(book, joint):
    return alarms.run(book, SETTINGS, joint, book.today(), "test")


def next_month(book, clock):
    today = day_of(clock())
    first = (today.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
    clock.days((first - today).days)
    book.confirm_date(first, "test")  # a bank with nothing to enter for two months


def states(book, firms):
    return [row["state"] for row in of(book, LINES, firms)]


class AlarmContract:
    """Needs the fixtures book and clock."""

    @pytest.fixture(autouse=True)
    def a_month_of_its_own(self, book, clock):
        clock.days(0.01)
        silence(book)
        next_month(book, clock)

    def test_a_month_of_alarms(self, book, clock):
        firms = owing(book, 4, "wang")
        (silent,) = owing(book, 1, watched=False)
        joint = WatchJoint(dict(zip(firms, (0, 1, 2, None), strict=True)))
        ended = run(book, joint)
        assert {key: ended[key] for key in ("quiet", "watched", "unknown")} == {"quiet": 1, "watched": 2, "unknown": 1}
        assert ended["without consent"] >= 1
        assert joint.asked == [(alarms.reference_of(book.today()), "watch", tuple(firms))]
        assert states(book, [*firms, silent]) == ["drawn", "watched", "watched", "drawn", "drawn"]
        raised, cases = of(book, ALARMS, firms), of(book, CASES, firms)
        assert [(a["firm"], a["level"], a["month"]) for a in raised] == [
            (firms[1], 1, book.today().replace(day=1)),
            (firms[2], 2, book.today().replace(day=1)),
        ]
        look, act = SETTINGS.warnings.levels
        assert [(c["manager"], c["level"], c["next_step"], (c["due_on"] - book.today()).days) for c in cases] == [
            ("wang", 1, look.next_step, look.within_days),
            ("wang", 2, act.next_step, act.within_days),
        ]
        before = len(table_of(book, HISTORY))
        again = run(book, joint)
        assert (again["quiet"], again["watched"], len(joint.asked)) == (1, 2, 1)
        assert len(table_of(book, HISTORY)) == before
        assert [row["case"] for row in raised] == [row["id"] for row in cases]
        listed = [row for row in alarms.listed(book, "open", "wang") if row["firm"] in firms]
        assert [(row["firm"], row["name"]) for row in listed] == [(firms[k], f"Firm {firms[k]}") for k in (2, 1)]

    def test_an_alarm_is_a_level_that_rose(self, book, clock):
        firms = owing(book, 3)
        joint = WatchJoint(dict(zip(firms, (0, 1, 2), strict=True)))
        run(book, joint)
        closed = case_number(of(book, CASES, firms[2:])[0]["id"])
        alarms.settle(book, closed, "false", "the order came in", "wang")
        next_month(book, clock)
        joint.steps = dict(zip(firms, (1, 2, 2), strict=True))
        assert run(book, joint)["watched"] == 2
        cases = of(book, CASES, firms)
        assert [(c["firm"], c["level"], c["status"]) for c in cases] == [
            (firms[1], 2, "open"),
            (firms[2], 2, "closed"),
            (firms[0], 1, "open"),
        ]
        assert cases[0]["next_step"] == SETTINGS.warnings.levels[1].next_step
        assert Counter(a["case"] for a in of(book, ALARMS, firms))[cases[0]["id"]] == 2
        next_month(book, clock)
        assert run(book, joint)["watched"] == 0

    def test_what_a_person_found_closes_a_case_once(self, book):
        (firm,) = owing(book, 1)
        run(book, WatchJoint({firm: 1}))
        number = case_number(of(book, CASES, [firm])[0]["id"])
        with pytest.raises(ConfigError, match="'maybe' is no feedback; say true, false or other"):
            alarms.settle(book, number, "maybe", "", "wang")
        done = alarms.settle(book, number.lower(), "true", "lost its customer", "wang")
        before = len(table_of(book, HISTORY))
        assert alarms.settle(book, number, "true", "again", "wang")["note"] == done["note"] == "lost its customer"
        assert len(table_of(book, HISTORY)) == before
        with pytest.raises(BookError, match=f"case {number} was closed as true: its label stays"):
            alarms.settle(book, number, "false", "", "wang")
        for wrong in ("W9999999", "C0000001", "", "W" * 50):
            with pytest.raises(BookError, match=r"no case .* in the book; `veilscore bank warning list` shows all"):
                alarms.settle(book, wrong, "true", "", "wang")

    def test_due_raises_alarms_once_a_month(self, book, clock):
        (firm,) = owing(book, 1)
        joint = WatchJoint({firm: 1})

        def due():
            return [(d.status, d.result) for d in do_due(book, tasks(SETTINGS, joint)) if d.task == "warn"]

        assert due() == [("done", "1 alarms, 0 firms without one")]
        assert due() == []
        assert len(of(book, ALARMS, [firm])) == len(joint.asked) == 1
        next_month(book, clock)
        del joint.steps[firm]  # the job lacks it
        assert [(status, text[:18]) for status, text in due()] == [("failed", "the joint decision")]
        next_month(book, clock)
        joint.steps[firm] = 2
        assert due() == [("done", "1 alarms, 0 firms without one"), ("done", "0 alarms, 1 firms without one")]
        assert [row["level"] for row in of(book, ALARMS, [firm])] == [1, 2]  # of the month that was asked for first

    def test_a_month_that_nobody_asked_for_is_over(self, book, clock):
        owing(book, 1)
        month = book.today()

        def cannot(firms, **_):
            raise AssertionError(firms)

        warn = next(task for task in tasks(SETTINGS, cannot) if task.name == "warn")
        next_month(book, clock)
        with pytest.raises(BookError, match=f"the alarms of {month:%Y-%m} were not asked for in that month"):
            alarms.run(book, SETTINGS, cannot, month, "test")
        assert warn.run(book, "", month.replace(day=1)) == "its month has passed"

    def test_a_job_serves_one_month(self, book, clock):
        (firm,) = owing(book, 1)
        joint = WatchJoint({firm: 1})
        joint.job = f"alarms-{firm}"
        run(book, joint)
        with book.writing("test") as entry:
            assert alarms.last_job(entry) != joint.job  # of months before this one
        next_month(book, clock)
        with book.writing("test") as entry:
            assert alarms.last_job(entry) == joint.job
        joint.steps = {firm: 2}
        with pytest.raises(
            BookError, match=rf"job {joint.job} served the alarms of .* \(watch: true, last: {joint.job}\)"
        ):
            run(book, joint)
        assert [row["outcome"] for row in of(book, DECISIONS, [firm])] == ["watched", "asked"]
        joint.job = ""
        assert run(book, joint)["watched"] == 1

    def test_a_job_is_known_although_the_consent_of_its_first_firm_ended(self, book, clock):
        firms = owing(book, 3)
        joint = WatchJoint(dict.fromkeys(firms[1:], 0))  # the first month's job lacks a firm, so that it is asked again
        joint.job = f"alarms-{firms[0]}"
        with pytest.raises(DataError, match="lacks 1 of 3 firms"):
            run(book, joint)
        clock.days(0.01)
        withdraw_consent(book, firms[0], "watch", "test")
        assert run(book, joint)["quiet"] == 2
        next_month(book, clock)
        with book.writing("test") as entry:
            assert alarms.last_job(entry) == joint.job
        with pytest.raises(BookError, match=f"job {joint.job} served the alarms of"):
            run(book, joint)

    def test_what_was_decided_needs_no_consents_again(self, book, clock):
        (firm,) = owing(book, 1)
        joint = WatchJoint({firm: 0})
        run(book, joint)
        read = []
        note = lambda *given: read.append(given[2]) if "FROM consents" in given[2] else None  # noqa: E731
        sa.event.listen(book._engine, "before_cursor_execute", note)
        try:
            run(book, joint)
        finally:
            sa.event.remove(book._engine, "before_cursor_execute", note)
        assert read == []

    def test_bits_count_once_a_contract_year(self, book, clock):
        (firm,) = owing(book, 1)
        joint = WatchJoint({firm: 0})
        for _ in range(14):
            run(book, joint)
            next_month(book, clock)
        bits = [row["bits"] for row in of(book, DECISIONS, [firm])]
        assert bits == [6.5, *[0.0] * 11, 6.5, 0.0]

    def test_a_new_line_begins_anew(self, book, clock):
        (firm,) = owing(book, 1)
        run(book, WatchJoint({firm: 2}))
        line = of(book, LINES, [firm])[0]["id"]
        with book.writing("test") as entry:
            entry.db.execute(sa.text("UPDATE contracts SET status = 'ended' WHERE line = :line"), {"line": line})
            entry.db.execute(sa.text("UPDATE lines SET state = 'closed' WHERE id = :line"), {"line": line})
        draw(book, lend(book, firm, 5_000_000), 100_000, f"again-{firm}", "test")
        next_month(book, clock)
        assert run(book, WatchJoint({firm: 1}))["watched"] == 1

    def test_a_bank_without_a_watch(self, book):
        settings = BankSettings.model_validate({**SETTINGS.model_dump(), "decisions": {}})
        with pytest.raises(ConfigError, match=r"names no decision for watch: write decisions: \{watch: MODEL\}"):
            alarms.run(book, settings, WatchJoint({}), book.today(), "test")
        assert "warn" not in {task.name for task in tasks(settings, WatchJoint({}))}

    def test_z_the_book_balances(self, book):
        """Runs last: what tests above did by hand to consents, lines and contracts is known."""
        assert [text for text in check_book(book) if not text.startswith(("consents", "lines", "contract"))] == []
        case, alarm = table_of(book, CASES)[0], table_of(book, ALARMS)[0]
        with book.writing("test") as entry:
            entry.change(CASES, case["id"], feedback="", status="closed")
            entry.change(ALARMS, alarm["id"], level=9)
        wrong = "\n".join(check_book(book))
        assert f"case {case_number(case['id'])} is closed without a word of what was found" in wrong
        assert "is of level 9 and its decision of step" in wrong
        assert day_of(table_of(book, FIRMS)[0]["since_s"]) <= book.today()
