"""What the bank itself knows of a firm, as facts: its book, its settings, and its own variables.

The bank's own figures are exact; what holders decided jointly stands in the book as steps.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from party_bank.assistants.report_fields import report_fields
from party_bank.book import BookEntry, Row, day_of
from party_bank.book_tables import ALARMS, APPLICATIONS, CASES, CONTRACTS, DECISIONS, LINES, RENEWALS
from party_bank.contracts import owed
from party_bank.limits import limit_of, room
from party_bank.settings import HUNDREDTHS, BankSettings
from veilscore.errors import BookError, ConfigError
from veilscore.features.built import read_firms
from veilscore.reports.facts import Fact, Source, Unit, plain_text
from veilscore.terms.node_config import NodeConfig

# fact -> variable of the shipped catalogue `bank`, unit, window
_VARIABLES: Mapping[str, tuple[str, Unit, int | None]] = {
    "account.average_balance": ("balances.balance.mean.365d", "money", 365),
    "account.inflow": ("bookings.amount.sum.365d[direction=in]", "money", 365),
    "account.outflow": ("bookings.amount.sum.365d[direction=out]", "money", 365),
    "account.net_inflow": ("net_inflow.365d", "money", 365),
    "account.counterparties": ("bookings.distinct(counterparty).365d[direction=in]", "count", 365),
    "account.top_counterparty": ("bookings.amount.top_share(counterparty).365d[direction=in]", "percent", 365),
    "account.cover": ("cover.90d", "percent", 90),
    "account.overdraft_days": ("balances.overdraft_days.max.365d", "days", 365),
    "loan.late": ("repayments.count.365d[timely=late]", "count", 365),
    "loan.most_late": ("repayments.days_late.max.365d", "days", 365),
}
_SPREAD, _MEAN = "balances.balance.std.365d", "balances.balance.mean.365d"


@dataclass(frozen=True)
class OwnRows:
    """The bank's own variables of some firms, read once for all of them.

    values : firm -> variable -> value.
    """

    as_of: dt.date
    dataset: str
    values: Mapping[str, Mapping[str, float | str | None]]


def read_own(settings: BankSettings, node: NodeConfig, firms: Sequence[str]) -> OwnRows | None:
    """Return the bank's own variables of firms; None where bank.yaml names no data set made from events."""
    if settings.dataset is None:
        return None
    entry = node.datasets.get(settings.dataset)
    if entry is None:
        raise ConfigError(f"bank.yaml names data set {settings.dataset!r}; node.yaml has: {', '.join(node.datasets)}")
    if entry.features is None or entry.path is None:
        return None
    names = {variable for variable, _, _ in _VARIABLES.values()} | {_SPREAD}
    as_of, values = read_firms(entry.path, names, firms)
    return OwnRows(as_of, settings.dataset, values)


@dataclass(frozen=True)
class _Maker:
    """Makes the bank's facts of one firm."""

    firm: str
    bank: str
    currency: str

    def fact(
        self, name: str, value: object, unit: Unit, as_of: dt.date, source: Source, days: int | None = None
    ) -> Fact:
        about = {"firm": self.firm, "owner": self.bank, "currency": self.currency, "days": days}
        return Fact.model_validate(
            {"name": name, "value": value, "unit": unit, "as_of": as_of, "source": source, **about}
        )

    def book(self, name: str, value: object, unit: Unit, as_of: dt.date, where: str) -> Fact:
        return self.fact(name, value, unit, as_of, Source(kind="book", reference=where))


def bank_facts(
    entry: BookEntry, settings: BankSettings, bank: str, firm: str, own: OwnRows | None = None
) -> tuple[Fact, ...]:
    """Return all that the bank knows of a firm of its book; BookError if the book lacks it."""
    about = entry.firm(firm)
    make = _Maker(firm, bank, settings.currency)
    return (
        *_firm(make, about),
        *_own(make, own),
        *_loans(entry, make),
        *_decision(entry, settings, make),
        *_request(entry, make),
        *_review(entry, settings, make),
    )


def alarm_facts(
    entry: BookEntry, settings: BankSettings, bank: str, firm: str, since: dt.date | None
) -> tuple[Fact, ...]:
    """Return the firm's alarms since a day (None: all): how many, the highest level, the next step of its open case."""
    make = _Maker(firm, bank, settings.currency)
    query = sa.select(ALARMS).where(ALARMS.c.firm == firm).order_by(ALARMS.c.level.desc(), ALARMS.c.id.desc())
    rows = entry.rows(query if since is None else query.where(ALARMS.c.month >= since.replace(day=1)))
    found = [make.book("after.alarms", len(rows), "count", entry.today, "alarms")]
    if rows:
        found.append(make.book("after.level", rows[0]["level"], "points", rows[0]["month"], f"alarm {rows[0]['id']}"))
    for case in entry.rows(sa.select(CASES).where(CASES.c.firm == firm, CASES.c.status == "open")):
        where = f"case {case['id']}, by {case['due_on'].isoformat()}"
        found.append(make.book("after.next_step", case["next_step"] or "look at it", "text", entry.today, where))
    return tuple(found)


def _firm(make: _Maker, about: Row) -> Iterator[Fact]:
    since = day_of(about["since_s"])
    where = f"firms, row {about['id']}"
    yield make.book("firm.id", make.firm, "text", since, where)
    for key in ("name", "industry", "region"):
        if plain_text(about[key]):
            # an industry that is no level of ours is free text, like a name
            unit: Unit = "level" if key == "industry" and about[key] in report_fields().spoken.levels else "text"
            yield make.book(f"firm.{key}", about[key], unit, since, where)
    yield make.book("account.since", since, "date", since, where)


def _own(make: _Maker, own: OwnRows | None) -> Iterator[Fact]:
    values = {} if own is None else own.values.get(make.firm, {})
    if own is None or not values:
        return
    for name, (variable, unit, days) in _VARIABLES.items():
        value = values.get(variable)
        if isinstance(value, float):
            shown = round(value, 2) if unit == "money" else int(value) if unit in {"count", "days"} else round(value, 4)
            source = Source(kind="data set", reference=f"{own.dataset}, {variable}")
            yield make.fact(name, shown, unit, own.as_of, source, days)
    spread, mean = values.get(_SPREAD), values.get(_MEAN)
    if isinstance(spread, float) and isinstance(mean, float) and mean > 0:
        source = Source(kind="calculation", reference=f"{own.dataset}, {_SPREAD} / {_MEAN}")
        yield make.fact("account.volatility", round(spread / mean, 4), "percent", own.as_of, source, 365)


def _loans(entry: BookEntry, make: _Maker) -> Iterator[Fact]:
    query = sa.select(CONTRACTS).where(CONTRACTS.c.firm == make.firm, CONTRACTS.c.status == "signed")
    rows = entry.rows(query.order_by(CONTRACTS.c.ends_on))
    today = entry.today
    yield make.book("loan.contracts", len(rows), "count", today, "contracts")
    if not rows:
        return
    where = f"contracts {', '.join(row['number'] for row in rows)}"[:300]
    limit = sum(row["amount"] for row in rows)
    yield make.book("loan.limit", limit / HUNDREDTHS, "money", today, where)
    due = sum(owed(entry, row["id"]) for row in rows)
    yield make.book("loan.owed", due / HUNDREDTHS, "money", today, where)
    yield make.book("loan.ends", rows[-1]["ends_on"], "date", today, where)
    yield make.book("loan.products", ", ".join(sorted({row["product"] for row in rows}))[:400], "text", today, where)


def _decision(entry: BookEntry, settings: BankSettings, make: _Maker) -> Iterator[Fact]:
    """Yield the latest joint decision and what the bank may offer by it."""
    query = sa.select(DECISIONS).where(DECISIONS.c.firm == make.firm).order_by(DECISIONS.c.id.desc()).limit(1)
    for row in entry.rows(query):
        day = day_of(row["decided_s"])
        told = Source(kind="receipt", reference=f"{row['kind']} {row['reference']}"[:300])
        yield make.fact("decision.day", day, "date", day, told)
        yield make.fact("decision.outcome", row["outcome"] or "unknown", "level", day, told)
        if row["step"] is not None:
            yield make.fact("decision.step", row["step"], "points", day, told)
            yield make.fact("decision.passed", row["step"] > 0, "flag", day, told)
        if row["measure"]:
            yield make.fact("decision.measure", row["measure"], "text", day, told)
        if row["model"]:
            yield make.fact("decision.model", f"{row['model']} {row['model_sha256'][:12]}".strip(), "text", day, told)
        if row["policy"]:
            yield make.book("decision.policy", row["policy"][:400], "text", day, f"decisions, row {row['id']}")
        if row["reasons"]:
            reasons = "; ".join(map(str, row["reasons"]))[:400]
            yield make.book("decision.reasons", reasons, "text", day, f"decisions, row {row['id']}")
        yield from _proposal(entry, settings, make, row)


def _proposal(entry: BookEntry, settings: BankSettings, make: _Maker, row: Row) -> Iterator[Fact]:
    product = _product(entry, settings, row)
    if product is None or row["step"] is None:
        return
    terms, today = settings.product(product), entry.today
    try:
        limit = limit_of(terms, row["step"])
    except BookError:  # decided on another ladder than today's
        return
    day = day_of(row["decided_s"])
    ladder = Source(kind="settings", reference=f"bank.yaml, products.{product}, step {row['step']}")
    yield make.fact("decision.limit", limit / HUNDREDTHS, "money", day, ladder)
    free = min(limit, room(entry, settings, make.firm, product))
    source = Source(kind="calculation", reference=f"step {row['step']} of {product}, within what caps leave")
    yield make.fact("proposal.limit", free / HUNDREDTHS, "money", today, source)
    if limit:
        yield make.fact("proposal.rate", terms.rate_bp / 10_000, "percent", today, ladder)
        yield make.fact("proposal.months", terms.months, "months", today, ladder)


def _product(entry: BookEntry, settings: BankSettings, row: Row) -> str | None:
    """Return the product of a decision's line; of none, the bank's only one."""
    if row["line"] is not None:
        found = entry.scalar(sa.select(LINES.c.product).where(LINES.c.id == row["line"]))
        return str(found) if found in settings.products else None
    return next(iter(settings.products)) if len(settings.products) == 1 else None


def _request(entry: BookEntry, make: _Maker) -> Iterator[Fact]:
    query = sa.select(APPLICATIONS).where(APPLICATIONS.c.firm == make.firm).order_by(APPLICATIONS.c.id.desc()).limit(1)
    for row in entry.rows(query):
        day, where = day_of(row["received_s"]), f"application {row['request']}"[:300]
        yield make.book("request.amount", row["amount"] / HUNDREDTHS, "money", day, where)
        yield make.book("request.months", row["months"], "months", day, where)


def _review(entry: BookEntry, settings: BankSettings, make: _Maker) -> Iterator[Fact]:
    """Yield when somebody has to look again: a renewal that is due, or the first day on which one can be."""
    open_renewals = sa.select(RENEWALS).where(RENEWALS.c.firm == make.firm, RENEWALS.c.status.in_(("due", "proposed")))
    cases = sa.select(CASES).where(CASES.c.firm == make.firm, CASES.c.status == "open")
    days = [(row["due_on"], f"case {row['id']}") for row in entry.rows(cases)]
    days += [(row["due_on"], f"renewal {row['id']}") for row in entry.rows(open_renewals)]
    signed = sa.select(CONTRACTS).where(CONTRACTS.c.firm == make.firm, CONTRACTS.c.status == "signed")
    before = dt.timedelta(days=settings.renewals.from_days)
    days += [(row["ends_on"] - before, f"contract {row['number']}") for row in entry.rows(signed)]
    if days:
        day, where = min(days)
        yield make.book("after.next_review", day, "date", entry.today, where)
