"""One holder's public keys at the bank, with masks made before they are needed."""

from __future__ import annotations

from collections import deque

from veilscore.he import Blind, PublicContext

STOCK = 16  # masks kept a holder, about 0.5 MB each


class HolderContext:
    """Public keys of one start of a holder, and a stock of masks for it; each mask is given once.

    Parameters
    ----------
    public_bytes : from the holder; MessageError if it is no public key.
    """

    def __init__(self, public_bytes: bytes) -> None:
        self.public = PublicContext(public_bytes)
        self._stock: deque[Blind] = deque()

    def __len__(self) -> int:
        """Masks in stock."""
        return len(self._stock)

    @property
    def is_short(self) -> bool:
        """Whether masks are missing from the stock."""
        return len(self._stock) < STOCK

    def add(self) -> None:
        """Make one mask; about 4 ms."""
        self._stock.append(self.public.blind())

    def take(self) -> Blind:
        """Fresh mask, made now if the stock is empty."""
        try:
            return self._stock.popleft()
        except IndexError:
            return self.public.blind()
