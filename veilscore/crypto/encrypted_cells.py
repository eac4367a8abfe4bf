"""Encrypts numbers of a holder under its own key, and puts the bank's points on them, masked.

Source: BFV in slots (`veilscore.crypto.he`). A record is its cells, one after the other: 1 at each column's code, 0
    elsewhere (one-hot), or the indicators of boosted trees; cells of several records follow one another.
Parties: the holder encrypts and opens, the bank evaluates.
Reveals: to the bank nothing; to the holder the sum of each record's points plus a mask that is uniform modulo T.
Aborts: MessageError on a wrong number of ciphertexts or one of other parameters, SchemaError on codes outside the map,
    ParameterError on totals that could wrap.

Sums are uint64 (n_records,) modulo T = `he.T`, whole points; a total is lifted to (-T/2, T/2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Words
from veilscore.crypto.he import (
    N_SLOTS,
    Blind,
    PublicContext,
    SecretContext,
    T,
    Weights,
    encode_weights,
)
from veilscore.errors import MessageError, ParameterError, SchemaError
from veilscore.wire.randomness import derived, seeded

_USED_SLOTS = N_SLOTS - 1  # one stays free for a random weight (`he.encode_weights`)


def records_of_one(n_cells: int, most: int) -> int:
    """Return how many records fit one ciphertext, at most so many; 1 where one takes several."""
    return min(max(1, _USED_SLOTS // n_cells), most)


def n_ciphertexts(n_records: int, n_cells: int) -> int:
    """Return the number of ciphertexts that hold the cells of all records, one record after the other."""
    if n_records < 1 or n_cells < 1:
        raise ParameterError(f"{n_records} records of {n_cells} cells: there is nothing to score")
    return -(-n_records * n_cells // _USED_SLOTS)


def one_hot(codes: NDArray[np.integer], n_codes: NDArray[np.integer]) -> Words:
    """Holder: return the cells (n_records, n_cells) of some records, 1 at each column's code.

    codes : integers (n_records, n_columns).
    n_codes : (n_columns,), codes of each column.

    Raises SchemaError where a code is outside its column's map.
    """
    if codes.ndim != 2 or codes.shape[1] != len(n_codes):
        raise SchemaError(f"records have {codes.shape[-1]} columns, the model has {len(n_codes)}")
    if (codes < 0).any() or (codes >= n_codes).any():
        raise SchemaError("a record has a code outside its column's map: use the map the model was trained with")
    offsets = np.concatenate([[0], np.cumsum(n_codes)[:-1]]).astype(np.int64)
    cells = np.zeros((len(codes), int(np.sum(n_codes))), np.uint64)
    cells[np.arange(len(codes))[:, None], offsets + codes.astype(np.int64)] = 1
    return cells


def encrypt_cells(context: SecretContext, cells: Words) -> tuple[bytes, ...]:
    """Holder: encrypt cells (n_records, n_cells) below T: one-hot codes, indicators of trees, or random numbers."""
    used = np.zeros(n_ciphertexts(*cells.shape) * _USED_SLOTS, np.uint64)
    used[: cells.size] = cells.ravel()
    slots = np.zeros((len(used) // _USED_SLOTS, N_SLOTS), np.uint64)
    slots[:, :_USED_SLOTS] = used.reshape(-1, _USED_SLOTS)
    return tuple(context.encrypt(row) for row in slots)


@dataclass(frozen=True)
class EncodedPoints:
    """Points of one holder's cells, for queries of `n_records`; make it once for a model and keep it."""

    n_records: int
    n_cells: int
    weights: tuple[Weights, ...] = field(repr=False)


def encode_points(points: NDArray[np.integer], n_records: int = 1) -> EncodedPoints:
    """Bank: encode the points of a holder's cells.

    points : whole points (n_cells,), alike for every record, or (n_records, n_cells); either sign, below T/2 in size.
    """
    n_cells = points.shape[-1]
    fits = points.shape in {(n_cells,), (n_records, n_cells)}
    if not fits or np.abs(points.astype(np.int64)).max(initial=0) > T // 2:
        raise ParameterError(f"points are one whole number a cell, at most {T // 2} in size")
    count = n_ciphertexts(n_records, n_cells)
    tiled = np.broadcast_to(points.astype(np.int64) % T, (n_records, n_cells)).astype(np.uint64).ravel()
    cuts = [tiled[i * _USED_SLOTS : (i + 1) * _USED_SLOTS] for i in range(count)]
    return EncodedPoints(n_records, n_cells, tuple(encode_weights(cut) for cut in cuts))


def check_points_fit(tables: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]], base_points: int = 0) -> None:
    """Refuse a model whose total could wrap modulo T.

    tables : (points of each cell, codes of each column) of every party.
    base_points : constant part of the total.

    Raises ParameterError where the largest possible total is not below T/2.
    """
    largest = abs(base_points)
    for points, n_codes in tables:
        starts = np.concatenate([[0], np.cumsum(n_codes)[:-1]]).astype(np.int64)
        largest += int(np.maximum.reduceat(np.abs(points.astype(np.int64)), starts).sum())
    if largest >= T // 2:
        raise ParameterError(f"a total could reach {largest} points, at most {T // 2 - 1} fit: scale points down")


@dataclass(frozen=True)
class Evaluated:
    """The bank's reply to a holder, and the mask that it has to take off the total later.

    reply : masked ciphertexts for the holder; none where a spare was used.
    mask_total : uint64 (n_records,) modulo T, the bank's secret.
    factors : with a spare for trees, the bank's factors less their random numbers.
    """

    reply: tuple[bytes, ...] = field(repr=False)
    mask_total: Words = field(repr=False)
    factors: bytes = field(default=b"", repr=False)


def make_blinds(context: PublicContext, seed: bytes, n: int) -> tuple[Blind, ...]:
    """Bank: draw the masks of one reply of n ciphertexts, all from the seed that it is committed to (ADR 12)."""
    return seeded(derived(seed, "blinds"), lambda: tuple(context.blind() for _ in range(n)))


def evaluate(
    context: PublicContext, query: Sequence[bytes], points: EncodedPoints, blinds: Sequence[Blind] = ()
) -> Evaluated:
    """Bank: put the points on a holder's encrypted cells, masked.

    context : the holder's public keys.
    query : its `encrypt_cells`.
    points : of that holder's cells.
    blinds : prepared by `context.blind()`, one a ciphertext; made here if none are given.

    Raises MessageError on a wrong number of ciphertexts, or one that is not of these parameters.
    """
    if len(query) != len(points.weights):
        raise MessageError(f"got {len(query)} ciphertexts for the records, expected {len(points.weights)}")
    blinds = blinds or [context.blind() for _ in query]
    if len(blinds) != len(query):
        raise ParameterError(f"{len(query)} ciphertexts need as many masks, got {len(blinds)}")
    done = [
        context.evaluate(data, weights, blind)
        for data, weights, blind in zip(query, points.weights, blinds, strict=True)
    ]
    masks = np.stack([mask for _, mask in done])
    return Evaluated(tuple(data for data, _ in done), _record_sums(masks, points.n_records, points.n_cells))


def open_partial(context: SecretContext, reply: Sequence[bytes], n_records: int, n_cells: int, share: Words) -> Words:
    """Holder: open the bank's masked reply, add up each record's slots and the zero-share.

    share : what is added besides, (n_records,): a share of zero (`zero_share.zero_share`), or zero.

    Returns the holder's partial, uint64 (n_records,) modulo T.
    """
    if len(reply) != n_ciphertexts(n_records, n_cells):
        raise MessageError(f"got {len(reply)} ciphertexts, expected {n_ciphertexts(n_records, n_cells)}")
    if share.shape != (n_records,):
        raise ParameterError(f"a share of {n_records} records is needed, got {share.shape}")
    opened = np.stack([context.decrypt(data) for data in reply])
    return (_record_sums(opened, n_records, n_cells) + share) % np.uint64(T)


def _record_sums(slots: Words, n_records: int, n_cells: int) -> Words:
    """Return the sum modulo T of the cells of each record; slots are (n_ciphertexts, N_SLOTS)."""
    cells = slots[:, :_USED_SLOTS].reshape(-1)[: n_records * n_cells]
    sums: Words = cells.reshape(n_records, n_cells).sum(axis=1) % np.uint64(T)
    return sums
