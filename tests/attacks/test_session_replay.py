"""Recorded messages, orders and requests are sent once more: nothing runs, opens or is released again.

The replayer is the party itself that sent them first (over TLS nobody else can), with every byte it has seen.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from consent_issuer import token_bytes
from fabric_network import header
from finished_jobs import finished
from trial_federation import PARTIES, commanding, make_homes, open_trial, running, show, submit, watch
from trial_scoring import copy_of, known_to_all, score, scoring, train

from veilscore.errors import JobError, RefusedError
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.release.ledger import ReleaseLedger
from veilscore.v1 import control_pb2 as pb
from veilscore.v1 import wire_pb2
from veilscore.wire.inbox import Inbox
from veilscore.wire.protocol import VERSION

if TYPE_CHECKING:
    from pathlib import Path


async def deliver(folder: Path, node, sender: str, session: str, sequence: int, payload: bytes) -> wire_pb2.Ack:
    """Send one message with the sender's own key, as `Fabric` does; grpc.aio.AioRpcError if refused."""
    identity, to = load_identity(folder / sender / "identity"), node.name
    pinned = load_identity(folder / to / "identity").certificate
    credentials = grpc.ssl_channel_credentials(pinned.pem, identity.key_pem(), identity.certificate.pem)
    options = [("grpc.ssl_target_name_override", to), ("grpc.use_local_subchannel_pool", 1)]
    first = header(payload, session=session, sender=sender, recipient=to, sequence=sequence)
    chunks = [first, wire_pb2.Chunk(data=payload)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{node.fabric.port}", credentials, options) as channel:
        call = channel.stream_unary("/veilscore.v1.Fabric/Deliver")(
            iter([c.SerializeToString() for c in chunks]), metadata=(("veilscore-version", VERSION),), timeout=3
        )
        return wire_pb2.Ack.FromString(await call)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A finished job, every message that tax received in it, and what its folder held then."""
    kept, put = [], Inbox.put

    def record(self, head, payload, *rest, **options):
        if head.recipient == "tax":
            kept.append((head.session, head.sender, head.sequence, bytes(payload)))
        return put(self, head, payload, *rest, **options)

    async def work():
        async with running(open_trial(folder)), commanding(folder / "bank") as command:
            job_id = await submit(command)
            await watch(command, job_id)
            return job_id, (await show(command, job_id)).status

    folder = make_homes(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "put", record)
        job_id, status = asyncio.run(work())
    assert status == "done"
    assert {session.split("/")[1] for session, *_ in kept} == {"align", "bin", "score"}
    return folder, job_id, kept


def files(folder, job_id):
    return {p.name: p.read_bytes() for p in sorted((folder / "tax" / "jobs" / job_id).iterdir())}


def log_size(folder):
    return (folder / "tax" / "evidence" / "log.jsonl").read_bytes().count(b'"kind":"step"')


def test_a_finished_session_after_a_restart(recorded):
    """The node has forgotten its sessions, not its attempts."""
    folder, job_id, kept = recorded
    before, steps = files(folder, job_id), log_size(folder)

    async def work():
        trial = open_trial(folder, "tax")
        async with running(trial):
            for session, sender, sequence, payload in kept:
                with pytest.raises(grpc.aio.AioRpcError, match="attempt is over"):
                    await deliver(folder, trial["tax"], sender, session, sequence, payload)

    asyncio.run(work())
    assert files(folder, job_id) == before
    assert log_size(folder) == steps


def test_a_finished_session_under_another_job_attempt_or_party(recorded):
    folder, job_id, kept = recorded
    before = files(folder, job_id)

    async def work():
        trial = open_trial(folder, "tax")
        async with running(trial), commanding(folder / "coordinator") as orders:
            session, sender, sequence, payload = kept[0]
            for other in (
                session.replace(job_id, job_id[:-1] + ("1" if job_id.endswith("0") else "0")),
                session.replace("align", "nothing"),
                session[:-1] + "99",
            ):
                with pytest.raises(grpc.aio.AioRpcError, match="session"):
                    await deliver(folder, trial["tax"], sender, other, sequence, payload)
            with pytest.raises(grpc.aio.AioRpcError, match="attempt is over"):
                await deliver(folder, trial["tax"], "registry", session, sequence, payload)
            # the order of a step that is done, and of a new attempt after later ones began
            for attempt in (1, 2):
                order = pb.StepOrder(job_id=job_id, step="align", attempt=attempt, deadline_s=1)
                with pytest.raises(JobError):
                    [e async for e in orders.stream("tax", "RunStep", order, pb.StepEvent)]

    asyncio.run(work())
    assert files(folder, job_id) == before


def test_a_session_replayed_into_a_new_job(recorded):
    """The same job asked for again has a fresh id: its parties hear nothing of the old messages."""
    folder, job_id, kept = recorded

    async def work():
        trial = open_trial(folder)
        async with running(trial), commanding(folder / "bank") as command:
            again = await submit(command)
            assert again != job_id
            for session, sender, sequence, payload in kept:
                if sender != "coordinator":
                    with pytest.raises(grpc.aio.AioRpcError, match=r"attempt is over|session"):
                        await deliver(folder, trial["tax"], sender, session, sequence, payload)
            await watch(command, again)
            return again, (await show(command, again)).status

    again, status = asyncio.run(work())
    assert status == "done"
    fresh = {p.name: p.read_bytes() for p in (folder / "tax" / "jobs" / again).iterdir()}
    assert all(again.encode() in content for name, content in fresh.items() if name.startswith("out_"))


# --- requests of single firms ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return finished(train)


def released(homes):
    """Number of releases in each holder's ledger."""
    found = {}
    for party in PARTIES:
        if party != "bank":
            ledger = ReleaseLedger(homes / party / "state" / "release.db")
            found[party] = len(ledger.releases(0))
            ledger.close()
    return found


def test_requests_of_a_scored_firm(trained, tmp_path, monkeypatch):
    """EncryptRecord and OpenPartial as recorded, to the byte, under a new id, and after a restart."""
    homes = copy_of(trained, tmp_path)
    firm = known_to_all(homes)[0]
    sent, call = {}, Fabric.call

    async def record(self, to, method, message, *rest, **options):
        if method in {"EncryptRecord", "OpenPartial"}:
            sent[to, method] = message
        return await call(self, to, method, message, *rest, **options)

    replies = {"EncryptRecord": pb.EncryptedRecord, "OpenPartial": pb.OpenedPartial}

    async def again(command, method, **changes):
        found = []
        for to in ("tax", "registry"):
            message = type(sent[to, method])()
            message.CopyFrom(sent[to, method])
            for name, value in changes.items():
                setattr(message, name, value)
            try:
                found.append(await command.call(to, method, message, replies[method], timeout_s=10))
            except RefusedError as refusal:
                found.append(refusal.message)
        return found

    async def first():
        with monkeypatch.context() as patch:
            patch.setattr(Fabric, "call", record)
            async with scoring(homes) as command:
                one = await score(command, "one", firm, consent=token_bytes(firm))
                before = released(homes)
                patch.setattr(Fabric, "call", call)
                same = await again(command, "EncryptRecord")
                renamed = await again(command, "EncryptRecord", request_id="another")
                opened = await again(command, "OpenPartial")  # the same bytes: the same masked share, nothing new
                other = await again(command, "OpenPartial", request_id="another")
                changed = await again(command, "OpenPartial", factors_share=b"\x01" * 8)
                return one, before, same, renamed, opened, other, changed

    one, before, same, renamed, opened, other, changed = asyncio.run(first())
    assert one.status == "scored"
    assert all("used here already" in refusal for refusal in same)
    assert all("used for another request" in refusal for refusal in renamed)
    assert opened == [pb.OpenedPartial()] * 2
    assert all("use a new request id" in refusal for refusal in other)
    assert all("another reply was opened" in refusal for refusal in changed)
    assert released(homes) == before

    async def after_a_restart():
        async with scoring(homes) as command:
            return [await again(command, "EncryptRecord"), await again(command, "OpenPartial", factors_share=b"\x02")]

    encrypted, changed = asyncio.run(after_a_restart())
    assert all("used here already" in refusal for refusal in encrypted)
    assert all("another reply was opened" in refusal for refusal in changed)
    assert released(homes) == before


def test_a_response_under_its_id_and_for_another_firm(trained, tmp_path):
    homes = copy_of(trained, tmp_path)
    firm, other = known_to_all(homes)[:2]
    consent = token_bytes(firm)

    async def work():
        async with scoring(homes) as command:
            one = await score(command, "one", firm, consent=consent)
            before = released(homes)
            repeated = await score(command, "one", firm, consent=consent)
            with_other = await score(command, "one", other)
            return one, before, repeated, with_other

    one, before, repeated, with_other = asyncio.run(work())
    assert one.status == "scored"
    assert with_other.status == "refused"
    assert "used for something else" in with_other.message
    assert repeated == one
    assert released(homes) == before
