"""Chains of random trees: what each holder's columns add to a score that the bank has grown on its own.

Source   : docs/protocols/chains.md; `models/chain_growth.py` (trees, bounds), `bit_products.py`, secure histogram.
Parties  : The bank (labels, its own trees, cuts) and each holder (codes), pairwise; no holder meets another.
Messages : Step bin: BinBankRound1 (training mask) -> BinHolderRound1 (names and numbers of cells). Step boost, once:
           ChainHolderHints, BoostPoints both ways (bit products), ChainBankVectors (W). For each exchange of
           `AT_ONCE` trees: ChainBankTrees; BoostChoices -> BoostProducts (the bank's cuts times the holder's share of
           r); ChainBankVectors (r and W by cut, encrypted) -> ChainHolderSums (noised shares of leaf sums);
           BoostChoices -> BoostProducts (the holder's cells times the steps of the bank's rows).
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
from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
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
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES, BitKeys, bit_products, bit_setup
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
_BITS_AT_ONCE = 1 << 22  # of a holder's cells in one call; bounds memory, 24 bytes of message each


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
    vectors.add_hints((yield from receive_parts(holder, pb.ChainHolderHints, vectors.hint_bytes)))
    keys = yield from bit_setup(session, holder)
    weight = shares.encode(rows.weight)
    query, whole = vectors.query(weight[None])
    yield from send_parts(holder, pb.ChainBankVectors, query.pack())
    share = shares.encode(rows.residual)
    if begin is not None:
        share = yield from _bank_steps(keys, begin(holder, chain), n_codes, share)
    for number in range(terms.exchanges):
        drawn = chain.next_trees()
        yield Send(holder, pb.ChainBankTrees(exchange=number, columns=drawn.columns, cuts=drawn.cut_of))
        theirs, _ = yield from bit_products(keys, drawn.bits.reshape(-1), 1, NO_VALUES)
        by_cut = shares.add(vector_share(np.tile(share, (CUTS, 1)), drawn.bits), theirs.reshape(CUTS, -1))
        query, own = vectors.query(np.concatenate([share[None], by_cut, vector_share(weight, drawn.bits)]))
        yield from send_parts(holder, pb.ChainBankVectors, query.pack())
        message = yield from receive(holder, pb.ChainHolderSums)
        own = leaf_shares(np.concatenate([own, whole]), drawn.columns, drawn.cut_of, n_codes)
        opened = shares.shares_from_bytes(message.sums, own.shape)
        sums = shares.open_rounded(own, opened, SCALE_BITS - _KEPT_BITS, SCALE_BITS)
        at = 4 * offsets(n_codes[list(drawn.columns)])
        steps = chain.grow(drawn, [sums[a:b].reshape(2, 2, -1) for a, b in pairwise(at)])
        share = yield from _bank_steps(keys, steps, n_codes, share)
        yield Progress("trees", (number + 1) * AT_ONCE, terms.n_trees)
    return chain


def _bank_steps(keys: BitKeys, steps: Steps, n_codes: Integers, share: Words) -> Protocol[Words]:
    """Take new trees' steps off the bank's share (n,) of r."""
    for group in _groups(steps.columns, n_codes, share.size):
        taken = _step_of(steps, group)
        share = subtract(share, taken[0])
        _, given = yield from bit_products(keys, NO_BITS, 1, taken[1:].reshape(1, -1))
        share = subtract(share, shares.sum_shares(given.reshape(-1, share.size), axis=0))
    return share


def _step_of(steps: Steps, group: list[int]) -> Words:
    """Return, in ring units, what columns add to each row at their last cells, then beyond it for each other cell."""
    parts = [steps.of_column(steps.columns.index(column)) for column in group]
    last = np.sum([one for one, _ in parts], axis=0)
    return shares.to_ring(np.concatenate([last[None], *(others for _, others in parts)]))


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
    yield from send_parts(bank, pb.ChainHolderHints, b"".join(histogram.hint_chunks()))
    keys = yield from bit_setup(session, bank)
    whole = yield from _cells(bank, histogram, 1)
    share, grown = np.zeros(n, np.uint64), list[int]()
    if card:
        share = yield from _holder_steps(keys, card, codes, n_codes, share)
    for number in range(terms.exchanges):
        columns, cut_of = _trees((yield from receive(bank, pb.ChainBankTrees)), number, n_codes.size, bank)
        _, given = yield from bit_products(keys, NO_BITS, 1, np.tile(share, (1, CUTS)))
        cells = yield from _cells(bank, histogram, 2 * CUTS + 1)
        distinct = tuple(dict.fromkeys(columns))
        _add_own(cells, np.concatenate([share[None], given.reshape(CUTS, n)]), codes, n_codes, distinct)
        opened = leaf_shares(np.concatenate([cells, whole]), columns, cut_of, n_codes)
        if number == 0:
            yield terms.charge
        opened = noised(opened, terms.sigma, SCALE_BITS)
        rounded = shares.round_dithered(opened, SCALE_BITS - _KEPT_BITS)
        yield Send(bank, pb.ChainHolderSums(sums=shares.shares_to_bytes(rounded)))
        share = yield from _holder_steps(keys, distinct, codes, n_codes, share)
        grown += columns
        yield Progress("trees", len(grown), terms.n_trees)
    return tuple(grown)


def _holder_steps(
    keys: BitKeys, columns: tuple[int, ...], codes: CodeArray, n_codes: Integers, share: Words
) -> Protocol[Words]:
    """Take new trees' steps off this party's share (n,) of r."""
    for group in _groups(columns, n_codes, share.size):
        bits = np.concatenate([codes[:, j] == cell for j in group for cell in range(int(n_codes[j]) - 1)])
        taken, _ = yield from bit_products(keys, bits, 1, NO_VALUES)
        share = subtract(share, shares.sum_shares(taken.reshape(-1, share.size), axis=0))
    return share


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


def _add_own(cells: Words, values: Words, codes: CodeArray, n_codes: Integers, columns: tuple[int, ...]) -> None:
    """Add the sums of this party's own values (V, n) by cell of some columns to the first V rows of `cells`."""
    chosen, at = list(columns), offsets(n_codes)
    sums = shares.cell_sums(np.ascontiguousarray(codes[:, chosen]), n_codes[chosen], values)
    places = np.concatenate([np.arange(at[j], at[j + 1]) for j in chosen])
    cells[: len(values), places] = shares.add(cells[: len(values), places], sums)


# --- both ------------------------------------------------------------------------------------------------------------


def leaf_shares(cells: Words, columns: Sequence[int], cut_of: Sequence[int], n_codes: Integers) -> Words:
    """Return shares of the leaf sums of trees, one after the other: of r, then of W, by the answer no, then yes.

    cells : (2 CUTS + 2, cells) sums of r; of r by each cut where the answer is yes; of W by cut likewise; of W.
    """
    at, parts = offsets(n_codes), []
    for column, cut in zip(columns, cut_of, strict=True):
        of = slice(int(at[column]), int(at[column + 1]))
        for whole, yes in ((cells[0, of], cells[1 + cut, of]), (cells[-1, of], cells[1 + CUTS + cut, of])):
            parts += [subtract(whole, yes), yes]
    return np.concatenate(parts)


def _groups(columns: Sequence[int], n_codes: Integers, n_rows: int) -> Iterator[list[int]]:
    """Divide columns into groups whose cells times rows fit one call."""
    group, size = list[int](), 0
    for column in columns:
        bits = (int(n_codes[column]) - 1) * n_rows
        if group and size + bits > _BITS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(column)
        size += bits
    yield group
