"""Virtual time, and processes that share one event loop: a killed one is never stepped again, as after kill -9.

Import this before anything of the product: functions that read a clock may be bound when a module is loaded.
Threads are turns of the loop here, so that a seed decides the whole order of a run.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import selectors
import time
from dataclasses import dataclass, field
from typing import Any

_REAL = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns")}
_KEPT: list[Any] = []  # tasks of all processes: one that is collected would run its `finally`
PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class KilledError(BaseException):
    """Ends what a killed process still computes."""


class DeadlockError(RuntimeError):
    """All wait, and nothing is due."""


class Clock:
    """Seconds that pass only when nobody has anything to do."""

    now: Clock | None = None

    def __init__(self) -> None:
        self.start_s, self.passed_s = _REAL["time"](), 0.0


@dataclass(eq=False)
class Process:
    """One run of a node, from its start until it is killed or stops.

    skew_s : how far its clock is ahead of the others'.
    kill_at : turns of the loop after which it is killed.
    on_death : called once when it is killed, at its last moment.
    """

    name: str
    alive: bool = True
    skew_s: float = 0.0
    turns: int = 0
    kill_at: int | None = None
    on_death: list[Any] = field(default_factory=list)

    def turn(self) -> None:
        """Count a turn, and end at the one that was drawn."""
        self.turns += 1
        if self.kill_at is not None and self.turns >= self.kill_at:
            self.kill()

    def kill(self) -> None:
        """End without another word."""
        if self.alive:
            self.alive = False
            for act in self.on_death:
                contextvars.Context().run(act, self)  # outside of the process that ends

    def check(self) -> None:
        """Raise KilledError in what runs on after the end."""
        if not self.alive:
            raise KilledError(self.name)


def _wall_s() -> float:
    clock = Clock.now
    if clock is None:
        return _REAL["time"]()
    process = PROCESS.get()
    return clock.start_s + clock.passed_s + (process.skew_s if process else 0.0)


def _monotonic_s() -> float:
    return _REAL["monotonic"]() if Clock.now is None else 1000.0 + Clock.now.passed_s


time.time, time.monotonic = _wall_s, _monotonic_s
time.time_ns = lambda: int(_wall_s() * 1e9)
time.monotonic_ns = lambda: int(_monotonic_s() * 1e9)


class _Selector(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError
        self._clock.passed_s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs all processes in turns; `rng` draws how long what others do in threads takes."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._virtual, self._rng = clock, rng
        super().__init__(_Selector(clock))
        self.set_task_factory(self._task)

    def time(self) -> float:
        return self._virtual.passed_s

    def _task(self, loop: Any, coroutine: Any, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
        made = asyncio.Task(coroutine, loop=loop, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            _KEPT.append(made)
        return made

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            if process.alive:
                process.turn()
            if not process.alive:
                return asyncio.Handle(_nothing, (), self, context)
        return super().call_soon(_living, process, callback, args, context=context)

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        return super().call_at(when, _living, process, callback, args, context=context)

    def run_in_executor(self, _executor: Any, work: Any, *args: Any) -> asyncio.Future[Any]:
        """Work in a turn of its own, a moment later; whoever is killed between does not learn of the result."""
        done = self.create_future()

        def run() -> None:
            try:
                found = work(*args)
            except BaseException as error:  # noqa: BLE001 - as a thread hands it over
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(found)

        self.call_later(self._rng.choice((0.0, 0.001, 0.02)), run)
        return done


def _living(process: Process | None, callback: Any, args: Any) -> None:
    if process is None or process.alive:
        callback(*args)


def _nothing() -> None:
    pass
