"""Files that a user names: read and written whole, with one sentence where that cannot be."""

from pathlib import Path

from veilscore.cli.display import console
from veilscore.errors import ConfigError, EvidenceError

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
