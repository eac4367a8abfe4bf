"""The story of docs/bank.md, run as it stands; the table of settings has every key."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shlex

import pytest
import yaml
from conftest import ROOT
from page_story import typed
from typer.testing import CliRunner

from party_bank.book_tables import TRANSITIONS
from party_bank.offers import secret_of
from party_bank.settings import BankSettings
from veilscore.cli import app
from veilscore.errors import ConfigError
from veilscore.files.home_key import home_key
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import parse

TEXT = (ROOT / "docs" / "bank.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def bank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bank").mkdir(mode=0o700)
    (tmp_path / "bank" / "node.yaml").write_text("{name: bank, role: bank}\n", encoding="utf-8")
    settings, node = [text for kind, text in BLOCKS if kind == "yaml"]
    assert set(parse(NodeConfig, {"name": "bank", "role": "bank", **yaml.safe_load(node)}, "node").datasets) == {
        "main",
        "batch",
    }
    (tmp_path / "bank" / "bank.yaml").write_text(settings, encoding="utf-8")
    names = ("firms.csv", "decisions.csv", "watched.csv", "levels.csv", "overdue.csv")
    for name, text in zip(names, (t for kind, t in BLOCKS if kind == "csv"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("OFFER_SECRET", secret_of(home_key(tmp_path / "bank"), "O0000001"))
    return tmp_path


def test_the_story_runs(bank):
    said = {}
    for words, text in typed(BLOCKS):
        said.setdefault(" ".join(words[1:3]), []).append(text)
    assert said["book consents"] == ["8 consents added ", "1 consents added "]
    assert said["warning firms"] == ["id F002 "]
    assert re.search(r"watched +. +1 ", said["warning run"][0])
    assert said["warning run"][0] == said["warning run"][1]
    assert "look at its account" in said["warning list"][0]
    assert said["warning settle"] == ["case W0000001: closed, true "]
    assert said["warning report"] == [
        "no month is over yet: one is 3 months after its levels were told 1 alarms; cases closed: true 1; open: 0 "
    ]
    assert "drawn to watched" in said["book history"][0].replace("from drawn, to watched", "drawn to watched")
    assert said["campaign create"] == ["campaign spring: 4 candidates "]
    assert said["campaign candidates"] == ["id F001 F002 F003 F004 "]
    run = re.sub(r"[^\w ]", "", said["campaign run"][0])
    assert re.findall(r"(declined|offered) +(\d)", run) == [("declined", "2"), ("offered", "2")]  # one building fits
    assert said["application apply"][0].startswith("application web-1: approved, contract C0000001")
    assert said["contract repay"] == ["contract C0000001: 25,000.00 CNY owed "]
    assert said["renewal prepare"] == ["renewal of C0000001: proposed: 100,000.00 CNY for 12 months "]
    assert said["renewal accept"] == ["contract C0000001 is renewed by C0000002 "]
    assert "bits left" in said["portrait F004"][0]
    assert "expire" in said["due --home"][0]
    assert said["due --home"][1] == "nothing is due "
    assert said["book check"] == ["the book balances "]


def test_without_the_extra_one_sentence_says_how_to_install_it(monkeypatch):
    import veilscore.cli.bank

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"segno", "zen"} else real(name))
    with pytest.raises(
        ConfigError, match=r"^`veilscore bank` needs segno, zen: run `pip install 'veilscore\[bank\]'`$"
    ):
        importlib.reload(veilscore.cli.bank)


def test_the_page_has_every_key_and_transition():
    table = TEXT.split("| key | meaning |")[1].split("\n\n")[0]
    rows = table.splitlines()[2:]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} == set(
        BankSettings.model_fields
    )
    shown = {
        row.split("|")[1].strip(): set(re.sub(r"\(.*?\)", "", row.split("|")[2]).replace(" ", "").split(","))
        for row in TEXT.split("| from | to |")[1].split("\n\n")[0].splitlines()[2:]
    }
    assert shown == {state: set(targets) for state, targets in TRANSITIONS.items() if targets}


def test_the_timer_of_systemd_runs_a_command_that_exists():
    """Both units have the keys that systemd asks for, and the service runs `bank due` as it is."""
    [text] = [text for kind, text in BLOCKS if kind == "ini"]
    units = {}
    for name, unit in re.findall(r"^# /etc/systemd/system/(\S+)\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE):
        units[name] = configparser.ConfigParser(interpolation=None)
        units[name].optionxform = str
        units[name].read_string(unit)
    assert set(units) == {"veilscore-due.service", "veilscore-due.timer"}
    assert units["veilscore-due.service"]["Service"]["Type"] == "oneshot"
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d", units["veilscore-due.timer"]["Timer"]["OnCalendar"])
    assert units["veilscore-due.timer"]["Install"]["WantedBy"] == "timers.target"
    program, *words = shlex.split(units["veilscore-due.service"]["Service"]["ExecStart"])
    assert program.endswith("/bin/veilscore")
    helped = CliRunner().invoke(app, [*words[:2], "--help"])
    assert helped.exit_code == 0
    assert [word for word in words if word.startswith("--") and word not in helped.output] == []
    cron = re.search(r"line of cron: `0 6 \* \* \* veilscore (\S+) (.*?)`", TEXT)
    assert (cron[1], shlex.split(cron[2])) == (program, words)
