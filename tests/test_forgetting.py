"""A firm is forgotten in real homes: nothing names it but what is told, after any kill, and the log says so."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from bank_trial import Clock, add_line, consent, lend
from conftest import ROOT
from consent_issuer import token
from finished_jobs import finished
from trial_federation import until
from trial_lending import SETTINGS, add_known_firms
from trial_scoring import copy_of, score_all
from typer.testing import CliRunner

from party_bank.assistants.sections import folder_of
from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import CONTRACTS, DECISIONS, FIRMS, HISTORY, LINES, REPORTS
from party_bank.contracts import end
from party_bank.portal.store import OwnerStore
from party_bank.settings import BankSettings
from veilscore.cli import app
from veilscore.errors import BookError, EvidenceError
from veilscore.evidence.erasures import erasures
from veilscore.evidence.receipt import ScoreTree
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.process import running_pid
from veilscore.files.journal import Journal
from veilscore.files.naming import naming
from veilscore.files.private import private_folder
from veilscore.node import processes
from veilscore.node.forgetting import Subject, forget, keepers_of, plan
from veilscore.node.retention import sweep, too_old
from veilscore.release.consent import claim_of
from veilscore.release.issuer import import_consent
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config

DAY_S = 86400.0


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Homes that know three firms everywhere: batch, receipts, tokens, book, portal, reports; and their ids."""
    homes = copy_of(finished(score_all), tmp_path_factory.mktemp("lived") / "homes")
    home = homes / "bank"
    (home / "bank.yaml").write_text(yaml.safe_dump(SETTINGS))
    (job,) = home.glob("jobs/batch-*")
    private_folder(home / "evidence" / "openings")
    (home / "evidence" / "openings" / f"{job.name}.json").write_text(json.dumps({"seed": "ab" * 32}))
    with opened(home) as book:
        firms = add_known_firms(homes, book, 3)
        consent(book, firms, "proactive", "application")
        with book.writing("test") as entry:
            for firm in firms:
                line = add_line(entry, firm)
                about = {"kind": "application", "reference": f"application/web-{firm}", "model": "m", "step": 1}
                about |= {
                    "model_sha256": "ab" * 32,
                    "measure": "",
                    "holders": ["tax"],
                    "bits": 2.0,
                }
                about |= {
                    "reasons": ["turnover"],
                    "policy": "",
                    "policy_sha256": "",
                    "policy_row": "",
                }
                about |= {
                    "outcome": "opened",
                    "inputs": {"asked": 5, "basis": "b", "firm": firm},
                    "decided_by": "t",
                    "consent": None,
                }
                entry.add(DECISIONS, firm=firm, line=line, **about, decided_s=entry.at_s)
                where = folder_of(home, firm)
                private_folder(where)
                (where / "credit-1.json").write_text(f"about {firm}")
                entry.add(REPORTS, firm=firm, kind="credit", path=f"x/{firm}", sha256="ab", as_of=entry.today)
    store = OwnerStore(home)
    for firm in firms:
        store.link(firm, 1.0, [], "lin")
        signed = token(firm)
        import_consent(home, signed, "token", claim_of(signed).id)
    store.close()
    for name in ("evidence/online.db", "state/online.db"):
        journal = Journal(home / name)
        for firm in firms:
            journal.keep(f"bank/web-{firm}", b"", f'{{"firm_id": "{firm}"}}'.encode(), b"rest")
        journal.close()
    private_folder(home / "batches")
    (home / "batches" / "firms.csv").write_text("uscc\n" + "\n".join(firms))
    return homes, firms


@pytest.fixture
def homes(lived, tmp_path):
    """A copy of them."""
    made, _ = lived
    shutil.copytree(made, tmp_path / "homes")
    for path in (tmp_path / "homes").glob("*/node.yaml"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "homes")))
    return tmp_path / "homes"


@contextlib.contextmanager
def opened(home, now_s=None):
    settings = BankSettings.model_validate(SETTINGS)
    book = Book.of_home(home, settings, **({} if now_s is None else {"clock": Clock(now_s)}))
    yield book
    book.close()


def forget_now(home, firm):
    node = load_node_config(home)
    return forget(home, node, keepers_of(home, node), Subject.of(home, firm))


def content(home):
    """Everything that a home holds, but for keys, locks and logs of what was deleted."""
    left = (path for path in sorted(home.rglob("*")) if path.is_file() and path.suffix not in {".pid", ".jsonl"})
    return {str(path.relative_to(home)): path.read_bytes() for path in left if not path.name.endswith(("-shm", "-wal"))}


def test_nothing_names_a_forgotten_firm_and_the_others_stay(homes, lived):
    _, (firm, other, _) = lived
    home, files = homes / "bank", {"data/bank.csv"}
    before = len(naming(home, [other]))
    assert len(naming(home, [firm])) == before >= 7
    done = forget_now(home, f" {firm.lower()} ")
    assert done.unknown == ()
    assert naming(home, [firm]) == []
    assert {str(p.relative_to(homes)) for f in done.findings for p in f.paths} == files
    assert len(naming(home, [other])) == before - 1  # the file of the campaign is whole or gone
    with opened(home) as book:
        assert check_book(book) == []
        assert [row["name"] for row in book.rows(sa.select(FIRMS).where(FIRMS.c.firm == other))] == ["Firm 1"]
        digest = Subject.of(home, firm).stand_in
        (line,) = book.rows(sa.select(LINES).where(LINES.c.firm == digest))
        (decision,) = book.rows(sa.select(DECISIONS).where(DECISIONS.c.firm == digest))
        assert (line["state"], decision["bits"], decision["inputs"]) == ("closed", 2.0, {"basis": "b"})
        assert decision["reference"] == f"application/web-{digest}"
        with pytest.raises(BookError), book._transaction() as db:
            db.execute(HISTORY.update().values(actor="x"))
    (told,) = erasures(home)
    assert told.gone == {
        "answers": 4, "batches": 1, "book: consents": 2, "book: decisions": 1, "book: firms": 1, "book: history": 6,
        "book: lines": 1, "book: reports": 1, "portal": 1, "reports": 1, "results": 1, "tokens": 1,
    }  # fmt: skip
    log = (home / "evidence" / "log.jsonl").read_text()
    assert firm not in log
    assert told.firm in log


def test_a_repeat_changes_nothing(homes, lived):
    firm = lived[1][0]
    forget_now(homes / "bank", firm)
    before, log = content(homes / "bank"), (homes / "bank/evidence/log.jsonl").read_bytes()
    assert not forget_now(homes / "bank", firm).logged
    assert (content(homes / "bank"), (homes / "bank/evidence/log.jsonl").read_bytes()) == (before, log)


@pytest.mark.parametrize("other", ["{}9", "A{}", "{}_2"])
def test_an_id_within_another_s_is_that_other_s(homes, lived, other):
    firm, home = lived[1][0], homes / "bank"
    longer = other.format(firm)
    with opened(home) as book, book.writing("t") as entry:
        entry.add(FIRMS, firm=longer, name="Longer", industry="", region="", manager="", since_s=entry.at_s)
        entry.move(add_line(entry, longer), "applied", f"application/{longer}")
    done = {f.table: f.count for f in forget_now(home, firm).findings if not f.stays}
    assert (done["book: firms"], done["book: lines"]) == (1, 1)
    with opened(home) as book:
        assert check_book(book) == []
        (row,) = book.rows(sa.select(LINES).where(LINES.c.firm == longer))
        assert [one["name"] for one in book.rows(sa.select(FIRMS).where(FIRMS.c.firm == longer))] == ["Longer"]
        assert (row["state"], row["reason"]) == ("applied", f"application/{longer}")


def test_receipts_of_other_firms_can_still_be_made():
    rows = b"".join(b"%d,%d.5,A\r\n" % (firm, firm) for firm in range(1000, 1009))
    tree = ScoreTree(b"id,score,band\r\n" + rows, bytes(32))
    left = tree.without("1003")
    assert b"1003" not in left
    assert left.count(b"\r\n") == 10
    again = ScoreTree(left, bytes(32))
    assert again.scores == tree.scores
    with pytest.raises(EvidenceError, match="not in the batch"):
        again.index_of("1003")
    assert ScoreTree(again.without("1004"), bytes(32)).scores == tree.scores


def test_a_holder_keeps_its_ledger_under_a_hash(homes, lived):
    firm = lived[1][0]
    done = forget_now(homes / "tax", firm)
    assert done.unknown == ()
    assert naming(homes / "tax", [firm]) == []
    assert {f.table for f in done.findings if f.stays} == {"ledger", "data sets"}
    with contextlib.closing(ReleaseLedger(homes / "tax" / LEDGER)) as ledger:
        assert ledger.of_firm(int(ledger.firms([firm])[0]), 0.0)
    (told,) = erasures(homes / "tax")
    assert told.gone == {}
    assert told.stays["ledger"] >= 1


def test_a_holder_keeps_the_answer_to_a_request_that_has_the_id_in_its_own(homes, lived):
    """Else the same request is opened again with other shares, and the next start misses it."""
    firm, tax = lived[1][0], homes / "tax"
    journal, key = Journal(tax / "state" / "online.db"), f"bank/web-{firm}"
    journal.keep(key, b"digest", b"partial", b"")
    with contextlib.closing(journal):
        kept = journal.get(key)
    node = load_node_config(tax)
    identity, federation = load_membership(tax, node)
    with contextlib.closing(EvidenceRecorder(tax, node, lambda: identity, lambda: federation)) as recorder:
        recorder.open()
        recorder.noted("share_opened", bank="bank", request=f"web-{firm}", policy="")
    done = forget_now(tax, firm)
    assert done.unknown == ()
    assert {"answers", "log"} <= {f.table for f in done.findings if f.stays}
    with contextlib.closing(Journal(tax / "state" / "online.db")) as journal:
        assert journal.get(key) == kept


@pytest.mark.parametrize(("years", "word"), [(10, "the law keeps"), (0, "")])
def test_a_contract_holds_the_firm_for_as_long_as_the_law_says(homes, lived, years, word):
    firm, home = lived[1][0], homes / "bank"
    (home / "bank.yaml").write_text(yaml.safe_dump(SETTINGS | {"retention": {"lending_years": years}}))
    with opened(home) as book:
        with book.writing("t") as entry:
            entry.move(entry.scalar(sa.select(LINES.c.id).where(LINES.c.firm == firm)), "closed", "t")
        ended = lend(book, firm, settings=BankSettings.model_validate(SETTINGS))
    found = plan(keepers_of(home, load_node_config(home)), Subject.of(home, firm)).findings
    assert "a contract of the firm runs" in next(f.stays for f in found if f.table == "portal")
    with opened(home) as book:
        end(book, ended, "t")
        with book.writing("t") as entry:
            row = entry.scalar(sa.select(CONTRACTS.c.id).where(CONTRACTS.c.number == ended))
            entry.change(CONTRACTS, row, ends_on=entry.today - dt.timedelta(days=1))
    done = forget_now(home, firm)
    assert done.unknown == ()
    stays = {f.table: f.stays for f in done.findings}
    assert stays["book: contracts"].startswith(word)
    assert bool(stays["reports"]) == bool(word)
    assert not stays["portal"]
    assert {path.name for path in naming(home, [firm])} <= (
        {"book.db", "book.db-wal", "credit-1.json"} if word else set()
    )
    with opened(home) as book:
        assert check_book(book) == []


def test_killed_at_every_moment_it_goes_on_and_is_logged_once(homes, lived, tmp_path):
    firm, home = lived[1][0], homes / "bank"
    shutil.copytree(homes, tmp_path / "twin")
    forget_now(tmp_path / "twin" / "bank", firm)
    words = [sys.executable, Path(__file__).with_name("killed_forgetting.py"), home, firm]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    moment, code, wrong = json.loads(done.stdout)
    assert (code, wrong) == (0, [])
    assert moment > 20
    assert naming(home, [firm]) == []
    (told,), (whole,) = erasures(home), erasures(tmp_path / "twin" / "bank")
    assert (told.gone, told.firm) == (whole.gone, whole.firm)
    assert not list((home / "state" / "forgetting").glob("*.json"))


PAGE = (ROOT / "docs" / "retention.md").read_text(encoding="utf-8")


def test_the_page_runs_as_printed(homes, lived):
    firm, home = lived[1][0], homes / "bank"
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    text = block.replace("91310000MA1K35TQ6F", firm).replace("/srv/bank", str(home))
    private_folder(home / "notes")
    (home / "notes" / "own.txt").write_text(f"call {firm}")
    before, said = naming(home, [firm]), []
    for line in text.splitlines():
        _, *words = shlex.split(line, comments=True)
        said.append(CliRunner().invoke(app, words))
        assert "--yes" in words or len(said) > 1 or naming(home, [firm]) == before
    assert [one.exit_code for one in said] == [0, 1, 0]
    assert "Nothing was changed" in said[0].output
    assert "own.txt" in said[1].output.replace("\n", "")
    assert naming(home, [firm]) == [home / "notes" / "own.txt"]


def test_what_is_too_old_goes_with_the_timer(homes, lived):
    home, firms = homes / "bank", lived[1]
    node = load_node_config(home)
    assert list(too_old(home, node)) == []
    (scores,) = home.glob("jobs/batch-*/scores.csv")
    os.utime(scores, (0, time.time() - 1826 * DAY_S))
    private_folder(home / "saved")
    for name, days in (("new", 34), ("old", 36)):
        (home / "saved" / f"{name}.veilscore").write_text("x")
        os.utime(home / "saved" / f"{name}.veilscore", (0, time.time() - days * DAY_S))
    ended = token(firms[0], not_before_s=0.0, expires_s=time.time() - 1096 * DAY_S)
    import_consent(home, ended, "token", claim_of(ended).id)
    rules = node.retention.model_copy(update={"backups": home / "saved"})
    node = node.model_copy(update={"retention": rules})
    done = sweep(home, node)
    assert done.gone == {"results": 1, "backups": 1, "consents": 1}
    assert (done.firms, done.unfinished) == (0, ())
    assert sweep(home, node).gone == {}
    assert [(e.kind, e.gone) for e in erasures(home)] == [("swept", done.gone)]
    assert (home / "saved" / "new.veilscore").exists()


def test_firms_whose_time_is_over_are_forgotten(homes, lived):
    home, (first, second, third) = homes / "bank", lived[1]
    (home / "bank.yaml").write_text(yaml.safe_dump(SETTINGS | {"retention": {"prospects_days": 1}}))
    with opened(home, time.time() + 1.5 * DAY_S) as book, book.writing("t") as entry:
        entry.note("seen", third, {})
    with sqlite3.connect(home / "state" / "book.db") as db:  # as if all else were two days ago
        names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
        made = [row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")]
        for name in names:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE history SET at_s = at_s - 172800")
        for one in made:
            db.execute(one)
    done = sweep(home, load_node_config(home))
    assert done.firms == 2
    assert not naming(home, [first])
    assert not naming(home, [second])
    assert naming(home, [third])
    assert sweep(home, load_node_config(home)).firms == 0


@pytest.mark.federation
def test_a_running_node_writes_the_proof_into_its_own_log(homes, lived):
    firm, home = lived[1][0], homes / "tax"
    process = processes.spawn(home)
    try:
        asyncio.run(until(lambda: running_pid(home)))
        time.sleep(2)
        assert forget_now(home, firm).logged
        assert running_pid(home)
    finally:
        processes.stop(home)
        process.wait(20)
    assert [e.kind for e in erasures(home)] == ["forgotten"]


def test_names_are_found_in_what_is_packed(tmp_path):
    firm = "91310000MA1K35TQ6F"
    (tmp_path / "plain.txt").write_text(f"x{firm.lower()}x")
    np.savez_compressed(tmp_path / "ids.npz", ids=np.array([firm, "b"]))
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"a" * (1 << 20) + firm.encode()))
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("sheet.xml", f"<v>{firm}</v>")
    for name, value in (("with", firm), ("without", "other")):
        rows = duckdb.sql("SELECT ? AS id, 1 AS n FROM range(3000)", params=[value])
        rows.write_parquet(str(tmp_path / f"{name}.parquet"))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / f"{firm}.json").write_text("{}")
    found = {path.name for path in naming(tmp_path, [firm])}
    assert found == {"plain.txt", "ids.npz", "log.gz", "book.xlsx", "with.parquet", f"{firm}.json"}
