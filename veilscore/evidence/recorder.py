"""The recorder writes a node's log; nodes and the coordinator call no other part of the evidence.

Nothing has an effect before it is on disk: an answer to a proposal, a finished step and a released score are logged
before they leave the node, and an error of the log (disk full) stops them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog
from google.protobuf.message import DecodeError

from veilscore.errors import StateError, VeilscoreError
from veilscore.evidence.documents import FederationKeys, Signer, canonical, digest
from veilscore.evidence.facts import facts_of, policy_digest
from veilscore.evidence.heads import ForkError, SignedHead
from veilscore.evidence.job_ledger import LedgerEntry
from veilscore.evidence.log import FOLDER, Log
from veilscore.evidence.online_opening import LOGGED, OpeningLogged, RecordTold
from veilscore.evidence.online_receipts import ONLINE_FILE, OnlineAsked, Receiptless
from veilscore.evidence.receipt import (
    JobReceipt,
    JobStatement,
    SignedAnswer,
    StepBound,
    StepEntry,
    commitment,
    traffic_of,
)
from veilscore.files.journal import Answer, Journal
from veilscore.files.store import JobStore, write_atomically
from veilscore.terms.federation import Federation
from veilscore.terms.job import JOB_ID, Job
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Charge
from veilscore.wire.transcript import Transcript

_SEED_BYTES = 32
_SOON_S, _BETWEEN_S = 0.01, 0.1  # until a head is signed, and at least between two while entries go on coming
_AGAIN_S = 1.0  # if that fails
# somebody waits for these: their head follows
_AHEAD = frozenset({"score", RecordTold.kind, *(one.kind for one in LOGGED)})
_REMEMBERED = {"step", "answer", "job", "state", "mended", "filed", "in_use"}


class EvidenceRecorder:
    """Keeps a node's log, the heads of others that it has seen, its receipts, and the secrets that open commitments.

    Files in HOME/evidence: log.jsonl, heads/PARTY.json (last head seen of each party), receipts/JOB.json,
    openings/JOB.json (secret: salts; delete one and the firms in that job can no longer be shown), online.db (bank:
    receipts of single scores, 90 days), forks/.

    home, node : the node's own.
    signer, federation : give the identity and the federation in force now.
    """

    def __init__(
        self,
        home: Path,
        node: NodeConfig,
        signer: Callable[[], Signer],
        federation: Callable[[], Federation],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.home, self.node, self.signer = home, node, signer
        self.keys = FederationKeys(federation)
        self._folder, self._clock = home / FOLDER, clock
        self._steps: dict[str, dict[str, StepEntry]] = {}
        self._statements: dict[str, int] = {}
        self._bound: dict[str, str] = {}
        self._answers: dict[str, str] = {}
        self.in_use: dict[str, str] = {}  # model -> job of the version that is, by the log
        self._digest_of: tuple[object, str] = (None, "")
        self._counts: dict[str, int] = {}
        self._visit: Callable[[dict[str, Any]], None] | None = None
        self._lock = threading.RLock()
        self._opened = False
        self.crossing_until_s = 0.0  # time.monotonic() to which a job's cross-signing goes on from heads seen before it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signing: asyncio.Task[None] | None = None
        self._signed_s = 0.0

    def open(
        self, loop: asyncio.AbstractEventLoop | None = None, visit: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Read and check the log, and hold it until `close`; nothing else works before.

        loop : where heads are signed a moment after entries that somebody waits for; without it, together with them.
        visit : called with every entry that is there already.
        Raises EvidenceError where the log was changed (the node does not start on it), StateError where files cannot be
            read or written.
        """
        self._visit = visit
        self.log = Log(self._folder, self.signer, self.keys, clock=self._clock, visit=self._read, ahead=_AHEAD)
        try:
            self._heads = JobStore(self._folder / "heads")
            self._openings = JobStore(self._folder / "openings")
            self._online = Journal(self._folder / ONLINE_FILE)
            self._seen = {name: SignedHead.kept(self._heads, name) for name in self._heads.names()}
        except BaseException:
            self.log.close()
            raise
        self._loop, self._opened = loop, True

    def close(self) -> None:
        """Let go of the log."""
        if self._opened:
            self.log.close()
            self._online.close()
            self._opened = False

    def _read(self, index: int, body: bytes) -> None:
        entry = json.loads(body)
        if self._visit is not None:
            self._visit(entry)
        self._remember(index, entry.get("kind"), body)

    def _remember(self, index: int, kind: str, body: bytes) -> None:
        if kind == "step":
            step = StepEntry.parse(body)
            if step.outcome == "done":
                self._steps.setdefault(step.job_id, {})[step.step] = step
        elif kind == "answer":
            answer = SignedAnswer.parse(body)
            self._answers[answer.job_id], self._bound[answer.job_id] = answer.answer, answer.bound
        elif kind == "job":
            statement = JobStatement.parse(body)
            self._statements[statement.job_id] = index
        elif kind == "state":
            self._counts = json.loads(body)["counts"]
        elif kind == "mended":
            self._counts = {}
        elif kind in {"filed", "in_use"}:
            entry = json.loads(body)
            named = JOB_ID.fullmatch(entry["job_id"])
            self.in_use[entry.get("model") or (named["name"] if named else "")] = entry["job_id"]

    def _append_ahead(self, entries: Sequence[dict[str, Any]]) -> range:
        """Log what somebody waits for, in one write, and have its head follow."""
        places = self.log.append(entries, head_later=self._loop is not None)
        if self._loop is not None:  # from here, as whoever asked for the entries may have given up and be gone
            self._loop.call_soon_threadsafe(self._sign_soon)
        return places

    def _append(self, entry: dict[str, Any]) -> int:
        with self._lock:
            index = self.log.append([entry])[0]
            if entry["kind"] in _REMEMBERED:
                self._remember(index, entry["kind"], canonical(entry))
            return index

    @property
    def _policy(self) -> str:
        """Return the digest of the policy that holds now; it is made once for each."""
        if self._digest_of[0] is not self.node.policy:
            self._digest_of = (self.node.policy, policy_digest(self.node))
        return self._digest_of[1]

    # what the node calls

    def job_answered(self, entry: LedgerEntry) -> None:
        """Log an answer to a proposal (accepted, refused, pending, cancelled) before it leaves or changes."""
        answer = SignedAnswer(
            job_id=entry.job_id,
            request=entry.job.sha256.hex(),
            answer=entry.status,
            policy=self._policy,
            bound=digest(canonical(entry.bound)),
            time_ms=self.log.now_ms(),
        )
        self._append(answer.model_dump(mode="json"))

    def step_bound(self, session: str, commitment: bytes) -> None:
        """Log at the bank, before the first message of an attempt, what it is bound to (opening.py)."""
        job_id, step, attempt = session.split("/")
        entry = StepBound(
            job_id=job_id,
            step=step,
            attempt=int(attempt),
            commitment=commitment.hex(),
            time_ms=self.log.now_ms(),
        )
        self._append(entry.model_dump(mode="json"))

    def step_begun(self, session: str) -> None:
        """Log at a holder that an attempt begins: one that is killed has this and no end."""
        job_id, step, attempt = session.split("/")
        self.noted("step_begun", job_id=job_id, step=step, attempt=int(attempt))

    def opening_charged(self, session: str, account: str, bank: str, charge: Charge) -> None:
        """Holder: before an opening leaves, what it costs the account of its data set."""
        job_id, step, attempt = session.split("/")
        entry = {"kind": "spent", "job_id": job_id, "step": step, "attempt": int(attempt), "account": account}
        spent = {"bank": bank, "opening": charge.opening, "rows": charge.rows, "mu2": repr(charge.mu2)}
        self._append({**entry, **spent, "time_ms": self.log.now_ms()})

    def state_grown(self, counts: Mapping[str, int]) -> None:
        """Log how much the state files hold, if that changed; the next start holds them against it."""
        with self._lock:
            most = {name: max(counts.get(name, 0), self._counts.get(name, 0)) for name in {*counts, *self._counts}}
            if self._opened and most != self._counts:
                self._append({"kind": "state", "counts": most, "time_ms": self.log.now_ms()})

    def state_mended(self, written_back: Sequence[str], lost: Sequence[str], jobs: Sequence[str]) -> None:
        """Log that lost state was written back, and what could not be and was let go, jobs by id."""
        self.noted("mended", written_back=list(written_back), lost=list(lost), jobs=list(jobs))

    def answer_to(self, job_id: str) -> str:
        """Return the newest answer to a job that the log holds; empty where it holds none."""
        return self._answers.get(job_id, "")

    def step_finished(self, session: str, transcript: Transcript) -> None:
        """Log that an attempt is done, before others learn of it."""
        self._step(session, transcript, "done")

    def step_failed(self, session: str, transcript: Transcript) -> None:
        """Log that an attempt has ended without a result, if the log can be written."""
        with contextlib.suppress(StateError):  # the attempt's own error is the one to report
            self._step(session, transcript, "failed")

    def _step(self, session: str, transcript: Transcript, outcome: Literal["done", "failed"]) -> None:
        job_id, step, attempt = session.split("/")
        entry = StepEntry(
            job_id=job_id,
            step=step,
            attempt=int(attempt),
            outcome=outcome,
            traffic=traffic_of(transcript, failed=outcome == "failed"),
            time_ms=self.log.now_ms(),
        )
        self._append(entry.model_dump(mode="json"))

    def job_finished(self, job_id: str, job: Job) -> int:
        """Write the statement on a job that is done, once, and return its index."""
        with self._lock:
            if job_id in self._statements:
                return self._statements[job_id]
            facts = facts_of(self.home, self.node, job, job_id, self._seed(job_id))
            statement = JobStatement(
                party=self.node.name,
                role=self.node.role,
                job_id=job_id,
                request=job.sha256.hex(),
                policy=facts.policy,
                bound=self._bound.get(job_id, ""),
                consent=facts.consent,
                model=facts.model,
                code_map=facts.code_map,
                steps=tuple(self._steps.get(job_id, {}).values()),
                scores=facts.scores,
                files=facts.files,
                time_ms=self.log.now_ms(),
            )
            return self._append(statement.model_dump(mode="json"))

    def scores_released(self, released: Sequence[tuple[OnlineAsked, dict[str, Any]]]) -> list[bytes]:
        """Log scores before they leave the bank online, ahead of their head; return what `keep_receipts` takes later.

        released : what was asked, and the statement on it.
        """
        places = self._append_ahead([statement for _, statement in released])
        return [asked.left(index) for index, (asked, _) in zip(places, released, strict=True)]

    def statement_of(
        self, asked: OnlineAsked, response: pb.ScoreResponse, output: bytes, ciphertexts: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the bank's statement on a score, an `OnlineStatement` as plain values: a caller waits for it.

        output : the response as canonical JSON.
        ciphertexts : holder -> SHA-256 of the message that asked it to open its part.
        """
        return {
            "kind": "score",
            "party": self.node.name,
            "request": asked.commitment,
            "output": commitment(asked.salt, output),
            "consent": asked.consent,
            "policy": self._policy,
            "model": response.model_sha256.hex(),
            "ciphertexts": dict(ciphertexts),
            "time_ms": self.log.now_ms(),
        }

    def keep_receipts(self, scores: Sequence[Receiptless], failed: Callable[[Exception], None]) -> list[str]:
        """Keep at the bank, after scores have left, their receipts, which show request and response; may be repeated.

        failed : told of what is wrong with a single one, as where the log is another one now.
        Returns the ids of the requests that have theirs.
        """
        head, made = self.log.head, list[Answer]()
        for score in scores:
            try:
                made.append(Answer(score.request_id, b"", score.receipt(self.log, head).to_bytes()))
            except (VeilscoreError, DecodeError, ValueError) as error:
                failed(error)
        kept = self._online.keep_all(made)
        return [one.key for one, found in zip(made, kept, strict=True) if not isinstance(found, VeilscoreError)]

    def _sign_soon(self, after_s: float = _SOON_S) -> None:
        """Let the event loop sign in a moment, once for all, what is logged ahead of its head till then."""
        if self._signing is None or self._signing.done():
            self._signing = asyncio.create_task(self._sign(after_s))

    async def _sign(self, after_s: float) -> None:
        await asyncio.sleep(max(after_s, self._signed_s + _BETWEEN_S - time.monotonic()))
        self._signing = None  # what is logged from here on may miss this head
        self._signed_s = time.monotonic()
        try:
            await asyncio.to_thread(self.log.sign_head)
        except Exception as error:  # noqa: BLE001 - a disk that is full, a key that cannot be read: tried until it works
            message = error.message if isinstance(error, VeilscoreError) else type(error).__name__
            structlog.get_logger("veilscore.evidence.recorder").error("log is not signed", message=message)
            self._sign_soon(_AGAIN_S)

    def online_opened(self, opened: Sequence[OpeningLogged]) -> None:
        """Log at a holder, before its parts of scores or the circuits of bands leave, and ahead of a head."""
        said = {"policy": self._policy, "time_ms": self.log.now_ms()}
        self._append_ahead([{**one.entry(), **said} for one in opened])

    def renew_head(self, older_than_ms: int) -> None:
        """Sign the log anew if its head is older than that, since whoever countersigns looks at the date."""
        if self.log.now_ms() - self.log.head.time_ms > older_than_ms:
            self.noted("renewed")

    # heads of others

    @property
    def seen(self) -> dict[str, SignedHead]:
        """Return the last head seen of each other party."""
        with self._lock:
            return dict(self._seen)

    def keep_heads(self, heads: Mapping[str, SignedHead]) -> None:
        """Remember heads that were checked to continue those seen before; the log says which."""
        with self._lock:
            entries = [{"party": h.party, "size": h.size, "root": h.root} for _, h in sorted(heads.items())]
            self._append({"kind": "heads_seen", "heads": entries, "time_ms": self.log.now_ms()})
            self.remember(heads)

    def remember(self, heads: Mapping[str, SignedHead]) -> None:
        """Remember heads without a line in the log: one that names a head would be a new entry to countersign."""
        with self._lock:
            for name, head in heads.items():
                self._heads.save_json(name, head.model_dump(mode="json"))
                self._seen[name] = head

    def let_go(self, party: str) -> SignedHead:
        """Let a party's log begin anew or go on from an older copy: log the head seen last, and set it aside.

        Raises StateError where no head of this party was seen.
        """
        with self._lock:
            head = self._seen.get(party)
            if head is None:
                raise StateError(f"no head of {party}'s log was seen here; seen: {', '.join(sorted(self._seen))}")
            aside = JobStore(self._folder / "heads_let_go")
            aside.save_json(f"{party}-{head.size}", head.model_dump(mode="json"))
            self.noted("head_let_go", party=party, size=head.size, root=head.root)
            self._heads.delete(party)
            del self._seen[party]
            return head

    def noted(self, kind: str, **facts: Any) -> None:
        """Log an event of the node's own life."""
        self._append({"kind": kind, **facts, "time_ms": self.log.now_ms()})

    def keep_fork(self, fork: ForkError) -> Path:
        """Keep the proof that a party signed two histories, and return the file."""
        first, second = fork.heads
        path = JobStore(self._folder / "forks").path / f"{first.party}-{first.size}-{second.size}.json"
        body = canonical([first.model_dump(mode="json"), second.model_dump(mode="json")])
        write_atomically(path, lambda file: file.write(body))
        with contextlib.suppress(StateError):
            self.noted("fork_found", party=first.party)
        return path

    # receipts

    def save_receipt(self, receipt: JobReceipt) -> Path:
        """Keep a job's receipt, and return the file."""
        path = JobStore(self._folder / "receipts").path / f"{receipt.job_id}.json"
        write_atomically(path, lambda file: file.write(receipt.to_bytes()))
        return path

    def _seed(self, job_id: str) -> bytes:
        if not self._openings.has(job_id):
            self._openings.save_json(job_id, {"seed": secrets.token_hex(_SEED_BYTES)})
        return read_seed(self._openings, job_id)


def read_seed(openings: JobStore, job_id: str) -> bytes:
    """Return the secret of one job's salts; StateError if it is missing or damaged."""
    try:
        seed = bytes.fromhex(openings.load_json(job_id)["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"the opening of job {job_id} in {openings.path} is damaged") from error
    if len(seed) != _SEED_BYTES:
        raise StateError(f"the opening of job {job_id} in {openings.path} is damaged")
    return seed
