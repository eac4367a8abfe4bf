"""Parameters of task decide: a filed decision is applied to the firms of the bank's data set."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from veilscore.terms.decision import bits_of
from veilscore.terms.parameters import AppliesDecision, AppliesModel, Output

MOST_OUTCOMES = 640  # of any decision: 63 steps and none, each with the one of ten measures that decided


class Decide(AppliesDecision, AppliesModel):
    """Opens to the bank the step of a filed decision that each firm of its data set reaches: steps align, decide."""

    task: ClassVar[str] = "decide"
    on_missing: Literal["fail", "missing_code"] = Field(
        "missing_code", description="a firm that a holder does not know: fail, or use the bin of missing values"
    )
    outcomes: int | None = Field(
        default=None,
        ge=2,
        le=MOST_OUTCOMES,
        description="most outcomes that the decision may have; null: as many as the one in the bank's home has",
    )
    watch: bool = Field(
        default=False,
        description="whether the decision is a watch, whose levels only rise from month to month",
    )
    last: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_-]{0,39}-[0-9a-f]{8}-[0-9a-f]{16}$",
        description="in a watch, the job of the month before (job id); null: the watch begins",
    )

    @model_validator(mode="after")
    def _last_of_a_watch(self) -> Self:
        if self.last is not None and not self.watch:
            raise ValueError("last names the month before of a watch: set watch: true, or leave it out")
        if self.watch and self.rows == "firm_dates":
            raise ValueError(
                "months of a watch are linked by firm: take data sets with one row a firm, as of this month's date"
            )
        return self

    @property
    def opens(self) -> Output:
        """Return what is opened to the bank of a firm: a named step, as a band is."""
        return "band"

    @property
    def tells_counts(self) -> bool:
        """Return whether holders are told counts of firms by step: where each firm is one row."""
        return self.rows == "firms"

    @property
    def bits(self) -> float:
        """Return the most that an outcome tells of a firm; of a watch, all outcomes of a contract year."""
        return bits_of(self.outcomes or MOST_OUTCOMES, watch=self.watch)

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the two steps."""
        return ("align", "decide")
