"""Shares of one party's bits times the other's shares, in both directions at once; the same code for both roles.

Source   : `crypto/bit_product.py` (correlated oblivious transfer).
Parties  : two, each with bits, numbers modulo T, or both.
Messages : once: BoostPoints each way (base points), then again (base choices). Per call, in pieces: BoostChoices for
           own bits; BoostProducts for the other's. Bits of which both parties keep the rows are chosen once.
Reveals  : how many bits.
Assumes  : semi-honest parties, computational Diffie-Hellman in ristretto255, AES as a random permutation.
Aborts   : MessageError on any wrong size or range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from veilscore.arrays import Mask, Words
from veilscore.crypto.bit_product import BitOwner, ValueOwner
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, Session, receive

Bits = Mask


PIECE = 1 << 17  # bits of one message: one side hashes a piece while the next one is under way
NO_BITS = np.zeros(0, bool)
NO_VALUES = np.zeros((1, 0), np.uint64)


@dataclass(frozen=True)
class BitKeys:
    """One party's secrets of a session with a peer, for both directions."""

    peer: str
    bits: BitOwner
    values: ValueOwner


def bit_setup(session: Session, peer: str) -> Protocol[BitKeys]:
    """Once a session and peer."""
    bits = BitOwner(session.label("bit products", session.party, peer))
    yield Send(peer, pb.BoostPoints(points=bits.base()))
    base = yield from receive(peer, pb.BoostPoints)
    values = ValueOwner(session.label("bit products", peer, session.party), bytes(base.points))
    yield Send(peer, pb.BoostPoints(points=values.choices()))
    choices = yield from receive(peer, pb.BoostPoints)
    bits.accept(bytes(choices.points))
    return BitKeys(peer, bits, values)


def bit_products(keys: BitKeys, bits: Bits, n_theirs: int, values: Words) -> Protocol[tuple[Words, Words]]:
    """Multiply own bits by the peer's numbers, and the peer's bits by own numbers.

    bits : (n,) own bits.
    n_theirs : numbers that the peer has for each of them.
    values : (k, m) own numbers below T for each of the peer's m bits.
    Returns shares (n_theirs, n) and (k, m).
    """
    rows = yield from choose_bits(keys, bits)
    given = np.empty(values.shape, np.uint64)
    for piece in _pieces(values.shape[1]):
        theirs = yield from _their_piece(keys, piece)
        given[:, piece] = yield from _give(keys, theirs, values[:, piece])
    return (yield from take_products(keys, bits, rows, n_theirs)), given


def choose_bits(keys: BitKeys, bits: Bits) -> Protocol[Words]:
    """Choose own bits (n,); return their rows (n, 2), for `take_products` as often as the peer multiplies them."""
    rows = np.empty((bits.size, 2), np.uint64)
    for piece in _pieces(bits.size):
        message, rows[piece] = keys.bits.choose(bits[piece])
        yield Send(keys.peer, pb.BoostChoices(data=message))
    return rows


def take_choices(keys: BitKeys, n: int) -> Protocol[Words]:
    """Return the rows (n, 2) of the peer's next n bits, for `give_products`."""
    rows = np.empty((n, 2), np.uint64)
    for piece in _pieces(n):
        rows[piece] = yield from _their_piece(keys, piece)
    return rows


def take_products(keys: BitKeys, bits: Bits, rows: Words, n_theirs: int) -> Protocol[Words]:
    """Return own share (n_theirs, n) of the products of chosen bits."""
    taken = np.empty((n_theirs, bits.size), np.uint64)
    for piece in _pieces(bits.size):
        message = yield from receive(keys.peer, pb.BoostProducts)
        taken[:, piece] = keys.bits.product(bits[piece], rows[piece], bytes(message.data), n_theirs)
    return taken


def give_products(keys: BitKeys, rows: Words, values: Words) -> Protocol[Words]:
    """Multiply the peer's bits by own numbers (k, n); return own share."""
    given = np.empty(values.shape, np.uint64)
    for piece in _pieces(values.shape[1]):
        given[:, piece] = yield from _give(keys, rows[piece], values[:, piece])
    return given


def _their_piece(keys: BitKeys, piece: slice) -> Protocol[Words]:
    message: Any = yield from receive(keys.peer, pb.BoostChoices)
    return keys.values.rows(bytes(message.data), piece.stop - piece.start)


def _give(keys: BitKeys, rows: Words, values: Words) -> Protocol[Words]:
    reply, given = keys.values.multiply(rows, values)
    yield Send(keys.peer, pb.BoostProducts(data=reply))
    return given


def _pieces(n: int) -> list[slice]:
    return [slice(start, min(start + PIECE, n)) for start in range(0, n, PIECE)]
