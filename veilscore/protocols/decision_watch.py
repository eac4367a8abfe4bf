"""Ties a month of a watch to the one before: the lead turns the label that the bank got then into one of now.

A step of a watch never exceeds that of last month, so levels only rise. The bank cannot choose last month's step: of
each bit of it the bank holds one label, and the lead, which kept the two that there are, sends the two labels of this
month's input, each encrypted under the hash of one of last month's. The bank opens the one that it got. The lead does
not learn which.

Source   : labels of outputs as keys of the next circuit's inputs, as rows of a garbled table are (Yao 1986; point and
           permute, Beaver, Micali and Rogaway 1990).
Messages : DecisionLeadLevels (to the bank), before the first piece of rows.
Assumes  : as `veilscore.crypto.garbled`; the offset of last month's labels stays with the lead.
Aborts   : MessageError where sizes are wrong; StateError where labels of last month are damaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Words
from veilscore.crypto.circuits import to_bits
from veilscore.crypto.garbled import Garbler
from veilscore.crypto.tweaked_hash import NO_OFFSET, Labels, TweakedHash
from veilscore.errors import StateError
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Protocol, Session, receive_parts, send_parts
from veilscore.wire.randomness import secret_bytes

_LABEL_BYTES = 16


@dataclass
class BankLevels:
    """The bank's labels of the levels of a watch.

    n_bits : of a step.
    before : (n_bits, rows of last month, 2) labels that it got last month; None in the first.
    """

    n_bits: int
    before: Labels | None = field(default=None, repr=False)
    labels: Labels = field(init=False, repr=False)  # (n_bits, rows, 2) of this month's steps
    _last: Labels = field(init=False, repr=False)

    def receive(self, session: Session, links: Integers, n_rows: int) -> Protocol[None]:
        """Take this month's labels of last month's steps.

        links : (n_rows,) each row's number last month from 1 on, 0 for a firm that is new; empty without a last month.
        """
        self.labels, self._last = (np.zeros((self.n_bits, n_rows, 2), np.uint64) for _ in range(2))
        linked = np.flatnonzero(links)
        if self.before is None or not linked.size:
            return
        data = yield from receive_parts(session.lead, pb.DecisionLeadLevels, _size(self.n_bits, linked.size))
        held = _of(self.before, self.n_bits, links[linked])
        sent = np.frombuffer(data, "<u8").reshape(self.n_bits, linked.size, 2, 2)
        places = (held[..., 0] & np.uint64(1)).astype(np.int64)[..., None, None]
        chosen = np.take_along_axis(sent, places, axis=2)[:, :, 0]
        self._last[:, linked] = chosen ^ _pads(session, held, NO_OFFSET)

    def last(self, piece: slice) -> Labels:
        """Return labels (n_bits, count, 2) of the steps that a piece of rows does not exceed."""
        return self._last[:, piece]

    def keep(self, piece: slice, word: Any) -> None:
        """Keep the labels of the steps of a piece of rows, for next month."""
        self.labels[:, piece] = word[: self.n_bits]


@dataclass
class LeadLevels:
    """The lead's labels of the levels of a watch; no others open them.

    n_bits, n_steps : of a step, and the top one, from which a firm starts.
    before : (n_bits, rows of last month, 2) false labels of last month's steps; None in the first.
    before_offset : (2,) that of last month's labels.
    """

    n_bits: int
    n_steps: int
    before: Labels | None = field(default=None, repr=False)
    before_offset: Labels | None = field(default=None, repr=False)
    labels: Labels = field(init=False, repr=False)  # (n_bits, rows, 2) false labels of this month's steps
    offset: Labels = field(init=False, repr=False)
    _last: Labels = field(init=False, repr=False)

    def send(self, session: Session, links: Integers, n_rows: int, garbler: Garbler, offset: Labels) -> Protocol[None]:
        """Draw the labels of last month's steps for this month, and send them encrypted; `links` as at the bank."""
        self.offset, self.labels = offset, np.zeros((self.n_bits, n_rows, 2), np.uint64)
        top = to_bits(np.full(n_rows, self.n_steps, np.uint64), self.n_bits)
        self._last = garbler.own(top)
        linked = np.flatnonzero(links)
        if self.before is None or self.before_offset is None or not linked.size:
            return
        fresh = np.frombuffer(secret_bytes(self.n_bits * linked.size * _LABEL_BYTES), "<u8")
        fresh = fresh.reshape(self.n_bits, linked.size, 2).copy()
        self._last[:, linked] = fresh
        false = _of(self.before, self.n_bits, links[linked])
        pairs = np.stack(
            [
                fresh ^ _pads(session, false, NO_OFFSET),
                fresh ^ offset ^ _pads(session, false, self.before_offset),
            ],
            axis=2,
        )  # (n_bits, linked, 2, 2): by the bit that they stand for
        swapped = (false[..., 0] & np.uint64(1)).astype(bool)  # they travel by the lowest bit of the old label
        pairs[swapped] = pairs[swapped][:, ::-1]
        yield from send_parts(session.bank, pb.DecisionLeadLevels, pairs.astype("<u8").tobytes())

    def last(self, piece: slice) -> Labels:
        """Return false labels (n_bits, count, 2) of the steps that a piece of rows does not exceed."""
        return self._last[:, piece]

    def keep(self, piece: slice, word: Any) -> None:
        """Keep the false labels of the steps of a piece of rows, for next month."""
        self.labels[:, piece] = word[: self.n_bits]


def _size(n_bits: int, n_linked: int) -> int:
    return n_bits * n_linked * 2 * _LABEL_BYTES


def _of(labels: Labels, n_bits: int, numbers: Integers) -> Labels:
    """Return the labels (n_bits, linked, 2) of rows by their number from 1 on."""
    if labels.ndim != 3 or labels.shape[0] != n_bits or labels.shape[2] != 2 or numbers.max() > labels.shape[1]:
        raise StateError("labels of last month's levels are not those of this watch: restore them from backup")
    return labels[:, numbers - 1]


def _pads(session: Session, labels: Labels, offset: Words) -> Labels:
    """Return what hides one label each, (n_bits, linked, 2), from old labels xor an offset."""
    names = TweakedHash(session.label("levels", session.lead, session.bank))
    flat = np.ascontiguousarray(labels.reshape(-1, 2))
    return names.advance(len(flat)).digests(flat, offset).reshape(labels.shape)
