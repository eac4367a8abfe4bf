"""Step refit: another private scorecard from what an earlier job opened and was charged for; nothing new is opened.

    openings.json    each party, of a private scorecard's job: the job whose openings its files hold

Columns of holders are left out, signs are held positive and the penalty changes by the kept gradient and X'WX alone;
effects that are to rise or fall with the value, or need not any more, take of the kept sums by cell what differs. The
bank's own part and its offset are those of the earlier job, since residuals and weights were its own. Holders keep
the code map under the new model's name, as at the end of every training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from veilscore.arrays import Mask
from veilscore.data.codes import CodeMap
from veilscore.errors import DataError, JobError, MessageError, RefusedError
from veilscore.files.store import JobStore
from veilscore.models.design import most_columns
from veilscore.models.residual import HolderSums, Tables, carried, coefficients, strongest, without
from veilscore.models.residual_card import export, fit_record, own_fit
from veilscore.tasks.binning import load_counts
from veilscore.tasks.context import StepContext, aligned_table, keep_code_map, keep_model
from veilscore.tasks.residual import kept_sums, made_tables
from veilscore.tasks.task import COMMITTED, Cost, Step, no_openings
from veilscore.terms.job import JOB_ID, Job, parse_job
from veilscore.terms.parameters import ChosenColumns
from veilscore.terms.roles import Leak
from veilscore.terms.settings import parse_json
from veilscore.terms.training import TrainScorecard
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive

# what decides rows, labels, bins and the bank's own part, whose residuals were summed: a change is a new opening
_OF_OPENINGS = (
    "id_normaliser", "max_bin", "min_bin_fraction", "holdout_fraction", "holdout_seed", "holdout_from", "weights",
    "columns_from", "min_iv", "max_correlation", "missing_bin", "rows", "rows_per_firm", "firm_weight",
    "as_of",
)  # fmt: skip
_KEPT = {  # files that a refit takes over, so that it is evaluated, reported and reused as any other job is
    "bank": ("aligned.json", "counts.json", "code_map.json", "openings.json", "rows.npz", "sums.npz"),
    "holder": ("aligned.json", "columns.json", "code_map.json", "openings.json", "rows.npz", "row_of.npz"),
}


def _earlier(context: StepContext, job_id: str) -> tuple[JobStore, Job]:
    """Return the files and the job of an earlier private scorecard; JobError where this job may not reuse it."""
    job, party = context.job, context.session.party
    store = JobStore(context.home() / "jobs" / job_id)
    if JOB_ID.fullmatch(job_id) is None or not store.has("openings"):
        raise JobError(
            f"reuse: {party} has no sums of job {job_id[:60]!r}: name a finished private scorecard (its job id, or the "
            "name of its model)",
            party=party,
        )
    earlier = parse_job(store.load_json("openings")["job"], "reuse")
    for what in ("bank", "holders", "datasets"):
        if getattr(earlier, what) != getattr(job, what):
            raise JobError(f"reuse: {what} differ from those of job {job_id}, so new sums would be opened", party=party)
    if earlier.columns.get(job.bank) != job.columns.get(job.bank):
        raise JobError(
            f"reuse: columns of {job.bank} differ from those of job {job_id}, whose sums are of what its score leaves: "
            "leave reuse out, or keep them",
            party=party,
        )
    old, new = earlier.of(TrainScorecard), job.of(TrainScorecard)
    for name in _OF_OPENINGS:
        if getattr(old, name) != getattr(new, name):
            raise JobError(
                f"reuse: {name} is {getattr(old, name)!r} in job {job_id}; another value means other rows, bins "
                "or residuals, which are opened and charged anew: leave reuse out, or keep the value",
                party=party,
            )
    return store, earlier


def _reused_id(context: StepContext) -> str:
    """Bank: return the id of the job that is reused, by itself or by the name of its model."""
    reuse = str(context.job.of(TrainScorecard).reuse)
    if JOB_ID.fullmatch(reuse):
        return reuse
    path = context.home() / "models" / reuse / "model.json"
    if not path.is_file():
        raise JobError(f"reuse: no model {reuse!r} at {path}; `veilscore model list` shows what there is")
    try:
        return str(parse_json(path.read_text(encoding="utf-8"))["model"]["provenance"]["job_id"])
    except (OSError, ValueError, KeyError, TypeError):
        raise JobError(f"reuse: {path} is no model; restore it from backup") from None


def _bank_refit(context: StepContext) -> Protocol[None]:
    job, p, job_id = context.job, context.job.of(TrainScorecard), _reused_id(context)
    store, earlier = _earlier(context, job_id)
    counts, rows, kept = load_counts(store), store.load_arrays("rows"), store.load_arrays("sums")
    own, opened = own_fit(earlier, counts[job.bank], rows), store.load_json("fit")["holders"]
    before = earlier.of(TrainScorecard)
    untold = [h for h in job.holders if not counts[h].ordered.any()]
    if p.monotone is True and untold:
        raise JobError(f"reuse: {untold[0]} told no order of bins in job {job_id}; set monotone: told", party=job.bank)

    def tables(q: TrainScorecard, most: int | None) -> dict[str, Tables]:
        return made_tables(kept, job.holders, own.residual, own.weight, most, counts=counts if q.monotone else None)

    opened_for = tables(before, most_columns(before, own.rarer))
    made = opened_for if bool(p.monotone) == bool(before.monotone) else tables(p, None)
    made = {h: without(one, ~_wanted(job, h, counts[h].names) | ~opened_for[h].used) for h, one in made.items()}
    made = strongest(made, most_columns(p, own.rarer))
    for holder in job.holders:
        yield Send(holder, pb.RefitBankJob(job_id=job_id))
    for holder in job.holders:
        ready = yield from receive(holder, pb.RefitHolderReady)
        if ready.map_sha256 != counts[holder].map_hash:
            raise MessageError("the holder's code map is not that of the job that is reused", party=holder)
    context.store.take_over(store, *_KEPT[context.role])
    if not np.array_equal(np.asarray(aligned_table(context).label, np.int8), rows["target"]):
        raise DataError("reuse: labels changed since the sums were opened; leave reuse out: new labels are charged")
    sums = {h: _sums(opened[h]) for h in job.holders}
    found = {}
    for h, one in made.items():
        now = carried(sums[h], kept_sums(kept, h), opened_for[h], one)
        found[h] = coefficients(one, now, positive=p.sign == "positive", spread=p.C**0.5)
    keep_model(context, export(job, own, counts, made, found, job_id=context.job_id))
    keep_code_map(context, CodeMap.from_json(store.load_json("code_map")))
    context.store.save_json("fit", fit_record(own, made, sums, found))


def _wanted(job: Job, holder: str, names: tuple[str, ...]) -> Mask:
    """Return which of a holder's columns the job takes; JobError where it names one that was not opened."""
    chosen = job.columns.get(holder, ChosenColumns())
    strange = [name for name in (*(chosen.include or ()), *chosen.exclude) if name not in names]
    if strange:
        raise JobError(
            f"reuse: {strange[0]!r} is no column of {holder} in the job that is reused, which has "
            f"{', '.join(names[:12])}; another column is a new opening",
            party=job.bank,
        )
    return np.array([(chosen.include is None or n in chosen.include) and n not in chosen.exclude for n in names], bool)


def _sums(kept: Mapping[str, Any]) -> HolderSums:
    return HolderSums(
        np.array(kept["gradient"]),
        np.array(kept["moments"]),
        float(kept["sigma_gradient"]),
        float(kept["sigma_moments"]),
    )


def _holder_refit(context: StepContext) -> Protocol[None]:
    asked, reuse = (yield from receive(context.job.bank, pb.RefitBankJob)), context.job.of(TrainScorecard).reuse
    named = JOB_ID.fullmatch(asked.job_id)
    if named is None or reuse not in {asked.job_id, named["name"]}:
        raise RefusedError(f"the bank reuses another job than {reuse!r}", party=context.session.party)
    store, _ = _earlier(context, asked.job_id)
    code_map = CodeMap.from_json(store.load_json("code_map"))
    yield Send(context.job.bank, pb.RefitHolderReady(map_sha256=bytes.fromhex(code_map.hash)))
    context.store.take_over(store, *_KEPT[context.role])
    context.store.save_json("trained", {"n_steps": 0})
    keep_code_map(context, code_map)


def _files(p: TrainScorecard) -> tuple[str, ...]:
    """Name the files of the earlier job that the bank reads, and the model that names it."""
    folder = str(p.reuse) if JOB_ID.fullmatch(str(p.reuse)) else f"{p.reuse}-*"
    return (f"models/{p.reuse}/model.json", *(f"jobs/{folder}/{name}" for name in (*_KEPT["bank"], "fit.json")))


REFIT = Step(
    kind="refit",
    bank=_bank_refit,
    holder=_holder_refit,
    reads={},
    reads_data=True,
    reads_home=_files,
    cost=lambda _p, _sizes: Cost(0.3, 1e3),
    spends=no_openings,
    learns=(
        COMMITTED,
        Leak("RefitBankJob", "holder", "public", "which earlier job's sums are used again"),
        Leak("RefitHolderReady", "bank", "public", "that it has the code map of that job"),
    ),
    tells_besides={},
    refusals=(),
)
