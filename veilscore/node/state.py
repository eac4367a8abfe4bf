"""Holds a node's state files against its own log when it starts, so that a lost or older file is noticed.

What a file must hold follows from the log: answers and attempts (state/jobs), charges (state/account.db), parts of
single scores (state/online.db, state/release.db), and from `state` entries, which note after each step and at each
stop how much there was. The log itself is held against the heads of it in the receipts that others countersigned.
A node that forgot would open again what it opened already, so it does not start; `mend` is the way out.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilscore.errors import EvidenceError, StateError, VeilscoreError
from veilscore.evidence.facts import policy_digest
from veilscore.evidence.head_watch import BEHIND, read_behind
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import FOLDER, LOG_FILE, Log
from veilscore.evidence.online_opening import NOT_LEFT
from veilscore.evidence.receipt import JobReceipt
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.process import only_one
from veilscore.files.backup import RESTORED
from veilscore.files.journal import CUT, Journal
from veilscore.files.sqlite_file import told
from veilscore.release.account import FILE, Account, AccountLine, Line, charged, voided, write_back
from veilscore.release.consent import Signed, body_of
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.terms.federation import Federation
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.settings import read_text
from veilscore.wire.protocol import Charge

JOBS, ANSWERED = "state/jobs", "state/online.db"
REVOCATIONS = "consents/revocations"
_GROWING = (  # file, what it holds, and the query of how much: rows that are never deleted, numbers that only rise
    (LEDGER, "releases", "SELECT COUNT(*) FROM releases"),
    (LEDGER, "tokens", "SELECT COUNT(*) FROM tokens"),
    (LEDGER, "pins", "SELECT COUNT(*) FROM pins"),
    (LEDGER, "submitted", "SELECT COUNT(*) FROM submitted"),
    (ANSWERED, "marks", "SELECT COALESCE(SUM(mark), 0) FROM marks"),
    (FILE, "voided", "SELECT COUNT(*) FROM voided"),
    (FILE, "exact_rows", "SELECT COUNT(*) FROM exact_rows"),
)
_RANK = {"pending": 0, "accepted": 1, "refused": 2, "cancelled": 2}
_NEWEST = 256  # single scores that are looked up; an older file lacks the newest
_RECEIPTS = 64
_UNSAFE_S = 60.0  # a loss of power may take so much of a journal with it, which is not synced at each entry
_CUT_S = 15.0  # a kill between two writes that are under way at once; one waits for a lock that long at most
_KEPT_S = 89 * 86400.0  # the journal forgets after 90 days


@dataclass(frozen=True)
class Gap:
    """What a state file lacks.

    fill : writes it back from the log; None where the log does not hold enough for that.
    jobs : ids of those that are lost.
    """

    file: str
    lacks: str
    fill: Callable[[], object] | None = None
    jobs: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Opened:
    reference: str
    time_s: float
    counted: bool
    answered: bool  # so that the journal has it; not of a record that was sent alone


class LoggedState:
    """Gathers from a log, as it is read, what the state files of a home must hold."""

    def __init__(self, home: Path, node: NodeConfig) -> None:
        self._home, self._node = home, node
        self._policy = policy_digest(node) if node.policy.release.control == "on" else ""
        self._answers: dict[str, str] = {}
        self._attempts: dict[str, dict[str, int]] = {}
        self._charges: dict[tuple[str, ...], AccountLine] = {}
        self._opened: deque[_Opened] = deque(maxlen=_NEWEST)
        self._counts: dict[str, int] = {}
        self._last_s = 0.0

    def visit(self, entry: dict[str, Any]) -> None:
        """Take in one entry, in the order of the log; EvidenceError if it is of a known kind and misses a field."""
        try:
            self._take(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvidenceError(f"the log holds an entry of kind {entry.get('kind')!r} that is none") from error

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry.get("kind")
        self._last_s = time_s = entry.get("time_ms", 0) / 1000
        if kind == "answer":
            self._answers[entry["job_id"]] = entry["answer"]
        elif kind == "step":
            steps = self._attempts.setdefault(entry["job_id"], {})
            steps[entry["step"]] = max(entry["attempt"], steps.get(entry["step"], 0))
        elif kind == "spent":
            charge = Charge(entry["opening"], entry["rows"], float(entry["mu2"]))
            line = Line(entry["job_id"], entry["step"], entry["attempt"], charge, time_s)
            owned = AccountLine(entry["account"], entry["bank"], line)
            self._charges[owned.key] = owned
        elif kind in {"share_opened", "decision_part_opened", "record_told"}:
            counted = bool(self._policy) and entry["policy"] == self._policy
            answered = kind != "record_told"
            self._opened.append(_Opened(f"{entry['bank']}/{entry['request']}", time_s, counted, answered))
        elif kind == NOT_LEFT:
            undone = set(entry["references"])
            self._opened = deque((one for one in self._opened if one.reference not in undone), maxlen=_NEWEST)
        elif kind == "state":
            self._counts = dict(entry["counts"])
        elif kind == "mended":  # what could not be written back was let go
            self._counts = {}
            self._opened.clear()
            for job_id in entry["jobs"]:
                del self._answers[job_id]

    def gaps(self, ledger: Ledger) -> list[Gap]:
        """Return what is missing; StateError where a file cannot be read."""
        return [*self._jobs(ledger), *self._account(), *self._releases(), *self._journal(), *self._counted()]

    def check(self, ledger: Ledger, log: Log) -> None:
        """Refuse to go on with files that are older than the log, or a log that is older than its countersigned heads.

        Raises StateError or EvidenceError, which name the file and the way out.
        """
        _check_receipts(self._home, self._node.name, log)
        found = self.gaps(ledger)
        if not found:
            return
        lost = [gap for gap in found if gap.fill is None]
        more = " --accept-loss` goes on without it and logs that" if lost else "` writes it back from the log"
        said = "; ".join(f"{gap.file} lacks {gap.lacks}" for gap in (lost or found)[:3])
        raise StateError(
            f"{said}: lost, or older than the log; restore it from a backup as new as the log, or, where there is "
            f"none, `veilscore node mend {shlex.quote(str(self._home))}{more}",
            party=self._node.name,
        )

    def _jobs(self, ledger: Ledger) -> list[Gap]:
        unknown = [job_id for job_id in self._answers if ledger.get(job_id) is None]
        behind = [
            (job_id, answer)
            for job_id, answer in self._answers.items()
            if (entry := ledger.get(job_id)) is not None and _RANK[entry.status] < _RANK[answer]
        ]
        begun = [
            (job_id, step, attempt)
            for job_id, steps in self._attempts.items()
            if (entry := ledger.get(job_id)) is not None
            for step, attempt in steps.items()
            if attempt > entry.attempts.get(step, 0)
        ]
        found = [Gap(JOBS, f"{len(unknown)} job(s), such as {unknown[0]}", jobs=tuple(unknown))] if unknown else []
        if behind or begun:

            def fill() -> None:
                for job_id, answer in behind:
                    ledger.answer(job_id, answer, "as its log says")
                for job_id, step, attempt in begun:
                    ledger.begin(job_id, step, attempt)

            found.append(Gap(JOBS, f"{len(behind)} answer(s) and {len(begun)} attempt(s)", fill))
        return found

    def _account(self) -> list[Gap]:
        kept, exact = charged(self._home / FILE), voided(self._home / FILE)
        lines = [
            line
            for key, line in self._charges.items()
            if (key[:3] not in exact if line.line.charge.mu2 == math.inf else kept.get(key) != line.line.charge)
        ]
        return [Gap(FILE, f"{len(lines)} charge(s)", lambda: write_back(self._home / FILE, lines))] if lines else []

    def _journal(self) -> list[Gap]:
        """Say what the journal lacks; ids of requests that a crash may have taken with it are used up at once."""
        oldest_s = time.time() - _KEPT_S
        recent = [one for one in self._opened if one.time_s > oldest_s and one.answered]
        if not recent:
            return []
        with contextlib.closing(Journal(self._home / ANSWERED)) as journal:
            lost = [one for one in recent if journal.get(one.reference) is None]
            if all(one.time_s > self._last_s - _UNSAFE_S for one in lost):
                _use_up(journal, lost)
                return []

        def fill() -> None:
            with contextlib.closing(Journal(self._home / ANSWERED)) as again:
                _use_up(again, lost)

        return [Gap(ANSWERED, f"{len(lost)} answered request(s)", fill)]

    def _releases(self) -> list[Gap]:
        """Say what the ledger lacks, but for what a kill cut: it was logged, and not sent before it was counted."""
        counted = [one for one in self._opened if one.counted]
        if not counted:
            return []
        with contextlib.closing(ReleaseLedger(self._home / LEDGER)) as ledger:
            missing = [one for one in counted if not ledger.knows(one.reference)]
        if not missing:
            return []
        with contextlib.closing(Journal(self._home / ANSWERED)) as journal:
            kept = [journal.get(one.reference) for one in missing]
            cut = [
                one
                for one, answer in zip(missing, kept, strict=True)
                if (one.time_s > self._last_s - _CUT_S if answer is None else answer[0] == CUT)
            ]
            _use_up(journal, cut, CUT)
        lost = len(missing) - len(cut)
        return [Gap(LEDGER, f"{lost} of the last {len(counted)} single firms opened")] if lost else []

    def _counted(self) -> list[Gap]:
        now = counts_of(self._home)
        return [
            Gap(name.rpartition(":")[0], f"{count - now.get(name, 0)} of {count} {name.rpartition(':')[2]}")
            for name, count in self._counts.items()
            if now.get(name, 0) < count
        ]


def counts_of(home: Path) -> dict[str, int]:
    """Return how much each state file holds that only grows, by `file:what`; what is empty is left out.

    Raises StateError where a file cannot be read.
    """
    found = {f"{file}:{table}": _amount(home / file, table, query) for file, table, query in _GROWING}
    revoked: set[str] = set()
    numbers: dict[str, int] = {}
    for path in sorted((home / REVOCATIONS).glob("*.json")):
        body = body_of(Signed.from_text(read_text(path, "revocations"), str(path)))
        named = body.get("revoked")
        revoked |= {str(one) for one in named} if isinstance(named, list) else set()
        issuer, number = str(body.get("issuer")), body.get("number")
        numbers[issuer] = max(numbers.get(issuer, 0), number if isinstance(number, int) else 0)
    found[f"{REVOCATIONS}:revoked consents"] = len(revoked)
    found[f"{REVOCATIONS}:numbers of revocation lists"] = sum(numbers.values())
    return {name: count for name, count in found.items() if count}


def mend(home: Path, *, accept_loss: bool = False, let_go: Sequence[str] = ()) -> list[str]:
    """Write back from a node's log what its state files lack, log it, and return what was done, a line a file.

    accept_loss : go on without what the log does not hold enough of, where no backup has it; of entries that others
        countersigned and no backup has, nobody knows what they opened, so no promise of any account holds from then on.
    let_go : other members that lost the end of their log: what was seen of it here is logged and set aside.
    Raises StateError where something would be lost and that was not accepted; JobError where the node runs.
    """
    node = load_node_config(home)
    identity, federation = load_membership(home, node)
    with only_one(home):
        recorder = EvidenceRecorder(home, node, lambda: identity, lambda: federation)
        logged, ledger = LoggedState(home, node), Ledger(home / JOBS)
        with contextlib.closing(recorder):
            recorder.open(visit=logged.visit)
            found = logged.gaps(ledger)
            behind = read_behind(home)
            cut = behind is not None and not recorder.log.continues(behind)
            if behind is not None and cut:
                found.append(Gap(f"{FOLDER}/{LOG_FILE}", f"entries up to {behind.size}, which others countersigned"))
            lost = [f"{gap.file}: {gap.lacks}" for gap in found if gap.fill is None]
            if lost and not accept_loss:
                raise StateError(
                    f"the log does not hold enough to write back {'; '.join(lost)}: restore the file from backup, or "
                    "say --accept-loss to go on without it",
                    party=node.name,
                )
            for gap in found:
                if gap.fill is not None:
                    gap.fill()
            if found:
                back = [f"{gap.file}: {gap.lacks}" for gap in found if gap.fill is not None]
                recorder.state_mended(back, lost, [job_id for gap in found for job_id in gap.jobs])
            if cut:
                _promise_nothing(home, node, federation)
            if accept_loss or not cut:
                (home / BEHIND).unlink(missing_ok=True)
            if accept_loss:
                (home / RESTORED).unlink(missing_ok=True)
            gone = [f"head of {party} of {recorder.let_go(party).size} entries: let go" for party in let_go]
    return gone + [f"{gap.file}: {gap.lacks} {'lost' if gap.fill is None else 'written back'}" for gap in found]


def _promise_nothing(home: Path, node: NodeConfig, federation: Federation) -> None:
    """End the promise of every account of a holder, as exact mode does."""
    names = {d.account or name for name, d in node.datasets.items()} if node.role == "holder" else set()
    for bank in (m.name for m in federation.members if m.role == "bank"):
        for name in sorted(names):
            Account(home / FILE, name, bank, node.policy.privacy).void("the end of the log was lost")


def _use_up(journal: Journal, opened: Sequence[_Opened], digest: bytes = b"") -> None:
    """Keep, in place of lost answers, that their request ids were used: a repeat is refused."""
    for one in opened:
        journal.keep(one.reference, digest, b"")


def _amount(path: Path, table: str, query: str) -> int:
    if not path.is_file():
        return 0
    with (
        told(f"state file {path}", "restore it from backup"),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
    ):
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        return int(db.execute(query).fetchone()[0]) if there else 0


def _check_receipts(home: Path, name: str, log: Log) -> None:
    """Refuse a log that lacks what others countersigned of it, by the newest receipts here."""
    paths = sorted((home / FOLDER / "receipts").glob("*.json"), key=lambda path: path.stat().st_mtime)[-_RECEIPTS:]
    for path in paths:
        try:
            heads = [logged.head for logged in JobReceipt.parse(path.read_bytes()).statements]
        except (OSError, VeilscoreError) as error:
            raise StateError(f"receipt {path} is damaged: restore it from backup, or move it away") from error
        for head in heads:
            if head.party == name and not log.continues(head):
                raise EvidenceError(
                    f"the log ends before entry {head.size}, or goes another way, although others countersigned it "
                    f"there ({path.name}): it was cut or is an older copy; restore {home / FOLDER} from a backup as "
                    "new as that",
                    party=name,
                )
