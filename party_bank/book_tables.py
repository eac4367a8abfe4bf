"""The tables of the bank's book, and its state machine.

A *line* is one attempt at lending to one firm under one product: it begins as a prospect and ends closed. A firm has at
most one open line a product. Amounts are integers in hundredths of the currency, times seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

STATES = ("prospect", "offered", "applied", "approved", "drawn", "watched", "renewed", "closed")
TRANSITIONS: dict[str, frozenset[str]] = {
    "prospect": frozenset({"offered", "applied", "closed"}),
    "offered": frozenset({"applied", "closed"}),  # closed: expired, withdrawn, or the firm said no
    "applied": frozenset({"approved", "closed"}),  # closed: declined, or the firm withdrew
    "approved": frozenset({"drawn", "renewed", "closed"}),  # renewed or closed: nothing was drawn within its term
    "drawn": frozenset({"watched", "renewed", "closed"}),
    "watched": frozenset({"renewed", "closed"}),
    "renewed": frozenset({"watched", "renewed", "closed"}),  # its new contract is drawn on and watched like the first
    "closed": frozenset(),
}
LENT = ("approved", "drawn", "watched", "renewed")  # states in which a contract counts as exposure

metadata = sa.MetaData()


def _table(name: str, *columns: Any) -> sa.Table:
    return sa.Table(name, metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=True), *columns)


def _text(name: str, length: int = 80, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, **options)


def _to(table: str, name: str, *, nullable: bool = False, **options: Any) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, sa.ForeignKey(f"{table}.id"), nullable=nullable, **options)


def _firm() -> sa.Column[str]:
    return sa.Column("firm", sa.String(64), sa.ForeignKey("firms.firm"), nullable=False, index=True)


def _amount(name: str = "amount") -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _at(name: str = "at_s", *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


def _day(name: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Date, nullable=nullable, **options)


FIRMS = _table(
    "firms",
    _text("firm", 64, unique=True),
    _text("name", 200),
    _text("industry"),
    _text("region"),
    _text("manager"),  # who looks after it at the bank
    _at("since_s"),
)
CONSENTS = _table(
    "consents",
    _firm(),
    _text("document", 64),  # id of the signed token or list
    _text("issuer"),
    _text("purpose", 60),
    sa.Column("holders", sa.JSON, nullable=False),
    _at("not_before_s"),
    _at("expires_s"),
    _at("revoked_s", nullable=True),
    sa.UniqueConstraint("document", "firm"),
)
CAMPAIGNS = _table(
    "campaigns",
    _text("name", unique=True),
    _text("product"),
    _text("decision"),  # name of the decision model
    _text("status", 20),  # open, closed
    _text("basis", 2000),  # "" under consents; else legal ground and the two stewards that filed it
    sa.Column("valid_days", sa.Integer, nullable=False),
)
LINES = _table(
    "lines",
    _firm(),
    _text("product"),
    _text("state", 20, index=True),
    _text("reason", 400),
    _at("opened_s"),
    _at("changed_s"),
    sa.CheckConstraint(f"state IN {STATES}", "known_state"),
)
sa.Index(
    "one_open_line",
    LINES.c.firm,
    LINES.c.product,
    unique=True,
    sqlite_where=LINES.c.state != "closed",
    postgresql_where=LINES.c.state != "closed",
)
DECISIONS = _table(
    "decisions",
    _firm(),
    _to("lines", "line", nullable=True),
    _text("kind", 20),  # proactive, application, renewal, watch, report: the purpose that the consent names
    _text("reference", 160),  # of the joint decision: job or request; the same one gives the same answer
    _text("model"),
    _text("model_sha256", 64),
    sa.Column("step", sa.Integer, nullable=True),  # null: a holder did not know the firm, or refused
    _text("measure"),  # the one that bound, if it was told
    sa.Column("holders", sa.JSON, nullable=False),  # each is charged the bits
    sa.Column("bits", sa.Double, nullable=False),
    _text("outcome", 20),  # offered, approved, referred, declined, watched, unknown
    sa.Column("reasons", sa.JSON, nullable=False),
    _text("policy"),  # name, version and hash of the bank's own policy, and which of its rows fired
    _text("policy_sha256", 64),
    sa.Column("inputs", sa.JSON, nullable=False),
    _text("policy_row", 200),
    _text("decided_by"),
    _to("consents", "consent", nullable=True),
    _at("decided_s"),
    sa.UniqueConstraint("firm", "kind", "reference"),
)
OFFERS = _table(
    "offers",
    _firm(),
    _to("lines", "line", unique=True),
    _to("campaigns", "campaign"),
    _to("decisions", "decision", unique=True),
    _text("number", 20, unique=True),
    _amount(),
    _day("valid_until", index=True),
    _text("secret_sha256", 64, unique=True),  # of the one-time secret in its QR code
    _text("status", 20),  # open, applied, expired, withdrawn
    _at("contacted_s", nullable=True),
    _at("scanned_s", nullable=True),
    sa.UniqueConstraint("campaign", "firm"),
)
APPLICATIONS = _table(
    "applications",
    _firm(),
    _to("lines", "line", unique=True),
    _to("offers", "offer", nullable=True, unique=True),
    _to("decisions", "decision", nullable=True),
    _text("request", unique=True),  # the caller's id: the same request again is the same application
    _amount(),
    sa.Column("months", sa.Integer, nullable=False),
    _text("status", 20),  # received, approved, referred, declined
    _at("received_s"),
)
RENEWALS = _table(
    "renewals",
    _firm(),
    _to("lines", "line"),
    sa.Column("contract", sa.Integer, nullable=False, unique=True),  # the one that ends
    _to("decisions", "decision", nullable=True),
    _day("due_on", index=True),
    _text("status", 20),  # due, proposed, accepted, declined, lapsed
    _amount(),
    sa.Column("months", sa.Integer, nullable=False),
)
CONTRACTS = _table(
    "contracts",
    _firm(),
    _to("lines", "line"),
    _text("product"),
    _text("number", 20, unique=True),
    _to("applications", "application", nullable=True, unique=True),  # one contract an application or renewal
    _to("renewals", "renewal", nullable=True, unique=True),
    _amount(),  # its limit
    sa.Column("rate_bp", sa.Integer, nullable=False),  # a year's interest in hundredths of a per cent
    _day("starts_on"),
    _day("ends_on", index=True),
    _text("status", 20),  # draft, signed, ended
)
DRAWS = _table(
    "draws",
    _firm(),
    _to("contracts", "contract", index=True),
    _text("request", unique=True),
    _amount(),
    _day("drawn_on"),
    sa.CheckConstraint("amount > 0", "positive_draw"),
)
REPAYMENTS = _table(
    "repayments",
    _firm(),
    _to("contracts", "contract", index=True),
    _text("request", unique=True),
    _amount(),  # of what was drawn; interest is the ledger's of the bank, not this book's
    _day("paid_on"),
    sa.CheckConstraint("amount > 0", "positive_repayment"),
)
CASES = _table(
    "cases",
    _firm(),
    _text("manager"),  # whose work it is: who looked after the firm when it was opened
    sa.Column("level", sa.Integer, nullable=False),  # the highest of its alarms
    _text("status", 20),  # open, closed
    _text("next_step", 400),
    _day("due_on"),  # by when the next step is to be done
    _at("opened_s"),
    _at("closed_s", nullable=True),
    _text("feedback", 20),  # "" while open; true, false, other: a label for the next training
    _text("note", 400),
)
sa.Index(
    "one_open_case",
    CASES.c.firm,
    unique=True,
    sqlite_where=CASES.c.status == "open",
    postgresql_where=CASES.c.status == "open",
)
ALARMS = _table(
    "alarms",
    _firm(),
    _to("cases", "case", index=True),
    _to("decisions", "decision", unique=True),
    _day("month"),
    sa.Column("level", sa.Integer, nullable=False),
    sa.UniqueConstraint("firm", "month"),
)
REPORTS = _table(
    "reports",
    _firm(),
    _text("kind", 40),
    _text("path", 400),
    _text("sha256", 64),
    _day("as_of"),
)
WORK = _table(
    "work",
    _text("task", 40),
    _text("firm", 64),  # "" where the work is for all firms
    _day("due_on"),
    _text("status", 20, index=True),  # waiting, running, done, failed
    _text("worker"),
    _at("lease_s"),
    sa.Column("attempts", sa.Integer, nullable=False),
    _text("result", 400),
    sa.UniqueConstraint("task", "firm", "due_on"),
)
HISTORY = _table(  # rows are added and never changed: triggers of the database refuse it
    "history",
    _at(),
    _text("actor"),
    _text("firm", 64, index=True),
    _text("event", 20),  # added, changed, moved, clock
    _text("subject", 20),  # table
    sa.Column("subject_id", sa.Integer, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
)


def case_number(case: int) -> str:
    """Return the number of a case as people write it."""
    return f"W{case:07d}"
