"""The residual scorecard's sums: what holders' columns add to a score that the bank has fitted on its own.

Source   : docs/protocols/disclosure.md; `binning.py` (sums over cells), `stacking.py` (moments of shares).
Parties  : the bank (r and W of its own score, tables x) and each holder (codes), pairwise; no holder meets another.
Messages : step bin: ResidualHolderColumns -> BinBankRound1 (training mask, bins a column) -> BinHolderRound1 (shape),
           BinHolderHints -> BinBankRound2 (r and 3.3 W encrypted) -> BinHolderRound2 (noised shares of sums by cell).
           Step train: ResidualBankTables (x encrypted) -> ResidualHolderHints -> ResidualBankLookup (x by column),
           ResidualBankBlock -> ResidualHolderSums (of products), ResidualHolderOpened (noised gradient and X'WX).
Reveals  : to the bank, the numbers of columns and codes, and three groups of sums with the holder's noise, each charged
           before it leaves; to a holder, which rows train, and which columns' X'WX is opened.
Assumes  : semi-honest parties; ring-LWE. That r and W come from one p in (0, 1), and that tables are scaled, bounds
           what a firm moves; an audit replays the bank to see it.
Aborts   : MessageError on any wrong size, shape or range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count

import numpy as np

from veilscore.arrays import CodeArray, Integers, Limbs, Mask, Vector, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.lattice.histogram import HistogramCodes, HistogramQuery, HistogramVectors
from veilscore.lattice.inner_product import InnerEvaluator, InnerKey, N, reply_bytes
from veilscore.lattice.inner_product import T as MOMENTS_T
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import INNER, INNER_T_PRIMES, LOOKUP_INNER, SCALE_BITS, T
from veilscore.lattice.product import ProductEvaluator, ProductKey, chunks_of
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import dither
from veilscore.models.counts import BinCounts, BinnedColumns, offsets
from veilscore.models.logistic_problem import column_sums
from veilscore.models.residual import (
    MOST_MOMENTS,
    TABLE_BITS,
    WEIGHT_FACTOR,
    CellSums,
    HolderSums,
    Tables,
    cells_sensitivity,
    gradient_bits,
    gradient_sensitivity,
    moment_bits,
    moments_sensitivity,
    weight_bits,
)
from veilscore.protocols.binning import MAX_COLUMNS, check_shape, shape_message, training_rows
from veilscore.protocols.blocks import check_part, receive_hints, send_hints
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.protocol import (
    Charge,
    Progress,
    Protocol,
    Send,
    Session,
    interleave,
    pack_fields,
    receive,
    receive_parts,
    send_parts,
    unpack_fields,
)

MOST_BIN = 64
_FINE_BITS = 30  # of W before it is spread
_KEPT_BITS = 14  # fraction bits of an opened gradient or moment; the noise is far larger


def spread(weight: Vector, bits: int) -> Integers:
    """Round W (n,) down to so many fraction bits, what one row loses being given to the next; sums stay as they are.

    No row gets more than the next whole unit above its own W, so that 1/4 stays the most.
    """
    fine = np.rint(np.ldexp(weight, _FINE_BITS)).astype(np.int64)
    units: Integers = np.diff(np.cumsum(fine) >> (_FINE_BITS - bits), prepend=0)
    return units


# --- step bin: sums by cell ------------------------------------------------------------------------------------------


def bank_cells(
    session: Session,
    train: Mask,
    own: Callable[[], tuple[Vector, Vector]],
    *,
    max_bin: Callable[[int], int],
    sigma: Callable[[int], float],
    agreed: Callable[[Mapping[str, int]], None] = lambda _columns: None,
) -> Protocol[dict[str, tuple[BinCounts, CellSums, Words]]]:
    """Bank: noised sums of its residual and weight over every holder's cells, and its own shares of the first.

    train : (n_samples,) which rows train.
    own : makes (n_train,) r in [-1, 1] and W in [0, 1/4] of the training rows, from one p and weight of a row, while
        holders make their hints. Or (segments, n_train), a row's in the bank's segment that it is in and 0 elsewhere:
        what a firm moves is then in one segment, hence no more than without segments; sums are (segments, cells).
    max_bin : bins a column for a number of columns.
    sigma : deviation of the noise for a number of columns; of W it is smaller by `WEIGHT_FACTOR`.
    agreed : raises where the job should end, knowing the number of columns of each holder, before any sum leaves.
    """
    n_train, columns = int(train.sum()), {}
    for holder in session.holders:
        columns[holder] = (yield from receive(holder, pb.ResidualHolderColumns)).columns
        if not 0 < columns[holder] <= MAX_COLUMNS:
            raise MessageError(f"{columns[holder]} columns are outside what binning takes", party=holder)
    agreed(columns)
    for holder in session.holders:
        yield Send(
            holder,
            pb.BinBankRound1(
                n_samples=train.size,
                train_mask=shares.bits_to_bytes(train),
                n_train=n_train,
                max_bin=max_bin(columns[holder]),
            ),
        )
    residual, weight = own()
    n_segments = np.atleast_2d(residual).shape[0]
    vectors = shares.encode(np.concatenate([np.atleast_2d(residual), WEIGHT_FACTOR * np.atleast_2d(weight)]))
    shapes, kept = {}, {}
    for holder in session.holders:
        shape = check_shape(holder, (yield from receive(holder, pb.BinHolderRound1)), n_train)
        query = HistogramVectors(n_train, shape.n_codes, session.label("bin", holder, session.bank))
        yield from receive_hints(holder, pb.BinHolderHints, query)
        request, kept[holder] = query.query(vectors)
        yield from send_parts(holder, pb.BinBankRound2, pack_fields(request.b, request.beta, request.alpha))
        shapes[holder] = shape
    result = {}
    for done, holder in enumerate(session.holders, start=1):
        reply = yield from receive(holder, pb.BinHolderRound2)
        opened = shares.add(kept[holder], shares.shares_from_bytes(reply.shares, kept[holder].shape))
        values = shares.from_ring(opened) / float(1 << SCALE_BITS)
        n_codes = shapes[holder].n_codes
        found = (values[:n_segments], values[n_segments:]) if residual.ndim == 2 else (values[0], values[1])
        sums = CellSums(n_codes, found[0], found[1] / WEIGHT_FACTOR, sigma(n_codes.size))
        result[holder] = shapes[holder], sums, kept[holder][0]
        yield Progress("sums by cell", done, len(session.holders))
    return result


def holder_cells(
    session: Session,
    code: Callable[[int], BinnedColumns],
    n_samples: int,
    charge: Charge,
    *,
    n_columns: int,
    check: Callable[[Mask], None],
    n_segments: int = 1,
) -> Protocol[tuple[BinnedColumns, Mask, Words]]:
    """Holder: noised sums over its cells; returns its codes, the training mask, and its shares of the sums of r.

    code : codes of all aligned rows for a number of bins a column, from bins fixed beforehand.
    n_samples : aligned rows.
    charge : what the opening costs.
    n_columns : columns with more than one bin.
    check : refuses training rows that are not as agreed.
    n_segments : segments of the bank's rows that sums are told apart by.
    """
    bank = session.bank
    yield Send(bank, pb.ResidualHolderColumns(columns=n_columns))
    request = yield from receive(bank, pb.BinBankRound1)
    train = training_rows(session, request, n_samples)
    check(train)
    if not 2 <= request.max_bin <= MOST_BIN:
        raise MessageError("the bank asks for bins outside what was agreed", party=bank)
    columns = code(int(request.max_bin))
    cells = int(columns.n_codes.sum())
    nothing = np.zeros(cells, np.int64)
    yield Send(bank, shape_message(columns, nothing, nothing))
    histogram = HistogramCodes(columns.codes[train], columns.n_codes, session.label("bin", session.party, bank))
    yield from send_hints(bank, pb.BinHolderHints, histogram)
    data = yield from receive_parts(bank, pb.BinBankRound2, histogram.fields_bytes(2 * n_segments))
    share = histogram.evaluate(HistogramQuery(*unpack_fields(data, 3)))
    if share.shape != (2 * n_segments, cells):
        raise MessageError("the bank asked for other vectors than r and W", party=bank)
    sigma = charge.sigma(cells_sensitivity(columns.n_codes.size))
    yield charge
    opened = noised(share, sigma, SCALE_BITS)
    yield Send(bank, pb.BinHolderRound2(shares=shares.shares_to_bytes(shares.add(opened, dither(opened.shape)))))
    return columns, train, share[0]


def noised(share: Words, sigma: float, scale_bits: int, modulus: int = T) -> Words:
    """Add discrete Gaussian noise of deviation `sigma` to a share of values with so many fraction bits."""
    drawn = discrete_gaussian(float(np.ldexp(sigma, scale_bits)), share.size).reshape(share.shape)
    return shares.add(share, shares.to_ring(drawn, modulus), modulus)


# --- step train: the gradient and X'WX -------------------------------------------------------------------------------


def bank_fit(
    session: Session,
    made: Mapping[str, Tables],
    own: Mapping[str, Words],
    weight: Vector,
    charges: Mapping[str, Charge],
) -> Protocol[dict[str, HolderSums]]:
    """Bank: the noised gradient and X'WX of each holder's tables, in the tables' own scale.

    made : holder -> its tables, quantised.
    own : holder -> the bank's shares (cells,) of the sums of r, from `bank_cells`.
    weight : (n_train,) W of the training rows.
    charges : of "gradient" and "moments", for the deviations of their noise.
    """
    done = count(1)
    return interleave({h: _bank_fit(session, h, made[h], own[h], weight, charges, done) for h in session.holders})


def _bank_fit(
    session: Session,
    holder: str,
    made: Tables,
    own: Words,
    weight: Vector,
    charges: Mapping[str, Charge],
    done: Iterator[int],
) -> Protocol[HolderSums]:
    side = _BankFit(session, holder, made, weight)
    yield from side.start(gradient_bits(weight.size))
    products = yield from side.products()
    found = yield from side.open(own, products, charges)
    yield Progress("gradient and moments", next(done), len(session.holders))
    return found


class _BankFit:
    """The bank's side with one holder."""

    def __init__(self, session: Session, holder: str, made: Tables, weight: Vector) -> None:
        self.session, self.holder, self.made, self.n = session, holder, made, weight.size
        self.weight = spread(weight, weight_bits(weight.size)).astype(np.uint64)
        x, self.norm = made.for_moments()
        at = offsets(made.n_codes)[:-1]
        self.chosen = np.flatnonzero(np.maximum.reduceat(np.abs(x), at) > 0)
        self.units = np.rint(np.ldexp(x, TABLE_BITS)).astype(np.int64)
        self.key = ProductKey(session.label("residual product", session.bank, holder))
        self.inner = InnerKey(session.label("residual moments", session.bank, holder))

    def start(self, bits: int) -> Protocol[None]:
        """Send the tables of the gradient under encryption."""
        x, self.gradient_norm = self.made.for_gradient(bits)
        self.bits, self.x = bits, np.rint(np.ldexp(x, bits)).astype(np.int64)
        yield Send(
            self.holder,
            pb.ResidualBankTables(
                product_public=self.key.public(),
                inner_public=self.inner.public() if self.chosen.size else b"",
                x_enc=list(self.key.encrypt(shares.to_ring(self.x)[None, :])),
                moments=self.chosen.tolist(),
            ),
        )

    def products(self) -> Protocol[Words]:
        """Share of every sum of X'WX, upper triangle row by row."""
        if not self.chosen.size:
            return np.zeros(0, np.uint64)
        at, a = offsets(self.made.n_codes), np.empty((self.chosen.size, self.n), np.uint64)
        for k, column in enumerate(self.chosen.tolist()):
            label = _lookup_label(self.session, self.holder, column)
            lookup = LookupTable(self.n, self.made.n_codes[[column]], label, params=LOOKUP_INNER)
            yield from receive_hints(self.holder, pb.ResidualHolderHints, lookup)
            query, a[k] = lookup.query(self.units[at[column] : at[column + 1]])
            yield from send_parts(self.holder, pb.ResidualBankLookup, query.pack())
        pairs, n_blocks = _pairs(self.chosen.size), _n_blocks(self.n)
        own = np.zeros((len(pairs), 2), np.uint64)
        for part in range(n_blocks):
            rows = slice(part * N, (part + 1) * N)
            w, block = _block(self.weight[None], rows), _block(a, rows)
            u = np.concatenate([w, block * w % np.uint64(MOMENTS_T)])  # W has at most 10 bits, so that nothing wraps
            yield Send(
                self.holder, pb.ResidualBankBlock(part=part, parts=n_blocks, ciphertexts=[self.inner.encrypt(u)])
            )
            own += _slot_sums(_residues(u[1:]), _residues(block), pairs)
        reply = yield from receive_parts(self.holder, pb.ResidualHolderSums, reply_bytes(len(pairs)))
        return shares.add(self.inner.share(reply, len(pairs)), _joined(own), MOMENTS_T)

    def open(self, cells: Words, products: Words, charges: Mapping[str, Charge]) -> Protocol[HolderSums]:
        """Add the holder's noised shares to one's own."""
        message = yield from receive(self.holder, pb.ResidualHolderOpened)
        if len(cells) != len(self.x):
            raise ParameterError(f"the kept sums of {self.holder} are of other cells than its tables")
        share = shares.add(shares.scale(cells, self.x), self.key.decrypt(chunks_of(message.reply), cells.size))
        at, sums = offsets(self.made.n_codes), column_sums(share, self.made.n_codes)
        gradient = _open(sums, message.gradient, SCALE_BITS + self.bits)
        opened = _open(products, message.moments, moment_bits(self.n), MOMENTS_T) * self.norm**2
        moments = np.diag(np.add.reduceat(self.made.weight * self.made.x**2, at[:-1]))
        for (j, k), value in zip(_pairs(self.chosen.size), opened.tolist(), strict=True):
            moments[self.chosen[j], self.chosen[k]] = moments[self.chosen[k], self.chosen[j]] = value
        sigmas = (
            charges["gradient"].sigma(gradient_sensitivity()) * self.gradient_norm,
            charges["moments"].sigma(moments_sensitivity()) * self.norm**2,
        )
        return HolderSums(gradient * self.gradient_norm, moments, *sigmas)


def holder_fit(
    session: Session,
    codes: CodeArray,
    n_codes: Integers,
    cells: Words,
    charges: Mapping[str, Charge],
) -> Protocol[None]:
    """Holder: open the gradient and X'WX of the bank's tables, with noise.

    codes, n_codes : (n_train, d) codes of the training rows and (d,) number of codes.
    cells : its shares (cells,) of the sums of r, from `holder_cells`.
    charges : of "gradient" and "moments".
    """
    bank, n = session.bank, codes.shape[0]
    start = yield from receive(bank, pb.ResidualBankTables)
    chosen = list(start.moments)
    if len(chosen) > MOST_MOMENTS or sorted(set(chosen)) != chosen or (chosen and chosen[-1] >= n_codes.size):
        raise MessageError("the bank names columns that are not there", party=bank)
    evaluator = ProductEvaluator(bytes(start.product_public), session.label("residual product", bank, session.party))
    products, bits_of_moments = np.zeros(0, np.uint64), moment_bits(n)
    if chosen:
        lookups = []
        for column in chosen:  # one each, since a query costs an element a cell and a column's table is its own
            label = _lookup_label(session, session.party, column)
            own = np.ascontiguousarray(codes[:, [column]])
            lookups.append(LookupCodes(own, n_codes[[column]], label, params=LOOKUP_INNER))
            yield from send_hints(bank, pb.ResidualHolderHints, lookups[-1])
        b = np.empty((len(chosen), n), np.uint64)
        for k, lookup in enumerate(lookups):
            data = yield from receive_parts(bank, pb.ResidualBankLookup, lookup.query_bytes)
            b[k] = lookup.evaluate_bytes(data)
        label = session.label("residual moments", bank, session.party)
        products = yield from _holder_products(bank, bytes(start.inner_public), label, b)
    reply, share = evaluator.multiply_sum(list(start.x_enc), cells[None, :])
    sums, bits = column_sums(share, n_codes), SCALE_BITS + gradient_bits(n)
    yield charges["gradient"]
    gradient = noised(sums, charges["gradient"].sigma(gradient_sensitivity()), bits)
    if chosen:
        yield charges["moments"]
        products = noised(products, charges["moments"].sigma(moments_sensitivity()), bits_of_moments, MOMENTS_T)
    yield Send(
        bank,
        pb.ResidualHolderOpened(
            reply=b"".join(reply),
            gradient=_rounded(gradient, bits),
            moments=_rounded(products, bits_of_moments, MOMENTS_T),
        ),
    )


def _lookup_label(session: Session, holder: str, column: int) -> bytes:
    return session.label(f"residual lookup {column}", holder, session.bank)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(j, k) for j in range(n) for k in range(j, n)]


def _n_blocks(n: int) -> int:
    return -(-n // N)


def _block(values: Words, rows: slice) -> Words:
    """Return one block of rows (V, N) of vectors (V, n), with zeros after the last row."""
    part = values[:, rows]
    return np.pad(part, ((0, 0), (0, N - part.shape[1])))


def _residues(values: Words) -> Limbs:
    """Return residues (V, 2, n) modulo the two primes of T."""
    return np.stack([values % np.uint64(p) for p in INNER_T_PRIMES], axis=1).astype(np.uint32)


def _slot_sums(left: Limbs, right: Limbs, pairs: list[tuple[int, int]]) -> Words:
    """Return the sums over a block of products of residues, (pairs, 2) modulo the primes of T."""
    sums = [(left[j].astype(np.uint64) * right[k]).sum(axis=-1) for j, k in pairs]
    return np.stack(sums) % np.array(INNER_T_PRIMES, np.uint64)


def _joined(residues: Words) -> Words:
    """Return numbers (n,) modulo T from sums of residues (n, 2)."""
    reduced = (residues % np.array(INNER_T_PRIMES, np.uint64)).astype(np.uint32)
    return exact_scale(INNER).join(np.ascontiguousarray(reduced.T))


def _holder_products(bank: str, public: bytes, label: bytes, b: Words) -> Protocol[Words]:
    """Holder: its shares of the sums over rows of W x_j x_k, but for what the bank knows alone.

    With shares a + b of x, W x_j x_k = W a_j a_k + (W a_j) b_k + (W a_k) b_j + W b_j b_k; the first is the bank's own.
    """
    d, n = b.shape
    pairs, n_blocks = _pairs(d), _n_blocks(n)
    terms = np.array([[(0, d + i), (1 + j, k), (1 + k, j)] for i, (j, k) in enumerate(pairs)], np.int64)
    evaluator = InnerEvaluator(public, label, terms)
    primes = np.array(INNER_T_PRIMES, np.uint64)[:, None]
    for part in range(n_blocks):
        message = yield from receive(bank, pb.ResidualBankBlock)
        check_part(message, part, n_blocks, bank)
        if len(message.ciphertexts) != 1:
            raise MessageError("a block of rows is one chunk of ciphertexts", party=bank)
        rows = _residues(_block(b, slice(part * N, (part + 1) * N)))
        squares = [rows[j].astype(np.uint64) * rows[k] % primes for j, k in pairs]
        evaluator.add(message.ciphertexts[0], 1 + d, np.concatenate([rows, np.stack(squares).astype(np.uint32)]))
    reply, share = evaluator.reply()
    yield from send_parts(bank, pb.ResidualHolderSums, reply)
    return share


def _rounded(share: Words, scale_bits: int, modulus: int = T) -> bytes:
    return shares.shares_to_bytes(shares.round_dithered(share, scale_bits - _KEPT_BITS, modulus))


def _open(own: Words, data: bytes, scale_bits: int, modulus: int = T) -> Vector:
    opened = shares.shares_from_bytes(data, own.shape)
    return shares.open_rounded(own, opened, scale_bits - _KEPT_BITS, scale_bits, modulus)
