"""Boosted models as people meet them: reports, the command, and exports that validators run."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
from local_jobs import HOLDERS, firms, job, nodes, write
from pmml_evaluator import evaluated
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.data.codes import CodeMap
from veilscore.errors import ConfigError, DataError, VeilscoreError
from veilscore.models.bank_part import bank_part, bank_part_json
from veilscore.models.boosted import Boosted
from veilscore.models.exports import exported
from veilscore.models.filed import load_model
from veilscore.models.onnx_export import to_onnx
from veilscore.models.trees import HolderTrees, goes_left, tree_values
from veilscore.node.local import open_job
from veilscore.reports import report
from veilscore.reports.data import ReportData

WIDE = {"COLUMNS": "240", "TERM": "dumb"}
PARAMETERS = {
    "n_estimators": 5,
    "max_depth": 4,
    "max_bin": 8,
    "min_leaf_rows": 5,
    "early_stopping_rounds": 4,
    "bands": {"A": 540, "B": 500},
}


def with_gaps(parts):
    """Missing values in every column of the bank, and a level that is too rare for a bin of its own."""
    rng = np.random.default_rng(5)
    bank = parts["bank"]
    n = len(bank["firm"])
    bank["product"] = [
        ("lease" if u < 0.004 else "" if u < 0.08 else p) for u, p in zip(rng.random(n), bank["product"], strict=True)
    ]
    bank["limit"] = ["" if u < 0.07 else v for u, v in zip(rng.random(n), bank["limit"], strict=True)]
    return parts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boosted")
    configs = nodes(
        write(folder / "data", with_gaps(firms(700, seed=3))),
    )
    return open_job(job("train_boosting", name="trees", **PARAMETERS), configs, folder / "homes").run()


def home(run, party="bank"):
    folder = run.stores[party].path.parents[1]
    (folder / "node.yaml").write_text(f"name: {party}\nrole: {'bank' if party == 'bank' else 'holder'}\n")
    return folder


def bank_files(run):
    folder = home(run) / "models/trees"
    return load_model(folder / "model.json", Boosted), CodeMap.from_json((folder / "code_map.json").read_text())


# --- reports ---------------------------------------------------------------------------------------------------------


def test_the_banks_report(trained):
    model, _ = bank_files(trained)
    data = report.read_report(trained.stores["bank"].path / "report.json")
    page = (trained.stores["bank"].path / "report.html").read_text()
    b = data.boosting
    assert sum(row.gain for row in b.importance) == pytest.approx(1.0)
    assert sum(b.parties.values()) == pytest.approx(1.0)
    assert sum(row.n_splits for row in b.importance) == sum(len(tree.splits) for tree in model.trees)
    assert b.n_trees == len(model.trees)
    assert len(b.validation) == b.n_grown
    assert "Splits were chosen on shares" in page
    assert "n_estimators" in page
    assert '<h2 id="h-boosting">Boosted trees</h2>' in page
    assert page.count("<svg") > 8
    joint = next(e for e in data.evaluations if e.kind == "joint")
    assert joint.discrimination.auc > 0.6
    assert [row.band for row in data.cutoffs][:2] == ["A", "B"]
    assert {row.step for row in data.learned} == {"align", "bin", "boost", "evaluate"}
    assert data.model is None
    assert all(cell.points is None for column in data.bins for cell in column.bins)


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_holders_report(trained, holder):
    model, _ = bank_files(trained)
    data = report.read_report(trained.stores[holder].path / "report.json")
    page = (trained.stores[holder].path / "report.html").read_text()
    t = data.trees
    assert t.n_trees == len(model.trees_of(holder))
    assert t.n_splits == sum(len(tree.holder_splits) for tree in model.trees_of(holder))
    assert t.part_hash == model.holder_sha256[holder]
    assert t.n_sums > 0
    assert data.boosting is None
    assert "took part in" in next(p for p in data.parties if p.name == holder).detail
    assert f"{t.n_sums:,.0f}" in page
    bank = report.read_report(trained.stores["bank"].path / "report.json")
    with pytest.raises(DataError, match="must not carry boosting"):
        ReportData.model_validate({**data.model_dump(), "boosting": bank.boosting.model_dump()})


# --- the command -----------------------------------------------------------------------------------------------------


def veilscore(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=WIDE)
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_list_show_and_plan(trained, tmp_path):
    model, _ = bank_files(trained)
    listed = veilscore("model", "list", "--home", home(trained))
    assert "boosted trees" in listed
    assert model.sha256.hex()[:16] in listed
    text = veilscore("model", "show", "trees", "--home", home(trained))
    assert all(digest in text for digest in model.holder_sha256.values())
    assert "of leaves, as they are" in text
    assert "limit" in text
    assert "tax.c1" in text
    (tmp_path / "job.yaml").write_text(trained.job.canonical().decode())
    plan = veilscore("job", "plan", tmp_path / "job.yaml", "--rows", "bank=30000")
    assert "boost" in plan
    assert "gradients per leaf" in plan


def test_export_by_the_command(trained, tmp_path):
    model, code_map = bank_files(trained)
    veilscore("model", "export", "trees", tmp_path / "m.json", "--home", home(trained))
    assert load_model(tmp_path / "m.json", Boosted) == model
    veilscore("model", "export", "trees", tmp_path / "p.json", "--format", "json", "--home", home(trained))
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(bank_part_json(model, code_map))
    veilscore("model", "export", "trees", tmp_path / "p.onnx", "--format", "onnx", "--home", home(trained))
    assert (tmp_path / "p.onnx").read_bytes() == to_onnx(model, code_map)


# --- exports compute the model ---------------------------------------------------------------------------------------


def rows_of(run, model):
    """The bank's values, the holders' bits, and the log-odds that the trees give in the clear."""
    bank = firms_of(run)
    saved = {p: run.stores[p].load_arrays("rows")["codes"] for p in run.job.parties}
    bits, total = {}, np.full(saved["bank"].shape[0], model.intercept)
    own = {}
    for holder in HOLDERS:
        part = HolderTrees.from_json((home(run, holder) / "models/trees/trees.json").read_text())
        own[holder] = list(part.trees)
        n_codes = model.part(holder).n_codes
        for t, tree in enumerate(part.trees):
            for k in tree.holder_splits:
                bits[f"{holder}/{t}/{k}"] = goes_left(tree.splits[k], saved[holder], n_codes)
    for tree in model.trees:
        theirs = own[tree.holder].pop(0)
        splits = [m if m.side == "bank" else h for m, h in zip(tree.splits, theirs.splits, strict=True)]
        tree = tree.model_copy(update={"splits": tuple(splits)})  # noqa: PLW2901 - the tree whole
        codes = {"bank": saved["bank"], "holder": saved[tree.holder]}
        n_codes = {"bank": model.parts[0].n_codes, "holder": model.part(tree.holder).n_codes}
        total += tree_values(tree, codes, n_codes, np.array(tree.weights))
    return bank, bits, total


def firms_of(run):
    import csv

    with (home(run).parent.parent / "data/bank.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "limit": np.array([float(row["limit"]) if row["limit"] else np.nan for row in rows]),
        "product": [row["product"] or None for row in rows],
    }


def walk(node, row, bits):
    """Log-odds of one row from the JSON, as a validator would write it."""
    while "log_odds" not in node:
        if "bit" in node:
            left = bits[node["bit"]]
        else:
            value = row[node["column"]]
            if value is None or value != value:  # noqa: PLR0124 - not a number
                left = node["missing"] == "left"
            elif "at_most" in node:
                left = node["at_most"] is None or value <= node["at_most"]
            else:
                left = value in node["levels"] or (value not in node["known"] and node["other"] == "left")
        node = node["left"] if left else node["right"]
    return node["log_odds"]


def with_known_levels(node, levels):
    if "log_odds" in node:
        return node
    sides = {side: with_known_levels(node[side], levels) for side in ("left", "right")}
    return {**node, **sides, "known": levels.get(node.get("column"), ())}


def test_the_json_gives_the_same_log_odds(trained):
    model, code_map = bank_files(trained)
    part = json.loads(bank_part_json(model, code_map))
    values, bits, expected = rows_of(trained, model)
    levels = {c["name"]: {level for group in c["groups"] for level in group} for c in part["columns"] if "groups" in c}
    trees = [with_known_levels(tree["root"], levels) for tree in part["trees"]]
    for i in range(expected.size):
        row = {name: column[i] for name, column in values.items()}
        mine = {name: bool(bit[i]) for name, bit in bits.items()}
        assert abs(part["intercept"] + sum(walk(tree, row, mine) for tree in trees) - expected[i]) < 1e-9
    assert sorted(name for h in part["holders"] for name in h["bits"]) == sorted(bits)
    assert {h["holder"]: h["part_sha256"] for h in part["holders"]} == model.holder_sha256
    asked = json.dumps(part["trees"])
    assert '"limit"' in asked
    assert '"product"' in asked


def test_the_onnx_model_gives_the_same_log_odds(trained):
    model, code_map = bank_files(trained)
    session = onnxruntime.InferenceSession(to_onnx(model, code_map), providers=["CPUExecutionProvider"])
    values, bits, expected = rows_of(trained, model)
    holders = json.loads(session.get_modelmeta().custom_metadata_map["holders"])
    assert {h["holder"]: h["part_sha256"] for h in holders} == model.holder_sha256
    feed = {
        "limit": values["limit"][:, None],
        "product": np.array([value or "" for value in values["product"]], dtype=object)[:, None],
    }
    feed |= {f"{h['holder']} bits": np.stack([bits[name] for name in h["bits"]], axis=1) for h in holders}
    wanted = {i.name for i in session.get_inputs()}
    found = session.run(["log_odds"], {name: array for name, array in feed.items() if name in wanted})[0]
    assert {"limit", "product"} <= wanted
    assert found.dtype == np.float64
    assert np.abs(found[:, 0] - expected).max() < 1e-9


def test_the_pmml_model_gives_the_same_log_odds(trained, tmp_path):
    model, code_map = bank_files(trained)
    (tmp_path / "trees.pmml").write_bytes(exported(model, code_map, "pmml"))
    values, bits, expected = rows_of(trained, model)
    rows = range(0, expected.size, 17)
    given = []
    for row in rows:
        limit = values["limit"][row]
        own = {"limit": None if np.isnan(limit) else float(limit), "product": values["product"][row]}
        given.append({**own, **{name: int(bit[row]) for name, bit in bits.items()}})
    found = [one["log_odds"] for one in evaluated(tmp_path / "trees.pmml", given)]
    assert found == pytest.approx(expected[list(rows)], abs=1e-9)


def test_an_export_with_another_code_map_is_refused(trained):
    model, code_map = bank_files(trained)
    other = model.model_copy(update={"parts": (model.parts[0].model_copy(update={"map_sha256": "0" * 64}),)})
    with pytest.raises(ConfigError, match="not that of model trees"):
        bank_part(other, code_map)
