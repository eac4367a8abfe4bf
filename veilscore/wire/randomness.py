"""Draws secrets from the operating system, or from one seed that a role is committed to, so that it can be replayed.

A role that runs under `replayable` draws everything from its seed; `secret_bytes` is the one place that all code with
secrets calls. Each draw is SHAKE-256 of the seed and a counter, so what one draw takes does not move the next; work
handed to other threads goes through `in_order`, since threads draw in no fixed order. What is drawn at several times
for one purpose, as online, takes a seed of its own for each (`derived`) and runs under it (`seeded`).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

from veilscore.errors import ParameterError, SecretReuseError
from veilscore.wire.protocol import Protocol

R = TypeVar("R")
SEED_BYTES = 32
_DOMAIN = b"veilscore/1 secrets\0"
_DERIVED = b"veilscore/1 seed of\0"


class _Seeded:
    """Draws secrets by number from one seed, for any thread of one process."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ParameterError(f"a seed has {SEED_BYTES} bytes")
        self._seed = seed
        self._count = 0
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        """Show nothing of the seed."""
        return "<seeded secrets>"

    def draw(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if os.getpid() != self._process:
            raise SecretReuseError("a seed was carried into another process; draw a new one there")
        with self._lock:
            number = self._count
            self._count += 1
        return hashlib.shake_256(_DOMAIN + self._seed + number.to_bytes(8, "little")).digest(size)


_source: ContextVar[_Seeded | None] = ContextVar("veilscore_secrets", default=None)


def secret_bytes(size: int) -> bytes:
    """Return fresh secret bytes, from the seed in force or else from the operating system."""
    source = _source.get()
    return os.urandom(size) if source is None else source.draw(size)


def secret_generator() -> np.random.Generator:
    """Return a numpy generator seeded with 128 secret bits."""
    return np.random.default_rng(int.from_bytes(secret_bytes(16), "little"))


def in_order(work: Callable[[], R]) -> Callable[[], R]:
    """Make `work` fit for another thread: its secrets follow from the order of these calls, not of the threads."""
    source = _source.get()
    if source is None:
        return work
    seed = source.draw(SEED_BYTES)
    return lambda: _under(_Seeded(seed), work)


def derived(seed: bytes, label: str) -> bytes:
    """Return the seed of one purpose out of a seed; the seeds of other labels say nothing of it."""
    return hashlib.shake_256(_DERIVED + seed + label.encode()).digest(SEED_BYTES)


def seeded(seed: bytes, work: Callable[[], R]) -> R:
    """Do `work` with all its secrets drawn from `seed`; the same seed gives the same result again."""
    return _under(_Seeded(seed), work)


def _under(source: _Seeded, work: Callable[[], R]) -> R:
    token = _source.set(source)
    try:
        return work()
    finally:
        _source.reset(token)


def replayable(seed: bytes, protocol: Protocol[R]) -> Protocol[R]:
    """Run a role whose secrets all come from `seed`; the same seed and messages give the same role again."""
    source = _Seeded(seed)
    answer = None
    try:
        while True:
            token = _source.set(source)
            try:
                command = protocol.send(answer)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            finally:
                _source.reset(token)  # a generator shares its caller's context: nothing may stay behind
            answer = yield command
    finally:
        protocol.close()
