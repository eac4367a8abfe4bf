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

import sqlalchemy as sa

from party_bank.alarms import last_job
from party_bank.book import Book
from party_bank.book_tables import HISTORY
from party_bank.joint import DecisionsFile, OpenedSteps
from party_bank.own_node import OwnNode
from veilscore.data.ids import normalise_ids
from veilscore.data.notation import literal
from veilscore.errors import BookError, ConfigError, DataError
from veilscore.files.store import write_atomically
from veilscore.release.binding import with_model_version
from veilscore.terms.decide import Decide
from veilscore.terms.job import Job, load_job
from veilscore.terms.node_config import NodeConfig
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
        with self._book.writing(self._actor) as entry:  # a month of a watch goes on from the one before
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
        while (info := self._show(job_id)).status not in {"done", "failed", "refused", "cancelled"}:
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
        column = source.id_column or ""
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copied = _copy_csv if place.suffix == ".csv" else _copy_parquet
        n = copied(source.path, place, column, lambda ids: _places(ids, firms, normaliser))
        if n < len(firms):
            raise DataError(f"data set {self._source} lacks {len(firms) - n} of {len(firms)} firms: leave them out")


Chosen = Callable[[Sequence[str]], list[int]]


def _places(ids: Sequence[str], firms: set[str], normaliser: str) -> list[int]:
    return [place for place, one in enumerate(normalise_ids(list(ids), normaliser).tolist()) if one in firms]


def _copy_csv(source: Path, target: Path, column: str, chosen: Chosen) -> int:
    """Copy some rows of a file, texts as they stand there."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        heads, *rows = csv.reader(file)
    kept = chosen([row[heads.index(column)] for row in rows])
    text = io.StringIO()
    csv.writer(text).writerows([heads, *(rows[place] for place in kept)])
    write_atomically(target, lambda file: file.write(text.getvalue().encode()))
    return len(kept)


def _copy_parquet(source: Path, target: Path, column: str, chosen: Chosen) -> int:
    import duckdb  # noqa: PLC0415 - slow import
    import numpy as np  # noqa: PLC0415

    with duckdb.connect() as database:
        rows = database.read_parquet(str(source), file_row_number=True)
        ids = rows.select(duckdb.ColumnExpression(column)).fetchall()
        kept = chosen([str(one) for (one,) in ids])
        database.register("kept", {"place": np.array(kept, np.int64)})
        query = "SELECT * EXCLUDE (file_row_number) FROM rows WHERE file_row_number IN (FROM kept)"
        made = target.with_name(f".{target.name}.new")
        database.execute(f"COPY ({query} ORDER BY file_row_number) TO {literal(str(made))} (FORMAT parquet)")
    made.chmod(0o600)
    made.replace(target)
    return len(kept)
