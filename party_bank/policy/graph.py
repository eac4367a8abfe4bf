"""A lending policy: a decision graph in JDM, the JSON form of zen-engine and of its public editor, and its decisions.

The schema of the input node says what the graph is asked, that of the output node what it must answer; the engine holds
both at every decision. The graph is known by the SHA-256 of its canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from veilscore.errors import ConfigError, DataError

MOST_BYTES = 1 << 20
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
INPUT, OUTPUT, TABLE, EXPRESSION, SWITCH = (
    f"{kind}Node" for kind in ("input", "output", "decisionTable", "expression", "switch")
)
KINDS = (INPUT, OUTPUT, TABLE, EXPRESSION, SWITCH)


@dataclass(frozen=True)
class Fired:
    """A row that fired: of which table, its number from 1, its id, and what its author wrote about it."""

    table: str
    row: int
    id: str
    why: str


@dataclass(frozen=True)
class PolicyDecision:
    """What a policy decided, with all that a later reader needs to follow it.

    policy, sha256 : name and hash of the graph; version : 0 for a graph that was never filed.
    inputs, outputs : what it was asked, and the fields that it added.
    fired : the rows that fired, table after table.
    """

    policy: str
    version: int
    sha256: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    fired: tuple[Fired, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, for the book."""
        return {
            "policy": self.policy,
            "version": self.version,
            "sha256": self.sha256,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "fired": [vars(row) for row in self.fired],
        }


@dataclass(frozen=True)
class Graph:
    """A decision graph whose structure was checked.

    name : of the policy; version : as filed, 0 before.
    nodes : id -> node, in the order in which they can run.
    """

    name: str
    version: int
    canonical: bytes = field(repr=False)
    nodes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    edges: tuple[Mapping[str, Any], ...] = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Hash of its canonical JSON."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def input_schema(self) -> Any:
        """JSON schema of what it is asked."""
        return schema_of(next(self.of_kind(INPUT)))

    @property
    def output_schema(self) -> Any:
        """JSON schema of what it answers."""
        return schema_of(next(self.of_kind(OUTPUT)))

    def of_kind(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """Yield the nodes of a kind."""
        return (node for node in self.nodes.values() if node["type"] == kind)

    def parents(self, node: str) -> list[str]:
        """Return the nodes whose output a node takes."""
        return [edge["sourceId"] for edge in self.edges if edge["targetId"] == node]

    @cached_property
    def _engine(self) -> Any:
        return engine().create_decision(self.canonical.decode())

    def decide(self, inputs: Mapping[str, Any]) -> PolicyDecision:
        """Decide on one firm; DataError where the inputs do not meet the schema, or the graph has no answer."""
        try:
            answer = self._engine.evaluate(dict(inputs), {"trace": True})
        except Exception as error:  # noqa: BLE001 - the engine raises no narrower one
            raise self._refusal(error) from None
        outputs = {k: v for k, v in answer["result"].items() if k not in inputs or inputs[k] != v}
        return PolicyDecision(
            self.name, self.version, self.sha256, inputs, outputs, tuple(self._fired(answer["trace"]))
        )

    def decide_all(self, many: Iterable[Mapping[str, Any]]) -> Iterator[PolicyDecision]:
        """Decide on firms, one after the other."""
        return map(self.decide, many)

    def _fired(self, trace: Mapping[str, Any]) -> Iterator[Fired]:
        for node, rules in self._tables.items():
            hits = trace.get(node, {}).get("traceData")
            for hit in hits if isinstance(hits, list) else [hits] if hits else []:
                number = int(hit["index"])
                rule = rules[number]
                yield Fired(self.nodes[node]["name"], number + 1, rule["_id"], str(rule.get("_description", "")))

    @cached_property
    def _tables(self) -> dict[str, list[Mapping[str, Any]]]:
        return {id_: node["content"]["rules"] for id_, node in self.nodes.items() if node["type"] == TABLE}

    def _refusal(self, error: Exception) -> DataError:
        """Say which node had no answer, without a value of the firm."""
        first = str(error).partition("\n")[0]
        try:
            told = json.loads(first)
            node, source = self.nodes[told["nodeId"]], str(told["source"])
        except (ValueError, KeyError, TypeError):
            return DataError(f"policy {self.name!r} cannot read its inputs: give JSON numbers, texts, booleans or null")
        missing = re.search(r'"(\w+)\\?" is a required property', source)
        place = f" ({missing[1]} is missing)" if missing else f" ({source.partition(':')[0][:80]})"
        if node["type"] == INPUT:
            return DataError(f"policy {self.name!r} was asked with inputs that its schema refuses{place}")
        if node["type"] == OUTPUT:
            return DataError(f"policy {self.name!r} has no answer for this firm{place}: its tables miss a case")
        return DataError(f"policy {self.name!r} fails at node {node['name']!r}: an expression has no value here")


def engine() -> Any:
    """Return a zen engine; ConfigError if it is not installed."""
    try:
        from zen import ZenEngine  # noqa: PLC0415 - of the extra `bank`
    except ImportError:
        raise ConfigError("policies need zen-engine: pip install 'veilscore[bank]'") from None
    return ZenEngine()


def schema_of(node: Mapping[str, Any]) -> Any:
    """Return the JSON schema of an input or output node, which its file keeps as a text; None without one."""
    schema = (node.get("content") or {}).get("schema")
    if not schema:
        return None
    try:
        return json.loads(schema) if isinstance(schema, str) else schema
    except ValueError:
        raise ConfigError(f"node {str(node.get('name'))[:60]!r} has a schema that is no JSON") from None


def load_graph(path: Path) -> Graph:
    """Read a policy from a JDM file, which gives it its name; ConfigError says what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"policy {path} cannot be read: {error.strerror}") from error
    return parse_graph(data, path.stem)


def parse_graph(data: bytes, name: str, version: int = 0) -> Graph:
    """Return the graph of a JDM file; ConfigError says what is wrong with its structure."""
    where = f"policy {name[:64]!r}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where} needs a name of small letters, digits, _ and -; its file gives the name")
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{where} is larger than {MOST_BYTES >> 20} MB")
    try:
        content = json.loads(data)
        nodes = {str(node["id"]): node for node in content["nodes"]}
        edges = tuple(content["edges"])
        ends = [(str(edge["sourceId"]), str(edge["targetId"])) for edge in edges]
        kinds = [(str(node["type"]), str(node["name"])) for node in nodes.values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{where} is no decision graph in JDM (JSON with nodes and edges)") from None
    if len(nodes) != len(content["nodes"]) or not {end for pair in ends for end in pair} <= set(nodes):
        raise ConfigError(f"{where} has two nodes of one id, or an edge to a node that is not there")
    _check_kinds(kinds, where)
    try:
        order = [*TopologicalSorter({node: [a for a, b in ends if b == node] for node in nodes}).static_order()]
    except CycleError:
        raise ConfigError(f"{where} goes in a circle") from None
    for node in nodes.values():
        if node["type"] == TABLE:
            _check_table(node, where)
    try:
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ConfigError(f"{where} has text that is not Unicode, or is nested too deeply") from None
    graph = Graph(name, version, canonical, {node: nodes[node] for node in order}, edges)
    _compiled(graph, where)
    return graph


def _check_kinds(kinds: list[tuple[str, str]], where: str) -> None:
    for kind, called in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"{where}: node {called[:60]!r} is of kind {kind[:40]}, which cannot be checked: use tables, "
                "expressions and switches"
            )
    for kind, called in ((INPUT, "input"), (OUTPUT, "output")):
        if sum(one == kind for one, _ in kinds) != 1:
            raise ConfigError(f"{where} needs exactly one {called} node")


def _check_table(node: Mapping[str, Any], where: str) -> None:
    content = node.get("content")
    try:
        parts = [(content[part], {str(one["id"]) for one in content[part]}) for part in ("inputs", "outputs")]  # type: ignore[index]
        rules = content["rules"]  # type: ignore[index]
        known = parts[0][1] | parts[1][1]
        well = all(isinstance(v, str) for rule in rules for k, v in rule.items() if k in known)
        well = well and all(rule["_id"] for rule in rules) and all(one["field"] for one in parts[1][0])
    except (KeyError, TypeError, AttributeError):
        well = False
    if not well:
        raise ConfigError(
            f"{where}: table {str(node['name'])[:60]!r} is damaged: a row or a column is not as JDM has it"
        )
    if content.get("hitPolicy") not in ("first", "collect"):  # type: ignore[union-attr]
        raise ConfigError(f"{where}: table {str(node['name'])[:60]!r} has a hit policy other than first or collect")


def _compiled(graph: Graph, where: str) -> None:
    try:
        graph._engine.validate()  # noqa: SLF001 - of the graph that is being made
    except RuntimeError as error:
        raise ConfigError(f"{where} is refused by the engine: {str(error).partition(chr(10))[0][:120]}") from None
