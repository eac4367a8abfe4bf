"""Pages of consents: what each says in plain words, giving it, taking it back; and what was asked about the firm."""

from __future__ import annotations

import asyncio
import hmac
import math
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank.book import Row
from party_bank.book_check import covers
from party_bank.book_tables import CONSENTS, DECISIONS
from party_bank.joint import ASKED, UNKNOWN
from party_bank.portal.consents import GIVEN_HERE, LISTED, ConsentTerms, terms_of
from party_bank.portal.owner import OWNERS, OwnerError, Portal, for_owners
from veilscore.console.desk import Visit
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import ConfigError
from veilscore.reports.section_fields import section_fields

PURPOSE_NAMES = {
    "proactive": noted("an offer from the bank"),
    "application": noted("your application"),
    "renewal": noted("a renewal"),
    "watch": noted("the watch over a loan"),
    "report": noted("a credit report"),
}
_MOST_ROWS = 200


class ConsentPages:
    """The handlers of these pages."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def terms(self, purpose: str) -> ConsentTerms | None:
        """Return the terms of a consent that the portal asks for; None where it asks for none now."""
        home = self._portal.home
        try:
            return terms_of(home.path, home.name, self._portal.open.settings, purpose)
        except ConfigError:
            return None

    @for_owners
    def overview(self, visit: Visit) -> Response:
        """Show all consents, those that may be given, and how to end everything."""
        owner = self._portal.owner(visit)
        with self._portal.open.book.reading() as entry:
            rows = entry.rows(sa.select(CONSENTS).where(CONSENTS.c.firm == owner.firm).order_by(CONSENTS.c.id.desc()))
            now_s = entry.at_s
            every = (*GIVEN_HERE, *LISTED)
            standing = {one: self._portal.consents.standing(entry, owner.firm, one) for one in every}
            waits = [one for one in LISTED if self._portal.consents.waits(entry, owner.firm, self.terms(one))]
        return visit.show(
            "consents.html",
            owner=owner,
            consents=[(row, self._state(row, now_s)) for row in rows[:_MOST_ROWS]],
            wanted=[one for one in every if standing[one] is None and one not in waits and self.terms(one) is not None],
            waits=waits,
            signs=self._portal.consents.issuer is not None,
            purposes=PURPOSE_NAMES,
        )

    def _state(self, row: Row, now_s: float) -> str:
        if row["revoked_s"] is not None:
            return "withdrawn"
        if self._portal.consents.served(row):
            return "used"
        return "valid" if covers(row, row["firm"], row["purpose"], now_s) else "ended"

    @for_owners
    def one(self, visit: Visit) -> Response:
        """Show what a consent for a purpose says, in plain words, before anything is asked of anybody."""
        owner, purpose = self._portal.owner(visit), self._purpose(visit)
        terms = self.terms(purpose)
        with self._portal.open.book.reading() as entry:
            standing = self._portal.consents.standing(entry, owner.firm, purpose)
            query = sa.select(CONSENTS).where(CONSENTS.c.firm == owner.firm, CONSENTS.c.purpose == purpose)
            rows = entry.rows(query.order_by(CONSENTS.c.id.desc()))
            now_s, waits = entry.at_s, self._portal.consents.waits(entry, owner.firm, terms)
        active = [row for row in rows if self._state(row, now_s) in {"valid", "used"} and row["expires_s"] > now_s]
        if terms is None and not active and not waits:
            raise HTTPException(404)
        return visit.show(
            "consent.html",
            owner=owner,
            purpose=purpose,
            purposes=PURPOSE_NAMES,
            terms=terms,
            answers=0 if terms is None else round(2**terms.bits),
            until_s=0.0 if terms is None else now_s + terms.days * 86_400,
            amounts=() if terms is None else _amounts(terms),
            fields=[] if terms is None else _shown_fields(terms, visit.language),
            standing=standing,
            waits=waits,
            listed=purpose in LISTED,
            active=active,
            from_here=self._portal.consents.from_here,
            signs=self._portal.consents.issuer,
            ended=self._portal.consents.ended(owner.firm),
            currency=self._portal.open.settings.currency,
            bank=self._bank(),
        )

    def _bank(self) -> str:
        return self._portal.open.settings.portal_site.bank_name or self._portal.home.name

    def _purpose(self, visit: Visit) -> str:
        purpose = visit.part("purpose")
        if purpose not in PURPOSE_NAMES:
            raise HTTPException(404)
        return purpose

    # --- acts --------------------------------------------------------------------------------------------------------

    async def give(self, visit: Visit) -> Response:
        """Let the issuer sign the owner's yes, and holders know at once where an earlier no is lifted."""
        response = await asyncio.to_thread(self._give, visit)
        await self._portal.pushes.soon()
        return response

    @for_owners
    def _give(self, visit: Visit) -> Response:
        owner, purpose = self._portal.owner(visit), self._purpose(visit)
        visit.subject = f"consent for {purpose}"
        terms = self.terms(purpose)
        if terms is None or self._portal.consents.issuer is None:
            raise HTTPException(404)
        if not hmac.compare_digest(visit.form.get("terms", "").encode(), terms.digest.encode()):
            raise OwnerError(visit.told(noted("What you agree to has changed meanwhile. Read it again, please.")))
        if visit.form.get("agree") != "yes":
            raise OwnerError(visit.told(noted("Tick that you agree, or leave the page: nothing was given.")))
        document = self._portal.consents.give(self._portal.open.book, terms, owner.firm)
        visit.subject = f"consent for {purpose}: {document}"
        return visit.go_to(self._after(visit, purpose), "given")

    def _after(self, visit: Visit, purpose: str) -> str:
        """Return where an owner goes on: to what the consent was given for, if the form says so."""
        number = visit.form.get("contract", "")
        if purpose == "renewal" and number.isalnum() and number.isascii() and len(number) <= 20:
            return f"/contracts/{number}"
        product = visit.form.get("product", "")
        if purpose == "application" and product in self._portal.open.settings.products:
            return f"/apply/{product}"
        return f"/consents/{purpose}"

    async def withdraw(self, visit: Visit) -> Response:
        """Take a consent back: in the book at once, and at every holder that answers before this page does."""
        response = await asyncio.to_thread(self._withdraw, visit)
        await self._portal.pushes.soon()
        return response

    @for_owners
    def _withdraw(self, visit: Visit) -> Response:
        owner, purpose = self._portal.owner(visit), self._purpose(visit)
        visit.subject = f"consent for {purpose}"
        self._portal.consents.withdraw(self._portal.open.book, owner.firm, purpose)
        return visit.go_to(f"/consents/{purpose}", "withdrawn")

    async def withdraw_all(self, visit: Visit) -> Response:
        """Take everything back, and object to what is asked without consent."""
        response = await asyncio.to_thread(self._withdraw_all, visit)
        await self._portal.pushes.soon()
        return response

    @for_owners
    def _withdraw_all(self, visit: Visit) -> Response:
        owner = self._portal.owner(visit)
        visit.subject = "all consents"
        if visit.form.get("sure") != "yes":
            raise OwnerError(visit.told(noted("Tick that you want to end everything: nothing was ended.")))
        self._portal.consents.withdraw(self._portal.open.book, owner.firm, "")
        return visit.go_to("/consents", "withdrawn")

    # --- what was asked ----------------------------------------------------------------------------------------------

    @for_owners
    def history(self, visit: Visit) -> Response:
        """Show what the bank asked holders about this firm: when, whom, for what, and how much an answer tells."""
        owner = self._portal.owner(visit)
        query = sa.select(DECISIONS).where(self._portal.within(owner, DECISIONS)).order_by(DECISIONS.c.id.desc())
        rows = self._portal.open.book.rows(query.limit(_MOST_ROWS))
        return visit.show(
            "history.html", owner=owner, rows=[_asked(row) for row in rows], purposes=PURPOSE_NAMES, bank=self._bank()
        )


def _asked(row: Row) -> dict[str, Any]:
    """Return what one question was, in what an owner may read of it."""
    return {
        "at_s": row["decided_s"],
        "purpose": row["kind"],
        "holders": row["holders"],
        "bits": row["bits"],
        "answers": round(2 ** row["bits"]),
        "state": row["outcome"] if row["outcome"] in {ASKED, UNKNOWN} else "told",
        "basis": row["inputs"].get("basis", ""),
        "measure": row["measure"],
    }


def _shown_fields(terms: ConsentTerms, language: str) -> list[str]:
    """Return what each field of a consent to reports says, in the owner's language."""
    published = section_fields().fields
    return list(dict.fromkeys(published[one].zh if language == "zh" else published[one].en for one in terms.fields))


def _amounts(terms: ConsentTerms) -> tuple[int, ...]:
    """Return the steps as amounts in hundredths; empty where they are words."""
    try:
        found = [float(step) for step in terms.steps]
    except ValueError:
        return ()
    return tuple(round(one * 100) for one in found) if all(map(math.isfinite, found)) else ()


def pages(portal: Portal) -> tuple[Page, ...]:
    """Return the pages of consents."""
    own = ConsentPages(portal)
    return (
        Page("/consents", own.overview, OWNERS, name=noted("Consents"), section="portal"),
        Page("/consents/end", own.withdraw_all, OWNERS, "POST", act="portal: end every consent"),
        Page("/consents/{purpose}", own.one, OWNERS),
        Page("/consents/{purpose}/give", own.give, OWNERS, "POST", act="portal: give a consent"),
        Page("/consents/{purpose}/withdraw", own.withdraw, OWNERS, "POST", act="portal: withdraw a consent"),
        Page("/history", own.history, OWNERS, name=noted("History"), section="portal"),
    )
