"""The noisy choice of the best k is audited over its whole trade-off curve: exactly, and by draws of the chosen set.

A bank that knows all but one record sees a set; of two neighbouring data sets, the likelihood ratio of every set is
known. Cut at each of its values in turn, it gives every corner of the trade-off curve, and the largest mu of a corner
is what the choice tells. One firm may move each score by `SENSITIVITY` up or down.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from neighbours import SURELY, columns_apart, empirical_mu, set_odds
from scipy import stats

from veilscore.models import best_columns as models
from veilscore.models.best_columns import SENSITIVITY, noise_scale, patterns, plain_scores
from veilscore.protocols import best_columns as protocol
from veilscore.wire.protocol import Charge

N_ROWS = 3000
CASES = {  # k, columns, of which go up
    "one of two": (1, 2, 1),
    "one against forty": (1, 40, 1),
    "half of forty go up": (1, 40, 20),
    "two of three": (2, 3, 1),
    "two of ten": (2, 10, 5),
    "two against thirty": (2, 30, 2),
    "five of six": (5, 6, 3),
    "five of nine": (5, 9, 5),
}
SHAPES = ("even", "tied before", "far behind")


def mu_of(first, second):
    """Return the largest mu of all corners of the trade-off curve of two distributions over sets."""
    p, q = (np.array([one[mask] for mask in first]) for one in (first, second))
    order = np.argsort(q / p)[::-1]  # rejected first where the second world is likelier
    alarm, hit = np.cumsum(p[order])[:-1], np.cumsum(q[order])[:-1]
    inside = (alarm > 1e-12) & (hit < 1 - 1e-12)  # beyond, sums of doubles say nothing
    return float((stats.norm.ppf(hit[inside]) - stats.norm.ppf(alarm[inside])).max())


def even_lead(k, n, up, scale):
    """Return by how much columns that go up lead before, so that they have half of the draws on the way."""
    return scale * math.log((n - up) / up) - 2.0


def lead_of(shape, k, n, up, scale):
    return {"even": even_lead(k, n, up, scale), "tied before": 0.0, "far behind": -6.0}[shape]


# --- exactly ---------------------------------------------------------------------------------------------------------


def told(scores, moves, scale, k):
    return mu_of(set_odds(scores, scale, k), set_odds(np.asarray(scores) + moves, scale, k))


@pytest.mark.parametrize("mu", [0.5, 3.0])
@pytest.mark.parametrize("case", CASES)
def test_no_set_tells_more_than_is_charged(case, mu):
    """Columns that go up lead the others by any distance; moves are the largest that one firm makes."""
    k, n, up = CASES[case]
    scale, moves = noise_scale(mu, k), np.where(np.arange(n) < up, SENSITIVITY, -SENSITIVITY)
    even = even_lead(k, n, up, scale)
    found = [
        told(np.where(np.arange(n) < up, lead, 0.0), moves, scale, k)
        for lead in even + scale * np.linspace(-6, 6, 7 if n > 8 else 25)
    ]
    assert max(found) <= mu + 1e-9
    if k == 1 and mu < 1.0:
        assert max(found) >= 0.97 * mu, "these are not the worst two records"
    if k < n - 1 and mu < 1.0:  # a choice of all but one is a choice of one, with the noise of many
        assert told(np.where(np.arange(n) < up, even, 0.0), moves, scale / 2, k) > mu, "half the noise tells more"


def test_no_scores_tell_more_than_is_charged():
    """Any scores, any directions: the corners of what one firm can move, for few columns all of them."""
    rng = np.random.default_rng(8)
    for _ in range(300):
        k, n, mu = int(rng.integers(1, 4)), int(rng.integers(4, 7)), float(rng.choice([0.3, 1.0, 2.0]))
        scale = noise_scale(mu, k)
        scores = rng.normal(0, rng.choice([0.0, 1.0, 4.0]) * scale, n)
        moves = SENSITIVITY * rng.choice([-1.0, 1.0], n) if rng.random() < 0.8 else rng.uniform(-2, 2, n)
        assert told(scores, moves, scale, k) <= mu + 1e-9


def test_all_subsets_have_their_probability():
    rng = np.random.default_rng(1)
    scores, noise = np.array([1.0, 0.5, 2.0, 2.0]), rng.gumbel(0, 1.5, (200_000, 4))
    best = np.argsort(-(scores + noise), axis=1)[:, :2]
    for mask, odds in set_odds(scores, 1.5, 2).items():
        members = {j for j in range(4) if mask >> j & 1}
        drawn = np.mean([set(one) == members for one in best[:20_000].tolist()])
        assert drawn == pytest.approx(odds, abs=0.015)


# --- by draws of the holder's own noise ------------------------------------------------------------------------------


def drawn_sets(scores, charge, k, draws):
    """Choose k of scores (n,) so often, with the noise that a holder draws, in the units in which it adds it."""
    n = scores.size
    noise = protocol._noise_units(charge, k, n * draws, N_ROWS, N_ROWS + 1000, N_ROWS).reshape(draws, n)
    units = np.rint(scores * (N_ROWS << models.LABEL_BITS)).astype(np.int64)
    best = np.argpartition(-(units + noise.astype(np.int64)), k - 1, axis=1)[:, :k]
    return (np.int64(1) << best).sum(axis=1)


def shown_by_draws(case, shape, draws, level, mu=1.0):
    """Return what is shown by draws in two worlds that are made of tables, at every threshold of the ratio there is."""
    k, n, up = CASES[case]
    charge, scale = Charge("columns", "all", mu**2), noise_scale(mu, k)
    worlds, y = columns_apart(n, up, N_ROWS, lead_of(shape, k, n, up, scale))
    scores = [plain_scores(np.concatenate([patterns(column) for column in world]), y, N_ROWS) for world in worlds]
    assert np.abs(scores[1] - scores[0]).max() <= SENSITIVITY
    assert np.abs(scores[1] - scores[0]).min() > 0.98 * SENSITIVITY
    odds = [set_odds(one, scale, k) for one in scores]
    masks = np.array(sorted(odds[0]))
    ratio = np.array([math.log(odds[1][m] / odds[0][m]) for m in masks.tolist()])
    sets = [drawn_sets(one, charge, k, draws) for one in scores]
    seen = [ratio[np.searchsorted(masks, one)] for one in sets]
    thresholds = np.unique(np.round(ratio, 9)) + 1e-9
    return empirical_mu(*seen, level, thresholds[:-1])[0], mu_of(*odds)


QUICK = {("one of two", "even"), ("two of ten", "even"), ("five of nine", "tied before")}


@pytest.mark.parametrize(
    ("case", "shape"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in itertools.product(CASES, SHAPES)],
)
def test_draws_of_the_chosen_set_show_no_more_than_is_charged(case, shape):
    draws = 40_000 if (case, shape) in QUICK else 200_000
    shown, exact = shown_by_draws(case, shape, draws, SURELY)
    assert shown <= 1.0
    assert shown <= exact + 1e-6, "the noise that was drawn is not of the distribution that the proof takes"


@pytest.mark.parametrize("case", ["one of two", "two of ten", "five of nine"])
def test_draws_with_half_the_noise_show_more(monkeypatch, case):
    monkeypatch.setattr(protocol, "gumbel", lambda scale, size: models.gumbel(scale / 2, size))
    shown, _ = shown_by_draws(case, "even", 40_000, 0.999)
    assert shown > 1.0
