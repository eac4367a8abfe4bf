"""Parameters of the task that opens what rules over several parties are mined from."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from veilscore.terms.parameters import Sampled
from veilscore.terms.privacy import DespiteNoise, Mu

MOST_SEGMENTS = 16


class MineRules(Sampled):
    """Opens goods and bads by the bank's segments and holders' bins, with noise: steps align, mine, verify."""

    task: ClassVar[str] = "mine_rules"
    segments: int = Field(
        default=8,
        ge=1,
        le=MOST_SEGMENTS,
        description="most segments that the bank divides its firms into by its own columns; 1: rules of holders alone",
    )
    mu: Mu = 0.5
    despite_noise: DespiteNoise = False

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the steps."""
        return ("align", "mine", "verify")

    @property
    def private(self) -> bool:
        """Return that all that it opens is noised and counted."""
        return True

    @model_validator(mode="after")
    def _with_holdout(self) -> Self:
        if self.holdout_from is None and self.holdout_fraction == 0:
            raise ValueError(
                "rules need held-out firms to be measured on: leave holdout_fraction out, or set it above 0"
            )
        return self
