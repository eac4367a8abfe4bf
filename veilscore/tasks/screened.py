"""Read a party's columns chunk by chunk for a screening, and file its result.

    jobs/JOB/screening.json, screening.csv     bank: every column with its figures, kept or dropped and why
    screenings/NAME/kept.json                  each party: its own names of its kept columns, and the result's hash;
                                               filed from the job's folder once the job has ended at all parties

A chunk is read, coded, counted and forgotten; what stays of a column is its codes in a sample of rows, and those only
where a limit of association is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.codes import CodeMap, told_name
from veilscore.data.table import Table
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.models import screening
from veilscore.models.association import associated_pairs, sampled_rows
from veilscore.models.counts import BinnedColumns, own_counts
from veilscore.models.screening import MEASURED, MeasuredChunk, ScreenedColumn, ScreeningLimits
from veilscore.models.versions import SCREENINGS
from veilscore.protocols.screening import CHUNK_COLUMNS, ColumnChunk
from veilscore.tasks.context import StepContext, aligned_table
from veilscore.terms.parameters import ScreenFeatures
from veilscore.wire.randomness import secret_bytes

CHUNK_VALUES = 1 << 25  # cells read at a time: 256 MB


def limits_of(context: StepContext) -> ScreeningLimits:
    """Return the limits that the job sets."""
    p = context.job.of(ScreenFeatures)
    return ScreeningLimits(p.max_missing, p.max_stability, p.min_iv, p.max_correlation, p.max_columns)


@dataclass
class OwnColumns:
    """Reads one party's columns in chunks.

    sample : for association, codes (columns, sampled rows) and numbers of codes of each chunk, 0 where not measured.
    """

    context: StepContext
    row_of: Integers  # (n_samples,) row of the data set of each aligned firm, -1 unknown
    train: Mask  # (n_samples,) which rows train
    names: tuple[str, ...]
    sample: list[tuple[Array, Integers]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Return the number of columns of a chunk."""
        aligned = self.context.store.load_json("aligned")
        n_rows = int(aligned.get("told", aligned["n_rows"]))  # a holder's own number would show in the number of chunks
        return int(np.clip(CHUNK_VALUES // max(n_rows, 1), 1, CHUNK_COLUMNS))

    @property
    def n_chunks(self) -> int:
        """Return the number of chunks."""
        return -(-len(self.names) // self.size)

    def chunks(self, *, own: bool) -> Iterator[ColumnChunk]:
        """Read and code one chunk after the other; `own` is the bank, which may know the order of its bins."""
        size = self.size
        for start in range(0, len(self.names), size):
            names = self.names[start : start + size]
            yield self._chunk(aligned_table(self.context, names), start, own=own)

    def _chunk(self, table: Table, start: int, *, own: bool) -> ColumnChunk:
        p, policy = self.context.job.of(ScreenFeatures), self.context.node.policy
        known = self.row_of >= 0
        rows = self.row_of[known & self.train], self.row_of[known & ~self.train]
        sizes = {} if own else {"min_bin_count": max(30, policy.min_bin_count)}
        code_map = CodeMap.fit(
            table,
            rows[0],
            max_bin=p.max_bin,
            min_bin_fraction=p.min_bin_fraction,
            ordered=own,
            allow_none=True,
            **sizes,  # type: ignore[arg-type]
        )
        codes = code_map.transform(table)
        found = screening.own_measures(
            table, code_map, codes.codes, rows, limits_of(self.context), 0 if own else policy.min_bin_count
        )
        party, published = self.context.session.party, own or policy.publish_screening
        told = own or policy.told_names
        aliases = tuple(told_name(name, k, party, told) for k, name in enumerate(table.columns, start=start + 1))
        aligned = codes.take_rows(self.row_of).codes
        measured = self._measured(code_map, aligned, found.status == MEASURED, aliases, tuple(table.columns))
        self._keep_sample(measured, found.status)
        return ColumnChunk(
            names=aliases,
            status=found.status if published else found.hidden(),
            missing_rate=found.missing_rate if published else None,
            stability=found.stability if published else None,
            columns=measured,
        )

    def _measured(
        self, code_map: CodeMap, codes: Array, measured: Mask, aliases: tuple[str, ...], names: tuple[str, ...]
    ) -> BinnedColumns | None:
        """Return the codes of the measured columns alone."""
        if not measured.any():
            return None
        alias_of = {name: alias for name, alias, keep in zip(names, aliases, measured, strict=True) if keep}
        kept = np.array([name in alias_of for name in code_map.names], bool)
        order = [column for column, keep in zip(code_map.public_order(), kept, strict=True) if keep]
        return BinnedColumns(
            names=tuple(alias_of[name] for name in code_map.names if name in alias_of),
            codes=np.ascontiguousarray(codes[:, kept]),
            n_codes=code_map.n_codes[kept],
            ordered=np.array([column.kind == "ordered" for column in order]),
            missing_code=np.array([-1 if c.missing is None else c.missing for c in order], dtype=np.int64),
            map_hash=bytes.fromhex(code_map.hash),
        )

    def _keep_sample(self, columns: BinnedColumns | None, status: NDArray[np.uint8]) -> None:
        if self.context.job.of(ScreenFeatures).max_correlation is None:
            return
        rows = sampled_rows(np.flatnonzero(self.train))
        codes, n_codes = np.zeros((status.size, rows.size), np.uint8), np.ones(status.size, np.int64)
        if columns is not None:
            codes[status == MEASURED] = columns.codes[rows].T
            n_codes[status == MEASURED] = columns.n_codes
        self.sample.append((codes, n_codes))

    def pairs(self) -> Integers:
        """Return the pairs of columns associated above the limit; the sample is dropped."""
        limit = self.context.job.of(ScreenFeatures).max_correlation
        codes = np.concatenate([part for part, _ in self.sample])
        n_codes = np.concatenate([part for _, part in self.sample])
        self.sample.clear()
        return associated_pairs(codes, n_codes, 1.0 if limit is None else limit)


def measured_in_the_clear(columns: OwnColumns, target: NDArray[np.int8]) -> tuple[list[ScreenedColumn], Integers]:
    """Bank: measure all of its own columns; return their rows and the pairs associated above the limit."""
    bank, train = columns.context.job.bank, columns.train
    n_bad = float(target[train].sum())
    totals = n_bad, float(train.sum()) - n_bad
    rows: list[ScreenedColumn] = []
    for chunk in columns.chunks(own=True):
        rows.extend(screening.measured_columns(_in_the_clear(bank, chunk, target, train), *totals))
    limited = columns.context.job.of(ScreenFeatures).max_correlation is not None
    return rows, columns.pairs() if limited else np.zeros((0, 2), np.int64)


def _in_the_clear(party: str, chunk: ColumnChunk, target: NDArray[np.int8], train: Mask) -> MeasuredChunk:
    counts = None
    if chunk.columns is not None:
        counts = own_counts(party, chunk.columns, target, np.ones(target.size), train)
    return MeasuredChunk(party, chunk.names, chunk.status, chunk.missing_rate, chunk.stability, counts)


def file_result(context: StepContext, columns: list[ScreenedColumn], train: Mask) -> bytes:
    """Write the bank's table; return its hash, which the salt keeps from telling anything."""
    job = context.job
    body = screening.sealed(
        {
            "name": job.name,
            "job_id": context.session.id.split("/")[0],
            "purpose": job.purpose,
            "parameters": job.of(ScreenFeatures).model_dump(mode="json"),
            "n_train": int(train.sum()),
            "n_holdout": int((~train).sum()),
            "columns": screening.to_json(columns),
            "salt": secret_bytes(32).hex(),
        }
    )
    _file(context, "screening.json", json.dumps(body, indent=1, sort_keys=True))
    _file(context, "screening.csv", screening.to_csv(columns))
    return bytes.fromhex(body["sha256"])


def file_kept(context: StepContext, names: tuple[str, ...], aliases: list[str], kept: Mask, digest: bytes) -> None:
    """Keep a party's own names where a following training finds them."""
    chosen = np.flatnonzero(kept).tolist()
    body = screening.sealed(
        {
            "job_id": context.session.id.split("/")[0],
            "screening": digest.hex(),
            "columns": [names[k] for k in chosen],
            "aliases": [aliases[k] for k in chosen],
        }
    )
    _file(context, "kept.json", json.dumps(body, indent=1, sort_keys=True))


def _file(context: StepContext, name: str, text: str) -> None:
    """Keep a file in the job's folder, and where it is filed from when the job has ended at all parties."""
    staged = context.store.path / SCREENINGS / context.job.name
    private_folder(staged)
    for place in (context.store.path, staged):
        write_text(place / name, text)
