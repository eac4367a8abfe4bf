"""Secure products in a stream of blocks, and plain sums of shares over cells: what boosting does in every step.

Both roles work on a few blocks of rows at a time, so one side encrypts while the other multiplies, and a side that
waits for nobody uses all cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from veilscore.arrays import CodeArray, Integers, Words
from veilscore.crypto.shares import join_halves
from veilscore.errors import MessageError
from veilscore.kernels import kernel
from veilscore.lattice.product import ProductEvaluator, ProductKey
from veilscore.lattice.slots import N
from veilscore.wire.protocol import Protocol, Send, receive
from veilscore.wire.randomness import in_order

R = TypeVar("R")
BLOCK = 2 * N  # rows of one message; shorter ones cost more to hand over than they gain in overlap
WORKERS = 2
AHEAD = 4  # blocks or groups that a party computes while the network is busy; bounds its memory
LOW = np.uint64((1 << 30) - 1)


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def ahead(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], R]]) -> Iterator[R]:
    """Results of tasks in order, a few of them computed in advance."""
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
    """Key owner: share of the sums over V of u_v v_v.

    Parameters
    ----------
    n : rows.
    rows_of : u of a block of rows: uint64 (V, rows) below t.
    n_outputs : outputs of the same u, or None for one without that axis.
    kinds : message of the ciphertexts (part, parts, ciphertexts) and of the replies (part, parts, reply).

    Returns
    -------
    uint64 (n,) or (n_outputs, n).
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
            _check_part(message, part, len(blocks), holder)
            running.append(pool.submit(decrypted, rows, list(message.reply)))
        for one in running:
            one.result()
    return out[0] if n_outputs is None else out


def holder_product(
    bank: str, evaluator: ProductEvaluator, n: int, rows_of: Callable[[slice], Words], kinds: tuple[Any, Any]
) -> Protocol[Words]:
    """Evaluator: share of the same; `rows_of` gives v of a block, (V, rows) or (n_outputs, V, rows)."""
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
            _check_part(message, part, len(blocks), bank)
            work = partial(evaluator.multiply_sum, list(message.ciphertexts), rows_of(rows))
            running.append(pool.submit(in_order(work)))
            if len(running) > WORKERS:
                yield next_reply()
        while running:
            yield next_reply()
    return np.concatenate(shares, axis=-1)


def _check_part(message: Any, part: int, parts: int, sender: str) -> None:
    if (message.part, message.parts) != (part, parts):
        raise MessageError(
            f"block {message.part} of {message.parts} arrived where {part} of {parts} was due", party=sender
        )


def word_sums(codes: CodeArray, n_codes: Integers, x: Words) -> Words:
    """Sum modulo T of shares (V, n) over the rows of each cell, in the clear: (V, cells)."""
    first = np.concatenate(([0], np.cumsum(n_codes)))
    low = np.zeros((int(first[-1]), x.shape[0]), np.uint64)
    high = np.zeros_like(low)
    _add_words(codes, first[:-1], np.ascontiguousarray(x.T), low, high)
    return join_halves(low, high).T.copy()


def merge_cells(cells: Words, starts: Integers, ends: Integers) -> Words:
    """Sum modulo T of shares (V, cells) over runs of neighbouring cells: (V, runs)."""
    low, high = cells & LOW, cells >> np.uint64(30)
    zero = np.zeros((cells.shape[0], 1), np.uint64)
    sums = [np.concatenate([zero, np.cumsum(part, axis=1)], axis=1) for part in (low, high)]
    return join_halves(sums[0][:, ends] - sums[0][:, starts], sums[1][:, ends] - sums[1][:, starts])


@kernel(
    "(u1[:,::1], i8[::1], u8[:,::1], u8[:,::1], u8[:,::1])",
    "(u2[:,::1], i8[::1], u8[:,::1], u8[:,::1], u8[:,::1])",
)
def _add_words(codes: CodeArray, first: Integers, x: Words, low: Words, high: Words) -> None:
    """Add the halves of x (n, V) of every row to its cells (cells, V); no sum of 2^30 rows overflows."""
    for i in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            cell = first[c] + np.int64(codes[i, c])
            for v in range(x.shape[1]):
                low[cell, v] += x[i, v] & np.uint64(0x3FFFFFFF)
                high[cell, v] += x[i, v] >> np.uint64(30)
