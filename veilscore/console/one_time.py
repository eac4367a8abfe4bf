"""Keeps what one browser began, under a secret of its cookie that is used once, within minutes."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from veilscore.errors import IdentityError

_MOST = 1000
T = TypeVar("T")


class OneTimeSecrets(Generic[T]):
    """Keeps values by secrets that it draws; the oldest are forgotten where there are too many.

    lasts_s : how long each is good for.
    """

    def __init__(self, lasts_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts_s, self._clock = lasts_s, clock
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def keep(self, value: T) -> str:
        """Keep a value and return its secret."""
        secret = secrets.token_urlsafe(32)
        self._kept[secret] = (self._clock() + self._lasts_s, value)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return secret

    def take(self, secret: str) -> T:
        """Return the value of a secret and forget it; IdentityError where it is unknown, used or over."""
        until_s, value = self._kept.pop(secret, (float("-inf"), None))
        if value is None or until_s < self._clock():
            raise IdentityError("this took too long, or was done already: begin again")
        return value
