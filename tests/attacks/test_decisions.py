"""A bank that chooses decisions to read records, and a lead that garbles another circuit.

What a bank gets is what its decisions open: it chooses which bits, and the ledger bounds how many. The search runs with
the ledger in the way and without, where it finds what it is after.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from finished_jobs import finished
from memory_decisions import World
from trial_audit import audit
from trial_decisions import consent, decide_job, decided, expected, file_decisions, run_decisions
from trial_scoring import copy_of

from veilscore.errors import MessageError, RefusedError
from veilscore.protocols import decision
from veilscore.protocols.decision_circuit import DecisionCircuit
from veilscore.protocols.decision_watch import BankLevels, LeadLevels
from veilscore.release.budget import ReleaseBudget
from veilscore.release.ledger import BATCH, Release, ReleaseLedger
from veilscore.tasks import decide
from veilscore.terms.rules import ReleaseRules

FIRMS = np.arange(1, 41, dtype=np.uint64)


class Desk:
    """A holder's ledger under its default policy, for batches of the same forty firms."""

    def __init__(self, tmp_path, **rules):
        self.ledger = ReleaseLedger(tmp_path / "release.db")
        self.budget = ReleaseBudget(self.ledger, ReleaseRules(**rules), 20)
        self.number = 0

    def admit(self, decided_by, bits, inputs):
        """Count one batch, as a holder does before anything leaves."""
        self.number += 1
        self.budget.admit(
            Release(
                kind=BATCH, bank="bank", reference=f"bank/job{self.number}/decide/1", model=decided_by,
                code_map="maps", firms=FIRMS, band=True, bits=bits, rows=FIRMS, inputs=inputs,
                records=FIRMS ^ np.uint64(self.number),
            )
        )  # fmt: skip


@pytest.fixture
def world():
    """Forty firms and one hand-written measure of one step that nobody else bounds."""
    world = World(3, ("tax",), FIRMS.size, n_steps=1, n_trees=1)
    world.bound[:] = 1
    world.failures[:] = 0
    return world


def only_capacity(world, limit):
    """Move the cut-off of the hand-written measure, and put the others where they never bind."""
    least = -(1 << 20)
    world.limits = [[least], [least], [limit], [0]]
    world.circuit = circuit_of(world)
    return world.run()["bank"].steps


def circuit_of(world):
    measures = [replace(m, limits=tuple(c)) for m, c in zip(world.circuit.measures, world.limits, strict=True)]
    return DecisionCircuit(tuple(measures), knock_outs=True)


def search(world, desk, openings):
    """Halve the range of the first firm's total with one decision after the other; return what is left of it."""
    low, high = 0, 1 << 10
    world.by_hand = {party: points % 500 for party, points in world.by_hand.items()}
    target = world.totals()[2]
    for number in range(openings):
        middle = (low + high) // 2
        if desk is not None:
            desk.admit(f"decision {middle}", 1.0, b"%032d" % number)
        reached = only_capacity(world, middle)[0]  # the first firm is the victim
        low, high = (middle, high) if reached else (low, middle)
        assert low <= target[0] < high
    return low, high


def test_moving_cut_offs_finds_a_total_where_nothing_is_counted(world):
    low, high = search(world, None, 10)
    assert (low, high - low) == (world.totals()[2][0], 1)


def test_moving_cut_offs_ends_after_a_few_decisions(world, tmp_path):
    """Other cut-offs are another decision, and another model of the firm: five at the most, whatever they tell."""
    desk = Desk(tmp_path)
    with pytest.raises(RefusedError, match="scored by 5 other models already"):
        search(world, desk, 10)
    assert desk.number == 6


def test_moving_the_banks_own_points_under_one_decision_ends_by_bits(world, tmp_path):
    """The bank shifts its own part, which is the same as to move all cut-offs; every batch has other inputs."""
    desk = Desk(tmp_path, repeats_per_model=100, min_difference=1)
    target, own = world.totals()[2], world.by_hand["bank"].copy()
    low, high = 0, 1 << 21
    for number in range(10):
        middle = (low + high) // 2
        desk.admit("one decision", 1.0, b"%032d" % number)
        world.by_hand["bank"] = own - middle
        low, high = (middle, high) if only_capacity(world, 0)[0] else (low, middle)
    with pytest.raises(RefusedError, match="more than 10 bits would be told"):
        desk.admit("one decision", 1.0, b"once more")
    assert high - low == (1 << 21) >> 10
    assert low <= target[0] < high


def test_a_knock_out_as_a_probe_is_one_bit_and_counted_as_one(tmp_path):
    """A decision that only a knock-out bounds tells it; ten such probes are a year of a firm, five models the most."""
    world = World(4, ("tax",), FIRMS.size, n_steps=1, n_trees=1)
    world.bound[:] = 1
    world.failures[::3] = 1
    world.failures[1::3] = 0
    steps = only_capacity(world, -(1 << 20))
    assert np.array_equal(steps == 0, world.failures > 0)
    desk = Desk(tmp_path, models_per_firm=100)
    for number in range(10):
        desk.admit(f"probe of column {number}", math.log2(2), b"%032d" % number)
    with pytest.raises(RefusedError, match="more than 10 bits would be told"):
        desk.admit("probe of one more", 1.0, b"once more")


def test_two_measures_tell_no_more_than_their_least(world):
    """With three steps the bank gets two bits a firm, however many measures there are and whichever bind."""
    many = World(8, ("tax", "registry"), 200, n_steps=3, n_trees=1)
    steps = many.run()["bank"].steps
    assert set(steps.tolist()) <= set(range(4))
    assert np.array_equal(steps, many.expected()[0])
    assert many.circuit.output_bits == 2


# --- another model than the one that was filed -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_measure_of_another_model_is_found_by_the_audit(tmp_path, monkeypatch):
    """The bank's points are its own input: the holders cannot see that they are not the filed ones, the audit does."""
    homes = copy_of(finished(file_decisions), tmp_path)
    consent(homes, "proactive")
    honest = decide.own_model

    def swapped(context, name, measure, pin):
        model, code_map = honest(context, name, measure, pin)
        if measure == "capacity":  # in units of 1,000: the ladder's cut-offs are then others
            model = model.model_copy(update={"base_points": model.base_points - 60})
        return model, code_map

    monkeypatch.setattr(decide, "own_model", swapped)
    run = run_decisions(homes, decide_job("limit", "proactive", name="swapped"), audited=True)
    monkeypatch.undo()
    assert {firm: int(row["step"]) for firm, row in decided(homes, run).items()} != expected(homes, "limit")
    assert audit(run)["decide.1"].verdict == "differs"


# --- a lead that garbles another circuit -----------------------------------------------------------------------------


def other_lead(monkeypatch, change):
    """Let the lead go on with what `change` makes of its circuit and its sums."""
    honest = decision._garble

    def other(session, request, circuit, totals, levels):
        circuit, totals = change(circuit, list(totals))
        return honest(session, request, circuit, totals, levels)

    monkeypatch.setattr(decision, "_garble", other)


def with_limits(*limits):
    def change(circuit, totals):
        return replace(circuit, measures=(replace(circuit.measures[0], limits=limits), *circuit.measures[1:])), totals

    return change


def test_a_lead_that_shifts_totals_is_not_found_and_learns_nothing(monkeypatch):
    """The bank gets lower steps. All that the lead receives is as long as before, and uniform."""
    world = World(9, ("tax", "registry"), 200, n_steps=3, n_trees=1)
    honest = world.expected()[0]
    modulus = world.circuit.measures[0].modulus
    down = np.uint64(modulus - 4000)
    other_lead(monkeypatch, lambda circuit, totals: (circuit, [(totals[0] + down) % np.uint64(modulus), *totals[1:]]))
    steps = world.run()["bank"].steps
    assert (steps <= honest).all()
    assert (steps < honest).any()


def test_a_lead_with_other_cut_offs_gets_steps_without_meaning(monkeypatch):
    """The bank runs the circuit that it knows: labels of another one decode to steps at random, or to none at all."""
    world = World(9, ("tax", "registry"), 200, n_steps=3, n_trees=1)
    other_lead(monkeypatch, with_limits(*(limit + 4000 for limit in world.limits[0])))
    steps, honest = world.run()["bank"].steps, world.expected()[0]
    assert abs(np.corrcoef(steps, honest)[0, 1]) < 0.3
    five = World(9, ("tax", "registry"), 200, n_steps=5, n_trees=1)
    monkeypatch.undo()
    other_lead(monkeypatch, with_limits(*(limit + 4000 for limit in five.limits[0])))
    with pytest.raises(MessageError, match="that there is not"):
        five.run(timeout_s=2.0)


def test_a_lead_with_another_number_of_gates_is_found(monkeypatch):
    world = World(9, ("tax", "registry"), 200, n_steps=3, n_trees=1)
    other_lead(monkeypatch, with_limits(*[world.limits[0][0]] * 3))
    with pytest.raises(MessageError):
        world.run(timeout_s=2.0)


# --- a year of a watch -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_year_of_watch_has_no_more_outcomes_than_its_bits():
    """2,000 firms, two levels, twelve months of records that change at random: every firm's levels only rise."""
    n, levels = 2000, []
    before = None
    for month in range(12):
        world = World(40 + month, ("tax",), n, n_steps=2, n_trees=1)
        bits, top = world.circuit.step_bits, world.circuit.n_steps
        bank, lead = BankLevels(bits), LeadLevels(bits, top)
        links = np.zeros(0, np.int64)
        if before is not None:
            bank, lead = BankLevels(bits, before[0]), LeadLevels(bits, top, *before[1])
            links = np.arange(1, n + 1)
        request = replace(world.request, last="job" if month else "", links=links)
        steps = world.run(number=month, request=request, bank_levels=bank, lead_levels=lead)["bank"].steps
        levels.append(top - steps)
        before = bank.labels, (lead.labels, lead.offset)
    year = np.stack(levels)
    assert (np.diff(year, axis=0) >= 0).all()
    assert len({tuple(firm) for firm in year.T.tolist()}) <= math.comb(14, 2)
    assert year[0].min() == 0
    assert year[-1].max() == 2
