"""The portrait of one firm: all that the bank knows, each field with its source, its time and its owner.

What holders told stands in it as the steps that were opened, never as a value: the bank has none. What is left of the
firm's release budget is by the bank's own count; each holder's ledger decides.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_check import covers
from party_bank.book_tables import (
    ALARMS,
    APPLICATIONS,
    CASES,
    CONSENTS,
    CONTRACTS,
    DECISIONS,
    LINES,
    OFFERS,
    RENEWALS,
    REPORTS,
    case_number,
)
from party_bank.contracts import owed
from party_bank.limits import firm_exposure, room
from party_bank.settings import BankSettings, shown_amount
from veilscore.data.ids import normalise_ids
from veilscore.data.ingest import read_table
from veilscore.data.panel import newest
from veilscore.errors import ConfigError
from veilscore.terms.node_config import NodeConfig

YEAR_S = 365 * 86400.0
_BITS_A_YEAR = 10.0  # of a holder's policy where its steward said nothing else (`release.bits_per_year`)


@dataclass(frozen=True)
class PortraitField:
    """One thing that is known of a firm.

    value : a text, a number, or None where it is missing.
    source : where it came from; at : of what time it is (ISO 8601); owner : whose it is.
    """

    group: str
    name: str
    value: str | float | None
    source: str
    at: str
    owner: str


@dataclass(frozen=True)
class Portrait:
    """All that the bank knows of one firm as of a time."""

    firm: str
    at: str
    fields: tuple[PortraitField, ...]

    def as_json(self) -> str:
        """Return it as JSON, the same text for the same book and time."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def make_portrait(book: Book, settings: BankSettings, firm: str, node: NodeConfig) -> Portrait:
    """Put together what the book and the bank's own data set know of a firm; BookError if the book lacks it.

    node : of the bank; its data set is `settings.dataset`, whose columns are left out where it is not set.
    """
    with book.reading() as entry:
        about = entry.firm(firm)
        fields = [
            PortraitField("firm", key, about[key], "book", _moment(about["since_s"]), node.name)
            for key in ("name", "industry", "region", "manager")
        ]
        fields += _lending(entry, settings, firm, node.name)
        fields += _decided(entry, settings, firm)
        fields += _after(entry, firm, node.name)
        at = _moment(entry.at_s)
    own = _own_columns(settings, firm, node)
    return Portrait(firm, at, (*fields[:4], *own, *fields[4:]))


def _own_columns(settings: BankSettings, firm: str, node: NodeConfig) -> Iterator[PortraitField]:
    """Yield the firm's row of the bank's own data set."""
    if settings.dataset is None:
        return
    if settings.dataset not in node.datasets:
        raise ConfigError(f"bank.yaml names data set {settings.dataset!r}; node.yaml has: {', '.join(node.datasets)}")
    entry = node.datasets[settings.dataset]
    named = {entry.label_column, entry.weight_column, entry.date_column} - {None, *entry.key_columns}
    table = read_table(
        entry.source,
        entry.key,
        exclude=(*entry.exclude, *sorted(map(str, filter(None, named)))),
        normaliser=settings.id_normaliser,
        rules=entry,
        table=entry.table,
        query=entry.query,
    )
    at = _moment(entry.path.stat().st_mtime) if entry.path is not None else _moment(dt.datetime.now(dt.UTC).timestamp())
    if table.panel is not None:  # of firms at dates, a firm's newest row
        table = table.take(newest(table.panel))
    for row in np.flatnonzero(table.firms == normalise_ids([firm], settings.id_normaliser)[0])[:1]:
        for name, column in table.columns.items():
            value: Any = column[row]
            if isinstance(value, float | np.floating):
                value = None if np.isnan(value) else float(value)
            yield PortraitField("own data", name, value, f"data set {settings.dataset}", at, node.name)


def _lending(entry: BookEntry, settings: BankSettings, firm: str, bank: str) -> Iterator[PortraitField]:
    def rows(table: sa.Table) -> list[Row]:
        return entry.rows(sa.select(table).where(table.c.firm == firm).order_by(table.c.id))

    for line in rows(LINES):
        text = line["state"] + (f": {line['reason']}" if line["reason"] else "")
        yield PortraitField(
            "lines", line["product"], text, f"book, line {line['id']}", _moment(line["changed_s"]), bank
        )
    for offer in rows(OFFERS):
        text = f"{shown_amount(offer['amount'])} {settings.currency}, {offer['status']}, until {offer['valid_until']}"
        yield PortraitField("offers", offer["number"], text, "book", offer["valid_until"].isoformat(), bank)
    for one in rows(APPLICATIONS):
        text = f"{shown_amount(one['amount'])} {settings.currency} for {one['months']} months, {one['status']}"
        yield PortraitField("applications", one["request"], text, "book", _moment(one["received_s"]), bank)
    for contract in rows(CONTRACTS):
        text = (
            f"{contract['product']}, limit {shown_amount(contract['amount'])}, owed "
            f"{shown_amount(owed(entry, contract['id']))} {settings.currency}, {contract['status']}, until "
            f"{contract['ends_on']}"
        )
        yield PortraitField("contracts", contract["number"], text, "book", contract["starts_on"].isoformat(), bank)
    now = _moment(entry.at_s)
    for product, amount in sorted(firm_exposure(entry, firm).items()):
        yield PortraitField("exposure", product, amount / 100, "book, contracts", now, bank)
    for product in settings.products:
        yield PortraitField(
            "room", product, room(entry, settings, firm, product) / 100, "bank.yaml, less the exposure", now, bank
        )


def _decided(entry: BookEntry, settings: BankSettings, firm: str) -> Iterator[PortraitField]:
    """Yield steps that were opened, consents, and the bits that are left at each holder."""
    told: dict[str, float] = defaultdict(float)
    for row in entry.rows(sa.select(DECISIONS).where(DECISIONS.c.firm == firm).order_by(DECISIONS.c.id)):
        step = "unknown to a holder" if row["step"] is None else f"step {row['step']}"
        bound = f", bound by {row['measure']}" if row["measure"] else ""
        model = f"{row['model']} {row['model_sha256'][:16]}".strip()
        yield PortraitField(
            "decisions", row["kind"], f"{step}{bound}, {row['outcome']}", f"{model}, {row['reference']}",
            _moment(row["decided_s"]), ", ".join(row["holders"]) or "the bank",
        )  # fmt: skip
        if row["decided_s"] > entry.at_s - YEAR_S:
            for holder in row["holders"]:
                told[holder] += row["bits"]
    for row in entry.rows(sa.select(CONSENTS).where(CONSENTS.c.firm == firm).order_by(CONSENTS.c.id)):
        valid = covers(row, firm, row["purpose"], entry.at_s)
        state = "valid" if valid else "withdrawn" if row["revoked_s"] is not None else "not valid now"
        text = f"{state}, until {_moment(row['expires_s'])[:10]}"
        at = _moment(row["not_before_s"])
        yield PortraitField("consents", row["purpose"], text, f"consent {row['document']}", at, row["issuer"])
    for holder in sorted({*told, *settings.bits_per_year}):
        left = settings.bits_per_year.get(holder, _BITS_A_YEAR) - told[holder]
        source = "bank.yaml, less what was opened within a year"
        yield PortraitField("bits left", holder, round(max(0.0, left), 2), source, _moment(entry.at_s), holder)


def _after(entry: BookEntry, firm: str, bank: str) -> Iterator[PortraitField]:
    """Yield alarms, cases, renewals and reports."""
    for row in entry.rows(sa.select(ALARMS).where(ALARMS.c.firm == firm).order_by(ALARMS.c.id)):
        case = f"book, case {case_number(row['case'])}"
        yield PortraitField("alarms", "watch", f"level {row['level']}", case, row["month"].isoformat(), bank)
    for row in entry.rows(sa.select(CASES).where(CASES.c.firm == firm).order_by(CASES.c.id)):
        ended = f"closed, {row['feedback']}" + (f": {row['note']}" if row["note"] else "")
        text = f"open, next by {row['due_on']}: {row['next_step']}" if row["status"] == "open" else ended
        at_s = row["opened_s"] if row["closed_s"] is None else row["closed_s"]
        yield PortraitField("cases", case_number(row["id"]), text, "book", _moment(at_s), row["manager"] or bank)
    for row in entry.rows(sa.select(RENEWALS).where(RENEWALS.c.firm == firm).order_by(RENEWALS.c.id)):
        text = f"{row['status']}, {shown_amount(row['amount'])} for {row['months']} months"
        yield PortraitField("renewals", f"line {row['line']}", text, "book", row["due_on"].isoformat(), bank)
    for row in entry.rows(sa.select(REPORTS).where(REPORTS.c.firm == firm).order_by(REPORTS.c.id)):
        source = f"{row['path']} {row['sha256'][:16]}"
        yield PortraitField("reports", row["kind"], row["as_of"].isoformat(), source, row["as_of"].isoformat(), bank)


def _moment(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat(timespec="seconds")
