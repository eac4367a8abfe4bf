"""Make a holder's report of a training job: its own columns by its own labels, and what was learned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veilscore import __version__
from veilscore.arrays import Array, Mask
from veilscore.data.codes import CodeMap
from veilscore.files.store import JobStore
from veilscore.models.counts import cell_counts, offsets
from veilscore.release.account import Account
from veilscore.reports.boosting import trees_taken
from veilscore.reports.data import BinRow, ColumnBins, ColumnStability, PartyRow, ReportData, ReportedJob, StepCost
from veilscore.reports.measures import column_shift, learned_of, privacy_of, stability_of
from veilscore.tasks.stack import filed_job
from veilscore.terms.job import Job


def holder_report(
    store: JobStore,
    job: Job,
    party: str,
    *,
    costs: Iterable[StepCost] = (),
    account: Account | None = None,
    promises_less: tuple[str, ...] = (),
) -> ReportData:
    """Return one holder's report: its columns by its own labels, what it helped with and what was learned.

    store : the holder's job folder after its last step; account : that of its data set with the bank.
    promises_less : where its policy promises less than the default does.
    Raises StateError where the folder lacks what the steps save.
    """
    code_map = CodeMap.from_json(store.load_json("code_map"))
    rows, aligned = store.load_arrays("rows"), store.load_json("aligned")
    train: Mask = rows["train"]
    scored = store.load_json("scored") if store.has("scored") else None
    bins, shifts = _own_columns(code_map, _own_titles(code_map, store.load_json("columns")["names"]), party, rows)
    return ReportData(
        audience="holder",
        party=party,
        job=ReportedJob(
            name=job.name,
            job_id=store.path.name,
            purpose=job.purpose,
            task=job.task,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            software=f"Veilscore {__version__}",
            model_name=job.name,
            model_hash=scored["model"] if scored else None,
            n_train=int(train.sum()),
            n_holdout=int((~train).sum()),
        ),
        parties=_holder_parties(job, party, aligned, _contribution(store, train.size, aligned), len(bins), train.size),
        trees=trees_taken(store, filed_job(job, store)),
        bins=tuple(bins),
        stability=stability_of(shifts),
        costs=tuple(cost for cost in costs if cost.party == party),
        learned=learned_of(job, evaluated=scored is not None),
        privacy=privacy_of(job, account=account, promises_less=promises_less),
        warnings=(*code_map.warnings, *aligned["warnings"]),
    )


def _own_columns(
    code_map: CodeMap, names: Sequence[str], party: str, rows: Mapping[str, Array]
) -> tuple[list[ColumnBins], list[ColumnStability | None]]:
    """Return bins of every column by value, over the training rows, and how far the hold-out has moved."""
    train, codes = rows["train"], rows["codes"]
    before, after = (cell_counts(codes[chosen], code_map.n_codes) for chosen in (train, ~train))
    at, bins, shifts = offsets(code_map.n_codes), [], []
    for j, column in enumerate(code_map.columns):  # its permutation lists the codes by value
        cells = slice(at[j], at[j + 1])
        shares, labels = before[cells] / max(train.sum(), 1), column.labels()
        shown = [
            BinRow(codes=(code,), share=float(shares[code]), label=labels[code]) for code in column.permutation.tolist()
        ]
        bins.append(ColumnBins(column=names[j], party=party, bins=tuple(shown)))
        shifts.append(column_shift(names[j], party, before[cells], after[cells]))
    return bins, shifts


def _own_titles(code_map: CodeMap, published: Sequence[str]) -> list[str]:
    """Return names of the owner's columns, each with the alias that the bank sees where that differs."""
    pairs = zip(code_map.names, published, strict=True)
    return [name if name == alias else f"{name} ({alias})" for name, alias in pairs]


def _contribution(store: JobStore, n_rows: int, aligned: Mapping[str, Any]) -> str:
    """Say in one sentence what the holder helped with."""
    rows = "firms at dates" if store.load_arrays("row_of").get("firm") is not None else "firms"
    lines = [f"knew {aligned['known']:,} of the bank's {n_rows:,} {rows}"]
    if store.has("trained"):
        lines.append(f"took part in {store.load_json('trained')['n_steps']:,} steps of training")
    if store.has("boosted"):
        lines.append(f"took part in {store.load_json('boosted')['n_trees']:,} trees")
    if store.has("scored"):
        lines.append(f"helped to score {store.load_json('scored')['n_rows']:,} hold-out rows")
    return "; ".join(lines)


def _holder_parties(
    job: Job, party: str, aligned: Mapping[str, Any], detail: str, n_columns: int, n_bank: int
) -> tuple[PartyRow, ...]:
    shown = [PartyRow(name=job.bank, role="label holder", n_rows=n_bank)]
    for holder in job.holders:
        own = {"detail": detail, "n_rows": aligned["n_rows"], "n_columns": n_columns} if holder == party else {}
        shown.append(PartyRow.model_validate({"name": holder, "role": "feature holder", **own}))
    return (*shown, PartyRow(name=job.coordinator, role="coordinator"))
