"""A private stack as a job: a scorecard on the bank's trees, chains on both, one model, what each holder is charged."""

import math

import numpy as np
import pytest
from local_jobs import firms, job, run_job
from test_private_boosting import (  # the last three run here again, on the model below
    auc,
    codes_of,
    test_a_batch_is_scored_as_the_model_says,
    test_a_single_record_is_scored_as_the_model_says,
    test_the_onnx_model_of_the_bank_gives_the_same_log_odds,
    units,
)

from veilscore.data.fixed_bins import MU
from veilscore.errors import ConfigError
from veilscore.models.chain_growth import BOUND, TREES
from veilscore.models.chained import Chained, card_places
from veilscore.models.curve import plain_counts
from veilscore.models.filed import load_model
from veilscore.models.trees import HolderTrees
from veilscore.tasks.context import account_of
from veilscore.tasks.table import charges_of
from veilscore.terms.privacy import total

__all__ = (
    "test_a_batch_is_scored_as_the_model_says",
    "test_a_single_record_is_scored_as_the_model_says",
    "test_the_onnx_model_of_the_bank_gives_the_same_log_odds",
)
PRIVATE = {"disclosure": "private", "despite_noise": True, "boosting": {"n_estimators": 40, "max_depth": 3}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    return run_job(folder, firms(6000, seed=3), task="train_stack", name="trees", keep=True, **PRIVATE)


def test_the_stack_adds_the_holders_columns_to_the_banks_own_trees(run):
    model = load_model(run.stores["bank"].path / "model.json")
    assert isinstance(model, Chained)
    rows = run.stores["bank"].load_arrays("rows")
    codes = {party: codes_of(run, party) for party in ("bank", *run.job.holders)}
    held, bad = ~rows["train"], rows["target"] == 1
    joint = units(model, codes)
    assert auc(joint[held], bad[held]) > auc(model.own_score(codes["bank"])[held], bad[held]) + 0.01
    kept = run.stores["bank"].load_arrays("curve")
    plain = plain_counts(joint[held], bad[held], tuple(kept["limits"].tolist()))
    assert abs((kept["counts"] - plain) / kept["sigma"]).max() < 7
    assert model.provenance.job_sha256 == run.job.sha256.hex()


def test_the_scorecard_stands_first_and_moves_the_score(run):
    model, card = load_model(run.stores["bank"].path / "model.json"), run.stores["bank"].load_arrays("card")
    for holder in run.job.holders:
        n_codes = card[f"{holder}/n_codes"]
        places = card_places([column.name for column in model.part(holder).columns], n_codes.size)
        chain = model.chains[holder]
        assert len(chain) == TREES + len(places)
        assert tuple(tree.column for tree in chain[: len(places)]) == places
        assert not set(places) & {tree.column for tree in chain[len(places) :]}
        effects = np.concatenate([tree.weights[0] for tree in chain[: len(places)]])
        np.testing.assert_array_equal(effects, card[f"{holder}/effect"])
        part = HolderTrees.from_json(
            (run.stores[holder].path.parent.parent / "models" / "trees" / "trees.json").read_text()
        )
        assert part.trees == model.parts_of(holder)
    assert np.ptp(card["tax/effect"]) > 0.15


def test_sums_leave_in_the_parts_that_the_plan_says(run):
    assert total(charges_of(run.job.parameters)) == pytest.approx(0.25)
    for holder in run.job.holders:
        home = run.stores[holder].path.parent.parent
        lines = account_of(home, run.nodes[holder], run.job).lines()
        spent = [(x.step, x.charge.opening.split()[0], round(x.charge.mu2, 6)) for x in lines]
        assert spent == [
            ("bin", "bins", MU**2),
            ("bin", "cells", 0.045),
            ("train", "gradient", 0.01875),
            ("train", "moments", 0.01125),
            ("boost", "leaves", 0.175),
            ("evaluate", "curve", 0.25),
        ]
    sigma = run.stores["bank"].load_json("fit")["sigma"]["tax"]
    assert sigma == pytest.approx(math.sqrt(2 * TREES) * BOUND / math.sqrt(0.175))


@pytest.mark.parametrize("options", [{"folds": 3}, {"own_scores": ["limit"]}, {"boosting": {"mu": 0.3}}])
def test_what_only_exact_sums_give_is_refused(options):
    with pytest.raises(ConfigError, match=r"needs exact sums|is the same for all candidates"):
        job("train_stack", **PRIVATE | options)
