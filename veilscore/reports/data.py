"""Define the data of a report, whose type refuses what its reader may not see.

A bank's report with a holder's bin edges in it, or a holder's report with labels, weights or scores in it, cannot be
built; sections without data are left out of the page.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from veilscore.errors import DataError
from veilscore.models import metrics
from veilscore.models.stability import ScoreStability

Audience = Literal["bank", "holder", "merged"]


Status = Literal["ok", "missing", "refused", "stale"]


Role = Literal["label holder", "feature holder", "coordinator"]


class Part(BaseModel):
    """Base of all parts: frozen; unknown fields and infinite numbers are refused, and errors never show the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def changed(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced and all checked again, which pydantic's own copy does not do."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**fields, **changes})


class ReportedJob(Part):
    """What was asked for, when, and by which code and model (`created` in ISO 8601)."""

    name: str
    job_id: str
    purpose: str
    task: str
    created: str
    software: str
    model_name: str | None = None
    model_version: str | None = None
    model_hash: str | None = None
    transcript_hash: str | None = None
    n_train: int | None = None
    n_holdout: int | None = None
    holdout: str | None = None


class PartyRow(Part):
    """One party and whether it took part; `as_of` dates its data, `fingerprint` is of its certificate."""

    name: str
    role: Role
    status: Status = "ok"
    detail: str = ""
    n_rows: int | None = None
    n_columns: int | None = None
    as_of: str | None = None
    fingerprint: str | None = None


class HoldoutSection(Part):
    """One score on the hold-out: the joint one, the bank's own columns', or the pooled yardstick."""

    kind: Literal["joint", "bank only", "pooled"]
    name: str
    discrimination: metrics.Discrimination
    curve: metrics.Curve | None = None
    gains: tuple[metrics.GainsRow, ...] = ()


class Improvement(Part):
    """AUC of the joint score less that of the bank's own columns, with its standard error."""

    auc: float
    standard_error: float


class Parity(Part):
    """Largest differences from the same model fitted on pooled plaintext, and what was promised."""

    reference: str
    coefficient_difference: float
    coefficient_bound: float = 1e-3
    auc_difference: float
    auc_bound: float = 1e-4

    @property
    def holds(self) -> bool:
        """Say whether both differences are within their bounds."""
        return abs(self.coefficient_difference) <= self.coefficient_bound and abs(self.auc_difference) <= self.auc_bound


class ModelRow(Part):
    """One column of the scorecard; `sign_ok` is None where no sign was asked for.

    p_value : of no effect, by Wald's test; inflation : VIF; both where standard errors were opened.
    trend : "monotone", "not monotone", or "not told" by its holder; empty where values have no order.
    """

    column: str
    party: str
    coefficient: float
    standard_error: float | None = None
    p_value: float | None = None
    inflation: float | None = None
    sign_ok: bool | None = None
    iv: float | None = None
    trend: str = ""
    points_low: float | None = None
    points_high: float | None = None


class MovedColumn(Part):
    """A column that both versions of a model have, and its coefficient in each."""

    column: str
    party: str
    before: float
    now: float


class VersionComparison(Part):
    """What is other than in the last version of the model that was filed.

    before, now : by name of the measure; a measure that one of them lacks is missing there.
    gained, lost : "party: column" of those that only this version, only the last one has.
    """

    job_id: str
    trained_at: str
    before: dict[str, float]
    now: dict[str, float]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    moved: tuple[MovedColumn, ...]


class Dropped(Part):
    """A column that is not in the model, and why."""

    column: str
    party: str
    reason: str


class ScorecardSection(Part):
    """Weights and the scale of the points."""

    rows: tuple[ModelRow, ...]
    intercept: float
    base_score: float | None = None
    base_odds: float | None = None
    pdo: float | None = None
    dropped: tuple[Dropped, ...] = ()


class ImportanceRow(Part):
    """One column of boosted trees: share of all gain, mean cover and number of its splits."""

    column: str
    party: str
    gain: float
    cover: float
    n_splits: int


class Boosting(Part):
    """Boosted trees as the bank knows them; `validation` is the fall of the validation loss up to each tree."""

    parameters: dict[str, str]
    n_trees: int
    n_grown: int
    stopped: str
    limits: str
    importance: tuple[ImportanceRow, ...]
    parties: dict[str, float]
    unused: tuple[Dropped, ...] = ()
    validation: tuple[float, ...] = ()


class CandidateRow(Part):
    """One model compared: loss a row on folds and its deviation between them, AUC and its noise, what became of it."""

    name: str
    kind: Literal["scorecard", "boosting", "stack", "bank only"]
    varied: dict[str, str] = {}
    loss: float | None = None
    deviation: float | None = None
    auc: float | None = None
    auc_noise: float | None = None
    filed: bool = False
    in_stack: bool = False


class SelectionSection(Part):
    """Candidates compared, out of fold or by noised curves, and the weights of the stack of the best two."""

    by: Literal["loss", "curve"] = "loss"
    folds: int
    candidates: tuple[CandidateRow, ...]
    weights: dict[str, float]
    converged: bool


class TreesTaken(Part):
    """A holder's part in trees: its trees and splits, and sums opened."""

    n_trees: int
    n_splits: int
    n_sums: int
    limits: str
    part_hash: str


class BinRow(Part):
    """One bin: its codes as all parties number them, and its label if the reader may know it.

    iv : what it adds to the column's; rows, bad : training rows and (weighted) bad ones, where counts are known.
    """

    codes: tuple[int, ...]
    share: float
    label: str | None = None
    bad_rate: float | None = None
    woe: float | None = None
    points: float | None = None
    iv: float | None = None
    rows: int | None = None
    bad: float | None = None

    @property
    def title(self) -> str:
        """Return the label, or the numbers of the codes."""
        codes = ", ".join(str(code) for code in self.codes)
        return self.label if self.label is not None else f"bin{'s' * (len(self.codes) > 1)} {codes}"


class ColumnBins(Part):
    """The bins of one column in the order to show them."""

    column: str
    party: str
    bins: tuple[BinRow, ...]
    iv: float | None = None


class ColumnStability(Part):
    """Population stability index of one column between the two populations named in the report."""

    column: str
    party: str
    psi: float


class Stability(Part):
    """How far the second population has moved from the first."""

    expected_name: str = "training"
    actual_name: str = "hold-out"
    columns: tuple[ColumnStability, ...] = ()
    score: ScoreStability | None = None


class Convergence(Part):
    """Norm of the preconditioned gradient at each step."""

    gradient_norm: tuple[float, ...]
    tolerance: float | None = None
    converged: bool = True


class StepCost(Part):
    """What one step cost one party: wall and processor seconds, bytes sent."""

    step: str
    party: str
    seconds: float
    bytes_sent: int
    cpu_seconds: float | None = None


class LearnedRow(Part):
    """What each role learned in one step, and how much of one firm at a holder the bank."""

    step: str
    label_holder: str
    feature_holder: str
    coordinator: str
    how_much: str = ""


class ChargeRow(Part):
    """One opening of a private job and its mu."""

    opening: str
    rows: str
    mu: float


class SpendingRow(Part):
    """What one job spent of a holder's account within a year, as mu, with the day of its last opening (ISO 8601)."""

    job_id: str
    day: str
    mu: float


class PrivacySection(Part):
    """How much the job's openings tell of one firm at one holder: at most these chances of a right guess.

    exact : sums were opened as they are, so no bound holds.
    guess, guess_of_ten : between two records, and among ten, at even odds.
    year_spent, year_limit : mu of all jobs within a year, which a holder knows of its own account.
    job_limit, spending : what its policy lets one job spend, and what each did, oldest first.
    promises_less : where its policy promises less than the default does, in words.
    """

    exact: bool = False
    mu: float | None = None
    guess: float | None = None
    guess_of_ten: float | None = None
    charges: tuple[ChargeRow, ...] = ()
    year_spent: float | None = None
    year_limit: float | None = None
    job_limit: float | None = None
    spending: tuple[SpendingRow, ...] = ()
    promises_less: tuple[str, ...] = ()


class ReportData(Part):
    """Everything a report shows.

    audience : whose report it is; "merged" joins all views, for demonstrations only.
    party : name of the reader among `parties`; empty for a merged report.
    score_name : name and direction of the score on the axes, e.g. "points (higher is better)".
    Raises DataError where the reader would see what the protocol does not show it, pydantic.ValidationError where a
    field is missing, unknown, of the wrong type or not finite.
    """

    audience: Audience
    party: str = ""
    job: ReportedJob
    parties: tuple[PartyRow, ...]
    evaluations: tuple[HoldoutSection, ...] = ()
    improvement: Improvement | None = None
    parity: Parity | None = None
    score_name: str = "score"
    distribution: metrics.Histogram | None = None
    calibration: metrics.CalibrationCurve | None = None
    cutoffs: tuple[metrics.CutoffRow, ...] = ()
    model: ScorecardSection | None = None
    comparison: VersionComparison | None = None
    boosting: Boosting | None = None
    selection: SelectionSection | None = None
    trees: TreesTaken | None = None
    bins: tuple[ColumnBins, ...] = ()
    stability: Stability | None = None
    convergence: Convergence | None = None
    costs: tuple[StepCost, ...] = ()
    learned: tuple[LearnedRow, ...] = ()
    privacy: PrivacySection | None = None
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _only_what_the_reader_may_see(self) -> Self:
        if self.audience == "merged":
            return self
        role = "label holder" if self.audience == "bank" else "feature holder"
        if not any(party.name == self.party and party.role == role for party in self.parties):
            raise DataError(f"a report for audience {self.audience!r} needs `party`, the name of a {role}")
        own = [column for column in self.bins if column.party == self.party]
        if self.audience == "bank":
            others = (cell for column in self.bins if column.party != self.party for cell in column.bins)
            if any(cell.label is not None for cell in others):
                raise DataError("a bank's report must not carry labels of bins of another party's columns")
            return self
        shown = [name for name in BANK_ONLY if getattr(self, name)]
        if shown:
            raise DataError(f"a holder's report must not carry {', '.join(shown)}")
        if len(own) < len(self.bins) or any(_outcome(cell) for column in own for cell in column.bins):
            raise DataError("a holder's report carries its own columns' bins only, without outcomes or points")
        if any(column.iv is not None for column in own):
            raise DataError("a holder's report must not carry information values")
        stability = self.stability
        if stability and (stability.score or any(c.party != self.party for c in stability.columns)):
            raise DataError("a holder's report carries the stability of its own columns only")
        return self


def _outcome(cell: BinRow) -> bool:
    return any(value is not None for value in (cell.bad_rate, cell.woe, cell.points, cell.iv, cell.rows, cell.bad))


BANK_ONLY: Final = (
    "comparison",
    "evaluations", "improvement", "parity", "distribution", "calibration", "cutoffs", "model", "boosting", "selection",
    "convergence",
)  # fmt: skip
