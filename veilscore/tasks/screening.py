"""Task screen_features: a noisy choice of each holder's best columns, or all figures of all columns by agreement.

The default opens which columns are best (`best_columns.py`); this file has the step that opens counts of bins, chunk
by chunk, so that the bank chooses by IV.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask
from veilscore.data.codes import told_name
from veilscore.errors import RefusedError
from veilscore.models import screening
from veilscore.models.screening import MeasuredChunk, ScreenedColumn
from veilscore.protocols.screening import ColumnChunk, Screened, bank_screen, holder_screen
from veilscore.tasks.align import ALIGN, ALIGNED
from veilscore.tasks.best_columns import BEST
from veilscore.tasks.context import StepContext, aligned_table, no_files, split
from veilscore.tasks.exact_rows import check_own_rows, check_submitted
from veilscore.tasks.panel import firm_numbers
from veilscore.tasks.screened import OwnColumns, file_kept, file_result, limits_of, measured_in_the_clear
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, by_name, costed, exact_openings
from veilscore.terms.parameters import ScreenFeatures
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, hidden
from veilscore.wire.protocol import Protocol

_USUAL_COLUMNS = 1000  # of a holder that is worth screening
_SUM_BYTES = 4096 * 14.0  # of one ring element of the packed sums


def _bank_screen(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(ScreenFeatures)
    names = context.feature_names()
    table = aligned_table(context, names[:1])
    train = split(table, job)
    target = np.asarray(table.label, dtype=np.int8)
    check_own_rows(target, np.ones(target.size), train, firm_numbers(table).get("firm"))
    n_bad = float(target[train].sum())
    totals = n_bad, float(train.sum()) - n_bad
    columns = OwnColumns(context, np.arange(table.n_rows), train, names)
    rows: list[ScreenedColumn] = []
    pairs: dict[str, Integers] = {}

    def measure(chunk: MeasuredChunk) -> list[dict[str, Any]]:
        return screening.to_json(screening.measured_columns(chunk, *totals))

    def own() -> None:
        found, pairs[job.bank] = measured_in_the_clear(columns, target)
        rows.extend(found)

    def choose(found: dict[str, Screened]) -> tuple[dict[str, Mask], bytes]:
        for holder, screened in found.items():
            rows.extend(screening.from_json([row for chunk in screened.chunks for row in chunk]))
            pairs[holder] = screened.pairs
        chosen = screening.choose(rows, pairs, limits_of(context))
        digest = file_result(context, chosen, train)
        kept = {party: np.array([c.kept for c in chosen if c.party == party], bool) for party in job.parties}
        file_kept(context, names, [c.name for c in chosen if c.party == job.bank], kept.pop(job.bank), digest)
        return kept, digest

    done = store.load_json("checkpoint_screen")["chunks"] if store.has("checkpoint_screen") else {}
    yield from bank_screen(
        context.session, target, train, measure, choose, with_pairs=p.max_correlation is not None, own=own, done=done
    )
    store.delete("checkpoint_screen")


def _holder_screen(context: StepContext) -> Protocol[None]:
    policy, row_of = context.node.policy, context.store.load_arrays("row_of")["row_of"]
    names = context.feature_names()
    columns = OwnColumns(context, row_of, np.zeros(0, bool), names)

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
    aliases = [told_name(name, k, party, policy.told_names) for k, name in enumerate(names, start=1)]
    file_kept(context, names, aliases, kept, digest)


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

_EXACT = by_name(align=ALIGN, screen=SCREEN)
_PRIVATE = by_name(align=ALIGN, screen=BEST)


def _step(p: ScreenFeatures, name: str) -> Step:
    return (_PRIVATE if p.private else _EXACT)(p, name)


TASK = Task(ScreenFeatures, _step)
