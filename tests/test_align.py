"""Alignment: equals the left join, tells the bank nothing but a size, and refuses what is not as agreed."""

from __future__ import annotations

import asyncio
import csv
import hashlib

import numpy as np
import pytest
import rbcl
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_data
from veilscore.crypto import group
from veilscore.errors import (
    IdError,
    MessageError,
    ParameterError,
    ProtocolError,
    RefusedError,
    SecretReuseError,
)
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.release.pseudonyms import RowDigests
from veilscore.v1.align_pb2 import AlignBankRound1, AlignBankRound2, AlignHolderRound1
from veilscore.wire.driver import run
from veilscore.wire.memory import MemoryNetwork, simulate
from veilscore.wire.protocol import Session, decode, encode
from veilscore.wire.transcript import Transcript

SMALL = AlignLimits(part_size=4, size_step=1, workers=1)


def sessions(id_="job/align/1"):
    return {p: Session(id_, p, "bank", ("tax",)) for p in ("bank", "tax")}


def align(bank_ids, tax_ids, *, limits=SMALL, min_rows=0, id_="job/align/1", timeout_s=20.0, **kwargs):
    both = sessions(id_)
    roles = {
        "bank": bank_align(both["bank"], "tax", bank_ids, limits),
        "tax": holder_align(both["tax"], tax_ids, min_rows=min_rows, limits=limits),
    }
    return simulate(roles, both, timeout_s=timeout_s, **kwargs)


def outcomes(bank_ids, tax_ids, *, tamper=None, **holder_options):
    """Result or error of each side."""
    both = sessions()
    network = MemoryNetwork(timeout_s=5.0, tamper=tamper)

    async def both_sides():
        return await asyncio.gather(
            run(bank_align(both["bank"], "tax", bank_ids, SMALL), network.channel("bank"), both["bank"]),
            run(
                holder_align(both["tax"], tax_ids, limits=SMALL, **holder_options),
                network.channel("tax"),
                both["tax"],
            ),
            return_exceptions=True,
        )

    return asyncio.run(both_sides())


def left_join(bank_ids, tax_ids):
    row = {i: k for k, i in enumerate(tax_ids)}
    return [row.get(i, -1) for i in bank_ids]


id_sets = st.lists(st.text("ABC123企业", min_size=1, max_size=4), min_size=1, max_size=14, unique=True)


@settings(max_examples=60, deadline=None)
@given(bank_ids=id_sets, tax_ids=id_sets)
def test_equals_the_left_join(bank_ids, tax_ids):
    result = align(bank_ids, tax_ids)
    assert result["tax"].row_of.tolist() == left_join(bank_ids, tax_ids)
    assert result["tax"].row_of.dtype == np.int64
    assert result["bank"].padded_size == len(tax_ids)


def test_real_data_and_threads():
    folder = shared_data("kz_corporate")
    ids = {}
    for party in ("bank", "tax"):
        with (folder / f"{party}.csv").open() as file:
            ids[party] = [row["uscc"] for row in csv.DictReader(file)]
    ids["bank"] += [f"X{i}" for i in range(2000)]  # enough for several threads and parts of the default size
    limits = AlignLimits(part_size=1200, size_step=1, workers=2)
    result = align(ids["bank"], ids["tax"], limits=limits)
    assert result["tax"].row_of.tolist() == left_join(ids["bank"], ids["tax"])
    assert (result["tax"].row_of >= 0).sum() > 300


def test_messages_carry_no_id_and_the_bank_sees_shuffled_points():
    bank_ids = [f"91310000{i:010d}" for i in range(9)]
    tax_ids = [f"91310000{i:010d}" for i in range(4, 16)]
    transcripts = {}
    align(bank_ids, tax_ids, transcripts=transcripts)
    sent = b"".join(m.SerializeToString() for _, m in transcripts["bank"].messages)
    label = sessions()["tax"].label("align", "bank", "tax")
    for i in bank_ids + tax_ids:
        point = rbcl.crypto_core_ristretto255_from_hash(hashlib.sha512(label + i.encode()).digest())
        assert i.encode() not in sent
        assert hashlib.sha512(i.encode()).digest()[:16] not in sent
        assert point not in sent
    kinds = {entry.kind for entry, _ in transcripts["bank"].messages}
    assert kinds == {"AlignBankRound1", "AlignHolderRound1", "AlignBankRound2", "AlignHolderRound2"}


def points_of(transcripts, kind):
    data = b"".join(m.points for e, m in transcripts["bank"].messages if e.kind == kind)
    return np.frombuffer(data, np.uint8).reshape(-1, 32)


@pytest.mark.parametrize("kind", ["AlignBankRound1", "AlignHolderRound1"])
def test_fresh_scalars_give_unlinkable_points(kind):
    ids = [f"firm{i}" for i in range(200)]
    seen = []
    for _ in range(2):  # the same session twice: only the scalars differ
        transcripts = {}
        align(ids, ids, limits=AlignLimits(part_size=64, size_step=1, workers=1), transcripts=transcripts)
        seen.append(points_of(transcripts, kind))
    assert len(np.unique(np.concatenate(seen), axis=0)) == 400
    bits = np.unpackbits(np.concatenate(seen)[:, :31], axis=1).mean(axis=0)
    assert abs(np.delete(bits, 7).mean() - 0.5) < 0.01  # 400 x 247 bits, sd 0.0016; bit 0 is always 0
    assert np.abs(np.delete(bits, 7) - 0.5).max() < 0.13  # sd 0.025 a bit


def test_label_separates_sessions_and_pairs():
    one, other = sessions("job/align/1")["bank"], sessions("job/align/2")["bank"]
    points = [
        group.hash_to_group(label, ["firm"]).tobytes()
        for label in (
            one.label("align", "bank", "tax"),
            other.label("align", "bank", "tax"),
            one.label("align", "bank", "registry"),
        )
    ]
    assert len(set(points)) == 3


def test_few_rows_of_the_bank_are_refused_whichever_are_known():
    for tax_ids in (["a", "b"], ["x", "y"]):
        bank, tax = outcomes(["a", "b"], tax_ids, min_rows=3)
        assert isinstance(tax, RefusedError)
        assert isinstance(bank, RefusedError)
        assert "2 firms are fewer than the minimum of 3" in bank.message


def test_sets_are_padded_to_steps_that_a_secret_shifts():
    limits = AlignLimits(part_size=4, size_step=10, workers=1)
    assert [limits.padded(n, 0) for n in (1, 9, 10, 11)] == [10, 10, 10, 20]
    assert [limits.padded(n, 9) for n in (1, 2, 11)] == [10, 20, 20]
    result = align(["a", "b", "c"], ["c", "x"], limits=limits)
    assert result["bank"].padded_size == 10
    assert result["tax"].row_of.tolist() == [-1, -1, 0]


def with_digests(values, key_id=b"k" * 32, *, counted=True, ids=("a", "b", "c", "d", "e")):
    both = sessions()
    digests = None if values is None else RowDigests(np.array(values, np.uint64), key_id)
    roles = {
        "bank": bank_align(both["bank"], "tax", ids, SMALL, digests=digests),
        "tax": holder_align(both["tax"], ["c"], counted=counted, limits=SMALL),
    }
    return simulate(roles, both, timeout_s=5.0)["tax"].digests


def test_digests_of_rows_come_in_row_order():
    found = with_digests([5, 4, 3, 2, 1 << 63])
    assert found.values.tolist() == [5, 4, 3, 2, 1 << 63]
    assert found.key_id == b"k" * 32
    assert with_digests(None, counted=False) is None


@pytest.mark.parametrize(
    ("values", "key_id", "counted"),
    [([1, 2, 3], b"k" * 32, True), ([1] * 5, b"", True), (None, b"", True), ([1] * 5, b"k" * 32, False)],
)
def test_digests_that_are_not_one_a_row_are_refused(values, key_id, counted):
    with pytest.raises(MessageError, match="digests of rows"):
        with_digests(values, key_id, counted=counted)


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([], IdError),
        (["a", ""], IdError),
        (["a", "b", "a"], IdError),
        (["a" * 300], IdError),
        ([str(i) for i in range(50)], ParameterError),
    ],
)
def test_own_bad_ids_are_refused_before_anything_is_sent(ids, error):
    limits = AlignLimits(max_ids=40)
    both = sessions()
    with pytest.raises(error):
        next(bank_align(both["bank"], "tax", ids, limits))
    with pytest.raises(error):
        next(holder_align(both["tax"], ids, limits=limits))


def test_peer_set_over_the_cap_is_refused():
    both = sessions()
    roles = {
        "bank": bank_align(both["bank"], "tax", ["a"], AlignLimits(max_ids=5, part_size=4, size_step=1)),
        "tax": holder_align(both["tax"], list("abcdefgh"), limits=SMALL),
    }
    with pytest.raises(MessageError, match="over the limit of 7"):
        simulate(roles, both, timeout_s=5.0)


IDENTITY = bytes(32)
NOT_CANONICAL = b"\xff" * 32
ODD = b"\x01" + bytes(31)


def changed(sender, sequence, kind, change):
    """Tamper that applies `change` to one message."""

    def tamper(who, recipient, number, payload):
        if (who, number) != (sender, sequence):
            return [payload]
        message = decode(payload, kind, session="", sender=who)
        change(message)
        return [encode(message)]

    return tamper


def set_points(make):
    def change(message):
        message.points = make(message.points)

    return change


def set_field(name, value):
    def change(message):
        setattr(message, name, value)

    return change


BAD = {
    "identity": set_points(lambda p: IDENTITY + p[32:]),
    "not canonical": set_points(lambda p: NOT_CANONICAL + p[32:]),
    "negative": set_points(lambda p: ODD + p[32:]),
    "truncated": set_points(lambda p: p[:-1]),
    "too long": set_points(lambda p: p + p[:32]),
    "same point twice": set_points(lambda p: p[:32] + p[:32] + p[64:]),
    "wrong part": set_field("part", 3),
    "wrong number of parts": set_field("parts", 7),
}
# sequence numbers: each side's first message is its first part; the bank's third is its first reply
PLACES = {
    "bank round 1": ("bank", 0, AlignBankRound1),
    "holder round 1": ("tax", 0, AlignHolderRound1),
    "bank round 2": ("bank", 2, AlignBankRound2),
}


def align_under(tamper):
    ids = [f"firm{i}" for i in range(10)]
    return align(ids, ids, tamper=tamper, timeout_s=2.0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", BAD)
def test_faulty_message_is_refused(place, fault):
    with pytest.raises(MessageError):
        align_under(changed(*PLACES[place], BAD[fault]))


@pytest.mark.parametrize("n_ids", [0, 9, 2**63])
@pytest.mark.parametrize(("sender", "kind"), [("bank", AlignBankRound1), ("tax", AlignHolderRound1)])
def test_wrong_count_is_refused(sender, kind, n_ids):
    with pytest.raises(MessageError):
        align_under(changed(sender, 0, kind, set_field("n_ids", n_ids)))


@pytest.mark.parametrize("sender", ["bank", "tax"])
@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_lost_or_repeated_part_ends_in_an_error(sender, fault):
    def tamper(who, recipient, number, payload):
        return [payload] * (0 if fault == "lost" else 2) if (who, number) == (sender, 1) else [payload]

    with pytest.raises(ProtocolError):
        align_under(tamper)


def test_scalar_is_hidden_destroyed_and_not_copied():
    points = group.hash_to_group(b"test", ["a", "b"])
    with group.Scalar() as scalar:
        raised = group.raise_points(points, scalar)
        assert "secret" in repr(scalar)
        secret = scalar.reveal_to_kernel()
        expected = rbcl.crypto_scalarmult_ristretto255(secret.tobytes(), points[0].tobytes())
    assert raised[0].tobytes() == expected
    assert not secret.any()
    with pytest.raises(SecretReuseError):
        group.raise_points(points, scalar)
    with pytest.raises(SecretReuseError):
        scalar.__reduce__()


def test_transcript_shows_sizes_only_once_kept():
    transcripts = {"bank": Transcript(), "tax": Transcript()}
    align(["a", "b"], ["b", "c"], transcripts=transcripts)
    assert transcripts["bank"].messages == []
    assert transcripts["bank"].bytes_sent("bank") > 4 * 32
