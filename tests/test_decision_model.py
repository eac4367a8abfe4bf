"""What a bank types of a decision: parsed or refused in one sentence, one hash for one meaning, an index for totals."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from test_parsers import _YAML, few

from veilscore.errors import ConfigError, VeilscoreError
from veilscore.terms.decision import DecisionModel, FileDecision, parse_decision
from veilscore.terms.job import load_job, parse_job
from veilscore.terms.settings import parse
from veilscore.terms.written import WriteModel

LIMITS = {
    "name": "proactive-limit",
    "purpose": "proactive",
    "steps": [50_000, 100_000, 200_000],
    "measures": {
        "risk": {"model": "joint-best", "cutoffs": [560, 580, 600.5]},
        "capacity": {"model": "capacity", "cutoffs": [100_000, 200_000, 400_000]},
        "bank_cap": {"column": "room"},
    },
    "knock_outs": [
        {"party": "court", "column": "dishonest_list", "is": ["listed"]},
        {"party": "tax", "column": "late_filings_365d", "above": 3},
    ],
}
ALARM = {
    "name": "alarm",
    "purpose": "watch",
    "watch": True,
    "steps": ["yellow", "red"],
    "measures": {"risk": {"model": "joint-best", "cutoffs": [600, 560]}},
}


def decision(base=LIMITS, **changes):
    fresh = json.loads(json.dumps({**base, **changes}))  # nothing stands twice, which YAML would write as an alias
    return parse_decision(yaml.safe_dump(fresh), "decision.yaml")


def job_of(model=LIMITS, **changes):
    return {
        "name": model["name"],
        "purpose": model["purpose"],
        "task": "file_decision",
        "bank": "bank",
        "holders": ["tax", "court"],
        "datasets": {"bank": "firms", "tax": "filings", "court": "cases"},
        "parameters": {"decision": model},
        **changes,
    }


def test_what_it_is_made_of():
    found = decision()
    assert list(found.models.items()) == [("capacity", "capacity"), ("risk", "joint-best")]
    assert found.columns == {"bank_cap": "room"}
    assert found.cutoffs_of("bank_cap") == found.amounts == (50_000, 100_000, 200_000)
    assert found.knock_outs_of("tax")[0].above == 3
    assert found.n_steps == 3
    assert found.bits == 2
    assert decision(tell_measure=True).bits == math.log2(3 * 3 + 1)
    assert decision(tell_measure=True).told_measures == ("capacity", "risk", "bound")
    assert [found.name_of(step) for step in range(4)] == ["none", "50000", "100000", "200000"]


@pytest.mark.parametrize(
    ("totals", "knocked_out", "step"),
    [
        ({"risk": 600.5, "capacity": 1e6, "bank_cap": 1e6}, False, 3),
        ({"risk": 600.4, "capacity": 1e6, "bank_cap": 1e6}, False, 2),
        ({"risk": 999, "capacity": 99_999, "bank_cap": 1e6}, False, 0),
        ({"risk": 999, "capacity": 1e6, "bank_cap": 100_000}, False, 2),
        ({"risk": 999, "capacity": 1e6, "bank_cap": math.nan}, False, 0),
        ({"risk": 999, "capacity": 1e6, "bank_cap": 1e6}, True, 0),
    ],
)
def test_the_step_is_the_least(totals, knocked_out, step):
    found = decision()
    assert found.step_of(found.index_in(totals, knocked_out=knocked_out)) == step


@pytest.mark.parametrize(("total", "level"), [(600, 0), (599.99, 1), (560, 1), (559, 2)])
def test_levels_of_a_watch_rise_as_totals_fall(total, level):
    found = decision(ALARM)
    assert found.step_of(found.index_in({"risk": total})) == level
    assert found.cutoffs_of("risk") == (560, 600)
    assert found.step_of(found.index_in({"risk": 700}, knocked_out=True)) == 2
    assert found.bits == math.log2(math.comb(14, 2))


def test_limits_are_the_least_units_that_reach_a_cut_off():
    found = decision()
    assert found.limits("risk", 100.0) == (56_000, 58_000, 60_050)
    assert found.limits("capacity", 0.001) == (100, 200, 400)
    assert decision(ALARM).limits("risk", 1.0) == (560, 600)
    assert found.limits("risk", 1.0) == (560, 580, 601)  # a total of 600 points does not reach 600.5
    with pytest.raises(ConfigError, match="100000 is 10000000 units of its model and totals have at most 8388607"):
        found.limits("capacity", 100.0)
    with pytest.raises(ConfigError, match=r"risk: cut-offs 560 and 580 are one unit of its model"):
        found.limits("risk", 0.01)


def test_one_meaning_has_one_hash():
    found = decision()
    assert decision(steps=[5e4, 100_000.0, 200_000]).sha256 == found.sha256
    assert parse_decision(yaml.safe_dump(LIMITS).replace("- 50000", "- 5e4")).sha256 == found.sha256
    assert parse_decision(found.canonical().decode()).sha256 == found.sha256
    assert decision(knock_outs=[]).sha256 != found.sha256
    other = {**LIMITS["measures"], "risk": {"model": "joint-best", "cutoffs": [560, 580, 601]}}
    assert decision(measures=other) != found


@pytest.mark.parametrize(("value", "out"), [(4.0, True), (3.0, False), (math.nan, False), (None, False), ("x", False)])
def test_a_knock_out_above(value, out):
    assert decision().knock_outs[1].holds(value) is out


def test_a_knock_out_by_level_and_up_to():
    assert decision().knock_outs[0].holds("listed")
    assert not decision().knock_outs[0].holds(None)
    up_to = decision(knock_outs=[{"party": "tax", "column": "years", "up_to": 1}]).knock_outs[0]
    assert [up_to.holds(value) for value in (1.0, 1.5, math.nan)] == [True, False, False]


RISK = LIMITS["measures"]["risk"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"measures": {"risk": {**RISK, "cutoffs": [560, 560, 600]}}}, "risk: cut-offs are not ascending: 560 comes"),
        ({"measures": {"risk": {**RISK, "cutoffs": [560, 600]}}}, "risk: 2 cut-offs for 3 steps"),
        ({"measures": {"risk": {**RISK, "cutoffs": [560, 600, math.nan]}}}, "number of at most"),
        ({"measures": {"risk": {**RISK, "cutoffs": [560, 600, True]}}}, "not a number"),
        ({"measures": {"risk": {"model": "joint-best"}}}, "has no cut-offs"),
        ({"measures": {"risk": {**RISK, "column": "room"}}}, "name one of the two"),
        ({"measures": {"knock_outs": RISK}}, "'knock_outs' is reserved"),
        ({"measures": {f"m{k}": RISK for k in range(9)}}, "9 measures are too many"),
        ({"measures": {}}, "name a measure"),
        ({"steps": [100, 50, 200]}, "steps: out of order: 50 comes after 100"),
        ({"steps": [50, 50, 200]}, "steps: 50 stands twice"),
        ({"steps": list(range(64))}, "64 are too many: at most 31, or 63 by policy"),
        ({"steps": ["a", "b", 3]}, "words or numbers, not both"),
        ({"steps": ["a", "none", "c"]}, "'none' is no name for a step"),
        ({"steps": ["a", True, "c"]}, "YAML reads this step as true; quote"),
        ({"steps": ["a", "b", "c"]}, "bank_cap: needs cut-offs, because the steps are words"),
        ({"steps": [1, 2, 1e13]}, "an amount is at most"),
        ({"purpose": "credit"}, "purpose: "),
        ({"purpose": "watch"}, "go together"),
        ({"watch": True, "purpose": "watch"}, "levels of a watch are no amounts"),
        ({"watch": True, "purpose": "watch", "measures": {"risk": RISK}}, "cut-offs are not descending"),
        ({"knock_outs": [{"party": "tax", "column": "x"}]}, "needs one of is, above and up_to"),
        ({"knock_outs": [{"party": "tax", "column": "x", "is": ["a"], "above": 1}]}, "needs one of"),
        ({"knock_outs": [{"party": "tax", "column": "x", "below": 1}]}, "unknown key 'below'"),
        ({"knock_outs": [{"party": "tax", "column": "x", "above": 1}] * 2}, "tax.x stands twice"),
        ({"knock_outs": [{"party": "tax", "column": "x", "is": ["a", "a"]}]}, "names a level twice"),
        ({"measures": {"risk": RISK}, "tell_measure": True}, "tells nothing"),
        ({"cutoff": 1}, "unknown key 'cutoff'"),
    ],
)
def test_refusals_say_what(changes, says):
    with pytest.raises(ConfigError) as refusal:
        decision(**changes)
    assert says in str(refusal.value)
    assert refusal.value.message.startswith("decision.yaml: ")


def test_the_examples_are_jobs_and_go_together():
    examples = Path(__file__).parents[1] / "examples"
    limit, capacity = load_job(examples / "decision.yaml"), load_job(examples / "capacity.yaml")
    assert set(limit.of(FileDecision).decision.models.values()) == {"joint-scorecard", capacity.name}
    assert limit.parties == capacity.parties
    assert capacity.of(WriteModel).extremes[1] * 1000 > limit.of(FileDecision).decision.amounts[-1]


def test_a_watch_tells_levels_alone():
    two = {**ALARM["measures"], "flow": {"model": "flow", "cutoffs": [2, 1]}}
    with pytest.raises(ConfigError, match="a watch tells levels alone"):
        decision(ALARM, measures=two, tell_measure=True)


def test_knock_outs_alone_admit_or_not():
    admission = decision(steps=["admitted"], measures={})
    assert admission.index_in({}) == 1
    assert admission.index_in({}, knocked_out=True) == 0
    with pytest.raises(ConfigError, match="one step"):
        decision(measures={})


def test_the_job_that_files_it():
    job = parse_job(yaml.safe_dump(job_of()))
    assert job.steps == ("file",)
    assert job.of(FileDecision).decision == decision()
    assert parse_job(job.canonical().decode()).sha256 == job.sha256
    assert json.loads(job.canonical())["parameters"]["decision"]["knock_outs"][0]["is"] == ["listed"]
    assert parse_decision(yaml.safe_dump(job_of())) == decision()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"holders": ["tax"], "datasets": {"bank": "firms", "tax": "filings"}}, "'court' is no party of the job"),
        ({"name": "other"}, "name: 'other' is not 'proactive-limit'"),
        ({"purpose": "renewal"}, "purpose: 'renewal' is not 'proactive'"),
    ],
)
def test_a_job_that_does_not_fit_its_decision(changes, says):
    with pytest.raises(ConfigError, match=says):
        parse_job(yaml.safe_dump(job_of(**changes)))


@few
@given(st.sampled_from([*LIMITS, "watch", "tell_measure"]) | _YAML, _YAML)
@example("steps", "[1e400, .nan]")
@example("measures", "{a: {column: b, cutoffs: [.inf]}}")
@example("knock_outs", "[{party: a, column: b, above: 0xfffffffffffffffffffffffffffffffffffffffffff}]")
def test_any_text_is_a_decision_or_refused(key, value):
    text = yaml.safe_dump({k: v for k, v in LIMITS.items() if k != key}) + f"{key}: {value}\n"
    with contextlib.suppress(VeilscoreError):
        assert isinstance(parse_decision(text), DecisionModel)


_NUMBERS = st.integers(-(10**13), 10**13) | st.floats(allow_nan=True) | st.booleans() | st.text(max_size=3)


@few
@given(steps=st.lists(_NUMBERS, max_size=4), cutoffs=st.lists(_NUMBERS, max_size=4))
def test_what_is_accepted_is_in_order(steps, cutoffs):
    try:
        measures = {"risk": {"model": "m", "cutoffs": cutoffs}}
        found = parse(DecisionModel, {**LIMITS, "steps": steps, "measures": measures}, "decision")
    except VeilscoreError:
        return
    assert len(found.cutoffs_of("risk")) == len(found.steps)
    assert list(found.amounts) == sorted(found.amounts)
    assert parse_decision(found.canonical().decode()).sha256 == found.sha256


def test_a_knock_out_of_the_bank_alone_has_a_name_where_measures_are_told():
    """Its bound is numbered after the measures, also where no column of the bank's gives one a name."""
    told = parse(DecisionModel, {**LIMITS, "tell_measure": True}, "decision")
    names = told.told_measures
    assert [told.name_told(which) for which in range(len(names))] == list(names)
    assert told.name_told(len(names)) == names[0]
