"""A backup holds everything; an old or changed one undoes nothing: neither a revocation, nor a charge, nor the log."""

import asyncio
import contextlib
import re
import shutil
import sqlite3
import threading
import time

import pytest
from consent_issuer import ISSUERS, KEY, token
from trial_evidence import log_path, open_nodes, receipt_path, run_jobs
from trial_federation import JOB, PARTIES, QUICK, commanding, open_trial, running, submit, until, watch
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, EvidenceError, PeerError, RefusedError, StateError
from veilscore.files import backup, sealed
from veilscore.files.backup import MADE_AGAIN, RESTORED, back_up
from veilscore.files.journal import Journal
from veilscore.files.sqlite_file import open_sqlite
from veilscore.node.node import Node
from veilscore.node.restored import restore_home
from veilscore.node.state import mend
from veilscore.release.account import FILE, Account
from veilscore.release.consent import body_of, issue_revocations
from veilscore.release.gate import ConsentGate
from veilscore.release.issuer import import_consent
from veilscore.release.ledger import LEDGER, ONLINE, Release, ReleaseLedger
from veilscore.release.revocations import RevocationLists
from veilscore.release.scope import Ask
from veilscore.terms.privacy import PrivacyRules
from veilscore.v1 import control_pb2
from veilscore.wire.protocol import Charge

SECRET = "correct horse battery staple"  # noqa: S105 - of backups that are gone after the test
EVERYBODY = (*PARTIES, "coordinator")


@pytest.fixture(autouse=True)
def scrypt_is_quick(monkeypatch):
    monkeypatch.setattr(sealed, "_LOG_N", 12)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Homes after a job, a charge, a release, a revocation, a model, a submission, and an answer online."""
    folder = tmp_path_factory.mktemp("restore")
    run_jobs(folder)
    home = folder / "tax"
    Account(home / FILE, "main", "bank", PrivacyRules()).spend("job/bin/1", Charge("cells", "train", 0.04))
    with contextlib.closing(ReleaseLedger(home / LEDGER)) as ledger:
        ledger.add(Release(ONLINE, "bank", "bank/r1", "aa", "bb", ledger.firms(["f1"])))
    with contextlib.closing(Journal(home / "state" / "online.db")) as journal:
        journal.keep("bank/r1", b"asked", b"answer")
    import_consent(home, issue_revocations(KEY, "portal", ["0a"]), "revocations", "portal-1")
    for name in (
        "models/m/code_map.json",
        "screenings/s/kept.json",
        "sandbox/inbox/x/code/main.py",
        "published/m.json",
        "audit/online/pools/p",
        "state/bins/main.json",
        "sandbox.yaml",
        "log/node.log",
        "cache/k.nbi",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (home / "jobs" / "linked").hardlink_to(home / "models/m/code_map.json")
    return folder


@pytest.fixture
def homes(first, tmp_path):
    shutil.copytree(first, tmp_path / "all", dirs_exist_ok=True)
    (tmp_path / "all/tax/jobs/linked").unlink()
    (tmp_path / "all/tax/jobs/linked").hardlink_to(tmp_path / "all/tax/models/m/code_map.json")
    return tmp_path / "all"


def files(home):
    """Content by name below a home; of an SQLite file its rows."""
    found = {}
    for path in sorted(home.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[path.relative_to(home).as_posix()] = dump(path) if data.startswith(b"SQLite") else data
    return found


def dump(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return "\n".join(db.iterdump())


def restored(home, file, target, secret=SECRET, **options):
    back_up(home, home.name, file, secret)
    return restore_home(file, target, lambda: secret, **options)


def test_a_backup_holds_every_file_that_a_node_writes_but_those_that_are_made_again(homes, tmp_path):
    """The list of what is left out is the one with its reasons: a file that a node learns to write is in by itself."""
    for name in EVERYBODY:
        home = homes / name
        before = files(home)
        _, proved = restored(home, tmp_path / f"{name}.bak", tmp_path / "new" / name)
        after = files(tmp_path / "new" / name)
        left = {file for file in before if backup.left_out(file)}
        assert after.keys() == (before.keys() - left) | {RESTORED}
        assert {file: after[file] for file in before.keys() - left} == {f: before[f] for f in before.keys() - left}
        assert any("all of them fit" in sentence for sentence in proved)
        assert all(any(re.fullmatch(pattern, file) for pattern in MADE_AGAIN) for file in left)
    kept = files(tmp_path / "new" / "tax").keys()
    assert {"sandbox.yaml", "published/m.json", "state/bins/main.json", "jobs/linked"} <= kept
    assert (tmp_path / "new/tax/jobs/linked").stat().st_nlink == 2
    assert {"log/node.log", "cache/k.nbi", "state/online.db-wal"} & kept == set()


def test_keys_are_not_in_clear_and_no_changed_or_cut_backup_is_restored(homes, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "PIECE_BYTES", 4096)  # so that there are many pieces
    file = tmp_path / "tax.bak"
    back_up(homes / "tax", "tax", file, SECRET)
    data = file.read_bytes()
    assert b"PRIVATE KEY" not in data
    assert b"evidence/log" not in data
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        restore_home(file, tmp_path / "new", lambda: SECRET + "!")
    piece, start = 4096 + 16, data.index(b"\n") + 1
    moved = (
        data[:start] + data[start + piece : start + 2 * piece] + data[start : start + piece] + data[start + 2 * piece :]
    )
    changed = [
        data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (25, start, start + piece + 9, len(data) - 1)
    ]
    for wrong in (
        *changed,
        data[:-1],
        data[: start + piece],
        data[: start + 3 * piece],
        data + b"x",
        moved,
        b"",
        data[:9],
    ):
        file.write_bytes(wrong)
        with pytest.raises(ConfigError):
            restore_home(file, tmp_path / "new", lambda: SECRET)
        assert not (tmp_path / "new").exists()
        assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_plain_backup_takes_a_word_and_its_changes_are_found(homes, tmp_path):
    run = CliRunner()
    file = tmp_path / "tax.bak"
    args = ["backup", str(file), "--home", str(homes / "tax")]
    with pytest.raises(ConfigError, match="no passphrase: set VEILSCORE_BACKUP_PASSPHRASE"):
        run.invoke(app, args, catch_exceptions=False)
    with pytest.raises(ConfigError, match="shorter than 12"):
        run.invoke(app, args, env={"VEILSCORE_BACKUP_PASSPHRASE": "short"}, catch_exceptions=False)
    said = run.invoke(app, [*args, "--plain"], catch_exceptions=False).output
    assert "NOT encrypted" in said
    assert "data set main" not in said  # it is in the home
    with pytest.raises(StateError, match="exists already"):
        run.invoke(app, [*args, "--plain"], catch_exceptions=False)
    data = file.read_bytes()
    for at in (len(data) // 2, len(data) // 4, 12):
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(ConfigError, match=r"no backup|changed or cut off"):
            restore_home(file, tmp_path / "new", lambda: "")
    file.write_bytes(data)
    restore_home(file, tmp_path / "new", lambda: "")


def test_a_passphrase_is_in_no_message_and_a_home_is_never_written_over(homes, tmp_path):
    run, file, new = CliRunner(), tmp_path / "tax.bak", tmp_path / "new"
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    said = [
        run.invoke(
            app, ["backup", str(file), "--home", str(homes / "tax"), "--passphrase-file", str(tmp_path / "secret")]
        )
    ]
    said += [run.invoke(app, ["restore", str(file), str(new)], env={"VEILSCORE_BACKUP_PASSPHRASE": SECRET})]
    assert [one.exit_code for one in said] == [0, 0]
    assert all(SECRET not in one.output for one in said)
    assert "Its state files hold all that its log says" in said[1].output
    with pytest.raises(ConfigError, match=r"is there already.*--replace"):
        restore_home(file, new, lambda: SECRET)
    restore_home(file, new, lambda: SECRET, replace=True)
    [aside] = tmp_path.glob("new.replaced-*")
    assert (aside / "node.yaml").is_file()


def test_a_backup_while_the_node_writes_is_whole(homes, tmp_path):
    """State files are never older than the log in it, whatever moment it is taken at."""
    home = homes / "tax"

    async def work():
        node = Node(home, limits=QUICK)
        await node.start()
        ended, told = threading.Event(), []

        def write():
            account = Account(home / FILE, "main", "bank", PrivacyRules())
            while not ended.is_set():
                charge = Charge(f"opening {len(told)}", "train", 1e-9)
                account.spend("job/bin/2", charge)  # the account first, then the log, as a node does
                node.evidence.opening_charged("job/bin/2", "main", "bank", charge)
                told.append(charge)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                await asyncio.to_thread(back_up, home, "tax", tmp_path / f"{number}.bak", SECRET)
        finally:
            ended.set()
            writer.join()
            await node.stop(0.1)
        return len(told)

    count = asyncio.run(work())
    assert count > 3, "the writer was at work"
    for number in range(3):
        restore_home(tmp_path / f"{number}.bak", tmp_path / f"new{number}", lambda: SECRET)


def test_after_a_restore_the_revoked_firm_is_refused_and_later_jobs_have_receipts(homes, tmp_path):
    home = homes / "tax"
    before = log_path(homes, "tax").read_bytes()
    restored(home, tmp_path / "tax.bak", home, replace=True)
    gate = ConsentGate(home, required=True, issuers=ISSUERS)
    assert RevocationLists(home, ISSUERS).now().consents == {"0a"}
    ask = Ask("credit", "score_online", "bank", "m", time.time())
    revoked = token("f1", once=False)
    import_consent(home, issue_revocations(KEY, "portal", ["0a", body_of(revoked)["id"]]), "revocations", "portal-2")
    restored(home, tmp_path / "again.bak", home, replace=True)
    with pytest.raises(RefusedError, match="was revoked"):
        gate.check_token(revoked.to_message().SerializeToString(), "f1", ask, None, "bank/r2")

    async def work():
        async with running(open_nodes(homes)), commanding(homes / "bank") as command:
            await until(lambda: not (home / RESTORED).exists())
            job_id = await submit(command, f"{JOB}parameters: {{firms: 5}}\n")
            assert (await watch(command, job_id))[-1].status == "done"
            return job_id

    job_id = asyncio.run(work())
    assert receipt_path(homes, "tax", job_id).is_file()
    log = log_path(homes, "tax").read_bytes()
    assert log.startswith(before)
    assert b'"kind":"restored"' in log[len(before) :]
    assert not (home / RESTORED).exists()


def test_a_restored_node_serves_nobody_before_all_others_have_compared_its_log(homes, tmp_path):
    restored(homes / "tax", tmp_path / "tax.bak", homes / "tax", replace=True)

    async def work():
        nodes = open_trial(homes, "tax", "bank", "coordinator")  # registry is down
        async with running(nodes), commanding(homes / "bank") as command:
            with pytest.raises(PeerError, match=r"restored from a backup.*until .*registry have compared"):
                await command.call("tax", "AskKeys", control_pb2.AskKeys(), control_pb2.HolderKeys, timeout_s=5)
            async with running(open_trial(homes, "registry")):
                await until(lambda: not (homes / "tax" / RESTORED).exists())
                await command.call("tax", "AskKeys", control_pb2.AskKeys(), control_pb2.HolderKeys, timeout_s=5)

    asyncio.run(work())


def test_an_old_backup_is_refused_at_start_and_joins_again_by_everybodys_word_alone(homes, tmp_path):
    """The log went on after the backup and the others countersigned it: what was opened then is unknown."""
    home = homes / "tax"
    back_up(home, "tax", tmp_path / "old.bak", SECRET)

    async def work(*, job=True):
        async with running(open_nodes(homes)), commanding(homes / "bank") as command:
            job_id = await submit(command, f"{JOB}parameters: {{firms: 5}}\n")
            await watch(command, job_id)
            return job_id

    asyncio.run(work())
    restore_home(tmp_path / "old.bak", home, lambda: SECRET, replace=True)

    async def starts():
        async with running(open_trial(homes, "bank", "coordinator")):
            node = Node(home, limits=QUICK)
            try:
                await node.start()
            finally:
                await node.stop(0.1)

    with pytest.raises(EvidenceError, match=r"countersigned entry \d+.*node mend \S+ --accept-loss.*--let-go tax"):
        asyncio.run(starts())
    with pytest.raises(
        EvidenceError, match="another member countersigned"
    ):  # the others are down: it has not forgotten
        asyncio.run(_start_alone(home))
    with pytest.raises(StateError, match="others countersigned: restore the file from backup, or say --accept-loss"):
        mend(home)
    said = CliRunner().invoke(app, ["node", "mend", str(home), "--accept-loss"], catch_exceptions=False).output
    assert "others countersigned lost" in " ".join(said.split())
    assert Account(home / FILE, "main", "bank", PrivacyRules()).voided_since() is not None
    with pytest.raises(EvidenceError, match="countersigned entry"):  # the owner's word alone is not enough
        asyncio.run(starts())
    mend(home, accept_loss=True)
    for name in EVERYBODY:
        if name != "tax":
            assert "let go" in CliRunner().invoke(app, ["node", "mend", str(homes / name), "--let-go", "tax"]).output
            assert b'"kind":"head_let_go"' in log_path(homes, name).read_bytes()
            assert list((homes / name / "evidence" / "heads_let_go").glob("tax-*.json"))
    job_id = asyncio.run(work())
    assert all(receipt_path(homes, name, job_id).is_file() for name in EVERYBODY)


async def _start_alone(home):
    node = Node(home, limits=QUICK)
    try:
        await node.start()
    finally:
        await node.stop(0.1)


def test_wal_files_left_by_a_killed_node_are_in_the_backup(homes, tmp_path):
    """Rows that stand in the write-ahead log alone, as a kill leaves them."""
    path = homes / "tax" / "state" / "account.db"
    db = open_sqlite(path, ["CREATE TABLE IF NOT EXISTS voided (x)"])
    db.execute("CREATE TABLE left_behind (x)")
    db.execute("INSERT INTO left_behind VALUES (7)")
    assert path.with_name("account.db-wal").stat().st_size > 0
    back_up(homes / "tax", "tax", tmp_path / "tax.bak", SECRET)
    db.close()
    restore_home(tmp_path / "tax.bak", tmp_path / "new", lambda: SECRET)
    with contextlib.closing(sqlite3.connect(tmp_path / "new" / "state" / "account.db")) as again:
        assert again.execute("SELECT x FROM left_behind").fetchall() == [(7,)]
