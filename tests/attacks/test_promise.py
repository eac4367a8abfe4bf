"""The promise is audited: each kind of opening is drawn for two neighbouring data sets, and mu is read off the bytes.

The accounted charge has to be at least what a likelihood ratio shows, and not much more for the worst two records, lest
an audit of harmless ones pass for anything. With half the noise each of these audits fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from ideal_protocols import drive, use_ideal, use_real
from local_jobs import job
from lying_parties import sending_other_values
from neighbours import (
    SURE,
    SURELY,
    best_set,
    breaks,
    cells,
    chain_rows,
    columns_apart,
    counts,
    empirical_mu,
    fit,
    keeps,
    leaves,
    ratio,
    real,
    steps,
)

from veilscore.data import fixed_bins
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.panel import by_firm
from veilscore.data.table import Table, make_table
from veilscore.errors import IdError, MessageError, RefusedError
from veilscore.models.chain_growth import AT_ONCE
from veilscore.protocols import best_columns, residual
from veilscore.protocols.align import AlignLimits, bank_align, holder_align
from veilscore.tasks import best_columns as screening
from veilscore.tasks import chains as chain_tasks
from veilscore.tasks import curve as curve_tasks
from veilscore.tasks import mining, private_stack, sizing
from veilscore.tasks import residual as card_tasks
from veilscore.tasks.panel import checked_firms, digests_by_firm, numbered_once, refuse_split_firms, shared_weights
from veilscore.tasks.table import FIRST_BINS, charges_of
from veilscore.tasks.task import EXACT
from veilscore.terms.job import known_tasks
from veilscore.terms.mining import MineRules
from veilscore.terms.parameters import PARAMETERS, Sampled
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Charge, Session

CARD = job(disclosure="private", holdout_scores=False).parameters
TREES = job("train_boosting", disclosure="private").parameters
SHARED = job(disclosure="private", rows="firm_dates", rows_per_firm=36, firm_weight="shared").parameters


def two(first, second, n=6):
    """Codes of n firms of which the first has one record or another."""
    others = np.ones((n, len(first)), int)
    return tuple(np.vstack([[record], others[1:]]) for record in (first, second))


def alone(p, y, n=6):
    """Residuals and weights of n firms of which the others are sure."""
    risk = np.full(n, SURE)
    risk[0] = p
    return (np.arange(n) == 0) * y - risk, risk * (1 - risk)


MU = 1.0  # audited at a year's limit in one job: the same code with less noise, so that fewer draws show more
CHARGES = card_tasks.charges(MU**2)
CURVE = curve_tasks.charge_of(MU)
SEGMENTS = {part: mining.charge_of(MineRules(mu=MU), part) for part in ("train", "holdout")}
TERMS = replace(chain_tasks.terms(TREES.model_copy(update={"mu": MU})), n_trees=AT_ONCE)  # noise grows as sums do


def draw_cells(which):
    """A bad firm that was a sure good goes from a cell to another in each of two columns."""
    return {"cells": cells(which, CHARGES["cells"], two((0, 0), (2, 1)), [3, 3], *alone(SURE, 1))}


def draw_both_sums(which):
    """At p = 0.62 the sum of W moves too, as far as it does beside that of r."""
    return {"cells": cells(which, CHARGES["cells"], two((0,), (1,)), [3], *alone(0.62, 0))}


def draw_segments(which):
    """The firm is a segment of the bank's of its own, all others are in the other two."""
    r, W = alone(SURE, 1)
    inside = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    opened = cells(which, SEGMENTS["train"], two((0, 0), (2, 1)), [3, 3], inside * r, inside * W)
    return {charge.opening: opened for charge in SEGMENTS.values()}


def draw_fit(which):
    """A firm goes from one end of a table to the other, with the largest residual and the largest weight there are."""
    r, W = alone(SURE, 1)
    W[0] = 0.25
    return fit(which, CHARGES, two((0,), (1,)), [2], np.array([0.8, 0.0]), r, W)


def draw_opposite_signs(which):
    """Two records differ in the sign of one of two columns: their product moves most of X'WX."""
    x = np.array([0.4, -0.4, 0.4, -0.4])
    return {"moments": fit(which, CHARGES, two((0, 0), (0, 1)), [2, 2], x, *alone(0.5, 1))["moments"]}


def draw_leaves(which):
    """Every tree has a leaf that holds the firm alone."""
    return {"leaves": leaves(which, TERMS, two((0, 0), (1, 1), 4), [3, 3], chain_rows(*alone(SURE, 1, 4)))}


def draw_curve(which):
    """The firm is in the lowest step or the highest."""
    totals = tuple(np.array([total, 10, 20]) for total in (-500, 500))
    return {"curve": counts(which, CURVE, totals, np.array([True, False, False]), (-100, 100))}


SIZING = sizing.charge_of(job("size_decision", decision="limit").parameters.model_copy(update={"mu": MU}))


def draw_steps(which):
    """The bank's own bound keeps all firms but one from every step: the counts are about that one alone."""
    totals = tuple(np.array([total, 10, 20, 30]) for total in (-500, 500))
    return {SIZING.opening: steps(which, SIZING, totals, np.array([1, 0, 0, 0]))}


STACK = job("train_stack", disclosure="private").parameters.model_copy(update={"mu": MU})
STACK_TERMS = replace(private_stack.chain_terms(STACK), n_trees=AT_ONCE)
STACK_CARD = private_stack.card_charges(STACK)


def draw_leaves_on_a_card(which):
    """A chain begins with effects that pull the firm's two records apart, as far as its residual may go."""
    effects = [[4.0, -4.0, 0.0], [4.0, -4.0, 0.0]]
    worlds, rows = two((0, 0, 0), (1, 1, 1), 4), chain_rows(*alone(0.5, 1, 4))
    return {"stack leaves": leaves(which, STACK_TERMS, worlds, [3, 3, 3], rows, effects=effects)}


def draw_card_of_a_stack(which):
    """The cells of a stack's scorecard, at their part of its charge."""
    return {"stack cells": cells(which, STACK_CARD["cells"], two((0, 0), (2, 1)), [3, 3], *alone(SURE, 1))}


COLUMNS = screening.charge_of(job("screen_features", disclosure="private").parameters.model_copy(update={"mu": MU}))
PLACES = columns_apart(2, 1, 300, n_bad=4)


def draw_best_column(which):
    """One of two columns is chosen, of which the firm moves one up and one down by two rows."""
    return {"columns": best_set(which, COLUMNS, *PLACES, 1)}


BINS_MU = 0.5
ROWS = 3000


def branches(value):
    """A table of two values far apart on all grids, and a firm that has one or the other."""
    x = np.where(np.arange(ROWS) % 2, 1.0, -300.0)
    x[0] = value
    return Table(np.array([f"f{i}" for i in range(ROWS)]), {"x": x}, source="made up")


WORLDS = branches(1.0), branches(-300.0)


def counts_of_bins(table, **patched):
    """All counts of a version of bins, and the deviation of their noise.

    The bank gets numbers of codes and codes by bins, which are made of these counts alone: it learns no more.
    """
    seen, parts_of = [], fixed_bins._parts_of

    def watched(whole, noised):
        seen.append(noised.astype(float))
        return parts_of(whole, noised)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_bins, "_parts_of", watched)
        for name, value in patched.items():
            patch.setattr(fixed_bins, name, value)
        made = FixedBins.make(table, "2026-11-30", BINS_MU)
    return np.concatenate(seen), made.sigma


@cache
def plain_counts_of_bins():
    return [counts_of_bins(w, discrete_gaussian=lambda _, size: np.zeros(size, np.int64))[0] for w in WORLDS]


def draw_bins(which):
    found, sigma = counts_of_bins(WORLDS[which])
    return {"bins": ratio(found, *plain_counts_of_bins(), sigma)}


@dataclass(frozen=True)
class Audit:
    """Draws openings by name, so often in each of two worlds, and how much of their charge these two records use."""

    draw: Callable[[int], dict[str, float]]
    n: int = 5000
    least: float = 0.9
    least_mu2: float = 1.0  # of its openings
    cut: float = 2.0  # part of the noise with which it has to fail; less where two records use little of the charge

    @property
    def to_show_half(self) -> int:
        """Draws that show half the noise: 1,000 would fail at mu = 0.39 one time in thirty, 2,700 hardly ever."""
        return max(1000, round(400 / self.least_mu2))


CHARGED = {
    **CHARGES,
    **{charge.opening: charge for charge in SEGMENTS.values()},
    "leaves": TERMS.charge,
    "curve": CURVE,
    SIZING.opening: SIZING,
    "bins": Charge("bins", "all", BINS_MU**2),
    "columns": COLUMNS,
    "stack cells": STACK_CARD["cells"],
    "stack leaves": STACK_TERMS.charge,
}
AUDITS = {
    "cells": Audit(draw_cells),
    "cells of r and W": Audit(draw_both_sums, 1500),
    "cells by segment": Audit(draw_segments, 1500),
    "gradient and moments": Audit(draw_fit, least_mu2=CHARGES["moments"].mu2),
    "moments of opposite signs": Audit(draw_opposite_signs, 1000, least_mu2=CHARGES["moments"].mu2),
    "leaves": Audit(draw_leaves),
    "curve": Audit(draw_curve),
    "counts by step": Audit(draw_steps, 1000),
    "bins": Audit(draw_bins, least=0.85, least_mu2=BINS_MU**2),  # ten of the eleven counts that are charged
    "best column": Audit(draw_best_column, 1000, least=0.55),  # two outcomes: less area under the same point of a curve
    "cells of a stack": Audit(draw_card_of_a_stack, 1000, least_mu2=STACK_CARD["cells"].mu2),
    "leaves of a stack": Audit(draw_leaves_on_a_card, 1000, least=0.5, cut=4),
}
ELSEWHERE = {EXACT.opening: "no promise: the account is void"}  # opening -> where it is audited, or why not


@pytest.fixture(autouse=True)
def ideal(monkeypatch):
    use_ideal(monkeypatch)


def halve_noise(monkeypatch, cut=2.0):
    for module, name in ((residual, "discrete_gaussian"), (fixed_bins, "discrete_gaussian"), (best_columns, "gumbel")):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda scale, size, whole=whole: whole(scale / cut, size))


def audited(audit, n, level=0.999):
    """What a bank learns by opening: a lower bound of mu and an estimate."""
    found = [[audit.draw(which) for _ in range(n)] for which in (0, 1)]
    return {name: empirical_mu(*([one[name] for one in world] for world in found), level) for name in found[0][0]}


def test_every_opening_that_a_job_is_charged_for_has_an_audit():
    """An opening with a new name fails here until there is a line for it above."""
    noised = [task for task in known_tasks() if "mu" in PARAMETERS[task].model_fields]
    assert len(noised) == 7
    at_wish = [task for task in noised if "disclosure" in PARAMETERS[task].model_fields]
    jobs = [job(task, disclosure=disclosure) for task in at_wish for disclosure in ("exact", "private")]
    needed = {"size_decision": {"decision": "limit"}}
    jobs += [job(task, **needed.get(task, {})) for task in noised if task not in at_wish]
    jobs.append(job(disclosure="private", reuse="card"))
    named = {charge.opening for one in jobs for charge in charges_of(one.parameters)} | {FIRST_BINS[0].opening}
    assert named <= CHARGED.keys() | ELSEWHERE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", AUDITS)
def test_a_bank_learns_as_much_as_is_charged_and_no_more(name):
    audit = AUDITS[name]
    for opening, (shown, about) in audited(audit, audit.n, SURELY).items():
        mu = math.sqrt(CHARGED[opening].mu2)
        assert shown <= mu, f"{opening}: mu {shown:.3f} is shown (about {about:.3f}), charged is {mu:.3f}"
        error = 1.45 / math.sqrt(audit.n)  # of the estimate, for two samples of this size
        assert about > audit.least * mu - 5 * error, f"{opening}: {about:.3f} of {mu:.3f}; not the worst two records"


@pytest.mark.slow
@pytest.mark.parametrize("name", AUDITS)
def test_half_the_noise_fails_the_audit(monkeypatch, name):
    halve_noise(monkeypatch, AUDITS[name].cut)
    audit = AUDITS[name]
    for draws in (audit.to_show_half, 3 * audit.to_show_half):
        found = audited(audit, draws)
        unshown = {one for one, (shown, _) in found.items() if shown <= math.sqrt(CHARGED[one].mu2)}
        if not unshown:
            break
    assert not unshown


def test_a_quick_audit_of_cells(monkeypatch):
    """What the long ones do, in few draws: enough to find half the noise."""
    mu = math.sqrt(CHARGED["cells"].mu2)
    assert audited(AUDITS["cells"], 400, SURELY)["cells"][0] <= mu
    halve_noise(monkeypatch)
    assert audited(AUDITS["cells"], 700)["cells"][0] > mu


def test_ideal_encryption_gives_what_the_real_gives():
    """Without noise to speak of, each opening tells the same on both, in both worlds."""
    quiet = {name: replace(charge, mu2=1e14) for name, charge in CHARGED.items()}
    terms, totals, bad = replace(TERMS, charge=quiet["leaves"]), ([-500, 10], [500, 20]), np.array([True, False])
    totals, worlds, rows = tuple(map(np.array, totals)), two((0, 0), (2, 1)), alone(0.3, 1)
    ways = (
        lambda which, run: cells(which, quiet["cells"], worlds, [3, 3], *rows, run=run),
        lambda which, run: fit(which, quiet, worlds, [3, 3], np.arange(6) / 6, *rows, run=run)["gradient"],
        lambda which, run: fit(which, quiet, worlds, [3, 3], np.arange(6) / 6, *rows, run=run)["moments"],
        lambda which, run: leaves(which, terms, worlds, [3, 3], chain_rows(*rows), run=run),
        lambda which, run: counts(which, quiet["curve"], totals, bad, (-100, 15, 100), run=run),
        lambda which, run: steps(which, quiet[SIZING.opening], totals, np.array([2, 1]), limits=(0, 15), run=run),
    )
    for draw in ways:
        for which in (0, 1):
            found = draw(which, drive)
            with pytest.MonkeyPatch.context() as patch:
                use_real(patch)
                assert draw(which, real) == pytest.approx(found, rel=0.05)  # dither moves a sum of one by 0.004
            assert (found > 0) == which


# --- the unit is the firm --------------------------------------------------------------------------------------------


def panel(which, stated, n_rows=36):
    """A firm of so many rows, bad in all of them, in one cell or another; noise for `stated` rows of a firm."""
    n = n_rows + 4
    worlds = tuple(np.where(np.arange(n)[:, None] < n_rows, code, 2) for code in (0, 1))
    p = np.full(n, SURE)
    r = (np.arange(n) < n_rows) - p
    charge = card_tasks.charges(CARD.mu**2, stated)["cells"]
    return cells(which, charge, worlds, [3], r, p * (1 - p))


def test_a_firm_of_36_rows_is_guessed_no_better():
    """The noise follows the most rows that one firm has; noise for one row gives the firm away."""
    mu = math.sqrt(card_tasks.charges(CARD.mu**2)["cells"].mu2)
    assert keeps(lambda which: panel(which, 36), mu)
    assert breaks(lambda which: panel(which, 1), mu)


@pytest.mark.parametrize("task", [task for task in known_tasks() if issubclass(PARAMETERS[task], Sampled)])
def test_every_opening_has_noise_for_all_rows_of_a_firm(task):
    """Deviations grow with the rows that a firm may have, in whatever a job opens; the account pays the same."""
    private = {"disclosure": "private"} if "disclosure" in PARAMETERS[task].model_fields else {}
    one, many = (charges_of(job(task, **private, rows="firm_dates", rows_per_firm=k).parameters) for k in (1, 36))
    assert one
    assert [c.sigma(1.0) for c in many] == pytest.approx([36 * c.sigma(1.0) for c in one])
    assert [c.mu2 for c in many] == [c.mu2 for c in one]


def test_months_of_a_firm_that_share_its_weight_move_sums_as_one_row_does():
    """Whatever the bank's weights: after scaling, those of a firm's training rows add up to at most 1."""
    rng = np.random.default_rng(4)
    firm = np.repeat(np.arange(9), rng.integers(1, 37, 9))
    train = firm < 7
    weight = shared_weights(rng.uniform(0.1, 5, firm.size), firm, train)
    scaled = weight[train] / by_firm(weight[train], firm[train]).max()
    assert by_firm(scaled, firm[train]).max() == pytest.approx(1.0)
    assert card_tasks.charges_of(SHARED)["cells"].sigma(1.0) == card_tasks.charges_of(CARD)["cells"].sigma(1.0)


def aligned(numbers, firms, *, rows_per_firm=36):
    """Which rows a holder takes for known by the bank's numbers of firms; it knows those whose firm is not empty."""
    row_of = np.where(np.array([bool(f) for f in firms]), np.arange(len(firms)), -1)
    p = job(disclosure="private", rows="firm_dates", rows_per_firm=rows_per_firm).parameters
    return (numbered_once(checked_firms(np.array(numbers), p, "bank"), row_of, np.array(firms)) >= 0).tolist()


def test_a_firm_whose_months_are_numbered_as_of_several_firms_is_unknown():
    """No error: only a known firm would cause it, so that a bank would learn who is known."""
    assert aligned([0, 0, 1, 2, 2], ["a", "a", "b", "", ""]) == [True, True, True, False, False]
    assert aligned([0, 1, 2], ["a", "a", "b"]) == [False, False, True]
    assert aligned([0, 1, 2], ["", "", "b"]) == [False, False, True]
    assert aligned([0, 0, 0], ["a", "a", "b"]) == [True, True, True]  # counted as one: less than they are
    for numbers in ([1, 1, 0], [0, 2, 2], [5, 5, 6]):
        with pytest.raises(MessageError, match="in the order"):
            aligned(numbers, ["", "", ""])


def test_whether_a_firm_is_known_moves_rows_of_that_firm_alone():
    """However a bank numbers rows: else the noise for one firm's rows would have to hide those of others too."""
    rng = np.random.default_rng(12)
    for _ in range(300):
        firms, numbers = rng.integers(0, 5, 12), np.unique(rng.integers(0, 6, 12), return_inverse=True)[1]
        order = np.argsort(np.unique(numbers, return_index=True)[1])
        numbers = np.argsort(order)[numbers]  # in the order in which they come
        names = np.array(["a", "b", "c", "d", "e"])[firms]
        with_it, without = (np.array(aligned(numbers, np.where(names == gone, "", names))) for gone in ("", "c"))
        assert (with_it == without)[names != "c"].all()


def test_refusals_of_panels_do_not_tell_who_is_known():
    """A firm with too many rows, or both held out and trained on, is refused alike where nobody knows it."""
    for firms in (["a", "a", "b"], ["", "", ""]):
        with pytest.raises(RefusedError, match="rows_per_firm: 1"):
            aligned([0, 0, 1], firms, rows_per_firm=1)
    with pytest.raises(RefusedError, match="hold out whole firms"):
        refuse_split_firms(np.array([0, 0, 1]), np.array([True, False, True]), "tax")


def test_exact_jobs_that_differ_by_a_month_of_one_firm_differ_by_that_firm():
    digests, firm = np.arange(100, 108, dtype=np.uint64) ** 5, np.repeat([0, 1, 2, 3], 2)
    whole = digests_by_firm(digests, firm)
    for some in (np.arange(8) != 3, (np.arange(8) != 2) & (np.arange(8) != 3)):
        assert np.setdiff1d(whole, digests_by_firm(digests[some], firm[some])).size == 1


def test_no_firm_comes_twice_where_rows_are_firms():
    """Ids are distinct where a table is read, where a bank sends them, and where a holder takes them."""
    firms = np.array(["firm 1"] * 36 + ["firm 2", "firm 3"])
    with pytest.raises(IdError, match="35 duplicate"):
        make_table(firms, {"x": np.arange(38.0)}, normaliser="text")
    sessions = {party: Session("job/align/1", party, "bank", ("tax",)) for party in ("bank", "tax")}
    limits = AlignLimits(size_step=10)
    with pytest.raises(IdError, match="more than once"):
        next(bank_align(sessions["bank"], "tax", firms.tolist(), limits))
    roles = {
        "bank": months(sessions["bank"], limits),
        "tax": holder_align(sessions["tax"], ["firm 1", "firm 2", "firm 3"], limits=limits),
    }
    with pytest.raises(MessageError, match="same id twice"):
        simulate(roles, sessions)


def months(session, limits):
    """A bank that sends the value of one firm again and again, one for each month."""
    role = bank_align(session, "tax", [f"firm {k}" for k in range(38)], limits)
    return sending_other_values(role, lambda values: values[:12] * 36 + values[36 * 12 :])
