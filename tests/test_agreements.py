"""Published data sets, standing rules and periods, and that only what was approved runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import pytest
from consent_issuer import give_list
from local_jobs import firms, nodes, write
from local_jobs import job as batch_job
from trial_federation import SCORECARD, commanding, make_homes, open_trial, running, show, submit, toy_job, watch

from veilscore.errors import ConfigError, IdentityError, ProtocolError, RefusedError
from veilscore.files.digests import code_digest
from veilscore.keys.identity import load_identity
from veilscore.node.founding import DataFiles, found_federation
from veilscore.node.local import open_job
from veilscore.release import binding
from veilscore.release.binding import bound_now, check_bound, with_model_version
from veilscore.release.catalogue import publish, read_published, verify_published
from veilscore.tasks.table import answer_to
from veilscore.terms import policy as node_policy
from veilscore.terms.acceptance import verify_acceptance
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import load_node_config
from veilscore.terms.parameters import ScoreBatch
from veilscore.terms.policy import NodePolicy
from veilscore.terms.rules import StandingRule

TODAY = dt.date(2026, 2, 3)
DAY = dt.timedelta(days=1)


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        ({"accept": "manual"}, "pending"),
        ({"accept": "auto"}, "accepted"),
        ({"agreements": [{"banks": ["bank"], "purposes": ["credit"], "tasks": ["toy"]}]}, "accepted"),
        ({"agreements": [{"banks": ["other"]}, {"datasets": ["main"]}]}, "accepted"),
        ({"agreements": [{"purposes": ["marketing"]}]}, "pending"),
        ({"agreements": [{"valid_to": str(TODAY - DAY)}]}, "pending"),
        ({"agreements": [{"valid_from": str(TODAY), "valid_to": str(TODAY)}]}, "accepted"),
        ({"accept": "auto", "valid_from": str(TODAY + DAY)}, "refused"),
        ({"accept": "auto", "valid_to": str(TODAY - DAY)}, "refused"),
        ({"agreements": [{}], "purposes": ["marketing"]}, "refused"),
    ],
)
def test_standing_rules_accept_without_a_person(tmp_path, monkeypatch, policy, answer):
    monkeypatch.setattr(node_policy, "utc_today", lambda: TODAY)  # midnight may come between collection and this
    config = load_node_config(make_homes(tmp_path) / "tax")
    config = config.model_copy(update={"policy": NodePolicy.model_validate(policy)})
    assert answer_to(toy_job(), config).status == answer


def test_rules_that_cannot_be():
    with pytest.raises(ValueError, match="after valid_to"):
        StandingRule(valid_from=TODAY, valid_to=TODAY - DAY)
    with pytest.raises(ValueError, match="did you mean 'min_batch'"):
        NodePolicy(release={"min_bach": 3})
    with pytest.raises(ValueError, match="pattern"):
        NodePolicy(consent_issuers={"portal": "short"})


def test_a_band_policy_refuses_score_jobs(tmp_path):
    config = load_node_config(make_homes(tmp_path) / "tax")
    config = config.model_copy(
        update={"policy": NodePolicy(accept="auto", exact_for={"bank": dt.date.max}, release={"output": "band"})}
    )
    text = parse_job(f"{SCORECARD}parameters: {{disclosure: exact}}\n").canonical().decode()
    job = json.loads(text) | {"task": "score_batch", "parameters": {"model": "m", "on_missing": "missing_code"}}
    for asked in (job, json.loads(text)):  # the second one wants hold-out scores
        decision = answer_to(parse_job(json.dumps(asked)), config)
        assert decision.status == "refused"
        assert "bands only" in decision.reason
        key, bands = ("output", {}) if asked is job else ("holdout_output", {"bands": {"A": 600}})
        banded = {**asked, "parameters": {**asked["parameters"], key: "band", **bands}}
        assert f"set {key}: band" in decision.reason
        assert answer_to(parse_job(json.dumps(banded)), config).status == "accepted"
    quiet = json.loads(text) | {"parameters": {"holdout_scores": False}}
    assert answer_to(parse_job(json.dumps(quiet)), config).status == "accepted"


# --- what was approved is what runs ----------------------------------------------------------------------------------


def run_toy(folder, change):
    """Submit at a manual tax office, change something there once the job waits or runs, approve."""
    (folder / "tax" / "data.csv").write_text("uscc\n1\n")

    async def scenario():
        trial = open_trial(folder)
        async with running(trial), commanding(folder / "bank") as command:
            (folder / "tax" / "fault_bin").write_text("data")  # the job fails once in step bin, after align
            job_id = await submit(command)
            await watch(command, job_id)
            change(folder)
            from veilscore.v1 import control_pb2

            await command.call(
                "coordinator", "Resume", control_pb2.JobRef(job_id=job_id), control_pb2.JobInfo, timeout_s=5
            )
            await watch(command, job_id)
            return await show(command, job_id), trial["tax"].ledger.entry(job_id)

    return asyncio.run(scenario())


def test_a_job_goes_on_where_nothing_changed(tmp_path):
    info, entry = run_toy(make_homes(tmp_path), lambda _: None)
    assert info.status == "done"
    assert set(entry.bound) == {"code", "dataset", "policy"}


def test_a_changed_data_set_is_refused(tmp_path):
    info, _ = run_toy(make_homes(tmp_path), lambda home: (home / "tax" / "data.csv").write_text("uscc\n2\n"))
    assert info.status == "failed"
    assert "data set version at tax changed" in info.error


def test_changed_code_is_refused(tmp_path, monkeypatch):
    info, _ = run_toy(make_homes(tmp_path), lambda _: monkeypatch.setattr(binding, "code_digest", lambda: "other"))
    assert info.status == "failed"
    assert "code at" in info.error


def test_each_difference_is_named():
    agreed = {"code": "a", "dataset": "b", "model": "c", "policy": "p"}
    check_bound(agreed, agreed | {"policy": "q"}, "tax")
    for name, text in (("code", "code at tax"), ("dataset", "data set version"), ("model", "model version")):
        with pytest.raises(RefusedError, match=text):
            check_bound(agreed, agreed | {name: "x"}, "tax")
    with pytest.raises(RefusedError, match="code and model version"):
        check_bound(agreed, {"dataset": "b"}, "tax")


def test_what_is_bound_is_salted_and_follows_the_files(tmp_path):
    folder = make_homes(tmp_path)
    for party in ("tax", "registry"):
        (folder / party / "data.csv").write_text("uscc\n1\n")
    job = toy_job()
    tax, registry = (bound_now(folder / p, load_node_config(folder / p), job) for p in ("tax", "registry"))
    assert tax["code"] == registry["code"] == code_digest()
    assert tax["dataset"] != registry["dataset"]  # the same bytes under two salts
    assert tax == bound_now(folder / "tax", load_node_config(folder / "tax"), job)
    (folder / "tax" / "data.csv").write_text("uscc\n2\n")
    assert bound_now(folder / "tax", load_node_config(folder / "tax"), job)["dataset"] != tax["dataset"]
    assert (folder / "tax" / "state" / "binding.key").stat().st_mode & 0o777 == 0o600


def test_the_signature_covers_what_is_bound(tmp_path):
    async def scenario():
        trial = open_trial(make_homes(tmp_path))
        async with running(trial), commanding(tmp_path / "bank") as command:
            job_id = await submit(command)
            await watch(command, job_id)
            return job_id, await show(command, job_id)

    job_id, info = asyncio.run(scenario())
    answer = next(a for a in info.acceptances if a.party == "tax")
    certificate = load_identity(tmp_path / "tax" / "identity").certificate
    verify_acceptance(answer, certificate, job_id, toy_job())
    assert json.loads(answer.bound)["code"] == code_digest()
    answer.bound = answer.bound.replace(code_digest(), "0" * 64)
    with pytest.raises(IdentityError, match="signature"):
        verify_acceptance(answer, certificate, job_id, toy_job())
    answer.bound = "x" * 5000
    with pytest.raises(ProtocolError, match="too long"):
        verify_acceptance(answer, certificate, job_id, toy_job())


def test_a_batch_runs_with_the_approved_model_alone(tmp_path):
    folder = write(tmp_path / "data", firms(300, seed=3))
    open_job(batch_job(holdout_fraction=0, max_openings=4), nodes(folder), tmp_path).run()
    parts = firms(100, seed=5, prefix="new", coverage=1)
    folder = write(tmp_path / "batch", parts)
    give_list(tmp_path / "bank", parts["bank"]["firm"])
    plain = batch_job("score_batch", name="batch", model="card", on_missing="missing_code")
    stated = with_model_version(plain, tmp_path / "bank")
    assert stated.of(ScoreBatch).model_sha256
    assert with_model_version(stated, tmp_path / "bank") is stated
    open_job(stated, nodes(folder), tmp_path).run()
    wrong = batch_job("score_batch", name="batch", model="card", on_missing="missing_code", model_sha256="ab" * 32)
    with pytest.raises(RefusedError, match="model version differs"):
        open_job(wrong, nodes(folder), tmp_path).run()


# --- publication -----------------------------------------------------------------------------------------------------


@pytest.fixture
def founded(tmp_path):
    parts = firms(420, seed=2)
    folder = write(tmp_path / "data", parts)
    found_federation(
        tmp_path / "trial", {"bank": "bank", "tax": "holder"}, data=DataFiles(folder, "firm", "default"), exact=True
    )
    return tmp_path / "trial", parts


@pytest.mark.parametrize("names", [False, True])
def test_a_published_data_set_tells_no_row(founded, names):
    folder, parts = founded
    home = folder / "tax"
    config = load_node_config(home)
    config = config.model_copy(update={"policy": NodePolicy(publish_column_names=names, purposes=("credit",))})
    # ids of these made-up firms are text, so the file is read with the kind of id that fits
    identity = load_identity(home / "identity")
    path = publish(home, config, "main", identity, mock="mock.csv", normaliser="text")
    content = verify_published(read_published(path.read_text(), "file"), identity.certificate)
    assert content.n_rows == 400
    assert content.mock == "mock.csv"
    assert content.terms["purposes"] == ["credit"]
    shown = [c.name for c in content.columns]
    assert shown == (["arrears", "turnover", "turnover_again"] if names else ["tax.c1", "tax.c2", "tax.c3"])
    assert {c.kind for c in content.columns} == {"number"}
    assert content.columns[0].missing_percent > 0
    assert not any(firm in path.read_text() for firm in parts["tax"]["firm"])


def test_a_publication_is_the_owners_alone(founded):
    folder, _ = founded
    home = folder / "tax"
    identity = load_identity(home / "identity")
    path = publish(home, load_node_config(home), "main", identity, normaliser="text")
    text = path.read_text()
    with pytest.raises(IdentityError):
        verify_published(read_published(text, "f"), load_identity(folder / "bank" / "identity").certificate)
    with pytest.raises(IdentityError):
        verify_published(read_published(text.replace("number", "figure"), "f"), identity.certificate)
    for wrong in ("", "{}", "[]", '{"body": "{}", "signature": ""}'):
        with pytest.raises(ConfigError):
            read_published(wrong, "f")
    with pytest.raises(ConfigError, match="no data set named"):
        publish(home, load_node_config(home), "absent", identity)
