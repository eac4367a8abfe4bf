"""Good and bad counts per anonymous bin, against plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilscore.crypto import shares
from veilscore.errors import MessageError, VeilscoreError
from veilscore.lattice.params import T
from veilscore.models.counts import BinnedColumns, cell_counts, offsets, own_counts
from veilscore.protocols.binning import bank_bin, holder_bin, withheld_cells
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

N = 700
RNG = np.random.default_rng(0)
TARGET = (RNG.random(N) < 0.3).astype(np.int8)
TRAIN = RNG.random(N) < 0.8
WEIGHT = RNG.choice([0.5, 1.0, 2.25], N)


def make_columns(party="tax", n_codes=(4, 3, 6), seed=1, **changes):
    rng = np.random.default_rng(seed)
    sizes = np.array(n_codes, np.int64)
    codes = np.stack([rng.integers(0, k, N) for k in n_codes], 1).astype(np.uint8)
    d = len(n_codes)
    fields = {
        "names": tuple(f"{party}.c{j + 1}" for j in range(d)),
        "codes": codes,
        "n_codes": sizes,
        "ordered": np.arange(d) % 2 == 0,
        "missing_code": np.array([-1, 0, *[1] * d][:d], np.int64),
        "map_hash": bytes(range(32)),
        **changes,
    }
    return BinnedColumns(**fields)


def bin_with(columns, *, weight=None, min_count=5, **options):
    holders = tuple(columns)
    sessions = {p: Session("job/bin/1", p, "bank", holders) for p in ("bank", *holders)}
    roles = {"bank": bank_bin(sessions["bank"], TARGET, weight, TRAIN)}
    for holder, own in columns.items():
        roles[holder] = holder_bin(sessions[holder], lambda train, own=own: own, N, min_count)
    return simulate(roles, sessions, **{"timeout_s": 20.0, **options})


def plain(columns, weight=None):
    return own_counts("tax", columns, TARGET, np.ones(N) if weight is None else weight, TRAIN)


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_counts_are_exact(n_holders):
    columns = {h: make_columns(h, seed=k) for k, h in enumerate(("tax", "registry", "court")[:n_holders])}
    done = bin_with(columns)
    for holder, own in columns.items():
        found, expected = done["bank"][holder], plain(own)
        for field in ("bad", "good", "counts", "holdout_counts", "n_codes", "ordered", "missing_code"):
            assert np.array_equal(getattr(found, field), getattr(expected, field)), field
        assert (found.names, found.map_hash, found.party) == (own.names, own.map_hash, holder)
        saved, train = done[holder]
        assert saved is own
        assert np.array_equal(train, TRAIN)


def test_weighted_counts():
    own = make_columns()
    found, expected = bin_with({"tax": own}, weight=WEIGHT)["bank"]["tax"], plain(own, WEIGHT)
    # dither of 2^16 units of 2^-24 on each sum
    assert np.abs(found.bad - expected.bad).max() < 8 * 2.0**-8
    assert np.abs(found.good - expected.good).max() < 8 * 2.0**-8
    assert np.array_equal(found.counts, expected.counts)


def test_plain_counts_are_counts():
    own = plain(make_columns(), WEIGHT)
    codes = make_columns().codes
    at = offsets(own.n_codes)
    assert at.tolist() == [0, 4, 7, 13]
    for j in range(3):
        for code in range(own.n_codes[j]):
            rows = TRAIN & (codes[:, j] == code)
            assert own.bad[at[j] + code] == WEIGHT[rows & (TARGET == 1)].sum()
            assert own.good[at[j] + code] == WEIGHT[rows & (TARGET == 0)].sum()
            assert own.counts[at[j] + code] == rows.sum()
            assert own.holdout_counts[at[j] + code] == (~TRAIN & (codes[:, j] == code)).sum()
    assert cell_counts(np.zeros((5, 0), np.uint8), np.zeros(0, np.int64)).size == 0


def test_order_and_association_arrive():
    association = np.array([[1, 0.25], [0.25, 1]], np.float32)
    own = make_columns(n_codes=(4, 3), association=association)
    found = bin_with({"tax": own})["bank"]["tax"]
    assert np.array_equal(found.association, association)
    assert found.ordered.tolist() == [True, False]


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_withheld_rows_cannot_be_had_by_subtraction(columns, min_count):
    counts = np.array([count for column in columns for count in column], np.int64)
    sizes = np.array([len(c) for c in columns], np.int64)
    withheld = withheld_cells(counts, sizes, min_count)
    assert withheld[counts < min_count].all()
    at = offsets(sizes)
    for j in range(sizes.size):
        cells = slice(at[j], at[j + 1])
        hidden = counts[cells][withheld[cells]].sum()
        assert hidden == 0 or hidden >= min_count or withheld[cells].all()
        if (counts[cells] >= min_count).all():
            assert not withheld[cells].any()


def test_small_cells_are_withheld():
    codes = make_columns(n_codes=(3,)).codes.copy()
    rows = np.flatnonzero(TRAIN)
    codes[:, 0] %= 2
    codes[rows[:3], 0] = 2
    found = bin_with({"tax": make_columns(n_codes=(3,), codes=codes)})["bank"]["tax"]
    shown = found.counts > 0
    assert shown.sum() == 1  # the small one, and the smaller of the others
    assert not found.bad[~shown].any()
    assert not found.good[~shown].any()
    assert not found.holdout_counts[~shown].any()


def hostile(kind, change):
    """Change the messages of one kind; `change` edits the message in place."""

    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != kind.__name__:
            return [payload]
        message = decode(payload, kind, session="", sender=sender)
        change(message)
        return [encode(message)]

    return tamper


def put(**fields):
    def change(message):
        for name, value in fields.items():
            old = getattr(message, name)
            if isinstance(value, list):
                del old[:]
                old.extend(value)
            else:
                setattr(message, name, value(old) if callable(value) else value)

    return change


U32 = (1 << 32) - 1
BAD_SHAPES = {
    "no column": put(columns=[], n_codes=[], ordered=[], missing_code=[], counts=b"", holdout_counts=b""),
    "codes beyond memory": put(n_codes=[U32, U32, U32]),
    "a column without codes": put(n_codes=[0, 7, 6]),
    "fewer names": put(columns=["a", "b"]),
    "equal names": put(columns=["a", "a", "b"]),
    "empty name": put(columns=["a", "", "b"]),
    "long name": put(columns=["a", "b", "c" * 201]),
    "fewer flags": put(ordered=[True]),
    "missing code beyond": put(missing_code=[0, 3, 0]),
    "missing code negative": put(missing_code=[0, -2, 0]),
    "counts cut": put(counts=lambda old: old[:-4]),
    "counts of another size": put(counts=lambda old: old[:-1]),
    "counts beyond the rows": put(counts=lambda old: b"\xff" * len(old)),
    "hold-out counts cut": put(holdout_counts=b""),
    "hash cut": put(map_hash=b"x" * 31),
    "association cut": put(association=b"\0" * 8),
    "association not finite": put(association=np.full(9, np.nan, "<f4").tobytes()),
    "other shape": put(n_codes=[4, 4, 5]),
}


@pytest.mark.parametrize("fault", BAD_SHAPES)
def test_bank_refuses_a_wrong_description(fault):
    with pytest.raises(MessageError):
        bin_with({"tax": make_columns()}, tamper=hostile(pb.BinHolderRound1, BAD_SHAPES[fault]))


@pytest.mark.parametrize(
    "data",
    [lambda old: old[:-1], lambda old: old + b"\0" * 8, lambda old: b"\xff" * len(old), lambda old: b""],
    ids=["cut", "longer", "outside the ring", "empty"],
)
def test_bank_refuses_wrong_shares(data):
    with pytest.raises(MessageError):
        bin_with({"tax": make_columns()}, tamper=hostile(pb.BinHolderRound2, put(shares=data)))


def test_bank_notices_counts_that_do_not_add_up():
    def change(message):
        words = shares.shares_from_bytes(message.shares, (2, 13)).copy()
        words[0, 0] = (words[0, 0] + np.uint64(3 << 24)) % np.uint64(T)
        message.shares = shares.shares_to_bytes(words)

    with pytest.raises(MessageError, match="do not add up"):
        bin_with({"tax": make_columns()}, tamper=hostile(pb.BinHolderRound2, change))


BAD_MASKS = {
    "other rows": put(n_samples=N + 1),
    "mask cut": put(train_mask=lambda old: old[:-1]),
    "count wrong": put(n_train=lambda old: old - 1),
    "no training rows": put(n_train=0, train_mask=lambda old: b"\0" * len(old)),
    "bits beyond": put(train_mask=lambda old: old[:-1] + b"\xff"),
}


@pytest.mark.parametrize("fault", BAD_MASKS)
def test_holder_refuses_a_wrong_training_mask(fault):
    with pytest.raises(MessageError):
        bin_with({"tax": make_columns()}, tamper=hostile(pb.BinBankRound1, BAD_MASKS[fault]))


@pytest.mark.parametrize("kind", [pb.BinHolderHints, pb.BinBankRound2])
@pytest.mark.parametrize(
    "change",
    [
        put(data=lambda old: old[:-1]),
        put(data=lambda old: old[: len(old) // 2]),
        put(data=lambda old: old + b"\0"),
        put(data=b""),
        put(data=lambda old: b"\xff" * len(old)),
        put(parts=0),
        put(part=1),
        put(parts=U32),
    ],
    ids=["byte short", "half", "byte more", "empty", "residues too large", "no parts", "second part", "many parts"],
)
def test_wrong_lattice_messages_are_refused(kind, change):
    with pytest.raises(VeilscoreError):
        bin_with({"tax": make_columns()}, tamper=hostile(kind, change), timeout_s=1.0)
