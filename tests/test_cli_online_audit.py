"""`veilscore audit` on online scores after a job that real nodes ran: sample, bundle of chosen requests, exit codes."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from consent_issuer import ISSUERS, OFTEN, give_list
from test_cli_audit import JOB, veilscore
from trial_federation import submit
from trial_online_audit import known, logged, released, witnessed
from trial_scoring import PARTIES, copy_of, rows, scoring, set_policy

from veilscore.data.simulate import simulate
from veilscore.errors import ConfigError, EvidenceError
from veilscore.evidence.online_archive import FOLDER, POOLS
from veilscore.node.founding import DataFiles, found_federation
from veilscore.v1 import control_pb2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A scorecard trained by nodes under a coordinator, and three scores given online."""
    folder = tmp_path_factory.mktemp("federation")
    simulate(1800, 3, folder / "data")
    found_federation(folder, PARTIES, data=DataFiles(folder / "data"), exact=True)
    for party in PARTIES:
        set_policy(folder, party, disclose_unknown=True, consent_issuers=ISSUERS, release=OFTEN)
    give_list(folder / "bank", rows(folder, "bank"))
    column = (folder / "data" / "bank.csv").read_text().split("\n")[0].split(",")[-1]

    async def work():
        async with scoring(folder) as command:
            job_id = await submit(command, JOB.replace("max_bin: 4", "max_bin: 4, bands: {low: 0, high: 550}") % column)
            ref = control_pb2.JobRef(job_id=job_id)
            async with asyncio.timeout(120):
                return job_id, [e async for e in command.stream("coordinator", "WatchJob", ref, control_pb2.JobEvent)]

    job_id, events = asyncio.run(work())
    assert (folder / "bank" / "evidence" / "receipts" / f"{job_id}.json").is_file(), events[-1]
    released(folder, known(folder, 3))
    return folder, job_id


def logs(folder):
    return "--log", folder / "tax", "--log", folder / "registry"


def test_a_sample_of_scores_is_confirmed_from_the_home(trained):
    folder, job_id = trained
    shown = veilscore("audit", "--bank", folder / "bank", "--sample", 1, "--online", 2, "--seed", 1, *logs(folder))
    assert "1 of 4 attempts drawn" in shown
    assert "2 of 3 online requests drawn" in shown
    assert shown.count("online tax") == shown.count("online registry") == 2
    assert "differs" not in shown
    twice = (*logs(folder), *logs(folder))
    shown = veilscore("audit", "--bank", folder / "bank", "--step", "online", "--online", 0, *twice)
    assert shown.count("confirmed") == 6
    assert "attempts drawn" not in shown
    assert job_id in shown
    shown = veilscore("audit", "--bank", folder / "bank", "--job", job_id, *logs(folder))
    assert "online requests" not in shown
    with pytest.raises(EvidenceError, match="no receipt or log shows"):
        veilscore("audit", "--bank", folder / "bank", "--step", "online")


def test_a_bundle_opens_the_requests_that_were_drawn_and_no_others(trained, tmp_path):
    folder, _ = trained
    keys = ("--keys", folder / "tax" / "federation.yaml")
    # the auditor draws by the holders' logs alone, and asks the bank for what was drawn
    draw = ("--step", "online", "--online", 1, "--seed", 4)
    shown = veilscore("audit", "--bank", tmp_path / "none", *keys, *draw, *logs(folder), exit_code=1)
    (drawn,) = {one.request for one in logged(folder) if one.request in shown}
    out = tmp_path / "bundle"
    command = ("audit", "export", "online", "--out", out, "--home", folder / "bank", "--request", drawn)
    assert "openings of 2 parts of scores" in veilscore(*command)
    assert len(list((out / FOLDER).glob("*.json"))) == len(list((out / FOLDER).glob("*.reply"))) == 2
    assert out.stat().st_mode & 0o777 == 0o700
    assert veilscore("audit", "--bank", out, *keys, *draw, *logs(folder)).count("confirmed") == 2
    shown = veilscore("audit", "--bank", out, *keys, "--step", "online", "--online", 0, *logs(folder), exit_code=1)
    assert shown.count("confirmed") == 2
    assert shown.count("cannot be audited") == 4
    with pytest.raises(ConfigError, match="exists already"):
        veilscore(*command)
    whole = tmp_path / "whole"
    veilscore("audit", "export", "online", "--out", whole, "--home", folder / "bank")
    shown = veilscore("audit", "--bank", whole, *keys, "--step", "online", "--online", 0, *logs(folder))
    assert shown.count("confirmed") == 6


def test_deleted_openings_end_with_an_error_that_says_so(trained, tmp_path):
    folder, _ = trained
    home = tmp_path / "bank"
    shutil.copytree(folder / "bank", home)
    assert "Online scores cannot be audited any more" in veilscore("audit", "delete", "online", "--home", home)
    keys = ("--keys", folder / "tax" / "federation.yaml")
    shown = veilscore("audit", "--bank", home, *keys, "--step", "online", *logs(folder), exit_code=1)
    assert shown.count("cannot be audited") == 6
    with pytest.raises(ConfigError, match="no openings"):
        veilscore("audit", "delete", "online", "--home", home)


def test_a_band_is_drawn_shown_and_exported(trained, tmp_path):
    folder = copy_of(trained[0], tmp_path / "homes")
    released(folder, known(folder, 4)[3:], output="band", prefix="b")
    (band,) = witnessed(folder).circuits
    audited = ("--step", "online", "--online", 0, *logs(folder))
    assert "online band tax" in veilscore("audit", "--bank", folder / "bank", *audited)
    out = tmp_path / "bundle"
    veilscore("audit", "export", "online", "--out", out, "--home", folder / "bank", "--request", band.request)
    assert len(list((out / FOLDER).glob("*.json"))) == 2
    assert [path.name for path in (out / FOLDER / POOLS).iterdir()] == [band.commitment]
    shown = veilscore("audit", "--bank", out, "--keys", folder / "tax" / "federation.yaml", *audited, exit_code=1)
    assert shown.count("confirmed") == 3  # the others are not in the bundle
