"""What a user does after training: models, score, report, backup."""

from __future__ import annotations

import csv
import json
import re

import pytest
from finished_jobs import finished
from trial_scoring import copy_of, served, train
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, JobError, VeilscoreError
from veilscore.models.filed import load_model

WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def veilscore(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=WIDE)
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return copy_of(finished(train), tmp_path_factory.mktemp("trained"))


def firms_of(trained, party):
    with (trained / "data" / f"{party}.csv").open(encoding="utf-8") as file:
        return [row["uscc"] for row in csv.DictReader(file)]


def test_model_list_and_show(trained):
    model = load_model(trained / "bank" / "models" / "firms" / "model.json")
    assert model.sha256.hex()[:16] in veilscore("model", "list", "--federation", trained)
    text = veilscore("model", "show", "firms", "--federation", trained)
    for part in model.parts:
        assert all(column.name in text for column in part.columns)
    assert model.sha256.hex() in text
    assert "gradients opened" in text


def test_export_and_import_keep_the_hash(trained, tmp_path):
    veilscore("model", "export", "firms", tmp_path / "m.json", "--federation", trained)
    model = load_model(tmp_path / "m.json")
    assert model.sha256 == load_model(trained / "bank" / "models" / "firms" / "model.json").sha256
    with pytest.raises(ConfigError, match="exists already"):
        veilscore("model", "import", tmp_path / "m.json", "--federation", trained)
    home = tmp_path / "home"
    home.mkdir()
    (home / "node.yaml").write_text("name: bank\nrole: bank\n")
    text = veilscore("model", "import", tmp_path / "m.json", "--home", home)
    assert "code map" in text
    assert load_model(home / "models" / "firms" / "model.json").sha256 == model.sha256


def test_a_changed_model_is_refused(trained, tmp_path):
    veilscore("model", "export", "firms", tmp_path / "m.json", "--federation", trained)
    body = json.loads((tmp_path / "m.json").read_text())
    body["model"]["base_points"] += 1
    (tmp_path / "m.json").write_text(json.dumps(body))
    with pytest.raises(ConfigError, match="changed after training"):
        veilscore("model", "import", tmp_path / "m.json", "--federation", trained)


def test_unknown_model_says_how_to_list():
    with pytest.raises(ConfigError, match="no node's home"):
        veilscore("model", "show", "firms", "--home", "nowhere")


def test_backup_and_restore_keep_what_a_model_needs(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("VEILSCORE_BACKUP_PASSPHRASE", "correct horse battery staple")
    file, home = tmp_path / "tax.veilscore", tmp_path / "tax"
    said = veilscore("backup", file, "--federation", trained, "--party", "tax")
    assert "not in it: data set main" in said
    assert file.stat().st_mode & 0o777 == 0o600
    veilscore("restore", file, home)
    name = "models/firms/code_map.json"
    assert (home / name).read_bytes() == (trained / "tax" / name).read_bytes()


def consent(trained, firm, file):
    veilscore("consent", "issue", trained / "consent-portal", trained / file, "--firm", firm, "--purpose", "credit")
    veilscore("consent", "import", trained / file, "--federation", trained)


def test_score_and_report(trained):
    known = sorted(set(firms_of(trained, "bank")) & set(firms_of(trained, "tax")) & set(firms_of(trained, "registry")))
    unknown = sorted(set(firms_of(trained, "bank")) - set(firms_of(trained, "tax")))
    arguments = ("--model", "firms", "--federation", trained)
    with served(trained):
        without = veilscore("score", known[0], *arguments, exit_code=1)
        assert "consent is missing" in " ".join(without.split())
        consent(trained, known[0], "known.json")
        text = veilscore("score", known[0], *arguments, "--request-id", "loan-1")
        assert "scored" in text
        assert "consent is missing" in " ".join(veilscore("score", known[0], *arguments, exit_code=1).split())
        consent(trained, unknown[0], "unknown.json")
        assert "points" in text
        again = veilscore("score", known[0], *arguments, "--request-id", "loan-1")
        assert again == text
        refused = veilscore("score", unknown[0], *arguments, "--on-missing", "fail", exit_code=1)
        assert "failed" in refused
        assert "unknown" in refused
        assert "fallback" in veilscore("score", unknown[0], *arguments)
        consent(trained, known[1], "band.json")
        band = veilscore("score", known[1], *arguments, "--output", "band")
        assert re.search(r"scored\s+band (low|middle|high|below all bands) \(model firms", band)
        assert not any(word in band for word in ("points", "probability", "cost most"))
        with pytest.raises(JobError, match="no job"):
            veilscore("report", "nothing", "--federation", trained)
