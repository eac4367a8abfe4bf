"""The map of nouns: what `--help` and hints say without loading a noun is what its file has."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from veilscore.cli import NOUNS, RETIRED, app, load
from veilscore.errors import ConfigError

ROOT = Path(__file__).parents[1]
WIDE = {"COLUMNS": "200", "TERM": "dumb"}
HEAVY = ("duckdb", "grpc", "numba", "numpy", "pydantic", "tenseal")
HELP_CPU_S = 0.6


def run(*words):
    return CliRunner().invoke(app, list(words), env=WIDE)


def process(*words, code=("-m", "veilscore")):
    command = [sys.executable, *code, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | WIDE, check=False)


def commands():
    for word in NOUNS:
        found = load(word)
        yield from ((f"{word} {verb}", c) for verb, c in getattr(found, "commands", {"": found}).items())


@pytest.mark.parametrize(("name", "command"), [(name.strip(), command) for name, command in commands()])
def test_every_command_teaches(name, command):
    assert f"Example: veilscore {name}" in run(*name.split(), "--help").stdout
    assert command.help


@pytest.mark.parametrize("word", NOUNS)
def test_the_map_says_what_the_file_has(word):
    found = load(word)
    assert found.help.splitlines()[0] == NOUNS[word].line
    assert list(getattr(found, "commands", ())) == NOUNS[word].verbs.split()


def test_help_names_every_noun_and_no_retired_verb():
    text = run("--help").stdout
    assert run().output.strip() == text.strip()
    shown = [line.split()[1] for line in text.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert sorted(shown) == sorted(NOUNS)
    assert process("--version").stdout.startswith("veilscore 0.")


@pytest.mark.parametrize(
    "code", ["import veilscore.cli", "from veilscore.cli import app; app(['--help'], None, None, False)"]
)
def test_neither_import_nor_help_loads_what_is_heavy(code):
    done = process(code=("-c", f"import json, sys; {code}; print(json.dumps(sorted(sys.modules)))"))
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert modules & {*HEAVY, *(f"veilscore.cli.{noun.file or word}" for word, noun in NOUNS.items())} == set()


def test_a_command_that_talks_to_a_node_loads_no_kernel():
    done = process(code=("-c", "import sys, veilscore.cli; veilscore.cli.load('job'); print(*sys.modules)"))
    assert {"numba", "duckdb", "tenseal"} & set(done.stdout.split()) == set()
    assert "grpc" in done.stdout.split()


def test_help_takes_little_processor_time():
    process("--help")  # compiles what is not compiled

    def cpu_s():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) <= HELP_CPU_S


@pytest.mark.parametrize("verb", RETIRED)
def test_a_retired_verb_still_works_and_says_what_to_type_now(verb):
    old, new = run(verb, "--help"), run("job", verb, "--help")
    assert old.exit_code == new.exit_code == 0
    assert old.stdout == new.stdout
    assert old.stderr == f"`veilscore {verb}` is now `veilscore job {verb}`; type that from now on\n"
    assert new.stderr == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("jobs", "list"), "did you mean `veilscore job`?"),
        (("wach",), "did you mean `veilscore job watch`?"),
        (("verify", "receipt.json"), "did you mean `veilscore evidence verify`?"),
        (("job", "lst"), "did you mean `veilscore job list`?"),
        (("model", "run"), "did you mean `veilscore job run`?"),
        (("quux",), "`veilscore --help` lists what there is"),
        (("consent", "quux"), "`veilscore consent --help` lists what there is"),
    ],
)
def test_an_unknown_word_names_the_nearest(words, hint):
    error = run(*words).exception
    assert isinstance(error, ConfigError)
    unknown = words[: 1 if words[0] not in NOUNS else 2]
    assert str(error) == f"`veilscore {' '.join(unknown)}` is unknown; {hint}"


def test_an_error_is_one_line_and_exit_code_2(tmp_path):
    done = process("jobs")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `veilscore job`?" in done.stderr
    assert len(done.stderr.splitlines()) == 1  # a panel on a terminal (test_cli_messages.py)
    done = process("job", "run", "[/bold]")  # not markup
    assert done.returncode == 2
    assert "job file not found: [/bold]; check the path" in done.stderr
    assert "Traceback" in process("--debug", "job", "run", str(tmp_path / "none.yaml")).stderr
