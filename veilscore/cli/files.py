"""Files that a user names: read and written whole, with one sentence where that cannot be."""

import csv
from pathlib import Path

from veilscore.cli.display import console
from veilscore.errors import ConfigError, EvidenceError
from veilscore.terms.settings import read_text

_MOST_BYTES = 16 << 20


def read_bytes(path: Path) -> bytes:
    """Return a whole file; ConfigError if it cannot be read, EvidenceError if it is too long for evidence."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise EvidenceError(f"{path} is longer than {_MOST_BYTES} bytes")
    return data


def write_bytes(path: Path, data: bytes, *, say: bool = False) -> None:
    """Write a file, and say so if wanted; ConfigError if it cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    if say:
        console().print(f"written: {path!s}")


def read_firms(path: Path, column: str | None) -> list[str]:
    """Return the ids in one column of a CSV, the first if none is named; ConfigError where it is not there."""
    reader = csv.reader(read_text(path, "file of firms").splitlines())
    header = next(reader, [])
    if column is not None and column not in header:
        raise ConfigError(f"{path} has no column {column!r}; it has {', '.join(header)[:200]}")
    place = 0 if column is None else header.index(column)
    return [row[place] for row in reader if len(row) > place]
