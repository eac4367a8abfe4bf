"""Credit reports and what changed after a loan, by one click: for account managers; an auditor reads.

Holders' nodes are asked under the firm's own consent, as `veilscore bank report ask` does; a report opens as a page
that can do nothing. No report has a part in a decision.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from party_bank.assistants.after_loan import after_loan, render_after
from party_bank.assistants.credit_report import ReportAssistant
from party_bank.assistants.page import render_page
from party_bank.assistants.section_calls import CALL_S, METHOD, AskedSection, ask_sections
from party_bank.assistants.sections import SectionShelf
from party_bank.console.lending import LENDS, SEES
from party_bank.console.open_book import OpenBook
from party_bank.firms import report_consents
from veilscore.console.desk import Visit
from veilscore.console.models import REPORT_POLICY
from veilscore.console.page import Page
from veilscore.release.pseudonyms import firm_digest
from veilscore.reports.facts import Locale
from veilscore.v1 import control_pb2 as pb


class CreditReportPages:
    """The handlers of these pages, on one book."""

    def __init__(self, open_: OpenBook) -> None:
        self._open = open_

    def _assistant(self, visit: Visit) -> ReportAssistant:
        node, (_, members) = visit.desk.home.config, visit.desk.link.membership()
        settings = self._open.settings
        shelf = SectionShelf(visit.desk.home.path, node, members, tells=settings.sections)
        return ReportAssistant(self._open.book, settings, shelf)

    def _firm(self, visit: Visit) -> dict[str, Any]:
        row = self._open.firm(visit.part("firm"))
        visit.subject = f"firm {firm_digest(visit.desk.home.path, row['firm'])}"
        return row

    def show(self, visit: Visit) -> Response:
        """Show the newest report on a firm as it may be shown now."""
        report = self._assistant(visit).latest(self._firm(visit)["firm"])
        if report is None:
            raise HTTPException(404, "there is no report on this firm yet")
        return _alone(render_page(report, _locale(visit)))

    async def write(self, visit: Visit) -> Response:
        """Ask holders for their sections where the firm consented, write a report, and say what came of it."""
        row, assistant, documents = await asyncio.to_thread(self._prepared, visit)
        asked: list[AskedSection] = []
        if documents:

            async def call(holder: str, message: pb.AskSection) -> pb.WrittenSection:
                return await visit.desk.link.call(holder, METHOD, message, pb.WrittenSection, CALL_S)

            dataset = self._open.settings.section_data
            asked = await ask_sections(assistant.shelf, call, row["firm"], documents, dataset)
        report = (await asyncio.to_thread(assistant.write, row["firm"], visit.person)).report
        return visit.show("bank/report_made.html", row=row, asked=asked, report=report, coverage=report.coverage)

    def _prepared(self, visit: Visit) -> tuple[dict[str, Any], ReportAssistant, list[str]]:
        row, assistant = self._firm(visit), self._assistant(visit)
        documents = report_consents(self._open.book, row["firm"])
        return row, assistant, documents if assistant.shelf.consents(row["firm"], documents) else []

    def after(self, visit: Visit) -> Response:
        """Write a new report and show what changed since the last one, the alarms, and next steps."""
        note = after_loan(self._assistant(visit), self._firm(visit)["firm"], visit.person)
        return _alone(render_after(note, _locale(visit)))


def _locale(visit: Visit) -> Locale:
    return "zh" if visit.language == "zh" else "en"


def _alone(page: str) -> Response:
    return HTMLResponse(page, headers={"content-security-policy": REPORT_POLICY})


def pages(own: CreditReportPages) -> tuple[Page, ...]:
    """Return the pages on one book."""
    path, bank = "/firms/{firm}/report", ("bank",)
    return (
        Page(path, own.show, SEES, act="read a credit report", roles=bank),
        Page(path, own.write, LENDS, "POST", act="write a credit report", roles=bank),
        Page("/firms/{firm}/after", own.after, LENDS, "POST", act="look at a firm after its loan", roles=bank),
    )
