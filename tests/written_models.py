"""A hand-written model of three parties, written for edges as the holders' fixed bins publish them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from local_jobs import HOLDERS, firms, job, nodes, write

from veilscore.data.ingest import read_table
from veilscore.data.published_bins import PublishedBins
from veilscore.node.local import open_job
from veilscore.tasks.fixed_bins import make
from veilscore.terms.job import parse_job

if TYPE_CHECKING:
    from pathlib import Path

PUBLISH = {"publish_bins": ["turnover", "years", "flag", "sector"]}
LIMIT = {"edges": [0, 1.5], "points": [0, 20_000, 40_000], "missing": 1000}
SECTOR = {"levels": {"biotech": 7_500_000, "steel": -50_000}, "other": 5000}


def capacity(turnover=(0,), years=(2, 9)):
    """Points for a limit, by edges of the holders' columns."""
    ranges = {"edges": years, "points": [100_000 * k for k in range(len(years) + 1)], "missing": -10_000}
    return {
        "unit": 1000,
        "base": 50_000,
        "columns": {
            "bank": {"limit": LIMIT},
            "tax": {"turnover": {"edges": turnover, "points": [100_000 * k for k in range(len(turnover) + 1)]}},
            "registry": {"years": ranges, "sector": SECTOR},
        },
    }


def world(n=3000):
    """The usual small firms, with a sector at the registry."""
    parts = firms(n)
    registry = parts["registry"]
    sectors = np.random.default_rng(5).choice(["biotech", "steel", "food", "retail", ""], len(registry["firm"]))
    return {**parts, "registry": {**registry, "sector": sectors.tolist()}}


@dataclass
class Written:
    """A model that was written for edges as they are published, and the job that filed it."""

    folder: Path
    parameters: dict
    run: object

    @property
    def nodes(self):
        return nodes(self.folder / "data", holder_policy=PUBLISH)


def file_capacity(folder, **options):
    """Run the job that files the model, in homes below the folder."""
    configs = nodes(write(folder / "data", world()), holder_policy=PUBLISH)
    edges = {}
    for holder, column in (("tax", "turnover"), ("registry", "years")):
        source = configs[holder].datasets["d"]
        table = read_table(source.source, "firm", normaliser="text")
        edges[column] = PublishedBins.of(make(folder / "homes" / holder, "d", table), column).edges
    assert all(len(one) >= 2 for one in edges.values())
    parameters = capacity(edges["turnover"], edges["years"][:2])
    run = open_job(job("write_model", name="capacity", **parameters), configs, folder / "homes", **options).run()
    return Written(folder, parameters, run)


def filing(decision, holders=HOLDERS):
    """Return the job that files a decision."""
    return parse_job(
        json.dumps(
            {
                "name": decision["name"],
                "purpose": decision["purpose"],
                "task": "file_decision",
                "bank": "bank",
                "holders": list(holders),
                "datasets": dict.fromkeys(("bank", *holders), "d"),
                "parameters": {"id_normaliser": "text", "decision": decision},
            }
        )
    )
