"""A bank that scores single firms chooses points, steps and firms; what it gets are few bits, counted."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest
from memory_online import MemoryBank, MemoryCoordinator, MemoryHolder, Network
from neighbours import SURELY
from scipy import stats

from veilscore.crypto.encrypted_cells import encode_points, one_hot
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.protocols.online_spares import Side
from veilscore.release.budget import ReleaseBudget
from veilscore.release.ledger import ONLINE, Release, ReleaseLedger
from veilscore.terms.bands import MOST_STEPS, Bands
from veilscore.terms.rules import ReleaseRules

N_CODES = np.array([5, 5, 5, 5])
RADIX = 5 ** np.arange(4)
POINTS = tuple(place * np.arange(5) for place in RADIX)  # of a "model" whose total is the whole record
RECORDS = int(N_CODES.prod())
EQUAL_STEPS = Bands.steps([round(RECORDS * k / MOST_STEPS) for k in range(1, MOST_STEPS)])


def side(name, points=POINTS):
    return Side(name, b"m" * 32, tuple("abcd"), points, 0, encode_points(np.concatenate(points)))


def cells_of(number):
    return one_hot((number // RADIX % 5)[None], N_CODES)[0]


def asked(scenario, *parties):
    async def whole():
        try:
            return await scenario()
        finally:
            for party in parties:
                await party.caller.close()

    return asyncio.run(whole())


def opened_for(records, steps):
    """What a bank learns of each of some records of a holder by one request each."""
    network = Network()
    MemoryCoordinator(network)
    holder = MemoryHolder(network, "tax", cells_of(0), ("tax",), bands=steps)
    bank = MemoryBank(network, {"tax": side("tax")}, bands=steps)

    async def scenario():
        found = []
        for k, record in enumerate(records):
            holder.cells = cells_of(record)
            found.append((await bank.score(f"r{k}")).together)
        return found

    return asked(scenario, bank, holder)


def guess(step):
    """Any record of a step is as good a guess as another."""
    bounds = [0, *EQUAL_STEPS.limits, RECORDS]
    return (bounds[step] + bounds[step + 1] - 1) // 2


def test_points_that_are_a_mixed_radix_of_the_codes():
    """An exact total is the whole record; a score in steps is one of 32 values, five bits of it."""
    records = np.random.default_rng(4).integers(0, RECORDS, 12).tolist()
    assert opened_for(records, None) == records
    found = opened_for(records, EQUAL_STEPS)
    assert found == EQUAL_STEPS.index(np.array(records)).tolist()
    assert 2.0**EQUAL_STEPS.bits == MOST_STEPS
    with pytest.raises(VeilscoreError, match="32 steps"):
        Bands.steps(range(MOST_STEPS))


@pytest.mark.slow
def test_a_mixed_radix_is_guessed_no_better_than_five_bits_allow():
    rng = np.random.default_rng(5)
    records = rng.integers(0, RECORDS, 200).tolist()
    right = sum(guess(step) == record for step, record in zip(opened_for(records, EQUAL_STEPS), records, strict=True))
    assert stats.beta.ppf(1 - SURELY, max(right, 1), 200 - right + 1) <= MOST_STEPS / RECORDS


@pytest.mark.parametrize("control", ["off", "on"])
def test_a_search_by_moving_steps_ends_after_ten_bits(tmp_path, control):
    """Each request divides what is left of the possible records by 32; the ledger counts the bits."""
    rules, victim, possible = ReleaseRules(control=control), 123_456, np.arange(5**8)
    refused = ""
    with contextlib.closing(ReleaseLedger(tmp_path / "release.db")) as ledger:
        for k in range(8):
            if possible.size == 1:
                break
            steps = Bands.steps(
                sorted({int(part[0]) for part in np.array_split(possible, MOST_STEPS)[1:] if part.size})
            )
            release = Release(
                ONLINE, "bank", f"bank/r{k}", "m" * 64, steps.sha256.hex(), ledger.firms(["v"]), b"r", bits=steps.bits
            )
            budget = ReleaseBudget(ledger, rules, 8)
            try:
                budget.check_single(release, fresh=False)
                if control == "on":
                    budget.admit(release)
            except RefusedError as refusal:
                refused = refusal.message
                break
            possible = possible[steps.index(possible) == steps.index(np.array([victim]))]
    if control == "off":
        assert possible.tolist() == [victim]
    else:
        assert "release budget" in refused
        assert 5**8 / possible.size <= 2.0**rules.bits_per_year * 1.05  # steps of whole records are not quite equal
