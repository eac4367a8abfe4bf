"""`veilscore audit` on a job that real nodes ran: sample, bundle, logs, exit codes."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from trial_federation import IMPATIENT, QUICK, commanding, running, submit
from typer.testing import CliRunner

from coordinator.service import Coordinator
from veilscore.cli import app
from veilscore.data.simulate import simulate
from veilscore.errors import ConfigError, EvidenceError, VeilscoreError
from veilscore.node.founding import DataFiles, found_federation
from veilscore.node.node import Node
from veilscore.v1 import control_pb2

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
JOB = """
name: firms
purpose: credit
task: train_scorecard
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
parameters: {max_bin: 4, disclosure: exact, max_openings: 4, columns: {bank: {include: [%s]}}}
"""


def veilscore(*words, exit_code=0):
    result = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "250", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished job of three nodes and a coordinator: folder of the federation, id of the job."""
    folder = tmp_path_factory.mktemp("audited")
    simulate(400, 3, folder / "data")
    trial = folder / "trial"
    found_federation(trial, PARTIES, data=DataFiles(folder / "data"), exact=True)
    column = (folder / "data" / "bank.csv").read_text().split("\n")[0].split(",")[-1]

    async def work():
        nodes = {name: Node(trial / name, limits=QUICK) for name in PARTIES}
        nodes["coordinator"] = Coordinator(trial / "coordinator", limits=QUICK, patience=IMPATIENT)
        async with running(nodes), commanding(trial / "bank") as command:
            job_id = await submit(command, JOB % column)
            ref = control_pb2.JobRef(job_id=job_id)
            async with asyncio.timeout(120):
                events = [e async for e in command.stream("coordinator", "WatchJob", ref, control_pb2.JobEvent)]
            return job_id, events

    job_id, events = asyncio.run(work())
    assert (trial / "bank" / "evidence" / "receipts" / f"{job_id}.json").is_file(), events[-1]
    return trial, job_id


@pytest.fixture
def bundle(trained, tmp_path):
    trial, job_id = trained
    out = tmp_path / "bundle"
    assert "decrypt" in veilscore("audit", "export", job_id, "--out", out, "--home", trial / "bank")
    return out


def test_a_sample_of_steps_is_confirmed_from_the_home_and_its_receipts(trained):
    trial, job_id = trained
    shown = veilscore("audit", "--bank", trial / "bank", "--sample", 1, "--seed", 7)
    assert "1 of 4 attempts drawn" in shown
    assert "differs" not in shown
    logs = ("--log", trial / "tax", "--log", trial / "registry")
    shown = veilscore("audit", "--bank", trial / "bank", "--sample", 0, *logs)
    assert shown.count("confirmed") == 4
    assert "tax, registry" in shown
    assert job_id in shown


def test_an_auditor_needs_the_bundle_and_public_keys_alone(trained, bundle):
    trial, job_id = trained
    assert bundle.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ConfigError, match="--keys"):
        veilscore("audit", "--bank", bundle)
    shown = veilscore("audit", "--bank", bundle, "--keys", trial / "tax" / "federation.yaml", "--sample", 0)
    assert shown.count("confirmed") == 4
    assert "--log to see them" in shown
    with pytest.raises(ConfigError, match="exists already"):
        veilscore("audit", "export", job_id, "--out", bundle, "--home", trial / "bank")


def test_the_log_of_the_bank_holds_each_commitment_before_its_step(trained):
    trial, _ = trained
    kinds = [
        (body["kind"], body["step"])
        for line in (trial / "bank" / "evidence" / "log.jsonl").read_bytes().splitlines()
        if line.startswith(b"E ") and (body := json.loads(line[2:])).get("step")
    ]
    assert kinds == [(kind, step) for step in ("align", "bin", "train", "evaluate") for kind in ("step_bound", "step")]


def test_a_changed_model_ends_with_an_error_that_names_the_bank(trained, bundle):
    trial, job_id = trained
    path = next((bundle / "jobs" / job_id / "audit" / "evaluate.1").rglob("model.json"))
    path.write_text(path.read_text().replace("600", "601"))
    keys = ("--keys", trial / "tax" / "federation.yaml")
    shown = veilscore("audit", "--bank", bundle, *keys, "--step", "evaluate", exit_code=1)
    assert "differs" in shown
    assert "model.json is not the file" in shown
    assert "confirmed" not in shown


def test_deleted_openings_end_with_an_error_that_says_so(trained, tmp_path):
    trial, job_id = trained
    home = tmp_path / "bank"
    shutil.copytree(trial / "bank", home)
    assert "cannot be audited any more" in veilscore("audit", "delete", job_id, "--home", home)
    shown = veilscore("audit", "--bank", home, "--keys", trial / "tax" / "federation.yaml", exit_code=1)
    assert "cannot be audited" in shown
    assert "confirmed" not in shown
    with pytest.raises(ConfigError, match="no openings"):
        veilscore("audit", "delete", job_id, "--home", home)


def test_receipts_and_logs_that_prove_nothing_are_refused(trained, bundle, tmp_path):
    trial, job_id = trained
    keys = ("--keys", trial / "tax" / "federation.yaml")
    receipt = bundle / "evidence" / "receipts" / f"{job_id}.json"
    changed = tmp_path / "receipt.json"
    changed.write_bytes(receipt.read_bytes().replace(b'attempt\\":1', b'attempt\\":2', 1))
    with pytest.raises(EvidenceError):
        veilscore("audit", "--bank", bundle, *keys, "--receipt", changed)
    log = tmp_path / "log.jsonl"
    log.write_bytes((trial / "tax" / "evidence" / "log.jsonl").read_bytes().replace(b'"attempt":1', b'"attempt":2', 1))
    with pytest.raises(EvidenceError):
        veilscore("audit", "--bank", bundle, *keys, "--log", log)
    with pytest.raises(EvidenceError, match="no receipt or log shows"):
        veilscore("audit", "--bank", bundle, *keys, "--step", "screen")
