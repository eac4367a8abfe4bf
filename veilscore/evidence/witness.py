"""What the parties of jobs signed of their attempts: collected from receipts and logs, for an audit of the bank."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from veilscore.errors import EvidenceError
from veilscore.evidence.log import scan
from veilscore.evidence.receipt import Answer, JobReceipt, StepEntry
from veilscore.evidence.verify import verify_job, verify_log
from veilscore.node.job import Job

if TYPE_CHECKING:
    from pathlib import Path

    from veilscore.evidence.documents import Keys

Attempt = tuple[str, int]


class Witnesses:
    """Entries of attempts by job, attempt and party; everything in it was verified.

    Attributes
    ----------
    attempts : job id -> (step, attempt) -> party -> its entry.
    jobs : job id -> the job, where a receipt shows it.
    answered : job id -> SHA-256 of the jobs that parties answered to.
    bound : job id -> (step, attempt) -> commitment, as the bank's own log has it.
    parties : whose logs were read.
    """

    def __init__(self) -> None:
        self.attempts: dict[str, dict[Attempt, dict[str, StepEntry]]] = {}
        self.jobs: dict[str, Job] = {}
        self.answered: dict[str, set[str]] = {}
        self.bound: dict[str, dict[Attempt, str]] = {}
        self.parties: set[str] = set()

    def add_receipt(self, data: bytes, keys: Keys) -> None:
        """Take a job's receipt; EvidenceError if it proves nothing."""
        receipt = JobReceipt.parse(data)
        statements, _ = verify_job(receipt, keys)
        self.jobs[receipt.job_id] = Job.model_validate_json(receipt.request)
        for party, statement in statements.items():
            for entry in statement.steps:
                self._add(party, entry)

    def add_log(self, path: Path, keys: Keys) -> str:
        """Take a party's log and return whose it is; EvidenceError if it was changed."""
        verify_log(path, keys)
        entries: list[bytes] = []
        head = scan(path, visit=lambda _, entry: entries.append(entry)).head
        if head is None:
            raise EvidenceError(f"{path} holds no signed head")
        for data in entries:
            body = json.loads(data)
            kind = body.get("kind")
            if kind == "step":
                self._add(head.party, StepEntry.parse(data))
            elif kind == "answer":
                answer = Answer.parse(data)
                self.answered.setdefault(answer.job_id, set()).add(answer.request)
            elif kind == "step_bound":
                key = str(body["step"]), int(body["attempt"])
                self.bound.setdefault(str(body["job_id"]), {})[key] = str(body["commitment"])
        self.parties.add(head.party)
        return head.party

    def _add(self, party: str, entry: StepEntry) -> None:
        attempts = self.attempts.setdefault(entry.job_id, {})
        kept = attempts.setdefault((entry.step, entry.attempt), {}).setdefault(party, entry)
        if kept.traffic != entry.traffic:
            raise EvidenceError(
                f"{party} states two different records of attempt {entry.attempt} of step {entry.step}", party=party
            )
