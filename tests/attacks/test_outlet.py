"""A bank follows the protocol and only chooses: labels, weights, rows, columns, cut-offs. What does it read of a firm?

Every attack succeeds where its defence is off (noise zero, exact mode, no account) and fails by default: the best guess
between two possible records of a firm, the likelihood ratio of all that the bank receives, is right no more often than
promised. A test fails when even the lower 99 % bound of right guesses lies above the promise.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from ideal_protocols import use_ideal
from local_jobs import firms, job, nodes, take, write
from neighbours import (
    SURE,
    breaks,
    cells,
    chain_rows,
    counts,
    fit,
    guesses,
    keeps,
    leaves,
    real,
)

from veilscore.data import fixed_bins
from veilscore.data.codes import CodeMap
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.ingest import read_table
from veilscore.data.table import Table
from veilscore.errors import ConfigError, RefusedError, SchemaError
from veilscore.evidence.facts import facts_of
from veilscore.models.chain_growth import AT_ONCE
from veilscore.models.counts import BinnedColumns, offsets
from veilscore.node.local import open_job
from veilscore.protocols import residual
from veilscore.protocols.adding import coordinator_add
from veilscore.protocols.binning import withheld_cells
from veilscore.protocols.residual import holder_cells
from veilscore.protocols.scoring import HolderAnswer, HolderPart, bank_score, holder_receive, holder_score
from veilscore.release.account import Account
from veilscore.release.pseudonyms import size_offset
from veilscore.tasks import chains as chain_tasks
from veilscore.tasks import curve as curve_tasks
from veilscore.tasks import residual as card_tasks
from veilscore.tasks.fixed_bins import make as fix_bins
from veilscore.terms.node_config import load_node_config
from veilscore.terms.privacy import PrivacyRules, best_guess
from veilscore.v1 import scorecard_pb2 as pb
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

CARD = job(disclosure="private", holdout_scores=False).parameters  # mu 0.5, the default
TREES = job("train_boosting", disclosure="private").parameters
N, FEW = 200, 30  # guesses; few where the defence is off, since all of them are right
RECORDS = pytest.mark.parametrize("records", [(0, 1), (0, 2)], ids=["two records", "known or not"])  # 2: missing


def no_noise(_sigma, size):
    return np.zeros(size, np.int64)


@pytest.fixture
def ideal(monkeypatch):
    use_ideal(monkeypatch)


@pytest.fixture(params=["noise off", "default"])
def noise(request, monkeypatch):
    """Whether holders add their noise."""
    if request.param == "noise off":
        monkeypatch.setattr(residual, "discrete_gaussian", no_noise)
        monkeypatch.setattr(fixed_bins, "discrete_gaussian", no_noise)
    return request.param == "default"


def judge(draw, mu, defended, n=N):
    """By default no better than promised; without the defence always right."""
    if defended:
        assert keeps(draw, mu, n), f"guesses are right more often than in {best_guess(mu):.1%}, as promised"
        return
    found = guesses(draw, FEW)
    assert found.right == found.n


def pair(records, n=12, d=2):
    """Codes of n firms in d columns of three codes, where the first firm has one record or another."""
    others = np.random.default_rng(7).integers(0, 3, (n, d))
    worlds = others.copy(), others.copy()
    for world, code in zip(worlds, records, strict=True):
        world[0] = code
    return worlds


def scorecard(which, worlds, r, W, *, x=None, p=CARD, run=None, spend=lambda _: None):
    """All openings of a private scorecard at one holder."""
    n_codes, charges = np.full(worlds[0].shape[1], 3), card_tasks.charges(p.mu**2)
    x = np.tile([0.5, -0.5, 0.2], n_codes.size) / n_codes.size**0.5 if x is None else x
    how = {"spend": spend} if run is None else {"spend": spend, "run": run}
    first = cells(which, charges["cells"], worlds, n_codes, r, W, **how)
    return first + sum(fit(which, charges, worlds, n_codes, x, r, W, **how).values())


def bad_alone(n=12):
    """Residuals and weights where one firm is bad and a sure good: all others tell nothing."""
    p = np.full(n, SURE)
    return (np.arange(n) == 0) - p, p * (1 - p)


# --- training: labels, weights, columns, rows ------------------------------------------------------------------------


@RECORDS
@pytest.mark.usefixtures("ideal")
def test_a_label_of_1_for_one_firm(noise, records):
    r, W = bad_alone()
    worlds = pair(records)
    judge(lambda which: scorecard(which, worlds, r, W), CARD.mu, noise)


@pytest.mark.usefixtures("ideal")
@pytest.mark.parametrize("p", [0.5, 0.62])
def test_a_firm_of_any_probability_and_both_of_its_numbers(noise, p):
    """At p = 0.62 a good firm moves r and W together the most; at 0.5 X'WX tells most."""
    worlds, x = pair((0, 1)), np.tile([1.0, -1.0, 0.0], 2)
    worlds[1][0, 1] = 0  # opposite signs in one column alone: products move the most
    risk = np.full(12, SURE)
    risk[0] = p
    judge(lambda which: scorecard(which, worlds, -risk, risk * (1 - risk), x=x), CARD.mu, noise)


@pytest.mark.usefixtures("ideal")
def test_weights_that_are_powers_of_two(noise):
    """Twenty-eight firms at once: without noise and scaling, their codes are the binary digits of one sum."""
    n, rng, charge = 28, np.random.default_rng(3), card_tasks.charges(CARD.mu**2)["cells"]
    weight, nothing = 2.0 ** np.arange(n), np.full(n, SURE)
    scaled = weight / weight.max()  # what a bank that runs the protocol sends: at most 1

    def sums(codes, r):
        told = []
        cells(0, charge, (codes, codes), [3], r, nothing, told=told)
        return told[0][0]

    def heaviest(which):
        """All other codes are known; what is left of the sums is the heaviest firm."""
        codes = rng.integers(0, 2, (n, 1))
        codes[-1] = which
        found = sums(codes, scaled)
        others = [scaled[:-1][codes[:-1, 0] == code].sum() for code in (0, 1)]
        return float((found[1] - others[1]) - (found[0] - others[0]))

    judge(heaviest, charge.mu2**0.5, noise)
    if not noise:
        codes = rng.integers(0, 2, (n, 1))
        digits = round(float(sums(codes, weight)[1]))
        assert [digits >> k & 1 for k in range(n)] == codes[:, 0].tolist()


@RECORDS
@pytest.mark.usefixtures("ideal")
def test_an_indicator_column_of_one_firm(noise, records):
    """The bank's own column, and so every cut of its chains, says which row is the firm: a leaf holds it alone."""
    worlds, terms = pair(records, 8, 3), chain_tasks.terms(TREES)
    r, W = bad_alone(8)
    fewer = replace(terms, n_trees=AT_ONCE)  # the whole charge for one exchange, with noise for as many trees
    judge(lambda which: leaves(which, fewer, worlds, [3, 3, 3], chain_rows(r, W)), TREES.mu, noise)


@pytest.mark.slow
@pytest.mark.usefixtures("ideal")
def test_an_indicator_column_in_a_whole_chain(noise):
    """All trees, each chosen after the last; the residual itself follows the record."""
    worlds, terms = pair((0, 1), 6, 2), chain_tasks.terms(TREES)
    risk = np.full(6, SURE)
    risk[0] = 0.1
    rows = chain_rows((np.arange(6) == 0) - risk, risk * (1 - risk))
    judge(lambda which: leaves(which, terms, worlds, [3, 3], rows), TREES.mu, noise)


@pytest.mark.usefixtures("ideal")
def test_two_jobs_that_differ_by_one_firm(noise):
    """The difference of two jobs' sums is the firm alone; a bank needs to know nothing of the others for it."""
    rng, charge, n = np.random.default_rng(5), card_tasks.charges(CARD.mu**2)["cells"], 60

    def apart(which):
        codes, told = rng.integers(0, 2, (n, 1)), []
        codes[0] = which
        r, W = rng.random(n) - 0.5, np.full(n, 0.2)
        r[0] = 1.0
        for rows in (slice(0, n), slice(1, n)):
            cells(0, charge, (codes[rows], codes[rows]), [3], r[rows], W[rows], told=told)
        with_firm, without = told[0][0], told[1][0]
        return float((with_firm - without)[1] - (with_firm - without)[0])

    judge(apart, (2 * charge.mu2) ** 0.5, noise)


@pytest.mark.usefixtures("ideal")
def test_a_near_tie_of_splits(noise):
    """One record turns a near tie of two columns; an exact best split says which, and a chain's structure is drawn."""
    n, rng = 40, np.random.default_rng(1)
    y = np.arange(n) % 2
    codes = np.stack([y, y, rng.integers(0, 2, n)], axis=1)
    codes[[3, 5], [0, 1]] ^= 1  # two columns that tell the label but for one firm each
    worlds = codes.copy(), codes.copy()
    worlds[0][0, 0] ^= 1
    worlds[1][0, 1] ^= 1
    r, W = y - 0.5, np.full(n, 0.25)

    def best(world):
        gains = [
            sum(r[world[:, j] == c].sum() ** 2 / (W[world[:, j] == c].sum() + 1) for c in (0, 1)) for j in range(3)
        ]
        return int(np.argmax(gains))

    assert [best(world) for world in worlds] == [1, 0], "exact splits tell the two worlds apart"
    terms = replace(chain_tasks.terms(TREES), n_trees=AT_ONCE)
    rows = chain_rows(r, W)
    judge(lambda which: leaves(which, terms, worlds, [2, 2, 2], rows), TREES.mu, noise)


# --- bins ------------------------------------------------------------------------------------------------------------


def test_bins_refitted_on_rows_that_a_bank_chose():
    """Exact mode fits bins on the job's rows: of few, one firm makes a flag frequent enough for a code of its own."""
    rows, ids = np.arange(120), np.array([f"f{i}" for i in range(1500)])
    flag = (np.arange(ids.size) < 5).astype(float)
    worlds = []
    for flag[0] in (0.0, 1.0):
        worlds.append(Table(ids, {"x": flag.copy(), "y": np.arange(ids.size) % 7.0}, source="made up"))
    shown = [CodeMap.fit(one, rows, max_bin=8, min_bin_count=5).n_codes.tolist() for one in worlds]
    assert shown[0] != shown[1]
    fixed = FixedBins.make(worlds[0], "2026-11-30")
    maps = [fixed.code_map(one.take(rows), 8, generator=np.random.default_rng(1)) for one in worlds]
    maps.append(fixed.code_map(worlds[0].take(rows[:7]), 8, generator=np.random.default_rng(1)))
    assert len({one.hash for one in maps}) == 1, "fixed bins follow no row of a job"


def test_one_odd_cell_takes_no_column_away():
    """A date column of a file becomes a category by one odd cell: the job is refused, and loses no column for it."""
    ids, days = np.array([f"f{i}" for i in range(900)]), np.arange(900.0) % 365
    table = Table(ids, {"day": days, "x": np.arange(900.0)}, source="made up")
    fixed = FixedBins.make(table, "2026-11-30", 5.0)
    assert len(fixed.code_map(table, 8).columns) == 2
    odd = days.astype(object)
    odd[0] = "n/a"
    with pytest.raises(SchemaError, match="'day' of made up was a number when its bins were fixed"):
        fixed.code_map(replace(table, columns={"day": odd, "x": np.arange(900.0)}), 8)


def test_fixed_bins_tell_little_of_a_firm(noise):
    """A level has as many rows as it takes to stand alone, or one fewer: the number of codes says which."""
    n = 600
    sigma = FixedBins.make(Table(np.array(["f"]), {"x": np.array(["a"], dtype=object)}), "2026-11-30").sigma
    least = int(np.ceil(max(6 * sigma, 0.005 * n) + 1))
    others = np.array(["a", "b"], dtype=object)[np.arange(n) % 2]
    others[:least] = "c"

    def draw(which):
        levels = others.copy()
        levels[0] = "c" if which else "a"
        table = Table(np.array([f"f{i}" for i in range(n)]), {"x": levels}, source="made up")
        return float(FixedBins.make(table, "2026-11-30").code_map(table, 10).n_codes[0]) - 4.5

    judge(draw, fixed_bins.MU, noise)


# --- the hold-out ----------------------------------------------------------------------------------------------------

LIMITS = tuple(range(-900, 1000, 100))


@pytest.mark.usefixtures("ideal")
@pytest.mark.parametrize("n", [1, 60], ids=["one firm alone", "a whole hold-out"])
def test_a_curve_of_one_firm_or_many(noise, n):
    """One firm is held out, by date or by a cohort; or all are, with points that put its two records far apart."""
    rng = np.random.default_rng(2)
    totals = [rng.integers(-900, 900, n)] * 2
    totals = [totals[0].copy(), totals[0].copy()]
    totals[0][0], totals[1][0] = -850, 850
    bad, charge = rng.random(n) < 0.4, curve_tasks.charge_of(CARD.mu)
    judge(lambda which: counts(which, charge, totals, bad, LIMITS), CARD.mu, noise)


def exact_totals(codes, n_codes, points, own):
    """Totals of a hold-out as exact mode opens them."""
    names, rows = ("bank", "coordinator", "tax"), np.ones(len(own), bool)
    sessions = {p: Session("job/evaluate/1", p, "bank", ("tax",)) for p in names}

    def holder():
        request = yield from holder_receive(sessions["tax"], len(own))
        answer = HolderAnswer(codes, n_codes, np.zeros(len(own), bool), disclose_unknown=False)
        return (yield from holder_score(sessions["tax"], "coordinator", request, answer))

    part = {"tax": HolderPart(n_codes, points, b"c" * 32)}
    roles = {
        "bank": bank_score(sessions["bank"], "coordinator", rows, own, part, b"m" * 32),
        "coordinator": coordinator_add(sessions["coordinator"]),
        "tax": holder(),
    }
    return simulate(roles, sessions)["bank"].points


def test_codes_from_the_totals_of_a_hold_out():
    """The bank tries all codes of an honest model; totals give them away, and the curve of the same rows does not."""
    rng, n_codes = np.random.default_rng(11), np.array([4, 5, 3])
    codes = np.stack([rng.integers(0, k, 300) for k in n_codes], axis=1).astype(np.uint8)
    points, own = rng.integers(-4000, 4000, int(n_codes.sum())), rng.integers(-4000, 4000, 300)
    grid = np.stack(np.meshgrid(*(np.arange(k) for k in n_codes), indexing="ij"), -1).reshape(-1, 3)
    sums = points[grid + offsets(n_codes)[:-1]].sum(axis=1)
    opened = exact_totals(codes, n_codes, points, own) - own
    right = sum((grid[np.argmin(np.abs(sums - total))] == row).all() for total, row in zip(opened, codes, strict=True))
    assert right / 300 > 0.86, "exact mode gives the codes away"


# --- many jobs -------------------------------------------------------------------------------------------------------


def let_through(account, jobs=15):
    """How many of so many jobs the account lets through, and what the next one is told."""
    charge = curve_tasks.charge_of(CARD.mu)
    for number in range(jobs):
        try:
            account.hold(f"job{number}", charge.mu2)
        except RefusedError as refusal:
            return number, refusal.message
        account.spend(f"job{number}/evaluate/1", charge)
        account.let_go(f"job{number}")
    return jobs, ""


@pytest.mark.usefixtures("ideal")
@pytest.mark.parametrize("counted", [False, True], ids=["no account", "default"])
def test_fifteen_jobs_in_a_row(tmp_path, counted):
    """Each holds the same firm out alone; the account ends it, and with it what all of them together tell."""
    rules = PrivacyRules() if counted else PrivacyRules(year=10)
    allowed, told = let_through(Account(tmp_path / "account.db", "d", "bank", rules))
    assert allowed == (4 if counted else 15)
    assert ("is exhausted" in told and "it has refilled enough on" in told) == counted
    totals, charge, bad = (np.array([-850]), np.array([850])), curve_tasks.charge_of(CARD.mu), np.array([True])

    def year(which):
        return sum(counts(which, charge, totals, bad, (0,)) for _ in range(allowed))

    if counted:
        judge(year, PrivacyRules().year, defended=True)
    else:
        assert breaks(year, PrivacyRules().year, 300)


@pytest.mark.usefixtures("ideal")
def test_attempts_that_fail_one_after_the_other(tmp_path):
    """A bank that is lost once it has read the cells asks again: each time is charged, until the year's limit."""
    account, worlds = Account(tmp_path / "account.db", "d", "bank", PrivacyRules()), pair((0, 1), 4, 1)
    charge = card_tasks.charges(CARD.mu**2)["cells"]
    r, W = bad_alone(4)

    def ask(attempt):
        cells(0, charge, worlds, [3], r, W, spend=lambda spent: account.spend(f"job/bin/{attempt}", spent))

    attempts = 6
    for attempt in range(attempts):
        ask(attempt)
    with pytest.raises(RefusedError, match="exhausted"):
        ask(attempts)
    judge(
        lambda which: sum(cells(which, charge, worlds, [3], r, W) for _ in range(attempts)), PrivacyRules().year, True
    )


def test_a_second_name_of_the_same_data(tmp_path):
    """With an account a name, a holder that lists a file twice would tell a bank of each firm twice as much."""
    text = "name: tax\nrole: {role}\ndatasets:\n  a: {{path: x.csv, id_column: firm}}\n  b: {second}\n"

    def node(second, role="holder"):
        (tmp_path / "node.yaml").write_text(text.format(role=role, second=second))
        return load_node_config(tmp_path)

    with pytest.raises(ConfigError, match="data sets a and b are of the same source: set account: a at both"):
        node("{path: ./x.csv, id_column: firm, exclude: [y]}")
    made = "{{path: {}.parquet, id_column: firm, features: {{catalogue: tax, events: events}}}}"
    (tmp_path / "node.yaml").write_text(
        f"name: tax\nrole: holder\ndatasets:\n  a: {made}\n  b: {made}\n".format("a", "b")
    )
    with pytest.raises(ConfigError, match="set account: a at both"):
        load_node_config(tmp_path)
    assert node("{path: x.xlsx, sheet: one, id_column: firm}").datasets["b"].account is None
    assert node("{path: x.csv, id_column: firm, account: a}").datasets["b"].account == "a"
    assert node("{path: y.csv, id_column: firm}").datasets["b"].account is None
    assert node("{path: x.csv, id_column: firm}", role="bank").datasets.keys() == {"a", "b"}


# --- is the firm known? ----------------------------------------------------------------------------------------------


def shape_of_a_private_job(codes):
    """All that a holder sends of its columns before the first sums."""
    session, n_codes = Session("job/bin/1", "tax", "bank", ("tax",)), np.array([3])
    binned = BinnedColumns(("c1",), codes.astype(np.uint8), n_codes, np.zeros(1, bool), np.full(1, -1), bytes(32))
    charge = card_tasks.charges(CARD.mu**2)["cells"]
    role = holder_cells(session, lambda _: binned, 40, charge, n_columns=1, check=lambda _: None)
    columns = next(role).message
    assert next(role).kind is pb.BinBankRound1
    request = pb.BinBankRound1(n_samples=40, train_mask=b"\xff" * 5, n_train=40, max_bin=5)
    shape = role.send(request).message
    role.close()
    return columns.SerializeToString(), shape.SerializeToString()


def test_small_cells_tell_who_is_known_in_exact_mode_alone():
    """Exact counts below a minimum are withheld, so that four firms or five shows; a private shape has no counts."""
    four, five = (withheld_cells(np.array([k, 30, 30, 30, 30]), np.array([5]), 5) for k in (4, 5))
    assert four.any() != five.any()
    known, unknown = pair((0, 2), 40, 1)
    assert shape_of_a_private_job(known) == shape_of_a_private_job(unknown)


# --- on real encryption ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("opening", ["cells", "fit", "leaves", "curve"])
def test_the_same_on_real_encryption(opening):
    """200 whole runs of each protocol between real roles."""
    r, W = bad_alone()
    worlds, charges, x = pair((0, 1)), card_tasks.charges(CARD.mu**2), np.tile([0.5, -0.5, 0.2], 2) / 2**0.5
    totals = (np.array([-850, 300, 20]), np.array([850, 300, 20]))
    terms = replace(chain_tasks.terms(TREES), n_trees=AT_ONCE)
    draw, mu = {
        "cells": (lambda w: cells(w, charges["cells"], worlds, [3, 3], r, W, run=real), charges["cells"].mu2 ** 0.5),
        "fit": (
            lambda w: sum(fit(w, charges, worlds, [3, 3], x, r, W, run=real).values()),
            (charges["gradient"].mu2 + charges["moments"].mu2) ** 0.5,
        ),
        "leaves": (lambda w: leaves(w, terms, worlds, [3, 3], chain_rows(r, W), run=real), TREES.mu),
        "curve": (
            lambda w: counts(
                w, curve_tasks.charge_of(CARD.mu), totals, np.array([True, False, False]), LIMITS, run=real
            ),
            CARD.mu,
        ),
    }[opening]
    judge(draw, mu, defended=True)


# --- all that a bank has of a job, but for numbers -------------------------------------------------------------------


def shape_of_job(folder, bins, *, known, task):
    """Kinds and sizes of messages to the bank, its files, and what a holder signs, where tax knows a firm or not."""
    parts = firms(1500, seed=3)
    victim = next(firm for firm in parts["tax"]["firm"] if firm in parts["bank"]["firm"])
    kept = [k for k, firm in enumerate(parts["tax"]["firm"]) if known or firm != victim]
    data = write(folder / "data", parts | {"tax": take(parts["tax"], kept)})
    shutil.copytree(bins, folder / "homes")
    config = job(task, disclosure="private", **({"despite_noise": True} if task == "train_scorecard" else {}))
    run = open_job(config, nodes(data), folder / "homes", keep=True).run()
    sized, kinds = [], set()
    for entry, message in run.transcripts["bank"].messages:
        if entry.recipient == "bank":
            kinds.add((entry.sender, entry.kind))
            # what follows the first opening is of sizes that the bank chose by it
            if entry.session.split("/")[1] in {"align", "bin"} and task == "train_scorecard":
                sized.append((entry.sender, entry.kind, len(message.SerializeToString())))
    stated = facts_of(folder / "homes" / "tax", run.nodes["tax"], run.job, run.job_id, bytes(32))
    store = run.stores["bank"]
    files = sorted(path.name for path in store.path.iterdir())
    return sorted(sized), kinds, files, store.load_json("aligned"), sorted(stated.files), stated.consent, stated.scores


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train_scorecard", "train_boosting"])
def test_a_job_with_a_firm_and_without_it_differs_in_numbers_alone(tmp_path, task):
    """Bins were fixed before; since then the firm has left. (One key in a thousand shows it in the size.)"""
    data = write(tmp_path / "data", firms(1500, seed=3))
    tables = {h: read_table(data / f"{h}.csv", "firm", normaliser="text") for h in ("tax", "registry")}
    bins = next(
        home
        for k in range(99)
        for home in [tmp_path / f"bins {k}"]
        if (size_offset(home / "tax", "d", 1000) + tables["tax"].n_rows - 1) % 1000
    )
    for holder, table in tables.items():
        fix_bins(bins / holder, "d", table)
        size_offset(bins / holder, "d", 1000)  # draws the key, so that both worlds have the same
    known, unknown = (shape_of_job(tmp_path / str(one), bins, known=one, task=task) for one in (True, False))
    assert known == unknown
