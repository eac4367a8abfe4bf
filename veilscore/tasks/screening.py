"""Task screen_features: columns are read and coded chunk by chunk, the result is filed, kept columns are looked up.

    jobs/JOB/screening.json, screening.csv     bank: every column with its figures, kept or dropped and why
    screenings/NAME/kept.json                  each party: its own names of its kept columns, and the result's hash

A chunk is read, coded, counted and forgotten; what stays of a column is its codes in a sample of rows, and those only
where a limit of association is set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.codes import CodeMap
from veilscore.data.table import Table
from veilscore.errors import RefusedError
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.models import screening
from veilscore.models.association import associated_pairs, sampled_rows
from veilscore.models.counts import BinnedColumns, own_counts
from veilscore.models.screening import MEASURED, MeasuredChunk, ScreenedColumn, ScreeningLimits
from veilscore.protocols.screening import CHUNK_COLUMNS, ColumnChunk, Screened, bank_screen, holder_screen
from veilscore.tasks.align import ALIGN, ALIGNED
from veilscore.tasks.context import StepContext, aligned_table, no_files, split
from veilscore.tasks.exact_rows import check_own_rows, check_submitted
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, by_name, costed, exact_openings
from veilscore.terms.parameters import ScreenFeatures
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, hidden
from veilscore.wire.protocol import Protocol
from veilscore.wire.randomness import secret_bytes

_USUAL_COLUMNS = 1000  # of a holder that is worth screening
_SUM_BYTES = 4096 * 14.0  # of one ring element of the packed sums
CHUNK_VALUES = 1 << 25  # cells read at a time: 256 MB


def _limits(context: StepContext) -> ScreeningLimits:
    p = context.job.of(ScreenFeatures)
    return ScreeningLimits(p.max_missing, p.max_stability, p.min_iv, p.max_correlation, p.max_columns)


@dataclass
class _OwnColumns:
    """Reads one party's columns in chunks.

    sample : for association, codes (columns, sampled rows) and numbers of codes of each chunk, 0 where not measured.
    """

    context: StepContext
    row_of: Integers  # (n_samples,) row of the data set of each aligned firm, -1 unknown
    train: Mask  # (n_samples,) which rows train
    names: tuple[str, ...]
    sample: list[tuple[Array, Integers]] = field(default_factory=list)

    @property
    def size(self) -> int:  # of a chunk
        n_rows = int(self.context.store.load_json("aligned")["n_rows"])
        return int(np.clip(CHUNK_VALUES // max(n_rows, 1), 1, CHUNK_COLUMNS))

    @property
    def n_chunks(self) -> int:
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
            table, code_map, codes.codes, rows, _limits(self.context), 0 if own else policy.min_bin_count
        )
        party, published = self.context.session.party, own or policy.publish_screening
        named = own or policy.publish_column_names
        aliases = (
            tuple(table.columns) if named else tuple(f"{party}.c{start + k + 1}" for k in range(len(found.status)))
        )
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


def _bank_screen(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(ScreenFeatures)
    names = context.feature_names()
    table = aligned_table(context, names[:1])
    train = split(table, job)
    target = np.asarray(table.label, dtype=np.int8)
    check_own_rows(target, np.ones(target.size), train)
    n_bad = float(target[train].sum())
    totals = n_bad, float(train.sum()) - n_bad
    columns = _OwnColumns(context, np.arange(table.n_rows), train, names)
    rows: list[ScreenedColumn] = []
    pairs: dict[str, Integers] = {}

    def measure(chunk: MeasuredChunk) -> list[dict[str, Any]]:
        return screening.to_json(screening.measured_columns(chunk, *totals))

    def own() -> None:
        for chunk in columns.chunks(own=True):
            rows.extend(screening.measured_columns(_in_the_clear(job.bank, chunk, target, train), *totals))
        if p.max_correlation is not None:
            pairs[job.bank] = columns.pairs()

    def choose(found: dict[str, Screened]) -> tuple[dict[str, Mask], bytes]:
        for holder, screened in found.items():
            rows.extend(screening.from_json([row for chunk in screened.chunks for row in chunk]))
            pairs[holder] = screened.pairs
        chosen = screening.choose(rows, pairs, _limits(context))
        digest = _file_result(context, chosen, train)
        kept = {party: np.array([c.kept for c in chosen if c.party == party], bool) for party in job.parties}
        _file_kept(context, names, [c.name for c in chosen if c.party == job.bank], kept.pop(job.bank), digest)
        return kept, digest

    done = store.load_json("checkpoint_screen")["chunks"] if store.has("checkpoint_screen") else {}
    yield from bank_screen(
        context.session, target, train, measure, choose, with_pairs=p.max_correlation is not None, own=own, done=done
    )
    store.delete("checkpoint_screen")


def _in_the_clear(party: str, chunk: ColumnChunk, target: NDArray[np.int8], train: Mask) -> MeasuredChunk:
    counts = None
    if chunk.columns is not None:
        counts = own_counts(party, chunk.columns, target, np.ones(target.size), train)
    return MeasuredChunk(party, chunk.names, chunk.status, chunk.missing_rate, chunk.stability, counts)


def _holder_screen(context: StepContext) -> Protocol[None]:
    policy, row_of = context.node.policy, context.store.load_arrays("row_of")["row_of"]
    names = context.feature_names()
    columns = _OwnColumns(context, row_of, np.zeros(0, bool), names)

    def open_chunks(train: Mask) -> tuple[int, Iterator[ColumnChunk]]:
        check_submitted(context, train)
        columns.train = train
        return columns.n_chunks, columns.chunks(own=False)

    kept, digest = yield from holder_screen(
        context.session,
        open_chunks,
        row_of.size,
        policy.min_bin_count,
        columns.pairs if context.job.of(ScreenFeatures).max_correlation is not None else None,
    )
    party = context.session.party
    aliases = list(names) if policy.publish_column_names else [f"{party}.c{k + 1}" for k in range(len(names))]
    _file_kept(context, names, aliases, kept, digest)


def _file_result(context: StepContext, columns: list[ScreenedColumn], train: Mask) -> bytes:
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


def _file_kept(context: StepContext, names: tuple[str, ...], aliases: list[str], kept: Mask, digest: bytes) -> None:
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
    folder = context.screening_folder(context.job.name)
    private_folder(folder)
    for place in (context.store.path, folder):
        write_text(place / name, text)


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    m, n = len(sizes.holders), sizes.bank
    columns = m * _USUAL_COLUMNS
    return costed((m * n + 20 * columns) / 64 * _SUM_BYTES, columns * (n * 4e-7 + _USUAL_COLUMNS * n * 1e-9))


def _refuse_association(policy: NodePolicy, p: ScreenFeatures) -> None:
    if p.max_correlation is not None and not policy.publish_screening:
        raise RefusedError("does not tell which of its columns are associated; set max_correlation: null")


SCREEN = Step(
    kind="screen",
    bank=_bank_screen,
    holder=_holder_screen,
    reads=ALIGNED,
    reads_data=True,
    reads_home=no_files,
    cost=_cost,
    spends=exact_openings,
    learns=(
        COMMITTED,
        Leak("ScreenBankRound1", "holder", "opened", "which rows train and which are held out"),
        *hidden("holder", "ciphertext", "ScreenBankLabel"),
        Leak(
            "ScreenHolderChunk",
            "bank",
            "opened",
            "columns, codes and row counts per anonymous bin over the minimum; missing rate and population stability "
            "of each column where policy says so",
        ),
        *hidden("bank", "ciphertext", "ScreenHolderSums"),
        Leak("ScreenHolderShares", "bank", "opened", "good and bad counts per anonymous bin over the minimum"),
        *hidden("holder", "public", "ScreenBankNext"),
        Leak("ScreenHolderPairs", "bank", "opened", "pairs of its columns associated above max_correlation"),
        Leak("ScreenBankKept", "holder", "opened", "which of its columns are kept"),
    ),
    tells_besides={},
    refusals=(_refuse_association,),
)

TASK = Task(ScreenFeatures, by_name(align=ALIGN, screen=SCREEN))
