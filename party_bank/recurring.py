"""The recurring work of a bank: what `veilscore bank due` does."""

from __future__ import annotations

import datetime as dt

from party_bank import alarms, offers, renewals
from party_bank.alarms import QUIET, RAISED, WATCH
from party_bank.book import Book
from party_bank.due import Recurring, daily
from party_bank.joint import JointDecision
from party_bank.renewals import RENEWAL, Inflow
from party_bank.settings import BankSettings


def tasks(settings: BankSettings, joint: JointDecision, inflow: Inflow | None = None) -> list[Recurring]:
    """Return what comes back: offers that expire, renewals to prepare, proposals that lapse, a month's alarms.

    joint : decides on renewals and alarms; without one their rows stay failed until there is.
    """

    def expire(book: Book, _firm: str, _day: dt.date) -> str:
        return f"{offers.expire(book):,} offers expired"

    def lapse(book: Book, _firm: str, _day: dt.date) -> str:
        return f"{renewals.lapse(book):,} proposals lapsed"

    def prepare(book: Book, firm: str, _day: dt.date) -> str:
        with book.reading() as entry:
            contracts = [row["number"] for row in renewals.due_contracts(entry, settings, firm)]
        done = [renewals.prepare(book, settings, joint, number, "due", inflow) for number in contracts]
        return (
            ", ".join(f"{number}: {row['status']}" for number, row in zip(contracts, done, strict=True))
            or "its window has passed"
        )

    def warn(book: Book, _firm: str, day: dt.date) -> str:
        if day < book.today().replace(day=1) and not alarms.asked_for(book, day):
            return "its month has passed"
        ended = alarms.run(book, settings, joint, day, "due")
        return f"{ended[RAISED]:,} alarms, {ended[QUIET]:,} firms without one"

    found = [Recurring("expire", daily, expire), Recurring("lapse", daily, lapse)]
    if RENEWAL in settings.decisions:
        found.append(Recurring("renew", renewals.plan(settings), prepare))
    if WATCH in settings.decisions:
        found.append(Recurring("warn", alarms.plan, warn))
    return found
