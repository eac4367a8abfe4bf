"""A credit report as a Word document, by docxtpl: our own plain template, or one of the bank's.

A template gets `title`, `heading`, `summary`, `sections` (`title`, `fields` of `title`, `text`, `note`) and `sources`
(`number`, `label`, `value`, `as_of`, `owner`, `source`). Every figure in a text ends in the number of its source.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import TemplateError
from jinja2.sandbox import SandboxedEnvironment

from party_bank.assistants.credit_report import CreditReport
from party_bank.assistants.spoken import SpokenReport, speak
from veilscore.errors import ConfigError
from veilscore.files.store import write_atomically
from veilscore.reports.facts import Locale
from veilscore.reports.text_guard import Piece

_MISSING = "a Word document needs docxtpl: run `pip install 'veilscore[assistants]'`"


def write_word(report: CreditReport, locale: Locale, path: Path, template: Path | None = None) -> Path:
    """Write the report as a Word document; ConfigError where docxtpl is missing or the template is none.

    template : of the bank, with the tags of docxtpl.
    """
    try:
        import docxtpl  # noqa: PLC0415 - an extra of the installation
        from docx.opc.exceptions import PackageNotFoundError  # noqa: PLC0415 - comes with docxtpl
    except ImportError:
        raise ConfigError(_MISSING) from None
    spoken = speak(report, locale)
    document = docxtpl.DocxTemplate(str(template) if template is not None else _plain_template())
    # a template of the bank's reaches what it is given and no attribute of Python
    environment = SandboxedEnvironment(autoescape=True, undefined=StrictUndefined)
    try:
        document.render(content_of(spoken), environment, autoescape=True)
    except (TemplateError, PackageNotFoundError, ValueError, KeyError, OSError) as error:
        raise ConfigError(f"the Word template {template or ''} cannot be filled in: {error}") from error
    out = io.BytesIO()
    document.save(out)
    write_atomically(path, lambda file: file.write(out.getvalue()))
    return path


def content_of(spoken: SpokenReport) -> dict[str, Any]:
    """Return a report as plain texts, in which figures carry the numbers of their sources."""
    numbers = {line.name: number for number, line in enumerate(spoken.sources, start=1)}
    sections = [
        {
            "title": section.title,
            "fields": [
                {
                    "title": field.title,
                    "text": " ".join(_text(one, numbers) for one in (*field.sentences, *field.drafted)),
                    "note": " ".join(filter(None, (field.note, field.drafted_note))),
                }
                for field in section.fields
            ],
        }
        for section in spoken.sections
    ]
    lines = ("label", "value", "as_of", "owner", "source")
    return {
        "title": spoken.words["title"],
        "heading": _text(spoken.heading, {}),
        "summary": _text(spoken.summary, numbers),
        "sections": sections,
        "sources_title": spoken.words["sources"],
        "heads": [spoken.words[name] for name in ("fact", "value", "as_of", "owner", "source")],
        "sources": [
            {"number": numbers[line.name], **{name: getattr(line, name) for name in lines}} for line in spoken.sources
        ],
        "left_out": list(spoken.left_out),
    }


def _text(pieces: Sequence[Piece], numbers: Mapping[str, int]) -> str:
    return "".join(
        piece.text if piece.name not in numbers else f"{piece.text} [{numbers[piece.name]}]" for piece in pieces
    ).strip()


def _plain_template() -> io.BytesIO:
    """Return our own template."""
    import docx  # noqa: PLC0415 - comes with docxtpl

    document = docx.Document()
    document.add_heading("{{ title }}", 0)
    for text in ("{{ heading }}", "{{ summary }}", "{%p for section in sections %}"):
        document.add_paragraph(text)
    document.add_heading("{{ section.title }}", 1)
    document.add_paragraph("{%p for field in section.fields %}")
    document.add_heading("{{ field.title }}", 3)
    for text in ("{%p if field.text %}", "{{ field.text }}", "{%p endif %}", "{%p if field.note %}"):
        document.add_paragraph(text)
    document.add_paragraph().add_run("{{ field.note }}").italic = True
    for text in ("{%p endif %}", "{%p endfor %}", "{%p endfor %}"):
        document.add_paragraph(text)
    document.add_heading("{{ sources_title }}", 1)
    table = document.add_table(rows=3, cols=6)
    table.style = "Light Grid Accent 1"
    cells = ("number", "label", "value", "as_of", "owner", "source")
    table.rows[0].cells[0].text = "{%tr for s in sources %}"
    for cell, name in zip(table.rows[1].cells, cells, strict=True):
        cell.text = f"{{{{ s.{name} }}}}"
    table.rows[2].cells[0].text = "{%tr endfor %}"
    out = io.BytesIO()
    document.save(out)
    out.seek(0)
    return out
