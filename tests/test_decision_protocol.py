"""Batches of decisions: equal to the plain decision, hostile messages, what the parties see, a watch over months."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chances import uniform
from memory_decisions import World
from test_scoring import hostile

from veilscore.errors import MessageError, RefusedError, StateError, VeilscoreError
from veilscore.protocols import banding, decision
from veilscore.protocols.decision_watch import BankLevels, LeadLevels
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.framing import kind_of

WORLD = World(5, ("tax", "registry"), 150, n_trees=1, tell_measure=True)


@pytest.mark.parametrize("holders", [("tax",), ("registry", "tax"), ("tax", "registry", "court")])
def test_decisions_are_the_plain_ones(holders, monkeypatch):
    monkeypatch.setattr(banding, "PIECE", 64)  # several pieces, the last one short
    world = World(len(holders), holders, 150, tell_measure=True)
    done = world.run()
    steps, which = world.expected()
    assert np.array_equal(done["bank"].steps, steps)
    assert np.array_equal(done["bank"].which, which)
    assert set(steps.tolist()) == set(range(6))
    assert set(which.tolist()) == {0, 1, 2, 3}
    assert {done[h] for h in holders} == {150}
    assert np.array_equal(done["bank"].unknown["tax"], world.unknown["tax"])
    assert all(mask is None for name, mask in done["bank"].unknown.items() if name != "tax")


def test_a_refusal_is_told_to_the_bank():
    with pytest.raises(RefusedError, match=r"refuse.*: another version"):
        WORLD.run(refusals={"registry": "another version"})


FAULTS = [
    (pb.DecisionBankRound1, "n_samples", 149),
    (pb.DecisionBankRound1, "decision", b"short"),
    (pb.DecisionBankRound1, "inputs_hash", b""),
    (pb.DecisionBankRound1, "links", bytes(4 * 150)),
    (pb.DecisionBankRound1, "last", "job"),
    (pb.DecisionHolderRound1, "unknown", b"\xff"),
    (pb.DecisionHolderRound1, "mask_seed", b"short"),
    (pb.BandHolderPartial, "data", lambda data: data[:-8]),
    (pb.BandHolderPartial, "data", lambda data: b"\xff" * len(data)),
    (pb.BandBankLabels, "data", lambda data: data[:-8]),
    (pb.BandLeadTables, "data", lambda data: data[:-32]),
    (pb.BandLeadDecoding, "bits", lambda bits: bits + b"\0"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0].__name__}-{f[1]}")
def test_wrong_messages_are_refused(fault):
    with pytest.raises(VeilscoreError):
        WORLD.run(tamper=hostile(*fault), timeout_s=1.0)


def sums_at_the_lead(monkeypatch, world):
    """What the lead adds up of each measure."""
    found, honest = [], decision._garble

    def garble(session, request, circuit, totals, levels):
        found[:] = totals
        return honest(session, request, circuit, totals, levels)

    monkeypatch.setattr(decision, "_garble", garble)
    steps = world.run()["bank"].steps
    assert np.array_equal(steps, world.expected()[0])
    return found


def test_the_lead_reads_nothing_of_points_that_others_know(monkeypatch):
    """Hand-written points and knock-outs of the other holder: uniform at the lead; without masks it reads them."""
    world = World(12, ("tax", "registry"), 2000, n_trees=1)
    for total, measure in zip(sums_at_the_lead(monkeypatch, world), world.circuit.measures, strict=True):
        assert uniform(total, measure.modulus)
    monkeypatch.undo()
    monkeypatch.setattr(decision, "_mask", lambda _session, _holder, _seed, n, _modulus: np.zeros(n, np.uint64))
    *_, capacity, failures = sums_at_the_lead(monkeypatch, world)
    assert np.array_equal(capacity, world.by_hand["registry"])
    assert np.array_equal(failures, -world.failures % 128)


def test_different_decisions_at_holders_open_nothing():
    """A bank that tells one holder another decision gets steps that have nothing to do with the firms."""
    world = World(6, ("tax", "registry"), 400, n_trees=1)
    seen = []

    def two_faces(sender, recipient, _sequence, payload):
        if kind_of(payload) == "DecisionBankRound1" and recipient == "registry":
            seen.append(sender)
            return [payload.replace(b"d" * 32, b"e" * 32)]
        return [payload]

    steps = world.run(tamper=two_faces)["bank"].steps
    assert seen == ["bank"]
    expected, _ = world.expected()
    # totals are uniform in each ring, far from all cut-offs: next to no firm is between none and the top
    free = world.bound == 5
    assert np.isin(expected[free], range(1, 5)).mean() > 0.2
    assert np.isin(steps[free], range(1, 5)).mean() < 0.1


def seen_in(world):
    """Bytes by kind and recipient."""
    found = {}

    def watch(_sender, recipient, _sequence, payload):
        key = kind_of(payload), recipient
        found[key] = found.get(key, 0) + len(payload)
        return [payload]

    return world.run(tamper=watch), found


def test_sizes_tell_nothing_and_the_coordinator_sees_nothing():
    world = World(7, ("tax", "registry"), 100, n_trees=1)
    done, sizes = seen_in(world)
    world.own = world.own - 5000
    world.failures = np.ones_like(world.failures)
    other, other_sizes = seen_in(world)
    assert sizes == other_sizes
    assert done["bank"].steps.max() > other["bank"].steps.max() == 0
    assert all(recipient != "coordinator" for _, recipient in sizes)
    assert {kind for kind, recipient in sizes if recipient == "bank"} == {
        "DecisionHolderRound1", "BatchHolderHints", "BatchHolderReply", "BandLeadBase", "BandLeadTables",
        "BandLeadDecoding",
    }  # fmt: skip


# --- a watch ---------------------------------------------------------------------------------------------------------


def months(n_months, n_rows=120):
    """Months of a watch whose firms change and come in another order; each with its links to the one before."""
    rng = np.random.default_rng(11)
    firms = np.arange(n_rows)
    for month in range(n_months):
        world = World(20 + month, ("tax", "registry"), n_rows, n_trees=1)
        now = rng.permutation(n_rows + 20)[:n_rows] if month else firms
        place = {int(firm): k + 1 for k, firm in enumerate(firms)}
        links = np.array([place.get(int(firm), 0) for firm in now]) if month else np.zeros(0, np.int64)
        yield world, links
        firms = now


def test_levels_of_a_watch_only_rise(monkeypatch):
    monkeypatch.setattr(banding, "PIECE", 50)
    before = None
    for number, (world, links) in enumerate(months(3)):
        bits, top = world.circuit.step_bits, world.circuit.n_steps
        bank, lead, last = BankLevels(bits), LeadLevels(bits, top), None
        if before is not None:
            bank, lead = BankLevels(bits, before[0]), LeadLevels(bits, top, *before[1])
            last = np.where(links > 0, before[2][links - 1], top)
        request = replace(world.request, last="job" if number else "", links=links)
        done = world.run(number=number, request=request, bank_levels=bank, lead_levels=lead)
        expected, _ = world.expected(last)
        assert np.array_equal(done["bank"].steps, expected)
        if last is not None:
            assert (expected < world.expected()[0]).any()  # last month's step binds for some
            assert (links == 0).any()
        before = bank.labels, (lead.labels, lead.offset), done["bank"].steps
    # the lead has both labels of each bit, the bank the one of its bit
    bits = (before[2][None] >> np.arange(bank.n_bits)[:, None] & 1).astype(bool)
    assert np.array_equal(bank.labels ^ (bits[..., None] * lead.offset), lead.labels)


def test_a_bank_that_claims_a_higher_step_of_last_month_gets_no_step():
    """It has no label of a step that it did not get: with another one, what comes out has no meaning."""
    (first, _), (second, links) = months(2)
    bits, top = first.circuit.step_bits, first.circuit.n_steps
    bank, lead = BankLevels(bits), LeadLevels(bits, top)
    first.run(bank_levels=bank, lead_levels=lead)
    request = replace(second.request, last="job", links=links)
    forged = np.random.default_rng(1).integers(0, 1 << 63, bank.labels.shape).astype(np.uint64)
    try:
        done = second.run(
            number=2, request=request, bank_levels=BankLevels(bits, forged),
            lead_levels=LeadLevels(bits, top, lead.labels, lead.offset),
        )  # fmt: skip
    except MessageError:
        return  # a step that there is not came out
    free, _ = second.expected()
    linked = links > 0
    assert (done["bank"].steps[linked] == free[linked]).mean() < 0.7


def test_damaged_labels_of_last_month_are_refused():
    (first, _), (second, links) = months(2)
    bits, top = first.circuit.step_bits, first.circuit.n_steps
    bank, lead = BankLevels(bits), LeadLevels(bits, top)
    first.run(bank_levels=bank, lead_levels=lead)
    request = replace(second.request, last="job", links=links)
    with pytest.raises(StateError, match="restore them from backup"):
        second.run(
            number=2, request=request, bank_levels=BankLevels(bits, bank.labels),
            lead_levels=LeadLevels(bits, top, lead.labels[:, :10], lead.offset), timeout_s=2.0,
        )  # fmt: skip
