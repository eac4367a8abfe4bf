"""Merge one column's bins by their counts of bad and good rows, to a minimum size and into monotone order."""

from __future__ import annotations

import math
from dataclasses import dataclass

_OTHER_SHAPE, _LOST_SHARE = 5.0, 0.15  # deviations of chance, share of the information that a trend may cost
_CLEAR = 3.0  # standard errors between two bins that are not merged although one is small


@dataclass(frozen=True)
class CountedBin:
    """Holds the codes that share one WOE and their weighted counts; `missing` marks the bin of missing values alone."""

    codes: tuple[int, ...]
    bad: float
    good: float
    missing: bool = False

    @property
    def log_odds(self) -> float:
        """Return ln((bad + 0.5) / (good + 0.5)), which is the WOE but for a constant."""
        return math.log((self.bad + 0.5) / (self.good + 0.5))

    @property
    def variance(self) -> float:
        """Return the variance of `log_odds`, by the delta method."""
        return 1.0 / (self.bad + 0.5) + 1.0 / (self.good + 0.5)

    @property
    def rate(self) -> float:
        """Return the share of bad rows, 0.5 where there are none."""
        total = self.bad + self.good
        return self.bad / total if total > 0 else 0.5

    def with_(self, other: CountedBin) -> CountedBin:
        """Return both in one bin, which is no longer that of missing values alone."""
        return CountedBin(self.codes + other.codes, self.bad + other.bad, self.good + other.good)


def _differs(one: CountedBin, two: CountedBin) -> bool:
    return abs(one.log_odds - two.log_odds) > _CLEAR * math.sqrt(one.variance + two.variance)


def _partner(bins: list[CountedBin], index: int, *, ordered: bool, apart: bool) -> int:
    """Return the bin most similar to `index`: a neighbour by value in an ordered column, else any."""
    others = [k for k in range(len(bins)) if k != index and not (apart and bins[k].missing)]
    if ordered and not bins[index].missing:
        plain = [k for k in range(len(bins)) if not bins[k].missing]
        at = plain.index(index)
        others = plain[max(at - 1, 0) : at] + plain[at + 1 : at + 2] or others
    return min(others, key=lambda k: abs(bins[k].log_odds - bins[index].log_odds))


def merge_small(
    bins: list[CountedBin], least: tuple[float, float], *, ordered: bool, apart: bool = False
) -> list[CountedBin]:
    """Merge bins below `least` (bad, good) rows, the smallest first, unless they differ clearly; two bins remain.

    apart : the bin of missing values is never merged, and is none of the two.
    """
    bins = list(bins)
    kept: set[tuple[int, ...]] = set()

    def size(k: int) -> float:
        return min(bins[k].bad / max(least[0], 1e-300), bins[k].good / max(least[1], 1e-300))

    while len(bins) > 2 + any(apart and one.missing for one in bins):
        small = [
            k for k, one in enumerate(bins) if size(k) < 1.0 and one.codes not in kept and not (apart and one.missing)
        ]
        if not small:
            break
        index = min(small, key=size)
        partner = _partner(bins, index, ordered=ordered, apart=apart)
        if _differs(bins[index], bins[partner]):
            kept.add(bins[index].codes)  # small but clearly different, such as a rare flag
            continue
        bins[partner] = bins[partner].with_(bins[index])
        del bins[index]
    return bins


def monotone_bins(bins: list[CountedBin], *, always: bool = True) -> list[CountedBin]:
    """Pool adjacent violators until the bad rate rises or falls throughout, whichever keeps more information.

    always : False leaves the bins as they are where pooling loses much of their information, clearly beyond chance:
        such a column has another shape, like the term of a loan, and a trend would only spoil it.
    """
    plain = [b for b in bins if not b.missing]
    missing = [b for b in bins if b.missing]
    pooled = max((_pooled(plain, sign) for sign in (1.0, -1.0)), key=_information)
    return bins if not always and _has_another_shape(plain, pooled) else pooled + missing


def _has_another_shape(bins: list[CountedBin], pooled: list[CountedBin]) -> bool:
    """Return whether pooled bins fit the rows far worse: by the likelihood ratio, and by the share of it lost."""
    df = len(bins) - len(pooled)
    all_in_one = CountedBin((), sum(b.bad for b in bins), sum(b.good for b in bins))
    whole, kept = (2.0 * (_likelihood(some) - _likelihood([all_in_one])) for some in (bins, pooled))
    lost = whole - kept  # chi-squared with df degrees of freedom, if the trend is true
    return df > 0 and lost > df + _OTHER_SHAPE * math.sqrt(2.0 * df) and lost - df > _LOST_SHARE * whole


def _likelihood(bins: list[CountedBin]) -> float:
    """Return the logarithm of the likelihood of the rows, each with the rate of its bin."""
    return sum(n * math.log(n / (b.bad + b.good)) for b in bins for n in (b.bad, b.good) if n > 0)


def _pooled(bins: list[CountedBin], sign: float) -> list[CountedBin]:
    pooled: list[CountedBin] = []
    for new in bins:
        pooled.append(new)
        while len(pooled) > 1 and sign * pooled[-1].rate <= sign * pooled[-2].rate:
            last = pooled.pop()
            pooled[-1] = pooled[-1].with_(last)
    return pooled


def _information(bins: list[CountedBin]) -> float:
    bad, good = sum(b.bad for b in bins) + 1e-300, sum(b.good for b in bins) + 1e-300
    return sum((b.bad / bad - b.good / good) * b.log_odds for b in bins)
