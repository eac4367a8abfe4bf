"""The curve of the hold-out: exact with no noise to speak of, noised as charged, and nothing else for the bank."""

import math
import time

import numpy as np
import pytest
from chances import of_deviation_one
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto.garbled import Plain
from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError
from veilscore.lattice.gaussian import discrete_gaussian
from veilscore.lattice.params import SCORE_T
from veilscore.models.counts import offsets
from veilscore.models.curve import (
    LEAST_STEPS,
    Expected,
    NoisedCurve,
    expected_errors,
    plain_counts,
    sensitivity,
    steps_for,
)
from veilscore.models.loss import TURN
from veilscore.protocols.curve import (
    COUNT_BITS,
    Scored,
    StepCircuit,
    bank_counts,
    bank_curve,
    holder_curve,
    lead_counts,
)
from veilscore.protocols.scoring import BatchRequest, HolderAnswer, HolderPart
from veilscore.terms.bands import MOST_STEPS
from veilscore.terms.privacy import best_guess
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session
from veilscore.wire.transcript import Transcript

HOLDERS = ("tax", "registry")
QUIET = Charge("curve", "holdout", 1e6)
LIMITS = (-900, -300, 0, 250, 1200)


def sessions(holders=HOLDERS):
    return {p: Session("job/evaluate/1", p, "bank", holders) for p in ("bank", *holders)}


def world(n=700, seed=1, holders=HOLDERS):
    """Codes, points and parts of each holder, the bank's own points, labels, and the rows held out."""
    rng = np.random.default_rng(seed)
    rows = rng.random(2 * n) < 0.5
    m = int(rows.sum())
    n_codes = {h: np.array([5, 9, 3]) for h in holders}
    points = {h: rng.integers(-400, 400, int(n_codes[h].sum())) for h in holders}
    codes = {h: np.stack([rng.integers(0, k, m) for k in n_codes[h]], 1).astype(np.uint8) for h in holders}
    own = rng.integers(-500, 500, m)
    total = own + sum(points[h][codes[h] + offsets(n_codes[h])[:-1]].sum(axis=1) for h in holders)
    return rows, codes, n_codes, points, own, total, rng.random(m) < 0.3


def run_curve(made, charge=QUIET, *, limits=LIMITS, spend=None, holders=HOLDERS, transcripts=None):
    rows, codes, n_codes, points, own, _, bad = made
    session, spent = sessions(holders), {h: [] for h in holders}
    request = BatchRequest(rows, b"m" * 32, b"c" * 32)
    parts = {h: HolderPart(n_codes[h], points[h], b"c" * 32) for h in holders}
    roles = {"bank": bank_curve(session["bank"], Scored(rows, own, parts, b"m" * 32), bad, limits)}
    for h in holders:
        answer = HolderAnswer(codes[h], n_codes[h], np.zeros(own.size, bool), disclose_unknown=False)
        roles[h] = received(session[h], rows.size, request, answer, charge)
    spend = {h: spent[h].append for h in holders} | (spend or {})
    return simulate(roles, session, spend=spend, transcripts=transcripts)["bank"], spent


def received(session, n_samples, request, answer, charge):
    from veilscore.protocols.scoring import holder_receive

    found = yield from holder_receive(session, n_samples)
    assert found.model_hash == request.model_hash
    assert np.array_equal(found.rows, request.rows)
    yield from holder_curve(session, found, answer, charge)


# --- the protocol ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holders", [HOLDERS, ("tax",)])
def test_counts_are_the_exact_ones_where_the_noise_is_nothing(holders):
    made = world(holders=holders)
    found, spent = run_curve(made, holders=holders)
    total, bad = made[5:]
    np.testing.assert_allclose(found, plain_counts(total, bad, LIMITS), atol=0.02)
    assert spent == {h: [QUIET] for h in holders}


@pytest.mark.parametrize(("modulus", "n_limits"), [(TURN, 31), (SCORE_T, 31), (TURN, 1), (TURN, 11)])
def test_counts_in_any_ring_of_points_and_number_of_steps(modulus, n_limits):
    rng = np.random.default_rng(n_limits)
    total, bad = rng.integers(-9000, 9000, 2500), rng.random(2500) < 0.2
    limits = tuple(np.sort(rng.choice(np.arange(-8000, 8000), n_limits, replace=False)).tolist())
    lead = rng.integers(0, modulus, 2500)
    session = sessions(("tax",))
    found = simulate(
        {
            "bank": bank_counts(session["bank"], total - lead, bad, limits, modulus),
            "tax": lead_counts(session["tax"], lead.astype(np.uint64), QUIET, modulus),
        },
        session,
        spend={"tax": lambda _: None},
    )["bank"]
    np.testing.assert_allclose(found, plain_counts(total, bad, limits), atol=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, MOST_STEPS - 1), st.integers(0, 2**32 - 1))
def test_the_circuit_sets_the_bit_of_the_step(n_limits, seed):
    rng = np.random.default_rng(seed)
    limits = tuple(np.sort(rng.choice(np.arange(-500, 500), n_limits, replace=False)).tolist())
    circuit, total = StepCircuit(limits, TURN), rng.integers(-600, 600, 40)
    bits = np.arange(circuit.n_bits)[:, None]
    lifted = ((total + circuit.half)[None] >> bits & 1).astype(bool)
    found = circuit(Plain(), lifted, np.zeros_like(lifted))
    assert found.shape == (n_limits + 1, 40)
    assert np.array_equal(found.argmax(axis=0), np.searchsorted(limits, total, side="right"))
    assert (found.sum(axis=0) == 1).all()


def test_the_noise_is_what_the_charge_says_and_of_both_classes():
    rng = np.random.default_rng(4)
    total, bad = rng.integers(-1500, 1500, 60), rng.random(60) < 0.4
    session, charge, errors = sessions(("tax",)), Charge("curve", "holdout", 0.25), []
    for _ in range(12):
        lead = rng.integers(0, TURN, 60)
        found = simulate(
            {
                "bank": bank_counts(session["bank"], total - lead, bad, tuple(range(-1000, 1000, 130)), TURN),
                "tax": lead_counts(session["tax"], lead.astype(np.uint64), charge, TURN),
            },
            session,
            spend={"tax": lambda _: None},
        )["bank"]
        errors.append(found - plain_counts(total, bad, tuple(range(-1000, 1000, 130))))
    z = np.array(errors) / (math.sqrt(2) / 0.5)
    assert of_deviation_one(z[:, 0])
    assert of_deviation_one(z[:, 1])
    assert (np.array(errors) % 1 != 0).any(), "noise is finer than a count"


@pytest.mark.parametrize("poor", HOLDERS)
def test_nothing_opens_where_one_holder_may_not_spend(poor):
    def refuse(_):
        raise RefusedError("the account is exhausted")

    transcripts = {p: Transcript(keep=True) for p in ("bank", *HOLDERS)}
    with pytest.raises((RefusedError, PeerError), match="exhausted"):
        run_curve(world(), spend={poor: refuse}, transcripts=transcripts)
    kinds = {entry.kind for entry in transcripts["bank"].entries}
    assert "BatchHolderHints" in kinds
    assert "CurveLeadCounts" not in kinds
    assert ("BandLeadTables" in kinds) == (poor == "tax"), "another holder is charged before its share leaves"


def test_nothing_opens_where_nobody_keeps_an_account():
    session, transcripts = sessions(("tax",)), {p: Transcript(keep=True) for p in ("bank", "tax")}
    roles = {
        "bank": bank_counts(session["bank"], np.zeros(40, np.int64), np.ones(40, bool), (0,), TURN),
        "tax": lead_counts(session["tax"], np.zeros(40, np.uint64), QUIET, TURN),
    }
    with pytest.raises((ProtocolError, PeerError), match="nobody keeps an account"):
        simulate(roles, session, transcripts=transcripts)
    assert "CurveLeadCounts" not in {entry.kind for entry in transcripts["bank"].entries}


@pytest.mark.parametrize(
    ("limits", "said"), [((), "none"), ((5, 5), "not ascending"), (tuple(range(MOST_STEPS)), "more than 32 steps")]
)
def test_a_lead_refuses_steps_that_are_none(limits, said):
    role = lead_counts(sessions(("tax",))["tax"], np.zeros(4, np.uint64), QUIET, TURN)
    next(role)
    with pytest.raises(MessageError, match=said):
        role.send(pb.CurveBankSteps(limits=limits))


def test_six_thousand_rows_in_32_steps_take_less_than_three_seconds():
    made = world(6000)
    limits = tuple(np.quantile(made[5], np.arange(1, MOST_STEPS) / MOST_STEPS).astype(int).tolist())
    assert made[0].sum() > 5800
    run_curve(world(100), limits=limits)  # compiles what is not compiled yet
    start = time.process_time()  # of all parties, and not of whoever shares the machine
    found, _ = run_curve(made, limits=limits)
    assert time.process_time() - start < 3
    assert found.sum() == pytest.approx(made[0].sum(), abs=0.2)


# --- what one firm moves ---------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_one_firm_moves_the_counts_by_no_more_than_root_two(row, before, after):
    rng = np.random.default_rng(3)
    units, bad = rng.integers(-1500, 1500, 41), rng.random(41) < 0.4
    units[row] = before
    first = plain_counts(units, bad, LIMITS)
    units[row] = after
    assert np.linalg.norm(plain_counts(units, bad, LIMITS) - first) <= sensitivity() + 1e-12


@pytest.mark.parametrize(("mu", "part"), [(0.5, 1.0), (1.0, 1.0), (0.5, 0.5)])
def test_two_holdouts_that_differ_in_a_firm_are_told_apart_as_mu_says(mu, part):
    """The best guess of two, from what is opened: as often right as promised, and with half the noise more often."""
    rng = np.random.default_rng(8)
    units, bad = rng.integers(-1500, 1500, 60), rng.random(60) < 0.4
    pair = []
    for firm in (-1400, 1400):
        units[0] = firm
        pair.append(plain_counts(units, bad, LIMITS))
    n, sigma = 20_000, part * Charge("curve", "holdout", mu**2).sigma(sensitivity())
    drawn = np.ldexp(discrete_gaussian(math.ldexp(sigma, COUNT_BITS), n * pair[0].size), -COUNT_BITS)
    noise = drawn.reshape(n, *pair[0].shape)
    which = rng.integers(0, 2, n)
    opened = np.stack(pair)[which] + noise
    apart = pair[1] - pair[0]
    guess = ((opened - (pair[0] + pair[1]) / 2) * apart).sum(axis=(1, 2)) > 0
    right, margin = (guess == which).mean(), 6 * 0.5 / math.sqrt(n)
    if part == 1:
        assert abs(right - best_guess(mu)) < margin
    else:
        assert right > best_guess(mu) + 2 * margin


# --- what is read off it ---------------------------------------------------------------------------------------------


def scored(n=6000, rate=0.1, seed=2):
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < rate
    return (rng.normal(50_000, 1500, n) - 1800 * bad).astype(int), bad


@pytest.mark.parametrize("n_steps", [None, MOST_STEPS])
def test_noise_moves_auc_and_ks_by_no_more_than_planned_and_as_much_as_the_error_bars_say(n_steps):
    (units, bad), mu = scored(), 0.5
    bads = int(bad.sum())
    limits = Expected.of(units, [(0.0, 1.0)]).limits(n_steps or steps_for(mu, bads))
    plain = plain_counts(units, bad, limits)
    known, sigma = plain.sum(axis=1), sensitivity() / mu
    rng = np.random.default_rng(6)
    curves = [NoisedCurve(plain + sigma * rng.normal(size=plain.shape), known, sigma) for _ in range(150)]
    exact = NoisedCurve(plain, known, 1e-9)
    said = [curve.errors() for curve in curves[:10]]
    planned = dict(zip(("auc", "ks"), expected_errors(mu, bads), strict=True))
    for name in ("auc", "ks"):
        errors = np.array([getattr(curve, name)() for curve in curves]) - getattr(exact, name)()
        assert errors.std() < planned[name]
        assert errors.std() > 0.6 * planned[name] or n_steps is None
        noise = np.mean([getattr(one, f"{name}_noise") for one in said])
        assert errors.std() == pytest.approx(noise, rel=0.25)
        assert abs(errors.mean()) < 0.5 * errors.std()
        both = np.mean([math.hypot(getattr(one, f"{name}_noise"), getattr(one, f"{name}_sampling")) for one in said])
        assert np.mean([getattr(one, name) for one in said]) == pytest.approx(both, rel=0.15)


def test_error_bars_of_sampling_are_those_of_delong():
    from veilscore.models import metrics

    units, bad = scored()
    limits = Expected.of(units, [(0.0, 1.0)]).limits(MOST_STEPS)
    plain = plain_counts(units, bad, limits)
    found = NoisedCurve(plain, plain.sum(axis=1), 1e-9)
    table = metrics.score_table(bad.astype(int), units, points=True)
    assert found.auc() == pytest.approx(table.auc(), abs=0.002)
    assert found.errors().auc == pytest.approx(table.auc_se(), rel=0.12)
    assert found.ks() == pytest.approx(table.ks().value, abs=0.015)


def test_counts_for_tables_are_not_negative_and_add_up():
    (units, bad), sigma = scored(1500, 0.04), 6.0
    plain = plain_counts(units, bad, Expected.of(units, [(0.0, 1.0)]).limits(20))
    rng = np.random.default_rng(1)
    curve = NoisedCurve(plain + sigma * rng.normal(size=plain.shape), plain.sum(axis=1), sigma)
    assert curve.counts.min() < 0
    assert curve.fitted.min() == 0
    np.testing.assert_allclose(curve.fitted.sum(axis=1), curve.known)
    np.testing.assert_allclose(curve.balanced.sum(axis=1), curve.known)
    assert np.abs(curve.fitted - plain).sum() < np.abs(curve.counts - plain).sum()


def test_more_bads_and_less_noise_take_more_steps():
    assert steps_for(0.5, 40) == LEAST_STEPS
    assert LEAST_STEPS < steps_for(0.5, 1500) < steps_for(1.0, 1500) < MOST_STEPS
    assert steps_for(0.5, 20_000) == MOST_STEPS


def test_steps_hold_as_many_expected_rows_each_beside_the_limits_of_bands():
    units, _ = scored()
    expected = Expected.of(units, [(100.0, 400.0**2), (0.0, 300.0**2)])
    assert np.std(expected.units) == pytest.approx(math.hypot(units.std(), 500.0), rel=0.02)
    limits = expected.limits(20)
    assert len(limits) == 19
    share = np.diff(np.searchsorted(expected.units, [-(2**40), *limits, 2**40])) / expected.units.size
    assert share.min() > 0.045
    assert share.max() < 0.055
    bands = (47_000, 48_500, 90_000)
    limits = expected.limits(20, bands)
    assert set(bands) <= set(limits)
    assert list(limits) == sorted(set(limits))
    assert len(limits) == 19
    share = np.diff(np.searchsorted(expected.units, [-(2**40), *limits, 2**40])) / expected.units.size
    assert share.max() < 0.09
    middles = expected.middles(limits)
    assert (np.diff(middles) >= 0).all()
    assert Expected(np.full(500, 7.0)).limits(10) == (7,)
