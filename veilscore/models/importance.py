"""Tell which columns a boosted model leans on: gain, cover and number of splits, as the bank saw them in training.

Nothing is scored for it and no partial score is read: the bank chose every split from opened sums, so it knows the gain
of each and the anonymous column it uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from veilscore.models.boosted import Boosted
from veilscore.models.chained import Chained, source_name


@dataclass(frozen=True)
class Importance:
    """One column of one party: its share of the gain of all splits, mean sum of h at its splits, and their number."""

    party: str
    column: str
    gain: float
    cover: float
    n_splits: int


def importance(model: Boosted) -> tuple[Importance, ...]:
    """Return the columns that boosted trees use, the greatest gain first."""
    sums: dict[tuple[str, str], list[float]] = {}
    for party, column, gain, cover in _uses(model):
        entry = sums.setdefault((party, column), [0.0, 0.0, 0.0])
        for place, value in enumerate((gain, cover, 1.0)):
            entry[place] += value
    for entry in sums.values():
        entry[0] = max(entry[0], 0.0)  # noise on opened sums can turn a gain that is hardly there negative
    whole = sum(gain for gain, _, _ in sums.values()) or 1.0
    found = [
        Importance(
            party=party,
            column=column,
            gain=gain / whole,
            cover=cover / count,
            n_splits=int(count),
        )
        for (party, column), (gain, cover, count) in sums.items()
    ]
    return tuple(sorted(found, key=lambda item: (-item.gain, item.party, item.column)))


def _uses(model: Boosted) -> Iterator[tuple[str, str, float, float]]:
    """Yield party, column, gain and cover of each split; a tree of a chain is one of its holder's column."""
    bank = model.parts[0].party
    for tree in model.boosted_trees:
        for split in tree.splits:
            owner = bank if split.side == "bank" else tree.holder
            yield owner, model.part(owner).columns[split.column].name, split.gain, split.cover
    for holder, chain in model.chains.items() if isinstance(model, Chained) else ():
        columns = model.part(holder).columns
        for one in chain:
            yield holder, source_name(columns[one.column].name), one.gain, sum(map(sum, one.covers))


def by_party(columns: tuple[Importance, ...]) -> dict[str, float]:
    """Return the share of the gain of each party's columns."""
    shares: dict[str, float] = {}
    for item in columns:
        shares[item.party] = shares.get(item.party, 0.0) + item.gain
    return shares
