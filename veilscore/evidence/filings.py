"""Which job filed a version of a decision at a party, by the party's own ledger of jobs."""

from __future__ import annotations

from pathlib import Path

from veilscore.errors import ConfigError
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.decided import FiledDecision
from veilscore.models.versions import versions
from veilscore.terms.decision import FileDecision
from veilscore.terms.job import Job


def filed_by(
    home: Path, ledger: Ledger, name: str, sha256: bytes, *, bank: str | None = None
) -> tuple[FiledDecision, Job, Path] | None:
    """Return a version of a decision, the job that filed it, and its folder; None if this party has no such version.

    bank : whose job it has to be; None: any.
    """
    if not name or Path(name).name != name:
        return None
    for version in versions(home, name):
        entry = ledger.get(version.job_id)
        if entry is None or entry.status != "accepted" or entry.job.task != FileDecision.task:
            continue
        if bank not in {None, entry.job.bank}:
            continue
        try:
            filed = FiledDecision.load(version.folder)
        except ConfigError:  # of another version, which has another file, or damaged
            continue
        if filed.sha256 == sha256:
            return filed, entry.job, version.folder
    return None
