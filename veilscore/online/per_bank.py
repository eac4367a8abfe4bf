"""Keeps things of many banks in bounded memory, so that a bank that has most of them loses its own first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class PerBank(Generic[V]):
    """Keeps values by bank and name; beyond `most` of all banks the oldest goes of the bank that has the most."""

    def __init__(self, most: int) -> None:
        self._most, self._n = most, 0
        self._kept: dict[str, OrderedDict[str, V]] = {}

    def __len__(self) -> int:
        """Return how many there are of all banks."""
        return self._n

    def get(self, bank: str, name: str) -> V | None:
        """Return a bank's value of this name, if it is there."""
        return self._kept[bank].get(name) if bank in self._kept else None

    def put(self, bank: str, name: str, value: V) -> None:
        """Keep a value, in place of another of this name."""
        own = self._kept.setdefault(bank, OrderedDict())
        self._n += name not in own
        own[name] = value
        while self._n > self._most:
            most = max(self._kept, key=lambda one: len(self._kept[one]))
            self.pop(most, next(iter(self._kept[most])))

    def pop(self, bank: str, name: str) -> V | None:
        """Take a value out, if it is there."""
        own = self._kept.get(bank, OrderedDict[str, V]())
        if name not in own:
            return None
        self._n -= 1
        found = own.pop(name)
        if not own:
            del self._kept[bank]
        return found

    def counts(self) -> dict[str, int]:
        """Return how many there are by bank."""
        return {bank: len(own) for bank, own in self._kept.items()}
