"""Joint boosting as a job: whole runs in one process, against the plaintext oracle, and what goes wrong."""

from __future__ import annotations

import json

import boosting_reference as oracle
import numpy as np
import pytest
from consent_issuer import give_list
from local_jobs import HOLDERS, firms, job, nodes, skip_align, take, write

from veilscore.crypto.oblivious import LabelReceiver
from veilscore.data.codes import CodeMap
from veilscore.errors import (
    ConfigError,
    DataError,
    MessageError,
    PeerError,
    RefusedError,
    SchemaError,
    VeilscoreError,
)
from veilscore.lattice.params import T
from veilscore.models import boosting_design, harmonics
from veilscore.models.boosted import Boosted
from veilscore.models.boosting_form import rank_codes
from veilscore.models.filed import load_model
from veilscore.models.trees import HolderTrees, Tree, leaf_range, tree_values
from veilscore.node.local import open_job
from veilscore.protocols import boosting_sealed, sealed_argmax
from veilscore.protocols.boosting_shares import holder_columns, remask
from veilscore.tasks.binning import load_counts
from veilscore.terms.training import TrainBoosting
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.protocol import decode, encode

LEAST_GAIN = 4.0  # how far `gamma` is kept: see `sealed_gain`
LEAST = 3.0  # how far a least weight of a child is kept, where a node has little more than two of it: see `sealed_gain`
SMALL = {"n_estimators": 4, "max_depth": 3, "max_bin": 8}


def boosting_job(**parameters):
    return job("train_boosting", **{"name": "trees", **SMALL, **parameters})


def open_run(folder, parts=None, *, policy=None, keep=False, **parameters):
    write(folder / "data", firms() if parts is None else parts)
    configs = nodes(folder / "data", holder_policy=policy)
    return open_job(boosting_job(**parameters), configs, folder / "homes", keep=keep)


def model_of(run):
    return load_model(run.stores["bank"].path / "model.json", Boosted)


def part_of(run, holder):
    path = run.stores[holder].path.parents[1] / "models" / run.job.name / "trees.json"
    return HolderTrees.from_json(path.read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One job with early stopping and weighted classes; its model is scored and reported."""
    return open_run(
        tmp_path_factory.mktemp("trained"),
        policy={"disclose_unknown": True},
        keep=True,
        n_estimators=12,
        learning_rate=0.6,
        early_stopping_rounds=2,
        scale_pos_weight=2.0,
        bands={"A": 540, "B": 500},
    ).run()


# --- against the oracle ----------------------------------------------------------------------------------------------


def design_of(run):
    store = run.stores["bank"]
    code_map = CodeMap.from_json(store.load_json("code_map"))
    return boosting_design.bank_boosting(run.job, load_counts(store), store.load_arrays("rows"), code_map, {})


def sides_of(run, data):
    """Ranks of every party's codes as they are split: a holder's numbers by value."""
    sides = {"bank": data.own}
    for holder, columns in data.columns.items():
        natural = boosting_design.natural(CodeMap.from_json(run.stores[holder].load_json("code_map")))
        told = pb.BoostBankRound0(ranks=columns.ranks.astype("<u2").tobytes(), missing=columns.ranked.missing.tolist())
        sides[holder] = holder_columns(told, columns.ranked.n_codes, natural, "bank")
    return sides


def whole_trees(run):
    """The model's trees with the holders' own splits put back."""
    parts = {holder: list(part_of(run, holder).trees) for holder in HOLDERS}
    trees = []
    for tree in model_of(run).trees:
        theirs = parts[tree.holder].pop(0)
        splits = [
            mine if mine.side == "bank" else own.model_copy(update={"gain": mine.gain, "cover": mine.cover})
            for mine, own in zip(tree.splits, theirs.splits, strict=True)
        ]
        trees.append(tree.model_copy(update={"splits": tuple(splits)}))
    return trees


def assert_agrees(run):
    """Every split is the oracle's best on the same rows, every leaf has its weight, every margin is within 1e-3."""
    data, p, trees = design_of(run), run.job.of(TrainBoosting), whole_trees(run)
    growth, sides = data.growth, sides_of(run, data)
    saved = {party: run.stores[party].load_arrays("rows") for party in run.job.parties}
    codes = {party: rows["codes"][rows["train"]] for party, rows in saved.items()}
    ranked = {party: rank_codes(codes[party], sides[party]) for party in sides}
    n, rows = data.target.size, ~growth.validation
    rules = oracle.Rules(
        p.learning_rate,
        p.reg_lambda,
        p.gamma - LEAST_GAIN,
        p.min_child_weight,
        p.min_leaf_rows,
        p.max_depth,
        0,
        leaf_wise=False,
        slack=LEAST,
    )
    margin, reach = np.full(n, data.base), np.full((2, n), data.base)
    kept = boosting_sealed.gain_rule(growth, 1, 1).worst_kept_gain
    for tree in trees:
        q, h = harmonics.for_bound(np.abs(reach).max()).probability(margin)
        columns = [
            oracle.Column(side, j, ranked[party][:, j], int(c.n_codes[j]), bool(c.missing[j]), int(c.constraints[j]))
            for side, party in (("bank", "bank"), ("holder", tree.holder))
            for c in [sides[party].ranked]
            for j in range(c.n_codes.size)
        ]
        chosen = splits_by_rows(tree, codes, rows, {"bank": sides["bank"], "holder": sides[tree.holder]})
        weight = data.weight
        root = oracle.grow(columns, weight * (q - data.target), weight * h, rows, rules, follow(chosen, rules, kept))
        assert not chosen  # the oracle made every split too
        expected = oracle.values(root, n)
        n_codes = {"bank": data.own.ranked.n_codes, "holder": sides[tree.holder].ranked.n_codes}
        found = tree_values(
            tree, {"bank": codes["bank"], "holder": codes[tree.holder]}, n_codes, np.array(tree.weights)
        )
        assert np.abs(found - expected)[rows].max() < 1e-3
        margin = margin + found
        reach = reach + leaf_range(tree, codes["bank"], n_codes["bank"])
    return margin


def splits_by_rows(tree, codes, rows, sides):
    """Splits of a tree by the training rows of their node: (side, column, last rank that goes left, missing left)."""
    found, masks = {}, {0: rows}
    for k, split in enumerate(tree.splits):
        party = "bank" if split.side == "bank" else tree.holder
        goes = np.isin(codes[party][:, split.column], split.codes)
        ranked, ranks = sides[split.side].ranked, sides[split.side].ranks
        first, size = int(ranked.n_codes[: split.column].sum()), int(ranked.n_codes[split.column])
        left = {int(ranks[first + code]) for code in split.codes}
        missing = bool(ranked.missing[split.column])
        missing_left = missing and size - 1 in left
        key = (split.side, split.column, max(left - ({size - 1} if missing else set())), missing_left)
        found[masks[k].tobytes()] = (key, split.gain)
        masks[split.left], masks[split.right] = masks[k] & goes, masks[k] & ~goes
    return found


def follow(chosen, rules, kept):
    """Choose what the protocol chose, which compares gains and least weights by logarithms of few bits."""
    least = max(rules.min_child_weight, rules.min_rows / 4) * LEAST

    def forced(node, found):
        best = max((f[0] for f in found if min(f[5][1], f[6][1]) >= least), default=0.0)
        if node.mask.tobytes() not in chosen:
            assert best < rules.gamma + 2 * LEAST_GAIN  # of `gamma` and what it is kept by
            return None
        key, gain = chosen.pop(node.mask.tobytes())
        match = next(f for f in found if f[1:5] == key)
        assert match[0] >= kept * best - LEAST_GAIN / 2
        assert abs(match[0] - gain) < 1e-2  # opened sums are rounded to 2^-16
        return match

    return forced


def grown(run):
    """The run with all its trees."""
    skip_align(run)
    for step in ("bin", "boost"):
        run.step(step)
    return run


def test_grows_what_the_oracle_grows_split_by_split(tmp_path):
    run = grown(open_run(tmp_path, holdout_fraction=0))
    model = model_of(run)
    assert [tree.holder for tree in model.trees] == ["tax", "registry"] * 2
    assert_agrees(run)
    assert sum(len(tree.splits) for tree in model.trees) >= 12


@pytest.mark.parametrize(
    "parameters",
    [
        {"scale_pos_weight": 3, "max_delta_step": 0, "min_leaf_rows": 20},
        {"early_stopping_rounds": 3, "gamma": 0.5},
    ],
    ids=["weights", "early stopping"],
)
def test_options_agree_with_the_oracle(parameters, tmp_path):
    run = open_run(tmp_path, firms(500, seed=2), holdout_fraction=0, n_estimators=3, **parameters)
    assert_agrees(grown(run))


def test_own_columns_and_sampling(tmp_path):
    run = open_run(
        tmp_path,
        firms(400),
        tree_columns="own",
        subsample=0.7,
        colsample_bytree=0.5,
        n_estimators=3,
        holdout_fraction=0,
    ).run()
    sides = [{split.side for split in tree.splits} for tree in model_of(run).trees]
    assert sides[0] <= {"bank"}
    assert sides[1] <= {"holder"}
    assert sides[2] <= {"holder"}


# --- the model and its parts -----------------------------------------------------------------------------------------


def test_parts_agree_and_early_stopping_keeps_the_best(trained):
    model, fit = model_of(trained), trained.stores["bank"].load_json("fit")
    assert trained.job.steps == ("align", "bin", "boost", "evaluate")
    best = 1 + int(np.argmax(np.cumsum(fit["improvements"])))
    assert len(model.trees) == best < len(fit["improvements"])
    assert "no improvement" in fit["stopped"]
    for holder in HOLDERS:
        part = part_of(trained, holder)
        assert part.sha256.hex() == model.holder_sha256[holder]
        assert len(part.trees) == len(model.trees_of(holder))
        assert part.map_sha256 == model.part(holder).map_sha256
        assert all(not tree.weights for tree in part.trees)


def test_hold_out_scores_are_the_trees_in_the_clear(trained):
    assert_holdout_in_the_clear(trained, model_of(trained), {holder: part_of(trained, holder) for holder in HOLDERS})


def test_probabilities_are_not_shifted_by_weights_of_classes(trained):
    held = trained.stores["bank"].load_arrays("holdout")
    mean = model_of(trained).probability(held["units"]).mean()
    assert abs(mean - held["target"].mean()) < 0.1
    weighted = np.log(2 * 1.0)  # what the classes' weights add to the base
    fit = trained.stores["bank"].load_json("fit")
    assert fit["base"] - fit["intercept"] == pytest.approx(weighted)


def test_population_bad_rate_moves_the_base_only(tmp_path):
    run = open_run(tmp_path, firms(300), population_bad_rate=0.05, n_estimators=2, holdout_fraction=0).run()
    model, fit = model_of(run), run.stores["bank"].load_json("fit")
    y = run.stores["bank"].load_arrays("rows")["target"]
    rate = y.mean()
    assert model.intercept == pytest.approx(np.log(rate / (1 - rate)) + np.log(0.05 / 0.95) - np.log(rate / (1 - rate)))
    assert fit["intercept"] == pytest.approx(np.log(rate / (1 - rate)))


def test_too_many_decimals_are_refused(tmp_path):
    run = open_run(tmp_path, firms(300), pdo=5000, points_decimals=3, n_estimators=2, holdout_fraction=0)
    with pytest.raises(VeilscoreError, match="use fewer decimals"):
        run.run()


def test_the_words_that_hide_a_margin_share_are_uniform():
    """Drawn modulo 2^60 and reduced, words below 2^60 - T would come twice as often."""
    n = 1 << 20
    words = remask(bytes(32), n)
    assert words.max() < T
    expected = n * (2**60 - T) / T
    assert abs((words < 2**60 - T).sum() - expected) < 6 * expected**0.5


# --- interruption ----------------------------------------------------------------------------------------------------


def leaves_at_tree(holder, number):
    """Nothing reaches `holder` any more from the order of its tree `number` on."""
    gone = []

    def tamper(sender, recipient, sequence, payload):
        if recipient == holder and kind_of(payload) == "BoostBankTree":
            message = decode(payload, pb.BoostBankTree, session="", sender=sender)
            gone.extend([1] * (message.tree >= number and not message.hand_over_to))
        return [] if gone and holder in (sender, recipient) else [payload]

    return tamper


def heard(run, attempt, *parties, kind, sender=None):
    """Messages of a kind that parties received in one attempt."""
    return [
        message
        for party in parties
        for entry, message in run.transcripts[party].messages
        if (entry.recipient, entry.kind, entry.session.split("/")[2]) == (party, kind, str(attempt))
        and sender in (None, entry.sender)
    ]


@pytest.mark.slow
def test_a_holder_that_leaves_between_trees_and_the_job_goes_on(tmp_path):
    run = open_run(tmp_path, n_estimators=5, keep=True)
    skip_align(run)
    run.step("bin")
    with pytest.raises(PeerError, match=r"no message from (bank|registry)"):
        run.step("boost", tamper=leaves_at_tree("registry", 3), timeout_s=2)
    saved = run.stores["bank"].load_json("checkpoint_boost")
    assert len(saved["trees"]) == 3
    run.step("boost", attempt=2)
    run.step("evaluate")
    model = model_of(run)
    # trees that stood are rebuilt, not opened again; what was opened in both attempts is what the holder counted
    grown = [m.tree for m in heard(run, 2, *HOLDERS, kind="BoostBankTree") if m.product_public and not m.shapes]
    assert sorted(grown) == [3, 4]
    for holder in HOLDERS:
        sums = [m for attempt in (1, 2) for m in heard(run, attempt, "bank", kind="BoostHolderSums", sender=holder)]
        assert run.stores[holder].load_json("boosted")["n_sums"] == sum(len(m.sums) // 8 for m in sums)
    kept = [Tree.model_validate(tree) for tree in saved["trees"]]
    assert [(t.skeleton(), t.weights) for t in model.trees[:3]] == [(t.skeleton(), t.weights) for t in kept]
    assert len(model.trees) == 5
    assert_agrees(run)
    assert all(part_of(run, h).sha256.hex() == model.holder_sha256[h] for h in HOLDERS)


def test_a_step_repeated_after_its_end_grows_nothing_new(tmp_path):
    run = grown(open_run(tmp_path, firms(300), n_estimators=2, holdout_fraction=0))
    model, told = model_of(run), run.stores["tax"].load_json("boosted")
    state = {"trees": [tree.model_dump(mode="json") for tree in model.trees], "improvements": []}
    run.stores["bank"].save_json("checkpoint_boost", state)  # a node writes it after every tree
    for holder in HOLDERS:
        trees = [tree.model_dump(mode="json") for tree in part_of(run, holder).trees]
        run.stores[holder].save_json("checkpoint_boost", {"trees": trees})
    run.step("boost", attempt=2)
    assert model_of(run).trees == model.trees
    again = run.stores["tax"].load_json("boosted")
    assert {**again, "sha256": ""} == {**told, "sha256": ""}, "but for the salt of the hash"


# --- bad input -------------------------------------------------------------------------------------------------------


def test_more_bins_than_rows(tmp_path):
    small = {"max_bin": 64, "min_bin_fraction": 0.001, "min_leaf_rows": 5, "n_estimators": 2, "holdout_fraction": 0}
    run = open_run(tmp_path, firms(150), **small).run()
    assert all(np.isfinite(tree.weights).all() for tree in model_of(run).trees)


def test_one_class_in_training(tmp_path):
    parts = firms(200)
    parts["bank"]["default"] = [int(day >= "2022") for day in parts["bank"]["opened"]]
    with pytest.raises(DataError, match="one class only"):
        open_run(tmp_path, parts, holdout_from="2022-01-01").run()


def test_a_holder_without_rows_in_common(tmp_path):
    parts = firms(200)
    parts["tax"] = take(firms(200, prefix="other")["tax"], range(100))
    with pytest.raises(VeilscoreError, match="firms"):
        open_run(tmp_path, parts).run()


@pytest.mark.parametrize(
    ("policy", "parameters", "words"),
    [
        ({"tasks": ["train_scorecard"]}, {}, "does not allow task train_boosting"),
        ({"holdout_scores": "refuse"}, {}, "set holdout_scores: false"),
    ],
)
def test_a_holder_refuses(policy, parameters, words, tmp_path):
    with pytest.raises(RefusedError, match=words):
        open_run(tmp_path, firms(60), policy=policy, **parameters)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_depth": 0}, "max_depth: 0 needs max_leaves"),
        ({"max_depth": 7}, "max_depth"),
        ({"max_leaves": 1}, "one leaf"),
        ({"weights": True}, "scale_pos_weight"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rates": 0.1}, "did you mean 'learning_rate'"),
        ({"monotone_constraints": {"limit": 1}, "disclosure": "private"}, "party.column"),
        ({"monotone_constraints": {"bank.limit": 2}, "disclosure": "private"}, "monotone_constraints"),
        ({"monotone_constraints": {"tax.c1": "auto"}, "disclosure": "private"}, "only the bank's own trees"),
        ({"mu": 0.3}, "exact sums have no bound"),
        ({"early_stopping_rounds": 0}, "early_stopping_rounds"),
    ],
)
def test_jobs_that_cannot_be(parameters, words):
    with pytest.raises(ConfigError, match=words):
        boosting_job(**parameters)


@pytest.mark.parametrize("edit", ["kept", "digest"])
def test_a_holder_checks_the_trees_it_keeps(edit, tmp_path):
    run = open_run(tmp_path, firms(200), n_estimators=2, holdout_fraction=0)
    skip_align(run)
    run.step("bin")

    def lie(sender, recipient, sequence, payload):
        if kind_of(payload) != "BoostBankTree":
            return [payload]
        message = decode(payload, pb.BoostBankTree, session="", sender=sender)
        if message.finished and edit == "kept":
            message.kept += 1
        elif message.finished:
            message.kept_sha256 = bytes(32)
        return [encode(message)]

    with pytest.raises(MessageError, match="not those grown with this party"):
        run.step("boost", tamper=lie, timeout_s=5)


# --- a model whose parts do not fit ----------------------------------------------------------------------------------


def score(trained, folder):
    """Score new firms with the model of `trained`."""
    home = trained.stores["bank"].path.parents[2]
    parts = firms(60, seed=77, prefix="new", coverage=1.0)
    give_list(home / "bank", parts["bank"]["firm"], name=folder.name)
    config = job("score_batch", name="batch", model="trees", on_missing="missing_code")
    policy = {"disclose_unknown": True}
    return open_job(config, nodes(write(folder, parts), holder_policy=policy), home).run()


def test_a_batch_is_scored(trained, tmp_path):
    run = score(trained, tmp_path)
    assert (run.stores["bank"].path / "scores.csv").read_text().count("\n") == 61


@pytest.mark.parametrize("change", ["missing", "changed", "other version", "not a part"])
def test_a_holder_part_that_does_not_fit_is_refused(change, trained, tmp_path):
    path = trained.stores["tax"].path.parents[1] / "models/trees/trees.json"
    text = path.read_text()
    body = json.loads(text)
    part = HolderTrees.from_json(text)
    if change == "missing":
        path.unlink()
    elif change == "changed":
        path.write_text(json.dumps({**body, "sha256": "0" * 64}))
    elif change == "other version":
        path.write_text(part.model_copy(update={"trees": part.trees[:-1]}).to_json())
    else:
        path.write_text("{}")
    try:
        with pytest.raises((SchemaError, ConfigError, RefusedError)):
            score(trained, tmp_path)
    finally:
        path.write_text(text)


# --- splits chosen sealed --------------------------------------------------------------------------------------------


def test_a_sealed_job_from_training_to_scores(tmp_path):
    policy = {"disclose_unknown": True}  # no order is told, so none needs to be allowed
    run = open_run(tmp_path, policy=policy, n_estimators=6, early_stopping_rounds=6).run()
    model = model_of(run)
    for holder in HOLDERS:
        part = part_of(run, holder)
        assert part.sha256.hex() == model.holder_sha256[holder]
        known = [tree.skeleton() for tree in model.trees_of(holder)]
        assert [tree.skeleton() for tree in part.trees] == known
        assert 0 < run.stores[holder].load_json("boosted")["n_sums"] <= 4 * 8 * 3
    assert all(not s.codes for tree in model.trees for s in tree.splits if s.side == "holder")
    held = run.stores["bank"].load_arrays("holdout")
    rank = np.argsort(np.argsort(-held["units"], kind="stable"))
    bad = held["target"] == 1
    auc = (rank[bad].mean() - (bad.sum() - 1) / 2) / (~bad).sum()
    assert auc > 0.6
    assert_holdout_in_the_clear(run, model, {holder: part_of(run, holder) for holder in HOLDERS})
    assert (score(run, tmp_path / "batch").stores["bank"].path / "scores.csv").exists()


def assert_holdout_in_the_clear(run, model, parts):
    """Opened totals are the sum of leaves, with the holders' splits from their own parts."""
    saved = {party: run.stores[party].load_arrays("rows") for party in run.job.parties}
    held = ~saved["bank"]["train"]
    total = np.full(int(held.sum()), model.base_points, np.int64)
    numbers = dict.fromkeys(HOLDERS, 0)
    for tree, points in zip(model.trees, model.points, strict=True):
        theirs = parts[tree.holder].trees[numbers[tree.holder]]
        numbers[tree.holder] += 1
        splits = [m if m.side == "bank" else h for m, h in zip(tree.splits, theirs.splits, strict=True)]
        whole = tree.model_copy(update={"splits": tuple(splits)})
        codes = {"bank": saved["bank"]["codes"][held], "holder": saved[tree.holder]["codes"][held]}
        n_codes = {"bank": model.parts[0].n_codes, "holder": model.part(tree.holder).n_codes}
        total += tree_values(whole, codes, n_codes, np.array(points, dtype=np.int64))
    assert np.array_equal(run.stores["bank"].load_arrays("holdout")["units"], total)


@pytest.mark.slow
def test_a_sealed_job_resumes(tmp_path):
    run = open_run(tmp_path, firms(600), n_estimators=4, max_depth=2)
    skip_align(run)
    run.step("bin")
    with pytest.raises(PeerError):
        run.step("boost", tamper=leaves_at_tree("registry", 3), timeout_s=2)
    run.step("boost", attempt=2)
    run.step("evaluate")
    model = model_of(run)
    assert len(model.trees) == 4
    assert all(part_of(run, h).sha256.hex() == model.holder_sha256[h] for h in HOLDERS)
    assert_holdout_in_the_clear(run, model, {holder: part_of(run, holder) for holder in HOLDERS})


def test_sealed_keys_are_renewed_before_they_may_open_no_more(tmp_path, monkeypatch):
    made = []

    def counted(label):
        made.append(label)
        return LabelReceiver(label)

    monkeypatch.setattr(boosting_sealed, "OPENINGS", 1)  # one tree a set-up
    monkeypatch.setattr(sealed_argmax, "LabelReceiver", counted)
    run = open_run(tmp_path, firms(600), n_estimators=5, max_depth=2).run()
    assert len(made) == 3 + 2  # tax grows three trees, the registry two
    assert_holdout_in_the_clear(run, model_of(run), {holder: part_of(run, holder) for holder in HOLDERS})


def test_openings_of_sealed_keys_are_bounded_from_above():
    class Sums:
        max_depth, coarse = 4, False

    assert sealed_argmax.openings(640, 8) >= max(2 * 8 * 641, 2 * 8 * 640)
    assert boosting_sealed.trees_of_keys(Sums, 640) > 100  # twenty columns of 32 codes, depth 4
    assert boosting_sealed.trees_of_keys(Sums, 1 << 40) == 1


@pytest.mark.parametrize(
    "parameters", [{"grow_policy": "lossguide"}, {"max_leaves": 5}, {"monotone_constraints": {"bank.limit": 1}}]
)
def test_what_sealed_growth_cannot(parameters):
    with pytest.raises(ConfigError, match="are for trees of disclosure: private"):
        boosting_job(**parameters)
