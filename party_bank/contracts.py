"""Contracts and the money under them: draft, sign, draw, repay, end.

Every call that moves money names a request of its caller: the same request again changes nothing.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import CONTRACTS, DRAWS, LINES, REPAYMENTS
from party_bank.limits import check_caps
from party_bank.settings import BankSettings, shown_amount
from veilscore.errors import BookError


def draft_contract(
    entry: BookEntry,
    settings: BankSettings,
    line: Row,
    amount: int,
    months: int,
    rate_bp: int,
    *,
    starts_on: dt.date | None = None,
    replaces: int | None = None,
    **origin: int,
) -> int:
    """Draft the contract of an approved application or an accepted renewal and return its id.

    replaces : id of the contract that ends when this one is signed, which therefore does not count against the caps.
    origin : `application` or `renewal` with its id; each gets one contract.
    Raises BookError where a cap of the firm or product would be passed.
    """
    entry.lock_firm(line["firm"])
    check_caps(entry, settings, line["firm"], line["product"], amount, without=replaces)
    first = starts_on or entry.today
    contract = entry.add(
        CONTRACTS,
        firm=line["firm"],
        line=line["id"],
        product=line["product"],
        number=f"line {line['id']}",  # until it has an id
        amount=amount,
        rate_bp=rate_bp,
        starts_on=first,
        ends_on=months_after(first, months),
        status="draft",
        **origin,
    )
    entry.change(CONTRACTS, contract, number=f"C{contract:07d}")
    return contract


def sign(book: Book, number: str, actor: str) -> None:
    """Note that firm and bank signed a contract; again changes nothing. BookError where it ended or lapsed."""
    with book.writing(actor) as entry:
        contract = find_contract(entry, number)
        if contract["status"] == "signed":
            return
        _refuse_unless(contract, "draft", "signed")
        entry.change(CONTRACTS, contract["id"], status="signed")


def draw(book: Book, number: str, amount: int, request: str, actor: str) -> int:
    """Draw on a signed contract and return what is owed then; BookError where it is over its limit or its term."""
    with book.writing(actor) as entry:
        contract = find_contract(entry, number)
        if _done_before(entry, DRAWS, request, contract, amount):
            return owed(entry, contract["id"])
        _refuse_unless(contract, "signed", "drawn on")
        if not contract["starts_on"] <= entry.today < contract["ends_on"]:
            raise BookError(
                f"contract {number} runs from {contract['starts_on']} to {contract['ends_on']}; it cannot be drawn on"
            )
        left = contract["amount"] - owed(entry, contract["id"])
        if not 0 < amount <= left:
            raise BookError(f"contract {number} has {shown_amount(left)} left; {shown_amount(amount)} cannot be drawn")
        row = {"firm": contract["firm"], "contract": contract["id"], "request": request, "amount": amount}
        entry.add(DRAWS, **row, drawn_on=entry.today)
        if line_state(entry, contract["line"]) == "approved":
            entry.move(contract["line"], "drawn")
        return owed(entry, contract["id"])


def repay(book: Book, number: str, amount: int, request: str, actor: str) -> int:
    """Note a repayment and return what is still owed; BookError where it is more than is owed."""
    with book.writing(actor) as entry:
        contract = find_contract(entry, number)
        if _done_before(entry, REPAYMENTS, request, contract, amount):
            return owed(entry, contract["id"])
        due = owed(entry, contract["id"])
        if not 0 < amount <= due:
            raise BookError(f"{shown_amount(due)} is owed of contract {number}; {shown_amount(amount)} is not repaid")
        row = {"firm": contract["firm"], "contract": contract["id"], "request": request, "amount": amount}
        entry.add(REPAYMENTS, **row, paid_on=entry.today)
        return due - amount


def end(book: Book, number: str, actor: str, why: str = "repaid") -> None:
    """End a contract of which nothing is owed and close its line; again changes nothing."""
    with book.writing(actor) as entry:
        contract = find_contract(entry, number)
        if contract["status"] == "ended":
            return
        due = owed(entry, contract["id"])
        if due:
            raise BookError(f"{shown_amount(due)} is owed of contract {number}; it cannot end before that is repaid")
        entry.change(CONTRACTS, contract["id"], status="ended")
        entry.move(contract["line"], "closed", why)


def carry_over(entry: BookEntry, old: int, new: int) -> None:
    """End a contract whose successor takes over what is owed, so that the firm need not repay and draw again."""
    due = owed(entry, old)
    firm = entry.scalar(sa.select(CONTRACTS.c.firm).where(CONTRACTS.c.id == old))
    entry.change(CONTRACTS, new, status="signed")
    if due:
        moved: dict[str, Any] = {"firm": firm, "amount": due, "request": f"carried-{old}-{new}"}
        entry.add(REPAYMENTS, **moved, contract=old, paid_on=entry.today)
        entry.add(DRAWS, **moved, contract=new, drawn_on=entry.today)
    entry.change(CONTRACTS, old, status="ended")


def owed(entry: BookEntry, contract: int) -> int:
    """Return what was drawn and not repaid of a contract."""
    drawn, repaid = (
        entry.scalar(sa.select(sa.func.coalesce(sa.func.sum(table.c.amount), 0)).where(table.c.contract == contract))
        for table in (DRAWS, REPAYMENTS)
    )
    return int(drawn) - int(repaid)


def find_contract(entry: BookEntry, number: str) -> Row:
    """Return a contract and lock its firm; BookError if there is none of this number."""
    firm = entry.scalar(sa.select(CONTRACTS.c.firm).where(CONTRACTS.c.number == number))
    if firm is None:
        raise BookError(f"no contract {number[:40]!r} in the book; a portrait lists those of a firm")
    entry.lock_firm(firm)
    return entry.rows(sa.select(CONTRACTS).where(CONTRACTS.c.number == number))[0]


def line_state(entry: BookEntry, line: int) -> str:
    """Return the state of a line."""
    return str(entry.scalar(sa.select(LINES.c.state).where(LINES.c.id == line)))


def months_after(day: dt.date, months: int) -> dt.date:
    """Return the same day so many months later, or the last day of that month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    following = dt.date(year + (month == 11), (month + 1) % 12 + 1, 1)
    return dt.date(year, month + 1, min(day.day, (following - dt.timedelta(days=1)).day))


def _refuse_unless(contract: Row, status: str, wish: str) -> None:
    if contract["status"] != status:
        raise BookError(f"contract {contract['number']} is {contract['status']}; it cannot be {wish}")


def _done_before(entry: BookEntry, table: sa.Table, request: str, contract: Row, amount: int) -> bool:
    """Return whether a request was done; BookError where it was another one under this id."""
    found = entry.rows(sa.select(table.c.contract, table.c.amount).where(table.c.request == request))
    if found and (found[0]["contract"], found[0]["amount"]) != (contract["id"], amount):
        raise BookError(f"request {request[:40]!r} was used for something else: use a new id")
    return bool(found)
