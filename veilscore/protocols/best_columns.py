"""Chooses the best k of a holder's columns on shares, with the holder's noise; only which columns they are is opened.

Source   : `models/best_columns.py` (patterns, noise), `lattice/packed_sums.py` (weighted sums of one encrypted vector),
           half gates (`crypto/garbled.py`); the search is a selection by radix, from the highest bit down.
Parties  : The bank has the label, each holder has columns; they meet pairwise. The holder garbles.
Messages : ScreenBankRound1 (training mask, public key), ScreenBankLabel (labels less their mean, encrypted), then for
           each chunk of columns ScreenHolderChunk (names, number of patterns) and ScreenHolderSums. ScreenSealed both
           ways (base points, labels of the bank's shares, tables, colours of the result), ScreenHolderKept,
           ScreenBankKept (hash of the bank's result).
Reveals  : The bank learns the number of columns and patterns, which do not depend on rows, and which columns are kept,
           charged before it is told. A holder learns which rows train, and which of its patterns are the best. No sum.
Assumes  : Parties are semi-honest; ring-LWE and computational Diffie-Hellman in ristretto255 are hard; AES is a random
           permutation. That labels are 0 or 1 bounds what a firm moves; an audit replays the bank to see it.
Aborts   : MessageError on any wrong size, shape or range.

The bank evaluates and keeps its labels' colours, which are random bits without the holder's; it sends them on, and the
holder reads the result. So patterns, groups of levels among them, are told to nobody but their owner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import add, constant, count_set, exceeds, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler, Plain
from veilscore.crypto.group import POINT_BYTES
from veilscore.crypto.oblivious import WIDTH, LabelReceiver, LabelSender, message_bytes
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.packed_sums import SumsEvaluator, SumsKey, query_bytes, reply_bytes
from veilscore.lattice.params import T
from veilscore.models.best_columns import LABEL_BITS, MOST_NOISE, centred, gumbel, noise_scale
from veilscore.protocols.binning import MAX_COLUMNS, training_rows
from veilscore.v1 import screening_pb2 as pb
from veilscore.wire.protocol import (
    Charge,
    Progress,
    Protocol,
    Send,
    Session,
    interleave,
    receive,
    receive_parts,
    send_parts,
)

MAX_CHUNKS = 1 << 14
MAX_PATTERNS = 1 << 17  # of a holder
SHARE_BITS = (T - 1).bit_length()
SCORE_BITS = SHARE_BITS - 1  # of an absolute sum plus noise
_LIFT = 1 << SCORE_BITS  # added to a sum, so that its top bit is its sign
_BITS_AT_ONCE = 8  # of the search, whose tables are one message


@dataclass(frozen=True, eq=False)
class PatternChunk:
    """Some columns of a holder, in the order of its data set.

    weights : (n_patterns, n_train) of the training rows; a firm that is not known has 0.
    column : (n_patterns,) which of these columns each is of.
    """

    names: tuple[str, ...]
    weights: NDArray[np.int32]
    column: Integers


@dataclass(frozen=True, eq=False)
class BestColumns:
    """A holder's columns, and which of them are kept."""

    names: tuple[str, ...]
    kept: Mask


# --- the circuit -----------------------------------------------------------------------------------------------------


def best_of(engine: Any, own: Any, other: Any, noise: Any, k: int) -> Generator[None, None, Any]:
    """Find the k largest of absolute sums plus noise; it pauses where the tables made so far are one message.

    own, other : words (SHARE_BITS, n) of shares modulo T, one of them lifted; noise : (SCORE_BITS, n).
    Returns a bit a sum (n,), set where it is at least the k-th largest.
    """
    zero = own[:1] ^ own[:1]
    total = add(engine, np.concatenate([own, zero]), np.concatenate([other, zero]))
    wrapped = exceeds(engine, total, constant(engine, T - 1, total[0], len(total)))
    less = (1 << len(total)) - T
    value = add(engine, total, np.stack([wrapped if less >> i & 1 else zero[0] for i in range(len(total))]))
    below = engine.invert(value[SCORE_BITS])
    score = add(engine, value[:SCORE_BITS] ^ below, noise)  # one's complement: off by a unit below zero
    yield
    alive, above = engine.invert(zero[0]), zero[0]  # scores that begin as the k-th largest does, or are larger
    for place in reversed(range(SCORE_BITS)):
        ones = engine.conjunction(alive, score[place])
        count = count_set(engine, ones ^ above)
        few = engine.invert(exceeds(engine, count, constant(engine, k - 1, count[0], len(count))))
        both = engine.conjunction(np.broadcast_to(few, (2, *alive.shape)), np.stack([ones, alive]))
        above, alive = above ^ both[0], ones ^ both[1]
        if place and not place % _BITS_AT_ONCE:
            yield
    return above ^ alive


@lru_cache(maxsize=16)
def gates_by_stage(n: int, k: int) -> tuple[int, ...]:
    """Return the ANDs between one pause of the circuit and the next, as counted by running it in the clear."""
    engine = Plain()
    share, noise = np.zeros((SHARE_BITS, n), bool), np.zeros((SCORE_BITS, n), bool)
    found = [engine.gates for _ in best_of(engine, share, share, noise, k)]
    return tuple(np.diff([0, *found, engine.gates]).tolist())


# --- the bank --------------------------------------------------------------------------------------------------------


def bank_best(
    session: Session,
    target: NDArray[np.int8],
    train: Mask,
    k: int,
    choose: Callable[[dict[str, BestColumns]], bytes],
    own: Callable[[], None],
) -> Protocol[None]:
    """Bank: have each holder's best columns chosen; `choose` returns the hash of the result that holders keep.

    target : (n_samples,) 1 = bad; train : (n_samples,) which rows train.
    k : patterns that are kept of a holder.
    own : what the bank does on its own columns, while the holders begin.
    """
    label = shares.to_ring(centred(target[train]))
    parts = {}
    for holder in session.holders:
        key = SumsKey(session.label("best columns", session.bank, holder), label.size)
        message = pb.ScreenBankRound1(
            n_samples=train.size,
            train_mask=shares.bits_to_bytes(train),
            n_train=label.size,
            public_key=key.public(),
        )
        yield Send(holder, message)
        yield from send_parts(holder, pb.ScreenBankLabel, b"".join(key.encrypt(label)))
        parts[holder] = _bank_side(session, holder, key, label.size, k)
    own()
    found = yield from interleave(parts)
    digest = choose(found)
    for holder in session.holders:
        kept = shares.bits_to_bytes(found[holder].kept)
        yield Send(holder, pb.ScreenBankKept(kept=kept, screening_hash=digest))


def _bank_side(session: Session, holder: str, key: SumsKey, n_train: int, k: int) -> Protocol[BestColumns]:
    names, share = list[str](), list[Words]()
    n_patterns, n_chunks, chunk = 0, 1, 0
    while chunk < n_chunks:
        message = yield from receive(holder, pb.ScreenHolderChunk)
        if message.chunk != chunk or not chunk < message.chunks <= MAX_CHUNKS:
            raise MessageError(f"chunk {message.chunk} came in place of {chunk}", party=holder)
        n_chunks = message.chunks
        names += message.columns
        n_patterns += message.patterns
        if not len(message.columns) <= message.patterns or n_patterns > MAX_PATTERNS or len(names) > MAX_COLUMNS:
            raise MessageError("a chunk has more columns than patterns, or there are too many in all", party=holder)
        reply = yield from receive_parts(holder, pb.ScreenHolderSums, reply_bytes(n_train, message.patterns))
        share.append(key.share(reply, message.patterns))
        chunk += 1
        yield Progress(f"columns of {holder}", chunk, n_chunks)
    if len(set(names)) != len(names) or not all(0 < len(name) <= 200 for name in names):
        raise MessageError("a column name has the wrong length, or is there twice", party=holder)
    if len(names) > k:
        yield from _bank_circuit(session, holder, np.concatenate(share), k)
    answer = yield from receive(holder, pb.ScreenHolderKept)
    kept = shares.bits_from_bytes(answer.kept, len(names))
    if kept.sum() > k or (len(names) <= k and not kept.all()):
        raise MessageError(f"of {len(names)} columns the holder keeps {kept.sum()}, at most {k} are due", party=holder)
    return BestColumns(tuple(names), kept)


def _bank_circuit(session: Session, holder: str, share: Words, k: int) -> Protocol[None]:
    label = session.label("best columns circuit", holder, session.bank)
    receiver, evaluator = LabelReceiver(label), Evaluator(label)
    yield from send_parts(holder, pb.ScreenSealed, receiver.base())
    receiver.accept((yield from receive_parts(holder, pb.ScreenSealed, WIDTH * POINT_BYTES)))
    lifted = shares.add(share, np.full(share.size, _LIFT, np.uint64))
    message, own = receiver.extend(to_bits(lifted, SHARE_BITS))
    yield from send_parts(holder, pb.ScreenSealed, message)
    theirs, noise = (evaluator.own((bits, share.size)) for bits in (SHARE_BITS, SCORE_BITS))
    circuit = best_of(evaluator, own, theirs, noise, k)
    for n_gates in gates_by_stage(share.size, k):
        evaluator.feed((yield from receive_parts(holder, pb.ScreenSealed, GATE_BYTES * n_gates)))
        try:
            next(circuit)
        except StopIteration as stop:
            colours = evaluator.decode(stop.value, np.zeros(share.size, bool))
        evaluator.done()
    yield from send_parts(holder, pb.ScreenSealed, shares.bits_to_bytes(colours))


# --- a holder --------------------------------------------------------------------------------------------------------


def holder_best(
    session: Session,
    open_chunks: Callable[[Mask], tuple[int, Iterator[PatternChunk]]],
    n_samples: int,
    n_rows: int,
    told_rows: int,
    k: int,
    charge: Charge,
) -> Protocol[tuple[Mask, bytes]]:
    """Holder: choose its best columns with noise; return the mask of kept columns and the screening's hash.

    open_chunks : given which rows train, the number of chunks and the chunks, made one at a time.
    n_samples : aligned rows; n_rows : rows of its whole table, the scale of weights; told_rows : the padded number, at
    least as large, that the bank knows from alignment.
    """
    request = yield from receive(session.bank, pb.ScreenBankRound1)
    train = training_rows(session, request, n_samples)
    n_train = int(train.sum())
    sums = SumsEvaluator(session.label("best columns", session.bank, session.party), n_train, request.public_key)
    sums.add((yield from receive_parts(session.bank, pb.ScreenBankLabel, query_bytes(n_train))))
    n_chunks, chunks = open_chunks(train)
    n_columns, share, column = 0, list[Words](), list[Integers]()
    for number, chunk in enumerate(chunks):
        n_patterns = len(chunk.weights)
        message = pb.ScreenHolderChunk(chunk=number, chunks=n_chunks, columns=chunk.names, patterns=n_patterns)
        yield Send(session.bank, message)
        reply, own = sums.weighted(chunk.weights)
        yield from send_parts(session.bank, pb.ScreenHolderSums, reply)
        share.append(own)
        column.append(n_columns + chunk.column)
        n_columns += len(chunk.names)
        yield Progress("columns", number + 1, n_chunks)
    kept = np.ones(n_columns, bool)
    if n_columns > k:
        noise = _noise_units(charge, k, sum(map(len, share)), n_rows, told_rows, n_train)
        found = yield from _holder_circuit(session, np.concatenate(share), noise, k)
        kept = np.isin(np.arange(n_columns), np.concatenate(column)[found])
        yield charge
    yield Send(session.bank, pb.ScreenHolderKept(kept=shares.bits_to_bytes(kept)))
    answer = yield from receive(session.bank, pb.ScreenBankKept)
    if not np.array_equal(shares.bits_from_bytes(answer.kept, n_columns), kept) or len(answer.screening_hash) != 32:
        raise MessageError("the bank keeps other columns than were chosen, or its hash is short", party=session.bank)
    return kept, answer.screening_hash


def _noise_units(charge: Charge, k: int, n: int, n_rows: int, told_rows: int, n_train: int) -> Words:
    """Draw the noise of n sums in units of their shares; ParameterError where a noised sum could pass its word."""
    scale = noise_scale(1 / charge.sigma(1.0), k)
    # by the number that was told, not the true one: the bank chooses mu, and a refusal would tell it of one firm
    if (told_rows << LABEL_BITS) * (n_train + MOST_NOISE * scale) >= _LIFT:
        raise ParameterError(
            f"{n_train} training rows and {told_rows} rows of the holder are more than a screening takes at mu "
            f"{math.sqrt(charge.mu2):g}"
        )
    return np.rint(gumbel(scale, n) * (n_rows << LABEL_BITS)).astype(np.uint64)


def _holder_circuit(session: Session, share: Words, noise: Words, k: int) -> Protocol[Mask]:
    label = session.label("best columns circuit", session.party, session.bank)
    sender = LabelSender(label, (yield from receive_parts(session.bank, pb.ScreenSealed, POINT_BYTES)))
    garbler = Garbler(label, sender.offset)
    yield from send_parts(session.bank, pb.ScreenSealed, sender.choices())
    size = message_bytes(SHARE_BITS * share.size)
    theirs = sender.extend((yield from receive_parts(session.bank, pb.ScreenSealed, size)), (SHARE_BITS, share.size))
    own, drawn = garbler.own(to_bits(share, SHARE_BITS)), garbler.own(to_bits(noise, SCORE_BITS))
    circuit = best_of(garbler, theirs, own, drawn, k)
    for _ in gates_by_stage(share.size, k):
        try:
            next(circuit)
        except StopIteration as stop:
            decoding = garbler.decoding(stop.value)
        yield from send_parts(session.bank, pb.ScreenSealed, garbler.tables())
    colours = yield from receive_parts(session.bank, pb.ScreenSealed, -(-share.size // 8))
    found = shares.bits_from_bytes(colours, share.size) ^ decoding
    if found.sum() != k:
        raise MessageError(f"the circuit found {found.sum()} of {k} patterns", party=session.bank)
    return found
