"""Every parser is fuzzed for a moment from its corpus, and a new parser of bytes or text has to be in the list."""

from __future__ import annotations

import ast
from pathlib import Path

import fuzz
import parsers
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # odd serials
SECONDS = 0.7  # of each parser: `make fuzz` gives each a million inputs
ROOT = Path(__file__).parents[2]
VERBS = {"parse", "read", "from", "unpack", "decode", "verify"}
TEXTS = {"bytes", "str", "bytes | str", "str | bytes"}


@pytest.mark.slow
@pytest.mark.parametrize("target", parsers.TARGETS, ids=lambda target: target.name)
def test_a_parser_raises_our_errors_alone(target, tmp_path):
    parsers.FILE.folder = tmp_path
    found = fuzz.fuzz(target, 1_000_000, 7, SECONDS)
    assert not found["failed"]


def test_what_was_kept_of_every_parser(tmp_path):
    """The corpus, which has every input that once raised another error."""
    parsers.FILE.folder = tmp_path
    for target in parsers.TARGETS:
        for data in fuzz.corpus_of(target):
            try:
                target.parse(data)
            except (fuzz.VeilscoreError, *target.besides):
                continue


def public_parsers():
    """Public functions that begin with a verb of reading and take bytes or text first, as `file:name`."""
    for root in ("veilscore", "party_bank", "coordinator"):
        for path in sorted((ROOT / root).rglob("*.py")):
            if {"v1", "cli", "console", "portal"} & set(path.parts):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            where = path.relative_to(ROOT).as_posix().removeprefix("veilscore/")
            for outer in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
                for node in outer.body:
                    if isinstance(node, ast.FunctionDef) and _reads(node.name):
                        taken = [one for one in node.args.args if one.arg not in {"self", "cls"}]
                        if taken and taken[0].annotation and ast.unparse(taken[0].annotation) in TEXTS:
                            yield f"{where}:{f'{outer.name}.' if outer is not tree else ''}{node.name}"


def _reads(name):
    return name.split("_")[0] in VERBS and name != "verify"


def test_no_parser_is_left_out():
    covered = {place for target in parsers.TARGETS for place in target.covers} | set(parsers.ELSEWHERE)
    found = set(public_parsers())
    assert found - covered == set(), "add each to TARGETS in parsers.py, or say in ELSEWHERE why not"
    assert covered <= found
