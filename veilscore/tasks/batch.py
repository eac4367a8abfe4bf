"""Task score_batch, and step evaluate of tasks that train in exact mode: rows are scored for the bank.

It gets the step of each firm's score, or its band. Exact scores it gets of the hold-out of a job in exact mode, and in
a batch where every holder agreed to them (`exact_for`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.codes import CodeMap
from veilscore.data.table import Table
from veilscore.errors import ConfigError, DataError, JobError, RefusedError
from veilscore.files.home_key import FILE as HOME_KEY
from veilscore.models import design as designing
from veilscore.models.boosted import Boosted
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.models.stability import EXPECTED
from veilscore.models.steps import middles, steps_of
from veilscore.models.trees import Tree
from veilscore.protocols.scoring import (
    BandResult,
    BatchRequest,
    BatchResult,
    HolderAnswer,
    HolderPart,
    bank_score,
    bank_score_bands,
    holder_receive,
    holder_score,
)
from veilscore.protocols.scoring_shards import bank_score_bands_shards, bank_score_shards, holder_score_shards
from veilscore.protocols.shards import InShards
from veilscore.protocols.tree_scoring import bank_score_trees, bank_score_trees_bands, holder_score_trees
from veilscore.release.batch import BatchOpening
from veilscore.release.pseudonyms import inputs_digest
from veilscore.tasks.align import ALIGN, ALIGNED
from veilscore.tasks.batch_files import write_bands, write_scores
from veilscore.tasks.batch_stability import keep_expected, keep_expected_totals, write_stability
from veilscore.tasks.context import (
    CONSENT_LISTS,
    StepContext,
    aligned_table,
    files_of_columns,
    keep_model,
    load_trees,
    no_files,
)
from veilscore.tasks.task import (
    COMMITTED,
    USUAL_CELLS,
    Cost,
    Sizes,
    Step,
    Task,
    by_name,
    costed,
    exact_openings,
    no_openings,
)
from veilscore.terms.bands import Bands, KeptBands
from veilscore.terms.parameters import MAX_BANDS, AppliesModel, ScoreBatch
from veilscore.terms.policy import NodePolicy, refuse_retired, refuse_shards, refuse_to_tell_who_is_known
from veilscore.terms.roles import Leak, hidden
from veilscore.terms.training import TrainBoosting, Training
from veilscore.wire.protocol import Protocol

MIN_HOLDOUT = 30
_OPEN_BYTES = 4096 * 16.0  # of one ring element of the opened lookup
_TREE_BYTES = 120  # of a row in a tree
_BAND_BYTES, _BAND_S = 5500, 1.9e-5  # of a row in 32 steps, both sides; in ten bands 4,400 and 1.4e-5


def _parts(model: Scorecard) -> dict[str, HolderPart]:
    return {
        part.party: HolderPart(part.n_codes, part.points, bytes.fromhex(part.map_sha256)) for part in model.parts[1:]
    }


def _bank_totals(
    context: StepContext, model: ScoreModel, rows: Mask, codes: Array, inputs: bytes = b""
) -> Protocol[BatchResult]:
    """Run the bank's role by the model's kind; `codes` are its own of the rows that are scored."""
    session, coordinator = context.session, context.job.coordinator
    shards = _shards(context, trees=isinstance(model, Boosted))
    if isinstance(model, Boosted):
        return bank_score_trees(session, coordinator, rows, codes, model, inputs)
    if isinstance(model, Scorecard):
        scored = rows, model.own_units(codes), _parts(model), model.sha256
        if shards is not None:
            return bank_score_shards(session, coordinator, *scored, inputs, shards)
        return bank_score(session, coordinator, *scored, inputs)
    raise JobError(f"model {model.name} is of format {model.format}, which this version cannot score")


def _bank_bands(
    context: StepContext, model: ScoreModel, bands: Bands, rows: Mask, codes: Array, inputs: bytes = b""
) -> Protocol[BandResult]:
    """Run the bank's role where steps or bands alone are opened, as `_bank_totals`."""
    session = context.session
    shards = _shards(context, trees=isinstance(model, Boosted))
    if isinstance(model, Boosted):
        return bank_score_trees_bands(session, rows, codes, model, bands, inputs)
    if isinstance(model, Scorecard):
        scored = rows, model.own_units(codes), _parts(model), model.sha256, bands
        if shards is not None:
            return bank_score_bands_shards(session, *scored, inputs, shards)
        return bank_score_bands(session, *scored, inputs)
    raise JobError(f"model {model.name} is of format {model.format}, which this version cannot score")


def _shards(context: StepContext, *, trees: bool) -> InShards | None:
    """Return in which shards the job's batch is scored, or None; RefusedError where the model cannot be."""
    p = context.job.parameters
    if not isinstance(p, ScoreBatch) or p.shards == 1:
        return None
    if trees:
        raise RefusedError("rows of trees are not scored in shards; set shards: 1")
    return InShards(p.shards, context.workers)


def _bank_evaluate(context: StepContext) -> Protocol[None]:
    rows = context.store.load_arrays("rows")
    held = ~rows["train"]
    if int(held.sum()) < MIN_HOLDOUT:
        raise DataError(f"the hold-out has {int(held.sum())} rows; at least {MIN_HOLDOUT} are needed to evaluate")
    model = context.model()
    target, weight = rows["target"][held], rows["weight"][held]
    if context.job.parameters.opens == "band":
        bands = Bands.of(model.bands, model.scaling.units)
        found = yield from _bank_bands(context, model, bands, held, rows["codes"][held])
        context.store.save_arrays("holdout", band=found.bands, target=target, weight=weight)
        keep_expected(context, bands.limits, np.bincount(found.bands, minlength=len(bands.names)))
        return
    result = yield from _bank_totals(context, model, held, rows["codes"][held])
    context.store.save_arrays("holdout", units=result.points, target=target, weight=weight)
    keep_expected_totals(context, result.points)
    if context.job.training.calibrate:
        keep_model(context, designing.calibrated(model, result.points, target, weight))


def _bank_score(context: StepContext) -> Protocol[None]:
    p, table = context.job.of(ScoreBatch), aligned_table(context)
    if table.n_rows < p.min_batch:
        raise DataError(f"{table.n_rows} firms are fewer than min_batch {p.min_batch}")
    model = context.model()
    codes, report = context.code_map().transform_with_report(table)
    rows = np.ones(table.n_rows, bool)
    scored = rows, codes.codes, inputs_digest(context.home(), table.ids.tolist(), codes.codes)
    if p.output == "exact":
        result = yield from _bank_totals(context, model, *scored)
        refuse_unknown(p, result.unknown)
        write_scores(context.store, table, model, result, report)
        write_stability(context, model, codes.codes, result.points)
        return
    steps = p.output == "score"
    bands = steps_of(model, p.score_steps) if steps else Bands.of(p.bands or model.bands, model.scaling.units)
    found = yield from _bank_bands(context, model, bands, *scored)
    refuse_unknown(p, found.unknown)
    if steps:
        middle = BatchResult(middles(bands)[found.bands], found.unknown)
        write_scores(context.store, table, model, middle, report, steps=found.bands)
    else:
        write_bands(context.store, table, bands, found, report)
    write_stability(context, model, codes.codes, found.bands, bands.limits)


def refuse_unknown(p: AppliesModel, unknown: Mapping[str, Mask | None]) -> None:
    """Refuse at the bank, with on_missing: fail, a batch with firms that a holder does not know."""
    if p.on_missing != "fail":
        return
    for holder, mask in unknown.items():
        if mask is None:
            raise RefusedError(
                f"{holder} does not say which firms it knows; set on_missing: missing_code to score them all",
                party=holder,
            )
        if mask.any():
            raise DataError(
                f"{holder} does not know {int(mask.sum())} of {mask.size} firms; set on_missing: missing_code to "
                "score them with the bin of missing values",
                party=holder,
            )


def _holder_score(context: StepContext) -> Protocol[None]:
    store, policy = context.store, context.node.policy
    row_of = store.load_arrays("row_of")["row_of"]
    request = yield from holder_receive(context.session, row_of.size)
    code_map, guard = context.code_map(request.map_hash), context.guard()
    request = replace(request, inputs=guard.put_in(store, request.inputs))
    trees: tuple[Tree, ...] = ()
    refusal, codes = "", np.zeros((0, 0), np.uint8)
    map_hash, n_columns = bytes.fromhex(code_map.hash), len(code_map.n_codes)
    opening = BatchOpening(request.rows, request.model_hash, map_hash, n_columns, inputs=request.inputs)
    shards: InShards | None = None
    try:
        shards = _shards(context, trees=bool(request.trees_hash))
        trees = own_trees(context, code_map, request)
        opening = replace(opening, bands=_accepted_bands(context, code_map, request))
        guard.check_release(store, opening)
    except (RefusedError, ConfigError) as error:  # told in the protocol's own message, so that the bank ends in order
        refusal = error.message
    if not refusal:
        table = cache(lambda: aligned_table(context, kinds=code_map.kinds))
        row_of = guard.consented(store, lambda: table().firms, row_of)
        codes = _codes_to_score(context, code_map, table, row_of, request.rows)
        opening = replace(opening, codes=codes)
        row_of = guard.within_budget(store, lambda: table().firms, row_of, opening)
        codes[row_of[request.rows] < 0] = code_map.unknown_firms(1).codes
    unknown, coordinator = row_of[request.rows] < 0, context.job.coordinator
    answer = HolderAnswer(codes, code_map.n_codes, unknown, policy.disclose_unknown, refusal, opening.bands)
    if request.trees_hash:
        scoring = holder_score_trees(context.session, coordinator, request, answer, trees)
    elif shards is not None:
        scoring = holder_score_shards(context.session, coordinator, request, answer, shards)
    else:
        scoring = holder_score(context.session, coordinator, request, answer)
    n_scored = yield from guard.counted(scoring, store, row_of >= 0, opening)
    store.save_json("scored", {"n_rows": n_scored, "model": request.model_hash.hex()})


def _accepted_bands(context: StepContext, code_map: CodeMap, request: BatchRequest) -> Bands | None:
    """Return the steps or bands that this party lets out in this job (None: exact scores), or refuse."""
    job, p, release = context.job, context.job.parameters, context.node.policy.release
    if p.opens == "exact":
        return None
    if p.opens == "score":  # which cut-offs is the bank's choice, as its points are; what counts is how many
        steps = Bands.steps(request.limits, job.of(ScoreBatch).score_steps)
        release.allow_values(len(steps.names))
        return steps
    if isinstance(p, Training):
        units, pdo = 10.0**p.points_decimals, p.pdo
        bands = Bands.of(p.bands, units)
    else:
        kept = KeptBands.load(context.version(bytes.fromhex(code_map.hash)))
        if kept.map_sha256 != code_map.hash:
            raise RefusedError("the bands kept here are of another version of the model")
        if kept.written and release.bands_only:  # no odds behind its points, so no least width of a band
            raise RefusedError("lets out bands of trained models only; file a decision over this one instead")
        units, pdo = kept.units, kept.pdo
        bands = Bands.of(job.of(ScoreBatch).bands or kept.bands, units)
    release.allow_values(len(bands.names))
    release.allow_bands(bands, units, pdo)
    return bands


def own_trees(context: StepContext, code_map: CodeMap, request: BatchRequest) -> tuple[Tree, ...]:
    """Return this party's trees of the model, none of a scorecard.

    Raises RefusedError or ConfigError where its map or its trees are not those of the request.
    """
    if bytes.fromhex(code_map.hash) != request.map_hash:
        raise RefusedError("the model was trained on another version of this party's code map")
    if not request.trees_hash:
        return ()
    version = context.version(request.map_hash)
    part = load_trees(version.parent, version.name)
    if part.sha256 != request.trees_hash:
        raise RefusedError(f"{context.session.party}'s part of model {version.name} is changed or of another version")
    return part.trees


def held_out_rows(context: StepContext, rows: Mask) -> dict[str, Array]:
    """Return what binning kept of all rows; RefusedError where those to be scored are not held out."""
    saved = context.store.load_arrays("rows")
    if (rows & saved["train"]).any():
        raise RefusedError("the bank asks to score rows that trained", party=context.session.party)
    return saved


def _codes_to_score(
    context: StepContext, code_map: CodeMap, table: Callable[[], Table], row_of: Integers, rows: Mask
) -> Array:
    """Return codes of the scored rows, an array of its own; in training the hold-out must be that of binning.

    table : reads the data set; row_of : (n_samples,) rows of it, -1 for firms that count as unknown.
    """
    if isinstance(context.job.parameters, Training):
        saved = held_out_rows(context, rows)
        unknown = code_map.unknown_firms(1).codes
        return np.ascontiguousarray(np.where(row_of[rows, None] < 0, unknown, saved["codes"][rows]))
    coded, report = code_map.transform_with_report(table())
    context.store.save_json("transform", {"n_rows": report.n_samples, "unseen": report.unseen})
    codes: Array = coded.take_rows(row_of[rows]).codes
    return codes


def _scoring_cost(n: float, sizes: Sizes, *, bands: bool, shards: int = 1) -> Cost:
    m = len(sizes.holders)
    blocks = n // 4096 + shards
    sent = m * (shards * USUAL_CELLS + blocks) * _OPEN_BYTES  # the points of all cells go to each shard
    return costed(sent + bands * _BAND_BYTES * n, m * n * 5e-6 + bands * _BAND_S * n)


def _evaluate_cost(p: Training, sizes: Sizes) -> Cost:
    n, bands = sizes.held or sizes.bank / 4, p.opens == "band"
    trees = [c.parameters.n_estimators for c in p.candidates if isinstance(c.parameters, TrainBoosting)]
    if not trees:
        return _scoring_cost(n, sizes, bands=bands)
    sent = trees[-1] * _TREE_BYTES * n + bands * _BAND_BYTES * n
    return costed(sent, trees[-1] * sizes.bank * 1e-6 + bands * _BAND_S * n)


def _refuse_scores_of_the_holdout(policy: NodePolicy, p: Training) -> None:
    if not p.holdout_scores:
        return
    if policy.holdout_scores != "allow":
        raise RefusedError("hold-out scores are not allowed; set holdout_scores: false")
    if p.opens == "exact" and policy.release.bands_only:
        raise RefusedError("releases bands only; set holdout_output: band")
    if p.opens == "band":
        units = int(10**p.points_decimals)
        try:
            policy.release.allow_bands(Bands.of(p.bands, units), units, p.pdo)
        except RefusedError as error:
            raise RefusedError(f"does not take these bands: {error.message}") from None


def _refuse_many_values(policy: NodePolicy, p: ScoreBatch) -> None:
    n_values = {"score": p.score_steps, "band": len(p.bands) + 1}.get(p.opens, 0)
    policy.release.allow_values(n_values)  # bands of the model are looked at once it is known


def _by_circuit(only: Literal["score", "band"], learns: str) -> tuple[Leak, ...]:
    """Return what goes where a garbled circuit opens the step or the band of each row."""
    return (
        Leak("BandHolderPartial", "lead", "masked", only=only),
        Leak("BandBankBase", "lead", "public", only=only),
        Leak("BandLeadBase", "bank", "masked", only=only),
        Leak("BandBankLabels", "lead", "masked", only=only),
        Leak("BandLeadTables", "bank", "ciphertext", only=only),
        Leak("BandLeadDecoding", "bank", "opened", learns, only=only),
    )


_LEARNS = (
    COMMITTED,
    Leak("BatchBankRound0", "coordinator", "public", "number of rows scored", only="exact"),
    Leak("BatchBankRound1", "holder", "opened", "which rows are scored, by which model hash"),
    Leak("BatchHolderRound1", "bank", "opened", "whether it takes part; unknown firms where policy says so"),
    *hidden("holder", "public", "BatchHolderKey", "BatchBankKey"),
    *hidden("bank", "hint", "BatchHolderHints"),
    *hidden("holder", "ciphertext", "BatchBankQuery", "BatchBankFactors"),
    *hidden("bank", "masked", "BatchHolderReply"),
    Leak("BatchHolderPartial", "coordinator", "masked", only="exact"),
    Leak("BatchCoordinatorTotal", "bank", "opened", "total points of each scored row", only="exact"),
    *_by_circuit("band", "band of each scored row"),
)
_LEARNS_OF_A_BATCH = (
    *_LEARNS,
    Leak("BatchBankRound1", "holder", "opened", "limits of the steps of the score", only="score"),
    Leak("BatchBankRound1", "holder", "opened", "whether the bank's own inputs are those of a batch before"),
    *_by_circuit("score", "which of a few steps each firm's points are in (32 at most by default)"),
    *hidden("bank", "masked", "ShardMessage"),  # around the messages above, where there are shards
    *hidden("holder", "ciphertext", "ShardMessage"),
)


def evaluation(made_by: str) -> Step:
    """Return the step evaluate of a task whose model `made_by` makes."""
    return Step(
        kind="evaluate",
        bank=_bank_evaluate,
        holder=_holder_score,
        reads={"rows.npz": "bin", "model.json": made_by},
        reads_data=False,
        reads_home=no_files,
        cost=_evaluate_cost,
        spends=exact_openings,
        learns=_LEARNS,
        tells_besides={},
        refusals=(_refuse_scores_of_the_holdout,),
    )


def _bits(p: ScoreBatch) -> float:
    """Return the bits of a firm that a batch opens: exact points tell without a bound."""
    if p.opens == "exact":
        return math.inf
    if p.opens == "score":
        return math.log2(p.score_steps)
    return math.log2(len(p.bands) + 1) if p.bands else math.log2(MAX_BANDS + 1)


SCORE = Step(
    kind="score",
    bank=_bank_score,
    holder=_holder_score,
    reads=ALIGNED,
    reads_data=True,
    reads_home=lambda p: (*files_of_columns(p), HOME_KEY, f"models/{p.model}/{EXPECTED}"),
    cost=lambda p, sizes: _scoring_cost(sizes.bank, sizes, bands=p.opens != "exact", shards=p.shards),
    spends=no_openings,
    bits=_bits,
    learns=_LEARNS_OF_A_BATCH,
    tells_besides={},
    refusals=(
        _refuse_many_values,
        lambda policy, p: refuse_to_tell_who_is_known(policy, p.on_missing),
        lambda policy, p: refuse_retired(policy, {"": p.model}),
        lambda policy, p: refuse_shards(policy, p.shards),
    ),
)

ALIGN_WITH_CONSENT = replace(
    ALIGN,
    reads_home=lambda p: (*ALIGN.reads_home(p), CONSENT_LISTS),
    spends=no_openings,
    learns=(
        Leak(
            "BatchConsent",
            "holder",
            "opened",
            "which of the firms whose ids it knows or guesses gave consent",
            row="consent",
        ),
        *ALIGN.learns,
    ),
)

TASK = Task(ScoreBatch, by_name(align=ALIGN_WITH_CONSENT, score=SCORE))
