"""Renewals: prepared one to three months before a contract ends, accepted by the firm itself the same day.

The sealed check is a joint decision under the firm's consent for renewals; the proposal is fitted to the cycle of the
firm's account. What is owed goes over to the new contract, so that nobody repays in between.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import CONTRACTS, DECISIONS, LINES, RENEWALS
from party_bank.contracts import carry_over, draft_contract, find_contract, months_after, owed
from party_bank.firms import consent_for
from party_bank.joint import JointDecision, Question, decide_jointly
from party_bank.limits import limit_of, room
from party_bank.settings import BankSettings, amount_of, shown_amount
from veilscore.errors import BookError, ConfigError, DataError
from veilscore.terms.decision import Purpose
from veilscore.terms.node_config import NodeConfig

RENEWAL: Purpose = "renewal"
_SPREAD = 3  # months by which a term may differ from the product's, to end when money comes in
_LEAST = 3  # months of a term
_BOOKINGS = "bookings.parquet"  # as the shipped catalogue of a bank names it

Inflow = Callable[[str], Sequence[float] | None]


def due_contracts(entry: BookEntry, settings: BankSettings, firm: str = "") -> list[Row]:
    """Return the signed contracts that end within the days of `settings.renewals` and have no finished proposal."""
    rules = settings.renewals
    query = (
        sa.select(CONTRACTS)
        .outerjoin(RENEWALS, RENEWALS.c.contract == CONTRACTS.c.id)
        .where(
            CONTRACTS.c.status == "signed",
            CONTRACTS.c.ends_on >= entry.today + dt.timedelta(days=rules.to_days),
            CONTRACTS.c.ends_on <= entry.today + dt.timedelta(days=rules.from_days),
            sa.or_(RENEWALS.c.status.is_(None), RENEWALS.c.status == "due"),
        )
    )
    return entry.rows((query.where(CONTRACTS.c.firm == firm) if firm else query).order_by(CONTRACTS.c.ends_on))


def plan(settings: BankSettings) -> Callable[[BookEntry], Iterator[tuple[str, dt.date]]]:
    """Return the plan of recurring work: a firm, and the day from which its renewal is prepared."""

    def due(entry: BookEntry) -> Iterator[tuple[str, dt.date]]:
        for contract in due_contracts(entry, settings):
            yield contract["firm"], contract["ends_on"] - dt.timedelta(days=settings.renewals.from_days)

    return due


def prepare(
    book: Book, settings: BankSettings, joint: JointDecision, contract: str, actor: str, inflow: Inflow | None = None
) -> Row:
    """Check a firm jointly and propose a renewal of a contract, or decline it; again, it returns what was proposed.

    inflow : firm -> money that came into its account by calendar month, (12,); None where the bank has none.
    Raises BookError for a contract that is closed, or without the firm's consent for renewals.
    """
    model = settings.decision_for(RENEWAL)
    with book.writing(actor) as entry:
        old = find_contract(entry, contract)
        found = entry.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == old["id"]))
        if found and found[0]["status"] != "due":
            return found[0]
        _refuse_closed(entry, old)
        if not found:
            consent_for(entry, old["firm"], RENEWAL)
            row = {"firm": old["firm"], "line": old["line"], "contract": old["id"], "decision": None}
            entry.add(RENEWALS, **row, due_on=old["ends_on"], status="due", amount=0, months=0)
    ask = Question(RENEWAL, model, f"renewal/{contract}")
    decision = decide_jointly(book, joint, ask, [old["firm"]], actor)[old["firm"]]
    with book.writing(actor) as entry:
        old = find_contract(entry, contract)
        renewal = entry.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == old["id"]))[0]
        if renewal["status"] == "due":
            _propose(entry, settings, old, renewal, decision, inflow(old["firm"]) if inflow else None)
        return entry.rows(sa.select(RENEWALS).where(RENEWALS.c.id == renewal["id"]))[0]


def _propose(
    entry: BookEntry, settings: BankSettings, old: Row, renewal: Row, decision: Row, inflow: Sequence[float] | None
) -> None:
    product, due = settings.product(old["product"]), owed(entry, old["id"])
    most = min(limit_of(product, decision["step"]), room(entry, settings, old["firm"], old["product"], old["id"]))
    amount = max((amount_of(step) for step in product.ladder if amount_of(step) <= most), default=0)
    months = fitted_months(inflow, entry.today, product.months)
    if decision["step"] is None:
        raise BookError(f"a holder did not answer for {old['firm']}: a person looks at contract {old['number']}")
    if not amount or amount < due:
        why = f"{shown_amount(due)} is owed and the check allows {shown_amount(amount)}"
        entry.change(
            DECISIONS, decision["id"], outcome="declined", reasons=[why], line=old["line"], decided_by="policy"
        )
        entry.change(RENEWALS, renewal["id"], status="declined", decision=decision["id"])
        return
    entry.change(DECISIONS, decision["id"], outcome="proposed", line=old["line"], decided_by="policy")
    values = {"decision": decision["id"], "amount": amount, "months": months}
    entry.change(RENEWALS, renewal["id"], status="proposed", **values)


def accept(book: Book, settings: BankSettings, contract: str, actor: str) -> str:
    """Renew a contract as proposed, today, and return the new contract's number; again, it returns the same."""
    with book.writing(actor) as entry:
        old = find_contract(entry, contract)
        found = entry.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == old["id"]))
        if found and found[0]["status"] == "accepted":
            return str(entry.scalar(sa.select(CONTRACTS.c.number).where(CONTRACTS.c.renewal == found[0]["id"])))
        _refuse_closed(entry, old)
        if not found or found[0]["status"] != "proposed":
            state = f"its renewal is {found[0]['status']}" if found else "none was prepared"
            raise BookError(f"contract {contract} has no proposal to accept: {state}")
        renewal, line = found[0], entry.rows(sa.select(LINES).where(LINES.c.id == old["line"]))[0]
        rate = settings.product(old["product"]).rate_bp
        new = draft_contract(
            entry, settings, line, renewal["amount"], renewal["months"], rate, replaces=old["id"], renewal=renewal["id"]
        )
        carry_over(entry, old["id"], new)
        entry.change(RENEWALS, renewal["id"], status="accepted")
        entry.move(line["id"], "renewed", f"contract {contract}")
        return str(entry.scalar(sa.select(CONTRACTS.c.number).where(CONTRACTS.c.id == new)))


def lapse(book: Book) -> int:
    """Close proposals whose contract has ended, and return how many."""
    with book.writing("due") as entry:
        query = sa.select(RENEWALS).where(RENEWALS.c.status.in_(("due", "proposed")), RENEWALS.c.due_on <= entry.today)
        found = entry.rows(query.with_for_update())
        entry.change_all(RENEWALS, [{"id": row["id"], "firm": row["firm"], "status": "lapsed"} for row in found])
    return len(found)


def fitted_months(inflow: Sequence[float] | None, start: dt.date, usual: int) -> int:
    """Return a term near the usual one that ends when most money has come in: in that month and the one before.

    inflow : money that came into the account by calendar month, January first, (12,); None: the usual term.
    """
    if inflow is None:
        return usual
    if len(inflow) != 12:
        raise ConfigError(f"the inflow of an account has 12 calendar months, not {len(inflow)}")

    def gathered(months: int) -> tuple[float, int]:
        month = months_after(start, months).month - 1
        return float(inflow[month]) + float(inflow[month - 1]), -abs(months - usual)

    return max(range(max(_LEAST, usual - _SPREAD), usual + _SPREAD + 1), key=gathered)


def own_inflow(settings: BankSettings, node: NodeConfig) -> Inflow | None:
    """Return the inflow by the bookings of which the bank's own data set is built; None where it has none."""
    found = None if settings.dataset is None else node.datasets.get(settings.dataset)
    events = None if found is None or found.features is None else found.features.events
    bookings = None if events is None else events / _BOOKINGS
    return inflow_of(bookings) if bookings is not None and bookings.is_file() else None


def inflow_of(bookings: Path) -> Inflow:
    """Return the mean inflow of a firm by calendar month from the bank's own table of bookings (Parquet).

    Its columns are those of `party_bank/catalogue.yaml`: uscc, booked_on, direction, amount; DataError without them.
    """

    def found(firm: str) -> Sequence[float] | None:
        import duckdb  # noqa: PLC0415 - slow import

        query = (
            "SELECT month(booked_on), sum(amount) / count(DISTINCT year(booked_on)) FROM read_parquet(?) "
            "WHERE uscc = ? AND direction = 'in' GROUP BY 1"
        )
        try:
            with duckdb.connect() as db:
                rows = dict(db.execute(query, [str(bookings), firm]).fetchall())
        except duckdb.Error as error:
            raise DataError(f"{bookings} is no table of bookings with uscc, booked_on, direction, amount") from error
        return [float(rows.get(month, 0.0)) for month in range(1, 13)] if rows else None

    return found


def _refuse_closed(entry: BookEntry, contract: Row) -> None:
    if contract["status"] != "signed" or contract["ends_on"] <= entry.today:
        ended = "ended" if contract["status"] == "signed" else contract["status"]
        raise BookError(
            f"contract {contract['number']} is {ended} (its term: {contract['ends_on']}); it is not renewed"
        )
