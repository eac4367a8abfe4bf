"""What a firm's owner agrees to in the portal, and takes back: terms, the issuer's signature, withdrawal.

An act stands in the book's history before anything is signed, so that whoever is killed in between finishes it: an
owner's yes makes one token, however often it is sent, and a withdrawal reaches the issuer's list in the end.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_check import covers
from party_bank.book_tables import CONSENTS, HISTORY
from party_bank.firms import note_consent
from party_bank.settings import BankSettings
from veilscore.errors import BookError, ConfigError
from veilscore.files.store import write_text
from veilscore.models.decided import load_decision
from veilscore.release.consent import Consent, Signed, claim_of, commit_one, read_consent
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.scope import Scope
from veilscore.terms.decision import Purpose
from veilscore.terms.settings import read_text

OWNER = "owner in the portal"  # actor of the book's history
GIVEN_HERE: tuple[Purpose, ...] = ("application", "renewal")  # one decision on one firm, by its token
AGREED, WITHDREW = "agreed", "withdrew"
WITHDRAWALS = "portal/withdrawals.json"  # the issuer's newest list, as holders are given it
_ALL = "all"
_DAY_S = 86_400.0


@dataclass(frozen=True)
class ConsentTerms:
    """What the owner reads and agrees to.

    bank : who asks; holders : whose data is used; model : name of the decision; steps : its answers beside none.
    bits : the most that it tells; days : how long the consent is valid; measure : whether the one that bound is told.
    """

    purpose: str
    bank: str
    holders: tuple[str, ...]
    model: str
    model_sha256: str
    steps: tuple[str, ...]
    bits: float
    days: int
    measure: bool

    @property
    def digest(self) -> str:
        """Return what a form carries, so that nobody agrees to other terms than those that were read."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def terms_of(home: Path, bank: str, settings: BankSettings, purpose: str) -> ConsentTerms:
    """Return the terms of a consent, by the decision that is filed; ConfigError where none is asked for."""
    if purpose not in GIVEN_HERE or purpose not in settings.decisions:
        raise ConfigError(f"bank.yaml names no decision for {purpose[:40]!r} that the portal asks a consent for")
    named: Purpose = next(one for one in GIVEN_HERE if one == purpose)
    filed = load_decision(home, settings.decisions[named])
    return ConsentTerms(
        purpose,
        bank,
        filed.holders,
        filed.decision.name,
        filed.sha256.hex(),
        tuple(str(step) for step in filed.decision.steps),
        filed.decision.bits,
        settings.portal_site.consent_days.get(named, 30),
        filed.decision.tell_measure,
    )


class OwnerConsents:
    """Gives and withdraws consents for owners; `Issuer` signs, the bank's home and book get what was signed.

    home, bank : of the bank; folder : of the issuer, None where owners consent elsewhere.
    """

    def __init__(self, home: Path, bank: str, folder: Path | None) -> None:
        self._home, self._bank = home, bank
        self.issuer = None if folder is None else Issuer.load(folder)
        self._one = threading.Lock()  # of all that signs: the issuer's lists are read, extended and written

    def give(self, book: Book, terms: ConsentTerms, firm: str) -> str:
        """Sign an owner's yes and return the consent's id; where one is valid and unused, that one's.

        Raises ConfigError where no issuer signs here.
        """
        issuer = self._signs()
        with self._one:
            with book.writing(OWNER) as entry:
                entry.lock_firm(firm)
                standing = self.standing(entry, firm, terms.purpose)
                if standing is not None:
                    return str(standing["document"])
                open_act = _unanswered(entry, firm, terms.purpose)
                if open_act is None:
                    entry.note(AGREED, firm, {**asdict(terms), "terms_sha256": terms.digest})
            if firm in issuer.revoked_firms():
                self._keep(issuer.revoke(lift=[firm]))
            with book.writing(OWNER) as entry:
                entry.lock_firm(firm)
                signed = None if open_act is None else self._signed_before(issuer, open_act, firm, terms.purpose)
                if signed is None:
                    now_s = time.time()
                    signed = issuer.token(firm, self._scope(terms, now_s))
                claim = claim_of(signed)
                import_consent(self._home, signed, "token", claim.id)
                note_consent(
                    entry,
                    firm,
                    document=claim.id,
                    issuer=issuer.name,
                    purpose=terms.purpose,
                    holders=claim.scope.holders,
                    not_before_s=claim.scope.not_before_s,
                    expires_s=claim.scope.expires_s,
                )
                return claim.id

    def withdraw(self, book: Book, firm: str, purpose: str) -> int:
        """Take back the consents for a purpose, or with "" all and every legal basis; return how many ended by it.

        The bank uses none of them from here on; holders refuse once they have the issuer's list (`pushes.py`).
        """
        if purpose not in {"", *get_args(Purpose)}:
            raise BookError(f"there is no consent for {purpose[:40]!r}")
        with self._one:
            with book.writing(OWNER) as entry:
                entry.lock_firm(firm)
                query = sa.select(CONSENTS).where(CONSENTS.c.firm == firm, CONSENTS.c.revoked_s.is_(None))
                rows = entry.rows(query.where(CONSENTS.c.purpose == purpose) if purpose else query)
                entry.note(WITHDREW, firm, {"purpose": purpose or _ALL, "documents": [row["document"] for row in rows]})
                for row in rows:
                    entry.change(CONSENTS, row["id"], CONSENTS.c.revoked_s.is_(None), revoked_s=entry.at_s)
            self._revoke(book, firm)
        return len(rows)

    def catch_up(self, book: Book) -> None:
        """Sign what owners took back before a process was killed, and bring the list up to date."""
        if self.issuer is not None:
            with self._one:
                self._revoke(book, None)

    def standing(self, entry: BookEntry, firm: str, purpose: str) -> Row | None:
        """Return the consent that is valid now and has not served its one request; None without one."""
        query = sa.select(CONSENTS).where(CONSENTS.c.firm == firm, CONSENTS.c.purpose == purpose)
        rows = entry.rows(query.order_by(CONSENTS.c.expires_s.desc()))
        return next((r for r in rows if covers(r, firm, purpose, entry.at_s) and not self.served(r)), None)

    def served(self, consent: Mapping[str, Any]) -> bool:
        """Return whether a consent was a token for one request, which went with it."""
        return (self._home / "consents" / "used" / f"{consent['document']}.json").is_file()

    def from_here(self, consent: Mapping[str, Any]) -> bool:
        """Return whether this portal's issuer signed a consent, so that its withdrawal reaches every holder."""
        return self.issuer is not None and consent["issuer"] == self.issuer.name

    def withdrawals(self) -> Signed | None:
        """Return the newest list for holders; None where nothing was taken back yet."""
        path = self._home / WITHDRAWALS
        return Signed.from_text(read_text(path, "withdrawals"), str(path)) if path.is_file() else None

    def _signs(self) -> Issuer:
        if self.issuer is None:
            raise ConfigError("bank.yaml names no consent issuer (portal_site: {issuer: FOLDER}): nothing is signed")
        return self.issuer

    def _scope(self, terms: ConsentTerms, now_s: float) -> Scope:
        return Scope(
            terms.purpose,
            ("decide",),
            terms.bank,
            (terms.model,),
            now_s,
            now_s + terms.days * _DAY_S,
            holders=terms.holders,
            bits=terms.bits,
        )

    def _signed_before(self, issuer: Issuer, act: Row, firm: str, purpose: str) -> Signed | None:
        """Return the token that was signed for an act, where the process was killed before the book had it."""
        for path in (issuer.folder / "issued").glob("*.json"):
            if path.stat().st_mtime < act["at_s"] - 1:
                continue
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            found: Consent = read_consent(signed, {issuer.name: issuer.public_key})
            if found.kind == "token" and found.scope.purpose == purpose and found.covers_one(firm):
                return signed
        return None

    def _revoke(self, book: Book, firm: str | None) -> None:
        """Put all that was taken back, of one firm or all, into the issuer's list, and keep it for holders."""
        if self.issuer is None:
            return
        query = sa.select(CONSENTS).where(
            CONSENTS.c.issuer == self.issuer.name,
            CONSENTS.c.revoked_s.is_not(None),
            CONSENTS.c.expires_s > time.time(),
        )
        acts = sa.select(HISTORY).where(HISTORY.c.event.in_((AGREED, WITHDREW))).order_by(HISTORY.c.id)
        if firm is not None:
            query, acts = query.where(CONSENTS.c.firm == firm), acts.where(HISTORY.c.firm == firm)
        known = self.issuer.revoked()
        ids = {one for row in book.rows(query) if (one := self._named(row))} - known
        ended: dict[str, bool] = {}
        for act in book.rows(acts):
            ended[act["firm"]] = act["event"] == WITHDREW and (
                act["content"]["purpose"] == _ALL or ended.get(act["firm"], False)
            )
        firms = {one for one, is_ended in ended.items() if is_ended} - self.issuer.revoked_firms()
        if ids or firms or (firm is None and (known or self.issuer.revoked_firms())):
            self._keep(self.issuer.revoke(*sorted(ids), firms=sorted(firms)))

    def _named(self, row: Row) -> str:
        """Return how a revocation names one firm's consent: the token's id, or of a list the firm's commitment too."""
        path = self._signs().folder / "issued" / f"{row['document']}.json"
        if not path.is_file():
            return ""
        signed = Signed.from_text(read_text(path, "consent"), str(path))
        whole = len(signed.commitments) == 32
        return row["document"] if whole else f"{row['document']}:{commit_one(claim_of(signed).salt, row['firm']).hex()}"

    def _keep(self, signed: Signed) -> None:
        write_text(self._home / WITHDRAWALS, signed.to_text())


def _unanswered(entry: BookEntry, firm: str, purpose: str) -> Row | None:
    """Return the owner's last yes if neither a consent nor a withdrawal came after it: its process was killed."""
    query = sa.select(HISTORY).where(
        HISTORY.c.firm == firm,
        sa.or_(HISTORY.c.event.in_((AGREED, WITHDREW)), HISTORY.c.subject == CONSENTS.name),
    )
    for row in entry.rows(query.order_by(HISTORY.c.id.desc())):
        if row["content"].get("purpose") in {purpose, _ALL}:
            return row if row["event"] == AGREED else None
    return None
