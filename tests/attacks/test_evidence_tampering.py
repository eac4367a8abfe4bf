"""Attacks on logs, heads and receipts: every one is found, by whoever has public keys and what others kept."""

from __future__ import annotations

import asyncio
import json
import random
import shutil

import pytest
from fabric_network import IDENTITIES, make_identity
from hypothesis import given, settings
from hypothesis import strategies as st
from trial_evidence import (
    AHEAD,
    EVERYBODY,
    KEYS,
    dumped,
    entry,
    log_path,
    open_log,
    open_nodes,
    receipt_path,
    run_jobs,
    waited_for,
)
from trial_federation import commanding, make_homes, running, show, submit, watch

from veilscore.errors import EvidenceError
from veilscore.evidence.documents import CertificateKeys, FederationKeys, load_keys
from veilscore.evidence.exchange import CrossSigning, Offer, Offers
from veilscore.evidence.heads import ForkError, SignedHead, check_successor
from veilscore.evidence.kept_receipts import score_receipt
from veilscore.evidence.log import Log
from veilscore.evidence.receipt import ScoreReceipt
from veilscore.evidence.verify import verify_log, verify_receipt
from veilscore.keys.identity import load_identity
from veilscore.terms.federation import load_federation


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Lines of a log of three batches, one of them written ahead of its head, and the head that others kept."""
    folder = tmp_path_factory.mktemp("log")
    log = open_log(folder, ahead=AHEAD)
    for k in range(3):
        log.append([waited_for(3 * k + j) for j in range(3)], head_later=k == 1)
        log.sign_head()
    head = log.head
    log.close()
    return (folder / "log.jsonl").read_bytes(), head


def found_in(folder, data, *heads):
    """Verify changed bytes; raises if the change is found."""
    path = folder / "log.jsonl"
    path.write_bytes(data)
    return verify_log(path, KEYS, heads)


# the log


def test_log_is_good_to_begin_with(tmp_path, lines):
    found_in(tmp_path, lines[0], lines[1])


def test_every_byte_of_a_log_counts(tmp_path, lines):
    data, head = lines
    generator = random.Random(7)  # noqa: S311 - which bit is changed
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= generator.randrange(1, 256)
        with pytest.raises(EvidenceError):
            found_in(tmp_path, bytes(changed), head)


def test_every_line_of_a_log_counts(tmp_path, lines):
    data, head = lines
    parts = data.splitlines(keepends=True)
    for k in range(len(parts)):
        with pytest.raises(EvidenceError):  # dropped
            found_in(tmp_path, b"".join(parts[:k] + parts[k + 1 :]), head)
        with pytest.raises(EvidenceError):  # doubled
            found_in(tmp_path, b"".join([*parts[: k + 1], *parts[k:]]), head)
        for j in range(k):
            swapped = list(parts)
            swapped[j], swapped[k] = swapped[k], swapped[j]
            with pytest.raises(EvidenceError):  # moved
                found_in(tmp_path, b"".join(swapped), head)


def test_log_cut_anywhere_is_found_by_the_head_that_others_kept(tmp_path, lines):
    data, head = lines
    for end in range(0, len(data), 7):
        with pytest.raises(EvidenceError):
            found_in(tmp_path, data[:end], head)


def test_log_written_anew_by_its_owner_is_found(tmp_path, lines):
    """The owner has its key and signs another history; what others kept convicts it."""
    log = open_log(tmp_path / "new")
    for k in range(12):
        log.append([entry(100 + k)])
    forked = log.head
    log.close()
    found_in(tmp_path, (tmp_path / "new" / "log.jsonl").read_bytes())
    with pytest.raises(EvidenceError, match="differs from the one of 10 entries"):
        found_in(tmp_path, (tmp_path / "new" / "log.jsonl").read_bytes(), lines[1])
    assert forked.size > lines[1].size


def test_log_signed_by_another_key_is_found(tmp_path):
    stranger = make_identity("bank", "bank")
    log = Log(tmp_path, lambda: stranger, CertificateKeys([stranger.certificate]))
    log.close()
    with pytest.raises(EvidenceError, match="signature"):
        verify_log(tmp_path / "log.jsonl", KEYS)


# heads


def heads_of(tmp_path):
    log = open_log(tmp_path)
    log.append([entry(k) for k in range(5)])
    first = log.head
    log.append([entry(k) for k in range(4)])
    path = tuple(h.hex() for h in log.consistency(first.size))
    log.close()
    return first, log.head, path


def test_fork_of_a_log_is_refused_and_leaves_proof(tmp_path):
    first, second, path = heads_of(tmp_path)
    check_successor(first, second, path, KEYS)
    bank = IDENTITIES["bank"]
    other = SignedHead.sign(bank, first.size, bytes(32), "", 1)
    with pytest.raises(ForkError) as caught:
        check_successor(first, other, (), KEYS)
    assert caught.value.heads == (first, other)
    for head in caught.value.heads:  # both are signed by the same party: a proof for anybody
        head.verify(KEYS)
    shorter = SignedHead.sign(bank, first.size, first.root_bytes, "", second.time_ms + 1)
    with pytest.raises(ForkError):  # a shorter log than was signed before
        check_successor(second, shorter, (), KEYS)
    with pytest.raises(EvidenceError) as late:  # an older head that comes late is neither countersigned nor a fork
        check_successor(second, first, (), KEYS)
    assert not isinstance(late.value, ForkError)
    longer = SignedHead.sign(bank, second.size, bytes(32), "", 1)
    with pytest.raises(EvidenceError):
        check_successor(first, longer, path, KEYS)


@pytest.mark.parametrize("field", ["party", "size", "root", "previous", "time_ms", "signature"])
def test_every_field_of_a_head_is_signed(tmp_path, field):
    first, second, _ = heads_of(tmp_path)
    change = {"party": "tax", "size": first.size + 1, "root": "00" * 32, "previous": "", "time_ms": 1}
    change["signature"] = second.signature
    with pytest.raises(EvidenceError):
        first.model_copy(update={field: change[field]}).verify(KEYS)


def test_second_form_of_an_ecdsa_signature_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    from veilscore.evidence.documents import _ORDER

    first, _, _ = heads_of(tmp_path)
    r, s = decode_dss_signature(bytes.fromhex(first.signature))
    twin = encode_dss_signature(r, _ORDER - s)
    IDENTITIES["bank"].certificate  # noqa: B018 - the twin is a valid ECDSA signature, only not in the one form
    with pytest.raises(EvidenceError, match="one form"):
        first.model_copy(update={"signature": twin.hex()}).verify(KEYS)


# receipts


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    jobs = run_jobs(folder, count=2)
    return folder, jobs, load_keys(folder / "bank" / "federation.yaml")


def document(trial, number=0):
    folder, jobs, _ = trial
    return json.loads(receipt_path(folder, "bank", jobs[number]).read_bytes())


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_of_a_score_receipt_is_found(trial, data):
    folder, jobs, keys = trial
    good = score_receipt(folder / "bank", jobs[0], "firm000001").to_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EvidenceError):
        verify_receipt(bytes(changed), keys)


def test_receipt_that_was_cut_lengthened_or_is_no_receipt(trial):
    good = dumped(document(trial))
    verify_receipt(good, trial[2])
    for bad in (good[:-1], good + b" ", b" " + good, b"", b"{}", b"[]", b'{"kind":[]}', b"\xff", b"[" * 100_000):
        with pytest.raises(EvidenceError):
            verify_receipt(bad, trial[2])


def test_line_of_a_score_cannot_be_swapped(trial):
    folder, jobs, keys = trial
    one = score_receipt(folder / "bank", jobs[0], "firm000001")
    two = score_receipt(folder / "bank", jobs[0], "firm000002")
    other = score_receipt(folder / "bank", jobs[1], "firm000001")
    for change in (
        {"line": two.line},
        {"line": one.line.replace("501", "801")},
        {"index": 2},
        {"salt": two.salt},
        {"path": two.path},
        {"job": other.job},
    ):
        forged = ScoreReceipt(**{**dict(one), **change})
        with pytest.raises(EvidenceError):
            verify_receipt(forged.to_bytes(), keys)


def changes_of_a_job():
    def swap_entries(body):
        a, b = body["statements"][:2]
        a["entry"], b["entry"] = b["entry"], a["entry"]

    def edit(field, value):
        def change(body):
            statement = json.loads(body["statements"][0]["entry"])
            statement[field] = value
            body["statements"][0]["entry"] = dumped(statement).decode()

        return change

    return {
        "a party left out": lambda body: body["statements"].pop(),
        "a party twice": lambda body: body["statements"].append(body["statements"][0]),
        "entries swapped": swap_entries,
        "countersignature left out": lambda body: body["statements"][0]["countersignatures"].pop(),
        "countersignature doubled": lambda body: body["statements"][0]["countersignatures"].append(
            body["statements"][0]["countersignatures"][0]
        ),
        "another request": lambda body: body.update(request=body["request"].replace("credit", "fraud!")),
        "another job id": lambda body: body.update(job_id="toy-00000000-" + body["job_id"][-16:]),
        "another model": edit("model", "11" * 32),
        "another policy": edit("policy", "11" * 32),
        "another consent": edit("consent", "11" * 32),
        "another time": edit("time_ms", 1),
        "steps left out": edit("steps", []),
        "other results": edit("scores", None),
    }


@pytest.mark.parametrize("name", changes_of_a_job())
def test_forged_job_receipt(trial, name):
    body = document(trial)
    changes_of_a_job()[name](body)
    with pytest.raises(EvidenceError):
        verify_receipt(dumped(body), trial[2])


def test_statements_of_two_jobs_cannot_be_mixed(trial):
    first, second = document(trial), document(trial, 1)
    first["statements"][1] = second["statements"][1]
    with pytest.raises(EvidenceError, match="another job"):
        verify_receipt(dumped(first), trial[2])


def test_receipt_under_the_keys_of_another_federation(trial):
    with pytest.raises(EvidenceError, match="signature"):
        verify_receipt(dumped(document(trial)), KEYS)
    assert KEYS is not trial[2]


def test_one_signer_cannot_make_the_others_statements(trial):
    """A coordinator that signs everything itself, under everybody's name."""
    folder, _, keys = trial
    body = document(trial)
    liar = load_identity(folder / "coordinator" / "identity")
    for statement in body["statements"]:
        head = statement["head"]
        claim = {k: v for k, v in head.items() if k != "signature"}
        head["signature"] = liar.sign(dumped(claim), "evidence log head").hex()
    with pytest.raises(EvidenceError):
        verify_receipt(dumped(body), keys)


def resigned(folder, body, party, change):
    """A party lies in its own statement, in a log written anew, and gets it countersigned by nobody."""
    identity = load_identity(folder / party / "identity")
    federation = load_federation(folder / party / "federation.yaml")
    keys = FederationKeys(lambda: federation)
    logged = next(s for s in body["statements"] if s["head"]["party"] == party)
    statement = json.loads(logged["entry"])
    change(statement)
    log = Log(folder / f"lie_{party}", lambda: identity, keys)
    index = log.append([statement])[0]
    logged.update(
        entry=dumped(statement).decode(),
        index=index,
        path=[h.hex() for h in log.inclusion(index)],
        head=json.loads(log.head.to_bytes()),
    )
    log.close()
    return dumped(body)


def test_party_that_states_other_messages_than_its_peer(trial):
    """Even with its own valid signature; the countersignatures are of another head, so they are put in anew too."""
    folder, _, keys = trial
    body = document(trial)

    def lie(statement):
        statement["steps"][0]["traffic"][0]["digest"] = "11" * 32

    forged = json.loads(resigned(folder, body, "tax", lie))
    with pytest.raises(EvidenceError):
        verify_receipt(dumped(forged), keys)
    logged = next(s for s in forged["statements"] if s["head"]["party"] == "tax")
    from veilscore.evidence.heads import Countersignature

    head = SignedHead.model_validate(logged["head"])
    others = [load_identity(folder / other / "identity") for other in sorted(EVERYBODY) if other != "tax"]
    signed = [Countersignature.sign(other, head, head.time_ms) for other in others]
    logged["countersignatures"] = [json.loads(one.to_bytes()) for one in signed]
    with pytest.raises(EvidenceError, match="do not state the same messages in step align"):
        verify_receipt(dumped(forged), keys)


# at running nodes


async def _for_ever():
    await asyncio.Future()


async def _nothing():
    pass


def test_party_that_rewrote_its_log_gets_no_countersignature(tmp_path):
    """Tax throws log and receipts away between two jobs and starts anew: the others refuse, the job itself is done.

    Its program was changed too: as it is, the node does not start (`test_truncation.py`).
    """
    (first,) = run_jobs(tmp_path)
    shutil.rmtree(log_path(tmp_path, "tax").parent)

    async def again():
        nodes = open_nodes(tmp_path)
        nodes["tax"].heads.compare_first, nodes["tax"].heads.watch = _nothing, _for_ever
        async with running(nodes), commanding(tmp_path / "bank") as command:
            job_id = await submit(command)
            events = await watch(command, job_id)
            return job_id, events, await show(command, job_id)

    second, events, info = asyncio.run(again())
    assert info.status == "done"
    assert any("no receipt" in event.text for event in events)
    assert receipt_path(tmp_path, "bank", first).exists()
    assert not receipt_path(tmp_path, "bank", second).exists()


def test_node_refuses_forked_heads_and_keeps_the_proof(tmp_path):
    make_homes(tmp_path)
    nodes = open_nodes(tmp_path)
    try:
        tax = nodes["tax"].evidence
        tax.open()
        job = type("Job", (), {"parties": ("bank", "tax", "registry"), "coordinator": "coordinator"})()
        exchange = CrossSigning(tax, lambda _: job)
        bank = load_identity(tmp_path / "bank" / "identity")
        now_ms = tax.log.now_ms()
        one = SignedHead.sign(bank, 4, b"\1" * 32, "", now_ms)
        two = SignedHead.sign(bank, 4, b"\2" * 32, "", now_ms)
        exchange.countersign(Offers(offers=(Offer(head=one),)), job)
        with pytest.raises(ForkError):
            exchange.countersign(Offers(offers=(Offer(head=two),)), job)
        kept = json.loads((tmp_path / "tax" / "evidence" / "forks" / "bank-4-4.json").read_bytes())
        assert [SignedHead.model_validate(head) for head in kept] == [one, two]
        old = SignedHead.sign(bank, 5, b"\1" * 32, "", now_ms - 3_600_000)
        with pytest.raises(EvidenceError, match="ten minutes"):
            exchange.countersign(Offers(offers=(Offer(head=old),)), job)
        own = SignedHead.sign(load_identity(tmp_path / "tax" / "identity"), 9, b"\3" * 32, "", now_ms)
        with pytest.raises(EvidenceError, match="not in this job"):
            exchange.countersign(Offers(offers=(Offer(head=own),)), job)
    finally:
        for node in nodes.values():
            node.evidence.close()


def test_only_the_coordinator_may_ask_for_evidence(tmp_path):
    from veilscore.errors import IdentityError, JobError
    from veilscore.v1 import control_pb2

    make_homes(tmp_path)

    async def work():
        nodes = open_nodes(tmp_path)
        async with running(nodes), commanding(tmp_path / "bank") as bank, commanding(tmp_path / "coordinator") as lead:
            call = control_pb2.EvidenceCall(ask="close", job_id="toy-00000000-0123456789abcdef")
            with pytest.raises(IdentityError, match="role bank"):
                await bank.call("tax", "Evidence", call, control_pb2.EvidenceReply, timeout_s=5, retry=False)
            with pytest.raises(JobError, match="no such job"):
                await lead.call("tax", "Evidence", call, control_pb2.EvidenceReply, timeout_s=5, retry=False)

    asyncio.run(work())
