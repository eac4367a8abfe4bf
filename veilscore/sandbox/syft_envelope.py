"""A submission inside a PySyft job folder, for people who send code with PySyft; the only module that imports syft_job.

Only PySyft's envelope is used: the folder inbox/SENDER/v1/NAME with config.yaml, run.sh and code/. Its run.sh is never
run and its own runner never started: an owner unpacks the folder, and the submission goes the same way as any other.

Source: syft-job 0.1.40, layout of protocol 1. The submission is wrapped whole, as code/veilscore/ID, so that digest and
signature stay valid whatever PySyft writes around it.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from veilscore.errors import ConfigError, SandboxError
from veilscore.sandbox.submission import CODE, RECORD, Submission, read_submission, write_submission

INSTALL = "pip install 'veilscore[syft]'"
_WRAPPED = "veilscore"
_ENTRY = "veilscore_submission.py"
_ENTRY_TEXT = "raise SystemExit('this job is a Veilscore submission: the owner runs it with `veilscore sandbox`')\n"
_EMAIL = re.compile(r"[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,190}")


def pack(submission: Submission, syftbox: Path, sender_email: str, owner_email: str) -> Path:
    """Write a submission as a PySyft job into the sender's SyftBox folder; PySyft's transport carries it.

    Returns
    -------
    The job's folder.

    Raises
    ------
    ConfigError : the extra is not installed, an address is wrong, or the job is there already.
    """
    client = _client(syftbox, sender_email, owner_email)
    with tempfile.TemporaryDirectory() as temporary:
        code = Path(temporary) / "code"
        code.mkdir()
        (code / _ENTRY).write_text(_ENTRY_TEXT, encoding="utf-8")
        write_submission(submission, code / _WRAPPED)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what its own runner would install, which is never run
                job = client.submit_python_job(
                    owner_email, str(code), f"veilscore-{submission.sha256[:16]}", entrypoint=_ENTRY
                )
        except (FileExistsError, ValueError) as error:
            raise ConfigError(f"PySyft does not take the job: {type(error).__name__}; was it sent before?") from error
    return Path(job)


def unpack(job: Path) -> Submission:
    """Read the submission out of a PySyft job folder; needs no PySyft, and believes nothing of what PySyft wrote.

    Raises
    ------
    SandboxError : no submission in it, or not exactly one. ConfigError : the submission is not as it must be.
    """
    wrapped = job / CODE / _WRAPPED
    if wrapped.is_symlink() or (job / CODE).is_symlink() or not wrapped.is_dir():
        raise SandboxError(f"PySyft job {job.name[:60]} holds no Veilscore submission: send one made with `pack`")
    found = [path for path in wrapped.iterdir() if not path.is_symlink() and (path / RECORD).is_file()]
    if len(found) != 1:
        raise SandboxError(f"PySyft job {job.name[:60]} holds {len(found)} submissions: one a job")
    return read_submission(found[0])


def _client(syftbox: Path, sender_email: str, owner_email: str) -> Any:
    for address in (sender_email, owner_email):
        if not _EMAIL.fullmatch(address):
            raise ConfigError("PySyft names people by e-mail address; give one such as modeller@bank.example")
    library = _syft_job()
    (syftbox / sender_email).mkdir(parents=True, exist_ok=True)
    config = library.SyftJobConfig.from_syftbox_folder(str(syftbox), sender_email)
    return library.client.JobClient.from_config(config)


def _syft_job() -> ModuleType:
    try:
        import syft_job  # noqa: PLC0415 - an extra, and slow to import
        import syft_job.client  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"PySyft is not installed: {INSTALL}") from error
    library: ModuleType = syft_job
    return library
