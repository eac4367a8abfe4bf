"""Every rule of a node's policy on every path: what one path refuses, no other gives away."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from types import SimpleNamespace

import pytest
import yaml
from pydantic import ValidationError
from sandbox_home import make_homes, write_code

from veilscore.data.codes import told_name
from veilscore.errors import VeilscoreError
from veilscore.keys.identity import load_identity
from veilscore.node.node import Node
from veilscore.online.holder import OnlineHolder
from veilscore.release.gate import Token
from veilscore.release.ledger import ONLINE as ONLINE_RELEASE
from veilscore.release.ledger import Release
from veilscore.release.single import Passed
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.submission import make_submission
from veilscore.tasks.table import answer_to
from veilscore.terms.bands import Bands
from veilscore.terms.job import new_job_id, parse_job
from veilscore.terms.policy import NodePolicy, utc_today
from veilscore.v1 import control_pb2 as pb

DAY = dt.timedelta(days=1)
BANK = SimpleNamespace(name="bank", role="bank")
JOBS = {
    "exact job": ("train_boosting", {"disclosure": "exact"}),
    "private trees": ("train_boosting", {}),
    "private job": ("train_scorecard", {"disclosure": "private", "holdout_scores": False}),
    "batch": ("score_batch", {"model": "card", "on_missing": "missing_code"}),
    "exact batch": ("score_batch", {"model": "card", "on_missing": "missing_code", "output": "exact"}),
    "batch of bands": ("score_batch", {"model": "card", "on_missing": "missing_code", "output": "band"}),
}
RECORD = {"request_id": "r", "firm_id": "F00001", "purpose": "credit", "on_missing": "missing_code"}
RECORD |= {"model_hash": b"m" * 32, "map_hash": b"c" * 32}
ONLINE = {
    "score": pb.EncryptRecord(**RECORD, step_limits=[1], bands_hash=Bands.steps([1]).sha256),
    "exact score": pb.EncryptRecord(**RECORD),
    "band": pb.EncryptRecord(**RECORD, bands_hash=b"b" * 32),
    "spare": pb.PrepareSpare(spare_id="s", map_hash=b"c" * 32, commitment=b"d" * 32),
    "pool": pb.MakePool(pool_id="p", commitment=b"d" * 32),
    "more of a pool": pb.ExtendPool(pool_id="p"),
}
STEPS = tuple(f"step of a {name}" for name in JOBS)
PATHS = (*JOBS, *STEPS, *ONLINE, "opening", "sandbox")
FOR_JOBS = {*JOBS, *STEPS}
WITH_PURPOSE = FOR_JOBS | {"score", "exact score", "band", "sandbox"}
# field of the policy -> what it is set to, what the refusal says, the paths that it closes
RULES = {
    "valid_from": (str(utc_today() + 2 * DAY), "is not valid today", {*PATHS}),
    "valid_to": (str(utc_today() - 2 * DAY), "is not valid today", {*PATHS}),
    "banks": (["other"], "does not work for bank", {*PATHS}),
    "purposes": (["marketing"], "is not among the purposes", WITH_PURPOSE),
    "tasks": (["screen_features"], "does not allow task", FOR_JOBS),
    "online_scoring": (False, "does not allow online scoring", {*ONLINE, "opening"}),
    "exact_for": ({"other": "9999-12-31"}, "refuses exact s", {p for p in PATHS if "exact" in p}),
    "privacy": ({"job": 0.3, "year": 1.0}, "lets a job spend mu 0.3", {p for p in FOR_JOBS if "private" in p}),
    "release": (
        {"output": "band"},
        "bands only",
        {*(p for p in PATHS if "exact" in p), "batch", "step of a batch", "score", "opening"},
    ),
    "holdout_scores": ("refuse", "hold-out", {"exact job", "step of a exact job"}),
    "retired_models": (["card"], "is retired here", {p for p in FOR_JOBS if "batch" in p}),  # online, with the data
    "max_shards": (1, "at most 1 shards", set()),  # below: a batch has one shard unless it says so
    "disclose_unknown": (False, "which firms it knows", set()),  # below: it depends on what the bank asks for
}
# what a step asks of the policy once it has the data or the decision, and what says who decides
WITH_DATA = {
    "min_overlap", "min_bin_count", "max_set_size", "publish_column_names", "display_names", "publish_screening",
    "allow_order",
    "tell_split_columns", "fold_scores",
    "allow_standard_errors", "reason_columns", "online_without_others", "consent", "consent_issuers",
    "issuer_banks",
    "publish_bins", "tell_measure", "report_fields",
}  # fmt: skip
DECIDES = {"accept", "agreements", "partner"}


def test_a_preset_sets_what_the_policy_does_not():
    strict = NodePolicy.model_validate({"partner": "strict", "release": {"min_batch": 50}, "min_bin_count": 7})
    assert (strict.release.output, strict.release.min_batch) == ("band", 50)
    assert (strict.min_bin_count, strict.privacy.job, strict.publish_screening) == (7, 0.3, False)
    trusted = NodePolicy.model_validate({"partner": "trusted", "allow_standard_errors": False})
    assert trusted.allow_order
    assert not trusted.allow_standard_errors
    assert not trusted.promises_less()  # of firms it tells no more than the default does
    assert NodePolicy(partner="standard") == NodePolicy()
    assert NodePolicy.model_validate(strict.model_dump()) == strict


def test_an_issuer_speaks_for_the_banks_that_the_policy_names():
    key = "0a" * 32
    policy = NodePolicy(consent_issuers={"portal": key}, issuer_banks={"portal": ("bank",)})
    assert policy.issuer_banks == {"portal": ("bank",)}
    for banks, why in (({"desk": ("bank",)}, "not among consent_issuers"), ({"portal": ()}, "names no bank")):
        with pytest.raises(ValidationError, match=why):
            NodePolicy(consent_issuers={"portal": key}, issuer_banks=banks)


def test_display_names_stand_for_columns_that_are_not_published():
    policy = NodePolicy(display_names={"t17": "income"})
    told = [told_name(name, number, "tax", policy.told_names) for number, name in enumerate(("t17", "t18"), start=1)]
    assert told == ["income", "tax.c2"]
    assert told_name("t17", 1, "tax", NodePolicy(publish_column_names=True).told_names) == "t17"
    assert told_name("t17", 1, "tax", NodePolicy().told_names) == "tax.c1"
    for names, why in (({"a": "x", "b": "x"}, "same display name"), ({"a": "tax.c3"}, "number of another column")):
        with pytest.raises(ValidationError, match=why):
            NodePolicy(display_names=names)


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    bank, tax = make_homes(folder)
    code = write_code(folder / "code", "print(1)\n", purpose="credit")
    return tax, make_submission(code, load_identity(bank / "identity"))


def job(name):
    task, parameters = JOBS[name]
    body = {"name": "card", "purpose": "credit", "task": task, "bank": "bank", "holders": ["tax"]}
    return parse_job(json.dumps({**body, "datasets": {"bank": "main", "tax": "main"}, "parameters": parameters}))


def set_policy(home, **changes):
    path = home / "node.yaml"
    content = yaml.safe_load(path.read_text())
    content["policy"] = {"accept": "auto", "consent": "off", "exact_for": {"bank": "9999-12-31"}, **changes}
    path.write_text(yaml.safe_dump(content))


class Asked:
    """A holder's node, opened and not started: what the policy lets pass fails where a bank would have to answer."""

    def __init__(self, home, submission):
        self.home, self.submission = home, submission
        self.node, self.handlers = Node(home), {}
        self.online = OnlineHolder(home, self.node.config, self.node.ledger)
        coordinator = SimpleNamespace(name="coordinator")
        federation = SimpleNamespace(coordinator=coordinator)
        self.online.register(SimpleNamespace(call=None, federation=federation, register=self.register))

    def register(self, kind, _roles, _form, handler):
        self.handlers[kind] = handler

    def on(self, path):
        """Ask on one path; what the error says, "" where there is none."""
        try:
            if path in JOBS:
                answer = answer_to(job(path), self.node.config)
                return answer.reason if answer.status == "refused" else ""
            if path in STEPS:
                asked = job(path.removeprefix("step of a "))
                job_id = new_job_id(asked)
                self.node.ledger.add(job_id, asked, "accepted", "agreed before, under another policy")
                self.node._may_run(job_id, "align")
            elif path in ONLINE:
                message = ONLINE[path]
                asyncio.run(self.handlers[type(message).__name__](message, BANK))
            elif path == "opening":  # of a record that was asked for before, under another policy
                guard = self.online._guard
                release = Release(ONLINE_RELEASE, "bank", "bank/r", "m", "c", guard._ledger.firms(["F00001"]))
                (refusal,) = guard.admit([Passed(release, Token(), 4)], lambda _: None)
                if refusal is not None:
                    raise refusal
            else:
                Desk(self.home).accept(self.submission)
        except VeilscoreError as error:
            return error.message
        return ""

    async def close(self):
        await self.online.close()
        await self.node.stop()


@pytest.fixture
def asked(homes):
    opened = []

    def make(**changes):
        set_policy(homes[0], **changes)
        opened.append(Asked(*homes))
        return opened[-1]

    yield make
    for one in opened:
        asyncio.run(one.close())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_holds_on_every_path(asked, rule):
    value, words, closed = RULES[rule]
    holder = asked(**{rule: value})
    said = {path: holder.on(path) for path in PATHS}
    assert {path for path, text in said.items() if words in text} == closed, said


def test_what_the_policy_allows_no_path_refuses(asked):
    holder = asked()
    said = " ".join(holder.on(path) for path in PATHS)
    assert not [words for _, words, _ in RULES.values() if words in said]


@pytest.mark.parametrize("path", ["batch", "step of a batch", "score", "band"])
def test_who_is_known_is_told_on_no_path(asked, path, monkeypatch):
    monkeypatch.setitem(JOBS, "batch", ("score_batch", {"model": "card", "on_missing": "fail"}))
    for kind in ("score", "band"):
        message = pb.EncryptRecord()
        message.CopyFrom(ONLINE[kind])
        message.on_missing = "fail"
        monkeypatch.setitem(ONLINE, kind, message)
    assert "does not say which firms it knows" in asked().on(path)


def test_every_field_of_the_policy_is_a_rule_here_or_asked_where_the_data_is():
    assert {*NodePolicy.model_fields} == {*RULES} | WITH_DATA | DECIDES
