"""`veilscore explain`: no key of a file that people write is left out, and docs/reference.md is what it prints."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.cli.reference import SUBJECTS, TITLES, everything, sections
from veilscore.errors import ConfigError
from veilscore.terms.federation import Federation
from veilscore.terms.job import Job
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.parameters import PARAMETERS

PAGE = Path(__file__).parents[1] / "docs" / "reference.md"
SHORTENED = {"members", "statements"}  # written by commands; an example of all of it would fill a page


def explain(*words, width="80"):
    result = CliRunner().invoke(app, ["explain", *words], env={"COLUMNS": width, "TERM": "dumb"})
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_model_of_the_files_is_explained():
    reached = {Job, NodeConfig, Federation}
    names = {model.__name__ for model in reached}.union(*(m.model_json_schema().get("$defs", ()) for m in reached))
    assert names <= {model.__name__ for model in TITLES}
    shown = [section.title for _, found in everything() for section in found]
    assert sorted(shown) == sorted(TITLES.values())


def test_every_key_has_a_meaning_and_a_valid_example():
    shown = {(s.title, key.name): key for _, found in everything() for s in found for key in s.keys}
    # other test files of this process may have added a task of their own
    for model in (model for model in TITLES if model.__module__.startswith("veilscore.")):
        for name in inspect.get_annotations(model).keys() & model.model_fields.keys():
            field = model.model_fields[name]
            key = shown.pop((TITLES[model], field.alias or name))
            assert key.meaning, f"{model.__name__}.{name} has no description"
            assert key.type != "value"
            value = yaml.safe_load(key.example)
            assert list(value) == [field.alias or name]
            value = {name: next(iter(value.values()))}
            if model is Job and name == "parameters":
                PARAMETERS["train_scorecard"].model_validate(value[name])  # of the task that the example names
            elif name not in SHORTENED:
                TypeAdapter(Annotated[field.annotation, None, *field.metadata]).validate_python(value[name])
            assert value[name] not in (None, [], {}), f"{model.__name__}.{name} needs an entry in _EXAMPLES"
    assert {title for title, _ in shown} <= {"parameters of toy"}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_fits_80_columns_and_names_every_key(subject):
    text = explain(subject)
    assert max(map(len, text.splitlines())) <= 80
    first = [line.split(" ", maxsplit=1)[0] for line in text.splitlines()]
    for model in SUBJECTS[subject]:
        assert {field.alias or name for name, field in model.model_fields.items()} <= set(first)


@pytest.mark.parametrize("task", PARAMETERS)
def test_a_task_shows_each_of_its_keys_once_with_its_own_default(task):
    names = [key.name for section in sections("job", task) for key in section.keys]
    assert sorted(names) == sorted(PARAMETERS[task].model_fields)
    assert f"parameters of {task}" in explain("job", task)


def test_what_it_says_of_one_key():
    keys = {key.name: key for section in sections("job", "train_boosting") for key in section.keys}
    assert (keys["max_bin"].type, keys["max_bin"].default) == ("whole number, 2 to 64", "32")
    assert keys["holdout_fraction"].type == "number, at least 0 and below 1"
    assert keys["holdout_from"].type == "date, or null"
    assert keys["tree_columns"].type == "paired or own"
    assert keys["columns"].type == "for each name: mapping (see columns.PARTY of a job's parameters)"
    assert "share of rows that each tree is grown on" in explain("job", "train_boosting", width="150")


def test_the_reference_is_what_the_command_prints():
    command = [sys.executable, "-m", "veilscore", "explain", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert PAGE.read_text(encoding="utf-8") == printed, (
        "run `veilscore explain --markdown > docs/reference.md` and commit it"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("job", "train"), "train_scorecard, train_boosting"),
        (("node", "train_stack"), "only job is followed by another word"),
        (("job", "--markdown"), "or --markdown for all"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(ConfigError, match=message):
        explain(*words)
