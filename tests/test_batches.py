"""Small calls over one stream: they travel together, and each is checked, bounded and refused like one of its own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import grpc
import pytest
from fabric_network import IDENTITIES, make_fabric, raw_channel, running
from test_fabric import DAY_S, echo, on_network

from veilscore.errors import IdentityError, PeerError, RefusedError
from veilscore.fabric import batches
from veilscore.fabric.grpc_channel import Caller, GrpcLine
from veilscore.fabric.process import loop_factory
from veilscore.v1 import wire_pb2
from veilscore.v1.control_pb2 import JobInfo, JobRef
from veilscore.wire.protocol import VERSION


async def score(fabric, job_id="j", method="Score", **limits):
    limits = {"timeout_s": 5.0} | limits
    return (await fabric.call("tax", method, JobRef(job_id=job_id), JobInfo, **limits)).job_id


def test_calls_that_come_at_once_travel_together_and_none_waits_for_another(monkeypatch):
    sent, line_write, caller_write = Counter(), GrpcLine.write, Caller.write

    async def count(self, data, write, name):
        sent[name] += 1
        await write(self, data)

    monkeypatch.setattr(GrpcLine, "write", lambda self, data: count(self, data, line_write, "calls"))
    monkeypatch.setattr(Caller, "write", lambda self, data: count(self, data, caller_write, "replies"))
    go = asyncio.Event()

    async def answer(request, peer):
        if request.job_id == "slow":
            await go.wait()
        return await echo(request, peer)

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, answer)
        slow = asyncio.create_task(score(bank, "slow"))
        await score(bank, "first")  # after the greeting
        sent.clear()
        found = await asyncio.gather(*(score(bank, str(k)) for k in range(40)))
        assert not slow.done()
        go.set()
        return found, await slow

    assert on_network(scenario, "bank", "tax") == ([str(k) for k in range(40)], "slow")
    assert sent["calls"] <= 5
    assert sent["replies"] <= 15


def test_a_call_fails_alone_with_its_own_error(capsys):
    async def answer(request, peer):
        if request.job_id == "refused":
            raise RefusedError("not this firm")
        if request.job_id == "broken":
            raise KeyError("firm 91350100M000100Y43")
        if request.job_id == "late":
            await asyncio.sleep(5)
        return await echo(request, peer)

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, answer)
        names = ("refused", "broken", "late", "good")
        return await asyncio.gather(
            *(score(bank, name, timeout_s=0.3 if name == "late" else 5) for name in names), return_exceptions=True
        )

    refused, broken, late, good = on_network(scenario, "bank", "tax")
    assert (type(refused), refused.message, refused.party, good) == (RefusedError, "not this firm", "tax", "good")
    assert type(broken) is PeerError
    assert "internal error, see the log of tax" in broken.message
    assert type(late) is PeerError
    assert "did not answer in time" in late.message
    assert "91350100M000100Y43" not in broken.message + capsys.readouterr().out


def test_role_and_method_are_checked_for_each_call():
    async def scenario(tax, registry):
        tax.register("Score", {"bank"}, JobRef, echo)
        tax.register("Cancel", {"holder"}, JobRef, echo)
        with pytest.raises(IdentityError, match="registry has role holder; this call is for bank"):
            await score(registry)
        line = await spoken(tax, wire_pb2.OneCall(number=1, method="Cancel"), sender="registry")
        return line.replies[0]

    reply = on_network(scenario, "tax", "registry")
    assert (reply.status, reply.reply) == ("UNIMPLEMENTED", b"")  # what is not small has a call of its own


async def spoken(to, *calls, sender="bank", version=VERSION, raw=None):
    """Send a message over a stream without any of the fabric's manners, and return the first answer."""
    async with raw_channel(to, IDENTITIES[sender]) as channel:
        call = channel.stream_stream(f"/veilscore.v1.Fabric/{batches.STREAM}")(
            metadata=(("veilscore-version", version),), timeout=5
        )
        await call.write(raw or wire_pb2.CallBatch(calls=calls).SerializeToString())
        return wire_pb2.ReplyBatch.FromString(await call.read())


def test_a_stream_of_another_version_or_of_no_calls_is_ended():
    async def scenario(tax):
        tax.register("Score", {"bank"}, JobRef, echo)
        with pytest.raises(grpc.aio.AioRpcError, match="speaks 'veilscore/0'") as version:
            await spoken(tax, version="veilscore/0")
        with pytest.raises(grpc.aio.AioRpcError, match="CallBatch from bank cannot be parsed") as garbage:
            await spoken(tax, raw=b"\xff\xff")
        return version.value.code(), garbage.value.code()

    assert on_network(scenario, "tax") == (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_certificate_that_expires_ends_the_stream_at_the_next_call():
    now_s = [time.time()]

    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", clock=lambda: now_s[0])
        tax.register("Score", {"bank"}, JobRef, echo)
        async with running(bank, tax):
            await score(bank)
            now_s[0] += 366 * DAY_S
            with pytest.raises(IdentityError, match=r"certificate of bank has expired.*make a new identity"):
                await score(bank)

    asyncio.run(scenario())


def test_a_node_that_stops_fails_its_calls_and_the_next_ones_find_it_again():
    async def forever(_request, _peer):
        await asyncio.sleep(60)

    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax")
        tax.register("Score", {"bank"}, JobRef, forever)
        async with running(bank, tax):
            waiting = asyncio.create_task(score(bank, retry=False))
            await asyncio.sleep(0.3)
            await tax.stop(0)
            with pytest.raises(PeerError, match=r"tax at .* (stopped while answering|cannot be reached)"):
                await waiting
            again = make_fabric("tax", listen=f"127.0.0.1:{tax.port}")
            again.register("Score", {"bank"}, JobRef, echo)
            async with running(again):
                assert await score(bank, "again") == "again"

    asyncio.run(scenario())


def test_a_node_that_stops_itself_says_so_to_its_callers():
    begun = asyncio.Event()

    async def forever(_request, _peer):
        begun.set()
        await asyncio.sleep(60)

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, forever)
        waiting = asyncio.create_task(score(bank, timeout_s=30))
        await begun.wait()
        await bank.stop(0)
        with pytest.raises(PeerError, match="the connection to tax was closed at this node"):
            await waiting

    on_network(scenario, "bank", "tax")


def test_no_more_calls_are_answered_at_once_than_a_stream_may_have(monkeypatch):
    monkeypatch.setattr(batches, "MOST_CALLS", 3)
    running_now, most = 0, 0

    async def answer(request, peer):
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.002)
        running_now -= 1
        return await echo(request, peer)

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, answer)
        await asyncio.gather(*(score(bank, str(k)) for k in range(30)))

    on_network(scenario, "bank", "tax")
    assert most == 3


def test_large_calls_are_cut_into_several_messages(monkeypatch):
    monkeypatch.setattr(batches, "_MOST_BYTES", 1000)
    names = [str(k) + "x" * 400 for k in range(7)] + ["y" * 5000]

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, echo)
        return await asyncio.gather(*(score(bank, name) for name in names))

    assert on_network(scenario, "bank", "tax") == names


def test_a_call_that_takes_too_long_ends_alone_and_its_work_with_it():
    """One timer serves all: the earliest end counts, whatever limits callers give."""
    ended = []

    async def answer(request, peer):
        try:
            await asyncio.sleep(float(request.job_id))
        except asyncio.CancelledError:
            ended.append(request.job_id)
            raise
        return await echo(request, peer)

    async def scenario(bank, tax):
        tax.register("Score", {"bank"}, JobRef, answer)
        await score(bank, "0.0")
        long = asyncio.create_task(score(bank, "0.6", timeout_s=30.0))
        limits = {"20.0": 0.2, "21.0": 0.1, "22.0": 0.3}
        late = [asyncio.create_task(score(bank, job, timeout_s=limit)) for job, limit in limits.items()]
        found = await asyncio.gather(*late, return_exceptions=True)
        await asyncio.sleep(0.1)
        return found, list(ended), await long

    found, cancelled, other = on_network(scenario, "bank", "tax")
    assert [type(one) for one in found] == [PeerError] * 3
    assert (sorted(cancelled), other) == (["20.0", "21.0", "22.0"], "0.6")


def test_messages_of_a_busy_stream_leave_apart_and_those_of_another_at_once():
    async def scenario(under_way):
        sent = []

        async def send(some):
            sent.append([len(some), asyncio.get_running_loop().time()])

        outgoing = batches._Outgoing(send, lambda: under_way)
        for _ in range(20):
            outgoing.put(wire_pb2.OneCall())
            await asyncio.sleep(0.0005)
        await asyncio.sleep(3 * batches._APART_S)
        assert sum(n for n, _ in sent) == 20
        return [after - before for (_, before), (_, after) in itertools.pairwise(sent)]

    few = asyncio.run(scenario(batches._MANY - 1))
    many = asyncio.run(scenario(batches._MANY))
    assert min(many) >= 0.9 * batches._APART_S
    assert len(many) < len(few) == 19


@pytest.mark.parametrize("loop", [None, loop_factory()], ids=["asyncio", "a node's"])
@pytest.mark.parametrize("limit_s", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_limit_that_is_none_leaves_the_others_theirs(limit_s, loop):
    async def scenario():
        ended = []
        deadlines = batches._Deadlines(ended.append)
        deadlines.add(1, limit_s)
        deadlines.add(2, 0.01)
        await asyncio.sleep(0.05)
        deadlines.close()
        return ended

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(scenario()) == ([2] if limit_s > 0 else [1, 2])
