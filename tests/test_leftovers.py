"""What a crash left is finished when a node starts again."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

from trial_federation import make_homes, toy_job

from veilscore.evidence.job_ledger import Ledger
from veilscore.files.unfinished import remove_unfinished
from veilscore.node.leftovers import settle
from veilscore.release.account import FILE, Account, held_jobs
from veilscore.terms.job import new_job_id
from veilscore.terms.privacy import PrivacyRules


def test_temporary_files_of_writes_that_were_cut_off_go(tmp_path):
    places = ("state/jobs/.a.part", "evidence/heads/.b.part", "models/m/.old.part", "models/m/.new.part")
    kept = ("state/jobs/a.json", "models/m/model.json", "state/.keep", "jobs/j/x.part")
    for place in (*places, *kept):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    long_ago = time.time() - 7200
    os.utime(tmp_path / "models/m/.old.part", (long_ago, long_ago))
    removed = {path.relative_to(tmp_path).as_posix() for path in remove_unfinished(tmp_path)}
    assert removed == set(places[:3])  # the last may be written by a command at this moment
    assert all((tmp_path / place).exists() for place in (*kept, places[3]))


def test_answers_are_logged_and_money_comes_back(tmp_path):
    home = make_homes(tmp_path) / "tax"
    ledger, account = Ledger(home / "state" / "jobs"), Account(home / FILE, "main", "bank", PrivacyRules())
    job = toy_job()
    running, over, unknown = new_job_id(job), new_job_id(job), new_job_id(job)
    ledger.add(running, job, "accepted", "")
    ledger.add(over, job, "cancelled", "")
    for job_id in (running, over, unknown):
        account.hold(job_id, 0.01)
    logged = []
    in_log = {running: "pending", over: "cancelled"}
    evidence = SimpleNamespace(answer_to=in_log.get, job_answered=lambda entry: logged.append(entry.job_id))
    settle(home, ledger, evidence, lambda _: False)
    assert logged == [running]
    assert held_jobs(home / FILE) == {running}


def test_folders_that_are_linked_into_a_home_are_left_alone(tmp_path):
    shared = tmp_path / "shared"
    for folder in (shared, tmp_path / "home"):
        folder.mkdir()
    (shared / ".download.part").write_text("")
    os.utime(shared / ".download.part", (1, 1))
    (tmp_path / "home" / "data").symlink_to(shared)
    assert not remove_unfinished(tmp_path / "home")
    assert (shared / ".download.part").exists()
