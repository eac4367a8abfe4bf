"""Stability of a batch against training: what stays still is stable, and what moves is said to have moved."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from veilscore.errors import ConfigError
from veilscore.files.store import JobStore
from veilscore.tasks.batch_stability import EXPECTED, keep_expected, keep_expected_totals, write_stability

RNG = np.random.default_rng(5)
LIMITS = tuple(range(-2000, 2001, 130))


@pytest.fixture
def context(tmp_path):
    return SimpleNamespace(
        models=lambda: tmp_path / "models", job=SimpleNamespace(name="card"), store=JobStore(tmp_path / "jobs" / "j")
    )


def model(rows=(300, 500, 200)):
    part = SimpleNamespace(columns=(SimpleNamespace(name="limit", rows=rows),), n_codes=np.array([len(rows)]))
    return SimpleNamespace(name="card", parts=(part,), provenance=SimpleNamespace(job_id="card-1"))


def written(context, codes, found, limits=None):
    write_stability(context, model(), codes.astype(np.uint8)[:, None], found, limits)
    return context.store.load_json("stability")


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize(("shift", "verdict"), [(0, "stable"), (900, "moved")])
def test_score_and_columns(context, steps, shift, verdict):
    keep_expected_totals(context, np.rint(RNG.normal(0, 900, 4000)).astype(np.int64))
    units = np.rint(RNG.normal(shift, 900, 3000)).astype(np.int64)
    found = np.searchsorted(LIMITS, units, side="right") if steps else units
    codes = RNG.choice(3, 3000, p=(0.3, 0.5, 0.2) if not shift else (0.1, 0.3, 0.6))
    said = written(context, codes, found, LIMITS if steps else None)
    assert [(row["kind"], row["verdict"]) for row in said["items"]] == [("score", verdict), ("column", verdict)]
    assert 8 <= len(said["score"]["training"]) <= 10
    assert max(said["score"]["training"]) < 0.2  # groups of about the same size
    with (context.store.path / "stability.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["score", "limit"]


def test_noised_counts_and_bands(context):
    keep_expected(context, [-900, 0, 900], [640.4, -3.0, 1370.2, 650.1])
    said = written(context, RNG.choice(3, 400), RNG.integers(0, 3, 400), (-900, 900))
    assert said["score"]["limits"] == [-900, 900]
    assert said["score"]["training"] == pytest.approx([0.2407, 0.515, 0.2443], abs=1e-3)


def test_without_a_hold_out_columns_alone_and_damage_is_said(context):
    assert written(context, RNG.choice(3, 400), RNG.integers(0, 9, 400), LIMITS)["score"] is None
    (context.models() / "card").mkdir(parents=True)
    (context.models() / "card" / EXPECTED).write_text("{")
    with pytest.raises(ConfigError, match="serves reports alone"):
        written(context, RNG.choice(3, 400), RNG.integers(0, 9, 400), LIMITS)
