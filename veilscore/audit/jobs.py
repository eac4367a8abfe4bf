"""Audits jobs by replay: runs the bank's role of an attempt again and compares it with what the other parties logged.

Source  : docs/adr/0009.
Inputs  : the bank's openings (`veilscore.evidence.opening`), all of them claims; and the other parties' signed logs or
          receipts, which hold a digest over all messages of each direction. A record of messages counts as far as its
          digests are those that the others signed.
Proves  : each message of the bank is the one that this version's role sends for the committed seed, job and files and
          the messages received; and what a step read from the job is what the earlier steps, run again, have made.
Does not: say that the data are true, nor see what a bank computes outside its role.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from google.protobuf.message import Message

from veilscore.audit.replay import GOOD, Differs, Ended, Finding, Unknown, Verdict, other_versions, replay
from veilscore.audit.same_files import canonical_json, json_of, same_content
from veilscore.errors import ConfigError, DataError, EvidenceError, ProtocolError, StateError, VeilscoreError
from veilscore.evidence.opening import (
    AUDIT,
    DATASET,
    FILES,
    MESSAGES,
    OPENING,
    Noted,
    Opening,
    content,
    read_messages,
    read_opening,
    software,
)
from veilscore.evidence.receipt import StepEntry, Traffic, digest_of
from veilscore.evidence.witness import Attempt
from veilscore.files.digests import file_digest
from veilscore.files.store import JobStore
from veilscore.keys.identity import utc_time
from veilscore.models.filed import load_model
from veilscore.protocols.commitment import bank_committed
from veilscore.tasks.context import StepContext
from veilscore.tasks.table import may_read, reads_of, role_of, step_of
from veilscore.terms.job import Job, check_job_id
from veilscore.terms.node_config import NodeConfig
from veilscore.wire.protocol import Protocol, Send, Session, decode, encode
from veilscore.wire.transcript import Transcript


@dataclass
class _Replay:
    """A finding, and what the replayed role left behind."""

    finding: Finding
    home: Path | None = None
    dataset: str = ""
    checkpoints: list[str] = field(default_factory=list)


class JobAudit:
    """Audits attempts of one job; a context manager, since replayed files are kept until its end.

    home : the bank's home, or a bundle made of it.
    logged : (step, attempt) -> party -> its entry of that attempt, from verified logs or receipts.
    data : the bank's data set where its opening could not keep a link to it.
    bound : (step, attempt) -> commitment in the bank's own log; None if that was not given.
    made : SHA-256 of the model that the bank states to have made in this job, where it does: online it names that.
    killed : (step, attempt) -> parties whose log has its beginning and no end; what there is of it is compared.
    charged : (step, attempt) -> when a holder last charged an opening in it (ms), and which.
    """

    def __init__(
        self,
        home: Path,
        job_id: str,
        job: Job,
        logged: Mapping[Attempt, Mapping[str, StepEntry]],
        data: Path | None = None,
        bound: Mapping[Attempt, str] | None = None,
        made: str | None = None,
        killed: Mapping[Attempt, frozenset[str]] | None = None,
        charged: Mapping[Attempt, tuple[int, str]] | None = None,
    ) -> None:
        check_job_id(job_id, job)
        self._killed, self._charged = killed or {}, charged or {}
        self.job_id, self.job = job_id, job
        self._folder = home / "jobs" / job_id / AUDIT
        self._logged, self._data, self._bound, self._made = logged, data, bound, made
        self._done: dict[Attempt, _Replay] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="veilscore-audit-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def finding(self, step: str, attempt: int) -> Finding:
        """Audit one attempt, and first what it was made from."""
        return self._replay(step, attempt).finding

    def findings(self) -> list[Finding]:
        """All attempts audited so far, those that others were made from included, in the order of the job."""
        order = self.job.steps
        keys = sorted(self._done, key=lambda key: (order.index(key[0]), key[1]))
        return [self._done[key].finding for key in keys]

    def _replay(self, step: str, attempt: int) -> _Replay:
        key = step, attempt
        if key not in self._done:
            replay = _Replay(Finding(self.job_id, step, attempt, "confirmed", self.job.bank, ""))
            verdict: Verdict = "confirmed"
            try:
                detail = self._audit(step, attempt, replay)
                verdict = "killed" if key in self._killed else verdict
            except Differs as found:
                verdict, detail = "differs", str(found)
            except Unknown as found:
                verdict, detail = "cannot be audited", str(found)
            replay.finding = Finding(self.job_id, step, attempt, verdict, self.job.bank, detail)
            self._done[key] = replay
        return self._done[key]

    def _audit(self, step: str, attempt: int, replay: _Replay) -> str:
        folder = self._folder / f"{step}.{attempt}"
        opening, noted = self._read(folder, f"{self.job_id}/{step}/{attempt}")
        entries = self._logged.get((step, attempt), {})
        killed = self._killed.get((step, attempt), frozenset())
        missing = [party for party in self.job.holders if party not in entries and party not in killed]
        if missing:
            raise Unknown(f"no log or receipt of {', '.join(missing)} shows this attempt")
        replay.dataset = opening.files.get(DATASET, "")
        if self._bound is not None and self._bound.get((step, attempt)) != opening.commitment.hex():
            raise Differs("the bank's own log does not hold the commitment of this opening")
        self._check_commitment(opening, noted)
        for party, entry in entries.items():
            self._check_logged(party, entry, noted, bank_killed=self.job.bank in killed)
        home = Path(self._scratch.name) / f"{step}.{attempt}"
        self._lay_out(folder, opening, home)
        self._check_origin(step, attempt, opening, home)
        done = not killed and all(entry.outcome == "done" for entry in entries.values())
        _Rerun(self.job, folder, opening, noted, home, done=done, killed=killed).run(replay, entries)
        replay.home = home
        model = self._model(step, opening, home)
        if step in {"evaluate", "choose"} and done and self._made is not None and self._made[:16] not in model:
            raise Differs(f"the bank states that the job made model {self._made[:16]}..., which it did not{model}")
        if killed:
            at_ms, what = self._charged.get((step, attempt), (0, ""))
            last = f"after {what}, {utc_time(at_ms / 1000):%Y-%m-%d %H:%M:%S} UTC" if what else "in it"
            compared = f"; {len(noted)} messages of it fit what {', '.join(entries)} logged" if entries else ""
            who = ", ".join(sorted(killed))
            return f"killed at {who}, or under way when the log was copied: nothing was opened {last}{compared}"
        sent = sum(n.entry.sender == self.job.bank for n in noted)
        end = "" if done else ", up to where the attempt failed"
        return f"{sent} messages sent and {len(noted) - sent} received, as logged by {', '.join(entries)}{end}{model}"

    def _model(self, step: str, opening: Opening, home: Path) -> str:
        """Say which model was evaluated or chosen; it must be the version that the job names."""
        paths = [home / name for name in opening.files if name.endswith("/model.json")]
        if step == "choose":  # it read those of all kinds, and made one of them the job's
            paths = [path for path in (home / "jobs" / self.job_id / "model.json",) if path.is_file()]
        if step not in {"evaluate", "choose", "score"} or not paths:
            return ""
        found = load_model(paths[0]).sha256.hex()
        approved = getattr(self.job.parameters, "model_sha256", None)
        if approved not in {None, found}:
            raise Differs(f"model {found[:16]} was evaluated, the job was approved for {approved[:16]}")
        return f"; model {found[:16]}..."

    def _read(self, folder: Path, session: str) -> tuple[Opening, list[Noted]]:
        try:
            opening = read_opening(folder)
            noted = self._noted(folder, session)
        except FileNotFoundError as error:
            raise Unknown("the bank kept no opening or no messages of it, or deleted them") from error
        except (EvidenceError, OSError, ValueError) as error:
            raise Differs(f"the opening or the record of messages was changed after the attempt: {error}") from error
        if opening.session != session or opening.job.encode() != self.job.canonical():
            raise Differs("the opening is that of another attempt or job")
        for other in self._folder.glob(f"*/{OPENING}"):
            with contextlib.suppress(EvidenceError, OSError):
                if other.parent != folder and read_opening(other.parent).seed == opening.seed:
                    raise Differs(f"the seed is that of attempt {other.parent.name} too; a seed serves one attempt")
        return opening, noted

    def _noted(self, folder: Path, session: str) -> list[Noted]:
        """Return the record of an attempt; one that was killed before the bank's first message has none."""
        _, step, attempt = session.split("/")
        unsent = not (folder / MESSAGES).exists() and (step, int(attempt)) in self._killed
        return [] if unsent else read_messages(folder, session)

    def _check_commitment(self, opening: Opening, noted: list[Noted]) -> None:
        """The first message to each holder binds the bank to this very opening."""
        for holder in self.job.holders:
            first = next((n.entry for n in noted if n.entry.recipient == holder), None)
            if first is not None and first.kind != "StepCommitment":
                raise Differs(f"{first.kind} number 0 to {holder} went out before a commitment")
        session = Session(opening.session, self.job.bank, self.job.bank, self.job.holders)
        for command in bank_committed(session, opening, _nothing()):
            if isinstance(command, Send):
                sent = next((n.entry for n in noted if n.entry.recipient == command.to), None)
                message = Transcript()
                message.add(session.id, session.party, command.to, 0, command.message, encode(command.message))
                if sent is not None and sent.sha256 != message.entries[0].sha256:
                    raise Differs(
                        f"StepCommitment number 0 to {command.to} is not that of the opening: the seed, the job or a "
                        "digest in it was changed after the attempt"
                    )

    def _check_logged(self, party: str, entry: StepEntry, noted: list[Noted], *, bank_killed: bool) -> None:
        """The bank's list of messages is the one that `party` signed, as far as both saw it."""
        bank, session = self.job.bank, f"{self.job_id}/{entry.step}/{entry.attempt}"
        for sender, recipient in ((bank, party), (party, bank)):
            stated = _between(entry.traffic, sender, recipient)
            mine = [n.entry for n in noted if (n.entry.sender, n.entry.recipient) == (sender, recipient)]
            count, expected = 0, digest_of(session, sender, recipient, [])
            if stated is not None:
                count, expected = stated.messages, stated.digest
            # of an attempt that failed, what one of the two sent last need not have come to the other
            failed, behind = entry.outcome == "failed", count - len(mine)
            if bank_killed and not failed and sender == party and behind > 0:
                continue  # this holder was done; its last messages came to nobody
            if failed and sender == party and stated is not None and behind > 0:
                if behind > len(stated.earlier):
                    raise Unknown(f"{party} sent {count} messages, the bank's record ends after {len(mine)}")
                expected = stated.earlier[behind - 1]
            extra = behind < 0 and not (failed and sender == bank)
            if digest_of(session, sender, recipient, mine[:count]) != expected or extra:
                raise Differs(f"the messages from {sender} to {recipient} in the record are not those {party} logged")

    def _lay_out(self, folder: Path, opening: Opening, home: Path) -> None:
        """Put the files that the step read where the role finds them, if they are those it was bound to."""
        reads = reads_of(self.job, opening.session.split("/")[1], self.job_id)
        if reads.data and DATASET not in opening.files:
            raise Unknown("the data set is in a database: what the step read of it was not kept")
        for name, expected in opening.files.items():
            if not may_read(name, reads):
                raise Differs(f"it is bound to {name}, which the step does not read")
            source, target = folder / FILES / name, home / name
            if name == DATASET:
                source = next(iter(sorted(folder.glob(f"{DATASET}*"))), self._data or folder / DATASET)
                target = home / f"{DATASET}{source.suffix}"
            if not source.is_file():
                raise Unknown(f"{name}, which the step read, is no longer there")
            if file_digest(source).hex() != expected:
                raise Differs(f"{name} is not the file that the attempt was bound to: it was changed afterwards")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def _check_origin(self, step: str, attempt: int, opening: Opening, home: Path) -> None:
        """What was read from the job's folder is what earlier steps make when they are run again."""
        # a refit begins with files of another job, which is audited by itself
        if step != "align" and "align" in self.job.steps and DATASET in opening.files:
            first = self._latest("align")
            if first is None or first.finding.verdict != "confirmed":
                raise Unknown("it goes on from step align, which is not confirmed")
            if first.dataset != opening.files[DATASET]:
                raise Differs("it reads another data set than the one that step align was bound to")
        own = f"jobs/{self.job_id}/"
        for path in (name for name in opening.files if name.startswith(own)):
            name = path.removeprefix(own)
            if name == f"checkpoint_{step}.json":
                self._check_checkpoint(step, attempt, home / path)
                continue
            made_by = step_of(self.job, step).reads[name]
            before = self._latest(made_by)
            if before is None or before.finding.verdict != "confirmed" or before.home is None:
                raise Unknown(f"it goes on from {name} of step {made_by}, which is not confirmed")
            if not same_content(before.home / path, home / path):
                hint = other_versions(opening.software, software())
                raise Differs(f"{name} is not what step {made_by} gives when it is run again{hint}")

    def _latest(self, step: str) -> _Replay | None:
        """Replay of the attempt of a step that was done."""
        done = [
            number
            for (name, number), entries in self._logged.items()
            if name == step and entries and all(entry.outcome == "done" for entry in entries.values())
        ]
        return self._replay(step, max(done)) if done else None

    def _check_checkpoint(self, step: str, attempt: int, path: Path) -> None:
        """A checkpoint is one that the attempt before left."""
        earlier = [number for number in range(1, attempt) if (self._folder / f"{step}.{number}").is_dir()]
        before = self._replay(step, max(earlier)) if earlier else None
        if before is None or before.finding.verdict not in GOOD:
            raise Unknown("it goes on from an earlier attempt, which is not confirmed")
        if json_of(path) not in before.checkpoints:
            raise Differs("the checkpoint it goes on from is not one that the attempt before left")


class _Rerun:
    """One run of the bank's role in memory, held against the list of messages (`veilscore.audit.replay.Record`)."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        opening: Opening,
        noted: list[Noted],
        home: Path,
        *,
        done: bool,
        killed: frozenset[str],
    ) -> None:
        self._job, self._folder, self._opening, self._done = job, folder, opening, done
        self._home, self._killed = home, killed
        self._hint = other_versions(opening.software, software())
        self._job_id, self._step, _ = opening.session.split("/")
        self._session = Session(opening.session, self._job.bank, self._job.bank, self._job.holders)
        self._queues: dict[tuple[str, str], list[Noted]] = {}
        for n in noted:
            self._queues.setdefault((n.entry.sender, n.entry.recipient), []).append(n)
        self._taken: Counter[tuple[str, str]] = Counter()
        self._checkpoints: list[str] = []

    def run(self, replayed: _Replay, entries: Mapping[str, StepEntry]) -> None:
        """Run it; raises what differs, or why there is no answer."""
        finished, self._checkpoints = False, replayed.checkpoints
        try:
            replay(bank_committed(self._session, self._opening, self._role()), self)
            finished = True
        except Ended:
            pass
        except (DataError, StateError, ConfigError) as error:
            if self._done:
                raise Unknown(f"the role cannot be run again: {error.message}") from error
        except (Differs, Unknown):
            raise
        except Exception as error:  # what a hostile opening brings about must not end the audit
            if self._done:
                raise Differs(
                    f"the role stops with {type(error).__name__}, where the bank went on{self._hint}"
                ) from error
        for (sender, recipient), queue in self._queues.items():
            due = self._due(sender, recipient, len(queue), entries)
            if sender == self._job.bank and self._taken[sender, recipient] < due:
                kind = queue[self._taken[sender, recipient]].entry.kind
                number = self._taken[sender, recipient]
                raise Differs(
                    f"{kind} number {number} to {recipient} is not sent when the role is run again{self._hint}"
                )
        if self._done and not finished:
            raise Differs(f"the role waits for another message where the bank had finished{self._hint}")

    def _due(self, sender: str, recipient: str, noted: int, entries: Mapping[str, StepEntry]) -> int:
        """Return how many messages the role has to send again: all of an attempt that was done.

        Of one that failed, what the bank was about to send need not have left it; who was killed states nothing.
        """
        stated = _between(entries[recipient].traffic, sender, recipient) if recipient in entries else None
        if self._done or (stated is None and recipient not in self._killed):
            return noted
        return 0 if stated is None else stated.messages

    def _role(self) -> Protocol[None]:
        try:
            node = NodeConfig.model_validate(json.loads(self._opening.node))
        except ValueError as error:
            raise Differs("the configuration in the opening cannot be read") from error
        data = next(iter(self._home.glob(f"{DATASET}*")), None)
        if data is not None:
            datasets = {name: d.model_copy(update={"path": data}) for name, d in node.datasets.items()}
            node = node.model_copy(update={"datasets": datasets})
        store = JobStore(self._home / "jobs" / self._job_id)
        context = StepContext(self._session, "bank", self._job, node, store, opening=self._opening)
        return role_of(self._step, context)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Note what a later attempt may go on from."""
        self._checkpoints.append(canonical_json(state))

    def sent(self, to: str, message: Message) -> None:
        """Compare one message with the one that was sent."""
        pair = self._job.bank, to
        number, queue = self._taken[pair], self._queues.get(pair, [])
        kind = type(message).__name__
        if number >= len(queue):
            if self._done:
                raise Differs(f"{kind} number {number} to {to} was never sent{self._hint}")
            raise Ended
        self._taken[pair] += 1
        again, sent = Transcript(), queue[number].entry
        again.add(self._session.id, self._job.bank, to, number, message, encode(message))
        if again.entries[0] != sent:
            raise Differs(
                f"{sent.kind} number {number} to {to} is not what the role sends for the committed seed and files"
                f"{self._hint}"
            )

    def received(self, sender: str, kind: type[Message]) -> Message:
        """Next message that the bank had received."""
        pair = sender, self._job.bank
        queue, number = self._queues.get(pair, []), self._taken[pair]
        if number >= len(queue):
            raise Ended
        self._taken[pair] += 1
        try:
            payload = content(self._folder, queue[number])
        except (EvidenceError, OSError) as error:
            raise Differs(f"the record of messages was changed after the attempt: {error}") from error
        try:
            return decode(payload, kind, session=self._session.id, sender=sender)
        except ProtocolError:
            if self._done:
                raise
            raise Ended from None


def job_of(home: Path, job_id: str) -> Job | None:
    """Job of an id as the bank's openings have it; None if it kept none."""
    for path in sorted(home.glob(f"jobs/{job_id}/{AUDIT}/*/{OPENING}")):
        with contextlib.suppress(VeilscoreError, OSError, ValueError):
            job = Job.model_validate_json(read_opening(path.parent).job)
            check_job_id(job_id, job)
            return job
    return None


def _nothing() -> Protocol[None]:
    return
    yield


def _between(traffic: Iterable[Traffic], sender: str, recipient: str) -> Traffic | None:
    return next((t for t in traffic if (t.sender, t.recipient) == (sender, recipient)), None)
