"""Every block of the README is run, and shows what a reader will see."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
FIGURE, MAKE, DEMO, USE, NOTEBOOK = range(5)


def shown(text):
    """The text with figures and bands that noise changes, line breaks and widths of tables taken out."""
    return re.sub(r"\s+", " ", re.sub(r"[\d,.]+\d|\d", "#", re.sub(r"band [A-E]\b", "band A", text)))


def run(command, folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "COLUMNS": "110"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_blocks_are_those_that_are_run_here():
    assert [language for language, _ in BLOCKS] == ["", "", "", "", "python"]
    assert "mutual TLS" in BLOCKS[FIGURE][1]
    assert re.findall(r"^make (\w+)", BLOCKS[MAKE][1], re.MULTILINE) == ["demo", "test"]
    for _, block in BLOCKS:
        assert max(map(len, block.splitlines())) <= 100


@pytest.mark.slow
@pytest.mark.federation
def test_the_demonstration_shows_what_the_readme_says(tmp_path):
    folder = tmp_path / "demo-run"
    said = shown(run([sys.executable, ROOT / "examples" / "demo.py", "--folder", folder], ROOT)).replace(
        shown(str(folder)), "demo-run"
    )
    for line in BLOCKS[DEMO][1].splitlines():
        for part in line.split("..."):
            assert shown(part).strip() in said, part


@pytest.mark.slow
@pytest.mark.federation
def test_what_stands_under_use_it_works_as_printed(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    begin, ask = BLOCKS[USE][1].split("veilscore consent issue", 1)
    run(["sh", "-ec", begin], tmp_path)
    firm = (tmp_path / "trial" / "data" / "bank.csv").read_text().splitlines()[1].split(",")[0]
    try:
        said = run(["sh", "-ec", f"veilscore consent issue{ask}".replace("FIRM_ID", firm)], tmp_path)
        assert re.search(r"about \d+(\.\d)? points \(step \d+ of 32\)", said)
    finally:
        run(["veilscore", "down", "trial"], tmp_path)
    run([sys.executable, "-c", BLOCKS[NOTEBOOK][1]], tmp_path)
