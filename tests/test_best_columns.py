"""The noisy choice of the best columns: its sums against plain ones, its noise against the charge, what it refuses."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilscore.crypto.circuits import count_set, from_bits, to_bits
from veilscore.crypto.garbled import Plain
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.packed_sums import SumsEvaluator, SumsKey
from veilscore.lattice.params import T
from veilscore.models.best_columns import (
    LABEL_BITS,
    LEVEL_GROUPS,
    SENSITIVITY,
    best,
    centred,
    gumbel,
    noise_scale,
    patterns,
    plain_scores,
)
from veilscore.protocols import best_columns as protocol
from veilscore.protocols.best_columns import PatternChunk, bank_best, best_of, gates_by_stage, holder_best
from veilscore.v1 import screening_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session, encode

QUIET = 1e14  # mu squared of a choice whose noise is far below a row
SESSION = {party: Session("job-1/screen/1", party, "bank", ("tax",)) for party in ("bank", "tax")}


def table(n=700, d=40, seed=0):
    """Columns of which the first few move with the label; some missing values, ties, and two of categories."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int8)
    strength = np.where(np.arange(d) < 6, np.linspace(1.5, 0.5, d), 0.0)
    columns = [np.round(rng.normal(0, 1, n) + s * y, 1) for s in strength]
    for values in columns[::3]:
        values[rng.random(n) < 0.1] = np.nan
    for p in (0.0, 0.6):
        level = np.where((y == 1) & (rng.random(n) < p), "x", rng.choice(list("abcd"), n)).astype(object)
        level[rng.random(n) < 0.05] = None
        columns.append(level)
    return y, columns


def chunks_of(columns, rows, size=17):
    for start in range(0, len(columns), size):
        weights = [patterns(values)[:, rows] for values in columns[start : start + size]]
        names = tuple(f"c{start + j}" for j in range(len(weights)))
        owner = np.repeat(np.arange(len(weights)), [len(part) for part in weights])
        yield PatternChunk(names, np.concatenate(weights), owner)


def run(y, columns, train, k, mu2=QUIET, tamper=None):
    found, spent = {}, []

    def choose(chosen):
        found.update(chosen)
        return bytes(32)

    roles = {
        "bank": bank_best(SESSION["bank"], y, train, k, choose, lambda: None),
        "tax": holder_best(
            SESSION["tax"],
            lambda rows: (-(-len(columns) // 17), chunks_of(columns, np.flatnonzero(rows))),
            y.size,
            y.size,
            y.size + 1000,
            k,
            Charge("best columns", "all", mu2),
        ),
    }
    told = simulate(roles, SESSION, spend={"tax": spent.append}, tamper=tamper)
    assert np.array_equal(found["tax"].kept, told["tax"][0])
    return found["tax"], spent


def test_the_best_are_those_of_plain_sums_where_the_noise_is_small():
    y, columns = table()
    train = np.arange(y.size) % 4 != 0
    chosen, spent = run(y, columns, train, 7)
    weights = [patterns(values)[:, train] for values in columns]
    owner = np.repeat(np.arange(len(columns)), [len(part) for part in weights])
    expected = best(plain_scores(np.concatenate(weights), y[train], y.size), 7)
    assert np.flatnonzero(chosen.kept).tolist() == sorted(set(owner[expected].tolist()))
    assert {0, 1, 2, 3, 4, len(columns) - 1} <= set(np.flatnonzero(chosen.kept).tolist())
    assert [charge.opening for charge in spent] == ["best columns"]


def test_few_columns_are_all_kept_and_nothing_is_charged():
    y, columns = table(d=5)
    chosen, spent = run(y, columns, np.ones(y.size, bool), 7)
    assert chosen.kept.all()
    assert chosen.names == tuple(f"c{j}" for j in range(7))
    assert not spent


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 70))
def test_the_circuit_finds_the_k_largest(seed, n):
    rng = np.random.default_rng(seed)
    sums, noise = rng.integers(-(2**50), 2**50, n), rng.integers(0, 2**50, n).astype(np.uint64)
    other = rng.integers(0, T, n, dtype=np.uint64)
    own = np.array([(int(s) + 2**59 - int(o)) % T for s, o in zip(sums, other, strict=True)], np.uint64)
    k, engine, stages = int(rng.integers(1, n)), Plain(), 1
    words = to_bits(own, 60), to_bits(other, 60), to_bits(noise, 59)
    circuit = best_of(engine, *words, k)
    try:
        while True:
            next(circuit)
            stages += 1
    except StopIteration as stop:
        found = stop.value
    assert stages == len(gates_by_stage(n, k))
    assert engine.gates == sum(gates_by_stage(n, k))
    assert np.array_equal(found, best(np.abs(sums) + noise.astype(np.int64), k))
    assert from_bits(count_set(engine, found)) == k


@pytest.mark.parametrize("n", [1, 63, 300, 9000])
def test_weighted_sums_are_exact(n):
    rng = np.random.default_rng(n)
    x = rng.integers(0, T, n, dtype=np.uint64)
    weights = rng.integers(-(2**20), 2**20, (70, n)).astype(np.int32)
    key = SumsKey(b"weighted", n)
    evaluator = SumsEvaluator(b"weighted", n, key.public())
    for chunk in key.encrypt(x):
        evaluator.add(chunk)
    reply, share = evaluator.weighted(weights)
    expected = weights.astype(object) @ x.astype(object)
    distance = (key.share(reply, 70).astype(object) + share - expected) % T
    assert max(min(int(one), T - int(one)) for one in distance) <= 1
    with pytest.raises(ParameterError, match="must be int32"):
        evaluator.weighted(weights.astype(np.int64))


# --- what one firm moves, and what it costs --------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_one_firm_moves_no_score_by_more_than_the_sensitivity(seed, adversarial):
    """Replace one record of a small table by another, a missing value or none, under the worst labels found."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 14))
    values = rng.integers(0, int(rng.integers(2, 9)), n).astype(np.float64)
    values[rng.random(n) < 0.2] = np.nan
    if adversarial:  # bads on one side
        y = (values > np.nanmedian(values)).astype(np.int8) if not np.isnan(values).all() else np.ones(n, np.int8)
    else:
        y = (rng.random(n) < rng.random()).astype(np.int8)
    in_job = rng.random(n) < 0.8  # others are in the table alone
    in_job[0] = True
    z = np.zeros(n, np.int64)
    z[in_job] = centred(y[in_job])
    victim, other = int(rng.integers(n)), values.copy()
    other[victim] = rng.choice([-1.0, 100.0, np.nan, rng.integers(0, 9)])
    before = abs(patterns(values)[0] @ z) / n / 2**LABEL_BITS
    assert abs(abs(patterns(other)[0] @ z) / n / 2**LABEL_BITS - before) <= SENSITIVITY + 1e-9
    gone = np.arange(n) != victim
    after = abs(patterns(values[gone])[0] @ z[gone]) / (n - 1) / 2**LABEL_BITS
    assert abs(after - before) <= SENSITIVITY + 1e-9


def test_a_record_is_in_one_group_of_levels():
    weights = patterns(np.array(["a", "b", None, "a"], dtype=object))
    assert weights.shape == (LEVEL_GROUPS, 4)
    assert weights.sum(axis=0).tolist() == [8, 8, 0, 8]
    assert np.array_equal(weights[:, 0], weights[:, 3])


def test_the_conversion_to_mu_is_that_of_bounded_range():
    normal = NormalDist()

    def cost(eta, at):  # of a choice whose log-odds move from `at` - eta / 2 to `at` + eta / 2
        a, b = (1 / (1 + math.exp(-(at + sign * eta / 2))) for sign in (1, -1))
        return normal.inv_cdf(a) - normal.inv_cdf(b)

    for eta in (0.01, 0.1, 0.5, 2.0, 6.0):
        middle = cost(eta, 0.0)
        assert all(cost(eta, at) <= middle + 1e-12 for at in np.linspace(-8, 8, 81))
        assert middle <= eta * math.sqrt(2 * math.pi) / 4
    for k in (1, 50):
        eta = 2 * SENSITIVITY / noise_scale(0.3, k)
        assert math.sqrt(k) * eta * math.sqrt(2 * math.pi) / 4 == pytest.approx(0.3)


def test_two_neighbours_are_told_apart_no_better_than_charged_and_hardly_worse():
    """One of two columns is chosen; replacing a record moves one sum up and the other down, the worst there is."""
    mu, draws = 0.5, 200_000
    scale = noise_scale(mu, 1)
    rates = []
    for sums in ((10.0, 12.0), (12.0, 10.0)):
        noised = np.array(sums)[:, None] + gumbel(scale, 2 * draws).reshape(2, draws)
        rates.append(float((noised[0] > noised[1]).mean()))
    normal = NormalDist()
    told = normal.inv_cdf(rates[1]) - normal.inv_cdf(rates[0])
    error = 6.0 * math.sqrt(2 * math.pi / draws)
    assert told <= mu + error
    assert told >= 0.9 * mu - error, "the charge would be far above what the choice tells"


def test_noise_is_of_gumbels_distribution():
    drawn = gumbel(3.0, 100_000) - 12.0
    assert drawn.mean() == pytest.approx(3 * 0.5772, abs=0.08)
    assert drawn.std() == pytest.approx(3 * math.pi / math.sqrt(6), rel=0.022)
    assert drawn.min() > -12.0


def test_informative_columns_are_found_beside_the_noise():
    y, columns = table(4000, d=120, seed=3)
    kept = [run(y, columns, np.ones(y.size, bool), 20, mu2=0.5**2)[0].kept for _ in range(2)]
    assert all(one[[0, 1, 2, 3, 4, 5, -1]].sum() >= 6 for one in kept)
    assert all(one.sum() <= 20 for one in kept)
    assert not np.array_equal(*kept), "the same columns twice: no noise was added"


# --- hostile peers ---------------------------------------------------------------------------------------------------


def test_a_screening_that_could_wrap_is_refused():
    with pytest.raises(ParameterError, match="more than a screening takes"):
        protocol._noise_units(Charge("best columns", "all", 1e-6), 50, 10, 4_000_000, 4_000_000, 4_000_000)


def test_a_refusal_does_not_tell_whether_a_firm_is_known():
    """A bank chooses mu so that one row more would not fit: what decides is the padded number that it knows anyway."""
    n_train, told, k = 800, 5000, 3
    most = (1 << protocol.SCORE_BITS) / (told << LABEL_BITS) - n_train  # of the noise

    def refused(mu, n_rows):
        try:
            protocol._noise_units(Charge("columns", "all", mu**2), k, 10, n_rows, told, n_train)
        except ParameterError:
            return True
        return False

    at_edge = noise_scale(1.0, k) * protocol.MOST_NOISE / most
    for mu in (at_edge * (1 - 1e-9), at_edge * (1 + 1e-9)):
        assert len({refused(mu, n_rows) for n_rows in (4000, 4700, 4701, 5000)}) == 1
    assert refused(at_edge * (1 - 1e-9), 4700)
    assert not refused(at_edge * (1 + 1e-9), 4700)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chunk": 1}, "in place of 0"),
        ({"chunks": 0}, "in place of 0"),
        ({"patterns": 1}, "more columns than patterns"),
        ({"patterns": 1 << 20}, "too many in all"),
    ],
)
def test_the_bank_refuses_chunks_that_do_not_fit(change, said):
    y, _ = table(64)
    role = bank_best(SESSION["bank"], y, np.ones(64, bool), 3, lambda _found: bytes(32), lambda: None)
    assert isinstance(next(role).message, pb.ScreenBankRound1)
    next(role)
    next(role)
    with pytest.raises(MessageError, match=said):
        role.send(pb.ScreenHolderChunk(**{"chunk": 0, "chunks": 1, "columns": ["a", "b"], "patterns": 2, **change}))


def test_the_bank_refuses_more_columns_than_were_to_be_kept():
    y, columns = table(64, d=9)

    def keep_all(_sender, _recipient, _sequence, payload):
        kept = kind_of(payload) == "ScreenHolderKept"
        return [encode(pb.ScreenHolderKept(kept=b"\xff\x07"))] if kept else [payload]

    with pytest.raises(MessageError, match="at most 3 are due"):
        run(y, columns, np.ones(64, bool), 3, tamper=keep_all)


def test_a_holder_refuses_a_result_with_another_number_of_columns():
    y, columns = table(64, d=30)

    def flip(_sender, _recipient, sequence, payload):
        colours = kind_of(payload) == "ScreenSealed" and len(payload) < 16
        return [payload[:-1] + bytes([payload[-1] ^ 7])] if colours else [payload]

    with pytest.raises(MessageError, match="the circuit found"):
        run(y, columns, np.ones(64, bool), 3, tamper=flip)
