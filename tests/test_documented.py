"""Every block of README and docs is run as it is printed, or says before it why it is not.

A block without a language, or `sh`, is a shell's; `python` is run; `yaml` is read by what reads such a file; `text` is
a figure or what a command prints. `<!-- file: PATH -->` before a block is where its text lies when the page's commands
run, and `<!-- not run: REASON -->` what keeps it from running here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from sandbox_home import need_sandbox

from veilscore.cli import NOUNS, load
from veilscore.data.life import simulate_life
from veilscore.features.catalogue import Catalogue
from veilscore.sandbox.submission import Manifest
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import parse

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"))
    if "```" in path.read_text(encoding="utf-8")
)
BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN_IN_ORDER = ("README.md", "docs/evidence.md", "docs/audit.md", "docs/sandbox.md")  # in one folder, with one trial
HERE = {*RUN_IN_ORDER, "docs/features.md", "docs/keys.md", "ARCHITECTURE.md", "docs/protocols/stacking.md"}
MOST_NOT_RUN = 5


@dataclass(frozen=True)
class Block:
    """One block of a page, with what stands in a comment before it."""

    page: str
    note: str
    language: str
    text: str

    @property
    def runs(self) -> bool:
        return self.language in {"", "sh"} and not self.note.startswith(("not run:", "file:"))


BLOCKS = [
    Block(str(page.relative_to(ROOT)), note, language, text)
    for page in PAGES
    if str(page.relative_to(ROOT)) in HERE
    for note, language, text in BLOCK.findall(page.read_text(encoding="utf-8"))
]


def of_page(page):
    return [block for block in BLOCKS if block.page == page]


def ident(block):
    return f"{block.page}: {block.text.splitlines()[0][:30]}"


def test_every_block_is_of_a_kind_that_is_run_or_says_why_it_is_not():
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in HERE]
    fences = sum(len(re.findall(r"^```", text, re.MULTILINE)) for text in texts)
    assert 2 * len(BLOCKS) == fences
    assert {block.language for block in BLOCKS} <= {"", "sh", "python", "yaml", "text"}
    not_run = [block for block in BLOCKS if block.note.startswith("not run:")]
    assert len(not_run) <= MOST_NOT_RUN
    assert all(len(block.note) > len("not run: ") + 20 for block in not_run)
    assert all(max(map(len, block.text.splitlines())) <= 125 for block in BLOCKS)
    scripts = {block.page for block in BLOCKS if block.runs}
    assert scripts == {*RUN_IN_ORDER, "docs/features.md"}
    python = [block for block in BLOCKS if block.language == "python" and not block.note.startswith("file:")]
    assert [block.page for block in python] == ["README.md"]


def test_every_other_page_with_blocks_has_a_test_of_its_own_that_runs_them():
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py") if path != Path(__file__)]
    for page in {str(path.relative_to(ROOT)) for path in PAGES} - HERE:
        reads = re.compile(rf'"{re.escape(Path(page).name)}"\)?\.read_text')
        assert [text for text in tests if reads.search(text) and "```" in text], f"{page}: nothing runs its blocks"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=ident)
def test_yaml_is_what_its_reader_takes(block):
    """A part of node.yaml stands there with name and role; whole files as they are."""
    content = yaml.safe_load(block.text)
    if "tables" in content:
        assert parse(Catalogue, content, block.page).variables
    elif "outputs" in content:
        assert parse(Manifest, content, block.page).outputs
    else:
        assert parse(NodeConfig, {"name": "tax", "role": "holder", **content}, block.page)


def commands_in(text):
    """The words of each line that calls the command, without comments; a line that goes on is one."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "veilscore":
            yield words[1:]


@pytest.mark.parametrize("page", sorted({b.page for b in BLOCKS if b.language in {"", "sh"}}))
def test_every_command_and_option_that_is_printed_exists(page):
    for words in (w for block in of_page(page) if block.language in {"", "sh"} for w in commands_in(block.text)):
        assert words[0] in NOUNS, words
        command = load(words[0])
        for word in words[1:]:
            command = getattr(command, "commands", {}).get(word, command)
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        assert unknown == [], words


def shown(text):
    """The text with figures and bands that noise changes, line breaks and widths of tables taken out."""
    return re.sub(r"\s+", " ", re.sub(r"[\d,.]+\d|\d", "#", re.sub(r"band [A-E]\b", "band A", text)))


def run(command, folder, timeout_s=300):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "COLUMNS": "110"}, capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script_of(page):
    return "\n".join(block.text for block in of_page(page) if block.runs)


def lay_files(page, folder):
    for block in of_page(page):
        if block.note.startswith("file:"):
            path = folder / block.note.removeprefix("file:").split(",")[0].strip()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.federation
def test_the_demonstration_shows_what_the_readme_says(tmp_path):
    folder = tmp_path / "demo-run"
    said = shown(run([sys.executable, ROOT / "examples" / "demo.py", "--folder", folder], ROOT, timeout_s=550)).replace(
        shown(str(folder)), "demo-run"
    )
    printed = [block.text for block in of_page("README.md") if block.text.startswith("$ ")]
    assert len(printed) == 1
    for line in printed[0].splitlines():
        for part in line.split("..."):
            assert shown(part).strip() in said, part


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of the trial, and what each page's commands printed; a page is run once, and those before it first."""
    folder, said = tmp_path_factory.mktemp("documented"), {}
    (folder / "examples").symlink_to(ROOT / "examples")
    yield folder, said
    if (folder / "trial").is_dir():
        run(["veilscore", "down", "trial"], folder)


@pytest.mark.slow
@pytest.mark.federation
@pytest.mark.parametrize("page", RUN_IN_ORDER)
def test_what_a_page_says_to_type_works_as_it_is_printed(world, page):
    folder, said = world
    if page == "docs/sandbox.md":
        need_sandbox()
    for one in RUN_IN_ORDER[: RUN_IN_ORDER.index(page) + 1]:
        if one not in said:
            lay_files(one, folder)
            said[one] = run(["sh", "-ec", script_of(one)], folder, timeout_s=600)
    if page == "README.md":
        assert re.search(r"about \d+(\.\d)? points \(step \d+ of 3[0-2]\)", said[page]), said[page]
    elif page == "docs/evidence.md":
        assert said[page].count("verified") >= 4
    elif page == "docs/audit.md":
        assert "confirmed" in said[page]
        assert "differs" not in said[page]
    else:
        assert sorted(path.name for path in (folder / "result").iterdir()) == ["fit.json", "mean.json", "table.csv"]


@pytest.mark.slow
@pytest.mark.federation
def test_the_notebook_of_the_readme_runs(world):
    folder, _ = world
    if not (folder / "trial" / "data").is_dir():
        run(["veilscore", "simulate", "trial/data", "--firms", "20000", "--seed", "1"], folder)
    for block in of_page("README.md"):
        if block.language == "python":
            run([sys.executable, "-c", block.text], folder)


@pytest.mark.slow
def test_the_commands_of_features_run_in_a_home_of_that_name(tmp_path):
    simulate_life(tmp_path / "life", 1000, 1)
    lay_files("docs/features.md", tmp_path)
    home = tmp_path / "HOME"
    with (home / "node.yaml").open("a", encoding="utf-8") as file:
        file.write("name: tax\nrole: holder\n")
    (home / "events").symlink_to(tmp_path / "life" / "tax")
    said = run(["sh", "-ec", script_of("docs/features.md")], tmp_path)
    assert (home / "features" / "main.parquet").is_file()
    assert "invoices" in said
