"""Level two of a stack, and the stack as the bank files it: one model of trees, with one version and one hash.

A column of a scorecard is a tree that asks one code after the other, so a stack is a sum of trees and is scored,
explained and released as boosting is. Leaf points are the member's log-odds times its weight, rounded once, here.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from veilscore.errors import DataError, ParameterError
from veilscore.lattice.params import SCORE_T
from veilscore.lattice.sampling import PublicStream
from veilscore.modelling.boosted import Boosted
from veilscore.modelling.calibrate import prior_correction
from veilscore.modelling.logistic_problem import LogisticProblem
from veilscore.modelling.loss import for_bound
from veilscore.modelling.optimise import OptimiserState, minimise
from veilscore.modelling.trees import Split, Tree
from veilscore.protocols.stacking import OPEN_BITS, BankStack, Gradient, Moments, bounds, table_bits

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from numpy.typing import NDArray

    from veilscore.modelling.model import PartyPart, Provenance, Scorecard
    from veilscore.modelling.optimise import OptimiseResult, Step

    Vector = NDArray[np.float64]

DRAW_BITS = 29
C = 100.0  # of level two: a few weights on many rows need next to no penalty
MAX_GRADIENTS = 40  # openings of one fit of level two


class Member(BaseModel):
    """One level-one model in the stack.

    Attributes
    ----------
    kind : "scorecard", "boosting" or "own": the WOE of a column of the bank.
    name : what the report calls it.
    weight : level two's weight of its log-odds, not negative.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["scorecard", "boosting", "own"]
    name: str
    weight: float = Field(ge=0, allow_inf_nan=False)


class Stacked(Boosted):
    """A stack: trees of all members with the points of their weighted sum.

    Attributes
    ----------
    members : level-one models with their weights.
    level_two_intercept : on the log-odds of the members, intercepts included.
    """

    format: Literal["veilscore-stacked/1"] = "veilscore-stacked/1"  # type: ignore[assignment]
    members: tuple[Member, ...]
    level_two_intercept: float


@dataclass(frozen=True)
class LevelTwo:
    """What a fit of level two gives: weights (M,) and intercept, whether it converged, gradients opened."""

    beta: Vector
    intercept: float
    converged: bool
    n_gradients: int


def folds(n: int, k: int, seed: int) -> NDArray[np.int64]:
    """Fold of each training row (n,), drawn by row number so that every party finds the same."""
    if not 2 <= k <= n:
        raise DataError(f"{n} training rows do not make {k} folds")
    key = hashlib.sha256(f"veilscore folds {seed}".encode()).digest()
    draw = PublicStream(key, b"folds").uniform((1, n), (1 << DRAW_BITS,))[0]
    fold = np.empty(n, np.int64)
    fold[np.argsort(draw, kind="stable")] = np.arange(n) % k
    return fold


def check_folds(fold: NDArray[np.int64], target: NDArray[np.int8]) -> None:
    """Refuse folds of one class; DataError names the fold."""
    for f in range(int(fold.max()) + 1):
        bad, rows = int((target[fold == f] == 1).sum()), int((fold == f).sum())
        rest = int((target == 1).sum()) - bad
        if bad in {0, rows} or rest in {0, target.size - rows}:
            raise DataError(
                f"fold {f + 1} of {int(fold.max()) + 1}, or the rows outside it, hold one class only: use fewer folds "
                "or more rows"
            )


def fold_fit(
    problem: LogisticProblem, state: OptimiserState, share: float, base: float
) -> Generator[Step, Vector, OptimiseResult]:
    """Fit a fold's scorecard: the counts of its rows are not known, so the first gradient is asked for, too.

    Parameters
    ----------
    problem : of all training rows.
    share, base : share of the weight that the fold's fit trains on, and log-odds of bad in it.
    """
    from veilscore.modelling.optimise import Step  # noqa: PLC0415

    start = np.append(np.zeros(problem.n_columns), base)
    bound = problem.eta_bound(start)
    first = yield Step(0, start[:-1], base, for_bound(bound), bound)
    problem = _replaced(problem, first, share, base)
    return (yield from minimise(problem, state))


def _replaced(problem: LogisticProblem, first: Vector, share: float, base: float) -> LogisticProblem:
    from dataclasses import replace  # noqa: PLC0415

    return replace(problem, curvature=problem.curvature * share, first_gradient=first, base_log_odds=base)


def log_odds(target: NDArray[np.int8], weight: Vector) -> float:
    """Log-odds of bad, weighted."""
    bad = float(weight @ target)
    return math.log(bad / (float(weight.sum()) - bad))


def fit_level_two(
    data: BankStack, columns: tuple[int, ...], weight: Vector, limits: tuple[Vector, Vector] | None = None
) -> Generator[Any, Any, LevelTwo]:
    """Non-negative logistic regression on some columns, as requests of `bank_stack`.

    Parameters
    ----------
    weight : (n,) weights of the rows; zero leaves a row out.
    limits : `protocols.stacking.bounds` of the data, if at hand.
    """
    chosen = list(columns)
    low, high = (side[:, chosen] for side in (bounds(data) if limits is None else limits))
    base = log_odds(data.target, weight)
    second, first = yield Moments(columns)
    n, share = data.target.size, float((weight > 0).mean())
    rate = 1.0 / (1.0 + math.exp(-base))
    gram = np.block([[second, first[:, None]], [first[None], np.array([[float(n)]])]])
    zero = np.zeros(len(columns))
    gradient = yield Gradient(columns, zero, base, for_bound(abs(base)).R, weight)
    largest = max(1.0, float(np.abs(low).max()), float(np.abs(high).max()))
    tables = table_bits(n, math.ceil(math.log2(largest)))
    problem = LogisticProblem(
        low=low.min(axis=0),
        high=high.max(axis=0),
        curvature=gram * (rate * (1 - rate) * share),
        first_gradient=gradient,
        base_log_odds=base,
        C=C,
        sign="positive",
        max_openings=MAX_GRADIENTS - 1,
        bound=lambda beta, intercept: float(
            max(np.abs(high @ beta + intercept).max(), np.abs(low @ beta + intercept).max())
        ),
        fraction_bits=OPEN_BITS,
        row_noise=for_bound(16.0).row_noise(*tables),
    )
    steps = minimise(problem)
    try:
        step = next(steps)
        while True:
            step = steps.send((yield Gradient(columns, step.beta, step.intercept, step.series.R, weight)))
    except StopIteration as stop:
        found: OptimiseResult = stop.value
    return LevelTwo(found.beta, found.intercept, found.converged, found.n_evaluations + 1)


def column_trees(holder: str, n_codes: NDArray[np.int64], side: Literal["bank", "holder"]) -> tuple[Tree, ...]:
    """A tree without weights for each column of two codes or more: code c reaches leaf c.

    Both parties make them from the number of codes, so nothing is said of which columns a scorecard uses.
    """
    trees = []
    for column, k in enumerate(n_codes.tolist()):
        splits = tuple(
            Split(side=side, column=column, codes=(c,), left=-1 - c, right=c + 1 if c < k - 2 else -k)
            for c in range(k - 1)
        )
        if splits:
            trees.append(Tree(holder=holder, splits=splits, weights=()))
    return tuple(trees)


def cell_trees(parts: tuple[PartyPart, ...], theta: Mapping[str, Vector], lead: str, rate: float) -> tuple[Tree, ...]:
    """Trees of log-odds (cells,) of each party, the bank's first; the bank's own name the lead as their partner."""
    found = []
    for part in parts:
        n_codes = part.n_codes
        at = np.concatenate(([0], np.cumsum(n_codes)))
        side: Literal["bank", "holder"] = "bank" if part.role == "bank" else "holder"
        for tree in column_trees(lead if part.role == "bank" else part.party, n_codes, side):
            j = tree.splits[0].column
            values = theta[part.party][at[j] : at[j + 1]]
            rows = np.array(part.columns[j].rows, np.float64)
            covers = np.maximum(rows, 1.0) * rate * (1.0 - rate)
            inner = [float(covers[c:].sum()) for c in range(len(tree.splits))]
            splits = tuple(s.model_copy(update={"cover": cover}) for s, cover in zip(tree.splits, inner, strict=True))
            found.append(
                Tree(holder=tree.holder, splits=splits, weights=tuple(values.tolist()), covers=tuple(covers.tolist()))
            )
    return tuple(found)


def scorecard_theta(card: Scorecard) -> dict[str, Vector]:
    """Log-odds of each cell of a scorecard, by party."""
    return {
        part.party: np.array([w * (column.coefficient or 0.0) for column in part.columns for w in column.woe])
        for part in card.parts
    }


def own_theta(card: Scorecard, name: str) -> dict[str, Vector]:
    """Log-odds of each cell of the member that is the WOE of one column of the bank: zero everywhere else."""
    bank = card.parts[0]
    if name not in [column.name for column in bank.columns]:
        raise ParameterError(f"own_scores: the bank has no column {name!r}")
    zero = {part.party: np.zeros(int(part.n_codes.sum())) for part in card.parts}
    zero[bank.party] = np.array([w * (column.name == name) for column in bank.columns for w in column.woe])
    return zero


def member_units(
    trees: tuple[Tree, ...], weight: float, factor: float
) -> tuple[tuple[Tree, ...], tuple[tuple[int, ...], ...]]:
    """Trees of one member with weighted leaves, and the units of each leaf."""
    weighted = tuple(t.model_copy(update={"weights": tuple(weight * w for w in t.weights)}) for t in trees)
    return weighted, tuple(tuple(round(-factor * w) for w in tree.weights) for tree in weighted)


def export(
    card: Scorecard | None,
    boosted: Boosted | None,
    members: tuple[Member, ...],
    level_two_intercept: float,
    holder_sha256: Mapping[str, str],
    *,
    rate: float,
    population_bad_rate: float | None,
    provenance: Provenance,
    parameters: Mapping[str, Any],
) -> Stacked:
    """The filed stack, from the level-one models that were fitted on all training rows.

    Raises
    ------
    ParameterError : totals would not fit the ring they are opened in.
    """
    model = boosted if boosted is not None else card
    if model is None or (card is None and any(m.kind != "boosting" for m in members)):
        raise ParameterError("a stack needs its level-one models")
    theta = {part.party: np.zeros(int(part.n_codes.sum())) for part in model.parts}
    intercept = level_two_intercept
    trees: list[Tree] = []
    points: list[tuple[int, ...]] = []
    for member in members:
        if member.kind == "boosting" and boosted is not None:
            intercept += member.weight * boosted.intercept
            weighted, units = member_units(boosted.trees, member.weight, model.scaling.factor)
            trees.extend(weighted)
            points.extend(units)
        elif card is not None:
            added = scorecard_theta(card) if member.kind == "scorecard" else own_theta(card, member.name)
            intercept += member.weight * card.intercept if member.kind == "scorecard" else 0.0
            theta = {party: theta[party] + member.weight * added[party] for party in theta}
    if card is not None:
        lead = next(part.party for part in card.parts if part.role == "holder")
        weighted, units = member_units(cell_trees(card.parts, theta, lead, rate), 1.0, model.scaling.factor)
        trees.extend(weighted)
        points.extend(units)
    if population_bad_rate is not None:
        intercept = prior_correction(intercept, rate, population_bad_rate)
    stacked = Stacked(
        name=model.name,
        version=model.version,
        scaling=model.scaling,
        intercept=intercept,
        base_points=round(model.scaling.offset - model.scaling.factor * intercept),
        parts=(card or model).parts,
        bands=model.bands,
        provenance=provenance,
        trees=tuple(trees),
        points=tuple(points),
        parameters=dict(parameters),
        holder_sha256=dict(holder_sha256),
        members=members,
        level_two_intercept=level_two_intercept,
    )
    if stacked.largest_units() >= SCORE_T // 2:
        raise ParameterError(f"totals of up to {stacked.largest_units()} units do not fit: use fewer points_decimals")
    return stacked
