"""Reads every key of the files that people write, with type, default, meaning and example, from their models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from veilscore.errors import ConfigError
from veilscore.features.catalogue import (
    Band,
    Catalogue,
    DerivedVariable,
    EventTable,
    FirmList,
    RiskGroup,
    TermGroup,
    VariableGroup,
)
from veilscore.keys.rotation import KeyStatement
from veilscore.terms.console import ConsoleConfig, OidcConfig
from veilscore.terms.decision import DecisionModel, KnockOut, Measure
from veilscore.terms.door import DoorConfig
from veilscore.terms.federation import Federation, Member
from veilscore.terms.job import Job, known_tasks
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.language_model import LanguageModelConfig
from veilscore.terms.node_config import AuditRules, DatasetConfig, EventSource, NodeConfig, NodeLimits
from veilscore.terms.parameters import PARAMETERS, AppliesDecision, AppliesModel, ChosenColumns, Parameters, Sampled
from veilscore.terms.policy import NodePolicy
from veilscore.terms.privacy import PrivacyRules
from veilscore.terms.reading import ReadingRules
from veilscore.terms.retention import RetentionRules
from veilscore.terms.rules import ReleaseRules, StandingRule
from veilscore.terms.traces import TraceConfig
from veilscore.terms.training import Training
from veilscore.terms.watching import LogConfig, MetricsConfig
from veilscore.terms.workers import WorkersConfig
from veilscore.terms.written import WrittenColumn

TITLES: dict[type[BaseModel], str] = {
    Job: "job file",
    Parameters: "parameters of every task",
    Sampled: "parameters of every task that bins columns",
    Training: "parameters of every training task",
    AppliesModel: "parameters of every task that applies what was filed",
    AppliesDecision: "parameters of every task that applies a filed decision",
    **{PARAMETERS[task]: f"parameters of {task}" for task in known_tasks()},
    ChosenColumns: "columns.PARTY of a job's parameters",
    WrittenColumn: "columns.PARTY.COLUMN of write_model",
    DecisionModel: "decision of file_decision",
    Measure: "measures.NAME of a decision",
    KnockOut: "an entry of knock_outs of a decision",
    NodePolicy: "policy in node.yaml",
    ReleaseRules: "policy.release",
    PrivacyRules: "policy.privacy",
    StandingRule: "an entry of policy.agreements",
    NodeConfig: "node.yaml",
    KeyConfig: "key in node.yaml",
    NodeLimits: "limits in node.yaml",
    AuditRules: "audit in node.yaml",
    RetentionRules: "retention in node.yaml",
    DoorConfig: "door in node.yaml",
    LanguageModelConfig: "language_model in node.yaml",
    TraceConfig: "traces in node.yaml",
    WorkersConfig: "workers in node.yaml",
    MetricsConfig: "metrics in node.yaml",
    LogConfig: "log in node.yaml",
    ConsoleConfig: "console in node.yaml",
    OidcConfig: "console.oidc in node.yaml",
    DatasetConfig: "datasets.NAME in node.yaml",
    ReadingRules: "how columns are read, in datasets.NAME",
    EventSource: "features in datasets.NAME",
    Catalogue: "a catalogue of variables",
    EventTable: "tables.NAME in a catalogue",
    Band: "bands.NAME of a table",
    VariableGroup: "an entry of variables in a catalogue",
    DerivedVariable: "an entry of derived in a catalogue",
    TermGroup: "an entry of terms in a catalogue",
    RiskGroup: "an entry of risks in a catalogue",
    FirmList: "firms in a catalogue",
    Federation: "federation.yaml",
    Member: "an entry of members in federation.yaml",
    KeyStatement: "an entry of statements in federation.yaml",
}
SUBJECTS: dict[str, tuple[type[BaseModel], ...]] = {
    "job": (Job, ChosenColumns, WrittenColumn, DecisionModel, Measure, KnockOut),
    "policy": (NodePolicy, PrivacyRules, ReleaseRules, StandingRule),
    "node": (
        NodeConfig,
        KeyConfig,
        NodeLimits,
        AuditRules,
        RetentionRules,
        DoorConfig,
        ConsoleConfig,
        OidcConfig,
        LanguageModelConfig,
        TraceConfig,
        WorkersConfig,
        MetricsConfig,
        LogConfig,
    ),
    "dataset": (DatasetConfig, ReadingRules, EventSource),
    "catalogue": (
        Catalogue,
        FirmList,
        EventTable,
        Band,
        VariableGroup,
        DerivedVariable,
        TermGroup,
        RiskGroup,
    ),
    "federation": (Federation, Member, KeyStatement),
}
_PATTERNS = {  # what a text has to look like, in words
    r"^[a-z][a-z0-9_-]{0,39}$": "name",
    r"^[a-z][a-z0-9_]{0,39}$": "name",
    r"^[a-z][a-z0-9_-]{0,39}(@[0-9a-f]{16})?$": "name or name@hash",
    r"^[A-Z_][A-Z0-9_]*$": "name of a variable",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^[a-z][a-z0-9_-]{0,39}-[0-9a-f]{8}-[0-9a-f]{16}$": "id of a job",
    r"^([0-9a-f]{2}){8,80}$": "hexadecimal digits",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_NO_BOUND = 1 << 47  # a limit from here on is the file format's, not the reader's
_KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "date": "date", "path": "path"}
# Examples of keys whose default shows nothing, or less than another choice; all others show their default.
_EXAMPLES: Mapping[str, Mapping[str, Any]] = yaml.safe_load("""
_: [&digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, &pem "-----BEGIN CERTIFICATE----- ..."]
Job: {name: joint-scorecard, purpose: credit scoring of small firms, task: train_scorecard, bank: bank,
  holders: [tax, registry], datasets: {bank: main, tax: main, registry: main}, parameters: {max_bin: 10}}
ChosenColumns: {include: [turnover, tax_paid], exclude: [remarks]}
Parameters: {rows: firm_dates, as_of: [2026-05-31, 2026-06-30]}
Sampled: {holdout_from: 2026-01-01, columns: {tax: {exclude: [remarks]}}, rows_per_firm: 12}
Training: {population_bad_rate: 0.03, bands: {A: 640, B: 600, C: 0}, holdout_output: band, calibrate: true,
  weights: true, columns_from: wide-screen, firm_weight: shared}
TrainScorecard: {monotone: true, standard_errors: true, sign: positive, max_correlation: 0.9, gradient_bits: 31,
  reuse: joint-scorecard}
TrainBoosting: {early_stopping_rounds: 10, monotone_constraints: {bank.turnover: -1, bank.sector: auto}}
TrainStack: {fold_scores: true, scorecard: {C: 0.5}, boosting: {n_estimators: 40}, own_scores: [bureau_score]}
SelectModel: {scorecard_grid: {C: [0.1, 1.0]}, boosting_grid: {max_depth: [3, 4]}, choose: stack,
  kinds: [scorecard, boosting, stack]}
ScoreBatch: {dates: all, model: joint-scorecard, on_missing: missing_code, output: band, bands: {A: 640, B: 600},
  model_sha256: *digest}
Decide: {outcomes: 8, watch: true, last: alarm-0a1b2c3d-0123456789abcdef}
AppliesDecision: {decision: proactive-limit, decision_sha256: *digest}
ScreenFeatures: {max_columns: 40}
MineRules: {segments: 4}
WriteModel: {unit: 1000, base: 50000, columns: {tax: {turnover: {edges: [1000000], points: [0, 100000]}}}}
WrittenColumn: {edges: [0, 2], points: [0, 500000, 2000000], levels: {biotech: 1000000, software: 500000}}
FileDecision: {decision: {name: limit, purpose: proactive, steps: [50000, 100000],
  measures: {risk: {model: joint-scorecard, cutoffs: [560, 600]}}}}
DecisionModel: {name: limit, purpose: proactive, steps: [50000, 100000], tell_measure: true, watch: true,
  measures: {risk: {model: joint-scorecard, cutoffs: [560, 600]}, bank_cap: {column: room}},
  knock_outs: [{party: tax, column: late_filings, above: 3}]}
Measure: {model: joint-scorecard, column: room, cutoffs: [560, 600]}
KnockOut: {party: tax, column: late_filings, is_: [listed], above: 3, up_to: 1}
NodePolicy: {purposes: [credit scoring of small firms], tasks: [train_scorecard, score_batch], banks: [bank],
  display_names: {turnover_2025: income}, reason_columns: [turnover],
  valid_from: 2026-01-01, valid_to: 2027-12-31, release: {output: band},
  publish_bins: [turnover, patents], report_fields: [tax.turnover, tax.late_share], retired_models: [first-scorecard],
  agreements: [{banks: [bank], tasks: [score_batch]}], consent_issuers: {portal: *digest},
  issuer_banks: {portal: [bank]},
  privacy: {job: 0.3}, exact_for: {bank: 2027-12-31}}
PrivacyRules: {job: 0.3, year: 0.9}
ReleaseRules: {models_per_firm: 3, evaluations_per_firm: 8}
StandingRule: {banks: [bank], purposes: [credit scoring of small firms], tasks: [score_batch], datasets: [main],
  valid_from: 2026-01-01, valid_to: 2027-12-31}
LanguageModelConfig: {url: https://models.internal/v1, model: qwen3-32b, key_env: MODEL_KEY}
WorkersConfig: {address: "10.0.0.7:6379"}
TraceConfig: {url: "https://collector.internal:4318/v1/traces", ca: /etc/tax/collector-ca.pem}
DoorConfig: {certificate: /etc/bank/door.pem, key: /etc/bank/door-key.pem, client_ca: /etc/bank/clients.pem,
  client_ca_names: {core-banking: [band, decide]}, refused: [*digest]}
ConsoleConfig: {proxies: [10.0.0.0/28],
  names: [console.tax.example], origin: "https://console.tax.example", certificate: /etc/tax/console.pem,
  key: /etc/tax/console-key.pem, client_ca: /etc/tax/people.pem, refused: [*digest],
  oidc: {issuer: "https://login.tax.example", client_id: veilscore, client_secret_env: OIDC_SECRET}}
OidcConfig: {issuer: "https://login.tax.example", client_id: veilscore, client_secret_env: OIDC_SECRET,
  ca: /etc/tax/login-ca.pem}
NodeConfig: {workers: {address: "10.0.0.7:6379"}, metrics: {port: 9464}, log: {to: stderr}, traces: {url: "https://collector.internal:4318/v1/traces"},
  console: {port: 7445, names: [console.tax.example]}, door: {port: 7443, names: [door.bank.example]},
  language_model: {url: https://models.internal/v1, model: qwen3-32b},
  name: tax, role: holder, listen: "10.0.0.5:7101", operators: [root], people: {anna: [modeller]},
  works_at: bank, key: {source: prompt}, state_url: postgresql+psycopg://veilscore@db/jobs,
  state_password_env: STATE_PASSWORD, datasets: {main: {path: firms.csv, id_column: uscc}},
  policy: {accept: manual}, limits: {max_jobs: 2}, audit: {days: 30}}
KeyConfig: {path: /run/credentials/passphrase, unwrap: [/usr/local/bin/unwrap], wrap: [/usr/local/bin/wrap],
  module: /usr/lib/softhsm/libsofthsm2.so, token: veilscore, label: node-key}
RetentionRules: {results_days: 1825, consents_days: 1095, backups: /mnt/backups/tax, backups_days: 35}
AuditRules: {steps: [train, score]}
DatasetConfig: {path: firms.parquet, url: postgresql+psycopg://reader@db/tax, password_env: DB_PASSWORD,
  table: firms, query: SELECT uscc FROM firms, id_column: uscc, label_column: default, weight_column: weight,
  date_column: observation_date, exclude: [remarks], account: invoices, id_columns: [uscc, as_of],
  features: {catalogue: tax, events: /data/events}}
EventSource: {catalogue: vat.yaml, events: /data/events, url: postgresql+psycopg://reader@db/events,
  password_env: DB_PASSWORD}
Catalogue: {name: vat, firms: {source: firms.csv, firm: uscc}, tables: {invoices: {source: invoices.parquet,
  firm: seller, time: issued_on, known: reported_on}},
  variables: [{table: invoices, of: amount, windows: [365d], aggregate: [sum]}],
  derived: [{name: "void_share.{window}", ratio: ["invoices.count.{window}[status=void]", "invoices.count.{window}"],
  windows: [365d]}], terms: [{table: cases, of: text, windows: [730d]}],
  risks: [{table: cases, of: text, windows: [730d]}]}
FirmList: {source: firms.csv, firm: uscc}
EventTable: {source: invoices.parquet, firm: seller, time: issued_on, known: reported_on, known_after: 15d,
  key: [invoice_no], planned: [due_on], numbers: [amount, tax], categories: {status: [valid, void, red]},
  bands: {size: {of: amount, edges: [10000, 100000]}}, parties: [buyer], texts: [remark]}
Band: {of: amount, edges: [10000, 100000]}
VariableGroup: {table: invoices, of: [amount, tax], where: {side: [out, in], status: valid}, windows: [90d, 365d, all],
  aggregate: [sum, count, distinct(buyer)]}
DerivedVariable: {name: "void_share.{window}",
  ratio: ["invoices.count.{window}[status=void]", "invoices.count.{window}"],
  difference: ["invoices.amount.sum.{window}[side=out]", "invoices.amount.sum.{window}[side=in]"], windows: [90d, 365d]}
TermGroup: {table: cases, of: text, windows: [730d], words: [guarantee, 担保]}
RiskGroup: {table: cases, of: text, windows: [730d], lexicon: {strike: [strike, 罢工]}, aggregate: [any, count]}
ReadingRules: {kinds: {turnover: number, remarks: text}, missing: {"*": ["-"], turnover: [-1]},
  special: {turnover: [-999]}, formats: {opened: "%d/%m/%Y"}, zone: Asia/Shanghai, encoding: gb18030, sheet: firms}
Federation: {name: trial, members: [{name: tax, role: holder, address: "tax.example.org:7101"}],
  statements: [{kind: rotate, member: tax}], signatures: {tax: 30450221009f86d081}}
Member: {name: tax, role: holder, address: "tax.example.org:7101", fingerprint: *digest, certificate: *pem}
KeyStatement: {kind: rotate, federation: trial, member: tax, fingerprint: *digest, certificate: *pem,
  date_ms: 1790000000000, address: "tax.example.net:7101", by: tax, signer: *digest, recovery_key: *pem,
  successor_signature: 30450221009f86d081}
""")


@dataclass(frozen=True)
class Key:
    """Describes one key as a reader needs it, all as text."""

    name: str
    type: str
    default: str
    meaning: str
    example: str


@dataclass(frozen=True)
class Section:
    """Describes the keys of one mapping in a file."""

    title: str
    about: str
    keys: tuple[Key, ...]


def sections(subject: str, task: str | None = None) -> list[Section]:
    """Return the sections of a subject, or of one task's parameters; a key that a task sets anew stands once.

    Raises ConfigError where there is no such task.
    """
    if task is None:
        return [_section(model) for model in SUBJECTS[subject]]
    if subject != "job" or task not in PARAMETERS:
        raise ConfigError(f"{subject} {task}: only job is followed by another word, a task: {', '.join(known_tasks())}")
    shown: set[str] = set()
    found = []
    for model in _lineage(task):
        section = _section(model, shown)
        shown |= {key.name for key in section.keys}
        found.append(section)
    return found


def _lineage(task: str) -> list[type[BaseModel]]:
    """Return the model of a task's parameters and those from which it inherits keys."""
    return [model for model in PARAMETERS[task].__mro__ if model in TITLES]


def everything() -> Iterator[tuple[str, list[Section]]]:
    """Yield each subject with all its sections; what tasks share stands once."""
    for subject, models in SUBJECTS.items():
        every = [*models]
        if subject == "job":
            shared = (Parameters, Sampled, Training, AppliesModel, AppliesDecision)
            every[1:1] = dict.fromkeys((*shared, *(model for task in known_tasks() for model in _lineage(task))))
        yield subject, [_section(model) for model in every]


def _section(model: type[BaseModel], hidden: set[str] | frozenset[str] = frozenset()) -> Section:
    about = " ".join((inspect.getdoc(model) or "").split("\n\n", maxsplit=1)[0].split())
    own = [name for name in inspect.get_annotations(model) if name in model.model_fields and name not in hidden]
    forms = model.model_json_schema(by_alias=False)["properties"]
    return Section(TITLES[model], about, tuple(_key(model, name, forms[name]) for name in own))


def _key(model: type[BaseModel], name: str, form: Mapping[str, Any]) -> Key:
    field = model.model_fields[name]
    value = form.get("default", {})
    if field.is_required():
        default = "required"
    elif "$ref" in form:
        default = "per key"
    elif field.default_factory is not None and "default" not in form:
        value = list(field.get_default(call_default_factory=True, validated_data={}))
        default = "all" if value == list(known_tasks()) else _yaml(value) if value else "{}"
    else:
        default = "all" if value and value == form.get("items", {}).get("enum") else _yaml(value)
    found = (_EXAMPLES[c.__name__][name] for c in model.__mro__ if name in _EXAMPLES.get(c.__name__, {}))
    typed = field.alias or name
    return Key(typed, _type(form), default, field.description or "", f"{typed}: {_yaml(next(found, value))}")


def _type(form: Mapping[str, Any]) -> str:
    """Return a JSON schema in words."""
    if "$ref" in form:
        return f"mapping (see {TITLES[_model(form['$ref'])]})"
    if "anyOf" in form:
        kinds = [_type(one) for one in form["anyOf"] if one != {"type": "null"}]
        several = "mapping (see the parameters of the task)" if "$ref" in str(form) else " or ".join(kinds)
        return f"{kinds[0]}, or null" if len(kinds) == 1 else several
    if "enum" in form or "const" in form:
        choices = [str(choice) for choice in form.get("enum", [form.get("const")])]
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    kind = form.get("type", "value")
    if kind == "array":
        several = f"{len(form['prefixItems'])} of " if "prefixItems" in form else ""
        return f"list of {several}{_type(form['prefixItems'][0] if several else form['items'])}"
    if kind == "object":
        values = [one for one in (*form.get("patternProperties", {}).values(), form.get("additionalProperties")) if one]
        return f"for each name: {_type(values[0] if isinstance(values[0], dict) else {})}"
    if kind == "string":
        kind = _PATTERNS.get(form.get("pattern", ""), "text")
    limits = {name: form[name] for name in _BOUNDS if abs(form.get(name, _NO_BOUND)) < _NO_BOUND}
    if limits.keys() == {"minimum", "maximum"}:
        words = f"{limits['minimum']:.10g} to {limits['maximum']:.10g}"
    else:
        words = " and ".join(f"{_BOUNDS[name]} {limit:.10g}" for name, limit in limits.items())
    return ", ".join(filter(None, [_KINDS.get(form.get("format", kind), kind), words]))


def _model(reference: str) -> type[BaseModel]:
    name = reference.rsplit("/", maxsplit=1)[-1]
    return next(model for model in TITLES if model.__name__ == name)


def _yaml(value: object) -> str:
    """Return a value as one types it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
