"""Task train_scorecard: align, bin, train, evaluate. Logistic regression on WOE, filed as points per bin."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.errors import RefusedError
from veilscore.lattice.row_lookup import training_bytes
from veilscore.lattice.slots import n_folded
from veilscore.models import design as designing
from veilscore.models.optimise import OptimiserState
from veilscore.protocols.scorecard import bank_train, holder_train
from veilscore.tasks.align import ALIGN
from veilscore.tasks.batch import evaluation
from veilscore.tasks.binning import BIN, BINNED, HINT_BYTES, TOLD_ORDER, load_counts, refuse_order
from veilscore.tasks.context import StepContext, keep_code_map, keep_model, no_files
from veilscore.tasks.curve import curve
from veilscore.tasks.noise import noise_of_training
from veilscore.tasks.refit import REFIT
from veilscore.tasks.residual import CELLS, FIT
from veilscore.tasks.task import (
    COMMITTED,
    PRODUCT_BLOCK_BYTES,
    Cost,
    Sizes,
    Step,
    Task,
    by_name,
    costed,
    exact_openings,
)
from veilscore.terms.policy import NodePolicy
from veilscore.terms.roles import Leak, Learned, hidden
from veilscore.terms.training import TrainScorecard
from veilscore.wire.protocol import Protocol

USUAL_STEPS, USUAL_TERMS = 25, 15  # gradients of a training, terms of the sigmoid's series
ROW_S = 1.1e-5  # per row and gradient, all parties


def _bank_train(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    counts = load_counts(store)
    design = designing.design(job, counts, store.load_arrays("rows"))
    state = OptimiserState()
    if store.has("checkpoint_train"):
        state = OptimiserState.from_dict(store.load_json("checkpoint_train"))
    fitted = yield from bank_train(
        context.session, design.training, designing.fit(design, state), state, designing.openings(job, design)
    )
    keep_model(context, designing.export(job, design, counts, fitted, job_id=context.job_id))
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    store.save_json("fit", designing.fit_record(design, fitted))
    store.delete("checkpoint_train")


def _holder_train(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows = store.load_arrays("rows")
    codes = rows["codes"][rows["train"]]
    code_map = CodeMap.from_json(store.load_json("code_map"))
    # an interrupted attempt may have opened one gradient that the bank did not keep
    attempt = int(context.session.id.rsplit("/", 1)[1])
    opened = store.load_json("checkpoint_train")["opened"] if store.has("checkpoint_train") else 0
    n_steps = yield from holder_train(
        context.session,
        codes,
        code_map.n_codes,
        fraction_bits=designing.fraction_bits(job, codes.shape[0]),
        max_openings=designing.most_openings(job) + attempt - 1,
        opened=opened,
    )
    store.save_json("trained", {"n_steps": opened + n_steps})
    keep_code_map(context, code_map)


def _refuse_standard_errors(policy: NodePolicy, p: TrainScorecard) -> None:
    if p.standard_errors and not policy.allow_standard_errors:
        raise RefusedError("standard_errors is not allowed; set standard_errors: false")


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    m, train, n_codes = len(sizes.holders), sizes.train, np.full(math.ceil(sizes.columns), round(sizes.codes))
    hints, lookup = training_bytes(max(1, round(train)), n_codes)
    # of each gradient: the lookup; the residual, by each holder's cells and the bank's; shares of log-odds and residual
    one = m * lookup + (m + 1) * (14.0 * train + HINT_BYTES) + (m - 1) * 16.0 * train
    # tables of the sigmoid, of which short blocks take several a ciphertext, its reply, and that of each gradient
    whole, rest = divmod(round(train), 8192)
    folded = 2 * USUAL_TERMS * whole + (n_folded(2 * USUAL_TERMS, rest) if rest else 0)
    one += PRODUCT_BLOCK_BYTES * (folded + whole + bool(rest) + m * math.ceil(n_codes.sum() / 8192))
    once = m * (hints + 2 * PRODUCT_BLOCK_BYTES) + (m + 1) * n_codes.sum() * HINT_BYTES
    return costed(once + USUAL_STEPS * one, USUAL_STEPS * (ROW_S * train + 0.05))


TRAIN = Step(
    kind="train",
    bank=_bank_train,
    holder=_holder_train,
    reads=BINNED,
    reads_data=False,
    reads_home=no_files,
    cost=_cost,
    spends=exact_openings,
    learns=(
        COMMITTED,
        *hidden("holder", "ciphertext", "TrainBankRound0", "TrainBankEta", "TrainBankResidual"),
        *hidden("bank", "hint", "TrainHolderHistogramHints", "TrainHolderLookupHints"),
        Leak("TrainBankHints", "lead", "hint", "number of codes of the bank's columns"),
        Leak("TrainBankStep", "holder", "public", "number of steps and the range R of each"),
        *hidden("lead", "ciphertext", "TrainBankTables"),
        *hidden("lead", "masked", "TrainHolderEta"),
        *hidden("bank", "masked", "TrainLeadSigmoid"),
        *hidden("bank", "ciphertext", "TrainLeadCells"),
        *hidden("holder", "masked", "TrainLeadResidual"),
        Leak("TrainHolderGradient", "bank", "opened", "rounded gradient components, d + 1 a step; the weights"),
    ),
    tells_besides={
        **TOLD_ORDER,
        "association": Learned(
            "association",
            "where the holder tells it (publish_screening): Cramer's V of each pair of its columns",
            "nothing",
            "nothing",
        ),
        "standard_errors": Learned(
            "standard errors", "the Hessian at the solution, from 2 (d + 1) gradients", "nothing", "nothing"
        ),
    },
    refusals=(refuse_order, _refuse_standard_errors),
)

_EXACT = by_name(align=ALIGN, bin=BIN, train=TRAIN, evaluate=evaluation(made_by="train"))
_PRIVATE = by_name(align=ALIGN, bin=CELLS, train=FIT, evaluate=curve("train"))


_REFIT = by_name(refit=REFIT, evaluate=replace(curve("refit"), reads=dict.fromkeys(curve("refit").reads, "refit")))


def _step(p: TrainScorecard, name: str) -> Step:
    if p.reuse is not None:
        return _REFIT(p, name)
    return (_PRIVATE if p.private else _EXACT)(p, name)


TASK = Task(TrainScorecard, _step, noise_of_training)
