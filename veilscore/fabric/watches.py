"""Runs the tasks of a node that never end by themselves; an error in one is logged, and one that ends ends the node."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import structlog

from veilscore.errors import StateError, VeilscoreError


class Watches:
    """Keeps a node's endless tasks by name.

    party : whose they are, for the log.
    """

    def __init__(self, party: str) -> None:
        self._party = party
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._log = structlog.get_logger("veilscore.watches").bind(party=party)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin a task that is to run until `stop`."""
        self._tasks[name] = asyncio.create_task(work)

    async def ended(self) -> None:
        """Wait for a task that has ended, and raise StateError that says which and why; wait for ever if there is none.

        A refusal of the task itself (an error of ours) is raised as it is.
        """
        if not self._tasks:
            await asyncio.Future()
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        name, task = next((name, task) for name, task in self._tasks.items() if task in done)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, VeilscoreError):
            self._log.error("watch ended", watch=name, message=error.message)
            raise error
        self._log.error("watch ended", watch=name, **described(error))
        why = "without an error" if error is None else f"by {type(error).__name__}"
        raise StateError(f"{name} ended {why}, so the node stops: start it again; its log says more", party=self._party)

    async def stop(self) -> None:
        """End all tasks."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def for_ever(
    pause_s: float,
    acts: Sequence[Callable[[], Awaitable[None]]],
    report: Callable[[Exception], None],
    *,
    at_once: bool = False,
) -> None:
    """Do all acts, again and again after a pause, the first time too unless `at_once`; an error goes to `report`.

    No error ends it. A cancellation that comes from inside an act, as of a call whose connection was closed, is an
    error like others: only who cancels this task itself ends it.
    """
    waits_s = 0.0 if at_once else pause_s
    while True:
        await asyncio.sleep(waits_s)
        waits_s = pause_s
        for act in acts:
            met: Exception
            try:
                await act()
                continue
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                met = StateError("a call inside was cancelled")
            except Exception as error:  # noqa: BLE001 - whatever a peer sent or a file holds, the watch goes on
                met = error
            with contextlib.suppress(Exception):  # a log that cannot be written ends no watch either
                report(met)


def is_cancelled() -> bool:
    """Return whether somebody cancelled the task that runs now; if not, a cancellation came from a call inside it."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def described(error: BaseException | None) -> dict[str, Any]:
    """Return type and places of an error for a log, without its text, which may hold a peer's bytes."""
    if error is None:
        return {}
    frames = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return {"error": type(error).__name__, "frames": frames[-5:]}
