"""Receipts and logs are verified offline, with nothing but public keys.

Each check returns what it proves, as sentences, or raises EvidenceError.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.x509 import Certificate
from pydantic import ValidationError

from veilscore.errors import EvidenceError, VeilscoreError
from veilscore.evidence.anchor import AnchorReceipt, check_anchor
from veilscore.evidence.documents import Document, Keys
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.log import scan
from veilscore.evidence.receipt import (
    JobReceipt,
    JobStatement,
    Logged,
    OnlineReceipt,
    ScoreReceipt,
    Traffic,
    check_score,
)
from veilscore.keys.identity import utc_time
from veilscore.terms.job import Job, check_job_id
from veilscore.terms.settings import parse_json

_KINDS: dict[str, type[Document]] = {
    "job_receipt": JobReceipt,
    "score_receipt": ScoreReceipt,
    "online_receipt": OnlineReceipt,
    "anchor_receipt": AnchorReceipt,
}


def verify_receipt(data: bytes, keys: Keys, roots: Sequence[Certificate] = ()) -> list[str]:
    """Verify any receipt.

    roots : certificates of time-stamping authorities, for time stamps only.
    Raises EvidenceError where it proves nothing, and says what does not hold.
    """
    try:
        document = _KINDS[parse_json(data)["kind"]]
    except (ValueError, TypeError, KeyError) as error:
        raise EvidenceError("this is not a receipt: not JSON, or of a kind that this version does not know") from error
    receipt: Document = document.parse(data)
    if isinstance(receipt, JobReceipt):
        return verify_job(receipt, keys)[1]
    if isinstance(receipt, ScoreReceipt):
        return _verify_score(receipt, keys)
    if isinstance(receipt, AnchorReceipt):
        return check_anchor(receipt, keys, roots)
    return _verify_online(OnlineReceipt.parse(data), keys)


def verify_job(receipt: JobReceipt, keys: Keys) -> tuple[dict[str, JobStatement], list[str]]:
    """Return the statements by party, and what they prove together."""
    job = _job_of(receipt)
    statements = _statements(receipt, job, keys)
    _check_same(receipt, job, statements)
    _check_traffic(statements)
    bank = statements[job.bank]
    if [party for party, s in statements.items() if s.role == "bank"] != [job.bank]:
        raise EvidenceError("another party than the job's bank states to be the bank")
    everybody = ", ".join(statements)
    when = _date(max(s.time_ms for s in statements.values()))
    proved = [
        f"Job {receipt.job_id} ({job.task}, purpose {job.purpose!r}) was run by {everybody}, all on the same request.",
        f"Each of them signed its log with its statement; every head is countersigned by the others ({when}).",
        f"Sender and recipient state the same digests for all {_messages(statements)} messages of its steps.",
    ]
    if bank.model:
        proved.append(f"Model applied or made: {bank.model[:16]}... (SHA-256), the same at all who state it.")
    consents = [name for name, s in statements.items() if s.consent]
    if consents:
        proved.append(f"{', '.join(consents)} checked consent; digest {statements[consents[0]].consent[:16]}...")
    if bank.scores is not None:
        proved.append(f"{bank.scores.count} scores were released, and no others, under this job.")
    return statements, proved


def _job_of(receipt: JobReceipt) -> Job:
    try:
        job = Job.model_validate_json(receipt.request)
        check_job_id(receipt.job_id, job)
    except (ValidationError, VeilscoreError) as error:
        raise EvidenceError(f"the receipt's request is not a job, or not job {receipt.job_id[:100]}") from error
    if job.canonical() != receipt.request.encode():
        raise EvidenceError("the receipt's request is not in canonical form")
    return job


def _statements(receipt: JobReceipt, job: Job, keys: Keys) -> dict[str, JobStatement]:
    """Return the proved statements of exactly the job's parties and its coordinator."""
    wanted = (*job.parties, job.coordinator)
    found: dict[str, JobStatement] = {}
    for logged in receipt.statements:
        statement = JobStatement.parse(logged.entry.encode())
        if statement.party != logged.head.party or statement.party in found or statement.party not in wanted:
            raise EvidenceError("a statement stands in another party's log, or twice", party=logged.head.party)
        logged.verify(keys)
        _check_countersigned(logged, wanted)
        found[statement.party] = statement
    missing = [party for party in wanted if party not in found]
    if missing:
        raise EvidenceError(f"the receipt lacks the statement of {', '.join(missing)}")
    return {party: found[party] for party in wanted}


def _check_countersigned(logged: Logged, wanted: Iterable[str]) -> None:
    by = [one.by for one in logged.countersignatures]
    others = [party for party in wanted if party != logged.head.party]
    if sorted(by) != sorted(others):
        raise EvidenceError(
            f"the head of {logged.head.party} is not countersigned once by each of {', '.join(others)}",
            party=logged.head.party,
        )


def _check_same(receipt: JobReceipt, job: Job, statements: dict[str, JobStatement]) -> None:
    models = {s.model for s in statements.values() if s.model}
    for party, s in statements.items():
        if (s.job_id, s.request) != (receipt.job_id, job.sha256.hex()):
            raise EvidenceError(f"the statement of {party} is on another job or request", party=party)
    if len(models) > 1:
        raise EvidenceError("the parties state different models")


def _check_traffic(statements: dict[str, JobStatement]) -> None:
    """Refuse statements in which one party exchanged with another what that one does not state."""
    stated = {party: _channels(statement) for party, statement in statements.items()}
    for party, channels in stated.items():
        for key, traffic in channels.items():
            other = traffic.recipient if traffic.sender == party else traffic.sender
            if party not in {traffic.sender, traffic.recipient} or other == party:
                raise EvidenceError(f"{party} states messages that are not its own", party=party)
            if stated.get(other, {}).get(key) != traffic:
                raise EvidenceError(
                    f"{party} and {other} do not state the same messages in step {key[0][:60]}: one was changed, "
                    "dropped, added or moved, or one of the two is wrong",
                    party=party,
                )


def _channels(statement: JobStatement) -> dict[tuple[str, int, str, str], Traffic]:
    return {
        (step.step, step.attempt, traffic.sender, traffic.recipient): traffic
        for step in statement.steps
        for traffic in step.traffic
    }


def _messages(statements: dict[str, JobStatement]) -> int:
    return sum(t.messages for s in statements.values() for t in _channels(s).values() if t.sender == s.party)


def _verify_score(receipt: ScoreReceipt, keys: Keys) -> list[str]:
    statements, proved = verify_job(receipt.job, keys)
    scores = next(s.scores for s in statements.values() if s.role == "bank")
    if scores is None:
        raise EvidenceError("the bank's statement on this job names no scores")
    check_score(receipt, scores)
    try:
        names, values = next(csv.reader([scores.header])), next(csv.reader([receipt.line]))
    except csv.Error as error:
        raise EvidenceError("the score or its header is not a line of CSV") from error
    shown = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False))
    return [f"This score was released: {shown} (number {receipt.index + 1} of {scores.count}).", *proved]


def _verify_online(receipt: OnlineReceipt, keys: Keys) -> list[str]:
    receipt.statement.verify(keys)
    statement = receipt.stated()
    if statement.party != receipt.statement.head.party:
        raise EvidenceError("the statement stands in another party's log", party=receipt.statement.head.party)
    stated = {name: getattr(statement, name) for name in ("model", "policy", "consent")}
    digests = ", ".join(f"{name} {value[:16] or 'none'}" for name, value in stated.items())
    by = ", ".join(one.by for one in receipt.statement.countersignatures) or "nobody yet"
    return [
        f"{statement.party} released this on {_date(statement.time_ms)}: {receipt.output}",
        f"It answers the request {receipt.request}",
        f"By SHA-256: {digests}, opened by {', '.join(statement.ciphertexts) or 'nobody anew'}.",
        f"{statement.party} signed its log with this entry; countersigned by {by}.",
    ]


def verify_log(path: Path, keys: Keys, known: Iterable[SignedHead] = ()) -> list[str]:
    """Verify a log file (log.jsonl): every entry, every head and signature, and heads of it that others kept.

    known : heads of this log from elsewhere: receipts, other parties, anchors.
    Raises EvidenceError where something was changed, dropped, added, moved or cut off, and says what.
    """
    found = scan(path)
    if found.head is None:
        raise EvidenceError(f"{path} holds no signed head")
    for head in found.heads:
        if head.party != found.head.party:
            raise EvidenceError(f"{path} holds heads of {head.party} and {found.head.party}", party=head.party)
        head.verify(keys)
    count, newest = 0, 0
    for head in known:
        if head.party != found.head.party:
            continue
        head.verify(keys)
        if head.size > found.head.size or found.tree.root(head.size) != head.root_bytes:
            what = "is shorter than" if head.size > found.head.size else "differs from"
            raise EvidenceError(
                f"the log {what} the one of {head.size} entries that {head.party} signed on {_date(head.time_ms)}",
                party=head.party,
            )
        count, newest = count + 1, max(newest, head.size)
    proved = [
        f"Log of {found.head.party}: {found.head.size} entries, {len(found.heads)} signed heads, all of them fit.",
        f"It continues {count} heads of it that others kept.",
    ]
    if count:
        proved.append(f"The newest of these is over {newest} entries; {found.head.size - newest} came after it.")
    if found.torn:
        proved.append(
            f"{len(found.torn)} bytes behind the last head are not signed: a write was cut off, or the node is running "
            "and their head comes in a moment."
        )
    return proved


def heads_in(data: bytes) -> list[SignedHead]:
    """Return the heads that a job or score receipt shows, of which nothing is verified."""
    try:
        return [logged.head for logged in JobReceipt.parse(data).statements]
    except EvidenceError:
        return [logged.head for logged in ScoreReceipt.parse(data).job.statements]


def _date(time_ms: int) -> str:
    return f"{utc_time(time_ms / 1000):%Y-%m-%d %H:%M:%S} UTC"
