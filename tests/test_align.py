"""Alignment: equals the left join, tells the bank nothing but a size, and refuses what is not as agreed."""

from __future__ import annotations

import asyncio
import csv
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_data
from veilscore.crypto import oprf
from veilscore.errors import (
    IdError,
    MessageError,
    ParameterError,
    ProtocolError,
    RefusedError,
)
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.release.pseudonyms import RowDigests
from veilscore.v1.align_pb2 import AlignBankRound1, AlignBankRound2, AlignHolderRound1, AlignHolderStore
from veilscore.wire.driver import run
from veilscore.wire.memory import MemoryNetwork, simulate
from veilscore.wire.protocol import Session, decode, encode
from veilscore.wire.transcript import Transcript

SMALL = AlignLimits(part_size=4, size_step=1)


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
    network = MemoryNetwork(timeout_s=20.0, tamper=tamper)

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


@settings(max_examples=12, deadline=None)
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
    limits = AlignLimits(part_size=1200, size_step=1)
    result = align(ids["bank"], ids["tax"], limits=limits)
    assert result["tax"].row_of.tolist() == left_join(ids["bank"], ids["tax"])
    assert (result["tax"].row_of >= 0).sum() > 300


def test_messages_carry_no_id():
    bank_ids = [f"91310000{i:010d}" for i in range(9)]
    tax_ids = [f"91310000{i:010d}" for i in range(4, 16)]
    transcripts = {}
    align(bank_ids, tax_ids, transcripts=transcripts)
    messages = transcripts["bank"].messages
    sent = b"".join(m.SerializeToString() for _, m in messages)
    label, key = sessions()["tax"].label("align", "bank", "tax"), messages[0][1].digest_key
    for i, digest in zip(bank_ids + tax_ids, oprf.digests_of(label, key, bank_ids + tax_ids), strict=True):
        assert i.encode() not in sent
        assert hashlib.blake2b(i.encode()).digest()[:12] not in sent
        assert not any(word.tobytes() in sent for word in digest)
    assert [entry.kind for entry, _ in messages] == [
        "AlignHolderRound1",
        "AlignBankRound1",
        "AlignHolderStore",
        *["AlignBankRound2"] * 3,
        "AlignHolderRound2",
    ]


def test_fresh_secrets_give_unlinkable_messages():
    ids = [f"firm{i}" for i in range(200)]
    stores, values, points = [], [], []
    for _ in range(2):  # the same session twice: only the secrets differ
        transcripts = {}
        align(ids, ids, limits=AlignLimits(part_size=64, size_step=1), transcripts=transcripts)
        data = {e.kind: m for e, m in transcripts["bank"].messages}
        stores.append(np.frombuffer(data["AlignHolderStore"].data, np.uint8))
        points += [data[f"Align{who}Round1"].points[k : k + 32] for who in ("Bank", "Holder") for k in (0, 480 * 32)]
        told = b"".join(m.data for e, m in transcripts["bank"].messages if e.kind == "AlignBankRound2")
        values += [told[k : k + 12] for k in range(0, len(told), 12)]
    assert len(set(values)) == 400
    assert len(set(points) - {b""}) == 6
    for seen in (*stores, stores[0] ^ stores[1], np.frombuffer(b"".join(values), np.uint8)):
        bits = np.unpackbits(seen)
        assert abs(bits.mean() - 0.5) < 3 / np.sqrt(bits.size)


def test_label_separates_sessions_and_pairs():
    one, other = sessions("job/align/1")["bank"], sessions("job/align/2")["bank"]
    labels = (
        one.label("align", "bank", "tax"),
        other.label("align", "bank", "tax"),
        one.label("align", "bank", "registry"),
    )
    assert len({oprf.digests_of(label, bytes(32), ["firm"]).tobytes() for label in labels}) == 3


def test_few_rows_of_the_bank_are_refused_whichever_are_known():
    for tax_ids in (["a", "b"], ["x", "y"]):
        bank, tax = outcomes(["a", "b"], tax_ids, min_rows=3)
        assert isinstance(tax, RefusedError)
        assert isinstance(bank, RefusedError)
        assert "2 firms are fewer than the minimum of 3" in bank.message


def test_sets_are_padded_to_steps_that_a_secret_shifts():
    limits = AlignLimits(part_size=4, size_step=10)
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
    return simulate(roles, both, timeout_s=20.0)["tax"].digests


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
        simulate(roles, both, timeout_s=20.0)


def test_a_set_that_is_not_padded_is_refused():
    both = sessions()
    roles = {
        "bank": bank_align(both["bank"], "tax", ["a"], AlignLimits(size_step=10)),
        "tax": holder_align(both["tax"], list("abcdefgh"), limits=SMALL),
    }
    with pytest.raises(MessageError, match="8 ids is not padded to a multiple of 10"):
        simulate(roles, both, timeout_s=20.0)


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


def set_bytes(make):
    """Change the points or the data of a message."""

    def change(message):
        name = "points" if hasattr(message, "points") else "data"
        setattr(message, name, make(getattr(message, name)))

    return change


def set_field(name, value):
    def change(message):
        setattr(message, name, value)

    return change


BAD_POINTS = {
    "identity": set_bytes(lambda p: IDENTITY + p[32:]),
    "not canonical": set_bytes(lambda p: NOT_CANONICAL + p[32:]),
    "negative": set_bytes(lambda p: ODD + p[32:]),
}
BAD_SIZES = {"truncated": set_bytes(lambda p: p[:-1]), "too long": set_bytes(lambda p: p + p[:32])}
BAD_PARTS = {
    "wrong part": set_field("part", 3),
    "wrong number of parts": set_field("parts", 7),
    "changed": set_bytes(lambda p: p[:99] + bytes([p[99] ^ 4]) + p[100:]),
    "zeros": set_bytes(lambda p: bytes(len(p))),
}
# kind, its sender, its sequence number, what may be wrong with it
PLACES = {
    AlignHolderRound1: ("tax", 0, BAD_POINTS | BAD_SIZES | {"key": set_field("digest_key", b"short")}),
    AlignBankRound1: ("bank", 0, BAD_POINTS | BAD_SIZES),
    AlignHolderStore: ("tax", 1, BAD_SIZES | BAD_PARTS),
    AlignBankRound2: ("bank", 1, BAD_SIZES | {k: v for k, v in BAD_PARTS.items() if k != "changed"}),
}


def align_under(tamper):
    ids = [f"firm{i}" for i in range(10)]
    return align(ids, ids, tamper=tamper)


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, (*_, faults) in PLACES.items() for fault in faults]
)
def test_faulty_message_is_refused(kind, fault):
    sender, sequence, faults = PLACES[kind]
    with pytest.raises(MessageError):
        align_under(changed(sender, sequence, kind, faults[fault]))


@pytest.mark.parametrize("n_ids", [0, 900, 2**63])
@pytest.mark.parametrize(("sender", "kind"), [("bank", AlignBankRound1), ("tax", AlignHolderRound1)])
def test_wrong_count_is_refused(sender, kind, n_ids):
    with pytest.raises(MessageError):
        align_under(changed(sender, 0, kind, set_field("n_ids", n_ids)))


@pytest.mark.parametrize("sender", ["bank", "tax"])
@pytest.mark.parametrize("fault", ["lost", "twice"])
def test_lost_or_repeated_part_ends_in_an_error(sender, fault, monkeypatch):
    monkeypatch.setattr(oprf, "PART", 128)

    def tamper(who, recipient, number, payload):
        return [payload] * (0 if fault == "lost" else 2) if (who, number) == (sender, 1) else [payload]

    with pytest.raises(ProtocolError):
        align_under(tamper)


def test_transcript_shows_sizes_only_once_kept():
    transcripts = {"bank": Transcript(), "tax": Transcript()}
    align(["a", "b"], ["b", "c"], transcripts=transcripts)
    assert transcripts["bank"].messages == []
    assert transcripts["bank"].bytes_sent("bank") > 4 * 32
