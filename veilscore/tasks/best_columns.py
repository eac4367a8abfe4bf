"""Step screen of a private screening: which of a holder's columns are best, chosen on shares with its noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask
from veilscore.data.codes import told_name
from veilscore.models import screening
from veilscore.models.best_columns import USUAL_BEST, patterns
from veilscore.models.screening import ScreenedColumn
from veilscore.protocols.best_columns import BestColumns, PatternChunk, bank_best, holder_best
from veilscore.protocols.screening import CHUNK_COLUMNS
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.context import StepContext, aligned_table, no_files, split
from veilscore.tasks.screened import OwnColumns, file_kept, file_result, limits_of, measured_in_the_clear
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, costed
from veilscore.terms.parameters import ScreenFeatures
from veilscore.terms.roles import Leak, hidden
from veilscore.wire.protocol import Charge, Protocol

CHUNK_VALUES = 1 << 22  # cells of a chunk: a column of categories has several patterns, of four bytes a row each
_USUAL_COLUMNS = 1000
_SUM_BYTES = 4096 * 14.0  # of one ring element of the packed sums
_CIRCUIT_BYTES, _CIRCUIT_S = 17_500.0, 5e-5  # of a pattern


def charge_of(p: ScreenFeatures) -> Charge:
    """Return what the choice costs a holder's account.

    It counts for all rows: places are those in the whole table, so that a firm outside the training rows moves sums.
    """
    return Charge("columns", "all", p.mu**2, p.noise_rows)


def best_of_job(p: ScreenFeatures) -> int:
    """Return how many patterns of a holder are chosen."""
    return USUAL_BEST if p.max_columns is None else p.max_columns


def _bank_screen(context: StepContext) -> Protocol[None]:
    job, p = context.job, context.job.of(ScreenFeatures)
    names = context.feature_names()
    table = aligned_table(context, names[:1])
    train = split(table, job)
    target = np.asarray(table.label, dtype=np.int8)
    rows: list[ScreenedColumn] = []

    def own() -> None:
        found, pairs = measured_in_the_clear(OwnColumns(context, np.arange(table.n_rows), train, names), target)
        rows.extend(screening.choose(found, {job.bank: pairs}, limits_of(context)))

    def choose(found: dict[str, BestColumns]) -> bytes:
        for holder, chosen in found.items():
            rows.extend(screening.chosen_columns(holder, chosen.names, chosen.kept, best_of_job(p)))
        digest = file_result(context, rows, train)
        mine = [row for row in rows if row.party == job.bank]
        file_kept(context, names, [row.name for row in mine], np.array([row.kept for row in mine], bool), digest)
        return digest

    yield from bank_best(context.session, target, train, best_of_job(p), choose, own)


def _holder_screen(context: StepContext) -> Protocol[None]:
    p, party = context.job.of(ScreenFeatures), context.session.party
    aligned_rows = context.store.load_arrays("row_of")
    row_of = aligned_rows["row_of"]
    names = context.feature_names()
    told = context.node.policy.told_names
    aliases = [told_name(name, k, party, told) for k, name in enumerate(names, start=1)]
    aligned = context.store.load_json("aligned")
    n_rows, told_rows, among = int(aligned["n_rows"]), int(aligned["told"]), None
    if "firm" in aligned_rows:  # of firms at dates, places are those among the job's rows, of which a firm has few
        among = np.unique(row_of[row_of >= 0])
        n_rows, told_rows = max(1, among.size), row_of.size
    # by the number that was told: the true one of rows, or of those that are known, would show in the number of chunks
    size = int(np.clip(CHUNK_VALUES // max(told_rows, 1), 1, CHUNK_COLUMNS))

    def open_chunks(train: Mask) -> tuple[int, Iterator[PatternChunk]]:
        return -(-len(names) // size), _chunks(context, names, aliases, row_of[train], size, among)

    kept, digest = yield from holder_best(
        context.session, open_chunks, row_of.size, n_rows, told_rows, best_of_job(p), charge_of(p)
    )
    file_kept(context, names, aliases, kept, digest)


def _chunks(
    context: StepContext,
    names: tuple[str, ...],
    aliases: list[str],
    rows: Integers,
    size: int,
    among: Integers | None,
) -> Iterator[PatternChunk]:
    """Yield the patterns of some columns at a time, for the rows (n_train,) of the data set that train; -1: unknown.

    among : rows of the data set, ascending, among which places are counted; None: all.
    """
    if among is not None:
        rows = np.where(rows >= 0, np.searchsorted(among, rows), -1)
    for start in range(0, len(names), size):
        table = aligned_table(context, names[start : start + size])
        table = table if among is None else table.take(among)
        weights = [
            np.where(rows >= 0, patterns(table.columns[name])[:, rows], 0).astype(np.int32)
            for name in names[start : start + size]
        ]
        column = np.repeat(np.arange(len(weights)), [len(part) for part in weights])
        yield PatternChunk(tuple(aliases[start : start + size]), np.concatenate(weights), column)


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    patterns = len(sizes.holders) * _USUAL_COLUMNS
    sent = (len(sizes.holders) * sizes.bank + patterns) / 64 * _SUM_BYTES + patterns * _CIRCUIT_BYTES
    return costed(sent, patterns * (sizes.bank * 1.5e-7 + _CIRCUIT_S))


BEST = Step(
    kind="screen",
    bank=_bank_screen,
    holder=_holder_screen,
    reads=ALIGNED,
    reads_data=True,
    reads_home=no_files,
    cost=_cost,
    spends=lambda p: (charge_of(p),),
    learns=(
        COMMITTED,
        Leak("ScreenBankRound1", "holder", "opened", "which rows train and which are held out"),
        *hidden("holder", "ciphertext", "ScreenBankLabel"),
        Leak("ScreenHolderChunk", "bank", "public", "number of columns, and of groups of levels of their kinds"),
        *hidden("bank", "ciphertext", "ScreenHolderSums", "ScreenSealed"),
        Leak("ScreenSealed", "holder", "opened", "which of its columns, and groups of their levels, are the best"),
        Leak("ScreenHolderKept", "bank", "opened", "which of its columns are among the best, chosen with noise"),
        *hidden("holder", "public", "ScreenBankKept"),
    ),
    tells_besides={},
    refusals=(),
)
