"""The command: set-up, plan, a whole job on real processes, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
import yaml
from trial_federation import SCORECARD
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.cli.node import open_node
from veilscore.errors import ConfigError, JobError, VeilscoreError
from veilscore.fabric.process import running_pid, serve
from veilscore.terms.federation import load_federation

runner = CliRunner()
WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def veilscore(*arguments, exit_code=0):
    """Run in this process; errors of the tree come out as they are."""
    result = runner.invoke(app, [str(a) for a in arguments], env=WIDE)
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result.output


@pytest.fixture
def trial(tmp_path):
    veilscore("simulate", tmp_path / "data", "--firms", 2000, "--seed", 5)
    parties = ("--party", "bank:bank", "--party", "tax:holder", "--party", "registry:holder")
    veilscore("init", tmp_path / "trial", "--data", tmp_path / "data", "--exact", *parties)
    return tmp_path / "trial"


@pytest.fixture
def careless_shell():
    """Files are made for everybody, unless whoever makes them says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(SCORECARD + "parameters: {max_bin: 5, disclosure: exact}\n")
    return path


def until_pending(home):
    """Wait until a job that was submitted has been proposed to this party."""
    for _ in range(100):
        if "pending" in veilscore("job", "inbox", "--home", home):
            return
        time.sleep(0.05)
    pytest.fail("no job waits")


def asks_a_person(home):
    """From its next start on this party has somebody decide on each job."""
    config = yaml.safe_load((home / "node.yaml").read_text())
    config["policy"]["accept"] = "manual"
    (home / "node.yaml").write_text(yaml.safe_dump(config))


def approval_and_a_failed_job(trial, job):
    data = trial.parent / "data" / "bank.csv"
    data.rename(data.with_name("moved.csv"))
    assert "submitted" in veilscore("job", "run", job, "--federation", trial, "--detach")
    until_pending(trial / "tax")
    (waiting,) = re.findall(r"toy-\w+-\w+(?=.*pending)", veilscore("job", "inbox", "--home", trial / "tax"))
    assert "accepted" in veilscore("job", "approve", waiting, "--home", trial / "tax", "--reason", "looked at it")
    text = veilscore("job", "watch", waiting, "--home", trial / "bank", exit_code=1)
    assert "step align failed at bank" in text
    assert "not told to others" in text
    assert "bank.csv" in text
    assert "looked at it" in veilscore("job", "show", waiting, "--home", trial / "bank")
    veilscore("job", "run", job, "--federation", trial, "--detach")
    until_pending(trial / "tax")
    with pytest.raises(JobError, match="jobs here whose id begins with 'toy'"):
        veilscore("job", "reject", "toy", "--home", trial / "tax")


@pytest.mark.slow
@pytest.mark.federation
def test_a_whole_job_and_one_that_waits_for_approval_and_fails(careless_shell, trial, job):
    try:
        text = veilscore("up", trial)
        assert all(name in text for name in ("coordinator", "bank", "tax", "registry"))
        assert len({running_pid(trial / n) for n in ("coordinator", "bank", "tax", "registry")}) == 4
        text = veilscore("job", "run", job, "--federation", trial)
        assert "job done" in text
        assert "train bank: done" in text
        assert "toy-" in veilscore("job", "list", "--home", trial / "bank")
        text = veilscore("job", "show", "--home", trial / "bank")
        assert "evaluate" in text
        assert "accepted by policy" in text
        assert "job done" in veilscore("job", "watch", "toy", "--federation", trial)
        assert "accepted" in veilscore("job", "inbox", "--home", trial / "tax")
        assert "answers" in veilscore("node", "status", trial / "tax")
        assert "tax answers: healthy" in veilscore("node", "health", trial / "tax")
        with pytest.raises(JobError, match="is done; it cannot become cancelled"):
            veilscore("job", "cancel", "toy", "--home", trial / "bank")
        with pytest.raises(JobError, match="only an unfinished or failed job"):
            veilscore("job", "resume", "--home", trial / "bank")
        with pytest.raises(JobError, match="no job whose id begins with 'other'"):
            veilscore("job", "show", "other", "--home", trial / "bank")
        assert "stopped" in veilscore("node", "stop", trial / "tax")
        said = json.loads(veilscore("node", "health", trial / "tax", "--json", exit_code=1))
        assert (said["healthy"], said["answer"]) == (False, "does not run")
        assert "The node does not run: start it with `veilscore node start`." in said["look_at"]
        asks_a_person(trial / "tax")
        assert "process" in veilscore("node", "start", trial / "tax", "--detach")
        approval_and_a_failed_job(trial, job)
    finally:
        text = veilscore("down", trial)
    assert "stopped: coordinator, bank, tax, registry" in text
    assert "no node was running" in veilscore("down", trial)
    # a data set that the bank kept for an auditor is a link to the bank's own file
    made = [path for path in trial.rglob("*") if path.is_dir() or path.stat().st_nlink == 1]
    assert {path.name for path in made} >= {"node.yaml", "node.log", "console.log", "node.pid", "log", "model.json"}
    assert [str(p.relative_to(trial)) for p in (trial, *made) if p.stat().st_mode & 0o077] == []


def test_a_home_that_others_can_enter_is_not_served(trial):
    (trial / "tax").chmod(0o750)
    with pytest.raises(ConfigError, match=r"has mode 0750.*run `chmod -R go-rwx .*tax`"):
        serve(trial / "tax", open_node)


def test_plan(trial, job):
    text = veilscore("job", "plan", job, "--federation", trial)
    assert "accepted: by its policy" in text
    assert "holder, lead" in text
    assert "Who learns what" in text
    assert "evaluate" in text
    text = veilscore("job", "plan", job)
    assert "its policy decides when the job is submitted" in text
    with pytest.raises(ConfigError, match="PARTY=ROWS"):
        veilscore("job", "plan", job, "--rows", "many")


def test_federation_made_by_hand(tmp_path):
    """What separate organisations do: each makes an identity, one adds the certificates."""
    ends = {"bank": "bank", "tax": "holder", "hub": "coordinator", "ann": "operator"}
    path = tmp_path / "federation.yaml"
    for number, (name, role) in enumerate(ends.items()):
        text = veilscore("identity", "create", tmp_path / name, "--name", name, "--role", role)
        assert "fingerprint" in text
        address = [] if role == "operator" else ["--address", f"127.0.0.1:{7100 + number}"]
        text = veilscore("federation", "add", path, tmp_path / name / "identity" / "certificate.pem", *address)
    federation = load_federation(path)
    assert {m.name: m.role for m in federation.members} == ends
    assert not path.with_name("federation.yaml.draft").exists()
    assert federation.member("tax").fingerprint in veilscore("federation", "check", path)
    assert federation.member("tax").fingerprint in veilscore("identity", "show", tmp_path / "tax")
    assert (tmp_path / "tax" / "node.yaml").is_file()
    with pytest.raises(ConfigError, match="commands nodes and runs none"):
        open_node(tmp_path / "ann")
    with pytest.raises(ConfigError, match="two members are called tax"):
        veilscore("federation", "add", path, tmp_path / "tax" / "identity" / "certificate.pem", "--address", "h:1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("up", "nothing"), "has no federation.yaml"),
        (("node", "start", "nothing"), "no such home"),
        (("node", "start", "nothing", "--detach"), "is no node's home"),
        (("job", "run", "nothing.yaml"), "job file not found"),
        (("job", "list", "--home", "nothing"), "is no node's home"),
        (("job", "list", "--home", "a", "--federation", "b"), "not both"),
        (("init", "x", "--party", "tax:holder"), "at least one bank"),
        (("init", "x", "--party", "bank:bank", "--party", "tax:judge"), "role 'judge' is unknown"),
        (("init", "x", "--party", "bank:bank", "--party", "bank:holder"), "stands twice"),
        (("init", "x", "--party", "bank:bank", "--data", "none"), "data folder not found"),
        (("federation", "add", "f.yaml", "none.pem"), "cannot be read"),
        (("identity", "show", "none"), "no identity in"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VeilscoreError) as caught:
        veilscore(*arguments)
    assert words in str(caught.value)


def test_errors_are_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "veilscore", "job", "run", "nothing.yaml"]
    environment = {**os.environ, **WIDE}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "job file not found: nothing.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ConfigError: ")
    command.insert(3, "--debug")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("package", "home", "words"),
    [("party_tax", "bank", "is the home of a bank; party_tax runs a holder"), ("coordinator", "none", "not found")],
)
def test_entry_points_of_the_parties(tmp_path, package, home, words):
    veilscore("init", tmp_path / "trial", "--party", "bank:bank", "--party", "tax:holder")
    command = [sys.executable, "-m", package, "--home", str(tmp_path / "trial" / home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
