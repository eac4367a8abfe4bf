"""Unit files of systemd: read by systemd itself, and what they leave exposed by its own measure."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, require

UNITS = ROOT / "deploy" / "systemd"
INSTALLED = "/opt/veilscore/bin/veilscore"
MOST_EXPOSED = {"veilscore@.service": 40, "veilscore-site@.service": 20}  # of 100


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """The files as they are installed, with the command of this environment."""
    require(shutil.which("systemd-analyze") is not None, "systemd is needed")
    folder = tmp_path_factory.mktemp("units")
    command = Path(sys.executable).parent / "veilscore"
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8")
        (folder / unit.name).write_text(text.replace(INSTALLED, str(command)), encoding="utf-8")
    return folder


def analyze(*words):
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", sorted(unit.name for unit in UNITS.iterdir()))
def test_systemd_reads_a_unit_without_a_complaint(units, name):
    done = analyze("verify", str(units / name.replace("@", "@tax")))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(MOST_EXPOSED))
def test_a_service_is_hardened_and_stays_so(units, name):
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED[name]}", str(units / name))
    assert done.returncode == 0, done.stdout[-200:]


def test_units_call_commands_that_exist():
    called = [
        line.partition("=")[2].split()
        for unit in UNITS.glob("*.service")
        for line in unit.read_text(encoding="utf-8").splitlines()
        if line.startswith("ExecStart=")
    ]
    assert {words[0] for words in called} == {INSTALLED}
    assert {tuple(words[1:3]) for words in called} == {("node", "start"), ("$SITE", "--home"), ("node", "health"),
                                                     ("retention", "run")}  # fmt: skip


def test_the_page_names_units_and_commands_that_exist():
    """Its blocks need root and a machine that systemd runs; what they name is looked up."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^<!-- not run: [^\n]{20,} -->\n```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == page.count("```") // 2 == 4
    text = "\n".join(blocks).replace("\\\n", " ")
    called = re.findall(r"^veilscore (\w+ \w+) /srv", blocks[0], re.MULTILINE)
    assert [*dict.fromkeys(called)] == ["join request", "join propose", "join sign", "join take", "node start"]
    units = set(re.findall(r"veilscore[a-z-]*@(?=[a-z])(?:tax)(?:\.timer)?", text))
    assert {unit if "." in unit else f"{unit}.service" for unit in units} <= {
        unit.name.replace("@", "@tax") for unit in UNITS.iterdir()
    }
    assert len(units) == 2
    (words,) = re.findall(rf"{INSTALLED} (.*)", text)
    done = subprocess.run([sys.executable, "-m", "veilscore", *words.split()[:2], "--help"], check=False, timeout=60,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0
    for unit in UNITS.glob("*.service"):
        name = unit.name.removesuffix(".service").replace("@", "@NAME")
        assert f"`{name}" in page
