"""Jobs for PySyft: what the modeller writes, what the owner gives back, and what the modeller reads."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from mock_drive import MODELLER, OWNER, need_pysyft
from sandbox_home import PROJECT, make_homes, need_sandbox, sandbox, write_code, write_project

from veilscore.errors import ConfigError, IdentityError, SandboxError, StateError
from veilscore.keys.identity import create_identity, load_identity
from veilscore.sandbox import syft_envelope
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.release import RELEASE, RELEASE_FILE
from veilscore.sandbox.signed import write_signed
from veilscore.sandbox.submission import make_submission
from veilscore.sandbox.syft_exchange import give_back, read_result, receive
from veilscore.sandbox.syft_folder import SyftJob, syftbox_of, unpack
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config

# what the sender writes


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return make_homes(tmp_path_factory.mktemp("homes"))


def packed(bank, folder, **manifest):
    """A SyftBox of the modeller with one job."""
    need_pysyft()
    identity = load_identity(bank / "identity")
    submission = make_submission(write_project(folder / "code", **manifest), identity)
    box = folder / "box"
    box.mkdir(exist_ok=True)
    job = SyftJob.carrying(submission.sha256, box.resolve(), OWNER, MODELLER)
    assert syft_envelope.pack(submission, identity, job) == job.inbox
    return submission, job


def test_a_packed_job_is_what_pysyft_writes_and_names_nothing_of_the_machine(homes, tmp_path, monkeypatch):
    monkeypatch.setenv("SYFT_INSTALL_SOURCE", "/home/somebody/PySyft")
    submission, job = packed(homes[0], tmp_path)
    assert [path.name for path in job.syftbox.iterdir()] == [OWNER]  # nothing is left beside it
    machine = [tmp_path, tempfile.gettempdir(), sys.prefix, Path.home(), socket.gethostname(), "/home/somebody"]
    files = [path for path in job.inbox.rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert [str(mark) for mark in machine if str(mark) in text] == []
        assert path.stat().st_mode & stat.S_IWUSR  # PySyft writes it again when the owner has it
    config = yaml.safe_load((job.inbox / "config.yaml").read_text())
    assert (config["code_path"], config["dependencies"], config["headers"]) == (None, [], {})
    code = job.inbox / "code"
    assert config["files"] == sorted(path.relative_to(code).as_posix() for path in files if code in path.parents)
    assert unpack(job).sha256 == submission.sha256
    import syft_job

    client = syft_job.client.JobClient.from_config(
        syft_job.SyftJobConfig.from_syftbox_folder(str(job.syftbox), MODELLER)
    )
    seen = client.jobs[job.name]
    assert (seen.name, seen.status, seen.datasite_owner_email) == (job.name, "received", OWNER)
    assert client.validate_submission(seen.job_submission_path) == (True, "")


def test_packing_again_changes_nothing(homes, tmp_path):
    _, job = packed(homes[0], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in job.inbox.rglob("*")}
    packed(homes[0], tmp_path)
    assert {path: path.stat().st_mtime_ns for path in job.inbox.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a.bin": b"\xff\xfe"}, "UTF-8"),
        ({"a.py": b"x = 1\r\n"}, "LF line ends"),
        ({"syft.pub.yaml": b"rules: []\n"}, "rename"),
        ({"node_modules/a.py": b""}, "rename"),
    ],
)
def test_files_that_pysyft_would_change_or_drop_are_refused(homes, tmp_path, change, reason):
    for name, content in change.items():
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(SandboxError, match=reason):
        packed(homes[0], tmp_path)


@pytest.mark.parametrize("name", ["syft.pub.yaml", "release.json", "node_modules"])
def test_outputs_that_would_take_the_place_of_others_are_refused(homes, tmp_path, name):
    need_pysyft()
    identity = load_identity(homes[0] / "identity")
    submission = make_submission(write_code(tmp_path / "c", PROJECT, {name: {"kind": "number"}}), identity)
    with pytest.raises(SandboxError, match="cannot be called"):
        syft_envelope.pack(submission, identity, SyftJob.carrying(submission.sha256, tmp_path, OWNER, MODELLER))


def test_without_pysyft_it_names_the_extra_and_the_rest_works(homes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "syft_job", None)
    words = ["syft-pack", write_project(tmp_path / "c"), "--email", MODELLER, "--to", OWNER, "--syftbox", tmp_path]
    message = sandbox(*words, "--home", homes[0], exit_code=1)
    assert message == "PySyft is not installed: pip install 'veilscore[syft]'"
    assert "nothing new" in sandbox("syft-receive", "--email", OWNER, "--syftbox", tmp_path, "--home", homes[1])


@pytest.mark.parametrize("to", ["a@b\nBcc: c@d", "../../etc@b", "nobody"])
def test_an_address_that_is_none_is_refused_before_anything_is_written(homes, tmp_path, to):
    code = write_project(tmp_path / "c")
    (tmp_path / "box").mkdir()
    words = ["syft-pack", code, "--email", MODELLER, "--to", to, "--syftbox", tmp_path / "box", "--home", homes[0]]
    assert "no e-mail address" in sandbox(*words, exit_code=1)
    assert list((tmp_path / "box").iterdir()) == []


def test_a_syftbox_that_is_not_there_is_named(homes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    message = sandbox("syft-receive", "--email", OWNER, "--home", homes[1], exit_code=1)
    assert f"SyftBox_{OWNER}; log in with PySyft once, or give --syftbox" in message
    (tmp_path / f"SyftBox_{OWNER}").mkdir()
    assert syftbox_of(OWNER, None) == (tmp_path / f"SyftBox_{OWNER}").resolve()


def test_a_home_inside_the_syftbox_would_be_sent_away(homes):
    with pytest.raises(ConfigError, match="inside the SyftBox"):
        receive(Desk(homes[1]), OWNER, homes[1].parent.resolve())


# what the owner gives back


@pytest.fixture(scope="module")
def released(homes, tmp_path_factory):
    """A submission that came by PySyft, ran and was released; its outputs wait to be given back."""
    need_sandbox()
    folder = tmp_path_factory.mktemp("released")
    _, tax = homes
    (tax / "sandbox.yaml").write_text("allow_artefacts: true\n")
    submission, job = packed(homes[0], folder)
    desk = Desk(tax)
    assert receive(desk, OWNER, job.syftbox) == ((submission.sha256,), ())
    desk.approve(submission.sha256)
    assert desk.run(submission.sha256).status == "done"
    desk.release(submission.sha256, "agreed")
    return desk, submission, job


@pytest.fixture
def box(released, tmp_path):
    """The owner's SyftBox of this test."""
    shutil.copytree(released[2].syftbox, tmp_path / "box")
    return (tmp_path / "box").resolve()


def in_box(released, box):
    desk, submission, job = released
    return desk, submission, SyftJob(box, job.owner, job.sender, job.name)


def test_only_the_release_is_given_back_and_the_sender_may_read_it(released, box):
    desk, submission, job = in_box(released, box)
    outputs = give_back(desk, submission.sha256[:10], OWNER, box)
    assert outputs == job.review / "outputs"
    mode = {path.name: stat.S_IMODE(path.stat().st_mode) for path in outputs.iterdir()}
    assert mode.pop("syft.pub.yaml")
    assert mode == dict.fromkeys(("mean.json", "part.bin", RELEASE_FILE), 0o644)
    assert {path.name for path in job.review.iterdir()} == {"outputs", "state.yaml"}
    assert sorted(path.name for path in box.iterdir()) == [OWNER]
    import syft_job

    may = syft_job.client.SyftPermContext(box / OWNER).open(outputs.relative_to(box / OWNER) / "mean.json")
    assert may.has_read_access(MODELLER)
    assert not may.has_read_access("eve@bank.example")
    state = yaml.safe_load((job.review / "state.yaml").read_text())
    assert (state["status"], state["return_code"], state["review_reason"]) == ("done", 0, None)


def test_a_job_that_waits_in_pysyft_is_done_there_without_its_approval(released, box):
    desk, submission, job = in_box(released, box)
    import syft_job

    client = syft_job.client.JobClient.from_config(syft_job.SyftJobConfig.from_syftbox_folder(str(box), OWNER))
    assert client.jobs[job.name].status == "pending"
    give_back(desk, submission.sha256, OWNER, box)
    assert client.jobs[job.name].status == "done"
    assert client.jobs[job.name]._state.received_at < client.jobs[job.name]._state.approved_at


def test_given_back_after_a_crash_between_outputs_and_state(released, box):
    desk, submission, job = in_box(released, box)
    outputs = give_back(desk, submission.sha256, OWNER, box)
    (job.review / "state.yaml").unlink()
    assert give_back(desk, submission.sha256, OWNER, box) == outputs
    assert yaml.safe_load((job.review / "state.yaml").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("stdout.txt", "F00001", SandboxError, "outside the sandbox"),
        ("state.yaml", "status: approved", SandboxError, "outside the sandbox"),
        ("state.yaml", "status: failed", SandboxError, "outside the sandbox"),
        ("state.yaml", "status: done", SandboxError, "without outputs"),
        ("state.yaml", "status: [", StateError, "damaged"),
        ("state.yaml", "status: never", StateError, "damaged"),
        ("state.yaml", "x" * 70_000, SandboxError, "longer"),
        ("outputs/raw.csv", "F00001", SandboxError, "other outputs already"),
    ],
)
def test_where_pysyft_itself_had_a_hand_nothing_is_given_back(released, box, name, content, error, reason):
    desk, submission, job = in_box(released, box)
    path = job.review / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(error, match=reason):
        give_back(desk, submission.sha256, OWNER, box)
    assert [p for p in job.review.rglob("*") if p.is_file()] == [path]


def test_outputs_do_not_follow_a_link(released, box, tmp_path):
    desk, submission, job = in_box(released, box)
    job.review.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    job.review.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SandboxError, match="is a link"):
        give_back(desk, submission.sha256, OWNER, box)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_results_go_to_the_address_in_the_signed_envelope_alone(released, box):
    desk, submission, _ = in_box(released, box)
    with pytest.raises(SandboxError, match="signed for other addresses"):
        give_back(desk, submission.sha256, "other@tax.example", box)
    kept = next((desk.home / "sandbox" / "syft").rglob("*.json"))
    other = kept.parent.parent / "eve@bank.example"
    kept.parent.rename(other)  # somebody moved it at the owner
    try:
        with pytest.raises(SandboxError, match="signed for other addresses"):
            give_back(desk, submission.sha256, OWNER, box)
    finally:
        other.rename(kept.parent)
    assert not (box / OWNER / "app_data" / "job" / "review").exists()


def test_a_damaged_permission_file_of_pysyft_is_named(released, box):
    desk, submission, _ = in_box(released, box)
    (box / OWNER / "syft.pub.yaml").write_text("rules: 3\n")
    with pytest.raises(StateError, match=r"syft.pub.yaml below .* is damaged"):
        give_back(desk, submission.sha256, OWNER, box)


def test_a_syftbox_that_cannot_be_written_is_named(released, box, monkeypatch):
    desk, submission, _ = in_box(released, box)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(StateError, match="No space left"):
        give_back(desk, submission.sha256, OWNER, box)


def test_what_did_not_come_by_pysyft_stays_in_the_outbox(released, homes, tmp_path):
    desk, _, _ = released
    other = make_submission(write_project(tmp_path / "c", name="folder"), load_identity(homes[0] / "identity"))
    desk.accept(other)
    desk.approve(other.sha256)
    desk.run(other.sha256)
    desk.release(other.sha256)
    with pytest.raises(SandboxError, match="did not come by PySyft"):
        give_back(desk, other.sha256, OWNER, tmp_path)


# what the modeller reads


@pytest.fixture
def result(released, box, homes):
    """The modeller's SyftBox with a result; a function that reads it."""
    desk, submission, job = in_box(released, box)
    give_back(desk, submission.sha256, OWNER, box)
    bank = homes[0]
    who = load_membership(bank, load_node_config(bank))
    return job, lambda text=submission.sha256: read_result(*who, text, MODELLER, box)


def test_a_result_is_read_by_any_beginning_of_its_id(result, released):
    _, read = result
    key = released[1].sha256
    for text in (key, key[:4], key[:16], key[:17]):
        found, files = read(text)
        assert found == key
        assert set(files) == {"mean.json", "part.bin"}
    for text in ("", "zz", key[:17] + "x", f"../{key}"):
        with pytest.raises(SandboxError):
            read(text)


@pytest.mark.parametrize("attack", ["changed", "link", "missing", "other key", "other code", "fewer", "path", "list"])
def test_a_result_that_is_not_the_owners_of_this_code_is_refused(result, released, tmp_path, attack):
    job, read = result
    outputs = job.review / "outputs"
    desk, submission, _ = released
    content = json.loads((outputs / RELEASE_FILE).read_text())["content"]
    signer = desk.identity
    if attack in {"changed", "link", "missing"}:
        (outputs / "mean.json").unlink()
        if attack == "changed":
            (outputs / "mean.json").write_text("{}")
        if attack == "link":
            (outputs / "mean.json").symlink_to(desk.home / "sandbox" / "outbox" / submission.sha256 / "mean.json")
    elif attack == "other key":
        signer = create_identity(tmp_path / "id", "tax", "holder", passphrase=lambda: None)
    elif attack == "other code":
        content["submission"] = "0" * 64
    elif attack == "fewer":
        del content["outputs"]["mean.json"]
    elif attack == "path":
        content["outputs"] = {"../state.yaml": "0" * 64, "part.bin": "0" * 64}
    else:
        content["outputs"] = ["mean.json", "part.bin"]
    if attack not in {"changed", "link", "missing"}:
        write_signed(outputs / RELEASE_FILE, content, RELEASE, signer)
    with pytest.raises(IdentityError if attack == "other key" else SandboxError):
        read()


def test_a_job_changed_at_the_modeller_is_not_the_code_that_was_sent(result):
    job, read = result
    code = next((job.inbox / "code" / "veilscore").glob("*/code"))
    (code / "main.py").write_text("print(1)\n")
    with pytest.raises(SandboxError, match="was changed"):
        read()


def test_of_two_jobs_with_the_same_code_the_answered_one_is_read(result, released):
    job, read = result
    shutil.copytree(job.inbox, SyftJob(job.syftbox, "typo@tax.example", MODELLER, job.name).inbox)
    assert read()[0] == released[1].sha256
