"""sealed_argmax.py and sealed_gain.py: the best split of each node, its gains on shares."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from veilscore.crypto import shares
from veilscore.crypto.circuits import to_bits
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import T
from veilscore.lattice.product import OPENINGS, ProductKey
from veilscore.lattice.sampling import SecretStream
from veilscore.protocols import sealed_argmax
from veilscore.protocols.sealed_argmax import bank_argmax, bank_setup, holder_argmax, holder_setup
from veilscore.protocols.sealed_gain import GainRule, Sums, left_sums
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

MESSAGE = pb.TrainBankEta
SCALE_BITS = 35


# --- the protocol ---


def level(rows, nodes, columns, n_codes=8, seed=0):
    """Sums of g and h (nodes, cells) of firms whose risk depends on two columns."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_codes, (rows, columns))
    node = np.minimum(rng.integers(0, nodes, rows), rng.integers(0, nodes, rows))
    p = 1 / (1 + np.exp(1.2 + 0.2 * node - 0.25 * codes[:, 0] + 0.2 * codes[:, -1]))
    bad = rng.random(rows) < p
    guess = np.clip(bad.mean() + rng.normal(0, 0.02, rows), 0.01, 0.99)
    cells = (node[:, None] * columns + np.arange(columns)) * n_codes + codes
    shape = (nodes, columns * n_codes)
    return tuple(
        np.bincount(cells.reshape(-1), np.repeat(v, columns), shape[0] * shape[1]).reshape(shape)
        for v in (guess - bad, guess * (1 - guess))
    )


def both_sums(g, h, columns, n_codes=8):
    cells = np.full(columns, n_codes)
    halves = []
    for values in (g, h):
        mask = (SecretStream().words(values.size) % np.uint64(T)).reshape(values.shape)
        halves.append((shares.add(shares.encode(values, SCALE_BITS), mask), np.where(mask > 0, np.uint64(T) - mask, 0)))
    return [
        Sums(
            left_sums(halves[0][i].astype(np.uint64), cells),
            left_sums(halves[1][i].astype(np.uint64), cells),
            *(shares.sum_shares(half[i][:, :n_codes].astype(np.uint64)) for half in halves),
        )
        for i in range(2)
    ]


def gains(g, h, columns, rule, n_codes=8):
    """In the clear: C^2 / (D (a + b)), and whether both children are heavy enough."""
    nodes = len(g)
    gl, hl = (np.cumsum(v.reshape(nodes, columns, n_codes), axis=2)[:, :, :-1].reshape(nodes, -1) for v in (g, h))
    g_node, h_node = g[:, :n_codes].sum(axis=1)[:, None], h[:, :n_codes].sum(axis=1)[:, None]
    a, b = hl + rule.reg_lambda, h_node - hl + rule.reg_lambda
    gain = gl**2 / a + (g_node - gl) ** 2 / b - g_node**2 / (a + b)
    return gain, np.minimum(hl, h_node - hl)


def run_levels(rule, pairs, *, tamper=None, transcripts=None):
    sessions = {p: Session("sealed/test/1", p, "bank", ("tax",)) for p in ("bank", "tax")}

    def bank():
        keys = yield from bank_setup(sessions["bank"], "tax", MESSAGE)
        found = []
        for own, _ in pairs:
            found.append((yield from bank_argmax(keys, rule, own)))
        return found

    def holder():
        keys = yield from holder_setup(sessions["tax"], MESSAGE)
        found = []
        for _, own in pairs:
            found.append((yield from holder_argmax(keys, rule, own)))
        return found

    roles = {"bank": bank(), "tax": holder()}
    found = simulate(roles, sessions, tamper=tamper, transcripts=transcripts, timeout_s=30)
    return list(zip(found["bank"], found["tax"], strict=True))


def rule_for(rows, n_bank, n_holder, **options):
    return GainRule(n_bank, n_holder, SCALE_BITS, rows, rows / 4, **options)


@pytest.mark.parametrize(("n_bank", "n_holder"), [(14, 21), (35, 0), (0, 35)])
def test_winners_have_the_best_gain_and_reach_their_owner(n_bank, n_holder):
    rule = rule_for(4000, n_bank, n_holder)
    levels = [level(4000, nodes, 5, seed=nodes) for nodes in (1, 6)]
    for (g, h), (bank, tax) in zip(levels, run_levels(rule, [both_sums(g, h, 5) for g, h in levels]), strict=True):
        gain, lighter = gains(g, h, 5, rule)
        gain = np.where(lighter < 1, -1, gain)
        assert bank.splits.all()
        assert (bank.splits == tax.splits).all()
        assert (bank.mine ^ tax.mine).all()
        assert (bank.candidate[~bank.mine] == -1).all()
        assert (tax.candidate[~tax.mine] == -1).all()
        at = np.where(bank.mine, bank.candidate, n_bank + tax.candidate)
        kept = gain[np.arange(len(gain)), at] / gain.max(axis=1)
        assert kept.min() >= rule.worst_kept_gain
        assert kept.mean() > 0.93


def test_what_keys_open_is_counted_in_advance(monkeypatch):
    keys, nodes, n = [], 6, 2000

    class Counted(ProductKey):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            keys.append(self)

    monkeypatch.setattr(sealed_argmax, "ProductKey", Counted)
    g, h = level(n, nodes, 5)
    run_levels(rule_for(n, 14, 21), [both_sums(g, h, 5)])
    used = [OPENINGS - key._left for key in keys]
    assert len(used) == 2
    assert 0 < max(used) <= sealed_argmax.openings(35, nodes)


def test_a_column_that_decides_alone_wins_exactly():
    g, h = level(3000, 2, 4)
    h = np.abs(h)
    g *= 0.01
    g[:, 16:20] -= 200 / 4  # column 2: low codes bad, high codes good; the other columns see the node's total
    g[:, 20:24] += 200 / 4
    [(bank, tax)] = run_levels(rule_for(3000, 14, 14), [both_sums(g, h, 4)])
    assert tax.mine.all()
    assert (tax.candidate == 3).all()  # first column of the holder, codes 0 to 3 go left
    assert not bank.mine.any()


def test_light_children_and_small_gains_do_not_split():
    g, h = level(2000, 3, 3)
    pairs = [both_sums(g, h, 3)]
    heavy = rule_for(2000, 7, 14, min_child_weight=200.0)
    assert not run_levels(heavy, pairs)[0][0].splits.any()
    rule = rule_for(2000, 7, 14)
    best = gains(g, h, 3, rule)[0].max(axis=1)
    for factor, splits in ((0.4, True), (2.5, False)):
        for node in range(3):
            bound = dataclasses.replace(rule, gamma=factor * float(best[node]))
            assert run_levels(bound, pairs)[0][0].splits[node] == splits


def test_min_child_weight_excludes_light_children():
    g, h = level(2000, 4, 3)
    rule = rule_for(2000, 7, 14, min_child_weight=25.0)
    _, lighter = gains(g, h, 3, rule)
    [(bank, tax)] = run_levels(rule, [both_sums(g, h, 3)])
    at = np.where(bank.mine, bank.candidate, 7 + tax.candidate)
    assert bank.splits.any()
    weights = lighter[np.arange(4), at][bank.splits]
    assert (weights > 25 * 0.8).all()


def test_sizes_of_messages_do_not_depend_on_data():
    rule = rule_for(2000, 7, 14)
    sizes = []
    for seed in (1, 2):
        transcripts = {}
        run_levels(rule, [both_sums(*level(2000, 3, 3, seed=seed), 3)], transcripts=transcripts)
        sizes.append([(e.sender, e.size_bytes) for e in transcripts["bank"].entries])
    assert [s for s, _ in sizes[0]] == [s for s, _ in sizes[1]]
    assert all(abs(a - b) <= 0 for (_, a), (_, b) in zip(*sizes, strict=True))


def test_the_bank_hears_no_number_of_a_winner_of_the_holder():
    """The masked number in the bank's message is uniform where the holder wins, and absent where it does not."""
    rule = rule_for(2000, 7, 14)
    # the column that decides stands last, with the holder
    g, h = (v.reshape(3, 3, 8)[:, ::-1].reshape(3, -1) for v in level(2000, 3, 3))
    pairs = [both_sums(g, h, 3)]
    seen = set()
    for _ in range(4):
        transcripts = {}
        [(bank, _)] = run_levels(rule, pairs, transcripts=transcripts)
        last = [m for e, m in transcripts["bank"].messages if e.sender == "bank"][-1]
        bits = shares.bits_from_bytes(last.data, 3 * (2 + rule.index_bits)).reshape(-1, 3)
        assert not bank.mine.all()
        assert not bits[2:, bank.mine].any()
        seen.add(last.data)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("sender", "sequence"), [("bank", 1), ("bank", 2), ("bank", 3), ("tax", 1), ("tax", 2), ("tax", 3)]
)
def test_cut_messages_are_refused(sender, sequence):
    def cut(who, _to, number, payload):
        if (who, number) != (sender, sequence):
            return [payload]
        message = decode(payload, MESSAGE, session="sealed/test/1", sender=who)
        return [encode(MESSAGE(part=message.part, parts=message.parts, data=message.data[:-1]))]

    with pytest.raises(MessageError):
        run_levels(rule_for(2000, 7, 14), [both_sums(*level(2000, 2, 3), 3)], tamper=cut)


def test_a_winner_that_is_no_candidate_is_refused():
    def lie(who, _to, number, payload):
        if (who, number) != ("bank", 3):
            return [payload]
        bits = np.zeros((7, 2), bool)
        bits[:2] = True
        bits[2:] = to_bits(np.frombuffer(os.urandom(16), "<u8"), 5)
        return [encode(MESSAGE(part=0, parts=1, data=shares.bits_to_bytes(bits.reshape(-1))))]

    # 20 of 21 candidates are the bank's: random numbers are the holder's with probability 1/32
    with pytest.raises(MessageError, match="not among"):
        run_levels(rule_for(2000, 20, 1), [both_sums(*level(2000, 2, 3), 3)], tamper=lie)


@pytest.mark.parametrize(
    "change",
    [
        {"n_bank": 0, "n_holder": 0},
        {"reg_lambda": -1.0},
        {"fraction_bits": 1},
        {"max_g": 1e9},
        {"scale_bits": 5},
        {"min_child_weight": 1e9},
    ],
)
def test_rules_that_do_not_fit_are_refused(change):
    with pytest.raises(ParameterError):
        dataclasses.replace(rule_for(2000, 7, 14), **change)


def test_a_million_rows_fit():
    rule = GainRule(300, 300, 30, 1e6, 2.5e5)
    assert rule.product_bits >= 9
    assert rule.c_bits <= 42


def test_shapes_of_sums_are_checked_and_hidden():
    own, _ = both_sums(*level(100, 2, 3), 3)
    with pytest.raises(ParameterError, match="candidates"):
        own.flat(rule_for(100, 7, 7))
    assert "left_g" not in repr(own)
