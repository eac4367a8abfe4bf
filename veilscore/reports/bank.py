"""Make the bank's report of a training job: metrics, weights, and bins by number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from veilscore.arrays import Mask
from veilscore.data.codes import ColumnMap
from veilscore.data.column_bins import NumberBins
from veilscore.files.store import JobStore
from veilscore.models.chained import Chained, source_name
from veilscore.models.counts import BinCounts, offsets
from veilscore.models.model import Column, Scorecard
from veilscore.reports.boosting import boosting_of
from veilscore.reports.comparison import comparison_of
from veilscore.reports.data import (
    BinRow,
    ColumnBins,
    Convergence,
    Dropped,
    ModelRow,
    PartyRow,
    ReportData,
    ReportedJob,
    ScorecardSection,
    Stability,
    StepCost,
)
from veilscore.reports.measures import (
    BankFiles,
    column_shift,
    learned_of,
    measured,
    privacy_of,
    read_files,
    stability_of,
)
from veilscore.reports.selection import selection_of
from veilscore.tasks.stack import filed_job
from veilscore.terms.job import Job
from veilscore.terms.training import TrainScorecard

_LEVEL = 1e-6  # of a WOE: what rounding may move


def bank_report(
    store: JobStore, job: Job, *, costs: Iterable[StepCost] = (), parties: Sequence[PartyRow] | None = None
) -> ReportData:
    """Return the bank's report.

    store : the bank's job folder after `train`, and `evaluate` where the job has it.
    costs : times and bytes, if known yet (`add_costs` adds them later).
    parties : who took part, where more is known (fingerprints, dates, refusals) than the folder says.
    Raises StateError where the folder lacks what the steps save.
    """
    files = read_files(store, filed_job(job, store))
    fields, notes = measured(files)
    return ReportData(
        audience="bank",
        party=job.bank,
        job=_bank_job(files).model_copy(update={"task": job.task}),
        parties=tuple(parties) if parties is not None else _bank_parties(files),
        score_name="points (higher is better)",
        model=_weights(files) if isinstance(files.model, Scorecard) else None,
        comparison=comparison_of(store.path.parents[1], files.model, fields.get("evaluations", ()))
        if isinstance(files.model, Scorecard)
        else None,
        boosting=boosting_of(files),
        selection=selection_of(store),
        bins=tuple(column for part in files.model.parts for column in _bank_bins(files, part.party)),
        stability=_bank_stability(files),
        convergence=_convergence(files),
        costs=tuple(costs),
        learned=learned_of(job, evaluated=files.holdout is not None or files.curve is not None),
        privacy=privacy_of(job),
        warnings=(*notes, *_bank_warnings(files)),
        **fields,
    )


def _convergence(files: BankFiles) -> Convergence | None:
    """Return the norms of the gradient; trees have none."""
    if files.design is None:
        return None
    history = [step["gradient_norm"] for step in files.fit["history"]]
    return Convergence(
        gradient_norm=(*history[1:], files.fit["gradient_norm"]) if history else (), converged=files.fit["converged"]
    )


def _bank_job(files: BankFiles) -> ReportedJob:
    model, p = files.model, files.job.training
    filed = model.provenance
    drawn = f"{p.holdout_fraction:.0%} drawn at random within goods and bads, seed {p.holdout_seed}"
    dated = f"from {p.holdout_from} on" if p.holdout_from else drawn
    if p.rows == "firm_dates":
        later = f"; their dates from {p.holdout_from} on, of the others those before" if p.holdout_from else ""
        dated = f"about {p.holdout_fraction:.0%} of the firms with all their dates, seed {p.holdout_seed}{later}"
    return ReportedJob(
        name=files.job.name,
        job_id=filed.job_id,
        purpose=files.job.purpose,
        task=files.job.task,
        created=filed.trained_at,
        software=f"Veilscore {filed.veilscore}",
        model_name=model.name,
        model_version=model.version,
        model_hash=model.sha256.hex(),
        transcript_hash=filed.transcript_sha256 or None,
        n_train=int(files.train.sum()),
        n_holdout=int((~files.train).sum()),
        holdout=None if files.train.all() else dated,
    )


def _bank_parties(files: BankFiles) -> tuple[PartyRow, ...]:
    padded, p = files.aligned["sizes"], files.job.training
    rows, dates = "firms", ""
    if p.rows == "firm_dates":
        rows = "firms at dates"
        dates = f", {files.aligned['n_firms']:,} firms at no more than {p.rows_per_firm} dates"
    of_name = source_name if isinstance(files.model, Chained) else str
    owners = [
        PartyRow(
            name=part.party,
            role="label holder" if part.role == "bank" else "feature holder",
            detail=f"{len({of_name(c.name) for c in part.columns if not c.left_out})} columns in the model"
            + (f", at most {padded[part.party]:,} {rows}" if part.party in padded else dates),
            n_rows=files.aligned["n_rows"] if part.role == "bank" else None,
            n_columns=len({of_name(c.name) for c in part.columns}),
        )
        for part in files.model.parts
    ]
    return (*owners, PartyRow(name=files.job.coordinator, role="coordinator"))


def _weights(files: BankFiles) -> ScorecardSection:
    scaling, asked = files.model.scaling, files.job.of(TrainScorecard).sign == "positive"
    rows, dropped = [], []
    inflation = dict(zip(files.fit["names"], files.fit.get("inflation", ()), strict=False))
    for part in files.model.parts[1:]:  # of a private job each holder's columns have their own
        of_holder = files.fit.get("holders", {}).get(part.party, {}).get("inflation", ())
        inflation |= {f"{part.party}: {c.name}": value for c, value in zip(part.columns, of_holder, strict=False)}
    for part in files.model.parts:
        for column in part.columns:
            if column.coefficient is None:
                dropped.append(Dropped(column=column.name, party=part.party, reason=column.left_out))
                continue
            rows.append(
                ModelRow(
                    column=column.name,
                    party=part.party,
                    coefficient=column.coefficient,
                    standard_error=column.standard_error,
                    p_value=_p_value(column),
                    inflation=inflation.get(f"{part.party}: {column.name}") or None,
                    sign_ok=column.coefficient >= 0 if asked else None,
                    iv=column.iv,
                    trend=_trend(files, part.party, column),
                    points_low=min(column.points) / scaling.units,
                    points_high=max(column.points) / scaling.units,
                )
            )
    unused = files.code_map.dropped.items()
    dropped += [Dropped(column=name, party=files.job.bank, reason=reason) for name, reason in unused]
    return ScorecardSection(
        rows=tuple(rows),
        intercept=files.model.intercept,
        base_score=scaling.base_score,
        base_odds=scaling.base_odds,
        pdo=scaling.pdo,
        dropped=tuple(dropped),
    )


def _trend(files: BankFiles, party: str, column: Column) -> str:
    """Say whether a column's WOE rises or falls with its value, as far as its owner tells the order of its bins."""
    counts = files.counts[party]
    j = counts.names.index(column.name)
    if not counts.ordered[j]:
        return "" if party == files.job.bank or counts.ordered.any() else "not told"
    steps = np.diff([woe for code, woe in enumerate(column.woe) if code != counts.missing_code[j]])
    return "monotone" if (steps >= -_LEVEL).all() or (steps <= _LEVEL).all() else "not monotone"


def _p_value(column: Column) -> float | None:
    """Return how often a column without effect has a coefficient as large, by its standard error."""
    if not column.standard_error or column.coefficient is None:
        return None
    return math.erfc(abs(column.coefficient) / column.standard_error / math.sqrt(2))


def _bank_bins(files: BankFiles, party: str) -> list[ColumnBins]:
    """Return the merged bins of a party's columns; the bank's own by value and with labels, others by falling WOE."""
    table, part, units = files.tables[party], files.model.part(party), files.model.scaling.units
    at, result = offsets(table.n_codes), []
    noised = files.fit.get("holders", {}).get(party)  # counts of a private job's holders are not known
    for j, column in enumerate(part.columns):
        group = table.group[at[j] : at[j + 1]]
        rows = column.rows if noised is None else noised["weight"][at[j] : at[j + 1]]
        own = files.code_map.columns[j] if party == files.job.bank else None
        cells = []
        for number in np.unique(group).tolist():
            codes = np.flatnonzero(group == number).tolist()
            bad, good = (sum(counts[code] for code in codes) for counts in (column.bad, column.good))
            share, woe, known = (
                sum(rows[code] for code in codes) / max(sum(rows), 1),
                column.woe[codes[0]],
                bad + good > 0,
            )
            cell = BinRow(
                codes=tuple(codes),
                share=share,
                label=range_label(own, codes) if own else None,
                bad_rate=min(bad / (bad + good), 1.0) if known else None,
                woe=woe,
                iv=(bad / table.total_bad - good / table.total_good) * woe if known else share * woe**2,
                rows=sum(column.rows[code] for code in codes) if known else None,
                bad=bad if known else None,
                points=column.points[codes[0]] / units if files.design is not None else None,
            )
            # the order of others' values is not the bank's to know
            cells.append((_place(own, codes) if own else -column.woe[codes[0]], cell))
        cells.sort(key=lambda pair: pair[0])
        ranked = tuple(cell for _, cell in cells)
        result.append(ColumnBins(column=column.name, party=party, bins=ranked, iv=column.iv))
    return result


def _place(column: ColumnMap, codes: Sequence[int]) -> int:
    """Return the number of the first bin among codes, in the order of values."""
    return int(np.argsort(column.permutation)[list(codes)].min())


def range_label(column: ColumnMap, codes: Sequence[int]) -> str:
    """Return the label of the codes of a merged bin; neighbouring ranges become one."""
    names = column.bins.labels()
    parts: list[tuple[int, int]] = []
    bins = sorted(np.argsort(column.permutation)[list(codes)].tolist())
    for place in bins:
        joins = (
            isinstance(column.bins, NumberBins) and place < column.bins.n_ranges and parts and parts[-1][1] == place - 1
        )
        if joins:
            parts[-1] = (parts[-1][0], place)
        else:
            parts.append((place, place))
    return " or ".join(
        names[a] if a == b else f"{names[a].split(', ')[0]}, {names[b].split(', ')[1]}" for a, b in parts
    )


def _bank_stability(files: BankFiles) -> Stability | None:
    shifts = [
        column_shift(column.name, part.party, np.array(column.rows, float), np.array(column.holdout_rows, float))
        for part in files.model.parts
        for column in part.columns
    ]
    return stability_of(shifts)


def _bank_warnings(files: BankFiles) -> list[str]:
    lines = _scorecard_warnings(files) if files.design is not None else []
    told = {files.job.bank} if files.job.training.private else set(files.counts)
    withheld = [party for party in files.counts if party in told and _withheld(files.counts[party], files.train)]
    if withheld:
        effect = "and score 0 points" if files.design is not None else "and stand at the average among the others"
        lines.append(f"Bins below the holder's minimum size were withheld, {effect}: {', '.join(withheld)}.")
    return [*lines, *files.code_map.warnings, *files.aligned["warnings"]]


def _scorecard_warnings(files: BankFiles) -> list[str]:
    lines = []
    if not files.fit["converged"]:
        lines.append(
            f"Training stopped at {files.fit['n_evaluations']} openings before it converged: raise max_openings, "
            "or lower C."
        )
    lines += files.design.warnings if files.design is not None else ()
    shapes = [
        f"{part.party}: {column.name}"
        for part in files.model.parts
        for column in part.columns
        if column.coefficient is not None and _trend(files, part.party, column) == "not monotone"
    ]
    if shapes:
        lines.append(
            f"{len(shapes)} columns rise and fall with their value, as a trend would lose much of what they tell: "
            f"{', '.join(shapes[:10])}{' ...' if len(shapes) > 10 else ''}; monotone: true makes them monotone."
        )
    wrong = [
        f"{part.party}: {column.name}"
        for part in files.model.parts
        for column in part.columns
        if column.coefficient is not None and column.coefficient < 0
    ]
    if wrong:
        lines.append(
            f"{len(wrong)} coefficients are negative, against the direction of their WOE, as others say the same: "
            f"{', '.join(wrong[:10])}{' ...' if len(wrong) > 10 else ''}; sign: positive or max_correlation avoids it."
        )
    left = sum(column.coefficient is None for part in files.model.parts for column in part.columns)
    if left:
        lines.append(f"{left} columns were left out of the model; the reasons stand beside the scorecard.")
    return lines


def _withheld(counts: BinCounts, train: Mask) -> bool:
    """Say whether some column's bins do not add up to all training rows."""
    return bool((np.add.reduceat(counts.counts, offsets(counts.n_codes)[:-1]) < int(train.sum())).any())
