"""Parameters of a job, as a user types them and all parties agree on them: what tasks share, scoring and screening.

A task's parameters say which steps its jobs have, in order, and what in them tells more or less than usual. Those of
training tasks are in training.py; names are those of scikit-learn and XGBoost where these have one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from veilscore.terms.bands import MAX_STEPS, MOST_STEPS
from veilscore.terms.privacy import Disclosure, Mu
from veilscore.terms.settings import Strict

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
ScreeningName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}(@[0-9a-f]{16})?$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
# score: one of few steps; exact: the total; curve: noised counts by step of the score, and nothing of a row
Output = Literal["score", "band", "exact", "curve"]
OnlineOutput = Output | Literal["decision"]
MOST_ROWS_PER_FIRM = 120  # ten years of months
MOST_DAYS = 120
MAX_SHARDS = 64
MAX_BANDS = 63  # the circuit that opens bands takes no more cut-offs (protocols/banding.py)
PARAMETERS: dict[str, type[Parameters]] = {}


def _distinct(bands: dict[str, int]) -> dict[str, int]:
    if len(set(bands.values())) != len(bands):
        raise ValueError("two bands have the same lowest score")
    if len(bands) > MAX_BANDS or any(abs(lowest) > 999_999_999 for lowest in bands.values()):
        raise ValueError(f"at most {MAX_BANDS} bands, with lowest scores of at most nine digits")
    return bands


def _band_names(bands: Any) -> Any:
    """Refuse names that are no words: YAML reads 640 as a number, and yes, no, on, off as truth values."""
    for name in bands if isinstance(bands, dict) else ():
        if not isinstance(name, str):
            raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
                f"YAML reads the band name {name} as no word; quote it, for example '{_as_written(name)}'"
            )
        if isinstance(bands[name], bool):
            raise ValueError(  # noqa: TRY004 - pydantic wants ValueError
                f"band {name}: YAML reads yes, no, on and off as truth values; its lowest score is a number"
            )
        if not name.strip() or name.casefold() in NO_BAND:
            reserved = ", ".join(sorted(NO_BAND))
            raise ValueError(f"{name!r} is no name for a band; the empty one and {reserved} are reserved")
    return bands


def _as_written(name: Any) -> str:
    return ("yes" if name else "no") if isinstance(name, bool) else "null" if name is None else str(name)


# What stands for "no band", or for a step of a coarse score, where bands are written (terms/bands.py, scores.csv).
NO_BAND = frozenset({"below all bands", "missing", "none", "null", "nan"})
BandLimits = Annotated[dict[str, int], BeforeValidator(_band_names), AfterValidator(_distinct)]


class Parameters(Strict):
    """Every task has these.

    A subclass with a `task` of its own is what jobs of that task take.
    """

    task: ClassVar[str] = ""
    id_normaliser: str = Field(
        default="uscc", pattern=r"^[a-z][a-z0-9_]{0,39}$", description="kind of id: uscc or text"
    )
    rows: Literal["firms", "firm_dates"] = Field(
        default="firms", description="what a row is: a firm, or a firm at a date (id_columns in node.yaml, everywhere)"
    )
    as_of: tuple[dt.date, ...] = Field(
        default=(),
        max_length=MOST_DAYS,
        description="rows: firm_dates: days of the bank's rows, at which holders with a catalogue make their variables "
        "for this job; none: those that their files have",
    )

    def __init_subclass__(cls, **options: Any) -> None:
        """Enter the subclass in PARAMETERS, where jobs of its task find it."""
        super().__init_subclass__(**options)
        if "task" in cls.__dict__:
            PARAMETERS[cls.task] = cls

    @model_validator(mode="after")
    def _days_of_dates(self) -> Self:
        if self.as_of and (self.rows == "firms" or len(set(self.as_of)) < len(self.as_of)):
            raise ValueError("as_of has distinct days, and is for rows: firm_dates")
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the names of the steps of a job with these parameters, in order."""
        raise NotImplementedError

    @property
    def opens(self) -> Output:
        """Return what is opened to the bank of a row that is scored."""
        return "exact"

    @property
    def tells(self) -> dict[str, bool]:
        """Return which options change who learns what, by the names under which steps list what they tell besides."""
        return {"firm_dates": self.rows == "firm_dates"}

    @property
    def makes_model(self) -> bool:
        """Return whether a job leaves something that is filed under its name when it ends."""
        return False

    def of_party(self, party: str) -> Self:  # noqa: ARG002
        """Return the parameters as a holder's rules see them: where they name parties, with what is of this one."""
        return self

    def check_job(self, name: str, purpose: str, bank: str, holders: tuple[str, ...]) -> None:
        """Raise ValueError where keys of the job itself do not go with these parameters."""


def refuse_strangers(where: str, named: Iterable[str], bank: str, holders: tuple[str, ...]) -> None:
    """Raise ValueError where parameters name a party that is none of the job."""
    for party in named:
        if party not in {bank, *holders}:
            raise ValueError(f"{where}: {party!r} is no party of the job; its parties: {', '.join((bank, *holders))}")


class ChosenColumns(Strict):
    """Chooses which columns of one party take part: all (default), only `include`, or all but `exclude`."""

    include: tuple[ColumnName, ...] | None = Field(default=None, description="only these columns; null: all")
    exclude: tuple[ColumnName, ...] = Field(default=(), description="all but these columns")


class Sampled(Parameters):
    """Every task that bins columns on training rows and sets other rows aside has these too."""

    max_bin: int = Field(default=20, ge=2, le=64, description="most bins of a column, beside that of missing values")
    min_bin_fraction: float = Field(default=0.05, gt=0, le=0.5, description="smallest share of the rows in a bin")
    holdout_fraction: float = Field(default=0.25, ge=0, lt=1, description="share of rows set aside before binning")
    holdout_seed: int = Field(default=0, ge=0, lt=2**63, description="the same seed sets the same firms aside")
    holdout_from: dt.date | None = Field(
        default=None, description="rows from this day on are set aside instead (the bank's date_column)"
    )
    rows_per_firm: int = Field(
        default=1,
        ge=1,
        le=MOST_ROWS_PER_FIRM,
        description="rows: firm_dates: most rows of a firm that take part, drawn by holdout_seed; noise is so many "
        "times as large, since what is counted is the firm; 1: one date of each firm",
    )
    columns: dict[Name, ChosenColumns] = Field(
        default_factory=dict, description="party: which of its columns take part"
    )

    @property
    def noise_rows(self) -> int:
        """Return how many rows the noise of every sum must cover: as many as a firm has at most."""
        return self.rows_per_firm

    @model_validator(mode="after")
    def _rows_of_firms(self) -> Self:
        if self.rows == "firms" and self.rows_per_firm != 1:
            raise ValueError("rows_per_firm is for rows: firm_dates; a firm has one row here")
        if self.rows == "firm_dates" and self.holdout_from is not None and not self.holdout_fraction:
            raise ValueError(
                "of firm_dates, holdout_from sets aside later dates of the firms that holdout_fraction draws, so that "
                "no firm trains and is held out: give it as well"
            )
        return self


class AppliesFiled(Parameters):
    """Parameters of every task that applies what an earlier job filed: a model or a decision."""

    @property
    def applied(self) -> str:
        """Return the name under which what is applied is filed."""
        raise NotImplementedError

    @property
    def applied_sha256(self) -> str | None:
        """Return the version that is applied, if the job names one."""
        raise NotImplementedError


class AppliesDecision(AppliesFiled):
    """Names the decision that a task applies."""

    decision: Name = Field(description="name of the decision: that of the job that filed it")
    decision_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="version of the decision; null: the one in the bank's home"
    )

    @property
    def applied(self) -> str:
        """Return the decision's name."""
        return self.decision

    @property
    def applied_sha256(self) -> str | None:
        """Return the decision's version."""
        return self.decision_sha256


class AppliesModel(AppliesFiled):
    """Every task that applies to the bank's firms what was filed before has these too."""

    on_missing: Literal["fail", "missing_code"] = Field(
        "fail", description="a firm that a holder does not know: fail, or use the bin of missing values"
    )
    dates: Literal["newest", "all"] = Field(
        default="newest",
        description="rows: firm_dates: score each firm at its newest date in the bank's data set, or at all of them, "
        "of which each costs a firm's bits",
    )
    min_batch: int = Field(default=30, ge=1, description="with fewer firms the job is refused")


class ScoreBatch(AppliesModel):
    """Scores the firms of the bank's data set with a trained model: steps align, score."""

    task: ClassVar[str] = "score_batch"
    model: Name = Field(description="name of the model: that of the job that trained it")
    model_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="version of the model; null: the one in the bank's home"
    )
    output: Literal["score", "band", "exact"] = Field(
        default="score",
        description="what the bank gets of a firm; score: one of few steps; band: the band alone; exact: the score "
        "itself, only where every holder's exact_for has the bank",
    )
    score_steps: int = Field(
        default=MOST_STEPS,
        ge=2,
        le=MAX_STEPS,
        description="output: score: most steps; fewer take fewer of a firm's bits a year, over 32 needs bits_per_score",
    )
    bands: BandLimits = Field(
        default_factory=dict, description="with output: band: other bands than the model's; they count as a new model"
    )
    shards: int = Field(
        default=1,
        ge=1,
        le=MAX_SHARDS,
        description="parts of the rows that are scored apart, each by a worker of each party (`workers` in node.yaml); "
        "of scorecards, docs/scale.md",
    )

    @property
    def applied(self) -> str:
        """Return the model's name."""
        return self.model

    @property
    def applied_sha256(self) -> str | None:
        """Return the model's version."""
        return self.model_sha256

    @property
    def opens(self) -> Output:
        """Return what is opened to the bank of a firm."""
        return self.output

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the two steps."""
        return ("align", "score")

    @model_validator(mode="after")
    def _bands_with_output(self) -> Self:
        if self.bands and self.output != "band":
            raise ValueError(f"bands are given and output is {self.output}; set output: band, or leave them out")
        if self.rows == "firms" and self.dates != "newest":
            raise ValueError("dates is for rows: firm_dates; leave it out")
        if self.score_steps != MOST_STEPS and self.output != "score":
            raise ValueError(f"score_steps are of output: score, and output is {self.output}; leave one out")
        return self


class ScreenFeatures(Sampled):
    """Chooses which columns enter training: steps align, screen."""

    task: ClassVar[str] = "screen_features"
    min_iv: float = Field(
        default=0.02, ge=0, allow_inf_nan=False, description="columns below this IV are dropped; private: of the bank's"
    )
    max_missing: float | None = Field(
        default=0.95,
        ge=0,
        le=1,
        description="largest share of missing values; null: any; private: of the bank's columns",
    )
    max_stability: float | None = Field(
        default=0.25,
        gt=0,
        allow_inf_nan=False,
        description="largest population stability, training to hold-out; null: any; private: of the bank's columns",
    )
    max_correlation: float | None = Field(
        default=0.9,
        gt=0,
        le=1,
        description="largest Cramer's V of two kept columns of one party; null: any; private: of the bank's columns",
    )
    max_columns: int | None = Field(
        default=None,
        ge=1,
        description="most columns kept, of all parties (null: any); private: of each party (null: 50 of a holder)",
    )
    disclosure: Disclosure = Field(
        default="private",
        description="private: each holder's best columns, chosen with noise and counted; exact: counts of all columns, "
        "only by agreement with every holder (exact_for)",
    )
    mu: Mu = 0.5

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the two steps."""
        return ("align", "screen")

    @property
    def private(self) -> bool:
        """Return whether columns are chosen with noise."""
        return self.disclosure == "private"
