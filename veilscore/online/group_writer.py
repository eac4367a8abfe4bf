"""Writes to disk what callers wait for: all that waits at once goes in one write, and a lone one waits for nobody.

One fsync costs as much for twenty entries as for one. While a write is under way others gather for the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from veilscore.errors import StateError, VeilscoreError

T = TypeVar("T")
R = TypeVar("R")


class GroupWriter(Generic[T, R]):
    """One thread that writes for a node.

    write : puts some on disk, in order, and returns for each what came of it, an error too; what it raises all get.
    """

    def __init__(self, write: Callable[[Sequence[T]], Sequence[R | VeilscoreError]]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._at_work = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="veilscore-writer")

    async def put(self, one: T) -> R:
        """Return once it is on disk; a caller that gives up does not stop it. Raises what it came to."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[R] = loop.create_future()
        with self._lock:
            self._waiting.append((one, written))
            begin, self._at_work = not self._at_work, True
        if begin:
            try:
                self._thread.submit(self._write_all, loop)
            except RuntimeError:
                with self._lock:
                    self._waiting, self._at_work = [], False
                raise StateError("the node is stopping; repeat the request when it is up again") from None
        return await written

    def _write_all(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                group, self._waiting = self._waiting, []
                if not group:
                    self._at_work = False
                    return
            found: Sequence[R | BaseException]
            try:
                found = self._write([one for one, _ in group])
            except Exception as error:  # noqa: BLE001 - whoever waits learns of it
                found = [error] * len(group)
            loop.call_soon_threadsafe(_tell, group, found)

    def close(self) -> None:
        """End once all that waits is written."""
        self._thread.shutdown(wait=True)


def _tell(group: Sequence[tuple[T, asyncio.Future[R]]], found: Sequence[R | BaseException]) -> None:
    for (_, written), result in zip(group, found, strict=True):
        if written.done():  # its caller has given up
            continue
        if isinstance(result, BaseException):
            written.set_exception(result)
        else:
            written.set_result(result)
