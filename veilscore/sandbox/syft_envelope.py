"""Writes PySyft's job folders in PySyft's own formats: a submission on its way out, its released outputs back.

The only module that imports syft_job (0.1.40). Its `submit_python_job` is not used: it would write the path of the code
on this machine into config.yaml, and into run.sh where PySyft was installed from. Everything is written aside in the
SyftBox, where PySyft does not look, and moved into place whole.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from veilscore.errors import ConfigError, SandboxError, StateError
from veilscore.keys.identity import Identity
from veilscore.sandbox.release import OUTPUTS, write_outputs
from veilscore.sandbox.signed import write_signed
from veilscore.sandbox.submission import CODE, Submission, read_regular, write_submission
from veilscore.sandbox.syft_folder import (
    ENTRY,
    ENVELOPE,
    ENVELOPE_FILE,
    FIXED,
    PERMISSIONS,
    RUN,
    STATE,
    WRAPPED,
    SyftJob,
    check_carried,
    names_in,
    no_links,
)
from veilscore.terms.settings import parse_yaml

INSTALL = "pip install 'veilscore[syft]'"
_UNTOUCHED = ("received", "pending", "done")  # states in which PySyft's own runner had no hand
_MAX_STATE = 1 << 16


def pack(submission: Submission, identity: Identity, job: SyftJob) -> Path:
    """Write a submission as a PySyft job and return its folder, for PySyft to push; one packed before stays as it is.

    identity : of the sender, who signs the envelope.
    Raises ConfigError where PySyft is not installed, SandboxError where it would not carry a file, StateError of the
        disk.
    """
    library = _syft_job()
    check_carried(submission)
    if no_links(job.inbox, job.syftbox).exists():
        return job.inbox
    with _aside(job) as aside:
        code = aside.inbox / CODE
        (code / WRAPPED).mkdir(parents=True)
        write_submission(submission, code / WRAPPED)
        write_signed(code / WRAPPED / ENVELOPE_FILE, job.envelope(submission), ENVELOPE, identity)
        for name, text in FIXED.items():
            (aside.inbox / name).write_bytes(text)
        paths = sorted(path for path in code.rglob("*") if path.is_file())
        metadata = library.JobSubmissionMetadata(
            name=job.name,
            submitted_by=job.sender,
            datasite_email=job.owner,
            submitted_at=dt.datetime.now(dt.UTC),
            entrypoint=ENTRY,
            files=[path.relative_to(code).as_posix() for path in paths],
            is_folder_submission=True,
        )
        _storage(library, aside, job.sender).write_submission(_ref(library, job), metadata)
        for path in paths:
            path.chmod(0o644)  # PySyft writes the same again when the owner has taken it
        (aside.inbox / RUN).chmod(0o755)
        job.inbox.parent.mkdir(parents=True, exist_ok=True)
        aside.inbox.rename(job.inbox)
    return job.inbox


def deposit(job: SyftJob, files: Mapping[str, bytes]) -> Path:
    """Put released outputs into the owner's side of a job, open them to the sender, and call the job done.

    Returns their folder, which PySyft carries at its next sync. The same outputs again change nothing.
    files : name -> content; nothing else goes back.
    Raises ConfigError where PySyft is not installed, SandboxError where PySyft itself ran the job or other outputs are
        there, StateError where the disk or PySyft's files are damaged.
    """
    library = _syft_job()
    outputs = no_links(job.review, job.syftbox) / OUTPUTS
    state = _state(library, job)
    _check_untouched(job, state, outputs, files)
    with _aside(job) as aside:
        job.review.mkdir(parents=True, exist_ok=True)
        if not outputs.exists():
            write_outputs(aside.syftbox / OUTPUTS, files, shared=True)
            (aside.syftbox / OUTPUTS).rename(outputs)
        _open_to_sender(library, job)
        if state.status.value != "done":
            now = dt.datetime.now(dt.UTC)
            state.status = library.JobStatus.DONE
            state.approved_by, state.approved_at = job.owner, now
            state.completed_at, state.return_code = now, 0
            written = _storage(library, aside, job.owner).write_state(_ref(library, job), state)
            written.replace(job.review / STATE)
    return outputs


def _state(library: ModuleType, job: SyftJob) -> Any:
    path = job.review / STATE
    if not path.exists():
        return library.JobState()
    try:
        text = read_regular(path, _MAX_STATE, f"{STATE} of job {job.name}").decode()
        return library.JobState.model_validate(parse_yaml(text, STATE))
    except (ConfigError, ValueError) as error:
        raise StateError(f"{path} is damaged: remove it, and give the outputs back again") from error


def _check_untouched(job: SyftJob, state: Any, outputs: Path, files: Mapping[str, bytes]) -> None:
    beside = names_in(job.review, 10) - {STATE, OUTPUTS, PERMISSIONS}
    if beside or state.status.value not in _UNTOUCHED:
        raise SandboxError(
            f"PySyft has job {job.name} as {state.status.value}, or files of its own beside it: was it run outside the "
            f"sandbox? Look into {job.review}; nothing was given back"
        )
    if outputs.exists():
        same = names_in(outputs, len(files) + 1) - {PERMISSIONS} == set(files) and all(
            read_regular(outputs / name, len(content), OUTPUTS) == content for name, content in files.items()
        )
        if not same:
            raise SandboxError(f"job {job.name} has other outputs already: look into {outputs}; nothing was given back")
    elif state.status.value == "done":
        raise SandboxError(f"PySyft has job {job.name} as done, without outputs: remove {job.review / STATE}")


def _open_to_sender(library: ModuleType, job: SyftJob) -> None:
    datasite = job.syftbox / job.owner
    try:
        folder = library.client.SyftPermContext(datasite).open(f"{(job.review / OUTPUTS).relative_to(datasite)}/")
        if not folder.has_read_access(job.sender):
            folder.grant_read_access(job.sender)
    except (ValueError, yaml.YAMLError) as error:
        raise StateError(f"a file {PERMISSIONS} below {datasite} is damaged: correct or remove it") from error


@contextmanager
def _aside(job: SyftJob) -> Iterator[SyftJob]:
    """Yield the same job below a folder of this call in the SyftBox; errors of the disk become a StateError."""
    try:
        with tempfile.TemporaryDirectory(dir=job.syftbox, prefix=".veilscore-") as temporary:
            yield replace(job, syftbox=Path(temporary))
    except OSError as error:
        raise StateError(f"the SyftBox {job.syftbox} cannot be written: {error.strerror}") from error


def _storage(library: ModuleType, job: SyftJob, person: str) -> Any:
    config = library.SyftJobConfig(syftbox_folder=job.syftbox, current_user_email=person)
    return library.job_storage.JobStorage(config)


def _ref(library: ModuleType, job: SyftJob) -> Any:
    return library.job_storage.JobRef(job.owner, job.sender, job.name, "1")


def _syft_job() -> ModuleType:
    try:
        import syft_job  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError(f"PySyft is not installed: {INSTALL}") from error
    library: ModuleType = syft_job
    return library
