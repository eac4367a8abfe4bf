"""The bank's story on simulated firms: variables, screening, joint model, limits, an application, a renewal, an alarm.

Five owners keep three years of events of 5,000 firms that never were (`veilscore simulate --life`); sums of them are
exact by their agreement. What was known a year before is trained on what became of it; today is what comes after, of
which this script, and no party, knows the end.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import yaml
from rich.table import Table
from typed import ROOT, Meanwhile, at_desk, at_once, console, say, told, veilscore

from party_bank.offers import secret_of
from veilscore.files.home_key import home_key
from veilscore.node.founding import PORTAL

JOBS = ROOT / "examples" / "story"
HOLDERS = ("tax", "registry", "court", "bureau")
THEN, NOW = dt.date(2024, 1, 1), dt.date(2025, 1, 1)
FIRMS, CONSENTING = 5_000, 600
ALARMED = (0.2, 0.1)  # of held out firms, by yellow and by red alarms


def prepare(folder: Path) -> dict[str, dt.date | None]:
    """Make what the owners have, and their variables; returns the bank's borrowers as `write_bank_data` does."""
    life, homes = folder / "life", folder / "homes"
    say(f"1. Five owners keep three years of events of {FIRMS:,} firms: invoices, filings, changes, cases, loans.")
    veilscore("simulate", life, "--life", "--firms", FIRMS, "--seed", 7)
    parties = [word for name in HOLDERS for word in ("--party", f"{name}:holder")]
    veilscore("init", homes, "--party", "bank:bank", *parties, "--exact", "--partner", "trusted")
    furnish(homes, life)
    say("2. Variables, each at its owner, as of a year ago and as of today.")
    for day, name in ((THEN, "then"), (NOW, "now")):
        at_once(*(build(homes, party, name, day) for party in ("bank", *HOLDERS)))
    return write_bank_data(homes, life)


def tell(folder: Path, prepared: Meanwhile[dict[str, dt.date | None]]) -> None:
    """Tell the whole story of what was prepared in a folder; CalledProcessError where a command fails."""
    homes, borrowers = folder / "homes", prepared.result()
    veilscore("up", homes)
    try:
        train(homes)
        file_decisions(homes)
        campaign(homes)
        contract = apply_by_code(homes)
        renew(homes, contract)
        alarm(homes, borrowers)
        at_desk("bank", "book", "check", "--federation", homes)
    finally:
        veilscore("down", homes)


def furnish(homes: Path, life: Path) -> None:
    """Name each owner's events in its node.yaml, and what the bank lends in its bank.yaml."""
    for party in ("bank", *HOLDERS):
        path = homes / party / "node.yaml"
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        source = {"catalogue": party, "events": str((life / party).resolve())}
        kept = "-variables" if party == "bank" else ""
        node["datasets"] = {
            f"{name}{kept}": {
                "path": f"features/{name}{kept}.parquet",
                "id_column": "uscc",
                "account": "events",
                "features": dict(source),
            }
            for name in ("then", "now")
        }
        if party == "bank":
            node["datasets"]["then"] = {"path": "data/then.parquet", "id_column": "uscc", "label_column": "default"}
            node["datasets"] |= {
                name: {"path": f"{folder}/{name}.parquet", "id_column": "uscc"}
                for name, folder in (("now", "data"), ("watched", "data"), ("batch", "batches"))
            }
        path.write_text(yaml.safe_dump(node, sort_keys=False), encoding="utf-8")
    (homes / "bank" / "bank.yaml").write_text((JOBS / "bank.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def build(homes: Path, party: str, name: str, day: dt.date) -> tuple[object, ...]:
    """Return the command that makes an owner's variables as of a day."""
    dataset = f"{name}-variables" if party == "bank" else name
    return ("features", "build", dataset, "--as-of", day, "--home", homes / party)


def write_bank_data(homes: Path, life: Path) -> dict[str, dt.date | None]:
    """Write the bank's data sets and its list of firms; returns today's borrowers, with the day of their default.

    The label of who had a loan a year ago is a default since then; a borrower of today pays its instalments.
    """
    bank, folder = life / "bank", homes / "bank" / "data"
    folder.mkdir(mode=0o700)
    (homes / "bank" / "batches").mkdir(mode=0o700)
    with duckdb.connect() as db:
        for table in ("loans", "repayments", "defaults"):
            db.read_parquet(str(bank / f"{table}.parquet")).create_view(table)
        db.read_parquet(str(life / "registry" / "firms.parquet")).create_view("register")
        for name in ("then", "now"):
            db.read_parquet(str(homes / "bank" / "features" / f"{name}-variables.parquet")).create_view(f"v_{name}")
        paid = f"SELECT uscc FROM repayments WHERE paid_on < '{THEN}'"
        before = f"{paid} UNION SELECT uscc FROM loans WHERE drawn_on < '{THEN}'"
        gone = f"SELECT uscc FROM defaults WHERE defaulted_on < '{THEN}'"
        bad = f"SELECT uscc FROM defaults WHERE defaulted_on BETWEEN '{THEN}' AND '{NOW}'"
        db.sql(
            f'SELECT v.*, (uscc IN ({bad}))::INT AS "default" FROM v_then v SEMI JOIN ({before}) USING (uscc) '
            f"ANTI JOIN ({gone}) USING (uscc)"
        ).write_parquet(str(folder / "then.parquet"))
        db.execute(
            f"CREATE TABLE b_now AS SELECT DISTINCT uscc FROM repayments WHERE paid_on < '{NOW}' "
            f"AND due_on BETWEEN DATE '{NOW}' - 45 AND DATE '{NOW}'"
        )
        room = '0.2 * "bookings.amount.sum.365d[direction=in]"'
        db.sql(f"SELECT *, {room} AS room FROM v_now").write_parquet(str(folder / "now.parquet"))
        db.sql("SELECT * FROM v_now SEMI JOIN b_now USING (uscc)").write_parquet(str(folder / "watched.parquet"))
        later = f"SELECT uscc, min(defaulted_on) AS day FROM defaults WHERE defaulted_on >= '{NOW}' GROUP BY uscc"
        borrowers = db.sql(f"SELECT uscc, day FROM b_now LEFT JOIN ({later}) USING (uscc)").fetchall()
        prospects = db.sql(
            "SELECT uscc, 'Firm ' || right(uscc, 4), industry, 'region ' || substr(uscc, 3, 2), "
            "'desk ' || substr(uscc, 4, 1) FROM register "
            f"ANTI JOIN (SELECT uscc FROM loans UNION SELECT uscc FROM defaults) USING (uscc) ORDER BY uscc "
            f"LIMIT {CONSENTING}"
        ).fetchall()
    with (folder / "firms.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("uscc", "name", "industry", "region", "manager"), *prospects])
    with (folder / "borrowers.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("uscc",), *((firm,) for firm, _ in borrowers)])
    counts = [len(columns_of(homes / p / "features" / "now.parquet")) - 1 for p in HOLDERS]
    say(
        f"{sum(counts):,} variables at the holders and {len(columns_of(folder / 'now.parquet')) - 2:,} at the bank; "
        f"the bank has {len(borrowers):,} borrowers, and {len(prospects):,} firms without a loan consented to an offer."
    )
    return dict(borrowers)


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns."""
    return list(duckdb.read_parquet(str(path)).columns)


def train(homes: Path) -> None:
    """Screen all variables, and train a joint scorecard on those that were kept."""
    say("3. Screening: which variables say something of default, sealed at their owners.")
    veilscore("job", "run", JOBS / "screen.yaml", "--federation", homes)
    found = json.loads((homes / "bank" / "screenings" / "story-screen" / "screening.json").read_text(encoding="utf-8"))
    kept = [column for column in found["columns"] if column["kept"]]
    of = ", ".join(f"{p} {sum(c['party'] == p for c in kept)}" for p in ("bank", *HOLDERS))
    say(f"Of {len(found['columns']):,} variables {len(kept)} are kept: {of}.")
    veilscore("screening", "show", "story-screen", "--top", 5, "--federation", homes)
    say("4. The joint model, trained on who had a loan a year ago and what became of it; a third is held out.")
    veilscore("job", "run", JOBS / "score.yaml", "--federation", homes)
    joint, own = (found["discrimination"] for found in evaluations(homes))
    say(
        f"Of {joint['n']:.0f} held out firms {joint['n_bad']:.0f} defaulted. AUC {joint['auc']:.3f} +- "
        f"{joint['auc_se']:.3f} together, {own['auc']:.3f} +- {own['auc_se']:.3f} by the bank's own columns alone."
    )


def evaluations(homes: Path) -> list[dict[str, Any]]:
    """What the bank's report says of the held out firms: by the joint model, and by the bank's columns alone."""
    (path,) = (homes / "bank" / "jobs").glob("story-score-*/report.json")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
    return found


def file_decisions(homes: Path) -> None:
    """File what the bank decides by, which every holder accepts by its hash."""
    say(
        "5. Decisions are filed: a limit is the least over the joint score and the bank's own room; nothing else opens."
    )
    watch = yaml.safe_load((JOBS / "watch.yaml").read_text(encoding="utf-8"))
    scores = sorted(evaluations(homes)[0]["curve"]["score"])
    levels = [round(scores[round(share * len(scores))], 1) for share in ALARMED]
    watch["parameters"]["decision"]["measures"]["risk"]["cutoffs"] = levels
    path = homes / "watch.yaml"
    path.write_text(yaml.safe_dump(watch, sort_keys=False), encoding="utf-8")
    for job in (JOBS / "limit.yaml", JOBS / "renewal.yaml", path):
        veilscore("job", "run", job, "--federation", homes, until="job done")


def campaign(homes: Path) -> None:
    """Offer limits to firms that consented, which the bank learns and nothing else."""
    say(
        "6. Proactive credit: the bank asks for limits of firms without a loan that consented, and learns limits alone."
    )
    firms = homes / "bank" / "data" / "firms.csv"
    consent(homes, "proactive", "--firms", firms, "--column", "uscc")
    at_desk("bank", "book", "import", firms, "--federation", homes)
    at_desk("bank", "book", "consents", "--federation", homes)
    at_desk("bank", "campaign", "create", "summer", "--product", "flow", "--federation", homes)
    at_desk("bank", "campaign", "run", "summer", "--job", JOBS / "campaign.yaml", "--federation", homes)
    at_desk("bank", "campaign", "lists", "summer", homes / "lists", "--federation", homes)


def consent(homes: Path, purpose: str, *of: object) -> None:
    """Let the trial's portal issue a consent to decisions, and the bank import it."""
    document = homes / f"consent-{purpose}.json"
    holders = [word for name in HOLDERS for word in ("--holder", name)]
    terms = ("--purpose", purpose, "--task", "decide", *holders, "--bits", 7, "--days", 365)
    at_desk("consent", "issue", homes / PORTAL, document, *of, *terms)
    at_desk("consent", "import", document, "--federation", homes)


def apply_by_code(homes: Path) -> tuple[str, str]:
    """Let the owner with the highest offer scan its code, apply, sign and draw; returns its firm and contract."""
    rows = [row for path in (homes / "lists").glob("*.csv") for row in csv.DictReader(path.open(encoding="utf-8-sig"))]
    best = max(rows, key=lambda row: (float(row["amount"].replace(",", "")), row["offer"]))
    firm, offer, amount = best["firm"], best["offer"], best["amount"]
    say(f"7. The owner of {firm} scans the code of offer {offer} ({amount} CNY), applies, signs and draws.")
    show_portrait(homes, firm)
    began = time.monotonic()
    secret = {"OFFER_SECRET": secret_of(home_key(homes / "bank"), offer)}  # which the code has, and no log
    asked = ("--request", "code-1", "--product", "flow", "--amount", amount, "--offer", offer)
    at_desk("bank", "application", "apply", firm, *asked, "--federation", homes, secrets=secret)
    at_desk("bank", "contract", "sign", "C0000001", "--federation", homes)
    at_desk("bank", "contract", "draw", "C0000001", "20000", "--request", "draw-1", "--federation", homes)
    say(f"From the scan to the money: {time.monotonic() - began:.1f} s. Nothing was released again.")
    return firm, "C0000001"


def show_portrait(homes: Path, firm: str) -> None:
    """Show what the bank knows of a firm, each field with its owner; of its own variables their number."""
    fields = json.loads(told("bank", "portrait", firm, "--json", "--federation", homes))["fields"]
    table = Table(title=f"Its portrait: {len(fields)} fields, each with its source, time and owner")
    for name in ("group", "field", "value", "source", "owner"):
        table.add_column(name)
    own = [one for one in fields if one["group"] == "own data"]
    for one in (*(one for one in fields if one not in own), own[0]):
        table.add_row(*(str(one[name]) for name in ("group", "name", "value", "source", "owner")))
    table.add_row("own data", f"... {len(own) - 1} more variables", "", own[0]["source"], own[0]["owner"])
    console.print(table)


def renew(homes: Path, of: tuple[str, str]) -> None:
    """Renew a contract the same day, after a sealed check online."""
    firm, contract = of
    say("8. A renewal: the firm consents, its check of today is sealed too, and it is renewed the same day.")
    consent(homes, "renewal", "--firm", firm)
    at_desk("bank", "book", "consents", "--federation", homes)
    began = time.monotonic()
    at_desk("bank", "renewal", "prepare", contract, "--online", "--federation", homes)
    at_desk("bank", "renewal", "accept", contract, "--federation", homes)
    say(f"From the check to the new contract: {time.monotonic() - began:.1f} s.")


def alarm(homes: Path, borrowers: dict[str, dt.date | None]) -> None:
    """Raise alarms over today's borrowers, and hold them against what became of them."""
    say("9. Alarms: of each borrower the bank learns a level, and nothing else.")
    consent(homes, "watch", "--firms", homes / "bank" / "data" / "borrowers.csv", "--contract", "loans-2025")
    veilscore("job", "run", JOBS / "alarms.yaml", "--federation", homes)
    (path,) = (homes / "bank" / "jobs").glob("story-alarms-*/decisions.csv")
    with path.open(encoding="utf-8", newline="") as file:
        levels = {row["id"]: int(row["step"]) for row in csv.DictReader(file)}
    bad = {firm: day for firm, day in borrowers.items() if day is not None and day < NOW + dt.timedelta(days=365)}
    raised = {firm for firm, level in levels.items() if level}
    lead = sorted((bad[firm] - NOW).days for firm in raised & bad.keys())
    good = len(levels) - len(bad)
    say(
        f"{len(raised)} alarms at {len(levels):,} borrowers. {len(bad)} of these defaulted within the year that "
        f"follows: {len(lead)} of them had an alarm, in the median {lead[len(lead) // 2]} days before. "
        f"{(len(raised) - len(lead)) / good:.1%} of the good ones were disturbed."
    )


def main() -> int:
    """Tell the story alone; exit code of the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "demo-run" / "story")
    folder = parser.parse_args().folder
    began = time.monotonic()
    try:
        tell(folder, Meanwhile(partial(prepare, folder)))
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    console.print(f"The story took {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
