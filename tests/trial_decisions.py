"""A trial federation that filed decisions, and what they come to in the clear, from raw columns and filed models."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from consent_issuer import ISSUERS, OFTEN, give_list
from finished_jobs import finished
from pooled_margins import tree_margins
from trial_scoring import _HEAD, PARTIES, copy_of, rows, run_locally, set_policy, train_trees

from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.ingest import read_table
from veilscore.data.published_bins import PublishedBins
from veilscore.models.boosted import Boosted
from veilscore.models.decided import load_decision
from veilscore.models.filed import load_model
from veilscore.node.local import LocalRun, open_job
from veilscore.release.binding import with_model_version
from veilscore.tasks.context import load_trees
from veilscore.tasks.fixed_bins import make
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import load_node_config

if TYPE_CHECKING:
    from pathlib import Path

    from veilscore.terms.decision import DecisionModel

PUBLISHED = {"tax": ("turnover", "turnover_growth"), "registry": ("firm_age_years", "registered_capital")}
LADDER = [50_000, 100_000, 150_000, 200_000, 300_000]


def head(purpose: str) -> str:
    return _HEAD.replace("purpose: credit", f"purpose: {purpose}")


def decide_job(decision: str, purpose: str, *, name: str = "batch", **parameters: Any) -> str:
    return (
        f"{head(purpose)}name: {name}\ntask: decide\nparameters: {json.dumps({'decision': decision, **parameters})}\n"
    )


def consent(folder: Path, purpose: str, firms: Any = None) -> None:
    """Give the bank consent of its firms to decisions for a purpose."""
    listed = rows(folder, "bank") if firms is None else firms
    give_list(folder / "bank", listed, name=f"decide-{purpose}", purpose=purpose, tasks=("decide",))


def edges_of(folder: Path, party: str, column: str) -> tuple[float, ...]:
    """Edges that a holder publishes of a column."""
    return PublishedBins.of(_bins(folder, party), column).edges


def _bins(folder: Path, party: str) -> FixedBins:
    dataset = load_node_config(folder / party).datasets["main"]
    left_out = tuple(filter(None, (dataset.label_column, dataset.date_column)))
    table = read_table(dataset.source, dataset.id_column, exclude=left_out, rules=dataset)
    return make(folder / party, "main", table)


def file_decisions(folder: Path) -> None:
    """Make homes with models "firms", "trees" and the hand-written "capacity", decision "limit" and watch "alarm"."""
    copy_of(finished(train_trees), folder)
    for party, columns in PUBLISHED.items():
        portal = load_node_config(folder / party).policy.consent_issuers
        set_policy(
            folder, party, publish_bins=list(columns), tell_measure=True, disclose_unknown=party == "tax",
            consent_issuers=ISSUERS | portal, release=OFTEN,
        )  # fmt: skip
    turnover, age = edges_of(folder, "tax", "turnover"), edges_of(folder, "registry", "firm_age_years")
    middle = age[len(age) // 2]
    capacity = {
        "unit": 1000,
        "columns": {
            "tax": {"turnover": {"edges": list(turnover), "points": [40_000 * k for k in range(len(turnover) + 1)]}},
            "registry": {"firm_age_years": {"edges": [middle], "points": [20_000, 90_000], "missing": 10_000}},
        },
    }
    run_locally(folder, f"{head('credit')}name: capacity\ntask: write_model\nparameters: {json.dumps(capacity)}\n")
    growth, capital = edges_of(folder, "tax", "turnover_growth"), edges_of(folder, "registry", "registered_capital")
    limit = {
        "name": "limit",
        "purpose": "proactive",
        "steps": LADDER,
        "measures": {
            "risk": {"model": "trees", "cutoffs": [535, 545, 552, 560, 575]},
            "card": {"model": "firms", "cutoffs": [520, 530, 540, 550, 560]},
            "capacity": {"model": "capacity", "cutoffs": LADDER},
            "room": {"column": "loan_amount", "cutoffs": [20_000, 40_000, 60_000, 90_000, 150_000]},
        },
        "knock_outs": [
            {"party": "registry", "column": "registered_capital", "above": capital[-1]},
            {"party": "tax", "column": "turnover_growth", "up_to": growth[0]},
            {"party": "bank", "column": "overdraft_days", "above": 30},
        ],
    }
    told = {**limit, "name": "told", "tell_measure": True}
    alarm = {
        "name": "alarm",
        "purpose": "watch",
        "watch": True,
        "steps": ["yellow", "red"],
        "measures": {"risk": {"model": "trees", "cutoffs": [552, 540]}},
    }
    for model in (limit, told, alarm):
        text = f"name: {model['name']}\ntask: file_decision\nparameters: {json.dumps({'decision': model})}\n"
        run_locally(folder, head(model["purpose"]) + text)


def units_of_all(folder: Path, model_name: str) -> tuple[np.ndarray, Fraction]:
    """Totals of the bank's firms by a model in the clear, and its units in a point."""
    model = load_model(folder / "bank" / "models" / model_name / "model.json")
    firms, codes = list(rows(folder, "bank")), {}
    for part in model.parts:
        home = folder / part.party
        code_map = CodeMap.from_json((home / "models" / model_name / "code_map.json").read_text())
        dataset = load_node_config(home).datasets["main"]
        table = read_table(
            dataset.source, dataset.id_column, columns=tuple(code_map.kinds), kinds=code_map.kinds, rules=dataset
        )
        place = {firm: k for k, firm in enumerate(table.ids.tolist())}
        coded = np.vstack([code_map.transform(table).codes, code_map.unknown_firms(1).codes])
        codes[part.party] = coded[[place.get(firm, len(place)) for firm in firms]]
    if isinstance(model, Boosted):
        splits = {h: load_trees(folder / h / "models", model_name) for h in model.holder_sha256}
        units = model.base_points + np.rint(tree_margins(model, splits, codes, values=model.points)).astype(np.int64)
        return units, Fraction(10) ** model.scaling.decimals
    total = np.full(len(firms), model.base_points, np.int64)
    for part in model.parts:
        for j, column in enumerate(part.columns):
            total += np.array(column.points, np.int64)[codes[part.party][:, j]]
    return total, Fraction(10) ** model.scaling.decimals


def expected(folder: Path, name: str) -> dict[str, int]:
    """Step of every firm of the bank by a filed decision, from what all parties have."""
    decision: DecisionModel = load_decision(folder / "bank", name).decision
    raw = {party: rows(folder, party) for party in PARTIES}
    totals = {}
    for measure, model in decision.models.items():
        units, scale = units_of_all(folder, model)
        totals[measure] = [Fraction(one) / scale for one in units.tolist()]
    found = {}
    for k, firm in enumerate(raw["bank"]):
        values = {measure: total[k] for measure, total in totals.items()}
        values |= {measure: float(raw["bank"][firm][column]) for measure, column in decision.columns.items()}
        out = any(
            one.holds(float(text) if (text := raw[one.party].get(firm, {}).get(one.column, "")) else None)
            for one in decision.knock_outs
        )
        found[firm] = decision.step_of(decision.index_in(values, knocked_out=out))
    return found


def run_decisions(folder: Path, text: str, **options: Any) -> LocalRun:
    """Run a job of decisions in this process, as the bank would submit it."""
    return open_decisions(folder, text, **options).run()


def open_decisions(folder: Path, text: str, **options: Any) -> LocalRun:
    """Prepare a job of decisions, to be run step by step."""
    nodes = {party: load_node_config(folder / party) for party in PARTIES}
    return open_job(with_model_version(parse_job(text), folder / "bank"), nodes, folder, **options)


def decided(folder: Path, run: LocalRun) -> dict[str, dict[str, str]]:
    """What a job gave the bank, by firm."""
    with (folder / "bank" / "jobs" / run.job_id / "decisions.csv").open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}
