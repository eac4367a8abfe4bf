"""What the bank keeps after responses have left: answers for an auditor, and receipts.

Nobody waits for it, so it is done for all that have gathered at once, in one thread: many threads would hold up each
other and the event loop, and a head of the log serves the receipts of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_LEFT_S = 0.005  # until a response has left the machine, before what comes after it begins
_MORE_S = 0.1  # while responses go on leaving, so that many share the work


class Afterwards(Generic[T]):
    """Does work for what gathers, a little later.

    work : does it for some, in a thread; it raises nothing.
    """

    def __init__(self, work: Callable[[Sequence[T]], None]) -> None:
        self._work = work
        self._gathered: list[T] = []
        self._running: asyncio.Task[None] | None = None

    def add(self, one: T) -> None:
        """Have it done soon, with others."""
        self._gathered.append(one)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        wait_s = _LEFT_S
        try:
            while self._gathered:
                await asyncio.sleep(wait_s)
                group, self._gathered = self._gathered, []
                await asyncio.to_thread(self._work, group)
                wait_s = _MORE_S
        finally:
            self._running = None

    async def close(self) -> None:
        """Return once all is done that has gathered."""
        if self._running is not None:
            await self._running
