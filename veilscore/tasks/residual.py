"""Steps bin and train of a private scorecard: what holders' columns add to the bank's own, from noised sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import Array, Integers, Mask, Vector, Words
from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.table import Table
from veilscore.files.store import JobStore
from veilscore.models.counts import BinCounts, BinnedColumns, own_counts
from veilscore.models.design import columns_of, most_columns
from veilscore.models.residual import (
    MOST_BINS,
    MOST_MOMENTS,
    SHARES,
    CellSums,
    Tables,
    cells_sensitivity,
    check_fit,
    coefficients,
    most_bins,
    quantised,
    strongest,
    tables,
)
from veilscore.models.residual_card import export, fit_record, own_fit, rarer_rows
from veilscore.protocols.residual import bank_cells, bank_fit, holder_cells, holder_fit
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.binning import (
    BINNED,
    TOLD_ORDER,
    load_counts,
    own_columns,
    refuse_order,
    refuse_other_split,
    sampled_rows,
    save_counts,
    sums_bytes,
)
from veilscore.tasks.context import (
    StepContext,
    aligned_table,
    files_of_columns,
    keep_code_map,
    keep_model,
    no_files,
)
from veilscore.tasks.fixed_bins import charged
from veilscore.tasks.noise import check_noise, sizes_of
from veilscore.tasks.task import COMMITTED, PRODUCT_BLOCK_BYTES, Cost, Sizes, Step, costed
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.training import TrainBoosting, TrainScorecard
from veilscore.wire.protocol import Charge, Protocol

_USUAL_CODES = MOST_BINS + 1  # at most, missing values among them
_SUMS = {"sums.npz": "bin"}


def charges(mu2: float, rows_per_firm: int = 1) -> dict[str, Charge]:
    """Return the charges of both steps by opening: parts of the square of mu that they may spend."""
    return {opening: Charge(opening, "train", part * mu2, rows_per_firm) for opening, part in SHARES.items()}


def charges_of(p: TrainScorecard) -> dict[str, Charge]:
    """Return the charges of a job's openings."""
    return charges(p.mu**2, p.noise_rows)


def _bank_bin(context: StepContext) -> Protocol[None]:
    job, p, store = context.job, context.job.of(TrainScorecard), context.store
    table, rows = sampled_rows(context)
    kept: list[BinCounts] = []

    def own() -> tuple[Vector, Vector]:
        columns, code_map = own_columns(context, table, rows["train"])
        coded = {"codes": columns.codes, **rows}
        store.save_json("code_map", code_map.to_json())
        store.save_arrays("rows", **coded)
        kept.append(own_counts(job.bank, columns, rows["target"], rows["weight"], rows["train"]))
        fitted = own_fit(job, kept[0], coded)
        return fitted.residual, fitted.weight

    rarer = rarer_rows(p, rows)
    found = yield from bank_sums(context, own, rows, charges_of(p), rarer, max_bin=p.max_bin, trained=p)
    save_counts(store, {job.bank: kept[0], **{holder: shape for holder, (shape, _, _) in found.items()}})
    keep_sums(store, found)


def bank_sums(
    context: StepContext,
    own: Callable[[], tuple[Vector, Vector]],
    rows: Mapping[str, Array],
    charges: Mapping[str, Charge],
    rarer: float,
    *,
    max_bin: int,
    trained: TrainScorecard | TrainBoosting,
) -> Protocol[dict[str, tuple[BinCounts, CellSums, Words]]]:
    """Bank: have residuals and weights (n_train,), which `own` makes, summed by cell, in as many bins as noise leaves.

    rows : those of `sampled_rows`; rarer : training rows of the rarer class.
    charges : of all openings of the fit.
    trained : whose noise is weighed once holders have told their numbers of columns.
    """
    check_fit(int(rows["train"].sum()), charges)

    def sigma(n_columns: int) -> float:
        return charges["cells"].sigma(cells_sensitivity(n_columns))

    def worth_its_noise(n_columns: Mapping[str, int]) -> None:
        firm = rows["firm"] if trained.firm_weight == "shared" else None
        sizes = sizes_of(rows["target"], rows["weight"], rows["train"], n_columns, firm)
        check_noise(trained, sizes, context.job.bank)

    return bank_cells(
        context.session,
        rows["train"],
        own,
        max_bin=lambda n_columns: min(max_bin, most_bins(rarer, sigma(n_columns))),
        sigma=sigma,
        agreed=worth_its_noise,
    )


def holder_sums(
    context: StepContext,
    fixed: FixedBins,
    table: Table,
    row_of: Integers,
    charges: Mapping[str, Charge],
    *,
    ordered: bool = False,
) -> Protocol[tuple[CodeMap, BinnedColumns, Mask, Words]]:
    """Holder: answer `bank_sums` on its fixed bins; return map and codes of all rows, which train, and its shares.

    charges : of all openings of the fit; ordered : the bank is told which codes are neighbours, up to direction.
    """
    maps: list[CodeMap] = []

    def code(max_bin: int) -> BinnedColumns:
        maps.append(fixed.code_map(table, max_bin, ordered=ordered))
        codes = maps[-1].transform(table).take_rows(row_of).codes
        names = context.node.policy.told_names
        return columns_of(maps[-1], codes, party=context.session.party, names=names, association=False)

    def check(train: Mask) -> None:
        check_fit(int(train.sum()), charges)
        refuse_other_split(context, train)

    n_columns = len(fixed.code_map(table, MOST_BINS).columns)
    columns, train, share = yield from holder_cells(
        context.session, code, row_of.size, charges["cells"], n_columns=n_columns, check=check
    )
    return maps[-1], columns, train, share


def keep_sums(store: JobStore, found: Mapping[str, tuple[BinCounts, CellSums, Words]]) -> None:
    """Keep at the bank what `bank_cells` found of each holder."""
    kept: dict[str, Any] = {}
    for holder, (_, sums, share) in found.items():
        kept |= {f"{holder}/residual": sums.residual, f"{holder}/weight": sums.weight, f"{holder}/share": share}
        kept |= {f"{holder}/sigma": np.array([sums.sigma]), f"{holder}/n_codes": sums.n_codes}
    store.save_arrays("sums", **kept)


def kept_sums(kept: Mapping[str, Array], holder: str) -> CellSums:
    """Return a holder's sums by cell that `keep_sums` kept."""
    n_codes, residual, weight, sigma = (kept[f"{holder}/{name}"] for name in ("n_codes", "residual", "weight", "sigma"))
    return CellSums(n_codes, residual, weight, float(sigma[0]))


def made_tables(
    kept: Mapping[str, Array],
    holders: Iterable[str],
    residual: Vector,
    weight: Vector,
    most: int | None = None,
    *,
    counts: Mapping[str, BinCounts] | None = None,
) -> dict[str, Tables]:
    """Make each holder's tables of what `keep_sums` kept; residual and weight (n_train,) are the bank's own.

    most : how many columns of all holders have an effect at most; None: any number.
    counts : holder -> which of its columns have an order; their effects rise or fall. None: no effect has to.
    """
    made = {}
    for holder in holders:
        order = {} if counts is None else {n: getattr(counts[holder], n) for n in ("ordered", "missing_code")}
        made[holder] = tables(kept_sums(kept, holder), float(residual.sum()), float(weight.sum()), **order)
    return {holder: quantised(one) for holder, one in strongest(made, most).items()}


def _holder_bin(context: StepContext) -> Protocol[None]:
    p, store = context.job.of(TrainScorecard), context.store
    table, row_of = aligned_table(context), store.load_arrays("row_of")["row_of"]
    fixed = yield from charged(context)
    ordered = p.tells_order(allowed=context.node.policy.allow_order)
    code_map, columns, train, share = yield from holder_sums(
        context, fixed, table, row_of, charges_of(p), ordered=ordered
    )
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", codes=columns.codes, train=train)
    store.save_arrays("sums", share=share)
    store.save_json("columns", {"names": list(columns.names)})


def _bank_train(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(TrainScorecard)
    counts, rows, kept = load_counts(store), store.load_arrays("rows"), store.load_arrays("sums")
    own = own_fit(job, counts[job.bank], rows)
    most, order = most_columns(p, own.rarer), counts if p.monotone else None
    made = made_tables(kept, job.holders, own.residual, own.weight, most, counts=order)
    shares = {holder: kept[f"{holder}/share"] for holder in job.holders}
    fitted = yield from bank_fit(context.session, made, shares, own.weight, charges_of(p))
    found = {h: coefficients(made[h], fitted[h], positive=p.sign == "positive") for h in job.holders}
    keep_model(context, export(job, own, counts, made, found, job_id=context.job_id))
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    store.save_json("fit", fit_record(own, made, fitted, found))
    _keep_openings(context)


def _keep_openings(context: StepContext) -> None:
    """Note which job the sums and bins kept here are of, so that refits may use them."""
    context.store.save_json("openings", {"job_id": context.job_id, "job": context.job.canonical().decode()})


def _holder_train(context: StepContext) -> Protocol[None]:
    store, p = context.store, context.job.of(TrainScorecard)
    rows, code_map = store.load_arrays("rows"), CodeMap.from_json(store.load_json("code_map"))
    codes = np.ascontiguousarray(rows["codes"][rows["train"]])
    yield from holder_fit(context.session, codes, code_map.n_codes, store.load_arrays("sums")["share"], charges_of(p))
    store.save_json("trained", {"n_steps": 1})
    keep_code_map(context, code_map)
    _keep_openings(context)


def _cost_of_bin(_parameters: Any, sizes: Sizes) -> Cost:
    return costed(sums_bytes(sizes, min(sizes.codes, _USUAL_CODES)), 0.5)


def _cost_of_train(_parameters: Any, sizes: Sizes) -> Cost:
    m, d = len(sizes.holders), min(sizes.columns, MOST_MOMENTS)
    # u and hints by block; a pair's reply and the cells of tables by element; keys, tables and reply of the gradient
    blocks, cells = math.ceil(sizes.train / 4096), d * min(sizes.codes, _USUAL_CODES)
    sent = 4096 * (15 * (d + 2) * blocks + 9 * (d * blocks + d * (d + 1) / 2 + cells)) + 3 * PRODUCT_BLOCK_BYTES
    return costed(m * sent, m * (0.3 + 5e-6 * sizes.train))


CELLS = Step(
    kind="bin",
    bank=_bank_bin,
    holder=_holder_bin,
    reads=ALIGNED,
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost_of_bin,
    spends=lambda p: (charges_of(p)["cells"],),
    fits=lambda p, train: check_fit(train, charges_of(p)),
    fixed_bins=True,
    learns=(
        COMMITTED,
        Leak("ResidualHolderColumns", "bank", "public", "number of columns"),
        Leak("BinBankRound1", "holder", "opened", "which rows train and which are held out"),
        Leak("BinHolderRound1", "bank", "public", "numbers of codes of bins that do not depend on the job"),
        *hidden("bank", "hint", "BinHolderHints"),
        *hidden("holder", "ciphertext", "BinBankRound2"),
        Leak("BinHolderRound2", "bank", "opened", "noised sums of the bank's residuals and weights by anonymous bin"),
    ),
    # bins are fixed for the whole table, so their order tells nothing of one firm
    tells_besides={option: replace(told, how_much="nothing") for option, told in TOLD_ORDER.items()},
    refusals=(refuse_order,),
)

FIT = Step(
    kind="train",
    bank=_bank_train,
    holder=_holder_train,
    reads={**BINNED, **_SUMS},
    reads_data=False,
    reads_home=no_files,
    cost=_cost_of_train,
    spends=lambda p: (charges_of(p)["gradient"], charges_of(p)["moments"]),
    learns=(
        COMMITTED,
        *hidden("holder", "ciphertext", "ResidualBankTables", "ResidualBankLookup", "ResidualBankBlock"),
        *hidden("bank", "hint", "ResidualHolderHints"),
        *hidden("bank", "masked", "ResidualHolderSums"),
        Leak("ResidualHolderOpened", "bank", "opened", "noised gradient and second moments of its columns' effects"),
    ),
    tells_besides={},
    refusals=(),
)
