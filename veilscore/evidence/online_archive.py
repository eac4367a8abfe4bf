"""Keeps at the bank what an auditor needs of online scores and decisions (docs/adr/0017).

HOME/audit/online/opened.db     a row for each spare that was used (`online_rows.py`): seed, model, what was asked and
                   opened (secret), and what the holder had answered with the spare. It is named by its commitment,
                   with its number behind it where several were made together. Of a decision a row for each holder,
                   all its measures, by `decision_name` of the request and the holder
COMMITMENT.spare   what a holder had sent for all spares that were made together; of unused ones this alone
DECISION.MEASURE.spare   the same for one measure of a decision at one holder
pools/COMMITMENT   of a pool of transfers: its seed, and what the lead had answered
models/HASH.json   models that were evaluated
decisions/HASH     decisions that were opened
keys/HASH          holders' public keys
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from veilscore.errors import StateError
from veilscore.evidence.documents import digest
from veilscore.evidence.online_opening import DecisionRecord, OnlineOpening, PoolRecord, decision_name
from veilscore.evidence.online_rows import ROWS, OpenedParts, OpenedRow, OpenedRows
from veilscore.files.private import private_folder
from veilscore.terms.node_config import AuditRules
from veilscore.v1 import control_pb2 as pb

Save = Callable[[Path], object]
FOLDER, MODELS, DECISIONS, KEYS, POOLS = "audit/online", "models", "decisions", "keys", "pools"
_DAY_S = 86400.0
_ROOM = 0.9  # of the bound that is left when it was passed: files are looked through seldom


class OnlineArchive:
    """Keeps the bank's files for audits of online scores up to a bound, beyond which the oldest go.

    home : of the bank.
    rules : `audit` in node.yaml: days, and online_mb together.
    """

    def __init__(self, home: Path, rules: AuditRules) -> None:
        self._folder, self._rules = home / FOLDER, rules
        self._max_bytes = rules.online_mb << 20
        self._size = 0
        self._rows = OpenedRows(self._folder)
        self._lock = threading.RLock()

    def start(self) -> None:
        """Forget what is too old, and what spares that died with the process before had been sent."""
        if not self._folder.is_dir():
            return
        used = {name.partition(".")[0] for name, _ in OpenedParts(self._folder).records()}
        for path in self._folder.rglob("*.part"):  # a crash cut its writing off
            path.unlink(missing_ok=True)
        for path in self._folder.glob("*.spare"):
            if path.name.partition(".")[0] not in used:
                path.unlink(missing_ok=True)
        self._forget()

    def keep_spare(self, opening: OnlineOpening, prepared: pb.PreparedSpare, keys: bytes) -> None:
        """Keep what a holder sent for a spare, and its public keys; StateError if the disk does not take it."""
        if self._max_bytes:
            path = self._folder / KEYS / digest(keys)
            with self._lock:
                self._write(f"{opening.commitment.hex()}.spare", prepared.SerializeToString())
                if path.exists():
                    path.touch()
                else:
                    self._write(f"{KEYS}/{path.name}", keys)
                if self._size > self._max_bytes:
                    self._forget()

    def keep_pool(self, opening: OnlineOpening, made: pb.MadePool) -> None:
        """Keep what an auditor needs of a pool; StateError if the disk does not take it."""
        if self._max_bytes:
            record = PoolRecord(opening=opening, made=made.SerializeToString().hex())
            with self._lock:
                self._write(f"{POOLS}/{opening.commitment.hex()}", record.to_bytes())

    def keep(self, rows: Sequence[OpenedRow]) -> None:
        """Keep what was opened, in one write; StateError if the disk does not take it."""
        if self._max_bytes and rows:
            with self._lock:
                self._made_folder()
                self._rows.keep(rows)
                self._size += sum(one.size for one in rows)

    def keep_model(self, sha256: str, save: Save) -> None:
        """Keep a model once; StateError if the disk does not take it."""
        if self._max_bytes:
            with self._lock:
                self._keep_once(f"{MODELS}/{sha256}.json", save)

    def close(self) -> None:
        """Close the file of rows."""
        with self._lock:
            self._rows.close()

    def keep_decision(self, record: DecisionRecord, holder: str, save: Save) -> None:
        """Keep a decision once, and beside it what one holder sent for the spares; StateError if the disk is full.

        save : writes the decision into a folder.
        """
        if not self._max_bytes:
            return
        name, folder = decision_name(record.request, holder), self._folder / DECISIONS / record.decision
        with self._lock:
            if not folder.exists():
                _make(folder)
                save(folder)
            for measure, opening in record.spares.items():
                with contextlib.suppress(FileNotFoundError):  # it is there already, or as old as what is forgotten
                    spare = self._folder / f"{opening.commitment.hex()}.spare"
                    kept = self._folder / f"{name}.{measure}.spare"
                    if opening.n_spares == 1:
                        spare.replace(kept)
                    elif not kept.exists():
                        kept.hardlink_to(spare)  # the other spares need it too

    def _made_folder(self) -> None:
        if not self._folder.is_dir():
            _make(self._folder)

    def _keep_once(self, name: str, save: Save) -> None:
        path = self._folder / name
        if not path.exists():
            _make(path.parent)
            save(path)

    def _write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, as long as the machine runs; no wait for the disk."""
        path = self._folder / name
        part, flags = f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            try:
                descriptor = os.open(part, flags, 0o600)
            except FileNotFoundError:  # looking at each folder above takes longer than the file itself
                _make(path.parent)
                descriptor = os.open(part, flags, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(part, path)  # noqa: PTH105 - as above
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)  # noqa: PTH108 - as above
            raise _failed(path, error) from error
        self._size += len(data)

    def _forget(self) -> None:
        """Delete what is too old, and the oldest until there is room."""
        with self._lock, contextlib.suppress(OSError):
            oldest_s = time.time() - self._rules.days * _DAY_S
            folders = self._folder, self._folder / KEYS, self._folder / POOLS
            files = [p for folder in folders for p in folder.glob("*") if p.is_file() and not p.name.startswith(ROWS)]
            found: list[tuple[float, int, Path | None]] = [(t_s, size, None) for t_s, size in self._rows.slices()]
            found += [(stat.st_mtime, stat.st_size, path) for path in files for stat in (path.stat(),)]
            found.sort(key=lambda one: one[0])
            self._size = sum(size for _, size, _ in found)
            bound = self._max_bytes if self._size <= self._max_bytes else int(_ROOM * self._max_bytes)
            rows_s = 0.0
            for time_s, size, path in found:
                if time_s >= oldest_s and self._size <= bound:
                    break
                if path is None:
                    rows_s = time_s
                elif time_s < oldest_s or path.parent == self._folder:
                    path.unlink(missing_ok=True)
                else:
                    continue
                self._size -= size
            if rows_s:
                self._rows.forget(rows_s)


def _make(folder: Path) -> None:
    """Make a folder and those above it, for the owner alone."""
    try:
        if not folder.parent.is_dir():
            _make(folder.parent)
        private_folder(folder)
    except OSError as error:
        raise _failed(folder, error) from error


def _failed(path: Path, error: OSError) -> StateError:
    return StateError(
        f"cannot keep what an auditor needs of an online score at {path}: {error.strerror}; free space, or keep less "
        "(audit in node.yaml)"
    )
