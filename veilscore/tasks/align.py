"""Step align, the first of every task: each holder finds its rows of the bank's firms, the bank learns no match."""

from __future__ import annotations

from typing import Any

from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.release.batch import bank_send_lists, lists_in
from veilscore.tasks.context import StepContext, digest_of_ids, files_of_columns
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, no_openings
from veilscore.terms.parameters import ScoreBatch
from veilscore.terms.roles import Leak
from veilscore.wire.protocol import Protocol, interleave

ALIGNED = {"aligned.json": "align"}  # what steps after it read
ID_S = 121e-6 / 2  # of an id at a side


def _limits(context: StepContext) -> AlignLimits:
    return AlignLimits(max_ids=context.node.policy.max_set_size)


def _bank_align(context: StepContext) -> Protocol[None]:
    table = context.table()
    session, ids = context.session, table.ids.tolist()
    if isinstance(context.job.parameters, ScoreBatch):
        at_s = None if context.opening is None else context.opening.time_ms / 1000
        yield from bank_send_lists(session, lists_in(context.home(), context.job, at_s))
    results = yield from interleave({h: bank_align(session, h, ids, _limits(context)) for h in session.holders})
    sizes = {holder: result.holder_set_size for holder, result in results.items()}
    context.store.save_json(
        "aligned", {"ids": digest_of_ids(table), "n_rows": table.n_rows, "sizes": sizes, "warnings": table.warnings}
    )


def _holder_align(context: StepContext) -> Protocol[None]:
    guard = context.guard()
    consents = yield from guard.receive_consents()
    table = context.table()
    result = yield from holder_align(
        context.session, table.ids.tolist(), min_overlap=context.node.policy.min_overlap, limits=_limits(context)
    )
    guard.keep(context.store, consents, table.ids, result.row_of)
    context.store.save_arrays("row_of", row_of=result.row_of)
    known = int((result.row_of >= 0).sum())
    context.store.save_json(
        "aligned", {"ids": digest_of_ids(table), "n_rows": table.n_rows, "known": known, "warnings": table.warnings}
    )


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    ids = sum(sizes.bank + k for k in sizes.holders)
    return Cost(ID_S * ids + 0.3, 32.0 * (ids + sum(sizes.holders)))


ALIGN = Step(
    kind="align",
    bank=_bank_align,
    holder=_holder_align,
    reads={},
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost,
    spends=no_openings,
    learns=(
        COMMITTED,
        Leak("AlignBankRound1", "holder", "masked", "number of firms in the bank's job"),
        Leak("AlignHolderRound1", "bank", "masked", "number of firms in the holder's data set"),
        Leak("AlignBankRound2", "holder", "opened", "which of its firms are in the bank's job, and their rows"),
        Leak("AlignHolderRound2", "bank", "public", "whether the holder goes on"),
    ),
    tells_besides={},
    refusals=(),
)
