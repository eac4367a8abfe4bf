"""`veilscore job plan` of a private job: what it tells, what accounts have left, what its noise costs, and its stop."""

import time
from pathlib import Path

import pytest
from fabric_network import IDENTITIES
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, RefusedError, VeilscoreError
from veilscore.evidence.documents import canonical
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.receipt import JobReceipt, JobStatement, Logged
from veilscore.release.account import FILE, Account
from veilscore.tasks.spent import spent_by_receipts
from veilscore.terms.job import Job, parse_job
from veilscore.terms.privacy import PrivacyRules
from veilscore.wire.protocol import Charge

KZ = Path(__file__).parents[1] / "examples" / "kz_corporate"
JOB = """
name: card
purpose: credit
task: train_scorecard
bank: bank
holders: [tax, registry]
datasets: {bank: main, tax: main, registry: main}
parameters: {disclosure: private, holdout_scores: false%s}
"""
PARTIES = ("--party", "bank:bank", "--party", "tax:holder", "--party", "registry:holder")


def said(*words):
    """Output in one line, and the error that the command ended with."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, VeilscoreError), result.exception
    return " ".join(result.output.split()), result.exception


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "trial"
    assert said("init", folder, "--data", KZ, *PARTIES)[1] is None
    return folder


def job_file(folder, more=""):
    path = folder / "job.yaml"
    path.write_text(JOB % more)
    return path


def test_a_plan_refuses_more_rows_than_the_sums_carry(trial, tmp_path):
    rows = ("--rows", "bank=8000000", "--bads", "160000")
    _text, error = said("job", "plan", job_file(tmp_path), "--federation", trial, *rows)
    assert isinstance(error, RefusedError)
    assert "6,000,000 rows train, and a private scorecard takes 4,194,304 at most: take a sample" in str(error)
    rows = ("--rows", "bank=5000000", "--bads", "100000")
    assert said("job", "plan", job_file(tmp_path), "--federation", trial, *rows)[1] is None


def test_a_plan_counts_what_a_private_job_tells_and_stops_what_its_noise_would_drown(trial, tmp_path):
    text, error = said("job", "plan", job_file(tmp_path), "--federation", trial)
    assert "bin (once a version) │ bins │ all │ 0.150" in text
    assert "train │ gradient │ train │ 0.250" in text
    assert "Together mu 0.52" in text
    assert "is right at most 60% of the time (a coin: 50%), among ten 22%" in text
    assert "tax: its account with bank has mu 1.00 left of 1 a year, after this job 0.85" in text
    assert "columns tax 16, registry 4." in text
    assert isinstance(error, RefusedError)
    assert "drowns its data" in str(error)
    text, error = said("job", "plan", job_file(tmp_path, ", despite_noise: true"), "--federation", trial)
    assert error is None
    assert "Despite noise: it costs the model about" in text


def test_a_plan_of_private_trees_counts_chains_and_stops_what_their_noise_would_drown(trial, tmp_path):
    text = JOB.replace("train_scorecard", "train_boosting").replace(", holdout_scores: false", "")
    path = tmp_path / "trees.yaml"
    path.write_text(text % "")
    text, error = said("job", "plan", path, "--federation", trial)
    assert isinstance(error, RefusedError)
    assert "boost │ leaves │ train │ 0.500" in text
    assert "evaluate │ curve │ holdout │ 0.500" in text
    assert "Expected cost of noise: 0.0" in text
    assert "The curve of the hold-out" in text


def test_a_plan_of_a_selection_says_how_mu_is_divided_among_kinds(trial, tmp_path):
    text = JOB.replace("train_scorecard", "select_model").replace(", holdout_scores: false", ", despite_noise: true")
    path = tmp_path / "select.yaml"
    path.write_text(text % "")
    text, error = said("job", "plan", path, "--federation", trial)
    assert error is None
    assert "scorecard.bin │ cells │ train │ 0.274" in text
    assert "scorecard.evaluate │ curve │ holdout │ 0.354" in text
    assert "boosting.boost │ leaves │ train │ 0.354" in text
    assert "boosting.evaluate │ curve │ holdout │ 0.354" in text
    assert "Together mu 0.52" in text
    path.write_text((JOB % "").replace("train_scorecard", "select_model"))
    assert "leave holdout_scores on" in str(said("job", "plan", path, "--federation", trial)[1])


def test_an_account_with_too_little_left_says_so(trial, tmp_path):
    account = Account(trial / "tax" / FILE, "main", "bank", PrivacyRules())
    account.spend("earlier-00000000-0000000000000000/bin/1", Charge("cells", "train", 0.9))
    text, error = said("job", "plan", job_file(tmp_path, ", despite_noise: true"), "--federation", trial)
    assert isinstance(error, RefusedError)
    assert "this job needs 0.52; it has refilled enough on" in str(error)
    assert "tax: its account with bank has mu 0.32 left of 1 a year; that is too little for this job" in text
    assert "registry: its account with bank has mu 1.00 left" in text


def test_an_exact_job_is_said_to_end_the_promise(trial, tmp_path):
    path = tmp_path / "exact.yaml"
    path.write_text((JOB % "").replace("disclosure: private", "disclosure: exact"))
    text, error = said("job", "plan", path, "--federation", trial)
    assert isinstance(error, RefusedError)  # as it would be when it is submitted, and the plan shows all the same
    assert "tax refuses the job: tax refuses exact sums to bank" in str(error)
    assert "this job opens exact sums, so no bound holds" in text


def test_without_homes_the_users_numbers_count(tmp_path):
    known = ("--rows", "bank=28580", "--bads", "6313", "--columns", "tax=12")
    text, error = said("job", "plan", job_file(tmp_path), *known)
    assert error is None
    assert "21,435 training rows with 4,735 bads and columns tax 12, registry 12 (assumed: give --columns)" in text
    assert "only the holder knows what its account has left" in text
    few = ("--rows", "bank=6684", "--bads", "260", "--columns", "tax=28", "--columns", "registry=7")
    assert "drowns its data" in str(said("job", "plan", job_file(tmp_path), *few)[1])
    assert "give --rows bank=ROWS" in said("job", "plan", job_file(tmp_path))[0]
    assert isinstance(said("job", "plan", job_file(tmp_path), "--columns", "many")[1], ConfigError)


def keep_receipt(home: Path, job: Job, job_id: str, at_s: float):
    statement = JobStatement(
        party="bank", role="bank", job_id=job_id, request="0" * 64, policy="0" * 64, steps=(), files={},
        time_ms=int(at_s * 1000),
    )  # fmt: skip
    head = SignedHead.sign(IDENTITIES["bank"], 1, bytes(32), "", int(at_s * 1000))
    logged = Logged(entry=statement.to_bytes().decode(), index=0, path=(), head=head)
    receipt = JobReceipt(job_id=job_id, request=canonical(job.model_dump(mode="json")).decode(), statements=(logged,))
    path = home / "evidence" / "receipts" / f"{job_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(receipt.to_bytes())


def test_the_bank_counts_its_own_receipts(tmp_path):
    private, exact = parse_job(JOB % ""), parse_job((JOB % "").replace("private", "exact"))
    other = parse_job((JOB % "").replace("tax: main", "tax: more"))
    assert spent_by_receipts(tmp_path, private, "tax").jobs == 0
    now = time.time()
    for number, (job, at_s) in enumerate(
        [(private, now), (private, now - 1e6), (exact, now), (other, now), (private, now - 3.2e7)]
    ):
        keep_receipt(tmp_path, job, f"card-{number}", at_s)
    found = spent_by_receipts(tmp_path, private, "tax")
    assert (found.jobs, found.exact) == (2, 1)
    assert found.mu2 == pytest.approx(2 * 0.25 + 0.15**2)
    assert spent_by_receipts(tmp_path, private, "registry").jobs == 3
