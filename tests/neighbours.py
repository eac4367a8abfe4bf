"""Two data sets that differ in one firm's record, and how well a bank tells them apart from what it receives.

Each function runs the real roles of an opening in one of the two worlds and returns the likelihood ratio of the second
world against the first, as a bank computes it that knows everything but that record: all other records, its own labels,
weights, rows and columns, which it chose. By Neyman and Pearson no test of the same bytes is better.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from types import SimpleNamespace

import numpy as np
from ideal_protocols import drive, uniform
from scipy import stats

from veilscore.crypto import shares
from veilscore.lattice.params import SCALE_BITS
from veilscore.models import chain_growth, curve
from veilscore.models.best_columns import noise_scale, patterns, plain_scores
from veilscore.models.boosting_form import HolderColumns
from veilscore.models.chain_growth import Chain, ChainColumns, ChainRows
from veilscore.models.counts import BinnedColumns
from veilscore.models.loss import TURN
from veilscore.models.residual import WEIGHT_FACTOR, Tables, cells_sensitivity, plain_sums
from veilscore.models.split_search import Ranked
from veilscore.protocols.best_columns import PatternChunk, bank_best, holder_best
from veilscore.protocols.chains import bank_chains, holder_chain
from veilscore.protocols.curve import bank_counts, lead_counts
from veilscore.protocols.decision_circuit import DecisionCircuit, MeasureCircuit
from veilscore.protocols.decision_counts import bank_step_counts, lead_step_counts
from veilscore.protocols.residual import bank_cells, bank_fit, holder_cells, holder_fit
from veilscore.terms.privacy import best_guess
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

HOLDER = ("tax",)
SURELY = 1 - 1e-6  # level of a bound above which nothing may be shown: a test of it fails by chance that seldom
SURE = 1e-9  # a probability that makes the residual of a bad firm as good as 1


def real(roles, sessions, spend):
    """Run roles on real encryption."""
    return simulate(roles, sessions, spend=spend), None


def sessions(step):
    return {party: Session(f"job/{step}/1", party, "bank", HOLDER) for party in ("bank", "tax")}


def ratio(seen, first, second, sigma):
    """Return the log of the likelihood ratio of values with Gaussian noise: above 0 for the second world."""
    seen, first, second = (np.ravel(part) for part in (seen, first, second))
    return float((((seen - first) ** 2 - (seen - second) ** 2) / (2 * sigma**2)).sum())


# --- the openings ----------------------------------------------------------------------------------------------------


def cells(which, charge, worlds, n_codes, r, W, *, run=drive, spend=lambda _: None, told=None):
    """Sums by cell; worlds : two arrays of codes (n, d); r, W : (n,) or (segments, n); told : takes what was opened."""
    train, n_codes = np.ones(r.shape[-1], bool), np.asarray(n_codes)
    session, codes = sessions("bin"), np.ascontiguousarray(worlds[which], np.uint8)
    d = n_codes.size
    binned = BinnedColumns(
        tuple(f"c{j}" for j in range(d)), codes, n_codes, np.zeros(d, bool), np.full(d, -1), bytes(32)
    )
    roles = {
        "bank": bank_cells(
            session["bank"],
            train,
            lambda: (r, W),
            max_bin=lambda _d: 10,
            sigma=lambda n: charge.sigma(cells_sensitivity(n)),
        ),
        "tax": holder_cells(
            session["tax"],
            lambda _bins: binned,
            r.shape[-1],
            charge,
            n_columns=d,
            check=lambda _train: None,
            n_segments=1 if r.ndim == 1 else len(r),
        ),
    }
    found, _ = run(roles, session, {"tax": spend})
    opened = found["bank"]["tax"][1]
    seen = np.stack([opened.residual, WEIGHT_FACTOR * opened.weight])
    if told is not None:
        told.append(seen)
    by_segment = [
        [plain_sums(w, n_codes, *one) for one in zip(np.atleast_2d(r), WEIGHT_FACTOR * np.atleast_2d(W), strict=True)]
        for w in worlds
    ]
    expected = [np.stack(one, axis=1).reshape(seen.shape) for one in by_segment]
    return ratio(seen, *expected, opened.sigma)


def fit(which, charges, worlds, n_codes, x, r, W, *, run=drive, spend=lambda _: None):
    """Gradient and X'WX for tables x (cells,), one ratio each."""
    session, n_codes = sessions("train"), np.asarray(n_codes)
    made = Tables(n_codes, np.asarray(x, float), np.ones(len(x)), np.ones(n_codes.size))
    codes, at = np.ascontiguousarray(worlds[which], np.uint8), np.concatenate(([0], np.cumsum(n_codes)[:-1]))
    own = uniform(len(x))  # the bank's shares of the sums of r, as the step before leaves them
    sums = shares.encode(plain_sums(codes, n_codes, r, W)[0])
    roles = {
        "bank": bank_fit(session["bank"], {"tax": made}, {"tax": own}, W, charges),
        "tax": holder_fit(
            session["tax"], codes, n_codes, shares.add(sums, shares.times(own, shares.to_ring(np.array(-1)))), charges
        ),
    }
    found, _ = run(roles, session, {"tax": spend})
    opened = found["bank"]["tax"]
    rows = [np.asarray(x)[w + at] for w in worlds]
    triangle = np.triu_indices(n_codes.size)
    blocks = [((one * W[:, None]).T @ one)[triangle] for one in rows]
    return {
        "gradient": ratio(opened.gradient, *(one.T @ r for one in rows), opened.sigma_gradient),
        "moments": ratio(opened.moments[triangle], *blocks, opened.sigma_moments),
    }


def chain_rows(r, W, indicator=0):
    """Rows of a bank whose one column, and whose score, say of each row whether it is the one that is attacked."""
    mine = (np.arange(len(r)) == indicator).astype(np.uint8)[:, None]
    own = HolderColumns(Ranked(np.array([2]), np.array([False]), np.zeros(1, np.int64)), np.arange(2))
    return ChainRows(mine, own, mine[:, 0].astype(np.int64), np.asarray(r, float), np.asarray(W, float), np.ones(1))


def leaves(which, terms, worlds, n_codes, rows, *, effects=(), run=drive, spend=lambda _: None):
    """Leaf sums of a chain, all exchanges; effects : of the first columns, the scorecard that it begins with."""
    session, n_codes, card = sessions("boost"), np.asarray(n_codes), tuple(range(len(effects)))
    columns = ChainColumns(n_codes, np.arange(n_codes.size), card)
    codes = [np.ascontiguousarray(w, np.uint8) for w in worlds]
    moved, found = [np.zeros(len(codes[0]), np.int64) for _ in codes], 0.0

    def begin(_holder, chain):
        nonlocal moved
        steps = chain.begin([np.asarray(e, float) for e in effects], [np.ones(len(e)) for e in effects])
        moved = [steps.taken(w) for w in codes]
        return steps

    def watched(chain, drawn, sums):
        nonlocal found, moved
        expected = [
            np.stack(
                list(chain_growth._plain_sums(drawn, w, n_codes, rows.residual - np.ldexp(m, -SCALE_BITS), rows.weight))
            )
            for w, m in zip(codes, moved, strict=True)
        ]
        found += ratio(np.stack(sums), *expected, terms.sigma)
        if run is drive and terms.exchanges == 1:  # what follows opens nothing
            raise _OpenedError
        steps = grow(chain, drawn, sums)
        moved = [m + steps.taken(w) for w, m in zip(codes, moved, strict=True)]
        return steps

    grow, Chain.grow = Chain.grow, watched
    try:
        roles = {
            "bank": bank_chains(session["bank"], rows, {"tax": columns}, terms, begin if card else None),
            "tax": holder_chain(session["tax"], codes[which], n_codes, terms, card),
        }
        with contextlib.suppress(_OpenedError):
            run(roles, session, {"tax": spend})
    finally:
        Chain.grow = grow
    return found


def columns_apart(n_columns, n_up, n_firms, lead=0.0, n_bad=12):
    """Return two worlds of number columns, and labels, in which the first firm, which is bad, moves all scores by 2.

    n_up columns go up and the others down; before that, the former are `lead` rows ahead. The other bad firms stand
    together in each column, above the middle, so that its sum stays above zero and the absolute value moves as far.
    """
    y, values = np.zeros(n_firms, np.int8), np.arange(1.0, n_firms)
    y[: n_bad + 1] = 1
    worlds = [], []
    for j in range(n_columns):
        up = j < n_up
        sum_of_others = 1.2 + max(0.0, lead if up else -lead)
        start = round(n_firms / 2 * (1 + sum_of_others / n_bad) - n_bad / 2)
        others = np.arange(start, start + n_bad)
        for world, first in zip(worlds, (0.0, n_firms) if up else (n_firms, 0.0), strict=True):
            world.append(np.concatenate([[first], values[others], np.delete(values, others)]))
    return worlds, y


def set_odds(scores, scale, k):
    """Return the probability of every set of k columns as the best, by bit mask of its members.

    Gumbel noise of this scale on scores (n,) makes k draws, one after the other, of those that are left, with
    probabilities proportional to exp(score / scale); a set has the sum over all orders of its members.
    """
    odds = np.exp((np.asarray(scores, float) - np.max(scores)) / scale)
    orders = np.array(list(itertools.permutations(range(odds.size), k)))
    drawn = odds[orders]
    left = odds.sum() - np.cumsum(drawn, axis=1) + drawn
    masks, place = np.unique((1 << orders.astype(object)).sum(axis=1).astype(np.int64), return_inverse=True)
    return dict(zip(masks.tolist(), np.bincount(place, (drawn / left).prod(axis=1)).tolist(), strict=True))


def best_set(which, charge, worlds, y, k, *, run=drive, spend=lambda _: None):
    """Which k columns are best; worlds : two lists of number columns (n,), the firms in the order of labels y."""
    session, train, n = sessions("screen"), np.ones(len(y), bool), len(y)
    weights = [np.concatenate([patterns(column) for column in world]) for world in worlds]
    names = tuple(f"c{j}" for j in range(len(weights[0])))
    chunk = PatternChunk(names, weights[which], np.arange(len(names)))
    found = {}
    roles = {
        "bank": bank_best(session["bank"], y, train, k, lambda f: found.update(f) or bytes(32), lambda: None),
        "tax": holder_best(session["tax"], lambda _: (1, iter([chunk])), n, n, n, k, charge),
    }
    run(roles, session, {"tax": spend})
    kept = int((1 << np.flatnonzero(found["tax"].kept)).sum())
    scale = noise_scale(math.sqrt(charge.mu2), k)
    first, second = (set_odds(plain_scores(w, y, n), scale, k)[kept] for w in weights)
    return math.log(second / first)


class _OpenedError(Exception):
    """All that is opened was."""


def counts(which, charge, totals, bad, limits, *, modulus=TURN, run=drive, spend=lambda _: None):
    """Goods and bads by step; totals : two arrays (n,), which the bank's share and the lead's make up."""
    session = sessions("evaluate")
    lead = uniform(len(bad)) % np.uint64(modulus)
    roles = {
        "bank": bank_counts(session["bank"], totals[which] - lead.astype(np.int64), bad, limits, modulus),
        "tax": lead_counts(session["tax"], lead, charge, modulus),
    }
    found, _ = run(roles, session, {"tax": spend})
    expected = [curve.plain_counts(one, bad, limits) for one in totals]
    return ratio(found["bank"], *expected, charge.sigma(curve.sensitivity()))


def steps(which, charge, totals, bound, *, limits=(0,), run=drive, spend=lambda _: None):
    """Firms by step of a decision of one measure; totals : two arrays (n,), as of `counts`; bound : (n,) the bank's."""
    session, circuit = sessions("size"), DecisionCircuit((MeasureCircuit(limits, TURN),))
    lead = uniform(len(bound)) % np.uint64(TURN)
    roles = {
        "bank": bank_step_counts(session["bank"], circuit, [totals[which] - lead.astype(np.int64)], bound),
        "tax": lead_step_counts(session["tax"], circuit, [lead], charge),
    }
    found, _ = run(roles, session, {"tax": spend})
    reached = [np.minimum(np.searchsorted(limits, one, side="right"), bound) for one in totals]
    expected = [np.bincount(one, minlength=len(limits) + 1).astype(float) for one in reached]
    return ratio(found["bank"], *expected, charge.sigma(curve.sensitivity()))


# --- how often a guess is right --------------------------------------------------------------------------------------


def guesses(draw, n, seed=0):
    """Let a bank guess in which of two worlds it is, n times at even odds; `draw` gives the likelihood ratio in one."""
    rng = np.random.default_rng(seed)
    worlds = rng.integers(0, 2, n)
    said = np.array([draw(int(which)) for which in worlds])
    ties = rng.random(n) < 0.5
    return SimpleNamespace(right=int((np.where(said == 0, ties, said > 0) == worlds).sum()), n=n)


def surely(found, level=0.99):
    """Return the lower bound (Clopper and Pearson) of how often such a guess is right."""
    return float(stats.beta.ppf(1 - level, found.right, found.n - found.right + 1)) if found.right else 0.0


def keeps(draw, mu, n=200):
    """Return whether a bank guesses no better than mu promises.

    The best attack is right exactly as often as promised, so that one round in a hundred looks as if it were better:
    only what looks so in three rounds, the later ones of five times as many guesses, is better (one time in a million).
    """
    return any(surely(guesses(draw, size)) <= best_guess(mu) for size in (n, 5 * n, 5 * n))


def breaks(draw, mu, n=40):
    """Return whether a bank surely guesses better than mu promises, in one of three rounds."""
    return any(surely(guesses(draw, size)) > best_guess(mu) for size in (n, 5 * n, 5 * n))


def empirical_mu(first, second, level=0.999, thresholds=None):
    """Return a lower bound of mu and an estimate, from a statistic in two worlds (n,) and (m,).

    The bound is the largest over thresholds (nine quantiles if none are given) of what false alarms and hits show
    there, with Clopper and Pearson's bounds and Bonferroni's correction: it takes nothing for granted of the shape. The
    estimate is of the area under the curve of hits, Phi(mu / sqrt 2) for Gaussian noise.
    """
    first, second = np.asarray(first), np.asarray(second)
    if thresholds is None:
        thresholds = np.quantile(np.concatenate([first, second]), np.linspace(0.1, 0.9, 9))
    rest = (1 - level) / (2 * thresholds.size)
    alarms, hits = (part.size - np.searchsorted(np.sort(part), thresholds, "right") for part in (first, second))
    alarm = stats.beta.ppf(1 - rest, alarms + 1, first.size - alarms)
    hit = stats.beta.ppf(rest, hits, second.size - hits + 1)
    shown = stats.norm.ppf(np.nan_to_num(hit)) - stats.norm.ppf(np.nan_to_num(alarm, nan=1.0))
    area = stats.mannwhitneyu(second, first).statistic / (first.size * second.size)
    return float(shown.max()), math.sqrt(2) * float(stats.norm.ppf(area))
