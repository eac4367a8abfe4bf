"""Proactive credit: from candidates under consent to offers with a number and a validity, and the funnel after them.

Each step is one transaction and finds out from the book what is left to do, so that a campaign that was killed goes on
by running it again; a firm has one offer of a campaign, and one open line of a product, over all campaigns.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_tables import APPLICATIONS, CAMPAIGNS, CONTRACTS, DECISIONS, DRAWS, FIRMS, LINES, OFFERS
from party_bank.firms import consents_for
from party_bank.joint import OPENED, UNKNOWN, JointDecision, Question, decide_jointly
from party_bank.limits import limit_of
from party_bank.offers import secret_of, sha256_of
from party_bank.portfolio import LimitCandidates, plan_portfolio
from party_bank.settings import BankSettings, Budget, Product, amount_of
from veilscore.errors import BookError, ConfigError
from veilscore.terms.decision import Purpose

PROACTIVE: Purpose = "proactive"
_UNBOUNDED = 10**12


def create(
    book: Book,
    settings: BankSettings,
    name: str,
    product: str,
    actor: str,
    *,
    basis: str = "",
    stewards: Sequence[str] = (),
) -> None:
    """Begin a campaign for a product; the same again changes nothing, another one of this name is refused.

    basis : legal ground without consents, filed by two stewards.
    """
    terms, model = settings.product(product), settings.decision_for(PROACTIVE)
    if basis and len(set(stewards)) != 2:
        raise ConfigError("a campaign without consents needs a basis that two stewards filed: name both")
    ground = f"{basis} ({', '.join(sorted(set(stewards)))})" if basis else ""
    values = {
        "product": product,
        "decision": model,
        "basis": ground,
        "valid_days": terms.valid_days,
    }
    with book.writing(actor) as entry:
        found = entry.rows(sa.select(CAMPAIGNS).where(CAMPAIGNS.c.name == name))
        if found and any(found[0][key] != value for key, value in values.items()):
            raise BookError(f"there is another campaign {name}: take a new name")
        if not found:
            entry.add(CAMPAIGNS, name=name, status="open", **values)


def candidates(book: Book, name: str) -> list[str]:
    """Return the firms of a campaign: those that were asked for, else all that may be asked for now."""
    with book.writing("campaign") as entry:
        campaign = find_campaign(entry, name)
        asked = entry.rows(sa.select(DECISIONS.c.firm).where(_of(campaign)))
        return sorted(row["firm"] for row in asked) if asked else _free(entry, campaign)


def run(
    book: Book,
    settings: BankSettings,
    joint: JointDecision,
    name: str,
    key: bytes,
    actor: str,
    firms: Sequence[str] | None = None,
) -> Counter[str]:
    """Decide on a campaign's firms and make offers; return how many firms ended how. Again, it does what is left.

    key : secret of the bank's home, from which each offer's own secret is made.
    firms : default all candidates; BookError where one has an open line of the product, perhaps of another campaign.
    """
    with book.writing(actor) as entry:
        campaign = find_campaign(entry, name)
        if campaign["status"] != "open":
            raise BookError(f"campaign {name} is {campaign['status']}: begin a new one")
        asked = entry.scalar(sa.select(sa.func.count()).where(_of(campaign)))
        free = [] if asked else _free(entry, campaign)
        if firms is not None and not asked:
            _refuse_taken(entry, campaign, firms, set(free))
            free = sorted(set(firms))
    if not asked and not free:
        raise BookError(f"campaign {name} has no candidate: no firm without a line of it consented to {PROACTIVE}")
    ask = Question(PROACTIVE, campaign["decision"], reference_of(campaign))
    decide_jointly(book, joint, ask, free, actor, basis=campaign["basis"])
    with book.writing(actor) as entry:
        entry.lock_name(f"cap of {campaign['product']}")
        _offer(entry, settings, campaign, key)
        rows = entry.rows(sa.select(DECISIONS.c.outcome).where(_of(campaign)))
    return Counter(row["outcome"] for row in rows)


def reference_of(campaign: Row) -> str:
    """Return the reference under which a campaign's decisions are asked for."""
    return f"campaign/{campaign['name']}"


def _of(campaign: Row) -> sa.ColumnElement[bool]:
    return sa.and_(DECISIONS.c.kind == PROACTIVE, DECISIONS.c.reference == reference_of(campaign))


def _free(entry: BookEntry, campaign: Row) -> list[str]:
    """Return the firms that have no open line of the product and may be decided on."""
    taken = sa.select(LINES.c.firm).where(LINES.c.product == campaign["product"], LINES.c.state != "closed")
    query = sa.select(FIRMS.c.firm).where(FIRMS.c.firm.not_in(taken)).order_by(FIRMS.c.firm)
    found = [str(row["firm"]) for row in entry.rows(query)]
    if campaign["basis"]:
        return found
    consented = consents_for(entry, None, PROACTIVE)
    return [firm for firm in found if firm in consented]


def _refuse_taken(entry: BookEntry, campaign: Row, firms: Sequence[str], free: set[str]) -> None:
    for firm in (one for one in firms if one not in free):
        entry.lock_firm(firm)
        line = entry.rows(
            sa.select(LINES.c.state, CAMPAIGNS.c.name)
            .outerjoin(OFFERS, OFFERS.c.line == LINES.c.id)
            .outerjoin(CAMPAIGNS, CAMPAIGNS.c.id == OFFERS.c.campaign)
            .where(LINES.c.firm == firm, LINES.c.product == campaign["product"], LINES.c.state != "closed")
        )
        if line:
            where = f", offered by campaign {line[0]['name']}" if line[0]["name"] else ""
            raise BookError(
                f"{firm} has an open line of {campaign['product']} ({line[0]['state']}{where}): leave it out"
            )
        raise BookError(f"{firm} gave no consent for {PROACTIVE} that is valid now: leave it out, or ask for one")


def _offer(entry: BookEntry, settings: BankSettings, campaign: Row, key: bytes) -> None:
    """Turn what was opened into offers within caps and budget, with the reason of each yes or no."""
    product = settings.product(campaign["product"])
    query = sa.select(DECISIONS, FIRMS.c.industry, FIRMS.c.region).join(FIRMS, FIRMS.c.firm == DECISIONS.c.firm)
    opened = entry.rows(query.where(_of(campaign), DECISIONS.c.outcome == OPENED).order_by(DECISIONS.c.id))
    taken = {
        row["firm"]
        for row in entry.rows(
            sa.select(LINES.c.firm).where(LINES.c.product == campaign["product"], LINES.c.state != "closed")
        )
    }
    lent = _by_firm(entry)
    refused: list[tuple[Row, int, str]] = []
    chosen: list[tuple[Row, int, str]] = []
    for row in opened:
        amount = _within(settings, product, limit_of(product, row["step"]), lent.get(row["firm"], 0))
        why = (
            "no: the joint decision gives it no limit" if not row["step"]
            else "no: it has an open line of the product meanwhile" if row["firm"] in taken
            else "no: what it has already leaves no room under firm_cap" if not amount
            else ""
        )  # fmt: skip
        (refused if why else chosen).append((row, amount, why))
    plan = plan_portfolio(
        LimitCandidates(
            [row["firm"] for row, _, _ in chosen],
            np.array([amount for _, amount, _ in chosen], dtype=np.int64),
            np.array([_earns(product, row["step"]) for row, _, _ in chosen], dtype=float),
            [row["industry"] for row, _, _ in chosen],
            [row["region"] for row, _, _ in chosen],
        ),
        _budget(settings, product),
        _used(entry, campaign["product"], whole=settings.budget is not None),
    )
    granted = [(row, amount, plan.reason(n)) for n, (row, amount, _) in enumerate(chosen) if plan.granted[n]]
    refused += [(row, 0, plan.reason(n)) for n, (row, _, _) in enumerate(chosen) if not plan.granted[n]]
    entry.change_all(DECISIONS, [_ended(row, "declined", why) for row, _, why in refused])
    times = {"opened_s": entry.at_s, "changed_s": entry.at_s}
    new = [
        {"firm": row["firm"], "product": campaign["product"], "state": "prospect", "reason": "", **times}
        for row, _, _ in granted
    ]
    lines = entry.add_all(LINES, new)
    until = entry.today + dt.timedelta(days=campaign["valid_days"])
    offers = [
        _offered(campaign, row, line, amount, until, key) for line, (row, amount, _) in zip(lines, granted, strict=True)
    ]
    entry.add_all(OFFERS, offers)
    entry.move_all(lines, "offered", f"campaign {campaign['name']}")
    entry.change_all(
        DECISIONS,
        [{**_ended(row, "offered", why), "line": line} for line, (row, _, why) in zip(lines, granted, strict=True)],
    )


def _offered(campaign: Row, row: Row, line: int, amount: int, until: dt.date, key: bytes) -> Row:
    number = f"O{line:07d}"
    return {
        "firm": row["firm"], "line": line, "campaign": campaign["id"], "decision": row["id"], "number": number,
        "amount": amount, "valid_until": until, "secret_sha256": sha256_of(secret_of(key, number)), "status": "open",
        "contacted_s": None, "scanned_s": None,
    }  # fmt: skip


def _ended(row: Row, outcome: str, why: str) -> dict[str, Any]:
    return {"id": row["id"], "firm": row["firm"], "outcome": outcome, "reasons": [why], "decided_by": "campaign"}


def _within(settings: BankSettings, product: Product, limit: int, lent: int) -> int:
    """Return the highest limit of the ladder up to `limit` that the firm's cap leaves room for."""
    most = limit if settings.firm_cap is None else min(limit, amount_of(settings.firm_cap) - lent)
    return max((amount_of(step) for step in product.ladder if amount_of(step) <= most), default=0)


def _earns(product: Product, step: int) -> float:
    return (product.earns_bp[step - 1] if product.earns_bp else product.rate_bp) / 10_000


def _budget(settings: BankSettings, product: Product) -> Budget:
    """Return the budget, its total no more than the product's cap."""
    cap = product.cap or _UNBOUNDED
    if settings.budget is None:
        return Budget(total=cap)
    return settings.budget.model_copy(update={"total": min(settings.budget.total, cap)})


def _used(entry: BookEntry, product: str, *, whole: bool) -> Mapping[str, int]:
    """Return what contracts and open offers take of the budgets: of all products if there is a budget, else of this."""
    used: Counter[str] = Counter()
    binding = sa.select(CONTRACTS.c.amount, CONTRACTS.c.product, FIRMS.c.industry, FIRMS.c.region)
    binding = binding.join(FIRMS, FIRMS.c.firm == CONTRACTS.c.firm).where(CONTRACTS.c.status.in_(("draft", "signed")))
    promised = sa.select(OFFERS.c.amount, LINES.c.product, FIRMS.c.industry, FIRMS.c.region).join(
        FIRMS, FIRMS.c.firm == OFFERS.c.firm
    )
    promised = promised.join(LINES, LINES.c.id == OFFERS.c.line).where(OFFERS.c.status == "open")
    for row in (*entry.rows(binding), *entry.rows(promised)):
        if whole or row["product"] == product:
            for name in ("total", f"industry {row['industry']}", f"region {row['region']}"):
                used[name] += row["amount"]
    return used


def _by_firm(entry: BookEntry) -> dict[str, int]:
    """Return what contracts and open offers bind the bank to, by firm."""
    found: Counter[str] = Counter()
    binding = sa.select(CONTRACTS.c.firm, CONTRACTS.c.amount).where(CONTRACTS.c.status.in_(("draft", "signed")))
    for row in entry.rows(binding):
        found[row["firm"]] += row["amount"]
    for row in entry.rows(sa.select(OFFERS.c.firm, OFFERS.c.amount).where(OFFERS.c.status == "open")):
        found[row["firm"]] += row["amount"]
    return dict(found)


def funnel(book: Book, name: str) -> dict[str, int]:
    """Return how many firms of a campaign came how far."""
    with book.writing("campaign") as entry:
        campaign = find_campaign(entry, name)
        outcomes = Counter(row["outcome"] for row in entry.rows(sa.select(DECISIONS.c.outcome).where(_of(campaign))))
        offers = entry.rows(sa.select(OFFERS).where(OFFERS.c.campaign == campaign["id"]))
        lines = sa.select(OFFERS.c.line).where(OFFERS.c.campaign == campaign["id"])
        applied = entry.rows(sa.select(APPLICATIONS.c.status).where(APPLICATIONS.c.line.in_(lines)))
        drawn = sa.select(sa.func.count(sa.distinct(CONTRACTS.c.line))).join(DRAWS, DRAWS.c.contract == CONTRACTS.c.id)
        return {
            "asked": sum(outcomes.values()),
            "unknown": outcomes[UNKNOWN],
            "declined": outcomes["declined"],
            "offered": len(offers),
            "contacted": sum(offer["contacted_s"] is not None for offer in offers),
            "scanned": sum(offer["scanned_s"] is not None for offer in offers),
            "applied": len(applied),
            "approved": sum(row["status"] == "approved" for row in applied),
            "drawn": int(entry.scalar(drawn.where(CONTRACTS.c.line.in_(lines)))),
            "expired": sum(offer["status"] == "expired" for offer in offers),
        }


def find_campaign(entry: BookEntry, name: str) -> Row:
    """Return a campaign; BookError if there is none of this name."""
    found = entry.rows(sa.select(CAMPAIGNS).where(CAMPAIGNS.c.name == name))
    if not found:
        raise BookError(f"no campaign {name[:60]!r}: begin it with `veilscore bank campaign create`")
    return found[0]
