"""docs/integration.md as printed, on real nodes: its blocks run, its table is the code's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from consent_issuer import token
from finished_jobs import finished
from trial_decisions import expected, file_decisions
from trial_scoring import copy_of, known_to_all, scoring

from veilscore.files.private import private_folder
from veilscore.node.founding import free_ports
from veilscore.release.issuer import import_consent
from veilscore.terms.door import PROBLEMS

PAGE = (ROOT / "docs" / "integration.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(yaml|bash|python)\n(.*?)```", PAGE, re.DOTALL)
FIRM = "91310000MA1K35TQ6F"


def run(kind, text, folder):
    command = {"bash": ["bash", "-euc", text], "python": [sys.executable, "-W", "error", "-c", text]}[kind]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.federation
@pytest.mark.slow
def test_the_page_works_as_printed(tmp_path):
    homes = copy_of(finished(file_decisions), private_folder(tmp_path / "homes"))
    firm, at = known_to_all(homes)[0], tmp_path / "desk"
    at.mkdir()
    ports = dict(zip(("7443", "7444"), map(str, free_ports(2)), strict=True))

    def printed(text):
        for word, stands in (
            {FIRM: firm, "joint-best": "firms", "proactive-limit": "limit", "/srv/bank": str(homes / "bank")} | ports
        ).items():
            text = text.replace(word, stands)
        return text

    (kind, section), (_, added), *asking = [(kind, printed(text)) for kind, text in BLOCKS]
    assert kind == "yaml"
    node = homes / "bank" / "node.yaml"
    node.write_text(yaml.safe_dump(yaml.safe_load(node.read_text()) | yaml.safe_load(section)))
    kept = import_consent(homes / "bank", token(firm), "token", "1")
    import_consent(homes / "bank", token(firm, purpose="proactive", tasks=("decide",)), "token", "2")
    assert "loan-desk may ask for: score, decide" in run("bash", added, at)

    async def scenario():
        async with scoring(homes):
            return [await asyncio.to_thread(run, *block, at) for block in asking]

    by_curl, by_client, by_grpc, decision = asyncio.run(scenario())
    answer = json.loads(by_curl)
    assert (answer["status"], answer["request_id"], answer["model"]) == ("scored", "application-4711", "firms")
    assert [(p["party"], p["status"]) for p in answer["parties"]] == [("tax", "ok"), ("registry", "not disclosed")]
    assert int(decision.split()[0]) == expected(homes, "limit")[firm]
    assert by_client.startswith(f"scored {answer['step']} {answer['probability_of_default']} ")
    assert by_grpc.strip() == str(answer["step"])
    assert not kept.exists()  # it served one request and was set aside; the others were repeats
    log = (homes / "bank" / "log").glob("*") if (homes / "bank" / "log").exists() else ()
    assert not any(firm in path.read_text() for path in log)


def test_the_table_of_problems_is_the_codes():
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \| (\w+) \| (yes|no)", PAGE, re.MULTILINE)
    made = [(kind, str(s), status, "yes" if again else "no") for kind, (s, status, _, again) in PROBLEMS.items()]
    assert rows == made
