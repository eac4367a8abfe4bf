"""Whatever text or bytes come from outside, each parser gives a value or an error of the tree, never another one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from veilscore.errors import ConfigError, VeilscoreError
from veilscore.terms.federation import load_federation
from veilscore.terms.job import parse_job
from veilscore.terms.settings import parse_yaml

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_SCALARS = st.sampled_from(
    ["2026-99-99", "2026-01-01 10:00:00 +99:99", "0b_", "0x_", "0o8", "1:99:99", "~", ".nan", "1e999", "<<", "=", "\\0"]
    + [
        f"!!{tag} {text}"
        for tag in ("int", "float", "bool", "timestamp", "binary", "map", "set", "omap", "null", "x")
        for text in ("x", "", "''", "[a]", "{a: b}")
    ]
)
_HUGE = f"0x{'f' * 4000}"
_PARAMETERS = ["C", "bands", "columns", "scorecard", "scorecard_grid", "holdout_from", "model", "monotone"]
_YAML = st.recursive(
    _SCALARS | st.text(max_size=12) | st.integers().map(str),
    lambda inner: st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
    | st.dictionaries(inner, inner, max_size=3).map(lambda d: f"{{{', '.join(f'{k}: {v}' for k, v in d.items())}}}"),
    max_leaves=6,
)  # fmt: skip


@few
@given(st.text() | _YAML.map("a: {}".format) | _YAML | st.tuples(_YAML, _YAML).map("{0[0]}: {0[1]}".format))
@example("a: 2026-99-99")
@example("a: 0b_")
@example("a: !!bool x")
@example("!!map x")
@example("a: !!timestamp x")
@example("\ud800: 1")
@example("a: " + "9" * 5000)
@example("a: 1" + ":1" * 400_000)
@example("a: " + "[" * 5000)
def test_yaml(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_yaml(text, "node.yaml"), dict)


def test_yaml_says_where():
    with pytest.raises(ConfigError, match=r"job\.yaml line 2: not valid YAML: a value cannot be read as timestamp"):
        parse_yaml("a: 1\nb: 2026-99-99", "job.yaml")


JOB = """
name: kz
purpose: credit
task: {task}
bank: bank
holders: [tax]
datasets: {{bank: loans, tax: filings}}
parameters: {{{key}: {value}}}
"""


@few
@given(
    st.sampled_from(["train_scorecard", "select_model", "score_batch", "screen_features", "x"]),
    st.sampled_from(_PARAMETERS) | _YAML,
    _YAML | st.sampled_from([f"{{C: [{_HUGE}]}}", f"{{A: {_HUGE}}}", r'{"\ud800": 1}', "{C: [.nan]}"]),
)
def test_jobs(task, key, value):
    try:
        job = parse_job(JOB.format(task=task, key=key, value=value))
    except VeilscoreError:
        return
    assert len(job.sha256) == 32
    assert job.steps


@few
@given(text=st.text() | _YAML | _YAML.map("members: [{}]".format))
def test_federation_files(tmp_path, text):
    path = tmp_path / "federation.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"federation\.yaml"):
        load_federation(path)
