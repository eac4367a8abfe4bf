"""Prepare a scorecard's training at the bank, from counts to a design, and file its result."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Vector
from veilscore.data.codes import CodeMap, ToldNames, told_name
from veilscore.errors import JobError
from veilscore.models.association import cramers_v
from veilscore.models.calibrate import prior_correction, recalibrate
from veilscore.models.counts import BinCounts, BinnedColumns, check_range, offsets
from veilscore.models.filed import filed_fields, filed_part, scaling_of
from veilscore.models.logistic_problem import (
    GRADIENT_FRACTION_BITS,
    MAX_WOE,
    BankTraining,
    LogisticProblem,
    PartyColumns,
    scales,
)
from veilscore.models.loss import for_bound, sigmoid
from veilscore.models.model import M, PartyPart, Scorecard
from veilscore.models.optimise import GradientStep, OptimiseResult, OptimiserState, minimise
from veilscore.models.standard_errors import standard_errors, uncertainty
from veilscore.models.woe import (
    WoeTable,
    counted_woe,
    join_tables,
    limit_columns,
    logistic_problem,
    select_columns,
)
from veilscore.terms.job import Job
from veilscore.terms.training import TrainScorecard

MAX_SE_COLUMNS = 500  # with standard errors a holder answers for so many columns at most


@dataclass(frozen=True, eq=False)
class Design:
    """What the optimiser works on.

    training : input of the protocol.
    problem : what is known before the first opening.
    tables : party -> WOE.
    left_out : party -> reason per column, "" where selected.
    names : (d,) "party: column" of each coefficient.
    warnings : lines for the bank.
    standard_errors : whether to estimate them.
    """

    training: BankTraining
    problem: LogisticProblem
    tables: dict[str, WoeTable]
    left_out: dict[str, tuple[str, ...]]
    names: tuple[str, ...]
    warnings: tuple[str, ...]
    standard_errors: bool


@dataclass(frozen=True, eq=False)
class Fitted:
    """The optimiser's result and, where the job wants them, standard errors (d + 1,) and VIF (d,)."""

    result: OptimiseResult
    standard_errors: Vector | None
    inflation: Vector | None = None


def columns_of(code_map: CodeMap, codes: Array, *, party: str, names: ToldNames, association: bool) -> BinnedColumns:
    """Describe a party's coded columns as binning needs them, under the names that it tells."""
    order = code_map.public_order()
    return BinnedColumns(
        names=tuple(told_name(name, j, party, names) for j, name in enumerate(code_map.names, start=1)),
        codes=codes,
        n_codes=code_map.n_codes,
        ordered=np.array([column.kind == "ordered" for column in order]),
        missing_code=np.array([-1 if column.missing is None else column.missing for column in order], dtype=np.int64),
        map_hash=bytes.fromhex(code_map.hash),
        association=cramers_v(codes, code_map.n_codes) if association else None,
    )


def fraction_bits(job: Job, n_train: int) -> int:
    """Return the fraction bits of an opened gradient component, which all parties know."""
    bits = job.of(TrainScorecard).gradient_bits
    if bits is None:
        return GRADIENT_FRACTION_BITS
    return max(0, bits - math.ceil(math.log2(max(n_train, 2))))


def most_openings(job: Job) -> int:
    """Return how many gradients a holder opens at most: the optimiser's, and with standard errors two a column more."""
    extra = 2 * MAX_SE_COLUMNS + 2 if job.of(TrainScorecard).standard_errors else 0
    return job.of(TrainScorecard).max_openings + extra


def openings(job: Job, design: Design) -> int:
    """Return how many gradients this training opens at most."""
    extra = 2 * design.problem.n_columns + 2 if design.standard_errors else 0
    return job.of(TrainScorecard).max_openings + extra


def design(job: Job, counts: dict[str, BinCounts], rows: dict[str, Array]) -> Design:
    """Compute WOE, selection and everything that is known before the first gradient.

    Raises JobError where no column is left.
    """
    p, train = job.of(TrainScorecard), rows["train"]
    target, weight = rows["target"][train], rows["weight"][train]
    bits = scales(target.size).woe
    total_bad = float(weight @ target)
    total_good = float(weight.sum()) - total_bad
    columns, tables, chosen, names = {}, {}, {}, []
    for party, c in counts.items():
        table = counted_woe(c, total_bad, total_good, monotone=p.monotone, missing_bin=p.missing_bin)
        tables[party] = replace(table, woe=np.clip(table.woe, -MAX_WOE, MAX_WOE)).quantised(bits)
        chosen[party] = select_columns(
            [f"{party}: {name}" for name in c.names],
            table.iv,
            min_iv=p.min_iv,
            chance=table.chance,
            association=None if c.association is None else c.association.astype(np.float64),
            max_association=p.max_correlation,
        )
    if (most := most_columns(p, min(total_bad, total_good))) is not None:
        chosen = limit_columns(chosen, {party: t.iv - t.chance for party, t in tables.items()}, most)
    for party, c in counts.items():
        kept = chosen[party].selected
        columns[party] = PartyColumns(c.n_codes, tables[party].units(bits) * np.repeat(kept, c.n_codes), kept)
        names += [f"{party}: {name}" for name, keep in zip(c.names, kept, strict=True) if keep]
    if not names:
        raise JobError("no column is left to train on: lower min_iv or raise max_correlation", party=job.bank)
    training = BankTraining(
        own_codes=rows["codes"][train],
        columns=columns,
        target=target,
        weight=weight,
        fraction_bits=fraction_bits(job, target.size),
    )
    return Design(
        training=training,
        problem=_problem(job, training, tables),
        tables=tables,
        left_out={party: one.reasons for party, one in chosen.items()},
        names=tuple(names),
        warnings=(*(line for one in chosen.values() for line in one.warnings), *_not_told(job, counts)),
        standard_errors=p.standard_errors,
    )


def most_columns(p: TrainScorecard, rarer: float) -> int | None:
    """Return how many columns so many training rows of the rarer class allow; None: any number."""
    return None if p.rows_per_column is None else max(1, int(rarer // p.rows_per_column))


def _not_told(job: Job, counts: dict[str, BinCounts]) -> list[str]:
    """Say which holders do not tell what the job's defaults would use of them."""
    p, holders = job.of(TrainScorecard), [party for party in counts if party != job.bank]
    unordered = [party for party in holders if not counts[party].ordered.any()]
    apart = [party for party in holders if counts[party].association is None]
    lines = []
    if p.monotone and unordered:
        lines.append(
            f"{', '.join(unordered)} tells no order of bins (allow_order): WOE of its columns may go up and down, and "
            "a small bin of missing values joins the most similar one."
        )
    if p.max_correlation is not None and apart:
        lines.append(
            f"{', '.join(apart)} does not tell which of its columns are associated (publish_screening): two of them "
            "may say the same."
        )
    return lines


def _problem(job: Job, training: BankTraining, tables: dict[str, WoeTable]) -> LogisticProblem:
    p, own = job.of(TrainScorecard), _own_woe(training)
    chosen = join_tables([tables[party].select(c.selected) for party, c in training.columns.items()])
    series = for_bound(8.0)  # for the size of the noise only
    problem = logistic_problem(
        chosen,
        own * np.sqrt(training.weight)[:, None],
        C=p.C,
        sign="positive" if p.sign == "positive" else "any",
        max_openings=p.max_openings,
        fraction_bits=training.fraction_bits,
        row_noise=series.row_noise(training.scales.bank_table, training.scales.lead_table),
    )
    return replace(problem, bound=_exact_bound(own, problem.low, problem.high))


def _own_woe(training: BankTraining) -> Vector:
    """Return the WOE of the bank's own selected columns on the training rows: (n, d_bank selected)."""
    bank = next(iter(training.columns.values()))
    woe = np.ldexp(bank.woe_units.astype(np.float64), -training.scales.woe)
    at = offsets(bank.n_codes)
    chosen = np.flatnonzero(bank.selected).tolist()
    if not chosen:
        return np.zeros((training.target.size, 0))
    return np.stack([woe[at[j] : at[j + 1]][training.own_codes[:, j]] for j in chosen], axis=1)


def _exact_bound(own: Vector, low: Vector, high: Vector) -> Any:
    """Return a bound of |eta|: the bank's own part exactly, row by row, and the holders' columns at their extremes."""
    k = own.shape[1]
    # few rows differ in their codes, and the bound is taken at every trial step
    distinct = np.unique(own, axis=0) if k else np.zeros((1, 0))

    def bound(beta: Vector, intercept: float) -> float:
        mine = distinct @ beta[:k] + intercept
        top = float(mine.max()) + float(np.maximum(beta[k:] * low[k:], beta[k:] * high[k:]).sum())
        bottom = float(mine.min()) + float(np.minimum(beta[k:] * low[k:], beta[k:] * high[k:]).sum())
        return max(abs(top), abs(bottom)) * (1 + 1e-9) + 1e-3  # room for the rounding of shared tables

    return bound


def fit(design: Design, state: OptimiserState) -> Generator[GradientStep, Vector, Fitted]:
    """Optimise, then estimate standard errors where the job wants them."""
    result = yield from minimise(design.problem, state)
    if not design.standard_errors:
        return Fitted(result, None)
    found = yield from standard_errors(design.problem, result)
    return Fitted(result, found.errors, found.inflation)


def plain_gradient(design: Design, step: GradientStep) -> Vector:
    """Return the gradient on the bank's own columns alone, in the clear, for the bank-only model to compare with."""
    own = _own_woe(design.training)
    residual = design.training.weight * (sigmoid(own @ step.beta + step.intercept) - design.training.target)
    return np.append(own.T @ residual, residual.sum())


def export(job: Job, design: Design, counts: dict[str, BinCounts], fitted: Fitted, *, job_id: str) -> Scorecard:
    """Return the filed model; points are rounded once, here."""
    p, result = job.of(TrainScorecard), fitted.result
    rate = 1 / (1 + math.exp(-design.problem.base_log_odds))
    intercept = prior_correction(result.intercept, rate, p.population_bad_rate)
    parts, at = [], 0
    for party, columns in design.training.columns.items():
        coefficients: list[int | None] = [None] * columns.n_codes.size
        for j in np.flatnonzero(columns.selected).tolist():
            coefficients[j] = at
            at += 1
        parts.append(_part(job, design, counts[party], columns, coefficients, fitted))
    check_range([(part.points, part.n_codes) for part in parts], scaling_of(job).base_points(intercept))
    return Scorecard(
        **filed_fields(
            job,
            intercept,
            job_id=job_id,
            n_train=design.training.target.size,
            n_holdout=int(counts[job.bank].holdout_counts[: counts[job.bank].n_codes[0]].sum()),
            n_openings=result.n_evaluations,
            converged=result.converged,
        ),
        parts=tuple(parts),
    )


def _part(
    job: Job, design: Design, counts: BinCounts, columns: PartyColumns, coefficients: list[int | None], fitted: Fitted
) -> PartyPart:
    at, table, factor = offsets(counts.n_codes), design.tables[counts.party], scaling_of(job).factor
    woe = np.ldexp(columns.woe_units.astype(np.float64), -design.training.scales.woe)
    result = []
    for j, index in enumerate(coefficients):
        own: dict[str, Any] = {"left_out": design.left_out[counts.party][j]}
        if index is not None:
            used, beta = woe[at[j] : at[j + 1]], float(fitted.result.beta[index])
            points = np.rint(-factor * beta * used).astype(np.int64)
            own |= {"coefficient": beta, "woe": tuple(used.tolist()), "points": tuple(points.tolist())}
            if fitted.standard_errors is not None and np.isfinite(fitted.standard_errors[index]):
                own["standard_error"] = float(fitted.standard_errors[index])
        result.append(own)
    return filed_part(job, counts, table, result)


def fit_record(design: Design, fitted: Fitted) -> dict[str, Any]:
    """Return what the bank keeps of the fit beside the model."""
    result = fitted.result
    inflation = {} if fitted.inflation is None else {"inflation": np.nan_to_num(fitted.inflation, nan=0.0).tolist()}
    return {
        **inflation,
        "names": list(design.names),
        "beta": result.beta.tolist(),
        "intercept": result.intercept,
        "converged": result.converged,
        "n_evaluations": result.n_evaluations,
        "gradient_norm": result.gradient_norm,
        "bound": result.bound,
        "history": [
            {"number": h.number, "R": h.R, "gradient_norm": h.gradient_norm, "accepted": h.accepted}
            for h in result.history
        ],
    }


def fit_alone(design: Design) -> OptimiseResult:
    """Fit the bank's own columns alone, in the clear."""
    k = int(next(iter(design.training.columns.values())).selected.sum())
    problem, own = design.problem, _own_woe(design.training)
    alone = LogisticProblem(
        low=problem.low[:k],
        high=problem.high[:k],
        curvature=problem.curvature[[*range(k), -1]][:, [*range(k), -1]],
        first_gradient=problem.first_gradient[[*range(k), -1]],
        base_log_odds=problem.base_log_odds,
        C=problem.C,
        sign=problem.sign,
        bound=_exact_bound(own, problem.low[:k], problem.high[:k]),
    )
    steps = minimise(alone)
    try:
        step = next(steps)
        while True:
            step = steps.send(plain_gradient(design, step))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def fitted_alone(design: Design) -> Fitted:
    """Return `fit_alone` with its standard errors and variance inflation, which cost nothing in the clear."""
    result, own = fit_alone(design), _own_woe(design.training)
    x = np.column_stack([own, np.ones(len(own))])
    p = sigmoid(own @ result.beta + result.intercept)
    hessian = x.T @ (x * (design.training.weight * p * (1 - p))[:, None])
    penalty = np.append(np.full(result.beta.size, 1.0 / design.problem.C), 0.0)
    free = np.append((result.beta != 0) | (design.problem.sign == "any"), True)
    found = uncertainty(hessian, penalty, free)
    return Fitted(result, found.errors, found.inflation)


def bank_only(design: Design) -> Vector:
    """Return the coefficients of the fit on the bank's own columns alone, the intercept last."""
    result = fit_alone(design)
    return np.append(result.beta, result.intercept)


def own_log_odds(design: Design, result: OptimiseResult) -> Vector:
    """Return the log-odds of the training rows by the bank's own columns, (n,), after `fit_alone`."""
    return _own_woe(design.training) @ result.beta + result.intercept


def calibrated(model: M, units: Integers, target: NDArray[np.int8], weight: Vector) -> M:
    """Return the model with its probabilities recalibrated on hold-out totals; points stay as they are."""
    found = recalibrate(model.scaling.log_odds_bad(units), target.astype(np.float64), weight)
    return model.model_copy(update={"calibration": found})
