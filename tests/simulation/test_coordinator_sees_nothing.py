"""Reads every byte that a coordinator received during a real job, and everything it wrote, and looks for data."""

from __future__ import annotations

import asyncio
import csv

import numpy as np
import pytest
import yaml
from chances import uniform
from process_federation import JOB, federation, make_real_homes
from trial_federation import commanding, running, show, submit, watch

from coordinator.service import Coordinator
from veilscore.fabric import fabric as fabric_module
from veilscore.files.store import JobStore
from veilscore.models.filed import load_model
from veilscore.v1 import wire_pb2
from veilscore.wire.framing import kind_of
from veilscore.wire.inbox import Inbox

PARTIES = ("bank", "tax", "registry")
MESSAGES = {"BatchBankRound0", "BatchHolderPartial"}
CONTROL = {
    "KeyStatements",
    "EvidenceReply",  # digests and signatures of logs
    "EvidenceCall",
    "Hello",
    "HelloReply",
    "SubmitJob",
    "JobRef",
    "Acceptance",
    "StepEvent",
    "Empty",
    "Ack",
}
REPLIES_TO_THE_COMMAND = {"JobInfo", "JobEvent"}  # made by the coordinator; the command runs in this process too


class Recorder:
    """Everything that comes in from other processes: control messages and protocol messages."""

    def __init__(self, monkeypatch):
        self.control: list[tuple[str, bytes]] = []
        self.messages: list[bytes] = []
        parse, put = fabric_module.parse, Inbox.put

        def recording_parse(kind, data, sender):
            self.control.append((kind.__name__, bytes(data)))
            return parse(kind, data, sender)

        def recording_put(inbox, header, payload):
            self.messages.append(bytes(payload))
            return put(inbox, header, payload)

        monkeypatch.setattr(fabric_module, "parse", recording_parse)
        monkeypatch.setattr(Inbox, "put", recording_put)


def run_job(folder):
    async def scenario():
        make_real_homes(folder)
        coordinator = Coordinator(folder / "coordinator")
        async with (
            federation(folder, *PARTIES),
            running({"coordinator": coordinator}),
            commanding(folder / "bank") as command,
        ):
            job_id = await submit(command, yaml.safe_dump(JOB))
            await watch(command, job_id)
            return await show(command, job_id)

    return asyncio.run(scenario())


def secrets_of(folder):
    """Ids and feature names of all parties."""
    found = set()
    for party in PARTIES:
        with (folder / "data" / f"{party}.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        found |= {row[0] for row in rows[1:]} | set(rows[0][2:] if party == "bank" else rows[0][1:])
    return {text.encode() for text in found}


@pytest.mark.slow
@pytest.mark.federation
def test_coordinator_sees_no_data(tmp_path, monkeypatch):
    recorder = Recorder(monkeypatch)
    info = run_job(tmp_path)
    assert info.status == "done", info.error

    kinds = {kind_of(m) for m in recorder.messages}
    assert kinds == MESSAGES
    control = {kind for kind, _ in recorder.control} - {"Header", "Chunk"}
    assert control <= CONTROL | REPLIES_TO_THE_COMMAND

    written = [p for p in (tmp_path / "coordinator").rglob("*") if p.is_file() and "identity" not in p.parts]
    assert any(p.name == "coordinator.db" for p in written)
    everything = b"\0".join([*(d for _, d in recorder.control), *recorder.messages, *(p.read_bytes() for p in written)])
    secrets = secrets_of(tmp_path)
    assert len(secrets) > 2000
    assert not [s for s in secrets if s in everything]
    for part in load_model(tmp_path / "bank" / "models" / "small" / "model.json").parts:
        assert bytes.fromhex(part.map_sha256) not in everything
        assert not [column.name for column in part.columns if column.name.encode() in everything]

    check_partials_are_uniform(recorder.messages, JobStore(tmp_path / "bank" / "jobs" / info.job_id))


def check_partials_are_uniform(messages, store):
    """Each holder's partials look like draws from the ring, and like nothing of the scores."""
    units = store.load_arrays("holdout")["units"].astype(float)
    partials = []
    for message in messages:
        body = wire_pb2.Body.FromString(message)
        if body.WhichOneof("kind") == "batch_holder_partial":
            partials.append(np.frombuffer(body.batch_holder_partial.data, "<u8").astype(float))
    assert len(partials) == 2
    for values in partials:
        assert values.size == units.size
        assert uniform(values, 2**24)
        assert abs(np.corrcoef(values, units)[0, 1]) < 6 / np.sqrt(units.size)
