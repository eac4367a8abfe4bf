"""Pages of credit: the overview, an offer, applying, a contract with its money, and its renewal."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import secrets
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank import applications, contracts, renewals
from party_bank.applications import RECEIVED, ApplicationRequest
from party_bank.book import Row
from party_bank.book_tables import APPLICATIONS, CONTRACTS, DECISIONS, DRAWS, LINES, OFFERS, RENEWALS, REPAYMENTS
from party_bank.offers import secret_of
from party_bank.portal.consents import OWNER
from party_bank.portal.owner import OWNERS, Owner, OwnerError, Portal, for_owners
from party_bank.settings import BankSettings, Product, amount_of, read_amount
from veilscore.console.desk import Visit
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import BookError, ConfigError
from veilscore.files.home_key import home_key

_REQUEST = re.compile(r"[A-Za-z0-9_-]{22}")
_MOST_ROWS = 50


class CreditPages:
    """The handlers of these pages."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    # --- overview ----------------------------------------------------------------------------------------------------

    @for_owners
    def overview(self, visit: Visit) -> Response:
        """Show what there is and what comes next: offers, applications, contracts, and products to apply for."""
        owner, book, settings = self._portal.owner(visit), self._portal.open.book, self._portal.open.settings
        lines = book.rows(sa.select(LINES).where(self._portal.within(owner, LINES)))
        open_products = {row["product"] for row in lines if row["state"] != "closed"}
        with book.reading() as entry:
            today = entry.today
            held = entry.rows(self._of(owner, CONTRACTS))
            owed = {row["id"]: contracts.owed(entry, row["id"]) for row in held if row["status"] == "signed"}
            due = {row["id"] for row in renewals.due_contracts(entry, settings, owner.firm)}
            proposed = {row["contract"]: row for row in entry.rows(self._of(owner, RENEWALS))}
        return visit.show(
            "overview.html",
            owner=owner,
            offers=[offer for offer in book.rows(self._of(owner, OFFERS)) if _is_open(offer, today)],
            applied=book.rows(self._of(owner, APPLICATIONS)),
            contracts=held,
            owed=owed,
            renews={one["id"]: _renewal_state(one, due, proposed.get(one["id"])) for one in held},
            products=[
                (name, amount_of(one.ladder[-1]))
                for name, one in settings.products.items()
                if owner.whole and name not in open_products
            ],
            currency=settings.currency,
        )

    def _of(self, owner: Owner, table: sa.Table) -> sa.Select[Any]:
        return sa.select(table).where(self._portal.within(owner, table)).order_by(table.c.id.desc()).limit(_MOST_ROWS)

    # --- offers and applications -------------------------------------------------------------------------------------

    @for_owners
    def offer(self, visit: Visit) -> Response:
        """Show an offer with the form to apply on it."""
        owner = self._portal.owner(visit)
        offer = self._portal.one(owner, OFFERS, OFFERS.c.number, visit.part("number")[:20])
        line = self._portal.one(owner, LINES, LINES.c.id, offer["line"])
        today = self._portal.open.book.today()
        applied = self._portal.open.book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.offer == offer["id"]))
        return visit.show(
            "offer.html",
            owner=owner,
            offer=offer,
            product=line["product"],
            terms=self._portal.open.settings.product(line["product"]),
            is_open=_is_open(offer, today),
            applied=applied[0] if applied else None,
            currency=self._portal.open.settings.currency,
        )

    @for_owners
    def apply_form(self, visit: Visit) -> Response:
        """Show the form of an application without an offer, or which consent it needs first."""
        owner, name = self._portal.owner(visit), self._product(visit.part("product"))
        self._check_whole(owner)
        with self._portal.open.book.reading() as entry:
            standing = self._portal.consents.standing(entry, owner.firm, applications.APPLICATION)
            taken = entry.rows(sa.select(LINES).where(*_open_line(owner, name)))
        terms = self._portal.open.settings.product(name)
        return visit.show(
            "apply.html",
            owner=owner,
            product=name,
            terms=terms,
            most=amount_of(terms.ladder[-1]),
            standing=standing,
            taken=taken[0] if taken else None,
            request_id=secrets.token_urlsafe(16),
            currency=self._portal.open.settings.currency,
        )

    async def apply(self, visit: Visit) -> Response:
        """Apply; the joint decision, the policy and the draft follow at once."""
        return await self._waiting(self._apply, visit)

    @for_owners
    def _apply(self, visit: Visit) -> Response:
        owner, number = self._portal.owner(visit), visit.form.get("offer", "")[:20]
        if number:
            offer = self._portal.one(owner, OFFERS, OFFERS.c.number, number)
            product = self._portal.one(owner, LINES, LINES.c.id, offer["line"])["product"]
            request, most = f"offer-{number}", offer["amount"]
            visit.subject = f"offer {number}"
        else:
            self._check_whole(owner)
            product, request = self._product(visit.form.get("product", "")), f"portal-{_request(visit)}"
            most = amount_of(self._portal.open.settings.product(product).ladder[-1])
            visit.subject = f"application {request}"
        terms = self._portal.open.settings.product(product)
        before = self._portal.open.book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.request == request))
        if before:  # sent twice: whatever the second form says, the first one counts
            self._portal.one(owner, APPLICATIONS, APPLICATIONS.c.request, request)
            amount, months = before[0]["amount"], before[0]["months"]
        else:
            amount, months = _amount(visit, most), _months(visit, terms)
        secret = secret_of(home_key(self._portal.home.path), number) if number else ""
        asked = ApplicationRequest(request, owner.firm, product, amount, months, number, secret)
        return self._decided(visit, owner, asked)

    def _decided(self, visit: Visit, owner: Owner, asked: ApplicationRequest) -> Response:
        """Take an application as far as it goes; one that holders did not answer yet is shown as received."""
        book, settings = self._portal.open.book, self._portal.open.settings
        judge = self._portal.judge()
        try:
            self._portal.alone(
                owner, visit, lambda: applications.apply(book, settings, self._portal.joint, judge, asked, OWNER)
            )
        except BookError:
            if not book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.request == asked.request)):
                raise
        row = self._portal.one(owner, APPLICATIONS, APPLICATIONS.c.request, asked.request)
        return visit.go_to(f"/applications/{row['id']}")

    @for_owners
    def application(self, visit: Visit) -> Response:
        """Show an application: where it is, with the bank's own reasons, and where a holder's are told."""
        owner = self._portal.owner(visit)
        row = self._portal.one(owner, APPLICATIONS, APPLICATIONS.c.id, _id(visit))
        book = self._portal.open.book
        decision = book.rows(sa.select(DECISIONS).where(DECISIONS.c.id == row["decision"]))
        contract = book.rows(sa.select(CONTRACTS).where(CONTRACTS.c.application == row["id"]))
        return visit.show(
            "application.html",
            owner=owner,
            row=row,
            product=self._portal.one(owner, LINES, LINES.c.id, row["line"])["product"],
            decision=decision[0] if decision else None,
            reasons=_reasons(row, decision[0]) if decision else [],
            contract=contract[0] if contract else None,
            currency=self._portal.open.settings.currency,
        )

    async def again(self, visit: Visit) -> Response:
        """Go on with an application that holders did not answer yet."""
        return await self._waiting(self._again, visit)

    @for_owners
    def _again(self, visit: Visit) -> Response:
        owner = self._portal.owner(visit)
        row = self._portal.one(owner, APPLICATIONS, APPLICATIONS.c.id, _id(visit))
        visit.subject = f"application {row['request']}"
        if row["status"] != RECEIVED:
            return visit.go_to(f"/applications/{row['id']}")
        number = self._portal.open.book.rows(sa.select(OFFERS.c.number).where(OFFERS.c.id == row["offer"]))
        product = self._portal.one(owner, LINES, LINES.c.id, row["line"])["product"]
        offer = number[0]["number"] if number else ""
        asked = ApplicationRequest(row["request"], owner.firm, product, row["amount"], row["months"], offer)
        return self._decided(visit, owner, asked)

    # --- contracts ---------------------------------------------------------------------------------------------------

    @for_owners
    def contract(self, visit: Visit) -> Response:
        """Show a contract: its draft, or its money and plan, and its renewal when that is due."""
        owner, settings = self._portal.owner(visit), self._portal.open.settings
        row = self._contract(visit, owner)
        with self._portal.open.book.reading() as entry:
            owed, today = contracts.owed(entry, row["id"]), entry.today
            moves = [
                (one["drawn_on"], "drawn", one["amount"])
                for one in entry.rows(sa.select(DRAWS).where(DRAWS.c.contract == row["id"]))
            ] + [
                (one["paid_on"], "repaid", one["amount"])
                for one in entry.rows(sa.select(REPAYMENTS).where(REPAYMENTS.c.contract == row["id"]))
            ]
            due = {one["id"] for one in renewals.due_contracts(entry, settings, owner.firm)}
            found = entry.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == row["id"]))
            why = entry.rows(
                sa.select(DECISIONS.c.reasons).where(DECISIONS.c.id == (found[0]["decision"] if found else 0))
            )
            standing = self._portal.consents.standing(entry, owner.firm, renewals.RENEWAL)
            after = [] if not found else entry.rows(sa.select(CONTRACTS).where(CONTRACTS.c.renewal == found[0]["id"]))
        renewal = found[0] if found else None
        return visit.show(
            "contract.html",
            owner=owner,
            row=row,
            owed=owed,
            left=row["amount"] - owed,
            draws=row["status"] == "signed" and row["starts_on"] <= today < row["ends_on"] and owed < row["amount"],
            moves=sorted(moves, key=lambda move: move[0]),
            plan=plan_of(owed, row["rate_bp"], today, row["ends_on"]) if row["status"] == "signed" else [],
            renewal=renewal,
            renews=_renewal_state(row, due, renewal),
            why=why[0]["reasons"] if why else [],
            standing=standing,
            successor=after[0] if after else None,
            proposal=_proposal(row, renewal, settings),
            terms=settings.products.get(row["product"]),
            request_id=secrets.token_urlsafe(16),
            currency=settings.currency,
        )

    def _contract(self, visit: Visit, owner: Owner) -> Row:
        return self._portal.one(owner, CONTRACTS, CONTRACTS.c.number, visit.part("number")[:20])

    @for_owners
    def accept(self, visit: Visit) -> Response:
        """Accept a contract's draft; the bank's draft with the owner's yes is the contract."""
        row = self._contract(visit, self._portal.owner(visit))
        visit.subject = f"contract {row['number']}"
        if visit.form.get("agree") != "yes":
            raise OwnerError(visit.told(noted("Tick that you accept, or leave the page: nothing was signed.")))
        contracts.sign(self._portal.open.book, row["number"], OWNER)
        return visit.go_to(f"/contracts/{row['number']}", "accepted")

    @for_owners
    def draw(self, visit: Visit) -> Response:
        """Draw on a contract; a form sent twice draws once."""
        row = self._contract(visit, self._portal.owner(visit))
        visit.subject = f"contract {row['number']}"
        amount, request = _amount(visit, row["amount"]), f"portal-{_request(visit)}"
        with self._portal.open.book.reading() as entry:
            left = row["amount"] - contracts.owed(entry, row["id"])
            done = entry.rows(sa.select(DRAWS.c.id).where(DRAWS.c.request == request))
        if amount > left and not done:
            shown = visit.locale.money(left, self._portal.open.settings.currency)
            raise OwnerError(visit.told(noted("At most %s is left to draw.")) % shown)
        contracts.draw(self._portal.open.book, row["number"], amount, request, OWNER)
        return visit.go_to(f"/contracts/{row['number']}", "drawn")

    async def prepare(self, visit: Visit) -> Response:
        """Ask what a renewal would be: the sealed check, and a proposal or a no with its reason."""
        return await self._waiting(self._prepare, visit)

    @for_owners
    def _prepare(self, visit: Visit) -> Response:
        owner, settings = self._portal.owner(visit), self._portal.open.settings
        row = self._contract(visit, owner)
        visit.subject = f"contract {row['number']}"
        with self._portal.open.book.reading() as entry:
            due = {one["id"] for one in renewals.due_contracts(entry, settings, owner.firm)}
            found = entry.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == row["id"], RENEWALS.c.status != "due"))
        if found:  # sent twice, or prepared by the bank meanwhile
            return visit.go_to(f"/contracts/{row['number']}")
        if row["id"] not in due:
            raise OwnerError(visit.told(noted("This contract is not due for a renewal now.")))
        book, joint = self._portal.open.book, self._portal.joint
        inflow = renewals.own_inflow(settings, self._portal.home.config)
        self._portal.alone(owner, visit, lambda: renewals.prepare(book, settings, joint, row["number"], OWNER, inflow))
        return visit.go_to(f"/contracts/{row['number']}")

    @for_owners
    def renew(self, visit: Visit) -> Response:
        """Accept a renewal as proposed, today; what is owed goes over to the new contract."""
        row = self._contract(visit, self._portal.owner(visit))
        visit.subject = f"contract {row['number']}"
        if visit.form.get("agree") != "yes":
            raise OwnerError(visit.told(noted("Tick that you accept, or leave the page: nothing was signed.")))
        book, settings = self._portal.open.book, self._portal.open.settings
        (found,) = book.rows(sa.select(RENEWALS).where(RENEWALS.c.contract == row["id"])) or (None,)
        if found and found["status"] == "proposed" and visit.form.get("proposal") != _proposal(row, found, settings):
            raise OwnerError(visit.told(noted("What you agree to has changed meanwhile. Read it again, please.")))
        number = renewals.accept(book, settings, row["number"], OWNER)
        return visit.go_to(f"/contracts/{number}", "renewed")

    # --- what these need ---------------------------------------------------------------------------------------------

    async def _waiting(self, work: Callable[[Visit], Response], visit: Visit) -> Response:
        """Wait for holders in threads of their own, so that other pages need not."""
        return await asyncio.get_running_loop().run_in_executor(self._portal.working, work, visit)

    def _product(self, name: str) -> str:
        if name not in self._portal.open.settings.products:
            raise HTTPException(404)
        return name

    def _check_whole(self, owner: Owner) -> None:
        if not owner.whole:
            raise HTTPException(404)


def plan_of(owed: int, rate_bp: int, today: dt.date, ends_on: dt.date) -> list[tuple[dt.date, int, int]]:
    """Return day, interest and principal, in hundredths, of a loan of which nothing more is drawn or repaid early.

    Interest is a twelfth of a year's at each month, the rest by days; the bank's ledger decides.
    """
    if not owed or ends_on <= today:
        return []
    found, before, months = [], today, 1
    while before < ends_on:
        day = min(contracts.months_after(today, months), ends_on)
        whole = day == contracts.months_after(today, months)
        share = 1 / 12 if whole else (day - before).days / 365
        found.append((day, round(owed * rate_bp / 10_000 * share), owed if day == ends_on else 0))
        before, months = day, months + 1
    return found


def _reasons(row: Row, decision: Row) -> list[str]:
    """Return the reasons of an application; what chose the firm for an offer is the bank's planning and no reason."""
    found = [str(one) for one in decision["reasons"]]
    return found[1:] if row["offer"] is not None else found


def _renewal_state(contract: Row, due: set[int], renewal: Row | None) -> str:
    """Return what an owner can do about a renewal: ask, accept, or nothing; with what there was."""
    if contract["status"] != "signed":
        return ""
    if renewal is not None and renewal["status"] != "due":
        return str(renewal["status"])
    return "due" if contract["id"] in due else ""


def _proposal(contract: Row, renewal: Row | None, settings: BankSettings) -> str:
    """Return what a form carries, so that nobody accepts another renewal than was read: amount, term and interest."""
    if renewal is None or (terms := settings.products.get(contract["product"])) is None:
        return ""
    return f"{renewal['amount']} {renewal['months']} {terms.rate_bp}"


def _is_open(offer: Row, today: dt.date) -> bool:
    return bool(offer["status"] == "open" and offer["valid_until"] >= today)


def _open_line(owner: Owner, product: str) -> tuple[sa.ColumnElement[bool], ...]:
    return LINES.c.firm == owner.firm, LINES.c.product == product, LINES.c.state != "closed"


def _request(visit: Visit) -> str:
    """Return the id of a form, by which the same form sent twice is known."""
    found = visit.form.get("request", "")
    if not _REQUEST.fullmatch(found):
        raise OwnerError(visit.told(noted("The form is not whole. Load the page again.")))
    return found


def _amount(visit: Visit, most: int) -> int:
    try:
        amount = read_amount(visit.form.get("amount", ""))
    except ConfigError:
        raise OwnerError(visit.told(noted("Write the amount as a number, like 250000 or 250000.50."))) from None
    if not 0 < amount <= most:
        raise OwnerError(visit.told(noted("Ask for more than nothing, and no more than the page offers.")))
    return amount


def _months(visit: Visit, product: Product) -> int:
    text = visit.form.get("months", "")
    months = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 1 <= months <= product.months:
        raise OwnerError(visit.told(noted("Choose one of the terms that the page offers.")))
    return months


def _id(visit: Visit) -> int:
    text = visit.part("id")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(404)
    return int(text)


def pages(portal: Portal) -> tuple[Page, ...]:
    """Return the pages of credit."""
    own = CreditPages(portal)
    return (
        Page("/", own.overview, OWNERS, name=noted("Your credit"), section="portal"),
        Page("/offers/{number}", own.offer, OWNERS),
        Page("/apply", own.apply, OWNERS, "POST", act="portal: apply"),
        Page("/apply/{product}", own.apply_form, OWNERS),
        Page("/applications/{id}", own.application, OWNERS),
        Page("/applications/{id}/again", own.again, OWNERS, "POST", act="portal: go on with an application"),
        Page("/contracts/{number}", own.contract, OWNERS),
        Page("/contracts/{number}/accept", own.accept, OWNERS, "POST", act="portal: accept a contract"),
        Page("/contracts/{number}/draw", own.draw, OWNERS, "POST", act="portal: draw"),
        Page("/contracts/{number}/renewal", own.prepare, OWNERS, "POST", act="portal: ask for a renewal"),
        Page("/contracts/{number}/renew", own.renew, OWNERS, "POST", act="portal: renew"),
    )
