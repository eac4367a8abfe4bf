"""Faults of the wire and of a dishonest sender, anywhere in any protocol.

A lost, doubled, late, changed, cut, lengthened or strange frame: the run ends with the right result or with a
VeilscoreError, soon, and never with a wrong result.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
import test_binning
import test_scorecard
import test_scoring
from faulty_network import FaultyNetwork, frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from veilscore.errors import VeilscoreError
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.v1 import align_pb2, score_pb2, scorecard_pb2, wire_pb2
from veilscore.wire.framing import parse
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, encode

pytestmark = pytest.mark.slow
TIMEOUT_S = 0.5
IDS = [f"firm{k}" for k in range(40)]


# --- one small run of each protocol, and what is right ----------------------------------------------------------------


def align(**options):
    limits = AlignLimits(part_size=8, size_step=1)
    sessions = {p: Session("job/align/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    roles = {
        "bank": bank_align(sessions["bank"], "tax", IDS, limits),
        "tax": holder_align(sessions["tax"], IDS[10:][::-1], limits=limits),
    }
    done = simulate(roles, sessions, **options)
    assert done["bank"].padded_size == 30
    assert done["tax"].row_of.tolist() == [-1] * 10 + list(range(30))[::-1]


COLUMNS = {"tax": test_binning.make_columns(), "registry": test_binning.make_columns("registry", (3, 2), 2)}


def binning(**options):
    found = test_binning.bin_with(COLUMNS, **options)["bank"]
    for holder, columns in COLUMNS.items():
        expected = test_binning.plain(columns)
        assert np.array_equal(found[holder].bad, expected.bad)
        assert np.array_equal(found[holder].good, expected.good)


@cache
def world():
    return test_scorecard.make_world(2, 120, seed=5)


def train(**options):
    this, found = world(), []
    rng = np.random.default_rng(0)
    points = [(rng.normal(0, 0.4, this.X.shape[1]), 0.1, 7.9) for _ in range(2)]
    test_scorecard.train(this, test_scorecard.ask_for(points, found), **options)
    for (beta, intercept, _), opened in zip(points, found, strict=True):
        p = 1 / (1 + np.exp(-this.X @ beta - intercept))
        assert np.abs(opened - this.design.T @ (p - this.y)).max() < 0.02


def score(**options):
    holders = ("tax", "registry")
    found = test_scoring.score(holders, **options)["bank"]
    assert np.array_equal(found.points, test_scoring.expected(holders))


PROTOCOLS = {"align": align, "bin": binning, "train": train, "score": score}


@cache
def messages_of(name):
    """Every message of an undisturbed run, as (sender, recipient, sequence)."""
    seen = []

    def look(sender, recipient, sequence, payload):
        seen.append((sender, recipient, sequence))
        return [payload]

    PROTOCOLS[name](network=FaultyNetwork(look, timeout_s=20.0))
    return tuple(sorted(seen))


# --- faults ----------------------------------------------------------------------------------------------------------


def lost(frames, new, at):
    return []


def doubled(frames, new, at):
    return [new, new]


def much_repeated(frames, new, at):
    return [new] * 5


def earlier_again(frames, new, at):
    return [*frames[:1], new]


def changed(frames, new, at):
    place = int(at * (len(new) - 1))
    return [new[:place] + bytes([new[place] ^ 1 << place % 8]) + new[place + 1 :]]


def truncated(frames, new, at):
    return [new[: int(at * (len(new) - 1))]]


def lengthened(frames, new, at):
    return [new + b"\0" * (1 + int(at * 9))]


def garbage(frames, new, at):
    return [np.random.default_rng(int(at * 1e6)).bytes(int(at * 200))]


def of_another_session(frames, new, at):
    return [rewrite(new, session="job/other/1")]


def of_another_sender(frames, new, at):
    return [rewrite(new, sender="mallory")]


def numbered_wrongly(frames, new, at):
    return [rewrite(new, sequence=int(at * 50) + 100)]


def rewrite(item, **fields):
    end = 4 + int.from_bytes(item[:4], "little")
    header = parse(wire_pb2.Header, item[4:end], "test")
    for name, value in fields.items():
        setattr(header, name, value)
    data = header.SerializeToString()
    return len(data).to_bytes(4, "little") + data + item[end:]


FAULTS = (
    lost,
    doubled,
    much_repeated,
    earlier_again,
    changed,
    truncated,
    lengthened,
    garbage,
    of_another_session,
    of_another_sender,
    numbered_wrongly,
)
HARMLESS = {doubled, much_repeated, earlier_again}


def disturb(place, fault, at):
    frames = {}

    def wire(sender, recipient, sequence, item):
        known = frames.setdefault((sender, recipient), [])
        arriving = fault(known, item, at) if (sender, recipient, sequence) == place else [item]
        known.append(item)
        return arriving

    return wire


def swap(place):
    """The message at `place` arrives after the next one of the same pair."""
    held = {}

    def wire(sender, recipient, sequence, item):
        if (sender, recipient, sequence) == place:
            held[place[:2]] = item
            return []
        return [item, held.pop((sender, recipient))] if (sender, recipient) in held else [item]

    return wire


def bad_wire(faults):
    return FaultyNetwork(faults, timeout_s=TIMEOUT_S)


def ends_well(run, **options):
    """Whether the run ended with the right result; else it was a VeilscoreError; nothing lasts long."""
    start = time.monotonic()
    try:
        run(timeout_s=TIMEOUT_S, **options)
    except VeilscoreError:
        return False
    finally:
        assert time.monotonic() - start < 20 * TIMEOUT_S
    return True


SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", PROTOCOLS)
@SETTINGS
@given(st.data())
def test_one_fault_anywhere(name, data):
    place = data.draw(st.sampled_from(messages_of(name)))
    fault = data.draw(st.sampled_from(FAULTS))
    at = data.draw(st.floats(0, 1))
    right = ends_well(PROTOCOLS[name], network=bad_wire(disturb(place, fault, at)))
    assert not right or fault in HARMLESS


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(SETTINGS, max_examples=5)
@given(st.data())
def test_messages_out_of_order(name, data):
    assert not ends_well(PROTOCOLS[name], network=bad_wire(swap(data.draw(st.sampled_from(messages_of(name))))))


@pytest.mark.parametrize("name", PROTOCOLS)
@settings(SETTINGS, max_examples=5)
@given(st.integers(0, 2**32))
def test_a_bad_wire(name, seed):
    """Each frame is doubled with probability 1/4 and lost with probability 1/20."""
    rng = np.random.default_rng(seed)

    def wire(sender, recipient, sequence, item):
        return [] if rng.random() < 0.05 else [item] * (1 + int(rng.random() < 0.25))

    ends_well(PROTOCOLS[name], network=bad_wire(wire))


def test_repeats_everywhere_do_no_harm():
    for run in PROTOCOLS.values():
        run(network=FaultyNetwork(lambda sender, recipient, sequence, item: [item] * 3, timeout_s=20.0))


# --- a dishonest sender: its messages are well framed -----------------------------------------------------------------

STRANGE = (
    align_pb2.AlignHolderRound2(accepted=True),
    align_pb2.AlignBankRound1(n_ids=1, points=bytes(512 * 32)),
    scorecard_pb2.BinHolderHints(part=0, parts=1, data=b"x"),
    scorecard_pb2.BinBankRound1(n_samples=1, train_mask=b"\1", n_train=1),
    scorecard_pb2.TrainBankStep(finished=True),
    scorecard_pb2.TrainHolderGradient(reply=b"", rounded=b""),
    scorecard_pb2.TrainLeadSigmoid(part=0, parts=1, reply=b""),
    score_pb2.BatchHolderRound1(accepted=True),
    score_pb2.BatchCoordinatorTotal(part=0, parts=1, data=b""),
)


@pytest.mark.parametrize("name", PROTOCOLS)
@SETTINGS
@given(st.data())
def test_a_strange_message_anywhere(name, data):
    place = data.draw(st.sampled_from(messages_of(name)))
    strange = data.draw(
        st.one_of(
            st.sampled_from(STRANGE).map(encode),
            st.binary(max_size=60),
            st.just(b""),
        )
    )

    replaced = []

    def lie(sender, recipient, sequence, payload):
        if (sender, recipient, sequence) != place:
            return [payload]
        replaced.append(payload)
        return [strange]

    good = ends_well(PROTOCOLS[name], tamper=lie)
    assert not good or replaced == [strange]  # the draw may hit on the message itself


def test_frames_are_what_nodes_send():
    item = frame("job/bin/1", "bank", "tax", 3, b"payload")
    end = 4 + int.from_bytes(item[:4], "little")
    header = wire_pb2.Header.FromString(item[4:end])
    assert (header.session, header.sender, header.recipient, header.sequence) == ("job/bin/1", "bank", "tax", 3)
    assert item[end:] == b"payload"
