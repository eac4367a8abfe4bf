"""Holders' sections at the bank: checked (signature, firm, consent, date) before a word of them is used.

HOME/reports/FIRM/sections/HOLDER-CATALOGUE-CONSENT-QUARTER.json   as it was signed; FIRM is a digest of the firm's id
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from veilscore.errors import ConfigError, IdentityError, RefusedError, VeilscoreError
from veilscore.files.private import private_folder
from veilscore.release.consent import Signed, commit_one, read_consent
from veilscore.release.revocations import RevocationLists
from veilscore.release.scope import REPORT, SECTION, Ask
from veilscore.reports.facts import Fact
from veilscore.reports.section import HolderSection, SignedSection, period_of
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import read_text

FOLDER = "reports"


def folder_of(home: Path, firm: str) -> Path:
    """Return where everything about a firm's reports is; its name tells the firm to nobody who only lists it."""
    return home / FOLDER / hashlib.sha256(b"report of " + firm.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SectionShelf:
    """The sections that a bank has.

    clock : seconds since the epoch.
    tells : holder -> catalogues whose fields it may tell (bank.yaml); one that is not named tells that of its name.
    """

    home: Path
    node: NodeConfig
    federation: Federation
    clock: Callable[[], float] = time.time
    tells: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def take(self, path: Path) -> Path:
        """Check a section that a holder sent and keep it; returns where. The same one again changes nothing."""
        signed = SignedSection.read(path)
        section = self.checked(signed)
        folder = folder_of(self.home, section.firm) / "sections"
        private_folder(folder)
        return signed.write(folder / f"{section.holder}-{section.catalogue}-{section.consent}-{section.period}.json")

    def checked(self, signed: SignedSection) -> HolderSection:
        """Return what a section says if everything about it holds now.

        Raises IdentityError, RefusedError or SchemaError with what does not.
        """
        section = signed.verify(self.federation, self.clock())
        if section.bank != self.node.name:
            raise RefusedError(f"the section was written for {section.bank}, not for {self.node.name}")
        today = dt.datetime.fromtimestamp(self.clock(), dt.UTC).date()
        if section.period > period_of(today):
            raise RefusedError(f"the section of {section.holder} is of a quarter that has not begun: check the clocks")
        if any(one.as_of > today for one in section.told.values()):
            raise RefusedError(f"the section of {section.holder} tells of days to come: check the clocks")
        if section.catalogue not in self.tells.get(section.holder, (section.holder,)):
            raise RefusedError(
                f"{section.holder} tells fields of the catalogue {section.catalogue}, which is not its own here: if it "
                "is, name it under sections in bank.yaml"
            )
        self._check_consent(section)
        section.facts()
        return section

    def facts(self, firm: str) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
        """Return what holders tell of a firm, the newest section of each field, and why sections were left out."""
        newest: dict[str, Fact] = {}
        left_out: list[str] = []
        twice: set[str] = set()
        for path in sorted((folder_of(self.home, firm) / "sections").glob("*.json")):
            try:
                section = self.checked(SignedSection.read(path))
                if section.firm != firm:
                    raise RefusedError("the section is another firm's")
            except VeilscoreError as error:
                left_out.append(f"{path.name}: {error.message}")
                continue
            for fact in section.facts():
                before = newest.setdefault(fact.name, fact)
                if before.owner != fact.owner:
                    twice.add(fact.name)
                elif before.as_of <= fact.as_of:
                    newest[fact.name] = fact
        left_out += [f"{name}: more than one holder tells it, so none is used" for name in sorted(twice)]
        return tuple(fact for name, fact in newest.items() if name not in twice), tuple(left_out)

    def standing(self, firm: str) -> frozenset[str]:
        """Return the references of all sections of a firm that may be used now."""
        found = set()
        for path in (folder_of(self.home, firm) / "sections").glob("*.json"):
            with contextlib.suppress(VeilscoreError):
                found |= {fact.source.reference for fact in self.checked(SignedSection.read(path)).facts()}
        return frozenset(found)

    def _check_consent(self, section: HolderSection) -> None:
        """Refuse a section that the firm's own consent does not cover now, field by field."""
        issuers = dict(self.node.policy.consent_issuers)
        if not issuers:
            raise ConfigError(f"{self.node.name} lists no consent_issuers in its policy, so it can verify no consent")
        paths = [self.home / "consents" / kind / f"{section.consent}.json" for kind in ("tokens", "lists", "used")]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise RefusedError(
                f"the firm's consent {section.consent} is not here: take it in with `veilscore consent import`"
            )
        consent = read_consent(Signed.from_text(read_text(found, "consent"), str(found)), issuers)
        ask = Ask(REPORT, SECTION, self.node.name, "", self.clock(), section.holder)
        if refusal := ask.refusal(consent.scope, "the firm's consent"):
            raise RefusedError(refusal)
        if consent.id != section.consent or not consent.covers([section.firm]).all():
            raise RefusedError("the consent is another firm's")
        if more := set(section.told) - set(consent.scope.fields):
            raise IdentityError(f"{section.holder} told {min(more)}, which the firm's consent does not list")
        revoked = RevocationLists(self.home, issuers).now()
        single = f"{consent.id}:{commit_one(consent.salt, section.firm).hex()}"  # one firm of a list
        if revoked.consents & {consent.id, single} or revoked.firms([section.firm]).any():
            raise RefusedError("the firm's consent was revoked")
