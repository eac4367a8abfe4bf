"""Parameters of the tasks that train one model: a scorecard, boosted trees, a stack of both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from veilscore.terms.parameters import BandLimits, ColumnName, Output, Sampled, ScreeningName
from veilscore.terms.privacy import DespiteNoise, Disclosure, Mu

MAX_CANDIDATES = 12
Reused = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}(-[0-9a-f]{8}-[0-9a-f]{16})?$")]


class Training(Sampled):
    """Every training task has these: binning, hold-out, the scale of points, columns."""

    holdout_scores: bool = Field(default=True, description="score the hold-out and report AUC, KS and bands on it")
    holdout_output: Literal["score", "band"] = Field(
        default="score", description="what the bank gets of a hold-out row; band: no score is opened to anyone"
    )
    base_score: float = Field(default=600, allow_inf_nan=False, description="points of a firm with base_odds")
    base_odds: float = Field(default=50, gt=0, allow_inf_nan=False, description="good:bad at the base score")
    pdo: float = Field(default=20, gt=0, allow_inf_nan=False, description="points that double the odds")
    population_bad_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of bad firms in the population, where that of the training rows differs: PD is moved to it",
    )
    points_decimals: int = Field(default=2, ge=0, le=3, description="decimals of the points that are opened")
    calibrate: bool = Field(default=False, description="recalibrate PD on the hold-out: slope and intercept")
    bands: BandLimits = Field(default_factory=dict, description="name of each band and its lowest score")
    weights: bool = Field(default=False, description="weigh the rows by the bank's weight_column")
    firm_weight: Literal["rows", "shared"] = Field(
        default="rows",
        description="of rows: firm_dates; rows: each row counts in full, with noise for rows_per_firm; shared: weights "
        "of a firm's training rows add up to at most 1 and one date of each is held out, with noise for one row",
    )
    columns_from: ScreeningName | None = Field(
        default=None, description="name of a screening, or name@hash: each party takes the columns it kept there"
    )

    @property
    def makes_model(self) -> bool:
        """Return that a trained model is filed."""
        return True

    @property
    def fits(self) -> tuple[str, ...]:
        """Return the steps between binning and evaluation."""
        raise NotImplementedError

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the models that a job fits: one, or those of a stack or a selection."""
        return ()

    @property
    def noise_rows(self) -> int:
        """Return how many rows the noise of every sum must cover; shared weights count as one."""
        return 1 if self.firm_weight == "shared" else self.rows_per_firm

    @property
    def steps(self) -> tuple[str, ...]:
        """Return align, bin, the fits and, where the hold-out is scored, evaluate."""
        has_holdout = self.holdout_from is not None or self.holdout_fraction > 0
        return ("align", "bin", *self.fits, *(("evaluate",) if self.holdout_scores and has_holdout else ()))

    @property
    def private(self) -> bool:
        """Return whether what is opened is noised and counted."""
        return getattr(self, "disclosure", "exact") == "private"

    @property
    def opens(self) -> Output:
        """Return what is opened to the bank of the hold-out."""
        totals = self.holdout_output == "score"
        return "curve" if self.private else "exact" if totals else "band"

    def tells_order(self, *, allowed: bool) -> bool:  # noqa: ARG002 - for those that override it
        """Return whether a holder tells the order of the bins of its number columns; allowed: by its policy."""
        return False

    @property
    def tells_association(self) -> bool:
        """Return whether the bank learns how holders' columns are associated."""
        return False

    @model_validator(mode="after")
    def _weights_of_firms(self) -> Self:
        if self.firm_weight == "shared" and (self.rows == "firms" or self.task != "train_scorecard"):
            raise ValueError("firm_weight: shared is for scorecards on rows: firm_dates; leave it out")
        return self

    @model_validator(mode="after")
    def _one_correction(self) -> Self:
        if self.calibrate and self.population_bad_rate is not None:
            raise ValueError("calibrate and population_bad_rate both set the level of PD; choose one")
        return self

    @model_validator(mode="after")
    def _one_choice_of_columns(self) -> Self:
        if self.columns_from is not None and any(chosen.include is not None for chosen in self.columns.values()):
            raise ValueError("columns_from and columns.include both choose columns; leave one out (exclude may stay)")
        return self

    @model_validator(mode="after")
    def _bands_of_the_holdout(self) -> Self:
        if self.holdout_output == "band" and not self.bands:
            raise ValueError("holdout_output: band needs bands, for example bands: {A: 600, B: 550}")
        if self.holdout_output == "band" and self.calibrate:
            raise ValueError("calibrate needs hold-out scores; with holdout_output: band set calibrate: false")
        return self


def _refuse_exact_options(p: Training, *names: str) -> None:
    """Raise ValueError where a private job sets what only exact sums can give, or an exact one bounds what it tells."""
    if not p.private:
        if p.mu != type(p).model_fields["mu"].default:  # type: ignore[attr-defined]
            raise ValueError("mu bounds what disclosure: private tells; exact sums have no bound, so leave it out")
        return
    for name in names:
        if getattr(p, name) != type(p).model_fields[name].default:
            raise ValueError(f"{name} needs exact sums: leave it out, or set disclosure: exact if holders agree")


class TrainScorecard(Training):
    """Trains a scorecard: steps align, bin, train, evaluate."""

    task: ClassVar[str] = "train_scorecard"
    monotone: Literal["told"] | bool = Field(
        default="told",
        description="effects rise or fall with the value, by merging adjacent bins; told: in the bank's columns and "
        "those of holders that tell order (allow_order), true: in all or not at all, false: nowhere",
    )
    missing_bin: bool = Field(
        default=True,
        description="missing values keep a bin of their own, where order is told; false: a small one merges",
    )
    sign: Literal["positive"] | None = Field(
        default="positive", description="positive: no coefficient of the wrong sign; null: any"
    )
    C: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="inverse L2 strength, as in scikit-learn")
    min_iv: float = Field(
        default=0.02,
        ge=0,
        allow_inf_nan=False,
        description="columns are left out whose IV is below this after what chance gives; 0: none",
    )
    max_correlation: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="largest Cramer's V of two columns of a party, in private jobs of the bank; null: any",
    )
    rows_per_column: float | None = Field(
        default=5,
        gt=0,
        allow_inf_nan=False,
        description="training rows of the rarer class that a column takes: those of the highest IV stay; null: any",
    )
    max_openings: int = Field(default=120, ge=1, le=2000, description="most gradients that training opens to the bank")
    gradient_bits: int | None = Field(
        default=None, ge=8, le=40, description="bits of an opened gradient component; null: ceil(log2 n) + 14"
    )
    standard_errors: bool = Field(default=False, description="of coefficients, by two more openings for each")
    disclosure: Disclosure = Field(
        default="private",
        description="private: openings are noised and counted; exact: only by agreement with every holder (exact_for)",
    )
    mu: Mu = 0.5
    reuse: Reused | None = Field(
        default=None,
        description="job id, or name of the model, of an earlier private scorecard: columns, sign and C are chosen "
        "anew from the sums that it opened, and nothing is charged but a curve (holdout_scores)",
    )
    despite_noise: DespiteNoise = False

    @property
    def fits(self) -> tuple[str, ...]:
        """Return the one fit."""
        return ("train",) if self.reuse is None else ("refit",)

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the steps; a refit goes on from the rows and bins of an earlier job."""
        return super().steps if self.reuse is None else tuple(s for s in super().steps if s not in {"align", "bin"})

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the one model."""
        return (Candidate(self.task, self, {}),)

    def tells_order(self, *, allowed: bool) -> bool:
        """Return whether WOE of a holder's columns is monotone, which needs the order."""
        return allowed if self.monotone == "told" else self.monotone

    @property
    def tells_association(self) -> bool:
        """Return whether columns are selected by correlation, which needs the association."""
        return not self.private and self.max_correlation is not None

    @property
    def tells(self) -> dict[str, bool]:
        """Return the options: monotone WOE and standard errors tell more."""
        mine = {"monotone": self.monotone is True, "told": self.monotone == "told"}
        mine["association"] = self.tells_association
        return {**super().tells, **mine, "standard_errors": self.standard_errors}

    @model_validator(mode="after")
    def _options_of_exact_sums(self) -> Self:
        if self.reuse is not None and not self.private:
            raise ValueError("reuse is for disclosure: private; exact sums are opened anew")
        _refuse_exact_options(self, "max_openings", "gradient_bits", "standard_errors", "holdout_output")
        return self


class TrainBoosting(Training):
    """Grows boosted trees: steps align, bin, boost, evaluate. Keys have the names of XGBoost where it has them."""

    task: ClassVar[str] = "train_boosting"
    max_bin: int = Field(
        default=32,
        ge=2,
        le=64,
        description="most bins of a column, beside that of missing values; private: of the bank's columns",
    )
    min_bin_fraction: float = Field(
        default=0.01, gt=0, le=0.5, description="smallest share of the rows in a bin; private: of the bank's columns"
    )
    n_estimators: int = Field(default=100, ge=1, le=4096, description="most trees; private: of the bank's own")
    max_depth: int = Field(default=4, ge=0, le=6, description="levels of splits; 0: no limit but max_leaves")
    max_leaves: int = Field(default=0, ge=0, le=1024, description="most leaves of a tree; 0: no limit but max_depth")
    grow_policy: Literal["depthwise", "lossguide"] = Field(
        default="depthwise", description="depthwise: level by level; lossguide: the node that gains most first"
    )
    learning_rate: float = Field(default=0.1, gt=0, le=1, description="factor of what each tree adds to the log-odds")
    reg_lambda: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="L2 penalty of leaf weights")
    gamma: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="least gain of a split")
    min_child_weight: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="least sum of second derivatives h in a child"
    )
    min_leaf_rows: int = Field(default=30, ge=0, description="fewest rows in a child, kept by sum of h >= rows / 4")
    subsample: float = Field(default=1.0, gt=0, le=1, description="share of rows that each tree is grown on")
    colsample_bytree: float = Field(default=1.0, gt=0, le=1, description="share of each side's columns a tree may use")
    scale_pos_weight: float = Field(default=1.0, gt=0, le=1000, description="weight of bad rows, good ones having 1")
    max_delta_step: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="largest leaf weight; 0: any")
    early_stopping_rounds: int | None = Field(default=None, ge=1, description="trees without improvement; null: off")
    validation_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="share of training rows that measure improvement, with early stopping"
    )
    monotone_constraints: dict[ColumnName, Literal[1, -1, "auto"]] = Field(
        default_factory=dict,
        description="bank.column: 1, -1 or auto, the direction of its WOE in the bank's own trees; private jobs alone",
    )
    random_state: int = Field(default=0, ge=0, lt=2**63, description="seed of the drawn columns and validation rows")
    tree_columns: Literal["paired", "own"] = Field(
        default="paired",
        description="paired: a tree splits on the bank's and one holder's columns; own: on one party's alone",
    )
    split_search: Literal["coarse", "all"] = Field(
        default="coarse",
        description="of exact trees; coarse: at most ten thresholds of each column are compared, then those around the "
        "best; all: every threshold, at 1.4 to 2.5 times the bytes",
    )
    disclosure: Disclosure = Field(
        default="private",
        description="private: the bank's own trees, and small random trees on holders' columns from noised, counted "
        "sums; exact: joint trees, only by agreement with every holder (exact_for)",
    )
    mu: Mu = 0.5
    despite_noise: DespiteNoise = False

    @property
    def fits(self) -> tuple[str, ...]:
        """Return the one fit."""
        return ("boost",)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the one model."""
        return (Candidate(self.task, self, {}),)

    @model_validator(mode="after")
    def _private(self) -> Self:
        _refuse_exact_options(self, "tree_columns", "split_search", "holdout_output")
        return self

    @model_validator(mode="after")
    def _growth_ends(self) -> Self:
        if self.max_depth == 0 and self.max_leaves == 0:
            raise ValueError("max_depth: 0 needs max_leaves; without either a tree would never end")
        if self.max_leaves == 1:
            raise ValueError("max_leaves: a tree of one leaf says nothing; use 2 or more, or 0 for no limit")
        return self

    @model_validator(mode="after")
    def _joint_growth(self) -> Self:
        leaf_wise = self.grow_policy == "lossguide" or self.max_leaves or self.max_depth == 0
        if not self.private and (leaf_wise or self.monotone_constraints):
            raise ValueError("lossguide, max_leaves and monotone_constraints are for trees of disclosure: private")
        return self

    @model_validator(mode="after")
    def _no_weights(self) -> Self:
        if self.weights:
            raise ValueError("weights: boosting takes no weights of rows; scale_pos_weight balances the classes")
        return self


@dataclass(frozen=True)
class Candidate:
    """A level-one model of a stack or a selection, which is fitted on all training rows and once without each fold.

    name : of its steps; parameters : its own, with what all candidates share; varied : the values that the grid varies.
    """

    name: str
    parameters: TrainScorecard | TrainBoosting
    varied: dict[str, Any]

    @property
    def task(self) -> str:
        """Return the task that fits it alone."""
        return self.parameters.task


class TrainStack(Training):
    """Trains a scorecard and boosted trees on folds, and a non-negative sum of their margins."""

    task: ClassVar[str] = "train_stack"
    EXACT_ONLY: ClassVar[tuple[str, ...]] = ("folds", "fold_seed", "own_scores", "fold_scores", "holdout_output")
    max_bin: int = Field(default=32, ge=2, le=64, description="most bins of a column, beside that of missing values")
    min_bin_fraction: float = Field(default=0.02, gt=0, le=0.5, description="smallest share of the rows in a bin")
    folds: int = Field(default=4, ge=2, le=10, description="parts of the training rows; each is left out once")
    fold_seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the draw of the folds")
    scorecard: dict[str, Any] = Field(default_factory=dict, description="parameters of train_scorecard, by name")
    boosting: dict[str, Any] = Field(default_factory=dict, description="parameters of train_boosting, by name")
    own_scores: tuple[ColumnName, ...] = Field(
        default=(), max_length=2, description="the bank's score columns that the stack takes in too, as their WOE"
    )
    fold_scores: bool = Field(default=False, description="open the out-of-fold score of each training row, for AUC")
    disclosure: Disclosure = Field(
        default="private",
        description="private: the bank's own trees, then a scorecard of holders' columns (30 % of mu squared), then "
        "small random trees on both, from noised, counted sums; exact: fits on folds, only by agreement (exact_for)",
    )
    mu: Mu = 0.5
    despite_noise: DespiteNoise = False

    @property
    def fits(self) -> tuple[str, ...]:
        """Return the steps that fit: of folds, each candidate on all training rows and without each fold, the stack."""
        if self.private:
            return ("train", "boost")
        folds = [f"fold{f}" for f in range(1, self.folds + 1)]
        each = (step for c in self.candidates for step in (c.name, *(f"{c.name}.{fold}" for fold in folds)))
        return (*(f"bin.{fold}" for fold in folds), *each, "stack")

    @property
    def mu_of_each(self) -> float:
        """Return the mu of each model that takes openings of its own: one here."""
        return self.mu

    @property
    def chosen(self) -> Literal["best", "scorecard", "boosting", "stack"]:
        """Return which model the job files."""
        return "stack"

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return all level-one models, scorecards first."""
        return (*self._candidates("scorecard", {}), *self._candidates("boosting", {}))

    def _candidates(
        self, kind: Literal["scorecard", "boosting"], grid: Mapping[str, tuple[Any, ...]]
    ) -> tuple[Candidate, ...]:
        own = self.scorecard if kind == "scorecard" else self.boosting
        form = TrainScorecard if kind == "scorecard" else TrainBoosting
        for name in (*own, *grid):
            if name in {"disclosure", "mu", "despite_noise"}:
                raise ValueError(f"{kind}: {name} is the same for all candidates; give it beside {kind}")
            if name in Training.model_fields:
                raise ValueError(f"{kind}: {name} is the same for all candidates; give it beside folds")
            if name in own and name in grid:
                raise ValueError(f"{name} stands in {kind} and in {kind}_grid; leave one out")
        if math.prod(len(values) for values in grid.values()) > MAX_CANDIDATES:
            raise ValueError(f"{kind}_grid: at most {MAX_CANDIDATES} candidates in all")
        common = {name: getattr(self, name) for name in Training.model_fields}
        common["disclosure"] = self.disclosure
        if self.private:
            common |= {"mu": self.mu_of_each, "despite_noise": self.despite_noise}
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        return tuple(
            Candidate(kind if len(points) == 1 else f"{kind}{i}", form(**common, **own, **point), point)
            for i, point in enumerate(points, start=1)
        )

    def tells_order(self, *, allowed: bool) -> bool:
        """Return whether a candidate needs the order of bins."""
        return any(c.parameters.tells_order(allowed=allowed) for c in self.candidates)

    @property
    def tells_association(self) -> bool:
        """Return whether a candidate needs the association of columns."""
        return any(c.parameters.tells_association for c in self.candidates)

    @property
    def tells(self) -> dict[str, bool]:
        """Return what any candidate tells more, and whether the scores of training rows are told."""
        every = [c.parameters.tells for c in self.candidates]
        more = {name: any(t.get(name, False) for t in every) for name in ("monotone", "told", "association")}
        return {**super().tells, **more, "folds": not self.private, "fold_scores": self.fold_scores}

    @model_validator(mode="after")
    def _candidates_are_valid(self) -> Self:
        _refuse_exact_options(self, *self.EXACT_ONLY)
        if self.weights:
            raise ValueError("weights: boosting takes no weights of rows, so a stack takes none")
        if any(isinstance(c.parameters, TrainScorecard) and c.parameters.standard_errors for c in self.candidates):
            raise ValueError("scorecard: standard_errors are for train_scorecard; train the chosen scorecard alone")
        if self.private and any(getattr(c.parameters, "monotone", False) is True for c in self.candidates):
            raise ValueError("scorecard: monotone: true is for train_scorecard, or for exact sums; leave it out")
        if any(getattr(c.parameters, "reuse", None) is not None for c in self.candidates):
            raise ValueError(
                "scorecard: reuse is for train_scorecard; a stack's scorecard is opened for its own offset"
            )
        return self
