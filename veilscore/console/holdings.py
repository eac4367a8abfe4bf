"""What a node has and has promised: data sets, accounts with their plots, agreements, consents and bases."""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from veilscore.console.desk import Visit, bar_chart, drawn
from veilscore.console.language import noted
from veilscore.console.page import Page, page_of
from veilscore.errors import VeilscoreError
from veilscore.release.account import FILE, Account, accounts
from veilscore.release.basis import filed
from veilscore.release.consent import Signed, body_of, claim_of
from veilscore.release.monthly import MonthOfReleases, released_by_month
from veilscore.release.revocations import RevocationLists
from veilscore.reports.data import SpendingRow
from veilscore.reports.plots import account_chart
from veilscore.reports.svg import Chart
from veilscore.tasks.fixed_bins import load as load_bins
from veilscore.terms.node_config import DatasetConfig
from veilscore.terms.people import AUDITOR, MODELLER, STEWARD
from veilscore.terms.policy import NodePolicy, utc_today
from veilscore.terms.privacy import best_guess, total

KEEPS = frozenset({STEWARD, AUDITOR})
_DAY_S = 86400.0
_KINDS = {"tokens": noted("token"), "lists": noted("list"), "used": noted("used token")}
_MOST_READ = 20_000
CHART_WORDS = (  # those of `plots.ACCOUNT_WORDS`, in the catalogues
    noted("mu that jobs have spent of the account within a year"), noted("day of the last opening"), noted("mu"),
    noted("all jobs"), noted("a job"), noted("most a year: %s"), noted("most a job: %s"),
)  # fmt: skip


# --- data sets -------------------------------------------------------------------------------------------------------


def datasets(visit: Visit) -> Response:
    """Show the catalogue of node.yaml: each data set, where it comes from, how old it is."""
    home = visit.desk.home
    found = [_dataset(home.path, name, entry) for name, entry in sorted(home.config.datasets.items())]
    return visit.show("datasets.html", datasets=found)


def _dataset(home: Path, name: str, entry: DatasetConfig) -> dict[str, Any]:
    """Return what a list says of one data set; nothing of a row, and of a database no address."""
    size, changed_s = None, None
    if entry.path is not None:
        try:
            found = entry.path.stat()
            size, changed_s = found.st_size, found.st_mtime
        except OSError:
            size = -1
    try:
        bins = load_bins(home, name)
        version = "" if bins is None else bins.hash[:16]
    except VeilscoreError:
        version = "?"
    return {
        "name": name,
        "source": entry.path.name if entry.path is not None else noted("database"),
        "key": ", ".join(entry.key_columns),
        "size": size,
        "changed_s": changed_s,
        "account": entry.account or name,
        "excluded": entry.exclude,
        "catalogue": "" if entry.features is None else Path(entry.features.catalogue).name,
        "bins": version,
    }


def dataset(visit: Visit) -> Response:
    """Show one data set: its columns as they are read, and its fixed bins; no value of a row."""
    home, name = visit.desk.home, visit.part("name")
    if name not in home.config.datasets:
        raise HTTPException(404, "there is no data set of that name here")
    entry = home.config.datasets[name]
    words = visit.asked("q").lower()
    columns = [one for one in columns_of(entry) if words in one[0].lower()]
    bins = load_bins(home.path, name)
    cells = {} if bins is None else {column: len(one.counts) - 1 for column, one in bins.columns.items()}
    rows = [(column, kind, cells.get(column)) for column, kind in columns]
    return visit.show(
        "dataset.html",
        dataset=_dataset(home.path, name, entry),
        columns=page_of(rows, visit.page_number(), {"q": visit.asked("q")}),
        words=visit.asked("q"),
        bins=bins,
    )


def columns_of(entry: DatasetConfig) -> list[tuple[str, str]]:
    """Return names and kinds of the columns of a file, without reading its rows where its format allows that."""
    import duckdb  # noqa: PLC0415 - slow import, needed for this page only

    if entry.path is None:
        return []
    path = str(entry.path)
    reader = "read_parquet" if path.endswith(".parquet") else "read_csv"
    if not path.endswith((".parquet", ".csv")):
        return []
    try:
        with duckdb.connect() as database:
            rows = database.execute(f"DESCRIBE SELECT * FROM {reader}(?)", [path]).fetchall()  # noqa: S608 - fixed words
    except duckdb.Error:
        return []
    named = ((entry.label_column, noted("label")), (entry.weight_column, noted("weight")))
    kinds = {
        **dict.fromkeys(entry.exclude, noted("left out")),
        **dict.fromkeys(entry.key_columns, noted("key")),
        **{column: what for column, what in named if column is not None},
    }
    return [(str(row[0]), kinds.get(str(row[0]), str(row[1]).lower())) for row in rows]


# --- accounts --------------------------------------------------------------------------------------------------------


def account_page(visit: Visit) -> Response:
    """Show what each bank was told of each data set, what is left, and what was released by month."""
    home = visit.desk.home
    rules = home.config.policy.privacy
    words = [visit.told(one) for one in CHART_WORDS]
    found = [_account(one, words) for one in accounts(home.path / FILE, rules)]
    months = released_by_month(home.path)
    return visit.show(
        "accounts.html",
        accounts=found,
        rules=rules,
        release=home.config.policy.release,
        months=months[::-1][:60],
        chart=drawn(release_chart(months, visit.told)),
    )


def _account(account: Account, words: Sequence[str]) -> dict[str, Any]:
    lines = account.lines()
    jobs = {line.job_id: line.at_s for line in lines}
    charges = defaultdict(list)
    for line in lines:
        charges[line.job_id].append(line.charge)
    opened = {job: ", ".join(dict.fromkeys(charge.opening for charge in some)) for job, some in charges.items()}
    year_s = time.time() - 365 * _DAY_S
    recent = [
        SpendingRow(job_id=job, day=_iso(at_s), mu=math.sqrt(total(charges[job])))
        for job, at_s in sorted(jobs.items(), key=lambda item: item[1])
        if at_s >= year_s
    ]
    spent, left, year = account.spent(), account.left(), account.rules.year
    return {
        "name": account.name,
        "bank": account.bank,
        "spent": math.sqrt(spent),
        "left": math.sqrt(left),
        "share": min(1.0, spent / year**2),
        "guess": best_guess(math.sqrt(spent)),
        "held": [(job, math.sqrt(mu2)) for job, mu2 in account.held().items() if mu2 > 0],
        "void_s": account.voided_since(),
        "jobs": [(at_s, job, opened[job], math.sqrt(total(charges[job]))) for job, at_s in jobs.items()][::-1][:100],
        "refills": [(at_s + _DAY_S, job, math.sqrt(mu2)) for at_s, job, mu2 in account.refills()][:12],
        "chart": drawn(account_chart(recent, account.rules.job, year, words) if recent else None),
    }


def release_chart(months: tuple[MonthOfReleases, ...], told: Callable[[str], str]) -> Chart | None:
    """Draw how many firms' scores, bands or steps were released in each of the last 24 months."""
    if not months:
        return None
    firms: Counter[str] = Counter()
    for one in months:
        firms[one.month] += one.firms
    last = utc_today().replace(day=1)
    names = [_month_before(last, back) for back in range(23, -1, -1)]
    title, axis = told(noted("Firms in what was released, by month")), told(noted("months before this one"))
    counts = [float(firms[name]) for name in names]
    return bar_chart((title, axis, told(noted("firms"))), [n - 23.0 for n in range(24)], counts, least=5.0, most_x=8)


def _month_before(day: dt.date, back: int) -> str:
    year, month = divmod(day.year * 12 + day.month - 1 - back, 12)
    return f"{year:04}-{month + 1:02}"


# --- agreements ------------------------------------------------------------------------------------------------------


def agreements(visit: Visit) -> Response:
    """Show the policy: what needs no person, what a job or score may tell, and where it promises less than usual."""
    policy, today = visit.desk.home.config.policy, utc_today()
    rules = [
        {
            "number": number,
            "banks": rule.banks,
            "purposes": rule.purposes,
            "tasks": rule.tasks,
            "datasets": rule.datasets,
            "from": rule.valid_from,
            "to": rule.valid_to,
            "holds": (rule.valid_from or today) <= today <= (rule.valid_to or today),
        }
        for number, rule in enumerate(policy.agreements, start=1)
    ]
    usual = NodePolicy.model_validate({"partner": policy.partner})
    changed = [
        (name, _shown(getattr(policy, name)), _shown(getattr(usual, name)), field.description or "")
        for name, field in NodePolicy.model_fields.items()
        if name not in {"agreements", "partner"} and getattr(policy, name) != getattr(usual, name)
    ]
    return visit.show("agreements.html", policy=policy, rules=rules, changed=changed, less=policy.promises_less())


def _shown(value: Any) -> str:
    if hasattr(value, "model_dump"):
        return ", ".join(f"{k}: {v}" for k, v in value.model_dump(mode="json", exclude_defaults=True).items()) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {str(v)[:24]}" for k, v in value.items()) or "–"
    return ", ".join(map(str, value)) or "–" if isinstance(value, tuple | list) else str(value)


# --- consents --------------------------------------------------------------------------------------------------------


def consents(visit: Visit) -> Response:
    """Show consents, revocation lists and bases that this node keeps; a firm is named in none of them."""
    home, kind = visit.desk.home, visit.asked("kind", 10)
    every = list(_documents(home.path))
    names = [(one, path) for one, path in every if not kind or one == kind]
    listing = page_of(names, visit.page_number(), {"kind": kind})
    rows = [_consent(one, path) for one, path in listing.rows]
    config, lists, said = home.config, [], ""
    try:
        if home.role == "holder":
            revoked = RevocationLists(home.path, dict(config.policy.consent_issuers)).now()
            lists = [
                (issuer, one.number, one.issued_s, len(one.revoked)) for issuer, (one, _) in revoked.newest.items()
            ]
    except VeilscoreError as error:
        said = error.message
    return visit.show(
        "consents.html",
        listing=listing,
        rows=rows,
        kinds=_KINDS,
        kind=kind,
        counts=Counter(one for one, _ in every),
        issuers=sorted(config.policy.consent_issuers.items()),
        required=config.policy.consent == "required",
        lists=lists,
        said=said,
        bases=filed(home.path),
        today=utc_today(),
    )


def _documents(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and file of each consent, by name; only names are read."""
    for kind in _KINDS:
        folder = home / "consents" / kind
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".json"))[:_MOST_READ]
        except FileNotFoundError:
            continue
        yield from ((kind, folder / name) for name in names)


def _consent(kind: str, path: Path) -> dict[str, Any]:
    try:
        signed = Signed.from_text(path.read_text(encoding="utf-8"), path.name)
        claim, body = claim_of(signed), body_of(signed)
    except (OSError, UnicodeDecodeError, VeilscoreError):
        return {"kind": kind, "id": path.stem, "damaged": True}
    now_s = time.time()
    scope = claim.scope
    return {
        "kind": kind,
        "id": claim.id,
        "damaged": False,
        "issuer": str(body.get("issuer", "")),
        "purpose": scope.purpose,
        "tasks": scope.tasks,
        "bank": scope.bank,
        "firms": len(signed.commitments) // 32,
        "bits": scope.bits,
        "to_s": scope.expires_s,
        "valid": scope.not_before_s <= now_s < scope.expires_s,
    }


def _iso(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).date().isoformat()


PAGES = (
    Page(
        "/data", datasets, KEEPS | {MODELLER}, name=noted("Data sets"), section=noted("Data"), roles=("bank", "holder")
    ),
    Page("/data/{name}", dataset, KEEPS | {MODELLER}, roles=("bank", "holder")),
    Page("/accounts", account_page, KEEPS, name=noted("Accounts"), section=noted("Data"), roles=("holder",)),
    Page("/agreements", agreements, KEEPS, name=noted("Agreements"), section=noted("Data"), roles=("bank", "holder")),
    Page("/consents", consents, KEEPS, name=noted("Consents"), section=noted("Data"), roles=("bank", "holder")),
)
