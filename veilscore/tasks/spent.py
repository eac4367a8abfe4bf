"""What a bank's jobs told of a holder's data set, and of single firms, within a year, as the bank itself counts it."""

from __future__ import annotations

import csv
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from veilscore.data.fixed_bins import MU
from veilscore.evidence.facts import SCORES_FILE
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import FOLDER
from veilscore.evidence.receipt import JobReceipt, JobStatement
from veilscore.release.account import YEAR_S
from veilscore.tasks.table import charges_of, steps_of
from veilscore.tasks.task import EXACT
from veilscore.terms.job import Job, parse_job
from veilscore.terms.parameters import ScoreBatch
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


def bits_by_batches(home: Path, job: Job) -> dict[str, float]:
    """Return how many bits of each firm the bank's batches of a year told, by id as its file of scores has it.

    Left out are batches by the same model and cut-offs, which are free where no record changed, and single scores.
    """
    told: dict[str, float] = defaultdict(float)
    ledger, p = Ledger(home / "state" / "jobs"), job.of(ScoreBatch)
    for entry in ledger.entries():
        earlier = entry.job.parameters
        scores = home / "jobs" / entry.job_id / SCORES_FILE
        if not isinstance(earlier, ScoreBatch) or entry.received_s < time.time() - YEAR_S or not scores.is_file():
            continue
        same = all(getattr(p, one) == getattr(earlier, one) for one in ("model", "output", "score_steps", "bands"))
        bits = sum(step.bits(earlier) for step in steps_of(earlier).values())
        if same or math.isinf(bits) or not set(entry.job.holders) & set(job.holders):
            continue
        with scores.open(encoding="utf-8", newline="") as file:
            for row in islice(csv.reader(file), 1, None):
                told[row[0]] += bits
    return dict(told)
