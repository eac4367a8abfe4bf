"""Pages for people, in English and Chinese: the same headings, points, blocks and commands, which exist.

README's blocks are run by test_documented.py; the Chinese page has the same.
"""

from __future__ import annotations

import re
import shlex

import pytest
from conftest import ROOT

from veilscore.cli import NOUNS, load

PAGES = sorted((ROOT / "docs" / "roles").glob("*.md"))
COMMAND = re.compile(r"`(veilscore [^`]+)`")
TERM = re.compile(r"`([^`]+)`")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
POINT = re.compile(r"^(#+|-|\d\.) ", re.MULTILINE)


def whole(path):
    """The text with broken lines put together."""
    return re.sub(r"\n +", " ", path.read_text(encoding="utf-8"))


def test_each_role_has_a_page():
    assert [page.stem for page in PAGES] == ["account_manager", "firm_owner", "modeller", "steward"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_both_languages_are_in_step(page):
    english, chinese = whole(page), whole(page.parent / "zh-CN" / page.name)
    assert POINT.findall(chinese) == POINT.findall(english)
    sections = [re.split(r"^## ", text, flags=re.MULTILINE) for text in (english, chinese)]
    for one, other in zip(*sections, strict=True):
        assert set(TERM.findall(other)) == set(TERM.findall(one)) - {"zh-CN/"}
        assert len(CHINESE.findall(other)) > 30 or len(one) < 120
    assert not CHINESE.search(english)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_command_of_a_page_exists(page):
    for line in COMMAND.findall(whole(page)):
        words = shlex.split(line)[1:]
        assert words[0] in NOUNS, line
        command = load(words[0])
        for word in words[1:]:
            command = getattr(command, "commands", {}).get(word, command)
        assert not getattr(command, "commands", {}) or command.invoke_without_command, line
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_chinese_readme_is_in_step():
    """The same headings, blocks, rows of tables and linked pages."""
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    blocks = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    assert blocks.findall(chinese) == blocks.findall(english)
    for form in (r"^#+ ", r"^\| ?", r"\]\((?!docs/roles|README)([^)]+)\)"):
        found = [re.findall(form, blocks.sub("", text), re.MULTILINE) for text in (english, chinese)]
        assert found[0] == found[1], form
    assert len(CHINESE.findall(chinese)) > 1000
