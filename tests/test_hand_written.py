"""Hand-written models: what holders publish, what a bank may write, and that they score as they are written."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from consent_issuer import give_list
from hypothesis import example, given
from hypothesis import strategies as st
from local_jobs import PARTIES, job
from test_parsers import few
from written_models import LIMIT, capacity, file_capacity, world

from veilscore.data.fixed_bins import FixedBins
from veilscore.data.published_bins import PublishedBins, shortest
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, RefusedError, VeilscoreError
from veilscore.models.decided import kind_filed
from veilscore.models.filed import load_model
from veilscore.models.hand_written import HandWritten, WrittenPart
from veilscore.node.local import open_job
from veilscore.tasks.context import account_of
from veilscore.tasks.fixed_bins import load
from veilscore.terms.decision import MOST_UNITS
from veilscore.terms.settings import parse
from veilscore.terms.written import WriteModel


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return file_capacity(tmp_path_factory.mktemp("written"))


def points_in_the_clear(parts, parameters):
    """Total of every firm of the bank, by its definition."""
    of = parameters["columns"]
    values = {
        party: dict(zip(columns["firm"], zip(*(columns[c] for c in of[party]), strict=True), strict=True))
        for party, columns in parts.items()
    }
    totals = {}
    for firm in parts["bank"]["firm"]:
        total = parameters["base"]
        for party, columns in of.items():
            known = values[party].get(firm, ("",) * len(columns))
            for value, column in zip(known, columns.values(), strict=True):
                if value == "":
                    total += column.get("missing", 0)
                elif "levels" in column:
                    total += column["levels"].get(value, column["other"])
                else:
                    total += column["points"][sum(value > edge for edge in column["edges"])]
        totals[firm] = total
    return totals


def test_every_party_files_its_part(written):
    folder = written.folder
    model = load_model(folder / "homes" / "bank" / "models" / "capacity" / "model.json", HandWritten)
    assert model.base_points == 50
    assert [part.party for part in model.parts] == list(PARTIES)
    assert model.score(np.array([7500])) == 7_500_000
    assert np.isnan(model.probability(np.array([0]))).all()
    for holder in ("tax", "registry"):
        kept = WrittenPart.load(folder / "homes" / holder / "models" / "capacity")
        assert tuple(one for points in kept.points for one in points) == tuple(model.part(holder).points.tolist())
        assert kept.map_sha256 == model.part(holder).map_sha256
    assert {kind_filed(folder / "homes" / party, "capacity") for party in PARTIES} == {"hand-written model"}


def test_it_scores_as_it_is_written(written):
    folder = written.folder
    scoring = job("score_batch", name="batch", model="capacity", output="exact", on_missing="missing_code")
    parts = world()
    give_list(folder / "homes" / "bank", parts["bank"]["firm"])
    run = open_job(scoring, written.nodes, folder / "homes").run()
    rows = list(csv.DictReader((run.stores["bank"].path / "scores.csv").read_text().splitlines()))
    assert {row["id"]: float(row["score"]) for row in rows} == points_in_the_clear(parts, written.parameters)
    assert {row["probability_of_default"] for row in rows} == {""}


def test_the_bins_are_charged_once(written):
    folder, run = written.folder, written.run
    account = account_of(folder / "homes" / "tax", run.nodes["tax"], run.job)
    fixed = load(folder / "homes" / "tax", "d")
    assert account.knows(f"bins {fixed.hash[:16]}")


def changed(**columns):
    return {**capacity(), "columns": {**capacity()["columns"], **columns}}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"tax": {"arrears": {"edges": [0], "points": [0, 1000]}}}, "tax: does not publish bins of a column 'arrears'"),
        ({"tax": {"turnover": {"edges": [0.123], "points": [0, 1000]}}}, "tax: 0.123 is no published edge of turnover"),
        ({"registry": {"sector": {"levels": {"bio": 0}}}}, "'bio' is no published level of sector; did you mean"),
        ({"registry": {"years": {"levels": {"bio": 0}}}}, "years has numbers"),
        ({"registry": {"sector": {"edges": [0], "points": [0, 1000]}}}, "sector has no published edges"),
    ],
)
def test_what_is_not_published_is_refused(written, columns, says):
    whole = {**written.parameters["columns"], **columns}
    asked = job("write_model", name="other", **{**written.parameters, "columns": whole})
    with pytest.raises(RefusedError) as refusal:
        open_job(asked, written.nodes, written.folder / "homes").run()
    assert says in str(refusal.value)


def test_a_name_that_is_taken_by_another_kind(written, tmp_path):
    home = tmp_path / "bank" / "models" / "capacity"
    home.mkdir(parents=True)
    (home / "code_map.json").write_text("{}")
    asked = job("write_model", name="capacity", **capacity())
    with pytest.raises(ConfigError, match="'capacity' is the name of a trained model at bank"):
        open_job(asked, written.nodes, tmp_path).run()


def parsed(**changes):
    return parse(WriteModel, {**capacity(), **changes}, "parameters")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unit": 0.1}, "a total could reach 7.89e+06, 78900000 units of 0.1"),
        ({"unit": 500}, "unit: is a power of ten"),
        ({"unit": 1e7}, "unit: is a power of ten"),
        ({"base": 1500}, "base: 1500 points are no whole number of units of 1000"),
        ({"base": math.inf}, "a number of at most 1e+12"),
        ({"columns": {}}, "at least 1"),
        ({"columns": {"bank": {"limit": {**LIMIT, "edges": [1.5, 0]}}}}, "edges are not ascending: 0 comes after 1.5"),
        ({"columns": {"bank": {"limit": {**LIMIT, "edges": [0]}}}}, "1 edges make 2 ranges, and there are 3 points"),
        ({"columns": {"bank": {"limit": {**LIMIT, "levels": {"a": 1000}}}}}, "give edges and points of a number"),
        ({"columns": {"bank": {"x": {"levels": {True: 1000}}}}}, "YAML reads the level True as no word"),
    ],
)
def test_refusals_say_what(changes, says):
    with pytest.raises(ConfigError) as refusal:
        parsed(**changes)
    assert says in str(refusal.value)


def test_an_overflow_names_the_way_out():
    with pytest.raises(ConfigError, match=f"and {MOST_UNITS} fit: write it in a larger unit, such as 1000 for money"):
        parsed(unit=0.1)
    assert parsed(base="5e4") == parsed()  # as YAML reads 5e4
    assert parsed(unit=1000).extremes == (-10, 7890)


def test_holders_without_a_column_and_strangers():
    with pytest.raises(ConfigError, match="'registry' has none; leave it out"):
        job("write_model", **changed(registry={}))
    with pytest.raises(ConfigError, match="'court' is no party of the job"):
        job("write_model", **changed(court=capacity()["columns"]["tax"]))


_NUMBER = st.floats(allow_nan=True) | st.integers(-(10**14), 10**14) | st.none() | st.booleans() | st.text(max_size=2)


@few
@given(_NUMBER, st.lists(_NUMBER, max_size=3), st.lists(_NUMBER, max_size=4), st.dictionaries(_NUMBER, _NUMBER))
@example(1e-320, [0], [0, 1], {})
def test_any_parameters_are_a_model_or_refused(unit, edges, points, levels):
    column = {"edges": edges, "points": points, "levels": levels}
    try:
        found = parse(WriteModel, {"unit": unit, "columns": {"tax": {"x": column}}}, "parameters")
    except VeilscoreError:
        return
    low, high = found.extremes
    assert -MOST_UNITS <= low <= high <= MOST_UNITS


@few
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
@example(0.0, 5e-324)
@example(-5e-324, 0.0)
def test_a_typed_edge_is_within_its_cell(a, b):
    low, high = sorted((a, b))
    if low < high:
        assert low < shortest(low, high) <= high


def test_published_edges_are_those_of_the_fixed_bins():
    rng = np.random.default_rng(0)
    n = 20_000
    columns = {
        "late": rng.poisson(1.2, n).astype(float).astype(object),
        "turnover": np.exp(rng.normal(13, 1.5, n)).astype(object),
        "sector": rng.choice(["bio", "steel", "food"], n, p=[0.499, 0.5, 0.001]).astype(object),
    }
    table = make_table([f"f{k}" for k in range(n)], columns, source="firms", normaliser="text")
    fixed = FixedBins.make(table, "2026-01-01")
    assert PublishedBins.of(fixed, "late").edges[:3] == (0, 1, 2)
    assert PublishedBins.of(fixed, "sector").levels == ("bio", "steel")  # a rare level is not there
    turnover, before = PublishedBins.of(fixed, "turnover").edges, fixed.merged_edges("turnover", 20)
    assert len(turnover) == len(before) > 10
    assert all(len(f"{edge:.0f}".rstrip("0")) <= 5 for edge in turnover)
    moved = np.searchsorted(turnover, columns["turnover"].astype(float)) != np.searchsorted(
        before, columns["turnover"].astype(float)
    )
    assert moved.mean() < 0.3
    with pytest.raises(RefusedError, match="not in the fixed bins"):
        PublishedBins.of(fixed, "debts")
