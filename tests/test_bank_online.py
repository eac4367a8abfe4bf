"""Applications, renewals and campaigns of a bank over the real decision: its own node, online and by a job."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import duckdb
import pytest
import sqlalchemy as sa
from bank_trial import SETTINGS, Clock, add_firms, new_url
from lending_contract import asked
from trial_decisions import expected
from trial_lending import (
    add_known_firms,
    consent_to_offers,
    give_tokens,
    lending_homes,
    lending_settings,
    note_all,
)
from trial_scoring import served
from typer.testing import CliRunner

from party_bank import applications
from party_bank.applications import by_ladder
from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import APPLICATIONS, CONSENTS, DECISIONS, OFFERS
from party_bank.firms import withdraw_consent
from party_bank.joint_batch import BatchJoint, _copy_csv, _copy_parquet
from party_bank.joint_online import OnlineJoint
from party_bank.own_node import OwnNode
from veilscore.cli import app
from veilscore.errors import BookError, ConfigError, DataError, PeerError
from veilscore.release.ledger import LEDGER, ONLINE, ReleaseLedger
from veilscore.release.token_choice import token_for
from veilscore.terms.node_config import DatasetConfig, load_node_config
from veilscore.v1 import control_pb2 as pb


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    homes = lending_homes(tmp_path_factory.mktemp("lending"))
    with served(homes):
        yield homes


def released_online(homes, holder="tax"):
    ledger = ReleaseLedger(homes / holder / LEDGER)
    try:
        return [one.reference for one in ledger.releases(0.0) if one.kind == ONLINE]
    finally:
        ledger.close()


@pytest.fixture
def bank(running):
    book = Book.of_home(running / "bank", lending_settings())
    yield SimpleNamespace(homes=running, book=book, firms=add_known_firms(running, book, 60))
    book.close()


def command(bank, *words, code=0):
    done = CliRunner().invoke(
        app, ["bank", *map(str, words), "--home", str(bank.homes / "bank")], env={"COLUMNS": "300", "TERM": "dumb"}
    )
    assert done.exit_code == code, f"{done.output} {done.exception}"
    return done.stdout if not code else f"{done.output} {done.exception}"


@pytest.mark.federation
@pytest.mark.slow
def test_an_application_is_decided_by_the_bank_s_own_node(bank):
    steps = expected(bank.homes, "admit")
    ladder = lending_settings().product("flow").ladder
    firms = [next(f for f in bank.firms if steps[f] == step) for step in sorted({steps[f] for f in bank.firms})]
    give_tokens(bank.homes, firms, "renewal")  # of another purpose: never sent
    tokens = give_tokens(bank.homes, firms, "application")
    note_all(bank.homes, bank.book)
    for firm in firms:
        amount = ladder[max(steps[firm], 1) - 1]
        words = ("application", "apply", firm, "--request", f"w-{firm}", "--product", "flow", "--amount", amount)
        said = command(bank, *words, "--online")
        assert ("approved, contract" if steps[firm] else "declined") in said
        assert command(bank, *words, "--online") == said
        assert not (bank.homes / "bank" / "consents" / "tokens" / f"{tokens[firm]}.json").exists()
    rows = bank.book.rows(sa.select(DECISIONS).where(DECISIONS.c.kind == "application").order_by(DECISIONS.c.id))
    assert [row["step"] for row in rows] == [steps[firm] for firm in firms]
    assert {tuple(sorted(row["holders"])) for row in rows} == {("registry", "tax")}
    assert {row["bits"] for row in rows} == {math.log2(6)}
    assert {len(row["model_sha256"]) for row in rows} == {64}
    assert len(released_online(bank.homes)) == len(firms)
    assert check_book(bank.book) == []


@pytest.mark.federation
@pytest.mark.slow
def test_what_a_holder_refuses_is_kept_and_goes_on_with_a_new_consent(bank):
    firm = bank.firms[-1]
    (spent,) = give_tokens(bank.homes, [firm], "application").values()
    note_all(bank.homes, bank.book)
    kept = bank.homes / "bank" / "consents" / "tokens" / f"{spent}.json"
    elsewhere = kept.rename(kept.with_suffix(".lost"))
    words = ("application", "apply", firm, "--request", "kept", "--product", "flow", "--amount", 20_000, "--online")
    said = command(bank, *words, code=1)
    assert "application/kept is kept and not decided yet, as " in said
    assert "refused it (the firm's consent is missing: send its token with the request): do the same again" in said
    (found,) = bank.book.rows(sa.select(APPLICATIONS).where(APPLICATIONS.c.request == "kept"))
    assert (found["status"], found["decision"]) == ("received", None)
    elsewhere.rename(kept)
    assert "application kept: " in command(bank, *words)
    with OwnNode(bank.homes / "bank") as node, pytest.raises(BookError, match="is about 2 firms: run a job for them"):
        OnlineJoint(bank.book, node)(bank.firms[:2], model="admit", purpose="application", reference="r")


@pytest.mark.federation
@pytest.mark.slow
def test_a_campaign_runs_its_job_for_its_firms_alone(bank):
    steps = expected(bank.homes, "limit")
    decided = {row["firm"] for row in bank.book.rows(sa.select(APPLICATIONS.c.firm))}  # some have a contract by now
    consented = [firm for firm in bank.firms if firm not in decided][:30]
    firms = consented[:20]
    consent_to_offers(bank.homes, consented)
    note_all(bank.homes, bank.book)
    for firm in consented[20:]:
        withdraw_consent(bank.book, firm, "proactive", "test")
    command(bank, "campaign", "create", "spring", "--product", "flow")
    said = command(bank, "campaign", "run", "spring", "--job", bank.homes / "campaign.yaml")
    assert "waiting for job campaign-" in said
    rows = bank.book.rows(sa.select(DECISIONS).where(DECISIONS.c.reference == "campaign/spring"))
    assert {row["firm"]: row["step"] for row in rows} == {firm: steps[firm] for firm in firms}
    text = (bank.homes / "bank" / "batches" / "firms.csv").read_text().splitlines()
    assert len(text) == 1 + len(firms)
    offers = {row["firm"] for row in bank.book.rows(sa.select(OFFERS))}
    assert offers == {firm for firm in firms if steps[firm]}
    command(bank, "campaign", "run", "spring", "--job", bank.homes / "campaign.yaml")
    assert len(list((bank.homes / "bank" / "jobs").glob("campaign-*"))) == 1
    assert check_book(bank.book) == []


class Nodes:
    """Stands for the bank's node where none is asked anything real: gives the answers of a list, in order."""

    def __init__(self, home, *answers) -> None:
        self.home, self.name, self.answers, self.asked = home, "bank", list(answers), []

    def ask(self, method, request, reply, timeout_s):
        assert (method, reply) == ("Score", pb.ScoreResponse)
        assert timeout_s > request.timeout_s
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def fresh(tmp_path):
    (tmp_path / "book").mkdir()
    book = Book(new_url(tmp_path / "book"), clock=Clock(time.time()))
    add_firms(book, ["A", "B"])
    yield book
    book.close()


def test_what_is_asked_again_has_the_same_id_and_the_consent_of_now(fresh, tmp_path, monkeypatch):
    home = tmp_path / "homes" / "bank"
    filed = SimpleNamespace(decision=SimpleNamespace(outcomes=6))
    monkeypatch.setattr(
        "party_bank.joint_online.filed_versions", lambda _home, _name, sha: iter([(filed, None)] * (sha == b"\1" * 32))
    )
    tax = pb.PartyStatus(party="tax", status="refused", reason="no")
    failed = pb.ScoreResponse(status="failed", parties=[tax])
    done = pb.ScoreResponse(
        status="scored", step=2, model_sha256=b"\1" * 32, parties=[pb.PartyStatus(party="tax", status="ok")]
    )
    nodes = Nodes(home, PeerError("bank cannot be reached"), failed, done)
    joint, homes = OnlineJoint(fresh, nodes), tmp_path / "homes"
    first = give_tokens(homes, ["A"], "application")["A"]
    note_all(homes, fresh)
    request = asked("A", amount=3_000_000)

    def once():
        return applications.apply(fresh, SETTINGS, joint, by_ladder, request, "test")

    with pytest.raises(BookError, match=r"^application/r-A is kept and not decided yet, as bank cannot be reached: do"):
        once()
    with pytest.raises(BookError, match=r"as tax refused it \(no\): do the same again$"):
        once()
    withdraw_consent(fresh, "A", "application", "test")
    with pytest.raises(BookError, match="A gave no consent for application that is valid now"):
        once()
    second = give_tokens(homes, ["A"], "application")["A"]
    note_all(homes, fresh)
    (home / "consents" / "tokens" / f"{first}.json").unlink()
    assert once()["status"] == "approved"
    with pytest.raises(BookError, match="decision admit was answered by its version 020202"):  # never by that in use
        joint._bits("admit", "02" * 32)
    assert {(one.request_id, one.firm_id, one.output, one.purpose) for one in nodes.asked} == {
        ("application/r-A", "A", "decision", "application")
    }
    assert (home / "consents" / "used" / f"{second}.json").exists()
    (decided,) = fresh.rows(sa.select(DECISIONS))
    (consent,) = fresh.rows(sa.select(CONSENTS).where(CONSENTS.c.id == decided["consent"]))
    assert consent["document"] == second
    assert check_book(fresh) == []


def test_a_token_is_chosen_by_its_purpose(tmp_path):
    ids = {purpose: give_tokens(tmp_path, ["A"], purpose)["A"] for purpose in ("application", "proactive", "renewal")}
    for purpose, ident in ids.items():
        assert token_for(tmp_path / "bank", ["A"], time.time(), "decide", tuple, purpose=purpose)[0].stem == ident
    assert token_for(tmp_path / "bank", ["A"], time.time(), "decide", tuple, purpose="report") is None


@pytest.mark.parametrize(
    ("datasets", "why"),
    [
        ({}, "has no data set batch"),
        ({"batch": {"path": "firms.csv", "id_column": "uscc"}}, r"give it a path in .*/batches, of the same kind"),
        ({"batch": {"path": "batches/x.parquet", "id_column": "uscc"}}, "both CSV, or both Parquet"),
        ({"batch": {"path": "batches/x.csv", "id_column": "uscc"}}, "data set main lacks 1 of 2 firms"),
    ],
)
def test_a_batch_overwrites_no_file_but_its_own(tmp_path, datasets, why):
    home = tmp_path / "bank"
    home.mkdir()
    (home / "main.csv").write_text('id,note\n a ,007\nb,"x, y"\n', encoding="utf-8")
    entries = {"main": {"path": "main.csv", "id_column": "id"}, **datasets}
    (home / "node.yaml").write_text(json.dumps({"name": "bank", "role": "bank", "datasets": entries}))
    joint = BatchJoint(None, OwnNode(home), load_node_config(home), home / "job", source="main", actor="test")
    with pytest.raises((ConfigError, DataError), match=why):
        joint._write("batch", {"a", "c"}, "text")
    if "lacks" in why:
        assert (home / "batches" / "x.csv").read_text().splitlines() == ["id,note", " a ,007"]


def not_b(ids):
    return [n for n, one in enumerate(ids) if one != "B"]


def test_a_batch_copies_rows_of_parquet(tmp_path):
    folder = tmp_path / "year=2026"  # no column of the file, whatever DuckDB makes of it
    folder.mkdir()
    source, target = (DatasetConfig(path=folder / name, id_column="id") for name in ("a[1].parquet", "b.parquet"))
    rows = duckdb.sql("SELECT * FROM (VALUES ('A', 1.5), ('B', NULL), ('C', 2.5)) AS t (id, v)")
    rows.write_parquet(str(source.path))
    assert _copy_parquet(source, target, not_b) == 2
    found = duckdb.read_parquet(str(target.path), hive_partitioning=False)
    assert (found.columns, found.fetchall()) == (["id", "v"], [("A", 1.5), ("C", 2.5)])
    assert target.path.stat().st_mode & 0o077 == 0
    with pytest.raises(DataError, match=r"a\[1\]\.parquet has no column 'uscc'; it has: id, v"):
        _copy_parquet(source.model_copy(update={"id_column": "uscc"}), target, not_b)


def test_a_batch_copies_rows_of_csv_in_the_encoding_of_each_file(tmp_path):
    source = DatasetConfig(path=tmp_path / "a.csv", id_column="编号", encoding="gb18030")
    target = DatasetConfig(path=tmp_path / "b.csv", id_column="编号")
    source.path.write_bytes("编号;名称\nA;甲 公司\nB;乙\nC;007\n".encode("gb18030"))
    assert _copy_csv(source, target, not_b) == 2
    assert target.path.read_text(encoding="utf-8") == "编号,名称\nA,甲 公司\nC,007\n"
    assert _copy_csv(source, target.model_copy(update={"encoding": "gb18030"}), not_b) == 2
    assert target.path.read_text(encoding="gb18030").startswith("编号,")


def test_a_token_for_another_bank_is_not_chosen_before_the_first_call(fresh, tmp_path, monkeypatch):
    home = tmp_path / "homes" / "bank"
    give_tokens(tmp_path / "homes", ["A"], "application", bank="other", expires_s=time.time() + 600)
    mine = give_tokens(tmp_path / "homes", ["A"], "application")["A"]
    (home / "node.yaml").write_text("{name: bank, role: bank}", encoding="utf-8")
    form = SimpleNamespace(decision=SimpleNamespace(purpose="application", bits=2.0), holders=("tax",))
    monkeypatch.setattr("veilscore.models.decided.load_decision", lambda *_: form)
    node = OwnNode(home)
    assert node.name == "bank"
    path, _ = OnlineJoint(fresh, node)._token("A", "admit", "application", "r")
    assert path.stem == mine
