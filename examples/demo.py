"""The main job on real data: four processes on loopback, one joint scorecard, one report.

A bank, a tax bureau and a business registry, each with its own keys and data, align their firms, train a scorecard
and score the hold-out under a coordinator. At the end this script, which can read all three folders, does what no
party could: it pools the data in the clear and compares.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from parity import Parity, compare, job_store
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from veilscore.node.job import load_job
from veilscore.reports.report import Parity as ReportParity
from veilscore.reports.report import read_report, write_report
from veilscore.reports.write import merged_report
from veilscore.roles import leakage_table

ROOT = Path(__file__).resolve().parent.parent
PARTIES = {"bank": "bank", "tax": "holder", "registry": "holder"}
console = Console(width=None if sys.stdout.isatty() else 110)


def main() -> int:
    """Run the demonstration; exit code of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "examples" / "kz_corporate", help="one CSV a party")
    parser.add_argument("--job", type=Path, default=ROOT / "examples" / "scorecard.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "demo-run", help="where the nodes live")
    options = parser.parse_args()
    folder, job = options.folder, load_job(options.job)
    shutil.rmtree(folder, ignore_errors=True)
    console.print(Panel.fit("Veilscore: three owners of data, one scorecard, no data moved"))
    parties = [word for name, role in PARTIES.items() for word in ("--party", f"{name}:{role}")]
    veilscore("init", folder, "--data", options.data, *parties)
    veilscore("up", folder)
    try:
        veilscore("plan", options.job, "--federation", folder, *row_counts(options.data))
        veilscore("run", options.job, "--federation", folder)
        job_id = newest_job(folder)
        rows = (options.data / "bank.csv").read_text(encoding="utf-8").split("\n")
        firm, other = (row.split(",")[0] for row in rows[1:3])
        for party in PARTIES:
            veilscore("report", job_id, "--federation", folder, "--party", party)
        token = folder / "consent.json"
        veilscore("consent", "issue", folder / "consent-portal", token, "--firm", firm, "--purpose", job.purpose)
        veilscore("consent", "import", token, "--federation", folder)
        how = ("--model", job.name, "--on-missing", "missing_code", "--federation", folder)
        veilscore("score", firm, *how)
        console.print("\nAnother firm, without its consent: the holders refuse before they look it up.")
        veilscore("score", other, *how, fails=True)
        console.print("\nThe job's receipt, verified with public keys alone:")
        veilscore("evidence", "receipt", job_id, "--home", folder / "bank", "--out", folder / "receipt.json")
        veilscore("evidence", "verify", folder / "receipt.json", "--keys", folder / "federation.yaml")
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    finally:
        veilscore("down", folder)
    parity = compare(folder, job, job_id)
    show_parity(parity)
    show_leakage(job.task)
    stores = {party: job_store(folder, party, job_id) for party in PARTIES}
    reports = {party: read_report(store.path / "report.json") for party, store in stores.items()}
    shown = ReportParity(
        reference="scikit-learn on the pooled table",
        coefficient_difference=parity.coefficient_difference,
        auc_difference=parity.auc_joint - parity.auc_pooled,
    )
    merged = merged_report(reports["bank"].model_copy(update={"parity": shown}), [reports["tax"], reports["registry"]])
    console.print(
        f"\nReport: [bold]{write_report(merged, folder / 'report.html')}[/bold] (opens offline in any browser)"
    )
    for party, store in stores.items():
        console.print(f"  as {party} sees it: {store.path / 'report.html'}")
    return 0


def veilscore(*words: object, fails: bool = False) -> None:
    """Run a command as a user would type it; CalledProcessError unless it ends as it should."""
    shown = [str(word).replace(f"{ROOT}/", "") for word in words]
    console.print(f"\n[bold cyan]$ veilscore {' '.join(shown)}[/bold cyan]")
    environment = dict(os.environ)
    if not sys.stdout.isatty():
        environment |= {"COLUMNS": "110", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-m", "veilscore.cli", *map(str, words)], check=False, env=environment)
    if (done.returncode != 0) != fails:
        raise subprocess.CalledProcessError(done.returncode or 1, done.args)


def row_counts(data: Path) -> list[str]:
    """Rows of each party's file, for the estimate."""
    words = []
    for party in PARTIES:
        with (data / f"{party}.csv").open(encoding="utf-8") as lines:
            words += ["--rows", f"{party}={sum(1 for _ in lines) - 1}"]
    return words


def newest_job(folder: Path) -> str:
    """Id of the job that ran last at the bank."""
    return max((folder / "bank" / "jobs").iterdir(), key=lambda path: path.stat().st_mtime).name


def show_parity(p: Parity) -> None:
    """Joint training beside what pooling all data in the clear would give."""
    table = Table(title=f"Parity: {p.n_train} firms trained, {p.n_holdout} held out, {p.n_columns} columns")
    for column in ("model", "hold-out AUC", "largest coefficient difference"):
        table.add_column(column, justify="left" if column == "model" else "right")
    table.add_row("bank's own columns only", f"{p.auc_bank:.4f}", "")
    table.add_row("joint, nothing pooled (Veilscore)", f"{p.auc_joint:.4f}", f"{p.coefficient_difference:.1e}")
    table.add_row("pooled in the clear (scikit-learn)", f"{p.auc_pooled:.4f}", "0")
    console.print(table)


def show_leakage(task: str) -> None:
    """The table of who learns what."""
    table = Table(title="What each party learned", show_lines=True)
    for column in ("step", "bank", "tax, registry", "coordinator"):
        table.add_column(column)
    for row in leakage_table(task):
        table.add_row(row.step, row.bank, row.holder or "nothing", row.coordinator)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
