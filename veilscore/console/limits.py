"""Bounds how often one address may ask: a full allowance refills within a minute."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KEYS = 10_000
_MINUTE_S = 60.0


class RateLimit:
    """Counts by key, and forgets the keys that asked longest ago.

    per_minute : requests of one key in a minute; as many may come at once.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = float(per_minute), clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Count a request; returns 0, or the seconds after which the next one may come, and then counts nothing."""
        now_s = self._clock()
        left, at_s = self._left.pop(key, (self._most, now_s))
        left = min(self._most, left + (now_s - at_s) * self._most / _MINUTE_S)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now_s)
        while len(self._left) > _MOST_KEYS:
            self._left.popitem(last=False)
        return 0 if allowed else math.ceil((1 - left) * _MINUTE_S / self._most)
