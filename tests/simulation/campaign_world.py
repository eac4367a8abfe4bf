"""One schedule of the campaign: a federation of real nodes on a faulty wire, faulty disks and virtual time.

All nodes run under a supervisor that starts them again, as a service manager does; an operator submits a job and, once
the faults are over, resumes what failed. What must hold then is in campaign_checks.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import campaign_task  # noqa: F401 - the operator's job is of this task
import faulty_files
import memory_grpc
from faulty_files import DISKS, Disk
from memory_grpc import Network
from virtual_time import PROCESS, Clock, Process, VirtualLoop

from coordinator.scheduler import Patience
from coordinator.service import Coordinator
from veilscore.errors import VeilscoreError
from veilscore.fabric import fabric as fabric_module
from veilscore.fabric import peers, step_run
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.node.node import Node
from veilscore.terms.federation import load_federation
from veilscore.v1 import control_pb2, wire_pb2
from veilscore.wire.inbox import WireLimits

NODES = ("coordinator", "bank", "tax", "registry")
JOB = """
name: campaign
purpose: credit
task: campaign
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
"""
LIMITS = WireLimits(retry_s=20, receive_timeout_s=40, deliver_timeout_s=10, connect_timeout_s=5)
PATIENCE = Patience(propose_s=10, poll_s=1, reconnect_s=30, step_s=120)
FAULTS_S, HEALING_S, RESTART_S = 40.0, 400.0, 3.0
TURNS, OPERATIONS, JOB_S = 250, 220, 1.0  # of a node in an undisturbed job, about


def install() -> None:
    """Put this world below the nodes of this (forked) process."""
    fabric_module.GrpcServer = memory_grpc.MemoryServer
    peers.GrpcConnection = memory_grpc.MemoryConnection
    step_run.give_back_memory = lambda: None
    step_run._Meter.__init__ = lambda self: self.__dict__.update(_wall_s=0.0, _cpu_s=0.0)
    faulty_files.install()


@dataclass
class World:
    """A schedule, all of it drawn from its seed.

    opened : (holder, session) of what left a holder; frames : digests by the place of a frame; problems : what should
    not have happened.
    """

    folder: Path
    seed: int
    network: Network = field(init=False)
    rng: random.Random = field(init=False)
    nodes: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    opened: set[tuple[str, str]] = field(default_factory=set)
    frames: dict[tuple[str, str, str, int], set[bytes]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    refused_starts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    healed: bool = False
    lost_power: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        random.seed(self.seed)
        self.network = memory_grpc.NETWORK = Network(random.Random(self.rng.random()), seen=self._seen)

    def _seen(self, sender: str, recipient: str, method: str, piece: bytes) -> None:
        if method != "Deliver":
            return
        chunk = wire_pb2.Chunk.FromString(piece)
        if chunk.WhichOneof("part") != "header":
            return
        header = chunk.header
        self.frames.setdefault((header.session, sender, recipient, header.sequence), set()).add(header.sha256)
        step = header.session.split("/")[1]
        if (step, recipient) in {("bin", "bank"), ("score", "coordinator")} and sender in {"tax", "registry"}:
            self.opened.add((sender, header.session))

    # processes

    def run(self) -> None:
        """Run the schedule to its end."""
        clock = Clock.now = Clock()
        loop = VirtualLoop(clock, random.Random(self.rng.random()))
        asyncio.set_event_loop(loop)
        for name in NODES:
            DISKS[name] = Disk(self.folder / name, random.Random(self.rng.random()))
        loop.set_exception_handler(self._unhandled)
        loop.run_until_complete(self._whole())

    def _unhandled(self, _loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and not isinstance(error, (VeilscoreError, peers.CallFailure)):
            self.problems.append(f"unhandled: {context['message']}: {error!r}")

    async def _whole(self) -> None:
        supervisors = [asyncio.create_task(self._supervise(name)) for name in NODES]
        faults = asyncio.create_task(self._faults())
        operator = Process("operator")
        context = contextvars.copy_context()
        context.run(PROCESS.set, operator)
        try:
            async with asyncio.timeout(FAULTS_S + HEALING_S):
                await asyncio.create_task(self._operate(faults), context=context)
        except TimeoutError:
            self.problems.append("the job did not come to its end after the faults were over")
        for task in supervisors:
            task.cancel()
        for name in NODES:
            await self._stop(name)

    async def _supervise(self, name: str) -> None:
        while True:
            process = Process(name)
            process.on_death.append(DISKS[name].died)
            self.processes[name] = process
            context = contextvars.copy_context()
            context.run(PROCESS.set, process)
            self.starts[name] += 1
            dead = asyncio.get_running_loop().create_future()
            process.on_death.append(lambda _, dead=dead: dead.done() or dead.set_result(None))
            life = asyncio.create_task(self._live(name), context=context)
            await asyncio.wait((life, dead), return_when=asyncio.FIRST_COMPLETED)
            process.kill()
            self.nodes.pop(name, None)
            if life.done() and not life.cancelled() and (error := life.exception()) is not None:
                self.refused_starts[name] = f"{type(error).__name__}: {error}"
                if not isinstance(error, VeilscoreError) and isinstance(error, Exception):
                    self.problems.append(f"{name} ended by {error!r}")
            await asyncio.sleep(RESTART_S)

    async def _live(self, name: str) -> None:
        """A node from its start until something ends it."""
        if name == "coordinator":
            node: Any = Coordinator(self.folder / name, limits=LIMITS, patience=PATIENCE)
        else:
            node = Node(self.folder / name, limits=LIMITS)
        await node.start()
        self.refused_starts.pop(name, None)
        self.nodes[name] = node
        await node.watches.ended()

    async def _stop(self, name: str) -> None:
        process, node = self.processes[name], self.nodes.get(name)
        if node is None or not process.alive:
            self.problems.append(f"{name} does not run: {self.refused_starts.get(name, 'it was killed')}")
            return
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        await asyncio.create_task(node.stop(0.1), context=context)
        process.kill()

    # faults

    async def _faults(self) -> None:
        """Draw the faults of this schedule and bring them about, each at its time."""
        rng, network = self.rng, self.network
        network.lost = rng.choice((0.0, 0.0, 0.03, 0.15))
        network.late = rng.choice((0.0, 0.05, 0.2))
        network.doubled = rng.choice((0.0, 0.1, 0.5))
        drawn = (
            (self._kill, (0, 1, 1, 2, 3, 5)),
            (self._fill, (0, 0, 1, 2)),
            (self._part, (0, 0, 1, 2)),
            (self._skew, (0, 0, 0, 1)),
        )
        spans_s = (JOB_S, JOB_S, 0.6 * FAULTS_S)
        acts = [
            (rng.uniform(0.0, rng.choice(spans_s)), act, rng.choice(NODES))
            for act, numbers in drawn
            for _ in range(rng.choice(numbers))
        ]
        at_s = 0.0
        for when_s, act, name in sorted(acts, key=lambda one: one[0]):
            await asyncio.sleep(when_s - at_s)
            at_s = when_s
            act(name)
        await asyncio.sleep(FAULTS_S - at_s)
        network.lost = network.late = network.doubled = 0.0
        network.cut.clear()
        for name in NODES:
            DISKS[name].full, DISKS[name].kill_at = False, None
            self.processes[name].kill_at = None
            if self.processes[name].skew_s:
                self.processes[name].kill()  # whoever sets a clock starts the node again
        self.healed = True

    def _kill(self, name: str) -> None:
        disk, process = DISKS[name], self.processes[name]
        if self.rng.random() < 0.5:
            disk.kill_at = disk.operations + self.rng.randint(1, self.rng.choice((6, 30, OPERATIONS)))
            disk.power_loss = self.rng.random() < 0.4
            if disk.power_loss:
                self.lost_power.add(name)
            self.faults["kill at an operation on disk"] += 1
        else:
            process.kill_at = process.turns + self.rng.randint(1, self.rng.choice((20, 100, TURNS)))
            self.faults["kill at a turn"] += 1

    def _fill(self, name: str) -> None:
        DISKS[name].full = True
        self.faults["disk full"] += 1

        def free() -> None:
            DISKS[name].full = False

        asyncio.get_running_loop().call_later(self.rng.uniform(0.1, 15.0), free)

    def _part(self, name: str) -> None:
        pairs = {frozenset((name, other)) for other in NODES if other != name and self.rng.random() < 0.7}
        self.network.cut |= pairs
        self.faults["partition"] += 1
        asyncio.get_running_loop().call_later(self.rng.uniform(1.0, 20.0), self.network.cut.difference_update, pairs)

    def _skew(self, name: str) -> None:
        self.processes[name].skew_s += self.rng.choice((-1, 1)) * self.rng.choice((5.0, 200.0, 4000.0, 90000.0))
        self.faults["clock jump"] += 1

    # the operator

    async def _operate(self, faults: asyncio.Task[None]) -> None:
        """Submit a job until one is known, wait for the end of the faults, and resume what failed until all is done."""
        home = self.folder / "operator"
        fabric = Fabric(load_identity(home), load_federation(self.folder / "federation.yaml"), accept_session=_refuse)

        async def call(method: str, request: Any, reply: Any) -> Any:
            try:
                return await fabric.call("coordinator", method, request, reply, timeout_s=10)
            except VeilscoreError:
                return None

        while True:
            listed = await call("List", control_pb2.Empty(), control_pb2.JobList)
            if listed is not None and listed.jobs:
                break
            await call("Submit", control_pb2.SubmitJob(job_yaml=JOB), control_pb2.JobInfo)
            await asyncio.sleep(0.2)
        await faults
        while True:
            listed = await call("List", control_pb2.Empty(), control_pb2.JobList)
            for job in listed.jobs if listed else ():
                if job.status == "failed":
                    await call("Resume", control_pb2.JobRef(job_id=job.job_id), control_pb2.JobInfo)
            if listed and all(job.status in {"done", "refused", "cancelled"} for job in listed.jobs):
                self.jobs = {job.job_id: job.status for job in listed.jobs}
                if self._settled():
                    break
            await asyncio.sleep(2.0)
        await fabric.stop(0.1)

    def _settled(self) -> bool:
        """Return whether all nodes run, and every party knows how its jobs ended."""
        if not all(name in self.nodes and self.processes[name].alive for name in NODES):
            return False
        done = [job for job, status in self.jobs.items() if status == "done"]
        ends = [self.folder / name / "jobs" / job / "end.json" for name in NODES[1:] for job in done]
        return all(path.is_file() and '"filed": true' in path.read_text() for path in ends)


def _refuse(_session: str, _sender: str) -> bool:
    return False
