"""Commands of consent, policies and published data sets, as a user types them."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.data.simulate import simulate
from veilscore.errors import ConfigError, IdentityError, VeilscoreError
from veilscore.node.founding import DataFiles, found_federation
from veilscore.release.consent import Signed, read_consent, read_revocations
from veilscore.terms.node_config import load_node_config

JOB = """
name: firms
purpose: credit
task: train_scorecard
bank: bank
holders: [tax]
datasets: {bank: main, tax: main}
"""


def veilscore(*words, exit_code=0):
    result = CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result.output


@pytest.fixture
def trial(tmp_path):
    simulate(300, 3, tmp_path / "data")
    found_federation(
        tmp_path / "trial", {"bank": "bank", "tax": "holder"}, data=DataFiles(tmp_path / "data"), exact=True
    )
    return tmp_path / "trial"


def firm_of(trial):
    return (trial.parent / "data" / "bank.csv").read_text().split("\n")[1].split(",")[0]


def test_a_trial_trusts_its_portal_and_a_consent_goes_its_way(trial, tmp_path):
    portal, issuers = trial / "consent-portal", load_node_config(trial / "tax").policy.consent_issuers
    assert json.loads((portal / "issuer.json").read_text())["public_key"] == issuers["consent-portal"]
    assert (portal / "issuer.key").stat().st_mode & 0o777 == 0o600
    token, some = tmp_path / "token.json", tmp_path / "list.json"
    veilscore("consent", "issue", portal, token, "--firm", firm_of(trial).lower(), "--purpose", "credit", "--reusable")
    data = tmp_path / "data" / "bank.csv"
    veilscore("consent", "issue", portal, some, "--firms", data, "--column", "uscc", "--purpose", "credit", "--days", 2)
    one = read_consent(Signed.from_text(token.read_text(), "t"), issuers)
    many = read_consent(Signed.from_text(some.read_text(), "l"), issuers)
    assert one.covers([firm_of(trial)])[0]
    assert not one.once
    assert len(many.commitments) == len(data.read_text().splitlines()) - 1
    assert many.scope.expires_s - many.scope.not_before_s == pytest.approx(2 * 86400)
    for file, folder in ((token, "tokens"), (some, "lists")):
        veilscore("consent", "import", file, "--federation", trial)
        assert len(list((trial / "bank" / "consents" / folder).glob("*.json"))) == 1
    revoked = tmp_path / "revoked.json"
    veilscore("consent", "revoke", portal, revoked, one.id)
    assert read_revocations(Signed.from_text(revoked.read_text(), "r"), issuers).revoked == {one.id}
    veilscore("consent", "import", revoked, "--federation", trial, "--party", "tax")
    assert list((trial / "tax" / "consents" / "revocations").glob("*.json"))
    shown = veilscore("consent", "list", portal)
    assert "revoked" in shown
    assert "valid" in shown


def test_what_consent_commands_refuse(trial, tmp_path):
    portal, data = trial / "consent-portal", tmp_path / "data" / "bank.csv"
    issue = ("consent", "issue", portal, tmp_path / "x.json", "--purpose", "credit")
    for words, text in (
        (issue, "either --firm"),
        ((*issue, "--firms", data, "--column", "nothing"), "no column"),
        ((*issue, "--firms", tmp_path / "absent.csv"), "not found"),
        (("consent", "keygen", portal, "--name", "portal"), "already"),
        (("consent", "revoke", portal, tmp_path / "r.json", "0" * 32), "not issued"),
        (("consent", "import", data, "--federation", trial), "not a consent document"),
    ):
        with pytest.raises(ConfigError, match=text):
            veilscore(*words)
    with pytest.raises(VeilscoreError, match="malformed"):
        veilscore(*issue, "--firm", "no id")
    assert not (tmp_path / "x.json").exists()


def test_policy_show_and_check(trial, tmp_path):
    shown = yaml.safe_load(veilscore("policy", "show", "--federation", trial, "--party", "tax"))["policy"]
    assert shown["consent"] == "required"
    assert shown["release"]["repeats_per_model"] == 2
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    assert "accepted" in veilscore("policy", "check", job, "--home", trial / "tax")
    path = trial / "tax" / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["policy"] |= {"accept": "manual", "purposes": ["marketing"]}
    path.write_text(yaml.safe_dump(content))
    assert "purpose 'credit'" in veilscore("policy", "check", job, "--home", trial / "tax", exit_code=1)
    content["policy"] |= {"purposes": [], "agreements": [{"banks": ["bank"]}]}
    path.write_text(yaml.safe_dump(content))
    assert "agreement 1" in veilscore("policy", "check", job, "--home", trial / "tax")


def test_dataset_publish_and_show(trial):
    veilscore("dataset", "publish", "main", "--federation", trial, "--party", "tax", "--mock", "mock.csv")
    file = trial / "tax" / "published" / "main.json"
    shown = veilscore("dataset", "show", file, "--federation", trial)
    assert "signature is right" in shown
    assert "tax.c1" in shown
    file.write_text(file.read_text().replace("mock.csv", "evil.csv"))
    with pytest.raises(IdentityError):
        veilscore("dataset", "show", file, "--federation", trial)
