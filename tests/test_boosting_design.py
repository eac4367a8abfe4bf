"""The bank's side of boosting: ranks, constraints, what is set aside, importance."""

from __future__ import annotations

import numpy as np
import pytest
from local_jobs import job

from veilscore.data.codes import CodeMap
from veilscore.data.table import make_table
from veilscore.errors import DataError, JobError, ParameterError
from veilscore.models import boosting_design as design
from veilscore.models.counts import BinCounts, BinnedColumns, own_counts
from veilscore.models.importance import by_party, importance
from veilscore.tasks.table import estimate, leakage_table


def boosting_job(**parameters):
    return job("train_boosting", name="trees", **parameters)


def counts(party, bad, good, n_codes, *, ordered=(), missing=()):
    d = len(n_codes)
    bad, good = np.array(bad, float), np.array(good, float)
    return BinCounts(
        party=party,
        names=tuple(f"{party}.c{j + 1}" for j in range(d)),
        n_codes=np.array(n_codes),
        bad=bad,
        good=good,
        counts=(bad + good).astype(np.int64),
        holdout_counts=np.zeros(bad.size, np.int64),
        ordered=np.array(ordered or [False] * d),
        missing_code=np.array(missing or [-1] * d),
        map_hash=bytes(32),
    )


@pytest.fixture(scope="module")
def bank():
    """A number and a category at the bank, its map, its counts and rows."""
    rng = np.random.default_rng(0)
    n = 400
    size = np.round(rng.normal(size=n), 3)
    kind = rng.choice(["a", "b", "c"], n, p=[0.2, 0.5, 0.3])
    target = (rng.random(n) < np.where(kind == "b", 0.6, np.where(kind == "a", 0.3, 0.1))).astype(np.int8)
    table = make_table([f"f{k}" for k in range(n)], {"size": size, "kind": kind.tolist()}, normaliser="text")
    code_map = CodeMap.fit(table, max_bin=6, ordered=True)
    codes = code_map.transform(table).codes
    order = code_map.public_order()
    columns = BinnedColumns(
        names=code_map.names,
        codes=codes,
        n_codes=code_map.n_codes,
        ordered=np.array([column.kind == "ordered" for column in order]),
        missing_code=code_map.missing,
        map_hash=bytes.fromhex(code_map.hash),
    )
    train = np.ones(n, bool)
    rows = {"codes": codes, "target": target, "weight": np.ones(n), "train": train}
    return code_map, own_counts("bank", columns, target, np.ones(n), train), rows, {"size": size, "kind": kind}


HOLDER = {
    "bad": [1, 9, 5, 0, 3, 1, 8, 2],
    "good": [9, 1, 5, 0, 7, 9, 2, 8],
    "n_codes": [4, 4],
}


def made(bank, holder=None, **parameters):
    code_map, own, rows, _ = bank
    holder = holder if holder is not None else counts("tax", **HOLDER)
    return design.bank_boosting(
        boosting_job(holders=["tax"], **parameters), {"bank": own, "tax": holder}, rows, code_map, {}
    )


def test_the_banks_numbers_rank_by_value_and_its_categories_by_bad_rate(bank):
    code_map, _, rows, values = bank
    data = made(bank)
    at = 0
    for j, column in enumerate(code_map.columns):
        k = column.bins.n_bins
        ranks = data.own.ranks[at : at + k]
        at += k
        assert ranks[column.missing] == k - 1
        assert sorted(ranks) == list(range(k))
        means = [np.nan] * k
        for code in range(k):
            chosen = rows["codes"][:, j] == code
            if chosen.any():
                measure = values["size"] if column.name == "size" else rows["target"]
                means[ranks[code]] = measure[chosen].mean()
        shown = [m for m in means if not np.isnan(m)]
        assert shown == sorted(shown)
    assert data.own.ranked.missing.all()


def test_a_holders_codes_rank_by_bad_rate_where_their_order_is_not_told(bank):
    ranks = made(bank).columns["tax"].ranks
    # code 3 was withheld: it stands at the column's average, here beside code 2
    assert ranks[:4].tolist() == [0, 3, 1, 2] or ranks[:4].tolist() == [0, 3, 2, 1]
    assert ranks[4:].tolist() == [2, 0, 3, 1]
    assert not made(bank).columns["tax"].ranked.missing.any()


def test_a_holders_codes_rank_by_number_where_their_order_is_told(bank):
    told = counts("tax", **HOLDER, ordered=[True, True], missing=[3, 0])
    columns = made(bank, told).columns["tax"]
    assert columns.ranks.tolist() == [0, 1, 2, 3, 3, 0, 1, 2]
    assert columns.ranked.missing.all()


def test_constraints_follow_the_value_or_the_trend(bank):
    wanted = {"bank.size": -1, "bank.kind": "auto"}
    data = made(bank, monotone_constraints=wanted, disclosure="private")
    assert data.own.ranked.constraints.tolist() == [-1, 1]


@pytest.mark.parametrize(("name", "words"), [("bank.c1", "no column 'bank.c1'"), ("bank.kind", "no order")])
def test_constraints_that_name_nothing(bank, name, words):
    with pytest.raises(JobError, match=words):
        made(bank, monotone_constraints={name: 1}, disclosure="private")


def test_validation_rows_are_the_same_everywhere_and_of_the_stated_share():
    first = design.growth(boosting_job(early_stopping_rounds=5, validation_fraction=0.3), 1000).validation
    again = design.growth(boosting_job(early_stopping_rounds=9, validation_fraction=0.3), 1000).validation
    other = design.growth(
        boosting_job(early_stopping_rounds=5, validation_fraction=0.3, random_state=1), 1000
    ).validation
    assert first.sum() == 300
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not design.growth(boosting_job(), 1000).validation.any()
    with pytest.raises(DataError, match="too few"):
        design.growth(boosting_job(early_stopping_rounds=5), 2)


def test_one_class_among_the_rows_that_are_grown_on(bank):
    code_map, own, rows, _ = bank
    asked = boosting_job(holders=["tax"], early_stopping_rounds=5)
    aside = design.growth(asked, rows["target"].size).validation
    changed = {**rows, "target": aside.astype(np.int8)}  # every bad row measures, none trains
    with pytest.raises(DataError, match="one class only"):
        design.bank_boosting(asked, {"bank": own, "tax": counts("tax", **HOLDER)}, changed, code_map, {})


def test_weights_of_classes_must_fit_the_ring(bank, monkeypatch):
    data = made(bank, scale_pos_weight=3.0)
    assert data.base - made(bank).base == pytest.approx(np.log(3))
    assert data.growth.max_weight == 3
    assert set(data.weight.tolist()) == {1.0, 3.0}
    assert made(bank, scale_pos_weight=0.5).growth.max_weight == 1
    monkeypatch.setattr(design, "LARGEST_SUM", 100)
    with pytest.raises(ParameterError, match="lower scale_pos_weight"):
        made(bank, scale_pos_weight=3.0)


def test_importance_adds_up(bank):
    from types import SimpleNamespace as Made

    from veilscore.models.trees import Split, Tree

    def split(side, column, gain, cover, left, right):
        return Split(side=side, column=column, codes=(0,), left=left, right=right, gain=gain, cover=cover)

    trees = (
        Tree(
            holder="tax", splits=(split("bank", 0, 6.0, 10.0, 1, -1), split("holder", 1, 2.0, 4.0, -2, -3)), weights=()
        ),
        Tree(holder="tax", splits=(split("holder", 1, 2.0, 6.0, -1, -2),), weights=()),
    )
    parts = {p: Made(party=p, columns=[Made(name=f"{p}.c{j}") for j in range(2)]) for p in ("bank", "tax")}
    model = Made(boosted_trees=trees, parts=(parts["bank"],), part=parts.__getitem__)
    found = importance(model)
    assert [(i.party, i.column, i.gain, i.cover, i.n_splits) for i in found] == [
        ("bank", "bank.c0", 0.6, 10.0, 1),
        ("tax", "tax.c1", 0.4, 5.0, 2),
    ]
    assert by_party(found) == {"bank": 0.6, "tax": 0.4}


def test_the_table_of_who_learns_what_follows_the_job():
    def learned(**parameters):
        asked = job("train_boosting", name="trees", **parameters)
        return {row.step: row for row in leakage_table(asked.parameters)}

    exact, private = learned(disclosure="exact"), learned(disclosure="private")
    assert "two sums of gradients per leaf" in exact["boost"].bank
    assert "noised sums of leaves" in private["boost"].bank


def test_the_estimate_grows_with_trees_and_rows():
    def boost(n, **parameters):
        return estimate(job("train_boosting", name="trees", **parameters), {"bank": n})["boost"]

    assert boost(60_000).seconds > boost(30_000).seconds
    assert boost(30_000, n_estimators=200).bytes == pytest.approx(2 * boost(30_000).bytes)
    steps = estimate(job("train_boosting", name="trees", holdout_fraction=0), {"bank": 1000})
    assert list(steps) == ["align", "bin", "boost"]
