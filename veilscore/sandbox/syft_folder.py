"""Reads PySyft's job folders without PySyft, and believes nothing in them.

Layout (syft-job 0.1.40, protocol 1) below a SyftBox folder, which PySyft carries; OWNER, SENDER are e-mail addresses:

    OWNER/app_data/job/inbox/SENDER/v1/NAME/    by the sender: config.yaml, run.sh, code/
    OWNER/app_data/job/review/SENDER/v1/NAME/   by the owner: state.yaml, outputs/

NAME is veilscore- and the first digits of the submission's id. code/veilscore/ holds the submission whole (ID/), so
that digest and signature stay valid, and envelope.json. In the envelope the sender signs which submission goes from
which address to which: results go to SENDER, so whoever copied a job into his own folder would get them otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from veilscore.errors import ConfigError, SandboxError
from veilscore.keys.identity import Certificate
from veilscore.sandbox.address import email_address
from veilscore.sandbox.release import RELEASE_FILE
from veilscore.sandbox.signed import read_signed
from veilscore.sandbox.submission import CODE, RECORD, Submission, read_regular, read_submission
from veilscore.terms.settings import parse_yaml

CONFIG, RUN, STATE, PERMISSIONS = "config.yaml", "run.sh", "state.yaml", "syft.pub.yaml"
ENTRY = "veilscore_submission.py"
WRAPPED = "veilscore"
ENVELOPE_FILE = "envelope.json"
ENVELOPE = "sandbox PySyft envelope"
_REFUSAL = "this job is a Veilscore submission: its owner runs it with veilscore sandbox"
FIXED = {  # what PySyft's own runner, which is no sandbox, would run were it started by mistake
    RUN: f"#!/bin/sh\necho '{_REFUSAL}' >&2\nexit 1\n".encode(),
    f"{CODE}/{ENTRY}": f"raise SystemExit('{_REFUSAL}')\n".encode(),
}
MAX_LISTED = 1000
_MAX_CONFIG = 1 << 16
_NAME = re.compile(r"veilscore-[0-9a-f]{16}")
_TAKEN = frozenset({PERMISSIONS, "node_modules"})  # PySyft reads the first as its own and does not carry the second


@dataclass(frozen=True)
class SyftJob:
    """Says where one job lies.

    syftbox : the folder that PySyft keeps on this machine.
    owner, sender : e-mail addresses.
    Raises ConfigError where an address or the name is of another form.
    """

    syftbox: Path
    owner: str
    sender: str
    name: str

    def __post_init__(self) -> None:
        email_address(self.owner)
        email_address(self.sender)
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name[:60]!a} is not the name of a job that `syft-pack` made")

    @classmethod
    def carrying(cls, submission_id: str, syftbox: Path, owner: str, sender: str) -> SyftJob:
        """Name the job that carries a submission."""
        return cls(syftbox, owner, sender, f"veilscore-{submission_id[:16]}")

    @property
    def inbox(self) -> Path:
        """Return the folder that the sender wrote."""
        return _jobs(self.syftbox, self.owner, "inbox") / self.sender / "v1" / self.name

    @property
    def review(self) -> Path:
        """Return the folder that the owner wrote."""
        return _jobs(self.syftbox, self.owner, "review") / self.sender / "v1" / self.name

    def envelope(self, submission: Submission) -> dict[str, str]:
        """Return what the sender signs of a submission that goes in this job."""
        return {"submission": submission.sha256, "from": self.sender, "to": self.owner}


def syftbox_of(email: str, given: Path | None) -> Path:
    """Return the folder that PySyft keeps for a person, its default if none is given; ConfigError if there is none."""
    folder = given or Path.home() / f"SyftBox_{email_address(email)}"
    if not folder.is_dir():
        raise ConfigError(f"SyftBox folder not found: {folder}; log in with PySyft once, or give --syftbox FOLDER")
    return folder.resolve()


def jobs_sent_to(owner: str, syftbox: Path) -> tuple[list[SyftJob], list[str]]:
    """Return Veilscore's jobs in an owner's inbox, and why others cannot be one."""
    jobs: list[SyftJob] = []
    problems: list[str] = []
    inbox = no_links(_jobs(syftbox, email_address(owner), "inbox"), syftbox)
    for sender in sorted(names_in(inbox, MAX_LISTED) - {PERMISSIONS}):
        try:
            names = names_in(no_links(inbox / email_address(sender) / "v1", syftbox), MAX_LISTED)
            jobs += [SyftJob(syftbox, owner, sender, name) for name in sorted(names) if _NAME.fullmatch(name)]
        except (ConfigError, SandboxError) as error:
            problems.append(str(error))
    return jobs, problems


def unpack(job: SyftJob) -> Submission:
    """Return the submission in a job; all around it must be exactly as `pack` writes it.

    Raises SandboxError or ConfigError where it was changed, or holds links, devices, other or large files, or not
        exactly one submission.
    """
    folder = job.inbox
    wrapped = no_links(folder / CODE / WRAPPED, job.syftbox)
    _holds(folder, {CONFIG, RUN, CODE}, allowed={PERMISSIONS})
    _holds(folder / CODE, {ENTRY, WRAPPED})
    ids = names_in(wrapped, 3) - {ENVELOPE_FILE}
    if len(ids) != 1:
        raise SandboxError(f"job {job.name} holds {len(ids)} submissions: it must be one a job")
    for name, text in FIXED.items():
        if read_regular(folder / name, len(text), f"job {job.name}") != text:
            raise SandboxError(f"job {job.name} has another {name} than `syft-pack` writes: do not run it with PySyft")
    _check_config(job, folder / CONFIG)
    inner = no_links(wrapped / ids.pop(), job.syftbox)
    _holds(inner, {RECORD, CODE})
    submission = read_submission(inner)
    if not submission.sha256.startswith(job.name.removeprefix("veilscore-")):
        raise SandboxError(f"job {job.name} holds another submission than its name says")
    check_carried(submission)
    return submission


def check_envelope(path: Path, job: SyftJob, submission: Submission, sender: Certificate) -> None:
    """Check that the sender signed for this submission to go from and to the addresses of this job.

    Raises SandboxError or IdentityError where the envelope is damaged, not the sender's, or of other addresses or code.
    """
    signed = read_signed(path, ENVELOPE, sender)
    if not job.envelope(submission).items() <= signed.items():
        raise SandboxError(f"job {job.name} was signed for other addresses or code: its results would go astray")


def check_carried(submission: Submission) -> None:
    """Refuse (SandboxError) what PySyft would not carry unchanged: it sends UTF-8 text and rewrites line ends."""
    for path, content in submission.files.items():
        if not _TAKEN.isdisjoint(path.split("/")):
            raise SandboxError(f"PySyft does not carry a file named {path}: rename it")
        if b"\r" in content or not _is_utf8(content):
            raise SandboxError(f"PySyft carries only UTF-8 text with LF line ends, and {path} is not: convert it")
    for name in submission.manifest.outputs:
        if name in _TAKEN | {RELEASE_FILE}:
            raise SandboxError(f"an output cannot be called {name} where PySyft carries it: rename it")


def names_in(folder: Path, most: int) -> set[str]:
    """Return the names in a folder, none if it is not there; SandboxError if they are too many or it is no folder."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in islice(entries, most + 1)}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise SandboxError(f"{folder.name[:60]!a} in the SyftBox cannot be read: {error.strerror}") from error
    if len(names) > most:
        raise SandboxError(f"{folder.name[:60]!a} in the SyftBox holds more than {most} files or folders")
    return names


def no_links(path: Path, syftbox: Path) -> Path:
    """Return `path` if nothing between it and the SyftBox is a link; SandboxError otherwise."""
    for part in (path, *path.parents):
        if part == syftbox:
            return path
        if part.is_symlink():
            raise SandboxError(f"{part.name[:60]!a} in the SyftBox is a link: only plain folders are read")
    raise SandboxError(f"{path} is outside the SyftBox")


def _jobs(syftbox: Path, owner: str, side: str) -> Path:
    return syftbox / owner / "app_data" / "job" / side


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _holds(folder: Path, needed: set[str], allowed: Collection[str] = ()) -> None:
    found = names_in(folder, len(needed) + len(allowed))
    if not needed <= found <= needed.union(allowed):
        raise SandboxError(f"{folder.name[:60]!a} in the SyftBox does not hold exactly what `syft-pack` writes")


def _check_config(job: SyftJob, path: Path) -> None:
    what = f"{CONFIG} of job {job.name}"
    try:
        config = parse_yaml(read_regular(path, _MAX_CONFIG, what).decode("utf-8"), what)
    except (ConfigError, ValueError) as error:
        raise SandboxError(f"{what} is not plain YAML") from error
    if (config.get("name"), config.get("type"), config.get("entrypoint")) != (job.name, "python", ENTRY):
        raise SandboxError(f"{what} describes another job than `syft-pack` writes")
