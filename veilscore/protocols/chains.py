"""Chains of random trees: what each holder's columns add to a score that the bank has grown on its own.

Source   : docs/protocols/chains.md; `models/chain_growth.py` (trees, bounds), `bit_products.py`, secure histogram.
Parties  : The bank (labels, its own trees, cuts) and each holder (codes), pairwise; no holder meets another.
Messages : Step bin: BinBankRound1 (training mask) -> BinHolderRound1 (names and numbers of cells). Step boost, once:
           ChainHolderHints, BoostPoints both ways (bit products), ChainBankVectors (W). For each exchange of
           `AT_ONCE` trees: ChainBankTrees; BoostChoices -> BoostProducts (the bank's cuts times the holder's share of
           r); ChainBankVectors (r and W by cut, encrypted, over the cells of its columns) -> ChainHolderSums (noised
           shares of leaf sums); BoostChoices -> BoostProducts (the holder's cells times the steps of the bank's rows;
           cells are chosen when a column is first grown on).
Reveals  : A holder learns which rows train. The bank learns the numbers of coded columns and cells, which do not depend
           on the job's rows, and the leaf sums of random trees with the holder's noise, charged once for the whole
           chain before the first leaves. A holder learns which of its coded columns each tree uses (drawn at random,
           later more often those that gained), and which trees share a cut of the bank; no cut, sum or weight.
Assumes  : Parties are semi-honest; ring-LWE and computational Diffie-Hellman in ristretto255 are hard; AES is a random
           permutation. That the bank keeps its rows within `Reach` bounds what a firm moves; an audit replays the bank
           to see it.
Aborts   : MessageError on any wrong size, shape or range, and on more trees than are charged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors, cells_of
from veilscore.lattice.params import SCALE_BITS
from veilscore.models.chain_growth import (
    AT_ONCE,
    CUTS,
    TREES,
    Chain,
    ChainColumns,
    ChainRows,
    Steps,
    leaves_sensitivity,
)
from veilscore.models.chained import sources_of
from veilscore.models.counts import BinCounts, BinnedColumns, offsets
from veilscore.protocols.binning import check_shape, shape_message, training_rows
from veilscore.protocols.bit_products import (
    NO_BITS,
    NO_VALUES,
    PIECE,
    BitKeys,
    bit_products,
    bit_setup,
    choose_bits,
    give_products,
    take_choices,
    take_products,
)
from veilscore.protocols.blocks import receive_hints, send_hints
from veilscore.protocols.boosting_nodes import subtract, vector_share
from veilscore.protocols.residual import noised
from veilscore.v1 import chains_pb2 as pb
from veilscore.v1 import scorecard_pb2 as pb_bin
from veilscore.wire.protocol import (
    Charge,
    Progress,
    Protocol,
    Send,
    Session,
    interleave,
    receive,
    receive_parts,
    send_parts,
)
from veilscore.wire.randomness import secret_generator

_KEPT_BITS = 14  # fraction bits of an opened sum; its noise is far larger
_BITS_KEPT = 1 << 23  # of a holder's cells whose rows both parties keep, 16 bytes each


@dataclass(frozen=True)
class ChainTerms:
    """What both parties know of a chain from the job: what its leaf sums cost, and how many trees it has."""

    charge: Charge
    n_trees: int = TREES

    @property
    def sigma(self) -> float:
        """Deviation of the noise of every leaf sum."""
        return self.charge.sigma(leaves_sensitivity(self.n_trees))

    @property
    def exchanges(self) -> int:
        """Number of exchanges, each of as many trees."""
        return self.n_trees // AT_ONCE


# --- step bin --------------------------------------------------------------------------------------------------------


def bank_columns(session: Session, train: Mask) -> Protocol[dict[str, BinCounts]]:
    """Bank: tell holders which of all rows (n_samples,) train; return the shape of their coded columns, without counts.

    Raises MessageError where a column's partitions do not stand side by side under its name.
    """
    n_train = int(train.sum())
    message = pb_bin.BinBankRound1(n_samples=train.size, train_mask=shares.bits_to_bytes(train), n_train=n_train)
    for holder in session.holders:
        yield Send(holder, message)
    found = {}
    for holder in session.holders:
        found[holder] = check_shape(holder, (yield from receive(holder, pb_bin.BinHolderRound1)), n_train)
        if found[holder].counts.any() or (np.diff(sources_of(found[holder].names)) < 0).any():
            raise MessageError("coded columns have counts, or are not in the order of their columns", party=holder)
    return found


def holder_columns(session: Session, columns: BinnedColumns, n_samples: int) -> Protocol[Mask]:
    """Holder: tell the shape of coded columns of all aligned rows; return which of these train."""
    train = training_rows(session, (yield from receive(session.bank, pb_bin.BinBankRound1)), n_samples)
    nothing = np.zeros(int(columns.n_codes.sum()), np.int64)
    yield Send(session.bank, shape_message(columns, nothing, nothing))
    return train


# --- step boost: the bank --------------------------------------------------------------------------------------------


def bank_chains(
    session: Session,
    rows: ChainRows,
    columns: Mapping[str, ChainColumns],
    terms: ChainTerms,
    begin: Callable[[str, Chain], Steps] | None = None,
) -> Protocol[dict[str, Chain]]:
    """Bank: grow the chain of every holder, all at a time; `begin` says with what a holder's chain begins."""
    return interleave({h: _bank_chain(session, h, rows, columns[h], terms, begin) for h in session.holders})


def _bank_chain(
    session: Session,
    holder: str,
    rows: ChainRows,
    columns: ChainColumns,
    terms: ChainTerms,
    begin: Callable[[str, Chain], Steps] | None,
) -> Protocol[Chain]:
    n_codes = columns.n_codes
    chain = Chain(rows, columns, terms.sigma, secret_generator())
    vectors = HistogramVectors(rows.score.size, n_codes, session.label("chain cells", holder, session.bank))
    yield from receive_hints(holder, pb.ChainHolderHints, vectors)
    keys = yield from bit_setup(session, holder)
    weight = shares.encode(rows.weight)
    query, whole = vectors.query(weight[None])
    yield from send_parts(holder, pb.ChainBankVectors, query.pack())
    share, chosen = shares.encode(rows.residual), _Chosen(n_codes, rows.score.size)
    if begin is not None:
        share = yield from _bank_steps(keys, begin(holder, chain), chosen, share)
    for number in range(terms.exchanges):
        drawn = chain.next_trees()
        yield Send(holder, pb.ChainBankTrees(exchange=number, columns=drawn.columns, cuts=drawn.cut_of))
        theirs, _ = yield from bit_products(keys, drawn.bits.reshape(-1), 1, NO_VALUES)
        by_cut = shares.add(vector_share(np.tile(share, (CUTS, 1)), drawn.bits), theirs.reshape(CUTS, -1))
        some = np.array(drawn.distinct)
        query, own = vectors.columns(some).query(
            np.concatenate([share[None], by_cut, vector_share(weight, drawn.bits)])
        )
        yield from send_parts(holder, pb.ChainBankVectors, query.pack())
        message = yield from receive(holder, pb.ChainHolderSums)
        of_trees = np.concatenate([own, whole[:, cells_of(n_codes, some)]])
        own = leaf_shares(of_trees, drawn.columns, drawn.cut_of, n_codes)
        opened = shares.shares_from_bytes(message.sums, own.shape)
        sums = shares.open_rounded(own, opened, SCALE_BITS - _KEPT_BITS, SCALE_BITS)
        at = 4 * offsets(n_codes[list(drawn.columns)])
        steps = chain.grow(drawn, [sums[a:b].reshape(2, 2, -1) for a, b in pairwise(at)])
        share = yield from _bank_steps(keys, steps, chosen, share)
        yield Progress("trees", (number + 1) * AT_ONCE, terms.n_trees)
    return chain


def _bank_steps(keys: BitKeys, steps: Steps, chosen: _Chosen, share: Words) -> Protocol[Words]:
    """Take new trees' steps off the bank's share (n,) of r."""
    for group in chosen.groups(steps.columns):
        rows = chosen.rows(group, (yield from take_choices(keys, chosen.new_bits(group))))
        taken = [steps.in_ring(steps.columns.index(column)) for column in group]
        given = yield from give_products(keys, rows, np.concatenate([part[1:] for part in taken]).reshape(1, -1))
        for part in (*(one[0] for one in taken), *given.reshape(-1, share.size)):
            share = subtract(share, part)
    return share


# --- step boost: a holder --------------------------------------------------------------------------------------------


def holder_chain(
    session: Session, codes: CodeArray, n_codes: Integers, terms: ChainTerms, card: tuple[int, ...] = ()
) -> Protocol[tuple[int, ...]]:
    """Holder: take part in the chain on its columns; return the coded column of each tree.

    codes, n_codes : (n, d) codes of the training rows and (d,) codes of each coded column.
    card : coded columns of a scorecard that the chain begins with.
    """
    bank, n = session.bank, codes.shape[0]
    histogram = HistogramCodes(codes, n_codes, session.label("chain cells", session.party, bank))
    yield from send_hints(bank, pb.ChainHolderHints, histogram)
    keys = yield from bit_setup(session, bank)
    whole = yield from _cells(bank, histogram, 1)
    share, grown, chosen = np.zeros(n, np.uint64), list[int](), _Chosen(n_codes, n)
    if card:
        share = yield from _holder_steps(keys, card, codes, chosen, share)
    for number in range(terms.exchanges):
        columns, cut_of = _trees((yield from receive(bank, pb.ChainBankTrees)), number, n_codes.size, bank)
        _, given = yield from bit_products(keys, NO_BITS, 1, np.tile(share, (1, CUTS)))
        distinct = tuple(dict.fromkeys(columns))
        some = np.array(distinct)
        cells = yield from _cells(bank, histogram.columns(some), 2 * CUTS + 1)
        own = np.concatenate([share[None], given.reshape(CUTS, n)])
        sums = shares.cell_sums(np.ascontiguousarray(codes[:, some]), n_codes[some], own)
        cells[: len(own)] = shares.add(cells[: len(own)], sums)
        of_trees = np.concatenate([cells, whole[:, cells_of(n_codes, some)]])
        opened = leaf_shares(of_trees, columns, cut_of, n_codes)
        if number == 0:
            yield terms.charge
        opened = noised(opened, terms.sigma, SCALE_BITS)
        rounded = shares.round_dithered(opened, SCALE_BITS - _KEPT_BITS)
        yield Send(bank, pb.ChainHolderSums(sums=shares.shares_to_bytes(rounded)))
        share = yield from _holder_steps(keys, distinct, codes, chosen, share)
        grown += columns
        yield Progress("trees", len(grown), terms.n_trees)
    return tuple(grown)


def _holder_steps(
    keys: BitKeys, columns: tuple[int, ...], codes: CodeArray, chosen: _Chosen, share: Words
) -> Protocol[Words]:
    """Take new trees' steps off this party's share (n,) of r."""
    groups = list(chosen.groups(columns))
    rows = yield from _choose(keys, groups[0], codes, chosen)
    for group, following in zip(groups, [*groups[1:], []], strict=True):
        # the next choices are on their way while the products of these are made
        ahead = yield from _choose(keys, following, codes, chosen)
        bits = np.concatenate([_bits(codes, column, chosen.n_codes) for column in group])
        taken = yield from take_products(keys, bits, rows, 1)
        for part in taken.reshape(-1, share.size):
            share = subtract(share, part)
        rows = ahead
    return share


def _choose(keys: BitKeys, group: list[int], codes: CodeArray, chosen: _Chosen) -> Protocol[Words]:
    """Return the rows of a group's columns, after choosing the bits of those that are new."""
    new = [_bits(codes, column, chosen.n_codes) for column in chosen.new(group)]
    return chosen.rows(group, (yield from choose_bits(keys, np.concatenate([NO_BITS, *new]))))


def _bits(codes: CodeArray, column: int, n_codes: Integers) -> Mask:
    """Return which rows are in each cell of a column but the last, one cell after the other."""
    found: Mask = (codes[:, column] == np.arange(n_codes[column] - 1)[:, None]).reshape(-1)
    return found


def _trees(message: pb.ChainBankTrees, number: int, d: int, bank: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check what the bank names: as many trees as are charged, of columns and cuts that there are."""
    columns, cut_of = tuple(message.columns), tuple(message.cuts)
    if message.exchange != number or len(columns) != AT_ONCE or len(cut_of) != AT_ONCE:
        raise MessageError("the bank grows other trees than are due and charged", party=bank)
    if max(columns) >= d or max(cut_of) >= CUTS:
        raise MessageError("the bank names a column or cut that is not there", party=bank)
    return columns, cut_of


def _cells(bank: str, histogram: HistogramCodes, n_vectors: int) -> Protocol[Words]:
    """Return this party's shares (n_vectors, cells) of the sums of the bank's vectors."""
    data = yield from receive_parts(bank, pb.ChainBankVectors, n_vectors * histogram.query_bytes)
    cells = histogram.evaluate(histogram.unpack(data))
    if cells.shape[0] != n_vectors:
        raise MessageError(f"{n_vectors} vectors were due, {cells.shape[0]} came", party=bank)
    return cells


# --- both ------------------------------------------------------------------------------------------------------------


class _Chosen:
    """Rows of the oblivious transfers of a holder's cells, at either party: one bit a row and cell but the last.

    A coded column is in several trees, and its bits are chosen when it is first grown on; both parties keep the same
    columns, as many as memory allows, and choose the others anew. A row serves any number of products, each hashed
    under another key (`crypto/bit_product.py`).
    """

    def __init__(self, n_codes: Integers, n_rows: int) -> None:
        self.n_codes, self._bits = n_codes, (n_codes - 1) * n_rows
        self._lasting = np.cumsum(self._bits) <= _BITS_KEPT
        self._rows: dict[int, Words] = {}

    def groups(self, columns: Sequence[int]) -> Iterator[list[int]]:
        """Divide columns into groups whose bits fit one message; larger ones stand alone."""
        group, size = list[int](), 0
        for column in columns:
            bits = int(self._bits[column])
            if group and size + bits > PIECE:
                yield group
                group, size = [], 0
            group.append(column)
            size += bits
        yield group

    def new(self, group: list[int]) -> list[int]:
        """Return the columns of a group whose bits are to be chosen."""
        return [column for column in group if column not in self._rows]

    def new_bits(self, group: list[int]) -> int:
        """Return how many bits that is."""
        return int(self._bits[self.new(group)].sum())

    def rows(self, group: list[int], rows: Words) -> Words:
        """Return the rows of a group's columns, side by side; `rows` are those of the new ones."""
        new = self.new(group)
        found = dict(zip(new, np.split(rows, np.cumsum(self._bits[new])[:-1]), strict=False))
        # a copy, since a part would hold on to the whole
        self._rows |= {column: part.copy() for column, part in found.items() if self._lasting[column]}
        parts = [found[column] if column in found else self._rows[column] for column in group]
        return np.concatenate([rows[:0], *parts]) if len(parts) != 1 else parts[0]


def leaf_shares(cells: Words, columns: Sequence[int], cut_of: Sequence[int], n_codes: Integers) -> Words:
    """Return shares of the leaf sums of trees, one after the other: of r, then of W, by the answer no, then yes.

    cells : (2 CUTS + 2, cells of each column once) sums of r; of r by each cut where the answer is yes; of W by cut
        likewise; of W.
    """
    distinct = list(dict.fromkeys(columns))
    at, parts = offsets(n_codes[distinct]), []
    for column, cut in zip(columns, cut_of, strict=True):
        place = distinct.index(column)
        of = slice(int(at[place]), int(at[place + 1]))
        for whole, yes in ((cells[0, of], cells[1 + cut, of]), (cells[-1, of], cells[1 + CUTS + cut, of])):
            parts += [subtract(whole, yes), yes]
    return np.concatenate(parts)
