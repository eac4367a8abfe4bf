"""The after-loan assistant: what changed since the last report, the alarms, and next steps, by one call."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from party_bank.assistants.credit_report import CreditReport, ReportAssistant
from party_bank.assistants.page import page_environment, refuse_untraced
from party_bank.assistants.report_fields import STEPS, report_fields
from party_bank.assistants.spoken import PAGE_WORDS, Sentences, SourceLine, Speaker, source_line
from veilscore.reports.facts import Fact, Locale

_ALARMS = ("after.alarms", "after.level", "after.next_step", "after.next_review")
_WORDS: dict[Locale, dict[str, str]] = {
    "en": {
        "title": "After the loan",
        "changes": "What changed since the last report",
        "alarms": "Alarms",
        "steps": "Next steps, proposed by rules from facts; a person decides",
        "before": "Before",
        "now": "Now",
        "nothing": "Empty.",
    },
    "zh": {
        "title": "贷后报告",
        "changes": "上次报告以来变化",
        "alarms": "预警",
        "steps": "后续措施（由规则依据事实提出，由人工决定）",
        "before": "此前",
        "now": "现在",
        "nothing": "无。",
    },
}


@dataclass(frozen=True)
class FactChange:
    """A fact before and now; None where there was none, or is none any more."""

    name: str
    before: Fact | None
    now: Fact | None


@dataclass(frozen=True)
class AfterLoanNote:
    """What is to be looked at of one firm after its loan.

    since : day of the report before; None where there was none.
    report, path : the new report, and where it is kept.
    """

    firm: str
    since: dt.date | None
    report: CreditReport
    path: Path
    changes: tuple[FactChange, ...]
    alarms: tuple[Fact, ...]


def after_loan(assistant: ReportAssistant, firm: str, actor: str) -> AfterLoanNote:
    """Write a new report on a firm and compare it with the one before."""
    written = assistant.write(firm, actor)
    report, before = written.report, written.before
    old, new = ({} if before is None else before.by_name), report.by_name
    return AfterLoanNote(
        firm=firm,
        since=None if before is None else before.made,
        report=report,
        path=written.path,
        changes=tuple(FactChange(name, old.get(name), new.get(name)) for name in report.changed),
        alarms=tuple(new[name] for name in _ALARMS if name in new),
    )


def next_steps(report: CreditReport, locale: Locale) -> Sentences:
    """Return sentences with what to do next, each with the fact that asks for it."""
    return Speaker(report, report.facts, locale).proposed(STEPS)


def render_after(note: AfterLoanNote, locale: Locale) -> str:
    """Return the note as a page; as in a report every figure stands in or leads to a line with its source."""
    words, spoken = report_fields().spoken, {**PAGE_WORDS[locale], **_WORDS[locale]}

    def line(fact: Fact | None) -> SourceLine | None:
        return None if fact is None else source_line(fact, words, locale)

    page = (
        page_environment()
        .get_template("after.html.j2")
        .render(
            locale=locale,
            words=spoken,
            heading=Speaker(note.report, note.report.facts, locale).heading(),
            changes=[(words.label(one.name, locale), line(one.before), line(one.now)) for one in note.changes],
            alarms=[source_line(fact, words, locale) for fact in note.alarms],
            steps=next_steps(note.report, locale),
            sources=[source_line(fact, words, locale) for fact in note.report.facts],
        )
    )
    return refuse_untraced(page)
