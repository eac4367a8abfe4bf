"""The bank's lending in pages: portfolio, firms and portraits, applications, campaigns, renewals, alarms."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from party_bank import alarms, applications, campaigns, offers, renewals
from party_bank.book_tables import (
    ALARMS,
    APPLICATIONS,
    CAMPAIGNS,
    CASES,
    CONTRACTS,
    DECISIONS,
    FIRMS,
    LINES,
    OFFERS,
    RENEWALS,
    STATES,
    case_number,
)
from party_bank.console.open_book import CHOICES_S, COUNTED_S, OpenBook, like
from party_bank.limits import product_exposure
from party_bank.portrait import Portrait, make_portrait
from party_bank.settings import amount_of
from veilscore.console.desk import Visit, bar_chart, drawn
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import BookError
from veilscore.release.pseudonyms import firm_digest
from veilscore.reports.svg import Chart
from veilscore.terms.people import ACCOUNT_MANAGER, AUDITOR

LENDS = frozenset({ACCOUNT_MANAGER})
SEES = frozenset({ACCOUNT_MANAGER, AUDITOR})
_SECTION = noted("Lending")
_MOST_CHOICES = 200
WORDS = (
    noted("prospect"), noted("offered"), noted("applied"), noted("approved"), noted("drawn"),
    noted("watched"), noted("renewed"), noted("closed"), noted("received"), noted("referred"),
    noted("declined"), noted("open"), noted("expired"), noted("withdrawn"), noted("due"), noted("lapsed"),
    noted("draft"), noted("signed"), noted("asked"), noted("unknown"), noted("contacted"), noted("scanned"),
    noted("firm"), noted("own data"), noted("lines"), noted("offers"), noted("applications"),
    noted("contracts"), noted("exposure"), noted("room"), noted("decisions"), noted("consents"),
    noted("bits left"), noted("alarms"), noted("renewals"), noted("reports"), noted("active"), noted("true"),
    noted("name"), noted("industry"), noted("region"), noted("manager"),
    noted("false"), noted("other"), noted("filed"), noted("confirmed"), noted("not confirmed"),
)  # fmt: skip


class LendingPages:
    """The handlers of these pages, on one book."""

    def __init__(self, open_: OpenBook) -> None:
        self._open = open_

    # --- portfolio ---------------------------------------------------------------------------------------------------

    def portfolio(self, visit: Visit) -> Response:
        """Show what is lent, how far caps are used, and how many lines stand where."""
        book, settings = self._open.book, self._open.settings
        states = book.rows(
            sa.select(LINES.c.product, LINES.c.state, sa.func.count().label("n")).group_by(
                LINES.c.product, LINES.c.state
            )
        )
        lent = product_exposure(book)
        ends = book.rows(sa.select(CONTRACTS.c.ends_on, CONTRACTS.c.amount).where(CONTRACTS.c.status == "signed"))
        by_state = Counter(dict.fromkeys(STATES, 0))
        for row in states:
            by_state[row["state"]] += row["n"]
        products = [
            (name, lent.get(name, 0), None if one.cap is None else amount_of(one.cap),
             sum(row["n"] for row in states if row["product"] == name and row["state"] != "closed"))
            for name, one in settings.products.items()
        ]  # fmt: skip
        industries = book.rows(
            sa.select(FIRMS.c.industry, sa.func.sum(CONTRACTS.c.amount).label("amount"), sa.func.count().label("n"))
            .join(FIRMS, FIRMS.c.firm == CONTRACTS.c.firm)
            .where(CONTRACTS.c.status.in_(("draft", "signed")))
            .group_by(FIRMS.c.industry)
            .order_by(sa.desc("amount"), FIRMS.c.industry)
            .limit(12)
        )
        waiting = book.rows(sa.select(sa.func.count().label("n")).where(APPLICATIONS.c.status == "referred"))
        return visit.show(
            "bank/portfolio.html",
            products=products,
            by_state=by_state,
            industries=industries,
            firms=book.rows(sa.select(sa.func.count().label("n")).select_from(FIRMS))[0]["n"],
            referred=waiting[0]["n"],
            currency=settings.currency,
            chart=drawn(_ends_chart(visit, [(row["ends_on"], row["amount"]) for row in ends], book.today())),
        )

    # --- firms -------------------------------------------------------------------------------------------------------

    def firms(self, visit: Visit) -> Response:
        """Show the firms, searched by id or name and filtered by region, industry and account manager."""
        words = visit.asked("q")
        asked = {name: visit.asked(name, 80) for name in ("region", "industry", "manager")}
        query = sa.select(FIRMS)
        if words:
            query = query.where(
                sa.or_(FIRMS.c.firm.startswith(words.upper(), autoescape=True), like(FIRMS.c.name, words))
            )
        for name, value in asked.items():
            if value:
                query = query.where(FIRMS.c[name] == value)
        return visit.show(
            "bank/firms.html",
            firms=self._open.listing(visit, query, FIRMS.c.firm, q=words, **asked),
            words=words,
            asked=asked,
            choices={name: self._choices(name) for name in asked},
        )

    def _choices(self, name: str) -> list[str]:
        query = sa.select(FIRMS.c[name].label("v")).distinct().order_by(FIRMS.c[name]).limit(_MOST_CHOICES)
        found = self._open.recent(query, CHOICES_S)
        return [row["v"] for row in found if row["v"]]

    def firm(self, visit: Visit) -> Response:
        """Show one firm's portrait; looking at it is an act, which the log has with the firm's digest."""
        firm = self._open.id_of(visit.part("firm"))
        visit.subject = f"firm {firm_digest(visit.desk.home.path, firm)}"
        portrait = make_portrait(self._open.book, self._open.settings, firm, visit.desk.home.config)
        own = any(one.name == "manager" and one.value == visit.person for one in portrait.fields)
        lets_in = own and bool(visit.roles & LENDS)
        return visit.show(
            "bank/firm.html",
            portrait=portrait,
            groups=_grouped(portrait),
            lets_in=lets_in,
            reported=any(one.group == "reports" for one in portrait.fields),
            works=bool(visit.roles & LENDS),
        )

    # --- applications ------------------------------------------------------------------------------------------------

    def application_list(self, visit: Visit) -> Response:
        """Show applications, the latest first."""
        status = visit.asked("status", 20)
        query = (
            sa.select(APPLICATIONS, FIRMS.c.name, LINES.c.product, DECISIONS.c.reasons)
            .join(LINES, LINES.c.id == APPLICATIONS.c.line)
            .join(FIRMS, FIRMS.c.firm == APPLICATIONS.c.firm)
            .outerjoin(DECISIONS, DECISIONS.c.id == APPLICATIONS.c.decision)
        )
        if status:
            query = query.where(APPLICATIONS.c.status == status)
        return visit.show(
            "bank/applications.html",
            applications=self._open.listing(visit, query, APPLICATIONS.c.id.desc(), status=status),
            status=status,
            statuses=("received", "referred", "approved", "declined"),
            currency=self._open.settings.currency,
        )

    def application(self, visit: Visit) -> Response:
        """Show one application with what it was decided on."""
        book = self._open.book
        row = self._application(visit)
        decision = (
            [] if row["decision"] is None else book.rows(sa.select(DECISIONS).where(DECISIONS.c.id == row["decision"]))
        )
        contract = book.rows(sa.select(CONTRACTS).where(CONTRACTS.c.application == row["id"]))
        return visit.show(
            "bank/application.html",
            row=row,
            decision=decision[0] if decision else None,
            contract=contract[0] if contract else None,
            decides=row["status"] == "referred" and bool(visit.roles & LENDS),
            currency=self._open.settings.currency,
        )

    def _application(self, visit: Visit) -> Any:
        request = visit.part("request")[:80]
        visit.subject = f"application {request}"
        query = (
            sa.select(APPLICATIONS, FIRMS.c.name, LINES.c.product, LINES.c.state)
            .join(LINES, LINES.c.id == APPLICATIONS.c.line)
            .join(FIRMS, FIRMS.c.firm == APPLICATIONS.c.firm)
        )
        return self._open.book.row(query.where(APPLICATIONS.c.request == request), "there is no such application")

    def settle(self, visit: Visit) -> Response:
        """Decide on an application that the policy referred to a person."""
        row, answer = self._application(visit), visit.form.get("answer", "")
        if answer not in {"approve", "decline"}:
            raise BookError("say which: approve or decline")
        reason = visit.form.get("reason", "").strip()[:400]
        visit.subject += f": {answer}"
        book, settings, approve = self._open.book, self._open.settings, answer == "approve"
        applications.settle(book, settings, row["request"], visit.person, approve=approve, reasons=[reason])
        return visit.go_to(f"/applications/{row['request']}", "saved")

    # --- campaigns ---------------------------------------------------------------------------------------------------

    def campaign_list(self, visit: Visit) -> Response:
        """Show the campaigns, each with how many offers it made."""
        counted = (
            sa.select(OFFERS.c.campaign, sa.func.count().label("n"), sa.func.sum(OFFERS.c.amount).label("amount"))
            .group_by(OFFERS.c.campaign)
            .subquery()
        )
        query = sa.select(CAMPAIGNS, counted.c.n, counted.c.amount).outerjoin(
            counted, counted.c.campaign == CAMPAIGNS.c.id
        )
        return visit.show(
            "bank/campaigns.html",
            campaigns=self._open.listing(visit, query, CAMPAIGNS.c.id.desc()),
            currency=self._open.settings.currency,
        )

    def campaign(self, visit: Visit) -> Response:
        """Show one campaign: its funnel, and the offers of one account manager or of all."""
        book, name = self._open.book, visit.part("name")[:80]
        campaign = book.row(sa.select(CAMPAIGNS).where(CAMPAIGNS.c.name == name), "there is no such campaign")
        funnel = campaigns.funnel(book, name)
        manager, status = visit.asked("manager", 80), visit.asked("status", 20)
        query = sa.select(OFFERS, FIRMS.c.name, FIRMS.c.region, FIRMS.c.manager).join(
            FIRMS, FIRMS.c.firm == OFFERS.c.firm
        )
        query = query.where(OFFERS.c.campaign == campaign["id"])
        query = query.where(FIRMS.c.manager == manager) if manager else query
        query = query.where(OFFERS.c.status == status) if status else query
        return visit.show(
            "bank/campaign.html",
            campaign=campaign,
            funnel=funnel,
            most=max(1, *funnel.values()),
            offers=self._open.listing(visit, query, OFFERS.c.number, manager=manager, status=status),
            manager=manager,
            status=status,
            statuses=("open", "applied", "expired", "withdrawn"),
            managers=self._choices("manager"),
            today=book.today(),
            works=bool(visit.roles & LENDS),
            currency=self._open.settings.currency,
        )

    def contacted(self, visit: Visit) -> Response:
        """Note that an account manager told a firm its number."""
        name, number = visit.part("name")[:80], visit.form.get("number", "")[:20]
        visit.subject = f"offer {number}"
        offers.note_contact(self._open.book, number, visit.person)
        return visit.go_to(f"/campaigns/{name}", "saved")

    # --- renewals, alarms --------------------------------------------------------------------------------------------

    def renewal_list(self, visit: Visit) -> Response:
        """Show the contracts that end soon, and what was proposed for them."""
        book, settings = self._open.book, self._open.settings
        with book.reading() as entry:
            due = renewals.due_contracts(entry, settings)
        query = (
            sa.select(RENEWALS, CONTRACTS.c.number, CONTRACTS.c.product, CONTRACTS.c.ends_on, FIRMS.c.name)
            .join(CONTRACTS, CONTRACTS.c.id == RENEWALS.c.contract)
            .join(FIRMS, FIRMS.c.firm == RENEWALS.c.firm)
        )
        status = visit.asked("status", 20)
        query = query.where(RENEWALS.c.status == status) if status else query
        return visit.show(
            "bank/renewals.html",
            due=due[:100],
            more=max(0, len(due) - 100),
            renewals=self._open.listing(visit, query, RENEWALS.c.due_on.desc(), status=status),
            status=status,
            statuses=("due", "proposed", "accepted", "declined", "lapsed"),
            works=bool(visit.roles & LENDS),
            currency=settings.currency,
            rules=settings.renewals,
        )

    def accept_renewal(self, visit: Visit) -> Response:
        """Renew a contract as proposed, at the firm's word."""
        number = visit.form.get("number", "")[:20]
        visit.subject = f"contract {number}"
        renewals.accept(self._open.book, self._open.settings, number, visit.person)
        return visit.go_to("/renewals", "saved")

    def alarm_list(self, visit: Visit) -> Response:
        """Show the cases that alarms opened, the most urgent first, with what is to be done by when."""
        status, manager = visit.asked("status", 20), visit.asked("manager", 80)
        latest = sa.select(sa.func.max(ALARMS.c.month)).where(ALARMS.c.case == CASES.c.id).scalar_subquery()
        query = sa.select(CASES, FIRMS.c.name, latest.label("month")).join(FIRMS, FIRMS.c.firm == CASES.c.firm)
        query = query.where(CASES.c.status == status) if status else query
        query = query.where(CASES.c.manager == manager) if manager else query
        counted = sa.select(ALARMS.c.month, sa.func.count().label("n")).group_by(ALARMS.c.month)
        months = {row["month"]: row["n"] for row in self._open.recent(counted, COUNTED_S)}
        order = (CASES.c.status.desc(), CASES.c.level.desc(), CASES.c.due_on, CASES.c.id)
        return visit.show(
            "bank/alarms.html",
            alarms=self._open.listing(visit, query, order, status=status, manager=manager),
            status=status,
            statuses=("open", "closed"),
            manager=manager,
            managers=self._choices("manager"),
            feedback=alarms.FEEDBACK,
            works=bool(visit.roles & LENDS),
            case_number=case_number,
            chart=drawn(_alarms_chart(visit, months, self._open.book.today())),
        )

    def settle_alarm(self, visit: Visit) -> Response:
        """Close a case with what the account manager found, which is a label for the next training."""
        number = visit.form.get("number", "")[:20]
        visit.subject = f"case {number}"
        note = visit.form.get("note", "").strip()
        alarms.settle(self._open.book, number, visit.form.get("feedback", ""), note, visit.person)
        return visit.go_to("/alarms", "saved")


def _grouped(portrait: Portrait) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for one in portrait.fields:
        groups.setdefault(one.group, []).append(one)
    return groups


def _ends_chart(visit: Visit, contracts: list[tuple[dt.date, int]], today: dt.date) -> Chart | None:
    """Draw how much of what is lent ends in each of the coming twelve months."""
    if not contracts:
        return None
    months: Counter[int] = Counter()
    for ends_on, amount in contracts:
        months[(ends_on.year - today.year) * 12 + ends_on.month - today.month] += amount
    names = (noted("Limits that end, by month"), noted("months from now"), noted("millions"))
    title, axis, unit = map(visit.told, names)
    return bar_chart((title, axis, unit), [float(n) for n in range(13)], [months[n] / 1e8 for n in range(13)])


def _alarms_chart(visit: Visit, months: dict[dt.date, int], today: dt.date) -> Chart | None:
    """Draw how many alarms were raised in each of the last twelve months."""
    if not months:
        return None
    counts: Counter[int] = Counter()
    for month, n in months.items():
        counts[(month.year - today.year) * 12 + month.month - today.month] += n
    names = (noted("Alarms by month"), noted("months before this one"), noted("alarms"))
    title, axis, unit = map(visit.told, names)
    heights = [float(counts[back]) for back in range(-11, 1)]
    return bar_chart((title, axis, unit), [float(back) for back in range(-11, 1)], heights, least=5.0)


def pages(open_: OpenBook) -> tuple[Page, ...]:
    """Return the pages on one book."""
    own = LendingPages(open_)
    bank = ("bank",)
    return (
        Page("/portfolio", own.portfolio, SEES, name=noted("Portfolio"), section=_SECTION, roles=bank),
        Page("/firms", own.firms, SEES, name=noted("Firms"), section=_SECTION, roles=bank),
        Page("/firms/{firm}", own.firm, SEES, act="read a portrait", roles=bank),
        Page("/applications", own.application_list, SEES, name=noted("Applications"), section=_SECTION, roles=bank),
        Page("/applications/{request}", own.application, SEES, roles=bank),
        Page("/applications/{request}/settle", own.settle, LENDS, "POST", act="decide on an application", roles=bank),
        Page("/campaigns", own.campaign_list, SEES, name=noted("Campaigns"), section=_SECTION, roles=bank),
        Page("/campaigns/{name}", own.campaign, SEES, roles=bank),
        Page("/campaigns/{name}/contacted", own.contacted, LENDS, "POST", act="note a contact", roles=bank),
        Page("/renewals", own.renewal_list, SEES, name=noted("Renewals"), section=_SECTION, roles=bank),
        Page("/renewals/accept", own.accept_renewal, LENDS, "POST", act="accept a renewal", roles=bank),
        Page("/alarms/settle", own.settle_alarm, LENDS, "POST", act="close a case", roles=bank),
        Page("/alarms", own.alarm_list, SEES, name=noted("Alarms"), section=_SECTION, roles=bank),
    )
