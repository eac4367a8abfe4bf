"""Steps of a private stack: the bank's boosted trees, a residual scorecard on them, then a chain a holder on both.

    bin    sums by cell of the trees' residuals, and the shapes of coded columns
    train  gradient and X'WX of the scorecard
    boost  the chain, which begins with the scorecard's effects

Scores add up: a column of the scorecard is filed as a tree whose leaves are its effects, so that the model is one of
chains and is scored as such (`models/chained.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.arrays import Array
from veilscore.data.codes import CodeMap
from veilscore.data.partitions import beside, partitions
from veilscore.errors import MessageError
from veilscore.models import chain_design as designing
from veilscore.models.chain_design import OwnBoosting
from veilscore.models.chain_growth import Chain, ChainColumns, Steps
from veilscore.models.chained import card_places, sources_of
from veilscore.models.counts import offsets, own_counts
from veilscore.models.noise_cost import KnownSizes, NoiseCost
from veilscore.models.residual import check_fit, coefficients
from veilscore.protocols.chains import ChainTerms, bank_chains, bank_columns, holder_chain, holder_columns
from veilscore.protocols.residual import bank_fit, holder_fit
from veilscore.tasks.align import ALIGNED
from veilscore.tasks.binning import BINNED, load_counts, own_rows, refuse_other_split, save_counts
from veilscore.tasks.chains import COLUMNS, FINE, GROW, columns_named, keep_chain
from veilscore.tasks.context import StepContext, aligned_table, files_of_columns, keep_code_map, keep_model
from veilscore.tasks.fixed_bins import charged
from veilscore.tasks.noise import noise_of_training
from veilscore.tasks.residual import CELLS, FIT, bank_sums, charges, holder_sums, keep_sums, made_tables
from veilscore.tasks.task import Cost, Sizes, Step
from veilscore.terms.job import Job
from veilscore.terms.training import TrainBoosting, TrainStack
from veilscore.wire.protocol import Charge, Protocol

CARD_SHARE = 0.3  # of the square of mu, for the scorecard; the rest is the chain's


def card_charges(p: TrainStack) -> dict[str, Charge]:
    """Return what the scorecard's openings cost."""
    return charges(CARD_SHARE * p.mu**2, p.noise_rows)


def chain_terms(p: TrainStack) -> ChainTerms:
    """Return what the chain costs."""
    return ChainTerms(Charge("leaves", "train", (1 - CARD_SHARE) * p.mu**2, p.noise_rows))


def _of_trees(job: Job) -> Job:
    """Return the job that would grow the bank's trees and chains alone."""
    return job.of_candidate(next(c for c in job.candidates if isinstance(c.parameters, TrainBoosting)))


def _trees(p: TrainStack) -> TrainBoosting:
    return next(c.parameters for c in p.candidates if isinstance(c.parameters, TrainBoosting))


def _own(context: StepContext, rows: Any) -> OwnBoosting:
    store, job = context.store, context.job
    code_map = CodeMap.from_json(store.load_json("code_map"))
    return designing.own_boosting(_of_trees(job), load_counts(store)[job.bank], rows, code_map)


def noise(p: TrainStack, sizes: KnownSizes) -> NoiseCost | None:
    """Return what the noise is expected to cost: as much as that of chains with all of mu; None in exact mode."""
    return noise_of_training(_trees(p), sizes)


# --- bin -------------------------------------------------------------------------------------------------------------


def _bank_bin(context: StepContext) -> Protocol[None]:
    job, store, p = context.job, context.store, context.job.of(TrainStack)
    columns, rows, code_map = own_rows(context)
    train = rows["train"]
    counts = own_counts(job.bank, columns, rows["target"], rows["weight"], train)
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", **rows)
    save_counts(store, {job.bank: counts})
    own, bads = _own(context, rows).rows, float(rows["target"][train].sum())
    found = yield from bank_sums(
        context,
        lambda: (own.residual, own.weight),
        rows,
        card_charges(p),
        min(bads, train.sum() - bads),
        max_bin=p.max_bin,
        trained=_trees(p),
    )
    shapes = yield from bank_columns(context.session, train)
    for holder, (card, _, _) in found.items():
        names, n_codes = shapes[holder].names, shapes[holder].n_codes
        places = list(card_places(names, min(card.n_codes.size, int(sources_of(names)[-1]) + 1)))
        if not np.array_equal(n_codes[places], card.n_codes):
            raise MessageError("the scorecard's columns are not among the coded columns", party=holder)
    save_counts(store, {job.bank: counts, **shapes})
    keep_sums(store, found)


def _holder_bin(context: StepContext) -> Protocol[None]:
    p, store = context.job.of(TrainStack), context.store
    table, row_of = aligned_table(context), store.load_arrays("row_of")["row_of"]
    fixed = yield from charged(context)
    card_map, card, train, share = yield from holder_sums(context, fixed, table, row_of, card_charges(p))
    code_map = beside(card_map, partitions(fixed.code_map(table, FINE), fixed.least))
    codes = code_map.transform(table).take_rows(row_of).codes
    columns = columns_named(code_map, codes, context)
    refuse_other_split(context, (yield from holder_columns(context.session, columns, row_of.size)))
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", codes=codes, train=train)
    store.save_arrays("sums", share=share, card=np.array(card_places(columns.names, card.n_codes.size)))
    store.save_json("columns", {"names": list(columns.names)})


# --- train -----------------------------------------------------------------------------------------------------------


def _bank_train(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    kept, own = store.load_arrays("sums"), _own(context, store.load_arrays("rows")).rows
    made = made_tables(kept, job.holders, own.residual, own.weight)
    shares = {holder: kept[f"{holder}/share"] for holder in job.holders}
    fitted = yield from bank_fit(context.session, made, shares, own.weight, card_charges(job.of(TrainStack)))
    card: dict[str, Array] = {}
    for holder, one in made.items():
        theta = coefficients(one, fitted[holder]).theta
        card |= {f"{holder}/effect": np.repeat(theta, one.n_codes) * one.x, f"{holder}/weight": one.weight}
        card[f"{holder}/n_codes"] = one.n_codes
    store.save_arrays("card", **card)


def _holder_train(context: StepContext) -> Protocol[None]:
    store, p = context.store, context.job.of(TrainStack)
    rows, sums = store.load_arrays("rows"), store.load_arrays("sums")
    n_codes = CodeMap.from_json(store.load_json("code_map")).n_codes[sums["card"]]
    codes = np.ascontiguousarray(rows["codes"][rows["train"]][:, sums["card"]])
    yield from holder_fit(context.session, codes, n_codes, sums["share"], card_charges(p))


# --- boost -----------------------------------------------------------------------------------------------------------


def _bank_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    counts, rows, card = load_counts(store), store.load_arrays("rows"), store.load_arrays("card")
    own, columns = _own(context, rows), {}
    for holder in job.holders:
        names = counts[holder].names
        places = card_places(names, card[f"{holder}/n_codes"].size)
        columns[holder] = ChainColumns(counts[holder].n_codes, sources_of(names), places)

    def begin(holder: str, chain: Chain) -> Steps:
        at = offsets(card[f"{holder}/n_codes"])[1:-1]
        effects, weights = (np.split(card[f"{holder}/{name}"], at) for name in ("effect", "weight"))
        return chain.begin(effects, weights)

    terms = chain_terms(job.of(TrainStack))
    chains = yield from bank_chains(context.session, own.rows, columns, terms, begin)
    n_holdout = int((~rows["train"]).sum())
    model = designing.export(_of_trees(job), own, counts, chains, n_holdout=n_holdout, job_id=context.job_id)
    provenance = model.provenance.model_copy(update={"job_sha256": job.sha256.hex()})
    keep_model(context, model.model_copy(update={"provenance": provenance}))
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    store.save_json("fit", designing.fit_record(own, chains))
    store.save_json("choice", _choice(job))


def _holder_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows, code_map = store.load_arrays("rows"), CodeMap.from_json(store.load_json("code_map"))
    codes, card = np.ascontiguousarray(rows["codes"][rows["train"]]), tuple(store.load_arrays("sums")["card"].tolist())
    grown = yield from holder_chain(context.session, codes, code_map.n_codes, chain_terms(job.of(TrainStack)), card)
    keep_chain(context, code_map, (*card, *grown))
    store.save_json("choice", _choice(job))


def _choice(job: Job) -> dict[str, Any]:
    """Say for reports which candidate's parameters the filed trees have."""
    kinds = [isinstance(c.parameters, TrainBoosting) for c in job.candidates]
    return {"kind": "boosting", "scorecard": kinds.index(False), "boosting": kinds.index(True)}


# --- the records -----------------------------------------------------------------------------------------------------


def _cost_of_bin(p: TrainStack, sizes: Sizes) -> Cost:
    one, other = CELLS.cost(p, sizes), COLUMNS.cost(p, sizes)
    return Cost(one.seconds + other.seconds, one.bytes + other.bytes)


def _cost_of_boost(p: TrainStack, sizes: Sizes) -> Cost:
    return GROW.cost(_trees(p), sizes)


BIN = Step(
    kind="bin",
    bank=_bank_bin,
    holder=_holder_bin,
    reads=ALIGNED,
    reads_data=True,
    reads_home=files_of_columns,
    cost=_cost_of_bin,
    spends=lambda p: (card_charges(p)["cells"],),
    fits=lambda p, train: check_fit(train, card_charges(p)),
    fixed_bins=True,
    learns=CELLS.learns,
    tells_besides={},
    refusals=(),
)

_SUMS = {**BINNED, "sums.npz": "bin"}

TRAIN = Step(
    kind="train",
    bank=_bank_train,
    holder=_holder_train,
    reads=_SUMS,
    reads_data=False,
    reads_home=FIT.reads_home,
    cost=FIT.cost,
    spends=lambda p: (card_charges(p)["gradient"], card_charges(p)["moments"]),
    learns=FIT.learns,
    tells_besides={},
    refusals=(),
)

BOOST = Step(
    kind="boost",
    bank=_bank_boost,
    holder=_holder_boost,
    reads={**BINNED, "card.npz": "train"},
    reads_data=False,
    reads_home=GROW.reads_home,
    cost=_cost_of_boost,
    spends=lambda p: (chain_terms(p).charge,),
    learns=GROW.learns,
    tells_besides={},
    refusals=(),
)
