"""Credit reports of 100 firms of simulated life in two languages: what is filled from sources, traced, and how fast.

Variables are built from the events of five owners; holders' sections are written at home, signed, and checked at the
bank; the book has an application and a contract of each firm. No joint decision is run: its steps are made of the
simulated hazard, as one that finds the risk would open them. Shares are measured, none is set.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import docx
import duckdb
import numpy as np
from result import emit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from report_world import HOLDERS, ReportWorld, make_world

from party_bank import applications, contracts
from party_bank.assistants.credit_report import CreditReport
from party_bank.assistants.page import render_page, untraced_figures
from party_bank.assistants.pdf import write_pdf
from party_bank.assistants.report_fields import report_fields
from party_bank.assistants.word import write_word
from party_bank.book import Book
from party_bank.firms import note_consent, put_firms
from party_bank.joint import OpenedSteps
from party_bank.settings import amount_of, load_settings
from veilscore.data.life import simulate_life
from veilscore.errors import ConfigError
from veilscore.features.build import build
from veilscore.features.catalogue import find_catalogue
from veilscore.reports.facts import LOCALES

FIRMS, AS_OF = 100, "2025-12-31"
SHARE, BOUND_S = 0.8, 2.0


def lived(folder: Path) -> tuple[ReportWorld, dict[str, float]]:
    """A federation with variables of simulated firms; the last hazard of FIRMS that borrowed and did not fail."""
    simulate_life(folder / "life", 1_000, 11)
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT uscc, arg_max(hazard, month) FROM read_parquet(?) WHERE NOT failed_before GROUP BY uscc "
            "HAVING bool_or(loan_open) AND count(*) = 36 ORDER BY uscc LIMIT ?",
            [str(folder / "life" / "truth" / "hazard.parquet"), FIRMS],
        ).fetchall()
    world = make_world(folder, [firm for firm, _ in rows])
    for party in ("bank", *HOLDERS):
        build(find_catalogue(party), folder / "life" / party, world.home(party) / "features" / "main.parquet", AS_OF)
    return world, dict(rows)


def lend(world: ReportWorld, book: Book, hazard: dict[str, float]) -> None:
    """Take an application of each firm and let those that the step allows draw half of their limit."""
    settings = load_settings(world.home("bank"))
    regions = ("north", "south", "east", "west")
    about = [
        {"firm": firm, "name": f"Firm {n}", "industry": "trade", "region": regions[n % 4], "manager": "li"}
        for n, firm in enumerate(world.firms)
    ]
    put_firms(book, about, "bench")
    cuts = np.quantile(list(hazard.values()), [0.25, 0.5, 0.75, 0.9])
    steps = {firm: int(4 - np.searchsorted(cuts, value)) for firm, value in hazard.items()}

    def joint(firms: list[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        del model, purpose, reference
        found = {firm: steps[firm] for firm in firms}
        return OpenedSteps(found, "ab" * 32, HOLDERS, 2.3, measures=dict.fromkeys(firms, "tax"))

    for n, firm in enumerate(world.firms):
        with book.writing("bench") as entry:
            times = {"not_before_s": entry.at_s, "expires_s": entry.at_s + 86400 * 365}
            who = {"document": f"app-{n}", "issuer": "portal", "purpose": "application", "holders": list(HOLDERS)}
            note_consent(entry, firm, **who, **times)
        asked = applications.ApplicationRequest(f"web-{n}", firm, "flow", amount_of(50_000), 12)
        done = applications.apply(book, settings, joint, applications.by_ladder, asked, "bench")
        if done["contract"]:
            contracts.sign(book, done["contract"], "bench")
            contracts.draw(book, done["contract"], amount_of(25_000), f"draw-{n}", "bench")


def files(report: CreditReport, folder: Path) -> tuple[float, str]:
    """Write a report as Word and PDF in both languages and open them; the longest time, and why there is no PDF."""
    longest, why = 0.0, ""
    for locale in LOCALES:
        start = time.perf_counter()
        path = write_word(report, locale, folder / f"{locale}.docx")
        longest = max(longest, time.perf_counter() - start)
        texts = {paragraph.text for paragraph in docx.Document(str(path)).paragraphs}
        assert {section.title.get(locale) for section in report_fields().sections} <= texts  # noqa: S101
        start = time.perf_counter()
        try:
            path = write_pdf(report, locale, folder / f"{locale}.pdf")
        except ConfigError as error:
            why = f"no PDF in {locale}: {error.message}"
            continue
        longest = max(longest, time.perf_counter() - start)
        if tool := shutil.which("pdftotext"):
            subprocess.run([tool, path, "-"], capture_output=True, check=True)
    return longest, why


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        world, hazard = lived(folder)
        print(f"life and variables of five owners: {time.perf_counter() - start:.0f} s")
        with contextlib.closing(world.book()) as book:
            lend(world, book, hazard)
            start = time.perf_counter()
            world.sections(world.consent(world.firms), world.firms)
            each_s = (time.perf_counter() - start) / FIRMS / len(HOLDERS)
            print(f"a section, written, signed, checked and kept: {1e3 * each_s:.1f} ms")
            assistant = world.assistant(book)
            shares, parts, times, untraced, figures = [], [], [], 0, 0
            empty: Counter[str] = Counter()
            own = assistant.own(world.firms)
            for firm in world.firms:
                start = time.perf_counter()
                report = assistant.write(firm, "bench", own).report
                pages = [render_page(report, locale) for locale in LOCALES]
                times.append(time.perf_counter() - start)
                untraced += sum(len(untraced_figures(page)) for page in pages)
                figures += sum(page.count('class="fact"') for page in pages)
                coverage = report.coverage
                shares.append(coverage.share)
                empty.update(field.key for field in report_fields().fields if not report.known(field))
                parts.append(coverage.known_parts / coverage.parts)
            file_s, why = files(report, folder)
    share, slowest = statistics.mean(shares), max(times)
    print(
        f"{FIRMS} reports as of {dt.date.fromisoformat(AS_OF)}: {share:.1%} of fields filled (least {min(shares):.1%}),"
    )
    print(f"{statistics.mean(parts):.1%} of all that fields ask for; {figures:,} figures, {untraced} without a source;")
    print(f"a report in both languages {statistics.median(times):.2f} s (p50), {slowest:.2f} s at most")
    print(f"Word in both languages and PDF open; the slowest file {file_s:.2f} s. {why}")
    print("fields left empty, reports: " + ", ".join(f"{key} {n}" for key, n in empty.most_common()))
    holds = share >= SHARE and not untraced and max(slowest, file_s) <= BOUND_S
    emit("credit_report", slowest, "s", BOUND_S, holds, share=share, share_goal=SHARE, least_share=min(shares),
         parts=statistics.mean(parts), untraced=untraced, figures=figures, median_s=statistics.median(times),
         section_s=each_s, file_s=file_s, pdf=why or "opens")  # fmt: skip


if __name__ == "__main__":
    main()
