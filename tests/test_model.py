"""The filed scorecard: points, bands, hash, and what is refused on reading."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from veilscore.errors import ConfigError
from veilscore.models.filed import load_model
from veilscore.models.loss import sigmoid
from veilscore.models.model import Column, PartyPart, Provenance, Scaling, Scorecard


def column(points, *, coefficient=0.7, name="c"):
    n = len(points)
    return Column(
        name=name,
        coefficient=coefficient,
        iv=0.2,
        woe=(0.1,) * n,
        points=tuple(points),
        bad=(1.0,) * n,
        good=(2.0,) * n,
        rows=(3,) * n,
        holdout_rows=(1,) * n,
    )


def make_model(**changes):
    fields = {
        "name": "card",
        "version": "1",
        "scaling": Scaling(decimals=1),
        "intercept": -1.0,
        "base_points": 6000,
        "parts": (
            PartyPart(party="bank", role="bank", map_sha256="aa" * 32, columns=(column([5, -7]), column([0, 1, 2]))),
            PartyPart(party="tax", role="holder", map_sha256="bb" * 32, columns=(column([9, 8, 7]),)),
        ),
        "bands": {"A": 600.0, "B": 550.5},
        "provenance": Provenance(
            job_id="card-00000000-0123456789abcdef",
            job_sha256="cc" * 32,
            purpose="credit",
            trained_at="2026-01-01T00:00:00+00:00",
            veilscore="0.1.0",
            n_train=10,
            n_holdout=3,
            n_openings=4,
            converged=True,
        ),
        **changes,
    }
    return Scorecard(**fields)


def test_scaling_by_hand():
    scaling = Scaling(base_score=600, base_odds=50, pdo=20, decimals=1)
    at_base = -math.log(50)
    units = scaling.offset - scaling.factor * at_base
    assert units == pytest.approx(6000)
    assert scaling.offset - scaling.factor * (at_base - math.log(2)) == pytest.approx(6200)
    assert scaling.log_odds_bad(np.array([6000, 6200])) == pytest.approx([at_base, at_base - math.log(2)])


@given(st.integers(-20_000, 20_000), st.integers(0, 3))
def test_probability_falls_with_the_score(units, decimals):
    model = make_model(scaling=Scaling(decimals=decimals))
    risk = model.probability(np.array([units, units + 10]))
    assert 0 <= risk[1] <= risk[0] <= 1
    log_odds = -(units / 10**decimals - model.scaling.base_score) * math.log(2) / 20 - math.log(50)
    assert risk[0] == pytest.approx(sigmoid(log_odds), rel=1e-9)


def test_units_and_parts():
    model = make_model()
    codes = np.array([[0, 2], [1, 0]], np.uint8)
    assert model.own_units(codes).tolist() == [6000 + 5 + 2, 6000 - 7 + 0]
    assert model.score(np.array([6007])).tolist() == [600.7]
    assert model.part("tax").points.tolist() == [9, 8, 7]
    assert model.part("bank").n_codes.tolist() == [2, 3]
    with pytest.raises(ConfigError, match="no part of court; it has bank, tax"):
        model.part("court")


def test_bands():
    model = make_model()
    assert [model.band(s) for s in (600.0, 599.9, 550.5, 550.4)] == ["A", "B", "B", "below all bands"]
    assert make_model(bands={}).band(700.0) == ""


def test_saved_and_read_back(tmp_path):
    model = make_model()
    path = model.save(tmp_path / "model.json")
    assert path.stat().st_mode & 0o777 == 0o600
    again = load_model(path)
    assert again == model
    assert again.sha256 == model.sha256
    assert make_model(intercept=-1.0000001).sha256 != model.sha256


def test_a_changed_model_is_refused(tmp_path):
    path = make_model().save(tmp_path / "model.json")
    body = json.loads(path.read_text())
    body["model"]["parts"][0]["columns"][0]["points"][0] += 1
    path.write_text(json.dumps(body))
    with pytest.raises(ConfigError, match=r"changed after training.*restore it from backup"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("sha256"),
        lambda body: body.pop("model"),
        lambda body: body["model"].update(extra=1),
        lambda body: body["model"].update(format="veilscore-scorecard/9"),
        lambda body: body["model"].update(parts="none"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, change):
    path = make_model().save(tmp_path / "model.json")
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(ConfigError, match="restore it from backup"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[1]"])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a Veilscore model"):
        load_model(path)


def test_an_absent_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="veilscore model list"):
        load_model(tmp_path / "none.json")


@pytest.mark.parametrize("field", [{"pdo": 0}, {"base_odds": -1}, {"decimals": 4}, {"typo": 1}])
def test_impossible_scaling_is_refused(field):
    with pytest.raises(ValidationError):
        Scaling(**field)
