"""Puts on disk at a holder what leaves it next, for several requests at once: in its ledger, log and journal.

A record that says something by itself, before anything of it is opened, is counted in the ledger before it is sent.
Nothing leaves before all three have it. What a crash leaves of a group is counted or logged and did not leave, which a
request that is asked again finds as its own; none is kept in the journal that is not counted and logged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from veilscore.errors import VeilscoreError
from veilscore.evidence.online_opening import OpeningLogged
from veilscore.files.journal import Answer, Journal
from veilscore.online.group_writer import GroupWriter
from veilscore.protocols.online_desks import PartOpening
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
        self._undone: list[str] = []  # that the log is still to call so: it could not be written either
        self._logging = ThreadPoolExecutor(1, thread_name_prefix="veilscore-log")
        self._group: GroupWriter[PartOpening, bytes] = GroupWriter(self.write)
        self._counting: GroupWriter[Passed, None] = GroupWriter(lambda several: guard.admit(several, lambda _: None))

    async def put(self, opening: PartOpening) -> bytes:
        """Return the partial that counts once all is on disk; RefusedError if it may not be released."""
        return await self._group.put(opening)

    async def count(self, passed: Passed) -> None:
        """Return once a record that is about to be sent is counted as released; RefusedError if it may not be."""
        await self._counting.put(passed)

    def write(self, openings: Sequence[PartOpening]) -> list[bytes | VeilscoreError]:
        """Count and log, both waiting for the disk at once, then keep; what may not be counted is not logged."""
        self._log_undone()
        admitted: list[PartOpening] = []
        logged: Future[None] | None = None

        def log(refused: Sequence[VeilscoreError | None]) -> None:
            nonlocal logged
            admitted.extend(one for one, refusal in zip(openings, refused, strict=True) if refusal is None)
            if admitted:
                logged = self._logging.submit(self._log, [entry for one in admitted for entry in one.logged])

        try:
            refused = self._guard.admit([one.passed for one in openings], log)
        except BaseException:
            if logged is not None and logged.exception() is None:  # else the next start would miss them in the ledger
                self._undone += dict.fromkeys(
                    f"{entry.bank}/{entry.request}" for one in admitted for entry in one.logged
                )
                with contextlib.suppress(VeilscoreError):  # of the same full disk
                    self._log_undone()
            raise
        if logged is not None:
            logged.result()
        kept = iter(self._journal.keep_all([Answer(one.key, one.request, one.data) for one in admitted]))
        return [next(kept) if refusal is None else refusal for refusal in refused]

    def _log_undone(self) -> None:
        if self._undone:
            self._not_left(self._undone)
            self._undone = []

    def close(self) -> None:
        """End once all that waits is written."""
        self._counting.close()
        self._group.close()
        self._logging.shutdown(wait=True)
