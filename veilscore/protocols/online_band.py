"""Opens the band of one firm online to the bank alone, from shares of its total that bank and lead hold.

Source   : the circuit of `veilscore.protocols.banding` for one row; shares of `veilscore.protocols.online`, modulo T;
           labels by transfers made ahead (`online_pool.py`).
Parties  : the bank (evaluates; its share is its own units less its masks), the lead (garbles; its share is the sum of
           the holders' partials).
Messages : none of its own: the bank asks for labels in the lead's OpenPartial, and the tables come with its answer.
Reveals  : to the bank, the number of the band. To the lead, nothing: the holders' sum is uniform without the masks.
Assumes  : as `banding` and `online_pool`.
Aborts   : MessageError on any wrong size, or a band that there is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from google.protobuf.message import Message

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import from_bits, to_bits
from veilscore.crypto.garbled import Garbler
from veilscore.crypto.gate_list import GateList
from veilscore.crypto.he import T
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import MessageError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.online_opening import BandOpened, DecisionOpened
from veilscore.protocols.adding import add_partials, parse_partial
from veilscore.protocols.banding import BandCircuit
from veilscore.protocols.online_measures import SingleDecision
from veilscore.protocols.online_parts import ON_MISSING
from veilscore.protocols.online_pool import BankPool, LeadPool
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol, Refuse, Send, Serve, call, receive


@lru_cache(maxsize=64)
def _circuit(limits: tuple[int, ...]) -> tuple[BandCircuit, GateList]:
    """Return a circuit, and its gates, which take longer to write down than to run."""
    circuit = BandCircuit(limits, T)
    return circuit, GateList.of(circuit, circuit.n_bits, circuit.n_bits)


# --- the bank --------------------------------------------------------------------------------------------------------


class BankCircuit:
    """The bank's half of one circuit.

    pool, number : whose transfers give its labels, and which of its circuits this is.
    share : of the total, of any sign.
    bands : whose number is opened.
    """

    def __init__(self, pool: BankPool, number: int, share: int, bands: Bands) -> None:
        self.pool = pool
        self._circuit, self._gates = _circuit(bands.limits)
        lifted = np.array([(share + self._circuit.half) % T], np.uint64)
        self.asked, self._labels, self._engine = pool.labels(number, to_bits(lifted, self._circuit.n_bits))

    def __repr__(self) -> str:
        """Show nothing of the labels."""
        return f"<BankCircuit {self.asked.circuit}>"

    def open(self, tables: bytes, decoding: bytes) -> int:
        """Run the lead's circuit, once, and return the number of the band."""
        bits = shares.bits_from_bytes(decoding, self._gates.n_outputs)
        found = self._engine.run(self._gates, self._labels, tables, bits.reshape(-1, 1))
        number = int(from_bits(found)[0])
        if number > len(self._circuit.limits):
            raise MessageError("the firm came out in a band that there is not")
        return number


# --- the lead --------------------------------------------------------------------------------------------------------


def garble(theirs: Labels, garbler: Garbler, share: Words, bands: Bands) -> tuple[bytes, bytes]:
    """Lead: return the tables of one circuit, and the bits that decode the band.

    theirs, garbler : false labels of the bank's share, and the engine, of one circuit of a pool.
    share : (1,) sum of the holders' partials modulo T.
    bands : that the lead keeps of the model.
    """
    circuit, gates = _circuit(bands.limits)
    tables, decoding = garbler.run(gates, theirs, to_bits(share, circuit.n_bits))
    return tables, shares.bits_to_bytes(decoding.reshape(-1))


def sum_of_parts(parts: Sequence[bytes], parties: Sequence[str]) -> Words:
    """Lead: return the sum (1,) modulo T of the parts of all that take part."""
    return add_partials([parse_partial(part, 1, party) for part, party in zip(parts, parties, strict=True)])


CALLS = (pb.EncryptRecord, pb.OpenPartial)  # of a bank at a holder, under one request id


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
        raise RefusedError("another reply was opened under this request id; use a new one", party=holder)


def check_record(request: pb.EncryptRecord, bank: str) -> None:
    """Refuse an EncryptRecord that cannot be one; MessageError."""
    optional = {len(request.part_hash), len(request.bands_hash)}
    if (len(request.model_hash), len(request.map_hash)) != (32, 32) or not optional <= {0, 32}:
        raise MessageError("a hash in the bank's request has the wrong length", party=bank)
    if request.step_limits and not request.bands_hash:
        raise MessageError("a score in steps is asked for without their digest", party=bank)
    if not 0 < len(request.firm_id) <= 100 or len(request.purpose) > 200 or request.on_missing not in ON_MISSING:
        raise MessageError("firm id, purpose or on_missing of a request is empty, too long or unknown", party=bank)


def bring(coordinator: str, bank: str, request: pb.OpenPartial, partial_share: bytes) -> Protocol[None]:
    """Holder: bring this holder's opened part to where it is added up: the coordinator, or of a band the lead."""
    request_id, parties = request.request_id, request.with_parties
    if request.bands_hash:
        part = pb.BandPartial(request_id=request_id, bank=bank, partial_share=partial_share, with_parties=parties)
        yield from call(parties[0], part, pb.Empty)
    else:
        add = pb.AddPartial(request_id=request_id, partial_share=partial_share, with_parties=parties)
        yield from call(coordinator, add, pb.Empty)


def lead_serves(
    bank: str,
    asked: pb.OpenPartial,
    opened: tuple[bytes, bytes],
    opens: Bands | SingleDecision,
    labels: tuple[LeadPool, Labels, Garbler],
) -> Protocol[None]:
    """Lead: open one circuit for a request id, after its own part; the same request gets the same tables.

    Other choices are refused: a bank that shifts its share could search for the score.

    asked : what was opened, with all that take part, this lead first.
    opened : its digest, and the lead's own part; on disk, as is the log's entry of the circuit.
    opens : bands whose number is opened, or the decision.
    labels : the pool, and of the circuit asked for the labels of the bank's share and the engine.
    """
    request: Message = asked
    answer: pb.OpenedPartial | None = None
    while True:
        try:
            check_same(request, opened, asked.with_parties[0])
            if answer is None:
                parts = yield from _parts_of_all(asked.with_parties, opened[1])
                answer = _garbled(asked, opens, labels, parts)
        except VeilscoreError as error:
            yield Refuse(bank, error)
        else:
            yield Send(bank, answer)
        request = yield Serve(bank, CALLS)


def _parts_of_all(parties: Sequence[str], own_part: bytes) -> Protocol[list[bytes]]:
    parts = [own_part]
    for party in parties[1:]:
        message = yield from receive(party, pb.BandPartial)
        if tuple(message.with_parties) != tuple(parties):
            raise ProtocolError("the holders of this request are not those it began with; use a new request id")
        parts.append(message.partial_share)
    return parts


def _garbled(
    asked: pb.OpenPartial,
    opens: Bands | SingleDecision,
    labels: tuple[LeadPool, Labels, Garbler],
    parts: Sequence[bytes],
) -> pb.OpenedPartial:
    (_, theirs, garbler), parties = labels, asked.with_parties
    if isinstance(opens, Bands):
        tables, decoding = garble(theirs, garbler, sum_of_parts(parts, parties), opens)
    else:
        tables, decoding = opens.garble(theirs, garbler, opens.add_up(parts, parties))
    return pb.OpenedPartial(tables=tables, decoding=decoding)


def circuit_opened(
    bank: str, asked: pb.OpenPartial, opens: Bands | SingleDecision | None, pool: LeadPool
) -> BandOpened | DecisionOpened:
    """Lead: return the entry of a circuit, which says whose labels it takes and nothing of the parts."""
    if opens is None:
        raise MessageError("an exact score is opened by no circuit", party=bank)
    said = {
        "holder": asked.with_parties[0],
        "bank": bank,
        "request": asked.request_id,
        "pool": asked.pool_id,
        "circuit": str(asked.circuit),
        "commitment": pool.base.commitment.hex(),
    }
    messages, sha256 = pool.messages(asked.circuit), opens.sha256.hex()
    if isinstance(opens, Bands):
        return BandOpened(**said, bands=sha256, messages=messages)
    return DecisionOpened(**said, decision=sha256, messages=messages)
