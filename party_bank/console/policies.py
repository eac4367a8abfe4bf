"""Lending policies in pages: versions, tables, what the check finds, and the two stewards' words.

A version is filed and signed for by the calls of `veilscore policy activate`, which refuse the same people: the second
word must be another steward's, and neither may be the author's. In the browser a word is signed by a passkey that its
person's own key has vouched for.
"""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from party_bank.policy.check import check
from party_bank.policy.graph import MOST_BYTES, Graph, parse_graph
from party_bank.policy.versions import EYES, PURPOSE, Policies
from veilscore.console.desk import Visit
from veilscore.console.home import ConsoleHome
from veilscore.console.language import noted
from veilscore.console.page import Page
from veilscore.errors import ConfigError, VeilscoreError
from veilscore.keys.passkey_word import challenge_of
from veilscore.terms.people import AUDITOR, MODELLER, STEWARD

SEES = frozenset({MODELLER, STEWARD, AUDITOR})
FILES = frozenset({MODELLER})
SIGNS = frozenset({STEWARD})
_FORM_BYTES = 3 * MOST_BYTES  # as a form writes a graph of the largest size, most signs of JSON take three


class PolicyPages:
    """The handlers of these pages, on one home."""

    def __init__(self, home: ConsoleHome) -> None:
        self._home, self.policies = home, Policies(home.path)

    def versions(self, visit: Visit) -> Response:
        """Show all versions of all policies, the newest first."""
        files = bool(visit.roles & FILES)
        return visit.show("bank/policies.html", versions=self.policies.versions()[::-1], eyes=EYES, files=files)

    def graph_of(self, visit: Visit) -> Graph:
        """Return the graph that the path names; ConfigError where there is none."""
        name, number = visit.part("name"), visit.part("version")
        if not (number.isascii() and number.isdigit() and len(number) < 9):
            raise HTTPException(404, "a version is a number")
        visit.subject = f"policy {name[:64]} {number}"
        return self.policies.graph(name, int(number))

    def version(self, visit: Visit) -> Response:
        """Show one version: its tables, findings and words."""
        graph = self.graph_of(visit)
        every = {one.version: one for one in self.policies.versions(graph.name)}
        found, signs, hindrance = every.pop(graph.version), False, ""
        if visit.roles & SIGNS and not found.active:
            try:
                self._to_sign(visit, graph)
                signs = True
            except VeilscoreError as error:
                hindrance = error.message
        return visit.show(
            "bank/policy.html",
            one=found,
            tables=tables_of(graph),
            findings=check(graph),
            signs=signs,
            hindrance=hindrance,
            champions=list(every.values()),
            past=past_files(self._home),
        )

    # --- a new version -----------------------------------------------------------------------------------------------

    def new(self, visit: Visit) -> Response:
        """Show the form of a new version, with an earlier one in it where one is asked for."""
        name, number = visit.asked("policy", 64), visit.asked("version", 8)
        text = ""
        if name:
            graph = self.policies.graph(name, int(number) if number.isascii() and number.isdigit() else None)
            text = graph.canonical.decode()
        return visit.show("bank/new_policy.html", name=name, text=text, problem="")

    def file(self, visit: Visit) -> Response:
        """File a version after its check; nothing decides by it before two stewards have signed."""
        name, text = visit.form.get("name", "").strip()[:64], visit.form.get("graph", "")
        visit.subject = f"policy {name}"
        if not text.strip():
            raise ConfigError("paste the policy's graph, or choose its file")
        version = self.policies.file(parse_graph(text.encode(), name), visit.person)
        visit.subject = f"policy {name} {version}"
        return visit.go_to(f"/policies/{name}/{version}", "saved")

    # --- the words of stewards ---------------------------------------------------------------------------------------

    def _to_sign(self, visit: Visit, graph: Graph) -> tuple[bytes, dict[str, Any]]:
        """Return what the person's word signs, as a challenge, and what a browser needs; raises where it may not."""
        home = self._home
        content = self.policies.to_sign(graph.name, graph.version, visit.person, home.config, home.federation)
        challenge = challenge_of(content, PURPOSE)
        return challenge, visit.desk.passkeys.to_sign(visit.person, challenge)

    def begin_word(self, visit: Visit) -> Response:
        """Give the browser what the person's passkey is to sign."""
        return JSONResponse(self._to_sign(visit, self.graph_of(visit))[1])

    def word(self, visit: Visit) -> Response:
        """Keep the word of a steward; with the second one's the version decides."""
        graph, home = self.graph_of(visit), self._home
        said = visit.data if isinstance(visit.data, dict) else {}
        challenge, _ = self._to_sign(visit, graph)
        word = visit.desk.passkeys.word(visit.person, challenge, said.get("credential"))
        found = self.policies.sign_by_passkey(
            graph.name,
            graph.version,
            visit.person,
            word,
            home.config,
            home.federation,
            str(said.get("reason", ""))[:400],
        )
        visit.subject += f": {found.status}"
        return JSONResponse({"status": found.status})


def tables_of(graph: Graph) -> list[tuple[str, str, list[str], int, list[tuple[int, list[str], str]]]]:
    """Return the tables of a graph: name, hit policy, heads, number of inputs, and rows with number, cells and why."""
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
    return tables


def past_files(home: ConsoleHome) -> list[str]:
    """Return the files of past firms that the bank laid into HOME/past for back-tests."""
    folder = home.path / "past"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".csv", ".parquet"} and path.is_file())


def pages(own: PolicyPages) -> tuple[Page, ...]:
    """Return the pages on one home."""
    bank, one = ("bank",), "/policies/{name}/{version}"
    return (
        Page("/policies", own.versions, SEES, name=noted("Policies"), section=noted("Lending"), roles=bank),
        Page("/policies/new", own.new, FILES, roles=bank),
        Page("/policies/file", own.file, FILES, "POST", act="file a policy", roles=bank, most_bytes=_FORM_BYTES),
        Page(one, own.version, SEES, roles=bank),
        Page(f"{one}/begin", own.begin_word, SIGNS, "POST", kind="data", roles=bank),
        Page(f"{one}/finish", own.word, SIGNS, "POST", act="sign for a policy", kind="data", roles=bank),
    )
