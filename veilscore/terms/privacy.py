"""How much an opening tells, in Gaussian differential privacy: mu, its square that adds up, and the guess it allows.

An opening whose noise has deviation sigma, of sums that move by at most Delta (Euclidean) when one firm's record is
replaced, costs (Delta / sigma)^2 (Dong, Roth and Su 2022). Costs of successive openings add up, also where each is
chosen after the last (Smith and Thakurta 2022; Koskela et al. 2022); mu is the root of the sum. Whoever guesses between
two records at even odds is then right with a probability of at most Phi(mu / 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field

from veilscore.terms.settings import Strict
from veilscore.wire.protocol import Charge

Disclosure = Literal["private", "exact"]
Mu = Annotated[float, Field(gt=0, le=5, description="most that a private job tells of a firm, as mu (0.5: 60 %)")]
DespiteNoise = Annotated[
    bool, Field(description="train although the noise of a private job is expected to drown its data")
]
# of one firm: 32 steps, 64 bands, any total, 63 steps and none with the one of ten measures that decided
BITS_ONLINE = {"score": 5.0, "band": 6.0, "exact": math.inf, "decision": math.log2(640)}


class PrivacyRules(Strict):
    """How far a bank may get in guessing a firm's record, as mu of Gaussian differential privacy."""

    job: float = Field(
        default=0.5, gt=0, le=5, description="most that one job spends; 0.5: a guess is right at most 60 % of the time"
    )
    year: float = Field(
        default=1.0, gt=0, le=10, description="most that all jobs of a bank spend in a year; 1.0: at most 69 %"
    )


def total(charges: Iterable[Charge]) -> float:
    """Square of mu of several openings: a firm is in training or in hold-out rows, so the larger of the two counts."""
    sums = {"train": 0.0, "holdout": 0.0, "all": 0.0}
    for charge in charges:
        sums[charge.rows] += charge.mu2
    return sums["all"] + max(sums["train"], sums["holdout"])


def best_guess(mu: float, among: int = 2) -> float:
    """How often the best guess among equally likely records is right, at most: Phi(mu / 2) between two.

    For more than two the guesser names the record on whose side the test statistic lies furthest: the bound is the
    trade-off curve at a false alarm of 1 / `among` for each (Dong, Roth and Su 2022, equation 6).
    """
    normal = NormalDist()
    if among == 2:
        return normal.cdf(mu / 2)
    return normal.cdf(mu - normal.inv_cdf(1 - 1 / among))


def in_words(mu: float) -> str:
    """Return what mu allows whoever guesses, as a clause."""
    return (
        "whatever the bank chose, a guess between two possible records of a firm is right at most "
        f"{best_guess(mu):.0%} of the time (a coin: 50%), among ten {best_guess(mu, 10):.0%} (blind: 10%)"
    )


def in_bits(bits: float) -> str:
    """Return how much of a firm an opening of so many bits tells, in words."""
    return "all" if math.isinf(bits) else f"at most {bits:.2g} bits a firm"
