"""What a bank's jobs told of a holder's data set within a year, as the bank counts it by its own receipts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from veilscore.data.fixed_bins import MU
from veilscore.evidence.receipt import JobReceipt, JobStatement
from veilscore.evidence.recorder import FOLDER
from veilscore.release.account import YEAR_S
from veilscore.tasks.table import charges_of
from veilscore.tasks.task import EXACT
from veilscore.terms.job import Job, parse_job
from veilscore.terms.privacy import total


@dataclass(frozen=True)
class SpentByReceipts:
    """Counts the jobs on one data set whose receipts a bank keeps: `mu2` of the private ones, `exact` of the others."""

    jobs: int
    mu2: float
    exact: int


def spent_by_receipts(home: Path, job: Job, holder: str) -> SpentByReceipts:
    """Count the receipts of a year at the bank's home that are of the same data set; EvidenceError if one is damaged.

    Attempts that failed, and jobs without a receipt, are in the holder's account alone.
    """
    private, exact, mu2 = 0, 0, 0.0
    for path in sorted((home / FOLDER / "receipts").glob("*.json")):
        receipt = JobReceipt.parse(path.read_bytes())
        times = (JobStatement.parse(logged.entry.encode()).time_ms for logged in receipt.statements)
        earlier = parse_job(receipt.request, path.name)
        same = earlier.bank == job.bank and earlier.datasets.get(holder) == job.datasets[holder]
        charges = charges_of(earlier.parameters)
        if not same or not charges or max(times, default=0) / 1000 < time.time() - YEAR_S:
            continue
        if EXACT in charges:
            exact += 1
        else:
            private, mu2 = private + 1, mu2 + total(charges)
    return SpentByReceipts(private, mu2 + MU**2 if private else 0.0, exact)
