"""Which job filed a version of a model or decision at a party, for which bank, by the party's own ledger of jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from veilscore.errors import ConfigError
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.decided import FiledDecision
from veilscore.models.versions import Version, in_use, versions
from veilscore.terms.decision import FileDecision
from veilscore.terms.job import Job


def made_for(home: Path, ledger: Ledger, name: str, folder: Path) -> str | None:
    """Return the bank whose job made the version of a model in a folder (of `versions.with_map`); None if unknown.

    What was never filed as a version, or earlier, counts as of the newest job of its name.
    """
    job_id = in_use(home).get(name, "") if folder == home / "models" / name else folder.name
    entry = ledger.get(job_id)
    if entry is None:
        named = [one for one in ledger.entries() if one.job.name == name and one.status == "accepted"]
        entry = named[-1] if named else None
    return None if entry is None else entry.job.bank


def filed_by(
    home: Path, ledger: Ledger, name: str, sha256: bytes, *, bank: str | None = None
) -> tuple[FiledDecision, Job, Path] | None:
    """Return a version of a decision, the job that filed it, and its folder; None if this party has no such version.

    bank : whose job it has to be; None: any.
    """
    for filed, version in filed_versions(home, name, sha256):
        entry = ledger.get(version.job_id)
        if entry is None or entry.status != "accepted" or entry.job.task != FileDecision.task:
            continue
        if bank in {None, entry.job.bank}:
            return filed, entry.job, version.folder
    return None


def filed_versions(home: Path, name: str, sha256: bytes) -> Iterator[tuple[FiledDecision, Version]]:
    """Yield the versions of a decision in a home that have this hash; a damaged one is passed over."""
    if not name or Path(name).name != name:
        return
    for version in versions(home, name):
        with contextlib.suppress(ConfigError):  # of another version, which has another file, or damaged
            filed = FiledDecision.load(version.folder)
            if filed.sha256 == sha256:
                yield filed, version
