"""A submission over PySyft is received by the owner's desk, its release is given back and read by its sender.

Between the two the submission goes the way of every other one: approved by digest, run in bubblewrap, gated, released.
The envelope of each received job is kept in HOME/sandbox/syft/SENDER/, and says where its outputs may go.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from veilscore.errors import ConfigError, PeerError, SandboxError
from veilscore.files.private import private_folder
from veilscore.keys.identity import Identity
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.release import OUTPUTS, RELEASE_FILE, read_release, write_file
from veilscore.sandbox.submission import CODE, read_regular
from veilscore.sandbox.syft_envelope import deposit
from veilscore.sandbox.syft_folder import (
    ENVELOPE_FILE,
    WRAPPED,
    SyftJob,
    check_envelope,
    jobs_sent_to,
    names_in,
    no_links,
    unpack,
)
from veilscore.terms.federation import Federation

_MAX_ENVELOPE = 1 << 16
_MAX_PEERS = 1000


def receive(desk: Desk, owner: str, syftbox: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Freeze what PySyft brought and is new; return the ids that were received, and why other jobs were left.

    owner : e-mail address of the owner, whose people then read and approve the code as always.
    """
    _check_apart(desk, syftbox)
    received: list[str] = []
    jobs, problems = jobs_sent_to(owner, syftbox)
    for job in jobs:
        kept = _kept(desk, job)
        if kept.exists():
            continue
        try:
            received.append(_receive_one(desk, job, kept))
        except (SandboxError, PeerError, ConfigError) as error:
            problems.append(f"{job.sender} {job.name}: {error}")
    return tuple(received), tuple(problems)


def _receive_one(desk: Desk, job: SyftJob, kept: Path) -> str:
    submission = unpack(job)
    envelope = job.inbox / CODE / WRAPPED / ENVELOPE_FILE
    check_envelope(envelope, job, submission, desk.federation.member(submission.sender).identity)
    if _envelopes(desk, job.name):
        raise SandboxError("the same submission came from another address before; its results go there")
    desk.accept(submission)
    for folder in (kept.parent.parent, kept.parent):
        private_folder(folder)
    write_file(kept, read_regular(envelope, _MAX_ENVELOPE, "the envelope"))
    return submission.sha256


def give_back(desk: Desk, text: str, owner: str, syftbox: Path) -> Path:
    """Deposit released outputs and their signed record as the result of the job they came in; return their folder.

    Raises SandboxError where nothing was released, it did not come by PySyft to this address, or PySyft itself ran it.
    """
    _check_apart(desk, syftbox)
    submission, folder = desk.released(text)
    envelopes = _envelopes(desk, SyftJob.carrying(submission.sha256, syftbox, owner, owner).name)
    if len(envelopes) != 1:
        raise SandboxError(f"submission {submission.sha256[:12]} did not come by PySyft: its outputs are in {folder}")
    job = SyftJob.carrying(submission.sha256, syftbox, owner, envelopes[0].parent.name)
    check_envelope(envelopes[0], job, submission, desk.federation.member(submission.sender).identity)
    outputs = read_release(folder, desk.identity.certificate, submission)
    record = read_regular(folder / RELEASE_FILE, _MAX_ENVELOPE, "the release")
    return deposit(job, {**outputs, RELEASE_FILE: record})


def read_result(
    identity: Identity, federation: Federation, text: str, sender: str, syftbox: Path
) -> tuple[str, dict[str, bytes]]:
    """Return the id of a submission and its outputs, by name, which the owner signed for the code of this identity.

    text : id of the submission, or how it begins; sender : e-mail address of the modeller.
    Raises SandboxError or IdentityError where there is no such job or no result yet, or something is not as it was
        signed.
    """
    jobs = []
    for owner in sorted(names_in(syftbox, _MAX_PEERS)):
        with suppress(ConfigError):  # a folder of PySyft's own
            found, _ = jobs_sent_to(owner, syftbox)
            jobs += [job for job in found if job.sender == sender and job.name.startswith(f"veilscore-{text[:16]}")]
    answered = [job for job in jobs if (job.review / OUTPUTS / RELEASE_FILE).exists()]
    if jobs and not answered:
        raise SandboxError(f"submission {text[:12]} has no result yet: sync with PySyft, or ask the owner")
    if len(answered) != 1 or not text:
        raise SandboxError(f"{len(answered) or 'no'} jobs from {sender} here whose id begins with {text[:64]!r}")
    submission = unpack(answered[0])
    if not submission.sha256.startswith(text):
        raise SandboxError(f"no job from {sender} here has the id {text[:64]!r}")
    submission.verify(identity.certificate)
    outputs = no_links(answered[0].review / OUTPUTS, syftbox)
    owner_key = federation.member(submission.manifest.owner).identity
    return submission.sha256, read_release(outputs, owner_key, submission, outputs=".")


def _check_apart(desk: Desk, syftbox: Path) -> None:
    if desk.home.resolve().is_relative_to(syftbox):
        raise ConfigError(f"{desk.home} is inside the SyftBox, which PySyft sends away: move the home out of it")


def _kept(desk: Desk, job: SyftJob) -> Path:
    return desk.home / "sandbox" / "syft" / job.sender / f"{job.name}.json"


def _envelopes(desk: Desk, name: str) -> list[Path]:
    return sorted((desk.home / "sandbox" / "syft").glob(f"*/{name}.json"))
