"""Lending policies in pages: versions, tables, what the check finds, who signed, and the second steward's word."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response

from party_bank.policy.check import PolicyFinding, check
from party_bank.policy.graph import Graph
from party_bank.policy.versions import EYES, Policies
from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.terms.people import AUDITOR, MODELLER, STEWARD

SEES = frozenset({MODELLER, STEWARD, AUDITOR})


class PolicyPages:
    """The handlers of these pages, on one home."""

    def __init__(self, home: ConsoleHome) -> None:
        self._policies = Policies(home.path)
        self._checked: dict[str, list[PolicyFinding]] = {}  # a version never changes, and its check takes long

    def versions(self, visit: Visit) -> Response:
        """Show all versions of all policies, the newest first."""
        return visit.show("bank/policies.html", versions=self._policies.versions()[::-1], eyes=EYES)

    def version(self, visit: Visit) -> Response:
        """Show one version: its tables, findings and words."""
        name, number = visit.part("name"), visit.part("version")
        if not (number.isascii() and number.isdigit() and len(number) < 9):
            raise HTTPException(404, "a version is a number")
        graph = self._policies.graph(name, int(number))
        found = next(one for one in self._policies.versions(name) if one.version == int(number))
        tables = []
        for node in graph.of_kind("decisionTableNode"):
            content = node["content"]
            columns = [*content["inputs"], *content["outputs"]]
            heads = [str(one.get("field") or one.get("name")) for one in columns]
            rows = [
                (n, [str(rule.get(one["id"], "")) for one in columns], str(rule.get("_description", "")))
                for n, rule in enumerate(content["rules"], 1)
            ]
            tables.append((str(node["name"]), str(content["hitPolicy"]), heads, len(content["inputs"]), rows))
        return visit.show(
            "bank/policy.html",
            one=found,
            tables=tables,
            findings=self._findings(graph),
        )

    def _findings(self, graph: Graph) -> list[PolicyFinding]:
        if graph.sha256 not in self._checked:
            self._checked[graph.sha256] = check(graph)
        return self._checked[graph.sha256]


def pages(home: ConsoleHome) -> tuple[Page, ...]:
    """Return the pages on one home."""
    own = PolicyPages(home)
    return (
        Page("/policies", own.versions, SEES, name=noted("Policies"), section=noted("Lending"), roles=("bank",)),
        Page("/policies/{name}/{version}", own.version, SEES, roles=("bank",)),
    )
