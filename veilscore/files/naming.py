"""Finds the files of a folder that name somebody: in the clear, in SQLite, Parquet, gzip and zip files, and in names.

What is encrypted or kept as a picture cannot be looked into; the text of a PDF is packed and not found either.
"""

from __future__ import annotations

import gzip
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from veilscore.errors import StateError

_PIECE = 1 << 20
_ENCODINGS = ("utf-8", "utf-16-le", "utf-32-le")  # of texts; of the last are numpy's


def files_of(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, no link to one; it may go while one looks."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink())


def naming(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files below a folder, or that file, in which one of the names stands; StateError for one unreadable.

    names : not empty; small letters in place of large ones are found as well.
    """
    written = {form for name in names for form in (name, name.lower())}
    needles = [name.encode(encoding) for name in sorted(written) for encoding in _ENCODINGS]
    paths = [folder] if folder.is_file() else files_of(folder)
    return [path for path in paths if names_one(path, sorted(written), needles)]


def names_one(path: Path, names: Sequence[str], needles: Sequence[bytes]) -> bool:
    """Return whether a name stands in a file or its path."""
    if any(name in str(path) for name in names):
        return True
    try:
        if not path.stat().st_size:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if any(data.find(needle) >= 0 for needle in needles):
                return True
            begins = data[:4]
        for magic, look in _PACKED:
            if begins.startswith(magic):
                return look(path, names, needles)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StateError(f"{path} cannot be searched: {error.strerror}; check owner and mode") from error
    return False


def _in_gzip(path: Path, _names: Sequence[str], needles: Sequence[bytes]) -> bool:
    try:
        with gzip.open(path) as file:
            return _in_stream(file.read, needles)
    except EOFError:
        return False


def _in_zip(path: Path, _names: Sequence[str], needles: Sequence[bytes]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            for one in archive.namelist():
                with archive.open(one) as file:
                    if _in_stream(file.read, needles):
                        return True
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return False
    return False


def _in_stream(read: Callable[[int], bytes], needles: Sequence[bytes]) -> bool:
    before, longest = b"", max(map(len, needles))
    while piece := read(_PIECE):
        data = before + piece
        if any(needle in data for needle in needles):
            return True
        before = data[-longest:]
    return False


def _in_parquet(path: Path, names: Sequence[str], _needles: Sequence[bytes]) -> bool:
    import duckdb  # noqa: PLC0415 - slow, needed for such files only

    with duckdb.connect() as database:
        try:
            columns = database.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            for name in (str(column[0]).replace('"', '""') for column in columns):
                query = f'SELECT 1 FROM read_parquet(?) WHERE list_contains(?, CAST("{name}" AS VARCHAR)) LIMIT 1'  # noqa: S608 - quoted
                if database.execute(query, [str(path), list(names)]).fetchone():
                    return True
        except duckdb.Error:
            return False
    return False


_PACKED = ((b"\x1f\x8b", _in_gzip), (b"PK\x03\x04", _in_zip), (b"PAR1", _in_parquet))
