"""Long-lived loops of a node: they survive any error, and one that ends stops the node with a line that says so."""

import asyncio
import shutil

import pytest
import structlog
from trial_evidence import log_path, open_nodes, run_jobs
from trial_federation import JOB, QUICK, commanding, make_homes, open_trial, running, submit, until, watch

from veilscore.errors import EvidenceError, StateError
from veilscore.fabric.process import serve_until_stopped
from veilscore.fabric.step_run import StepRun
from veilscore.fabric.watches import Watches, for_ever
from veilscore.files.store import JobStore
from veilscore.node.node import Node
from veilscore.wire.protocol import Progress, Session


def test_a_loop_survives_every_error_and_ends_when_it_is_told_to():
    met, rounds = [], []

    async def act():
        rounds.append(1)
        if len(rounds) == 2:
            raise asyncio.CancelledError  # as a call whose connection was closed
        if len(rounds) == 3:
            await asyncio.create_task(asyncio.sleep(0))
            raise RecursionError
        if len(rounds) < 6:
            raise KeyError(len(rounds))

    def report(error):
        met.append(type(error))
        raise OSError("no space left for a log")

    async def work():
        task = asyncio.create_task(for_ever(0.001, (act, act), report))
        await until(lambda: len(rounds) >= 8)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert met == [KeyError, StateError, RecursionError, KeyError, KeyError]


async def returns():
    pass


async def crashes():
    raise ValueError("bytes of a peer")


async def refuses():
    raise EvidenceError("the log was put back")


@pytest.mark.parametrize(
    ("ending", "error", "said"),
    [
        (returns, StateError, "the watch over keys ended without an error, so the node stops: start it again"),
        (crashes, StateError, "the watch over keys ended by ValueError, so the node stops: start it again"),
        (refuses, EvidenceError, "the log was put back"),
    ],
)
def test_a_watch_that_ends_is_told(ending, error, said):
    async def work():
        watches = Watches("tax")
        watches.start("the server", asyncio.sleep(60))
        watches.start("the watch over keys", ending())
        with structlog.testing.capture_logs() as logs, pytest.raises(error, match=said):
            await watches.ended()
        await watches.stop()
        assert [line["watch"] for line in logs] == ["the watch over keys"]
        assert "bytes of a peer" not in str(logs)

    asyncio.run(work())


def test_a_node_whose_watch_ends_stops(tmp_path):
    make_homes(tmp_path)

    async def work():
        node = Node(tmp_path / "tax", limits=QUICK)
        node.keys.watch = crashes
        with pytest.raises(StateError, match="the watch over keys ended by ValueError"):
            await serve_until_stopped(node)
        assert not node.evidence._opened  # stopped, with its log let go

    asyncio.run(work())


def test_the_watch_over_keys_goes_on_whatever_an_act_raises(tmp_path):
    make_homes(tmp_path)
    rounds = []

    async def work():
        (node,) = open_trial(tmp_path, "tax").values()
        node.keys._poll_s = 0.01

        async def broken():
            rounds.append(1)
            raise [KeyError("x"), asyncio.CancelledError(), UnicodeDecodeError("utf-8", b"", 0, 1, "")][len(rounds) % 3]

        node.keys._tell_all = broken
        async with running({"tax": node}):
            await until(lambda: len(rounds) > 5)
            assert all(not task.done() for task in node.watches._tasks.values())

    asyncio.run(work())


def test_a_log_put_back_with_all_state_is_noticed_by_what_others_saw(tmp_path):
    """The whole home of tax is an older copy, consistent in itself: only the others know of the second job."""
    run_jobs(tmp_path)
    shutil.copytree(tmp_path / "tax", tmp_path / "older")

    async def second():
        async with running(open_nodes(tmp_path)), commanding(tmp_path / "bank") as command:
            await watch(command, await submit(command, f"{JOB}parameters: {{firms: 6}}\n"))

    asyncio.run(second())
    newer = log_path(tmp_path, "tax").stat().st_size
    shutil.rmtree(tmp_path / "tax")
    shutil.move(tmp_path / "older", tmp_path / "tax")
    assert log_path(tmp_path, "tax").stat().st_size < newer

    async def start():
        others = open_trial(tmp_path, "bank", "registry")
        async with running(others):
            with pytest.raises(EvidenceError, match=r"countersigned entry \d+ of this node's log, which here has \d+"):
                await serve_until_stopped(Node(tmp_path / "tax", limits=QUICK))

    asyncio.run(start())


def test_a_head_that_could_not_be_signed_is_signed_later(tmp_path, monkeypatch):
    make_homes(tmp_path)

    async def work():
        (node,) = open_trial(tmp_path, "tax").values()
        async with running({"tax": node}):
            log, failed, sign = node.evidence.log, [], node.evidence.log.sign_head

            def once():
                if not failed:
                    failed.append(1)
                    raise RuntimeError("the key source went away")
                sign()

            monkeypatch.setattr(log, "sign_head", once)
            monkeypatch.setattr("veilscore.evidence.recorder._AGAIN_S", 0.01)
            node.evidence._append_ahead([{"kind": "score", "time_ms": 1}])
            await until(lambda: failed and log._head.size == log.size)

    asyncio.run(work())


def test_an_attempt_whose_record_cannot_be_closed_has_failed(tmp_path):
    class Record:
        def add(self, *_):
            pass

        def close(self):
            raise RuntimeError("no")

    def protocol():
        yield Progress("at work", 1, 1)

    async def work():
        make_homes(tmp_path)
        (node,) = open_trial(tmp_path, "tax").values()
        node.fabric._sessions._accept = lambda *_: True
        session = Session("job/step/1", "tax", "bank", ("tax",))
        run = StepRun(node.fabric, session, protocol(), JobStore(tmp_path / "s"), 10.0, Record())
        events = [event.WhichOneof("event") async for event in run.events()]
        assert events[-1] == "failed"
        assert run.failure.startswith("RuntimeError")
        await node.stop(0.1)

    asyncio.run(work())


def test_a_job_whose_end_cannot_be_written_still_tells_who_watches(tmp_path, monkeypatch):
    make_homes(tmp_path)

    async def work():
        nodes = open_trial(tmp_path)
        async with running(nodes), commanding(tmp_path / "bank") as command:

            def broken(*_, **__):
                raise RuntimeError("driver of the database")

            monkeypatch.setattr(nodes["coordinator"].state, "move_job", broken)
            events = await watch(command, await submit(command))
            assert any("internal error at the coordinator" in event.text for event in events)

    asyncio.run(work())
