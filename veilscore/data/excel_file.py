"""Read a sheet of an Excel workbook (.xlsx, .xlsm) as the CSV file that it would have been, at full precision.

Source: ECMA-376, part 1, SpreadsheetML. Numbers are taken as they are stored, not as they are shown; cells in a date
format become dates. What a table has not (merged cells, formulas without their value) is refused.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from xml.etree import ElementTree as ET

from veilscore.data.notation import WHITE
from veilscore.errors import ColumnError, DataError

_MOST_BYTES = 8 << 30  # of a workbook unpacked: a table that Excel itself can hold is smaller
_DATE_FORMATS = {*range(14, 18), 22, *range(27, 32), 36, *range(50, 55), 57, 58}  # of those that Excel has by number
_LEAP_1900 = 60  # Excel's 29 February 1900, which never was
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_EXACT = 1e15  # Excel keeps 15 digits


@contextmanager
def sheet_as_csv(path: Path, sheet: str | None) -> Iterator[Path]:
    """Yield a CSV file, in a private folder that goes afterwards, of one sheet of a workbook.

    sheet : its name; None: the only one that is visible and has cells.
    Raises DataError or ColumnError for what is no table, with the sheet and row.
    """
    try:
        with zipfile.ZipFile(path) as book, tempfile.TemporaryDirectory(prefix="veilscore-") as folder:
            _check_book(book, path.name)
            plain = Path(folder) / "sheet.csv"
            _write_sheet(_Book(book, path.name), sheet, plain)
            yield plain
    except (zipfile.BadZipFile, zlib.error, EOFError, ET.ParseError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, (DataError, UnicodeError)):
            raise
        raise DataError(f"data file {path.name} is a damaged workbook; open it in Excel and save it again") from None


def _check_book(book: zipfile.ZipFile, name: str) -> None:
    parts = {info.filename: info.file_size for info in book.infolist()}
    if "xl/workbook.bin" in parts:
        raise DataError(f"data file {name} is a binary workbook; save it as .xlsx")
    if "xl/workbook.xml" not in parts:
        kind = "an OpenDocument file; save it as .xlsx" if "content.xml" in parts else "a ZIP archive; unpack it"
        raise DataError(f"data file {name} is {kind}")
    if sum(parts.values()) > _MOST_BYTES:
        raise DataError(f"data file {name} is larger unpacked than any table of Excel; export it as CSV")


class _Book:
    """What the cells of all sheets refer to: shared strings, date formats, the first day."""

    def __init__(self, book: zipfile.ZipFile, name: str) -> None:
        self.name = name
        self._book = book
        root = self._tree("xl/workbook.xml")
        properties = next((part for part in root if _tag(part) == "workbookPr"), None)
        self.from_1904 = properties is not None and properties.get("date1904") in {"1", "true"}
        targets = {part.get("Id"): str(part.get("Target")) for part in self._tree("xl/_rels/workbook.xml.rels")}
        self.sheets: dict[str, str] = {}
        self.hidden: set[str] = set()
        for part in root.iter():
            if _tag(part) == "sheet":
                title = str(part.get("name"))
                number = next(value for key, value in part.items() if key.rpartition("}")[2] == "id")
                target = targets[number]
                self.sheets[title] = target.lstrip("/") if target.startswith("/") else f"xl/{PurePosixPath(target)}"
                if part.get("state", "visible") != "visible":
                    self.hidden.add(title)
        self.strings = self._strings() if "xl/sharedStrings.xml" in book.namelist() else []
        self.dates = self._date_styles() if "xl/styles.xml" in book.namelist() else set()

    def _tree(self, part: str) -> ET.Element:
        with self._book.open(part) as file:
            return ET.parse(file).getroot()  # noqa: S314 - the owner's own file; expat bounds what entities grow to

    def open(self, title: str) -> IO[bytes]:
        """Open the XML of a sheet."""
        return self._book.open(self.sheets[title])

    def _strings(self) -> list[str]:
        found = []
        with self._book.open("xl/sharedStrings.xml") as file:
            for _, item in ET.iterparse(file):  # noqa: S314 - as above
                if _tag(item) == "si":
                    found.append(_text(item))
                    item.clear()
        return found

    def _date_styles(self) -> set[int]:
        """Return the numbers of the cell styles that show a number as a date."""
        root = self._tree("xl/styles.xml")
        custom = {
            int(part.get("numFmtId", -1)): str(part.get("formatCode")) for part in root.iter() if _tag(part) == "numFmt"
        }
        styles = next((part for part in root if _tag(part) == "cellXfs"), ())
        return {i for i, style in enumerate(styles) if _shows_date(int(style.get("numFmtId", 0)), custom)}


def _tag(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(item: ET.Element) -> str:
    """Return the text of a string item: its runs together, without what tells how it is pronounced."""
    parts = []
    for child in item:
        if _tag(child) == "t":
            parts.append(child.text or "")
        elif _tag(child) == "r":
            parts += [run.text or "" for run in child if _tag(run) == "t"]
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), "".join(parts))


def _shows_date(number: int, custom: dict[int, str]) -> bool:
    if number not in custom:
        return number in _DATE_FORMATS
    code = re.sub(r'"[^"]*"|\\.|_.|\*.', "", custom[number]).partition(";")[0].lower()
    plain = re.sub(r"\[[^\]]*\]", "", code)
    return "[h" not in code and "general" not in plain and bool(re.search(r"[dy]|m(?![^s]*s)(?!.*:)|[年月日]", plain))


def _write_sheet(book: _Book, sheet: str | None, plain: Path) -> None:
    if sheet is not None and sheet not in book.sheets:
        raise DataError(f"workbook {book.name} has no sheet {sheet!r}; it has: {', '.join(book.sheets)}")
    filled = [title for title in book.sheets if title not in book.hidden] if sheet is None else [sheet]
    if len(filled) > 1:
        filled = [title for title in filled if any(cells for _, cells in _rows(book, title))]
    if not filled:
        raise DataError(f"data file {book.name} has no visible sheet with cells; export it again")
    if len(filled) > 1:
        raise DataError(f"data file {book.name} has the sheets {', '.join(filled)}; name one (sheet: in node.yaml)")
    with plain.open("w", encoding="utf-8", newline="") as file:
        writer, first, last = csv.writer(file, lineterminator="\n"), 0, -1
        for number, cells in _rows(book, filled[0]):
            if not cells:
                continue
            if last < first:
                first, last = min(cells), max(cells)
            if not first <= min(cells) <= max(cells) <= last:
                raise ColumnError(
                    f"row {number} of {book.name} has a cell in a column that the first row does not name"
                )
            writer.writerow([cells.get(place, "") for place in range(first, last + 1)])


def _rows(book: _Book, title: str) -> Iterator[tuple[int, dict[int, str]]]:
    """Yield the number and the filled cells, by column, of every row of a sheet."""
    number = 0
    with book.open(title) as file:
        for _, item in ET.iterparse(file):  # noqa: S314 - as above
            tag = _tag(item)
            if tag == "row":
                number = int(item.get("r", number + 1))
                yield number, _cells(book, item, number)
                item.clear()
            elif tag == "mergeCell":
                raise ColumnError(
                    f"sheet {title!r} of {book.name} has merged cells ({item.get('ref')}), of which all but one are "
                    "empty; unmerge them"
                )


def _cells(book: _Book, row: ET.Element, number: int) -> dict[int, str]:
    found, place = {}, -1
    for cell in row:
        reference = re.match(r"[A-Z]+", cell.get("r", ""))
        place = _place(reference[0]) if reference else place + 1
        text = _cell_text(book, cell, number)
        if text.strip(WHITE):
            found[place] = text
    return found


def _place(letters: str) -> int:
    """Return the number, from 0, of a column named A, B, ..., AA."""
    place = 0
    for letter in letters:
        place = place * 26 + ord(letter) - ord("A") + 1
    return place - 1


def _cell_text(book: _Book, cell: ET.Element, row: int) -> str:  # noqa: PLR0911 (a table of types)
    kind, parts = cell.get("t", "n"), {_tag(part): part for part in cell}
    if kind == "inlineStr":
        return _text(parts["is"]) if "is" in parts else ""
    value = parts["v"].text if "v" in parts else None
    if value is None:
        if "f" in parts and kind != "str":
            raise ColumnError(f"row {row} of {book.name} has a formula without its value; open it in Excel and save it")
        return ""
    if kind == "s":
        return book.strings[int(value)]
    if kind in {"str", "e", "d"}:
        return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
    if kind == "b":
        return value
    amount = float(value)
    if int(cell.get("s", 0)) in book.dates:
        return _date(amount, from_1904=book.from_1904)
    return f"{amount:.0f}" if amount.is_integer() and abs(amount) < _EXACT else repr(amount)


def _date(serial: float, *, from_1904: bool) -> str:
    """Return the date of a serial number, with its time of day where it has one."""
    day = (1904, 1, 1) if from_1904 else (1899, 12, 30 if serial >= _LEAP_1900 else 31)
    first = dt.datetime(*day)  # noqa: DTZ001 - Excel has no zones
    moment = first + dt.timedelta(seconds=round(serial * 86400))
    return moment.date().isoformat() if serial == int(serial) else moment.isoformat(sep=" ")
