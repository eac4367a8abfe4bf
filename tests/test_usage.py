"""`veilscore evidence usage`: what a holder's data were used for, from its own log and ledger."""

import contextlib
import csv
import math
from dataclasses import replace

import numpy as np
from trial_federation import make_homes
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.online_opening import PartsOpened, ShareOpened
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.evidence.usage import NOT_NOTED, Use, month_of, usage
from veilscore.keys.identity import load_identity
from veilscore.release.ledger import BATCH, EVALUATION, LEDGER, WATCH, Release, ReleaseLedger
from veilscore.terms.federation import load_federation
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import load_node_config
from veilscore.wire.protocol import Charge

JOB = """
name: card
purpose: {purpose}
task: {task}
bank: bank
holders: [tax]
datasets: {{bank: main, tax: main}}
parameters: {parameters}
"""
ZERO = "0" * 64


def test_uses_are_counted_by_month_bank_purpose_and_model(tmp_path):
    home = make_homes(tmp_path) / "tax"
    jobs = Ledger(home / "state" / "jobs")

    def job(purpose, task, parameters):
        one = parse_job(JOB.format(purpose=purpose, task=task, parameters=parameters))
        return jobs.add(f"card-00000000-{one.sha256.hex()[:16]}", one, "accepted", "").job_id

    trained, exact = job("credit", "train_scorecard", "{}"), job("fraud", "train_scorecard", "{disclosure: exact}")
    scored = job("credit", "score_batch", "{model: card}")
    decided = job("proactive", "decide", "{decision: limit}")
    identity, federation = load_identity(home / "identity"), load_federation(home / "federation.yaml")
    recorder = EvidenceRecorder(home, load_node_config(home), lambda: identity, lambda: federation)
    opened = ShareOpened(
        holder="tax", bank="bank", request="r", commitment="", messages={}, model=ZERO, part=ZERO, spare="s", keys=ZERO,
        named="card", purpose="credit",
    )  # fmt: skip
    parts = PartsOpened(
        holder="tax", bank="bank", request="d", commitment="", messages={}, decision=ZERO, parts="{}", named="limit",
        purpose="application",
    )  # fmt: skip
    recorder.open()
    with contextlib.closing(recorder):
        for step, opening, mu2 in (("bin", "cells", 0.15), ("train", "gradient", 0.1)):
            recorder.opening_charged(f"{trained}/{step}/1", "main", "bank", Charge(opening, "train", mu2))
        recorder.opening_charged(f"{exact}/bin/1", "main", "bank", Charge("exact sums", "all", math.inf))
        for one in (
            opened,
            opened,
            replace(opened, named="", purpose=""),
            parts,
        ):  # the third as an earlier version logged it
            recorder.online_opened([one])
    with contextlib.closing(ReleaseLedger(home / LEDGER)) as ledger:
        batches = (BATCH, scored, 40), (BATCH, scored, 50), (EVALUATION, exact, 30), (BATCH, decided, 40)
        batches += ((WATCH, decided, 41),)
        for kind, job_id, firms in batches:
            rows = np.arange(firms, dtype=np.uint64)
            session = f"bank/{job_id}/score/{firms}"
            ledger.add(Release(kind, "bank", session, ZERO, ZERO, rows[:9], bits=5, rows=rows))
        month = month_of(ledger.now_s())
    assert usage(home) == (
        Use(month, "bank", NOT_NOTED, ZERO[:12], singles=1),
        Use(month, "bank", "application", "limit", singles=1),
        Use(month, "bank", "credit", "card", jobs=1, mu2=0.25, batches=2, firms=90, singles=2),
        Use(month, "bank", "fraud", "card", jobs=1, mu2=math.inf, held_out=30),
        Use(month, "bank", "proactive", "limit", batches=2, firms=81),
    )
    words = ["evidence", "usage", "--home", str(home), "--out", str(tmp_path / "usage.csv")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "180"})
    assert done.exit_code == 0, done.output
    assert "credit │ card │ 1 │ 0.50 │ 0 │ 2 │ 90 │ 2" in " ".join(done.output.split())
    with (tmp_path / "usage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mu"] for row in rows] == ["0.00", "0.00", "0.50", "exact", "0.00"]
    assert isinstance(
        CliRunner().invoke(app, ["evidence", "usage", "--home", str(tmp_path / "bank")]).exception, ConfigError
    )
