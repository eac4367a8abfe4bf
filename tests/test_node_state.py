"""A node's state files that were lost or put back from an older copy: noticed at start, and the way out."""

import asyncio
import contextlib
import shutil
import sqlite3
import time

import pytest
from trial_evidence import log_path, run_jobs
from trial_federation import QUICK
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import EvidenceError, JobError, RefusedError, StateError
from veilscore.evidence.facts import policy_digest
from veilscore.evidence.job_ledger import Ledger
from veilscore.files.journal import Journal
from veilscore.node.node import Node
from veilscore.node.state import mend
from veilscore.release.account import FILE, Account
from veilscore.release.consent import issue_revocations
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.ledger import BATCH, ONLINE, Release, ReleaseLedger
from veilscore.terms.privacy import PrivacyRules
from veilscore.v1.control_pb2 import JobProposal
from veilscore.wire.protocol import Charge

MINUTES_AGO_MS = 600_000


def start(home, act=lambda node: None):
    """Start the node of a home, let `act` use it, and stop it."""

    async def work():
        node = Node(home, limits=QUICK)
        try:
            await node.start()
            act(node)
        finally:
            await node.stop(0.1)

    asyncio.run(work())


def account(home):
    return Account(home / FILE, "main", "bank", PrivacyRules())


def release_two(home):
    """Count two single firms and a batch, as a node does before anything leaves."""
    with contextlib.closing(ReleaseLedger(home / "state" / "release.db")) as ledger:
        for number in (1, 2):
            ledger.add(Release(ONLINE, "bank", f"bank/r{number}", "aa", "bb", ledger.firms([f"f{number}"])))
        ledger.add(Release(BATCH, "bank", "bank/job/score/1", "aa", "bb", ledger.firms(["f1", "f2"])), ("portal", "t"))


def revoke(home, *ids):
    issuer = Issuer.load(home.parent / "portal")
    signed = issue_revocations(issuer._key, "portal", ids)
    import_consent(home, signed, "revocations", f"portal-{len(ids)}")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A holder's home after a job, a charge, single firms and a batch."""
    folder = tmp_path_factory.mktemp("state")
    run_jobs(folder)
    home = folder / "tax"
    Issuer.create(folder / "portal", "portal")
    revoke(home, "0a")

    def work(node):
        charge = Charge("cells", "train", 0.04)
        account(home).spend("job/bin/1", charge)
        node.evidence.opening_charged("job/bin/1", "main", "bank", charge)
        account(home).void("exact")
        release_two(home)
        opened = {"kind": "share_opened", "bank": "bank", "policy": policy_digest(node.config)}
        now_ms = int(time.time() * 1000)
        with contextlib.closing(Journal(home / "state" / "online.db")) as journal:
            for number in (1, 2):
                at = {"request": f"r{number}", "time_ms": now_ms - MINUTES_AGO_MS}
                node.evidence.log.append([opened | at])
                journal.keep(f"bank/r{number}", b"asked", b"answer")
        revoke(home, "0a", "0b")

    start(home, work)
    return home


@pytest.fixture
def home(first, tmp_path):
    shutil.copytree(first.parent, tmp_path / "all")
    return tmp_path / "all" / "tax"


def test_what_is_whole_starts_again_and_again(home):
    start(home)
    size = log_path(home.parent, "tax").stat().st_size
    start(home)
    assert log_path(home.parent, "tax").stat().st_size == size  # nothing new, nothing logged
    assert mend(home) == []


def delete(home, name):
    for path in (home / "state").glob(f"{name}*"):
        path.unlink()


def without(home, name, statement):
    with contextlib.closing(sqlite3.connect(home / "state" / name, isolation_level=None)) as db:
        assert db.execute(statement).rowcount


def older_job(home):
    path = next((home / "state" / "jobs").glob("*.json"))
    path.write_text(path.read_text().replace('"accepted"', '"pending"'))


WRITTEN_BACK = {
    "account lost": (lambda home: delete(home, "account.db"), r"account\.db lacks 1 of 1 voided"),
    "charge cut": (lambda home: without(home, "account.db", "DELETE FROM lines"), r"account\.db lacks 1 charge"),
    "charge lowered": (lambda home: without(home, "account.db", "UPDATE lines SET mu2 = .01"), r"lacks 1 charge"),
    "answers lost": (lambda home: delete(home, "online.db"), r"online\.db lacks 2 answered"),
    "job older": (older_job, r"jobs lacks 1 answer\(s\) and 0"),
}
LOST = {
    "releases lost": (lambda home: delete(home, "release.db"), r"release\.db lacks 2 of the last 2 single firms"),
    "release cut": (lambda home: without(home, "release.db", "DELETE FROM releases WHERE number = 3"), "1 of 3 rel"),
    "token unused": (lambda home: without(home, "release.db", "DELETE FROM tokens"), "1 of 1 tokens"),
    "promise unvoided": (lambda home: without(home, "account.db", "DELETE FROM voided"), "1 of 1 voided"),
    "job lost": (lambda home: next((home / "state" / "jobs").glob("*.json")).unlink(), r"jobs lacks 1 job\(s\)"),
    "revocation lost": (lambda home: (home / "consents/revocations/portal-2.json").unlink(), "1 of 2 revoked consents"),
}


@pytest.mark.parametrize("case", sorted(WRITTEN_BACK.keys() - {"account lost"}))
def test_what_the_log_holds_is_written_back(home, case):
    harm, said = WRITTEN_BACK[case]
    harm(home)
    with pytest.raises(StateError, match=rf"{said}.*older than the log; restore.*veilscore node mend \S+` writes it"):
        start(home)
    result = CliRunner().invoke(app, ["node", "mend", str(home)])
    assert (result.exit_code, "written back" in result.output) == (0, True)
    start(home)
    assert [line.charge.mu2 for line in account(home).lines()] == [0.04]
    entry = next(e for e in Ledger(home / "state" / "jobs").entries())
    assert (entry.status, set(entry.attempts.values())) == ("accepted", {1})
    with contextlib.closing(Journal(home / "state" / "online.db")) as journal:
        assert journal.get("bank/r2") is not None  # its id is used up, also where its answer is lost


@pytest.mark.parametrize("case", sorted(LOST.keys() | {"account lost"}))
def test_what_no_log_holds_is_let_go_by_word_alone(home, case):
    harm, said = (LOST | WRITTEN_BACK)[case]
    harm(home)
    with pytest.raises(StateError, match=rf"{said}.*--accept-loss` goes on without it and logs that"):
        start(home)
    with pytest.raises(StateError, match="restore the file from backup, or say --accept-loss"):
        mend(home)
    assert mend(home, accept_loss=True)
    start(home)
    start(home)
    assert b'"kind":"mended"' in log_path(home.parent, "tax").read_bytes()


def log_opened(home, ago_ms, *requests, kind="share_opened"):
    """Log openings as they were some time ago, and something of now."""

    def work(node):
        opened = {"kind": kind, "bank": "bank", "policy": policy_digest(node.config)}
        now_ms = int(time.time() * 1000)
        entries = [opened | {"request": one, "time_ms": now_ms - ago_ms} for one in requests]
        node.evidence.log.append([*entries, {"kind": "renewed", "time_ms": now_ms}])

    start(home, work)


def test_a_kill_between_log_and_ledger_keeps_no_node_from_its_start(home):
    """Both are written at once: what the log alone has did not leave, and its id is used up, for ever."""
    log_opened(home, 5_000, "cut")
    for _ in range(2):
        start(home)
        log_opened(home, 0)
    with contextlib.closing(sqlite3.connect(home / "state" / "online.db", isolation_level=None)) as db:
        assert db.execute("SELECT digest, body FROM answered WHERE key = 'bank/cut'").fetchall() == [(b"cut", b"")]
        db.execute("UPDATE answered SET time_s = 0 WHERE key = 'bank/cut'")
    start(home)
    assert mend(home) == []


@pytest.mark.parametrize(("ago_ms", "answered"), [(5_000, True), (30_000, False)])
def test_a_ledger_that_lacks_what_left_or_what_is_older_than_a_kill_explains(home, ago_ms, answered):
    log_opened(home, ago_ms, "lost")
    if answered:
        with contextlib.closing(Journal(home / "state" / "online.db")) as journal:
            journal.keep("bank/lost", b"asked", b"answer")
    for _ in range(2):
        with pytest.raises(StateError, match=r"release\.db lacks 1 of the last 3 single firms"):
            start(home)


def test_a_record_that_was_sent_and_never_opened_is_counted_and_has_no_answer(home):
    log_opened(home, MINUTES_AGO_MS, "r1", kind="record_told")
    with contextlib.closing(ReleaseLedger(home / "state" / "release.db")) as ledger:
        ledger.add(Release(ONLINE, "bank", "bank/told", "aa", "bb", ledger.firms(["f3"])))
    log_opened(home, MINUTES_AGO_MS, "told", kind="record_told")
    start(home)
    log_opened(home, MINUTES_AGO_MS, "never counted", kind="record_told")
    with pytest.raises(StateError, match=r"release\.db lacks 1 of the last 5 single firms"):
        start(home)


def test_a_job_whose_record_is_lost_never_runs_again_under_its_id(home):
    LOST["job lost"][0](home)
    mend(home, accept_loss=True)

    [entry] = Ledger(home.parent / "bank" / "state" / "jobs").entries()
    proposal = JobProposal(job_id=entry.job_id, job_yaml=entry.job.canonical(), job_sha256=entry.job.sha256)

    async def propose():
        node = Node(home, limits=QUICK)
        await node.start()
        try:
            await node._propose(proposal, None)
        finally:
            await node.stop(0.1)

    with pytest.raises(JobError, match="its record is lost: submit a new job"):
        asyncio.run(propose())


def test_a_log_older_than_its_receipts_does_not_start(home):
    path = log_path(home.parent, "tax")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))  # whole, with its heads, but before the job was closed
    with pytest.raises(EvidenceError, match=r"ends before entry \d+.*is an older copy; restore \S+/evidence from"):
        start(home)


def test_a_reference_counts_one_release_alone(home):
    with contextlib.closing(ReleaseLedger(home / "state" / "release.db")) as ledger:
        same = Release(ONLINE, "bank", "bank/r1", "aa", "bb", ledger.firms(["f1"]))
        ledger.add(same)  # a repeat
        with pytest.raises(RefusedError, match="another release was counted under this request id"):
            ledger.add(Release(ONLINE, "bank", "bank/r1", "aa", "bb", ledger.firms(["f9"])))


def test_what_the_ledger_lost_before_the_end_is_no_crash(home):
    without(home, "release.db", "DELETE FROM releases WHERE reference = 'bank/r1'")
    with pytest.raises(StateError, match="single firms"):
        start(home)
