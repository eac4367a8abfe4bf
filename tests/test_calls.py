"""Roles that call and are called: replies and errors, several calls at once, order of calls, callers that give up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from veilscore.errors import MessageError, PeerError, ProtocolError, RefusedError
from veilscore.v1 import control_pb2 as pb
from veilscore.wire import calls
from veilscore.wire.calls import Calls, RoleEndedError, Served, run_calls
from veilscore.wire.protocol import Receive, Refuse, Send, Serve, Together, call, receive, together, work

REF, INFO, EMPTY = pb.JobRef, pb.JobInfo, pb.Empty


async def now(do):
    return do()


def caller(answers, do=now):
    """Calls whose peers answer by `answers`: name -> reply, error, or coroutine function of the request."""

    async def make(to, method, request, _reply, *, timeout_s):
        assert method == type(request).__name__
        assert timeout_s > 0
        answer = answers[to]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, pb.JobInfo) else await answer(request)

    return Calls(make, do)


def ask(to, job_id="a"):
    return (yield from call(to, REF(job_id=job_id), INFO))


def run(role, answers, do=now):
    return asyncio.run(run_calls(role, caller(answers, do)))


def test_the_reply_or_the_peers_error_comes_back():
    def role():
        first = yield from ask("tax")
        try:
            yield from ask("registry")
        except RefusedError as refusal:
            return first.name, refusal.message
        return None

    assert run(role(), {"tax": INFO(name="one"), "registry": RefusedError("no")}) == ("one", "no")
    with pytest.raises(RefusedError, match="no"):
        run(ask("registry"), {"registry": RefusedError("no")})

    async def other(_request):
        return EMPTY()

    with pytest.raises(ProtocolError, match="expected JobInfo from tax"):
        run(ask("tax"), {"tax": other})


def test_calls_at_once():
    met = asyncio.Event()

    async def waits(_request):
        await met.wait()
        return INFO(name="first")

    async def meets(_request):
        met.set()
        return INFO(name="second")

    found = run(together({name: ask(name) for name in ("tax", "registry")}), {"tax": waits, "registry": meets})
    assert {name: info.name for name, info in found.items()} == {"tax": "first", "registry": "second"}
    assert list(found) == ["tax", "registry"]


def test_the_first_error_ends_the_others():
    ended = []

    async def never(_request):
        await asyncio.Event().wait()

    def part(name):
        try:
            return (yield from ask(name))
        finally:
            ended.append(name)

    def role(caught):
        try:
            yield from together({name: part(name) for name in ("tax", "registry", "court")})
        except RefusedError as refusal:
            caught.append(refusal.message)
            return (yield from ask("bank"))

    caught = []
    answers = {"tax": never, "registry": RefusedError("no"), "court": never, "bank": INFO(name="after")}
    assert run(role(caught), answers).name == "after"
    assert caught == ["no"]
    assert sorted(ended) == ["court", "registry", "tax"]


def test_one_part_can_be_enough():
    """Its end is waited for, an error before it counts, and the others go on."""
    went_on = []

    async def slow(_request):
        await asyncio.sleep(0.05)
        went_on.append(1)
        return INFO()

    async def quick(_request):
        return INFO(name="total")

    async def scenario(answers):
        made = caller(answers)
        found = await run_calls(together({name: ask(name) for name in answers}, enough="coordinator"), made)
        await asyncio.sleep(0.1)
        await made.close()
        return found

    assert list(asyncio.run(scenario({"tax": slow, "coordinator": quick}))) == ["coordinator"]
    assert went_on == [1]
    with pytest.raises(RefusedError):
        asyncio.run(scenario({"tax": RefusedError("no"), "coordinator": slow}))
    with pytest.raises(PeerError):
        asyncio.run(scenario({"tax": slow, "coordinator": PeerError("gone")}))


def test_work_is_done_in_its_place():
    async def thread(do):
        return await asyncio.to_thread(do)

    async def awaited():
        return threading.current_thread()

    def fails():
        raise MessageError("wrong")

    def role():
        here = threading.current_thread()
        there = yield from work(threading.current_thread)
        loop = yield from work(awaited)
        try:
            yield from work(fails)
        except MessageError as error:
            return here is loop, here is there, error.message

    assert run(role(), {}, thread) == (True, False, "wrong")


def test_what_has_no_place_in_a_role_that_calls():
    def role():
        yield Receive("tax", INFO)

    with pytest.raises(ProtocolError, match="Receive has no place"):
        run(role(), {})
    assert "parts" in repr(Together({}))


# --- roles that are called -------------------------------------------------------------------------------------------


def answering(log=None):
    """Serve references, refuse those named "bad", end at an Empty, with a total of what was served."""
    served = 0
    while True:
        request = yield Serve("bank", (REF, EMPTY))
        if isinstance(request, EMPTY):
            return served
        if request.job_id == "bad":
            yield Refuse("bank", RefusedError("bad"))
            continue
        if request.job_id == "ask":
            yield Send("bank", (yield from ask("tax")))
            continue
        served += 1
        if log is not None:
            log.append(request.job_id)
        yield Send("bank", INFO(name=request.job_id))


def test_calls_are_answered_in_turn_and_a_refusal_does_not_end_the_role():
    async def scenario():
        role = Served(answering(), caller({"tax": PeerError("gone")}))
        assert (await role.ask("bank", REF(job_id="a"))).name == "a"
        with pytest.raises(RefusedError, match="bad"):
            await role.ask("bank", REF(job_id="bad"))
        for sender, request in (("tax", REF()), ("bank", INFO())):
            with pytest.raises(ProtocolError, match="out of order"):
                await role.ask(sender, request)
        assert (await role.ask("bank", REF(job_id="b"))).name == "b"
        assert not role.ended
        assert await role.ask("bank", EMPTY()) == 2
        assert role.ended
        with pytest.raises(RoleEndedError):
            await role.ask("bank", REF())
        failing = Served(answering(), caller({"tax": PeerError("gone")}))
        with pytest.raises(PeerError, match="gone"):
            await failing.ask("bank", REF(job_id="ask"))
        assert failing.ended

    asyncio.run(scenario())


def test_a_caller_that_gives_up_does_not_stop_the_role():
    async def scenario():
        met, log = asyncio.Event(), []

        async def slow(_request):
            await met.wait()
            log.append("answered")
            return INFO(name="slow")

        made = caller({"tax": slow})
        role = Served(answering(log), made)
        waiting = asyncio.create_task(role.ask("bank", REF(job_id="ask")))
        queued = asyncio.create_task(role.ask("bank", REF(job_id="next")))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        met.set()
        assert (await queued).name == "next"
        assert log == ["answered", "next"]
        await made.close()

    asyncio.run(scenario())


def test_a_role_learns_that_it_is_late():
    def role():
        request = yield Serve("bank", (REF,))
        try:
            yield from together({"tax": ask("tax")})
        except PeerError as error:
            yield Refuse("bank", error)
        request = yield Serve("bank", (REF,))
        return request.job_id

    async def scenario():
        async def never(_request):
            await asyncio.Event().wait()

        made = caller({"tax": never})
        served = Served(role(), made)
        with pytest.raises(PeerError, match="too late"):
            await served.ask("bank", REF(), asyncio.get_running_loop().time() + 0.02, "too late")
        assert await served.ask("bank", REF(job_id="again")) == "again"
        assert not made._tasks

    asyncio.run(scenario())


def test_messages_of_others_wait_until_they_are_received(monkeypatch):
    monkeypatch.setattr(calls, "PATIENCE_S", 0.05)

    def role():
        while True:
            yield Serve("bank", (EMPTY,))
            try:
                info = yield from receive("registry", INFO)
            except PeerError as error:
                yield Refuse("bank", error)
                continue
            yield Send("bank", info)

    async def scenario():
        served = Served(role(), caller({}))
        with pytest.raises(PeerError, match="no JobInfo from registry yet"):
            await served.ask("bank", EMPTY())
        asking = asyncio.create_task(served.ask("bank", EMPTY()))
        await asyncio.sleep(0.01)
        served.put("registry", INFO(name="part"))
        assert (await asking).name == "part"
        served.put("registry", INFO(name="part"))
        with pytest.raises(ProtocolError, match="second, different JobInfo"):
            served.put("registry", INFO(name="other"))
        assert (await served.ask("bank", EMPTY())).name == "part"

    asyncio.run(scenario())
