"""Counts the console's own requests, for its metrics."""

from __future__ import annotations

from collections import Counter, defaultdict


class RequestCounts:
    """Counts requests by page, method and status, and adds up their seconds; a page is named by its pattern."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)

    def add(self, path: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.counts[path, method, status] += 1
        self.seconds[path, method] += seconds
