"""A trained model in the homes of a trial federation, and real nodes on them, for tests of online scoring."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING, Any

import yaml
from consent_issuer import ISSUERS, OFTEN, give_list, token_bytes
from finished_jobs import finished
from structlog.testing import capture_logs

from coordinator.service import Coordinator
from veilscore.data.simulate import simulate
from veilscore.evidence.job_ledger import Ledger
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.models.filed import load_model
from veilscore.node.founding import DataFiles, found_federation, free_ports
from veilscore.node.local import open_job
from veilscore.node.node import Node
from veilscore.online import stock as online_stock
from veilscore.terms.charter import signed
from veilscore.terms.federation import load_federation, save_federation
from veilscore.terms.job import Job, parse_job
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.inbox import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
ADDRESS = re.compile(r"(address: 127\.0\.0\.1):\d+")
QUICK = WireLimits(retry_s=5, receive_timeout_s=10, deliver_timeout_s=5, connect_timeout_s=2)
USUAL_SPARES, FEW_SPARES = online_stock.SPARES, 2  # nodes would make the usual number while a test waits

_HEAD = """
purpose: credit
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
"""
TRAIN = f"""{_HEAD}
name: firms
task: train_scorecard
parameters: {{max_bin: 5, disclosure: exact, max_openings: 6, bands: {{low: 0, middle: 550, high: 600}}}}
"""
BATCH = f"""{_HEAD}
name: batch
task: score_batch
parameters: {{model: firms, on_missing: missing_code}}
"""
EXACT = BATCH.replace("parameters: {", "parameters: {output: exact, ")
_BANDS = "{" + ", ".join(f"from {k}: {k}" for k in range(540, 600)) + "}"
BOOST = f"{{disclosure: exact, max_bin: 8, n_estimators: 4, max_depth: 3, bands: {_BANDS}}}"
PRIVATE = (
    f"{{disclosure: private, despite_noise: true, holdout_scores: false, max_bin: 8, n_estimators: 6, bands: {_BANDS}}}"
)
STACK = (
    f"{{disclosure: exact, max_bin: 8, folds: 2, scorecard: {{max_openings: 8}}, bands: {_BANDS},"
    " boosting: {n_estimators: 3, max_depth: 2, min_leaf_rows: 10}}"
)


def train(folder: Path) -> None:
    """Make homes under `folder` whose nodes have trained model "firms" together, as nodes would have left them."""
    simulate(1800, 7, folder / "data")
    found_federation(folder, PARTIES, data=DataFiles(folder / "data"), exact=True)
    for party in PARTIES:
        portal = load_node_config(folder / party).policy.consent_issuers
        set_policy(folder, party, disclose_unknown=True, consent_issuers=ISSUERS | portal, release=OFTEN)
    give_list(folder / "bank", rows(folder, "bank"))
    run_locally(folder, TRAIN)


def score_all(folder: Path) -> None:
    """Make the same, and a batch of exact scores of all firms of the bank."""
    run_locally(copy_of(finished(train), folder), EXACT)


def band_all(folder: Path) -> None:
    """Make the same, and a batch of bands instead."""
    run_locally(copy_of(finished(train), folder), BATCH.replace("parameters: {", "parameters: {output: band, "))


def train_trees(folder: Path, task: str = "train_boosting", parameters: str = BOOST) -> None:
    """Make the same, and model "trees"."""
    copy_of(finished(train), folder)
    for party in PARTIES:
        set_policy(folder, party, allow_order=True)
    run_locally(folder, f"{_HEAD}name: trees\ntask: {task}\nparameters: {parameters}\n")


def score_trees(folder: Path, *asked: str) -> None:
    """Make the same, and a batch of exact scores of all firms by model "trees"."""
    run_locally(copy_of(finished(train_trees, *asked), folder), EXACT.replace("firms", "trees"))


def run_locally(folder: Path, text: str) -> tuple[Job, str]:
    job = parse_job(text)
    run = open_job(job, {p: load_node_config(folder / p) for p in PARTIES}, folder).run()
    for party in PARTIES:
        Ledger(folder / party / "state" / "jobs").add(run.job_id, job, "accepted", "")
    return job, run.job_id


def batch_units(folder: Path) -> dict[str, int]:
    """Units of every firm of the bank by a batch job that is run now."""
    _, job_id = run_locally(folder, EXACT)
    return units_of(folder, load_model(folder / "bank" / "models" / "firms" / "model.json"), job_id)


def units_of(folder: Path, model: Any, job: str = "batch-*") -> dict[str, int]:
    """Units of every firm of the bank by a batch job of this model that was run."""
    return {firm: round(model.scaling.units * float(row["score"])) for firm, row in batch_of(folder, job).items()}


def batch_of(folder: Path, job: str = "batch-*") -> dict[str, dict[str, str]]:
    """What a batch job gave the bank, by firm."""
    (path,) = (folder / "bank" / "jobs").glob(f"{job}/scores.csv")
    with path.open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def copy_of(folder: Path, target: Path) -> Path:
    """Copy of trained homes; its data sets, ports and consents, which last an hour, are its own."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    ports = free_ports(len(PARTIES) + 1)
    nodes = [load_identity(target / name / "identity") for name in ("coordinator", *PARTIES)]
    for path in (target / "federation.yaml", *target.glob("*/federation.yaml")):
        left = iter(ports)
        path.write_text(ADDRESS.sub(lambda found: f"{found[1]}:{next(left)}", path.read_text()))  # noqa: B023
        save_federation(reduce(signed, nodes, load_federation(path)), path)  # as nodes at these addresses
    give_list(target / "bank", rows(target, "bank"))
    for party in PARTIES:
        path = target / party / "node.yaml"
        content = yaml.safe_load(path.read_text())
        content["datasets"]["main"]["path"] = str(target / "data" / f"{party}.csv")
        path.write_text(yaml.safe_dump(content))
    return target


def set_policy(folder: Path, party: str, **changes: Any) -> None:
    path = folder / party / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["policy"] |= changes
    path.write_text(yaml.safe_dump(content))


def open_node(folder: Path, name: str) -> Node | Coordinator:
    return (Coordinator if name == "coordinator" else Node)(folder / name, limits=QUICK)


@contextlib.asynccontextmanager
async def scoring(folder: Path, *names: str) -> AsyncIterator[Fabric]:
    """Run these nodes (default: all) and give a connection with the bank's own identity."""
    nodes = [open_node(folder, name) for name in names or (*PARTIES, "coordinator")]
    kept = online_stock.SPARES
    if kept == USUAL_SPARES:  # a test that sets another number is about it
        online_stock.SPARES = FEW_SPARES
    command = Fabric(
        load_identity(folder / "bank" / "identity"),
        load_federation(folder / "federation.yaml"),
        accept_session=lambda _s, _p: False,
    )
    try:
        for node in nodes:
            await node.start()
        yield command
    finally:
        await command.stop(0.1)
        await asyncio.gather(*(node.stop(0.1) for node in nodes))
        online_stock.SPARES = kept


@contextlib.contextmanager
def served(folder: Path) -> Iterator[None]:
    """Run all nodes in a thread, for commands that this thread gives; they log nothing between what commands print."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    async def work() -> None:
        try:
            async with scoring(folder):
                ready.set()
                await stop.wait()
        finally:
            ready.set()

    with ThreadPoolExecutor(1) as pool, capture_logs():
        done = pool.submit(loop.run_until_complete, work())
        ready.wait()
        try:
            yield
        finally:
            if not done.done():
                loop.call_soon_threadsafe(stop.set)
            done.result(60)
    loop.close()


async def score(command: Fabric, request_id: str, firm_id: str, **fields: Any) -> pb.ScoreResponse:
    fields = {"model": "firms", "timeout_s": 10.0, "output": "exact"} | fields
    fields.setdefault("consent", token_bytes(firm_id))
    request = pb.ScoreRequest(request_id=request_id, firm_id=firm_id, **fields)
    return await command.call("bank", "Score", request, pb.ScoreResponse, timeout_s=fields["timeout_s"] + 2)


def rows(folder: Path, party: str) -> dict[str, dict[str, str]]:
    """A party's data set by id."""
    with (folder / "data" / f"{party}.csv").open() as file:
        return {row["uscc"]: row for row in csv.DictReader(file)}


def known_to_all(folder: Path) -> list[str]:
    """Firms that every party has."""
    tax, registry = rows(folder, "tax"), rows(folder, "registry")
    return [firm for firm in rows(folder, "bank") if firm in tax and firm in registry]
