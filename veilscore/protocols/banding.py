"""Bands without scores: bank and lead hold shares of each total, a garbled circuit opens its band to the bank.

Source   : half gates (`crypto/garbled.py`), labels by oblivious transfer (`crypto/oblivious.py`); ADR 10.
Parties  : the bank (evaluates) and the lead holder (garbles), each with shares of the totals modulo the ring of points.
Messages : BandBankBase -> BandLeadBase once; then for each piece of rows BandBankLabels -> BandLeadTables,
           BandLeadDecoding. The bank is a piece ahead with its labels.
Reveals  : to the bank, the number of each row's band. To the lead, nothing: it gets pseudo-random labels.
Assumes  : semi-honest parties, computational Diffie-Hellman in ristretto255, AES as a random permutation; bank and lead
           together know the totals.
Aborts   : MessageError on any wrong size, or a band that there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import add, constant, exceeds, from_bits, lookup, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler, Plain
from veilscore.crypto.oblivious import LabelReceiver, LabelSender, message_bytes
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import MessageError, ParameterError
from veilscore.terms.bands import Bands
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Progress, Protocol, Send, Session, receive, receive_parts, send_parts

Units = Integers


MAX_LIMITS = 63
PIECE = 2048  # rows garbled at once; bounds the memory of both sides


@dataclass(frozen=True)
class BandCircuit:
    """The circuit of one set of cut-offs: a sum modulo the ring, then a binary search among the cut-offs.

    limits : cut-offs in units, ascending.
    modulus : of the shares; totals are read as signed numbers below half of it.
    """

    limits: tuple[int, ...]
    modulus: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.limits) <= MAX_LIMITS:
            raise ParameterError(f"{len(self.limits)} cut-offs: bands have 1 to {MAX_LIMITS}")
        if any(b <= a for a, b in zip(self.limits, self.limits[1:], strict=False)):
            raise ParameterError("cut-offs of bands are not ascending")

    @property
    def half(self) -> int:
        """What is added to a total so that it is not negative."""
        return self.modulus // 2

    @property
    def n_bits(self) -> int:
        """Bits of a share."""
        return (self.modulus - 1).bit_length()

    @property
    def index_bits(self) -> int:
        """Bits of the number of a band."""
        return len(self.limits).bit_length()

    @cached_property
    def gates(self) -> int:
        """ANDs of one row."""
        plain, share = Plain(), np.zeros((self.n_bits, 1), bool)
        self(plain, share, share)
        return plain.gates

    def bounds(self) -> Units:
        """What a lifted total must exceed to be in each band but the first, filled up to 2^index_bits - 1."""
        size = (1 << self.index_bits) - 1
        known = [min(max(limit + self.half - 1, 0), self.modulus - 1) for limit in self.limits]
        return np.array(known + [self.modulus - 1] * (size - len(known)), np.int64)  # the last is never exceeded

    def check_totals(self, low: int, high: int) -> None:
        """Refuse totals that could lie outside the signed numbers of the ring (`ParameterError`)."""
        if not 0 < low + self.half <= high + self.half < self.modulus:
            raise ParameterError(f"a total between {low} and {high} units does not fit: use fewer decimals of points")

    def __call__(self, engine: Any, left: Any, right: Any) -> Any:
        """Words of two shares (n_bits, rows), one of them lifted, to that of the bands (index_bits, rows)."""
        wrapped: list[Any] = []
        if self.modulus & (self.modulus - 1):  # the sum is not reduced; whether it had to be chooses the bounds
            zero = left[:1] ^ left[:1]
            total = add(engine, np.concatenate([left, zero]), np.concatenate([right, zero]))
            wrapped.append(exceeds(engine, total, constant(engine, self.modulus - 1, total[0], len(total))))
        else:
            total = add(engine, left, right)
        bounds = self.bounds()
        found: list[Any] = []  # bits of the number, high first
        for step in (1 << k for k in reversed(range(self.index_bits))):
            table = bounds[step - 1 :: 2 * step]
            if wrapped:
                table = np.stack([table, table + self.modulus], axis=1).ravel()
            address = [*wrapped, *found[::-1]]
            if address:
                bound = lookup(engine, np.stack(address), table, len(total))
            else:
                bound = constant(engine, int(table[0]), total[0], len(total))
            found.append(exceeds(engine, total, bound))
        return np.stack(found[::-1])


def _pieces(n_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + PIECE, n_rows)) for start in range(0, n_rows, PIECE))


def bank_bands(session: Session, share: Units, bands: Bands, modulus: int) -> Protocol[Units]:
    """Bank: number of the band of each row, (n_rows,).

    share : (n_rows,) its share of the totals, of any sign.
    """
    circuit = BandCircuit(bands.limits, modulus)
    index = np.empty(share.size, np.int64)

    def read(piece: slice, evaluator: Evaluator, word: Any) -> Protocol[None]:
        opened = yield from receive(session.lead, pb.BandLeadDecoding)
        decoding = shares.bits_from_bytes(opened.bits, circuit.index_bits * word.shape[1])
        index[piece] = from_bits(evaluator.decode(word, decoding.reshape(circuit.index_bits, -1)))
        if index[piece].max(initial=0) > len(circuit.limits):
            raise MessageError("a row came out in a band that there is not", party=session.lead)

    yield from bank_garbled(session, share, circuit, read)
    return index


def lead_bands(session: Session, share: Words, bands: Bands, modulus: int) -> Protocol[None]:
    """Lead: its side of `bank_bands`, with the cut-offs that it keeps.

    share : (n_rows,) the holders' share of the totals, below the modulus.
    """

    def decode(garbler: Garbler, word: Any) -> Protocol[None]:
        decoding = garbler.decoding(word).reshape(-1)
        yield Send(session.bank, pb.BandLeadDecoding(bits=shares.bits_to_bytes(decoding)))

    yield from lead_garbled(session, share, BandCircuit(bands.limits, modulus), decode)


def bank_garbled(
    session: Session,
    share: Units,
    circuit: BandCircuit,
    read: Callable[[slice, Evaluator, Any], Protocol[None]],
    *,
    ahead: int = 1,
) -> Protocol[None]:
    """Bank: evaluate the circuit of bands on all rows as `bank_evaluated` does."""
    lifted = ((share + circuit.half) % circuit.modulus).astype(np.uint64)

    def run(evaluator: Evaluator, labels: Any, _piece: slice) -> Any:
        return circuit(evaluator, labels, evaluator.own(labels.shape[:2]))

    yield from bank_evaluated(session, to_bits(lifted, circuit.n_bits), circuit.gates, run, read, ahead=ahead)


def bank_evaluated(
    session: Session,
    bits: Mask,
    gates: int,
    run: Callable[[Evaluator, Any, slice], Any],
    read: Callable[[slice, Evaluator, Any], Protocol[None]],
    *,
    begin: Callable[[], Protocol[None]] | None = None,
    ahead: int = 1,
) -> Protocol[None]:
    """Bank: evaluate a circuit on all rows, piece by piece; `read` goes on with the labels of its output.

    bits : (n_bits, rows) the bank's inputs.
    gates : ANDs of a row.
    run : does the circuit with the labels of a piece's inputs.
    begin : called once before the first piece, to take what the lead sends then.
    ahead : pieces whose labels leave before a piece is evaluated; 0 where `read` sends messages itself.
    """
    names = session.label("bands", session.lead, session.bank)
    receiver, evaluator = LabelReceiver(names), Evaluator(names)
    yield Send(session.lead, pb.BandBankBase(point=receiver.base()))
    base = yield from receive(session.lead, pb.BandLeadBase)
    receiver.accept(base.points)
    if begin is not None:
        yield from begin()
    n_rows = bits.shape[1]
    sent: list[tuple[slice, Any]] = []

    def evaluate(piece: slice, labels: Any) -> Protocol[None]:
        count = piece.stop - piece.start
        evaluator.feed((yield from receive_parts(session.lead, pb.BandLeadTables, GATE_BYTES * gates * count)))
        word = run(evaluator, labels, piece)
        evaluator.done()
        yield from read(piece, evaluator, word)
        yield Progress("rows in bands", piece.stop, n_rows)

    for piece in _pieces(n_rows):
        message, labels = receiver.extend(bits[:, piece])
        yield from send_parts(session.lead, pb.BandBankLabels, message)
        sent.append((piece, labels))
        if len(sent) > ahead:
            yield from evaluate(*sent.pop(0))
    for late in sent:
        yield from evaluate(*late)


def lead_garbled(
    session: Session, share: Words, circuit: BandCircuit, release: Callable[[Garbler, Any], Protocol[None]]
) -> Protocol[None]:
    """Lead: garble the circuit of bands for all rows as `lead_garbles` does."""
    bits = to_bits(share, circuit.n_bits)

    def run(garbler: Garbler, theirs: Any, piece: slice) -> Any:
        return circuit(garbler, theirs, garbler.own(bits[:, piece]))

    yield from lead_garbles(
        session, (circuit.n_bits, share.size), run, lambda _piece, garbler, word: release(garbler, word)
    )


def lead_garbles(
    session: Session,
    shape: tuple[int, int],
    run: Callable[[Garbler, Any, slice], Any],
    release: Callable[[slice, Garbler, Any], Protocol[None]],
    begin: Callable[[Garbler, Labels], Protocol[None]] | None = None,
) -> Protocol[None]:
    """Lead: garble a circuit for all rows, piece by piece; `release` goes on with the labels of its output.

    shape : bits of the bank's inputs, and rows.
    run : does the circuit with the false labels of a piece's inputs.
    begin : called once, with the engine and the offset of all labels, before the first piece.
    """
    names = session.label("bands", session.party, session.bank)
    base = yield from receive(session.bank, pb.BandBankBase)
    sender = LabelSender(names, base.point)
    garbler = Garbler(names, sender.offset)
    yield Send(session.bank, pb.BandLeadBase(points=sender.choices()))
    if begin is not None:
        yield from begin(garbler, sender.offset)
    n_bits, n_rows = shape
    for piece in _pieces(n_rows):
        count = piece.stop - piece.start
        data = yield from receive_parts(session.bank, pb.BandBankLabels, message_bytes(n_bits * count))
        word = run(garbler, sender.extend(data, (n_bits, count)), piece)
        yield from send_parts(session.bank, pb.BandLeadTables, garbler.tables())
        yield from release(piece, garbler, word)
        yield Progress("rows in bands", piece.stop, n_rows)
