"""Holders' sections at the bank: checked (signature, firm, consent, date) before a word of them is used.

HOME/reports/FIRM/sections/HOLDER-CATALOGUE-CONSENT-QUARTER.json   as it was signed; FIRM is a keyed digest of the id
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from veilscore.errors import ConfigError, IdentityError, RefusedError, VeilscoreError
from veilscore.files.home_key import key_for
from veilscore.files.private import private_folder
from veilscore.release.consent import Consent, Signed, read_consent
from veilscore.release.gate import ConsentGate
from veilscore.release.scope import REPORT, SECTION, Ask
from veilscore.reports.facts import Fact
from veilscore.reports.section import HolderSection, SignedSection, period_of
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import read_text

FOLDER = "reports"


def folder_of(home: Path, firm: str) -> Path:
    """Return where everything about a firm's reports is.

    Ids of firms are public, so the name is keyed by the home's secret: who only lists folders cannot tell the firms.
    """
    return home / FOLDER / hashlib.blake2b(firm.encode(), key=key_for(home, "reports"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class ToldFacts:
    """What holders tell of a firm now.

    facts : of the newest section of each field; references : of all sections that may be used.
    left_out : sections that may not be used, and why.
    """

    facts: tuple[Fact, ...]
    references: frozenset[str]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class SectionShelf:
    """Keeps the sections that a bank was given, and checks each of them whenever it is used.

    clock : seconds since the epoch.
    tells : holder -> catalogues whose fields it may tell (bank.yaml); a holder that is not named may tell those of the
        catalogue of its own name.
    """

    home: Path
    node: NodeConfig
    federation: Federation
    clock: Callable[[], float] = time.time
    tells: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def take(self, path: Path) -> Path:
        """Check a section that a holder sent and keep it; returns where. The same one again changes nothing."""
        return self.keep(SignedSection.read(path))

    def keep(self, signed: SignedSection) -> Path:
        """Check a section and keep it, as `take` does."""
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

    def told(self, firm: str) -> ToldFacts:
        """Return what holders tell of a firm; each section is verified once."""
        newest: dict[str, Fact] = {}
        left_out: list[str] = []
        twice: set[str] = set()
        references: set[str] = set()
        for path in sorted((folder_of(self.home, firm) / "sections").glob("*.json")):
            try:
                section = self.checked(SignedSection.read(path))
                if section.firm != firm:
                    raise RefusedError("the section is another firm's")
            except VeilscoreError as error:
                left_out.append(f"{path.name}: {error.message}")
                continue
            for fact in section.facts():
                references.add(fact.source.reference)
                before = newest.setdefault(fact.name, fact)
                if before.owner != fact.owner:
                    twice.add(fact.name)
                elif before.as_of <= fact.as_of:
                    newest[fact.name] = fact
        left_out += [f"{name}: more than one holder tells it, so none is used" for name in sorted(twice)]
        facts = tuple(fact for name, fact in newest.items() if name not in twice)
        return ToldFacts(facts, frozenset(references), tuple(left_out))

    @cached_property
    def _gate(self) -> ConsentGate:
        return ConsentGate.of(self.home, self.node.policy, required=True)

    def consents(self, firm: str, documents: Sequence[str]) -> list[Signed]:
        """Return those of these consents that hold now for reports on a firm."""
        found = []
        for number in documents:
            with contextlib.suppress(VeilscoreError):
                found.append(self._valid(number, firm)[0])
        return found

    def _check_consent(self, section: HolderSection) -> None:
        """Refuse a section that the firm's own consent does not cover now, field by field."""
        _, consent = self._valid(section.consent, section.firm, section.holder)
        if more := set(section.told) - set(consent.scope.fields):
            raise IdentityError(f"{section.holder} told {min(more)}, which the firm's consent does not list")

    def _valid(self, number: str, firm: str, holder: str = "") -> tuple[Signed, Consent]:
        """Return a consent to reports on a firm, verified; of one holder where it is named. Raises where none holds."""
        issuers = dict(self.node.policy.consent_issuers)
        if not issuers:
            raise ConfigError(f"{self.node.name} lists no consent_issuers in its policy, so it can verify no consent")
        paths = [self.home / "consents" / kind / f"{number}.json" for kind in ("tokens", "lists", "used")]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise RefusedError(f"the firm's consent {number} is not here: take it in with `veilscore consent import`")
        signed = Signed.from_text(read_text(found, "consent"), str(found))
        consent = read_consent(signed, issuers)
        ask = Ask(REPORT, SECTION, self.node.name, "", self.clock(), holder)
        if refusal := ask.refusal(consent.scope, "the firm's consent"):
            raise RefusedError(refusal)
        if consent.id != number or not consent.covers([firm]).all():
            raise RefusedError("the consent is another firm's")
        if self._gate.revoked_of(consent.id, consent.salt, np.array([firm]), self.node.name).any():
            raise RefusedError("the firm's consent was revoked")
        return signed, consent
