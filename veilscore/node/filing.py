"""At the end of a job each party files what the job made of a model: all do, or none.

A step leaves its part of a model in the job's folder. Once every step is done at every party, which the coordinator
writes down first, nothing can fail any more, and the coordinator tells each party that the job has ended (EndJob). A
party files then, if its own steps are all done: no word of the coordinator makes it file what it refused. A party that
was down when the word came asks for it (JobEnded) when it starts, and until it is answered.

Messages: EndJob, from the coordinator; JobEnded, to it, which is answered with the same.
Reveals : that the job is done, and why it has no receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from veilscore.errors import JobError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger, LedgerEntry
from veilscore.evidence.log import FOLDER
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.watches import described, for_ever
from veilscore.files.store import JobStore
from veilscore.models.versions import file_model, file_screening, finish_switches, in_use
from veilscore.terms.federation import Member
from veilscore.terms.job import Job, check_job_id
from veilscore.v1 import control_pb2 as pb

POLL_S, _LONGEST_PAUSE_S = 10.0, 600.0
CALL_S = 5.0
END = "end"  # of a job's folder: how it ended, and whether its model is filed


class Filing:
    """Files models at one party, and knows how its jobs ended.

    own_steps : the steps of a job that this party takes part in.
    fabric : the node's own; `EndJob` is registered at it.
    """

    def __init__(
        self,
        home: Path,
        ledger: Ledger,
        recorder: EvidenceRecorder,
        fabric: Fabric,
        own_steps: Callable[[Job], tuple[str, ...]],
    ) -> None:
        self._home, self._ledger, self._recorder, self._fabric = home, ledger, recorder, fabric
        self._own_steps, self._lock = own_steps, asyncio.Lock()
        self._log = structlog.get_logger("veilscore.node.filing").bind(party=fabric.name)
        self._settled: set[str] = set()
        self._filing: set[asyncio.Task[None]] = set()
        self._due: dict[str, tuple[float, float]] = {}  # job -> when it is asked about next, and the pause till then
        fabric.register("EndJob", {"coordinator"}, pb.JobEnd, self._ended)

    def is_done(self, entry: LedgerEntry) -> bool:
        """Return whether this party accepted the job and has done all its steps."""
        return entry.status == "accepted" and all(step in entry.done for step in self._own_steps(entry.job))

    def receipt(self, entry: LedgerEntry) -> str:
        """Say of a job that is done whether this party has its receipt, and if not, why."""
        if not self.is_done(entry):
            return ""
        if (self._home / FOLDER / "receipts" / f"{entry.job_id}.json").is_file():
            return "kept"
        said = self._end_of(entry.job_id).get("no_receipt") or "the coordinator has not told how the job ended"
        return f"no receipt, because {said}"

    async def _ended(self, end: pb.JobEnd, _peer: Member) -> pb.Empty:
        entry = self._ledger.entry(check_job_id(end.job_id))
        if not end.done or not self.is_done(entry):
            raise JobError(f"job {entry.job_id} is not done at {self._fabric.name}", party=self._fabric.name)
        await self._file(entry, end.no_receipt[:1000])
        return pb.Empty()

    def finish(self) -> None:
        """Go on with what a crash interrupted, before anything applies a model."""
        finish_switches(self._home)
        for entry in self._ledger.entries():
            if self._end_of(entry.job_id).get("filed") is False:
                self._file_now(entry, self._end_of(entry.job_id))

    async def watch(self) -> None:
        """Ask about jobs whose end this party was not told, for ever."""
        await for_ever(POLL_S, (self.ask_all, self.note_switches), self._failed)

    async def note_switches(self) -> None:
        """Log which version of a model is in use where it is another than the log says, as after `model rollback`."""
        async with self._lock:
            for name, job_id in (await asyncio.to_thread(in_use, self._home)).items():
                before = self._recorder.in_use.get(name, "")
                if before != job_id:
                    await asyncio.to_thread(
                        partial(self._recorder.noted, "in_use", model=name, job_id=job_id, before=before)
                    )
                    self._log.warning("another version of a model is in use", model=name, job=job_id, before=before)

    async def ask_all(self, timeout_s: float = CALL_S) -> None:
        """Ask the coordinators once how the jobs ended whose own steps are done here."""
        for entry in self._ledger.entries():
            if entry.job_id in self._settled or not self.is_done(entry):
                continue
            if known := self._end_of(entry.job_id):
                if not known.get("filed"):  # the disk was full when its end was told
                    await self._file(entry, "")
                self._settled.add(entry.job_id)
                continue
            at_s, pause_s = self._due.get(entry.job_id, (0.0, POLL_S))
            if time.monotonic() < at_s:
                continue
            self._due[entry.job_id] = time.monotonic() + pause_s, min(2 * pause_s, _LONGEST_PAUSE_S)
            with contextlib.suppress(VeilscoreError):  # it is down, or has lost the job: asked again
                end = await self._fabric.call(
                    entry.job.coordinator,
                    "JobEnded",
                    pb.JobRef(job_id=entry.job_id),
                    pb.JobEnd,
                    timeout_s=timeout_s,
                    retry=False,
                )
                if end.done and end.job_id == entry.job_id:
                    await self._file(entry, end.no_receipt[:1000])

    def _failed(self, error: Exception) -> None:
        said = {"message": error.message} if isinstance(error, VeilscoreError) else described(error)
        self._log.error("filing", **said)

    async def _file(self, entry: LedgerEntry, no_receipt: str) -> None:
        """File to the end, whoever gives up waiting: a call that is cut off must not leave it half done."""
        filing = asyncio.create_task(self._file_whole(entry, no_receipt))
        self._filing.add(filing)
        filing.add_done_callback(self._filing.discard)
        await asyncio.shield(filing)

    async def _file_whole(self, entry: LedgerEntry, no_receipt: str) -> None:
        async with self._lock:
            if not self._end_of(entry.job_id):
                end = {"no_receipt": no_receipt, "filed": False}
                await asyncio.to_thread(self._store(entry).save_json, END, end)
            await asyncio.to_thread(self._file_now, entry, self._end_of(entry.job_id))

    def _file_now(self, entry: LedgerEntry, end: dict[str, object]) -> None:
        """File the job's model once; what a crash leaves between two lines is done again at the next start."""
        if end.get("filed"):
            return
        file_screening(self._home, entry.job_id, entry.job.name)
        if file_model(self._home, entry.job_id, entry.job.name):
            self._recorder.noted("filed", job_id=entry.job_id)
            self._log.info("model filed", job=entry.job_id)
        self._store(entry).save_json(END, {**end, "filed": True})

    def _store(self, entry: LedgerEntry) -> JobStore:
        return JobStore(self._home / "jobs" / entry.job_id)

    def _end_of(self, job_id: str) -> dict[str, object]:
        store = self._home / "jobs" / job_id
        if not (store / f"{END}.json").is_file():
            return {}
        found = JobStore(store).load_json(END)
        return found if isinstance(found, dict) else {}
