"""Step evaluate of a private job: the curve of the hold-out, goods and bads by step of the score, with noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from veilscore.arrays import CodeArray
from veilscore.errors import ConfigError, DataError, JobError, RefusedError
from veilscore.models import design as designing
from veilscore.models.chained import Chained
from veilscore.models.counts import offsets
from veilscore.models.curve import Expected, NoisedCurve, sensitivity, steps_for
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.models.trees import Tree
from veilscore.protocols.curve import Scored, bank_curve, bank_trees_curve, holder_curve, holder_trees_curve
from veilscore.protocols.scoring import HolderAnswer, HolderPart, holder_receive
from veilscore.tasks.batch import MIN_HOLDOUT, held_out_rows, own_trees
from veilscore.tasks.batch_stability import keep_expected
from veilscore.tasks.context import StepContext, keep_model, no_files
from veilscore.tasks.panel import refuse_more_held
from veilscore.tasks.task import COMMITTED, USUAL_CELLS, Cost, Sizes, Step, costed
from veilscore.terms.bands import Bands
from veilscore.terms.job import Job
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.training import TrainBoosting, TrainScorecard
from veilscore.wire.protocol import Charge, Protocol

_OPEN_BYTES = 4096 * 16.0  # of one ring element of the opened lookup
_ROW_BYTES, _ROW_S = 7_500, 4e-5  # of a row in all steps: tables, labels, products of bits


def charge_of(mu: float, rows_per_firm: int = 1) -> Charge:
    """Return what the curve costs the account of every holder: as much as training, on other rows, so nothing more."""
    return Charge("curve", "holdout", mu**2, rows_per_firm)


def parameters_of(job: Job) -> TrainScorecard | TrainBoosting:
    """Return the parameters of a private job, which trains one model."""
    return job.training.candidates[0].parameters


def load_curve(arrays: Any) -> NoisedCurve:
    """Return the curve that the bank keeps in curve.npz."""
    return NoisedCurve(arrays["counts"], arrays["known"], float(arrays["sigma"][0]))


def _bank_curve(context: StepContext) -> Protocol[None]:
    p, store = parameters_of(context.job), context.store
    rows, model = store.load_arrays("rows"), context.model()
    held = ~rows["train"]
    bad = rows["target"][held] == 1
    known = np.array([(~bad).sum(), bad.sum()], np.float64)
    if held.sum() < MIN_HOLDOUT or not known.all():
        raise DataError(
            f"the hold-out has {known[0]:.0f} good and {known[1]:.0f} bad rows; to evaluate it takes both classes and "
            f"{MIN_HOLDOUT} rows: set a larger holdout_fraction"
        )
    expected = _expected(context, model, rows["codes"][rows["train"]])
    bands = Bands.of(model.bands, model.scaling.units).limits if model.bands else ()
    limits = expected.limits(steps_for(p.mu / p.noise_rows, float(known[1])), bands)
    codes = rows["codes"][held]
    if isinstance(model, Scorecard):
        parts = {x.party: HolderPart(x.n_codes, x.points, bytes.fromhex(x.map_sha256)) for x in model.parts[1:]}
        scored = Scored(held, model.own_units(codes), parts, model.sha256)
        counts = yield from bank_curve(context.session, scored, bad, limits)
    elif isinstance(model, Chained):
        counts = yield from bank_trees_curve(context.session, held, codes, model, bad, limits)
    middle, sigma = expected.middles(limits), charge_of(p.mu, p.noise_rows).sigma(sensitivity())
    store.save_arrays(
        "curve", counts=counts, known=known, sigma=np.array([sigma]), limits=np.array(limits), middle=middle
    )
    keep_expected(context, limits, NoisedCurve(counts, known, sigma).fitted.sum(axis=0))
    if p.calibrate:
        fitted = NoisedCurve(counts, known, sigma).fitted
        units, labels = np.tile(np.rint(middle).astype(np.int64), 2), np.repeat(np.array([0, 1], np.int8), middle.size)
        keep_model(context, designing.calibrated(model, units, labels, fitted.ravel()))


def _expected(context: StepContext, model: ScoreModel, codes: CodeArray) -> Expected:
    """Return what the bank expects of totals, by its own codes (n, d) of training rows; JobError for other models."""
    if isinstance(model, Scorecard):
        return Expected.of(model.own_units(codes), _parts_expected(model, context.store.load_json("fit")["holders"]))
    if not isinstance(model, Chained):
        raise JobError(f"model {model.name} is of format {model.format}, of which no private curve is made")
    own, parts = model.base_points + model.own_score(codes).astype(np.float64), []
    for holder in model.chains:
        mean, variance = model.expected(holder, codes)
        own += mean
        parts.append((0.0, variance))
    return Expected.of(np.rint(own).astype(np.int64), parts)


def _parts_expected(model: Scorecard, sums: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """Yield mean and variance of each holder's points over training rows, by weight W, from what it opened in training.

    The moments bring in how its columns go together; noise that takes the variance below half of what unrelated columns
    would have is not believed.
    """
    for part in model.parts[1:]:
        kept, at = sums[part.party], offsets(part.n_codes)[:-1]
        weight, moments = np.array(kept["weight"]), np.array(kept["moments"])
        theta = np.array([column.coefficient or 0.0 for column in part.columns])
        total = float(np.add.reduceat(weight, at).mean())
        mean = float(weight @ part.points) / total
        apart = float(theta**2 @ np.maximum(np.diag(moments), 0.0))
        yield mean, model.scaling.factor**2 * max(float(theta @ moments @ theta), apart / 2) / total


def _holder_curve(context: StepContext) -> Protocol[None]:
    p, store = parameters_of(context.job), context.store
    code_map = context.code_map()
    aligned = store.load_arrays("row_of")
    request = yield from holder_receive(context.session, aligned["row_of"].size)
    if "firm" in aligned:
        refuse_more_held(aligned["firm"], request.rows, p.noise_rows, context.session.party)
    codes = np.ascontiguousarray(held_out_rows(context, request.rows)["codes"][request.rows])
    # which firms it does not know, it never says here
    unknown, refusal, trees = np.zeros(codes.shape[0], bool), "", tuple[Tree, ...]()
    try:
        trees = own_trees(context, code_map, request)
    except (RefusedError, ConfigError) as error:  # told in the protocol's own message, so that the bank ends in order
        refusal = error.message
    answer = HolderAnswer(codes, code_map.n_codes, unknown, disclose_unknown=False, refusal=refusal)
    if request.trees_hash:
        yield from holder_trees_curve(context.session, request, answer, trees, charge_of(p.mu, p.noise_rows))
    else:
        yield from holder_curve(context.session, request, answer, charge_of(p.mu, p.noise_rows))
    store.save_json("scored", {"n_rows": codes.shape[0], "model": request.model_hash.hex()})


def _cost(_parameters: Any, sizes: Sizes) -> Cost:
    n, m = sizes.held or sizes.bank / 4, len(sizes.holders)
    return costed(m * (USUAL_CELLS + n // 4096 + 1) * _OPEN_BYTES + _ROW_BYTES * n, 0.3 + _ROW_S * n)


_CARD = (*hidden("bank", "hint", "BatchHolderHints"), *hidden("holder", "ciphertext", "BatchBankQuery"))
_TREES = (
    *hidden("holder", "public", "BatchBankKey"),
    *hidden("holder", "ciphertext", "BatchBankFactors"),
    *hidden("bank", "masked", "BatchHolderReply"),
)


def curve(made_by: str, *, trees: bool = False) -> Step:
    """Return the step evaluate of a private task whose model, a scorecard or trees, `made_by` makes."""
    return Step(
        kind="evaluate",
        bank=_bank_curve,
        holder=_holder_curve,
        reads={"rows.npz": "bin", "model.json": made_by, "fit.json": made_by},
        reads_data=False,
        reads_home=no_files,
        cost=_cost,
        spends=lambda p: (charge_of(p.mu, p.noise_rows),),
        learns=(
            COMMITTED,
            Leak("BatchBankRound1", "holder", "opened", "which rows are held out, and the model's hash"),
            Leak("BatchHolderRound1", "bank", "public", "whether it takes part"),
            *hidden("holder", "public", "BatchHolderKey"),
            *(_TREES if trees else _CARD),
            *hidden("lead", "masked", "BandHolderPartial", "BandBankLabels", "BoostPoints", "BoostProducts"),
            *hidden("lead", "public", "BandBankBase"),
            *hidden("bank", "masked", "BandLeadBase", "BoostPoints", "BoostChoices"),
            *hidden("bank", "ciphertext", "BandLeadTables"),
            Leak("CurveBankSteps", "lead", "opened", "limits of the steps of the score"),
            Leak("CurveLeadCounts", "bank", "opened", "noised counts of goods and bads by step of the score"),
        ),
        tells_besides={},
        refusals=(),
    )
