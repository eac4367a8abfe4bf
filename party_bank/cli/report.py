"""`veilscore bank report`: credit reports made of facts, holders' sections, and what changed after a loan."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from party_bank.cli.homes import OpenBank, opened
from veilscore.cli.display import console, table
from veilscore.cli.files import read_firms
from veilscore.cli.homes import FederationOption, HomeOption
from veilscore.errors import BookError, ConfigError

if TYPE_CHECKING:
    from party_bank.assistants.credit_report import CreditReport, ReportAssistant, WrittenReport
    from party_bank.assistants.section_calls import AskedSection

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank report write 9131... --home /srv/bank")
FirmArgument = Annotated[str, typer.Argument(help="The firm's id.")]
LocaleOption = Annotated[Literal["en", "zh"], typer.Option(help="Language.")]
DraftOption = Annotated[
    bool, typer.Option("--draft", help="Let the bank's own language model (language_model in node.yaml) join facts.")
]


@app.callback()
def group() -> None:
    """Write credit reports in which every figure leads to its source, and say what changed since the last one."""


@contextlib.contextmanager
def _assistant(
    home: Path | None, federation: Path | None, *, draft: bool = False
) -> Iterator[tuple[OpenBank, ReportAssistant]]:
    from party_bank.assistants.credit_report import ReportAssistant  # noqa: PLC0415 - loads duckdb
    from party_bank.assistants.sections import SectionShelf  # noqa: PLC0415
    from veilscore.terms.membership import load_membership  # noqa: PLC0415

    with opened(home, federation) as bank, contextlib.ExitStack() as stack:
        _, members = load_membership(bank.home, bank.node)
        drafting = None
        if draft:
            from party_bank.assistants.language_model import LanguageModel, draft_all  # noqa: PLC0415

            if bank.node.language_model is None:
                raise ConfigError("--draft needs the bank's own server: name it under language_model in node.yaml")
            model = stack.enter_context(contextlib.closing(LanguageModel(bank.node.language_model)))
            drafting = functools.partial(draft_all, model=model)
        shelf = SectionShelf(bank.home, bank.node, members, tells=bank.settings.sections)
        yield bank, ReportAssistant(bank.book, bank.settings, shelf, drafting)


@app.command("take", epilog="Example: veilscore bank report take sections --home /srv/bank")
def take(
    files: Annotated[list[Path], typer.Argument(help="Sections that holders signed, or a folder with them.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Check holders' sections (signature, firm, consent, date) and keep them for reports."""
    with _assistant(home, federation) as (_, assistant):
        for file in (one for given in files for one in (sorted(given.glob("*.json")) if given.is_dir() else [given])):
            console().print(f"taken: {assistant.shelf.take(file)}", soft_wrap=True)


@app.command("ask", epilog="Example: veilscore bank report ask 9131... --home /srv/bank")
def ask(
    firm: FirmArgument,
    *,
    dataset: Annotated[str, typer.Option("--data", help="Data set of the holders; default: section_data.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Ask holders' nodes for their sections on a firm, under its consent; exit code 1 if one told nothing."""
    from party_bank.assistants.section_calls import CALL_S, METHOD, ask_sections  # noqa: PLC0415
    from party_bank.firms import report_consents  # noqa: PLC0415
    from veilscore.cli.connection import Connection, reach  # noqa: PLC0415
    from veilscore.v1 import control_pb2 as pb  # noqa: PLC0415

    with _assistant(home, federation) as (bank, assistant):
        wanted = bank.id_of(firm)
        documents = report_consents(bank.book, wanted)

        async def work(node: Connection) -> list[AskedSection]:
            async def call(holder: str, message: pb.AskSection) -> pb.WrittenSection:
                return await node.call(holder, METHOD, message, pb.WrittenSection, CALL_S)

            return await ask_sections(assistant.shelf, call, wanted, documents, dataset or bank.settings.section_data)

        found = reach(bank.home, work)
    rows = ((one.holder, str(one.fields or ""), one.refusal) for one in found)
    console().print(table("Sections", ("holder", "fields told", "or why none"), rows))
    if any(one.refusal for one in found):
        raise typer.Exit(1)


@app.command("write", epilog="Example: veilscore bank report write 9131... --home /srv/bank")
def write(
    firm: FirmArgument,
    *,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="YAML (source, owner, as_of, text): what it says of risks is quoted; may be repeated."),
    ] = None,
    draft: DraftOption = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write a report on a firm, keep it, and show it as pages in English and Chinese."""
    from party_bank.assistants.extracts import read_source  # noqa: PLC0415

    texts = [read_source(path) for path in text or ()]
    with _assistant(home, federation, draft=draft) as (bank, assistant):
        written = assistant.write(bank.id_of(firm), bank.actor, texts=texts)
    report = written.report
    for page in _pages(written):
        console().print(str(page), soft_wrap=True)
    coverage = report.coverage
    console().print(
        f"{coverage.filled:g} of {coverage.fields} fields filled from sources ({coverage.share:.0%}), "
        f"{coverage.known_parts} of {coverage.parts} parts"
    )
    for why in report.left_out:
        console().print(f"not used: {why}", soft_wrap=True)


@app.command("show", epilog="Example: veilscore bank report show 9131... --as word --out report.docx --home /srv/bank")
def show(
    firm: FirmArgument,
    *,
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    kind: Annotated[Literal["html", "word", "pdf", "json"], typer.Option("--as", help="What kind of file.")] = "html",
    locale: LocaleOption = "en",
    template: Annotated[Path | None, typer.Option(help="With --as word: the bank's own template (docxtpl).")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show the newest report on a firm as a page, a Word document or a PDF."""
    with _assistant(home, federation) as (bank, assistant):
        report = assistant.latest(bank.id_of(firm))
    if report is None:
        raise BookError(f"there is no report on {firm[:64]}: `veilscore bank report write` makes one")
    _show(report, out, kind, locale, template)
    console().print(str(out), soft_wrap=True)


@app.command("batch", epilog="Example: veilscore bank report batch firms.csv --home /srv/bank")
def batch(
    firms: Annotated[Path, typer.Argument(help="CSV file with the firms' ids in its first column, or in --column.")],
    *,
    column: Annotated[str | None, typer.Option(help="Column with the ids.")] = None,
    draft: DraftOption = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write reports on many firms; a firm that cannot be written about is named, and the others are written."""
    from veilscore.errors import VeilscoreError  # noqa: PLC0415

    wanted = read_firms(firms, column)
    rows: list[tuple[str, str, str]] = []
    with _assistant(home, federation, draft=draft) as (bank, assistant):
        ids = [bank.id_of(one) for one in wanted]
        own = assistant.own(ids)
        for one in ids:
            try:
                written = assistant.write(one, bank.actor, own)
                _pages(written)
                rows.append((one, f"{written.report.coverage.share:.0%}", str(written.path)))
            except VeilscoreError as error:
                rows.append((one, "", error.message))
    console().print(table(f"{len(rows)} firms", ("firm", "filled", "report, or why there is none"), rows))


@app.command("after", epilog="Example: veilscore bank report after 9131... --out after.html --home /srv/bank")
def after(
    firm: FirmArgument,
    *,
    out: Annotated[Path, typer.Option("--out", help="Page (HTML) to write.")],
    locale: LocaleOption = "en",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write a new report, and say what changed since the one before: facts, alarms, next steps."""
    from party_bank.assistants.after_loan import after_loan, render_after  # noqa: PLC0415
    from veilscore.files.store import write_text  # noqa: PLC0415

    with _assistant(home, federation) as (bank, assistant):
        note = after_loan(assistant, bank.id_of(firm), bank.actor)
    write_text(out, render_after(note, locale))
    console().print(f"{len(note.changes)} facts changed, {len(note.alarms)} facts about alarms: {out}", soft_wrap=True)


def _pages(written: WrittenReport) -> list[Path]:
    from party_bank.assistants.page import render_page  # noqa: PLC0415
    from veilscore.files.store import write_text  # noqa: PLC0415
    from veilscore.reports.facts import LOCALES  # noqa: PLC0415

    paths = [written.path.with_suffix(f".{locale}.html") for locale in LOCALES]
    for path, locale in zip(paths, LOCALES, strict=True):
        write_text(path, render_page(written.report, locale))
    return paths


def _show(report: CreditReport, out: Path, kind: str, locale: Literal["en", "zh"], template: Path | None) -> None:
    from veilscore.files.store import write_text  # noqa: PLC0415

    if template is not None and kind != "word":
        raise ConfigError("--template is for --as word")
    if kind == "html":
        from party_bank.assistants.page import render_page  # noqa: PLC0415

        write_text(out, render_page(report, locale))
    elif kind == "json":
        write_text(out, report.model_dump_json(indent=1))
    elif kind == "word":
        from party_bank.assistants.word import write_word  # noqa: PLC0415

        write_word(report, locale, out, template)
    else:
        from party_bank.assistants.pdf import write_pdf  # noqa: PLC0415

        write_pdf(report, locale, out)
