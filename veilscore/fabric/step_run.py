"""An attempt at a step drives one party's role, measures it, and says how it went.

What leaves the node is a `StepEvent`: progress, then done or failed. Others learn of an error about a party's own data
or the size of its overlap only that it refused; the full text stays in the node's ledger and log.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast
from typing import Protocol as Interface

import structlog
from google.protobuf.message import Message

from veilscore.errors import (
    DataError,
    IdentityError,
    PeerError,
    ProtocolError,
    RefusedError,
    VeilscoreError,
)
from veilscore.fabric.fabric import Fabric
from veilscore.files.machine import give_back_memory
from veilscore.files.store import JobStore
from veilscore.v1 import control_pb2
from veilscore.wire.driver import run
from veilscore.wire.protocol import Charge, Progress, Protocol, Session
from veilscore.wire.transcript import Transcript, TranscriptEntry

SESSION_ID = re.compile(r"(?P<job>[a-z0-9_-]{1,80})/(?P<step>[a-z0-9_.-]{1,60})/(?P<attempt>[1-9][0-9]{0,5})")
_PROGRESS_EVERY_S = 0.2


def session_id(job_id: str, step: str, attempt: int) -> str:
    """Return the id of the session of one attempt."""
    return f"{job_id}/{step}/{attempt}"


def parse_session_id(text: str) -> tuple[str, str, int]:
    """Return job, step and attempt of a session id; ProtocolError if it is malformed."""
    match = SESSION_ID.fullmatch(text)
    if match is None:
        raise ProtocolError("session id is malformed: expected job/step/attempt")
    return match["job"], match["step"], int(match["attempt"])


class MessageRecord(Interface):
    """Keeps each message of an attempt for an auditor; at a bank it is `evidence.opening.StepRecord`."""

    def add(self, entry: TranscriptEntry, payload: bytes) -> None:
        """Keep one message."""

    def close(self) -> None:
        """Stop recording."""


class _Guarded:
    """Makes a protocol one that can be stopped from outside."""

    def __init__(self, protocol: Protocol[None]) -> None:
        self._protocol = protocol
        self._lock = threading.Lock()
        self._stopped = False

    def send(self, answer: Message | None) -> Any:
        """Advance the protocol, unless it was stopped."""
        with self._lock:
            if self._stopped:
                raise PeerError("the step was stopped")
            return self._protocol.send(answer)

    def stop(self) -> None:
        """Wait until no thread computes in the protocol, then close it."""
        with self._lock:
            self._stopped = True
            self._protocol.close()


class StepRun:
    """Runs one attempt.

    protocol : this party's role.
    store : where checkpoints go.
    deadline_s : seconds until the attempt counts as failed.
    record : at the bank, keeps each message for an auditor.
    """

    def __init__(
        self,
        fabric: Fabric,
        session: Session,
        protocol: Protocol[None],
        store: JobStore,
        deadline_s: float,
        record: MessageRecord | None = None,
        spend: Callable[[Charge], None] | None = None,
    ) -> None:
        self.session = session
        self.failure: str | None = None
        self._record, self._spend = record, spend
        self.transcript = Transcript(sink=None if record is None else record.add)
        self._fabric = fabric
        self._guard = _Guarded(protocol)
        self._store = store
        self._deadline_s = deadline_s
        self._queue: asyncio.Queue[control_pb2.StepEvent] = asyncio.Queue()
        self._last_progress_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("veilscore.step").bind(party=session.party, session=session.id)

    async def events(self) -> AsyncGenerator[control_pb2.StepEvent, None]:
        """Run the attempt and yield progress and, last, done or failed; leaving the iterator stops it."""
        if self._task is not None:
            raise ProtocolError("an attempt runs once", session=self.session.id)
        self._task = asyncio.create_task(self._drive())
        try:
            while True:
                event = await self._queue.get()
                yield event
                if event.WhichOneof("event") != "progress":
                    return
        finally:
            await self.stop("its order was withdrawn")

    async def stop(self, reason: str) -> None:
        """Stop the attempt and return when nothing of it computes or writes any more."""
        task = self._task
        if task is not None and not task.done():
            self.failure = self.failure or f"stopped: {reason}"
            self._fabric.close_session(self.session.id, reason)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # shielded: whoever waits here may be cancelled, and a role must not compute on beside a new attempt
        await asyncio.shield(asyncio.to_thread(self._guard.stop))

    async def _drive(self) -> None:
        meter = _Meter()
        self._log.info("step started")
        event: control_pb2.StepEvent | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                await run(
                    cast("Protocol[None]", self._guard),
                    self._fabric.channel(self.session),
                    self.session,
                    transcript=self.transcript,
                    progress=self._progress,
                    checkpoint=self._checkpoint,
                    spend=self._spend,
                )
            event = control_pb2.StepEvent(done=meter.done(self._fabric, self.session.id))
        except asyncio.CancelledError:
            event = self._failed(PeerError(f"stopped at {self.session.party}", party=self.session.party))
            raise
        except TimeoutError:
            text = f"step took longer than {self._deadline_s:g} s; raise step_deadline_s or reduce the job"
            event = self._failed(ProtocolError(text, session=self.session.id, party=self.session.party))
        except Exception as error:  # noqa: BLE001 - nothing but known errors may leave the node
            event = self._failed(error)
        finally:
            self._fabric.close_session(self.session.id, self.failure or "the step has ended")
            # aside, since a node goes on answering meanwhile, and nobody waits for it
            asyncio.get_running_loop().run_in_executor(None, give_back_memory)
            self._queue.put_nowait(self._closed(event or self._failed(PeerError("ended without a result"))))

    def _closed(self, event: control_pb2.StepEvent) -> control_pb2.StepEvent:
        """Close what is kept for an auditor; an attempt of which it cannot be kept has failed."""
        try:
            if self._record is not None:
                self._record.close()
        except Exception as error:  # noqa: BLE001 - whoever waits for the attempt must learn of its end
            return self._failed(error)
        return event

    def _progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last_progress_s >= _PROGRESS_EVERY_S or progress.done >= progress.total:
            self._last_progress_s = now
            message = control_pb2.StepProgress(
                text=progress.text[:200], done=max(progress.done, 0), total=max(progress.total, 0)
            )
            self._queue.put_nowait(control_pb2.StepEvent(progress=message))

    def _checkpoint(self, state: dict[str, Any]) -> None:
        _, step, _ = parse_session_id(self.session.id)
        self._store.save_json(f"checkpoint_{step}", state, for_people=False)

    def _failed(self, error: BaseException) -> control_pb2.StepEvent:
        self.failure = f"{type(error).__name__}: {error}"
        if isinstance(error, VeilscoreError):
            self._log.warning("step failed", error=type(error).__name__, message=error.message)
        else:
            self._log.error("step failed", exc_info=error)
        return control_pb2.StepEvent(failed=told_to_others(error, self.session.party))


def told_to_others(error: BaseException, party: str) -> control_pb2.StepFailed:
    """Return what the coordinator and the other parties learn of an error at `party`."""
    name = type(error).__name__
    where = f"{party}'s own people see why with `veilscore job inbox` and in its log"
    if isinstance(error, DataError):
        return control_pb2.StepFailed(error=name, message=f"data of {party} cannot be used as it is; {where}")
    if isinstance(error, MemoryError):
        return control_pb2.StepFailed(error=name, message=f"{party} ran out of memory; use fewer rows")
    if not isinstance(error, VeilscoreError):
        return control_pb2.StepFailed(error="InternalError", message=f"internal error at {party}; {where}")
    return control_pb2.StepFailed(error=name, message=str(error)[:1000], retryable=is_retryable(error))


def is_retryable(error: BaseException) -> bool:
    """Return whether a new attempt may go better: a peer was lost, slow or restarted."""
    return isinstance(error, PeerError) and not isinstance(error, (IdentityError, RefusedError))


class _Meter:
    """Measures wall time, processor time and peak memory of this process while a step runs."""

    def __init__(self) -> None:
        # Linux resets the peak on this write; elsewhere the peak is that of the whole process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._wall_s = time.monotonic()
        self._cpu_s = time.process_time()

    def done(self, fabric: Fabric, session: str) -> control_pb2.StepDone:
        """Return everything measured since the start."""
        return control_pb2.StepDone(
            seconds=time.monotonic() - self._wall_s,
            cpu_seconds=time.process_time() - self._cpu_s,
            peak_memory_bytes=_peak_memory_bytes(),
            bytes_sent=fabric.bytes_sent(session),
            bytes_received=fabric.bytes_received(session),
            traffic=[
                control_pb2.KindCount(
                    sender=t.sender, recipient=t.recipient, kind=t.kind, messages=t.messages, bytes=t.bytes
                )
                for t in fabric.traffic(session)
            ],
        )


def _peak_memory_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
