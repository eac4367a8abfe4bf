"""Models are filed at all parties when their job ends done, and only then; whoever is killed meanwhile files later."""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import time

import pytest
from local_jobs import firms, job, nodes, write
from trial_evidence import receipt_path
from trial_federation import (
    PARTIES,
    QUICK,
    commanding,
    make_homes,
    open_trial,
    running,
    show,
    submit,
    watch,
)
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, EvidenceError, JobError, PeerError, StateError
from veilscore.evidence.log import scan
from veilscore.models import versions
from veilscore.models.filed import load_model
from veilscore.models.versions import file_model, finish_switches, roll_back
from veilscore.node.local import open_job
from veilscore.node.node import Node
from veilscore.v1 import control_pb2 as pb


def stage(home, job_id, **files):
    folder = home / "jobs" / job_id / "models" / "m"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)


def in_use(home):
    """Content of the files in use, by name."""
    return {p.name: p.read_text() for p in (home / "models" / "m").iterdir() if p.is_file() and p.suffix == ".json"}


OLD, NEW = {"code_map": "old", "trees": "old"}, {"code_map": "new", "bands": "new"}
USED = {"old": {f"{k}.json": v for k, v in OLD.items()}, "new": {f"{k}.json": v for k, v in NEW.items()}}


class Killed(BaseException):
    """The process ends here."""


def killed_at(monkeypatch, moment, work):
    """Run `work` and end it before its n-th change of the disk; returns whether it was ended."""
    count = itertools.count()

    def guarded(real):
        def call(*arguments, **options):
            if next(count) == moment:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_atomically", "write_text", "private_folder", "sync_folder"):
            patch.setattr(versions, name, guarded(getattr(versions, name)))
        for name in ("rename", "unlink"):
            patch.setattr(versions.Path, name, guarded(getattr(versions.Path, name)))
        try:
            work()
        except Killed:
            return True
    return False


def test_a_party_killed_at_any_moment_of_the_filing_has_the_old_or_the_new_model_whole(tmp_path, monkeypatch):
    stage(tmp_path / "first", "job-1", **OLD)
    stage(tmp_path / "first", "job-2", **NEW)
    file_model(tmp_path / "first", "job-1", "m")
    seen = set()
    for moment in itertools.count():
        home = tmp_path / str(moment)
        shutil.copytree(tmp_path / "first", home)
        ended = killed_at(monkeypatch, moment, lambda home=home: file_model(home, "job-2", "m"))
        finish_switches(home)  # what a start does first
        found = next((name for name, files in USED.items() if in_use(home) == files), None)
        assert found is not None, (moment, in_use(home))
        seen.add(found)
        file_model(home, "job-2", "m")  # and then, since the job is done
        assert in_use(home) == USED["new"]
        assert {one.job_id: one.in_use for one in versions.versions(home, "m")} == {"job-1": False, "job-2": True}
        if not ended:
            break
        # killed once more while it goes on
        for again in sorted({0, moment // 3, moment // 2}):
            other = tmp_path / f"{moment}-{again}"
            shutil.copytree(tmp_path / "first", other)
            killed_at(monkeypatch, moment, lambda other=other: file_model(other, "job-2", "m"))
            killed_at(monkeypatch, again, lambda other=other: finish_switches(other))
            finish_switches(other)
            assert in_use(other) in USED.values()
    assert seen == {"old", "new"}
    assert moment > 10


def test_versions_go_back_and_forth_and_what_was_there_before_is_kept(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "code_map.json").write_text("made before versions were kept")
    for number, files in enumerate((OLD, NEW)):
        stage(tmp_path, f"job-{number}", **files)
        assert file_model(tmp_path, f"job-{number}", "m")
        time.sleep(0.01)
    assert not file_model(tmp_path, "job-9", "m")  # it made no model here
    assert roll_back(tmp_path, "m").job_id == "job-0"
    assert in_use(tmp_path) == USED["old"]
    assert roll_back(tmp_path, "m").job_id == "earlier"
    assert in_use(tmp_path) == {"code_map.json": "made before versions were kept"}
    with pytest.raises(ConfigError, match="no version before the one in use"):
        roll_back(tmp_path, "m")
    assert roll_back(tmp_path, "m", "job-1").job_id == "job-1"
    assert in_use(tmp_path) == USED["new"]
    for wrong in ("job", "x", "../job-1"):
        with pytest.raises(ConfigError, match="versions"):
            roll_back(tmp_path, "m", wrong)
    with pytest.raises(ConfigError, match="is no name"):
        roll_back(tmp_path, "../m")
    (tmp_path / "models/m/versions/switching").write_text("../../jobs")
    with pytest.raises(StateError, match="restore it from backup"):
        finish_switches(tmp_path)


# --- a job -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_that_fails_at_evaluate_changes_no_model_and_a_bank_that_went_back_scores_with_the_old(tmp_path):
    """Holders answer by the version whose code map the bank's model names, in the same columns or in others."""
    configs = nodes(write(tmp_path / "data", firms(420)), holder_policy={"consent": "off"})
    options = {"max_openings": 2, "holdout_fraction": 0.4}
    first = open_job(job("train_scorecard", name="card", **options), configs, tmp_path).run()
    paths = [
        tmp_path / party / "models" / "card" / file
        for party, file in (("bank", "model.json"), ("tax", "code_map.json"))
    ]
    before = [path.read_bytes() for path in paths]
    second = open_job(job("train_scorecard", name="card", max_bin=3, **options), configs, tmp_path)
    for step in second.job.steps[:-1]:
        second.step(step)

    def cut(sender, recipient, sequence, payload):
        return [] if recipient == "coordinator" else [payload]

    with pytest.raises(PeerError):
        second.step("evaluate", tamper=cut, timeout_s=1)
    assert [path.read_bytes() for path in paths] == before
    second.step("evaluate", 2)
    assert all(path.read_bytes() != old for path, old in zip(paths, before, strict=True))

    def scored():
        asked = job("score_batch", name="batch", model="card", on_missing="missing_code")
        run = open_job(asked, configs, tmp_path).run()
        return (run.stores["bank"].path / "scores.csv").read_text()

    newer = scored()
    roll_back(tmp_path / "bank", "card")
    assert paths[0].read_bytes() == before[0]
    older = scored()
    assert older != newer
    for holder in ("tax", "registry"):  # at a holder that went back too, it is the same
        roll_back(tmp_path / holder, "card")
    assert scored() == older
    assert (
        load_model(paths[0]).sha256.hex()
        == json.loads((first.stores["bank"].path / "model.json").read_text())["sha256"]
    )
    said = CliRunner().invoke(app, ["model", "versions", "card", "--home", str(tmp_path / "bank")])
    assert isinstance(said.exception, ConfigError)  # a home of this test has no node.yaml


# --- nodes -----------------------------------------------------------------------------------------------------------


def staged_nodes(folder):
    """Nodes whose toy job leaves a model in its folder when it begins, as a training does."""
    opened = open_trial(folder)
    for name in PARTIES:
        real = opened[name].evidence.job_answered

        def answered(entry, real=real, home=folder / name):
            real(entry)
            target = home / "jobs" / entry.job_id / "models" / entry.job.name
            target.mkdir(parents=True, exist_ok=True)
            (target / "code_map.json").write_text(entry.job_id)

        opened[name].evidence.job_answered = answered
    return opened


def filed(folder, name):
    path = folder / name / "models" / "toy" / "code_map.json"
    return path.read_text() if path.is_file() else None


def test_every_party_files_at_the_end_of_the_job_and_none_if_it_fails(tmp_path):
    make_homes(tmp_path)

    async def work():
        async with running(staged_nodes(tmp_path)), commanding(tmp_path / "bank") as command:
            (tmp_path / "tax" / "fault_score").write_text("data")
            wrong = await submit(command)
            assert (await watch(command, wrong))[-1].status == "failed"
            assert [filed(tmp_path, name) for name in PARTIES] == [None] * 3
            end = pb.JobEnd(job_id=wrong, done=True)
            good = await submit(command)
            assert (await watch(command, good))[-1].status == "done"
            assert [filed(tmp_path, name) for name in PARTIES] == [good] * 3
            assert (await show(command, good)).receipt == "kept"
            inbox = await command.call("bank", "Inbox", pb.Empty(), pb.JobList, timeout_s=5)
            assert {one.job_id: one.receipt for one in inbox.jobs} == {wrong: "", good: "kept"}
            async with commanding(
                tmp_path / "coordinator"
            ) as coordinator:  # it cannot make them file what they refused
                with pytest.raises(JobError, match="is not done at tax"):
                    await coordinator.call("tax", "EndJob", end, pb.Empty, timeout_s=5)
            assert filed(tmp_path, "tax") == good

    asyncio.run(work())


def test_a_party_that_is_down_at_the_end_files_when_it_starts_and_everybody_says_why_there_is_no_receipt(tmp_path):
    """Tax is stopped once all steps are done; the coordinator too, after it wrote that down."""
    make_homes(tmp_path)

    async def work():
        opened = staged_nodes(tmp_path)
        coordinator = opened["coordinator"]

        async def lost(job_id, _job):
            await opened["tax"].stop(0.1)
            raise EvidenceError("tax cannot be reached")

        coordinator.scheduler._cross_sign = lost
        async with running({name: opened[name] for name in ("bank", "registry", "coordinator")}):
            await opened["tax"].start()
            async with commanding(tmp_path / "bank") as command:
                job_id = await submit(command)
                events = await watch(command, job_id)
                assert events[-1].status == "done"
                assert any(e.status == "done" and "no receipt, because tax cannot be reached" in e.text for e in events)
                assert (await show(command, job_id)).receipt == "no receipt, because tax cannot be reached"
                assert [filed(tmp_path, name) for name in ("bank", "tax", "registry")] == [job_id, None, job_id]
                again = Node(tmp_path / "tax", limits=QUICK)
                async with running({"tax": again}):
                    assert filed(tmp_path, "tax") == job_id  # before it serves anybody
                    async with commanding(tmp_path / "tax") as tax:
                        inbox = await tax.call("tax", "Inbox", pb.Empty(), pb.JobList, timeout_s=5)
                        assert [one.receipt for one in inbox.jobs] == ["no receipt, because tax cannot be reached"]
                    assert not receipt_path(tmp_path, "tax", job_id).exists()
                size = (tmp_path / "tax/evidence/log.jsonl").stat().st_size
                async with running({"tax": Node(tmp_path / "tax", limits=QUICK)}):
                    await asyncio.sleep(0)
                assert b'"kind":"filed"' in (tmp_path / "tax/evidence/log.jsonl").read_bytes()
                assert (tmp_path / "tax/evidence/log.jsonl").stat().st_size == size  # filed once

    asyncio.run(work())


_LOOP = """
import sys
from pathlib import Path
from veilscore.models.versions import file_model, roll_back
home = Path(sys.argv[1])
file_model(home, "job-1", "m")
print("begun", flush=True)
while True:
    file_model(home, "job-2", "m")
    roll_back(home, "m", "job-1")
"""


@pytest.mark.slow
def test_a_rollback_is_in_the_log(tmp_path):
    homes = make_homes(tmp_path)

    def stage_of(job_id):
        folder = homes / "bank" / "jobs" / job_id / "models" / "m"
        folder.mkdir(parents=True)
        (folder / "code_map.json").write_text(job_id)

    async def scenario():
        nodes = open_trial(homes, "bank")
        async with running(nodes):
            for number in range(2):
                job_id = f"m-0000000{number}-0123456789abcdef"
                stage_of(job_id)
                file_model(homes / "bank", job_id, "m")
                nodes["bank"].evidence.noted("filed", job_id=job_id)
            await nodes["bank"].filing.note_switches()  # what was filed is no switch
            roll_back(homes / "bank", "m")
            await nodes["bank"].filing.note_switches()
        roll_back(homes / "bank", "m", "m-00000001")  # the node is down: its next start notices
        async with running(open_trial(homes, "bank")):
            pass

    asyncio.run(scenario())
    entries = []
    scan(homes / "bank" / "evidence" / "log.jsonl", visit=lambda _, entry: entries.append(json.loads(entry)))
    found = [(e["model"], e["job_id"][:10], e["before"][:10]) for e in entries if e["kind"] == "in_use"]
    assert found == [("m", "m-00000000", "m-00000001"), ("m", "m-00000001", "m-00000000")]


def test_what_a_screening_kept_is_filed_at_the_end_of_the_job_alone(tmp_path):
    """One party fails at its end of the step: nobody's kept columns of the earlier screening are replaced."""
    folder = write(tmp_path / "data", firms(320, seed=7))

    def kept(run):
        return {p: run.stores[p].path.parents[1] / "screenings" / "wide" / "kept.json" for p in run.job.parties}

    first = open_job(job("screen_features", name="wide"), nodes(folder), tmp_path, keep=True).run()
    before = {party: path.read_text() for party, path in kept(first).items()}
    again = open_job(job("screen_features", name="wide", max_columns=1), nodes(folder), tmp_path, keep=True)
    again.step("align")
    (again.stores["tax"].path / "screenings").write_text("no folder")
    with pytest.raises(OSError, match="screenings"):
        again.step("screen")
    assert {party: path.read_text() for party, path in kept(again).items()} == before
    done = open_job(job("screen_features", name="wide", max_columns=1), nodes(folder), tmp_path, keep=True).run()
    assert all(path.read_text() != before[party] for party, path in kept(done).items())


@pytest.mark.slow
def test_a_process_killed_while_it_files_leaves_one_version_whole(tmp_path):
    stage(tmp_path, "job-1", **OLD)
    stage(tmp_path, "job-2", **NEW)
    seen = set()
    for number in range(12):
        process = subprocess.Popen([sys.executable, "-c", _LOOP, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"begun\n"
        time.sleep(0.003 * number)
        process.kill()
        process.wait()
        process.stdout.close()
        finish_switches(tmp_path)
        assert in_use(tmp_path) in USED.values()
        seen.add(in_use(tmp_path)["code_map.json"])
    assert seen == {"old", "new"}
