"""The bank's plaintext side: counts to design, fit to scorecard."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from local_jobs import job
from reference import pooled_logistic, pooled_woe

from veilscore.data.codes import TransformReport
from veilscore.data.table import make_table
from veilscore.errors import JobError, ParameterError
from veilscore.files.store import JobStore
from veilscore.models import design as modelling
from veilscore.models.association import cramers_v
from veilscore.models.counts import BinnedColumns, offsets, own_counts
from veilscore.models.design import design, export
from veilscore.models.logistic_problem import GRADIENT_FRACTION_BITS
from veilscore.models.loss import sigmoid
from veilscore.models.optimise import OptimiserState
from veilscore.protocols.scoring import BatchResult
from veilscore.tasks.batch_files import write_scores
from veilscore.tasks.binning import load_counts, save_counts

N = 1200
N_CODES = {"bank": np.array([4, 3]), "tax": np.array([5, 4])}


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(2)
    latent = rng.normal(size=N)
    codes = {
        party: np.stack(
            [np.clip((latent + rng.normal(size=N) + k / 2).astype(int), 0, k - 1) for k in sizes.tolist()], 1
        ).astype(np.uint8)
        for party, sizes in N_CODES.items()
    }
    target = (rng.random(N) < sigmoid(1.2 * latent - 0.8)).astype(np.int8)
    train = rng.random(N) < 0.8
    weight = np.ones(N)
    counts = {party: own_counts(party, columns(party, codes[party]), target, weight, train) for party in N_CODES}
    rows = {"codes": codes["bank"], "target": target, "weight": weight, "train": train}
    return codes, counts, rows


def columns(party, codes, **changes):
    d = codes.shape[1]
    fields = {
        "names": tuple(f"{party}{j}" for j in range(d)),
        "codes": codes,
        "n_codes": N_CODES[party],
        "ordered": np.zeros(d, bool),
        "missing_code": np.full(d, -1, np.int64),
        "map_hash": bytes(32),
        **changes,
    }
    return BinnedColumns(**fields)


def one_holder_job(**parameters):
    return job(holders=("tax",), **parameters)


def woe_columns(made, codes, train):
    parts = []
    for party, table in made.tables.items():
        at = offsets(table.n_codes)
        parts += [table.woe[at[j] + codes[party][train][:, j]] for j in range(table.n_columns)]
    return np.stack(parts, 1)


def fit_in_the_clear(made, X, y):
    """Drive the fit with exact gradients."""
    X1 = np.column_stack([X, np.ones(len(X))])
    steps = modelling.fit(made, OptimiserState())
    try:
        step = next(steps)
        while True:
            eta = X1 @ np.append(step.beta, step.intercept)
            assert np.abs(eta).max() <= step.bound
            step = steps.send(X1.T @ (sigmoid(eta) - y))
    except StopIteration as stop:
        return stop.value


def test_cramers_v_is_the_textbooks():
    from scipy.stats.contingency import association, crosstab

    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 500)
    codes = np.stack([first, (first + (rng.random(500) < 0.3)) % 3, rng.integers(0, 5, 500), first], 1).astype(np.uint8)
    found = cramers_v(codes, np.array([4, 3, 5, 4]))
    for i in range(4):
        for j in range(4):
            expected = association(crosstab(codes[:, i], codes[:, j]).count, method="cramer") if i != j else 1.0
            assert found[i, j] == pytest.approx(expected, abs=0.0051)  # rounded to hundredths


def test_cramers_v_of_one_code():
    codes = np.zeros((9, 2), np.uint8)
    codes[:4, 1] = 1
    assert cramers_v(codes, np.array([1, 2])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_woe_of_large_bins_is_the_textbooks(world):
    codes, counts, rows = world
    made = design(one_holder_job(), counts, rows)
    table, y = made.tables["tax"], rows["target"][rows["train"]]
    plain = pooled_woe(codes["tax"][rows["train"]][:, 0], 5, y.astype(float))
    large = (table.bad > 0.05 * table.total_bad) & (table.good > 0.05 * table.total_good)
    unmerged = [code for code in np.flatnonzero(large[:5]) if (table.group[:5] == table.group[code]).sum() == 1]
    assert len(unmerged) >= 3
    assert np.abs(table.woe[unmerged] - plain[unmerged]).max() < 2e-3


def test_counts_survive_the_store(world, tmp_path):
    _, counts, _ = world
    store = JobStore(tmp_path / "job")
    save_counts(store, counts)
    again = load_counts(store)
    assert list(again) == list(counts)
    for party in counts:
        for field in ("names", "map_hash", "party"):
            assert getattr(again[party], field) == getattr(counts[party], field)
        for field in ("n_codes", "bad", "good", "counts", "holdout_counts", "ordered", "missing_code"):
            assert np.array_equal(getattr(again[party], field), getattr(counts[party], field))


def test_what_both_sides_derive_from_the_job():
    assert modelling.fraction_bits(one_holder_job(), 1000) == GRADIENT_FRACTION_BITS
    assert modelling.fraction_bits(one_holder_job(gradient_bits=17), 1000) == 7
    assert modelling.fraction_bits(one_holder_job(gradient_bits=8), 10_000) == 0
    assert modelling.most_openings(one_holder_job(max_openings=9)) == 9
    assert modelling.most_openings(one_holder_job(max_openings=9, standard_errors=True)) > 9 + 2 * 64


@pytest.mark.parametrize("sign", [None, "positive"])
def test_fit_and_export(world, sign):
    codes, counts, rows = world
    config = one_holder_job(sign=sign, points_decimals=2)
    made = design(config, counts, rows)
    assert made.names == ("bank: bank0", "bank: bank1", "tax: tax0", "tax: tax1")
    train = rows["train"]
    X, y = woe_columns(made, codes, train), rows["target"][train].astype(float)
    fitted = fit_in_the_clear(made, X, y)
    beta, intercept = pooled_logistic(X, y, positive=sign is not None)
    assert np.abs(fitted.result.beta - beta).max() < 2e-4
    model = export(config, made, counts, fitted, job_id="card-1")
    units = model.own_units(codes["bank"][train])
    part = model.part("tax")
    units = units + sum(np.array(c.points)[codes["tax"][train][:, j]] for j, c in enumerate(part.columns))
    p = sigmoid(X @ beta + intercept)
    assert np.abs(model.probability(units) - p).max() < 2e-3
    assert [c.coefficient for q in model.parts for c in q.columns] == fitted.result.beta.tolist()
    assert model.provenance.n_train == train.sum()
    assert model.provenance.n_holdout == (~train).sum()


def test_standard_errors_reach_the_model(world):
    codes, counts, rows = world
    config = one_holder_job(standard_errors=True)
    made = design(config, counts, rows)
    X, y = woe_columns(made, codes, rows["train"]), rows["target"][rows["train"]].astype(float)
    fitted = fit_in_the_clear(made, X, y)
    model = export(config, made, counts, fitted, job_id="card-1")
    assert all(c.standard_error > 0 for part in model.parts for c in part.columns)
    assert modelling.openings(config, made) == 120 + 2 * 4 + 2


def test_bank_only_is_the_banks_own_fit(world):
    codes, counts, rows = world
    made = design(one_holder_job(), counts, rows)
    train = rows["train"]
    X, y = woe_columns(made, codes, train)[:, :2], rows["target"][train].astype(float)
    beta, intercept = pooled_logistic(X, y)
    assert np.abs(modelling.bank_only(made) - np.append(beta, intercept)).max() < 2e-4


def test_no_column_left(world):
    _, counts, rows = world
    with pytest.raises(JobError, match="lower min_iv"):
        design(one_holder_job(min_iv=99), counts, rows)


def test_points_that_could_wrap_are_refused(world):
    codes, counts, rows = world
    config = one_holder_job(pdo=50_000, points_decimals=3)
    made = design(config, counts, rows)
    X, y = woe_columns(made, codes, rows["train"]), rows["target"][rows["train"]].astype(float)
    with pytest.raises(ParameterError, match="fewer decimals"):
        export(config, made, counts, fit_in_the_clear(made, X, y), job_id="card-1")


def test_scores_are_written(world, tmp_path):
    codes, counts, rows = world
    config = one_holder_job(bands={"A": 500, "B": 0}, points_decimals=1)
    made = design(config, counts, rows)
    X, y = woe_columns(made, codes, rows["train"]), rows["target"][rows["train"]].astype(float)
    model = export(config, made, counts, fit_in_the_clear(made, X, y), job_id="card-1")
    table = make_table(["f1", 'odd,"id"', "f3"], {"x": [1.0, 2.0, 3.0]}, normaliser="text")
    result = BatchResult(np.array([5001, 4999, 12]), {"tax": np.array([False, True, False]), "court": None})
    store = JobStore(tmp_path / "job")
    write_scores(store, table, model, result, TransformReport(3, {"x": 1}, {}))
    path = store.path / "scores.csv"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["score"] for row in found] == ["500.1", "499.9", "1.2"]
    assert [row["band"] for row in found] == ["A", "B", "B"]
    assert [row["tax_status"] for row in found] == ["ok", "unknown", "ok"]
    assert {row["court_status"] for row in found} == {"not disclosed"}
    assert [row["id"] for row in found] == table.ids.tolist()
    assert store.load_json("batch")["unknown"] == {"tax": 1, "court": None}
