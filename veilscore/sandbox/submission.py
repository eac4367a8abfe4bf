"""A modeller sends the owner of data code, what it is for, and what it will write, bound by one digest.

On disk a submission is a folder ID/ with submission.json (manifest, sender, signature) and code/. The digest covers
the manifest, the sender and path and content of every file, so that what is read, approved and run is the same thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_serializer, field_validator, model_validator

from veilscore.errors import ConfigError, SandboxError, StateError
from veilscore.files.private import open_folder
from veilscore.files.store import write_atomically
from veilscore.keys.identity import NAME_PATTERN, Certificate, Identity
from veilscore.terms.parameters import Name
from veilscore.terms.settings import Strict, load, parse, parse_json

MANIFEST = "submission.yaml"
RECORD = "submission.json"
CODE = "code"
PURPOSE = "sandbox submission"
MAX_FILES = 200
MAX_BYTES = 5 << 20
MAX_DEPTH = 16
_MAX_RECORD = 1 << 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,39}$")]


class Noise(Strict):
    """Asks for differential privacy of one number: it is cut to [lower, upper] and gets Laplace noise."""

    epsilon: float = Field(gt=0, le=10, allow_inf_nan=False)
    lower: float = Field(allow_inf_nan=False)
    upper: float = Field(allow_inf_nan=False)
    sensitivity: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="most that one firm can change the number; default upper - lower, which holds for any code",
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.upper <= self.lower:
            raise ValueError("upper must be above lower")
        if self.sensitivity is not None and self.sensitivity > self.upper - self.lower:
            raise ValueError("sensitivity cannot be above upper - lower")
        return self


class Output(Strict):
    """Declares one output file; see docs/sandbox.md for the form of each kind."""

    kind: Literal["number", "table", "json", "artefact"]
    max_bytes: int = Field(default=65536, ge=1, le=64 << 20)
    columns: dict[Key, Literal["text", "number", "count"]] = Field(default_factory=dict, description="of a table")
    keys: tuple[Key, ...] = Field(default=(), description="of a json output, besides count")
    noise: Noise | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _from_pairs(cls, value: object) -> object:
        pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        if not pairs:
            return value
        names = [str(pair[0]) for pair in value]  # type: ignore[attr-defined]  # it is a list
        if len(set(names)) != len(names):
            raise ValueError("a column stands twice")
        return dict(zip(names, (pair[1] for pair in value), strict=True))  # type: ignore[attr-defined]

    @field_serializer("columns", when_used="json")
    def _as_pairs(self, columns: dict[str, str]) -> list[list[str]]:
        """Return pairs, since the signed JSON has its keys sorted and columns leave in the order declared."""
        return [[name, kind] for name, kind in columns.items()]

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if (self.kind == "table") != bool(self.columns):
            raise ValueError("columns belong to a table, and a table needs them")
        if self.kind == "table" and list(self.columns.values()).count("count") != 1:
            raise ValueError("a table needs exactly one column of kind count: firms behind each row")
        if (self.kind == "json") != bool(self.keys):
            raise ValueError("keys belong to a json output, and a json output needs them")
        if self.noise is not None and self.kind != "number":
            raise ValueError("noise is for outputs of kind number")
        return self


class Manifest(Strict):
    """Says what the modeller writes into submission.yaml."""

    name: Name
    owner: Name = Field(description="the data holder")
    dataset: Name
    purpose: str = Field(min_length=1, max_length=200)
    entry: str = Field(default="main.py", max_length=300, description="Python file to run")
    outputs: dict[FileName, Output] = Field(min_length=1, max_length=50)


@dataclass(frozen=True)
class Submission:
    """A submission in memory.

    sender : member who signed it.
    files : path below code/ -> content.
    signature : by the sender, over `sha256`.
    """

    manifest: Manifest
    sender: str
    files: Mapping[str, bytes] = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    @property
    def sha256(self) -> str:
        """Return the digest of everything but the signature, 64 hexadecimal digits; it is also the submission's id."""
        content = {
            "manifest": self.manifest.model_dump(mode="json"),
            "sender": self.sender,
            "files": sorted([path, len(data), hashlib.sha256(data).hexdigest()] for path, data in self.files.items()),
        }
        return hashlib.sha256(b"veilscore sandbox submission 1\n" + canonical(content)).hexdigest()

    def verify(self, sender: Certificate) -> None:
        """Check the sender's signature; IdentityError if it is not the sender's."""
        sender.verify(bytes.fromhex(self.sha256), self.signature, PURPOSE)


def canonical(content: object) -> bytes:
    """Return JSON in its one form: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def make_submission(folder: Path, identity: Identity) -> Submission:
    """Read a folder with submission.yaml and code, and sign it.

    Raises ConfigError or SandboxError where the manifest or a file is not as it must be.
    """
    manifest = load(Manifest, folder / MANIFEST, "manifest of the submission")
    files = read_files(folder)
    files.pop(MANIFEST, None)
    plain = checked(Submission(manifest, identity.name, files))
    return Submission(manifest, identity.name, files, identity.sign(bytes.fromhex(plain.sha256), PURPOSE))


def write_submission(submission: Submission, folder: Path) -> Path:
    """Write `folder`/ID whole or not at all; an existing one is left as it is."""
    target = folder / submission.sha256
    if target.exists():
        return target
    partial = folder / f".{submission.sha256}.{os.getpid()}"
    try:
        open_folder(partial / CODE)
        write_files(submission.files, partial / CODE)
        write_atomically(partial / RECORD, lambda file: file.write(record_of(submission)))
        partial.rename(target)  # whole or not at all: an owner may be looking into this inbox
    except OSError as error:
        raise StateError(f"submission cannot be written to {folder}: {error.strerror}") from error
    return target


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of a submission, readable and not writable."""
    for path, content in files.items():
        target = folder / path
        open_folder(target.parent)
        target.write_bytes(content)
        target.chmod(0o444)


def read_submission(folder: Path) -> Submission:
    """Return the submission that somebody else wrote; its digest must be the folder's name. `verify` checks who signed.

    Raises ConfigError or SandboxError where it is too large, damaged or changed since it was named, or holds links or
        other files.
    """
    if folder.is_symlink() or (folder / CODE).is_symlink():
        raise SandboxError(f"submission {folder.name[:12]} is a link, or its code is")
    try:
        record = read_record(folder / RECORD, "the submission")
    except ValueError as error:
        raise SandboxError(f"submission {folder.name[:12]} cannot be read: {RECORD} is damaged") from error
    found = submission_of(record, read_files(folder / CODE), folder.name[:12])
    if found.sha256 != folder.name:
        raise SandboxError(f"submission {folder.name[:12]} was changed: its content no longer has that digest")
    return found


def submission_of(record: Mapping[str, Any], files: Mapping[str, bytes], named: str) -> Submission:
    """Return a submission of its record and files, which somebody else made; SandboxError where it is none."""
    try:
        sender, signature = record["sender"], bytes.fromhex(record["signature"])
        if not NAME_PATTERN.fullmatch(sender):
            raise ValueError  # noqa: TRY301
        manifest = parse(Manifest, record["manifest"], f"submission {named}")
    except (ValueError, KeyError, TypeError) as error:
        raise SandboxError(f"submission {named} cannot be read: {RECORD} is damaged") from error
    except ConfigError as error:  # it repeats keys of the manifest, which may hold anything
        raise SandboxError(plain_line(str(error))) from error
    return checked(Submission(manifest, sender, files, signature))


def record_of(submission: Submission) -> bytes:
    """Return the record of a submission, which goes with its files."""
    record = {
        "manifest": submission.manifest.model_dump(mode="json"),
        "sender": submission.sender,
        "signature": submission.signature.hex(),
    }
    return canonical(record)


def check_files(files: Mapping[str, bytes]) -> None:
    """Refuse files that came in a message and would not be taken from a folder; SandboxError says why."""
    if len(files) > MAX_FILES or sum(map(len, files.values())) > MAX_BYTES:
        raise SandboxError(f"a submission has at most {MAX_FILES} files and {MAX_BYTES >> 20} MiB")
    folders: set[str] = set()
    for path in files:
        parts = path.split("/")
        if len(parts) > MAX_DEPTH or not all(map(_PART.fullmatch, parts)):
            raise SandboxError("a file of the submission has a name of other than letters, digits, _ . -")
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    if not folders.isdisjoint(files):
        raise SandboxError("a file of the submission has the name of a folder in it")


def read_record(path: Path, what: str) -> dict[str, Any]:
    """Return the mapping in a file of canonical JSON; ValueError for other content, SandboxError for no file."""
    return parse_record(read_regular(path, _MAX_RECORD, what))


def parse_record(stored: bytes) -> dict[str, Any]:
    """Return the mapping that canonical JSON holds; ValueError for other content."""
    record = parse_json(stored)
    try:
        if isinstance(record, dict) and canonical(record) == stored:  # a doubled key would be read as its last value
            return record
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error
    raise ValueError("not canonical JSON")


def read_files(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` by its path; SandboxError for links, devices, odd names and large folders."""
    files: dict[str, bytes] = {}
    total = 0
    for place, folders, names in os.walk(folder, followlinks=False, onerror=_unreadable):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if os.path.relpath(place, folder).count(os.sep) >= MAX_DEPTH:  # os.walk calls itself, and would end in an error
            raise SandboxError(f"the folders of a submission are nested deeper than {MAX_DEPTH}")
        if len(files) + len(names) > MAX_FILES or any(os.path.islink(os.path.join(place, name)) for name in folders):  # noqa: PTH114, PTH118 - os.walk gives text
            raise SandboxError(f"a submission has at most {MAX_FILES} files, and no links")
        for name in (*folders, *names):
            if not _PART.fullmatch(name):
                raise SandboxError("a file of the submission has a name with other than letters, digits, _ . -")
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118
            content = read_regular(path, MAX_BYTES - total)
            total += len(content)
            files[os.path.relpath(path, folder)] = content
    return files


def read_regular(path: Path | str, most: int, what: str = "the submission") -> bytes:
    """Return the content of a regular file of at most `most` bytes, without following a last link.

    Raises SandboxError where it is no such file; `what` names the thing it belongs to.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SandboxError(f"{what} holds something that is not a regular file")
            content = file.read(most + 1)
    except OSError as error:
        raise SandboxError(f"a file of {what} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise SandboxError(f"{what} is longer than the {most} bytes left for it")
    return content


def plain_line(text: str, most: int = 300) -> str:
    """Return somebody else's text for one line of a terminal: without control characters, and cut."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])


def printable(content: bytes, most: int = 20_000) -> str:
    """Return somebody else's file as text to read: without control characters, which could hide code, and cut."""
    text = content.decode("utf-8", errors="backslashreplace")
    shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    cut = len(shown) - most
    return shown[:most] + (f"\n... {cut} more characters: read the file in the submissions folder" if cut > 0 else "")


def checked(submission: Submission) -> Submission:
    """Return `submission` if its entry is one of its Python files."""
    entry = submission.manifest.entry
    if entry not in submission.files or not entry.endswith(".py"):
        raise ConfigError(f"entry {entry!r} is not among the Python files of the submission")
    return submission


def _unreadable(error: OSError) -> None:
    raise SandboxError(f"the submission cannot be read: {error.strerror}")
