"""The report assistant puts a credit report together: facts of the bank and of holders' sections, field by field.

`write_report` makes it, `CreditReport` is what is kept (JSON), `page.py`, `word.py` and `pdf.py` show it in either
language. A text is a template's unless it says which model wrote it; no text has a part in a decision.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from party_bank.assistants.bank_facts import OwnRows, alarm_facts, bank_facts, read_own
from party_bank.assistants.extracts import SourceText, quotes_of
from party_bank.assistants.report_fields import ReportField, report_fields
from party_bank.assistants.sections import SectionShelf, ToldFacts, folder_of
from party_bank.book import Book
from party_bank.book_tables import REPORTS
from party_bank.settings import BankSettings
from veilscore.errors import ConfigError
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.reports.facts import Fact, Locale, Source
from veilscore.reports.text_guard import Piece, Quote
from veilscore.terms.settings import Strict, parse, parse_json, read_text

KIND = "credit"
HALF = 0.5  # of a person's field that holds a proposal made of facts


class DraftedText(Strict):
    """Sentences of a language model for a person's field, all verified by the guard.

    model : the model's name at the institution's own server.
    """

    field: str
    locale: Locale
    model: str
    sentences: tuple[tuple[Piece, ...], ...]
    struck: int = Field(ge=0, description="sentences that the guard did not let through")


class CreditReport(Strict):
    """A report on one firm as it is kept: facts with their sources; words come with the language.

    left_out : sections that were not used, and why; drafts : of a language model, where one is set.
    changed : names of facts that differ from the report before.
    """

    format: Literal["veilscore-credit-report/1"] = "veilscore-credit-report/1"
    firm: str
    bank: str
    made: dt.date
    facts: tuple[Fact, ...]
    quotes: tuple[Quote, ...] = ()
    left_out: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    drafts: tuple[DraftedText, ...] = ()

    @property
    def by_name(self) -> dict[str, Fact]:
        """Return the facts by name."""
        return {fact.name: fact for fact in self.facts}

    def known(self, field: ReportField) -> tuple[Fact, ...]:
        """Return the facts that a field holds: its own, or for a person's those that rules propose."""
        facts = self.by_name
        if not field.person:
            return tuple(facts[name] for name in field.facts if name in facts)
        return tuple(dict.fromkeys(fact for _, group in self.proposed(field.key) for fact in group))

    def proposed(self, key: str) -> list[tuple[int, tuple[Fact, ...]]]:
        """Return the rules that hold for a person's field, by number, each with its facts."""
        facts, found = self.by_name, []
        for number, rule in enumerate(report_fields().proposals):
            if rule.field == key and rule.fact in facts and rule.holds(facts[rule.fact]):
                names = (rule.fact, *rule.with_)
                found.append((number, tuple(facts[name] for name in names if name in facts)))
        return found

    @property
    def coverage(self) -> Coverage:
        """Return how much of the report is filled from sources."""
        return Coverage.of(self)


@dataclass(frozen=True)
class Coverage:
    """How much is filled from sources.

    fields : of which `filled` hold a fact; a person's field with a proposal made of facts counts half.
    parts : all that the fields ask for, of which `known_parts` are known; a person's fields are left out.
    """

    fields: int
    filled: float
    parts: int
    known_parts: int

    @classmethod
    def of(cls, report: CreditReport) -> Coverage:
        """Count the fields of a report."""
        fields = report_fields().fields
        held = {field.key: report.known(field) for field in fields}
        asked = [field for field in fields if not field.person]
        return cls(
            fields=len(fields),
            filled=sum((HALF if field.person else 1.0) for field in fields if held[field.key]),
            parts=sum(len(field.facts) + len(field.lacks) for field in asked),
            known_parts=sum(len(held[field.key]) for field in asked),
        )

    @property
    def share(self) -> float:
        """Share of the fields that are filled."""
        return self.filled / self.fields


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written and kept.

    path : its file; before : the report before, as it may be shown now, None where there was none.
    """

    report: CreditReport
    path: Path
    before: CreditReport | None


@dataclass(frozen=True)
class ReportAssistant:
    """Writes reports at one bank.

    shelf : where holders' sections are, with the bank's home and node.
    drafting : adds a language model's sentences, where one is asked for (`language_model.draft`).
    """

    book: Book
    settings: BankSettings
    shelf: SectionShelf
    drafting: Callable[[CreditReport], CreditReport] | None = None

    def own(self, firms: Sequence[str]) -> OwnRows | None:
        """Return the bank's own variables of firms, read once for a batch."""
        return read_own(self.settings, self.shelf.node, firms)

    def write(
        self, firm: str, actor: str, own: OwnRows | None = None, texts: Sequence[SourceText] = ()
    ) -> WrittenReport:
        """Write a report on a firm and keep it.

        own : what `own` returned for a batch of firms; None: the firm's variables are read here.
        texts : texts that the bank has, whose sentences about risks are quoted.
        """
        bank = self.shelf.node.name
        own = self.own([firm]) if own is None else own
        told = self.shelf.told(firm)
        before = self._standing(firm, told)
        with self.book.reading() as entry:
            mine = bank_facts(entry, self.settings, bank, firm, own)
            alarms = alarm_facts(entry, self.settings, bank, firm, None if before is None else before.made)
            today = entry.today
        facts = [*mine, *alarms, *told.facts]
        changed = () if before is None else changes(before.by_name, {fact.name: fact for fact in facts})
        facts += _of_reports(bank, firm, today, before, len(changed))
        report = CreditReport(
            firm=firm,
            bank=bank,
            made=today,
            facts=tuple(facts),
            quotes=tuple(quote for number, text in enumerate(texts) for quote in quotes_of(firm, number, text)),
            left_out=told.left_out,
            changed=tuple(changed),
        )
        report = report if self.drafting is None else self.drafting(report)
        return WrittenReport(report, self._keep(report, actor), before)

    def latest(self, firm: str) -> CreditReport | None:
        """Return the newest report on a firm as it may be shown now; None if there is none.

        What a holder told is left out once its section may not be used any more, such as after the consent ended.
        """
        return self._standing(firm, self.shelf.told(firm))

    def _standing(self, firm: str, told: ToldFacts) -> CreditReport | None:
        paths = sorted(folder_of(self.shelf.home, firm).glob("credit-*.json"))
        if not paths:
            return None
        report = read_report(paths[-1])
        kept = [f for f in report.facts if f.source.kind != "signature" or f.source.reference in told.references]
        if len(kept) == len(report.facts):
            return report
        gone = {fact.name for fact in report.facts} - {fact.name for fact in kept}
        drafts = tuple(
            draft.model_copy(
                update={"sentences": tuple(one for one in draft.sentences if not gone & {p.name for p in one})}
            )
            for draft in report.drafts
        )
        return report.model_copy(update={"facts": tuple(kept), "drafts": drafts})

    def _keep(self, report: CreditReport, actor: str) -> Path:
        folder = folder_of(self.shelf.home, report.firm)
        private_folder(folder)
        number = len(list(folder.glob("credit-*.json")))
        path = folder / f"credit-{report.made.isoformat()}-{number:04d}.json"
        text = report.model_dump_json(indent=1)
        write_text(path, text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        where = str(path.relative_to(self.shelf.home))
        with self.book.writing(actor) as entry:
            entry.add(REPORTS, firm=report.firm, kind=KIND, path=where, as_of=report.made, sha256=digest)
        return path


def read_report(path: Path) -> CreditReport:
    """Return the report of a file; ConfigError if it is none."""
    try:
        return parse(CreditReport, parse_json(read_text(path, "credit report")), str(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no credit report, or was damaged") from error


def changes(before: Mapping[str, Fact], now: Mapping[str, Fact]) -> list[str]:
    """Return the names of facts that a later report has otherwise, new or no more; those about reports are left out."""
    names = {*before, *now} - {name for name in {*before, *now} if name.startswith(("after.", "report."))}
    shown = {name: [facts[name].value if name in facts else None for facts in (before, now)] for name in names}
    return sorted(name for name, (old, new) in shown.items() if old != new)


def _of_reports(bank: str, firm: str, today: dt.date, before: CreditReport | None, changed: int) -> list[Fact]:
    about = {"firm": firm, "owner": bank, "as_of": today}
    if before is None:
        source = Source(kind="calculation", reference="no earlier report is kept")
        return [Fact.model_validate({**about, "name": "after.first", "value": True, "unit": "flag", "source": source})]
    source = Source(kind="calculation", reference=f"report of {before.made.isoformat()} against today's facts")
    last = {**about, "name": "after.last_report", "value": before.made, "unit": "date", "source": source}
    found = {**about, "name": "after.changes", "value": changed, "unit": "count", "source": source}
    return [Fact.model_validate(last), Fact.model_validate(found)]
