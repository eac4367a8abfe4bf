"""Scoring one or a few records online: the bank learns totals, a holder nothing, the coordinator nothing.

Source: BFV in slots (`veilscore.crypto.he`); zero-shares between holders (`veilscore.crypto.zero_share`).
Parties: bank B (points of every cell), holders H1..Hm (each the records' codes of its own columns),
coordinator C.
Messages: 1. H -> B: `encrypt_records`, one-hot codes under H's key. 2. B -> H: `evaluate`, points of those
cells plus a mask uniform on all slots. 3. H -> C: `open_partial`, the sum of the slots plus a zero-share
with the other holders. 4. C -> B: `add_partials`. B: `total_points` takes its masks off and adds its own
part.
Reveals: to B each record's total; with one holder the total is that holder's part plus what B knows, so B
learns the part. To H and C nothing: what they see is uniform modulo T without B's masks.
Assumes: ring-LWE; what `veilscore.crypto.zero_share` assumes; semi-honest parties; B and C together learn no
single holder's part while two honest holders remain. A request id is opened once by each holder: opening
two replies with one zero-share would show their difference to B and C together, so a node answers a retry
from what it kept.
Aborts: `MessageError` (wrong size, range, modulus), `SchemaError` (codes outside the map), `ParameterError`
(totals that could wrap).

All partials and totals are uint64 arrays of shape (n_records,) modulo T = `he.T`, whole points; a total is
lifted to (-T/2, T/2), which `check_points_fit` guarantees to hold. A firm that a holder does not have is a
`RecordStatus`, never a record of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Words
from veilscore.crypto.he import (
    N_SLOTS,
    Blind,
    PublicContext,
    SecretContext,
    T,
    Weights,
    encode_weights,
    uniform_slots,
)
from veilscore.errors import MessageError, ParameterError, SchemaError
from veilscore.wire.randomness import derived, seeded

_USED_SLOTS = N_SLOTS - 1  # one stays free for a random weight (`he.encode_weights`)


class RecordStatus(StrEnum):
    """A holder's answer to a request for one firm's record."""

    READY = "ready"
    UNKNOWN = "unknown"  # the holder has no record of this firm
    REFUSED = "refused"  # its policy does not allow it

    @classmethod
    def parse(cls, text: str, holder: str) -> RecordStatus:
        """Read a peer's status."""
        try:
            return cls(text)
        except ValueError as error:
            raise MessageError("a holder's status is not one that this version knows", party=holder) from error


def n_ciphertexts(n_records: int, n_cells: int) -> int:
    """Ciphertexts that hold the cells of all records, one record after the other."""
    if n_records < 1 or n_cells < 1:
        raise ParameterError(f"{n_records} records of {n_cells} cells: there is nothing to score")
    return -(-n_records * n_cells // _USED_SLOTS)


def encrypt_records(
    context: SecretContext, codes: NDArray[np.integer], n_codes: NDArray[np.integer]
) -> tuple[bytes, ...]:
    """Holder: encrypt the one-hot cells of some records.

    Parameters
    ----------
    codes : integers (n_records, n_columns).
    n_codes : (n_columns,), codes of each column.

    Raises
    ------
    SchemaError : a code is outside its column's map.
    """
    return encrypt_cells(context, one_hot(codes, n_codes))


def one_hot(codes: NDArray[np.integer], n_codes: NDArray[np.integer]) -> Words:
    """Holder: cells (n_records, n_cells) of some records, 1 at each column's code; SchemaError as `encrypt_records`."""
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

    Parameters
    ----------
    points : whole points (n_cells,), either sign, below T/2 in size.
    """
    if points.ndim != 1 or np.abs(points.astype(np.int64)).max(initial=0) > T // 2:
        raise ParameterError(f"points are one whole number a cell, at most {T // 2} in size")
    count = n_ciphertexts(n_records, len(points))
    tiled = np.tile(points.astype(np.int64) % T, n_records).astype(np.uint64)
    cuts = [tiled[i * _USED_SLOTS : (i + 1) * _USED_SLOTS] for i in range(count)]
    return EncodedPoints(n_records, len(points), tuple(encode_weights(cut) for cut in cuts))


def check_points_fit(tables: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]], base_points: int = 0) -> None:
    """Refuse a model whose total could wrap modulo T.

    Parameters
    ----------
    tables : (points of each cell, codes of each column) of every party.
    base_points : constant part of the total.

    Raises
    ------
    ParameterError : the largest possible total is not below T/2.
    """
    largest = abs(base_points)
    for points, n_codes in tables:
        starts = np.concatenate([[0], np.cumsum(n_codes)[:-1]]).astype(np.int64)
        largest += int(np.maximum.reduceat(np.abs(points.astype(np.int64)), starts).sum())
    if largest >= T // 2:
        raise ParameterError(f"a total could reach {largest} points, at most {T // 2 - 1} fit: scale points down")


@dataclass(frozen=True)
class Evaluated:
    """The bank's reply to a holder, and what it has to take off the total later.

    Parameters
    ----------
    reply : masked ciphertexts for the holder.
    mask_total : uint64 (n_records,) modulo T, the bank's secret.
    factors : instead of a reply, with a spare for trees: the bank's factors less their random numbers.
    """

    reply: tuple[bytes, ...] = field(repr=False)
    mask_total: Words = field(repr=False)
    factors: bytes = field(default=b"", repr=False)


def make_blinds(context: PublicContext, seed: bytes, n: int) -> tuple[Blind, ...]:
    """Bank: masks of one reply of n ciphertexts, all from the seed that it is committed to (ADR 12)."""
    return seeded(derived(seed, "blinds"), lambda: tuple(context.blind() for _ in range(n)))


def random_factors(seed: bytes, n: int) -> Integers:
    """Bank: what stands for the factors of a record in a spare for trees, (n,) uniform modulo T, from the seed."""
    return seeded(derived(seed, "factors"), lambda: uniform_slots(n)).astype(np.int64)


def lifted(cells: Integers) -> Integers:
    """Numbers modulo T as points of either sign, as `encode_points` takes them."""
    return np.where(cells > T // 2, cells - T, cells)


def pack_factors(factors: Integers, random: Integers) -> bytes:
    """Bank: a record's factors less the random numbers of its spare modulo T, 4 bytes each."""
    return ((factors - random) % T).astype("<u4").tobytes()


def evaluate(
    context: PublicContext, query: Sequence[bytes], points: EncodedPoints, blinds: Sequence[Blind] = ()
) -> Evaluated:
    """Bank: put the points on a holder's encrypted records, masked.

    Parameters
    ----------
    context : the holder's public keys.
    query : its `encrypt_records`.
    points : of that holder's cells.
    blinds : prepared by `context.blind()`, one a ciphertext; made here if none are given.

    Raises
    ------
    MessageError : wrong number of ciphertexts, or one that is not of these parameters.
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

    Parameters
    ----------
    share : `zero_share.zero_share` of this request, (n_records,).

    Returns
    -------
    The partial for the coordinator, uint64 (n_records,) modulo T.
    """
    if len(reply) != n_ciphertexts(n_records, n_cells):
        raise MessageError(f"got {len(reply)} ciphertexts, expected {n_ciphertexts(n_records, n_cells)}")
    if share.shape != (n_records,):
        raise ParameterError(f"a zero-share of {n_records} records is needed, got {share.shape}")
    opened = np.stack([context.decrypt(data) for data in reply])
    return (_record_sums(opened, n_records, n_cells) + share) % np.uint64(T)


def total_points(
    partial_sum: Words,
    mask_totals: Sequence[Words],
    own_points: NDArray[np.integer],
) -> Integers:
    """Bank: whole points of each record, all parties together.

    Parameters
    ----------
    partial_sum : from the coordinator, (n_records,).
    mask_totals : of every holder that took part.
    own_points : the bank's own part with the base points, (n_records,).
    """
    masks = np.sum(np.stack(mask_totals).astype(np.int64), axis=0)
    total = (partial_sum.astype(np.int64) - masks + own_points.astype(np.int64)) % T
    lifted: Integers = np.where(total > T // 2, total - T, total)
    return lifted


def _record_sums(slots: Words, n_records: int, n_cells: int) -> Words:
    """Sum modulo T of the cells of each record; slots are (n_ciphertexts, N_SLOTS)."""
    cells = slots[:, :_USED_SLOTS].reshape(-1)[: n_records * n_cells]
    sums: Words = cells.reshape(n_records, n_cells).sum(axis=1) % np.uint64(T)
    return sums
