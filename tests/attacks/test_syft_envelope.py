"""Hostile PySyft jobs in an owner's SyftBox: each is refused in one sentence, and nothing of it is kept.

Every attack starts from a job that is taken as it is, which the first test shows: none fails for another reason.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess

import pytest
import yaml
from mock_drive import MODELLER, OWNER, need_pysyft
from sandbox_home import make_homes, write_code

from veilscore.keys.identity import load_identity
from veilscore.sandbox import syft_envelope
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.signed import write_signed
from veilscore.sandbox.submission import PURPOSE, Submission, canonical, make_submission, write_submission
from veilscore.sandbox.syft_exchange import receive
from veilscore.sandbox.syft_folder import ENVELOPE, SyftJob

EVE = "eve@bank.example"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Homes, and the modeller's SyftBox with one job."""
    need_pysyft()
    folder = tmp_path_factory.mktemp("syft")
    bank, tax = make_homes(folder)
    identity = load_identity(bank / "identity")
    submission = make_submission(write_code(folder / "code", "print(1)\n"), identity)
    (folder / "box").mkdir()
    job = SyftJob.carrying(submission.sha256, folder / "box", OWNER, MODELLER)
    syft_envelope.pack(submission, identity, job)
    return identity, Desk(tax), submission, job


@pytest.fixture
def arrived(packed, tmp_path):
    """The owner's SyftBox with that job; what is received is forgotten afterwards."""
    _, desk, _, job = packed
    box = (tmp_path / "box").resolve()
    shutil.copytree(job.syftbox, box)
    yield SyftJob(box, OWNER, MODELLER, job.name)
    for name in ("syft", "submissions"):
        shutil.rmtree(desk.home / "sandbox" / name, ignore_errors=True)
        (desk.home / "sandbox" / name).mkdir()


def refused(desk, job, n_problems=1):
    """Receive; everything is refused, in sentences of one plain line."""
    received, problems = receive(desk, OWNER, job.syftbox)
    assert received == ()
    assert len(problems) == n_problems
    assert list((desk.home / "sandbox" / "submissions").iterdir()) == []
    assert list((desk.home / "sandbox" / "syft").rglob("*.json")) == []
    for problem in problems:
        assert problem.isprintable()
        assert len(problem) < 400
    return problems[0] if problems else ""


def wrapped(job):
    """The submission's folder in a job."""
    return next(path for path in (job.inbox / "code" / "veilscore").iterdir() if path.is_dir())


def test_an_honest_job_is_taken(packed, arrived):
    _, desk, submission, _ = packed
    assert receive(desk, OWNER, arrived.syftbox) == ((submission.sha256,), ())
    assert receive(desk, OWNER, arrived.syftbox) == ((), ())
    assert desk.entry(submission.sha256).status == "waiting"


PLACES = ["config.yaml", "run.sh", "code/veilscore_submission.py", "code/veilscore/envelope.json", "*/submission.json"]


def at(job, place):
    return wrapped(job) / place[2:] if place.startswith("*/") else job.inbox / place


@pytest.mark.parametrize("place", [*PLACES, "*/code/main.py"])
@pytest.mark.parametrize("kind", ["link", "fifo", "socket", "device", "folder", "huge", "missing"])
def test_files_that_are_none_or_too_large(packed, arrived, tmp_path, place, kind):
    path = at(arrived, place)
    copy = shutil.copy(path, tmp_path / "copy")
    path.unlink()
    if kind == "link":
        path.symlink_to(copy)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            os.chdir(path.parent)  # a socket's path has at most 108 bytes
            end.bind(path.name)
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero never ends
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    refused(packed[1], arrived)


@pytest.mark.parametrize("depth", ["sender", "v1", "job", "code", "code/veilscore", "*", "*/code"])
def test_folders_that_are_links(packed, arrived, tmp_path, depth):
    """Also to a folder with a job that would be taken: what is checked must be what is there."""
    path = {
        "sender": arrived.inbox.parent.parent,
        "v1": arrived.inbox.parent,
        "job": arrived.inbox,
        "*": wrapped(arrived),
    }.get(depth) or at(arrived, depth)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert "link" in refused(packed[1], arrived)


@pytest.mark.parametrize("place", ["more", "code/more", "code/veilscore/more", "*/more", "*/code/more.py"])
def test_more_than_was_packed(packed, arrived, place):
    at(arrived, place).write_text("x")
    refused(packed[1], arrived)


def test_folders_without_end(packed, arrived):
    """More of them than Python calls itself, and fewer than a path may hold."""
    top = deep = wrapped(arrived) / "code" / "a"
    while len(os.fspath(deep)) < 3900:
        deep.mkdir()
        deep = deep / "a"
    try:
        assert "deeper than" in refused(packed[1], arrived)
    finally:
        subprocess.run(["rm", "-r", str(top)], check=True)  # Python's own removal calls itself too, and fails


def test_files_without_number(packed, arrived):
    for i in range(200):
        (wrapped(arrived) / "code" / f"m{i}.py").write_text("")
    assert "at most 200 files" in refused(packed[1], arrived)


ALIASES = "\n".join([f"k0: &k0 [{'x, ' * 9}x]", *(f"k{i}: &k{i} [{f'*k{i - 1}, ' * 9}x]" for i in range(1, 12))])
MERGES = "\n".join(["k0: &k0 {a: 1}", *(f"k{i}: &k{i} {{<<: [{f'*k{i - 1}, ' * 9}*k0]}}" for i in range(1, 12))])


@pytest.mark.parametrize(
    "text",
    [
        ALIASES, MERGES, "[" * 60_000, "{a: " * 15_000, "name: !!python/object/apply:os.system ['true']",
        "name: 2026-99-99", "name: 0b_", "- a", "3", "", "a: b: c", "name: a\nname: b", "\ufeff\u2028: [", "%TAG ! x",
        b"name: \xff\xfe", b"\x00\x01", b"name: " + b"9" * 5000,
    ],
    ids=lambda text: ascii(text)[:24],
)  # fmt: skip
def test_a_config_that_is_no_plain_yaml(packed, arrived, text):
    (arrived.inbox / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "config.yaml" in refused(packed[1], arrived)


@pytest.mark.parametrize("key", ["name", "type", "entrypoint"])
@pytest.mark.parametrize("value", ["../../x", "bash", None, ["a"], {"a": 1}])
def test_a_config_of_another_job(packed, arrived, key, value):
    path = arrived.inbox / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    assert "another job" in refused(packed[1], arrived)


@pytest.mark.parametrize("name", ["run.sh", "code/veilscore_submission.py"])
def test_anything_that_pysyft_might_run_outside_the_sandbox(packed, arrived, name):
    path = arrived.inbox / name
    path.write_bytes(b"touch /tmp/owned"[:60].ljust(len(path.read_bytes())))
    assert "do not run it with PySyft" in refused(packed[1], arrived)


def test_two_submissions_or_none(packed, arrived):
    one = wrapped(arrived)
    shutil.copytree(one, one.with_name("f" * 64))
    assert "holds 2 submissions" in refused(packed[1], arrived)
    shutil.rmtree(one)
    shutil.rmtree(one.with_name("f" * 64))
    assert "holds 0 submissions" in refused(packed[1], arrived)


@pytest.mark.parametrize("name", ["*/submission.json", "code/veilscore/envelope.json"])
@pytest.mark.parametrize("change", ["doubled key", "spaces", "deep", "number", "not JSON", "not UTF-8"])
def test_records_in_any_other_form(packed, arrived, name, change):
    path = at(arrived, name)
    text = path.read_text()
    changed = {
        "doubled key": text.replace('"signature"', '"signature":"00","signature"'),
        "spaces": text + " ",
        "deep": "[" * 100_000,
        "number": "1" * 5000,
        "not JSON": "{",
    }
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe" if change == "not UTF-8" else changed[change].encode())
    assert "damaged" in refused(packed[1], arrived)


# who may have the results


def test_a_job_copied_into_another_senders_folder(packed, arrived):
    """Eve is a peer of the owner in PySyft and saw the job: its results must not go to her."""
    eve = SyftJob(arrived.syftbox, OWNER, EVE, arrived.name)
    eve.inbox.parent.mkdir(parents=True)
    arrived.inbox.rename(eve.inbox)
    assert "signed for other addresses" in refused(packed[1], eve)


def test_a_job_sent_to_another_owner(packed, arrived):
    other = SyftJob(arrived.syftbox, "other@tax.example", MODELLER, arrived.name)
    other.inbox.parent.mkdir(parents=True)
    arrived.inbox.rename(other.inbox)
    received, problems = receive(packed[1], "other@tax.example", arrived.syftbox)
    assert (received, len(problems)) == ((), 1)
    assert "signed for other addresses" in problems[0]


@pytest.mark.parametrize("forgery", ["another's key", "another submission", "another purpose"])
def test_an_envelope_that_the_sender_did_not_sign(packed, arrived, forgery):
    identity, desk, submission, _ = packed
    content = arrived.envelope(submission)
    if forgery == "another submission":
        content["submission"] = "0" * 64
    write_signed(
        arrived.inbox / "code" / "veilscore" / "envelope.json",
        content,
        PURPOSE if forgery == "another purpose" else ENVELOPE,
        desk.identity if forgery == "another's key" else identity,
    )
    assert "sign" in refused(desk, arrived)


def test_the_same_submission_from_two_addresses_goes_to_the_first(packed, arrived):
    identity, desk, submission, _ = packed
    second = SyftJob(arrived.syftbox, OWNER, "zoe@bank.example", arrived.name)
    syft_envelope.pack(submission, identity, second)
    received, problems = receive(desk, OWNER, arrived.syftbox)
    assert received == (submission.sha256,)
    assert len(problems) == 1
    assert "from another address before" in problems[0]


def test_a_job_changed_after_it_was_received_changes_nothing(packed, arrived):
    _, desk, submission, _ = packed
    receive(desk, OWNER, arrived.syftbox)
    (wrapped(arrived) / "code" / "main.py").chmod(0o600)
    (wrapped(arrived) / "code" / "main.py").write_text("steal()\n")
    assert receive(desk, OWNER, arrived.syftbox) == ((), ())
    assert desk.entry(submission.sha256).submission.files["main.py"] == b"print(1)\n"


@pytest.mark.parametrize(
    "name", ["eve", "..@x", "a@b@c", "a b@c", "a\n@b.example", "\x1b[2J@b", "-rf@b.example", "e@\udcff", "x" * 250]
)
def test_senders_who_are_no_address(packed, arrived, name):
    (arrived.inbox.parents[2] / name / "v1" / arrived.name).mkdir(parents=True)
    received, problems = receive(packed[1], OWNER, arrived.syftbox)
    assert len(received) == len(problems) == 1  # and the honest one was taken
    assert "no e-mail address" in problems[0]
    assert problems[0].isprintable()


@pytest.mark.parametrize("name", ["veilscore-", "veilscore-" + "g" * 16, "veilscore-" + "0" * 17, "other", "v1", " "])
def test_other_jobs_of_pysyft_are_left_alone(packed, arrived, name):
    arrived.inbox.rename(arrived.inbox.with_name(name))
    assert refused(packed[1], arrived, n_problems=0) == ""


def test_a_job_under_the_name_of_another(packed, arrived):
    """It would take the place of the job that has that name by right."""
    config = arrived.inbox / "config.yaml"
    config.write_text(config.read_text().replace(arrived.name, "veilscore-" + "0" * 16))
    arrived.inbox.rename(arrived.inbox.with_name("veilscore-" + "0" * 16))
    assert "another submission than its name says" in refused(packed[1], arrived)


def test_a_flood_of_jobs_holds_up_its_sender_only(packed, arrived):
    for i in range(1001):
        (arrived.inbox.parents[2] / EVE / "v1" / f"veilscore-{i:016x}").mkdir(parents=True)
    received, problems = receive(packed[1], OWNER, arrived.syftbox)
    assert (len(received), len(problems)) == (1, 1)
    assert "more than 1000" in problems[0]


# what a member may sign


def sign_and_pack(packed, job, manifest):
    """A job whose submission.json holds `manifest`, made by a member with other code than ours."""
    identity, _, submission, _ = packed
    forged = Submission(submission.manifest, identity.name, submission.files)
    path = wrapped(job) / "submission.json"
    record = json.loads(path.read_text()) | {"manifest": manifest}
    record["signature"] = identity.sign(bytes.fromhex(forged.sha256), PURPOSE).hex()
    path.chmod(0o600)
    path.write_bytes(canonical(record))


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": {"../../x": {"kind": "number"}}},
        {"outputs": {"/etc/x": {"kind": "number"}}},
        {"outputs": {"a\nb\x1b[2J": {"kind": "number"}}},
        {"outputs": {f"\x1b{i}": 1 for i in range(20_000)}},
        {"outputs": []},
        {"outputs": {f"o{i}": {"kind": "number"} for i in range(51)}},
        {"entry": "../main.py"},
        {"entry": ["main.py"]},
        {"name": "a" * 10_000},
        {"purpose": None},
        {"more": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_manifests_with_paths_wrong_types_or_sizes(packed, arrived, change):
    manifest = packed[2].manifest.model_dump(mode="json") | change
    sign_and_pack(packed, arrived, manifest)
    refused(packed[1], arrived)


@pytest.mark.parametrize("sender", ["x" * 500_000, "a\x1b[2J", "", None, ["bank"], "Bank"])
def test_senders_names_of_other_forms(packed, arrived, sender):
    path = wrapped(arrived) / "submission.json"
    record = json.loads(path.read_text()) | {"sender": sender}
    path.chmod(0o600)
    path.write_bytes(canonical(record))
    assert "damaged" in refused(packed[1], arrived)


@pytest.mark.parametrize("name", ["syft.pub.yaml", "release.json", "node_modules"])
def test_outputs_that_would_become_files_of_pysyft(packed, arrived, tmp_path, name):
    """An output named syft.pub.yaml could open the owner's other outputs to somebody."""
    identity, desk, _, _ = packed
    code = write_code(tmp_path / "c", "print(2)\n", {name: {"kind": "number"}})
    submission = make_submission(code, identity)
    job = SyftJob.carrying(submission.sha256, arrived.syftbox, OWNER, MODELLER)
    arrived.inbox.rename(job.inbox)
    shutil.rmtree(wrapped(job))
    write_submission(submission, job.inbox / "code" / "veilscore")
    write_signed(job.inbox / "code/veilscore/envelope.json", job.envelope(submission), ENVELOPE, identity)
    config = job.inbox / "config.yaml"
    config.write_text(config.read_text().replace(arrived.name, job.name))
    assert "cannot be called" in refused(desk, job)
