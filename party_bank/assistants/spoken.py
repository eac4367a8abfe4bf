"""A credit report in one language: sections, sentences made of pieces, and the sources that every figure leads to.

Sentences are made by the templates in `templates/` (jinja2), which hold placeholders and no figure, and go through the
guard like any other text. HTML, Word and PDF are made of what this gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from party_bank.assistants.credit_report import CreditReport
from party_bank.assistants.report_fields import ReportField, report_fields
from veilscore.reports.facts import Fact, Locale, Source, Words, plain_text, quoted, shown_date
from veilscore.reports.text_guard import Piece, TextGuard

State = Literal["filled", "proposal", "open", "unknown"]
Sentences = tuple[tuple[Piece, ...], ...]
PAGE_WORDS: dict[Locale, dict[str, str]] = {
    "en": {
        "title": "Credit report",
        "sources": "Sources",
        "open": "Open: a person writes this.",
        "unknown": "Not told by a source.",
        "proposal": "Proposed by rules from facts; a person decides.",
        "model": "Chosen and joined by the language model {model}; each figure is a fact. A person decides.",
        "left_out": "Sections that were not used",
        "fact": "Fact",
        "value": "Value",
        "as_of": "As of",
        "owner": "Owner",
        "source": "Source",
    },
    "zh": {
        "title": "授信报告",
        "sources": "来源",
        "open": "待人工填写。",
        "unknown": "无来源。",
        "proposal": "由规则依据事实提出，由人工决定。",
        "model": "由语言模型 {model} 选取并连接，数字皆为事实。由人工决定。",
        "left_out": "未采用的数据方章节",
        "fact": "事实",
        "value": "数值",
        "as_of": "截至",
        "owner": "数据方",
        "source": "来源",
    },
}
_KINDS = {
    "signature": {"en": "signed", "zh": "签名"},
    "receipt": {"en": "joint decision", "zh": "联合决策"},
    "book": {"en": "book", "zh": "台账"},
    "data set": {"en": "data set", "zh": "数据集"},
    "settings": {"en": "settings", "zh": "设置"},
    "calculation": {"en": "calculation", "zh": "计算"},
}


@dataclass(frozen=True)
class SpokenField:
    """A field as it is shown.

    note : in words, where somebody has to know whose the text is, or that there is none.
    """

    key: str
    title: str
    state: State
    sentences: Sentences
    note: str = ""
    drafted: Sentences = ()
    drafted_note: str = ""


@dataclass(frozen=True)
class SpokenSection:
    """A section as it is shown."""

    title: str
    fields: tuple[SpokenField, ...]


@dataclass(frozen=True)
class SourceLine:
    """Where one fact comes from, as it is shown; `name` is what figures lead to."""

    name: str
    label: str
    value: str
    as_of: str
    owner: str
    source: str


@dataclass(frozen=True)
class SpokenReport:
    """A whole report in one language."""

    locale: Locale
    heading: tuple[Piece, ...]
    summary: tuple[Piece, ...]
    sections: tuple[SpokenSection, ...]
    sources: tuple[SourceLine, ...]
    left_out: tuple[str, ...]

    @property
    def words(self) -> dict[str, str]:
        """Return the page's own words."""
        return PAGE_WORDS[self.locale]


def speak(report: CreditReport, locale: Locale) -> SpokenReport:
    """Put a report into one language."""
    facts = (*report.facts, *_about(report))
    speaker = Speaker(report, facts, locale)
    sections = tuple(
        SpokenSection(section.title.get(locale), tuple(speaker.field(field) for field in section.fields))
        for section in report_fields().sections
    )
    cited = tuple(
        SourceLine(
            one.name,
            quoted(one.source, locale),
            quoted(one.text, locale),
            shown_date(one.as_of, locale),
            quoted(one.owner, locale),
            quoted(one.source, locale),
        )
        for one in report.quotes
    )
    return SpokenReport(
        locale=locale,
        heading=speaker.heading(),
        summary=speaker.pieces(["report.made", "report.filled"]),
        sections=sections,
        sources=(*(source_line(fact, report_fields().spoken, locale) for fact in facts), *cited),
        left_out=report.left_out,
    )


def source_line(fact: Fact, words: Words, locale: Locale) -> SourceLine:
    """Return the line of sources to which a figure leads."""
    return SourceLine(
        name=fact.name,
        label=words.label(fact.name, locale),
        value=words.render(fact, locale),
        as_of=shown_date(fact.as_of, locale),
        owner=fact.owner,
        source=f"{_KINDS[fact.source.kind][locale]}: {plain_text(fact.source.reference)}",
    )


class Speaker:
    """Makes the sentences of one report in one language."""

    def __init__(self, report: CreditReport, facts: Sequence[Fact], locale: Locale) -> None:
        self._report, self._locale, self._words = report, locale, report_fields().spoken
        self._guard = TextGuard(report.firm, facts, self._words, locale, report.quotes)

    def heading(self) -> tuple[Piece, ...]:
        """Return the firm's name and id."""
        known = [name for name in ("firm.name", "firm.id") if name in self._report.by_name]
        return self._guard.written(" ".join(f"{{{{fact:{name}}}}}" for name in known))

    def pieces(self, names: Sequence[str], lead: str = "") -> tuple[Piece, ...]:
        """Return the sentence that a template makes of facts."""
        template = _environment().get_template(f"facts.{self._locale}.j2")
        text = template.render(
            names=names,
            lead=lead,
            label=lambda name: self._words.label(name, self._locale),
            fact=lambda name: f"{{{{fact:{name}}}}}",
            capital=lambda text: text[:1].upper() + text[1:],
        )
        return self._guard.written(text)

    def proposed(self, key: str) -> Sentences:
        """Return a sentence for each rule that proposes facts for a person's field, or for the next steps."""
        rules = report_fields().proposals
        return tuple(
            self.pieces([fact.name for fact in group], rules[number].get(self._locale))
            for number, group in self._report.proposed(key)
        )

    def field(self, field: ReportField) -> SpokenField:
        """Return a field with its sentences."""
        words, title = PAGE_WORDS[self._locale], field.get(self._locale)
        if field.person:
            return self._of_a_person(field, title)
        known = self._report.known(field)
        quotes = [one.name for one in self._report.quotes] if field.key == "highlights" else []
        sentences = [self.pieces([fact.name for fact in known])] if known else []
        sentences += [self._guard.written(f"{{{{quote:{name}}}}}") for name in quotes]
        if not sentences:
            return SpokenField(field.key, title, "unknown", (), words["unknown"])
        return SpokenField(field.key, title, "filled", tuple(sentences))

    def _of_a_person(self, field: ReportField, title: str) -> SpokenField:
        words, sentences = PAGE_WORDS[self._locale], self.proposed(field.key)
        draft = next((d for d in self._report.drafts if (d.field, d.locale) == (field.key, self._locale)), None)
        drafted = () if draft is None else draft.sentences
        return SpokenField(
            field.key,
            title,
            "proposal" if sentences or drafted else "open",
            sentences,
            words["proposal"] if sentences else words["open"],
            drafted,
            words["model"].format(model=draft.model) if draft is not None and drafted else "",
        )


def _about(report: CreditReport) -> tuple[Fact, ...]:
    """Return facts about the report itself."""
    about = {"firm": report.firm, "owner": report.bank, "as_of": report.made}
    counted = Source(kind="calculation", reference="fields that hold a fact, of all fields of the report")
    dated = Source(kind="calculation", reference="the day on which it was written")
    share = {"name": "report.filled", "value": round(report.coverage.share, 3), "unit": "percent", "source": counted}
    made = {"name": "report.made", "value": report.made, "unit": "date", "source": dated}
    return Fact.model_validate({**about, **made}), Fact.model_validate({**about, **share})


@cache
def _environment() -> Environment:
    """Return the templates of sentences; what they make is checked and escaped later, where it is shown."""
    return Environment(  # noqa: S701 - plain text, which the guard takes apart
        loader=PackageLoader("party_bank.assistants", "templates"), undefined=StrictUndefined, trim_blocks=True
    )
