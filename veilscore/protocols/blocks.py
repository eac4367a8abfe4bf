"""Multiplies secretly in a stream of blocks of rows, as boosting and stacking do in every step; streams hints too.

Both roles work on a few blocks at a time, so one side encrypts while the other multiplies, and a side that waits for
nobody uses all cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from veilscore.arrays import Words
from veilscore.errors import MessageError
from veilscore.lattice.hints import MatrixOwner, VectorOwner
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.product import ProductEvaluator, ProductKey
from veilscore.lattice.slots import N
from veilscore.wire.protocol import Protocol, Send, receive, receive_chunks, send_chunks
from veilscore.wire.randomness import in_order

R = TypeVar("R")
BLOCK = 2 * N  # rows of one message; shorter ones cost more to hand over than they gain in overlap
WORKERS = 2
AHEAD = 4  # blocks or groups that a party computes while the network is busy; bounds its memory


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def ahead(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], R]]) -> Iterator[R]:
    """Yield the results of tasks in order, a few of them computed in advance."""
    running: deque[Future[R]] = deque()
    for task in tasks:
        running.append(pool.submit(in_order(task)))
        if len(running) > AHEAD:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def bank_product(
    holder: str,
    key: ProductKey,
    n: int,
    rows_of: Callable[[slice], Words],
    n_outputs: int | None,
    kinds: tuple[Any, Any],
) -> Protocol[Words]:
    """Key owner: return its share of the sums over V of u_v v_v, uint64 (n,) or (n_outputs, n).

    rows_of : u of a block of rows: uint64 (V, rows) below t.
    n_outputs : outputs of the same u, or None for one without that axis.
    kinds : types of the messages with ciphertexts (part, parts, ciphertexts) and with replies (part, parts, reply).
    """
    blocks = _blocks(n)
    out = np.empty((n_outputs or 1, n), np.uint64)

    def encrypted(rows: slice) -> list[bytes]:
        return list(key.encrypt(rows_of(rows)))

    def decrypted(rows: slice, reply: list[bytes]) -> None:
        out[:, rows] = key.decrypt(reply, rows.stop - rows.start, n_outputs or 1)

    with ThreadPoolExecutor(WORKERS) as pool:
        for part, chunks in enumerate(ahead(pool, (partial(encrypted, rows) for rows in blocks))):
            yield Send(holder, kinds[0](part=part, parts=len(blocks), ciphertexts=chunks))
        running = []
        for part, rows in enumerate(blocks):
            message: Any = yield from receive(holder, kinds[1])
            check_part(message, part, len(blocks), holder)
            running.append(pool.submit(decrypted, rows, list(message.reply)))
        for one in running:
            one.result()
    return out[0] if n_outputs is None else out


def holder_product(
    bank: str, evaluator: ProductEvaluator, n: int, rows_of: Callable[[slice], Words], kinds: tuple[Any, Any]
) -> Protocol[Words]:
    """Evaluator: return its share of the same; `rows_of` gives v of a block, (V, rows) or (n_outputs, V, rows)."""
    blocks = _blocks(n)
    shares: list[Words] = []
    running: deque[Future[tuple[list[bytes], Words]]] = deque()

    def next_reply() -> Send:
        reply, share = running.popleft().result()
        shares.append(share)
        return Send(bank, kinds[1](part=len(shares) - 1, parts=len(blocks), reply=reply))

    with ThreadPoolExecutor(WORKERS) as pool:
        for part, rows in enumerate(blocks):
            message: Any = yield from receive(bank, kinds[0])
            check_part(message, part, len(blocks), bank)
            work = partial(evaluator.multiply_sum, list(message.ciphertexts), rows_of(rows))
            running.append(pool.submit(in_order(work)))
            if len(running) > WORKERS:
                yield next_reply()
        while running:
            yield next_reply()
    return np.concatenate(shares, axis=-1)


def send_hints(to: str, kind: Any, owner: MatrixOwner | LookupCodes) -> Protocol[None]:
    """Owner of a matrix or of codes: send its hints as they are made."""
    yield from send_chunks(to, kind, owner.hint_bytes, owner.hint_chunks())


def receive_hints(sender: str, kind: Any, owner: VectorOwner | LookupTable) -> Protocol[None]:
    """Owner of vectors or tables: take the hints as they come, so that they stand in memory once."""
    yield from receive_chunks(sender, kind, owner.hint_bytes, owner.hint_unit, owner.add_hints)


def check_part(message: Any, part: int, parts: int, sender: str) -> None:
    """Refuse a message of a stream that is not the one that is due."""
    if (message.part, message.parts) != (part, parts):
        raise MessageError(
            f"part {message.part} of {message.parts} arrived where {part} of {parts} was due: one is missing, repeated "
            "or out of order, or the two sides use different part sizes",
            party=sender,
        )
