"""Parameters of the task that trains models of several kinds and files the best of them."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from veilscore.terms.privacy import Disclosure
from veilscore.terms.training import MAX_CANDIDATES, Candidate, TrainBoosting, TrainScorecard, TrainStack

Kind = Literal["scorecard", "boosting", "stack"]


class SelectModel(TrainStack):
    """Files the best of several kinds of model: by noised curves of the hold-out, or in exact mode by loss on folds."""

    task: ClassVar[str] = "select_model"
    EXACT_ONLY: ClassVar[tuple[str, ...]] = ("own_scores", "fold_scores", "holdout_output", "choose")
    folds: int = Field(
        default=4,
        ge=2,
        le=10,
        description="parts of the training rows; each is left out once; private: of the bank's own columns alone",
    )
    kinds: tuple[Kind, ...] = Field(
        default=("scorecard", "boosting"),
        min_length=2,
        max_length=3,
        description="private: the kinds that are trained and compared, each with an equal part of mu squared (of three "
        "kinds each has mu / 1.73); exact jobs compare all three",
    )
    disclosure: Disclosure = Field(
        default="private",
        description="private: each kind is trained and measured with noised, counted sums of its own, a grid is for "
        "the bank's part alone; exact: all candidates on folds, only by agreement (exact_for)",
    )
    scorecard_grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="values to try, by parameter; private: on the bank's own columns"
    )
    boosting_grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="values to try, by parameter; private: on the bank's own columns"
    )
    choose: Literal["best", "scorecard", "boosting", "stack"] = Field(
        default="best", description="what an exact job files; best: the least loss on the folds, among all kinds"
    )

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the steps; of a private job those of each kind, as if it were trained alone, then the choice."""
        if not self.private:
            return super().steps
        each = (f"{kind}.{step}" for kind in self.kinds for step in self.of_kind(kind).steps if step != "align")
        return ("align", *each, "choose")

    @property
    def mu_of_each(self) -> float:
        """Return the mu of each kind: squares add up to the job's."""
        return self.mu / math.sqrt(len(self.kinds))

    @property
    def chosen(self) -> Literal["best", "scorecard", "boosting", "stack"]:
        """Return which model the job files."""
        return self.choose

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return all points of both grids, scorecards first."""
        return (*self.points("scorecard"), *self.points("boosting"))

    def points(self, kind: Kind) -> tuple[Candidate, ...]:
        """Return the points of a kind's grid; a stack's is that of its trees."""
        if kind == "scorecard":
            return self._candidates("scorecard", self.scorecard_grid)
        return self._candidates("boosting", self.boosting_grid)

    def of_kind(self, kind: Kind, point: int = 0) -> TrainScorecard | TrainBoosting | TrainStack:
        """Return the parameters that would train one kind alone with its part of mu.

        point : of its grid. What holders do and are charged is the same for all points.
        """
        candidate = self.points(kind)[point]
        if kind != "stack":
            return candidate.parameters
        same = {name: getattr(self, name) for name in TrainStack.model_fields if name not in {"folds", "fold_seed"}}
        boosting = {**self.boosting, **candidate.varied}
        return TrainStack(**same | {"mu": self.mu_of_each, "boosting": boosting})

    @model_validator(mode="after")
    def _small_grid(self) -> Self:
        sizes = [len(values) for grid in (self.scorecard_grid, self.boosting_grid) for values in grid.values()]
        if 0 in sizes or len(self.candidates) > MAX_CANDIDATES:
            raise ValueError(f"a grid has at least one value a parameter, and {MAX_CANDIDATES} candidates in all")
        return self

    @model_validator(mode="after")
    def _kinds_are_measured(self) -> Self:
        if not self.private:
            if self.kinds != type(self).model_fields["kinds"].default:
                raise ValueError("kinds is for disclosure: private; an exact job compares all kinds on the same folds")
            return self
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds: a kind stands there twice")
        if not all("evaluate" in self.of_kind(kind).steps for kind in self.kinds):
            raise ValueError(
                "a private choice is made by the curves of the hold-out: leave holdout_scores on, and hold rows out"
            )
        return self
