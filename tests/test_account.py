"""The account: what is charged, held, refused and void; and the noise and the guesses that it counts."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from veilscore.errors import ParameterError, ProtocolError, RefusedError, StateError
from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.release.account import YEAR_S, Account, accounts, voided
from veilscore.terms.privacy import PrivacyRules, best_guess, total
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session

DAY_S = 86400.0


class Clock:
    now_s = 1_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def account(tmp_path, clock):
    return Account(tmp_path / "account.db", "invoices", "bank", PrivacyRules(job=0.5, year=1.0), clock)


def job(account, name, mu, clock):
    account.hold(name, mu**2)
    account.spend(f"{name}/bin/1", Charge("cells", "train", 0.6 * mu**2))
    account.spend(f"{name}/train/1", Charge("gradient", "train", 0.4 * mu**2))
    account.spend(f"{name}/curve/1", Charge("curve", "holdout", mu**2))
    account.let_go(name)
    clock.now_s += DAY_S


def test_the_promise_in_numbers():
    assert best_guess(0.5) == pytest.approx(0.5987, abs=1e-4)
    assert best_guess(1.0) == pytest.approx(0.6915, abs=1e-4)
    assert best_guess(math.sqrt(5)) == pytest.approx(0.868, abs=1e-3)
    assert best_guess(0.5, among=10) == pytest.approx(0.217, abs=1e-3)
    assert best_guess(1.0, among=10) == pytest.approx(0.389, abs=1e-3)
    assert best_guess(0.0) == 0.5


def test_a_firm_is_in_training_or_in_holdout_rows():
    charges = [
        Charge("a", "train", 0.2),
        Charge("b", "train", 0.05),
        Charge("c", "holdout", 0.1),
        Charge("d", "all", 1),
    ]
    assert total(charges) == pytest.approx(1.25)


def test_four_jobs_a_year_and_the_fifth_is_told_when(account, clock):
    for number in range(4):
        job(account, f"job{number}", 0.5, clock)
    assert account.spent() == pytest.approx(1.0)
    assert account.left() == pytest.approx(0.0)
    with pytest.raises(RefusedError, match=r"mu 1.00 of 1 is spent.*needs 0.50; it has refilled enough on 1971-01-1"):
        account.hold("fifth", 0.25)
    clock.now_s += YEAR_S - 3 * DAY_S
    account.hold("fifth", 0.25)
    with pytest.raises(RefusedError, match="never refills enough"):
        account.hold("huge", 1.5)


def test_what_waiting_jobs_hold_is_not_given_twice(account):
    for name in ("a", "b", "c", "d"):
        account.hold(name, 0.25)
    with pytest.raises(RefusedError, match="exhausted"):
        account.hold("e", 0.01)
    account.hold("a", 0.25)  # the same job again holds no more
    account.spend("a/bin/1", Charge("cells", "train", 0.15))
    assert account.held()["a"] == pytest.approx(0.1)
    account.let_go("a")
    account.hold("e", 0.1)
    with pytest.raises(RefusedError, match="exhausted"):
        account.hold("f", 0.01)


def test_a_repeated_attempt_is_charged_again_and_stops_at_the_limit(account):
    account.hold("a", 0.25)
    for attempt in range(1, 5):
        account.spend(f"a/bin/{attempt}", Charge("cells", "train", 0.25))
    with pytest.raises(RefusedError, match="exhausted"):
        account.spend("a/bin/5", Charge("cells", "train", 0.25))
    assert len(account.lines()) == 4, "a refused charge leaves no line"
    with pytest.raises(RefusedError, match="already"):
        account.spend("a/bin/1", Charge("cells", "train", 0.0001))


@pytest.mark.parametrize("mu2", [0.0, -1.0, math.nan])
def test_an_opening_without_a_cost_is_no_opening(account, mu2):
    with pytest.raises(RefusedError, match="without a cost"):
        account.spend("a/bin/1", Charge("cells", "train", mu2))


def test_accounts_are_apart_by_bank_and_name(account, tmp_path, clock):
    other = Account(account.path, "invoices", "other", account.rules, clock)
    account.spend("a/bin/1", Charge("cells", "train", 1.0))
    other.hold("b", 1.0)
    assert other.spent() == 0
    assert [(a.name, a.bank) for a in accounts(account.path, account.rules)] == [("invoices", "bank")]
    assert accounts(tmp_path / "absent.db", account.rules) == ()


def test_exact_sums_are_charged_as_what_ends_the_promise(account):
    account.spend("a/bin/1", Charge("exact sums", "all", math.inf))
    account.spend("a/train/1", Charge("exact sums", "all", math.inf))
    assert account.voided_since() == 1_000_000.0
    assert voided(account.path) == {("invoices", "bank", "a")}
    assert account.lines() == ()


def test_exact_jobs_are_about_the_same_firms_or_about_quite_others(account):
    rows = np.arange(300, dtype=np.uint64)
    parts = {"training": rows[:200], "hold-out": rows[200:]}
    account.take_exact_rows("a", parts, 30)
    account.take_exact_rows("b", parts, 30)
    account.take_exact_rows("c", {"training": rows[30:200], "hold-out": rows[200:]}, 30)
    one_less = {"training": rows[1:200], "hold-out": rows[200:]}
    with pytest.raises(
        RefusedError, match="training rows differ from the training rows of an earlier exact job by few"
    ):
        account.take_exact_rows("d", one_less, 30)
    with pytest.raises(RefusedError, match="hold-out rows differ from the training rows"):
        account.take_exact_rows("e", {"hold-out": rows[:199]}, 30)
    account.take_exact_rows("c", {"training": rows[30:200]}, 30)  # another attempt at the same job
    Account(account.path, "invoices", "other", account.rules).take_exact_rows("d", one_less, 30)


def test_exact_mode_voids_the_promise_from_then_on(account, clock):
    assert account.voided_since() is None
    account.void("a")
    clock.now_s += DAY_S
    account.void("b")
    assert account.voided_since() == 1_000_000.0


def test_a_damaged_file_stops_openings(account):
    account.path.write_bytes(b"no database" * 1000)
    with pytest.raises(StateError, match="restore the file from backup"):
        account.spend("a/bin/1", Charge("cells", "train", 0.1))


def test_lines_survive_and_name_what_was_opened(account, clock):
    job(account, "a", 0.5, clock)
    again = Account(account.path, "invoices", "bank", account.rules, clock)
    assert [(x.step, x.charge.opening, x.charge.rows) for x in again.lines()] == [
        ("bin", "cells", "train"),
        ("train", "gradient", "train"),
        ("curve", "curve", "holdout"),
    ]
    assert again.path.stat().st_mode & 0o777 == 0o600


def test_a_role_that_opens_something_needs_an_account():
    def opens():
        yield Charge("cells", "train", 0.1)

    session = Session("j/s/1", "tax", "bank", ("tax",))
    with pytest.raises(ProtocolError, match="nobody keeps an account"):
        simulate({"tax": opens()}, {"tax": session})
    spent = []
    simulate({"tax": opens()}, {"tax": session}, spend={"tax": spent.append})
    assert [charge.opening for charge in spent] == ["cells"]


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0, 1e6, 2.0**45])
def test_the_noise_has_the_deviation_and_shape_that_is_charged(sigma):
    drawn = discrete_gaussian(sigma, 40_000)
    assert drawn.dtype == np.int64
    assert drawn.size == 40_000
    assert abs(drawn.mean()) < 6 * sigma / 200
    assert abs(drawn.astype(float).std() / sigma - 1) < (0.022 if sigma > 1 else 0.03)
    z = np.sort(np.abs(drawn.astype(float))) / sigma
    beyond = [(z > k).mean() for k in (1, 2, 3)]
    if sigma >= 40:
        # of whole numbers beyond k sigma, which begin half a step later; six deviations of the first two, and of the
        # third, of which there are 108, what 2 of 10^9 runs leave
        expected = [2 * NormalDist().cdf(-k - 0.5 / sigma) for k in (1, 2, 3)]
        assert np.allclose(beyond, expected, atol=[0.014, 0.0063, 0.0018])


def test_small_noise_has_the_probabilities_of_the_paper():
    sigma, n = 1.3, 200_000
    drawn = discrete_gaussian(sigma, n)
    k = np.arange(-6, 7)
    expected = np.exp(-(k**2) / (2 * sigma**2))
    expected /= expected.sum()
    seen = np.array([(drawn == one).sum() for one in k])
    chi2 = ((seen - n * expected) ** 2 / (n * expected)).sum()
    assert chi2 < 65, "12 degrees of freedom: above 65 once in 4 * 10^8"


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, 2.0**60])
def test_noise_that_is_none_is_refused(sigma):
    with pytest.raises(ParameterError):
        discrete_gaussian(sigma, 3)
