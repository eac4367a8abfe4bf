"""Checks a book: its rows are what its history says, its lines went allowed ways, and its sums balance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, Row
from party_bank.book_tables import (
    ALARMS,
    APPLICATIONS,
    CAMPAIGNS,
    CASES,
    CONSENTS,
    CONTRACTS,
    DECISIONS,
    DRAWS,
    HISTORY,
    LENT,
    LINES,
    OFFERS,
    RENEWALS,
    REPAYMENTS,
    TRANSITIONS,
    case_number,
    metadata,
)


def check_book(book: Book) -> list[str]:
    """Return what is wrong, a sentence each; empty if the book balances."""
    rows = {name: {row["id"]: row for row in book.rows(sa.select(table))} for name, table in metadata.tables.items()}
    history = sorted(rows.pop(HISTORY.name).values(), key=lambda entry: int(entry["id"]))
    return [*_history(rows, history), *_moves(history), *_money(rows), *_permitted(rows), *_warned(rows)]


def _history(rows: dict[str, dict[int, Row]], history: list[Row]) -> Iterator[str]:
    """Yield where a row is not what its history makes of it."""
    made: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in history:
        subject, content = (entry["subject"], entry["subject_id"]), entry["content"]
        if entry["event"] == "moved":
            content = {"state": content["to"], "reason": content["reason"][:400], "changed_s": entry["at_s"]}
        if subject[0]:
            made.setdefault(subject, {}).update(content)
    for name, found in rows.items():
        for number, row in found.items():
            told = made.pop((name, number), None)
            if told is None:
                yield f"{name} {number} is not in the history"
                continue
            for key, value in told.items():
                now = row[key].isoformat() if isinstance(row[key], dt.date) else row[key]
                if now != value:
                    yield f"{name} {number}: {key} is not what the history says"
    yield from (f"{name} {number} is in the history and not in the book" for name, number in made)


def _moves(history: list[Row]) -> Iterator[str]:
    state: dict[int, str] = {}
    for entry in (one for one in history if one["subject"] == LINES.name):
        line, content = entry["subject_id"], entry["content"]
        if entry["event"] == "added":
            state[line] = content["state"]
        elif entry["event"] == "moved":
            if content["from"] != state.get(line) or content["to"] not in TRANSITIONS[content["from"]]:
                yield f"line {line} went from {content['from']} to {content['to']}, which is no allowed way"
            state[line] = content["to"]


def _money(rows: dict[str, dict[int, Row]]) -> Iterator[str]:
    """Yield contracts whose sums do not balance, and lines that lend without one."""
    owed = dict.fromkeys(rows[CONTRACTS.name], 0)
    for table, sign in ((DRAWS, 1), (REPAYMENTS, -1)):
        for row in rows[table.name].values():
            owed[row["contract"]] += sign * row["amount"]
    for number, contract in rows[CONTRACTS.name].items():
        if not 0 <= owed[number] <= contract["amount"]:
            yield f"contract {contract['number']}: {owed[number]} is owed of a limit of {contract['amount']}"
        if contract["status"] != "signed" and owed[number]:
            yield f"contract {contract['number']} is {contract['status']} and {owed[number]} is owed"
    lent = {contract["line"] for contract in rows[CONTRACTS.name].values()}
    for number, line in rows[LINES.name].items():
        if line["state"] in LENT and number not in lent:
            yield f"line {number} is {line['state']} without a contract"


def _permitted(rows: dict[str, dict[int, Row]]) -> Iterator[str]:
    """Yield joint decisions that neither a consent of the firm nor a filed basis covered when they were made."""
    by_basis = {
        offer["decision"] for offer in rows[OFFERS.name].values() if rows[CAMPAIGNS.name][offer["campaign"]]["basis"]
    }
    for number, decision in rows[DECISIONS.name].items():
        consent = rows[CONSENTS.name].get(decision["consent"] or 0)
        if consent is None:
            if number not in by_basis and not decision["inputs"].get("basis"):
                yield f"decision {number} was made without a consent or a filed basis"
        elif not (
            covers(consent, decision["firm"], decision["kind"], decision["decided_s"])
            and set(decision["holders"]) <= set(consent["holders"])
        ):
            yield f"decision {number} was made under a consent that did not cover it"
    for table in (APPLICATIONS, RENEWALS):
        for number, row in rows[table.name].items():
            if row["status"] in {"approved", "proposed", "accepted"} and row["decision"] is None:
                yield f"{table.name} {number} is {row['status']} without a decision"


def _warned(rows: dict[str, dict[int, Row]]) -> Iterator[str]:
    """Yield alarms that their decisions or cases do not bear out, and cases that ended without a word."""
    for number, alarm in rows[ALARMS.name].items():
        decision, case = rows[DECISIONS.name][alarm["decision"]], rows[CASES.name][alarm["case"]]
        if (decision["firm"], case["firm"]) != (alarm["firm"], alarm["firm"]):
            yield f"alarm {number} is of another firm than its decision or case"
        if decision["step"] != alarm["level"]:
            yield f"alarm {number} is of level {alarm['level']} and its decision of step {decision['step']}"
    for number, case in rows[CASES.name].items():
        if (case["status"] == "closed") != bool(case["feedback"]):
            word = "with" if case["feedback"] else "without"
            yield f"case {case_number(number)} is {case['status']} {word} a word of what was found"


def covers(consent: Row, firm: str, purpose: str, at_s: float) -> bool:
    """Return whether a consent in the book lets a firm be decided on for a purpose at a time."""
    ends_s = min(consent["expires_s"], consent["revoked_s"] if consent["revoked_s"] is not None else float("inf"))
    return bool(consent["firm"] == firm and consent["purpose"] == purpose and consent["not_before_s"] <= at_s < ends_s)
