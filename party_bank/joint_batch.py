"""Joint decisions on many firms: a job of task decide over just these firms, run by the bank's node and its partners.

The firms' rows are copied from the bank's data set into the file of the data set that the job names, so that holders
decide on nobody else. The job's id is in the book's history before it is waited for: whatever is killed waits for the
same job again.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from party_bank.alarms import last_job
from party_bank.book import Book
from party_bank.book_tables import HISTORY
from party_bank.joint import DecisionsFile, OpenedSteps
from party_bank.own_node import OwnNode
from veilscore.data.ids import normalise_ids
from veilscore.data.ingest_file import column_types, opened
from veilscore.data.notation import literal
from veilscore.data.text_file import file_literal
from veilscore.errors import BookError, ConfigError, DataError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.release.binding import with_model_version
from veilscore.terms.decide import Decide
from veilscore.terms.job import ENDED, Job, load_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.v1 import control_pb2

_EVENT = "submitted"  # of the book's history
_POLL_S = 0.3


class BatchJoint:
    """Runs the job of a file for firms, as often as it is asked, once for each reference.

    source : data set of node.yaml whose rows of the firms are copied.
    told : is called with the id of the job before it is waited for.
    """

    def __init__(
        self, book: Book, node: OwnNode, config: NodeConfig, path: Path, *, source: str, actor: str,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._book, self._node, self._config, self._path = book, node, config, path
        self._source, self._actor, self._told = source, actor, told

    def __call__(self, firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        """Return the steps of firms; BookError while the job has not ended well, and the same again waits for it."""
        job_id = self._submitted(reference)
        if job_id is None:
            job_id = self._submit(self._job(model, purpose), firms, reference)
        self._told(job_id)
        self._wait(job_id, reference)
        found = DecisionsFile.of_job(self._node.home / "jobs" / job_id)
        return found(firms, model=model, purpose=purpose, reference=reference)

    def _job(self, model: str, purpose: str) -> Job:
        job = load_job(self._path)
        if not isinstance(job.parameters, Decide) or job.parameters.decision != model:
            raise ConfigError(f"{self._path} is no job of task decide with decision: {model}, which bank.yaml names")
        if job.purpose != purpose or job.bank != self._config.name:
            raise ConfigError(f"{self._path} needs purpose: {purpose} and bank: {self._config.name}")
        job = with_model_version(job, self._node.home)
        if not job.of(Decide).watch:
            return job
        with self._book.reading() as entry:  # a month of a watch goes on from the one before
            last = {"last": last_job(entry)}
        return job.model_copy(update={"parameters": job.parameters.model_copy(update=last)})

    def _submit(self, job: Job, firms: Sequence[str], reference: str) -> str:
        self._write(job.datasets[self._config.name], set(firms), job.parameters.id_normaliser)
        request = control_pb2.SubmitJob(job_yaml=job.canonical().decode())
        info = self._node.ask_coordinator("Submit", request, control_pb2.JobInfo)
        with self._book.writing(self._actor) as entry:
            entry.note(_EVENT, "", {"reference": reference, "job": info.job_id})
        return info.job_id

    def _submitted(self, reference: str) -> str | None:
        """Return the job that was submitted last for a reference, unless it ended without a result."""
        query = sa.select(HISTORY.c.content).where(HISTORY.c.event == _EVENT).order_by(HISTORY.c.id.desc())
        mine = (row["content"]["job"] for row in self._book.rows(query) if row["content"]["reference"] == reference)
        job_id = next(mine, None)
        if job_id is None:
            return None
        status = self._show(str(job_id)).status
        if status == "failed":
            self._node.ask_coordinator("Resume", control_pb2.JobRef(job_id=job_id), control_pb2.JobInfo)
        return None if status in {"refused", "cancelled"} else str(job_id)

    def _wait(self, job_id: str, reference: str) -> None:
        while (info := self._show(job_id)).status not in ENDED:
            time.sleep(_POLL_S)
        if info.status != "done":
            raise BookError(
                f"{reference} is kept and not decided yet, as job {job_id} was {info.status} ({info.error}): mend that "
                "and do the same again"
            )

    def _show(self, job_id: str) -> control_pb2.JobInfo:
        return self._node.ask_coordinator("Show", control_pb2.JobRef(job_id=job_id), control_pb2.JobInfo)

    def _write(self, name: str, firms: set[str], normaliser: str) -> None:
        """Write the rows of the firms into the file of a data set; DataError where the bank has no row of one."""
        datasets = self._config.datasets
        for needed in (name, self._source):
            if needed not in datasets:
                raise ConfigError(f"node.yaml has no data set {needed}: name one, with path")
        source, target = datasets[self._source], datasets[name]
        place = None if target.path is None else target.path.resolve()
        if name == self._source or place is None or (self._node.home / "batches").resolve() not in place.parents:
            raise ConfigError(
                f"the job decides on data set {name}, whose file is written for it: give it a path in "
                f"{self._node.home / 'batches'}, of the same kind as that of {self._source}"
            )
        if source.path is None or source.path.suffix != place.suffix or place.suffix not in {".csv", ".parquet"}:
            raise ConfigError(f"rows of {self._source} cannot be copied to {place.name}: both CSV, or both Parquet")
        private_folder(place.parent)
        copied = _copy_csv if place.suffix == ".csv" else _copy_parquet
        n = copied(source, target, lambda ids: _places(ids, firms, normaliser))
        if n < len(firms):
            raise DataError(f"data set {self._source} lacks {len(firms) - n} of {len(firms)} firms: leave them out")


Chosen = Callable[[Sequence[str]], list[int]]


def _places(ids: Sequence[str], firms: set[str], normaliser: str) -> list[int]:
    return [place for place, one in enumerate(normalise_ids(list(ids), normaliser).tolist()) if one in firms]


def _copy_csv(source: DatasetConfig, target: DatasetConfig, chosen: Chosen) -> int:
    """Copy some rows of a file, texts as they stand there, each file in its own encoding."""
    path, place = _file_of(source), _file_of(target)
    with opened(path, source) as found:
        rows = found.database.execute(f"FROM {found.relation}").fetchall()
        heads = list(column_types(found))
    at = _column(heads, source, path)
    kept = chosen([row[at] or "" for row in rows])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *(rows[number] for number in kept)])
    data = text.getvalue().encode(target.encoding or "utf-8")
    write_atomically(place, lambda file: file.write(data))
    return len(kept)


def _copy_parquet(source: DatasetConfig, target: DatasetConfig, chosen: Chosen) -> int:
    """Copy some rows of a file with their types."""
    path, place = _file_of(source), _file_of(target)
    made = place.with_name(f".{place.name}.new")
    with opened(path, source) as found:
        heads, database = list(column_types(found)), found.database
        name = heads[_column(heads, source, path)].replace('"', '""')
        kept = chosen([str(one) for (one,) in database.execute(f'SELECT "{name}" FROM {found.relation}').fetchall()])  # noqa: S608
        numbered = f"read_parquet({file_literal(path)}, hive_partitioning=false, file_row_number=true)"
        database.register("kept", {"place": np.array(kept, np.int64)})
        query = f"SELECT * EXCLUDE (file_row_number) FROM {numbered} WHERE file_row_number IN (FROM kept)"  # noqa: S608
        database.execute(f"COPY ({query} ORDER BY file_row_number) TO {literal(str(made))} (FORMAT parquet)")
    made.chmod(0o600)
    made.replace(place)
    return len(kept)


def _column(heads: Sequence[str], source: DatasetConfig, path: Path) -> int:
    """Return where the column of ids is; DataError where it is not there."""
    if source.id_column is None or source.id_column not in heads:
        raise DataError(f"data file {path.name} has no column {source.id_column!r}; it has: {', '.join(heads)[:200]}")
    return list(heads).index(source.id_column)


def _file_of(dataset: DatasetConfig) -> Path:
    if dataset.path is None:
        raise ConfigError("rows are copied from file to file, and one of the two data sets has no path")
    return dataset.path
