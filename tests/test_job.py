"""Jobs, policies and node configuration as users type them."""

from __future__ import annotations

import json

import pytest
import yaml
from sqlalchemy.engine import make_url

from veilscore.errors import ConfigError, JobError
from veilscore.tasks.table import answer_to
from veilscore.terms.job import Job, check_job_id, load_job, new_job_id, parse_job
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.parameters import ScoreBatch
from veilscore.terms.settings import parse

JOB = {
    "name": "kz",
    "purpose": "credit underwriting",
    "task": "train_scorecard",
    "bank": "bank",
    "holders": ["tax", "registry"],
    "datasets": {"bank": "loans", "tax": "filings", "registry": "firms"},
    "parameters": {
        "max_bin": 10,
        "disclosure": "exact",
        "bands": {"A": 700, "B": 0},
        "columns": {"tax": {"exclude": ["x"]}},
    },
}
SCORE = {k: v for k, v in JOB.items() if k != "parameters"} | {"task": "score_batch", "parameters": {"model": "kz"}}


def job(**changes) -> Job:
    return parse_job(yaml.safe_dump({**JOB, **changes}), "job.yaml")


def test_defaults_and_access():
    j = job()
    assert j.parties == ("bank", "tax", "registry")
    assert j.training.max_bin == 10
    assert j.training.holdout_fraction == 0.25
    assert j.columns["tax"].exclude == ("x",)
    with pytest.raises(JobError, match="not score_batch"):
        j.of(ScoreBatch)
    scoring = parse_job(yaml.safe_dump(SCORE))
    assert scoring.of(ScoreBatch).model == "kz"
    with pytest.raises(JobError, match="not one that trains"):
        _ = scoring.training


def test_canonical_form_is_stable_and_complete():
    j = job()
    again = parse_job(j.canonical().decode())
    assert again == j
    assert again.sha256 == j.sha256
    shuffled = parse_job(yaml.safe_dump(dict(reversed(JOB.items()))))
    assert shuffled.sha256 == j.sha256
    assert json.loads(j.canonical())["parameters"]["C"] == 1.0
    assert job(purpose="other").sha256 != j.sha256


def test_canonical_form_of_a_plain_job_is_pinned():
    """A change of any default changes what parties agree on: change this digest on purpose only."""
    plain = parse_job(yaml.safe_dump({k: v for k, v in JOB.items() if k != "parameters"}))
    assert len(plain.sha256) == 32
    assert set(json.loads(plain.canonical())) == set(Job.model_fields)


def test_job_id_is_fresh_and_bound_to_the_job():
    first, second = new_job_id(job()), new_job_id(job())
    assert first != second
    assert check_job_id(first, job()) == first
    with pytest.raises(JobError, match="does not belong"):
        check_job_id(first, job(purpose="other"))
    for bad in ("", "../x", "kz", "kz-123", first.upper(), first + "/x"):
        with pytest.raises(JobError, match="malformed"):
            check_job_id(bad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pourpose": "x"}, "unknown key 'pourpose'; did you mean 'purpose'"),
        ({"parameters": {"max_bins": 3}}, "parameters: unknown key 'max_bins'; did you mean 'max_bin'"),
        ({"parameters": {"max_bin": 1}}, "parameters.max_bin"),
        ({"parameters": {"C": float("inf")}}, "parameters.C"),
        ({"parameters": {"sign": "negative"}}, "parameters.sign"),
        ({"parameters": {"bands": {"A": 1, "B": 1}}}, "two bands have the same lowest score"),
        ({"parameters": {"bands": {640: 1}}}, "band name 640 as no word; quote it, for example '640'"),
        ({"parameters": {"bands": {True: 1}}}, "quote it, for example 'yes'"),
        ({"parameters": {"bands": {False: 1, "A": 2}}}, "quote it, for example 'no'"),
        ({"parameters": {"bands": {"A": True}}}, "its lowest score is a number"),
        ({"parameters": {"bands": {"": 1}}}, "'' is no name for a band"),
        ({"parameters": {"bands": {"Missing": 1}}}, "'Missing' is no name for a band"),
        ({"parameters": {"bands": {"below all bands": 1}}}, "are reserved"),
        ({"parameters": {"columns": {"court": {}}}}, "court: has data sets or columns but is not a party"),
        ({"task": "train_tree"}, "known tasks: train_scorecard, train_boosting, train_stack"),
        ({"task": "score_batch"}, "parameters: unknown key"),
        ({"holders": []}, "holders"),
        ({"holders": ["tax", "tax"]}, "stands twice"),
        ({"holders": ["tax", "Tax Office"]}, "holders.2"),
        ({"datasets": {"bank": "loans", "tax": "filings"}}, "no data set named for party 'registry'"),
        ({"datasets": {**JOB["datasets"], "court": "x"}}, "court: has data sets"),
    ],
)
def test_bad_jobs_say_which_key(changes, words):
    with pytest.raises(ConfigError) as caught:
        job(**changes)
    assert words in str(caught.value)
    assert "job.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "key 'a' stands twice"),
        ("a: &x 1\nb: *x", "aliases"),
        ("- a", "expected a mapping"),
        ("a: [", "line 1"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("x: " + "y" * (1 << 20), "longer than"),
    ],
)
def test_bad_yaml(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_job(text)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"job file not found: .*x\.yaml"):
        load_job(tmp_path / "x.yaml")


def node(role="holder", name="tax", policy=None, **dataset) -> NodeConfig:
    data = {"path": "d.csv", "id_column": "uscc", "account": "d", **dataset}
    names = {"loans": data, "filings": data}
    return parse(
        NodeConfig,
        {
            "name": name,
            "role": role,
            "datasets": names,
            "policy": {"exact_for": {"bank": "9999-12-31"}, **(policy or {})},
        },
        "node.yaml",
    )


@pytest.mark.parametrize(
    ("policy", "changes", "expected"),
    [
        ({}, {}, "pending"),
        ({"accept": "auto"}, {}, "accepted"),
        ({"accept": "auto", "purposes": ["other"]}, {}, "refused"),
        ({"accept": "auto", "tasks": ["score_batch"]}, {}, "refused"),
        ({"accept": "auto"}, {"parameters": {"monotone": True, "disclosure": "exact"}}, "refused"),
        (
            {"accept": "auto", "allow_order": True},
            {"parameters": {"monotone": True, "disclosure": "exact"}},
            "accepted",
        ),
        ({"accept": "auto"}, {"parameters": {"standard_errors": True, "disclosure": "exact"}}, "refused"),
        ({"accept": "auto", "holdout_scores": "refuse"}, {}, "refused"),
        ({"accept": "auto", "holdout_scores": "refuse"}, {"parameters": {"holdout_scores": False}}, "accepted"),
        ({"accept": "auto"}, {"datasets": {**JOB["datasets"], "tax": "secret"}}, "refused"),
        ({"accept": "auto", "banks": ["rival"]}, {}, "refused"),
    ],
)
def test_policy_of_a_holder(policy, changes, expected):
    config = node(policy=policy)
    assert answer_to(job(**changes), config).status == expected


def test_policy_on_unknown_firms():
    config = node(policy={"accept": "auto"})
    decision = answer_to(parse_job(yaml.safe_dump(SCORE)), config)
    assert decision.status == "refused"
    assert "on_missing: missing_code" in decision.reason
    config = node(policy={"accept": "auto", "disclose_unknown": True})
    assert answer_to(parse_job(yaml.safe_dump(SCORE)), config).status == "accepted"


def test_policy_of_the_bank_names_the_missing_column():
    config = node("bank", "bank", {"accept": "auto"})
    assert "no label_column" in answer_to(job(), config).reason
    config = node("bank", "bank", {"accept": "auto"}, label_column="default")
    assert answer_to(job(), config).status == "accepted"
    weighted = job(parameters={"weights": True})
    assert "no weight_column" in answer_to(weighted, config).reason


def test_wrong_role_is_refused():
    config = node("bank", "tax", {"accept": "auto"})
    assert "role" in answer_to(job(), config).reason
    config = node("holder", "court", {"accept": "auto"})
    assert "not a party" in answer_to(job(), config).reason


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"url": "sqlite:///x"}, "either path"),
        ({"path": None, "url": "postgresql://u:secret@h/d", "table": "t"}, "take it out"),
        ({"path": None, "url": "sqlite:///x"}, "either table or query"),
        ({"path": None, "url": "nonsense", "table": "t"}, "not a SQLAlchemy URL"),
        ({"table": "t"}, "belong to a database"),
        ({"id_colum": "x"}, "did you mean 'id_column'"),
    ],
)
def test_bad_datasets(dataset, words):
    with pytest.raises(ConfigError) as caught:
        node(**dataset)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_password_comes_from_the_environment(monkeypatch):
    config = node(path=None, url="postgresql://u@h/d", table="t", password_env="DB_PW")  # noqa: S106 - the name of a variable
    dataset = config.datasets["loans"]
    with pytest.raises(ConfigError, match="DB_PW"):
        _ = dataset.source
    monkeypatch.setenv("DB_PW", "p w")
    assert make_url(dataset.source).password == "p w"  # noqa: S105 - not a real one
    assert "p w" not in repr(config)


def test_paths_are_relative_to_the_home(tmp_path):
    content = {"name": "tax", "role": "holder", "datasets": {"d": {"path": "d.csv", "id_column": "uscc"}}}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    config = load_node_config(tmp_path)
    assert config.datasets["d"].path == tmp_path / "d.csv"
    assert config.federation == tmp_path / "federation.yaml"
    with pytest.raises(ConfigError, match="node configuration not found"):
        load_node_config(tmp_path / "none")
