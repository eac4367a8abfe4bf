"""Fit level two of a stack and file the stack: one model of trees, with one version and one hash.

A column of a scorecard is a tree that tests one code after the other, so a stack is a sum of trees and is scored,
explained and released as boosting is. Leaf points are the member's log-odds times its weight, rounded once, here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Vector
from veilscore.errors import DataError, ParameterError
from veilscore.lattice.params import SCORE_T
from veilscore.lattice.sampling import PublicStream
from veilscore.models.boosted import Boosted, Stacked, StackMember
from veilscore.models.calibrate import prior_correction
from veilscore.models.counts import check_total, offsets
from veilscore.models.logistic_problem import LogisticProblem
from veilscore.models.loss import for_bound
from veilscore.models.model import M, PartyPart, Scorecard
from veilscore.models.optimise import OptimiseResult, minimise
from veilscore.models.stack_form import (
    OPEN_BITS,
    BankStack,
    Gradient,
    Losses,
    Moments,
    OpenScores,
    StackLimits,
    table_bits,
)
from veilscore.models.trees import Split, Tree

DRAW_BITS = 29
C = 100.0  # of level two: a few weights on many rows need next to no penalty
MAX_GRADIENTS = 40  # openings of one fit of level two


@dataclass(frozen=True)
class LevelTwo:
    """What a fit of level two gives: weights (M,) and intercept, whether it converged, gradients opened."""

    beta: Vector
    intercept: float
    converged: bool
    n_gradients: int


def folds(n: int, k: int, seed: int) -> Integers:
    """Draw the fold of each training row (n,), by row number so that every party finds the same."""
    if not 2 <= k <= n:
        raise DataError(f"{n} training rows do not make {k} folds")
    key = hashlib.sha256(f"veilscore folds {seed}".encode()).digest()
    draw = PublicStream(key, b"folds").uniform((1, n), (1 << DRAW_BITS,))[0]
    fold = np.empty(n, np.int64)
    # a stable sort breaks ties of the draw by row number, the same at every party
    fold[np.argsort(draw, kind="stable")] = np.arange(n) % k
    return fold


def check_folds(fold: Integers, target: NDArray[np.int8]) -> None:
    """Refuse folds of one class; DataError names the fold."""
    for f in range(int(fold.max()) + 1):
        bad, rows = int((target[fold == f] == 1).sum()), int((fold == f).sum())
        rest = int((target == 1).sum()) - bad
        if bad in {0, rows} or rest in {0, target.size - rows}:
            raise DataError(
                f"fold {f + 1} of {int(fold.max()) + 1}, or the rows outside it, hold one class only: use fewer folds "
                "or more rows"
            )


def log_odds(target: NDArray[np.int8], weight: Vector) -> float:
    """Return the log-odds of bad, weighted."""
    bad = float(weight @ target)
    return math.log(bad / (float(weight.sum()) - bad))


def fit_level_two(
    data: BankStack, columns: tuple[int, ...], weight: Vector, limits: tuple[Vector, Vector] | None = None
) -> Generator[Any, Any, LevelTwo]:
    """Fit a non-negative logistic regression on some columns, as requests of `bank_stack`.

    weight : (n,) weights of the rows; zero leaves a row out.
    limits : `stack_form.bounds` of the data, if at hand.
    """
    chosen = list(columns)
    low, high = (side[:, chosen] for side in (data.bounds if limits is None else limits))
    base = log_odds(data.target, weight)
    second, first = yield Moments(columns)
    n, share = data.target.size, float((weight > 0).mean())  # moments are over all rows, also those left out
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
    steps = minimise(problem)  # no `yield from`: its steps are put to the holders as requests of their own kind
    try:
        step = next(steps)
        while True:
            step = steps.send((yield Gradient(columns, step.beta, step.intercept, step.series.R, weight)))
    except StopIteration as stop:
        found: OptimiseResult = stop.value
    return LevelTwo(found.beta, found.intercept, found.converged, found.n_evaluations + 1)


def column_trees(holder: str, n_codes: Integers, side: Literal["bank", "holder"]) -> tuple[Tree, ...]:
    """Return a tree without weights for each column of two codes or more: code c reaches leaf c.

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
    """Return trees of the parties' log-odds by cell, the bank's first; the bank's own name the lead as partner."""
    found = []
    for part in parts:
        n_codes = part.n_codes
        at = offsets(n_codes)
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
    """Return the log-odds of each cell of a scorecard, by party."""
    return {
        part.party: np.array([w * (column.coefficient or 0.0) for column in part.columns for w in column.woe])
        for part in card.parts
    }


def check_own_scores(names: Iterable[str], columns: Collection[str]) -> None:
    """Refuse `own_scores` that are none of the bank's columns, before anything is trained."""
    for name in names:
        if name not in columns:
            raise ParameterError(f"own_scores: the bank has no column {name!r}")


def own_theta(card: Scorecard, name: str) -> dict[str, Vector]:
    """Return the log-odds by cell of the member that is the WOE of one column of the bank: zero everywhere else."""
    bank = card.parts[0]
    zero = {part.party: np.zeros(int(part.n_codes.sum())) for part in card.parts}
    zero[bank.party] = np.array([w * (column.name == name) for column in bank.columns for w in column.woe])
    return zero


def member_units(
    trees: tuple[Tree, ...], weight: float, factor: float
) -> tuple[tuple[Tree, ...], tuple[tuple[int, ...], ...]]:
    """Return the trees of one member with weighted leaves, and the units of each leaf."""
    weighted = tuple(t.model_copy(update={"weights": tuple(weight * w for w in t.weights)}) for t in trees)
    return weighted, tuple(tuple(round(-factor * w) for w in tree.weights) for tree in weighted)


def with_prior(model: M, rate: float, population_bad_rate: float | None) -> M:
    """Correct the model's intercept, and so its base points, to the population's bad rate, if one is given."""
    intercept = prior_correction(model.intercept, rate, population_bad_rate)
    return model.model_copy(update={"intercept": intercept, "base_points": model.scaling.base_points(intercept)})


def export(
    card: Scorecard,
    boosted: Boosted,
    members: tuple[StackMember, ...],
    level_two_intercept: float,
    holder_sha256: Mapping[str, str],
    rate: float,
) -> Stacked:
    """Return the filed stack, from the level-one models that were fitted on all training rows.

    holder_sha256 : digest of each holder's part: its boosted trees, then `column_trees` of its columns.
    rate : bad rate of the training rows.
    Raises ParameterError where totals would not fit the ring they are opened in.
    """
    factor, intercept = boosted.scaling.factor, level_two_intercept
    theta: dict[str, Vector] = {}
    trees: tuple[Tree, ...] = ()
    points: tuple[tuple[int, ...], ...] = ()
    for member in members:
        if member.kind == "boosting":
            intercept += member.weight * boosted.intercept
            trees, points = member_units(boosted.trees, member.weight, factor)
            continue
        added = own_theta(card, member.name) if member.kind == "own" else scorecard_theta(card)
        intercept += member.weight * card.intercept if member.kind == "scorecard" else 0.0
        theta = {party: member.weight * cells + theta.get(party, 0.0) for party, cells in added.items()}
    lead = next(part.party for part in card.parts if part.role == "holder")
    sums, units = member_units(cell_trees(card.parts, theta, lead, rate), 1.0, factor)
    kept = ("name", "version", "scaling", "bands", "provenance", "parameters")
    stacked = Stacked(
        **{name: getattr(boosted, name) for name in kept},
        intercept=intercept,
        base_points=boosted.scaling.base_points(intercept),
        parts=tuple(_with_use(part, card.part(part.party)) for part in boosted.parts),
        trees=(*trees, *sums),
        points=(*points, *units),
        holder_sha256=dict(holder_sha256),
        members=members,
        level_two_intercept=level_two_intercept,
        n_boosted=len(trees),
    )
    check_total(stacked.largest_units(), SCORE_T)
    return stacked


def _with_use(boosted: PartyPart, card: PartyPart) -> PartyPart:
    """Return a part of which a column counts as left out only where neither the trees nor the scorecard use it."""
    columns = tuple(
        column if of_card.coefficient is None else column.model_copy(update={"left_out": ""})
        for column, of_card in zip(boosted.columns, card.columns, strict=True)
    )
    return boosted.model_copy(update={"columns": columns})


# --- choice among candidates -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selected:
    """What the folds say of each candidate and of the stack of the best two.

    losses : (n_candidates + 1, k) logistic loss of each fold's rows, summed; the stack last.
    members : columns of the stack: the best scorecard, the best trees, the bank's own scores.
    level_two : the stack's weights, fitted on all rows.
    scores : column -> (n,) out-of-fold log-odds, where they were asked for; the stack's as column -1.
    """

    losses: Vector
    members: tuple[int, ...]
    level_two: LevelTwo
    scores: dict[int, Vector]


def select(data: BankStack, n_scorecards: int, n_candidates: int, *, scores: bool) -> Generator[Any, Any, Selected]:
    """Compare all candidates by their losses and stack the best scorecard with the best trees.

    It yields requests of `bank_stack`. The stack's loss on a fold is that of level two fitted without it; columns after
    the candidates are the bank's own.
    """
    k = int(data.fold.max()) + 1
    limits = data.bounds
    one, zero = np.ones((k, 1)), np.zeros(k)
    losses: list[Vector] = []
    for c in range(n_candidates):
        radius = for_bound(max(float(np.abs(side[:, c]).max()) for side in limits)).R
        loss = yield Losses((c,), one, zero, radius)
        losses.append(loss)
    total = [float(found.sum()) for found in losses]
    card = int(np.argmin(total[:n_scorecards]))
    trees = n_scorecards + int(np.argmin(total[n_scorecards:]))
    members = (card, trees, *range(n_candidates, len(data.columns)))
    without: list[LevelTwo] = []
    for f in range(k):
        fitted = yield from fit_level_two(data, members, (data.fold != f).astype(float), limits)
        without.append(fitted)
    whole = yield from fit_level_two(data, members, np.ones(data.target.size), limits)
    betas, intercepts = np.stack([w.beta for w in without]), np.array([w.intercept for w in without])
    reach = [(side[:, list(members)] * betas[data.fold]).sum(axis=1) + intercepts[data.fold] for side in limits]
    radius = for_bound(max(float(np.abs(side).max()) for side in reach)).R
    losses.append((yield Losses(members, betas, intercepts, radius)))
    found: dict[int, Vector] = {}
    if scores:
        for c in (card, trees):
            found[c] = yield OpenScores((c,), one, zero)
        found[-1] = yield OpenScores(members, betas, intercepts)
    return Selected(np.stack(losses), members, whole, found)


def most_asked(n_candidates: int, k: int, *, scores: bool) -> StackLimits:
    """Return how many sums `select` asks for at most; a holder answers no more."""
    return StackLimits(
        moments=k + 1, gradients=(k + 1) * MAX_GRADIENTS, losses=n_candidates + 1, scores=3 if scores else 0
    )
