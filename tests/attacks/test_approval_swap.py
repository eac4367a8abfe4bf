"""What was approved is swapped before it runs: job, data set, code or model. The node refuses the step.

Each attack has its control: without the swap the step begins, and with the approved thing back in its place too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from local_jobs import firms, job, nodes, write
from trial_federation import JOB, commanding, make_homes, open_trial, running

import veilscore
from veilscore.errors import JobError, RefusedError, StateError
from veilscore.files.digests import code_digest
from veilscore.files.store import JobStore
from veilscore.node.local import open_job
from veilscore.node.node import Node
from veilscore.release.binding import bound_now, check_bound
from veilscore.terms.job import new_job_id, parse_job
from veilscore.v1 import control_pb2

BATCH = json.dumps(
    json.loads(parse_job(JOB).canonical())
    | {"task": "score_batch", "parameters": {"model": "card", "on_missing": "missing_code"}}
)


@pytest.fixture
def home(tmp_path):
    """A tax bureau where a person approves, with data and its part of a model."""
    homes = make_homes(tmp_path, tax={"accept": "manual"})
    (homes / "tax" / "data.csv").write_text("uscc,turnover\n1,5\n")
    (homes / "tax" / "models" / "card").mkdir(parents=True)
    (homes / "tax" / "models" / "card" / "code_map.json").write_text('{"columns": []}')
    return homes


def approve_then(home, text, swap, step="align"):
    """Propose, approve as the steward does, swap, order the first step: its last event."""
    parsed = parse_job(text)
    job_id = new_job_id(parsed)

    async def work():
        trial = open_trial(home, "tax")
        async with running(trial), commanding(home / "coordinator") as command, commanding(home / "tax") as steward:
            proposal = control_pb2.JobProposal(job_id=job_id, job_yaml=text, job_sha256=parsed.sha256)
            answer = await command.call("tax", "Propose", proposal, control_pb2.Acceptance, timeout_s=5)
            assert answer.pending
            yes = control_pb2.Acceptance(job_id=job_id, accepted=True, reason="read and approved")
            answer = await steward.call("tax", "Decide", yes, control_pb2.Acceptance, timeout_s=5)
            assert answer.accepted
            swap(trial["tax"], job_id)
            order = control_pb2.StepOrder(job_id=job_id, step=step, attempt=1, deadline_s=0.5)
            events = [e async for e in command.stream("tax", "RunStep", order, control_pb2.StepEvent)]
            return events[-1].failed.message

    return asyncio.run(work())


def begun(message):
    """Whether the step began: it then waits in vain for the bank, which does not run here."""
    return "longer than" in message


def test_nothing_swapped_begins(home):
    assert begun(approve_then(home, JOB, lambda *_: None))
    assert begun(approve_then(home, BATCH, lambda *_: None))


def other_data(node, _job_id):
    (node.home / "data.csv").write_text("uscc,turnover\n1,6\n")


def other_file(node, _job_id):
    """The path of the data set leads elsewhere."""
    path = node.home / "data.csv"
    path.rename(node.home / "approved.csv")
    (node.home / "other.csv").write_text("uscc,turnover\n1,6\n")
    path.symlink_to(node.home / "other.csv")


def same_size_and_time(node, _job_id):
    """Another content under the old size and date of change."""
    path = node.home / "data.csv"
    before = path.stat()
    (node.home / "new.csv").write_text("uscc,turnover\n1,9\n")
    os.utime(node.home / "new.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    (node.home / "new.csv").replace(path)
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("swap", [other_data, other_file, same_size_and_time])
def test_data_set_swapped_after_approval(home, swap):
    with pytest.raises(RefusedError, match="data set version at tax changed since it accepted"):
        approve_then(home, JOB, swap)


def test_data_set_swapped_and_put_back(home):
    def there_and_back(node, job_id):
        content = (node.home / "data.csv").read_bytes()
        other_data(node, job_id)
        (node.home / "data.csv").write_bytes(content)

    assert begun(approve_then(home, JOB, there_and_back))


def test_model_swapped_after_approval(home):
    def swap(node, _job_id):
        (node.home / "models" / "card" / "code_map.json").write_text('{"columns": [1]}')

    with pytest.raises(RefusedError, match="model version at tax changed since it accepted"):
        approve_then(home, BATCH, swap)


def test_model_taken_away_or_added_after_approval(home):
    with pytest.raises(RefusedError, match="model version at tax changed"):
        approve_then(home, BATCH, lambda node, _: shutil.rmtree(node.home / "models" / "card"))
    with pytest.raises(RefusedError, match="model version at tax changed"):
        approve_then(
            home, BATCH, lambda node, _: JobStore(node.home / "models" / "card").save_json("code_map", {"columns": []})
        )


@pytest.mark.slow
def test_model_that_the_bank_trained_anew_after_approval(tmp_path):
    """Real batch: approved with the version of the first training, run with that of the second."""
    folder = write(tmp_path / "data", firms(300, seed=3))
    config = nodes(folder, holder_policy={"consent": "off"})
    open_job(job(holdout_fraction=0, max_openings=4), config, tmp_path).run()
    bank = tmp_path / "bank"
    first = json.loads((bank / "models" / "card" / "model.json").read_text())["sha256"]
    approved = job("score_batch", name="batch", model="card", on_missing="missing_code", model_sha256=first)
    open_job(approved, config, tmp_path).run()
    open_job(job(holdout_fraction=0, max_openings=5, C=0.5), config, tmp_path).run()
    assert json.loads((bank / "models" / "card" / "model.json").read_text())["sha256"] != first
    with pytest.raises(RefusedError, match="model version differs from the approved"):
        open_job(approved, config, tmp_path).run()


def test_code_swapped_after_approval(home, tmp_path):
    """One byte of the package: a node that starts with it does not run what was approved under the other."""
    package = tmp_path / "elsewhere" / "veilscore"
    shutil.copytree(Path(veilscore.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))

    def digest_there():
        command = [sys.executable, "-c", "from veilscore.files.digests import code_digest; print(code_digest())"]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(command, env=environment, cwd=package.parent, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert digest_there() == code_digest()
    path = package / "protocols" / "scoring.py"
    path.write_bytes(path.read_bytes().replace(b"% TURN", b"% TURN ", 1))
    swapped = digest_there()
    assert swapped != code_digest()

    node = Node(home / "tax")
    agreed = bound_now(node.home, node.config, parse_job(JOB)) | {"code": swapped}
    with pytest.raises(RefusedError, match="code at tax changed"):
        check_bound(agreed, bound_now(node.home, node.config, parse_job(JOB)), "tax")

    def accepted_under_other_code(node, job_id):
        entry = node.ledger.entry(job_id)
        node.ledger._save(type(entry)(**{**vars(entry), "bound": agreed}))

    with pytest.raises(RefusedError, match="code at tax changed since it accepted"):
        approve_then(home, JOB, accepted_under_other_code)


def test_job_swapped_after_approval(home):
    """The coordinator proposes other parameters under the approved id; somebody edits the node's own record."""
    other = JOB + "parameters: {firms: 64}\n"

    async def propose_other(node, job_id):
        async with commanding(home / "coordinator") as command:
            proposal = control_pb2.JobProposal(job_id=job_id, job_yaml=other, job_sha256=parse_job(other).sha256)
            with pytest.raises(JobError, match="does not belong to this job"):
                await command.call("tax", "Propose", proposal, control_pb2.Acceptance, timeout_s=5)

    seen = []

    def swap(node, job_id):
        seen.append((asyncio.get_running_loop().create_task(propose_other(node, job_id)), node, job_id))

    assert begun(approve_then(home, JOB, swap))
    task, node, job_id = seen[0]
    assert task.done()
    assert task.exception() is None
    assert node.ledger.entry(job_id).job == parse_job(JOB)

    path = home / "tax" / "state" / "jobs" / f"{job_id}.json"
    record = path.read_text()
    assert "firms" in record
    path.write_text(record.replace("credit", "cash"))
    with pytest.raises(StateError, match="is damaged"):
        Node(home / "tax")
