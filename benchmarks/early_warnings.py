"""Early warnings: which share of the firms that fall overdue is warned, within which alarm budget (`NAME=warnings`).

life : simulated life, five parties, default (private) models. Variables of ends of months by a short catalogue of each
       owner; rows of twelve months train, nine later ones are watched. Each spends the budget in each month: joint, the
       bank's own trees and trees on the pooled variables, both without noise, and the true hazard of the month that
       ends, which nobody has. Bound: 90 % of the coverage of that hazard at each budget. What bounds every model is
       beside it: pooled trees that were taught the true hazard in place of labels (no chance in what is learned), and a
       Bayes filter that knows the laws of the simulation (`warning_ceiling`, firms of the first block), with the shocks
       and frauds that no event of a firm tells and without; and pooled trees by how many firms train. No owner gives
       the industry: its shocks are of one year, and mislead in the next. Printed too: which budget cut-offs meet in the
       later months, those read off the noised hold-out once, and those that follow the last month's noised counts
       (`party_bank.alarm_budget`).
us   : failure within the next year (us_panel), firm-years of the authors' validation firms, three owners, exact.
vat  : sales that break off (vat_invoices), later firm-months, two owners, exact; a break-off is dated six months after
       the first month-begin that it follows.
Totals of held-out rows are opened here by exact batches, which a bank does not get, to try all cut-offs at once; a
decision opens the same comparisons. All parties run in one process. What is not in ../shared/data is left out.
The file has another name than the benchmark, since `warnings` is a module of the standard library.

    python benchmarks/early_warnings.py [life] [us] [vat] [--firms 100000]
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from features_accuracy import DATA, trees, vat_months
from features_joint import OWNERS, PANEL
from result import emit
from sklearn.metrics import roc_auc_score
from warning_catalogues import CATALOGUES, TAKEN
from warning_ceiling import best_reader
from xgboost import XGBRegressor

from party_bank.alarm_budget import alarm_cutoffs, totals_below
from party_bank.book import Book
from party_bank.settings import BankSettings
from party_bank.warning_report import WatchedRows, budget_for, measure, riskiest
from party_bank.warning_rows import LabelledRows, OverdueFirms, at_risk, labelled, no_feedback, overdue_of, owing_of
from veilscore.api import JointBoosting, JointScorecard
from veilscore.data.life import HOLDERS, START, simulate_life
from veilscore.estimator import BANK, JointModel
from veilscore.features.build import build_rows
from veilscore.features.catalogue import Catalogue
from veilscore.models.curve import sensitivity
from veilscore.models.stability import EXPECTED, load_expected
from veilscore.node.local import run_on_tables
from veilscore.terms.settings import parse, parse_yaml
from veilscore.terms.sizing import SizeDecision

BUDGETS = (0.20, 0.10, 0.05, 0.02)
BOUND = 0.9
EXACT = {"disclosure": "exact", "holdout_fraction": 0.0}  # of few firms, whose hold-out would have too few bads
SIZING_NOISE = sensitivity() / SizeDecision.model_fields["mu"].default  # of the counts of a job of task size_decision
FIRMS, SEED = 20_000, 11
# few firms fall overdue, so that small trees, and slow ones, learn most
OWN_TREES = {"n_estimators": 200, "max_depth": 3, "learning_rate": 0.05, "min_child_weight": 20.0, "reg_lambda": 5.0,
             "subsample": 0.7, "colsample_bytree": 0.4}  # fmt: skip
PLAIN = OWN_TREES | {"n_estimators": 300, "colsample_bytree": 0.3}  # of as many columns as all parties have
TRAINED_BY, MONTHS = dt.date(2024, 12, 31), 3
WATCHED = [f"2025-{month:02d}" for month in range(1, 10)]  # their three months are over when the simulation ends
RULES = {"months": MONTHS, "overdue": {"path": "defaults.parquet", "day": "defaulted_on", "after_days": 90},
         "loans": {"path": "loans.parquet"}}  # fmt: skip
Tables = dict[str, dict[str, Any]]


def totals(model: JointModel, tables: Tables) -> np.ndarray:
    """Return the exact totals of rows, in units: what only all parties together have, here in one process."""
    fitted = model._ready()  # noqa: SLF001 - of the package
    read = {party: fitted.reader.again(party, one, fitted.kinds[party]) for party, one in tables.items()}
    asked = {"model": fitted.job.name, "output": "exact", "on_missing": "missing_code", "min_batch": 1, "dates": "all",
             "rows": "firm_dates", "id_normaliser": fitted.job.training.id_normaliser}  # fmt: skip
    run = run_on_tables(
        model._job("score_batch", fitted.job.holders, asked), read, fitted.home, policy=model._policy()  # noqa: SLF001
    )  # fmt: skip
    with (run.stores[BANK].path / "scores.csv").open(encoding="utf-8", newline="") as file:
        return np.array([float(row["score"]) for row in csv.DictReader(file)])


def top(risk: np.ndarray, days: np.ndarray, share: float) -> np.ndarray:
    """Return the rows of the highest risk, a share of each day's."""
    quota = np.zeros(risk.size, bool)
    for day in np.unique(days):
        here = np.flatnonzero(days == day)
        quota[here[: round(share * here.size)]] = True
    return riskiest(risk, days, quota)


def followed(score: np.ndarray, days: np.ndarray, cutoffs: Sequence[float]) -> np.ndarray:
    """Return the mean share of firms below each cut-off that follows the noised counts of the month before."""
    limits, met, rng = np.sort(cutoffs), [], np.random.default_rng(SEED)
    for day in np.unique(days):
        here = score[days == day]
        below = (here[:, None] < limits).sum(axis=0)
        met.append(below[::-1] / here.size)
        counts = np.diff(below, prepend=0, append=here.size) + rng.normal(0, SIZING_NOISE, limits.size + 1)
        limits = totals_below(limits, counts.clip(0), BUDGETS[::-1])
    return np.mean(met[1:] or met, axis=0)


class Trial:
    """Rows that are watched, with what befalls them, and whom the others would warn."""

    def __init__(self, rows: WatchedRows, overdue: OverdueFirms, months: int, others: Mapping[str, np.ndarray]) -> None:
        self.rows, self.overdue, self.months, self.others = rows, overdue, months, others

    def show(self, name: str, model: JointModel, score: np.ndarray) -> tuple[dict[float, float], float]:
        """Print a line a budget; return coverage against the true hazard by budget, and the budget for 90 %."""
        against = {}
        for share in BUDGETS:
            late = top(-score, self.rows.days, share)
            found = measure(self.rows, late, self.overdue, self.months)
            rest = []
            for other, risk in self.others.items():
                same = measure(self.rows, riskiest(risk, self.rows.days, late), self.overdue, self.months)
                rest.append(f"{other} {same.coverage:.0%} ({same.disturbed:.0%})")
                if other == "true hazard":
                    against[share] = found.coverage / same.coverage
            print(
                f"  {name:<6} budget {share:>4.0%}: warned {found.coverage:.0%} of {found.overdue}, lead "
                f"{found.lead_months:.1f} months, good firms disturbed {found.disturbed:.0%}; {', '.join(rest)}",
                flush=True,
            )
        self._show_cutoffs(name, model, score)
        reach = {n: budget_for(r, self.rows, self.overdue, self.months, 0.9) for n, r in self.others.items()}
        own = budget_for(-score, self.rows, self.overdue, self.months, 0.9)
        text = ", ".join(f"{other} {value:.0%}" for other, value in reach.items())
        print(f"  {name:<6} 90 % of the firms overdue are reached with a budget of {own:.0%}; {text}", flush=True)
        return against, own

    def _show_cutoffs(self, name: str, model: JointModel, score: np.ndarray) -> None:
        """Print which budgets the cut-offs of the hold-out meet, and those that follow; nothing without a hold-out."""
        filed = model._ready().home / BANK / "models" / model.name  # noqa: SLF001
        if load_expected(filed / EXPECTED) is None:
            return
        cutoffs = alarm_cutoffs(filed, BUDGETS)
        shares = {
            "that cut-offs of the hold-out meet later": [float(np.mean(score < cutoff)) for cutoff in cutoffs],
            "met by cut-offs that follow the month before": followed(score, self.rows.days, cutoffs).tolist(),
        }
        for what, met in shares.items():
            text = ", ".join(f"{meant:.0%}: {one:.1%}" for meant, one in zip(BUDGETS, met, strict=True))
            print(f"  {name:<6} budgets {what}, by those meant: {text}", flush=True)


# --- simulated life ---------------------------------------------------------------------------------------------------


def read_columns(path: Path) -> dict[str, Any]:
    found = duckdb.execute(f"SELECT * FROM '{path}'").fetchnumpy()
    return {
        name: np.where(np.ma.getmaskarray(v), None, v.astype(object)) if v.dtype.kind == "O"
        else np.ma.filled(v.astype(float), np.nan) if v.dtype.kind in "iuf" else np.asarray(v)
        for name, v in found.items()
    }  # fmt: skip


def variables(folder: Path, firms: np.ndarray, days: np.ndarray) -> Tables:
    """Return each owner's variables of rows, built at the owner as of their days."""
    tables: Tables = {}
    for party in HOLDERS:
        form = {"name": party, **parse_yaml(CATALOGUES[party], party)}
        made = build_rows(
            parse(Catalogue, form, party), folder / party, folder / f"{party}.rows.parquet", firms.tolist(), days
        )
        tables[party] = read_columns(made.path)
    return tables


def encoded(columns: Mapping[str, Any]) -> np.ndarray:
    """Return all columns as numbers, for models in the clear."""
    found = []
    for name, values in columns.items():
        if name not in {"uscc", "as_of", "bad"}:
            given = np.asarray(values)
            is_text = given.dtype == object
            found.append(np.unique(given.astype(str), return_inverse=True)[1] if is_text else given.astype(float))
    return np.column_stack(found)


def true_hazard(folder: Path, rows: WatchedRows | LabelledRows) -> np.ndarray:
    """Return the hazard of the month that ends at each row's day."""
    truth = duckdb.execute(
        f"WITH truth AS (FROM '{folder}/truth/hazard.parquet') SELECT uscc, month::DATE AS m, hazard FROM truth "
        f"WHERE month >= DATE '{rows.days.min().astype('datetime64[M]')}-01'"
    ).fetchnumpy()
    known = {
        (firm, str(month)): value
        for firm, month, value in zip(
            truth["uscc"], truth["m"].astype("datetime64[M]"), truth["hazard"].tolist(), strict=True
        )
    }
    return np.array([
        known[firm, str(month)]
        for firm, month in zip(rows.firms.tolist(), rows.days.astype("datetime64[M]"), strict=True)
    ])  # fmt: skip


def taken(party: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a party's columns without those that joint models do not take."""
    names = TAKEN.get(party)
    return {name: v for name, v in columns.items() if names is None or name in {*names, "uscc", "as_of"}}


def ceiling(
    folder: Path, n_firms: int, rows: WatchedRows, overdue: OverdueFirms, others: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Print and return what the best reader of events and others reach of the true hazard, on firms of one block."""
    months = range(24, 24 + len(WATCHED))
    at = (rows.days.astype("datetime64[M]") - START.astype("datetime64[M]")).astype(int)
    keys, risks = list(zip(rows.firms.tolist(), at.tolist(), strict=True)), dict[str, np.ndarray]()
    for name, told in (("best reader of events", True), ("the same, told neither shocks nor frauds", False)):
        known = best_reader(folder, n_firms, SEED, months, set(rows.firms.tolist()), told=told)
        risks[name] = np.array([known.get(key, np.nan) for key in keys])
    here = np.isfinite(risks["best reader of events"])
    some = WatchedRows(rows.firms[here], rows.days[here])
    risks = {name: risk[here] for name, risk in {**risks, **others}.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in risks}
    for share in BUDGETS:
        for name, risk in risks.items():
            found[name][f"{share:.0%}"] = measure(some, top(risk, some.days, share), overdue, MONTHS).coverage
    truth = found.pop("true hazard")
    shown = {name: {share: round(c / truth[share], 3) for share, c in by.items()} for name, by in found.items()}
    for name, by in shown.items():
        print(f"  of the coverage of the true hazard, {np.unique(some.firms).size:,} firms, {name}: {by}", flush=True)
    return {"of the true hazard": shown}


def by_size(
    train: LabelledRows, x: np.ndarray, rows: WatchedRows, asked: np.ndarray, overdue: OverdueFirms,
    others: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Print and return what pooled trees without noise reach of the true hazard, by how many firms train them."""
    names, place = np.unique(train.firms, return_inverse=True)
    drawn, found = np.random.default_rng(SEED).random(names.size)[place], dict[str, dict[str, float]]()
    truth = [measure(rows, top(others["true hazard"], rows.days, s), overdue, MONTHS).coverage for s in BUDGETS]
    for part in (0.125, 0.25, 0.5, 1.0):
        some = drawn < part
        risk = trees(**PLAIN).fit(x[some], train.overdue[some]).predict_proba(asked)[:, 1]
        reached = [measure(rows, top(risk, rows.days, s), overdue, MONTHS).coverage for s in BUDGETS]
        by = {f"{s:.0%}": round(one / all_, 3) for s, one, all_ in zip(BUDGETS, reached, truth, strict=True)}
        n, bads = np.unique(train.firms[some]).size, int(train.overdue[some].sum())
        print(
            f"  of the coverage of the true hazard, {n:,} firms train, {bads:,} overdue, pooled, no noise: {by}",
            flush=True,
        )
        found[f"{n} firms, {bads} overdue"] = by
    return found


def life(folder: Path, n_firms: int) -> tuple[dict[float, float], dict[str, Any]]:
    simulate_life(folder, n_firms, SEED)
    settings = BankSettings.model_validate({"warnings": RULES})
    book = Book(f"sqlite:///{folder / 'book.db'}")
    owing, overdue = owing_of(book, settings, folder / "bank"), overdue_of(settings, folder / "bank")
    book.close()
    train = labelled(owing, overdue, settings.warnings, TRAINED_BY, no_feedback(), most=12)
    ends = (np.array(WATCHED, "datetime64[M]") + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
    each = [at_risk(owing, overdue, day) for day in ends]
    rows = WatchedRows(np.concatenate(each), np.repeat(ends, [firms.size for firms in each]))
    print(
        f"  {n_firms:,} firms; {train.firms.size:,} firm-months of {np.unique(train.firms).size:,} firms train, "
        f"{int(train.overdue.sum()):,} overdue within {MONTHS} months; {rows.firms.size:,} firm-months are watched",
        flush=True,
    )
    fit, test = variables(folder, train.firms, train.days), variables(folder, rows.firms, rows.days)
    x, own = (np.column_stack([encoded(fit[p]) for p in parties]) for parties in (HOLDERS, (BANK,)))
    clear = {"pooled, no noise": (x, np.column_stack([encoded(test[p]) for p in HOLDERS])),
             "bank only": (own, encoded(test[BANK]))}  # fmt: skip
    others = {"true hazard": true_hazard(folder, rows)}
    for name, (given, asked) in clear.items():
        plain = trees(**PLAIN).fit(given, train.overdue)
        others[name] = plain.predict_proba(asked)[:, 1]
    taught = XGBRegressor(**PLAIN | {"max_depth": 5}, n_jobs=2).fit(x, np.log(true_hazard(folder, train)))
    others["pooled, taught the true hazard"] = taught.predict(clear["pooled, no noise"][1])
    figures: dict[str, Any] = {"firms": n_firms, **ceiling(folder, n_firms, rows, overdue, others)}
    figures["pooled, no noise, by firms that train"] = by_size(
        train, x, rows, clear["pooled, no noise"][1], overdue, others
    )
    trial = Trial(rows, overdue, MONTHS, others)
    fit[BANK]["bad"] = train.overdue
    fit, test = ({p: taken(p, one) for p, one in tables.items()} for tables in (fit, test))
    usual = {"rows": "firm_dates", "rows_per_firm": 12, "despite_noise": True}
    models: dict[str, JointModel] = {
        "card": JointScorecard(name="card", firm_weight="shared", max_bin=64, min_bin_fraction=0.005, **usual),
        "trees": JointBoosting(name="trees", max_bin=64, min_bin_fraction=0.002, **OWN_TREES, **usual),
    }
    ratios, surely = dict[str, dict[float, float]](), dict[str, float]()
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(fit[BANK], {p: fit[p] for p in HOLDERS if p != BANK}, id=("uscc", "as_of"), label="bad")
        held = model.report_.data.evaluations[-1].discrimination
        surely[name] = held.auc - 2 * held.auc_se
        score = totals(model, test)
        ratios[name], reach = trial.show(name, model, score)
        took = time.perf_counter() - start
        print(f"  {name:<6} AUC of the hold-out {held.auc:.3f} ± {held.auc_se:.3f}, {took:.0f} s", flush=True)
        figures |= {f"{name} reaches 90 % with": round(reach, 3), f"{name} hold-out AUC": round(held.auc, 4)}
        figures[f"{name} against true hazard"] = {f"{share:.0%}": round(r, 3) for share, r in ratios[name].items()}
    best = max(surely, key=surely.__getitem__)  # chosen without the months that are watched, noise counted against
    return ratios[best], figures | {"chosen": best}


# --- real sets --------------------------------------------------------------------------------------------------------


def real(
    tables: Tables, bad: np.ndarray, train: np.ndarray, test: np.ndarray, overdue: OverdueFirms, months: int,
    models: Mapping[str, JointModel],
) -> dict[str, Any]:  # fmt: skip
    """Train on some rows, watch others; print the figures of each model against the bank's own trees."""

    def part(which: np.ndarray) -> Tables:
        return {party: {n: v[which] for n, v in one.items()} for party, one in tables.items()}

    firms, days = (np.asarray(tables[BANK][name])[test] for name in PANEL)
    rows = WatchedRows(firms.astype(str), days.astype("datetime64[D]"))
    own = np.column_stack([v for n, v in tables[BANK].items() if n not in PANEL])
    plain = trees().fit(own[train], bad[train])
    trial = Trial(rows, overdue, months, {"bank only": plain.predict_proba(own[test])[:, 1]})
    fit, asked = part(train), part(test)
    fit[BANK]["bad"] = bad[train].astype(float)
    figures = {}
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(fit[BANK], {p: one for p, one in fit.items() if p != BANK}, id=PANEL, label="bad")
        score = totals(model, asked)
        _, reach = trial.show(name, model, score)
        found = roc_auc_score(bad[test], -score)
        print(f"  {name:<6} AUC {found:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        figures |= {f"{name} AUC": round(found, 4), f"{name} reaches 90 % with": round(reach, 3)}
    return figures


def us(_folder: Path, _n_firms: int) -> tuple[dict[float, float], dict[str, Any]]:
    found = duckdb.execute(f"SELECT * FROM '{DATA}/us_panel/firm_years.parquet' ORDER BY firm_id, fyear").fetchnumpy()
    never = {"firm_id", "fyear", "split", "failed_firm", "fail_next_year", "years_to_last"}
    owner = {name: party for party, some in OWNERS.items() for name in some}
    tables: Tables = {party: {} for party in ("bank", "tax", "registry")}
    for name, values in found.items():
        if name not in never:
            tables[owner.get(name, "registry")][name] = np.ma.filled(values.astype(float), np.nan)
    firms, year = found["firm_id"].astype(str), np.asarray(found["fyear"]).astype(int)
    days = np.array([f"{one}-12-31" for one in year.tolist()])
    for one in tables.values():
        one |= dict(zip(PANEL, (firms, days), strict=True))
    bad = np.asarray(found["fail_next_year"]).astype(int)
    train, test = (found["split"].astype(str) == part for part in ("train", "validation"))
    fell = np.array([f"{one + 1}-06-30" for one in year[bad == 1].tolist()], "datetime64[D]")
    never_cured = np.full(fell.size, np.datetime64("9999-12-31"))
    overdue = OverdueFirms(firms[bad == 1], fell, fell, never_cured)
    usual = {"rows": "firm_dates", "rows_per_firm": 16, "id_normaliser": "text", **EXACT}
    models = {
        "card": JointScorecard(name="card", firm_weight="shared", **usual),
        "trees": JointBoosting(name="trees", n_estimators=15, max_depth=3, **usual),
    }
    print(f"  {train.sum():,} firm-years train, {test.sum():,} are watched")
    return {}, real(tables, bad, train, test, overdue, 12, models)


def vat(folder: Path, _n_firms: int) -> tuple[dict[float, float], dict[str, Any]]:
    names, firms, at, x, bad = vat_months(folder)
    tables: Tables = {"bank": {}, "tax": {}}
    for name, column in zip(names, x.T, strict=True):
        tables["bank" if "side=in" in name or "_in." in name else "tax"][name] = column
    for one in tables.values():
        one |= dict(zip(PANEL, (firms, at.astype(str)), strict=True))
    train, test = at < np.datetime64("2018-10-01"), at >= np.datetime64("2019-03-01")
    first: dict[str, np.datetime64] = {}
    for firm, day in zip(firms[test & (bad == 1)].tolist(), at[test & (bad == 1)], strict=True):
        first.setdefault(firm, day)
    fell = (np.array(list(first.values())).astype("datetime64[M]") + 6).astype("datetime64[D]")
    overdue = OverdueFirms(np.array(list(first)), fell, fell, np.full(fell.size, np.datetime64("9999-12-31")))
    usual = {"rows": "firm_dates", "rows_per_firm": 12, "id_normaliser": "text", **EXACT}
    models = {"card": JointScorecard(name="card", firm_weight="shared", max_bin=8, **usual)}
    print(f"  {train.sum():,} firm-months of {len(set(firms[train]))} firms train, {test.sum():,} are watched")
    return {}, real(tables, bad, train, test, overdue, 6, models)


def main() -> None:
    warnings.filterwarnings("ignore")
    trials: dict[str, tuple[str | None, Callable[[Path, int], tuple[dict[float, float], dict[str, Any]]]]] = {
        "life": (None, life),
        "us": ("us_panel", us),
        "vat": ("vat_invoices", vat),
    }
    parser = argparse.ArgumentParser(description="Coverage of early warnings by alarm budget.")
    parser.add_argument("trials", nargs="*", choices=[[], *trials], help="default all")
    parser.add_argument("--firms", type=int, default=FIRMS, help="of simulated life")
    asked = parser.parse_args()
    worst: float | None = None  # only simulated life has a true hazard to compare with
    figures: dict[str, Any] = {}
    for name in asked.trials or trials:
        data, task = trials[name]
        if data is not None and not (DATA / data).is_dir():
            print(f"{name}: left out, {DATA / data} is not there")
            continue
        start = time.perf_counter()
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            against, figures[name] = task(Path(folder), asked.firms)
        if against:
            worst = round(min(against.values()), 3)
        print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    holds = worst is not None and worst >= BOUND
    emit("warnings", worst, "of the coverage of the true hazard", BOUND, holds, **figures)


if __name__ == "__main__":
    main()
