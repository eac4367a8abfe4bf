"""Counts good and bad rows per anonymous bin of every holder's columns.

Source   : Design page, sections 1 and 5 (WOE counts by the secure histogram).
Parties  : The bank has the label, each holder has codes; they meet pairwise.
Messages : BinBankRound1 (training mask) -> BinHolderRound1 (shape of the codes), BinHolderHints -> BinBankRound2
           (encrypted vectors) -> BinHolderRound2 (dithered shares).
Reveals  : The bank learns the number of columns and codes, row counts and weighted good and bad counts per anonymous
           bin of at least the holder's minimum size (smaller ones are withheld), and, only if the job asks for it and
           the holder allows it, the order of bins up to direction and the association of columns. A holder learns which
           rows train.
Assumes  : Parties are semi-honest, and ring-LWE is hard.
Aborts   : MessageError on any wrong size, shape or range.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Mask, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.histogram import HistogramCodes, HistogramQuery, HistogramVectors
from veilscore.lattice.params import SCALE_BITS, T
from veilscore.lattice.sampling import dither
from veilscore.models.counts import BinCounts, BinnedColumns, cell_counts, offsets
from veilscore.protocols.blocks import receive_hints, send_hints
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.protocol import (
    Progress,
    Protocol,
    Send,
    Session,
    pack_fields,
    receive,
    receive_parts,
    send_parts,
    unpack_fields,
)

MAX_CELLS = 1 << 17
MAX_COLUMNS = 1 << 14


def bank_bin(
    session: Session, target: NDArray[np.int8], weight: Vector | None, train: Mask
) -> Protocol[dict[str, BinCounts]]:
    """Bank: return the counts of every holder's cells.

    target : (n_samples,) 1 = bad.
    weight : (n_samples,) positive, or None for ones.
    train : (n_samples,) which rows train.
    """
    n_train = int(train.sum())
    message = pb.BinBankRound1(n_samples=train.size, train_mask=shares.bits_to_bytes(train), n_train=n_train)
    for holder in session.holders:
        yield Send(holder, message)
    row_weight = np.ones(n_train) if weight is None else weight[train]
    bad = row_weight * target[train]
    vectors = shares.encode(np.stack([bad, row_weight - bad]))
    shapes, own = {}, {}
    for holder in session.holders:
        shape = check_shape(holder, (yield from receive(holder, pb.BinHolderRound1)), n_train)
        query = HistogramVectors(n_train, shape.n_codes, session.label("bin", holder, session.bank))
        yield from receive_hints(holder, pb.BinHolderHints, query)
        request, own[holder] = query.query(vectors)
        yield from send_parts(holder, pb.BinBankRound2, pack_fields(request.b, request.beta, request.alpha))
        shapes[holder] = shape
    result = {}
    for done, holder in enumerate(session.holders, start=1):
        reply = yield from receive(holder, pb.BinHolderRound2)
        result[holder] = _open_counts(shapes[holder], own[holder], reply.shares, exact=weight is None)
        yield Progress("good and bad counts", done, len(session.holders))
    return result


def holder_bin(
    session: Session, fit: Callable[[Mask], BinnedColumns], n_samples: int, min_count: int, earlier: Mask | None = None
) -> Protocol[tuple[BinnedColumns, Mask]]:
    """Holder: answer the bank's histogram of its label; return the coded columns and the training mask.

    fit : makes the codes of all aligned rows, given which of them train.
    n_samples : aligned rows.
    min_count : cells with fewer training rows are withheld, empty ones too, so that nobody can tell them apart.
    earlier : (n_samples,) rows whose counts were opened before, of which those of `train` are a part: cells are
        withheld, too, where the difference of the two has fewer rows.
    """
    request = yield from receive(session.bank, pb.BinBankRound1)
    train = training_rows(session, request, n_samples)
    columns = fit(train)
    counts = cell_counts(columns.codes[train], columns.n_codes).astype(np.int64)
    withheld = withheld_cells(counts, columns.n_codes, min_count)
    if earlier is not None:
        before = cell_counts(columns.codes[earlier], columns.n_codes).astype(np.int64)
        withheld |= withheld_cells(before, columns.n_codes, min_count)
        withheld |= withheld_cells(np.minimum(counts, before - counts), columns.n_codes, min_count)
    holdout = cell_counts(columns.codes[~train], columns.n_codes).astype(np.int64)
    yield Send(session.bank, shape_message(columns, np.where(withheld, 0, counts), np.where(withheld, 0, holdout)))
    label = session.label("bin", session.party, session.bank)
    histogram = HistogramCodes(columns.codes[train], columns.n_codes, label)
    yield from send_hints(session.bank, pb.BinHolderHints, histogram)
    data = yield from receive_parts(session.bank, pb.BinBankRound2, histogram.fields_bytes(2))
    share = histogram.evaluate(HistogramQuery(*unpack_fields(data, 3)))
    if share.shape != (2, counts.size):
        raise MessageError("the bank asked for other vectors than good and bad", party=session.bank)
    share = shares.add(share, dither(share.shape))
    for vector in range(2):  # uniform, so that the bank's sum of shares says nothing of a cell that is withheld
        share[vector, withheld] = [secrets.randbelow(T) for _ in range(int(withheld.sum()))]
    yield Send(session.bank, pb.BinHolderRound2(shares=shares.shares_to_bytes(share)))
    return columns, train


def training_rows(session: Session, request: Any, n_samples: int) -> Mask:
    """Return which of the aligned rows train, as the bank's request says."""
    if request.n_samples != n_samples:
        raise MessageError(f"the bank names {request.n_samples} rows, aligned were {n_samples}", party=session.bank)
    train = shares.bits_from_bytes(request.train_mask, n_samples)
    if int(train.sum()) != request.n_train or request.n_train == 0:
        raise MessageError("the training mask is empty or contradicts its count", party=session.bank)
    return train


def withheld_cells(counts: Integers, n_codes: Integers, min_count: int) -> Mask:
    """Return which cells the bank does not see: (cells,).

    They are those below the minimum, and in a column whose hidden rows are still fewer than it (the bank knows the
    total) the smallest others until they are not.
    """
    withheld: Mask = counts < min_count
    at = offsets(n_codes)
    for column in range(n_codes.size):
        cells = np.arange(at[column], at[column + 1])
        for cell in cells[np.argsort(counts[cells], kind="stable")].tolist():
            hidden = int(counts[cells][withheld[cells]].sum())
            if not 0 < hidden < min_count:
                break
            withheld[cell] = True
    return withheld


def shape_message(columns: BinnedColumns, counts: Integers, holdout: Integers) -> pb.BinHolderRound1:
    """Describe coded columns: counts (cells,) of training and of hold-out rows, zero where withheld."""
    return pb.BinHolderRound1(
        columns=columns.names,
        n_codes=columns.n_codes.tolist(),
        counts=counts.astype("<u4").tobytes(),
        holdout_counts=holdout.astype("<u4").tobytes(),
        ordered=columns.ordered.tolist(),
        missing_code=columns.missing_code.tolist(),
        association=b"" if columns.association is None else columns.association.astype("<f4").tobytes(),
        map_hash=columns.map_hash,
    )


def check_shape(holder: str, message: pb.BinHolderRound1, n_train: int) -> BinCounts:
    """Parse a holder's description of its columns; everything in it is bounded."""
    n_codes = np.array(message.n_codes, dtype=np.int64)
    d = n_codes.size
    cells = int(n_codes.sum())
    names = tuple(message.columns)
    if not 0 < d <= MAX_COLUMNS or cells > MAX_CELLS or n_codes.min() < 1 or n_codes.max() > 1 << 16:
        raise MessageError(f"{d} columns with {cells} codes are outside what binning takes", party=holder)
    if not len(names) == len(set(names)) == len(message.ordered) == len(message.missing_code) == d:
        raise MessageError("columns are not described one by one", party=holder)
    if any(not 0 < len(name) <= 200 for name in names) or len(message.map_hash) != 32:
        raise MessageError("a column name or the map hash has the wrong length", party=holder)
    if len(message.counts) != 4 * cells or len(message.holdout_counts) != 4 * cells:
        raise MessageError("bin counts do not match the number of codes", party=holder)
    counts = np.frombuffer(message.counts, dtype="<u4").astype(np.int64)
    missing = np.array(message.missing_code, dtype=np.int64)
    per_column = np.add.reduceat(counts, offsets(n_codes)[:-1])
    if per_column.max() > n_train or (missing < -1).any() or (missing >= n_codes).any():
        raise MessageError("bin counts exceed the training rows, or a missing code is none", party=holder)
    association = None
    if message.association:
        if len(message.association) != 4 * d * d:
            raise MessageError("the association of columns has the wrong size", party=holder)
        association = np.frombuffer(message.association, dtype="<f4").reshape(d, d)
        if not np.isfinite(association).all():
            raise MessageError("the association of columns is not finite", party=holder)
    return BinCounts(
        party=holder,
        names=names,
        n_codes=n_codes,
        bad=np.zeros(cells),
        good=np.zeros(cells),
        counts=counts,
        holdout_counts=np.frombuffer(message.holdout_counts, dtype="<u4").astype(np.int64),
        ordered=np.array(message.ordered, dtype=bool),
        missing_code=missing,
        map_hash=bytes(message.map_hash),
        association=association,
    )


def _open_counts(shape: BinCounts, own: Words, data: bytes, *, exact: bool) -> BinCounts:
    """Add the holder's shares; without weights the counts are integers and the dither rounds away."""
    opened = shares.add(own, shares.shares_from_bytes(data, own.shape))
    values = shares.from_ring(opened) / float(1 << SCALE_BITS)
    shown = shape.counts > 0
    values = np.where(shown, np.rint(values) if exact else np.maximum(values, 0.0), 0.0)
    if exact and (np.rint(values.sum(axis=0)).astype(np.int64) != shape.counts).any():
        raise MessageError("good and bad counts do not add up to the holder's bin sizes", party=shape.party)
    return replace(shape, bad=values[0], good=values[1])
