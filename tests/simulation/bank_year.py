"""A year of a bank's lending over real nodes, with faults; prints JSON: how often it was killed, and what is wrong.

Each piece of the bank's work is a fork of this process, killed before its first commit, then before its second, and so
on until it ends; this process itself holds neither book nor connection. Nodes are processes too: they are killed and
started again. Months pass by the book's clock.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from bank_trial import Clock
from consent_issuer import KEY
from killed_bank import forked
from trial_decisions import expected
from trial_lending import add_known_firms, consent_to_offers, give_tokens, lending_settings, note_all

from party_bank import applications, campaigns, contracts, renewals
from party_bank.applications import ApplicationRequest, by_ladder
from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import CONTRACTS, DECISIONS, OFFERS, RENEWALS
from party_bank.due import do_due
from party_bank.firms import withdraw_consent
from party_bank.joint_batch import BatchJoint
from party_bank.joint_online import OnlineJoint
from party_bank.offers import secret_of
from party_bank.own_node import OwnNode
from party_bank.recurring import tasks
from veilscore.errors import BookError
from veilscore.fabric.process import running_pid
from veilscore.files.home_key import home_key
from veilscore.node import processes
from veilscore.release.consent import issue_revocations
from veilscore.release.issuer import import_consent
from veilscore.terms.node_config import load_node_config

LIMITS = lending_settings()
NAMES = ("coordinator", "bank", "tax", "registry")
YEARS_S = 500 * 86_400.0  # that consents last
MONTH_S = 30 * 86_400.0
KEPT = 3  # a fork's exit code: what was asked for is kept, and waits
FULL = 100 * LIMITS.product("flow").ladder[0]  # hundredths of the least limit


class Bank:
    """What a fork works with: the book at a month of the year, and ways to decide."""

    def __init__(self, homes: Path, month: float, kill_at: int = 0) -> None:
        self.homes, self.home = homes, homes / "bank"
        begun_s = json.loads((homes / "year.json").read_text())["begun_s"]
        self.book = Book.of_home(self.home, LIMITS, clock=Clock(begun_s + month * MONTH_S))
        self.node, self.key = OwnNode(self.home), home_key(self.home)
        commits = itertools.count(1)

        def count(_db: object) -> None:
            if next(commits) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(self.book._engine, "commit", count)

    @property
    def online(self) -> OnlineJoint:
        return OnlineJoint(self.book, self.node, timeout_s=5.0)

    @property
    def batch(self) -> BatchJoint:
        job, config = self.homes / "campaign.yaml", load_node_config(self.home)
        return BatchJoint(self.book, self.node, config, job, source="main", actor="year")

    def offer(self, firm: str) -> applications.Row:
        return self.book.rows(sa.select(OFFERS).where(OFFERS.c.firm == firm))[0]

    def contract(self, firm: str) -> str:
        """The newest contract of a firm."""
        found = self.book.rows(sa.select(CONTRACTS).where(CONTRACTS.c.firm == firm).order_by(CONTRACTS.c.id.desc()))
        return str(found[0]["number"])


Work = Callable[..., None]


def campaign(bank: Bank, firms: list[str]) -> None:
    campaigns.create(bank.book, LIMITS, "spring", "flow", "year")
    campaigns.run(bank.book, LIMITS, bank.batch, "spring", bank.key, "year", firms)


def by_code(bank: Bank, firm: str) -> None:
    """The owner scans its code, applies, signs and draws."""
    number = bank.offer(firm)["number"]
    asked = ApplicationRequest(f"code-{firm}", firm, "flow", FULL, 12, number, secret_of(bank.key, number))
    _lend(bank, asked, firm)


def online(bank: Bank, firm: str) -> None:
    _lend(bank, ApplicationRequest(f"web-{firm}", firm, "flow", FULL, 12), firm)


def _lend(bank: Bank, asked: ApplicationRequest, firm: str) -> None:
    found = applications.apply(bank.book, LIMITS, bank.online, by_ladder, asked, "year")
    if found["contract"]:
        contracts.sign(bank.book, found["contract"], "year")
        contracts.draw(bank.book, found["contract"], FULL // 2, f"draw-{firm}", "year")


def due(bank: Bank) -> None:
    """What the timer calls, twice."""
    work = tasks(LIMITS, bank.online)
    done = do_due(bank.book, work)
    again = do_due(bank.book, work)
    failed = {one.task for one in done if one.status == "failed"}
    if [one for one in again if one.task not in failed]:
        raise AssertionError(f"due did something twice: {again}")
    if failed:
        raise BookError(f"due kept {failed}")


def accept(bank: Bank, firm: str) -> None:
    renewals.accept(bank.book, LIMITS, bank.contract(firm), "year")


def repay_all(bank: Bank, firm: str, request: str) -> None:
    number = bank.contract(firm)
    contracts.repay(bank.book, number, FULL // 2, request, "year")
    contracts.end(bank.book, number, "year")


def withdrawn(bank: Bank, firm: str, purpose: str) -> None:
    withdraw_consent(bank.book, firm, purpose, "year")


class Year:
    """Lets work be done month by month, and keeps what went wrong."""

    def __init__(self, homes: Path) -> None:
        self.homes, self.month, self.kills, self.wrong = homes, 0.0, 0, list[str]()

    def run(self, work: Work, *words: object, kill_at: int = 0) -> int:
        """Do some work in a fork, and return how it ended."""

        def child() -> None:
            bank = Bank(self.homes, self.month, kill_at)
            try:
                work(bank, *words)
            except BookError as error:
                (self.homes / "kept").write_text(str(error))
                os._exit(KEPT)

        return forked(child)

    def killed_at_each_step(self, work: Work, *words: object) -> None:
        """Do some work, killed before its first commit, its second, and so on until it ends."""
        for kill_at in itertools.count(1):
            code = self.run(work, *words, kill_at=kill_at)
            self.check(f"{work.__name__}, killed at {kill_at}")
            if code != -signal.SIGKILL:
                self.expect(code == 0, f"{work.__name__} ended with {code}: {self.said()}")
                return
            self.kills += 1

    def done(self, work: Work, *words: object) -> None:
        """Do some work at once."""
        self.expect((code := self.run(work, *words)) == 0, f"{work.__name__} ended with {code}: {self.said()}")

    def kept(self, work: Work, *words: object, why: str) -> None:
        """Let some work find out that it has to wait."""
        code = self.run(work, *words)
        self.expect(code == KEPT and why in self.said(), f"{work.__name__} was not kept: {code}, {self.said()}")

    def said(self) -> str:
        path = self.homes / "kept"
        return path.read_text() if path.exists() else ""

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(f"month {self.month}: {what}")

    def check(self, when: str) -> None:
        with self.book() as book:
            self.wrong += [f"month {self.month}, {when}: {one}" for one in check_book(book)]

    @contextlib.contextmanager
    def book(self) -> Iterator[Book]:
        book = Book.of_home(self.homes / "bank", LIMITS, clock=Clock(self.begun_s + self.month * MONTH_S))
        try:
            yield book
        finally:
            book.close()

    @property
    def begun_s(self) -> float:
        return float(json.loads((self.homes / "year.json").read_text())["begun_s"])

    def step_of(self, firm: str, kind: str) -> int | None:
        with self.book() as book:
            query = sa.select(DECISIONS.c.step).where(DECISIONS.c.firm == firm, DECISIONS.c.kind == kind)
            found = book.rows(query.order_by(DECISIONS.c.id.desc()))
        return found[0]["step"] if found else None

    @contextlib.contextmanager
    def down(self, name: str) -> Iterator[None]:
        """Kill a node, and start it again after the block."""
        pid = running_pid(self.homes / name)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        while running_pid(self.homes / name) is not None:
            time.sleep(0.05)
        try:
            yield
        finally:
            start(self.homes, name)


def start(homes: Path, *names: str) -> None:
    for name in names:
        processes.spawn(homes / name)
    for name in names:  # each answers the bank's own node
        for _ in range(600):
            if forked(_answers, homes, name) == 0:
                break
            time.sleep(0.3)


def steps_of(homes: Path, name: str) -> dict[str, int]:
    """The plain steps of all firms by a decision; in a fork, since what reads data sets starts threads."""
    path = homes / "steps.json"
    if forked(lambda: path.write_text(json.dumps(expected(homes, name)))):
        raise RuntimeError("the plain decision failed")
    return json.loads(path.read_text())


def _answers(homes: Path, name: str) -> None:
    """End well if a node answers; in a fork, so that this process never opens a connection."""
    from veilscore.v1 import control_pb2

    home = homes / name
    with OwnNode(home) as node:
        node.ask("Ping", control_pb2.Empty(), control_pb2.Empty, 2.0)


def lowered(homes: Path, firms: list[str], steps: dict[str, int]) -> str:
    """The first of these firms whose step would change by `revise`: how much its turnover counts, the training says."""
    path = homes / "data" / "tax.csv"
    kept = path.read_bytes()
    revise(homes, *firms)
    now = steps_of(homes, "admit")
    path.write_bytes(kept)
    return next(firm for firm in firms if now[firm] != steps[firm])


def revise(homes: Path, *firms: str) -> None:
    """The tax bureau learns that firms' invoices were void: their turnover is a fraction of what it was."""
    path = homes / "data" / "tax.csv"
    with path.open(encoding="utf-8", newline="") as file:
        heads, *rows = csv.reader(file)
    for row in rows:
        if row[heads.index("uscc")] in firms:
            row[heads.index("turnover")] = "1"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([heads, *rows])


@dataclass(frozen=True)
class Firms:
    """Who lives the year: four that are offered a limit, and six that apply themselves."""

    offered: list[str]
    asked: list[str]
    online: list[str]
    steps: dict[str, int]


def live(homes: Path) -> Year:
    """Live the year; nodes run at its beginning and its end."""
    (homes / "year.json").write_text(json.dumps({"begun_s": time.time()}))
    year = Year(homes)
    firms = meet(year)
    spring(year, firms)
    now = summer(year, firms)
    autumn(year, firms)
    renewing(year, firms, now)
    year.check("at the end")
    return year


def meet(year: Year) -> Firms:
    """Take firms and their consents into the book."""
    homes, steps = year.homes, steps_of(year.homes, "limit")
    with year.book() as book:
        known = add_known_firms(homes, book, 80)
        good = [firm for firm in known if steps[firm]]
        offered, changes = good[:4], lowered(homes, good[7:], steps)
        online_ = [*good[4:7], changes, *[firm for firm in good[7:] if firm != changes][:2]]
        asked = [*offered, *[firm for firm in known if not steps[firm]][:4]]
        long = {"expires_s": time.time() + YEARS_S}
        consent_to_offers(homes, asked, **long)
        give_tokens(homes, online_, "application", **long)
        give_tokens(homes, (*offered[:3], *online_[:2], online_[3]), "renewal", **long)
        note_all(homes, book)
    return Firms(offered, asked, online_, steps)


def spring(year: Year, firms: Firms) -> None:
    """A campaign, and applications while nodes go down; a consent is withdrawn while its application waits."""
    first, second, third = firms.online[:3]
    year.killed_at_each_step(campaign, firms.asked)
    year.killed_at_each_step(by_code, firms.offered[0])
    for firm in firms.offered[1:3]:
        year.done(by_code, firm)
    year.kept(by_code_again, firms.offered[1], why="was used for an application")
    year.month = 1
    with year.down("tax"):
        year.kept(online, first, why=f"application/web-{first} is kept and not decided yet, as tax failed it")
    year.killed_at_each_step(online, first)
    year.expect(year.step_of(first, "application") == firms.steps[first], "another step after the node came back")
    with year.down("bank"):
        year.kept(online, second, why="is kept and not decided yet")
    year.done(online, second)
    year.month = 2  # the last offer has expired
    year.killed_at_each_step(due)
    with year.down("registry"):
        year.kept(online, third, why="registry failed it")
        year.month = 2.1  # three days later
        year.done(withdrawn, third, "application")
        ended = issue_revocations(KEY, "portal", [], firms=[third], number=1)
        import_consent(year.homes / "tax", ended, "revocations", "portal-1")
    year.kept(online, third, why=f"{third} gave no consent for application that is valid now")


def summer(year: Year, firms: Firms) -> dict[str, int]:
    """Invoices are revised: who was decided on stays, who comes now is decided on what is true now."""
    first, fourth = firms.online[0], firms.online[3]
    year.month = 3
    revise(year.homes, first)
    revise(year.homes, fourth)
    now = steps_of(year.homes, "admit")
    year.expect(now[fourth] != firms.steps[fourth], "the revised invoices change nothing: choose another firm")
    year.done(online, first)
    year.expect(year.step_of(first, "application") == firms.steps[first], "a repeat was decided anew")
    year.done(online, fourth)
    year.expect(year.step_of(fourth, "application") == now[fourth], "the revised record was not used")
    return now


def autumn(year: Year, firms: Firms) -> None:
    """Nothing but the timer, and two applications, one of them without a coordinator."""
    for month in range(4, 10):
        year.month = month
        year.done(due)
    year.done(online, firms.online[4])
    with year.down("coordinator"):
        year.done(online, firms.online[5])  # a decision on one firm needs none


def renewing(year: Year, firms: Firms, now: dict[str, int]) -> None:
    """Contracts end: one is renewed, one repaid, one lapses; the tax bureau is down when the timer calls first."""
    first, second = firms.online[:2]
    year.month = 10
    with year.down("tax"):
        year.kept(due, why="due kept {'renew'}")
    year.killed_at_each_step(due)
    year.killed_at_each_step(accept, firms.offered[0])
    year.killed_at_each_step(repay_all, firms.offered[1], "last")
    year.month = 11
    year.done(due)
    year.expect(year.step_of(first, "renewal") == now[first], "the renewal was not decided on the revised record")
    year.done(accept, second)
    for month in (12, 13):
        year.month = month
        year.done(due)
    with year.book() as book:
        lapsed = book.rows(sa.select(RENEWALS.c.firm).where(RENEWALS.c.status == "lapsed"))
    year.expect({row["firm"] for row in lapsed} == set(firms.offered[1:3]), f"lapsed: {lapsed}")


def by_code_again(bank: Bank, firm: str) -> None:
    """Somebody tries an offer's code a second time."""
    number = bank.offer(firm)["number"]
    asked = ApplicationRequest("second", firm, "flow", FULL, 12, number, secret_of(bank.key, number))
    applications.apply(bank.book, LIMITS, bank.online, by_ladder, asked, "thief")


def main() -> None:
    homes = Path(sys.argv[1])
    try:
        start(homes, *NAMES)
        year = live(homes)
    finally:
        for name in NAMES:
            if running_pid(homes / name) is not None:
                processes.stop(homes / name)
    sys.stdout.write(json.dumps([year.kills, year.wrong]))


if __name__ == "__main__":
    main()
