"""Parameters of task size_decision: how many firms a filed decision would put at each step, with noise."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from veilscore.terms.parameters import AppliesDecision
from veilscore.terms.privacy import Mu


class SizeDecision(AppliesDecision):
    """Opens noised counts by step of a filed decision over the firms of the bank's data set: steps align, size.

    No firm's step is opened, so that no firm has to consent; the counts cost the account of each holder.
    """

    task: ClassVar[str] = "size_decision"
    mu: Mu = 0.3
    tell_holders: bool = Field(
        default=False, description="whether holders get the counts too, with noise of the bank's own on top"
    )

    @property
    def steps(self) -> tuple[str, ...]:
        """Return the two steps."""
        return ("align", "size")

    @property
    def private(self) -> bool:
        """Return that all that it opens is noised and counted."""
        return True

    @model_validator(mode="after")
    def _one_row_a_firm(self) -> Self:
        if self.rows != "firms":
            raise ValueError("counts are of firms, each once: use rows: firms")
        return self
