"""Consents that the issuer signed and the book never had, as where a process was killed; a withdrawal ends them too.

They are valid for whoever has the file, so the issuer's list has to name them like every other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from party_bank.book import Book, Row
from party_bank.book_tables import CONSENTS, HISTORY
from party_bank.firms import ALL, WITHDREW
from veilscore.release.consent import Signed, claim_of, commit_one
from veilscore.release.issuer import Issuer
from veilscore.release.scope import PURPOSES
from veilscore.terms.settings import read_text

AGREED = "agreed"  # event of the history: an owner's yes, which something is signed for
_SLACK_S = 10.0  # a withdrawal may have begun while the file was written


def ended_strays(book: Book, issuer: Issuer, bank: str, firm: str | None) -> set[str]:
    """Return how a revocation names what was signed for a firm, or for all (None), before its last word, a no."""
    said = sa.select(HISTORY).where(HISTORY.c.event.in_((AGREED, WITHDREW))).order_by(HISTORY.c.id)
    last: dict[tuple[str, str], Row] = {}
    for act in book.rows(said if firm is None else said.where(HISTORY.c.firm == firm)):
        purpose = act["content"]["purpose"]
        last |= {(act["firm"], one): act for one in (PURPOSES if purpose == ALL else (purpose,))}
    ended = {place: float(act["at_s"]) for place, act in last.items() if act["event"] == WITHDREW}
    return {
        name
        for signed, purpose, made_s in (_strays(book, issuer, bank) if ended else ())
        for (whose, of), at_s in ended.items()
        if of == purpose and made_s <= at_s + _SLACK_S and (name := one_of(signed, whose))
    }


def _strays(book: Book, issuer: Issuer, bank: str) -> Iterator[tuple[Signed, str, float]]:
    """Yield what the book has no row of and is for this bank: the document, its purpose, and when it was signed."""
    query = sa.select(CONSENTS.c.document).where(CONSENTS.c.issuer == issuer.name).distinct()
    known = {row["document"] for row in book.rows(query)} | issuer.revoked()
    for path in (issuer.folder / "issued").glob("*.json"):
        if path.stem in known:
            continue
        signed = Signed.from_text(read_text(path, "consent"), str(path))
        scope = claim_of(signed).scope
        if scope.purpose in PURPOSES and scope.bank in {"", bank}:
            yield signed, scope.purpose, path.stat().st_mtime


def withdrawals_after(book: Book, last_id: int) -> tuple[int, bool]:
    """Return the last entry of the book's history, and whether one after `last_id` is a withdrawal."""
    newest: Any = sa.select(sa.func.max(HISTORY.c.id).label("id"))
    now_id = int(book.rows(newest)[0]["id"] or 0)
    found = sa.select(HISTORY.c.id).where(HISTORY.c.id > last_id, HISTORY.c.event == WITHDREW).limit(1)
    return now_id, bool(book.rows(found.where(HISTORY.c.id <= now_id)))


def one_of(signed: Signed, firm: str) -> str:
    """Return how a revocation names a firm's part of a token or list; "" where it has none."""
    claim = claim_of(signed)
    row, rows = commit_one(claim.salt, firm), signed.commitments
    if row not in {rows[n : n + len(row)] for n in range(0, len(rows), len(row))}:
        return ""
    return claim.id if rows == row else f"{claim.id}:{row.hex()}"
