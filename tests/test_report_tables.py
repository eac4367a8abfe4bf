"""Tables of a report: CSV and Excel with what the page has, text that stays text."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from local_jobs import firms, run_job

from veilscore.data.excel_file import sheet_as_csv
from veilscore.models.filed import load_model
from veilscore.reports.comparison import comparison_of
from veilscore.reports.page import render
from veilscore.reports.report import read_report
from veilscore.reports.tables import tables_of
from veilscore.reports.workbook import workbook


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    policy = {"allow_standard_errors": True}
    return run_job(tmp_path_factory.mktemp("tables"), firms(500, seed=7), policy=policy, standard_errors=True)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scorecard_has_every_bin_with_its_counts(run):
    folder = run.stores["bank"].path
    rows, report = rows_of(folder / "scorecard.csv"), read_report(folder / "report.json")
    assert len(rows) == sum(len(column.bins) for column in report.bins)
    for column in report.bins:
        own = [row for row in rows if (row["party"], row["column"]) == (column.party, column.column)]
        target = run.stores["bank"].load_arrays("rows")
        rows_known, bads_known = (sum(float(row[name] or 0) for row in own) for name in ("rows", "bad"))
        assert bads_known <= target["target"][target["train"]].sum()
        assert rows_known <= target["train"].sum()
        if column.party == "bank":  # nothing of its own is withheld
            assert rows_known == target["train"].sum()
        assert sum(float(row["iv"]) for row in own) == pytest.approx(column.iv, abs=0.03)
        assert [float(row["points"]) for row in own] == [bin_.points for bin_ in column.bins]


def test_coefficients_have_p_values_and_inflation(run):
    rows = rows_of(run.stores["bank"].path / "coefficients.csv")
    fitted = {row["column"]: row for row in rows if row["standard_error"]}
    assert rows[0]["column"] == "intercept"
    assert len(fitted) == 8
    ratio = {name: abs(float(row["coefficient"]) / float(row["standard_error"])) for name, row in fitted.items()}
    p_values = [float(fitted[name]["p_value"]) for name in sorted(ratio, key=ratio.__getitem__)]
    assert p_values == sorted(p_values, reverse=True)
    turnover = [float(row["vif"]) for name, row in fitted.items() if name.startswith("tax.")]
    assert np.sort(turnover)[-2] > 3  # two columns that say the same
    assert float(fitted["product"]["vif"]) < 2


def test_workbook_is_read_back_as_it_was_written(run, tmp_path):
    folder = run.stores["bank"].path
    for name, rows in tables_of(read_report(folder / "report.json")).items():
        with sheet_as_csv(folder / "report.xlsx", name) as plain, plain.open(newline="", encoding="utf-8") as file:
            found = list(csv.reader(file))
        assert found[0] == list(rows[0])
        assert len(found) == len(rows)
        for one, two in zip(found[1:], rows[1:], strict=True):
            for text, value in zip(one, two, strict=True):
                assert (float(text) == value) if isinstance(value, (int, float)) else (text == (value or ""))


def test_a_holder_s_table_has_no_outcome(run):
    folder = run.stores["tax"].path
    assert set(rows_of(folder / "scorecard.csv")[0]) == {"party", "column", "bin", "share"}
    assert not (folder / "coefficients.csv").exists()


def test_a_version_is_compared_with_the_one_filed_before_it(run):
    """Of the same card with one coefficient doubled and one column gone."""
    home = run.stores["bank"].path.parents[1]
    card = load_model(home / "models" / "card" / "model.json")
    first, *rest = card.parts[0].columns
    parts = (card.parts[0].model_copy(update={"columns": (first.model_copy(update={"coefficient": 2.0}), *rest)}),)
    made = card.provenance.model_copy(update={"job_id": "card-00000000-0123456789abcdef"})
    found = comparison_of(home, card.model_copy(update={"parts": parts, "provenance": made}), ())
    assert found.job_id == run.job_id
    assert (found.moved[0].column, found.moved[0].before, found.moved[0].now) == (first.name, first.coefficient, 2.0)
    assert len(found.lost) == sum(c.coefficient is not None for part in card.parts[1:] for c in part.columns)
    assert found.gained == ()
    assert found.before["AUC"] == read_report(run.stores["bank"].path / "report.json").evaluations[0].discrimination.auc
    assert "AUC" not in found.now
    assert comparison_of(home, card, ()) is None  # it is the only version
    report = read_report(run.stores["bank"].path / "report.json").changed(comparison=found)
    assert "Against the last version" in render(report)
    assert [str(value) for value in tables_of(report)["comparison"][-1][:2]] == [
        found.moved[-1].party,
        found.moved[-1].column,
    ]


def test_trends_are_told_of_columns_with_an_order(run):
    rows = read_report(run.stores["bank"].path / "report.json").model.rows
    trends = {(row.party, row.column): row.trend for row in rows}
    assert trends["bank", "limit"] in {"monotone", "not monotone"}
    assert trends["bank", "product"] == ""  # levels have no order
    assert {trend for (party, _), trend in trends.items() if party != "bank"} <= {
        "not told",
        "monotone",
        "not monotone",
    }


def test_text_never_becomes_a_formula(run, tmp_path):
    evil = '=HYPERLINK("http://x") <&> _x0041_ \x07'
    path = tmp_path / "book.xlsx"
    path.write_bytes(workbook({"a": [["name", "n"], [evil, 1.5], ["", None], ["b", 2]]}))
    with sheet_as_csv(path, "a") as plain, plain.open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert found[1][0] == evil
    report = read_report(run.stores["bank"].path / "report.json")
    bins = [report.bins[0].changed(column="=1+1"), *report.bins[1:]]
    from veilscore.reports.tables import write_tables

    write_tables(report.changed(bins=bins), tmp_path)
    assert rows_of(tmp_path / "scorecard.csv")[0]["column"] == "'=1+1"
