"""Reads what a node keeps of a finished job for those who ask: its receipt, and the receipt of one score of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from veilscore.errors import EvidenceError
from veilscore.evidence.facts import SCORES_FILE
from veilscore.evidence.log import FOLDER
from veilscore.evidence.receipt import JobReceipt, JobStatement, ScoreReceipt, ScoreTree
from veilscore.evidence.recorder import read_seed
from veilscore.files.store import JobStore
from veilscore.terms.job import JOB_ID


def kept_id(folders: Iterable[Path], text: str) -> str:
    """Return the id of a job out of files or folders of jobs: `text` itself, or the newest of the job of that name."""
    found = [(path.stat().st_mtime, path.stem) for path in folders if JOB_ID.fullmatch(path.stem)]
    named = [one for one in found if (match := JOB_ID.fullmatch(one[1])) and match["name"] == text]
    return max(named)[1] if named else text


def load_receipt(home: Path, job_id: str) -> JobReceipt:
    """Return the receipt of a job, by its id or name, that a node keeps; EvidenceError if there is none."""
    job_id = kept_id((home / FOLDER / "receipts").glob("*.json"), job_id)
    path = home / FOLDER / "receipts" / f"{job_id}.json"
    try:
        return JobReceipt.parse(path.read_bytes())
    except OSError as error:
        raise EvidenceError(
            f"no receipt of job {job_id} in {path.parent}: the job is not done, or not cross-signed"
        ) from error


def score_receipt(home: Path, job_id: str, firm: str) -> ScoreReceipt:
    """Return the receipt of one firm's score of a batch, made from the bank's files.

    Raises EvidenceError where there is no such job or firm, or the file of scores is not the one that was logged.
    """
    receipt = load_receipt(home, job_id)
    job_id = receipt.job_id
    try:
        content = (home / "jobs" / job_id / SCORES_FILE).read_bytes()
    except OSError as error:
        raise EvidenceError(f"no scores of job {job_id} here: only the bank of a batch has them") from error
    tree = ScoreTree(content, read_seed(JobStore(home / FOLDER / "openings"), job_id))
    statements = [JobStatement.parse(logged.entry.encode()) for logged in receipt.statements]
    if tree.scores not in [s.scores for s in statements]:
        raise EvidenceError(f"{SCORES_FILE} of job {job_id} was changed since it was logged")
    return tree.receipt(receipt, tree.index_of(firm))
