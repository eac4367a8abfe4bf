"""A trained model in the homes of a trial federation, and real nodes on them, for tests of online scoring."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import shutil
from typing import TYPE_CHECKING, Any

import yaml
from consent_issuer import ISSUERS, OFTEN, give_list, token_bytes

from coordinator.service import Coordinator
from veilscore.data.simulate import simulate
from veilscore.evidence.job_ledger import Ledger
from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import load_identity
from veilscore.models.filed import load_model
from veilscore.node.founding import DataFiles, found_federation
from veilscore.node.local import open_job
from veilscore.node.node import Node
from veilscore.terms.federation import load_federation
from veilscore.terms.job import Job, parse_job
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.inbox import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
QUICK = WireLimits(retry_s=5, receive_timeout_s=10, deliver_timeout_s=5, connect_timeout_s=2)

TRAIN = """
name: firms
purpose: credit
task: train_scorecard
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
parameters: {max_bin: 5, max_openings: 6, bands: {low: 0, middle: 550, high: 600}}
"""
BATCH = """
name: batch
purpose: credit
task: score_batch
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
parameters: {model: firms, on_missing: missing_code}
"""


def train(folder: Path, n_firms: int = 1800) -> Path:
    """Homes under `folder` whose nodes have trained model "firms" together, as nodes would have left them."""
    simulate(n_firms, 7, folder / "data")
    found_federation(folder, PARTIES, data=DataFiles(folder / "data"), exact=True)
    for party in PARTIES:
        portal = load_node_config(folder / party).policy.consent_issuers
        set_policy(folder, party, disclose_unknown=True, consent_issuers=ISSUERS | portal, release=OFTEN)
    give_list(folder / "bank", rows(folder, "bank"))
    run_locally(folder, TRAIN)
    return folder


def run_locally(folder: Path, text: str) -> tuple[Job, str]:
    job = parse_job(text)
    run = open_job(job, {p: load_node_config(folder / p) for p in PARTIES}, folder).run()
    for party in PARTIES:
        Ledger(folder / party / "state" / "jobs").add(run.job_id, job, "accepted", "")
    return job, run.job_id


def batch_units(folder: Path) -> dict[str, int]:
    """Units of every firm of the bank by a batch job."""
    _, job_id = run_locally(folder, BATCH)
    with (folder / "bank" / "jobs" / job_id / "scores.csv").open() as file:
        units = load_model(folder / "bank" / "models" / "firms" / "model.json").scaling.units
        return {row["id"]: round(units * float(row["score"])) for row in csv.DictReader(file)}


def copy_of(folder: Path, target: Path) -> Path:
    """Copy of trained homes; its data sets are its own."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
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


async def score(command: Fabric, request_id: str, firm_id: str, **fields: Any) -> pb.ScoreResponse:
    fields = {"model": "firms", "timeout_s": 10.0, "output": "exact"} | fields
    fields.setdefault("consent", token_bytes(firm_id))
    request = pb.ScoreRequest(request_id=request_id, firm_id=firm_id, **fields)
    return await command.call("bank", "Score", request, pb.ScoreResponse, timeout_s=fields["timeout_s"] + 2)


def rows(folder: Path, party: str) -> dict[str, dict[str, str]]:
    """A party's data set by id."""
    with (folder / "data" / f"{party}.csv").open() as file:
        return {row["uscc"]: row for row in csv.DictReader(file)}
