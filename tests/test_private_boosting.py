"""Private trees as a job: steps, charges, the model, scoring in a batch, what it leaves and what it refuses."""

import csv
import math

import numpy as np
import onnxruntime
import pytest
from consent_issuer import give_list
from local_jobs import firms, job, nodes, run_job, write

from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import MU
from veilscore.data.ingest import read_table
from veilscore.errors import ConfigError
from veilscore.models.chain_design import own_boosting
from veilscore.models.chain_growth import TREES
from veilscore.models.chained import Chained
from veilscore.models.curve import plain_counts
from veilscore.models.filed import load_model
from veilscore.models.importance import by_party, importance
from veilscore.models.onnx_export import to_onnx
from veilscore.models.steps import steps_of
from veilscore.models.tree_paths import HolderBits
from veilscore.models.trees import HolderTrees, coefficients, indicators
from veilscore.node.local import open_job
from veilscore.online.model import ModelSides
from veilscore.tasks.binning import load_counts
from veilscore.tasks.context import account_of
from veilscore.tasks.table import charges_of, leakage_table
from veilscore.terms.privacy import total
from veilscore.terms.training import TrainBoosting, Training

PRIVATE = {"disclosure": "private", "n_estimators": 40, "max_depth": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    return run_job(folder, firms(6000, seed=3), task="train_boosting", name="trees", keep=True, **PRIVATE)


def codes_of(run, party):
    return run.stores[party].load_arrays("rows")["codes"]


def units(model, codes):
    """Totals in the clear: both halves of every tree put together."""
    found = model.base_points + model.own_score(codes["bank"])
    score = model.own_score(codes["bank"])
    for holder, chain in model.chains.items():
        for tree, points in zip(chain, model.chain_points[holder], strict=True):
            answer = tree.cut.answers(codes["bank"], score).astype(int)
            found = found + np.array(points)[answer, codes[holder][:, tree.column].astype(int)]
    return found


def auc(scores, bad):
    good, worse = scores[~bad], scores[bad]
    return (good[:, None] > worse[None, :]).mean()


def test_chains_add_the_holders_columns_to_the_banks_own_trees(run):
    model = load_model(run.stores["bank"].path / "model.json")
    assert isinstance(model, Chained)
    assert all(tree.asks == "bank" for tree in model.trees)
    assert {h: len(chain) for h, chain in model.chains.items()} == dict.fromkeys(run.job.holders, TREES)
    rows = run.stores["bank"].load_arrays("rows")
    codes = {party: codes_of(run, party) for party in ("bank", *run.job.holders)}
    held, bad = ~rows["train"], rows["target"] == 1
    own, joint = model.own_score(codes["bank"]), units(model, codes)
    assert auc(joint[held], bad[held]) > auc(own[held], bad[held]) + 0.03
    low, high = model.extremes()
    assert low <= joint.min() <= joint.max() <= high
    assert max(abs(low), abs(high)) <= model.largest_units()
    for part in model.parts[1:]:
        assert not any(any((*c.bad, *c.good, *c.rows)) for c in part.columns), "no count of a holder is known"
    shares = by_party(importance(model))
    assert shares["tax"] > 0.01  # 0.3, and by the noise between 0.2 and 0.5
    assert all("#" not in item.column for item in importance(model))


def test_each_holder_keeps_its_part_and_is_charged_for_its_own_chain(run):
    model = load_model(run.stores["bank"].path / "model.json")
    for holder in run.job.holders:
        home = run.stores[holder].path.parent.parent
        part = HolderTrees.from_json((home / "models" / "trees" / "trees.json").read_text())
        assert part.sha256.hex() == model.holder_sha256[holder]
        assert part.trees == model.parts_of(holder)
        code_map = CodeMap.from_json(run.stores[holder].load_json("code_map"))
        bits = part.bits(codes_of(run, holder), code_map.n_codes)
        at = 0
        for column in model.columns_of(holder):
            for cell in range(int(code_map.n_codes[column]) - 1):
                assert (bits[at] == (codes_of(run, holder)[:, column] == cell)).all()
                at += 1
        assert at == bits.shape[0]
        lines = account_of(home, run.nodes[holder], run.job).lines()
        assert [(x.step, x.charge.opening.split()[0]) for x in lines] == [
            ("bin", "bins"),
            ("boost", "leaves"),
            ("evaluate", "curve"),
        ]
        assert [x.charge.mu2 for x in lines] == [pytest.approx(MU**2), pytest.approx(0.25), pytest.approx(0.25)]


def test_the_curve_counts_the_holdout_by_step_and_no_score_is_opened(run):
    store = run.stores["bank"]
    model, kept = load_model(store.path / "model.json"), store.load_arrays("curve")
    assert not store.has("holdout")
    rows = store.load_arrays("rows")
    held, bad = ~rows["train"], rows["target"] == 1
    total = units(model, {party: codes_of(run, party) for party in ("bank", *run.job.holders)})[held]
    plain = plain_counts(total, bad[held], tuple(kept["limits"].tolist()))
    assert abs((kept["counts"] - plain) / kept["sigma"]).max() < 7
    assert plain.sum(axis=0).min() > 0.2 * plain.sum(axis=0).mean(), "steps hold about as many rows each"
    page = (store.path / "report.html").read_text()
    assert "the private trees" in page
    assert "noise alone" in page


# options that change the bank's own trees; all others are named by the test below
GROWTH = {
    "n_estimators": 3, "max_depth": 1, "max_leaves": 3, "learning_rate": 0.3, "reg_lambda": 50.0, "gamma": 5.0,
    "min_child_weight": 60.0, "min_leaf_rows": 400, "subsample": 0.5, "colsample_bytree": 0.3, "scale_pos_weight": 3.0,
    "max_delta_step": 0.1, "early_stopping_rounds": 2, "monotone_constraints": {"bank.limit": 1},
}  # fmt: skip
WITH = {  # options that matter beside another only
    "grow_policy": ("lossguide", {"max_leaves": 4}),
    "validation_fraction": (0.4, {"early_stopping_rounds": 2}),
    "random_state": (1, {"subsample": 0.5}),
}


def own_trees(run, **options):
    asked = job("train_boosting", **{"disclosure": "private", "n_estimators": 8, "max_depth": 3} | options)
    store = run.stores["bank"]
    counts, code_map = load_counts(store)["bank"], CodeMap.from_json(store.load_json("code_map"))
    return own_boosting(asked, counts, store.load_arrays("rows"), code_map).own.trees


@pytest.mark.parametrize("option", [*GROWTH, *WITH])
def test_every_option_of_growth_changes_the_banks_own_trees(run, option):
    value, beside = WITH.get(option, (GROWTH.get(option), {}))
    assert own_trees(run, **beside) != own_trees(run, **beside | {option: value})


def test_no_option_of_boosting_is_left_out_silently():
    own = set(TrainBoosting.model_fields) - set(Training.model_fields)
    assert own == {*GROWTH, *WITH, "tree_columns", "split_search", "disclosure", "mu", "despite_noise"}
    for options in ({"tree_columns": "own"}, {"split_search": "all"}, {"holdout_output": "band", "bands": {"A": 600}}):
        with pytest.raises(ConfigError, match="needs exact sums"):
            job("train_boosting", disclosure="private", **options)
    with pytest.raises(ConfigError, match="weights"):
        job("train_boosting", disclosure="private", weights=True)


@pytest.mark.parametrize(("option", "value"), [("max_bin", 4), ("min_bin_fraction", 0.3)])
def test_options_of_bins_are_of_the_banks_columns(run, tmp_path, option, value):
    coarse = run_job(
        tmp_path, firms(900, seed=3), task="train_boosting", holdout_fraction=0, **PRIVATE | {option: value}
    )
    bins = CodeMap.from_json(coarse.stores["bank"].load_json("code_map")).n_codes.max()
    assert bins < CodeMap.from_json(run.stores["bank"].load_json("code_map")).n_codes.max()


def test_boosting_is_private_unless_a_job_says_otherwise():
    assert TrainBoosting().private
    assert charges_of(TrainBoosting())


def test_the_job_states_what_it_spends_and_tells():
    p = job("train_boosting", **PRIVATE).parameters
    assert math.sqrt(total(charges_of(p))) == pytest.approx(0.5)
    table = {row.step: row for row in leakage_table(p)}
    assert "noised sums of leaves" in table["boost"].bank
    assert "split" not in table["boost"].bank
    assert "counts" not in table["bin"].bank


@pytest.mark.parametrize("output", ["score", "exact", "band"])
def test_a_batch_is_scored_as_the_model_says(run, output, tmp_path):
    homes = run.stores["bank"].path.parents[2]
    model = load_model(run.stores["bank"].path / "model.json")
    parts = firms(60, seed=77, prefix=output, coverage=1.0)
    give_list(homes / "bank", parts["bank"]["firm"], name=output)
    bands = {"bands": {"A": 560.0, "B": 520.0}} if output == "band" else {}
    batch = job("score_batch", name=output, model="trees", on_missing="missing_code", output=output, **bands)
    write(tmp_path, parts)
    scored = open_job(batch, nodes(tmp_path, holder_policy={"disclose_unknown": True}), homes).run()
    codes, order = {}, None
    for party in run.job.parties:
        if party == "coordinator":
            continue
        code_map = CodeMap.from_json((homes / party / "models" / "trees" / "code_map.json").read_text())
        table = read_table(tmp_path / f"{party}.csv", "firm", columns=tuple(code_map.kinds), normaliser="text")
        order = table.ids.tolist() if order is None else order
        place = {firm: row for row, firm in enumerate(table.ids.tolist())}
        codes[party] = code_map.transform(table).codes[[place[firm] for firm in order]]
    totals = units(model, codes)
    expected, steps = model.score(totals), steps_of(model).index(totals).tolist()
    with (scored.stores["bank"].path / "scores.csv").open(encoding="utf-8") as file:
        found = {row["id"]: row for row in csv.DictReader(file)}
    assert len(found) == 60
    for firm, points, step in zip(order, expected.tolist(), steps, strict=True):
        if output == "score":
            assert int(found[firm]["step"]) == step
        elif output == "exact":
            assert float(found[firm]["score"]) == pytest.approx(points, abs=1e-9)
        else:
            assert found[firm]["band"] == ("A" if points >= 560 else "B" if points >= 520 else "below all bands")


def test_a_single_record_is_scored_as_the_model_says(run):
    model = load_model(run.stores["bank"].path / "model.json")
    codes = {party: codes_of(run, party) for party in ("bank", *run.job.holders)}
    expected, sides = units(model, codes), ModelSides.of(model)
    bits = {h: HolderBits(model.parts_of(h), model.part(h).n_codes) for h in run.job.holders}
    averages = []
    for row in range(0, 400, 7):
        one = sides.of_record(codes["bank"][row][None])
        found = one.own_units(codes["bank"][row][None])
        for holder in run.job.holders:
            side = one.holders[holder]
            part = int(side.cells @ bits[holder].of(codes[holder][row]).astype(np.int64))
            assert side.lowest <= side.average <= side.highest
            assert side.lowest <= part <= side.highest
            averages.append(part - side.average)
            found += part
        assert found == expected[row]
        assert one.own_loss(codes["bank"][row][None]).shape == (2,)
    assert abs(np.mean(averages)) < 0.5 * np.std(averages), "the average firm is near the middle"


def test_the_onnx_model_of_the_bank_gives_the_same_log_odds(run):
    homes = run.stores["bank"].path.parents[2]
    model = load_model(run.stores["bank"].path / "model.json")
    code_map = CodeMap.from_json((homes / "bank" / "models" / "trees" / "code_map.json").read_text())
    session = onnxruntime.InferenceSession(to_onnx(model, code_map), providers=["CPUExecutionProvider"])
    table = read_table(homes.parent / "data" / "bank.csv", "firm", columns=tuple(code_map.kinds), normaliser="text")
    codes = {party: codes_of(run, party)[:500] for party in ("bank", *run.job.holders)}
    feed = {}
    for entry in session.get_inputs():
        if entry.name.endswith(" bits"):
            holder = entry.name.removesuffix(" bits")
            bits = np.concatenate(
                [indicators(t, codes[holder], model.part(holder).n_codes) for t in model.parts_of(holder)]
            )
            feed[entry.name] = bits.T
        elif code_map.kinds[entry.name] == "number":
            feed[entry.name] = table.columns[entry.name][:500, None].astype(float)
        else:
            feed[entry.name] = np.array(
                [["" if v is None else v] for v in table.columns[entry.name][:500]], dtype=object
            )
    score = model.own_score(codes["bank"])
    expected = np.full(500, model.intercept)
    for tree in model.trees:
        expected += coefficients(tree, np.array(tree.weights), codes["bank"], model.parts[0].n_codes)[0]
    for holder, chain in model.chains.items():
        for tree in chain:
            answer = tree.cut.answers(codes["bank"], score).astype(int)
            expected += np.array(tree.weights)[answer, codes[holder][:, tree.column].astype(int)]
    np.testing.assert_allclose(session.run(None, feed)[0][:, 0], expected, atol=1e-6)


def test_another_part_is_refused(run):
    model = load_model(run.stores["bank"].path / "model.json")
    with pytest.raises(ConfigError, match="part of model trees is missing, changed or of another version"):
        model.check_part("tax", bytes(32))
