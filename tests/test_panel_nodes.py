"""A panel on real nodes, by commands alone: simulated lives, variables at the firms' own dates, a private scorecard."""

from __future__ import annotations

import csv
import subprocess
import sys

import duckdb
import pytest
import yaml

from veilscore.data.ingest import read_table
from veilscore.data.life import simulate_life
from veilscore.models.filed import load_model

DAYS = ("2024-03-01", "2024-09-01", "2025-03-01")
JOB = {
    "name": "hazard",
    "purpose": "early warning",
    "task": "train_scorecard",
    "bank": "bank",
    "holders": ["tax"],
    "datasets": {"bank": "main", "tax": "main"},
    "parameters": {
        "rows": "firm_dates",
        "as_of": list(DAYS),
        "rows_per_firm": 3,
        "firm_weight": "shared",
        "despite_noise": True,  # so few firms
    },
}
CATALOGUE = {  # of few variables: what bins tell of a firm is shared among all of a file
    "name": "filings",
    "tables": {
        "filings": {
            "source": "filings.parquet",
            "firm": "uscc",
            "time": "period_end",
            "known": "filed_on",
            "numbers": ["declared", "days_late"],
        }
    },
    "variables": [
        {"table": "filings", "of": "declared", "windows": ["90d", "365d"], "aggregate": ["sum"]},
        {"table": "filings", "of": "days_late", "windows": ["180d", "365d"], "aggregate": ["sum", "max"]},
    ],
}
PANEL = """
COPY (
  SELECT b.uscc, d AS as_of, avg(balance) AS balance, max(overdraft_days) AS overdraft_days,
    coalesce(max(defaulted_on) < max(d) + INTERVAL 12 MONTH, false)::INT AS "default"
  FROM '{life}/bank/balances.parquet' b
  JOIN (SELECT unnest({days}::DATE[]) AS d) ON month_end < d AND month_end >= d - INTERVAL 6 MONTH
  LEFT JOIN '{life}/bank/defaults.parquet' f ON f.uscc = b.uscc
  WHERE defaulted_on IS NULL OR defaulted_on >= d
  GROUP BY b.uscc, d ORDER BY b.uscc, d
) TO '{to}'
"""


def veilscore(*words, where, code=0):
    command = [sys.executable, "-m", "veilscore", *map(str, words)]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def entry(home, **dataset):
    """Let a party's data set be this one."""
    path = home / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["datasets"] = {"main": {"id_columns": ["uscc", "as_of"], **dataset}}
    path.write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_a_panel_is_trained_by_commands_on_real_nodes(tmp_path):
    life, f = tmp_path / "life", tmp_path / "f"
    simulate_life(life, 1200, 5)
    veilscore("init", "f", "--party", "bank:bank", "--party", "tax:holder", where=tmp_path)
    path = f / "bank" / "panel.csv"
    with duckdb.connect() as database:
        database.execute(PANEL.format(life=life, days=list(DAYS), to=path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    firms = {row["uscc"] for row in rows}
    assert len(rows) > 2 * len(firms)
    entry(f / "bank", path="panel.csv", label_column="default")
    entry(f / "tax", path="made.parquet", features={"catalogue": "filings.yaml", "events": str(life / "tax")})
    (f / "tax" / "filings.yaml").write_text(yaml.safe_dump(CATALOGUE))
    built = veilscore("features", "build", "main", "--as-of", DAYS[0], "--home", f / "tax", where=tmp_path)
    assert "firms at dates" in " ".join(built.split())
    (tmp_path / "hazard.yaml").write_text(yaml.safe_dump(JOB))
    veilscore("up", "f", where=tmp_path)
    try:
        veilscore("job", "run", "hazard.yaml", "--federation", "f", where=tmp_path)
        veilscore("job", "list", "--home", f / "tax", where=tmp_path)
        account = veilscore("account", "show", "--home", f / "tax", where=tmp_path)
    finally:
        veilscore("down", "f", where=tmp_path)
    (job,) = (f / "tax" / "jobs").glob("hazard-*")
    made = read_table(job / "pairs.parquet", ("uscc", "as_of"))
    asked = {f"{row['uscc']}@{row['as_of']}" for row in rows}
    assert set(made.ids.tolist()) <= asked
    assert made.n_rows > 0.8 * len(asked)  # the others filed nothing yet
    assert "filings.declared.sum.365d" in made.columns
    model = load_model(f / "bank" / "models" / "hazard" / "model.json")
    assert len(firms) < model.provenance.n_train < len(asked)  # whole firms are held out
    assert "mu 0.52 of 1" in account  # 0.5 of the job and its bins: what three dates of a firm tell is counted as one
