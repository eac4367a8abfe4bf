"""Bring a text file into the form that DuckDB reads: UTF-8, uncompressed, line ends of one kind; what it is, bytes say.

A file that is already so is read where it lies. Any other (gzip, UTF-16 with its mark, a declared encoding, mixed line
ends) is rewritten into a private folder that goes when reading ends. Nothing but the separator is guessed: DuckDB's own
detection may skip lines that it finds odd, and a line of the wrong width must be an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from veilscore.data.notation import MISSING, WHITE, literal
from veilscore.errors import ColumnError, DataError

CHUNK = 1 << 22
_HEADER_BYTES = 1 << 20  # a file of one endless line must not fill the memory
_GZIP = b"\x1f\x8b"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_OTHERS = (
    (b"\xd0\xcf\x11\xe0", "an Excel file of the old kind or an encrypted one; save it as .xlsx without a password"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; decompress it, or use gzip"),
    (b"BZh", "compressed with bzip2; decompress it, or use gzip"),
    (b"\xfd7zXZ", "compressed with xz; decompress it, or use gzip"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"%PDF", "a PDF; export the table as CSV"),
    (b"SQLite format 3", "a SQLite database; name it under url: sqlite:///..., with a table"),
    (b"<!doctype html", "a web page; export the table as CSV or .xlsx"),
    (b"<html", "a web page; export the table as CSV or .xlsx"),
    (b"<?xml", "XML; export the table as CSV or .xlsx"),
    (b"<table", "a web page; export the table as CSV or .xlsx"),
)


def form_of(path: Path) -> Literal["parquet", "zip", "text"]:
    """Return what a file is by its first bytes; DataError for what is no table."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"PAR1"):
        return "parquet"
    if path.name.endswith((".parquet", ".pq")):
        raise DataError(
            f"data file {path.name} is no Parquet; check that the file is whole and of the type its name says"
        )
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    lowered = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for mark, what in _OTHERS:
        if start.startswith(mark) or lowered.startswith(mark):
            raise DataError(f"data file {path.name} is {what}")
    return "text"


@contextmanager
def plain_text(path: Path, encoding: str | None) -> Iterator[Path]:
    """Yield a file of the same text in UTF-8 with line ends of one kind; DataError where it cannot be decoded."""
    try:
        with _bytes_of(path) as file:
            start = file.read(4)
        mark = next((name for bom, name in _MARKS if start.startswith(bom)), None)
        if encoding is None and mark in {None, "utf-8-sig"} and not _is_gzip(path) and _has_one_line_end(path):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="veilscore-") as folder:
            whole = Path(folder) / "data.csv"
            _rewrite(path, whole, mark or encoding or "utf-8")
            yield whole
    except UnicodeError:
        said = encoding or "UTF-8"
        raise DataError(
            f"data file {path.name} is not {said}; convert it, for instance from GB 18030, or declare its encoding in "
            "node.yaml (encoding: gb18030)"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"data file {path.name} is a damaged gzip file; export it again") from None


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _bytes_of(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path) if _is_gzip(path) else path.open("rb")


def _has_one_line_end(path: Path) -> bool:
    """Say whether all line ends are of one kind; DataError for zero bytes, which no text has."""
    lines, returns, pairs, last = 0, 0, 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            _refuse_zeros(chunk, path)
            n_returns = chunk.count(b"\r")
            lines, returns = lines + chunk.count(b"\n"), returns + n_returns
            if n_returns:
                pairs += chunk.count(b"\r\n")
            pairs += last == b"\r" and chunk.startswith(b"\n")
            last = chunk[-1:]
    return returns == 0 or lines == returns == pairs


def _refuse_zeros(chunk: bytes, path: Path) -> None:
    if b"\0" in chunk:
        raise DataError(
            f"data file {path.name} has zero bytes: it is damaged, or UTF-16 without its mark; declare its encoding in "
            "node.yaml (encoding: utf-16-le)"
        )


def _rewrite(path: Path, whole: Path, encoding: str) -> None:
    """Write the text of a file as UTF-8 with plain line ends."""
    decode = codecs.getincrementaldecoder(encoding)(errors="strict")
    lines = io.IncrementalNewlineDecoder(None, translate=True)
    with _bytes_of(path) as file, whole.open("wb") as out:
        while chunk := file.read(CHUNK):
            text = lines.decode(decode.decode(chunk))
            _refuse_zeros(b"\0" if "\0" in text else b"", path)
            out.write(text.encode())
        out.write(lines.decode(decode.decode(b"", final=True), final=True).encode())


def csv_relation(path: Path, name: str) -> str:
    """Write SQL that reads a file of `plain_text` with every cell as text, under the names of its first line."""
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    skipped, separators = 0, ",;\t|"
    while (line := text.partition("\n")[0]).strip() == "" and text:
        skipped, text = skipped + 1, text[len(line) + 1 :]
    if line.strip().lower().startswith("sep=") and len(line.strip()) == 5:  # Excel's own hint
        skipped, text, separators = skipped + 1, text[len(line) + 1 :], line.strip()[4]
    headers = {separator: _first_record(text, separator, name) for separator in separators}
    separator = max(separators, key=lambda one: len(headers[one]))
    names = [" ".join(header.strip(WHITE).split()) for header in headers[separator]]
    if not names or not all(names):
        raise ColumnError(f"data file {name} has a column without a name; its first line must name them all")
    check_names(names, f"data file {name}")
    columns = ", ".join(f"{literal(one)}: 'VARCHAR'" for one in names)
    missing = ", ".join(literal(one) for one in MISSING)
    return (
        f"read_csv({file_literal(path)}, auto_detect=false, header=true, skip={skipped}, delim={literal(separator)}, "
        f"quote='\"', escape='\"', columns={{{columns}}}, nullstr=[{missing}], compression='none', "
        "hive_partitioning=false)"
    )


def _first_record(text: str, separator: str, name: str) -> list[str]:
    """Return the cells of the first record, which may have line ends in quotes."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        raise DataError(f"data file {name} has a first line that names no columns; export it again as CSV") from None


def check_names(names: list[str], source: str) -> None:
    """Refuse two columns of one name, or of names that differ in case alone: SQL takes them for one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.casefold())
        if other == name:
            raise ColumnError(f"{source} has two columns named {name!r}; rename one")
        if other is not None:
            raise ColumnError(
                f"{source} has columns whose names differ in case alone, {other!r} and {name!r}; rename one"
            )
        seen[name.casefold()] = name


def file_literal(path: Path) -> str:
    """Quote a path for SQL so that it names this one file: DuckDB takes [ ] * ? for patterns."""
    return literal("".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path)))


def likely_encoding(path: Path) -> str | None:
    """Return the encoding that text which is not UTF-8 most likely has, for its owner to check; None: none fits."""
    with _bytes_of(path) as file:
        start = file.read(CHUNK)
    for encoding in ("gb18030", "big5", "shift_jis", "cp1251", "cp1252"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start)
        except UnicodeError:
            continue
        if "�" not in text and not any(
            "\ue000" <= letter <= "\uf8ff" for letter in text
        ):  # of private use: a wrong guess
            return encoding
    return None
