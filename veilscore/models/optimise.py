"""Fit a penalised logistic regression from gradients alone: the bank's optimiser.

Source: Nocedal and Wright, Numerical Optimization, 2nd ed., chapters 6 and 18; Portugal, Judice and Vicente,
Math. Comp. 63 (1994), for the sign-constrained step.

Minimises sum_i w_i loss(y_i, eta_i) + ||beta||^2 / (2C), the intercept free, as scikit-learn does. Every gradient
is a protocol run and an opening, so they are few and dear while algebra at the bank is free: the curvature pairs
are all kept (no limited memory) and the model of the Hessian is a dense matrix that starts from bin counts. No
function value exists; a step is judged by the directional derivative at its end. Before each step the exact bound
of |eta| chooses the sigmoid series, or shortens the step.

`minimise` is a generator without I/O: it yields a `GradientStep` and is sent the gradient there. `OptimiserState`
holds the answers so far and serialises to JSON; handed to a new `minimise` they are replayed, so a job resumes where
it stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veilscore.arrays import Vector
from veilscore.errors import MessageError, ParameterError, StateError
from veilscore.models.logistic_problem import LogisticProblem
from veilscore.models.loss import BOUNDS, SigmoidSeries, for_bound
from veilscore.models.quadratic import minimise_quadratic

_MIN_MOVE, _MAX_MOVE = 0.25, 16.0
_QUIET_STEPS = 2  # stop after so many small expected changes in a row
_FLOOR_SIGMA = 0.7  # gradient noise that counts as a small change, in standard deviations
_PASSES = 4  # over the curvature pairs; a tenth fewer openings than one pass
_WINDOW, _SETTLED = 5, 5.0  # and the last 5 points moved by at most 5 such changes


@dataclass(frozen=True, eq=False)
class GradientStep:
    """Asks for the gradient sum_i w_i (p_i - y_i) (x_i, 1) at one point.

    number : 0, 1, ... over the whole job, resumed or not.
    beta, intercept : (d,) float64 and float; secret to the bank.
    series : the sigmoid series, valid at `bound`.
    bound : exact bound of |eta| here.
    """

    number: int
    beta: Vector = field(repr=False)
    intercept: float = field(repr=False)
    series: SigmoidSeries
    bound: float


@dataclass(frozen=True)
class EvaluatedStep:
    """Keeps one answered step in `OptimiserState`."""

    theta: tuple[float, ...] = field(repr=False)
    gradient: tuple[float, ...] = field(repr=False)
    R: float


@dataclass
class OptimiserState:
    """Keeps answered steps in order, secret to the bank; `minimise` appends to it."""

    evaluations: list[EvaluatedStep] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        rows = [{"theta": list(e.theta), "gradient": list(e.gradient), "R": e.R} for e in self.evaluations]
        return {"version": 1, "evaluations": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OptimiserState:
        """Read what `to_dict` wrote; StateError where it is not a state of this version."""
        try:
            if data["version"] != 1:
                raise StateError("The optimiser's state is of another version; train again from the start.")
            rows = [
                EvaluatedStep(tuple(map(float, e["theta"])), tuple(map(float, e["gradient"])), float(e["R"]))
                for e in data["evaluations"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError("The optimiser's state cannot be read; train again from the start.") from error
        return cls(rows)


@dataclass(frozen=True)
class OptimiserProgress:
    """One line of the history: what the bank may log of an evaluation."""

    number: int
    R: float
    gradient_norm: float
    accepted: bool


@dataclass(frozen=True, eq=False)
class OptimiseResult:
    """The end of a fit.

    beta, intercept : (d,) float64 and float.
    converged : False where `max_openings` ran out first.
    n_evaluations : gradients opened.
    gradient_norm : Newton decrement sqrt(g' B^-1 g) of the penalised gradient g over free coefficients.
    bound : exact bound of |eta| here.
    history : one `OptimiserProgress` per evaluation.
    """

    beta: Vector
    intercept: float
    converged: bool
    n_evaluations: int
    gradient_norm: float
    bound: float
    history: tuple[OptimiserProgress, ...]


@dataclass
class _Model:
    """Models the loss as a quadratic: start curvature and curvature pairs, updated by BFGS."""

    problem: LogisticProblem
    start: Vector = field(init=False)
    hessian: Vector = field(init=False)
    pairs: list[tuple[Vector, Vector]] = field(default_factory=list)

    def __post_init__(self) -> None:
        curvature = self.problem.curvature
        matrix = np.diag(curvature) if curvature.ndim == 1 else 0.5 * (curvature + curvature.T)
        values, vectors = np.linalg.eigh(matrix)
        # An empty column, or products rounded apart, must not leave a flat or falling direction.
        floor = 1e-6 * max(float(values.mean()), 1e-6)
        self.start = (vectors * np.maximum(values, floor)) @ vectors.T + np.diag(self.problem.penalty)
        self.hessian = self.start

    def learn(self, move: Vector, change: Vector) -> None:
        """Take in a step and the change of the penalised gradient over it, each (d + 1,)."""
        self.pairs.append((move, change))
        self.hessian = self.start.copy()
        # Several passes: one update undoes part of earlier ones, and passes are free beside a gradient.
        for _ in range(_PASSES):
            for pair in self.pairs:
                self._update(*pair)

    def _update(self, move: Vector, change: Vector) -> None:
        image = self.hessian @ move
        along = float(move @ change)
        # A curvature below the noise of the two gradients would spoil the model in the last, short steps.
        if along <= max(1e-3 * float(move @ image), float(np.linalg.norm(move * self.problem.noise))):
            return
        self.hessian += np.outer(change, change) / along - np.outer(image, image) / float(move @ image)

    def noise_floor(self) -> float:
        """Return what the noise of one gradient alone makes of the largest expected change, at 0.7 sigma."""
        inverse = np.linalg.inv(self.hessian)
        return _FLOOR_SIGMA * float(np.sqrt(((inverse * self.problem.noise) ** 2).sum(axis=1)).max())

    def step(self, theta: Vector, gradient: Vector) -> Vector:
        """Return the minimiser of the model from theta, as a move (d + 1,)."""
        lower = np.full(len(theta), -np.inf)
        if self.problem.sign == "positive":
            lower[:-1] = -theta[:-1]
        return minimise_quadratic(self.hessian, gradient, lower)


def minimise(
    problem: LogisticProblem, state: OptimiserState | None = None
) -> Generator[GradientStep, Vector, OptimiseResult]:
    """Fit, as a generator that yields `GradientStep`, is sent (d + 1,) gradients and returns `OptimiseResult`.

    state : answers of an earlier run, replayed before anything is asked; appended to as answers arrive.
    Raises ParameterError where no step stays within the largest sigmoid series, MessageError for a gradient of the
    wrong shape or not finite, StateError where the state belongs to another problem.
    """
    asker = _Asker(problem, state or OptimiserState())
    model = _Model(problem)
    theta = np.append(np.zeros(problem.n_columns), problem.base_log_odds)
    gradient = np.array(problem.first_gradient, dtype=np.float64)
    limit, quiet = 4.0, 0
    history: list[OptimiserProgress] = []
    trail = [theta]
    reach = np.append(np.maximum(np.abs(problem.low), np.abs(problem.high)), 1.0)
    while True:
        move = model.step(theta, gradient)
        expected = float(np.abs(move).max())
        enough = max(problem.tolerance, model.noise_floor())
        # Along collinear columns the model sees too much curvature and too short a way: look at the way made, too.
        made = float(np.abs(theta - trail[-_WINDOW:][0]).max())
        quiet = quiet + 1 if expected <= enough and made <= _SETTLED * enough else 0
        if quiet >= _QUIET_STEPS or asker.number >= problem.max_openings:
            break
        slope = float(gradient @ move)
        fraction = min(1.0, limit / float(np.abs(move) @ reach))
        fraction = _within_series(problem, theta, move, fraction)
        trial = theta + fraction * move
        answer = yield from asker.ask(trial)
        found = answer + problem.penalty * trial
        model.learn(trial - theta, found - gradient)
        end_slope = float(found @ move)
        # A convex loss: a slope at the end above the one at the start, turned round, means a step too long.
        slack = 2.0 * float(np.linalg.norm(move * problem.noise))
        accepted = end_slope <= abs(slope) + slack
        history.append(OptimiserProgress(asker.number - 1, asker.R, float(np.sqrt(max(-slope, 0))), accepted))
        if not accepted:
            limit = max(_MIN_MOVE, 0.5 * float(np.abs(fraction * move) @ reach))
            continue
        theta, gradient = trial, found
        trail.append(theta)
        if fraction < 1.0 and abs(end_slope) < 0.5 * abs(slope):
            limit = min(_MAX_MOVE, 2.0 * limit)
    return OptimiseResult(
        beta=theta[:-1].copy(),
        intercept=float(theta[-1]),
        converged=quiet >= _QUIET_STEPS,
        n_evaluations=asker.number,
        gradient_norm=float(np.sqrt(max(-float(gradient @ move), 0.0))),
        bound=problem.eta_bound(theta),
        history=tuple(history),
    )


@dataclass
class _Asker:
    """Asks for gradients, replaying recorded answers first."""

    problem: LogisticProblem
    state: OptimiserState
    number: int = 0
    R: float = 0.0

    def ask(self, theta: Vector) -> Generator[GradientStep, Vector, Vector]:
        """Return the gradient of the loss at theta (d + 1,), recorded or fresh."""
        bound = self.problem.eta_bound(theta)
        number, self.number = self.number, self.number + 1
        if number < len(self.state.evaluations):
            recorded = self.state.evaluations[number]
            if len(recorded.theta) != len(theta) or not np.allclose(recorded.theta, theta, atol=1e-6, rtol=1e-6):
                raise StateError("The optimiser's state belongs to another problem; train again from the start.")
            self.R = recorded.R
            return np.array(recorded.gradient)
        series = for_bound(bound)
        self.R = series.R
        answer = yield GradientStep(number, theta[:-1].copy(), float(theta[-1]), series, bound)
        gradient = checked_gradient(answer, len(theta))
        self.state.evaluations.append(EvaluatedStep(tuple(theta.tolist()), tuple(gradient.tolist()), series.R))
        return gradient


def checked_gradient(answer: Vector, size: int) -> Vector:
    """Return an answered gradient as (size,) float64; MessageError where it is of another shape or not finite."""
    gradient = np.asarray(answer, dtype=np.float64)
    if gradient.shape != (size,) or not np.isfinite(gradient).all():
        raise MessageError(f"The gradient must be {size} finite numbers.")
    return gradient


def _within_series(problem: LogisticProblem, theta: Vector, move: Vector, fraction: float) -> float:
    """Return the largest fraction / 2^k of the move whose bound of |eta| a sigmoid series covers."""
    for _ in range(30):
        if problem.eta_bound(theta + fraction * move) <= BOUNDS[-1]:
            return fraction
        fraction *= 0.5
    raise ParameterError(
        f"Log-odds would pass {BOUNDS[-1]}, the largest sigmoid series: strengthen the penalty (smaller C) "
        "or use fewer columns."
    )
