"""Looks up the codes of single firms in a party's own data set, and which code map belongs to which model.

A data file is read at first use and again when it changes on disk; a database at first use and then every ten
minutes. Answers carry the time of the data, so that stale data can be seen.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray, Integers, Words
from veilscore.crypto.encrypted_cells import one_hot
from veilscore.data.codes import CodeMap
from veilscore.data.ids import Ids, normalise_one
from veilscore.data.ingest import read_table
from veilscore.data.panel import newest
from veilscore.data.table import Column, Table
from veilscore.errors import ConfigError, SchemaError, StateError
from veilscore.evidence.job_ledger import Ledger
from veilscore.models.tree_paths import HolderBits
from veilscore.models.trees import HolderTrees
from veilscore.models.versions import EARLIER, VERSIONS
from veilscore.terms.job import Job
from veilscore.terms.node_config import DatasetConfig, NodeConfig

DATABASE_AGE_S = 600.0
_TRAINING = ("train_scorecard", "train_boosting", "train_stack", "select_model", "write_model")


@dataclass(frozen=True, repr=False)
class FoundFirm:
    """One firm's codes.

    codes : (1, n_columns), those of missing values where the firm is unknown.
    known : whether the data set has the firm.
    data_time_s : when the data were written (a file) or read (a database), seconds since the epoch.
    """

    codes: CodeArray
    known: bool
    data_time_s: float


@dataclass(frozen=True, repr=False)
class _Index:
    ids: Ids  # sorted
    codes: CodeArray
    data_time_s: float
    signature: object
    read_at_s: float

    def place(self, firm_id: str) -> int | None:
        """Return the row of a firm, if it is there."""
        place = int(np.searchsorted(self.ids, firm_id))
        return place if place < len(self.ids) and self.ids[place] == firm_id else None


class Records:
    """Looks firms up in a party's data set, as one model sees it.

    node, job : name the data set, its columns and the kind of id.
    code_map : the party's map of the model.
    """

    def __init__(self, node: NodeConfig, job: Job, code_map: CodeMap) -> None:
        self._node = node
        self._job = job
        self.code_map = code_map
        self._index: _Index | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Show the name only: the values stay private."""
        return f"Records({self._job.datasets[self._node.name]!r})"

    def normalise(self, firm_id: str) -> str:
        """Return the firm id in the spelling of the job; IdError if it is malformed."""
        return normalise_one(firm_id, self._job.parameters.id_normaliser)

    async def find(self, firm_id: str) -> FoundFirm:
        """Look one firm up; reads the data set in a thread if it changed since (seconds for a large one).

        firm_id : normalised (`normalise`) for every firm alike, known or not: time would tell which.
        Raises DataError where the data set cannot be read.
        """
        index = self._index
        if index is None or not self._is_current(index):
            index = await asyncio.to_thread(self._refresh)
        place = index.place(firm_id)
        if place is not None:
            return FoundFirm(index.codes[place : place + 1], known=True, data_time_s=index.data_time_s)
        return self.unknown(index.data_time_s)

    def unknown(self, data_time_s: float) -> FoundFirm:
        """Return what stands for a firm that the data set has not, or that counts as such."""
        return FoundFirm(self._unknown, known=False, data_time_s=data_time_s)

    @cached_property
    def _unknown(self) -> CodeArray:
        return self.code_map.unknown_firms(1).codes

    def _refresh(self) -> _Index:
        with self._lock:
            if self._index is None or not self._is_current(self._index):
                self._index = self._read()
            return self._index

    def _dataset(self) -> DatasetConfig:
        name = self._job.datasets[self._node.name]
        if name not in self._node.datasets:
            raise ConfigError(f"{self._node.name} has no data set named {name!r} any more; put it back into node.yaml")
        return self._node.datasets[name]

    def _is_current(self, index: _Index) -> bool:
        path = self._dataset().path
        if path is None:
            return time.monotonic() - index.read_at_s < DATABASE_AGE_S
        return _signature(path) == index.signature

    def _read(self) -> _Index:
        path = self._dataset().path
        signature = None if path is None else _signature(path)
        data_time_s = time.time() if path is None or not path.is_file() else path.stat().st_mtime
        table = self._table()
        if table.panel is not None:  # of firms at dates, a firm's newest record
            table = table.take(newest(table.panel))
        ids = table.firms
        order = np.argsort(ids)
        codes = self.code_map.transform(table).codes[order]
        return _Index(ids[order], codes, data_time_s, signature, time.monotonic())

    def _table(self) -> Table:
        dataset = self._dataset()
        return read_table(
            dataset.source,
            dataset.key,
            columns=tuple(self.code_map.kinds),
            normaliser=self._job.parameters.id_normaliser,
            rules=dataset,
            table=dataset.table,
            query=dataset.query,
            kinds=dict(self.code_map.kinds),
        )


class RowValues:
    """Looks up a firm's own values of some columns in the bank's data set, in the clear and at the bank alone."""

    def __init__(self, node: NodeConfig, job: Job, names: tuple[str, ...]) -> None:
        self.names = names
        self._node, self._job = node, job
        self._read_at: tuple[object, float] | None = None
        self._rows: dict[str, int] = {}
        self._columns: dict[str, Column] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Show the names only: the values stay private."""
        return f"RowValues({', '.join(self.names)})"

    async def find(self, firm_id: str) -> dict[str, Column] | None:
        """Return the values (1,) by column, None if there is no such firm; DataError as of `Records.find`."""
        return await asyncio.to_thread(self._find, firm_id)

    def _find(self, firm_id: str) -> dict[str, Column] | None:
        dataset = self._node.datasets[self._job.datasets[self._node.name]]
        now_s = time.monotonic()
        signature = None if dataset.path is None else _signature(dataset.path)
        with self._lock:
            kept = self._read_at
            aged = kept is None or (dataset.path is None and now_s - kept[1] >= DATABASE_AGE_S)
            if kept is None or aged or kept[0] != signature:
                table = read_table(
                    dataset.source,
                    dataset.key,
                    columns=self.names,
                    normaliser=self._job.parameters.id_normaliser,
                    rules=dataset,
                    table=dataset.table,
                    query=dataset.query,
                )
                if table.panel is not None:
                    table = table.take(newest(table.panel))
                self._rows = {firm: row for row, firm in enumerate(table.firms.tolist())}
                self._columns, self._read_at = dict(table.columns), (signature, now_s)
            row = self._rows.get(normalise_one(firm_id, self._job.parameters.id_normaliser))
            return None if row is None else {name: self._columns[name][row : row + 1] for name in self.names}


def _signature(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True)
class Origin:
    """A model that this node took part in: the job that trained it, and the node's own records for it.

    trees : the node's part of a boosted model; None for a scorecard.
    """

    job: Job
    records: Records
    trees: HolderTrees | None = None

    @cached_property
    def _bits(self) -> HolderBits | None:
        return None if self.trees is None else HolderBits(self.trees.trees, self.records.code_map.n_codes)

    @cached_property
    def n_codes(self) -> Integers:
        """Return the number of codes of each column (n_columns,)."""
        return self.records.code_map.n_codes

    @cached_property
    def n_cells(self) -> int:
        """Return how many numbers stand for a record: cells of all columns, or indicators of all trees, at least 1."""
        if self.trees is None:
            return int(self.n_codes.sum())
        return max(1, sum(len(tree.holder_splits) for tree in self.trees.trees))

    def cells(self, codes: CodeArray) -> Words:
        """Return what stands for a record (1, n_columns) under encryption: (n_cells,) of 0 and 1."""
        if self._bits is None:
            cells: Words = one_hot(codes, self.n_codes)[0]
            return cells
        found = np.zeros(self.n_cells, np.uint64)
        bits = self._bits.of(codes[0])
        found[: bits.size] = bits
        return found


class Origins:
    """Finds the training jobs of a node by the hash of the node's code map; usable from any thread.

    The map is taken from the job's folder, or where that is gone from the folder of the model.
    """

    def __init__(self, home: Path, node: NodeConfig, ledger: Ledger) -> None:
        self._home = home
        self._node = node
        self._ledger = ledger
        self._found: dict[str, Origin] = {}
        self._parts: dict[tuple[str, str], Origin] = {}
        self._seen: set[tuple[str, object]] = set()
        self._lock = threading.Lock()

    async def by_map(self, map_sha256: str) -> Origin | None:
        """Return the model trained with the code map of this hash (hexadecimal), if any; searched for in a thread."""
        if map_sha256 not in self._found:
            await asyncio.to_thread(self.search)
        return self._found.get(map_sha256)

    async def by_part(self, map_sha256: str, trees_sha256: str) -> Origin | None:
        """Return the model with this map and, unless the second hash is empty, with this part of a boosted model."""
        if not trees_sha256:
            return await self.by_map(map_sha256)
        if (map_sha256, trees_sha256) not in self._parts:
            await asyncio.to_thread(self.search)
        return self._parts.get((map_sha256, trees_sha256))

    def search(self) -> dict[str, Origin]:
        """Read maps that are new since the last search; all origins by hash."""
        with self._lock:
            self._scan()
            return dict(self._found)

    def _scan(self) -> None:
        entries = [e for e in self._ledger.entries() if e.job.task in _TRAINING and e.status == "accepted"]
        models = self._home / "models"
        paths = [(e, self._home / "jobs" / e.job_id / "code_map.json") for e in entries]
        paths += [(e, models / e.job.name / VERSIONS / e.job_id / "code_map.json") for e in entries]
        # what was never filed as a version, or earlier, counts as of the newest job of its name
        paths += [(e, models / e.job.name / VERSIONS / EARLIER / "code_map.json") for e in reversed(entries)]
        paths += [(e, models / e.job.name / "code_map.json") for e in reversed(entries)]
        for entry, path in paths:
            seen = str(path), _signature(path)
            if seen[1] is None or seen in self._seen:
                continue
            self._seen.add(seen)
            code_map = _read_map(path)
            if code_map is not None:
                self._found.setdefault(code_map.hash, Origin(entry.job, Records(self._node, entry.job, code_map)))
        for entry in reversed(entries):
            folder = self._home / "models" / entry.job.name
            for place in (folder / VERSIONS / entry.job_id, folder, folder / VERSIONS / EARLIER):
                self._scan_part(entry.job, place / "trees.json")

    def _scan_part(self, job: Job, path: Path) -> None:
        """Read the node's part of a boosted model, if it is there, is new and belongs to a map that is known."""
        seen = str(path), _signature(path)
        part = None if seen[1] is None or seen in self._seen else _read_part(path)
        if part is not None and part.map_sha256 in self._found:
            self._seen.add(seen)
            records = Records(self._node, job, self._found[part.map_sha256].records.code_map)
            self._parts[part.map_sha256, part.sha256.hex()] = Origin(job, records, part)


def _read_part(path: Path) -> HolderTrees | None:
    """Read a part of a boosted model; None where it is damaged: that model is then unknown here, others still work."""
    try:
        return HolderTrees.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ConfigError):
        return None


def _read_map(path: Path) -> CodeMap | None:
    """Read a code map; None where it is damaged: that model is then unknown here, others still work."""
    try:
        text: Any = path.read_text(encoding="utf-8")
        body = json.loads(text)
        return CodeMap.from_json(body if isinstance(body, str) else text)
    except (OSError, ValueError, SchemaError):
        return None


def load_map(path: Path) -> CodeMap:
    """Read the code map of one model; StateError or SchemaError if it is gone or damaged."""
    try:
        return CodeMap.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StateError(f"the code map {path} cannot be read; restore it from backup") from error
