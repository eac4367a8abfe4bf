"""A receipt shows what each party signed of a job or of a released score, in one document that verifies offline.

A party's statement on a job is an entry of its log, so the signature is that of the log's head, and the same head's
countersignatures are those of the other parties. A batch of scores is one more Merkle tree whose root stands in the
bank's statement: a score's receipt is the job's receipt, the score's line, its salt and a path, with no signature of
its own. Salts (128 random bits a score) keep the ids and scores of others from being guessed from a path.

Source : RFC 9162 (trees), salted hash commitments.
Reveals: a score receipt shows its own line to whom it is given, and of all others nothing but hashes.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from typing import Annotated, Literal, Self

from pydantic import Field

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import (
    Count,
    Digest,
    DigestOrNone,
    Document,
    Keys,
    Party,
    Path64,
    Text,
    Time,
    canonical,
    unhex,
)
from veilscore.evidence.heads import Countersignature, SignedHead
from veilscore.evidence.log import Log
from veilscore.evidence.merkle import MerkleTree, check_inclusion, leaf_hash
from veilscore.wire.transcript import Transcript, TranscriptEntry

SALT_BYTES = 16
KEPT_DIGESTS = 64
_SCORE = b"veilscore/1 score\0"
_ROW_END = b"\r\n"
FORGOTTEN = b"forgotten:"  # begins what stands in a file of scores for the line of a firm that was forgotten
_GONE = re.compile(rb"forgotten:([0-9a-f]{64})(,|$)")
Salt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Row = Annotated[str, Field(max_length=4000)]


class Traffic(Document):
    """All messages of one step from one party to another, by digest; both must state the same.

    earlier : of an attempt that failed, the digest before each of the last messages, newest first: the other side may
        have got fewer.
    """

    sender: Party
    recipient: Party
    messages: Count
    bytes: Count
    digest: Digest
    earlier: Annotated[tuple[Digest, ...], Field(max_length=KEPT_DIGESTS)] = ()


class SignedAnswer(Document):
    """A party's answer to a proposed job; `bound` is the digest of what the answer is bound to (code, data, model)."""

    kind: Literal["answer"] = "answer"
    job_id: Text
    request: Digest
    answer: Text
    policy: Digest
    bound: Digest
    time_ms: Time


class StepBound(Document):
    """What a bank is committed to before the first message of an attempt (`veilscore.evidence.opening`)."""

    kind: Literal["step_bound"] = "step_bound"
    job_id: Text
    step: Text
    attempt: Count
    commitment: Digest
    time_ms: Time


class StepEntry(Document):
    """One attempt at a step as one party saw it."""

    kind: Literal["step"] = "step"
    job_id: Text
    step: Text
    attempt: Count
    outcome: Literal["done", "failed"]
    traffic: tuple[Traffic, ...]
    time_ms: Time


class Scores(Document):
    """The scores of a batch: their number and the root of the tree over them; `header` names the columns of a line."""

    count: Count
    header: Row
    root: Digest


class JobStatement(Document):
    """A party's statement on a job that is done.

    request : SHA-256 of the job that was accepted.
    policy : SHA-256 of the party's policy at that time.
    bound : digest of what its acceptance was bound to (code, data set version, model version).
    consent : digest over the ids of the consent documents that covered the job; empty where none is needed.
    model : SHA-256 of the model made or applied; empty at a party that does not see it.
    code_map : hash of the party's own part of the model.
    steps : the attempt of each step that was done, with the digest of all ciphertexts sent and received.
    scores : bank, batch scoring: what was released.
    files : salted commitments to the party's files of the job.
    """

    kind: Literal["job"] = "job"
    party: Party
    role: Text
    job_id: Text
    request: Digest
    policy: Digest
    bound: DigestOrNone = ""
    consent: DigestOrNone = ""
    model: DigestOrNone = ""
    code_map: DigestOrNone = ""
    steps: tuple[StepEntry, ...]
    scores: Scores | None = None
    files: dict[Text, Digest]
    time_ms: Time


class OnlineStatement(Document):
    """The bank's statement on one score that was released online; ids stand only inside `request` and `output`.

    request, output : salted commitments to the request and the response as the caller got it.
    consent : SHA-256 of the consent document that came with the request; empty for none.
    ciphertexts : holder -> SHA-256 of the message that asked it to open its part; it stands in the holder's log too.
    """

    kind: Literal["score"] = "score"
    party: Party
    request: Digest
    output: Digest
    consent: DigestOrNone
    policy: Digest
    model: DigestOrNone
    ciphertexts: Annotated[dict[Party, Digest], Field(max_length=64)]
    time_ms: Time


class Logged(Document):
    """An entry of a log, proved by a head and by those who countersigned it."""

    entry: str
    index: Count
    path: Path64
    head: SignedHead
    countersignatures: tuple[Countersignature, ...] = ()

    @classmethod
    def of(cls, log: Log, index: int, head: SignedHead | None = None) -> Self:
        """Return one entry of an open log with its proof."""
        head = log.head if head is None else head
        path = tuple(step.hex() for step in log.inclusion(index, head.size))
        return cls(entry=log.entry(index).decode(), index=index, path=path, head=head)

    def verify(self, keys: Keys) -> None:
        """Check head, countersignatures and inclusion; EvidenceError where one does not hold."""
        self.head.verify(keys)
        for one in self.countersignatures:
            one.verify(self.head, keys)
        leaf = leaf_hash(self.entry.encode())
        check_inclusion(leaf, self.index, self.head.size, unhex(self.path), self.head.root_bytes)


class JobReceipt(Document):
    """All parties' statements on one job; `request` is the job in canonical form."""

    kind: Literal["job_receipt"] = "job_receipt"
    job_id: Text
    request: str
    statements: tuple[Logged, ...]


class ScoreReceipt(Document):
    """One score out of a batch; `line` has the columns that the bank's statement names."""

    kind: Literal["score_receipt"] = "score_receipt"
    job: JobReceipt
    line: Row
    salt: Salt
    index: Count
    path: Path64


class OnlineReceipt(Document):
    """One score released online: the statement, with the request and output that it commits to (canonical JSON)."""

    kind: Literal["online_receipt"] = "online_receipt"
    statement: Logged
    request: str
    output: str
    salt: Salt

    def stated(self) -> OnlineStatement:
        """Return the statement; EvidenceError unless it is on the request and output shown."""
        statement, salt = OnlineStatement.parse(self.statement.entry.encode()), bytes.fromhex(self.salt)
        for what, text, logged in (
            ("request", self.request, statement.request),
            ("output", self.output, statement.output),
        ):
            if commitment(salt, text.encode()) != logged:
                by = statement.party
                raise EvidenceError(f"the {what} shown is not the one that {by} logged", party=by)
        return statement


def traffic_of(transcript: Transcript, *, failed: bool = False) -> tuple[Traffic, ...]:
    """Return the digest of a transcript for each direction; sender and recipient come to the same."""
    hashes: dict[tuple[str, str], list[int]] = {}
    chains: dict[tuple[str, str], hashlib._Hash] = {}
    earlier: dict[tuple[str, str], deque[str]] = {}
    for e in transcript.entries:
        pair = (e.sender, e.recipient)
        chain = chains.setdefault(pair, _chain(e.session, *pair))
        if failed:
            # before this message: the other side may not have got it
            earlier.setdefault(pair, deque(maxlen=KEPT_DIGESTS)).appendleft(chain.hexdigest())
        chain.update(canonical([e.sequence, e.kind, e.size_bytes, e.sha256]))
        count = hashes.setdefault(pair, [0, 0])
        count[0] += 1
        count[1] += e.size_bytes
    return tuple(
        Traffic(
            sender=s,
            recipient=r,
            messages=hashes[s, r][0],
            bytes=hashes[s, r][1],
            digest=chains[s, r].hexdigest(),
            earlier=tuple(earlier.get((s, r), ())),
        )
        for s, r in sorted(chains)
    )


def _chain(session: str, sender: str, recipient: str) -> hashlib._Hash:
    return hashlib.sha256(canonical([session, sender, recipient]))


def digest_of(session: str, sender: str, recipient: str, entries: list[TranscriptEntry]) -> str:
    """Return the digest of messages of one direction, also of none."""
    found = traffic_of(Transcript(entries=entries))
    return found[0].digest if found else _chain(session, sender, recipient).hexdigest()


def commitment(salt: bytes, data: bytes) -> str:
    """Return a salted hash, hexadecimal, which hides `data` while the salt is secret."""
    return hashlib.sha256(len(salt).to_bytes(2, "little") + salt + data).hexdigest()


class ScoreTree:
    """Makes a tree over the lines of a file of scores (CSV, a header first).

    content : the file as released.
    seed : 32 secret random bytes, kept by the bank; salts follow from it.
    """

    def __init__(self, content: bytes, seed: bytes) -> None:
        rows = content.removesuffix(_ROW_END).split(_ROW_END)
        self.header, self._lines = rows[0].decode(), rows[1:]
        salts = hashlib.shake_256(_SCORE + seed).digest(SALT_BYTES * max(len(self._lines), 1))
        self._salts = [salts[at : at + SALT_BYTES] for at in range(0, SALT_BYTES * len(self._lines), SALT_BYTES)]
        self._leaves = [_leaf(salt, line) for salt, line in zip(self._salts, self._lines, strict=True)]
        self._tree = MerkleTree(self._leaves)

    @property
    def scores(self) -> Scores:
        """Return what the bank's statement says of the scores."""
        return Scores(count=self._tree.size, header=self.header, root=self._tree.root().hex())

    def index_of(self, firm: str) -> int:
        """Return the number of the line of a firm (first column); EvidenceError if it is not there."""
        wanted = firm.encode()
        for index, line in enumerate(self._lines):
            if line.split(b",", 1)[0].strip(b'"') == wanted:
                return index
        raise EvidenceError("this firm is not in the batch: give its id as it stands in the file of scores")

    def without(self, firm: str) -> bytes:
        """Return the file without a firm's line, in whose place its leaf stands: receipts of the others stay good."""
        index = self.index_of(firm)
        gone = FORGOTTEN + self._leaves[index].hex().encode() + b"," * self._lines[index].count(b",")
        lines = [*self._lines[:index], gone, *self._lines[index + 1 :]]
        return _ROW_END.join([self.header.encode(), *lines, b""])

    def receipt(self, job: JobReceipt, index: int) -> ScoreReceipt:
        """Return the receipt of one line."""
        path = tuple(step.hex() for step in self._tree.inclusion(index))
        line, salt = self._lines[index].decode(), self._salts[index].hex()
        return ScoreReceipt(job=job, line=line, salt=salt, index=index, path=path)


def _leaf(salt: bytes, line: bytes) -> bytes:
    """Return the leaf of a line, which of a firm that was forgotten stands there itself."""
    gone = _GONE.match(line)
    return bytes.fromhex(gone[1].decode()) if gone else leaf_hash(_SCORE + salt + line)


def check_score(receipt: ScoreReceipt, scores: Scores) -> None:
    """Check that the line is one of the released scores; EvidenceError if it is not."""
    leaf = leaf_hash(_SCORE + bytes.fromhex(receipt.salt) + receipt.line.encode())
    check_inclusion(leaf, receipt.index, scores.count, unhex(receipt.path), bytes.fromhex(scores.root))
