"""Decides many firms at once: bank and lead share the totals of each measure, one circuit opens the least step.

Source   : `veilscore.protocols.scoring` and `tree_scoring` up to the opening, for each measure; the circuit of
           `decision_circuit`; docs/protocols/decision.md.
Parties  : the bank (its points, its own bound of each firm; evaluates), the holders (codes, or points where a model is
           written by hand), the first of them as lead (adds up what the others mask; garbles).
Messages : DecisionBankRound1 -> DecisionHolderRound1, BatchHolderKey (holder to holder); then for each measure and
           each holder with a part in it the messages of scoring; BandHolderPartial (to the lead), and BandBankBase,
           BandLeadBase and for each piece of rows BandBankLabels, BandLeadTables, BandLeadDecoding as in `banding`.
           In a watch DecisionLeadLevels before the first piece (`decision_watch`).
Reveals  : to the bank, the step of each firm, and where the decision says so the measure that binds. To a holder, the
           decision (which it accepted by hash) and whether the bank's inputs are those of an earlier batch; in a watch,
           which rows were in last month's. To the lead, nothing more.
           The lead adds up what the others send. Points that a holder knows itself are no random share, so each holder
           masks its parts by a seed that the bank alone gets: what the lead adds up is uniform for every measure.
Assumes  : as `scoring` and `banding`: semi-honest parties; bank and lead together know the totals.
Aborts   : RefusedError where a holder refuses; MessageError on a message of wrong size, or a step that there is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from typing import Protocol as Interface

import numpy as np

from veilscore.arrays import CodeArray, Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.crypto.garbled import Evaluator, Garbler
from veilscore.crypto.zero_share import PairwiseKey, share_context, uniform_masks, zero_share
from veilscore.errors import MessageError, RefusedError
from veilscore.models.boosted import Boosted
from veilscore.models.trees import Tree
from veilscore.protocols.banding import bank_evaluated, lead_garbles
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.protocols.decision_watch import BankLevels, LeadLevels
from veilscore.protocols.scoring import HolderPart, bank_points_share, points_share, zero_share_keys
from veilscore.protocols.tree_scoring import bank_tree_points_share, holder_tree_share
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Charge, Progress, Protocol, Send, Session, receive, receive_parts, send_parts
from veilscore.wire.randomness import secret_bytes

_HASH_BYTES = _SEED_BYTES = 32


@dataclass(frozen=True)
class DecisionRequest:
    """What the bank says of a batch of decisions.

    decision : SHA-256 of the decision as it is filed, at all parties the same.
    inputs : the bank's keyed digest of what it puts in itself.
    last : in a watch, the job whose levels this one does not go below; "" for none.
    links : (n_rows,) in a watch with a last job, each row's number there from 1 on, 0 for a firm that is new.
    """

    n_rows: int
    decision: bytes
    inputs: bytes
    last: str = ""
    links: Integers = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)


@dataclass(frozen=True)
class Decided:
    """What the bank learns: `steps` (n_rows,), `which` measure binds where it is told, and the firms unknown there."""

    steps: Integers
    which: Integers | None
    unknown: dict[str, Mask | None]  # holder -> (n_rows,) which firms it does not know; None: it does not say


class BankMeasure(Interface):
    """One measure at the bank."""

    def share(self, session: Session) -> Protocol[Integers]:
        """Return the bank's share (n_rows,) of the totals, of any sign."""


class HolderMeasure(Interface):
    """One measure at a holder."""

    def share(self, session: Session) -> Protocol[Words]:
        """Return the holder's share (n_rows,) of the totals, below the modulus of the measure."""


def _in(session: Session, measure: str) -> Session:
    """Return the session of one measure: its hints and shares of zero are of no other."""
    return replace(session, id=f"{session.id}/{measure}")


# --- bank ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BankPoints:
    """A scorecard at the bank: `own` (n_rows,) points, and of each holder the points of its cells, to be looked up.

    Of a model that is written by hand, and of knock-outs, holders know their own points and nothing is looked up.
    """

    own: Integers
    parts: Mapping[str, HolderPart] = field(default_factory=dict)

    def share(self, session: Session) -> Protocol[Integers]:
        """Return the bank's share of the totals."""
        return (yield from bank_points_share(session, self.own, self.parts))


@dataclass(frozen=True)
class BankTreePoints:
    """Trees at the bank: its codes (n_rows, d), and the holders that have a part of the model."""

    model: Boosted
    codes: CodeArray
    holders: tuple[str, ...]

    def share(self, session: Session) -> Protocol[Integers]:
        """Return the bank's share of the totals."""
        return (yield from bank_tree_points_share(session, self.codes, self.model, self.holders))


def bank_decide(
    session: Session,
    request: DecisionRequest,
    circuit: DecisionCircuit,
    measures: Mapping[str, BankMeasure],
    bound: Integers,
    levels: BankLevels | None = None,
) -> Protocol[Decided]:
    """Bank: return the step of each row.

    measures : by name, in the order of the circuit.
    bound : (n_rows,) the highest step that the bank itself allows each firm.
    levels : of a watch; takes the labels of this month's levels.
    Raises RefusedError where a holder refuses, with its reason.
    """
    unknown, parts = yield from bank_totals(session, request, circuit, measures)
    steps = np.empty(request.n_rows, np.int64)
    which = np.empty(request.n_rows, np.int64) if circuit.tell_measure else None

    def run(evaluator: Evaluator, labels: Any, piece: slice) -> Any:
        count = piece.stop - piece.start
        last = None if levels is None else levels.last(piece)
        return circuit(evaluator, labels, evaluator.own((circuit.n_lead_bits, count)), last)

    def read(piece: slice, evaluator: Evaluator, word: Any) -> Protocol[None]:
        opened = yield from receive(session.lead, pb.BandLeadDecoding)
        decoding = shares.bits_from_bytes(opened.bits, circuit.output_bits * word.shape[1])
        steps[piece], told = circuit.read(evaluator.decode(word, decoding.reshape(circuit.output_bits, -1)))
        if which is not None and told is not None:
            which[piece] = told
        if levels is not None:
            levels.keep(piece, word)

    def begin() -> Protocol[None]:
        if levels is not None:
            yield from levels.receive(session, request.links, request.n_rows)

    bits = circuit.bank_bits(parts, bound)
    yield from bank_evaluated(session, bits, circuit.gates(last=levels is not None), run, read, begin=begin)
    return Decided(steps, which, unknown)


def bank_totals(
    session: Session, request: DecisionRequest, circuit: DecisionCircuit, measures: Mapping[str, BankMeasure]
) -> Protocol[tuple[dict[str, Mask | None], list[Integers]]]:
    """Bank: announce a batch, and return the firms unknown to holders, and its share of each measure's totals."""
    unknown, seeds = yield from _ask(session, request)
    parts = []
    both = zip(measures.items(), circuit.measures, strict=True)
    for done, ((name, measure), in_circuit) in enumerate(both, start=1):
        share = yield from measure.share(_in(session, name))
        for holder, seed in seeds.items():
            share = share - _mask(_in(session, name), holder, seed, request.n_rows, in_circuit.modulus).astype(np.int64)
        parts.append(share)
        yield Progress("measures under encryption", done, len(measures))
    return unknown, parts


def _ask(session: Session, request: DecisionRequest) -> Protocol[tuple[dict[str, Mask | None], dict[str, bytes]]]:
    """Announce the batch; return the firms unknown to each holder that says so, and the seed of each holder's masks."""
    for holder in session.holders:
        message = pb.DecisionBankRound1(
            n_samples=request.n_rows,
            decision=request.decision,
            inputs_hash=request.inputs,
            last=request.last,
            links=request.links.astype("<u4").tobytes(),
        )
        yield Send(holder, message)
    unknown: dict[str, Mask | None] = {}
    seeds: dict[str, bytes] = {}
    for holder in session.holders:
        reply = yield from receive(holder, pb.DecisionHolderRound1)
        if not reply.accepted:
            raise RefusedError(f"{holder} refuses to decide: {reply.reason[:200]}", session=session.id, party=holder)
        told = reply.discloses_unknown
        unknown[holder] = shares.bits_from_bytes(reply.unknown, request.n_rows) if told else None
        if len(reply.mask_seed) != _SEED_BYTES:
            raise MessageError("the seed of a holder's masks has the wrong length", session=session.id, party=holder)
        seeds[holder] = bytes(reply.mask_seed)
    return unknown, seeds


def _mask(session: Session, holder: str, seed: bytes, n_rows: int, modulus: int) -> Words:
    """Return what a holder adds to its part of the session's measure, and the bank takes off its own: (n_rows,)."""
    return uniform_masks(seed, session.label("decision masks", holder, session.bank), n_rows, modulus)


# --- holder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HolderPoints:
    """Points (n_rows,) that the holder knows itself: of a model written by hand, of its knock-outs, or none at all."""

    points: Integers = field(repr=False)
    modulus: int

    def share(self, _session: Session) -> Protocol[Words]:
        """Return the points, as the share that they are."""
        yield from ()
        return (self.points % self.modulus).astype(np.uint64)


@dataclass(frozen=True)
class HolderCellPoints:
    """Codes (n_rows, d) of a scorecard, whose points the bank has."""

    codes: CodeArray = field(repr=False)
    n_codes: Integers

    def share(self, session: Session) -> Protocol[Words]:
        """Return the holder's share of the points of its cells."""
        return (yield from points_share(session, self.codes, self.n_codes))


@dataclass(frozen=True)
class HolderTreePoints:
    """Codes (n_rows, d) of a model of trees, and the holder's trees."""

    codes: CodeArray = field(repr=False)
    n_codes: Integers
    trees: Sequence[Tree]

    def share(self, session: Session) -> Protocol[Words]:
        """Return the holder's share of the totals of its trees."""
        return (yield from holder_tree_share(session, self.codes, self.n_codes, self.trees))


@dataclass(frozen=True)
class DecisionAnswer:
    """A holder's answer to a batch of decisions: its part of each measure, or a refusal.

    measures : by name, in the order of the circuit.
    unknown : (n_rows,) firms without a record here; they have the missing codes.
    refusal : the reason that the bank is told; the rest is then ignored.
    levels : of a watch, at the lead.
    """

    circuit: DecisionCircuit | None
    measures: Mapping[str, HolderMeasure]
    unknown: Mask = field(repr=False)
    disclose_unknown: bool
    refusal: str = ""
    levels: LeadLevels | None = None


def holder_receive_decision(session: Session, n_rows: int) -> Protocol[DecisionRequest]:
    """Holder: take the bank's request and check its form.

    n_rows : of the alignment.
    """
    asked = yield from receive(session.bank, pb.DecisionBankRound1)
    if asked.n_samples != n_rows:
        raise MessageError(f"the bank decides on {asked.n_samples} rows, aligned were {n_rows}", party=session.bank)
    if len(asked.decision) != _HASH_BYTES or len(asked.inputs_hash) != _HASH_BYTES:
        raise MessageError("a hash in the bank's request has the wrong length", party=session.bank)
    if len(asked.links) not in {0, 4 * n_rows} or bool(asked.links) != bool(asked.last):
        raise MessageError("links to the last job are not one a row", party=session.bank)
    if len(asked.last) > 80:
        raise MessageError("the last job is no name of a job", party=session.bank)
    links = np.frombuffer(asked.links, "<u4").astype(np.int64)
    return DecisionRequest(n_rows, asked.decision, asked.inputs_hash, asked.last, links)


def holder_decide(session: Session, request: DecisionRequest, answer: DecisionAnswer) -> Protocol[int]:
    """Holder: answer a batch; return the number of rows that it helped to decide.

    Raises RefusedError with the holder's own reason, after the bank was told.
    """
    totals = yield from holder_totals(session, request, answer)
    if totals is not None and answer.circuit is not None:
        yield from _garble(session, request, answer.circuit, totals, answer.levels)
    return request.n_rows


def holder_totals(
    session: Session, request: DecisionRequest, answer: DecisionAnswer, charge: Charge | None = None
) -> Protocol[list[Words] | None]:
    """Holder: answer a batch; the lead returns the holders' shares of each measure's totals, the others None.

    charge : of what the lead will open, which holders write down before their shares leave; the lead does it itself.
    """
    if answer.refusal or answer.circuit is None:
        yield Send(session.bank, pb.DecisionHolderRound1(accepted=False, reason=answer.refusal))
        raise RefusedError(f"decisions refused: {answer.refusal}", session=session.id, party=session.party)
    unknown = shares.bits_to_bytes(answer.unknown) if answer.disclose_unknown else b""
    seed = secret_bytes(_SEED_BYTES)
    yield Send(
        session.bank,
        pb.DecisionHolderRound1(
            accepted=True, discloses_unknown=answer.disclose_unknown, unknown=unknown, mask_seed=seed
        ),
    )
    keys = yield from zero_share_keys(session)
    circuit, parts = answer.circuit, []
    for (name, measure), in_circuit in zip(answer.measures.items(), circuit.measures, strict=True):
        share = yield from measure.share(_in(session, name))
        share = share + _mask(_in(session, name), session.party, seed, request.n_rows, in_circuit.modulus)
        parts.append(_masked(_in(session, name), request, share, keys, in_circuit.modulus))
    if session.party == session.lead:
        return (yield from _add_up(session, circuit, parts))
    if charge is not None:
        yield charge
    yield from send_parts(session.lead, pb.BandHolderPartial, shares.shares_to_bytes(np.stack(parts)))
    return None


def _masked(
    session: Session, request: DecisionRequest, share: Words, keys: dict[str, PairwiseKey], modulus: int
) -> Words:
    # a bank that tells holders different decisions, rows, inputs or consent lists gets numbers that are uniform
    told = request.inputs + request.last.encode() + request.links.astype("<u4").tobytes()
    context = share_context(session.id, session.holders, request.decision, told)
    masked: Words = (share + zero_share(session.party, keys, context, share.size, modulus)) % np.uint64(modulus)
    return masked


def _add_up(session: Session, circuit: DecisionCircuit, parts: Sequence[Words]) -> Protocol[list[Words]]:
    """Lead: return the holders' shares of each measure's totals, its own among them."""
    totals = list(parts)
    n_rows = parts[0].size
    for other in session.holders[1:]:
        data = yield from receive_parts(other, pb.BandHolderPartial, 8 * n_rows * len(parts))
        rows = np.frombuffer(data, "<u8").reshape(len(parts), n_rows)
        for k, measure in enumerate(circuit.measures):
            if (rows[k] >= measure.modulus).any():
                raise MessageError("a share of a total is not below its modulus", party=other)
            totals[k] = (totals[k] + rows[k]) % np.uint64(measure.modulus)
    return totals


def _garble(
    session: Session,
    request: DecisionRequest,
    circuit: DecisionCircuit,
    totals: Sequence[Words],
    levels: LeadLevels | None,
) -> Protocol[None]:
    bits = circuit.lead_bits(totals)

    def begin(garbler: Garbler, offset: Words) -> Protocol[None]:
        if levels is not None:
            yield from levels.send(session, request.links, request.n_rows, garbler, offset)

    def run(garbler: Garbler, theirs: Any, piece: slice) -> Any:
        last = None if levels is None else levels.last(piece)
        return circuit(garbler, theirs, garbler.own(bits[:, piece]), last)

    def release(piece: slice, garbler: Garbler, word: Any) -> Protocol[None]:
        if levels is not None:
            levels.keep(piece, word)
        decoding = garbler.decoding(word).reshape(-1)
        yield Send(session.bank, pb.BandLeadDecoding(bits=shares.bits_to_bytes(decoding)))

    shape = (circuit.n_bank_bits, request.n_rows)
    yield from lead_garbles(session, shape, run, release, begin)
