"""Collects from receipts and logs what parties signed of their attempts, for an audit of the bank."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import Keys
from veilscore.evidence.log import scan
from veilscore.evidence.online_opening import LOGGED, CircuitOpened, PartOpened
from veilscore.evidence.receipt import JobReceipt, JobStatement, SignedAnswer, StepBound, StepEntry
from veilscore.evidence.verify import verify_job, verify_log
from veilscore.terms.job import Job
from veilscore.terms.settings import parse_json

Attempt = tuple[str, int]
_OF_KIND = {kind.kind: kind for kind in LOGGED}
_MAKING = frozenset({"evaluate", "choose", "write", "file"})  # steps that end with a model or decision


def _body(data: bytes, party: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        body = parse_json(data)
        if isinstance(body, dict):
            return body
    raise EvidenceError(f"{party}'s log holds an entry that is none", party=party)


class Witnesses:
    """Keeps what was signed of attempts and scores, by job, attempt and party; everything in it was verified.

    attempts : job id -> (step, attempt) -> party -> its entry.
    jobs : job id -> the job, where a receipt shows it.
    answered : job id -> SHA-256 of the jobs that parties answered to.
    bound : job id -> (step, attempt) -> commitment, as the bank's own log has it.
    begun : job id -> (step, attempt) -> holders whose log has its beginning.
    charged : job id -> (step, attempt) -> the last opening that a holder charged in it, and when (ms).
    parties : whose logs were read.
    """

    def __init__(self) -> None:
        self.attempts: dict[str, dict[Attempt, dict[str, StepEntry]]] = {}
        self.jobs: dict[str, Job] = {}
        self.answered: dict[str, set[str]] = {}
        self.bound: dict[str, dict[Attempt, str]] = {}
        self.begun: dict[str, dict[Attempt, set[str]]] = {}
        self.charged: dict[str, dict[Attempt, tuple[int, str]]] = {}
        self._opened: dict[tuple[str, bytes], PartOpened | CircuitOpened] = {}  # by party, entry: a log may come twice
        self._made: dict[str, str] = {}
        self._in_job: dict[str, set[str]] = {}
        self.parties: set[str] = set()

    @property
    def opened(self) -> list[PartOpened]:
        """Return the parts of online scores and decisions that holders opened."""
        return [one for one in self._opened.values() if isinstance(one, PartOpened)]

    @property
    def circuits(self) -> list[CircuitOpened]:
        """Return the circuits of single firms that leads opened, of bands and of decisions."""
        return [one for one in self._opened.values() if isinstance(one, CircuitOpened)]

    def made_in(self, job_id: str) -> str | None:
        """Return the SHA-256 of the model or decision that a job made by the bank's statement."""
        return self._made.get(job_id)

    @property
    def made_by(self) -> dict[str, dict[str, frozenset[str]]]:
        """Return, by SHA-256 of a model or decision, the jobs that made it as the bank states, with their parties."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for job_id, model in self._made.items():
            found.setdefault(model, {})[job_id] = frozenset(self._in_job[job_id])
        return found

    def add_receipt(self, data: bytes, keys: Keys) -> None:
        """Take a job's receipt; EvidenceError if it proves nothing."""
        receipt = JobReceipt.parse(data)
        statements, _ = verify_job(receipt, keys)
        self.jobs[receipt.job_id] = Job.model_validate_json(receipt.request)
        for party, statement in statements.items():
            self._state(party, statement)
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
            body = _body(data, head.party)
            kind = body.get("kind")
            if kind == "step":
                self._add(head.party, StepEntry.parse(data))
            elif kind == "answer":
                answer = SignedAnswer.parse(data)
                self.answered.setdefault(answer.job_id, set()).add(answer.request)
            elif kind == "job":
                self._state(head.party, JobStatement.parse(data))
            elif isinstance(kind, str) and kind in _OF_KIND:
                self._opened[head.party, data] = _OF_KIND[kind].read(head.party, body)
            elif kind == "step_bound":
                bound = StepBound.parse(data)
                self.bound.setdefault(bound.job_id, {})[bound.step, bound.attempt] = bound.commitment
            elif kind in ("step_begun", "spent"):  # a tuple, as what others wrote need not be hashable
                self._note(head.party, body)
        self.parties.add(head.party)
        return head.party

    def _note(self, party: str, body: dict[str, Any]) -> None:
        """Take a holder's entry that an attempt began, or that something was about to be opened in it."""
        try:
            job_id, key, at_ms = str(body["job_id"]), (str(body["step"]), int(body["attempt"])), int(body["time_ms"])
            opening = str(body["opening"]) if body["kind"] == "spent" else ""
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError(f"{party}'s log holds an entry that is none", party=party) from error
        if opening:
            found = self.charged.setdefault(job_id, {})
            found[key] = max(found.get(key, (0, "")), (at_ms, f"{opening} at {party}"))
        else:
            self.begun.setdefault(job_id, {}).setdefault(key, set()).add(party)

    def killed(self, job_id: str, bank: str) -> dict[Attempt, frozenset[str]]:
        """Return the attempts of a job that began at some parties and ended there in no way, and at which parties.

        Only whose log was given is named; the log may have been copied while the attempt was under way.
        """
        begun = {key: set(parties) for key, parties in self.begun.get(job_id, {}).items()}
        if bank in self.parties:
            for key in self.bound.get(job_id, {}):
                begun.setdefault(key, set()).add(bank)
        ended = self.attempts.get(job_id, {})
        found = {key: frozenset(parties - ended.get(key, {}).keys()) for key, parties in begun.items()}
        return {key: parties for key, parties in found.items() if parties}

    def _state(self, party: str, statement: JobStatement) -> None:
        if statement.party != party:
            raise EvidenceError(f"{party}'s log holds a statement of {statement.party}", party=party)
        self._in_job.setdefault(statement.job_id, set()).add(party)
        makes = any(entry.step in _MAKING for entry in statement.steps)
        if statement.role == "bank" and statement.model and makes:
            self._made[statement.job_id] = statement.model

    def _add(self, party: str, entry: StepEntry) -> None:
        attempts = self.attempts.setdefault(entry.job_id, {})
        kept = attempts.setdefault((entry.step, entry.attempt), {}).setdefault(party, entry)
        if kept.traffic != entry.traffic:
            raise EvidenceError(
                f"{party} states two different records of attempt {entry.attempt} of step {entry.step}", party=party
            )
