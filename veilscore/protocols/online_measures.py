"""Says what single decisions are made of: a firm's part of each measure, at its holder and at the bank.

A measure of a trained model is shared as a score is: cells under a spare, modulo `he.T`. Of a model that is written by
hand, and of knock-outs, the holder knows its own points. It masks them with numbers that follow from a seed of 256
bits, which it tells the bank alone, so that the lead, who adds up what all holders have, reads nothing of them: not
from a copy of the holder's log either, since no trial finds the seed of a digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.crypto.garbled import Garbler
from veilscore.crypto.gate_list import GateList
from veilscore.crypto.he import T
from veilscore.crypto.tweaked_hash import Labels
from veilscore.crypto.zero_share import uniform_masks
from veilscore.errors import MessageError
from veilscore.models.decided import FiledDecision
from veilscore.models.loss import TURN
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.protocols.online_pool import WIRES, BankPool
from veilscore.protocols.online_spares import BankSpare, HolderSpare, Side
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol
from veilscore.wire.randomness import SEED_BYTES, secret_bytes

_NUMBER_BYTES = 8
_MASKS = b"veilscore/1 masks of a single decision\0"


@lru_cache(maxsize=64)
def _gates(circuit: DecisionCircuit) -> GateList:
    return GateList.of(circuit, circuit.n_bank_bits, circuit.n_lead_bits)


@dataclass(frozen=True)
class SingleDecision:
    """A decision as it is opened for one firm.

    sha256 : of the filed decision.
    names : of the measures in the order of the circuit; the knock-outs are the last where there are any.
    """

    sha256: bytes
    names: tuple[str, ...]
    circuit: DecisionCircuit

    @classmethod
    def of(cls, filed: FiledDecision) -> SingleDecision:
        """Return the form of a filed decision that all parties work out for themselves."""
        return cls(filed.sha256, filed.names, DecisionCircuit.of(filed, lambda pin: TURN if pin.written else T))

    @property
    def modulus(self) -> dict[str, int]:
        """Return the ring of each measure."""
        return {name: m.modulus for name, m in zip(self.names, self.circuit.measures, strict=True)}

    @property
    def n_circuits(self) -> int:
        """Return how many circuits of a pool it takes for the bank's wires."""
        return -(-self.circuit.n_bank_bits // WIRES)

    @property
    def n_wires(self) -> int:
        """Return how many transfers that are."""
        return WIRES * self.n_circuits

    # the lead

    def add_up(self, parts: Sequence[bytes], parties: Sequence[str]) -> list[Words]:
        """Return the sum (1,) of all holders' shares of each measure; MessageError if one is out of range."""
        moduli = np.array(list(self.modulus.values()), np.uint64)
        total = np.zeros(moduli.size, np.uint64)
        for part, party in zip(parts, parties, strict=True):
            if len(part) != _NUMBER_BYTES * moduli.size:
                raise MessageError(f"a part of a decision has {len(part)} bytes", party=party)
            numbers = np.frombuffer(part, "<u8")
            if (numbers >= moduli).any():
                raise MessageError("a part of a decision is out of range", party=party)
            total += numbers
        return [total[k : k + 1] % modulus for k, modulus in enumerate(moduli)]

    def garble(self, theirs: Labels, garbler: Garbler, totals: Sequence[Words]) -> tuple[bytes, bytes]:
        """Return the tables of the circuit, and the bits that decode its output.

        theirs : false labels (n_wires, 1, 2) of the bank's wires; those at the end stand for nothing.
        """
        circuit = self.circuit
        tables, decoding = garbler.run(_gates(circuit), theirs[: circuit.n_bank_bits], circuit.lead_bits(totals))
        return tables, shares.bits_to_bytes(decoding.reshape(-1))


class BankDecision:
    """The bank's half of one circuit.

    pool, number : whose transfers give its labels, and the first of its circuits.
    shares : the bank's of each measure, of any sign.
    bound : index that its own columns allow the firm.
    """

    def __init__(
        self, pool: BankPool, number: int, decision: SingleDecision, shares_: Sequence[int], bound: int
    ) -> None:
        self.pool, self._decision = pool, decision
        circuit = decision.circuit
        bits = np.zeros((decision.n_wires, 1), bool)
        own = circuit.bank_bits([np.array([share], np.int64) for share in shares_], np.array([bound], np.int64))
        bits[: circuit.n_bank_bits] = own
        self.asked, self._labels, self._engine = pool.labels(number, bits)

    def __repr__(self) -> str:
        """Show nothing of the labels."""
        return f"<BankDecision {self.asked.circuit}>"

    def open(self, tables: bytes, decoding: bytes) -> int:
        """Run the lead's circuit, once; return index + (n_steps + 1) * number of the measure, 0 if that is not told."""
        circuit = self._decision.circuit
        bits = shares.bits_from_bytes(decoding, circuit.output_bits).reshape(-1, 1)
        found = self._engine.run(_gates(circuit), self._labels[: circuit.n_bank_bits], tables, bits)
        index, which = circuit.read(found)
        return int(index[0]) + (circuit.n_steps + 1) * (0 if which is None else int(which[0]))


# --- a holder --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class RecordPart:
    """A holder's part of one measure for one firm: cells (n_cells,) of 0 and 1, or points that it knows itself.

    part : of cells, what their spare is for: hash of the code map, for trees followed by that of the trees.
    """

    measure: str
    part: bytes = b""
    cells: Words | None = None
    points: int = 0


def encrypt_parts(
    bank: str,
    request: pb.EncryptRecord,
    parts: Sequence[RecordPart],
    take_spare: Callable[[str, str, bytes], HolderSpare | None],
    answer: pb.EncryptedRecord,
) -> dict[str, HolderSpare] | None:
    """Holder: put what leaves of a firm's parts into the answer; return the spares, or None where one is not there."""
    spares = {}
    for part in parts:
        if part.cells is not None:
            spare = take_spare(bank, request.spare_ids.get(part.measure, ""), part.part)
            if spare is None:
                return None
            spares[part.measure] = spare
    for part in parts:
        if part.cells is not None:
            answer.difference_shares[part.measure] = spares[part.measure].difference(part.cells)
    if any(part.cells is None for part in parts):
        answer.mask_seed = secret_bytes(SEED_BYTES)
    return spares


def _mask(seed: bytes, measure: str, modulus: int) -> int:
    """Return what a holder adds to the points that it knows, and the bank takes off; each answer has its own seed."""
    return int(uniform_masks(seed, _MASKS + measure.encode(), 1, modulus)[0])


def partials(
    decision: SingleDecision,
    parts: Sequence[RecordPart],
    spares: Mapping[str, HolderSpare],
    answer: pb.EncryptedRecord,
    request: pb.OpenPartial,
    bank: str,
) -> dict[str, int]:
    """Holder: return its share of each measure but for the shares of zero, 0 where it has no part."""
    found = dict.fromkeys(decision.names, 0)
    for part in parts:
        if part.cells is not None:
            found[part.measure] = spares[part.measure].partial(request.factors_shares.get(part.measure, b""), bank)
        else:
            modulus = decision.modulus[part.measure]
            found[part.measure] = (part.points + _mask(answer.mask_seed, part.measure, modulus)) % modulus
    return found


def pack_shares(numbers: Sequence[int]) -> bytes:
    """Write a holder's shares of all measures as bytes: 8 a measure, little endian."""
    return np.array(numbers, "<u8").tobytes()


# --- the bank --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, kw_only=True)
class MeasuresAsked:
    """What the bank's role takes from its node for one decision.

    holders : of the decision, the lead first; all of them take part.
    sides : measure -> holder -> the bank's points there, of trained models.
    known : measure -> holders that know their own points, of other models and of the knock-outs.
    own : measure -> units of the firm without any holder's part.
    bound : index that the bank's own columns and knock-outs allow.
    take_spare, make_spare, put_back : as of `BankRequest`, by holder and measure.
    """

    decision: SingleDecision
    holders: tuple[str, ...]
    sides: Mapping[str, Mapping[str, Side]]
    known: Mapping[str, tuple[str, ...]]
    own: Mapping[str, int]
    bound: int
    take_spare: Callable[[str, str], BankSpare | None]
    make_spare: Callable[[str, str, BankSpare | None], Protocol[BankSpare]]
    put_back: Callable[[str, str, BankSpare], object] = field(default=lambda *_: None)

    def trained(self, holder: str) -> dict[str, Side]:
        """Return the bank's points for a holder by measure, of trained models."""
        return {measure: sides[holder] for measure, sides in self.sides.items() if holder in sides}

    def shares(self, masks: Sequence[Mapping[str, int]]) -> list[int]:
        """Return the bank's share of each measure, from what it has to take off for each holder."""
        return [self.own.get(name, 0) - sum(one.get(name, 0) for one in masks) for name in self.decision.names]

    def masks_of(self, reply: pb.EncryptedRecord, spares: Mapping[str, BankSpare], holder: str) -> dict[str, int]:
        """Return what the bank has to take off for a holder by measure; MessageError for an answer that cannot be."""
        trained, known = self.trained(holder), {m for m, holders in self.known.items() if holder in holders}
        if set(reply.difference_shares) != set(trained):
            raise MessageError("a holder answered for other measures than it has a part in", party=holder)
        if len(reply.mask_seed) != (SEED_BYTES if known else 0):
            raise MessageError("the seed of a holder's masks has the wrong length", party=holder)
        masks = {measure: _mask(reply.mask_seed, measure, self.decision.modulus[measure]) for measure in known}
        for measure, side in trained.items():
            masks[measure] = spares[measure].mask_of(reply.difference_shares[measure], side.cells, holder)
        return masks
