"""Merkle proofs, the log on disk, heads, receipts, anchors and the command, on real files, keys and nodes."""

from __future__ import annotations

import asyncio
import csv
import errno
import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import require
from fabric_network import FEDERATION, IDENTITIES, make_identity
from finished_jobs import finished
from hypothesis import given, settings
from hypothesis import strategies as st
from trial_evidence import (
    AHEAD,
    EVERYBODY,
    KEYS,
    entry,
    log_path,
    open_log,
    open_nodes,
    receipt_path,
    run_jobs,
    waited_for,
)
from trial_scoring import BATCH, copy_of, rows, score, scoring, train
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, EvidenceError, PeerError, StateError
from veilscore.evidence.anchor import SecondLog, TimeStamps, check_anchor
from veilscore.evidence.documents import AnyKeys, CertificateKeys, load_keys
from veilscore.evidence.heads import Countersignature, check_successor
from veilscore.evidence.kept_receipts import score_receipt
from veilscore.evidence.log import scan
from veilscore.evidence.merkle import EMPTY_ROOT, MerkleTree, check_consistency, check_inclusion, leaf_hash, node_hash
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.receipt import JobStatement, traffic_of
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.models.filed import load_model
from veilscore.terms.federation import load_federation
from veilscore.v1 import align_pb2
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.transcript import Transcript

ROOT = Path(__file__).resolve().parent.parent

# test vectors of the reference implementations of RFC 6962
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION_5_OF_8 = (
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
)
CONSISTENCY_6_TO_8 = (
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
)


def recursive_root(leaves):
    """Root straight from the definition."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(recursive_root(leaves[:k]), recursive_root(leaves[k:]))


def leaves_of(n):
    return [leaf_hash(n.to_bytes(4, "big") + k.to_bytes(4, "big")) for k in range(n)]


def test_published_vectors():
    tree = MerkleTree()
    assert tree.root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for data, root in zip(INPUTS, ROOTS, strict=True):
        tree.extend([leaf_hash(data)])
        assert tree.root().hex() == root
    assert tuple(step.hex() for step in tree.inclusion(5)) == INCLUSION_5_OF_8
    assert tuple(step.hex() for step in tree.consistency(6)) == CONSISTENCY_6_TO_8


@given(st.integers(0, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_every_proof_verifies_and_no_other(n, data):
    leaves = leaves_of(n)
    tree = MerkleTree(leaves[: n // 3])
    tree.extend(leaves[n // 3 :])
    assert tree.root() == recursive_root(leaves)
    old = data.draw(st.integers(0, n))
    path = tree.consistency(old)
    check_consistency(old, recursive_root(leaves[:old]), n, tree.root(), path)
    if 0 < old < n:
        changed = data.draw(st.integers(0, len(path) - 1))
        with pytest.raises(EvidenceError):
            check_consistency(old, tree.root(old), n, tree.root(), [*path[:changed], bytes(32), *path[changed + 1 :]])
        with pytest.raises(EvidenceError):
            check_consistency(old, bytes(32), n, tree.root(), path)
        with pytest.raises(EvidenceError):
            check_consistency(old, tree.root(old), n, tree.root(), path[:-1])
    if n:
        index = data.draw(st.integers(0, n - 1))
        proof = tree.inclusion(index)
        check_inclusion(leaves[index], index, n, proof, tree.root())
        other = data.draw(st.integers(0, n - 1))
        if other != index:
            with pytest.raises(EvidenceError):
                check_inclusion(leaves[index], other, n, proof, tree.root())
        for bad in ([*proof, bytes(32)], proof[:-1] if proof else [bytes(31)]):
            with pytest.raises(EvidenceError):
                check_inclusion(leaves[index], index, n, bad, tree.root())


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_tree_that_was_cut_goes_on_as_if_nothing_had_been(kept, more):
    tree = MerkleTree(leaves_of(60))
    tree.cut(kept)
    tree.extend(leaves_of(60)[kept : kept + more])
    assert tree.root() == recursive_root(leaves_of(60)[: kept + min(more, 60 - kept)])


def test_impossible_proofs_are_refused():
    tree = MerkleTree(leaves_of(3))
    for wrong in (lambda: tree.inclusion(3), lambda: tree.consistency(4), lambda: tree.root(4)):
        with pytest.raises(EvidenceError):
            wrong()
    with pytest.raises(EvidenceError, match="64 hashes"):
        check_inclusion(bytes(32), 0, 1, [bytes(32)] * 65, bytes(32))
    with pytest.raises(EvidenceError, match="shorter"):
        check_consistency(3, tree.root(), 2, tree.root(2), [])


# the log on disk


def test_log_goes_on_after_it_was_closed(tmp_path):
    log = open_log(tmp_path)
    assert log.append([entry(k) for k in range(10)]) == range(1, 11)
    head, content = log.head, list(log.entries())
    log.close()
    log = open_log(tmp_path)
    assert (log.head, list(log.entries())) == (head, content)
    log.append([entry(10)])
    path = [step.hex() for step in log.consistency(head.size)]
    check_successor(head, log.head, path, KEYS)
    log.close()
    assert verify_log(tmp_path / "log.jsonl", KEYS, [head])[0].startswith("Log of bank: 12 entries")


@given(st.integers(1, 1200))
@settings(max_examples=40, deadline=None)
def test_a_write_that_was_cut_is_found_and_removed(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("log")
    log = open_log(folder)
    log.append([entry(0)])
    sure = (folder / "log.jsonl").stat().st_size
    log.append([entry(k) for k in range(1, 6)])
    log.close()
    data = (folder / "log.jsonl").read_bytes()
    left = data[: sure + min(cut, len(data) - sure - 1)]
    (folder / "log.jsonl").write_bytes(left)
    assert scan(folder / "log.jsonl").torn == left[sure:]
    log = open_log(folder)
    assert log.torn_bytes == len(left) - sure
    assert b'"recovered"' in log.entry(2)
    log.close()
    assert scan(folder / "log.jsonl").torn == b""


STEPS = st.lists(
    st.tuples(st.sampled_from(["ahead", "with head", "sign", "head", "crash"]), st.integers(0, 2000), st.booleans()),
    min_size=1,
    max_size=25,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_was_returned_stays_through_crashes_at_any_moment(tmp_path_factory, steps):
    """A crash leaves any part of a write that was under way, or zeros of its length."""
    folder = tmp_path_factory.mktemp("log")
    log, expected, heads = open_log(folder, ahead=AHEAD), {}, []
    for number, (step, cut, zeros) in enumerate(steps):
        if step in {"ahead", "with head"}:
            found = log.append([waited_for(number)], head_later=step == "ahead")
            expected[found[0]] = waited_for(number)
        elif step == "sign":
            log.sign_head()
        elif step == "head":
            heads.append(log.head)
        else:
            sure = (folder / "log.jsonl").stat().st_size
            log.append([waited_for(number)] * 2, head_later=bool(cut % 2))
            log.close()
            data = (folder / "log.jsonl").read_bytes()
            under_way = data[sure : sure + cut]
            (folder / "log.jsonl").write_bytes(data[:sure] + (bytes(len(under_way)) if zeros else under_way))
            log = open_log(folder, ahead=AHEAD)
    assert {index: json.loads(log.entry(index)) for index in expected} == expected
    for one, other in itertools.pairwise([*heads, log.head]):
        check_successor(one, other, [step.hex() for step in log.consistency(one.size, other.size)], KEYS)
    log.close()
    verify_log(folder / "log.jsonl", KEYS, heads)


def test_zeros_after_a_crash_of_the_machine_are_a_torn_tail(tmp_path):
    log = open_log(tmp_path)
    log.append([entry(0)])
    log.close()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"\0" * 4096)
    log = open_log(tmp_path)
    assert log.torn_bytes == 4096
    log.close()


def test_zeros_within_the_last_write_are_a_torn_tail_and_anywhere_else_a_change(tmp_path):
    path = tmp_path / "log.jsonl"
    log = open_log(tmp_path)
    sizes = [path.stat().st_size]
    for k in range(3):
        log.append([{**entry(k), "text": "x" * 5000}])
        sizes.append(path.stat().st_size)
    log.close()
    data = path.read_bytes()
    for end, size, ok in ((sizes[2], 3, True), (sizes[1], 0, False), (10, 0, False)):
        path.write_bytes(data[: end + 5] + b"\0" * 4000 + data[end + 4005 :])
        if not ok:
            with pytest.raises(EvidenceError, match="line"):
                open_log(tmp_path)
            continue
        log = open_log(tmp_path)
        assert (log.size, log.torn_bytes) == (size + 1, len(data) - end)
        log.close()
    path.write_bytes(b"\0" * 100 + data[100 : sizes[0]])  # the very first write
    log = open_log(tmp_path)
    assert json.loads(log.entry(1))["kind"] == "recovered"
    log.close()


def test_a_log_that_could_not_be_repaired_writes_nothing_until_it_is(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    size = (tmp_path / "log.jsonl").stat().st_size
    real, broken = os.write, OSError(errno.EIO, "Input/output error")

    def half(descriptor, data):
        if len(data) < 100:
            raise broken
        return real(descriptor, data[:50])

    def fail(*_):
        raise broken

    monkeypatch.setattr("veilscore.evidence.log.os.write", half)
    monkeypatch.setattr("veilscore.evidence.log.os.ftruncate", fail)
    with pytest.raises(StateError, match="repaired"):
        log.append([entry(0)])
    monkeypatch.setattr("veilscore.evidence.log.os.write", real)
    with pytest.raises(StateError, match="repaired"):
        log.append([entry(1)])
    assert (tmp_path / "log.jsonl").stat().st_size > size
    monkeypatch.undo()
    assert log.append([entry(2)]) == range(1, 2)
    assert json.loads(log.entry(1)) == entry(2)
    log.close()
    verify_log(tmp_path / "log.jsonl", KEYS)


def test_a_log_that_cannot_be_opened_lets_go_of_its_file(tmp_path, monkeypatch):
    open_log(tmp_path).close()
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"E {")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("veilscore.evidence.log.os.write", full)
        with pytest.raises(StateError, match="free space"):
            open_log(tmp_path)
    open_log(tmp_path).close()


def test_one_head_follows_entries_that_somebody_waited_for(tmp_path):
    log = open_log(tmp_path, ahead=AHEAD)
    first = log.head
    assert [log.append([waited_for(k)], head_later=True) for k in range(3)] == [range(1, 2), range(2, 3), range(3, 4)]
    found = scan(tmp_path / "log.jsonl")
    assert (found.head, found.torn.count(b"\n")) == (first, 3)
    assert "are not signed" in verify_log(tmp_path / "log.jsonl", KEYS)[-1]
    log.sign_head()
    log.sign_head()
    assert scan(tmp_path / "log.jsonl").heads == [first, log.head]
    log.append([waited_for(3)], head_later=True)
    log.append([entry(4)])  # its head covers both
    log.append([waited_for(5)], head_later=True)
    assert log.head.size == log.size == 7  # asked for, it is signed
    log.append([waited_for(6)], head_later=True)
    with pytest.raises(EvidenceError, match="waited_for"):
        log.append([entry(7)], head_later=True)
    log.close()  # signs the last one
    found = scan(tmp_path / "log.jsonl")
    assert ([h.size for h in found.heads], found.torn) == ([1, 4, 6, 7, 8], b"")
    verify_log(tmp_path / "log.jsonl", KEYS, [first])


@pytest.mark.parametrize("behind", [b"", b"E {", b'E {"kind":"test","number":3,"time_ms":3}\n', b"\0" * 50])
def test_what_left_before_a_crash_stays_in_the_log(tmp_path, behind):
    log = open_log(tmp_path / "one", ahead=AHEAD)
    for k in range(3):
        log.append([waited_for(k)], head_later=True)
    left = (tmp_path / "one" / "log.jsonl").read_bytes()
    log.close()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "log.jsonl").write_bytes(left + behind)
    seen = []
    log = open_log(tmp_path / "two", ahead=AHEAD, visit=lambda index, body: seen.append((index, json.loads(body))))
    assert seen[1:] == [(k + 1, waited_for(k)) for k in range(3)]
    assert (log.size, log.head.size, log.torn_bytes) == (5, 5, len(behind))
    told = json.loads(log.entry(4))
    assert (told["kind"], told["unsigned"], told["bytes"]) == ("recovered", 3, len(behind))
    log.append([entry(9)])
    log.close()
    assert scan(tmp_path / "two" / "log.jsonl").torn == b""
    verify_log(tmp_path / "two" / "log.jsonl", KEYS)


def test_other_kinds_behind_the_last_head_are_not_signed_after_a_crash(tmp_path):
    log = open_log(tmp_path, ahead=AHEAD)
    log.append([waited_for(0)], head_later=True)
    log.close()
    spaced = b'E {"kind": "waited_for"}\n'
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(spaced)
    log = open_log(tmp_path, ahead=AHEAD)
    assert (log.size, log.torn_bytes) == (3, len(spaced))
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("head_later", [False, True])
def test_process_killed_while_it_writes_loses_nothing_acknowledged(tmp_path, head_later):
    program = (
        "import sys; sys.path[:0] = ['tests', '.']\n"
        "from pathlib import Path\n"
        "from trial_evidence import AHEAD, Log, waited_for\n"
        "from veilscore.evidence.documents import CertificateKeys\n"
        "from veilscore.keys.identity import load_identity\n"
        "me = load_identity(Path(sys.argv[1]) / 'identity')\n"
        "log = Log(Path(sys.argv[1]), lambda: me, CertificateKeys([me.certificate]), ahead=AHEAD)\n"
        "while True:\n"
        f"    said = log.append([waited_for(k) for k in range(50)], head_later={head_later})\n"
        "    print(said.stop, flush=True)\n"
    )
    from veilscore.keys.identity import create_identity

    identity = create_identity(tmp_path / "identity", "bank", "bank", passphrase=lambda: None)
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    said = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    keys = CertificateKeys([identity.certificate])
    from veilscore.evidence.log import Log

    log = Log(tmp_path, lambda: identity, keys, ahead=AHEAD)
    assert log.size >= int([line for line in said if line.endswith(b"\n")][-1])
    log.close()
    verify_log(tmp_path / "log.jsonl", keys)


@pytest.mark.parametrize("head_later", [False, True])
def test_full_disk_appends_nothing(tmp_path, monkeypatch, head_later):
    log = open_log(tmp_path, ahead=AHEAD)
    head, size = log.head, (tmp_path / "log.jsonl").stat().st_size
    real = os.write

    def half_then_full(descriptor, data):
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr("veilscore.evidence.log.os.write", half_then_full)
    with pytest.raises(StateError, match="free space"):
        log.append([waited_for(0)], head_later=head_later)
    monkeypatch.undo()
    assert (log.head, log.size, (tmp_path / "log.jsonl").stat().st_size) == (head, head.size, size)
    log.append([entry(1)])
    log.close()
    verify_log(tmp_path / "log.jsonl", KEYS, [head])


def test_one_process_at_a_time(tmp_path):
    log = open_log(tmp_path)
    with pytest.raises(StateError, match="another process"):
        open_log(tmp_path)
    log.close()
    with pytest.raises(EvidenceError, match="bank's, the identity is that of tax"):
        open_log(tmp_path, "tax")


@pytest.mark.parametrize("entries", [[], [{"text": "x" * (1 << 20)}]])
def test_unusable_batches_are_refused(tmp_path, entries):
    log = open_log(tmp_path)
    with pytest.raises(EvidenceError, match="entries at once"):
        log.append(entries)
    assert log.size == 1
    log.close()


def test_threads_append_in_some_order(tmp_path):
    log = open_log(tmp_path)
    threads = [
        threading.Thread(target=lambda t=t: [log.append([entry(100 * t + k)]) for k in range(20)]) for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.size == 81
    log.close()
    verify_log(tmp_path / "log.jsonl", KEYS)


# traffic


def test_both_ends_compute_the_same_digest():
    first, second = Transcript(), Transcript()
    for number in range(3):
        message = align_pb2.AlignBankRound1(n_ids=number, points=bytes(96))
        first.add("s", "bank", "tax", number, message, b"payload%d" % number)
        second.add("s", "bank", "tax", number, message, b"payload%d" % number)
    second.add("s", "tax", "registry", 0, message, b"other")
    assert traffic_of(first)[0] == traffic_of(second)[0]
    assert traffic_of(first)[0].messages == 3
    third = Transcript()
    for number in (0, 2, 1):
        third.add("s", "bank", "tax", number, message, b"payload%d" % number)
    assert traffic_of(third) != traffic_of(first)


# a job of a real federation


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    return folder, run_jobs(folder, count=2)


def test_every_node_keeps_the_same_receipt_and_it_verifies(trial):
    folder, jobs = trial
    keys = load_keys(folder / "tax" / "federation.yaml")
    for job_id in jobs:
        kept = {receipt_path(folder, party, job_id).read_bytes() for party in EVERYBODY}
        assert len(kept) == 1
        proved = " ".join(verify_receipt(kept.pop(), keys))
        assert "was run by bank, tax, registry, coordinator" in proved
        assert "5 scores were released, and no others" in proved


def test_every_log_verifies_against_what_the_others_kept(trial):
    folder, jobs = trial
    keys = load_keys(folder / "bank" / "federation.yaml")
    for party in EVERYBODY:
        others = [other for other in EVERYBODY if other != party]
        heads = [h for other in others for j in jobs for h in heads_in(receipt_path(folder, other, j).read_bytes())]
        assert "continues 6 heads" in verify_log(log_path(folder, party), keys, heads)[1]


def test_score_receipt_needs_only_certificates(trial, tmp_path):
    folder, jobs = trial
    receipt = score_receipt(folder / "bank", jobs[0], "firm000003")
    federation = load_federation(folder / "bank" / "federation.yaml")
    (tmp_path / "keys.pem").write_bytes(b"".join(m.identity.pem for m in federation.members))
    proved = verify_receipt(receipt.to_bytes(), load_keys(tmp_path / "keys.pem"))
    assert proved[0] == "This score was released: id firm000003, score 503.0, band B (number 4 of 5)."


def test_no_id_and_no_score_in_any_log_or_receipt_of_a_job(trial):
    folder, jobs = trial
    scores = (folder / "bank" / "jobs" / jobs[0] / "scores.csv").read_text().splitlines()[1:]
    for party in EVERYBODY:
        for path in (log_path(folder, party), receipt_path(folder, party, jobs[0])):
            text = path.read_text()
            assert not [word for line in scores for word in line.split(",")[:2] if word in text]


def test_firm_that_is_not_there_and_scores_that_changed(trial, tmp_path):
    folder, jobs = trial
    with pytest.raises(EvidenceError, match="not in the batch"):
        score_receipt(folder / "bank", jobs[0], "firm000009")
    with pytest.raises(EvidenceError, match="no scores"):
        score_receipt(folder / "tax", jobs[0], "firm000001")
    shutil.copytree(folder / "bank", tmp_path / "bank")
    path = tmp_path / "bank" / "jobs" / jobs[0] / "scores.csv"
    path.write_bytes(path.read_bytes().replace(b"501.0", b"601.0"))
    with pytest.raises(EvidenceError, match="changed since it was logged"):
        score_receipt(tmp_path / "bank", jobs[0], "firm000003")


def test_node_does_not_start_on_a_changed_log(trial, tmp_path):
    folder, _ = trial
    shutil.copytree(folder, tmp_path / "copy")
    path = log_path(tmp_path / "copy", "tax")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"answer":"accepted"', b'"answer":"rejected"', 1))
    with pytest.raises(EvidenceError, match="was changed"):
        asyncio.run(open_nodes(tmp_path / "copy")["tax"].start())


# the real protocols: a batch over nodes, and single scores


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Homes with a model, a batch scored by real nodes, and one score given online; (folder, job id, response)."""
    folder = copy_of(finished(train), tmp_path_factory.mktemp("real"))

    async def work():
        async with scoring(folder) as command:
            info = await command.call("coordinator", "Submit", pb.SubmitJob(job_yaml=BATCH), pb.JobInfo, timeout_s=5)
            async for _ in command.stream("coordinator", "WatchJob", pb.JobRef(job_id=info.job_id), pb.JobEvent):
                pass
            shown = await command.call("coordinator", "Show", pb.JobRef(job_id=info.job_id), pb.JobInfo, timeout_s=5)
            assert shown.status == "done", shown.error
            firm = next(iter(rows(folder, "bank")))
            return info.job_id, firm, await score(command, "request-1", firm, on_missing="missing_code")

    return folder, *asyncio.run(work())


def test_real_batch_binds_model_consent_and_every_message(scored):
    folder, job_id, firm, _ = scored
    keys = load_keys(folder / "tax" / "federation.yaml")
    receipt = score_receipt(folder / "bank", job_id, firm)
    proved = " ".join(verify_receipt(receipt.to_bytes(), keys))
    with (folder / "bank" / "jobs" / job_id / "scores.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["id"] == firm)
    assert f"id {firm}, step {row['step']}, score {row['score']}" in proved
    model = load_model(folder / "bank" / "models" / "firms" / "model.json").sha256.hex()
    statements = {s.party: s for s in (JobStatement.parse(x.entry.encode()) for x in receipt.job.statements)}
    assert {party: s.model for party, s in statements.items()} == {
        "bank": model, "tax": model, "registry": model, "coordinator": ""
    }  # fmt: skip
    assert statements["tax"].consent
    assert statements["tax"].bound
    assert [step.step for step in statements["tax"].steps] == ["align", "score"]
    assert [step.step for step in statements["coordinator"].steps] == []  # it has no part where steps are opened


def test_online_score_has_a_receipt_and_the_holders_log_agrees(scored):
    folder, _, firm, response = scored
    assert response.status in {"scored", "fallback"}
    receipt = online_receipt(folder / "bank", "request-1")
    keys = load_keys(folder / "tax" / "federation.yaml")
    proved = " ".join(verify_receipt(receipt.to_bytes(), keys))
    assert firm in proved
    assert response.model_sha256.hex()[:16] in proved
    stated = json.loads(receipt.statement.entry)["ciphertexts"]
    for holder, sent in stated.items():
        assert sent in log_path(folder, holder).read_text()
    assert stated
    for party in EVERYBODY:
        assert firm not in log_path(folder, party).read_text()
    forged = receipt.model_copy(update={"output": receipt.output.replace('"score":', '"score":1')})
    with pytest.raises(EvidenceError, match="output shown"):
        verify_receipt(forged.to_bytes(), keys)
    with pytest.raises(EvidenceError, match="no score"):
        online_receipt(folder / "bank", "request-2")


# anchors


def test_second_log_keeps_heads_that_continue(tmp_path):
    notary = make_identity("notary", "operator")
    keys = AnyKeys([KEYS, CertificateKeys([notary.certificate])])
    log, second = open_log(tmp_path / "bank"), SecondLog(tmp_path / "notary", notary, keys)
    receipts = []
    for k in range(3):
        log.append([entry(k)])
        receipts.append(second.submit(log.head, lambda size: [h.hex() for h in log.consistency(size)]))
    log.append([entry(3)])
    with pytest.raises(EvidenceError):
        second.submit(log.head, lambda _: ["00" * 32])
    second.close()
    for receipt in receipts:
        assert "notary keeps the log of bank" in " ".join(verify_receipt(receipt.to_bytes(), keys))
        with pytest.raises(EvidenceError, match="no member 'notary'"):
            verify_receipt(receipt.to_bytes(), KEYS)
    verify_log(tmp_path / "bank" / "log.jsonl", KEYS, [r.head for r in receipts])
    log.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A time-stamping authority on loopback that answers with the openssl command; (address, root certificate)."""
    require(shutil.which("openssl"), "the openssl command plays the time-stamping authority")
    folder = tmp_path_factory.mktemp("tsa")
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(
        "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=test authority\n"
        "[root]\nbasicConstraints=critical,CA:true\nkeyUsage=keyCertSign\nsubjectKeyIdentifier=hash\n"
        "[leaf]\nbasicConstraints=CA:false\nkeyUsage=digitalSignature\nextendedKeyUsage=critical,timeStamping\n"
        "[tsa]\ndefault_tsa=t\n[t]\nserial=serial\nsigner_cert=leaf.pem\nsigner_key=leaf.key\n"
        "default_policy=1.2.3.4.1\ndigests=sha256\nsigner_digest=sha256\ness_cert_id_alg=sha256\n"
    )

    def openssl(*arguments, data=None):
        return subprocess.run(["openssl", *arguments], cwd=folder, input=data, capture_output=True, check=True).stdout

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "tsa.cnf")
    openssl("req", "-x509", *new, "-extensions", "root", "-keyout", "root.key", "-out", "root.pem")
    openssl("req", *new, "-subj", "/CN=stamps", "-keyout", "leaf.key", "-out", "leaf.csr")
    signing = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extfile", "tsa.cnf", "-extensions", "leaf")
    openssl("x509", "-req", "-in", "leaf.csr", *signing, "-out", "leaf.pem")

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            (folder / "query.tsq").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            reply = openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder / "root.pem"
        server.shutdown()
        thread.join()


def test_time_stamp(tmp_path, authority):
    pytest.importorskip("rfc3161_client", reason="time stamps are the extra `timestamp`")
    from cryptography import x509

    address, root_file = authority
    roots = x509.load_pem_x509_certificates(root_file.read_bytes())
    log = open_log(tmp_path)
    receipt = TimeStamps(address, roots).submit(log.head, lambda _: ())
    assert "time-stamping authority saw the log of bank" in verify_receipt(receipt.to_bytes(), KEYS, roots)[0]
    log.append([entry(1)])
    with pytest.raises(EvidenceError, match="does not hold"):
        check_anchor(receipt.model_copy(update={"head": log.head}), KEYS, roots)
    with pytest.raises(ConfigError, match="root certificate"):
        check_anchor(receipt, KEYS)
    changed = receipt.token[:-2] + ("00" if receipt.token[-2:] != "00" else "01")
    with pytest.raises(EvidenceError, match="does not hold"):
        check_anchor(receipt.model_copy(update={"token": changed}), KEYS, roots)
    other = x509.load_pem_x509_certificates(FEDERATION.member("tax").identity.pem)
    with pytest.raises(EvidenceError, match="does not hold"):
        check_anchor(receipt, KEYS, other)
    log.close()


def test_authority_that_cannot_be_reached(tmp_path, authority):
    pytest.importorskip("rfc3161_client", reason="time stamps are the extra `timestamp`")
    from cryptography import x509

    roots = x509.load_pem_x509_certificates(authority[1].read_bytes())
    log = open_log(tmp_path)
    with pytest.raises(PeerError, match="cannot be reached"):
        TimeStamps("http://127.0.0.1:9/", roots).submit(log.head, lambda _: ())
    with pytest.raises(ConfigError, match="begins with"):
        TimeStamps("file:///etc/passwd", roots)
    log.close()


# keys and countersignatures


def test_countersignature_is_for_one_head_and_not_for_the_own(tmp_path):
    log = open_log(tmp_path)
    first = log.head
    log.append([entry(0)])
    signed = Countersignature.sign(IDENTITIES["tax"], first, 5_000)
    with pytest.raises(EvidenceError):
        signed.verify(log.head, KEYS)
    with pytest.raises(EvidenceError, match="its own head"):
        Countersignature.sign(IDENTITIES["bank"], first, 5_000).verify(first, KEYS)
    log.close()


def test_keys_of_nobody(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "none.pem")
    (tmp_path / "keys.pem").write_bytes(IDENTITIES["tax"].certificate.pem)
    log = open_log(tmp_path)
    log.close()
    with pytest.raises(EvidenceError, match=r"bank.*no key"):
        verify_log(tmp_path / "log.jsonl", load_keys(tmp_path / "keys.pem"))


# the command


def test_command(trial, tmp_path):
    folder, jobs = trial
    keys = str(folder / "tax" / "federation.yaml")
    run = CliRunner().invoke

    def says(*arguments):
        result = run(app, ["evidence", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    assert "entries, root" in says("log", "--home", folder / "tax")
    says("receipt", jobs[0], "--home", folder / "bank", "--firm", "firm000002", "--out", tmp_path / "r.json")
    assert "id firm000002, score 502.0" in says("verify", tmp_path / "r.json", "--keys", keys)
    seen = folder / "tax" / "evidence" / "heads" / "bank.json"
    assert "continues 2 heads" in says("verify-log", folder / "bank", "--seen", seen)
    says("verify-log", log_path(folder, "registry"), "--keys", keys, "--seen", folder / "bank")
    alone = CliRunner().invoke(app, ["evidence", "verify-log", str(log_path(folder, "registry")), "--keys", str(keys)])
    assert (alone.exit_code, "nobody else's head of this log was given" in alone.output) == (1, True)
    from veilscore.keys.identity import create_identity

    create_identity(tmp_path / "notary" / "identity", "notary", "operator", passphrase=lambda: None)
    where = ("--notary", tmp_path / "notary", "--out", tmp_path / "a.json")
    says("anchor", folder / "bank", *where)
    proved = says(
        "verify", tmp_path / "a.json", "--keys", keys, "--keys", tmp_path / "notary" / "identity" / "certificate.pem"
    )
    assert "notary keeps the log of bank" in proved
    forged = (tmp_path / "r.json").read_bytes().replace(b"502.0", b"702.0")
    (tmp_path / "f.json").write_bytes(forged)
    result = run(app, ["evidence", "verify", str(tmp_path / "f.json"), "--keys", keys])
    assert result.exit_code != 0
    assert isinstance(result.exception, EvidenceError)
    result = run(app, ["evidence", "anchor", str(folder / "bank"), "--out", str(tmp_path / "x.json")])
    assert isinstance(result.exception, ConfigError)


def test_command_as_a_process_ends_with_an_error(trial, tmp_path):
    folder, jobs = trial
    path = receipt_path(folder, "bank", jobs[0])
    (tmp_path / "r.json").write_bytes(path.read_bytes().replace(b'attempt\\":1', b'attempt\\":2', 1))
    command = [sys.executable, "-m", "veilscore", "evidence", "verify", str(tmp_path / "r.json")]
    done = subprocess.run(
        [*command, "--keys", str(folder / "bank" / "federation.yaml")], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert b"EvidenceError" in done.stderr
    assert b"Traceback" not in done.stderr
