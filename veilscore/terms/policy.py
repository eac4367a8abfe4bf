"""A node has one policy, and every path on which something is asked of the node goes through it.

A job, a step of one, a score, a band or a run of code becomes a `Request`, and `NodePolicy.allows` raises
`RefusedError` with the reason that the asker may learn. What only one task knows (which options tell more) comes with
the request as rules, from the records of the task's steps. Bounds that need the data (overlap, bin sizes, what was
released before) are checked by the step that has it.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from veilscore.errors import RefusedError
from veilscore.terms.decision import DecisionModel
from veilscore.terms.job import known_tasks
from veilscore.terms.parameters import PARAMETERS, ColumnName, Name, Output
from veilscore.terms.privacy import Disclosure, PrivacyRules, best_guess
from veilscore.terms.rules import PublicKeyHex, ReleaseRules, StandingRule, in_period
from veilscore.terms.settings import Strict

_NUMBERED = re.compile(r"\.c[0-9]+$|#")  # as columns without a name, and parts of a column, are called
Partner = Literal["trusted", "standard", "strict"]
SCORE_ONLINE, SANDBOX = "score_online", "sandbox"  # what is asked of a node besides jobs


@dataclass(frozen=True, kw_only=True)
class Request:
    """Says what is asked of a node, whatever the path.

    bank, purpose : None where the act has none, never because somebody left it out.
    task : of a job, or "score_online" or "sandbox".
    disclosure, mu : of a job that opens sums over rows; mu is what a private one may spend.
    opens : what the bank gets of single firms, "" if nothing; "exact" where a score is not in steps.
    to_get_bands : tells it how to ask for bands instead.
    rules : each raises RefusedError where the policy does not allow what the parameters ask for.
    """

    bank: str | None
    purpose: str | None
    task: str
    dataset: str = ""
    opens: Output | Literal[""] = ""
    to_get_bands: str = ""
    disclosure: Disclosure | Literal[""] = ""
    mu: float = 0.0
    rules: tuple[Callable[[NodePolicy], object], ...] = ()


PARTNERS: Mapping[str, Mapping[str, Any]] = {  # keys that a preset sets where the policy does not
    "trusted": {
        "publish_column_names": True,
        "publish_screening": True,
        "allow_order": True,
        "allow_standard_errors": True,
        "fold_scores": "allow",
    },
    "standard": {},
    "strict": {
        "publish_screening": False,
        "tell_split_columns": False,
        "min_bin_count": 20,
        "privacy": {"job": 0.3, "year": 0.6},
        "release": {"output": "band"},
    },
}


class NodePolicy(Strict):
    """Says in which jobs a node takes part and what it lets others learn."""

    partner: Partner = Field(
        default="standard",
        description="sets keys together, of which those that stand beside it win; trusted: names and order of columns, "
        "standard errors and scores of folds are told; strict: bands alone, mu 0.3 a job, less of columns; no preset "
        "allows exact sums (exact_for)",
    )

    accept: Literal["auto", "manual"] = Field(
        default="manual", description="manual: a person decides on what no agreement covers"
    )
    purposes: tuple[str, ...] = Field(default=(), description="allowed purposes, word for word; empty: any")
    tasks: tuple[str, ...] = Field(default_factory=known_tasks, description="allowed tasks")
    banks: tuple[Name, ...] = Field(default=(), description="banks it works for; empty: any of the federation")
    min_overlap: int = Field(default=30, ge=1, description="with fewer firms in the bank's job it refuses to go on")
    min_bin_count: int = Field(default=5, ge=1, description="fewest training rows in a bin whose counts it shows")
    max_set_size: int = Field(default=2_000_000, ge=1, description="most rows of the bank's job or its own set")
    max_shards: int = Field(
        default=8, ge=1, description="most shards of a batch, each of which takes a worker here while it is scored"
    )
    publish_column_names: bool = Field(default=False, description="false: the bank sees c1, c2, ...")
    display_names: dict[ColumnName, ColumnName] = Field(
        default_factory=dict,
        description="column: what the bank sees in place of c1 where names are not published, such as what it measures",
    )
    publish_screening: bool = Field(
        default=True, description="tell missing rate, population stability and associated pairs of columns"
    )
    allow_order: bool = Field(default=False, description="tell the order of bins, which monotone WOE needs")
    tell_split_columns: bool = Field(
        default=True, description="tell the bank which anonymous column a split of this node uses"
    )
    holdout_scores: Literal["allow", "refuse"] = Field(
        default="allow", description="whether the bank may get scores of hold-out rows"
    )
    fold_scores: Literal["allow", "refuse"] = Field(
        default="refuse", description="whether the bank may get out-of-fold scores of training rows"
    )
    allow_standard_errors: bool = Field(
        default=False, description="allow standard errors of coefficients, by further openings"
    )
    disclose_unknown: bool = Field(default=False, description="tell the bank which of its firms are unknown here")
    publish_bins: tuple[ColumnName, ...] = Field(
        default=(),
        description="columns whose bins (edges or levels, no counts) a bank may learn, to write points and knock-outs "
        "for them",
    )
    report_fields: tuple[ColumnName, ...] = Field(
        default=(),
        description="fields of a credit report's section (`veilscore section fields`) that it tells of a firm whose "
        "consent lists them; all: every one; empty: it writes no sections",
    )
    tell_measure: bool = Field(
        default=False, description="let decisions tell the bank which measure decided, beside the step"
    )
    retired_models: tuple[Name, ...] = Field(
        default=(), description="models and decisions of which it answers no version any more"
    )
    reason_columns: tuple[ColumnName, ...] = Field(default=(), description="columns that reason codes may name")
    online_scoring: bool = Field(default=True, description="answer online scores of single firms")
    online_without_others: bool = Field(
        default=False, description="open its part of an online score although other holders are missing"
    )
    valid_from: dt.date | None = Field(default=None, description="before this day it takes part in nothing new")
    valid_to: dt.date | None = Field(default=None, description="after this day it takes part in nothing new")
    agreements: tuple[StandingRule, ...] = Field(default=(), description="with accept: manual, what needs no person")
    consent: Literal["required", "off"] = Field(
        default="required", description="required: a firm consents before it is scored"
    )
    consent_issuers: dict[Name, PublicKeyHex] = Field(
        default_factory=dict, description="Ed25519 key of each issuer of consents"
    )
    issuer_banks: dict[Name, tuple[Name, ...]] = Field(
        default_factory=dict,
        description="issuer: banks for whose scores its consents, withdrawals and objections count; one that is not "
        "named speaks for firms of every bank",
    )
    release: ReleaseRules = Field(default=ReleaseRules(), description="what it lets out through scores")
    privacy: PrivacyRules = Field(default=PrivacyRules(), description="what private jobs may tell of a firm, as mu")
    exact_for: dict[Name, dt.date] = Field(
        default_factory=dict,
        description="bank: last day on which its jobs and its firms' scores may be exact, which ends the promise",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        """Fill in what the preset sets and the policy does not, one level deep."""
        preset = PARTNERS.get(str(data.get("partner", "standard")), {}) if isinstance(data, dict) else {}
        if not preset:
            return data
        deep = {
            name: {**value, **data[name]}
            for name, value in preset.items()
            if isinstance(value, dict) and isinstance(data.get(name), dict)
        }
        return {**preset, **data, **deep}

    @property
    def told_names(self) -> bool | dict[ColumnName, ColumnName]:
        """Return what is told of the names of columns: True if all are, else the display names of some."""
        return self.publish_column_names or self.display_names

    @model_validator(mode="after")
    def _known_issuers(self) -> Self:
        if unknown := self.issuer_banks.keys() - self.consent_issuers.keys():
            raise ValueError(f"issuer_banks names {min(unknown)!r}, which is not among consent_issuers")
        if empty := [name for name, banks in self.issuer_banks.items() if not banks]:
            raise ValueError(f"issuer_banks names no bank for {min(empty)!r}; leave it out to let it speak for all")
        return self

    @field_validator("display_names")
    @classmethod
    def _distinct_names(cls, value: dict[ColumnName, ColumnName]) -> dict[ColumnName, ColumnName]:
        if len(set(value.values())) != len(value):
            raise ValueError("two columns have the same display name")
        if wrong := [name for name in value.values() if _NUMBERED.search(name)]:
            raise ValueError(f"{wrong[0]!r} reads like the number of another column")
        return value

    @field_validator("consent", mode="before")
    @classmethod
    def _yaml_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare off as false

    def allows(self, request: Request, node: str, today: dt.date | None = None) -> None:
        """Refuse what this policy does not allow, whatever the path, with the first reason as RefusedError.

        node : name of the node whose policy this is; today : the day that counts, now by default.
        """
        for holds, reason in (
            (
                in_period(self.valid_from, self.valid_to, today or utc_today()),
                f"the policy of {node} is not valid today",
            ),
            (
                not self.banks or request.bank is None or request.bank in self.banks,
                f"{node} does not work for {(request.bank or '')[:60]}",
            ),
            (
                not self.purposes or request.purpose is None or request.purpose in self.purposes,
                f"purpose {(request.purpose or '')[:60]!r} is not among the purposes {node} allows",
            ),
            (request.task != SCORE_ONLINE or self.online_scoring, f"{node} does not allow online scoring"),
            (
                request.task not in PARAMETERS or request.task in self.tasks,
                f"{node} does not allow task {request.task}",
            ),
            (
                request.disclosure != "private" or request.mu <= self.privacy.job * (1 + 1e-9),
                f"{node} lets a job spend mu {self.privacy.job:g} and this one asks for {request.mu:g}; lower mu",
            ),
            (
                request.disclosure != "exact" or self._exact_until(request.bank) >= (today or utc_today()),
                f"{node} refuses exact sums to {(request.bank or '')[:60]}: set disclosure: private (or exact_for)",
            ),
            (
                request.opens not in {"score", "exact"} or not self.release.bands_only,
                f"{node} releases bands only; {request.to_get_bands}",
            ),
            (
                request.opens != "exact" or self._exact_until(request.bank) >= (today or utc_today()),
                f"{node} refuses exact scores to {(request.bank or '')[:60]}: ask for steps (output: score)",
            ),
        ):
            if not holds:
                raise RefusedError(reason, party=node)
        for rule in request.rules:
            try:
                rule(self)
            except RefusedError as refusal:
                raise RefusedError(f"{node}: {refusal.message}", party=node) from None

    def promises_less(self, bank: str = "", today: dt.date | None = None) -> tuple[str, ...]:
        """Return, in words, what this policy promises a firm less than the default does; bank "" stands for all."""
        usual, less = PrivacyRules(), []
        for name, what in (("job", "one job"), ("year", "a year of jobs")):
            limit, least = getattr(self.privacy, name), getattr(usual, name)
            if limit > least:
                guess, before = best_guess(limit), best_guess(least)
                less.append(
                    f"{what} may spend mu {limit:g}, a guess right {guess:.0%} of the time "
                    f"(default {least:g}: {before:.0%})"
                )
        for name, until in sorted(self.exact_for.items()):
            if bank in {"", name} and until >= (today or utc_today()):
                less.append(f"jobs of {name} may be exact until {until.isoformat()}, without any bound")
        return tuple(less)

    def _exact_until(self, bank: str | None) -> dt.date:
        return self.exact_for.get(bank or "", dt.date.min)

    def needs_no_person(self, request: Request, today: dt.date | None = None) -> str:
        """Return why an allowed request needs nobody's approval at the node, or "" if a person has to approve it."""
        if self.accept == "auto":
            return "accepted by policy"
        for number, rule in enumerate(self.agreements, start=1):
            if rule.covers(
                request.bank or "", request.purpose or "", request.task, request.dataset, today or utc_today()
            ):
                return f"accepted by agreement {number} of the policy"
        return ""


def refuse_to_tell_who_is_known(policy: NodePolicy, on_missing: str) -> None:
    """Refuse `on_missing: fail`, which tells the firms that are unknown, unless the policy does."""
    if on_missing == "fail" and not policy.disclose_unknown:
        raise RefusedError("does not say which firms it knows; set on_missing: missing_code")


def refuse_untold(policy: NodePolicy, decision: DecisionModel) -> None:
    """Refuse a decision that tells more than the policy lets one tell, is retired, or applies a retired model."""
    policy.release.allow_values(decision.outcomes)
    if decision.name in policy.retired_models:
        raise RefusedError(f"decision {decision.name!r} is retired here (retired_models): file another one")
    refuse_retired(policy, decision.models)
    if decision.tell_measure and not policy.tell_measure:
        raise RefusedError("does not let decisions tell which measure decided; set tell_measure: false")


def refuse_retired(policy: NodePolicy, models: Mapping[str, str]) -> None:
    """Refuse models that the policy retired; `models` by the measure that has them, "" without any."""
    for measure, model in models.items():
        if model in policy.retired_models:
            where = f"measure {measure}: " if measure else ""
            raise RefusedError(f"{where}model {model!r} is retired here (retired_models): take or train another one")


def refuse_shards(policy: NodePolicy, shards: int) -> None:
    """Refuse a batch in more shards than this party has workers for."""
    if shards > policy.max_shards:
        raise RefusedError(f"takes at most {policy.max_shards} shards of a batch (max_shards), the job has {shards}")


def utc_today() -> dt.date:
    """Return the day by which policies count."""
    return dt.datetime.now(dt.UTC).date()
