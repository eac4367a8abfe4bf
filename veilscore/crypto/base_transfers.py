"""Base transfers: of each of many pairs of keys one party knows both, the other the one that it chose.

Source: Chou and Orlandi 2015, in ristretto255; keys are hashed with the whole transcript.
Parties: the offerer, who knows both keys of a pair and in an extension of transfers is the receiver; the chooser.
Messages: the offerer's point; the chooser's points, one a pair.
Reveals: nothing; the choices are hidden whatever the offerer can compute, the other keys as below.
Assumes: computational Diffie-Hellman in ristretto255, SHA-256 as a random oracle.
Aborts: MessageError on a message of wrong size or an invalid point.

A key becomes a column: the words of AES-256-CTR under it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from veilscore.arrays import Mask, Words
from veilscore.crypto.group import (
    Scalar,
    add_points,
    check_points,
    parse_points,
    raise_generator,
    raise_points,
    subtract_points,
)


def _key(label: bytes, index: int, transcript: bytes, point: bytes) -> bytes:
    parts = (b"veilscore/oblivious/v1", label, index.to_bytes(4, "little"), transcript, point)
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).digest()


def _columns(label: bytes, transcript: bytes, points: NDArray[np.uint8]) -> Columns:
    return Columns([_key(label, i, transcript, point.tobytes()) for i, point in enumerate(points)])


class Columns:
    """One key stream a base transfer, read side by side."""

    def __init__(self, keys: list[bytes]) -> None:
        self._ciphers = [Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor() for key in keys]

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "<Columns>"

    def read(self, n_words: int) -> Words:
        """Return the next words of each stream: (columns, n_words)."""
        zeros, width = bytes(8 * n_words), len(self._ciphers)
        words = np.empty(width * n_words + 2, np.uint64)  # OpenSSL wants room for a block more than it writes
        room = words.view(np.uint8).data
        for number, cipher in enumerate(self._ciphers):
            cipher.update_into(zeros, room[number * len(zeros) :])
        return words[:-2].reshape(width, n_words)


class Offerer:
    """The side that knows both keys of each pair.

    label : names protocol, session and purpose; equal on both sides.
    width : number of pairs.
    """

    def __init__(self, label: bytes, width: int) -> None:
        self._label, self._width = label, width
        self._scalar = Scalar()
        self._point = raise_generator(self._scalar)

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "<Offerer>"

    def point(self) -> bytes:
        """Return the point for the chooser."""
        return self._point.tobytes()

    def accept(self, choices: bytes) -> tuple[Columns, Columns]:
        """Take the chooser's points, once; returns the columns of the first keys and of the second.

        Raises MessageError: wrong size or an invalid point.
        """
        points = parse_points(choices, self._width)
        transcript = self._point.tobytes() + choices
        first = raise_points(points, self._scalar)
        own = raise_points(self._point, self._scalar)[0].tobytes()
        # (P / Q)^y = P^y / Q^y: one power serves both options
        second = parse_points(b"".join([subtract_points(point.tobytes(), own) for point in first]), self._width)
        check_points(second)  # the identity, where the chooser sent the offerer's own point
        self._scalar.destroy()
        return _columns(self._label, transcript, first), _columns(self._label, transcript, second)


def choose(label: bytes, point: bytes, chosen: Mask) -> tuple[bytes, Columns]:
    """Choose one key of each pair, the second where `chosen`; returns the points for the offerer, and the columns.

    label : as the offerer's.
    point : the offerer's.
    Raises MessageError: the point is not valid.
    """
    received = parse_points(point, 1)
    check_points(received)
    scalars = [Scalar() for _ in chosen]
    own = np.concatenate([raise_generator(scalar) for scalar in scalars])
    offers = [add_points(p.tobytes(), point) if bit else p.tobytes() for p, bit in zip(own, chosen, strict=True)]
    choices = b"".join(offers)
    secret = np.concatenate([raise_points(received, scalar) for scalar in scalars])
    for scalar in scalars:
        scalar.destroy()
    return choices, _columns(label, point + choices, secret)
