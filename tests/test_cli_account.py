"""`veilscore account show` and `veilscore dataset bins`: what a steward sees of what was opened."""

import re

import pytest
from local_jobs import firms, run_job, write
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.files.store import write_text
from veilscore.release.account import FILE, Account
from veilscore.terms.privacy import PrivacyRules

NODE = """name: tax
role: holder
datasets:
  d: {path: tax.csv, id_column: firm}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("account")
    run = run_job(folder, firms(1500, seed=5), disclosure="private", holdout_scores=False)
    home = run.stores["tax"].path.parent.parent
    write_text(home / "node.yaml", NODE)
    write(home, {"tax": firms(1500, seed=5)["tax"]})
    return home


def said(*words):
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "TERM": "dumb"})
    return result.exit_code, " ".join(result.output.split())


def test_a_steward_sees_what_was_opened_and_what_it_adds_up_to(home):
    code, text = said("account", "show", "--home", str(home))
    assert code == 0
    assert "d, with bank" in text
    assert "cells, gradient, moments" in text
    assert "Within a year: mu 0.52 of 1" in text  # a job's 0.5 and the bins' 0.15
    assert "right at most 60% of the time" in text
    assert "Left: mu 0.85, enough for a job of mu 0.5" in text
    assert re.search(r"It refills .* (\d{4}-\d\d-\d\d) │ card-\S+ │ 0.52 │ 1.00", text)
    assert "Void" not in text
    Account(home / FILE, "d", "bank", PrivacyRules()).void("exact-job")
    assert "Void since" in said("account", "show", "--home", str(home))[1]


def test_nothing_opened_is_said(tmp_path):
    write_text(tmp_path / "node.yaml", NODE)
    assert "Nothing was opened to any bank yet" in said("account", "show", "--home", str(tmp_path))[1]


def test_bins_are_shown_and_renewed(home):
    code, first = said("dataset", "bins", "d", "--normaliser", "text", "--home", str(home))
    assert code == 0
    assert "turnover │ number" in first
    assert "charged mu 0.15 once" in first
    assert said("dataset", "bins", "d", "--normaliser", "text", "--home", str(home))[1] == first
    renewed = said("dataset", "bins", "d", "--renew", "--normaliser", "text", "--home", str(home))[1]
    assert renewed.split()[1] != first.split()[1]


def test_an_unknown_data_set_is_named(home):
    from veilscore.errors import ConfigError

    result = CliRunner().invoke(app, ["dataset", "bins", "other", "--home", str(home)])
    assert isinstance(result.exception, ConfigError)
    assert "no data set named 'other'; it has: d" in result.exception.message
