"""Runs one attempt at one step at all parties at once, and finds which of their errors is the cause."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from veilscore.errors import JobError, ProtocolError, RefusedError, VeilscoreError
from veilscore.fabric.step_run import is_retryable
from veilscore.v1 import control_pb2

_GRACE_S = 1.0  # the party where it began may report a moment after those who noticed
_WITHDRAW_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """How one party fared in an attempt; `status` is done, failed or stopped."""

    party: str
    status: str
    error: str = ""
    message: str = ""
    retryable: bool = False
    done: bytes = b""

    @property
    def text(self) -> str:
        """Say for a person what failed."""
        return f"{self.error}: {self.message}" if self.message else self.error


async def run_attempt(
    streams: Mapping[str, AsyncIterator[control_pb2.StepEvent]],
    progress: Callable[[str, control_pb2.StepProgress], None],
) -> dict[str, Outcome]:
    """Read all parties' events until all are done or one has failed; then withdraw the others' orders."""
    tasks = {asyncio.create_task(_one_party(party, stream, progress)): party for party, stream in streams.items()}
    pending = set(tasks)
    try:
        while pending:
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result().status != "done" for task in finished):
                if pending:
                    await asyncio.wait(pending, timeout=_GRACE_S)
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_WITHDRAW_S)
    return {
        party: task.result() if task.done() and not task.cancelled() else Outcome(party, "stopped")
        for task, party in tasks.items()
    }


async def _one_party(
    party: str, stream: AsyncIterator[control_pb2.StepEvent], progress: Callable[[str, control_pb2.StepProgress], None]
) -> Outcome:
    try:
        async with contextlib.aclosing(stream) as events:  # type: ignore[type-var]
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "done":
                    return Outcome(party, "done", done=event.done.SerializeToString())
                if kind == "failed":
                    failed = event.failed
                    return Outcome(party, "failed", failed.error[:60], failed.message[:1000], failed.retryable)
                if kind == "progress":
                    progress(party, event.progress)
    except VeilscoreError as error:
        return Outcome(party, "failed", type(error).__name__, str(error), is_retryable(error))
    return Outcome(party, "failed", "PeerError", f"{party} ended the step without a result", retryable=True)


def cause(outcomes: Mapping[str, Outcome]) -> Outcome | None:
    """Return the failure to name: a final one before a lost peer, a lost peer before messages out of order."""
    failed = [o for o in outcomes.values() if o.status == "failed"]

    def rank(outcome: Outcome) -> int:
        if outcome.retryable:
            return 1
        return 2 if outcome.error == ProtocolError.__name__ else 0

    return min(failed, key=rank, default=None)


def step_error(job_id: str, step: str, failure: Outcome, tries: int) -> VeilscoreError:
    """Return the error of a step that is not tried again: party, step, cause, what to do."""
    if failure.error == RefusedError.__name__:
        return RefusedError(f"step {step}: {failure.message}", party=failure.party)
    times = f" after {tries} attempts" if tries > 1 else ""
    advice = (
        f"see that the node of {failure.party} runs and can be reached, then `veilscore job resume {job_id}`"
        if failure.retryable
        else f"correct the cause, then `veilscore job resume {job_id}` or run a corrected job"
    )
    return JobError(
        f"step {step} failed at {failure.party}{times}: {failure.text}. What to do: {advice}", party=failure.party
    )
