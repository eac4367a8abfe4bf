"""Which steps a job has, who takes part, and how each role's protocol is fed from and saved to its job folder.

    train_scorecard : align -> bin -> train -> evaluate
    train_boosting  : align -> bin -> boost -> evaluate
    train_stack, select_model : align -> bin -> fits on folds -> stack -> evaluate (`veilscore.tasks.stack`)
    score_batch     : align -> score
    screen_features : align -> screen (`veilscore.tasks.screening`)

The protocols themselves know no files; everything read or written by a step stands here. A step may run again after
an interruption: it reads what earlier steps saved, draws fresh secrets, and replaces only its own results.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from veilscore.data.codes import CodeMap
from veilscore.data.ingest import read_table
from veilscore.errors import ConfigError, DataError, JobError, RefusedError, SchemaError
from veilscore.evidence.opening import unkept
from veilscore.models import boosting_design
from veilscore.models import design as modelling
from veilscore.models.boosted import Boosted
from veilscore.models.model import Scorecard, ScoreModel, load_model
from veilscore.models.optimise import OptimiserState
from veilscore.models.trees import HolderTrees, Tree
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.protocols.binning import bank_bin, holder_bin, own_counts
from veilscore.protocols.boosting import bank_boost, holder_boost
from veilscore.protocols.commitment import bank_committed, holder_committed
from veilscore.protocols.scorecard import bank_train, holder_train
from veilscore.protocols.scoring import (
    BandResult,
    BatchRequest,
    BatchResult,
    HolderAnswer,
    HolderPart,
    bank_score,
    bank_score_bands,
    coordinator_add,
    holder_receive,
    holder_score,
)
from veilscore.protocols.tree_scoring import bank_score_trees, bank_score_trees_bands, holder_score_trees
from veilscore.release.batch import BatchGuard, bank_send_lists, lists_in
from veilscore.release.disclosure import DisclosureLedger
from veilscore.tasks import screening
from veilscore.tasks import stack as stacking
from veilscore.tasks.estimate import estimate
from veilscore.terms.bands import Bands, KeptBands
from veilscore.terms.job import ScreenFeatures, Training, TrainStack
from veilscore.wire.protocol import interleave

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from veilscore.data.table import Table
    from veilscore.evidence.opening import Opening
    from veilscore.files.store import JobStore
    from veilscore.protocols.binning import Columns
    from veilscore.terms.job import Job
    from veilscore.terms.policy import NodeConfig
    from veilscore.wire.protocol import Protocol, Session

__all__ = ["StepContext", "estimate", "load_code_map", "parties_in", "protocol_for", "split", "steps_for"]

STEPS: dict[str, tuple[str, ...]] = {
    "train_scorecard": ("align", "bin", "train", "evaluate"),
    "train_boosting": ("align", "bin", "boost", "evaluate"),
    "score_batch": ("align", "score"),
    "screen_features": ("align", "screen"),
}
FITS = {"train_scorecard": "train", "train_boosting": "boost"}  # the step that fits a model of a stack
WITH_COORDINATOR = {"evaluate", "score"}
MIN_HOLDOUT = 30


@dataclass(frozen=True)
class StepContext:
    """What one party has at hand in one step."""

    session: Session
    role: Literal["bank", "holder", "coordinator"]
    job: Job
    node: NodeConfig
    store: JobStore
    whole: Path | None = field(default=None, kw_only=True)  # folder of the job that this step's files are a part of
    opening: Opening | None = field(default=None, kw_only=True)  # bank: what this attempt is bound to

    def table(self) -> Table:
        """The party's data set of the job, read afresh and checked."""
        return self.columns(self._included())

    def columns(self, names: tuple[str, ...] | None) -> Table:
        """Some features of the party's data set (None: all), read afresh and checked."""
        job, name = self.job, self.job.datasets[self.session.party]
        dataset = self.node.datasets[name]
        chosen = job.columns.get(self.session.party)
        training = job.task != "score_batch" and self.role == "bank"
        return read_table(
            dataset.source,
            dataset.id_column,
            dataset.label_column if training else None,
            columns=names,
            exclude=(*dataset.exclude, *(chosen.exclude if chosen else ()), *self._unused(dataset, training=training)),
            weight_column=dataset.weight_column if training and self._weighted() else None,
            date_column=dataset.date_column if training and _sampling(job).holdout_from else None,
            normaliser=job.parameters.id_normaliser,
            table=dataset.table,
            query=dataset.query,
            kinds=self._kinds(),
        )

    def _unused(self, dataset: Any, *, training: bool) -> tuple[str, ...]:
        """Columns with a meaning that this task does not use; they are never features."""
        special = {dataset.label_column, dataset.weight_column, dataset.date_column} - {None}
        if training:
            special.discard(dataset.label_column)
            if self._weighted():
                special.discard(dataset.weight_column)
            if _sampling(self.job).holdout_from:
                special.discard(dataset.date_column)
        return tuple(sorted(special))

    def _weighted(self) -> bool:
        return isinstance(self.job.parameters, Training) and self.job.training.weights

    def _included(self) -> tuple[str, ...] | None:
        """Feature columns to read: those the job names, or those the model was trained on; None for all."""
        if self.job.task == "score_batch":
            return tuple(self.code_map().kinds)
        if self.job.task == "screen_features":
            return screening.feature_names(self)[:1]  # for the ids alone: the others are read chunk by chunk
        columns_from = getattr(self.job.parameters, "columns_from", None)
        if columns_from is not None:
            return screening.kept_columns(self, columns_from)
        chosen = self.job.columns.get(self.session.party)
        return chosen.include if chosen else None

    def _kinds(self) -> dict[str, Any]:
        if self.job.task != "score_batch":
            return {}
        return dict(self.code_map().kinds)

    def home(self) -> Path:
        """The node's home."""
        return (self.whole or self.store.path).parent.parent

    def guard(self) -> BatchGuard:
        """Holder only: consent and release control of this attempt."""
        return BatchGuard(self.home(), self.node.policy, self.job, self.session)

    def disclosures(self, whole: float) -> DisclosureLedger:
        """Holder only: what boosting told of this data set over all jobs; `whole`: bits that the codes hold."""
        policy, dataset = self.node.policy, self.job.datasets[self.session.party]
        most = policy.max_disclosure_total * whole if policy.boosting_bounds == "required" else None
        path = self.home() / "state" / "disclosure.db"
        job, step, _ = self.session.id.split("/")
        return DisclosureLedger(path, dataset, job if self.whole is None else f"{job}/{step}", most)

    def models(self) -> Path:
        """Folder of the models this node keeps, or of those of a fit within a job."""
        return self.home() / "models" if self.whole is None else self.store.path / "models"

    def code_map(self) -> CodeMap:
        """The party's code map of the model that the job applies (or has just trained)."""
        if isinstance(self.job.parameters, Training):
            return CodeMap.from_json(self.store.load_json("code_map"))
        return load_code_map(self.models(), self.job.scoring.model)

    def model(self) -> ScoreModel:
        """Bank only: the model that is trained or applied."""
        if isinstance(self.job.parameters, Training):
            return load_model(self.store.path / "model.json")
        return load_model(self.models() / self.job.scoring.model / "model.json")


def steps_for(job: Job) -> tuple[str, ...]:
    """Names of the job's steps, in order."""
    steps = stacking.steps(job) if isinstance(job.parameters, TrainStack) else STEPS[job.task]
    if isinstance(job.parameters, Training) and not (job.training.holdout_scores and _has_holdout(job)):
        return steps[:-1]
    return steps


def _has_holdout(job: Job) -> bool:
    return job.training.holdout_from is not None or job.training.holdout_fraction > 0


def parties_in(step: str, job: Job) -> tuple[str, ...]:
    """Names of the parties of a step; the coordinator adds masked partials where scores are opened."""
    adds = step in WITH_COORDINATOR and job.output == "score"
    return (*job.parties, job.coordinator) if adds else job.parties


def protocol_for(step: str, context: StepContext) -> Protocol[None]:
    """One party's role in a step: the bank's is committed to before it starts, and a holder's hears the commitment."""
    protocol = _with_report(step, context, role_of(step, context))
    if context.role == "bank":
        return bank_committed(context.session, context.opening or unkept(context.session), protocol)
    return holder_committed(context.session, protocol) if context.role == "holder" else protocol


def role_of(step: str, context: StepContext) -> Protocol[None]:
    """One party's role in a step, by itself: with its messages and files, without commitment and report."""
    roles: dict[tuple[str, str], Callable[[StepContext], Protocol[None]]] = {
        ("align", "bank"): _bank_align,
        ("align", "holder"): _holder_align,
        ("bin", "bank"): _bank_bin,
        ("bin", "holder"): _holder_bin,
        ("screen", "bank"): screening.bank_step,
        ("screen", "holder"): screening.holder_step,
        ("train", "bank"): _bank_train,
        ("train", "holder"): _holder_train,
        ("boost", "bank"): _bank_boost,
        ("boost", "holder"): _holder_boost,
        ("evaluate", "bank"): _bank_evaluate,
        ("evaluate", "holder"): _holder_score,
        ("evaluate", "coordinator"): _coordinator_score,
        ("score", "bank"): _bank_score,
        ("score", "holder"): _holder_score,
        ("score", "coordinator"): _coordinator_score,
    }
    if isinstance(context.job.parameters, TrainStack) and step not in {"align", "bin", "evaluate"}:
        fits = {(task, role): roles[FITS[task], role] for task in FITS for role in ("bank", "holder")}
        return stacking.protocol_for(step, context, fits)
    if (step, context.role) not in roles:
        raise JobError(f"{context.role} has no part in step {step!r} of task {context.job.task}")
    return roles[step, context.role](context)


def _with_report(step: str, context: StepContext, protocol: Protocol[None]) -> Protocol[None]:
    """Run the protocol and, after a training job's last step, write the party's report."""
    yield from protocol
    if step == steps_for(context.job)[-1]:
        from veilscore.reports.write import write_reports  # noqa: PLC0415 - loads matplotlib, slow

        write_reports(context)


def load_code_map(models: Path, name: str) -> CodeMap:
    """Code map of a model this node keeps."""
    path = models / name / "code_map.json"
    if not path.is_file():
        raise SchemaError(
            f"no code map of model {name!r} at {path}: this node never trained it or lost it; restore it from backup"
        )
    return CodeMap.from_json(path.read_text(encoding="utf-8"))


def digest_of_ids(table: Table) -> str:
    """Digest of a data set's ids in order: steps refuse a data set that changed under a job."""
    return hashlib.sha256("\n".join(table.ids.tolist()).encode()).hexdigest()


def aligned_table(context: StepContext, columns: tuple[str, ...] | None = None) -> Table:
    """The party's data set, or some columns of it; DataError if its rows are not those that were aligned."""
    table = context.table() if columns is None else context.columns(columns)
    if digest_of_ids(table) != context.store.load_json("aligned")["ids"]:
        raise DataError(
            f"the rows of {table.source} changed since this job was aligned; submit the job again",
            party=context.session.party,
        )
    return table


# --- align -----------------------------------------------------------------------------------------------------------


def _limits(context: StepContext) -> AlignLimits:
    return AlignLimits(max_ids=context.node.policy.max_set_size)


def _bank_align(context: StepContext) -> Protocol[None]:
    table = context.table()
    session, ids = context.session, table.ids.tolist()
    if context.job.task == "score_batch":
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
        context.session,
        table.ids.tolist(),
        min_overlap=context.node.policy.min_overlap,
        limits=_limits(context),
    )
    guard.keep(context.store, consents, table.ids, result.row_of)
    context.store.save_arrays("row_of", row_of=result.row_of)
    known = int((result.row_of >= 0).sum())
    context.store.save_json(
        "aligned", {"ids": digest_of_ids(table), "n_rows": table.n_rows, "known": known, "warnings": table.warnings}
    )


# --- bin -------------------------------------------------------------------------------------------------------------


def _sampling(job: Job) -> Any:
    """Parameters that say which rows train."""
    return job.parameters if isinstance(job.parameters, ScreenFeatures) else job.training


def split(table: Table, job: Job) -> NDArray[np.bool_]:
    """Training rows: not held out by date, or by a seeded draw stratified on the label; (n_rows,)."""
    p = _sampling(job)
    if p.holdout_from is not None:
        if table.dates is None:
            raise DataError("holdout_from needs a date_column in the bank's data set", party=job.bank)
        train: NDArray[np.bool_] = table.dates < np.datetime64(p.holdout_from)
    else:
        generator = np.random.default_rng(p.holdout_seed)
        train = np.ones(table.n_rows, bool)
        for label in (0.0, 1.0):
            rows = generator.permutation(np.flatnonzero(table.label == label))
            train[rows[: round(p.holdout_fraction * rows.size)]] = False
    if table.label is None or np.unique(table.label[train]).size < 2:
        raise DataError("the training rows hold one class only; change the hold-out", party=job.bank)
    return train


def _bank_bin(context: StepContext) -> Protocol[None]:
    job, p, store = context.job, context.job.training, context.store
    table = aligned_table(context)
    train = split(table, job)
    # the bank may always know the order of its own bins, so that it merges neighbours
    code_map = CodeMap.fit(table, train, max_bin=p.max_bin, min_bin_fraction=p.min_bin_fraction, ordered=True)
    codes = code_map.transform(table).codes
    columns = modelling.columns_of(code_map, codes, party=job.bank, names=True, association=p.tells_association)
    target = np.asarray(table.label, dtype=np.int8)
    weight = np.ones(table.n_rows) if table.weight is None else table.weight / table.weight[train].mean()
    held = yield from bank_bin(context.session, target, None if table.weight is None else weight, train)
    counts = {job.bank: own_counts(job.bank, columns, target, weight, train), **held}
    store.save_json("code_map", code_map.to_json())
    store.save_arrays("rows", codes=codes, target=target, weight=weight, train=train)
    modelling.save_counts(store, counts)


def _holder_bin(context: StepContext) -> Protocol[None]:
    p, policy, store = context.job.training, context.node.policy, context.store
    table = aligned_table(context)
    row_of = store.load_arrays("row_of")["row_of"]
    maps: list[CodeMap] = []

    def fit(train: NDArray[np.bool_]) -> Columns:
        known = row_of[train & (row_of >= 0)]
        code_map = CodeMap.fit(
            table,
            known,
            max_bin=p.max_bin,
            min_bin_fraction=p.min_bin_fraction,
            min_bin_count=max(30, policy.min_bin_count),
            ordered=p.tells_order,
        )
        maps.append(code_map)
        return modelling.columns_of(
            code_map,
            code_map.transform(table).take_rows(row_of).codes,
            party=context.session.party,
            names=policy.publish_column_names,
            association=p.tells_association,
        )

    columns, train = yield from holder_bin(context.session, fit, row_of.size, policy.min_bin_count)
    store.save_json("code_map", maps[0].to_json())
    store.save_arrays("rows", codes=columns.codes, train=train)
    store.save_json("columns", {"names": list(columns.names)})


def keep_code_map(context: StepContext, code_map: CodeMap) -> None:
    """Keep the map where scoring finds it; losing it kills the model, so it belongs in the owner's backup.

    A holder keeps the job's bands too: later it lets out bands by them alone, whatever the bank has then.
    """
    folder, p = context.models() / context.job.name, context.job.training
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    modelling.write_text(folder / "code_map.json", code_map.to_json())
    if context.role == "holder":
        bands = {name: float(lowest) for name, lowest in p.bands.items()}
        KeptBands(bands=bands, decimals=p.points_decimals, pdo=p.pdo, map_sha256=code_map.hash).save(folder)


# --- train -----------------------------------------------------------------------------------------------------------


def _bank_train(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows = store.load_arrays("rows")
    counts = modelling.load_counts(store)
    design = modelling.design(job, counts, rows)
    state = OptimiserState()
    if store.has("checkpoint_train"):
        state = OptimiserState.from_dict(store.load_json("checkpoint_train"))
    fitted = yield from bank_train(
        context.session, design.training, modelling.fit(design, state), state, modelling.openings(job, design)
    )
    model = modelling.export(job, design, counts, fitted, job_id=context.session.id.split("/")[0])
    keep_model(context, model)
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    store.save_json("fit", modelling.fit_record(design, fitted))
    store.delete("checkpoint_train")


def keep_model(context: StepContext, model: ScoreModel) -> None:
    """Save the model in the job folder and where scoring finds it."""
    model.save(context.store.path / "model.json")
    folder = context.models() / context.job.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    model.save(folder / "model.json")


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
        fraction_bits=modelling.fraction_bits(job, codes.shape[0]),
        max_openings=modelling.most_openings(job) + attempt - 1,
        opened=opened,
    )
    store.save_json("trained", {"n_steps": opened + n_steps})
    keep_code_map(context, code_map)


# --- boost -----------------------------------------------------------------------------------------------------------


def _checkpoint_of_boost(store: JobStore) -> dict[str, Any]:
    """What an earlier attempt left; it outlives the step, which is repeated where another party failed at its end."""
    saved: dict[str, Any] = store.load_json("checkpoint_boost") if store.has("checkpoint_boost") else {}
    return saved


def _bank_boost(context: StepContext) -> Protocol[None]:
    job, store = context.job, context.store
    rows, counts = store.load_arrays("rows"), modelling.load_counts(store)
    code_map = CodeMap.from_json(store.load_json("code_map"))
    data = boosting_design.bank_boosting(job, counts, rows, code_map, _checkpoint_of_boost(store))
    grown = yield from bank_boost(context.session, data)
    model = boosting_design.export(
        job, data, counts, grown, n_holdout=int((~rows["train"]).sum()), job_id=context.session.id.split("/")[0]
    )
    keep_model(context, model)
    keep_code_map(context, code_map)
    store.save_json("fit", boosting_design.fit_record(data, grown))


def _holder_boost(context: StepContext) -> Protocol[None]:
    job, store, party = context.job, context.store, context.session.party
    rows = store.load_arrays("rows")
    codes = np.ascontiguousarray(rows["codes"][rows["train"]])
    code_map = CodeMap.from_json(store.load_json("code_map"))
    growth = boosting_design.growth(job, codes.shape[0])
    state = _checkpoint_of_boost(store)
    ledger = context.disclosures(growth.accountant(code_map.n_codes).whole)
    result = yield from ledger.guard(
        holder_boost(
            context.session,
            codes,
            code_map.n_codes,
            growth,
            spent=max(state.get("spent", 0.0), ledger.of_job()),
            n_sums=state.get("n_sums", 0),
            natural=boosting_design.natural(code_map) if job.boosting.ordered else None,
            earlier=tuple(Tree.model_validate(tree) for tree in state.get("trees", ())),
            tell_columns=context.node.policy.tell_split_columns,
        )
    )
    part = HolderTrees(
        holder=party, model=job.name, map_sha256=code_map.hash, trees=result.trees, salt=result.salt.hex()
    )
    keep_code_map(context, code_map)
    modelling.write_text(context.models() / job.name / "trees.json", part.to_json())
    told = growth.accountant(code_map.n_codes, result.spent)
    store.save_json(
        "boosted",
        {
            "n_trees": len(result.trees),
            "n_splits": sum(len(tree.holder_splits) for tree in result.trees),
            "n_sums": result.n_sums,
            "spent": result.spent,
            "budget": told.budget if growth.bounds else None,
            "spent_all_jobs": ledger.total(),
            "budget_all_jobs": ledger.most,
            "sha256": part.sha256.hex(),
        },
    )


# --- evaluate and score ----------------------------------------------------------------------------------------------


def _parts(model: Scorecard) -> dict[str, HolderPart]:
    return {
        part.party: HolderPart(part.n_codes, part.points, bytes.fromhex(part.map_sha256)) for part in model.parts[1:]
    }


def _bank_totals(
    context: StepContext, model: ScoreModel, rows: NDArray[np.bool_], codes: NDArray[Any]
) -> Protocol[BatchResult]:
    """Totals of the scored rows by the model's kind; `codes` are the bank's of those rows."""
    session, coordinator = context.session, context.job.coordinator
    if isinstance(model, Boosted):
        return bank_score_trees(session, coordinator, rows, codes, model)
    if isinstance(model, Scorecard):
        return bank_score(session, coordinator, rows, model.own_units(codes), _parts(model), model.sha256)
    raise JobError(f"model {model.name} is of format {model.format}, which this version cannot score")


def _bank_bands(
    context: StepContext, model: ScoreModel, bands: Bands, rows: NDArray[np.bool_], codes: NDArray[Any]
) -> Protocol[BandResult]:
    """Bands of the scored rows, as `_bank_totals`."""
    session = context.session
    if isinstance(model, Boosted):
        return bank_score_trees_bands(session, rows, codes, model, bands)
    if isinstance(model, Scorecard):
        return bank_score_bands(session, rows, model.own_units(codes), _parts(model), model.sha256, bands)
    raise JobError(f"model {model.name} is of format {model.format}, which this version cannot score")


def _bank_evaluate(context: StepContext) -> Protocol[None]:
    rows = context.store.load_arrays("rows")
    held = ~rows["train"]
    if int(held.sum()) < MIN_HOLDOUT:
        raise DataError(f"the hold-out has {int(held.sum())} rows; at least {MIN_HOLDOUT} are needed to evaluate")
    model = context.model()
    target, weight = rows["target"][held], rows["weight"][held]
    if context.job.output == "band":
        bands = Bands.of(model.bands, model.scaling.units)
        found = yield from _bank_bands(context, model, bands, held, rows["codes"][held])
        context.store.save_arrays("holdout", band=found.bands, target=target, weight=weight)
        return
    result = yield from _bank_totals(context, model, held, rows["codes"][held])
    context.store.save_arrays("holdout", units=result.points, target=target, weight=weight)
    if context.job.training.calibrate:
        keep_model(context, modelling.calibrated(model, result.points, target, weight))


def _bank_score(context: StepContext) -> Protocol[None]:
    table = aligned_table(context)
    if table.n_rows < context.job.scoring.min_batch:
        raise DataError(f"{table.n_rows} firms are fewer than min_batch {context.job.scoring.min_batch}")
    model = context.model()
    codes, report = context.code_map().transform_with_report(table)
    rows = np.ones(table.n_rows, bool)
    if context.job.output == "band":
        bands = Bands.of(context.job.scoring.bands or model.bands, model.scaling.units)
        found = yield from _bank_bands(context, model, bands, rows, codes.codes)
        _check_unknown(context, found.unknown)
        modelling.write_bands(context.store, table, bands, found, report)
        return
    result = yield from _bank_totals(context, model, rows, codes.codes)
    _check_unknown(context, result.unknown)
    modelling.write_scores(context.store, table, model, result, report)


def _check_unknown(context: StepContext, unknown: dict[str, NDArray[np.bool_] | None]) -> None:
    if context.job.scoring.on_missing != "fail":
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
    code_map, guard = context.code_map(), context.guard()
    known = request.rows & (row_of >= 0)
    trees, reason = _own_trees(context, request)
    bands, unbanded = _accepted_bands(context, code_map)
    if bytes.fromhex(code_map.hash) != request.map_hash:
        refusal = "the model was trained on another version of this party's code map"
    elif reason or unbanded:
        refusal = reason or unbanded
    else:
        refusal = guard.refusal(store, known, request.model_hash, code_map, bands)
    codes = np.zeros((0, 0), np.uint8) if refusal else _codes_to_score(context, code_map, row_of, request.rows)
    answer = HolderAnswer(codes, code_map.n_codes, row_of[request.rows] < 0, policy.disclose_unknown, refusal, bands)
    coordinator = context.job.coordinator
    if request.trees_hash:
        scoring = holder_score_trees(context.session, coordinator, request, answer, trees)
    else:
        scoring = holder_score(context.session, coordinator, request, answer)
    n_scored = yield from guard.counted(scoring, store, known, request.model_hash, code_map, bands)
    store.save_json("scored", {"n_rows": n_scored, "model": request.model_hash.hex()})


def _accepted_bands(context: StepContext, code_map: CodeMap) -> tuple[Bands | None, str]:
    """Bands that this party lets out in this job (None: scores), or why there are none."""
    job, rules = context.job, context.node.policy.release
    if job.output == "score":
        return None, ""
    try:
        if isinstance(job.parameters, Training):
            units, pdo = int(10**job.training.points_decimals), job.training.pdo
            bands = Bands.of(job.training.bands, units)
        else:
            kept = KeptBands.load(context.models() / job.scoring.model)
            if kept.map_sha256 != code_map.hash:
                return None, "the bands kept here are of another version of the model"
            units, pdo = kept.units, kept.pdo
            bands = Bands.of(job.scoring.bands or kept.bands, units)
    except ConfigError as error:
        return None, error.message
    refusal = rules.bands_refusal(bands, units, pdo)
    return (None, refusal) if refusal else (bands, "")


def _own_trees(context: StepContext, request: BatchRequest) -> tuple[tuple[Tree, ...], str]:
    """This party's trees of the model, checked against the hash in the request; or why they cannot be used."""
    if not request.trees_hash:
        return (), ""
    trained = isinstance(context.job.parameters, Training)
    name = context.job.name if trained else context.job.scoring.model
    try:
        part = load_trees(context.models(), name)
    except ConfigError as error:
        return (), error.message
    if part.sha256 != request.trees_hash:
        return (), f"{context.session.party}'s part of model {name} is changed or of another version"
    return part.trees, ""


def load_trees(models: Path, name: str) -> HolderTrees:
    """This party's part of a boosted model; ConfigError if it is missing or was changed."""
    path = models / name / "trees.json"
    if not path.is_file():
        raise ConfigError(f"this party's part of model {name} is missing; restore it from backup")
    return HolderTrees.from_json(path.read_text(encoding="utf-8"))


def _codes_to_score(
    context: StepContext, code_map: CodeMap, row_of: NDArray[np.int64], rows: NDArray[np.bool_]
) -> NDArray[Any]:
    """Codes of the scored rows; in training the hold-out must be exactly what was held out at binning."""
    if isinstance(context.job.parameters, Training):
        saved = context.store.load_arrays("rows")
        if (rows & saved["train"]).any():
            raise RefusedError("the bank asks to score rows that trained", party=context.session.party)
        return np.ascontiguousarray(saved["codes"][rows])
    coded, report = code_map.transform_with_report(aligned_table(context))
    context.store.save_json("transform", {"n_rows": report.n_samples, "unseen": report.unseen})
    return coded.take_rows(row_of[rows]).codes


def _coordinator_score(context: StepContext) -> Protocol[None]:
    return coordinator_add(context.session)
