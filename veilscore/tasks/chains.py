"""Steps bin and boost of private trees: chains on holders' columns beside the bank's own boosted trees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray
from veilscore.data.codes import CodeMap
from veilscore.data.partitions import part_names, partitions
from veilscore.models import chain_design as designing
from veilscore.models.chain_growth import ChainColumns
from veilscore.models.chained import partition_trees, sources_of
from veilscore.models.counts import BinnedColumns, own_counts
from veilscore.models.design import columns_of
from veilscore.models.trees import HolderTrees
from veilscore.protocols.chains import ChainTerms, bank_chains, bank_columns, holder_chain, holder_columns
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.binning import BINNED, HINTS_BYTES, load_counts, own_rows, refuse_other_split, save_counts
from veilscore.tasks.context import (
    StepContext,
    aligned_table,
    files_of_columns,
    keep_code_map,
    keep_model,
    keep_trees,
    no_files,
)
from veilscore.tasks.fixed_bins import charged
from veilscore.tasks.noise import check_noise, sizes_of
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, costed, no_openings
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.training import TrainBoosting
from veilscore.wire.protocol import Charge, Protocol

FINE = 32  # fixed bins of a column, between which partitions draw their thresholds
_ROW_BYTES, _ROW_S = 9_500.0, 1.3e-4  # of a chain and training row, both sides


def terms(p: TrainBoosting) -> ChainTerms:
    """Return what a chain costs: the whole of the job's mu squared at each holder, for its own chain."""
    return ChainTerms(Charge("leaves", "train", p.mu**2, p.noise_rows))


def columns_named(code_map: CodeMap, codes: CodeArray, context: StepContext) -> BinnedColumns:
    """Describe coded columns as others know them: "column#number"."""
    party, names = context.session.party, context.node.policy.told_names
    columns = columns_of(code_map, codes, party=party, names=names, association=False)
    return replace(columns, names=part_names(code_map, party, names=names))


def _bank_bin(context: StepContext) -> Protocol[None]:
    bank, store = context.job.bank, context.store
    columns, rows, code_map = own_rows(context)
    found = yield from bank_columns(context.session, rows["train"])
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", **rows)
    save_counts(store, {bank: own_counts(bank, columns, rows["target"], rows["weight"], rows["train"]), **found})


def _holder_bin(context: StepContext) -> Protocol[None]:
    store = context.store
    table, row_of = aligned_table(context), store.load_arrays("row_of")["row_of"]
    fixed = yield from charged(context)
    code_map = partitions(fixed.code_map(table, FINE), fixed.least)
    codes = code_map.transform(table).take_rows(row_of).codes
    columns = columns_named(code_map, codes, context)
    train = yield from holder_columns(context.session, columns, row_of.size)
    refuse_other_split(context, train)
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", codes=codes, train=train)
    store.save_json("columns", {"names": list(columns.names)})


def _bank_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    counts, rows = load_counts(store), store.load_arrays("rows")
    n_columns = {holder: int(np.unique(sources_of(counts[holder].names)).size) for holder in job.holders}
    check_noise(job.of(TrainBoosting), sizes_of(rows["target"], rows["weight"], rows["train"], n_columns), job.bank)
    code_map = CodeMap.from_json(store.load_json("code_map"))
    own = designing.own_boosting(job, counts[job.bank], rows, code_map)
    columns = {h: ChainColumns(counts[h].n_codes, sources_of(counts[h].names)) for h in job.holders}
    chains = yield from bank_chains(context.session, own.rows, columns, terms(job.of(TrainBoosting)))
    n_holdout = int((~rows["train"]).sum())
    keep_model(context, designing.export(job, own, counts, chains, n_holdout=n_holdout, job_id=context.job_id))
    keep_code_map(context, code_map)
    store.save_json("fit", designing.fit_record(own, chains))


def _holder_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows, code_map = store.load_arrays("rows"), CodeMap.from_json(store.load_json("code_map"))
    codes = np.ascontiguousarray(rows["codes"][rows["train"]])
    grown = yield from holder_chain(context.session, codes, code_map.n_codes, terms(job.of(TrainBoosting)))
    keep_chain(context, code_map, grown)


def keep_chain(context: StepContext, code_map: CodeMap, grown: tuple[int, ...]) -> None:
    """Keep a holder's part of a chain whose trees are on these coded columns."""
    party, columns = context.session.party, sorted(set(grown))
    trees = partition_trees(party, columns, code_map.n_codes)
    part = HolderTrees(holder=party, model=context.job.name, map_sha256=code_map.hash, trees=trees)
    n_sums = sum(4 * int(code_map.n_codes[column]) for column in grown)  # two values of each leaf
    keep_trees(context, part, code_map, n_trees=len(grown), n_splits=len(columns), n_sums=n_sums)


def _cost_of_bin(_parameters: Any, sizes: Sizes) -> Cost:
    return costed(0.2 * len(sizes.holders) * sizes.bank, 0.3)


def _cost_of_boost(p: TrainBoosting, sizes: Sizes) -> Cost:
    m, own_s = len(sizes.holders), 3e-7 * p.n_estimators * sizes.train
    return costed(m * (_ROW_BYTES * sizes.train + HINTS_BYTES), own_s + m * (_ROW_S * sizes.train + 0.5))


COLUMNS = Step(
    kind="bin",
    bank=_bank_bin,
    holder=_holder_bin,
    reads=ALIGNED,
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost_of_bin,
    spends=no_openings,
    fixed_bins=True,
    learns=(
        COMMITTED,
        Leak("BinBankRound1", "holder", "opened", "which rows train and which are held out"),
        Leak("BinHolderRound1", "bank", "public", "numbers of codes of bins that do not depend on the job"),
    ),
    tells_besides={},
    refusals=(),
)

GROW = Step(
    kind="boost",
    bank=_bank_boost,
    holder=_holder_boost,
    reads=BINNED,
    reads_data=False,
    reads_home=no_files,
    cost=_cost_of_boost,
    spends=lambda p: (terms(p).charge,),
    learns=(
        COMMITTED,
        *hidden("bank", "hint", "ChainHolderHints"),
        *hidden("holder", "masked", "BoostPoints", "BoostChoices", "BoostProducts"),
        *hidden("bank", "masked", "BoostPoints", "BoostChoices", "BoostProducts"),
        Leak("ChainBankTrees", "holder", "opened", "which of its coded columns each tree is on, and which share a cut"),
        *hidden("holder", "ciphertext", "ChainBankVectors"),
        Leak("ChainHolderSums", "bank", "opened", "noised sums of leaves of random trees, two values a leaf"),
    ),
    tells_besides={},
    refusals=(),
)
