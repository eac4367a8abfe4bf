"""Makes labels ahead for the circuits of single firms: a pool of numbered transfers between a bank and a lead.

Source   : `crypto/transfer_pool.py`, ADR 15; circuits in `online_band.py`.
Parties  : the bank (receives labels), the lead (garbles).
Messages : MakePool -> MadePool once for each pair of starts; ExtendPool -> Empty makes the transfers of 128 circuits.
           They need neither firm nor share and are made ahead; a circuit then takes a bit a wire, which rides on
           OpenPartial.
Reveals  : nothing to either.
Assumes  : as the pool. It lives in memory only. All that the bank draws comes from a seed that it is committed to
           before the lead answers, so that an auditor can tell which share it put into each circuit (ADR 12).
Aborts   : MessageError on a message of wrong size, out of order or with columns that do not agree; SecretReuseError at
           the lead where a circuit is to be garbled twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from veilscore.arrays import Mask
from veilscore.crypto.garbled import Evaluator, Garbler
from veilscore.crypto.he import T
from veilscore.crypto.shares import bits_from_bytes, bits_to_bytes
from veilscore.crypto.transfer_pool import MOST, PoolReceiver, PoolSender
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import MessageError
from veilscore.evidence.online_opening import OnlineOpening, digests_of
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, call, pack_fields, work

WIRES = (T - 1).bit_length()  # of a share
CIRCUITS = 128  # that one message serves: 57 kB, a tenth of a millisecond a side
EXTENSION = CIRCUITS * WIRES  # transfers that it makes: all of them are spent, so that none has to be kept


def names_of(bank: str, lead: str, pool_id: str) -> bytes:
    """Return the label of a pool, the same on both sides."""
    return pack_fields(b"veilscore/1 online pool", bank.encode(), lead.encode(), pool_id.encode())


# --- the bank --------------------------------------------------------------------------------------------------------


class LabelsAsked(NamedTuple):
    """What asks a lead for the labels of the bank's share; it rides on OpenPartial."""

    pool_id: str
    circuit: int
    choices: bytes


class BankPool:
    """The bank's half of a pool, and what it is committed to; usable from one thread at a time.

    opening : with the seed of all its secrets.
    """

    def __init__(self, opening: OnlineOpening) -> None:
        self.opening = opening
        self.made = pb.MadePool()
        names = names_of(opening.bank, opening.holder, opening.id)
        self._receiver = PoolReceiver(names, opening.seed_bytes)
        self._next, self._agreed = 0, 0

    def __repr__(self) -> str:
        """Show how many circuits there are."""
        return f"<BankPool, {self.left} circuits left>"

    @property
    def left(self) -> int:
        """Return how many circuits can be taken."""
        return self._agreed // WIRES - self._next

    @property
    def full(self) -> bool:
        """Return whether no more transfers may be made under its offset."""
        return self._receiver.made + EXTENSION > MOST

    @property
    def asked(self) -> pb.MakePool:
        """Return what asks the lead for its half."""
        return pb.MakePool(pool_id=self.opening.id, point=self._receiver.base(), commitment=self.opening.commitment)

    def accept(self, made: pb.MadePool) -> None:
        """Take the lead's answer, once; MessageError if it is none."""
        self._receiver.accept(made.points)
        self.made = made

    def extend(self) -> pb.ExtendPool:
        """Make transfers; the lead has to get each message, in order."""
        return pb.ExtendPool(pool_id=self.opening.id, transfers=self._receiver.extend(EXTENSION))

    def agreed(self) -> None:
        """Count what was made for circuits: the lead has got it, and not before, as requests go on meanwhile."""
        self._agreed = self._receiver.made

    def has(self, n: int = 1) -> bool:
        """Return whether n circuits of one message can be taken."""
        return self._first(n) + n <= self._agreed // WIRES

    def take(self, n: int = 1) -> int:
        """Return the number of a circuit that was not taken before, or of the first of n whose wires serve one."""
        first = self._first(n)
        self._next = first + n
        return first

    def _first(self, n: int) -> int:
        """Return the next number from which n circuits belong to one message: its digest is what a lead logs."""
        left = CIRCUITS - self._next % CIRCUITS
        return self._next + (left if n > left else 0)

    def labels(self, circuit: int, bits: Mask) -> tuple[LabelsAsked, Labels, Evaluator]:
        """Spend a circuit on bits (WIRES, 1), or several on as many wires: what asks for labels, these, the engine."""
        at = circuit * WIRES
        random, labels = self._receiver.take(at, bits.shape[0])
        choices = bits_to_bytes(bits[:, 0] ^ random)
        asked = LabelsAsked(self.opening.id, circuit, choices)
        return asked, labels[:, None], self._receiver.evaluator(at)


def bank_pool(opening: OnlineOpening) -> Protocol[BankPool]:
    """Bank: make the pool of an opening with its lead; it holds no transfers yet."""
    pool = yield from work(lambda: BankPool(opening))
    made = yield from call(opening.holder, pool.asked, pb.MadePool)
    yield from work(partial(pool.accept, made))
    return pool


def bank_extends(pool: BankPool) -> Protocol[None]:
    """Bank: make the transfers of more circuits; after an error the pool is of no use."""
    message = yield from work(pool.extend)
    yield from call(pool.opening.holder, message, pb.Empty)
    pool.agreed()


# --- the lead --------------------------------------------------------------------------------------------------------


@dataclass(repr=False)
class LeadPool:
    """The lead's half of a pool.

    base : what the bank asked for it.
    sender : its transfers.
    extended : digest of each message that made transfers, in order, hexadecimal.
    """

    base: pb.MakePool
    sender: PoolSender = field(repr=False)
    extended: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, bank: str, lead: str, base: pb.MakePool, mark: int) -> LeadPool:
        """Answer the bank's base point; MessageError if it is none.

        mark : of an earlier pool with this id, whose numbers below it are spent.
        """
        return cls(base, PoolSender(names_of(bank, lead, base.pool_id), base.point, mark))

    @property
    def made(self) -> pb.MadePool:
        """Return what the bank is sent for it."""
        return pb.MadePool(points=self.sender.choices())

    def extend(self, message: pb.ExtendPool) -> int:
        """Make the transfers of a message; returns how many there are. MessageError if it is not what comes next."""
        self.sender.extend(message.transfers, EXTENSION)
        self.extended += digests_of(message).values()
        return self.sender.made

    def labels(self, circuit: int, choices: bytes, n_wires: int = WIRES) -> tuple[Labels, Garbler]:
        """Spend a circuit on the bank's choices: false labels (n_wires, 1, 2) of its share, and the engine."""
        at = circuit * WIRES
        try:
            bits = bits_from_bytes(choices, n_wires)
        except MessageError:
            raise MessageError(f"choices of labels are {n_wires} bits") from None
        labels = self.sender.take(at, bits)
        return labels[:, None], self.sender.garbler(at)

    def messages(self, circuit: int) -> dict[str, str]:
        """Return digests of the messages that a circuit's labels follow from, by kind."""
        return {**digests_of(self.base, self.made), "ExtendPool": self.extended[circuit // CIRCUITS]}
