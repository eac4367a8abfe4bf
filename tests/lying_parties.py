"""Parties that keep their protocol but for one thing that they send, for attacks on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from veilscore.v1.align_pb2 import AlignBankRound2
from veilscore.wire.protocol import Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from veilscore.wire.protocol import Protocol


def flip_columns(receiver: Any, flips: np.ndarray) -> None:
    """Make a receiver's next message flip bits (columns, n) of what it says, and hide it as well as it can."""
    words = np.packbits(np.ascontiguousarray(flips), axis=1, bitorder="little").view(np.uint64)

    class Columns:
        honest = receiver._columns[1]

        def read(self, n_words: int) -> Any:
            read = self.honest.read(n_words).copy()
            read[:, : words.shape[1]] ^= words
            return read

    receiver._columns = receiver._columns[0], Columns()


def sending_other_values(bank: Protocol[Any], change: Callable[[bytes], bytes]) -> Protocol[Any]:
    """Play the bank of an alignment that sends other values (12 bytes a row) than the function's."""
    answer = None
    while True:
        try:
            command = bank.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(command, Send) and isinstance(command.message, AlignBankRound2):
            command.message.data = change(command.message.data)
        answer = yield command
