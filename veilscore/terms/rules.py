"""The parts of a holder's policy that govern releases and standing agreements (typed in node.yaml).

For example: `release: {output: score, min_batch: 30}` and
`agreements: [{banks: [bank], purposes: [credit], valid_to: 2027-12-31}]`.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from veilscore.errors import RefusedError
from veilscore.terms.bands import Bands
from veilscore.terms.settings import Strict

PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Ed25519 public key, hexadecimal")]
RuleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]

MOST_MODELS = 5  # default budget never above this, however many columns a holder has


class ReleaseRules(Strict):
    """Bounds how much of its records a holder lets out through scores."""

    control: Literal["on", "off"] = Field(default="on", description="off: nothing is counted or refused here")
    output: Literal["score", "band"] = Field(default="score", description="what may leave of a firm; band: no scores")
    max_bands: int = Field(default=10, ge=1, le=63, description="with output: band, most bands with a name")
    min_band_width: float = Field(
        default=0.25, ge=0, description="narrowest band with output: band, in doublings of the odds"
    )
    models_per_firm: int | None = Field(
        default=None,
        ge=1,
        description="distinct models a firm is scored by; null: a quarter of the columns, at least 2 (exact scores: "
        "1), at most 5",
    )
    evaluations_per_firm: int | None = Field(
        default=None,
        ge=1,
        description="the same with hold-out scores of training; null: half of the columns, or 3 if there are more",
    )
    repeats_per_model: int = Field(default=2, ge=0, description="openings of one firm by one model after the first")
    bits_per_score: float = Field(
        default=5, ge=1, le=6, description="bits that one score or band may tell of a firm; 5: one of at most 32 values"
    )
    bits_per_year: float = Field(
        default=10,
        ge=0,
        description="bits that a bank may learn of a firm, by bands and by scores in steps, in batches and online",
    )
    watch: float = Field(
        default=7,
        ge=0,
        description="bits more a contract year of a firm that consented to a watch: 6.5 are two levels in 12 months",
    )
    window_days: float = Field(default=365, gt=0, description="releases older than this many days no longer count")
    min_batch: int = Field(default=30, ge=1, description="a batch of fewer firms is refused")
    min_difference: int = Field(
        default=30, ge=1, description="a batch differs from each earlier one of its model by none or this many firms"
    )
    online_per_hour: int = Field(default=20_000, ge=1, description="single firms that a bank may score in an hour")
    batches_per_day: int = Field(default=50, ge=1, description="batches that a bank may score in a day")

    @property
    def bands_only(self) -> bool:
        """Return whether scores are kept back."""
        return self.control == "on" and self.output == "band"

    def allow_values(self, n_values: int) -> None:
        """Refuse a score or band that is one of so many values where that tells more than a score may."""
        most = int(2**self.bits_per_score + 1e-9)
        if self.control == "on" and n_values > most:
            raise RefusedError(
                f"a score or band of {n_values} values tells more than {self.bits_per_score:g} bits (bits_per_score): "
                f"ask for at most {most}"
            )

    def allow_watch(self, bits: float, n_firms: int) -> None:
        """Refuse a month of a watch that is over few firms, or a watch that tells more of one in a contract year."""
        if self.control == "on" and n_firms < self.min_batch:
            raise RefusedError(f"a batch with fewer than {self.min_batch} firms is not scored")
        if self.control == "on" and bits > self.watch * (1 + 1e-9):
            raise RefusedError(
                f"a watch of these levels tells {bits:.1f} bits of a firm in a year, more than {self.watch:g} "
                "(release.watch): ask for fewer levels"
            )

    def allow_bands(self, bands: Bands, units: float, pdo: float) -> None:
        """Refuse bands that would tell too much, with a reason that the bank may learn.

        units : in one point; pdo : points that double the odds.
        """
        if not self.bands_only:
            return
        if len(bands.limits) > self.max_bands:
            raise RefusedError(
                f"{len(bands.limits)} bands are more than the {self.max_bands} that the policy allows (max_bands)"
            )
        least = self.min_band_width * pdo
        if bands.narrowest(units) < least:
            raise RefusedError(
                f"a band is narrower than the {least:g} points that the policy asks for (min_band_width)"
            )

    def models_allowed(self, n_columns: int, *, exact: bool = True) -> int:
        """Return by how many distinct models a firm may be scored; exact: scores that are not in steps or bands.

        Of steps and bands the bits are bounded whatever the models, so one released model and its successor pass.
        """
        # far fewer than columns: with as many models as columns the codes follow by elimination (release/budget.py)
        return self.models_per_firm or min(MOST_MODELS, max(1 if exact else 2, n_columns // 4))

    def evaluations_allowed(self, n_columns: int) -> int:
        """Return by how many distinct models a firm may be scored, hold-out scores included."""
        # an ordinary project has three: a scorecard, trees, a stack; still fewer than columns
        ordinary = max(2, min(3, n_columns - 1), n_columns // 2)
        return max(self.models_allowed(n_columns), self.evaluations_per_firm or ordinary)


class StandingRule(Strict):
    """Covers jobs that are accepted without asking a person; empty lists mean any."""

    banks: tuple[RuleName, ...] = Field(default=(), description="banks; empty: any")
    purposes: tuple[str, ...] = Field(default=(), description="purposes, word for word; empty: any")
    tasks: tuple[str, ...] = Field(default=(), description="tasks; empty: any")
    datasets: tuple[RuleName, ...] = Field(default=(), description="data sets of this node; empty: any")
    valid_from: dt.date | None = Field(default=None, description="first day on which the rule holds")
    valid_to: dt.date | None = Field(default=None, description="last day on which the rule holds")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.valid_from and self.valid_to and self.valid_from > self.valid_to:
            raise ValueError("valid_from is after valid_to")
        return self

    def covers(self, bank: str, purpose: str, task: str, dataset: str, today: dt.date) -> bool:
        """Return whether a job falls under this rule."""
        named = ((self.banks, bank), (self.purposes, purpose), (self.tasks, task), (self.datasets, dataset))
        return in_period(self.valid_from, self.valid_to, today) and all(not some or one in some for some, one in named)


def in_period(first: dt.date | None, last: dt.date | None, today: dt.date) -> bool:
    """Return whether `today` is in a period whose ends are included and may be open."""
    return (first is None or first <= today) and (last is None or today <= last)
