"""What the documents point to exists: tests named in them, files linked or named in them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODEL = ROOT / "docs" / "threat_model.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
NAMED = re.compile(r"`([\w/]+\.(?:py|yaml|proto|md))`")
# names in prose of files that a user or a node writes
WRITTEN = {"node.yaml", "federation.yaml", "submission.yaml", "bank.yaml", "sandbox.yaml", "main.py"}


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))


@cache
def files() -> frozenset[str]:
    parts = ("veilscore", "coordinator", "tests", "benchmarks", "examples", "docs", "protos", "party_bank", "deploy")
    found = [p for part in parts for p in (ROOT / part).rglob("*") if p.is_file()]
    return frozenset(str(p.relative_to(ROOT)) for p in (*found, *ROOT.glob("*")))


def test_the_threat_model_names_tests_that_exist():
    named = TEST.findall(MODEL.read_text(encoding="utf-8"))
    assert len(named) > 60
    missing = [f"{path}::{name}" for path, name in named if name not in functions_in(ROOT / path)]
    assert not missing


def test_every_file_of_attacks_is_in_the_threat_model():
    text = MODEL.read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "tests" / "attacks").glob("test_*.py") if p.name not in text] == []


def test_every_row_of_what_is_defended_names_a_test():
    defended = MODEL.read_text(encoding="utf-8").split("## Defended")[1].split("## Not defended")[0]
    rows = [line for line in defended.splitlines() if line.startswith("| ") and not line.startswith("| attack |")]
    assert len(rows) > 30
    assert [row for row in rows if not TEST.search(row)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
    known = files()
    missing = [
        name
        for name in NAMED.findall(text)
        if name not in WRITTEN and not any(one == name or one.endswith(f"/{name}") for one in known)
    ]
    assert missing == []
    if page.name in {"evidence.md", "audit.md"}:
        tests = frozenset().union(*(functions_in(p) for p in (ROOT / "tests").rglob("test_*.py")))
        assert [name for name in re.findall(r"`(test_\w+)`", text) if name not in tests] == []


def test_the_table_of_who_learns_what_is_that_of_the_code():
    """docs/reference.md is made of the steps' records (tests/test_cli_explain.py); README shows some of its rows."""

    def rows(text):
        return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if "|" in line]

    made = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8").split("## Who learns what, and how much")[1]
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("## Who learns what")[1].split("\n## ")[0]
    how_much = "how much" in shown
    known = {row if how_much else (row[0], row[1], *row[3:]) for row in rows(made) if len(row) == 5}
    steps = [row for row in rows(shown) if row[0] in {"align", "bin", "train", "evaluate"}]
    assert len(steps) >= 4
    assert [row for row in steps if row not in known] == []
