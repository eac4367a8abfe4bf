"""Writes decision graphs of tables in JDM, laid out as the public editor shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a table: tests by field, answers by field (both in zen's language), and why it is there."""

    tests: Mapping[str, str]
    answers: Mapping[str, str]
    why: str = ""


@dataclass(frozen=True)
class DecisionTable:
    """A table: its first row that matches decides, or with `collect` that field takes the list of all that match."""

    name: str
    rows: Sequence[Row]
    collect: str = ""

    def content(self) -> dict[str, Any]:
        """Return it as a JDM node has it."""
        tested = list(dict.fromkeys(field for row in self.rows for field in row.tests))
        written = list(dict.fromkeys(field for row in self.rows for field in row.answers))
        rules = [
            {
                "_id": f"{self.name}-{number}",
                "_description": row.why,
                **{f"in-{field}": row.tests.get(field, "") for field in tested},
                **{f"out-{field}": row.answers.get(field, "") for field in written},
            }
            for number, row in enumerate(self.rows, 1)
        ]
        return {
            "hitPolicy": "collect" if self.collect else "first",
            "passThrough": True,
            "inputField": None,
            "outputPath": self.collect or None,
            "executionMode": "single",
            "inputs": [{"id": f"in-{field}", "name": field, "field": field} for field in tested],
            "outputs": [{"id": f"out-{field}", "name": field, "field": field} for field in written],
            "rules": rules,
        }


def graph_of(asked: Mapping[str, Any], answered: Mapping[str, Any], *tables: DecisionTable) -> bytes:
    """Return the JDM file of a graph of tables, one after the other.

    asked, answered : JSON schemas of the fields of input and output; all are required, but may be null where theirs
        says so.
    """
    nodes = [
        _node("request", "inputNode", 0, {"schema": _schema(asked)}),
        *(_node(one.name, "decisionTableNode", 320 * k, one.content()) for k, one in enumerate(tables, 1)),
        _node("response", "outputNode", 320 * (len(tables) + 1), {"schema": _schema(answered)}),
    ]
    edges = [
        {"id": f"edge-{a['id']}", "type": "edge", "sourceId": a["id"], "targetId": b["id"]} for a, b in pairwise(nodes)
    ]
    text = json.dumps({"nodes": nodes, "edges": edges}, indent=1, ensure_ascii=False)
    return f"{text}\n".encode()


def _node(name: str, kind: str, x: int, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "name": name, "type": kind, "position": {"x": x, "y": 120}, "content": dict(content)}


def _schema(properties: Mapping[str, Any]) -> str:
    return json.dumps({"type": "object", "properties": dict(properties), "required": list(properties)})
