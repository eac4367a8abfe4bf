"""Firms and their consents as the bank notes them; whether a consent is good is for each holder to decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_check import covers
from party_bank.book_tables import CONSENTS, FIRMS, HISTORY
from veilscore.data.ingest import read_table
from veilscore.errors import BookError, DataError
from veilscore.release.consent import Signed, body_of, claim_of, commit
from veilscore.release.scope import PURPOSES, REPORT, SECTION
from veilscore.terms.settings import read_text

ABOUT = ("name", "industry", "region", "manager")
WITHDREW = "withdrew"  # event of the history: what was agreed to before it for its purpose is over, signed or not
ALL = "all"  # purpose of a withdrawal that ends everything
_CLOCKS_S = 300.0  # that an issuer's clock may differ from the book's


def import_firms(book: Book, path: Path, actor: str, *, id_column: str = "uscc", normaliser: str = "uscc") -> int:
    """Add the firms of a file (columns of `ABOUT` and the id), and change what differs; return how many changed."""
    table = read_table(path, id_column, normaliser=normaliser)
    missing = [name for name in ABOUT if name not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}: a firm needs {', '.join((id_column, *ABOUT))}")
    texts = {name: ["" if v is None else str(v) for v in table.columns[name].tolist()] for name in ABOUT}
    rows = [
        {"firm": str(firm), **{name: texts[name][n] for name in ABOUT}} for n, firm in enumerate(table.ids.tolist())
    ]
    return put_firms(book, rows, actor)


def put_firms(book: Book, firms: Sequence[Mapping[str, str]], actor: str) -> int:
    """Add firms, and change what differs of those that the book has; return how many were added or changed."""
    with book.writing(actor) as entry:
        known = {row["firm"]: row for row in entry.rows(sa.select(FIRMS))}
        entry.add_all(FIRMS, added := [{**firm, "since_s": entry.at_s} for firm in firms if firm["firm"] not in known])
        changed = 0
        for firm in (one for one in firms if one["firm"] in known):
            before = known[firm["firm"]]
            new: dict[str, Any] = {name: firm[name] for name in ABOUT if firm[name] != before[name]}
            changed += bool(new) and entry.change(FIRMS, before["id"], **new)
    return len(added) + changed


def import_consents(book: Book, home: Path, actor: str) -> int:
    """Note which firms of the book the tokens and lists in HOME/consents cover; return how many are new.

    Those to decisions and to credit reports are noted; scores of a bank's own models are none of the book's. One from
    before a withdrawal of the firm's is noted as withdrawn: the book may have had it nowhere when that came.
    """
    added = 0
    with book.writing(actor) as entry:
        firms = [row["firm"] for row in entry.rows(sa.select(FIRMS.c.firm).order_by(FIRMS.c.firm))]
        ended = _last_withdrawals(entry)
        for path in sorted([*(home / "consents" / "tokens").glob("*.json"), *(home / "consents" / "lists").glob("*")]):
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            claim, body, came_s = claim_of(signed), body_of(signed), path.stat().st_mtime
            if not {"decide", SECTION} & set(claim.scope.tasks):
                continue
            named = {signed.commitments[n : n + 32] for n in range(0, len(signed.commitments), 32)}
            for firm, row in zip(firms, commit(claim.salt, firms), strict=True):
                if row.tobytes() in named:
                    withdrew_s = ended.get((firm, claim.scope.purpose), 0.0)
                    is_over = came_s < withdrew_s or claim.scope.not_before_s < withdrew_s - _CLOCKS_S
                    added += note_consent(
                        entry,
                        firm,
                        document=claim.id,
                        issuer=str(body.get("issuer", "")),
                        purpose=claim.scope.purpose,
                        holders=claim.scope.holders,
                        not_before_s=claim.scope.not_before_s,
                        expires_s=claim.scope.expires_s,
                        revoked_s=entry.at_s if is_over else None,
                    )
    return added


def _last_withdrawals(entry: BookEntry) -> dict[tuple[str, str], float]:
    """Return when each firm last withdrew what it had agreed to for a purpose."""
    found: dict[tuple[str, str], float] = {}
    for act in entry.rows(sa.select(HISTORY).where(HISTORY.c.event == WITHDREW).order_by(HISTORY.c.id)):
        purpose = act["content"]["purpose"]
        found |= {(act["firm"], one): float(act["at_s"]) for one in (PURPOSES if purpose == ALL else (purpose,))}
    return found


def note_consent(
    entry: BookEntry,
    firm: str,
    *,
    document: str,
    issuer: str,
    purpose: str,
    holders: Sequence[str],
    not_before_s: float,
    expires_s: float,
    revoked_s: float | None = None,
) -> bool:
    """Note that a firm consented; return whether that is new. BookError for a purpose that no decision has."""
    if purpose not in PURPOSES:
        raise BookError(f"a consent for {purpose[:60]!r} is for no decision; purposes are {', '.join(PURPOSES)}")
    row = {"firm": firm, "document": document, "issuer": issuer, "purpose": purpose, "holders": list(holders)}
    times = {"not_before_s": not_before_s, "expires_s": expires_s, "revoked_s": revoked_s}
    return entry.add_once(CONSENTS, **row, **times) is not None


def withdraw_consent(book: Book, firm: str, purpose: str, actor: str) -> int:
    """Note that a firm withdrew its consents for a purpose, or all (""); return how many ended by it.

    A yes that waits for a list ends too, and by the portal (`stray_consents.py`) what was signed and reached no book.
    Raises BookError for a firm or purpose that there is not.
    """
    if purpose not in {"", *PURPOSES}:
        raise BookError(f"there is no consent for {purpose[:60]!r}; purposes are {', '.join(PURPOSES)}")
    with book.writing(actor) as entry:
        entry.lock_firm(firm)
        rows = entry.rows(sa.select(CONSENTS).where(CONSENTS.c.firm == firm, CONSENTS.c.revoked_s.is_(None)))
        ended = 0
        for one in (purpose,) if purpose else PURPOSES:
            mine = [row for row in rows if row["purpose"] == one]
            entry.note(WITHDREW, firm, {"purpose": one, "documents": [row["document"] for row in mine]})
            for row in mine:
                ended += entry.change(CONSENTS, row["id"], CONSENTS.c.revoked_s.is_(None), revoked_s=entry.at_s)
        return ended


def report_consents(book: Book, firm: str) -> list[str]:
    """Return the ids of a firm's consents to credit reports that were not withdrawn and last, the longest first."""
    query = sa.select(CONSENTS.c.document).where(
        CONSENTS.c.firm == firm, CONSENTS.c.purpose == REPORT, CONSENTS.c.revoked_s.is_(None)
    )
    return [str(row["document"]) for row in book.rows(query.order_by(CONSENTS.c.expires_s.desc()))]


def consent_for(entry: BookEntry, firm: str, purpose: str) -> Row:
    """Return the consent of a firm for a purpose that lasts longest; BookError if there is none now."""
    found = consents_for(entry, [firm], purpose)
    if firm not in found:
        raise BookError(
            f"{firm} gave no consent for {purpose} that is valid now: ask for one, and take it in with "
            "`veilscore consent import` and `veilscore bank book consents`"
        )
    return found[firm]


def consents_for(entry: BookEntry, firms: Sequence[str] | None, purpose: str) -> dict[str, Row]:
    """Return the consent that lasts longest of each firm that gave one for a purpose; of all firms if None."""
    query = sa.select(CONSENTS).where(
        CONSENTS.c.purpose == purpose, CONSENTS.c.revoked_s.is_(None), CONSENTS.c.expires_s > entry.at_s
    )
    if firms is not None and len(firms) == 1:
        query = query.where(CONSENTS.c.firm == firms[0])
    wanted = None if firms is None else set(firms)
    return {
        row["firm"]: row
        for row in entry.rows(query.order_by(CONSENTS.c.expires_s))
        if (wanted is None or row["firm"] in wanted) and covers(row, row["firm"], purpose, entry.at_s)
    }
