"""Tell which columns a boosted model leans on: gain, cover and number of splits, as the bank saw them in training.

Nothing is scored for it and no partial score is read: the bank chose every split from opened sums, so it knows the gain
of each and the anonymous column it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from veilscore.models.boosted import Boosted


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
    bank = model.parts[0].party
    sums: dict[tuple[str, int], list[float]] = {}
    for tree in model.boosted_trees:
        for split in tree.splits:
            owner = bank if split.side == "bank" else tree.holder
            entry = sums.setdefault((owner, split.column), [0.0, 0.0, 0.0])
            for place, value in enumerate((split.gain, split.cover, 1.0)):
                entry[place] += value
    for entry in sums.values():
        entry[0] = max(entry[0], 0.0)  # noise on opened sums can turn a gain that is hardly there negative
    whole = sum(gain for gain, _, _ in sums.values()) or 1.0
    found = [
        Importance(
            party=party,
            column=model.part(party).columns[j].name,
            gain=gain / whole,
            cover=cover / count,
            n_splits=int(count),
        )
        for (party, j), (gain, cover, count) in sums.items()
    ]
    return tuple(sorted(found, key=lambda item: (-item.gain, item.party, item.column)))


def by_party(columns: tuple[Importance, ...]) -> dict[str, float]:
    """Return the share of the gain of each party's columns."""
    shares: dict[str, float] = {}
    for item in columns:
        shares[item.party] = shares.get(item.party, 0.0) + item.gain
    return shares
