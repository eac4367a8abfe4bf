"""What a plan foretells of noise: against what was measured, against trainings, and the jobs that it stops."""

import math
import time

import numpy as np
import pytest
from local_jobs import firms, job, nodes, skip_align, write
from plain_scorecard import private_part
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from veilscore.data.fixed_bins import FixedBins
from veilscore.data.table import Table
from veilscore.errors import RefusedError
from veilscore.models import residual
from veilscore.models.noise_cost import (
    MOST_LOSS,
    KnownSizes,
    NoiseCost,
    expected_loss,
    expected_loss_of_chains,
    noise_cost,
)
from veilscore.node.local import open_job
from veilscore.tasks.context import account_of
from veilscore.tasks.noise import sizes_at_bank
from veilscore.tasks.table import noise_of, stop_if_drowned

CREDIT = KnownSizes(21_435, 4_735, 1_578, {"tax": 12, "registry": 4})
POLISH = KnownSizes(5_013, 195, 65, {"tax": 28, "registry": 7})
PRIVATE = {"disclosure": "private", "holdout_scores": False, "despite_noise": False}


def test_the_losses_are_about_those_that_were_measured():
    """Measured at mu .5 against exact WOE and logistic regression: .0007 to .002, and .04 to .05."""
    assert 0.0007 / 2 < expected_loss(CREDIT, 0.5, 20) < 2 * 0.002
    assert 0.04 / 2 < expected_loss(POLISH, 0.5, 20) < 2 * 0.05
    assert expected_loss(KnownSizes(45_000, 22_000, 7_000, {"tax": 4, "registry": 6}), 0.5, 20) < 0.0005


def test_the_losses_of_chains_are_about_those_of_chains_on_made_up_firms():
    """Grown in the clear by `plain_chain` with and without noise: mean of three draws each, AUC on 20,000 others."""
    measured = {
        (20_000, 0.22, 12): (0.0011, 0.0021, 0.0044),
        (6_000, 0.22, 12): (0.0042, 0.0103, 0.0187),
        (2_000, 0.22, 6): (0.0044, 0.0153, 0.0284),
        (20_000, 0.04, 12): (0.0071, 0.0154, 0.0265),
        (900, 0.2, 6): (0.0187, 0.0417, 0.0554),
    }
    for (n, rate, columns), losses in measured.items():
        for mu, loss in zip((1.0, 0.5, 0.3), losses, strict=True):
            foretold = expected_loss_of_chains(KnownSizes(n, n * rate, 0.0, {"tax": columns}), mu)
            assert loss / 3 - 0.001 < foretold < 3 * loss + 0.001, (n, rate, mu)
    assert expected_loss_of_chains(POLISH, 0.5) > MOST_LOSS, "two of a hundred parts of the gap were closed"
    assert expected_loss_of_chains(CREDIT, 0.5) < 0.002
    assert expected_loss_of_chains(KnownSizes(500, 0, 0, {"tax": 5}), 0.5) == 0.5


def test_more_of_what_helps_loses_less():
    more_mu = [expected_loss(POLISH, mu, 20) for mu in (0.3, 0.5, 1.0, 2.0)]
    assert more_mu == sorted(more_mu, reverse=True)
    more_firms = [expected_loss(KnownSizes(20 * n, n, n / 3, {"tax": 20}), 0.5, 20) for n in (200, 1000, 5000)]
    assert more_firms == sorted(more_firms, reverse=True)
    fewer_columns = [expected_loss(KnownSizes(20_000, 1000, 300, {"tax": d}), 0.5, 20) for d in (60, 20, 5)]
    assert fewer_columns == sorted(fewer_columns, reverse=True)
    assert expected_loss(KnownSizes(500, 0, 0, {"tax": 5}), 0.5, 20) == 0.5, "one class"


def test_it_takes_less_than_a_second():
    began = time.process_time()
    expected_loss(KnownSizes(200_000, 9_000, 3_000, {"tax": 40, "registry": 40}), 0.5, 20)
    assert time.process_time() - began < 1


def test_the_loss_is_about_that_of_trainings_with_and_without_noise():
    """Trainings by the product's models on the tests' firms, drawn anew; scored on firms that nothing was fitted on."""
    n, mu, lost = 1200, 0.5, []
    for seed in range(8):
        own, label, codes = read(firms(n + 4000, seed=seed, coverage=1.0))
        train = np.arange(label.size) < n
        offset = LogisticRegression().fit(own[train], label[train]).decision_function(own)
        p, bads = 1 / (1 + np.exp(-offset)), label[train].sum()

        def scores(spent, *, offset=offset, codes=codes, known=(bads, label - p, p * (1 - p), train)):
            return (offset + sum(private_part(code, *known, spent) for code in codes))[~known[-1]]

        quiet, *noised = (roc_auc_score(label[~train], scores(spent)) for spent in (math.inf, *(4 * [mu])))
        lost.append(quiet - np.mean(noised))
    assert np.std(lost) / math.sqrt(len(lost)) < 0.32 * np.mean(lost), "the trainings say something"
    foretold = expected_loss(KnownSizes(n, float(bads), 0.0, {"tax": 3, "registry": 3}), mu, 20)
    assert np.mean(lost) / 2 < foretold < 2 * np.mean(lost)


def read(parts):
    """The bank's own number, labels, and a way to code each holder's columns, in the bank's order of rows."""
    bank, coders = parts["bank"], []
    for holder in ("tax", "registry"):
        columns = {name: number(column) for name, column in parts[holder].items() if name != "firm"}
        table = Table(np.array(parts[holder]["firm"]), columns, source=holder)
        where = {firm: row for row, firm in enumerate(parts[holder]["firm"])}
        coders.append(coder(table, np.array([where[firm] for firm in bank["firm"]])))
    return number(bank["limit"]).reshape(-1, 1), np.array(bank["default"], float), coders


def number(column):
    return np.array([np.nan if value == "" else value for value in column], float)


def coder(table, rows):
    fixed = FixedBins.make(table, "2026-11-30")

    def code(max_bin):
        code_map = fixed.code_map(table, max_bin, generator=np.random.default_rng(0))
        return code_map.transform(table).take_rows(rows).codes, code_map.n_codes

    return code


def test_the_curves_errors():
    assert noise_cost(0.0, CREDIT, 0.5).curve_auc == pytest.approx(3 / (0.5 * 1578))
    assert noise_cost(0.0, CREDIT, 0.5).curve_ks == pytest.approx(4 / (0.5 * 1578))
    assert noise_cost(0.0, KnownSizes(500, 0, 0, {"tax": 5}), 0.5).curve_auc == 1.0
    assert noise_cost(0.0, CREDIT, None).curve_auc is None


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (NoiseCost(0.04), "costs the model about 0.040 of AUC"),
        (NoiseCost(0.001, 0.09, 0.12), "moves the measured AUC by about 0.090"),
        (NoiseCost(0.04, 0.09, 0.12), "of AUC .* and moves the measured AUC"),
    ],
)
def test_a_drowned_job_is_told_the_ways_out(cost, said):
    with pytest.raises(RefusedError, match=said) as refused:
        cost.refuse_if_drowned("bank")
    for way in ("more firms", "fewer columns", "larger mu", "exact", "despite_noise: true"):
        assert way in str(refused.value)
    NoiseCost(0.01, 0.04, 0.05).refuse_if_drowned("bank")


def test_the_bank_refuses_at_submission_what_drowns_however_few_columns_there_are(tmp_path, monkeypatch):
    small = nodes(write(tmp_path / "data", firms(90, seed=1)))
    with pytest.raises(RefusedError, match="drowns its data"):
        stop_if_drowned(small["bank"], job(**PRIVATE))
    stop_if_drowned(small["bank"], job(**PRIVATE | {"despite_noise": True}))
    stop_if_drowned(small["bank"], job())
    stop_if_drowned(small["tax"], job(**PRIVATE))
    monkeypatch.setattr(residual, "MOST_ROWS", 50)
    with pytest.raises(RefusedError, match="takes 50 at most"):
        stop_if_drowned(small["bank"], job(**PRIVATE | {"despite_noise": True}))


def test_the_first_step_that_opens_refuses_with_the_true_columns_and_no_sum_has_left(tmp_path):
    configs = nodes(write(tmp_path / "data", firms(1200, seed=1)))
    asked = job(mu=0.15, **PRIVATE)
    stop_if_drowned(configs["bank"], asked)  # a column a holder would do
    run = open_job(asked, configs, tmp_path / "homes")
    skip_align(run)
    with pytest.raises(RefusedError, match="drowns its data"):
        run.step("bin")
    for holder in run.job.holders:
        account = account_of(run.stores[holder].path.parent.parent, run.nodes[holder], run.job)
        assert [line.charge.opening.split()[0] for line in account.lines()] == ["bins"]


def test_sizes_are_read_from_the_banks_labels(tmp_path):
    configs = nodes(write(tmp_path / "data", firms(400, seed=2)))
    one = job(**PRIVATE)
    sizes = sizes_at_bank(configs["bank"], one, {"tax": 3, "registry": 3})
    assert sizes.train == 300
    assert 0 < sizes.bads_held < sizes.bads < 300
    cost = noise_of(one, sizes)
    assert cost is not None
    assert cost.curve_auc is None, "no curve is opened"
    assert noise_of(job(), sizes) is None, "exact"
