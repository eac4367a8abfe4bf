"""Step align, the first of every task: each holder finds its rows of the bank's firms, the bank learns no match."""

from __future__ import annotations

from typing import Any

import numpy as np
import structlog

from veilscore.data.panel import Panel, most_rows, numbered
from veilscore.files.home_key import FILE as HOME_KEY
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.release.batch import bank_send_lists, lists_in
from veilscore.release.pseudonyms import row_digests, size_offset
from veilscore.tasks.asked_dates import build_pairs, pairs_of
from veilscore.tasks.context import StepContext, digest_of_ids, files_of_columns
from veilscore.tasks.panel import checked_firms, firm_numbers, numbered_once
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, no_openings
from veilscore.terms.parameters import AppliesModel, Parameters, Sampled
from veilscore.terms.roles import Leak, Learned, hidden
from veilscore.wire.protocol import Protocol, interleave

ALIGNED = {"aligned.json": "align"}  # what steps after it read
ID_S = 2.5e-6  # of an id at a side
BASE_S = 0.1  # of the base transfers with a holder
FEW_KNOWN = 0.1  # of the bank's firms; fewer known ones look like another kind of id


def _limits(context: StepContext, panel: Panel | None = None) -> AlignLimits:
    """Return what this party accepts; a step of its padded size hides a firm of many rows as well as one of one."""
    most = 1 if panel is None else most_rows(numbered(panel.firms))
    step = AlignLimits.size_step * (1 << (most - 1).bit_length())
    return AlignLimits(max_ids=context.node.policy.max_set_size, size_step=step)


def _bank_align(context: StepContext) -> Protocol[None]:
    table = context.table()
    session, ids = context.session, table.ids.tolist()
    if isinstance(context.job.parameters, AppliesModel):
        at_s = None if context.opening is None else context.opening.time_ms / 1000
        yield from bank_send_lists(session, lists_in(context.home(), context.job, at_s))
    counted = session.holders if counts_rows(context.job.parameters) else ()
    # what a batch opens is counted by firm, what exact sums open by row too: two sums may differ by a date of a firm
    counted_ids = ids if isinstance(context.job.parameters, Sampled) else table.firms.tolist()
    digests = {holder: row_digests(context.home(), holder, counted_ids) for holder in counted}
    limits, firm = _limits(context), firm_numbers(table).get("firm")
    results = yield from interleave(
        {h: bank_align(session, h, ids, limits, digests=digests.get(h), firm=firm) for h in session.holders}
    )
    sizes = {holder: result.padded_size for holder, result in results.items()}
    context.store.save_json(
        "aligned",
        {
            "ids": digest_of_ids(table),
            "n_rows": table.n_rows,
            "n_firms": np.unique(table.firms).size,
            "sizes": sizes,
            "warnings": table.warnings,
        },
    )


def counts_rows(p: Parameters) -> bool:
    """Return whether a later step opens values of single firms, or exact sums: holders count those by row."""
    return isinstance(p, AppliesModel) or (isinstance(p, Sampled) and not getattr(p, "private", False))


def _holder_align(context: StepContext) -> Protocol[None]:
    guard = context.guard()
    consents = yield from guard.receive_consents()
    pairs = pairs_of(context)
    if pairs is None:
        table = context.table()
        panel, ids = table.panel, table.ids
    else:
        panel, ids = pairs, pairs.keys
    limits = _limits(context, panel)
    offset = size_offset(context.home(), context.job.datasets[context.session.party], limits.size_step)
    result = yield from holder_align(
        context.session,
        ids.tolist(),
        min_rows=context.node.policy.min_overlap,
        offset=offset,
        counted=counts_rows(context.job.parameters),
        dated=panel is not None,
        limits=limits,
    )
    firms, row_of, split = {}, result.row_of, 0
    if panel is not None and result.firm is not None:
        firms["firm"] = checked_firms(result.firm, context.job.parameters, context.job.bank)
        row_of = numbered_once(result.firm, row_of, panel.firms)
        split = int(((row_of < 0) & (result.row_of >= 0)).sum())
    if pairs is not None:
        row_of = build_pairs(context, pairs, row_of)
        table = context.table()
    guard.keep(context.store, consents, table.firms, row_of, result.digests)
    context.store.save_arrays("row_of", row_of=row_of, **firms)
    known = int((row_of >= 0).sum())
    warnings = [*table.warnings, *_few_known(context, known, row_of.size), *_split(context, split)]
    told = limits.padded(ids.size, offset)
    context.store.save_json(
        "aligned",
        {"ids": digest_of_ids(table), "n_rows": table.n_rows, "told": told, "known": known, "warnings": warnings},
    )


def _few_known(context: StepContext, known: int, n_rows: int) -> list[str]:
    """Warn the holder's own people, and nobody else, where its data set has few of the bank's firms."""
    if known >= FEW_KNOWN * n_rows:
        return []
    text = f"only {known} of the bank's {n_rows} firms are in this data set: check that both use the same kind of id"
    structlog.get_logger("veilscore.tasks.align").warning(text, party=context.session.party, job=context.job_id)
    return [text]


def _split(context: StepContext, n_rows: int) -> list[str]:
    """Warn the holder's own people, and nobody else, of rows that were left out since a bank split firms."""
    if not n_rows:
        return []
    text = f"{n_rows} rows count as unknown: the bank numbers rows of one firm as of several firms; ask it why"
    structlog.get_logger("veilscore.tasks.align").warning(text, party=context.session.party, job=context.job_id)
    return [text]


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    n_holders, of_holders = len(sizes.holders), sum(sizes.holders)
    seconds = ID_S * (sizes.bank * n_holders + of_holders) + BASE_S * n_holders + 0.2
    return Cost(seconds, 12.0 * sizes.bank * n_holders + 80.0 * of_holders + 40e3 * n_holders)


ALIGN = Step(
    kind="align",
    bank=_bank_align,
    holder=_holder_align,
    reads={},
    reads_data=True,
    reads_home=lambda p: (*files_of_columns(p), *((HOME_KEY,) if counts_rows(p) else ())),
    cost=_cost,
    spends=no_openings,
    learns=(
        COMMITTED,
        Leak("AlignHolderRound1", "bank", "masked", "number of firms in the holder's data set, padded to thousands"),
        Leak("AlignBankRound1", "holder", "masked", "number of firms in the bank's job"),
        *hidden("bank", "masked", "AlignHolderStore"),
        Leak(
            "AlignBankRound2",
            "holder",
            "opened",
            "which of its firms are in the bank's job, and their rows; where single firms or exact sums are opened, "
            "which of the bank's rows came before",
        ),
        Leak("AlignHolderRound2", "bank", "public", "whether the bank has firms enough for the holder"),
    ),
    tells_besides={
        "firm_dates": Learned(
            "align, of firms at dates",
            "nothing more",
            "which pairs of firm and date of its data set are in the job; which of the bank's rows are of one firm, of "
            "firms it does not know as well",
            "job, sizes, timing",
            how_much="nothing",
        )
    },
    refusals=(),
)
