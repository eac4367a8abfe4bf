"""Adds scores at the coordinator: parts that are masked twice, of a batch or of one firm online.

Source   : Additive shares of zero between holders (`veilscore.crypto.zero_share`), and the bank's own masks.
Parties  : The holders send their masked parts, the coordinator adds, the bank takes its masks off the sum.
Messages : BatchBankRound0, BatchHolderPartial of each holder -> BatchCoordinatorTotal; online, the control plane
           carries the partials.
Reveals  : The coordinator learns the number of rows; each part is uniform without the bank's masks, and so is their
           sum.
Assumes  : The coordinator and the bank do not collude with all holders but one.
Aborts   : MessageError on a wrong size or range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.errors import MessageError
from veilscore.lattice.params import ONLINE_T, SCORE_T
from veilscore.models.loss import TURN
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Protocol, Session, receive, receive_parts, send_parts

MAX_ROWS = 1 << 26
_PARTIAL_BYTES = 8


def coordinator_add(session: Session) -> Protocol[None]:
    """Coordinator: add the holders' masked partials of a batch and pass the sum to the bank."""
    start = yield from receive(session.bank, pb.BatchBankRound0)
    if not 0 < start.n_scored <= MAX_ROWS:
        raise MessageError(f"a batch has 1 to {MAX_ROWS} rows, not {start.n_scored}", party=session.bank)
    modulus = SCORE_T if start.trees else TURN
    total = np.zeros(start.n_scored, np.uint64)
    for holder in session.holders:
        data = yield from receive_parts(holder, pb.BatchHolderPartial, 8 * start.n_scored)
        total += shares.shares_from_bytes(data, (start.n_scored,), below=modulus)
    yield from send_parts(session.bank, pb.BatchCoordinatorTotal, shares.shares_to_bytes(total % np.uint64(modulus)))


def add_partials(partials: Sequence[Words]) -> Words:
    """Return the sum of all holders' partials of online scores modulo ONLINE_T."""
    total: Words = np.stack(partials).sum(axis=0) % np.uint64(ONLINE_T)
    return total


def pack_partial(partial: Words) -> bytes:
    """Write partials or sums as bytes: 8 a record, little endian."""
    return partial.astype("<u8").tobytes()


def parse_partial(data: bytes, n_records: int, sender: str) -> Words:
    """Read what `pack_partial` wrote at a peer; MessageError on a wrong length, or a value not below ONLINE_T."""
    if len(data) != _PARTIAL_BYTES * n_records:
        raise MessageError(f"a partial of {n_records} records has {len(data)} bytes", party=sender)
    values = np.frombuffer(data, "<u8").astype(np.uint64)
    if (values >= ONLINE_T).any():
        raise MessageError("a partial is out of range", party=sender)
    return values
