"""Write tables as an Excel workbook (.xlsx), one sheet each, with a bold first row that stays in sight.

Source: ECMA-376, part 1, SpreadsheetML. Text is stored as text, so that no name or label becomes a formula.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

Cell = str | float | int | None
Rows = Sequence[Sequence[Cell]]  # the first one has the titles of the columns

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")  # not in XML, or an escape
_LONGEST = 32_767  # characters of a cell
_MOST_ROWS = 1_048_576
_STYLES = (
    f'{_HEAD}<styleSheet xmlns="{_MAIN}"><fonts count="2"><font/><font><b/></font></fonts>'
    '<fills count="1"><fill><patternFill patternType="none"/></fill></fills><borders count="1"><border/></borders>'
    '<cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="2"><xf xfId="0"/><xf xfId="0" fontId="1" applyFont="1"/></cellXfs></styleSheet>'
)


def workbook(sheets: Mapping[str, Rows]) -> bytes:
    """Return the file of a workbook with these sheets by title; the same tables give the same bytes."""
    numbers = range(1, len(sheets) + 1)
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    types = [("workbook.xml", "sheet.main"), ("styles.xml", "styles")]
    types += [(f"worksheets/sheet{n}.xml", "worksheet") for n in numbers]
    overrides = "".join(f'<Override PartName="/xl/{part}" ContentType="{kind}.{form}+xml"/>' for part, form in types)
    targets = [(f"rId{n}", "worksheet", f"worksheets/sheet{n}.xml") for n in numbers]
    listed = "".join(
        f'<sheet name={quoteattr(title[:31])} sheetId="{n}" r:id="rId{n}"/>'
        for n, title in zip(numbers, sheets, strict=True)
    )
    parts = {
        "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>',
        "_rels/.rels": _links([("rId1", "officeDocument", "xl/workbook.xml")]),
        "xl/workbook.xml": f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _links([*targets, (f"rId{len(sheets) + 1}", "styles", "styles.xml")]),
        "xl/styles.xml": _STYLES,
        **{f"xl/worksheets/sheet{n}.xml": _sheet(rows) for n, rows in zip(numbers, sheets.values(), strict=True)},
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in parts.items():
            book.writestr(zipfile.ZipInfo(name), text.encode(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _links(targets: Sequence[tuple[str, str, str]]) -> str:
    found = "".join(f'<Relationship Id="{n}" Type="{_OFFICE}/{kind}" Target="{part}"/>' for n, kind, part in targets)
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{found}</Relationships>'


def _sheet(rows: Rows) -> str:
    pane = '<pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
    lines = "".join(
        f'<row r="{n}">{"".join(_cell(value, f"{_letters(k)}{n}", bold=n == 1) for k, value in enumerate(row))}</row>'
        for n, row in enumerate(rows[:_MOST_ROWS], start=1)
    )
    return (
        f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetViews><sheetView workbookViewId="0">{pane}</sheetView></sheetViews>'
        f"<sheetData>{lines}</sheetData></worksheet>"
    )


def _cell(value: Cell, place: str, *, bold: bool) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    style = ' s="1"' if bold else ""
    if not isinstance(value, str):
        return f'<c r="{place}"{style}><v>{value!r}</v></c>'
    text = escape(_UNSAFE.sub(lambda found: f"_x{ord(found[0]):04X}_", value[:_LONGEST]))
    return f'<c r="{place}"{style} t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def _letters(column: int) -> str:
    """Return the name of a column by its number from 0: A, B, ... Z, AA."""
    name = ""
    while column >= 0:
        name, column = chr(ord("A") + column % 26) + name, column // 26 - 1
    return name
