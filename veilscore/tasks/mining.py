"""Task mine_rules: noised goods and bads by the bank's segments and holders' bins, once to find rules, once to measure.

The bank divides its firms by its own columns into segments that do not overlap. Of each holder it opens, by segment and
anonymous bin, sums of r = y - p and W = p (1 - p) with one p for all firms, from which bads and goods follow. A firm
is in one segment, so the sums of all segments move by no more than those of one (`cells_sensitivity`), and cost what
the cells of a scorecard would at the whole of mu. Step verify opens the same of the rows held out, where mu is counted
apart, so what a rule is measured by is other firms and other noise than what it was found by.
The rules themselves are the bank's business (`party_bank/mining.py`): no holder learns which of its bins they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from veilscore.arrays import Array, Mask, Vector, Words
from veilscore.data.codes import CodeMap
from veilscore.errors import RefusedError
from veilscore.models.counts import BinCounts, BinnedColumns
from veilscore.models.design import columns_of
from veilscore.models.residual import MOST_BINS, CellSums, cells_sensitivity, most_bins
from veilscore.models.segments import Conditions, Segments, grow
from veilscore.protocols.residual import bank_cells, holder_cells
from veilscore.tasks.align import ALIGN, ALIGNED
from veilscore.tasks.binning import HINTS_BYTES, refuse_other_split
from veilscore.tasks.context import StepContext, aligned_table, files_of_columns, no_files, split
from veilscore.tasks.fixed_bins import charged
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, by_name, costed
from veilscore.terms.mining import MineRules
from veilscore.terms.roles import Leak, hidden
from veilscore.wire.protocol import Charge, Protocol, Rows

_BADS_A_SEGMENT = 100.0  # fewer of them tell less than their noise
_DROWNED = 5.0  # deviations of noise that all bads of a job are at least, or nothing can be found
_LEAST_ROWS = 30


def charge_of(p: MineRules, rows: Rows) -> Charge:
    """Return what the sums by cell of one part of the rows cost: the whole of mu, training and hold-out apart."""
    opening = "cells by segment" if rows == "train" else "cells by segment, held out"
    return Charge(opening, rows, p.mu**2, p.noise_rows)


def _bank_mine(context: StepContext) -> Protocol[None]:
    job, p, store = context.job, context.job.of(MineRules), context.store
    table = aligned_table(context)
    train = split(table, job)
    code_map = CodeMap.fit(table, train, max_bin=p.max_bin, min_bin_fraction=p.min_bin_fraction, ordered=True)
    columns = columns_of(code_map, code_map.transform(table).codes, party=job.bank, names=True, association=False)
    target = np.asarray(table.label, dtype=np.int8)
    bads = float(target[train].sum())
    rarer = min(bads, float(train.sum()) - bads)
    most = int(np.clip(rarer // _BADS_A_SEGMENT, 1, p.segments))
    segments = grow(columns, target == 1, train, most=most, least=max(_LEAST_ROWS, int(0.02 * train.sum())))
    rows = {"target": target, "train": train, "segment": segments.of(columns.codes)}
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", **rows)
    store.save_json("segments", _by_name(segments, code_map))
    bins: dict[int, int] = {}

    def max_bin(n_columns: int) -> int:
        sigma = charge_of(p, "train").sigma(cells_sensitivity(n_columns))
        bins[n_columns] = min(p.max_bin, most_bins(rarer / math.sqrt(most), sigma))  # rules take several cells
        return bins[n_columns]

    found = yield from _bank_sums(context, rows, train, "train", max_bin, rarer=rarer)
    _keep(context, "sums", found)
    told = {h: {"names": list(s.names), "n_codes": s.n_codes.tolist(), "map": s.map_hash.hex(),
                "max_bin": bins[s.n_codes.size]} for h, (s, _, _) in found.items()}  # fmt: skip
    store.save_json("holders", told)
    store.save_json("mined", {"dataset": job.datasets[job.bank], "id_normaliser": p.id_normaliser})


def _by_name(segments: Segments, code_map: CodeMap) -> dict[str, Any]:
    """Return segments as codes of the bank's columns, by name."""

    def named(conditions: Conditions) -> dict[str, list[int]]:
        return {code_map.names[column]: list(codes) for column, codes in conditions.items()}

    return {
        "leaves": [named(conditions) for conditions in segments.leaves],
        "nodes": [{"conditions": named(one), "leaves": list(below)} for one, below in segments.nodes],
    }


def _bank_verify(context: StepContext) -> Protocol[None]:
    store = context.store
    rows, holders = store.load_arrays("rows"), store.load_json("holders")
    bins = {len(one["n_codes"]): int(one["max_bin"]) for one in holders.values()}
    found = yield from _bank_sums(context, rows, ~rows["train"], "holdout", lambda n: bins.get(n, MOST_BINS))
    for holder, (shape, _, _) in found.items():
        if shape.n_codes.tolist() != holders[holder]["n_codes"]:
            raise RefusedError("its bins are not those that rules were found by; submit a new job", party=holder)
    _keep(context, "held", found)


def _bank_sums(
    context: StepContext,
    rows: Mapping[str, Array],
    chosen: Mask,
    part: Rows,
    max_bin: Callable[[int], int],
    *,
    rarer: float | None = None,
) -> Protocol[dict[str, tuple[BinCounts, CellSums, Words]]]:
    """Bank: have r and W of the chosen rows summed by its segments and each holder's cells.

    rarer : chosen rows of the rarer class, where the noise is still to be weighed against them.
    """
    p, train = context.job.of(MineRules), rows["train"]
    base = float(rows["target"][train].mean())
    segment, target = rows["segment"][chosen], rows["target"][chosen]
    inside = segment[None] == np.arange(int(rows["segment"].max()) + 1)[:, None]
    padded = np.zeros((p.segments, segment.size))  # so that what is sent does not tell how many segments there are
    padded[: len(inside)] = inside
    charge = charge_of(p, part)

    def sigma(n_columns: int) -> float:
        return charge.sigma(cells_sensitivity(n_columns))

    def worth_its_noise(n_columns: Mapping[str, int]) -> None:
        worst = max(map(sigma, n_columns.values()))
        if rarer is not None and not p.despite_noise and rarer < _DROWNED * worst:
            raise RefusedError(
                f"the noise of this job drowns its data: {rarer:,.0f} rows of the rarer class beside noise of "
                f"{worst:,.0f}; take more firms or fewer columns, ask for a larger mu, or set despite_noise: true",
                party=context.job.bank,
            )

    residual: Vector = padded * (target - base)
    weight: Vector = padded * (base * (1 - base))
    own = residual, weight
    return bank_cells(context.session, chosen, lambda: own, max_bin=max_bin, sigma=sigma, agreed=worth_its_noise)


def _keep(context: StepContext, name: str, found: dict[str, tuple[BinCounts, CellSums, Words]]) -> None:
    """Keep at the bank what was opened of each holder."""
    kept: dict[str, Any] = {}
    for holder, (_, sums, _) in found.items():
        kept |= {f"{holder}/residual": sums.residual, f"{holder}/weight": sums.weight}
        kept |= {f"{holder}/sigma": np.array([sums.sigma]), f"{holder}/n_codes": sums.n_codes}
    context.store.save_arrays(name, **kept)


def _holder_mine(context: StepContext) -> Protocol[None]:
    store = context.store
    table, row_of = aligned_table(context), store.load_arrays("row_of")["row_of"]
    fixed = yield from charged(context)
    maps: list[CodeMap] = []

    def code(max_bin: int) -> BinnedColumns:
        maps.append(fixed.code_map(table, max_bin))
        return _coded(context, maps[-1], maps[-1].transform(table).take_rows(row_of).codes)

    n_columns = len(fixed.code_map(table, MOST_BINS).columns)
    columns, train, _ = yield from holder_cells(
        context.session, code, row_of.size, charge_of(context.job.of(MineRules), "train"),
        n_columns=n_columns, check=partial(refuse_other_split, context), n_segments=context.job.of(MineRules).segments,
    )  # fmt: skip
    store.save_json("code_map", maps[-1].to_json())
    store.save_arrays("rows", codes=columns.codes, train=train)


def _holder_verify(context: StepContext) -> Protocol[None]:
    store, p = context.store, context.job.of(MineRules)
    rows, code_map = store.load_arrays("rows"), CodeMap.from_json(store.load_json("code_map"))
    coded = _coded(context, code_map, rows["codes"])

    def check(held: Mask) -> None:
        if not np.array_equal(held, ~rows["train"]):
            raise RefusedError("other rows are held out than did not train", party=context.session.party)

    yield from holder_cells(
        context.session, lambda _: coded, rows["train"].size, charge_of(p, "holdout"),
        n_columns=len(code_map.columns), check=check, n_segments=p.segments,
    )  # fmt: skip


def _coded(context: StepContext, code_map: CodeMap, codes: Array) -> BinnedColumns:
    names = context.node.policy.told_names
    return columns_of(code_map, codes, party=context.session.party, names=names, association=False)


def _cost(p: MineRules, sizes: Sizes) -> Cost:
    m = len(sizes.holders)
    return costed(m * (HINTS_BYTES + 60 * p.segments * sizes.train), 0.5 + m * p.segments * 3e-7 * sizes.train)


_SUMS = (
    Leak("ResidualHolderColumns", "bank", "public", "number of columns"),
    Leak("BinHolderRound1", "bank", "public", "numbers of codes of bins that do not depend on the job"),
    *hidden("bank", "hint", "BinHolderHints"),
    *hidden("holder", "ciphertext", "BinBankRound2"),
    Leak("BinHolderRound2", "bank", "opened", "noised goods and bads by its own segments and anonymous bin"),
)

MINE = Step(
    kind="mine",
    bank=_bank_mine,
    holder=_holder_mine,
    reads=ALIGNED,
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost,
    spends=lambda p: (charge_of(p, "train"),),
    fixed_bins=True,
    learns=(
        COMMITTED,
        Leak("BinBankRound1", "holder", "opened", "which rows train and which are held out"),
        *_SUMS,
    ),
    tells_besides={},
    refusals=(),
)

VERIFY = Step(
    kind="verify",
    bank=_bank_verify,
    holder=_holder_verify,
    reads={"rows.npz": "mine", "holders.json": "mine"},
    reads_data=False,
    reads_home=no_files,
    cost=_cost,
    spends=lambda p: (charge_of(p, "holdout"),),
    learns=(COMMITTED, *hidden("holder", "public", "BinBankRound1"), *_SUMS),
    tells_besides={},
    refusals=(),
)

TASK = Task(MineRules, by_name(align=ALIGN, mine=MINE, verify=VERIFY))
