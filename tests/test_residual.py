"""The residual scorecard: its sums against plain ones, its noise against what is charged, its coefficients."""

import math

import numpy as np
import pytest
from chances import of_deviation_one
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError, RefusedError
from veilscore.lattice.inner_product import N
from veilscore.lattice.params import LOOKUP_INNER, SCALE_BITS, check_inner, check_lookup
from veilscore.models import residual as model
from veilscore.models.counts import BinnedColumns, offsets
from veilscore.models.residual import (
    WEIGHT_FACTOR,
    CellSums,
    HolderSums,
    Tables,
    carried,
    cells_sensitivity,
    check_fit,
    coefficients,
    gradient_bits,
    monotone,
    plain_sums,
    quantised,
    tables,
    weight_bits,
)
from veilscore.protocols.residual import (
    bank_cells,
    bank_fit,
    holder_cells,
    holder_fit,
    noised,
    spread,
)
from veilscore.tasks.residual import charges
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session

HOLDERS = ("tax", "registry")
QUIET = 1e14  # mu squared of an opening whose noise is far below a unit


def world(n=9000, seed=0):
    rng = np.random.default_rng(seed)
    n_codes = {"tax": np.array([6, 4, 9]), "registry": np.array([3, 5])}
    codes = {h: np.stack([rng.integers(0, k, n) for k in m], axis=1).astype(np.uint8) for h, m in n_codes.items()}
    offset = rng.normal(-1.5, 0.8, n)
    eta = offset + 0.4 * (codes["tax"][:, 0] > 3) - 0.5 * (codes["registry"][:, 1] == 2)
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(float)
    p = 1 / (1 + np.exp(-offset))
    return codes, n_codes, y - p, p * (1 - p)


def binned(codes, n_codes):
    d = n_codes.size
    names = tuple(f"c{j}" for j in range(d))
    return BinnedColumns(names, codes, n_codes, np.zeros(d, bool), np.full(d, -1), bytes(32))


def sessions(step, holders=HOLDERS):
    return {party: Session(f"job-1/{step}/1", party, "bank", holders) for party in ("bank", *holders)}


def run_cells(codes, n_codes, r, W, train, mu2=QUIET):
    session, spent = sessions("bin", tuple(codes)), {h: [] for h in codes}
    charge = Charge("cells", "train", mu2)
    roles = {
        "bank": bank_cells(
            session["bank"],
            train,
            lambda: (r[train], W[train]),
            max_bin=lambda _d: 10,
            sigma=lambda d: charge.sigma(cells_sensitivity(d)),
        )
    }
    for h in codes:
        roles[h] = holder_cells(
            session[h],
            lambda _k, h=h: binned(codes[h], n_codes[h]),
            train.size,
            charge,
            n_columns=n_codes[h].size,
            check=lambda _t: None,
        )
    found = simulate(roles, session, spend={h: spent[h].append for h in codes})
    return found, spent


def run_fit(found, made, codes, n_codes, W, train, mu2=QUIET):
    session, spent = sessions("train", tuple(codes)), {h: [] for h in codes}
    charges = {name: Charge(name, "train", mu2) for name in ("gradient", "moments")}
    roles = {
        "bank": bank_fit(session["bank"], made, {h: found["bank"][h][2] for h in codes}, W[train], charges),
        **{h: holder_fit(session[h], codes[h][train], n_codes[h], found[h][2], charges) for h in codes},
    }
    return simulate(roles, session, spend={h: spent[h].append for h in codes})["bank"], spent


def test_sums_equal_the_plain_ones_where_the_noise_is_small():
    codes, n_codes, r, W = world()
    train = np.arange(r.size) % 4 != 0
    found, spent = run_cells(codes, n_codes, r, W, train)
    made = {}
    for h in HOLDERS:
        shape, sums, _ = found["bank"][h]
        plain = plain_sums(codes[h][train], n_codes[h], r[train], W[train])
        np.testing.assert_allclose(sums.residual, plain[0], atol=0.02)
        np.testing.assert_allclose(sums.weight, plain[1], atol=0.02)
        assert not shape.counts.any(), "row counts are never told"
        made[h] = quantised(tables(sums, float(r[train].sum()), float(W[train].sum())))
        assert [c.opening for c in spent[h]] == ["cells"]
    fitted, spent = run_fit(found, made, codes, n_codes, W, train)
    for h in HOLDERS:
        x = made[h].x[codes[h][train] + offsets(n_codes[h])[:-1]]
        np.testing.assert_allclose(fitted[h].gradient, x.T @ r[train], atol=0.02)
        np.testing.assert_allclose(fitted[h].moments, (x * W[train][:, None]).T @ x, atol=0.15)
        assert [c.opening for c in spent[h]] == ["gradient", "moments"]


def test_a_holder_may_have_more_cells_than_a_block_of_a_product():
    n, d, rng = 60, 300, np.random.default_rng(5)
    n_codes = {"tax": np.full(d, 29)}  # 8,700 cells, a block has 8,192
    codes = {"tax": rng.integers(0, 29, (n, d)).astype(np.uint8)}
    r, W, train = rng.uniform(-1, 1, n), rng.uniform(0, 0.25, n), np.ones(n, bool)
    sums = shares.encode(plain_sums(codes["tax"], n_codes["tax"], r, W)[0])
    found = {"bank": {"tax": (None, None, np.zeros_like(sums))}, "tax": (None, None, sums)}
    x = np.zeros(d * 29)
    x[-29:] = rng.uniform(-0.5, 0.5, 29)
    made = {"tax": Tables(n_codes["tax"], x, np.ones(x.size), np.zeros(d))}
    fitted, _ = run_fit(found, made, codes, n_codes, W, train)
    assert fitted["tax"].gradient[-1] == pytest.approx(x[-29:][codes["tax"][:, -1]] @ r, abs=0.02)
    assert not np.abs(fitted["tax"].gradient[:-1]).max() > 0.02


def test_the_noise_of_every_opening_is_what_its_charge_says():
    codes, n_codes, r, W = world(2000)
    train = np.ones(r.size, bool)
    plain = plain_sums(codes["tax"], n_codes["tax"], r, W)
    one = {"tax": codes["tax"]}
    errors = {"residual": [], "weight": [], "gradient": [], "moments": []}
    for _ in range(12):
        found, _ = run_cells(one, n_codes, r, W, train, mu2=0.15)
        sums = found["bank"]["tax"][1]
        errors["residual"].append((sums.residual - plain[0]) / sums.sigma)
        errors["weight"].append((sums.weight - plain[1]) * WEIGHT_FACTOR / sums.sigma)
        assert sums.sigma == pytest.approx(math.sqrt(2 * 3 / 0.15))
        made = {"tax": fixed_tables(n_codes["tax"])}
        fitted, _ = run_fit(found, made, one, n_codes, W, train, mu2=0.1)
        x = made["tax"].x[codes["tax"] + offsets(n_codes["tax"])[:-1]]
        errors["gradient"].append((fitted["tax"].gradient - x.T @ r) / fitted["tax"].sigma_gradient)
        moments = (fitted["tax"].moments - (x * W[:, None]).T @ x) / fitted["tax"].sigma_moments
        errors["moments"].append(moments[np.triu_indices(3)])
    for name, found in errors.items():
        assert of_deviation_one(np.concatenate(found)), name


def fixed_tables(n_codes):
    rng = np.random.default_rng(9)
    x = rng.normal(0, 0.4, int(n_codes.sum()))
    return quantised(Tables(n_codes, x, np.full(x.size, 50.0), np.full(n_codes.size, 0.1)))


def rounded_tables(case, seed):
    """Tables whose norm could pass 1 as they are rounded: drawn, or alike in all columns."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, model.MOST_MOMENTS + 1))
    n_codes = rng.integers(2, 9, d)
    alike = rng.choice([-1.0, 1.0], n_codes.sum())
    alike[offsets(n_codes)[:-1]] = -alike[offsets(n_codes)[:-1] + 1]  # every table has a range
    up = np.full(n_codes.sum(), 1 + 1e-9)  # a value on a half unit is rounded up
    unit = math.ldexp(Tables(n_codes, up, up, up[:d]).for_moments()[1], -model.TABLE_BITS)
    x = {
        "drawn": lambda: rng.normal(0, rng.choice([1e-3, 0.3, 3.0]), n_codes.sum()),
        "alike": lambda: alike,
        "few large, many small": lambda: alike * rng.choice([1.0, 1e-2, 1.5e-3], n_codes.sum()),
        "halves": lambda: alike * (np.floor(rng.uniform(0.2, 1, n_codes.sum()) / unit) + 0.5) * unit,
    }[case]()
    return Tables(n_codes, x, np.full(x.size, 50.0), rng.random(d))


@settings(max_examples=300)
@given(st.sampled_from(["drawn", "alike", "few large, many small", "halves"]), st.integers(0, 2**32 - 1))
def test_rounded_tables_keep_the_norm_and_are_whole_units(case, seed):
    """The norm is at most 1 however a table is rounded, and sums of products are of the very tables of the gradient."""
    made = quantised(rounded_tables(case, seed))
    y, norm = made.for_moments()
    units = np.ldexp(y, model.TABLE_BITS)
    np.testing.assert_allclose(units, np.rint(units), atol=1e-6)
    np.testing.assert_allclose(y * norm, np.where(np.repeat(made.used, made.n_codes), made.x, 0), atol=1e-12)
    greatest = np.maximum.reduceat(np.abs(np.rint(units)), offsets(made.n_codes)[:-1])
    assert (greatest**2).sum() <= 4**model.TABLE_BITS
    again = quantised(made)
    np.testing.assert_allclose(again.x, made.x, atol=1e-12)
    assert again.norm == made.norm


@settings(max_examples=200)
@given(st.integers(1, 400), st.sampled_from([12, 14, 20]), st.integers(0, 2**32 - 1))
def test_rounded_tables_of_the_gradient_keep_the_norm(d, bits, seed):
    """Rounded as they were, 400 columns of four million rows passed it by 0.3 %."""
    rng = np.random.default_rng(seed)
    n_codes = rng.integers(2, 5, d)
    x = rng.choice([-1.0, 1.0], n_codes.sum()) * rng.choice([1.0, 0.02, 2e-3], n_codes.sum())
    made = Tables(n_codes, x, np.full(x.size, 50.0), rng.random(d))
    units, at = np.rint(np.ldexp(made.for_gradient(bits)[0], bits)), offsets(n_codes)[:-1]
    ranges = np.maximum.reduceat(units, at) - np.minimum.reduceat(units, at)
    assert (ranges**2).sum() <= 4.0**bits


@pytest.mark.parametrize("d", range(1, model.MOST_MOMENTS + 1))
def test_equal_columns_keep_the_norm_whatever_their_number(d):
    n_codes = np.full(d, 2)
    units = np.ldexp(
        quantised(Tables(n_codes, np.tile([-1.0, 1.0], d), np.ones(2 * d), np.ones(d))).for_moments()[0], 9
    )
    assert d * int(np.rint(units).max()) ** 2 <= 512**2


@given(st.floats(0, 1), st.floats(0, 1))
def test_one_firm_moves_no_pair_of_cells_by_more_than_one(p, y):
    r, W = (y > 0.5) - p, p * (1 - p)
    assert r * r + (WEIGHT_FACTOR * W) ** 2 <= 1 + 1e-12


@settings(max_examples=200)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans())
def test_one_firm_moves_the_triangle_of_moments_by_no_more_than_a_quarter(d, seed, corners):
    rng = np.random.default_rng(seed)
    m = np.abs(rng.normal(size=d)) + 1e-6
    m /= np.linalg.norm(m)
    draw = rng.choice([-1.0, 0.0, 1.0], (2, d)) if corners else rng.uniform(-1, 1, (2, d))
    a, b = draw * m
    moved = (np.outer(a, a) - np.outer(b, b))[np.triu_indices(d)]
    assert np.linalg.norm(moved) <= 1 + 1e-12


@given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_a_value_that_is_off_by_a_unit_moves_the_triangle_by_what_is_counted(d, seed, alone):
    rng = np.random.default_rng(seed)
    x = np.eye(d)[0] if alone else rng.normal(size=d)
    x /= np.linalg.norm(x)
    off = x + np.eye(d)[0] * rng.choice([-1, 1]) * 2.0**-model.TABLE_BITS
    moved = (np.outer(off, off) - np.outer(x, x))[np.triu_indices(d)]
    assert 0.25 * (1 + model.MOVED_ROWS * np.linalg.norm(moved)) <= model.moments_sensitivity()


def test_scaled_tables_have_the_norms_that_the_sensitivities_assume():
    made = fixed_tables(np.array([6, 4, 9]))
    at = offsets(made.n_codes)[:-1]
    x, norm = made.for_gradient()
    ranges = np.maximum.reduceat(x, at) - np.minimum.reduceat(x, at)
    assert np.linalg.norm(ranges) == pytest.approx(1)
    np.testing.assert_allclose(x * norm, made.x)
    y, norm = made.for_moments()
    greatest = np.maximum.reduceat(np.abs(np.rint(np.ldexp(y, model.TABLE_BITS))), at)
    assert 0.98 * 2**model.TABLE_BITS < np.linalg.norm(greatest) <= 2**model.TABLE_BITS, "as they are looked up"
    np.testing.assert_allclose(y * norm, made.x)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_weights_that_are_spread_keep_their_sums_and_their_bound(seed, bits):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0, 0.25, 500) * rng.choice([0.0, 0.02, 1.0], 500)
    weight[rng.integers(0, 500, 5)] = 0.25
    units = spread(weight, bits)
    assert units.min() >= 0
    assert units.max() <= 1 << (bits - 2)
    assert (np.abs(np.cumsum(units) - np.cumsum(np.ldexp(weight, bits))) < 1 + 1e-3).all()


def test_bits_of_weights_follow_from_the_rows():
    assert [weight_bits(n) for n in (1, 22_500, 1 << 20, model.MOST_ROWS)] == [12, 11, 6, 4]
    for bits in (weight_bits, gradient_bits):
        with pytest.raises(RefusedError, match="takes 4,194,304 at most"):
            bits(model.MOST_ROWS + 1)


def test_only_the_strongest_columns_have_moments_and_weights_stand_for_the_rest():
    n_codes = np.full(30, 4)
    rng = np.random.default_rng(3)
    made = Tables(n_codes, rng.normal(0, 0.3, 120), np.full(120, 40.0), rng.random(30))
    x, _ = made.for_moments()
    assert (np.abs(x).reshape(30, 4).max(axis=1) > 0).sum() == model.MOST_MOMENTS


def test_noise_alone_makes_no_table():
    rng = np.random.default_rng(5)
    n_codes = np.full(40, 8)
    sigma = 30.0
    H = np.full(320, 400.0)
    drawn = rng.normal(0, sigma, 320) + rng.normal(0, np.sqrt(H))
    made = tables(CellSums(n_codes, drawn, H + rng.normal(0, sigma / WEIGHT_FACTOR, 320), sigma), 0.0, 3200.0)
    assert made.iv.mean() < 0.002
    signal = CellSums(n_codes, drawn + np.tile([120.0, -120.0] * 4, 40), H, sigma)
    assert tables(signal, 0.0, 3200.0).iv.mean() > 0.03


def test_coefficients_are_those_of_newton_where_the_noise_is_small_and_shrink_where_it_is_large():
    codes, n_codes, r, W = world(30_000, seed=4)
    plain = plain_sums(codes["tax"], n_codes["tax"], r, W)
    made = tables(CellSums(n_codes["tax"], *plain, 1e-3), float(r.sum()), float(W.sum()))
    x = made.x[codes["tax"] + offsets(n_codes["tax"])[:-1]]
    H, g = (x * W[:, None]).T @ x, x.T @ r
    quiet = coefficients(made, HolderSums(g, H, 1e-6, 1e-6))
    used = made.used
    prior = np.linalg.solve(H[np.ix_(used, used)] + np.eye(used.sum()) / model.TAU**2, g[used])
    np.testing.assert_allclose(quiet.theta[used], prior, atol=0.03)
    assert not quiet.theta[~used].any()
    loud = coefficients(made, HolderSums(g, H, 1e4, 1e-6))
    assert np.abs(loud.theta).max() < 0.1 * np.abs(quiet.theta).max()
    turned = coefficients(made, HolderSums(-g, H, 1e-6, 1e-6), positive=True)
    assert (turned.theta >= 0).all()


def test_errors_of_coefficients_are_those_of_what_is_not_known():
    """Drawn as assumed, theta lies off its estimate by its standard error; alone, a column has no inflation."""
    rng, d = np.random.default_rng(6), 3
    x = rng.normal(size=(400, d)) @ np.array([[1, 0.9, 0], [0, 0.5, 0], [0, 0, 1]])
    H, n_codes = x.T @ x / 5, np.full(d, 2)
    made = Tables(n_codes, np.tile([-0.5, 0.5], d), np.ones(2 * d), np.ones(d))
    sigma, off = np.array([2.0, 8.0, 4.0]), []
    for _ in range(4000):
        theta = rng.normal(0, model.TAU, d)
        g = H @ theta + rng.multivariate_normal(np.zeros(d), H) + rng.normal(0, sigma)
        found = coefficients(made, HolderSums(g, H, sigma, 1e-6))
        off.append((theta - found.theta) / found.errors)
    np.testing.assert_allclose(np.std(off, axis=0), 1, atol=0.05)
    assert found.inflation[0] > 1.5
    assert found.inflation[1] > 1.5
    assert found.inflation[2] == pytest.approx(1, abs=0.05)
    alone = coefficients(made, HolderSums(g, np.diag(np.diag(H)), sigma, 1e-6))
    np.testing.assert_allclose(alone.inflation, 1)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 50)), min_size=1, max_size=12))
def test_a_monotone_effect_is_the_nearest_by_weight(pairs):
    values, weight = np.array(pairs).T
    places = np.arange(values.size)
    both = [IsotonicRegression(increasing=up).fit(places, values, weight).predict(places) for up in (True, False)]
    least = min(float((weight * (fitted - values) ** 2).sum()) for fitted in both)
    found = monotone(values, weight)
    assert (np.diff(found) >= -1e-12).all() or (np.diff(found) <= 1e-12).all()
    assert float((weight * (found - values) ** 2).sum()) == pytest.approx(least, abs=1e-9)


def test_sums_are_carried_to_other_tables_of_the_same_columns():
    codes, n_codes, r, W = world(30_000, seed=4)
    m = n_codes["tax"]
    cells = CellSums(m, *plain_sums(codes["tax"], m, r, W), 5.0)
    plain, rising = (
        tables(cells, float(r.sum()), float(W.sum()), ordered=order, missing_code=np.array([-1, 0, -1]))
        for order in (None, np.array([True, True, False]))
    )
    at = offsets(m)
    first = rising.x[: at[1]]
    assert (np.diff(first) >= 0).all() or (np.diff(first) <= 0).all()
    assert not np.array_equal(first, plain.x[: at[1]])
    np.testing.assert_array_equal(rising.x[at[2] :], plain.x[at[2] :])

    def opened(made):
        x = made.x[codes["tax"] + at[:-1]]
        return HolderSums(x.T @ r, (x * W[:, None]).T @ x, np.full(3, 7.0), 3.0)

    same = carried(opened(plain), cells, plain, plain)
    np.testing.assert_array_equal(same.gradient, opened(plain).gradient)
    np.testing.assert_array_equal(same.sigma_gradient, opened(plain).sigma_gradient)
    moved, direct = carried(opened(plain), cells, plain, rising), opened(rising)
    np.testing.assert_allclose(moved.gradient, direct.gradient, atol=1e-6)
    np.testing.assert_allclose(np.diag(moved.moments), np.diag(direct.moments), rtol=1e-6)
    assert (moved.sigma_gradient[:1] > 0).all()


def test_bins_follow_the_rarer_class_and_the_noise():
    assert model.most_bins(6000, 20.0) == 10
    assert model.most_bins(900, 20.0) == 4
    assert model.most_bins(10, 20.0) == 2


def test_rows_that_do_not_fit_the_ring_are_refused():
    assert gradient_bits(28_000) == 19
    check_inner(3 * -(-model.MOST_ROWS // N)), check_lookup(LOOKUP_INNER, model.MOST_ROWS, 1, 15)
    check_fit(model.MOST_ROWS, charges(0.05**2))
    with pytest.raises(RefusedError, match="take a sample"):
        check_fit(model.MOST_ROWS + 1, charges(0.25))


@pytest.mark.parametrize(("mu", "rows_per_firm"), [(0.005, 1), (0.25, 36)])
def test_noise_that_does_not_fit_the_ring_is_refused_before_it_is_drawn(mu, rows_per_firm):
    """Drawn, it was refused by the generator of noise once cells, gradient and X'WX were charged."""
    one = charges(mu**2, rows_per_firm)
    with pytest.raises(ParameterError, match="below 2"):
        noised(np.zeros(3, np.uint64), one["gradient"].sigma(1.0), SCALE_BITS + gradient_bits(10_000))
    with pytest.raises(RefusedError, match="larger than what sums can carry"):
        check_fit(10_000, one)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_bin": 1}, "outside what was agreed"),
        ({"max_bin": 65}, "outside what was agreed"),
        ({"n_train": 5}, "contradicts its count"),
        ({"n_samples": 7}, "aligned were"),
        ({"train_mask": b""}, "bits"),
    ],
)
def test_a_holder_refuses_what_was_not_agreed(change, said):
    codes, n_codes, _, _ = world(64)
    session = sessions("bin", ("tax",))["tax"]
    role = holder_cells(
        session,
        lambda _k: binned(codes["tax"], n_codes["tax"]),
        64,
        Charge("cells", "train", 0.1),
        n_columns=3,
        check=lambda _t: None,
    )
    assert next(role).message.columns == 3
    next(role)
    first = {"n_samples": 64, "train_mask": b"\xff" * 8, "n_train": 64, "max_bin": 5, **change}
    with pytest.raises(MessageError, match=said):
        role.send(pb.BinBankRound1(**first))


@pytest.mark.parametrize("moments", [[0, 0], [1, 0], [3], list(range(21))])
def test_a_holder_refuses_columns_that_are_not_there(moments):
    codes, n_codes, _, _ = world(64)
    session = sessions("train", ("tax",))["tax"]
    charges = {name: Charge(name, "train", 0.1) for name in ("gradient", "moments")}
    role = holder_fit(session, codes["tax"], n_codes["tax"], np.zeros(19, np.uint64), charges)
    next(role)
    with pytest.raises(MessageError, match="not there"):
        role.send(pb.ResidualBankTables(moments=moments))


def test_the_strongest_columns_of_all_holders_keep_their_effect():
    x = np.array([0.0, 1.0, 0.0, 2.0])
    made = {
        "tax": Tables(np.array([2, 2]), x, np.ones(4), np.array([0.1, 0.4])),
        "court": Tables(np.array([2]), x[:2], np.ones(2), np.array([0.2])),
    }
    kept = model.strongest(made, 2)
    assert kept["tax"].used.tolist() == [False, True]
    assert kept["court"].used.tolist() == [True]
    assert np.array_equal(kept["tax"].weight, made["tax"].weight)
    for most in (None, 3):
        assert all(np.array_equal(model.strongest(made, most)[h].x, made[h].x) for h in made)
