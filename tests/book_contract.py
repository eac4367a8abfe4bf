"""What the bank's book promises, run against SQLite and PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from bank_trial import NOON, SETTINGS, add_firms, add_line, lend, one, table_of

from party_bank.book_check import check_book
from party_bank.book_tables import CONTRACTS, DRAWS, FIRMS, HISTORY, LINES, STATES, TRANSITIONS, WORK, metadata
from party_bank.contracts import draft_contract, draw, end, owed, repay, sign
from party_bank.due import Recurring, daily, do_due
from party_bank.firms import put_firms
from party_bank.limits import check_settings, room
from veilscore.errors import BookError, StateError

_firms = itertools.count()
WORKER = Path(__file__).with_name("book_worker.py")


def firm(book):
    name = f"F{next(_firms):05d}"
    add_firms(book, [name])
    return name


def at_once(url, *words, n=2):
    """Run the worker in n processes at one time; returns what each printed."""
    command = [sys.executable, WORKER, url, *words]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    printed = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * n
    return printed


class BookContract:
    """Needs the fixtures url, book (opened with `clock`) and clock."""

    def test_tables_are_those_of_the_migrations(self, book):
        with book._engine.connect() as db:
            context = MigrationContext.configure(db, opts={"version_table": "book_version"})
            assert compare_metadata(context, metadata) == []

    @pytest.mark.parametrize("before", STATES)
    def test_a_line_moves_along_the_table_alone(self, book, before):
        for after in STATES:
            name = firm(book)
            with book.writing("test") as entry:
                line = add_line(entry, name, state=before)
            if after in TRANSITIONS[before]:
                with book.writing("test") as entry:
                    entry.move(line, after, "why")
                state, reason = after, "why"
            else:
                refused = pytest.raises(BookError, match=f"line {line} is {before}; it cannot become {after}")
                with refused, book.writing("test") as entry:
                    entry.move(line, after)
                state, reason = before, ""
            row = book.rows(sa.select(LINES).where(LINES.c.id == line))[0]
            assert (row["state"], row["reason"]) == (state, reason)

    def test_one_open_line_a_firm_and_product(self, book):
        name = firm(book)
        with book.writing("test") as entry:
            line = add_line(entry, name)
        with pytest.raises(BookError, match="do it again"), book.writing("test") as entry:
            add_line(entry, name)
        with book.writing("test") as entry:
            entry.move(line, "closed")
            add_line(entry, name)

    @pytest.mark.parametrize("statement", ["UPDATE history SET actor = 'x'", "DELETE FROM history"])
    def test_history_is_never_changed(self, book, statement):
        name = firm(book)
        before = table_of(book, HISTORY)
        with pytest.raises((BookError, StateError)), book.writing("test") as entry:
            entry.db.execute(sa.text(statement))
        assert table_of(book, HISTORY) == before
        assert before[-1]["content"]["name"] == f"Firm {name}"

    def test_a_reader_sees_one_state_and_changes_nothing(self, book):
        name = firm(book)
        query = sa.select(FIRMS).where(FIRMS.c.firm == name)

        def change(to):
            with book.writing("test") as entry:
                entry.change(FIRMS, entry.rows(query)[0]["id"], name=to)

        with book.reading() as seen:
            before = seen.rows(query)
            with ThreadPoolExecutor(1) as other:
                other.submit(change, "another").result(30)
            assert seen.rows(query) == before
        assert book.rows(query)[0]["name"] == "another"
        with book.one_state():
            assert book.rows(query)[0]["name"] == "another"
            with ThreadPoolExecutor(1) as other:
                other.submit(change, "a third").result(30)
                assert other.submit(book.rows, query).result(30)[0]["name"] == "a third", "of this thread alone"
            with book.reading() as seen:
                assert book.rows(query) == seen.rows(query)
                assert seen.rows(query)[0]["name"] == "another"
        assert book.rows(query)[0]["name"] == "a third"
        with pytest.raises(StateError), book.reading() as seen:
            seen.change(FIRMS, 1, name="other")
        change("a fourth")
        assert book.rows(query)[0]["name"] == "a fourth", "a connection that read may write again"

    def test_a_text_that_is_too_long_is_refused_in_words(self, book):
        name = firm(book)
        (row,) = book.rows(sa.select(FIRMS).where(FIRMS.c.firm == name))
        about = {"industry": "trade", "region": "x", "manager": "lin"}
        whole = {"firm": "LONG", "name": "华" * 200, **about}
        with pytest.raises(BookError, match="name in firms has 201 letters; at most 200 are kept"):
            put_firms(book, [whole | {"name": "华" * 201}], "test")
        with pytest.raises(BookError, match="manager in firms has 81 letters"), book.writing("test") as entry:
            entry.change(FIRMS, row["id"], manager="m" * 81)
        assert put_firms(book, [whole], "test") == 1

    def test_an_error_leaves_nothing(self, book):
        name = firm(book)
        before = len(table_of(book, HISTORY))
        with pytest.raises(BookError), book.writing("test") as entry:
            entry.move(add_line(entry, name), "renewed")
        assert len(table_of(book, HISTORY)) == before
        assert book.rows(sa.select(LINES).where(LINES.c.firm == name)) == []

    def test_money(self, book):
        number = lend(book, name := firm(book), 10_000_000)
        assert draw(book, number, 6_000_000, "d1" + name, "test") == 6_000_000
        assert draw(book, number, 6_000_000, "d1" + name, "test") == 6_000_000  # the same request
        for action, amount, request, why in (
            (draw, 4_000_001, "d2", "40,000.00 left"),
            (draw, 0, "d2", "cannot be drawn"),
            (draw, 1, "d1", "was used for something else"),
            (repay, 6_000_001, "r1", "60,000.00 is owed"),
        ):
            with pytest.raises(BookError, match=why):
                action(book, number, amount, request + name, "test")
        with pytest.raises(BookError, match="cannot end before"):
            end(book, number, "test")
        assert repay(book, number, 6_000_000, "r1" + name, "test") == 0
        end(book, number, "test")
        end(book, number, "test")
        with pytest.raises(BookError, match="is ended; it cannot be drawn on"):
            draw(book, number, 1, "d3" + name, "test")
        with pytest.raises(BookError, match="is ended; it cannot be signed"):
            sign(book, number, "test")
        with pytest.raises(BookError, match="no contract"):
            draw(book, "C-none", 1, "d4", "test")

    def test_caps(self, book):
        name = firm(book)
        lend(book, name, 20_000_000)
        with book.writing("test") as entry:
            assert room(entry, SETTINGS, name, "tax") == 2_000_000  # of the firm's 220,000
            line = one(entry, LINES, add_line(entry, name, "tax"))
            with pytest.raises(BookError, match=r"30,000\.00 is over what tax still allows this firm, 20,000\.00"):
                draft_contract(entry, SETTINGS, line, 3_000_000, 6, 500)
        for cap in (
            {"firm_cap": 100_000},
            {"products": {"flow": {**SETTINGS.products["flow"].model_dump(), "cap": 1}}},
        ):
            with pytest.raises(BookError, match=r"cap is .* already: raise the cap"):
                check_settings(book, SETTINGS.model_validate({**SETTINGS.model_dump(), **cap}))

    def test_the_clock_may_not_jump(self, book, clock):
        firm(book)
        start = clock.now_s
        clock.now_s = start - 3600
        with book.writing("test") as entry:
            assert entry.at_s == start
        for days in (-2, 46):
            clock.now_s = start + days * 86400
            with pytest.raises(BookError, match="mend the clock, or if it is right say so once"):
                firm(book)
            with pytest.raises(BookError, match="the clock of this machine says"):
                book.confirm_date(dt.date(1999, 1, 1), "test")
        day = dt.datetime.fromtimestamp(clock.now_s).astimezone().date()
        book.confirm_date(day, "test")
        firm(book)
        assert table_of(book, HISTORY)[-2]["content"] == {"date": day.isoformat()}

    def test_due_work_is_done_once(self, book, clock):
        ran, name = [], f"task{next(_firms)}"

        def run(_book, firm, day):
            ran.append((firm, day))
            if len(ran) == 1:
                raise BookError("not yet")
            return "done it"

        tasks = [Recurring(name, daily, run)]
        first = do_due(book, tasks)
        assert [(d.status, d.result) for d in first] == [("failed", "not yet")]
        assert [(d.status, d.result) for d in do_due(book, tasks)] == [("done", "done it")]
        assert do_due(book, tasks) == do_due(book, tasks) == []
        clock.days(1)
        assert len(do_due(book, tasks)) == 1
        assert len(ran) == 3
        rows = book.rows(sa.select(WORK).where(WORK.c.task == name))
        assert [(r["status"], r["attempts"]) for r in rows] == [("done", 2), ("done", 1)]

    def test_what_a_dead_process_had_taken_is_done(self, book, url):
        assert at_once(url, "die", n=1) == [["taken"]]
        done = do_due(book, [Recurring("die", daily, lambda *_: "mine")])
        assert [(d.task, d.result) for d in done] == [("die", "mine")]

    def test_two_processes_lose_nothing_and_stay_within_a_cap(self, book, url):
        number = lend(book, firm(book), 10_000_000)
        add_firms(book, [f"cap-{n:03d}" for n in range(12)])
        printed = at_once(url, "work", number)
        with book.writing("test") as entry:
            contract = entry.scalar(sa.select(CONTRACTS.c.id).where(CONTRACTS.c.number == number))
            assert owed(entry, contract) == 2 * 10 * 1000
            assert entry.scalar(sa.select(sa.func.count()).where(DRAWS.c.contract == contract)) == 20
            capped = entry.scalar(sa.select(sa.func.sum(CONTRACTS.c.amount)).where(CONTRACTS.c.product == "capped"))
        assert sorted(itertools.chain(*printed)) == sorted(f"work-{n}" for n in range(10))
        assert capped == 40_000_00  # 8 of 12 firms fit

    def test_the_book_balances(self, book):
        """Runs last: after all that the tests above did."""
        wrong = [text for text in check_book(book) if "without a contract" not in text]
        assert wrong == []  # lines above were put into states by hand
        number = lend(book, firm(book))
        with book._engine.begin() as db:
            db.execute(CONTRACTS.update().where(CONTRACTS.c.number == number).values(amount=1))
            db.execute(FIRMS.insert().values(firm="X", name="", industry="", region="", manager="", since_s=NOON))
        found = "\n".join(check_book(book))
        assert "amount is not what the history says" in found
        assert "is not in the history" in found
