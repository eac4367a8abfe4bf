"""Puts on disk at a holder what leaves it next, for several requests at once: in its ledger, log and journal.

A record that says something by itself, before anything of it is opened, is counted in the ledger before it is sent.
Nothing leaves before all three have it. What a crash leaves of a group is counted or logged and did not leave, which a
request that is asked again finds as its own; none is kept in the journal that is not counted and logged.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from veilscore.errors import VeilscoreError
from veilscore.evidence.online_opening import OpeningLogged
from veilscore.files.journal import Answer, Journal
from veilscore.online.group_writer import GroupWriter
from veilscore.protocols.online_desks import PartOpening, RecordSent
from veilscore.release.single import Passed, SingleGuard


class OpeningWriter:
    """Writes openings in groups (`GroupWriter`).

    guard, journal : the holder's own; log : writes entries of the holder's log, on disk when it returns; not_left :
        logs references of openings that were logged and could not be counted.
    """

    def __init__(
        self,
        guard: SingleGuard,
        journal: Journal,
        log: Callable[[Sequence[OpeningLogged]], None],
        not_left: Callable[[Sequence[str]], None],
    ) -> None:
        self._guard, self._journal, self._log, self._not_left = guard, journal, log, not_left
        self._lock = threading.Lock()
        self._undone: list[str] = []  # that the log is still to call so: it could not be written either
        self._logging = ThreadPoolExecutor(1, thread_name_prefix="veilscore-log")
        self._group: GroupWriter[PartOpening, bytes] = GroupWriter(self.write)
        self._counting: GroupWriter[RecordSent, None] = GroupWriter(self._count)

    async def put(self, opening: PartOpening) -> bytes:
        """Return the partial that counts once all is on disk; RefusedError if it may not be released."""
        return await self._group.put(opening)

    async def count(self, sent: RecordSent) -> None:
        """Return once a record that is about to be sent is counted and logged; RefusedError if it may not be sent."""
        await self._counting.put(sent)

    def write(self, openings: Sequence[PartOpening]) -> list[bytes | VeilscoreError]:
        """Count and log, both waiting for the disk at once, then keep; what may not be counted is not logged."""
        refused = self._admit([(one.passed, one.logged) for one in openings])
        admitted = [one for one, refusal in zip(openings, refused, strict=True) if refusal is None]
        kept = iter(self._journal.keep_all([Answer(one.key, one.request, one.data) for one in admitted]))
        return [next(kept) if refusal is None else refusal for refusal in refused]

    def _count(self, sent: Sequence[RecordSent]) -> list[VeilscoreError | None]:
        return self._admit([(one.passed, (one.logged,)) for one in sent])

    def _admit(self, several: Sequence[tuple[Passed, Sequence[OpeningLogged]]]) -> list[VeilscoreError | None]:
        """Count and log what may pass; return for each why it may not."""
        self._log_undone()
        entries: list[OpeningLogged] = []
        logged: Future[None] | None = None

        def log(refused: Sequence[VeilscoreError | None]) -> None:
            nonlocal logged
            entries.extend(e for (_, own), no in zip(several, refused, strict=True) if no is None for e in own)
            if entries:
                logged = self._logging.submit(self._log, entries)

        try:
            refused = self._guard.admit([passed for passed, _ in several], log)
        except BaseException:
            if logged is not None and logged.exception() is None:  # else a start would miss them in the ledger
                with self._lock:
                    self._undone += dict.fromkeys(f"{entry.bank}/{entry.request}" for entry in entries)
                with contextlib.suppress(VeilscoreError):  # of the same full disk
                    self._log_undone()
            raise
        if logged is not None:
            logged.result()
        return refused

    def _log_undone(self) -> None:
        with self._lock:
            if self._undone:
                self._not_left(self._undone)
                self._undone = []

    def close(self) -> None:
        """End once all that waits is written."""
        self._counting.close()
        self._group.close()
        self._logging.shutdown(wait=True)
