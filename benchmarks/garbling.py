"""Garbling, the check of transfers and the pool: time with AES instructions, beside the portable path in the same run.

Processor time, one core, the least of many rounds; the two paths take turns.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from unittest.mock import patch

import numpy as np
from result import emit

from veilscore.crypto import aes, half_gates
from veilscore.crypto.circuits import to_bits
from veilscore.crypto.garbled import Evaluator, Garbler
from veilscore.crypto.he import T
from veilscore.crypto.parities import draw_coefficients, parities
from veilscore.crypto.transfer_pool import PoolReceiver, PoolSender
from veilscore.crypto.tweaked_hash import TweakedHash
from veilscore.protocols.banding import BandCircuit

R = TypeVar("R")
GARBLED_NS, EVALUATED_NS, TRANSFERS_MS = 27.0, 17.0, 1.0
ARRAYS = {"a sum of 713 candidates": (31, 713), "one wide array": (1, 22_000), "a sum of one row": (25, 1)}
LIMITS = tuple(range(-1000, 2000, 100))[:31]  # of a score in 32 steps


def least(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Least seconds of each; they take turns, so that a busy machine slows all of them."""
    found = [float("inf")] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            start = time.process_time()
            work()
            found[number] = min(found[number], time.process_time() - start)
    return found


def portable(work: Callable[[], object]) -> Callable[[], object]:
    """The same as on a machine without the instructions."""

    def without() -> None:
        with patch.object(aes, "has_aes", lambda: False), patch.object(aes, "has_clmul", lambda: False):
            work()

    return without


def both_paths(rounds: int, scale: float, work: Callable[[], object]) -> tuple[float, float]:
    """Nanoseconds a unit with and without instructions."""
    fast, slow = least(rounds, work, portable(work))
    return 1e9 * fast / scale, 1e9 * slow / scale


def show(label: str, fast: float, slow: float) -> None:
    print(f"  {label:<60}{fast:>8.1f}{slow:>10.1f}{fast / slow:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(1)
    figures: dict[str, dict[str, float]] = {}

    def labels(*shape: int) -> np.ndarray:
        return rng.integers(0, 1 << 64, (*shape, 2), np.uint64)

    offset = labels() | np.uint64(1)
    print(f"{'AES instructions: ' + str(aes.has_aes()):<62}{'with':>8}{'without':>10}{'ratio':>8}")
    for name, (bits, n) in ARRAYS.items():
        words, table = (labels(bits, n), labels(bits, n), labels(bits, n)), np.empty((bits * n, 4), np.uint64)
        key = TweakedHash(b"bench").advance(2 * bits * n)
        for side, work in {
            "garbled": lambda w=words, k=key, t=table: half_gates.garble(half_gates.CARRIES, w, offset, k, t),
            "evaluated": lambda w=words, k=key, t=table: half_gates.evaluate(half_gates.CARRIES, w, k, t),
        }.items():
            fast, slow = both_paths(rounds, bits * n, work)
            show(f"{name}, ns an AND {side}", fast, slow)
            figures[f"{name}, {side}, ns an AND"] = {"with": fast, "without": slow}
    columns = labels(128, 513).reshape(128, -1)
    drawn = draw_coefficients(b"bench", 0, columns)
    fast, slow = both_paths(rounds, 128 * 512, lambda: parities(drawn, columns))
    show("parities of transfers, ns a coefficient of 128 bits", fast, slow)
    figures["parities, ns a coefficient"] = {"with": fast, "without": slow}

    circuit = BandCircuit(LIMITS, T)
    share, false = rng.random((circuit.n_bits, 1)) < 0.5, labels(circuit.n_bits, 1)

    def garble() -> bytes:
        garbler = Garbler(b"band", offset)
        circuit(garbler, false, garbler.own(share))
        return garbler.tables()

    tables = garble()

    def evaluate() -> None:
        evaluator = Evaluator(b"band")
        evaluator.feed(tables)
        circuit(evaluator, false, evaluator.own(share.shape))

    for side, work in (("garbled", garble), ("evaluated", evaluate)):
        fast, slow = both_paths(rounds // 4, 1e3, work)
        show(f"step of a score, one firm, {circuit.gates} ANDs, us {side}", fast, slow)
        figures[f"a score, {side}, us"] = {"with": fast, "without": slow}
    figures["pool"] = pool(rounds // 10)
    for label, value in figures["pool"].items():
        print(f"  {label:<60}{value:>8.2f}")
    wide = "a sum of 713 candidates"
    value = figures[f"{wide}, garbled, ns an AND"]["with"]
    holds = (
        value <= GARBLED_NS
        and figures[f"{wide}, evaluated, ns an AND"]["with"] <= EVALUATED_NS
        and max(v for k, v in figures["pool"].items() if k.startswith("1,000 transfers")) <= TRANSFERS_MS
    )
    emit("garbling", value, "ns an AND garbled", GARBLED_NS, holds, aes=aes.has_aes(), **figures)


def pool(rounds: int) -> dict[str, float]:
    """Milliseconds of a set-up and of 1,000 transfers on each side, and of one request for 25 labels."""
    n, names, share = 1 << 14, b"bench", to_bits(np.array([77], np.uint64), 25)[:, 0]
    spent: dict[str, list[float]] = {}

    def timed(label: str, scale: float, work: Callable[[], R]) -> R:
        start = time.process_time()
        result = work()
        spent.setdefault(label, []).append(1e3 * (time.process_time() - start) / scale)
        return result

    for _ in range(max(3, rounds)):
        receiver = timed("set-up, receiver's point, ms", 1, lambda: PoolReceiver(names, os.urandom(32)))
        sender = timed("set-up, sender, ms", 1, partial(PoolSender, names, receiver.base()))
        timed("set-up, receiver, ms", 1, partial(receiver.accept, sender.choices()))
        message = timed("1,000 transfers, receiver, ms", n / 1000, partial(receiver.extend, n))
        timed("1,000 transfers, sender, ms", n / 1000, partial(sender.extend, message, n))
        bits, _ = timed("a request for 25 labels, receiver, ms", 1, partial(receiver.take, 0, 25))
        timed("a request for 25 labels, sender, ms", 1, partial(sender.take, 0, share ^ bits))
    return {label: min(times) for label, times in spent.items()}


if __name__ == "__main__":
    main()
