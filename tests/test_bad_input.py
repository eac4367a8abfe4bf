"""Bad input through whole jobs: each ends in an error whose message says where and what to do.

Certificates, clocks, queues and killed nodes are in test_fabric.py, test_identity.py and simulation/.
"""

from __future__ import annotations

import errno
import itertools
import os
import re

import pytest
from faulty_network import FaultyNetwork, frame
from local_jobs import firms, job, nodes, take, write

from veilscore.errors import (
    ColumnError,
    ConfigError,
    DataError,
    IdError,
    LabelError,
    MessageError,
    PeerError,
    ProtocolError,
    StateError,
    VeilscoreError,
)
from veilscore.node.local import open_job
from veilscore.v1 import score_pb2, scorecard_pb2
from veilscore.wire.framing import kind_of
from veilscore.wire.protocol import decode, encode

N = 320


@pytest.fixture
def parts():
    return firms(N, seed=3)


def start(folder, parts, *, policy=None, bank_policy=None, **parameters):
    data = write(folder / "data", parts)
    configs = nodes(data, holder_policy=policy, bank_policy=bank_policy)
    return open_job(job(**parameters), configs, folder / "homes")


def ready_to_bin(folder, parts, **options):
    run = start(folder, parts, **options)
    run.step("align")
    return run


def fails(folder, parts, error, message, **options):
    """The job fails with exactly this error, and no value of a row stands in the message."""
    with pytest.raises(error) as caught:
        start(folder, parts, **options).run()
    text = str(caught.value)
    assert re.search(message, text), text
    assert not any(firm in text for columns in parts.values() for firm in columns["firm"] if firm)
    return caught.value


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ["bank", "tax"])
def test_empty_id(tmp_path, parts, party):
    parts[party]["firm"][4] = ""
    fails(tmp_path, parts, IdError, r"(?s)empty.*row 5")


@pytest.mark.parametrize("party", ["bank", "tax"])
def test_duplicate_id(tmp_path, parts, party):
    parts[party]["firm"][4] = parts[party]["firm"][9]
    fails(tmp_path, parts, IdError, r"1 duplicate \(row (5|10)\): keep one row per id")


def test_malformed_id(tmp_path, parts):
    fails(tmp_path, parts, IdError, r"(?s)GB 32100-2015.*'text'", id_normaliser="uscc")


# --- overlap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("common", [0, 5])
def test_tiny_overlap_is_told_to_the_holders_own_people_alone(tmp_path, parts, common):
    known = set(parts["bank"]["firm"][:common])
    firms_of_tax = parts["tax"]["firm"]
    parts["tax"]["firm"] = [f if f in known else f"else-{k}" for k, f in enumerate(firms_of_tax)]
    known &= set(firms_of_tax)
    run = ready_to_bin(tmp_path, parts)
    warning = f"only {len(known)} of the bank's {N} firms are in this data set: check that both use the same kind of id"
    assert run.stores["tax"].load_json("aligned")["warnings"] == [warning]
    for party in ("bank", "registry"):
        assert run.stores[party].load_json("aligned")["warnings"] == []


# --- label -----------------------------------------------------------------------------------------------------------


def test_constant_label(tmp_path, parts):
    parts["bank"]["default"] = [0] * N
    fails(tmp_path, parts, LabelError, "one value only; a model needs good and bad firms")


def test_label_that_is_not_0_or_1(tmp_path, parts):
    parts["bank"]["default"][6] = 2
    fails(tmp_path, parts, LabelError, r"not 0/1 in 1 rows \(row 7\); recode it: 1 for bad, 0 for good")


def test_label_as_text(tmp_path, parts):
    parts["bank"]["default"] = ["bad" if y else "good" for y in parts["bank"]["default"]]
    fails(tmp_path, parts, DataError, r"'default' of bank\.csv is no number in \d+ rows; recode them")


def test_missing_label(tmp_path, parts):
    parts["bank"]["default"][2] = ""
    fails(tmp_path, parts, LabelError, r"missing in 1 rows \(row 3\); remove them")


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_without_information_are_dropped_with_a_warning(tmp_path, parts):
    rows = len(parts["registry"]["firm"])
    parts["registry"] |= {"years": [7.5] * rows, "noise": [""] * rows}
    run = start(tmp_path, parts, holdout_fraction=0).run()
    warnings = run.stores["registry"].load_json("aligned")["warnings"]
    for name, words in (("years", "one value only"), ("noise", "missing in every row")):
        assert any(f"'{name}'" in line and words in line and "dropped" in line for line in warnings)
    codes = run.stores["registry"].load_arrays("rows")["codes"]
    # firms that the registry does not know make a bin of their own; else the columns are gone
    assert codes.shape[1] in {1, 2, 3}


@pytest.mark.parametrize("party", ["bank", "tax"])
def test_no_usable_column_at_all(tmp_path, parts, party):
    kept = {"firm", "default", "weight", "opened"}
    parts[party] = {k: v if k in kept else [1] * len(v) for k, v in parts[party].items()}
    if party == "tax":  # known for every firm, so that "unknown" tells nothing either
        parts["tax"] = {"firm": parts["bank"]["firm"], "turnover": [1] * N}
    fails(tmp_path, parts, DataError, r"every column of (bank|tax).csv was dropped: column '\w+'.*one value only")


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_infinite_value(tmp_path, parts, value):
    parts["tax"]["turnover"][1] = value
    fails(tmp_path, parts, ColumnError, r"'turnover'.*1 infinite values \(row 2\); leave such cells empty")


def test_mixed_type(tmp_path, parts):
    parts["tax"]["turnover"][1] = "many"
    fails(tmp_path, parts, ColumnError, r"(?s)'turnover'.*(mixed|numbers).*(category|exclude)")


def test_a_column_that_is_not_there(tmp_path, parts):
    parts["bank"]["defaults"] = parts["bank"].pop("default")
    fails(tmp_path, parts, ColumnError, "no column 'default'; did you mean 'defaults'")


@pytest.mark.parametrize("weight", [0, -1, "", "inf"])
def test_bad_weight(tmp_path, parts, weight):
    parts["bank"]["weight"][0] = weight
    fails(tmp_path, parts, ColumnError, r"weight.*row 1.*correct or remove", weights=True)


def test_bad_date(tmp_path, parts):
    parts["bank"]["opened"][0] = ""
    fails(tmp_path, parts, ColumnError, r"date.*row 1.*YYYY-MM-DD", holdout_from="2022-01-01")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("party", ["bank", "registry"])
def test_missing_file(tmp_path, parts, party):
    run = start(tmp_path, parts)
    (tmp_path / "data" / f"{party}.csv").unlink()
    with pytest.raises(VeilscoreError, match=rf"{party}\.csv.*(not found|no such|does not exist|check)") as caught:
        run.step("align")
    assert isinstance(caught.value, (DataError, ConfigError))


def test_empty_file(tmp_path, parts):
    fails(tmp_path, parts | {"tax": take(parts["tax"], [])}, DataError, r"tax\.csv.*(no rows|empty)")


def test_a_step_whose_forerunner_did_not_run(tmp_path, parts):
    with pytest.raises(StateError, match=r"nothing saved as 'aligned'.*run the step that makes it"):
        start(tmp_path, parts).step("bin")


def test_disk_full_then_resumed(tmp_path, parts, monkeypatch):
    run = ready_to_bin(tmp_path, parts)
    with monkeypatch.context() as patch:

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr("veilscore.files.store.os.fsync", full)
        with pytest.raises(StateError, match=r"cannot write .*: disk full.*free space, then resume the job"):
            run.step("bin", timeout_s=5)
    run.step("bin", attempt=2)
    assert run.stores["bank"].has("counts")


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def once_aligned(tmp_path_factory):
    return ready_to_bin(tmp_path_factory.mktemp("aligned"), firms(N, seed=3))


@pytest.fixture
def aligned(once_aligned):
    """A job whose next step is to bin, each time as if for the first."""
    once_aligned.stores["bank"].delete("counts")
    return once_aligned


attempts = itertools.count(1)


def bins(run, **options):
    run.step("bin", next(attempts), **options)
    assert run.stores["bank"].has("counts")


def change(kind, edit):
    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != kind.__name__:
            return [payload]
        message = decode(payload, kind, session="", sender=sender)
        edit(message)
        return [encode(message)]

    return tamper


def set_data(make):
    def edit(message):
        message.data = make(message.data)

    return edit


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: data[:-1], "bytes"),
        (lambda data: data[: len(data) // 2 + 1], "bytes"),
        (lambda data: b"", "bytes"),
        (lambda data: data[:-1000] + b"\xff" * 1000, "below its prime|modulus|range|outside"),
        (lambda data: data + bytes(1 << 23), "more than|bytes"),
    ],
    ids=["byte short", "half", "empty", "of another modulus", "oversized"],
)
@pytest.mark.parametrize("kind", [scorecard_pb2.BinHolderHints, scorecard_pb2.BinBankRound2])
def test_ciphertext_of_wrong_size_or_modulus(aligned, kind, make, message):
    with pytest.raises(MessageError, match=message):
        bins(aligned, tamper=change(kind, set_data(make)), timeout_s=5)
    assert not aligned.stores["bank"].has("counts")


def at(kind, make):
    """Fault of the wire at the first message of a kind."""
    done = []

    def wire(sender, recipient, sequence, item):
        body = item[4 + int.from_bytes(item[:4], "little") :]
        if done or kind_of(body) != kind.__name__:
            return [item]
        done.append(True)
        return make(item, body, sender, recipient, sequence)

    return wire


def other_session(item, body, sender, recipient, sequence):
    return [frame("job-of-last-week/bin/1", sender, recipient, sequence, body)]


def ahead(item, body, sender, recipient, sequence):
    return [frame(session_of(item), sender, recipient, sequence + 1, body)]


def session_of(item):
    from veilscore.v1 import wire_pb2

    return wire_pb2.Header.FromString(item[4 : 4 + int.from_bytes(item[:4], "little")]).session


def with_other_content(item, body, sender, recipient, sequence):
    return [item, frame(session_of(item), sender, recipient, sequence, body + b"\0")]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (other_session, ProtocolError, "another session"),
        (ahead, ProtocolError, "out of order.*the step has to start again"),
        (lambda item, *_: [item[:-1]], MessageError, "truncated"),
        (lambda item, *_: [item + b"\0"], MessageError, "more data than"),
        (lambda item, *_: [item[:-1] + bytes([item[-1] ^ 1])], MessageError, "digest"),
        (with_other_content, ProtocolError, "arrived before with other content"),
        (lambda item, *_: [], (PeerError, ProtocolError), "no message from|out of order"),
    ],
    ids=["other session", "out of order", "truncated", "lengthened", "changed", "repeated but changed", "lost"],
)
def test_message_faults_end_the_step_and_a_new_attempt_succeeds(aligned, make, error, message):
    wait_s = 1.0 if PeerError in (error if isinstance(error, tuple) else (error,)) else 60.0  # for what was lost alone
    with pytest.raises(error, match=message):
        bins(aligned, network=FaultyNetwork(at(scorecard_pb2.BinHolderHints, make), timeout_s=wait_s))
    assert not aligned.stores["bank"].has("counts")
    bins(aligned)


def test_repeated_message_does_no_harm(aligned):
    bins(aligned, network=FaultyNetwork(at(scorecard_pb2.BinHolderHints, lambda item, *_: [item] * 3)))


def test_message_of_another_kind(aligned):
    other = encode(score_pb2.BatchHolderHints(part=0, parts=1, data=b"x"))

    def lie(sender, recipient, sequence, payload):
        return [other] if kind_of(payload) == "BinHolderHints" else [payload]

    with pytest.raises(ProtocolError, match="out of order: expected BinHolderHints, got batch_holder_hints"):
        bins(aligned, tamper=lie, timeout_s=5)


def test_slow_peer(aligned):
    with pytest.raises(PeerError, match=r"no message from \w+ within 0\.3 s"):
        bins(aligned, tamper=lambda s, r, n, payload: [] if s == "registry" else [payload], timeout_s=0.3)
