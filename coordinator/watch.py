"""Hands live events of jobs to whoever watches; late comers get the newest progress of each party first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from veilscore.v1.control_pb2 import JobEvent

_QUEUE_LENGTH = 1000


class Watchers:
    """Broadcasts job events within one process."""

    def __init__(self) -> None:
        self._queues: dict[str, set[asyncio.Queue[JobEvent | None]]] = {}
        self._latest: dict[str, dict[tuple[str, str], JobEvent]] = {}

    def publish(self, event: JobEvent) -> None:
        """Hand an event to all who watch its job; one who does not read loses progress, not the end."""
        if event.step:
            self._latest.setdefault(event.job_id, {})[event.party, event.step] = event
        for queue in self._queues.get(event.job_id, ()):
            if queue.qsize() < _QUEUE_LENGTH:
                queue.put_nowait(event)

    def close(self, job_id: str) -> None:
        """End the job's streams: it is done, failed, refused or cancelled."""
        self._latest.pop(job_id, None)
        for queue in self._queues.get(job_id, ()):
            queue.put_nowait(None)

    def close_all(self) -> None:
        """End all streams."""
        for job_id in list(self._queues):
            self.close(job_id)

    async def follow(self, job_id: str, ended: Callable[[], bool]) -> AsyncGenerator[JobEvent, None]:
        """Yield the newest progress, then events as they come, until the job ends."""
        queue: asyncio.Queue[JobEvent | None] = asyncio.Queue()
        self._queues.setdefault(job_id, set()).add(queue)
        try:
            if ended():  # asked only now, so that an end in between is not missed
                return
            for event in list(self._latest.get(job_id, {}).values()):
                yield event
            while (event_or_end := await queue.get()) is not None:
                yield event_or_end
        finally:
            self._queues[job_id].discard(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]
