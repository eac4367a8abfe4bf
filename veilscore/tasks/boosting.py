"""Task train_boosting: align, bin, boost, evaluate. Trees over the columns of the bank and of one holder each."""

from __future__ import annotations

from typing import Any

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.files.store import JobStore
from veilscore.models import boosting_design as designing
from veilscore.models.trees import HolderTrees, Tree
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.tasks.align import ALIGN
from veilscore.tasks.batch import evaluation
from veilscore.tasks.binning import BIN, BINNED, load_counts
from veilscore.tasks.chains import COLUMNS, GROW
from veilscore.tasks.context import StepContext, keep_code_map, keep_model, keep_trees, no_files
from veilscore.tasks.curve import curve
from veilscore.tasks.noise import noise_of_training
from veilscore.tasks.task import COMMITTED, Cost, Sizes, Step, Task, by_name, costed, exact_openings
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.training import TrainBoosting
from veilscore.wire.protocol import Protocol

_TREE = (2200.0, 2.6e7, 2e-5, 0.15)  # of a tree of depth 4: bytes a row and in all, seconds a row and in all
_EVERY = (3.4e7, 0.05)  # more of both in all, where every threshold is compared


def _checkpoint(store: JobStore) -> dict[str, Any]:
    """Return what an earlier attempt left; it outlives the step, which is repeated where another party failed last."""
    saved: dict[str, Any] = store.load_json("checkpoint_boost") if store.has("checkpoint_boost") else {}
    return saved


def _bank_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows, counts = store.load_arrays("rows"), load_counts(store)
    code_map = CodeMap.from_json(store.load_json("code_map"))
    data = designing.bank_boosting(job, counts, rows, code_map, _checkpoint(store))
    grown = yield from bank_boost(context.session, data)
    n_holdout = int((~rows["train"]).sum())
    keep_model(context, designing.export(job, data, counts, grown, n_holdout=n_holdout, job_id=context.job_id))
    keep_code_map(context, code_map)
    store.save_json("fit", designing.fit_record(data, grown))


def _holder_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows = store.load_arrays("rows")
    codes = np.ascontiguousarray(rows["codes"][rows["train"]])
    code_map = CodeMap.from_json(store.load_json("code_map"))
    growth = designing.growth(job, codes.shape[0])
    result = yield from holder_boost(
        context.session,
        codes,
        code_map.n_codes,
        growth,
        designing.natural(code_map),
        earlier=tuple(Tree.model_validate(tree) for tree in _checkpoint(store).get("trees", ())),
        tell_columns=context.node.policy.tell_split_columns,
    )
    part = HolderTrees(
        holder=context.session.party,
        model=job.name,
        map_sha256=code_map.hash,
        trees=result.trees,
        salt=result.salt.hex(),
    )
    n_splits = sum(len(tree.holder_splits) for tree in result.trees)
    keep_trees(context, part, code_map, n_trees=len(result.trees), n_splits=n_splits, n_sums=result.n_sums)


def _cost(p: TrainBoosting, sizes: Sizes) -> Cost:
    row_bytes, tree_bytes, row_s, tree_s = _TREE
    if p.split_search == "all":
        tree_bytes, tree_s = tree_bytes + _EVERY[0], tree_s + _EVERY[1]
    trees = p.n_estimators
    return costed(trees * (row_bytes * sizes.train + tree_bytes), trees * (row_s * sizes.train + tree_s))


_SPLITS = "which nodes split and on whose column; its own splits, and the threshold each was refined from"

BOOST = Step(
    kind="boost",
    bank=_bank_boost,
    holder=_holder_boost,
    reads=BINNED,
    reads_data=False,
    reads_home=no_files,
    cost=_cost,
    spends=exact_openings,
    learns=(
        COMMITTED,
        Leak(
            "BoostBankRound0",
            "holder",
            "opened",
            "number of the bank's columns and codes; the order of its own categories by bad rate",
        ),
        Leak("BoostHolderRound0", "bank", "public", "which of its columns are numbers"),
        *hidden("holder", "hint", "BoostBankHints"),
        *hidden("bank", "hint", "BoostHolderHints"),
        Leak("BoostBankTree", "holder", "opened", "number of trees, columns each may split on, range of the margins"),
        *hidden("holder", "masked", "BoostHolderMargin", "BoostPoints", "BoostChoices", "BoostProducts"),
        *hidden("bank", "masked", "BoostHolderGradients", "BoostPoints", "BoostChoices", "BoostProducts"),
        *hidden("holder", "ciphertext", "BoostBankTables", "BoostBankBlock", "BoostBankVectors"),
        *hidden("bank", "masked", "BoostHolderBlock"),
        *hidden("bank", "ciphertext", "BoostHolderVectors"),
        *hidden("holder", "public", "BoostBankLeaves"),
        Leak("BoostSealed", "bank", "opened", _SPLITS),
        Leak("BoostSealed", "holder", "opened", _SPLITS),
        Leak("BoostHolderSums", "bank", "opened", "two sums of gradients per leaf"),
        Leak("BoostHolderPart", "bank", "opened", "hash of its part of the model; the columns its splits are on"),
        Leak("BoostHolderImprovement", "bank", "opened", "fall of the loss on the validation rows, one number a tree"),
    ),
    tells_besides={},
    refusals=(),
)

_EXACT = by_name(align=ALIGN, bin=BIN, boost=BOOST, evaluate=evaluation(made_by="boost"))
_PRIVATE = by_name(align=ALIGN, bin=COLUMNS, boost=GROW, evaluate=curve("boost", trees=True))


def _step(p: TrainBoosting, name: str) -> Step:
    return (_PRIVATE if p.private else _EXACT)(p, name)


TASK = Task(TrainBoosting, _step, noise_of_training)
