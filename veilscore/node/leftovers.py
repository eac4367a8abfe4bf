"""Finishes at a node's start what a crash left: unfinished files, answers that its log lacks, what jobs still hold."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from veilscore.evidence.job_ledger import Ledger, LedgerEntry
from veilscore.evidence.log import FOLDER
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.release.account import FILE, held_jobs, let_go

_UNFINISHED = re.compile(r"\..*\.part|\..*\.part-journal")
_OWN = ("state", FOLDER, "jobs")  # only a running node writes there, and it has the home's lock
_OTHERS_S = 3600.0  # elsewhere commands write too: what is older was not finished


def remove_unfinished(home: Path) -> list[Path]:
    """Remove the temporary files of writes that a crash cut off, and return them; nobody reads such a file."""
    found: list[Path] = []
    for own in (True, False):
        tops = [home / name for name in _OWN] if own else [one for one in home.glob("*") if one.name not in _OWN]
        for top in tops:
            for folder, _, files in os.walk(top):
                found += [path for name in files if _is_left(path := Path(folder, name), own=own)]
    for path in found:
        with contextlib.suppress(OSError):  # on a disk that cannot be written it stays for the next start
            path.unlink()
    return found


def _is_left(path: Path, *, own: bool) -> bool:
    if not _UNFINISHED.fullmatch(path.name):
        return False
    with contextlib.suppress(OSError):
        return own or time.time() - path.stat().st_mtime > _OTHERS_S
    return False


def settle(home: Path, ledger: Ledger, evidence: EvidenceRecorder, is_done: Callable[[LedgerEntry], bool]) -> None:
    """Log the answers that were kept and not logged, and give back what no job that still runs holds in an account.

    Raises StateError where the log or the account cannot be written.
    """
    open_jobs = set()
    for entry in ledger.entries():
        if evidence.answer_to(entry.job_id) != entry.status:
            evidence.job_answered(entry)
        if entry.status in {"pending", "accepted"} and not is_done(entry):
            open_jobs.add(entry.job_id)
    for job_id in held_jobs(home / FILE) - open_jobs:
        let_go(home / FILE, job_id)
