"""A submission and its release over PySyft: every command of docs/sandbox.md, on PySyft's own mock of the drive."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT
from mock_drive import MODELLER, OWNER, MockDrive, need_pysyft
from sandbox_home import SECRET, make_homes, need_sandbox, sandbox, write_project

from veilscore.sandbox.desk import Desk
from veilscore.sandbox.release import RELEASE_FILE

# PySyft 0.10 and its mock drive use what pydantic 2 and Python 3.12 call old
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:syft"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


def documented_steps():
    """The commands of docs/sandbox.md, in their order."""
    section = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8").split("## PySyft")[1]
    return [line.split() for line in section.split("```")[3].splitlines() if line]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_the_whole_way_as_documented_over_the_mock_drive(tmp_path, monkeypatch, encrypted):
    need_sandbox()
    need_pysyft()
    bank, tax = make_homes(tmp_path)
    (tax / "sandbox.yaml").write_text("allow_artefacts: true\n")
    drive = MockDrive(tmp_path, monkeypatch, encrypted=encrypted)
    words = {"/srv/bank": bank, "/srv/tax": tax, "code/": write_project(tmp_path / "code")}
    words |= {"token.json": tmp_path / "token.json", "result/": tmp_path / "result"}
    back = ["syft-return", "ID", "--email", OWNER, "--home", tax]
    read = ["syft-read", "ID", "--email", MODELLER, "--home", bank]
    done = []
    for program, *step in documented_steps():
        given = [str(words.get(word, word)) for word in step]
        if "release" in step:
            back[1] = read[1] = words["ID"][:10]
            assert "only released outputs go back" in sandbox(*back, exit_code=1)
            assert "no result yet" in sandbox(*read, exit_code=1)
        if program == "python":
            drive.run(*given[1:])
        else:
            output = sandbox(*given[1:])
            done.append(step[1])
        if "syft-pack" in step:
            _, words["ID"], _, words["JOB"] = output.split()
    assert done[:2] == ["syft-pack", "syft-receive"]
    assert done[-2:] == ["syft-return", "syft-read"]
    key = words["ID"]
    assert "nothing new" in sandbox("syft-receive", "--email", OWNER, "--home", tax)
    assert key in sandbox(*read)
    released = Desk(tax).report(key)[1]
    assert released["part.bin"] == bytes(range(256))
    assert {path.name: path.read_bytes() for path in (tmp_path / "result").iterdir()} == released

    # the same with PySyft's own client
    seen = drive.client(owner=False).job_client.jobs[f"veilscore-{key[:16]}"]
    assert (seen.status, seen.submitted_by, seen.datasite_owner_email) == ("done", MODELLER, OWNER)
    found = {path.name: path.read_bytes() for path in seen.output_paths}
    assert json.loads(found.pop(RELEASE_FILE))["content"]["submission"] == key
    assert found == released
    assert seen.job_submission_path == Path(words["JOB"])

    check_what_came(tmp_path / f"SyftBox_{MODELLER}", seen.name, {*released, RELEASE_FILE})
    check_what_lies_on_the_drive(drive, tmp_path, encrypted)
    sandbox(*back)  # again: nothing new to send
    n_files = len(drive.store.files)
    drive.client(owner=True).sync()
    assert len(drive.store.files) == n_files


def check_what_came(box, job, outputs):
    """Nothing but state and released outputs came back to the modeller."""
    folder = box / OWNER / "app_data" / "job"
    came = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    review = f"review/{MODELLER}/v1/{job}"
    results = {f"{review}/state.yaml", *(f"{review}/outputs/{name}" for name in outputs)}
    assert {name for name in came if not name.startswith(f"inbox/{MODELLER}/v1/{job}/")} == results


def check_what_lies_on_the_drive(drive, folder, encrypted):
    """No private data, no log and no path of either machine left it; with encryption, no code and no result either."""
    contents = list(drive.contents())
    assert len(contents) > 10
    for content in contents:
        for secret in (SECRET, "owner only: {", str(folder), tempfile.gettempdir(), sys.prefix):
            assert secret.encode() not in content
    assert any(b"DictReader" in content for content in contents) == (not encrypted)
    assert any(b'\\"count\\":300' in content for content in contents) == (not encrypted)
