"""Nodes as real processes, killed in the middle of steps: the job goes on, or ends with clear words."""

from __future__ import annotations

import asyncio

import pytest
import yaml
from process_federation import JOB, NAMES, Federation, federation, make_real_homes
from trial_federation import commanding, make_homes, show, submit, until, watch

from veilscore.errors import JobError
from veilscore.fabric.process import running_pid
from veilscore.node import processes
from veilscore.v1 import control_pb2

pytestmark = [pytest.mark.federation, pytest.mark.slow]


@pytest.fixture(scope="module")
def processes_of_toys(tmp_path_factory):
    made = Federation(make_homes(tmp_path_factory.mktemp("toy")), toy=True)
    yield made
    made.end()


@pytest.fixture
def toys(processes_of_toys):
    """A federation of the toy task, all of it running."""
    made = processes_of_toys
    asyncio.run(made.start(*(name for name in NAMES if running_pid(made.folder / name) is None)))
    return made


def test_a_party_killed_at_each_step_comes_back(toys):
    kills = {"align": "tax", "bin": "bank", "score": "registry"}

    async def scenario():
        for step, name in kills.items():
            (toys.folder / name / f"fault_{step}").write_text("kill")
        async with commanding(toys.folder / "bank") as command:
            job_id = await submit(command)
            watching = asyncio.create_task(watch(command, job_id))
            for name in kills.values():
                await toys.gone(name)
                await toys.start(name)
            await watching
            return await show(command, job_id)

    info = asyncio.run(scenario())
    assert info.status == "done", info.error
    assert [(s.step, s.attempt, s.status) for s in info.steps] == [
        (step, attempt, status) for step in kills for attempt, status in ((1, "failed"), (2, "done"))
    ]
    for step, name in zip(info.steps[::2], kills.values(), strict=True):
        assert step.party_status[name].startswith("failed: PeerError")


def test_coordinator_killed_in_the_middle(toys):
    async def scenario():
        fault = toys.folder / "tax" / "fault_bin"
        fault.write_text("sleep 1")
        async with commanding(toys.folder / "bank") as command:
            job_id = await submit(command)
            await until(lambda: not fault.exists())
        await toys.kill("coordinator")
        await toys.start("coordinator")
        async with commanding(toys.folder / "bank") as command:
            await watch(command, job_id)
            return await show(command, job_id)

    info = asyncio.run(scenario())
    assert info.status == "done", info.error
    bins = [(s.attempt, s.status, s.party_status["tax"]) for s in info.steps if s.step == "bin"]
    assert bins == [(1, "failed", "stopped"), (2, "done", "done")]


def test_a_second_process_on_one_home_is_refused(toys):
    home = toys.folder / "tax"
    with pytest.raises(JobError, match=r"runs on .*tax already"):
        processes.spawn(home)
    assert processes.stop(home)
    assert not processes.stop(home)
    log = (home / "log" / "node.log").read_text().splitlines()
    assert '"event": "node stopped"' in log[-1]


def test_training_survives_a_kill_at_every_step(tmp_path):
    """The real workflow: whoever is killed when a step begins, the model is there at the end."""
    kills = {"align": "tax", "bin": "registry", "train": "bank", "evaluate": "tax"}

    async def scenario():
        make_real_homes(tmp_path)
        async with federation(tmp_path) as made, commanding(tmp_path / "bank") as command:
            job_id = await submit(command, yaml.safe_dump(JOB))
            left = dict(kills)
            ref = control_pb2.JobRef(job_id=job_id)
            async with asyncio.timeout(300):
                async for event in command.stream("coordinator", "WatchJob", ref, control_pb2.JobEvent):
                    if event.step in left and event.status == "running":
                        name = left.pop(event.step)
                        await made.kill(name)
                        await made.start(name)
            return left, await show(command, job_id)

    left, info = asyncio.run(scenario())
    assert info.status == "done", info.error
    assert not left
    assert {s.step for s in info.steps if s.status == "done"} == set(kills)
    assert any(s.status == "failed" for s in info.steps)
    assert (tmp_path / "bank" / "models" / "small" / "model.json").is_file()
