"""Steps of coarse scores: how many, where, and what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from local_jobs import PARTIES, job
from random_trees import boosted, part, plain_units, random_tree
from test_modelling import fit_in_the_clear, woe_columns

from veilscore.data.codes import CodeMap
from veilscore.data.ingest import read_table
from veilscore.errors import ConfigError
from veilscore.models.counts import BinnedColumns, own_counts
from veilscore.models.design import design, export
from veilscore.models.model import Column, PartyPart, Provenance, Scaling, Scorecard
from veilscore.models.steps import expected, middles, steps_of
from veilscore.terms.bands import MOST_STEPS, Bands

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "default_credit"
RNG = np.random.default_rng(5)
PROVENANCE = Provenance(
    job_id="j", job_sha256="", purpose="credit", trained_at="", veilscore="", n_train=1, n_holdout=1, n_openings=1,
    converged=True,
)  # fmt: skip


def card(bands=None, scale=1.0, n_columns=(4, 8)):
    parts = []
    for party, count in zip(("bank", "tax"), n_columns, strict=True):
        columns = []
        for j in range(count):
            rows, woe = RNG.integers(50, 500, 5), np.sort(RNG.normal(0, 0.6, 5))
            points = np.round(-scale * 28.85 * 100 * 0.6 * woe).astype(int)
            counts = {"rows": tuple(rows.tolist()), "holdout_rows": (0,) * 5, "bad": (1.0,) * 5, "good": (1.0,) * 5}
            columns.append(
                Column(name=f"c{j}", coefficient=0.6, iv=0.1, woe=tuple(woe), points=tuple(points.tolist()), **counts)
            )
        parts.append(
            PartyPart(
                party=party, role="bank" if party == "bank" else "holder", map_sha256="0" * 64, columns=tuple(columns)
            )
        )
    return Scorecard(
        name="m", version="1", scaling=Scaling(), intercept=-3.0, base_points=Scaling().base_points(-3.0),
        parts=tuple(parts), bands=bands or {}, provenance=PROVENANCE,
    )  # fmt: skip


def totals(model, n, correlation):
    """Totals of firms whose columns go together, by a normal copula."""
    common, total = RNG.normal(size=n), np.full(n, model.base_points, np.int64)
    for p in model.parts:
        for column in p.columns:
            z = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * RNG.normal(size=n)
            cuts = np.quantile(z, np.cumsum(column.rows)[:-1] / np.sum(column.rows))
            total += np.array(column.points)[np.searchsorted(cuts, z)]
    return total


def auc(score, bad):
    rank = np.empty(score.size)
    values, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    assert values.size
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    return ((rank[~bad]).sum() - n_good * (n_good + 1) / 2) / (n_bad * n_good)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("bands", [{}, {"low": 480.0, "middle": 520.0, "high": 560.25}])
def test_steps_hold_the_bands_and_cost_little(correlation, bands):
    model = card(bands)
    steps, units = steps_of(model), totals(model, 60_000, correlation)
    assert 1 < len(steps.names) <= MOST_STEPS
    assert steps.bits <= 5
    assert set(Bands.of(bands, 100).limits if bands else ()) <= set(steps.limits)
    numbers = steps.index(units)
    middle = middles(steps)
    assert (np.diff(middle) > 0).all()
    assert steps.index(middle).tolist() == list(range(len(middle)))
    assert [model.band(s) for s in model.score(middle[numbers])] == [model.band(s) for s in model.score(units)]
    bad = RNG.uniform(size=units.size) < model.probability(units)
    assert auc(units, bad) - auc(numbers, bad) <= 0.001
    mean, deviation = expected(model)
    assert abs(units.mean() - mean) < 0.05 * deviation
    assert 0.4 < units.std() / deviation < 1.6


def test_steps_of_trees_and_of_a_model_that_says_nothing():
    n_codes = {"bank": np.array([4, 3, 5]), "tax": np.array([3, 4])}
    trees = [
        random_tree(RNG, "tax", {"bank": n_codes["bank"], "holder": n_codes["tax"]}, max_depth=3) for _ in range(9)
    ]
    model = boosted(trees, [part(p, "bank" if p == "bank" else "holder", k) for p, k in n_codes.items()])
    codes = {p: RNG.integers(0, k, (4000, k.size)) for p, k in n_codes.items()}
    steps = steps_of(model)
    numbers = steps.index(plain_units(model, codes))
    assert len(steps.names) <= MOST_STEPS
    assert np.unique(numbers).size > 8
    flat = card(scale=0.0)
    assert len(set(steps_of(flat).limits)) == len(steps_of(flat).limits) > 1


def test_most_bands_and_more():
    many = {f"b{k}": 400.0 + 5 * k for k in range(31)}
    assert steps_of(card(many)).limits == Bands.of(many, 100).limits
    too_many = {f"b{k}": 400.0 + 5 * k for k in range(40)}
    assert len(steps_of(card(too_many)).names) == MOST_STEPS
    for wrong in ((), (3, 3), (4, 3), tuple(range(32))):
        with pytest.raises(ConfigError, match="2 to 32 steps"):
            Bands.steps(wrong)
    assert middles(Bands.steps((7,))).tolist() == [6, 7]


def test_on_real_clients_steps_cost_little_of_the_ranking():
    """A scorecard of default_credit in the clear: coarse against exact scores of held-out clients."""
    tables = {
        party: read_table(EXAMPLE / f"{party}.parquet", "uscc", label_column="default" if party == "bank" else None)
        for party in PARTIES
    }
    bank = tables["bank"]
    train = np.random.default_rng(3).random(bank.n_rows) < 0.7
    counts, codes, target = {}, {}, bank.label.astype(np.int8)
    for party, table in tables.items():
        place = {firm: row for row, firm in enumerate(table.ids.tolist())}
        rows = np.array([place.get(firm, -1) for firm in bank.ids.tolist()])
        code_map = CodeMap.fit(table, max_bin=20)
        codes[party] = code_map.transform(table).take_rows(rows).codes
        d = codes[party].shape[1]
        made = BinnedColumns(
            tuple(f"c{j}" for j in range(d)),
            codes[party],
            code_map.n_codes,
            np.zeros(d, bool),
            np.full(d, -1),
            bytes(32),
        )
        counts[party] = own_counts(party, made, target, np.ones(bank.n_rows), train)
    rows = {"codes": codes["bank"], "target": target, "weight": np.ones(bank.n_rows), "train": train}
    made = design(job(), counts, rows)
    X = woe_columns(made, codes, train)
    model = export(job(), made, counts, fit_in_the_clear(made, X, target[train].astype(float)), job_id="card-1")
    units = model.own_units(codes["bank"])
    for mine in model.parts[1:]:
        units += sum(np.array(c.points)[codes[mine.party][:, j]] for j, c in enumerate(mine.columns))
    held, bad = ~train, target == 1
    exact = auc(units[held], bad[held])
    assert exact > 0.7
    for most, cost in ((32, 0.0015), (8, 0.01)):
        steps = steps_of(model, most)
        assert most - 2 <= len(steps.names) <= most
        assert exact - auc(steps.index(units)[held], bad[held]) <= cost
