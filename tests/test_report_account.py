"""The holder's report of its account: what jobs spent, drawn, and where its policy promises less than the default."""

import datetime as dt

from local_jobs import firms, job, nodes, write

from veilscore.node.local import open_job
from veilscore.reports import plots
from veilscore.reports.data import SpendingRow
from veilscore.reports.report import read_report
from veilscore.terms.policy import NodePolicy
from veilscore.terms.privacy import PrivacyRules


def test_a_holders_report_shows_its_account_and_that_its_policy_promises_less(tmp_path):
    data = write(tmp_path / "data", firms(1200, seed=4))
    loose = nodes(data, holder_policy={"privacy": PrivacyRules(job=0.8, year=2.0)})
    asked = {"disclosure": "private", "holdout_scores": False}
    for name in ("first", "second"):
        run = open_job(job(name=name, **asked), loose, tmp_path / "homes").run()
    report = read_report(run.stores["tax"].path / "report.json")
    spent = report.privacy.spending
    assert [row.job_id.split("-")[0] for row in spent] == ["first", "second"]
    assert [round(row.mu, 2) for row in spent] == [0.52, 0.5], "the first pays for the bins"
    assert (report.privacy.job_limit, report.privacy.year_limit) == (0.8, 2.0)
    page = (run.stores["tax"].path / "report.html").read_text()
    assert "mu that jobs have spent of the account within a year" in page
    assert "one job may spend mu 0.8, a guess right 66% of the time (default 0.5: 60%)" in page
    assert "jobs of bank may be exact until 9999-12-31" in page
    assert "promises less" not in (run.stores["bank"].path / "report.html").read_text()
    assert read_report(run.stores["bank"].path / "report.json").privacy.spending == ()


def test_the_account_is_drawn_against_its_limits():
    rows = [SpendingRow(job_id=f"j{k}", day=f"2026-{k + 1:02d}-15", mu=0.5) for k in range(5)]
    svg = plots.account_chart(rows, 0.5, 1.0).to_svg()
    for text in ("most a year: 1", "most a job: 0.5", "all jobs", "2026-"):
        assert text in svg
    plots.account_chart(rows[:1], 0.5, 1.0).to_svg()  # one day alone has a width too


def test_a_policy_says_where_it_promises_less():
    day = dt.date(2026, 11, 30)
    assert NodePolicy().promises_less() == ()
    assert NodePolicy(privacy=PrivacyRules(job=0.2, year=0.4)).promises_less() == ()
    loose = NodePolicy(privacy=PrivacyRules(year=1.5), exact_for={"bank": day, "other": "2026-11-29"})
    assert len(loose.promises_less(today=day)) == 2
    assert "a year of jobs may spend mu 1.5, a guess right 77% of the time (default 1: 69%)" in loose.promises_less()
    assert "until 2026-11-30, without any bound" in loose.promises_less("bank", day)[1]
    assert len(loose.promises_less("other", day)) == 1, "its last day is over"
