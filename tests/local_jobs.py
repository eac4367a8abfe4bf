"""Small made-up firms at a bank and two holders, and whole jobs on them in one process."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
from consent_issuer import ISSUERS, OFTEN

from veilscore.models.loss import sigmoid
from veilscore.node.local import open_job
from veilscore.tasks.context import StepContext, digest_of_ids
from veilscore.terms.job import parse_job
from veilscore.terms.node_config import DatasetConfig, NodeConfig
from veilscore.terms.policy import NodePolicy

if TYPE_CHECKING:
    from pathlib import Path

HOLDERS = ("tax", "registry")
PARTIES = ("bank", *HOLDERS)


def firms(n=600, *, seed=0, prefix="firm", coverage=0.93):
    """Columns of every party: {party: {column: list}}, ids of another kind of text at every row order."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=n)
    ids = [f"{prefix}-{k:05d}" for k in rng.permutation(n)]

    def signal(strength):
        return strength * latent + rng.normal(size=n)

    bank = {
        "firm": ids,
        "default": (rng.random(n) < sigmoid(1.5 * latent - 0.2)).astype(int).tolist(),
        "weight": rng.choice([0.5, 1.0, 2.0], n).tolist(),
        "opened": [f"20{20 + k // 12}-{k % 12 + 1:02d}-15" for k in rng.integers(0, 48, n)],
        "limit": np.round(signal(0.9), 3).tolist(),
        "product": [("loan", "card", "line")[k] for k in np.clip(signal(0.5) + 1, 0, 2).astype(int)],
    }
    turnover = np.round(signal(1.0), 3)
    arrears = np.round(signal(0.7), 2)
    tax = {
        "firm": ids,
        "turnover": turnover.tolist(),
        "arrears": [value if rng.random() > 0.1 else "" for value in arrears.tolist()],
        "turnover_again": np.round(turnover * 2 + rng.normal(0, 0.02, n), 3).tolist(),
    }
    registry = {
        "firm": ids,
        "years": np.clip(signal(-0.8) * 3 + 8, 0, 30).astype(int).tolist(),
        "flag": (signal(0.8) > 1.2).astype(int).tolist(),
        "noise": np.round(rng.normal(size=n), 3).tolist(),
    }
    parts = {"bank": bank, "tax": tax, "registry": registry}
    return {
        party: take(columns, rng.permutation(n)[: n if party == "bank" else int(coverage * n)])
        for party, columns in parts.items()
    }


def take(columns, rows):
    return {name: [values[k] for k in rows] for name, values in columns.items()}


def write(folder, parts):
    """Write one CSV a party."""
    folder.mkdir(parents=True, exist_ok=True)
    for party, columns in parts.items():
        write_csv(folder / f"{party}.csv", columns)
    return folder


def write_csv(path: Path, columns):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def nodes(folder, *, holder_policy=None, bank_policy=None, holders=HOLDERS, **dataset):
    """Node configurations over the CSVs of `firms`."""
    meaning = {"label_column": "default", "weight_column": "weight", "date_column": "opened"}
    return {
        party: NodeConfig(
            name=party,
            role="bank" if party == "bank" else "holder",
            datasets={
                "d": DatasetConfig(
                    path=folder / f"{party}.csv",
                    **{"id_column": "firm", **(meaning if party == "bank" else {}), **dataset},
                )
            },
            policy=NodePolicy(
                **{"accept": "auto", "consent_issuers": ISSUERS, "release": OFTEN, "exact_for": {"bank": "9999-12-31"}}
                | ((bank_policy if party == "bank" else holder_policy) or {})
            ),
        )
        for party in ("bank", *holders)
    }


# every column with every bin and any sign, as scikit-learn would fit them
EVERYTHING = {
    "monotone": False, "missing_bin": False, "sign": None, "min_iv": 0.0, "max_correlation": None,
    "rows_per_column": None,
}  # fmt: skip


def job(task="train_scorecard", *, name="card", holders=HOLDERS, **parameters):
    """A job over data set `d` of every party."""
    card = task == "train_scorecard"
    defaults = {
        "id_normaliser": "text",
        **({"max_bin": 6, "disclosure": "exact", "despite_noise": True, **EVERYTHING} if card else {}),
        **({"disclosure": "exact"} if task in {"train_stack", "select_model", "screen_features"} else {}),
        **({"disclosure": "exact", "despite_noise": True} if task == "train_boosting" else {}),
    }
    return parse_job(
        json.dumps(
            {
                "name": name,
                "purpose": "credit",
                "task": task,
                "bank": "bank",
                "holders": list(holders),
                "datasets": dict.fromkeys(("bank", *holders), "d"),
                "parameters": {**defaults, **parameters},
            }
        )
    )


def run_job(folder, parts=None, *, policy=None, keep=False, **parameters):
    """Write the firms, train on them, return the finished run."""
    if parts is not None:
        write(folder / "data", parts)
    return open_job(job(**parameters), nodes(folder / "data", holder_policy=policy), folder / "homes", keep=keep).run()


def skip_align(run):
    """Do what the align step does by a plain join, where the protocol itself is not under test."""
    tables = {}
    for party in run.job.parties:
        role = "bank" if party == run.job.bank else "holder"
        tables[party] = StepContext(
            session=_session(run, party), role=role, job=run.job, node=run.nodes[party], store=run.stores[party]
        ).table()
    for party, table in tables.items():
        saved = {"ids": digest_of_ids(table), "n_rows": table.n_rows, "sizes": {}, "known": 0, "warnings": []}
        run.stores[party].save_json("aligned", saved)
        if party != run.job.bank:
            row_at = {firm: row for row, firm in enumerate(table.ids.tolist())}
            rows = np.array([row_at.get(firm, -1) for firm in tables[run.job.bank].ids.tolist()], np.int64)
            run.stores[party].save_arrays("row_of", row_of=rows)
            own = np.maximum(rows, 0).astype(np.uint64)
            run.stores[party].save_arrays("firms", firms=own, rows=np.arange(own.size, dtype=np.uint64))
            run.stores[party].save_json("withheld", {})


def _session(run, party):
    from veilscore.wire.protocol import Session

    return Session(f"{run.job_id}/align/1", party, run.job.bank, run.job.holders)


def pooled(run):
    """WOE columns of a finished run with all parties' codes in one place: (X, y, train, weight)."""
    from veilscore.models.filed import load_model

    bank = run.stores["bank"].load_arrays("rows")
    model = load_model(run.stores["bank"].path / "model.json")
    columns = []
    for part in model.parts:
        codes = run.stores[part.party].load_arrays("rows")["codes"]
        columns += [
            np.array(column.woe)[codes[:, j]] for j, column in enumerate(part.columns) if column.coefficient is not None
        ]
    return np.stack(columns, 1), bank["target"].astype(float), bank["train"], bank["weight"]
