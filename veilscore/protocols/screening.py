"""Screens features: it opens bad counts per anonymous bin of thousands of columns, chunk by chunk.

Source   : Binning (`veilscore.protocols.binning`) with packed sums (`veilscore.lattice.packed_sums`) in place of hints:
           one vector, the label, meets all columns, so the bank encrypts it once and the holders sum.
Parties  : The bank has the label, each holder has codes; they meet pairwise.
Messages : ScreenBankRound1 (training mask, public key), ScreenBankLabel (ciphertexts), then for each chunk of columns
           ScreenHolderChunk (shape), ScreenHolderSums, ScreenHolderShares (dithered) and ScreenBankNext; at the end
           ScreenHolderPairs, if a limit of association is set, and ScreenBankKept.
Reveals  : The bank learns what binning reveals (columns, codes, row counts and bad counts per anonymous bin of at least
           the holder's minimum size) but no hold-out counts; where the holder publishes them, missing rate and
           population stability of each column to three decimals (the missing rate may tell which bin is that of missing
           values); and which pairs of its columns are associated above the limit. A holder learns which rows train and
           which of its columns are kept.
Assumes  : Parties are semi-honest, and ring-LWE is hard.
Aborts   : MessageError on any wrong size, shape or range.

Association within a party could be pruned at either side. A ranking of its columns by IV would tell the holder, who
knows the columns, thousands of bits about the label; the pairs above the limit tell the bank a bit a pair about columns
without names, less than the matrix of binning. So the holder sends the pairs, and learns only what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Mask, Vector
from veilscore.crypto import shares
from veilscore.errors import DataError, MessageError
from veilscore.lattice.packed_sums import SumsEvaluator, SumsKey, query_bytes, reply_bytes
from veilscore.lattice.params import SCALE_BITS
from veilscore.lattice.sampling import dither
from veilscore.models.counts import BinCounts, BinnedColumns, cell_counts
from veilscore.models.screening import MEASURED, NO_STABILITY, REASONS, MeasuredChunk
from veilscore.protocols.binning import MAX_COLUMNS, check_shape, shape_message, training_rows, withheld_cells
from veilscore.v1 import screening_pb2 as pb
from veilscore.wire.protocol import (
    Checkpoint,
    Progress,
    Protocol,
    Send,
    Session,
    interleave,
    receive,
    receive_parts,
    receive_parts_within,
    send_parts,
)

CHUNK_COLUMNS = 128
MAX_CHUNKS = 1 << 14
MAX_PAIRS = 1 << 22
WINDOW = 2  # chunks that a holder may be ahead of the bank: what waits unread stays small


@dataclass(frozen=True, eq=False)
class ColumnChunk:
    """Some columns of a party, in the order of its data set."""

    names: tuple[str, ...]  # published names or aliases, one a column
    status: NDArray[np.uint8]  # (n_columns,) uint8, `MEASURED` or why a column was left out before counting
    missing_rate: Vector | None  # (n_columns,) to three decimals; None: not published
    stability: Vector | None  # likewise; `NO_STABILITY` where there is none
    columns: BinnedColumns | None  # codes of the measured columns, in order; None if there are none


@dataclass(frozen=True, eq=False)
class Screened:
    """All that the bank gathered of one holder."""

    chunks: list[list[dict[str, Any]]]  # what `measure` made of each chunk
    pairs: Integers  # (P, 2) int64 columns that are associated above the limit, the smaller number first


def bank_screen(
    session: Session,
    target: NDArray[np.int8],
    train: Mask,
    measure: Callable[[MeasuredChunk], list[dict[str, Any]]],
    choose: Callable[[dict[str, Screened]], tuple[dict[str, Mask], bytes]],
    *,
    with_pairs: bool,
    own: Callable[[], None] | None = None,
    done: Mapping[str, list[list[dict[str, Any]]]] | None = None,
) -> Protocol[None]:
    """Bank: measure every holder's columns, choose, and tell each holder what is kept.

    target : (n_samples,) 1 = bad.
    train : (n_samples,) which rows train.
    measure : makes JSON-able records, one a column, of a chunk; they are what a chunk leaves behind.
    choose : from all holders' records, once all are there: a mask a holder of what is kept, and the hash of the result.
    with_pairs : whether holders send associated pairs.
    own : what the bank does on its own columns, while the holders begin.
    done : holder -> records of the chunks measured in an earlier attempt.
    """
    found = {holder: list((done or {}).get(holder, [])) for holder in session.holders}
    label = shares.encode(target[train].astype(np.float64))
    keys = {}
    for holder in session.holders:
        keys[holder] = SumsKey(session.label("screen", session.bank, holder), label.size)
        message = pb.ScreenBankRound1(
            n_samples=train.size,
            train_mask=shares.bits_to_bytes(train),
            n_train=label.size,
            public_key=keys[holder].public(),
            chunks_done=len(found[holder]),
        )
        yield Send(holder, message)
        yield from send_parts(holder, pb.ScreenBankLabel, b"".join(keys[holder].encrypt(label)))
    if own is not None:
        own()
    parts = {h: _bank_measure(h, keys[h], label.size, measure, found) for h in session.holders}
    yield from interleave(parts)
    screened = {}
    for holder, chunks in found.items():
        data = b""
        if with_pairs:
            most = 8 * min(MAX_PAIRS, math.comb(sum(map(len, chunks)), 2))
            data = yield from receive_parts_within(holder, pb.ScreenHolderPairs, most)
        screened[holder] = Screened(chunks, _check_pairs(holder, data, sum(map(len, chunks))))
    kept, digest = choose(screened)
    for holder in session.holders:
        yield Send(holder, pb.ScreenBankKept(kept=shares.bits_to_bytes(kept[holder]), screening_hash=digest))


def _bank_measure(
    holder: str,
    key: SumsKey,
    n_train: int,
    measure: Callable[[MeasuredChunk], list[dict[str, Any]]],
    found: dict[str, list[list[dict[str, Any]]]],
) -> Protocol[None]:
    """Take one holder's chunks until it says that there are no more; their records go to `found` and are kept."""
    chunks = found[holder]
    columns = sum(map(len, chunks))
    while True:
        message = yield from receive(holder, pb.ScreenHolderChunk)
        if message.chunk != len(chunks) or not len(chunks) <= message.chunks <= MAX_CHUNKS:
            raise MessageError(f"chunk {message.chunk} came in place of {len(chunks)}", party=holder)
        if message.chunk == message.chunks:
            return
        chunk = _check_chunk(holder, message, n_train)
        columns += len(chunk.names)
        if columns > MAX_COLUMNS:
            raise MessageError(f"more than {MAX_COLUMNS} columns to screen", party=holder)
        if chunk.counts is not None and chunk.counts.counts.any():
            chunk = replace(chunk, counts=(yield from _bank_open(holder, key, chunk.counts, n_train)))
        yield Send(holder, pb.ScreenBankNext(chunk=message.chunk))
        chunks.append(measure(chunk))
        yield Checkpoint({"chunks": {h: list(c) for h, c in found.items()}})
        yield Progress(f"columns of {holder}", len(chunks), message.chunks)


def _bank_open(holder: str, key: SumsKey, shape: BinCounts, n_train: int) -> Protocol[BinCounts]:
    """Open good and bad counts of the cells that are shown; the others stay zero."""
    shown = shape.counts > 0
    n_cells = int(shown.sum())
    reply = yield from receive_parts(holder, pb.ScreenHolderSums, reply_bytes(n_train, n_cells))
    message = yield from receive(holder, pb.ScreenHolderShares)
    other = shares.shares_from_bytes(message.shares, (n_cells,))
    opened = shares.from_ring(shares.add(key.share(reply, n_cells), other)) / float(1 << SCALE_BITS)
    bad = np.zeros(shape.counts.size)
    bad[shown] = np.rint(opened)
    if (bad < 0).any() or (bad > shape.counts).any():
        raise MessageError("bad counts lie outside the holder's bin sizes", party=holder)
    return replace(shape, bad=bad, good=shape.counts - bad)


def holder_screen(
    session: Session,
    open_chunks: Callable[[Mask], tuple[int, Iterator[ColumnChunk]]],
    n_samples: int,
    min_count: int,
    pairs: Callable[[], Integers] | None = None,
) -> Protocol[tuple[Mask, bytes]]:
    """Holder: answer with the bad counts of its columns; return the mask of kept columns and the screening's hash.

    open_chunks : given which rows train, the number of chunks and the chunks, made one at a time.
    n_samples : aligned rows.
    min_count : cells with fewer training rows are withheld, as in binning.
    pairs : gives the pairs of all columns above the limit, after the last chunk; None if no limit is set.
    """
    request = yield from receive(session.bank, pb.ScreenBankRound1)
    train = training_rows(session, request, n_samples)
    sums = SumsEvaluator(session.label("screen", session.bank, session.party), int(train.sum()), request.public_key)
    sums.add((yield from receive_parts(session.bank, pb.ScreenBankLabel, query_bytes(int(train.sum())))))
    n_chunks, chunks = open_chunks(train)
    if request.chunks_done > n_chunks:
        raise MessageError(f"the bank measured {request.chunks_done} chunks, there are {n_chunks}", party=session.bank)
    statuses, unread = [], 0
    for number, chunk in enumerate(chunks):
        statuses.append(chunk.status)
        if number < request.chunks_done:
            continue
        if unread == WINDOW:
            yield from _read_next(session, number - WINDOW)
            unread -= 1
        yield from _send_chunk(session, chunk, (number, n_chunks), train, min_count, sums)
        unread += 1
        yield Progress("columns", number + 1, n_chunks)
    for number in range(n_chunks - unread, n_chunks):
        yield from _read_next(session, number)
    yield Send(session.bank, pb.ScreenHolderChunk(chunk=n_chunks, chunks=n_chunks))  # no more
    if pairs is not None:
        yield from send_parts(session.bank, pb.ScreenHolderPairs, _pairs_to_bytes(pairs()))
    answer = yield from receive(session.bank, pb.ScreenBankKept)
    status = np.concatenate(statuses)
    kept = shares.bits_from_bytes(answer.kept, status.size)
    if (kept & (status != MEASURED)).any() or len(answer.screening_hash) != 32:
        raise MessageError("the bank keeps a column that was not measured, or its hash is short", party=session.bank)
    return kept, answer.screening_hash


def _read_next(session: Session, number: int) -> Protocol[None]:
    """Wait until the bank has read a chunk."""
    message = yield from receive(session.bank, pb.ScreenBankNext)
    if message.chunk != number:
        raise MessageError(f"the bank read chunk {message.chunk} in place of {number}", party=session.bank)


def _send_chunk(
    session: Session, chunk: ColumnChunk, place: tuple[int, int], train: Mask, min_count: int, sums: SumsEvaluator
) -> Protocol[None]:
    """Describe a chunk and, if the bank may see any cell of it, answer with its sums."""
    columns, shape, shown = chunk.columns, None, np.zeros(0, bool)
    if columns is not None:
        counts = cell_counts(columns.codes[train], columns.n_codes).astype(np.int64)
        shown = ~withheld_cells(counts, columns.n_codes, min_count)
        shape = shape_message(columns, np.where(shown, counts, 0), np.zeros_like(counts))
    yield Send(
        session.bank,
        pb.ScreenHolderChunk(
            chunk=place[0],
            chunks=place[1],
            columns=chunk.names,
            status=chunk.status.astype(np.uint8).tobytes(),
            missing_rate=[] if chunk.missing_rate is None else chunk.missing_rate.tolist(),
            stability=[] if chunk.stability is None else chunk.stability.tolist(),
            shape=shape,
        ),
    )
    if columns is None or not shown.any():
        return
    reply, share = sums.sums(columns.codes[train], columns.n_codes, shown)
    yield from send_parts(session.bank, pb.ScreenHolderSums, reply)
    opened = shares.add(share, dither(share.shape))
    yield Send(session.bank, pb.ScreenHolderShares(shares=shares.shares_to_bytes(opened)))


def _check_chunk(holder: str, message: pb.ScreenHolderChunk, n_train: int) -> MeasuredChunk:
    """Parse a chunk; everything in it is bounded."""
    names, status = tuple(message.columns), np.frombuffer(message.status, np.uint8)
    if not 0 < len(names) == len(set(names)) == status.size <= CHUNK_COLUMNS or status.max() >= len(REASONS):
        raise MessageError(f"a chunk has 1 to {CHUNK_COLUMNS} columns, each with a known status", party=holder)
    if any(not 0 < len(name) <= 200 for name in names):
        raise MessageError("a column name has the wrong length", party=holder)
    rates = _numbers(holder, message.missing_rate, (0.0, 1.0), len(names))
    shifts = _numbers(holder, message.stability, (NO_STABILITY, 1e6), len(names))
    measured, counts = tuple(n for n, s in zip(names, status, strict=True) if s == MEASURED), None
    if message.HasField("shape") != bool(measured):
        raise MessageError("bins are described for no column, or missing for measured ones", party=holder)
    if measured:
        counts = check_shape(holder, message.shape, n_train)
        if counts.names != measured or counts.holdout_counts.any() or counts.association is not None:
            raise MessageError("the bins described are not those of the measured columns", party=holder)
    return MeasuredChunk(holder, names, status, rates, shifts, counts)


def _numbers(holder: str, values: Any, bounds: tuple[float, float], n_columns: int) -> Vector | None:
    """Return one published number a column, or None where the holder publishes none."""
    if not len(values):
        return None
    found: Vector = np.rint(np.array(values, dtype=np.float64) * 1e3) / 1e3
    if found.size != n_columns or not bool(((found >= bounds[0]) & (found <= bounds[1])).all()):
        raise MessageError("a missing rate or stability is out of range, or not one a column", party=holder)
    return found


def _pairs_to_bytes(pairs: Integers) -> bytes:
    if len(pairs) > MAX_PAIRS:
        raise DataError(f"{len(pairs)} pairs of columns are above max_correlation, at most {MAX_PAIRS}; raise it")
    return np.ascontiguousarray(pairs, dtype="<u4").tobytes()


def _check_pairs(holder: str, data: bytes, n_columns: int) -> Integers:
    if len(data) % 8:
        raise MessageError(f"pairs of columns take 8 bytes each, not {len(data)} in all", party=holder)
    pairs = np.frombuffer(data, "<u4").astype(np.int64).reshape(-1, 2)
    order = pairs[:, 0] * n_columns + pairs[:, 1]
    if (pairs[:, 0] >= pairs[:, 1]).any() or (pairs >= n_columns).any() or (np.diff(order) <= 0).any():
        raise MessageError("pairs of columns are not in order, or name columns that are not there", party=holder)
    return pairs
