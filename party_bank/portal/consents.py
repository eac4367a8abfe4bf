"""What a firm's owner agrees to in the portal, and takes back: terms, the issuer's signature, withdrawal.

An act stands in the book's history before anything is signed. A yes whose process was killed is finished when the owner
sends it again, with one token however often that is; a withdrawal at the portal's start, and while it runs.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import sqlalchemy as sa

from party_bank.book import Book, BookEntry, Row
from party_bank.book_check import covers
from party_bank.book_tables import CONSENTS, HISTORY
from party_bank.firms import ALL, WITHDREW, note_consent
from party_bank.portal.stray_consents import AGREED, ended_strays, one_of, withdrawals_after
from party_bank.settings import BankSettings, ReportConsent
from veilscore.errors import BookError, ConfigError
from veilscore.evidence.erasures import FORGOTTEN
from veilscore.files.store import write_text
from veilscore.models.decided import load_decision
from veilscore.release.consent import Consent, Signed, claim_of, read_consent
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.scope import REPORT, SECTION, Scope
from veilscore.reports.section_desk import ALL as EVERY_FIELD
from veilscore.reports.section_fields import section_fields
from veilscore.terms.decision import Purpose
from veilscore.terms.settings import read_text

OWNER = "owner in the portal"  # actor of the book's history
GIVEN_HERE: tuple[Purpose, ...] = ("application", "renewal", "report")  # on one firm, by its token
LISTED: tuple[Purpose, ...] = ("proactive",)  # on many firms by one list, which `sign_list` signs
WITHDRAWALS = "portal/withdrawals.json"  # the issuer's newest list, as holders are given it
_DAY_S = 86_400.0
_LEAST_DAYS = 14  # that a list is valid: an older yes is asked for anew


@dataclass(frozen=True)
class ConsentTerms:
    """What the owner reads and agrees to.

    bank : who asks; holders : whose data is used; model : name of the decision; steps : its answers beside none.
    bits : the most that it tells; days : how long the consent is valid; measure : whether the one that bound is told.
    fields : of a consent to credit reports, which has no model, steps or bits: what holders' sections may tell.
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
    fields: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return what a form carries, so that nobody agrees to other terms than those that were read."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def terms_of(home: Path, bank: str, settings: BankSettings, purpose: str) -> ConsentTerms:
    """Return the terms of a consent, by the decision that is filed; ConfigError where none is asked for."""
    if purpose == REPORT and settings.portal_site.report is not None:
        asked = settings.portal_site.report
        days = settings.portal_site.consent_days.get("report", 90)
        fields = _fields(settings, asked)
        return ConsentTerms(purpose, bank, asked.holders, "", "", (), 0.0, days, measure=False, fields=fields)
    asked_for = (*GIVEN_HERE, *(one for one in LISTED if one in settings.portal_site.consent_days))
    if purpose not in asked_for or purpose not in settings.decisions:
        raise ConfigError(f"bank.yaml names no decision for {purpose[:40]!r} that the portal asks a consent for")
    named: Purpose = next(one for one in asked_for if one == purpose)
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


def _fields(settings: BankSettings, asked: ReportConsent) -> tuple[str, ...]:
    """Return the fields that a consent to reports lists, each once; ConfigError for one that no holder may tell."""
    told = {one for holder in asked.holders for one in settings.sections.get(holder, (holder,))}
    published = {
        name: one for catalogue in sorted(told) for name, one in section_fields().of_catalogue(catalogue).items()
    }
    found = tuple(published) if asked.fields == (EVERY_FIELD,) else tuple(dict.fromkeys(asked.fields))
    if unknown := [name for name in found if name not in published]:
        raise ConfigError(
            f"portal_site.report in bank.yaml names {unknown[0][:60]!r}, which none of its holders may tell"
        )
    if not found:
        raise ConfigError("portal_site.report in bank.yaml names holders that tell no published field (see `sections`)")
    return found


class OwnerConsents:
    """Gives and withdraws consents for owners; `Issuer` signs, the bank's home and book get what was signed.

    home, bank : of the bank; folder : of the issuer, None where owners consent elsewhere.
    """

    def __init__(self, home: Path, bank: str, folder: Path | None) -> None:
        self._home, self._bank = home, bank
        self.issuer = None if folder is None else Issuer.load(folder)
        self._one = threading.Lock()  # of all that signs: the issuer's lists are read, extended and written
        self._behind = True  # whether the book may have withdrawals that the issuer's list lacks
        self._seen: Row | None = None  # how many withdrawals the book had when the list was last brought up to it
        self._looked = 0  # the last entry of the book's history by then

    def give(self, book: Book, terms: ConsentTerms, firm: str) -> str:
        """Sign an owner's yes and return the consent's id; where one is valid and unused, that one's.

        A yes to offers waits for the next list; its id is "" until then. ConfigError where no issuer signs here.
        """
        issuer = self._signs()
        with self._one:
            self._revoke(book, firm)  # what was taken back before this yes is signed before it is lifted
            with book.writing(OWNER) as entry:
                entry.lock_firm(firm)
                standing = self.standing(entry, firm, terms.purpose)
                if standing is not None:
                    return str(standing["document"])
                open_act = _unanswered(entry, firm, terms.purpose)
                if open_act is not None and open_act["content"]["terms_sha256"] != terms.digest:
                    self._take_back(entry, firm, open_act)  # the owner has read other terms meanwhile
                    open_act = None
                if open_act is None or (terms.purpose in LISTED and _until_s(entry, firm, terms) is None):
                    entry.note(AGREED, firm, {**asdict(terms), "terms_sha256": terms.digest})
            self._revoke(book, firm)
            if self.ended(firm):
                self._behind = True
                self._keep(issuer.revoke(*self._all_of(firm), lift=[firm]))
            if terms.purpose in LISTED:
                return ""
            with book.writing(OWNER) as entry:
                entry.lock_firm(firm)
                signed = None if open_act is None else self._signed_before(entry, open_act, firm)
                if signed is None:
                    once = terms.purpose != REPORT  # reports are written anew while the consent lasts
                    signed = issuer.token(firm, self._scope(terms, time.time()), once=once)
                import_consent(self._home, signed, "token", claim_of(signed).id)
                return self._note(entry, firm, signed)

    def waits(self, entry: BookEntry, firm: str, terms: ConsentTerms | None) -> bool:
        """Return whether a firm agreed to these terms for the next list, and is on none yet."""
        return terms is not None and terms.purpose in LISTED and _until_s(entry, firm, terms) is not None

    def sign_list(self, book: Book, terms: ConsentTerms) -> tuple[str, int]:
        """Sign one list of all owners who agreed to these terms and wait; return its id and how many they are.

        It ends as the earliest of their yeses does; nothing is signed where nobody waits. The bank's home gets it once
        the book has it, since what the book lacks no withdrawal would end. Raises ConfigError without an issuer.
        """
        issuer, now_s = self._signs(), time.time()
        with self._one:
            with book.writing(OWNER) as entry:
                waiting = self._waiting(entry, terms)
                signed = None
                if waiting:
                    scope = replace(self._scope(terms, now_s), expires_s=min(waiting.values()))
                    signed = issuer.list(sorted(waiting), scope)
                    for firm in sorted(waiting):
                        self._note(entry, firm, signed)
            noted = CONSENTS.c.purpose == terms.purpose, CONSENTS.c.issuer == issuer.name, CONSENTS.c.expires_s > now_s
            for row in book.rows(sa.select(CONSENTS.c.document).where(*noted).distinct()):
                self._import_list(row["document"])  # also what a process that was killed had still to bring
        return ("", 0) if signed is None else (claim_of(signed).id, len(waiting))

    def _waiting(self, entry: BookEntry, terms: ConsentTerms) -> dict[str, float]:
        """Return the firms that wait for a list by these terms, each with the end of its yes."""
        agreed = HISTORY.c.event == AGREED, HISTORY.c.content["purpose"].as_string() == terms.purpose
        firms = [row["firm"] for row in entry.rows(sa.select(HISTORY.c.firm).where(*agreed).distinct())]
        ended = self._signs().revoked_firms()
        found: dict[str, float] = {}
        for firm in sorted(set(firms) - ended):
            entry.lock_firm(firm)  # its withdrawal comes before the list, or ends its part of it
            if (until_s := _until_s(entry, firm, terms)) is not None:
                found[firm] = until_s
        return found

    def _import_list(self, number: str) -> None:
        """Bring a list of this issuer into the bank's home, where it is not there."""
        path = self._signs().folder / "issued" / f"{number}.json"
        if path.is_file() and not (self._home / "consents" / "lists" / path.name).is_file():
            import_consent(self._home, Signed.from_text(read_text(path, "consent"), str(path)), "list", number)

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
                entry.note(WITHDREW, firm, {"purpose": purpose or ALL, "documents": [row["document"] for row in rows]})
                for row in rows:
                    entry.change(CONSENTS, row["id"], CONSENTS.c.revoked_s.is_(None), revoked_s=entry.at_s)
            self._revoke(book, firm)
        return len(rows)

    def catch_up(self, book: Book) -> None:
        """Sign what was taken back and is not in the issuer's list yet.

        A process was killed, the folder was not there, or the bank's people noted it (`veilscore bank book consents`).
        """
        if self.issuer is None:
            return
        ended: Any = sa.select(sa.func.count().label("n"), sa.func.max(CONSENTS.c.revoked_s).label("last"))
        now = book.rows(ended.where(CONSENTS.c.revoked_s.is_not(None)))[0]
        last_id, acts = withdrawals_after(book, self._looked)
        if self._behind or now != self._seen or acts:
            with self._one:
                self._revoke(book, None, again=self._behind)
            self._seen = now
        self._looked = last_id

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

    def ended(self, firm: str) -> bool:
        """Return whether a firm ended everything here, which its next consent lifts."""
        return self.issuer is not None and firm in self.issuer.revoked_firms()

    def withdrawals(self) -> Signed | None:
        """Return the newest list for holders; None where nothing was taken back yet."""
        path = self._home / WITHDRAWALS
        return Signed.from_text(read_text(path, "withdrawals"), str(path)) if path.is_file() else None

    def _signs(self) -> Issuer:
        if self.issuer is None:
            raise ConfigError("bank.yaml names no consent issuer (portal_site: {issuer: FOLDER}): nothing is signed")
        return self.issuer

    def _scope(self, terms: ConsentTerms, now_s: float) -> Scope:
        if terms.fields:
            until_s = now_s + terms.days * _DAY_S
            return Scope(REPORT, (SECTION,), terms.bank, (), now_s, until_s, holders=terms.holders, fields=terms.fields)
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

    def _note(self, entry: BookEntry, firm: str, signed: Signed) -> str:
        """Write a token into the book and return its id."""
        claim, scope = claim_of(signed), claim_of(signed).scope
        note_consent(
            entry,
            firm,
            document=claim.id,
            issuer=self._signs().name,
            purpose=scope.purpose,
            holders=scope.holders,
            not_before_s=scope.not_before_s,
            expires_s=scope.expires_s,
        )
        return claim.id

    def _take_back(self, entry: BookEntry, firm: str, act: Row) -> None:
        """Note as withdrawn what was signed for an act whose process was killed: the book has it nowhere else."""
        signed = self._signed_before(entry, act, firm)
        if signed is not None:
            row = CONSENTS.c.firm == firm, CONSENTS.c.document == self._note(entry, firm, signed)
            number = entry.rows(sa.select(CONSENTS.c.id).where(*row))[0]["id"]
            entry.change(CONSENTS, number, revoked_s=entry.at_s)

    def _signed_before(self, entry: BookEntry, act: Row, firm: str) -> Signed | None:
        """Return the token that was signed for an act, where the process was killed before the book had it."""
        issuer, agreed = self._signs(), act["content"]
        models, fields = [one for one in [agreed["model"]] if one], sorted(agreed.get("fields", ()))
        wanted = agreed["purpose"], agreed["bank"], models, sorted(agreed["holders"]), agreed["bits"], fields
        known = {row["document"] for row in entry.rows(sa.select(CONSENTS.c.document).where(CONSENTS.c.firm == firm))}
        for path in (issuer.folder / "issued").glob("*.json"):
            if path.stem in known or path.stat().st_mtime < act["at_s"] - _DAY_S:  # clocks are set back at times
                continue
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            found: Consent = read_consent(signed, {issuer.name: issuer.public_key})
            of = found.scope
            named = of.purpose, of.bank, list(of.models), sorted(of.holders), of.bits, sorted(of.fields)
            if found.kind == "token" and named == wanted and found.covers_one(firm):
                return signed
        return None

    def _revoke(self, book: Book, firm: str | None, *, again: bool = False) -> None:
        """Put all that was taken back, of one firm or all, into the issuer's list, and keep it for holders.

        again : also where nothing is new, since a list that was signed before may not have been kept.
        """
        if self.issuer is None:
            return
        behind, self._behind = self._behind, True
        query = sa.select(CONSENTS).where(
            CONSENTS.c.issuer == self.issuer.name,
            CONSENTS.c.revoked_s.is_not(None),
            CONSENTS.c.expires_s > time.time(),
        )
        acts = sa.select(HISTORY).where(HISTORY.c.event.in_((AGREED, WITHDREW))).order_by(HISTORY.c.id)
        if firm is not None:
            query, acts = query.where(CONSENTS.c.firm == firm), acts.where(HISTORY.c.firm == firm)
        known = self.issuer.revoked()
        ids = {one for row in book.rows(query) if (one := self._named(row))}
        ids = (ids | ended_strays(book, self.issuer, self._bank, firm)) - known
        ended: dict[str, bool] = {}
        for act in book.rows(acts):
            ended[act["firm"]] = act["event"] == WITHDREW and (
                act["content"]["purpose"] == ALL or ended.get(act["firm"], False)
            )
        firms = {
            one for one, is_ended in ended.items() if is_ended and not one.startswith(FORGOTTEN)
        } - self.issuer.revoked_firms()
        if ids or firms or (again and (known or self.issuer.revoked_firms())):
            self._keep(self.issuer.revoke(*sorted(ids), firms=sorted(firms)))
        self._behind = behind and firm is not None  # another firm's may still wait

    def _named(self, row: Row) -> str:
        """Return how a revocation names one firm's consent: the token's id, or of a list the firm's commitment too."""
        path = self._signs().folder / "issued" / f"{row['document']}.json"
        if not path.is_file():
            return ""
        return one_of(Signed.from_text(read_text(path, "consent"), str(path)), row["firm"])

    def _all_of(self, firm: str) -> list[str]:
        """Return how a revocation names all that the issuer ever gave for a firm: the book has decisions alone."""
        found, now_s = list[str](), time.time()
        for path in (self._signs().folder / "issued").glob("*.json"):
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            if claim_of(signed).scope.expires_s > now_s and (one := one_of(signed, firm)):
                found.append(one)
        return sorted(found)

    def _keep(self, signed: Signed) -> None:
        write_text(self._home / WITHDRAWALS, signed.to_text())


def _until_s(entry: BookEntry, firm: str, terms: ConsentTerms) -> float | None:
    """Return until when a yes to these terms that waits for a list counts; None without one, or one that is too old."""
    act = _unanswered(entry, firm, terms.purpose)
    if act is None or act["content"]["terms_sha256"] != terms.digest:
        return None
    until_s = float(act["at_s"]) + terms.days * _DAY_S
    return until_s if until_s > entry.at_s + _LEAST_DAYS * _DAY_S else None


def _unanswered(entry: BookEntry, firm: str, purpose: str) -> Row | None:
    """Return the owner's last yes if neither a consent nor a withdrawal came after it: its process was killed."""
    query = sa.select(HISTORY).where(
        HISTORY.c.firm == firm,
        sa.or_(HISTORY.c.event.in_((AGREED, WITHDREW)), HISTORY.c.subject == CONSENTS.name),
    )
    for row in entry.rows(query.order_by(HISTORY.c.id.desc())):
        if row["content"].get("purpose") in {purpose, ALL}:
            return row if row["event"] == AGREED else None
    return None
