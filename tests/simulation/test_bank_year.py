"""Twelve months of a bank's life over real nodes, with faults: the book balances, and all logs verify."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import ROOT
from trial_lending import lending_homes, lending_settings

from party_bank.book import Book
from party_bank.book_check import check_book
from party_bank.book_tables import APPLICATIONS, CONSENTS, CONTRACTS, DECISIONS, OFFERS
from veilscore.cli.evidence import public_keys
from veilscore.evidence.log import FOLDER, LOG_FILE
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.verify import verify_log, verify_receipt
from veilscore.release.ledger import BATCH, LEDGER, ONLINE, ReleaseLedger

pytestmark = [pytest.mark.federation, pytest.mark.slow]


def test_a_year_of_a_bank_with_faults(tmp_path):
    homes = lending_homes(tmp_path / "homes")
    worker = Path(__file__).with_name("bank_year.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, worker, homes], capture_output=True, text=True, check=False, timeout=550, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kills, wrong = json.loads(done.stdout)
    assert wrong == []
    assert kills >= 24

    book = Book.of_home(homes / "bank", lending_settings())
    assert check_book(book) == []
    offers = book.rows(
        sa.select(OFFERS.c.number, CONTRACTS.c.number.label("contract"))
        .join(APPLICATIONS, APPLICATIONS.c.offer == OFFERS.c.id)
        .join(CONTRACTS, CONTRACTS.c.application == APPLICATIONS.c.id)
    )
    assert len(offers) == 3
    assert max(Counter(row["number"] for row in offers).values()) == 1
    decisions = book.rows(sa.select(DECISIONS))
    opened = [row for row in decisions if row["step"] is not None]
    single = [row for row in opened if row["kind"] in {"application", "renewal"}]
    waiting = [row for row in decisions if row["outcome"] == "asked"]
    kept = {row["firm"] for row in book.rows(sa.select(CONTRACTS.c.firm))}
    consented = {row["firm"] for row in book.rows(sa.select(CONSENTS.c.firm).where(CONSENTS.c.purpose == "renewal"))}
    book.close()
    assert [row["kind"] for row in single].count("application") == 5
    assert {row["firm"] for row in single if row["kind"] == "renewal"} == kept & consented
    assert len(single) - 5 == len(kept & consented) >= 5  # a revised record may leave one without a contract
    assert [row["kind"] for row in waiting] == ["application"]  # its consent was withdrawn

    for holder in ("tax", "registry"):
        ledger = ReleaseLedger(homes / holder / LEDGER)
        kinds = Counter(one.kind for one in ledger.releases(0.0))
        ledger.close()
        assert kinds[ONLINE] == len(single), holder  # each was opened once, whoever was killed
        assert kinds[BATCH] <= 2, holder
    for home in homes.glob("*/node.yaml"):
        assert verify_log(home.parent / FOLDER / LOG_FILE, public_keys(None, home.parent)), home
    for row in single:
        receipt = online_receipt(homes / "bank", row["reference"]).to_bytes()
        assert "released this" in verify_receipt(receipt, public_keys(None, homes / "bank"))[0]
