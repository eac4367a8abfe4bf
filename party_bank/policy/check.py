"""Checks a policy graph before it may decide: missed cases, rows never reached, overlaps, and what cannot be analysed.

Every case that a table misses is shown by one such case. A graph is refused where a case is missed, a row is never
reached, a cell does not parse, or an answer lies outside the output's schema; an overlap is told, since the first row
wins by design. Cells beyond the analysed grammar are named: for gaps they count as matching nothing, for rows behind
them as well, so neither finding is ever wrong for their sake.
At the end the engine itself is asked at many combinations of such cases, which tries the expressions too.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from party_bank.policy.coverage import Boxes, TooManyCasesError
from party_bank.policy.domain import ANY, Domain, fields_of, json_of
from party_bank.policy.graph import EXPRESSION, INPUT, OUTPUT, SWITCH, TABLE, Graph
from party_bank.policy.unary import NotAnalysed, Test, Value, mixes, read_literal, read_test
from veilscore.errors import ConfigError, DataError

_TRIALS, _SEED = 2000, 20240229
Kind = Literal[
    "gap",
    "unreachable",
    "unparsed",
    "answer",
    "switch",
    "schema",
    "too large",
    "failure",
    "overlap",
    "order",
    "not analysed",
]
_TOLD_ONLY = {"overlap", "order", "not analysed"}


@dataclass(frozen=True)
class PolicyFinding:
    """One thing found: its kind, where it is, and a sentence that says what to do."""

    kind: Kind
    where: str
    sentence: str

    @property
    def refuses(self) -> bool:
        """Return whether a graph with it may not be activated."""
        return self.kind not in _TOLD_ONLY


@dataclass
class _Flow:
    """What a node hands on: the domain of each field, and which fields are surely there."""

    domains: dict[str, Domain]
    sure: set[str]


_checked: OrderedDict[str, tuple[PolicyFinding, ...]] = OrderedDict()  # a graph never changes; its check takes long
_KEPT = 64


def check(graph: Graph) -> list[PolicyFinding]:
    """Return all that is found in a graph, what refuses it first."""
    known = _checked.get(graph.sha256)
    if known is None:
        found = list(_walk(graph))
        if not any(one.refuses for one in found):
            found += _tried(graph)
        known = _checked[graph.sha256] = tuple(sorted(found, key=lambda one: not one.refuses))
        while len(_checked) > _KEPT:
            _checked.popitem(last=False)
    return list(known)


def refuse_if_unsound(graph: Graph) -> list[PolicyFinding]:
    """Return what is only told of a graph; ConfigError names the first thing for which it is refused, and how many."""
    found = check(graph)
    refusing = [one for one in found if one.refuses]
    if refusing:
        more = f" (and {len(refusing) - 1} more: `veilscore policy test` lists them)" if len(refusing) > 1 else ""
        raise ConfigError(f"policy {graph.name!r} is refused: {refusing[0].sentence}{more}")
    return found


def _walk(graph: Graph) -> Iterator[PolicyFinding]:
    """Follow the fields through the graph, node by node."""
    if not fields_of(graph.input_schema):
        yield PolicyFinding(
            "schema", "input", "its input node has no JSON schema with properties: say what it is asked"
        )
    required = (graph.output_schema or {}).get("required") or []
    if not required:
        yield PolicyFinding(
            "schema", "output", "its output node has no JSON schema with required fields: say what it answers"
        )
    switched = any(True for _ in graph.of_kind(SWITCH))
    flows: dict[str, _Flow] = {}
    for id_, node in graph.nodes.items():
        parents = [flows[parent] for parent in graph.parents(id_)]
        flow = _merged(parents, either=switched)
        content, passes = node.get("content") or {}, bool((node.get("content") or {}).get("passThrough"))
        if node["type"] == INPUT:
            domains = fields_of(graph.input_schema)
            flow = _Flow(domains, {name for name, one in domains.items() if not one.holds(None)})
        elif node["type"] == TABLE:
            yield from _table(node, flow)
            flow = _after(flow if passes else _Flow({}, set()), content)
        elif node["type"] == EXPRESSION:
            flow = flow if passes else _Flow({}, set())
            for one in content.get("expressions", []):
                flow.domains[str(one["key"])] = ANY
                flow.sure.add(str(one["key"]))  # the trials at the end show whether it always has a value
        elif node["type"] == SWITCH:
            yield from _switch(graph, id_, node)
        elif node["type"] == OUTPUT:
            yield from _answers(flow, required, fields_of(graph.output_schema))
        flows[id_] = flow


def _merged(parents: Sequence[_Flow], *, either: bool) -> _Flow:
    """Join what parents hand on; behind a switch (`either`) only what all of them surely have is sure."""
    merged = _Flow({}, set())
    for number, parent in enumerate(parents):
        for name, domain in parent.domains.items():
            merged.domains[name] = merged.domains[name].join(domain) if name in merged.domains else domain
        merged.sure = merged.sure & parent.sure if either and number else merged.sure | parent.sure
    for name in merged.domains:
        if either and name not in merged.sure:
            merged.domains[name] = merged.domains[name].with_missing()
    return merged


def _table(node: Mapping[str, Any], flow: _Flow) -> Iterator[PolicyFinding]:
    """Check one table's rows against each other and the domains of its fields."""
    content, name = node["content"], str(node["name"])
    rules, where = content["rules"], f"table {name!r}"
    rows: list[list[tuple[str, Test]]] = []
    read: list[int] = []
    for number, rule in enumerate(rules):
        tests, whole = list[tuple[str, Test]](), True
        for column in content["inputs"]:
            cell = str(rule.get(column["id"]) or "")
            try:
                test = _read(cell, column)
            except NotAnalysed as problem:
                whole = False
                yield PolicyFinding("not analysed", where, f"{where}, row {number + 1}: {problem} cannot be analysed")
            except ConfigError as error:
                whole = False
                yield PolicyFinding("unparsed", where, f"{where}, row {number + 1}: {error}")
            else:
                if test is not None:
                    tests.append((str(column["field"]), test))
                    if mixes(cell):
                        what = f"{cell[:60]!r} joins by `and` and by `or`, and the engine takes them from the left"
                        yield PolicyFinding("order", where, f"{where}, row {number + 1}: {what}")
        rows.append(tests)
        read += [number] if whole else []
    before = f"{content['inputField']}." if content.get("inputField") else ""
    looped = content.get("executionMode") == "loop"
    fields = dict.fromkeys(field for row in rows for field, _ in row)
    domains = {field: ANY if looped else flow.domains.get(before + field, ANY) for field in fields}
    try:
        yield from _rows(content, where, Boxes.of(domains, rows), read)
    except TooManyCasesError:
        yield PolicyFinding(
            "too large", where, f"{where} divides its fields into more cases than are checked: split it"
        )


def _read(cell: str, column: Mapping[str, Any]) -> Test | None:
    if not cell.strip():
        return None
    import zen  # noqa: PLC0415 - of the extra `bank`

    try:
        zen.compile_unary_expression(cell) if column.get("field") else zen.compile_expression(cell)
    except RuntimeError:
        raise ConfigError(f"{cell[:60]!r} does not parse") from None
    if not column.get("field"):
        raise NotAnalysed(f"{cell[:60]!r}, of a column without a field,")
    return read_test(cell)


def _rows(content: Mapping[str, Any], where: str, boxes: Boxes, read: list[int]) -> Iterator[PolicyFinding]:
    rules = content["rules"]
    for case in boxes.gaps(read):
        yield PolicyFinding(
            "gap", where, f"{where} misses a case, {told(case)}: add a row for it, or a last one without tests"
        )
    if content["hitPolicy"] != "first":
        return
    for number in read:
        if boxes.unreachable(number, [one for one in read if one < number]):
            yield PolicyFinding(
                "unreachable", where, f"{where}: row {number + 1} is never reached, rows above take its cases"
            )
    tested = [
        number for number in read if any(str(rules[number].get(c["id"]) or "").strip() for c in content["inputs"])
    ]
    for one, other in itertools.combinations(tested, 2):
        same = all(rules[one].get(c["id"]) == rules[other].get(c["id"]) for c in content["outputs"])
        shared = None if same else boxes.overlap(one, other)
        if shared is not None:
            what = f"{where}: rows {one + 1} and {other + 1} both take {told(shared)}; row {one + 1} wins"
            yield PolicyFinding("overlap", where, what)


def _after(flow: _Flow, content: Mapping[str, Any]) -> _Flow:
    """Add what a table writes, its literals as what a field may be."""
    after = _Flow(dict(flow.domains), set(flow.sure))
    place = f"{content['outputPath']}." if content.get("outputPath") else ""
    if content["hitPolicy"] == "collect" or content.get("executionMode") == "loop":
        if place:
            after.domains[place[:-1]] = Domain(others=True)
            after.sure.add(place[:-1])
        return after
    for column in content["outputs"]:
        field, cells = f"{place}{column['field']}", [str(rule.get(column["id"]) or "") for rule in content["rules"]]
        written = Domain()
        for cell in cells:
            try:
                one = Domain((read_literal(cell),)) if cell.strip() else Domain((None,))
            except NotAnalysed:  # a field as it is, or an expression
                one = flow.domains.get(cell.strip(), ANY)
            written = written.join(one)
        if all(cell.strip() for cell in cells):
            after.sure.add(field)
            after.domains[field] = written
        else:  # a row without a value leaves what was there before
            after.domains[field] = written.join(flow.domains.get(field, Domain((None,))))
    return after


def _switch(graph: Graph, id_: str, node: Mapping[str, Any]) -> Iterator[PolicyFinding]:
    """A switch needs a way for everything: a statement without a condition, and an edge from each statement."""
    where = f"switch {str(node['name'])!r}"
    statements = (node.get("content") or {}).get("statements") or []
    handles = {str(edge.get("sourceHandle")) for edge in graph.edges if edge["sourceId"] == id_}
    if not any(not str(one.get("condition") or "").strip() for one in statements):
        yield PolicyFinding("switch", where, f"{where} misses a case: give it a last branch without a condition")
    for number, one in enumerate(statements):
        if str(one.get("id")) not in handles:
            yield PolicyFinding("switch", where, f"{where}: its branch {number + 1} leads nowhere")


def _answers(flow: _Flow, required: Sequence[str], allowed: Mapping[str, Domain]) -> Iterator[PolicyFinding]:
    """Compare what arrives at the output with its schema."""
    for name in required:
        domain = flow.domains.get(name)
        if domain is None or (name not in flow.sure and domain.holds(None)):
            yield PolicyFinding(
                "answer", "output", f"its answer {name!r} is not written on every way through the graph"
            )
        elif name in allowed:
            for literal in domain.literals:
                if not domain.others and not allowed[name].holds(literal):
                    yield PolicyFinding(
                        "answer", "output", f"its answer {name!r} may be {literal!r}, which its schema refuses"
                    )


def _tried(graph: Graph) -> Iterator[PolicyFinding]:
    """Ask the engine at combinations of cases; yield the first that has no answer."""
    for inputs in cases(graph):
        try:
            graph.decide(inputs)
        except DataError as error:
            yield PolicyFinding(
                "failure", "graph", f"{error.message}, for {json.dumps(inputs, ensure_ascii=False)[:300]}"
            )
            return


def cases(graph: Graph, most: int = _TRIALS) -> Iterator[dict[str, Any]]:
    """Yield inputs at and between all limits that tests name: every combination if there are few, else a sample."""
    constants: dict[str, list[Value]] = {}
    for node in graph.of_kind(TABLE):
        for column, rule in itertools.product(node["content"]["inputs"], node["content"]["rules"]):
            try:
                test = read_test(str(rule.get(column["id"]) or "")) if column.get("field") else None
            except NotAnalysed:
                continue
            constants.setdefault(str(column.get("field")), []).extend(test.constants() if test else ())
    fields = fields_of(graph.input_schema)
    leaves = {n: d for n, d in fields.items() if not any(other.startswith(f"{n}.") for other in fields)}
    choices = {name: domain.representatives(constants.get(name, ())) for name, domain in leaves.items()}
    size = 1
    for values in choices.values():
        size *= max(len(values), 1)
    draw = random.Random(_SEED)  # noqa: S311 - a sample of cases, no secret
    if size <= most:
        chosen: Iterator[tuple[Value, ...]] = itertools.product(*choices.values())
    else:
        chosen = (tuple(draw.choice(values) for values in choices.values()) for _ in range(most))
    for combination in chosen:
        inputs: dict[str, Any] = {}
        for name, value in zip(choices, combination, strict=True):
            *folders, last = name.split(".")
            place = inputs
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = json_of(value)
        yield inputs


def told(case: Mapping[str, Value]) -> str:
    """Return a case as people read it."""
    if not case:
        return "which is every firm"
    return ", ".join(f"{name} {json.dumps(json_of(value), ensure_ascii=False)}" for name, value in case.items())
