"""The main job on real data, and a bank's story on simulated firms: real processes on loopback, nothing pooled.

First four processes train one joint scorecard on real data; then six tell what a bank does with such scores (story.py).

A bank, a tax bureau and a business registry, each with its own keys and data, align their clients, train a scorecard
from noised sums and measure it by a noised curve under a coordinator. On the way a steward approves the job, the
holders refuse a firm without consent, a score that would be a record and a hold-out of one firm, and a receipt is
verified. At the end this script, which can read all three folders, does what no party could: it pools the data in the
clear and compares.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import story
import yaml
from parity import Private, compare_private, job_store
from rich.panel import Panel
from rich.table import Table
from typed import ROOT, Meanwhile, at_once, console, say, veilscore

from veilscore.models.filed import load_model
from veilscore.models.model import Scorecard
from veilscore.node.founding import PORTAL
from veilscore.reports.report import read_report, write_report
from veilscore.reports.write import merged_report
from veilscore.tasks.table import leakage_table
from veilscore.terms.job import load_job

if TYPE_CHECKING:
    from veilscore.terms.job import Job
    from veilscore.terms.parameters import Parameters

PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
MIXED_RADIX, MOST_RECORDS = "mixed-radix", 1 << 23  # what fits into one total


def main() -> int:
    """Run the demonstration; exit code of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=ROOT / "examples" / "default_credit", help="a Parquet file a party"
    )
    parser.add_argument("--job", type=Path, default=ROOT / "examples" / "scorecard.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "demo-run", help="where the nodes live")
    options = parser.parse_args()
    began = time.monotonic()
    folder, job = options.folder, load_job(options.job)
    shutil.rmtree(folder, ignore_errors=True)
    console.print(Panel.fit("Veilscore: three owners of data, one scorecard, no data moved"))
    parties = [word for name, role in PARTIES.items() for word in ("--party", f"{name}:{role}")]
    veilscore("init", folder, "--data", options.data, *parties)
    prepared = Meanwhile(partial(story.prepare, folder / "story"))  # of the second part, while the first waits
    bank = duckdb.read_parquet(str(options.data / "bank.parquet"))
    firms = [row[0] for row in bank.project("uscc").fetchall()]
    prepare_homes(folder, bank)
    veilscore("up", folder)
    try:
        veilscore("job", "plan", options.job, "--federation", folder, *row_counts(options.data))
        job_id = show_approval(folder, options.job, job.name)
        at_once(*(("report", job_id, "--federation", folder, "--party", party) for party in PARTIES))
        show_refusal(folder, job, *firms[:2])
        show_mixed_radix(folder, job, firms[2])
        show_refused_holdout(folder, options.job)
        say("A verified receipt: what the training job was and who signed for it, checked with public keys alone.")
        veilscore("evidence", "receipt", job_id, "--home", folder / "bank", "--out", folder / "receipt.json")
        veilscore("evidence", "verify", folder / "receipt.json", "--keys", folder / "federation.yaml")
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    finally:
        veilscore("down", folder)
    show_parity(compare_private(folder, job, job_id))
    show_leakage(job.parameters)
    stores = {party: job_store(folder, party, job_id) for party in PARTIES}
    reports = {party: read_report(store.path / "report.json") for party, store in stores.items()}
    merged = merged_report(reports["bank"], [reports["tax"], reports["registry"]])
    console.print(
        f"\nReport: [bold]{write_report(merged, folder / 'report.html')}[/bold] (opens offline in any browser)"
    )
    for party, store in stores.items():
        console.print(f"  as {party} sees it: {store.path / 'report.html'}")
    console.print(f"So far {time.monotonic() - began:.0f} s.")
    try:
        story.tell(folder / "story", prepared)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    console.print(f"The demonstration took {time.monotonic() - began:.0f} s.")
    return 0


def show_approval(folder: Path, job: Path, name: str) -> str:
    """Train, once the tax bureau's steward has approved the job; returns its id."""
    say("An approval: the tax bureau wants a person to decide on training, so the job waits in its inbox.")
    veilscore("job", "run", job, "--federation", folder, "--detach")
    veilscore("job", "inbox", "--home", folder / "tax")
    veilscore("job", "approve", name, "--home", folder / "tax", "--reason", "agreed with the bank")
    veilscore("job", "watch", "--federation", folder)
    return newest_job(folder)


def show_refusal(folder: Path, job: Job, firm: str, other: str) -> None:
    """Score a firm that has given its consent, and one that has not."""
    give_consent(folder, job, firm)
    how = ("--model", job.name, "--on-missing", "missing_code", "--federation", folder)
    veilscore("score", firm, *how)
    say("A refusal: another firm, without its consent. The holders refuse before they look it up.")
    veilscore("score", other, *how, fails=True)


def give_consent(folder: Path, job: Job, firm: str) -> None:
    """Issue a firm's consent and bring it to the bank."""
    token = folder / f"consent-{firm}.json"
    veilscore("consent", "issue", folder / PORTAL, token, "--firm", firm, "--purpose", job.purpose)
    veilscore("consent", "import", token, "--federation", folder)


def show_mixed_radix(folder: Path, job: Job, firm: str) -> None:
    """Try to read a record by a score whose points are a mixed radix of the tax bureau's codes."""
    n_columns, n_records = plant_mixed_radix(folder / "bank" / "models", job.name)
    give_consent(folder, job, firm)
    how = ("--model", MIXED_RADIX, "--on-missing", "missing_code", "--federation", folder)
    say(
        f"A refused score: the bank's points are a mixed radix of {n_columns} of the tax bureau's columns, so that the "
        f"exact score would name one of {n_records:,} records."
    )
    veilscore("score", firm, *how, "--output", "exact", fails=True)
    say("What it gets by such points is one step of 32: 5 bits, and 10 a year, in batches and online together.")
    veilscore("score", firm, *how)


def plant_mixed_radix(models: Path, name: str) -> tuple[int, int]:
    """File a model beside the trained one: tax's first columns have points that tell its codes, all others none.

    Returns how many columns, and how many records their codes stand for.
    """
    model = load_model(models / name / "model.json", Scorecard)
    parts, radix, n_columns = [], 1, 0
    for part in model.parts:
        columns = []
        for column in part.columns:
            n_codes, weight = len(column.points), 0
            if part.party == "tax" and radix * n_codes < MOST_RECORDS:
                weight, radix, n_columns = radix, radix * n_codes, n_columns + 1
            columns.append(column.model_copy(update={"points": tuple(weight * code for code in range(n_codes))}))
        parts.append(part.model_copy(update={"columns": tuple(columns)}))
    (models / MIXED_RADIX).mkdir()
    shutil.copy(models / name / "code_map.json", models / MIXED_RADIX)
    changed = {"name": MIXED_RADIX, "parts": tuple(parts), "base_points": 0, "bands": {}}
    model.model_copy(update=changed).save(models / MIXED_RADIX / "model.json")
    return n_columns, radix


def show_refused_holdout(folder: Path, job: Path) -> None:
    """Ask for the curve of a hold-out that is one firm."""
    single = yaml.safe_load(job.read_text(encoding="utf-8"))
    single["datasets"]["bank"], single["name"] = "one-held-out", "one-held-out"
    single["parameters"] |= {"holdout_from": "2026-01-01"}
    path = folder / "one-held-out.yaml"
    path.write_text(yaml.safe_dump(single, sort_keys=False), encoding="utf-8")
    say("A refused hold-out of one firm: beside the noise nothing would be left of it, and without noise its record.")
    veilscore("job", "run", path, "--federation", folder, fails=True, until="job failed")


def prepare_homes(folder: Path, bank: duckdb.DuckDBPyRelation) -> None:
    """Have a person decide at the tax bureau; give the bank a data set in which one firm alone is recent."""
    path = folder / "tax" / "node.yaml"
    tax = yaml.safe_load(path.read_text(encoding="utf-8"))
    tax["policy"]["accept"] = "manual"
    path.write_text(yaml.safe_dump(tax, sort_keys=False), encoding="utf-8")
    dated = (folder / "one-held-out.parquet").resolve()
    bank.project("*, CASE WHEN row_number() OVER () = 1 THEN '2026-06-01' ELSE '2025-06-01' END AS day").write_parquet(
        str(dated)
    )
    path = folder / "bank" / "node.yaml"
    home = yaml.safe_load(path.read_text(encoding="utf-8"))
    home["datasets"]["one-held-out"] = {**home["datasets"]["main"], "path": str(dated), "date_column": "day"}
    path.write_text(yaml.safe_dump(home, sort_keys=False), encoding="utf-8")


def row_counts(data: Path) -> list[str]:
    """Rows of each party's file, for the estimate."""
    rows = {party: len(duckdb.read_parquet(str(data / f"{party}.parquet"))) for party in PARTIES}
    return [word for party, count in rows.items() for word in ("--rows", f"{party}={count}")]


def newest_job(folder: Path) -> str:
    """Id of the job that ran last at the bank."""
    return max((folder / "bank" / "jobs").iterdir(), key=lambda path: path.stat().st_mtime).name


def show_parity(p: Private) -> None:
    """The joint scorecard beside the bank alone, and beside what pooling all data in the clear would give."""
    table = Table(title=f"In the clear: {p.n_train} firms trained, {p.n_holdout} held out, {p.n_columns} columns")
    for column in ("model", "hold-out AUC"):
        table.add_column(column, justify="left" if column == "model" else "right")
    table.add_row("bank's own columns only", f"{p.auc_bank:.4f}")
    table.add_row("joint, nothing pooled, all sums noised (Veilscore)", f"{p.auc_joint:.4f}")
    table.add_row("pooled in the clear, no noise (scikit-learn)", f"{p.auc_pooled:.4f}")
    console.print(table)


def show_leakage(parameters: Parameters) -> None:
    """The table of who learns what."""
    table = Table(title="What each party learned", show_lines=True)
    for column in ("step", "bank", "tax, registry", "coordinator"):
        table.add_column(column)
    for row in leakage_table(parameters):
        table.add_row(row.step, row.bank, row.holder or "nothing", row.coordinator)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
