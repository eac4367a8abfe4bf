"""Single scores in the fault campaign: a loan system scores firms while nodes are killed, and asks again under its ids.

Roles, encryption, circuits, ledger, log and journals are the product's; what it does in threads of its own are turns of
the loop here. A schedule takes some seconds of a processor, most of it keys of holders that were started again.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import campaign_checks
import campaign_world
import numpy as np
from campaign_world import NODES, World
from consent_issuer import token_bytes
from finished_jobs import finished, keep_in
from trial_online_audit import audit
from trial_scoring import copy_of, known_to_all, score_all, units_of
from virtual_time import PROCESS

from veilscore.errors import EvidenceError, VeilscoreError
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.log import FOLDER, LOG_FILE
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.verify import verify_log, verify_receipt
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.models.filed import load_model
from veilscore.models.steps import steps_of
from veilscore.online import group_writer, opening_writer
from veilscore.online import stock as online_stock
from veilscore.protocols.online_pool import LeadPool
from veilscore.protocols.online_spares import HolderSpare
from veilscore.release.ledger import LEDGER, ONLINE, ReleaseLedger
from veilscore.terms.federation import load_federation
from veilscore.v1 import control_pb2 as pb
from veilscore.v1 import wire_pb2

HOLDERS = ("tax", "registry")
REQUESTS, OUTPUTS = 5, ("exact", "score", "band")
SPENT: list[tuple[str, bytes]] = []  # party, numbers that may hide one record, or labels that may serve one circuit


class TurnExecutor:
    """Stands for a thread of a node: work is a turn of the loop, a moment later; what it begins itself comes within."""

    rng = random.Random(0)
    _within = False

    def __init__(self, *_: Any, **__: Any) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._closed = False

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        if self._closed:
            raise RuntimeError("closed")
        done: Future[Any] = Future()
        if TurnExecutor._within:
            return _Within(work, args, at_once=self.rng.random() < 0.5)

        def run() -> None:
            if run in self._waiting:
                self._waiting.remove(run)
                TurnExecutor._within = True
                try:
                    done.set_result(work(*args))
                finally:
                    TurnExecutor._within = False

        self._waiting.append(run)
        asyncio.get_running_loop().call_later(self.rng.choice((0.0, 0.001, 0.02)), run)
        return done

    def shutdown(self, **_: Any) -> None:
        self._closed = True
        for run in list(self._waiting):
            run()


class _Within:
    """Work that a thread gave to another one: done at once, or when its result is waited for."""

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...], *, at_once: bool) -> None:
        self._work, self._args, self._error, self._done = work, args, None, False
        if at_once:
            self._do()

    def _do(self) -> None:
        self._done = True
        try:
            self._work(*self._args)
        except Exception as error:  # noqa: BLE001 - as a thread hands it over
            self._error = error

    def result(self) -> None:
        if not self._done:
            self._do()
        if self._error is not None:
            raise self._error


def install(rng: random.Random) -> None:
    """Put this world below the nodes of this (forked) process."""
    campaign_world.install()
    TurnExecutor.rng = rng
    group_writer.ThreadPoolExecutor = opening_writer.ThreadPoolExecutor = TurnExecutor
    online_stock.SPARES, online_stock.LOW = 3, 2
    difference, labels = HolderSpare.difference, LeadPool.labels

    def spent(spare: HolderSpare, cells: Any) -> bytes:
        SPENT.append((PROCESS.get().name, spare.random.tobytes()))
        return difference(spare, cells)

    def taken(pool: LeadPool, circuit: int, *args: Any) -> Any:
        SPENT.append((PROCESS.get().name, pool.base.SerializeToString() + circuit.to_bytes(4, "little")))
        return labels(pool, circuit, *args)

    HolderSpare.difference, LeadPool.labels = spent, taken


def found(folder: Path) -> Path:
    """Make the federation that all schedules begin with: a model, and exact scores of all firms to compare with."""
    (folder / "kept").mkdir()
    keep_in(folder / "kept")
    home = copy_of(finished(score_all), folder / "federation")
    shutil.copytree(home / "bank" / "identity", home / "operator")
    return home


class ScoreWorld(World):
    """A schedule of requests.

    answered : id -> (firm, output, response); asked : id -> (firm, output).
    left : what holders sent on, by their start and request.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.answered: dict[str, tuple[str, str, pb.ScoreResponse]] = {}
        self.asked: dict[str, tuple[str, str]] = {}
        self.left: dict[tuple[str, int, str], set[bytes]] = defaultdict(set)
        self.jobs: dict[str, str] = {}
        self.model = load_model(self.folder / "bank" / "models" / "firms" / "model.json")
        self.units = units_of(self.folder, self.model)
        self.firms = known_to_all(self.folder)[:3]

    def _seen(self, sender: str, recipient: str, method: str, piece: bytes) -> None:
        if method != "Batches":
            return
        for call in wire_pb2.CallBatch.FromString(piece).calls:
            if call.method in {"AddPartial", "BandPartial"} and sender in HOLDERS:
                part = getattr(pb, call.method).FromString(call.request)
                self.left[sender, self.starts[sender], part.request_id].add(call.request)

    async def _operate(self, faults: asyncio.Task[None]) -> None:
        home = self.folder / "operator"
        fabric = Fabric(
            load_identity(home), load_federation(self.folder / "federation.yaml"), accept_session=lambda *_: False
        )
        await asyncio.gather(*(self._score(fabric, number) for number in range(REQUESTS)))
        await faults
        await asyncio.sleep(60.0)  # until who was killed last runs again
        for ident, (firm, output, before) in list(self.answered.items()):
            again = None
            while again is None:
                again = await self._ask(fabric, ident, firm, output)
            if "bank" not in self.lost_power and again != before:
                self.problems.append(f"{ident} was answered as {before.status} and then otherwise: {again.message}")
        await asyncio.sleep(30.0)  # receipts follow scores
        await fabric.stop(0.1)

    async def _score(self, fabric: Fabric, number: int) -> None:
        """Ask for a score until there is one: under the same id, and under a new one where the node says so."""
        rng = random.Random(self.rng.random())
        firm, output, tries = rng.choice(self.firms), rng.choice(OUTPUTS), 0
        await asyncio.sleep(rng.uniform(0.0, 0.5 * campaign_world.FAULTS_S))
        ident = f"r{number}"
        while ident not in self.answered:
            response = await self._ask(fabric, ident, firm, output)
            if response is not None and response.status in {"scored", "fallback"}:
                self.answered[ident] = firm, output, response
                return
            said = "" if response is None else response.message + "".join(p.reason for p in response.parties)
            if "use a new" in said:
                tries += 1
                ident = f"r{number}.{tries}"
            await asyncio.sleep(rng.choice((0.1, 1.0, 4.0)))

    async def _ask(self, fabric: Fabric, ident: str, firm: str, output: str) -> pb.ScoreResponse | None:
        self.asked[ident] = firm, output
        request = pb.ScoreRequest(
            request_id=ident, firm_id=firm, model="firms", timeout_s=8.0, output=output, on_missing="missing_code",
            consent=token_bytes(firm),
        )  # fmt: skip
        try:
            return await fabric.call("bank", "Score", request, pb.ScoreResponse, timeout_s=10.0)
        except VeilscoreError:
            return None


def broken(world: ScoreWorld) -> list[str]:
    """Return what does not hold, a sentence each."""
    found = list(world.problems)
    if found:
        return found
    try:
        for check in (_answers, _counted, _once, _logs, _audited):
            found += check(world)
    except VeilscoreError as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def _answers(world: ScoreWorld) -> Iterator[str]:
    if len(world.answered) != REQUESTS:
        yield f"{len(world.answered)} of {REQUESTS} requests were answered"
    for ident, (firm, output, response) in world.answered.items():
        units = world.units[firm]
        step = int(steps_of(world.model).index(np.array([units], np.int64))[0])
        right = {
            "exact": response.units == units,
            "score": response.step == step,
            "band": response.band == world.model.band(units / world.model.scaling.units),
        }
        if response.status != "scored" or not right[output]:
            yield f"{ident}: {output} of {firm} is {response}"


def _counted(world: ScoreWorld) -> Iterator[str]:
    """What left was counted and logged before, once for each id; nothing is counted that nobody asked for."""
    for name in HOLDERS:
        with closing(ReleaseLedger(world.folder / name / LEDGER)) as ledger:
            counted = Counter(r.reference for r in ledger.releases(0) if r.kind == ONLINE)
        logged = {f"bank/{e['request']}" for e in campaign_checks.entries(world, name) if e["kind"] == "share_opened"}
        asked = {f"bank/{id_of(ident)}": ident for ident in world.asked}
        for of, n in counted.items():
            if n > 1 or of not in asked:
                yield f"{name}: {asked.get(of, of)} is counted {n} times"
        for holder, start, request in world.left:
            if holder == name and not {f"bank/{request}"} <= counted.keys() & logged:
                yield f"{name}: a part of {request} left in start {start}, uncounted or not logged"
        answered = {(firm, output) for firm, output, _ in world.answered.values()}
        opened = {
            of for ident, of in world.asked.items() if f"bank/{id_of(ident)}" in counted
        }  # the same again is free
        if not answered <= opened:
            yield f"{name}: an answer was never counted: {answered - opened}"
        if strange := logged - asked.keys():
            yield f"{name}: the log has openings that nobody asked for: {strange}"


def id_of(ident: str) -> str:
    """Return the id of a request at the holders."""
    return hashlib.sha256(f"veilscore/1 online score bank {ident}".encode()).hexdigest()[:32]


def _once(world: ScoreWorld) -> Iterator[str]:
    for use, n in Counter(SPENT).items():
        if n > 1:
            yield f"{use[0]} used a spare or the labels of a circuit {n} times"
    for (holder, start, request), parts in world.left.items():
        if len(parts) > 1:
            yield f"{holder} sent {len(parts)} different parts of {request} in start {start}"


def _logs(world: ScoreWorld) -> Iterator[str]:
    federation = load_federation(world.folder / "federation.yaml")
    keys = FederationKeys(lambda: federation)
    for name in NODES:
        verify_log(world.folder / name / FOLDER / LOG_FILE, keys, [])
    for ident in world.answered if "bank" not in world.lost_power else ():
        try:
            verify_receipt(online_receipt(world.folder / "bank", ident).to_bytes(), keys)
        except EvidenceError as error:
            yield f"{ident} has no receipt: {error}"


def _audited(world: ScoreWorld) -> Iterator[str]:
    """No honest bank is accused; what was answered is confirmed, unless a stop of the bank took what it kept."""
    answered = {id_of(ident) for ident in world.answered}
    for one in audit(world.folder):
        if one.verdict == "differs":
            yield f"the audit accuses the bank: {one}"
        if one.verdict == "cannot be audited" and world.starts["bank"] == 1 and one.job_id in answered:
            yield f"the bank never stopped, and the audit finds nothing: {one}"
