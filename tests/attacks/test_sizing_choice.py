"""What a bank may choose to read one firm through noised counts by step: rows, bounds, cut-offs, knock-outs, repeats.

Each attack guesses between two records of one firm at even odds with the best test there is. It may be right as often
as mu says, whatever was chosen, and no more; with a tenth of the noise each is right more often.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from ideal_protocols import use_ideal
from local_jobs import job
from neighbours import breaks, keeps, steps

from veilscore.errors import RefusedError
from veilscore.models import curve
from veilscore.release.account import Account
from veilscore.tasks.sizing import charge_of
from veilscore.terms.privacy import PrivacyRules

MU = 0.5
SIZE = charge_of(job("size_decision", decision="limit").parameters.model_copy(update={"mu": MU}))
OTHERS = np.array([10, 20, 30, 40])


@pytest.fixture(autouse=True)
def ideal(monkeypatch):
    use_ideal(monkeypatch)


def worlds(low, high):
    """Totals of a firm by one record or the other, and of firms that the bank knows all about."""
    return tuple(np.append(total, OTHERS) for total in (low, high))


def alone(which, charge):
    """All other firms are kept from every step by the bank's own bound."""
    return steps(which, charge, worlds(-500, 500), np.array([1, 0, 0, 0, 0]))


def between(which, charge):
    """Cut-offs lie so that one record is at the top step and the other at none, as a knock-out alone would have it."""
    return steps(which, charge, worlds(-1, 0), np.array([5, 5, 5, 5, 5]), limits=(0, 1, 2, 3, 4))


def one_row(which, charge):
    """A batch of the one firm."""
    totals = tuple(one[:1] for one in worlds(-500, 500))
    return steps(which, charge, totals, np.array([1]))


def repeated(which, charge, n_jobs=4):
    """The same counts again and again, each charged: noise of all of them is averaged away."""
    return sum(alone(which, charge) for _ in range(n_jobs))


@pytest.mark.parametrize("attack", [alone, between, one_row])
def test_a_guess_is_right_as_often_as_mu_says_and_no_more(attack):
    assert keeps(lambda which: attack(which, SIZE), MU, 80)
    tenth = replace(SIZE, mu2=SIZE.mu2 * 100)
    assert breaks(lambda which: attack(which, tenth), MU)


@pytest.mark.slow
def test_repeats_tell_as_much_as_all_of_them_are_charged(tmp_path):
    """Four jobs of mu 0.5 are a year's mu 1; the fifth is refused."""
    assert keeps(lambda which: repeated(which, SIZE), 1.0, 150)
    assert breaks(lambda which: repeated(which, SIZE, 36), 1.0)
    account = Account(tmp_path / "account.db", "firms", "bank", PrivacyRules())
    for number in range(4):
        account.spend(f"job{number}/size/1", SIZE)
    with pytest.raises(RefusedError, match="year"):
        account.spend("job5/size/1", SIZE)
    assert SIZE.sigma(curve.sensitivity()) == pytest.approx(math.sqrt(2) / MU)
