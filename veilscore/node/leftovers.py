"""Finishes at a node's start what a crash left of a job: answers that its log lacks, what jobs that are over hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from veilscore.evidence.job_ledger import Ledger, LedgerEntry
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.release.account import FILE, held_jobs, let_go


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
