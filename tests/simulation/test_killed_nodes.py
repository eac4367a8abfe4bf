"""Nodes as real processes, killed in the middle of steps: the job goes on, or ends with clear words."""

from __future__ import annotations

import asyncio

import pytest
import yaml
from process_federation import JOB, federation, make_real_homes
from trial_federation import commanding, make_homes, show, submit, until, watch

from veilscore.errors import JobError
from veilscore.node import processes
from veilscore.v1 import control_pb2

pytestmark = pytest.mark.federation


def test_a_party_killed_at_each_step_comes_back(tmp_path):
    kills = {"align": "tax", "bin": "bank", "score": "registry"}

    async def scenario():
        make_homes(tmp_path)
        for step, name in kills.items():
            (tmp_path / name / f"fault_{step}").write_text("kill")
        async with federation(tmp_path) as made, commanding(tmp_path / "bank") as command:
            job_id = await submit(command)
            watching = asyncio.create_task(watch(command, job_id))
            for name in kills.values():
                await made.gone(name)
                await made.start(name)
            await watching
            return await show(command, job_id)

    info = asyncio.run(scenario())
    assert info.status == "done", info.error
    assert [(s.step, s.attempt, s.status) for s in info.steps] == [
        (step, attempt, status) for step in kills for attempt, status in ((1, "failed"), (2, "done"))
    ]
    for step, name in zip(info.steps[::2], kills.values(), strict=True):
        assert step.party_status[name].startswith("failed: PeerError")


def test_coordinator_killed_in_the_middle(tmp_path):
    async def scenario():
        make_homes(tmp_path)
        (tmp_path / "tax" / "fault_bin").write_text("sleep 1")
        async with federation(tmp_path) as made:
            async with commanding(tmp_path / "bank") as command:
                job_id = await submit(command)
                await until(lambda: not (tmp_path / "tax" / "fault_bin").exists())
            await made.kill("coordinator")
            await made.start("coordinator")
            async with commanding(tmp_path / "bank") as command:
                await watch(command, job_id)
                return await show(command, job_id)

    info = asyncio.run(scenario())
    assert info.status == "done", info.error
    bins = [(s.attempt, s.status, s.party_status["tax"]) for s in info.steps if s.step == "bin"]
    assert bins == [(1, "failed", "stopped"), (2, "done", "done")]


def test_a_second_process_on_one_home_is_refused(tmp_path):
    async def scenario():
        make_homes(tmp_path)
        async with federation(tmp_path):
            with pytest.raises(JobError, match=r"runs on .*tax already"):
                processes.spawn(tmp_path / "tax")
            assert await asyncio.to_thread(processes.stop, tmp_path / "tax")
            assert not await asyncio.to_thread(processes.stop, tmp_path / "tax")

    asyncio.run(scenario())
    log = (tmp_path / "tax" / "log" / "node.log").read_text().splitlines()
    assert '"event": "node stopped"' in log[-1]


def test_training_survives_a_kill_at_every_step(tmp_path):
    """The real workflow: whoever is killed when a step begins, the model is there at the end."""
    kills = {"align": "tax", "bin": "registry", "train": "bank", "evaluate": "tax"}

    async def scenario():
        make_real_homes(tmp_path)
        async with federation(tmp_path, toy=False) as made, commanding(tmp_path / "bank") as command:
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
