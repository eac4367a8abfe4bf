"""Keep a fitted estimator in one file, without a row of anybody's data: a ZIP of JSON files, read with checks.

It has every party's part of the model, which nodes keep from each other, so it belongs to trials in one process.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from veilscore.data.table import Kind
from veilscore.errors import ConfigError
from veilscore.files.store import write_atomically
from veilscore.models.model import Filed
from veilscore.terms.job import Job
from veilscore.terms.reading import ReadingRules
from veilscore.terms.settings import parse, parse_json

MOST_BYTES = 512 * 2**20  # of all files unpacked; models of 300 trees and 500 columns have a few MB
MOST_FILES = 10_000
ABOUT = "estimator.json"
_NAMES = re.compile(
    r"homes/[a-z][a-z0-9_-]*/models/[A-Za-z0-9_.@/-]+|reports/[a-z][a-z0-9_-]*\.json|job/(fit|selection)\.json"
)


class About(Filed):
    """Says what a saved estimator is: its class, its own parameters, its job, and how its parties' data are read."""

    format: str = "veilscore-estimator/1"
    estimator: str
    own: dict[str, Any]
    job: dict[str, Any]
    id: str | tuple[str, str]
    label: str
    weight: str | None
    date: str | None
    reading: dict[str, ReadingRules] = Field(default_factory=dict)
    kinds: dict[str, dict[str, Kind]]

    def training_job(self) -> Job:
        """Return the job; ConfigError where it is none of this version."""
        return parse(Job, self.job, "job of a saved estimator")


@dataclass(frozen=True, repr=False)
class Saved:
    """Holds a saved estimator: what it is, and its files by name."""

    about: About
    files: Mapping[str, bytes]

    def pack(self) -> bytes:
        """Return the file's content."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(ABOUT, self.about.model_dump_json())
            for name, data in sorted(self.files.items()):
                packed.writestr(name, data)
        return content.getvalue()

    def lay_out(self, folder: Path) -> None:
        """Write the files below a folder."""
        for name, data in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, lambda file, data=data: file.write(data))  # type: ignore[misc]


def models_in(home: Path, parties: Iterable[str]) -> dict[str, bytes]:
    """Return the filed models of parties below a home, by name in a saved estimator; rows and ledgers are left out."""
    paths = [path for party in parties for path in (home / party / "models").rglob("*") if path.is_file()]
    return {f"homes/{path.relative_to(home).as_posix()}": path.read_bytes() for path in paths}


def unpack(content: bytes, source: str) -> Saved:
    """Return what `Saved.pack` wrote; ConfigError where it is damaged, too large, or names files that it may not."""
    wrong = f"{source} is no saved estimator of this version"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            entries = packed.infolist()
            if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ConfigError(f"{wrong}: it unpacks to more than {MOST_BYTES >> 20} MB")
            files = {entry.filename: packed.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ConfigError(f"{wrong}: {type(error).__name__}; save it again") from None
    about = files.pop(ABOUT, b"")
    for name in files:
        if not _NAMES.fullmatch(name) or ".." in name.split("/"):
            raise ConfigError(f"{wrong}: it has the file {name[:80]!r}")
    try:
        return Saved(About.model_validate(parse_json(about.decode())), files)
    except (ValueError, ValidationError):
        raise ConfigError(f"{wrong}: {ABOUT} is missing or of another form; save it again") from None
