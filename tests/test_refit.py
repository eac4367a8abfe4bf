"""Refits of a private scorecard from sums that were opened and charged before: free, and only for the same data."""

import numpy as np
import pytest
from local_jobs import firms, job, nodes, run_job, write
from sklearn.metrics import roc_auc_score

from veilscore.api import JointScorecard
from veilscore.data.simulate import simulate
from veilscore.errors import ConfigError, DataError, JobError, RefusedError
from veilscore.models.filed import load_model
from veilscore.node.local import open_job
from veilscore.tasks.context import account_of
from veilscore.tasks.refit import _OF_OPENINGS
from veilscore.tasks.table import charges_of, leakage_table
from veilscore.terms.training import TrainScorecard

PRIVATE = {"disclosure": "private", "holdout_scores": False, "monotone": "told"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return run_job(
        folder,
        firms(3000, seed=3),
        policy={"publish_column_names": True, "allow_order": True},
        keep=True,
        name="card",
        **PRIVATE,
    )


def homes(run):
    return run.stores["bank"].path.parents[2]


def again(first, *, name="again", **parameters):
    asked = job(name=name, **PRIVATE | {"reuse": "card"} | parameters)
    return open_job(asked, first.nodes, homes(first), keep=True).run()


def card(run):
    return load_model(run.stores["bank"].path / "model.json")


def lines(run, holder="tax"):
    home = run.stores[holder].path.parent.parent
    return account_of(home, run.nodes[holder], run.job).lines()


def test_the_same_refit_gives_the_same_points(first):
    found, known = card(again(first)), card(first)
    assert [part.points.tolist() for part in found.parts] == [part.points.tolist() for part in known.parts]
    assert found.base_points == known.base_points
    assert found.provenance.job_id != known.provenance.job_id


def test_many_subsets_come_out_of_one_charge(first):
    before = lines(first)
    names = [column.name for column in card(first).parts[1].columns]
    for k in range(7):
        excluded = [name for j, name in enumerate(names) if (k >> j) & 1][:1]
        run = again(first, name=f"subset-{k}", columns={"tax": {"exclude": excluded}}, C=0.5 + k / 10)
        used = {c.name for c in card(run).parts[1].columns if c.coefficient is not None}
        assert not used & set(excluded)
    assert lines(first) == before
    assert not charges_of(run.job.parameters)
    assert {row.step: row.how_much for row in leakage_table(run.job.parameters)} == {"refit": "nothing"}
    sent = {e.kind for entries in run.transcripts.values() for e in entries.entries}
    assert sent <= {"RefitBankJob", "RefitHolderReady", "StepCommitment"}


def test_signs_and_penalties_change_the_coefficients(first):
    def norm(run):
        return sum((c.coefficient or 0.0) ** 2 for part in card(run).parts[1:] for c in part.columns)

    assert norm(again(first, name="tight", C=0.001)) < 0.5 * norm(first)
    positive = card(again(first, name="positive", sign="positive"))
    assert all((c.coefficient or 0.0) >= 0 for part in positive.parts[1:] for c in part.columns)


def test_effects_rise_or_fall_where_the_holder_tells_order(first):
    def violated(run):
        counts = {entry["party"]: entry for entry in run.stores["bank"].load_json("counts")}
        found = 0
        for part in card(run).parts[1:]:
            for column, is_ordered, missing in zip(
                part.columns, counts[part.party]["ordered"], counts[part.party]["missing_code"], strict=True
            ):
                points = np.delete(column.points, missing) if missing >= 0 else np.array(column.points)
                steps = np.diff(points)
                found += bool(is_ordered and (steps > 0).any() and (steps < 0).any())
        return found

    assert violated(first) == 0
    loose = again(first, name="loose", monotone=False)
    # where the noise left every effect in order by itself, there is nothing to put into order
    assert violated(loose) > 0 or all(
        np.array_equal(a.points, b.points) for a, b in zip(card(loose).parts[1:], card(first).parts[1:], strict=True)
    )
    rising = again(first, name="rising", reuse=loose.job_id)
    assert card(rising).parts[1].points.tolist() == card(first).parts[1].points.tolist()
    assert lines(rising) == lines(first)
    assert "monotone WOE" in {row.step for row in leakage_table(first.job.parameters)}
    assert "monotone WOE" not in {row.step for row in leakage_table(rising.job.parameters)}, "told by the job before"


def test_errors_and_inflation_come_with_every_private_card(first):
    for part in card(first).parts:
        for column in part.columns:
            assert column.coefficient is None or 0 < column.standard_error < 1


def test_a_refit_is_filed_at_the_holders_and_may_be_reused(first):
    one = again(first, name="one", columns={"tax": {"exclude": ["arrears"]}})
    other = again(first, name="other", reuse=one.job_id)
    for run in (one, other):
        for holder in run.job.holders:
            kept = run.stores[holder].path.parent.parent / "models" / run.job.name / "code_map.json"
            assert kept.read_text() == first.stores[holder].load_json("code_map")
    assert card(other).parts[1].points.tolist() == card(first).parts[1].points.tolist()


def test_a_curve_of_a_refit_is_charged(first):
    run = again(first, name="judged", holdout_scores=True, mu=0.3)
    mine = [x for x in lines(run) if x.job_id == run.job_id]
    assert [(x.step, x.charge.opening, round(x.charge.mu2, 6)) for x in mine] == [("evaluate", "curve", 0.09)]
    assert run.stores["bank"].has("curve")
    assert (run.stores["bank"].path / "report.html").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reuse": "absent"}, "no model 'absent'"),
        ({"reuse": "card-00000000-0000000000000000"}, "no sums of job"),
        ({"holdout_seed": 5}, "holdout_seed is 0 in job"),
        ({"max_bin": 5}, "max_bin is 6 in job"),
        ({"weights": True}, "weights is False in job"),
        ({"columns": {"tax": {"include": ["elsewhere"]}}}, "'elsewhere' is no column of tax"),
        ({"columns": {"bank": {"exclude": ["limit"]}}}, "columns of bank differ"),
        ({"min_iv": 0.5}, "min_iv is 0.0 in job"),
        ({"missing_bin": True}, "missing_bin is False in job"),
    ],
)
def test_what_would_be_a_new_opening_is_refused(first, options, says):
    with pytest.raises(JobError, match=says):
        again(first, name="refused", **options)


def test_every_parameter_decides_an_opening_or_is_free():
    """A parameter that is new fails here until somebody has thought about it."""
    free = {  # what the bank makes of sums it has, or of a curve that is charged
        "columns", "sign", "C", "mu", "monotone", "disclosure", "reuse", "despite_noise", "holdout_scores",
        "base_score",
        "base_odds", "pdo", "population_bad_rate", "points_decimals", "calibrate", "bands", "rows_per_column",
    }  # fmt: skip
    exact = {"max_openings", "gradient_bits", "standard_errors", "holdout_output"}
    assert TrainScorecard.model_fields.keys() == free | exact | set(_OF_OPENINGS)


@pytest.mark.slow
def test_curves_of_refits_add_up_and_are_refused_beyond_the_year(tmp_path):
    """A bank refits to get one curve after another of the same hold-out: each has its own noise and its own charge."""
    one = run_job(tmp_path, firms(1500, seed=4), keep=True, name="card", **PRIVATE)
    spent = sum(line.charge.mu2 for line in lines(one))
    for k in range(20):
        try:
            again(one, name=f"curve-{k}", holdout_scores=True)
        except RefusedError:
            break
        assert sum(line.charge.mu2 for line in lines(one)) == pytest.approx(spent + 0.25 * (k + 1))
    assert k == int((1.0 - spent) / 0.25)


def test_a_changed_record_of_a_holder_tells_nothing_new(first, tmp_path):
    """A holder answers a refit from the files of the earlier job: what its table says by now is never read."""
    parts = firms(3000, seed=3)
    for name in ("turnover", "arrears", "turnover_again"):
        parts["tax"][name] = [""] + ["7"] * (len(parts["tax"]["firm"]) - 1)
    moved = nodes(write(tmp_path, parts), holder_policy={"publish_column_names": True})
    now = first.nodes | {holder: moved[holder] for holder in first.job.holders}
    run = open_job(job(name="later", reuse="card", **PRIVATE), now, homes(first), keep=True).run()
    assert [p.points.tolist() for p in card(run).parts] == [p.points.tolist() for p in card(first).parts]


def test_reuse_is_of_private_scorecards(first):
    with pytest.raises(ConfigError, match="reuse is for disclosure: private"):
        job(reuse="card")
    with pytest.raises(ConfigError, match="reuse is for train_scorecard"):
        job("train_stack", disclosure="private", scorecard={"reuse": "card"})
    with pytest.raises(ConfigError, match="reuse"):
        job(**PRIVATE, reuse="../card")


def test_new_labels_are_refused(tmp_path):
    parts = firms(1500, seed=4)
    run = run_job(tmp_path, parts, name="card", **PRIVATE)
    parts["bank"]["default"] = [1 - y for y in parts["bank"]["default"]]
    write(tmp_path / "data", parts)
    with pytest.raises(DataError, match="labels changed since"):
        open_job(job(name="again", reuse="card", **PRIVATE), nodes(tmp_path / "data"), homes(run)).run()


def test_refits_in_a_notebook(tmp_path):
    parties = simulate(1500, seed=7, bad_rate=0.3).parties
    holders = {"tax": parties["tax"], "registry": parties["registry"]}
    asked = {"folder": tmp_path, "holdout_scores": False, "despite_noise": True}
    one = JointScorecard(name="card", sign=None, **asked).fit(parties["bank"], holders)
    other = JointScorecard(name="less", reuse="card", sign="positive", **asked).fit(parties["bank"], holders)
    assert all((c.coefficient or 0.0) >= 0 for part in other.model_.parts[1:] for c in part.columns)
    assert other.model_.parts[0].points.tolist() == one.model_.parts[0].points.tolist()
    assert [row.how_much for row in other.leakage_] == ["nothing"]
    risk = other.predict_proba(parties["bank"], holders)[:, 1]
    assert roc_auc_score(parties["bank"].label, risk) > 0.6
    assert np.isfinite(risk).all()
