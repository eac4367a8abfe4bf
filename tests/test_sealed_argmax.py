"""sealed_argmax.py and what it stands on: circuits, garbling, labels by oblivious transfer, gains on shares."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from veilscore.crypto import oblivious, shares
from veilscore.crypto.circuits import add, choose, constant, exceeds, from_bits, largest, log2, lookup, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler, Plain
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
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
RNG = np.random.default_rng(7)
X, Y = (RNG.integers(0, 1 << 20, 300).astype(np.uint64) for _ in range(2))


# --- circuits in the clear ---


def test_arithmetic_and_order():
    plain, x, y = Plain(), to_bits(X, 20), to_bits(Y, 20)
    assert (from_bits(add(plain, x, y)) == (X + Y) % (1 << 20)).all()
    assert (exceeds(plain, x, y) == (X > Y)).all()
    assert not exceeds(plain, x, x).any()
    assert (from_bits(choose(plain, X > Y, x, y)) == np.maximum(X, Y)).all()
    assert (from_bits(constant(plain, 11, x[0], 5)) == 11).all()
    assert plain.gates == 300 * (19 + 20 + 20 + 20)


def test_lookup_is_the_table():
    table = RNG.integers(0, 64, 32)
    address = np.arange(32, dtype=np.uint64)
    plain = Plain()
    assert (from_bits(lookup(plain, to_bits(address, 5), table, 6)) == table).all()
    assert plain.gates == 32 * 26


@pytest.mark.parametrize("n_bits", [17, 20, 31, 32, 33])
@pytest.mark.parametrize("fraction_bits", [3, 4, 6])
def test_logarithm(n_bits, fraction_bits):
    values = np.unique(
        np.concatenate([[1, 2, 3, (1 << n_bits) - 1], 2 ** RNG.uniform(0, n_bits, 500)]).astype(np.int64)
    )
    found = from_bits(log2(Plain(), to_bits(values.astype(np.uint64), n_bits), fraction_bits))
    offset = (1 << (n_bits - 1).bit_length()) - n_bits
    error = found / (1 << fraction_bits) - offset - np.log2(values)
    assert np.abs(error).max() <= (1 / np.log(2) + 0.5) * 2.0**-fraction_bits
    assert (np.diff(found) >= 0).all()
    zero = to_bits(np.zeros(1, np.uint64), n_bits)
    assert from_bits(log2(Plain(), zero, fraction_bits))[0] <= found.min()


@pytest.mark.parametrize("n_candidates", [1, 2, 3, 7, 8, 100])
def test_largest_and_first_of_equals(n_candidates):
    values = RNG.integers(0, 9, (50, n_candidates)).astype(np.uint64)
    best, index = largest(Plain(), to_bits(values, 4))
    assert (from_bits(best) == values.max(axis=1)).all()
    assert (from_bits(index) == values.argmax(axis=1)).all()


# --- garbling and labels ---


def two_sides(label=b"test"):
    receiver = LabelReceiver(label)
    sender = LabelSender(label, receiver.base())
    receiver.accept(sender.choices())
    return receiver, sender


def test_labels_differ_by_the_offset_where_the_bit_is_set():
    receiver, sender = two_sides()
    for shape in [(3, 50), (1, 1), (2, 64)]:
        bits = RNG.random(shape) < 0.5
        message, labels = receiver.extend(bits)
        assert ((labels ^ sender.extend(message, shape)) == bits[..., None] * sender.offset).all()
    assert sender.offset[0] & np.uint64(1)


def cheating_message(label, bits, columns):
    """A receiver that flips bit 3 in some columns, as if each had bits of its own, and hides it as well as it can."""
    receiver, sender = two_sides(label)
    flipped = np.zeros((oblivious.WIDTH, 1), np.uint64)
    flipped[columns] = 8
    read = oblivious._Columns.read

    class Columns:
        def __init__(self, honest):
            self.honest = honest

        def read(self, n_words):
            words = read(self.honest, n_words).copy()
            words[:, :1] ^= flipped
            return words

    receiver._columns = receiver._columns[0], Columns(receiver._columns[1])
    message, _ = receiver.extend(bits)
    return sender, message


def test_columns_that_do_not_agree_are_refused():
    """As a receiver would send who wants to learn the offset: one guessed bit passes for half of all offsets."""
    bits = RNG.random(200) < 0.5
    asked = []
    for _ in range(24):
        sender, message = cheating_message(b"cheat", bits, [5])
        asked.append(bool(int(sender.offset[0]) >> 5 & 1))
        if asked[-1]:
            with pytest.raises(MessageError, match="do not agree"):
                sender.extend(message, bits.shape)
        else:
            sender.extend(message, bits.shape)  # the column was not asked: nothing is learnt but that
    assert 0 < sum(asked) < 24
    for columns in (range(128), range(10, 100)):
        sender, message = cheating_message(b"cheat", bits, list(columns))
        with pytest.raises(MessageError, match="do not agree"):
            sender.extend(message, bits.shape)


@pytest.mark.parametrize("place", [0, 130 * 8, -1, -17, -128 * 16 - 1])
def test_a_changed_byte_of_the_choices_is_refused(place):
    """Wherever it lies: the parities that are compared follow from the whole message."""
    receiver, sender = two_sides()
    message = bytearray(receiver.extend(np.ones(100, bool))[0])
    message[place] ^= 1
    with pytest.raises(MessageError, match="do not agree"):
        sender.extend(bytes(message), (100,))


def test_parities_are_masked_and_those_of_the_message():
    """Equal bits under equal keys: the parities differ as the random words do, and follow from every byte sent."""
    columns = RNG.integers(0, 1 << 63, (3, 7)).astype(np.uint64)
    first = oblivious._parities(b"l", 0, b"sent", columns)
    assert np.array_equal(first, oblivious._parities(b"l", 0, b"sent", columns))
    for label, number, data in ((b"m", 0, b"sent"), (b"l", 1, b"sent"), (b"l", 0, b"Sent")):
        assert not np.array_equal(first, oblivious._parities(label, number, data, columns))
    other = columns.copy()
    other[:, 5:] ^= np.uint64(1)
    assert np.array_equal(oblivious._parities(b"l", 0, b"sent", other) ^ first, np.ones_like(first))
    # linear: the parity of a xor is the xor of the parities
    both = oblivious._parities(b"l", 0, b"sent", (columns[0] ^ columns[1])[None])
    assert np.array_equal(both[0], first[0] ^ first[1])


def test_parities_are_a_polynomial_over_the_field():
    """Against carry-less arithmetic on Python integers."""

    def times(a, b):
        product = 0
        for k in range(128):
            product ^= (a << k) if b >> k & 1 else 0
        for k in range(254, 127, -1):
            product ^= (1 << k | 0x87 << k - 128) if product >> k & 1 else 0
        return product

    point = RNG.integers(0, 1 << 63, 2).astype(np.uint64) * np.uint64(2) + np.uint64(1)
    at = int(point[0]) | int(point[1]) << 64
    for n_words in (1, 2, 5, 8):
        columns = RNG.integers(0, 1 << 63, (4, n_words + 2)).astype(np.uint64) * np.uint64(2) + np.uint64(1)
        out = np.empty((4, 2), np.uint64)
        oblivious._evaluate(columns, oblivious._multiples(point), out)
        for column, found in zip(columns.tolist(), out.tolist(), strict=True):
            value, words = 0, column[:n_words] + [0] * (n_words % 2)
            for low, high in zip(words[::2], words[1::2], strict=True):
                value = times(value ^ low ^ high << 64, at)
            assert found[0] | found[1] << 64 == value ^ column[-2] ^ column[-1] << 64


def test_garbled_circuit_equals_plain():
    receiver, sender = two_sides()
    x, y = to_bits(X, 20), to_bits(Y, 20)
    message, labels = receiver.extend(x)
    garbler, evaluator, plain = Garbler(b"c", sender.offset), Evaluator(b"c"), Plain()
    expected = np.concatenate([log2(plain, add(plain, x, ~y), 4), exceeds(plain, x, y)[None]])
    gates = plain.gates

    def circuit(engine, left, right):
        total = add(engine, left, engine.invert(right))
        return np.concatenate([log2(engine, total, 4), exceeds(engine, left, right)[None]])

    word = circuit(garbler, sender.extend(message, x.shape), garbler.own(y))
    tables = garbler.tables()
    assert len(tables) == GATE_BYTES * gates
    evaluator.feed(tables)
    found = circuit(evaluator, labels, evaluator.own(y.shape))
    evaluator.done()
    assert (evaluator.decode(found, garbler.decoding(word)) == expected).all()
    # the evaluator's labels alone say nothing: their low bits are not the values
    assert 0.4 < ((found[..., 0] & np.uint64(1)).astype(bool) == expected).mean() < 0.6


def test_equal_gates_have_unlike_tables():
    """A fresh permutation an array and a fresh tweak a gate: what is learnt of one gate is of no use for another."""
    _, sender = two_sides()
    garbler = Garbler(b"c", sender.offset)
    wire = np.broadcast_to(garbler.own(np.ones(1, bool)), (40, 2))
    blocks = np.zeros((1, 2), np.uint64)
    tables, permuted = [], set()
    for _ in range(3):
        garbler.conjunction(wire, wire)
        tables.append(garbler.tables())
        permuted.add(garbler._hash.permute(blocks).tobytes())
    rows = np.frombuffer(b"".join(tables), np.uint8).reshape(-1, GATE_BYTES // 2)
    assert len(np.unique(rows, axis=0)) == 3 * 40 * 2
    assert len(permuted) == 3
    assert garbler._hash.tweak == 3 * 2 * 40


def test_tables_of_wrong_size_are_refused():
    evaluator = Evaluator(b"c")
    with pytest.raises(MessageError, match="do not fit"):
        evaluator.feed(bytes(33))
    evaluator.feed(bytes(GATE_BYTES))
    wires = evaluator.own((2, 1))
    with pytest.raises(MessageError, match="too early"):
        evaluator.conjunction(wires, wires)
    with pytest.raises(MessageError, match="too many"):
        evaluator.done()


def test_hostile_base_transfers_are_refused():
    with pytest.raises(MessageError, match="not valid"):
        LabelSender(b"test", b"\xff" * 32)
    with pytest.raises(MessageError, match="expected 1 points"):
        LabelSender(b"test", bytes(64))
    receiver, sender = two_sides()
    with pytest.raises(MessageError, match="labels of 10 bits"):
        sender.extend(bytes(10), (10,))
    fresh = LabelReceiver(b"test")
    with pytest.raises(MessageError):
        fresh.accept(bytes(128 * 32))
    with pytest.raises(MessageError, match="before the base"):
        fresh.extend(np.zeros(3, bool))
    assert "offset" not in repr(sender)
    assert repr(receiver) == "<LabelReceiver>"


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
