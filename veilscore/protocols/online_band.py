"""Opens the band of one firm online to the bank alone, from shares of its total that bank and lead hold.

Source   : the circuit of `veilscore.protocols.banding` for one row; shares of `veilscore.protocols.online`, modulo T.
Parties  : the bank (evaluates; its share is its own units less its masks), the lead (garbles; its share is the sum of
           the holders' partials).
Messages : BandBase -> BandChoices, which need neither firm nor share and are made ahead; BandLabels -> BandTables.
Reveals  : to the bank, the number of the band. To the lead, nothing: the holders' sum is uniform without the masks.
Assumes  : as `banding`. A set-up serves one circuit and lives in memory only: so does its offset. All that the bank
           draws comes from a seed that it is committed to before the lead answers, so that an auditor can tell which
           share it put in (ADR 12).
Aborts   : MessageError on any wrong size or point, or a band that there is not; SecretReuseError at the lead where a
           set-up is to serve twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
from google.protobuf.message import Message

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import from_bits, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler
from veilscore.crypto.he import T
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
from veilscore.errors import MessageError, ProtocolError, RefusedError, SecretReuseError, VeilscoreError
from veilscore.evidence.online_opening import BandOpened, OnlineOpening, digests_of
from veilscore.protocols.adding import add_partials, parse_partial
from veilscore.protocols.banding import BandCircuit
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, Refuse, Send, Serve, call, pack_fields, receive, work
from veilscore.wire.randomness import derived, seeded


def names_of(bank: str, lead: str, setup_id: str) -> bytes:
    """Return the label of one set-up, the same on both sides."""
    return pack_fields(b"veilscore/1 online band", bank.encode(), lead.encode(), setup_id.encode())


@lru_cache(maxsize=64)
def _circuit(limits: tuple[int, ...]) -> BandCircuit:
    """Return a circuit; they are kept, as counting the gates of one takes as long as running it."""
    return BandCircuit(limits, T)


# --- the bank --------------------------------------------------------------------------------------------------------


class BankBand:
    """The bank's half of one set-up.

    names : `names_of` the set-up.
    seed : of all secrets of this set-up; of no other.
    """

    def __init__(self, names: bytes, seed: bytes) -> None:
        self._names, self._seed = names, seed
        self._receiver = seeded(derived(seed, "base"), lambda: LabelReceiver(names))
        self._sent: tuple[BandCircuit, bytes, Any] | None = None

    def __repr__(self) -> str:
        """Show nothing of the labels."""
        return "<BankBand>"

    @property
    def point(self) -> bytes:
        """Return the base point for the lead."""
        return self._receiver.base()

    def accept(self, choices: bytes) -> None:
        """Take the lead's base choices, once."""
        self._receiver.accept(choices)

    def labels(self, share: int, bands: Bands) -> bytes:
        """Return the message that asks for the labels of the bank's share; once.

        share : of the total, of any sign.
        bands : of the model.
        """
        if self._sent is not None:
            raise SecretReuseError("a set-up of labels was to serve a second share")
        circuit = _circuit(bands.limits)
        lifted = np.array([(share + circuit.half) % T], np.uint64)
        bits = to_bits(lifted, circuit.n_bits)
        self._sent = (circuit, *seeded(derived(self._seed, "labels"), lambda: self._receiver.extend(bits)))
        return self._sent[1]

    def open(self, tables: bytes, decoding: bytes) -> int:
        """Run the lead's circuit, after `labels`, and return the number of the band."""
        if self._sent is None:
            raise MessageError("garbled tables came before labels were asked for")
        circuit, _, labels = self._sent
        if len(tables) != GATE_BYTES * circuit.gates:
            raise MessageError(f"{len(tables)} bytes of garbled tables are not those of one band")
        evaluator = Evaluator(self._names)
        evaluator.feed(tables)
        word = circuit(evaluator, labels, evaluator.own((circuit.n_bits, 1)))
        evaluator.done()
        bits = shares.bits_from_bytes(decoding, circuit.index_bits)
        number = int(from_bits(evaluator.decode(word, bits.reshape(-1, 1)))[0])
        if number > len(circuit.limits):
            raise MessageError("the firm came out in a band that there is not")
        return number


@dataclass(frozen=True, repr=False)
class BankSetup:
    """A set-up with a lead: what the bank is committed to, and what the lead sent for it."""

    lead: str
    setup_id: str
    role: BankBand
    opening: OnlineOpening
    choices: pb.BandChoices


def bank_setup(opening: OnlineOpening) -> Protocol[BankSetup]:
    """Bank: make the set-up of an opening with its lead."""
    lead, setup_id = opening.holder, opening.id
    role = yield from work(lambda: BankBand(names_of(opening.bank, lead, setup_id), opening.seed_bytes))
    base = pb.BandBase(setup_id=setup_id, point=role.point, commitment=opening.commitment)
    choices = yield from call(lead, base, pb.BandChoices)
    yield from work(lambda: role.accept(choices.points))
    return BankSetup(lead, setup_id, role, opening, choices)


def labels_of(setup: BankSetup, request_id: str, share: int, bands: Bands) -> pb.BandLabels:
    """Bank: ask for the labels of its share of the total, under a set-up that serves nothing else."""
    return pb.BandLabels(request_id=request_id, setup_id=setup.setup_id, labels=setup.role.labels(share, bands))


# --- the lead --------------------------------------------------------------------------------------------------------


class LeadBand:
    """The lead's half of one set-up, for one circuit.

    names : `names_of` the set-up.
    point : the bank's base point.
    """

    def __init__(self, names: bytes, point: bytes) -> None:
        self._names = names
        self._sender: LabelSender | None = LabelSender(names, point)
        self.choices = self._sender.choices()

    def __repr__(self) -> str:
        """Show nothing of the offset."""
        return "<LeadBand>"

    def answer(self, labels: bytes, share: Words, bands: Bands) -> tuple[bytes, bytes]:
        """Garble; return tables and the bits that decode the band.

        labels : the bank's message.
        share : (1,) sum of the holders' partials modulo T.
        bands : that the lead keeps of the model.
        """
        if self._sender is None:
            raise SecretReuseError("a set-up of labels was to serve a second circuit")
        sender, self._sender = self._sender, None
        circuit = _circuit(bands.limits)
        garbler = Garbler(self._names, sender.offset)
        theirs = sender.extend(labels, (circuit.n_bits, 1))
        word = circuit(garbler, theirs, garbler.own(to_bits(share, circuit.n_bits)))
        return garbler.tables(), shares.bits_to_bytes(garbler.decoding(word).reshape(-1))


@dataclass(frozen=True, repr=False)
class LeadSetup:
    """A set-up at the lead: what the bank asked for it, and the lead's half."""

    base: pb.BandBase
    role: LeadBand = field(repr=False)

    @classmethod
    def of(cls, bank: str, lead: str, base: pb.BandBase) -> LeadSetup:
        """Answer the bank's base point; MessageError if it is none."""
        return cls(base, LeadBand(names_of(bank, lead, base.setup_id), base.point))

    @property
    def choices(self) -> pb.BandChoices:
        """Return what the bank is sent for it."""
        return pb.BandChoices(points=self.role.choices)


def sum_of_parts(parts: Sequence[bytes], parties: Sequence[str]) -> Words:
    """Lead: return the sum (1,) modulo T of the parts of all that take part."""
    return add_partials([parse_partial(part, 1, party) for part, party in zip(parts, parties, strict=True)])


CALLS = (pb.EncryptRecord, pb.OpenPartial, pb.BandLabels)  # of a bank at a holder, under one request id


def lost(holder: str) -> RefusedError:
    """Return the refusal where nothing of a request is in memory any more."""
    return RefusedError(f"{holder} was restarted since, or is overloaded; use a new request id", party=holder)


def sha256_of(message: Message) -> bytes:
    """Return the SHA-256 of a whole message."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def check_same(request: Message, opened: tuple[bytes, bytes], holder: str) -> None:
    """Refuse what is not the OpenPartial that was opened under its request id; RefusedError."""
    if isinstance(request, pb.EncryptRecord):
        raise RefusedError("this request id was used here already; use a new one", party=holder)
    if not isinstance(request, pb.OpenPartial):
        raise lost(holder)
    if sha256_of(request) != opened[0]:
        raise RefusedError("another reply was opened under this request id", party=holder)


def lead_serves(
    bank: str,
    parties: Sequence[str],
    opened: tuple[bytes, bytes],
    bands: Bands,
    take_setup: Callable[[str, str], LeadSetup | None],
    log: Callable[[BandOpened], None],
) -> Protocol[None]:
    """Lead: open one circuit for a request id, after its own part; the same labels get the same tables.

    Other labels, under another set-up or not, are refused: a bank that shifts its share could search for the score.

    parties : who takes part, this lead first.
    opened : digest of the OpenPartial that was opened, and the lead's own part.
    bands : cut-offs that it keeps of the model.
    take_setup : by bank and id, out of those that were made; None if it is not there.
    log : writes down what leaves next, so that it cannot leave otherwise.
    """
    lead = parties[0]
    labels, tables = b"", None
    while True:
        asked = yield Serve(bank, CALLS)
        answer: Message = pb.OpenedPartial()
        try:
            if not isinstance(asked, pb.BandLabels):
                check_same(asked, opened, lead)
            elif labels:
                if tables is None or labels != sha256_of(asked):
                    raise RefusedError("a band was opened under this request id; use a new one", party=lead)
                answer = tables
            else:
                share = yield from _sum_of_all(parties, opened[1])
                setup = take_setup(bank, asked.setup_id)
                if setup is None:
                    answer = pb.BandTables(no_setup=True)
                else:
                    labels = sha256_of(asked)
                    answer = tables = yield from work(partial(_garbled, lead, bank, asked, setup, share, bands, log))
        except VeilscoreError as error:
            yield Refuse(bank, error)
        else:
            yield Send(bank, answer)


def _sum_of_all(parties: Sequence[str], own_part: bytes) -> Protocol[Words]:
    parts = [own_part]
    for party in parties[1:]:
        message = yield from receive(party, pb.BandPartial)
        if tuple(message.with_parties) != tuple(parties):
            raise ProtocolError("the holders of this request are not those it began with; use a new request id")
        parts.append(message.partial_share)
    return sum_of_parts(parts, parties)


def _garbled(
    lead: str,
    bank: str,
    asked: pb.BandLabels,
    setup: LeadSetup,
    share: Words,
    bands: Bands,
    log: Callable[[BandOpened], None],
) -> pb.BandTables:
    tables, decoding = setup.role.answer(asked.labels, share, bands)
    opened = BandOpened(
        holder=lead,
        bank=bank,
        request=asked.request_id,
        setup=asked.setup_id,
        commitment=setup.base.commitment.hex(),
        bands=bands.sha256.hex(),
        messages=digests_of(setup.base, setup.choices, asked),
    )
    log(opened)
    return pb.BandTables(tables=tables, decoding=decoding)
