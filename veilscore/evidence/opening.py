"""The bank keeps of each attempt what an auditor needs to run its role again.

    HOME/jobs/JOB/audit/STEP.ATTEMPT/opening.json   seed, job, configuration, digests of what the step reads (secret)
                                     messages       every message's digest, and the content of those received
                                     files/         those files as they were, by hard link where the disk allows

The commitment to the opening goes out before the first other message of the attempt. Without an opening nothing can be
audited, and with it whoever reads it can decrypt what the bank sent: it is for the auditor alone. Delete the folder and
the attempt cannot be audited any more.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
from pydantic import Field

from veilscore import __version__
from veilscore.errors import EvidenceError, SecretReuseError, StateError
from veilscore.evidence.documents import Count, Digest, Document, Party, Text, Time
from veilscore.files.digests import code_digest, file_digest
from veilscore.files.home_key import home_key
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.terms.job import Job
from veilscore.terms.node_config import AuditRules, NodeConfig
from veilscore.wire.protocol import Session
from veilscore.wire.randomness import SEED_BYTES
from veilscore.wire.transcript import TranscriptEntry

DATASET = "dataset"  # stands for the data set, where it is a file
AUDIT, OPENING, MESSAGES, FILES = "audit", "opening.json", "messages", "files"
_DOMAIN = b"veilscore/1 opening\0"
_LENGTH = struct.Struct("<IQ")  # of an entry, and of the content behind it
_MAX_ENTRY = 4096
_DAY_S = 86400.0
Long = Annotated[str, Field(max_length=4 << 20)]


class Opening(Document):
    """Says what one attempt is bound to.

    session : "job/step/attempt".
    seed : of all secrets of the bank in this attempt; never of another.
    job : the job, canonical.
    node : JSON of the bank's name, its data set and its policy as in node.yaml.
    files : path below the home, or "dataset" -> SHA-256.
    software : versions that the same numbers need.
    """

    kind: Literal["opening"] = "opening"
    session: Text
    seed: Digest = Field(repr=False)
    time_ms: Time
    job: Long = Field(repr=False)
    node: Long = Field(repr=False)
    files: dict[Text, Digest]
    software: dict[Text, Text]

    @property
    def commitment(self) -> bytes:
        """Return the SHA-256 of the opening, which hides it while the seed is secret."""
        return hashlib.sha256(_DOMAIN + self.to_bytes()).digest()


def unkept(session: Session) -> Opening:
    """Return the opening of an attempt that nobody will audit: a fresh seed alone."""
    return Opening(
        session=session.id,
        seed=secrets.token_hex(SEED_BYTES),
        time_ms=int(time.time() * 1000),
        job="",
        node="",
        files={},
        software=software(),
    )


def software() -> dict[str, str]:
    """Return the versions of what computes here."""
    return {
        "veilscore": __version__,
        "code": code_digest(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


class Head(Document):
    """Describes one message in a record; its content follows."""

    sender: Party
    recipient: Party
    sequence: Count
    kind: Text
    size_bytes: Count
    sha256: Digest


@dataclass(frozen=True)
class Reads:
    """Says what the bank reads in a kind of step: patterns of paths below the home, and perhaps its data set."""

    kind: str
    paths: tuple[str, ...]
    data: bool

    def present(self, home: Path) -> list[str]:
        """Return the paths below the home that are there."""
        found = (sorted(home.glob(pattern)) for pattern in self.paths)
        return [path.relative_to(home).as_posix() for some in found for path in some if path.is_file()]


@dataclass(eq=False)
class StepRecord:
    """Records one attempt at the bank; without a folder nothing is kept.

    bank : who records.
    max_bytes : a longer record is given up, and the attempt cannot be audited.
    """

    opening: Opening
    bank: str
    folder: Path | None = None
    max_bytes: int = 0
    _file: IO[bytes] | None = field(default=None, init=False, repr=False)
    _size: int = field(default=0, init=False, repr=False)

    def add(self, entry: TranscriptEntry, payload: bytes) -> None:
        """Note one message, and keep what was received; StateError if the disk does not take it."""
        if self.folder is None:
            return
        kept = b"" if entry.sender == self.bank else payload  # what it sent, its role sends again from the seed
        head = Head(**{name: getattr(entry, name) for name in Head.model_fields}).to_bytes()
        self._size += _LENGTH.size + len(head) + len(kept)
        path = self.folder / MESSAGES
        try:
            if self._size > self.max_bytes:
                self.close()
                path.unlink(missing_ok=True)
                self.folder = None
                return
            if self._file is None:
                # unbuffered: what a crash leaves is whole up to its last message
                self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
            self._file.write(_LENGTH.pack(len(head), len(kept)) + head)
            if kept:
                self._file.write(kept)
        except OSError as error:
            raise _cannot("write", path, error) from error

    def close(self) -> None:
        """Stop recording."""
        if self._file is not None:
            self._file.close()
            self._file = None


def begin(home: Path, session: Session, job: Job, node: NodeConfig, reads: Reads) -> StepRecord:
    """Draw the seed of an attempt at the bank and bind it to what the step will read.

    Raises SecretReuseError where this attempt was begun before, StateError where files cannot be read or written.
    """
    job_id, step, attempt = session.id.split("/")
    forget_old(home, node.audit)
    if node.audit.steps != "all" and reads.kind not in node.audit.steps:
        return StepRecord(unkept(session), node.name)
    folder = home / "jobs" / job_id / AUDIT / f"{step}.{attempt}"
    home_key(home)  # a step that reads it must not be the one that makes it
    try:
        private_folder(folder.parent)
        folder.mkdir(mode=0o700)  # fails if it is there, so that no attempt gets two seeds
        files = {name: _keep(home / name, folder / FILES / name) for name in reads.present(home)}
        name = job.datasets[node.name]
        if reads.data and name in node.datasets:
            files |= _keep_data(node.datasets[name].path, folder)
    except FileExistsError as error:
        raise SecretReuseError(f"attempt {session.id} was begun before; a seed serves one attempt") from error
    except OSError as error:
        raise _cannot("keep", folder, error) from error
    own = {"name": node.name, "role": node.role, "policy": node.policy, "datasets": {}}
    if name in node.datasets:
        own["datasets"] = {name: node.datasets[name]}
    opening = Opening(
        session=session.id,
        seed=secrets.token_hex(SEED_BYTES),
        time_ms=int(time.time() * 1000),
        job=job.canonical().decode(),
        node=type(node).model_validate(own).model_dump_json(include=set(own)),
        files=files,
        software=software(),
    )
    write_atomically(folder / OPENING, lambda file: file.write(opening.to_bytes()))
    return StepRecord(opening, node.name, folder, node.audit.max_mb << 20)


def _keep(source: Path, target: Path) -> str:
    """Keep a file as it is now and return its digest."""
    private_folder(target.parent)
    try:
        os.link(source, target)  # enough, since files of a home are replaced, never written into
    except OSError:
        with source.open("rb") as file:
            write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
    return file_digest(target).hex()


def _keep_data(path: Path | None, folder: Path) -> dict[str, str]:
    """Bind to a data set that is a file; it is not copied where the disk allows no link."""
    if path is None or not path.is_file():
        return {}
    target = folder / f"{DATASET}{path.suffix}"
    with contextlib.suppress(OSError):
        os.link(path, target)
    return {DATASET: file_digest(path).hex()}


def forget_old(home: Path, rules: AuditRules) -> int:
    """Delete openings older than the rules say, and return how many; what is deleted cannot be audited."""
    oldest_s, count = time.time() - rules.days * _DAY_S, 0
    for opening in home.glob(f"jobs/*/{AUDIT}/*/{OPENING}"):
        with contextlib.suppress(OSError):
            if opening.stat().st_mtime < oldest_s:
                shutil.rmtree(opening.parent)
                count += 1
    return count


def _cannot(verb: str, path: Path, error: OSError) -> StateError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    reason = "disk full; free space, or keep less (audit in node.yaml)" if full else error.strerror
    return StateError(f"cannot {verb} what an auditor needs at {path}: {reason}")


# --- reading it back -------------------------------------------------------------------------------------------------


def read_opening(folder: Path) -> Opening:
    """Return the opening of an attempt; FileNotFoundError where there is none, EvidenceError where it was changed."""
    return Opening.parse((folder / OPENING).read_bytes())


@dataclass(frozen=True)
class Noted:
    """One message of a record; its content, if it was received, starts in the file `at` an offset."""

    entry: TranscriptEntry
    at: int
    size: int


def read_messages(folder: Path, session: str) -> list[Noted]:
    """Return the messages of an attempt in the order in which the bank saw them; a last one that was cut is left out.

    Raises FileNotFoundError where none were kept, EvidenceError where the record was changed.
    """
    with (folder / MESSAGES).open("rb") as file:
        return list(_noted(file, session))


def _noted(file: IO[bytes], session: str) -> Iterator[Noted]:
    end = file.seek(0, os.SEEK_END)
    at = 0
    while at + _LENGTH.size <= end:
        file.seek(at)
        n_head, n_kept = _LENGTH.unpack(file.read(_LENGTH.size))
        start = at + _LENGTH.size + n_head
        if n_head > _MAX_ENTRY:
            raise EvidenceError("the record of messages was changed")
        if start + n_kept > end:
            return
        head = Head.parse(file.read(n_head))
        yield Noted(TranscriptEntry(session, **head.model_dump()), start, n_kept)
        at = start + n_kept


def content(folder: Path, noted: Noted) -> bytes:
    """Return the content of a received message; EvidenceError if it is not the one that was noted."""
    with (folder / MESSAGES).open("rb") as file:
        file.seek(noted.at)
        data = file.read(noted.size)
    if hashlib.sha256(data).hexdigest() != noted.entry.sha256:
        raise EvidenceError(f"{noted.entry.kind} number {noted.entry.sequence} was changed in the record of messages")
    return data
