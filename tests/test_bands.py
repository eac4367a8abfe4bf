"""Bands without scores: the oracle, cut-offs hit exactly, hostile messages, whole jobs under a band policy."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil

import numpy as np
import pytest
from consent_issuer import OFTEN, give_list
from finished_jobs import finished
from local_jobs import HOLDERS, firms, job, nodes, write
from random_trees import boosted, part, plain_units, random_tree
from reference import match_rows
from test_scoring import CODES, HASH, MODEL, N_CODES, OWN, POINTS, ROWS, UNKNOWN, expected, hostile
from test_scoring import N as N_ROWS
from test_stack_job import part_of, tree_margins
from trial_scoring import BATCH, batch_units, copy_of, scoring, set_policy, train

from veilscore.crypto.circuits import from_bits, to_bits
from veilscore.crypto.garbled import Plain
from veilscore.data.codes import CodeMap
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, ParameterError, RefusedError, VeilscoreError
from veilscore.evidence.documents import load_keys
from veilscore.evidence.kept_receipts import score_receipt
from veilscore.evidence.verify import verify_receipt
from veilscore.lattice.params import SCORE_T
from veilscore.models.filed import load_model
from veilscore.models.loss import TURN
from veilscore.node.local import open_job
from veilscore.protocols import banding
from veilscore.protocols.banding import BandCircuit
from veilscore.protocols.scoring import HolderAnswer, HolderPart, bank_score_bands, holder_receive, holder_score
from veilscore.protocols.tree_scoring import bank_score_trees_bands, bounds, holder_score_trees
from veilscore.reports.bank import bank_report
from veilscore.tasks.table import estimate, leakage_table
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as cp
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

RNG = np.random.default_rng(17)


def named(*limits):
    return Bands.of({f"from {limit}": float(limit) for limit in limits}, 1)


BANDS = named(5000, 5600, 6400)


# --- the circuit in the clear ----------------------------------------------------------------------------------------


def in_circuit(limits, modulus, totals):
    """Bands of totals by the circuit, from fresh shares."""
    circuit = BandCircuit(tuple(limits), modulus)
    share = RNG.integers(0, modulus, totals.size)
    words = [
        to_bits((part % modulus).astype(np.uint64), circuit.n_bits) for part in (totals - share + circuit.half, share)
    ]
    return from_bits(circuit(Plain(), *words))


@pytest.mark.parametrize("modulus", [TURN, SCORE_T])
@pytest.mark.parametrize("n_limits", [1, 2, 3, 4, 7, 8, 10, 63])
def test_the_circuit_is_the_oracle(modulus, n_limits):
    half = modulus // 2
    limits = np.sort(RNG.choice(np.arange(-40_000, 90_000), n_limits, replace=False))
    edges = np.concatenate([limits + k for k in (-1, 0, 1)])
    totals = np.concatenate([edges, [1 - half, modulus - half - 1, 0, -1], RNG.integers(1 - half, half, 2000)])
    assert np.array_equal(in_circuit(limits, modulus, totals), named(*limits.tolist()).index(totals))


@pytest.mark.parametrize("modulus", [TURN, SCORE_T])
def test_cut_offs_beyond_the_ring(modulus):
    """A cut-off that every total reaches, and one that none does."""
    totals = np.concatenate([[1 - modulus // 2, modulus - modulus // 2 - 1], RNG.integers(-5000, 5000, 200)])
    found = in_circuit((-(1 << 40), 0, 1 << 40), modulus, totals)
    assert np.array_equal(found, 1 + (totals >= 0))


def test_the_search_takes_one_comparison_a_bit():
    assert BandCircuit(named(*range(3)).limits, TURN).gates < 23 + 2 * 24 + 2
    assert BandCircuit(named(*range(10)).limits, TURN).gates < 23 + 4 * 24 + 6


def test_cut_offs_that_cannot_be():
    for limits in ((), tuple(range(64)), (3, 3), (4, 1)):
        with pytest.raises(ParameterError, match="cut-offs"):
            BandCircuit(limits, TURN)
    with pytest.raises(ConfigError, match="none is defined"):
        Bands.of({}, 100)
    with pytest.raises(ParameterError, match="fewer decimals"):
        BandCircuit((1,), SCORE_T).check_totals(-(SCORE_T // 2), 0)


def test_bands_are_those_of_the_model():
    bands = Bands.of({"A": 600.0, "B": 550.5}, 100)
    assert (bands.names, bands.limits) == (("below all bands", "B", "A"), (55050, 60000))
    assert bands.index(np.array([55049, 55050, 59999, 60000])).tolist() == [0, 1, 1, 2]
    assert bands.narrowest(100) == 49.5
    assert bands.sha256 == Bands.of({"x": 600.0, "y": 550.5}, 100).sha256 != Bands.of({"A": 600.0}, 100).sha256


# --- scorecards ------------------------------------------------------------------------------------------------------


def score(holders, *, bands=BANDS, kept=None, asked=True, own=OWN, points=POINTS, **options):
    sessions = {p: Session("job/score/1", p, "bank", holders) for p in ("bank", *holders)}

    def holder(name):
        request = yield from holder_receive(sessions[name], N_ROWS)
        mine = (kept or {}).get(name, bands) if asked else None
        answer = HolderAnswer(CODES[name][request.rows], N_CODES[name], UNKNOWN[name], True, bands=mine)
        return (yield from holder_score(sessions[name], "coordinator", request, answer))

    parts = {h: HolderPart(N_CODES[h], points[h], HASH) for h in holders}
    roles = {"bank": bank_score_bands(sessions["bank"], ROWS, own, parts, MODEL, bands)}
    return simulate(roles | {h: holder(h) for h in holders}, sessions, **{"timeout_s": 20.0, **options})


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_bands_of_a_scorecard(n_holders, monkeypatch):
    monkeypatch.setattr(banding, "PIECE", 64)  # several pieces, the last one short
    holders = tuple(N_CODES)[:n_holders]
    totals = expected(holders)
    done = score(holders)
    assert np.array_equal(done["bank"].bands, BANDS.index(totals))
    assert set(done["bank"].bands.tolist()) == {0, 1, 2, 3}
    assert {done[h] for h in holders} == {int(ROWS.sum())}
    assert all(np.array_equal(done["bank"].unknown[h], UNKNOWN[h]) for h in holders)
    cut = named(*np.unique(totals)[::40].tolist())  # each is some firm's total
    assert np.array_equal(score(holders, bands=cut)["bank"].bands, cut.index(totals))


def test_bands_of_negative_totals():
    own = OWN - 6000
    totals = expected(("tax",)) - 6000
    bands = named(-2000, -1, 0, 700)
    assert np.array_equal(score(("tax",), own=own, bands=bands)["bank"].bands, bands.index(totals))


@pytest.mark.parametrize("holder", ["tax", "registry"])
def test_cut_offs_of_the_banks_own_choice_are_refused(holder):
    moved = {holder: named(5000, 5600, 6401)}
    with pytest.raises(RefusedError, match="not those that this party accepted"):
        score(("tax", "registry"), kept=moved)
    with pytest.raises(RefusedError, match="not those that this party accepted"):
        score(("tax", "registry"), asked=False)  # the job is one for scores


def test_a_request_for_scores_is_refused_where_bands_were_accepted():
    with pytest.raises(RefusedError, match="not those that this party accepted"):
        score(("tax", "registry"), tamper=hostile(pb.BatchBankRound1, "limits", []))


FAULTS = [
    (pb.BatchBankRound1, "limits", [3, 3]),
    (pb.BatchBankRound1, "limits", list(range(64))),
    (pb.BatchBankRound1, "inputs_hash", b"short"),
    (pb.BandHolderPartial, "data", lambda data: data[:-8]),
    (pb.BandHolderPartial, "data", lambda data: b"\xff" * len(data)),
    (pb.BandHolderPartial, "parts", 3),
    (pb.BandBankBase, "point", b""),
    (pb.BandBankBase, "point", bytes(32)),
    (pb.BandBankBase, "point", lambda point: point + point),
    (pb.BandLeadBase, "points", lambda points: points[:-32]),
    (pb.BandLeadBase, "points", lambda points: points[:-32] + b"\xff" * 32),
    (pb.BandBankLabels, "data", lambda data: data[:-8]),
    (pb.BandBankLabels, "data", lambda data: data + bytes(8)),
    (pb.BandBankLabels, "part", 1),
    (pb.BandLeadTables, "data", lambda data: data[:-32]),
    (pb.BandLeadTables, "data", lambda data: data[:-1]),
    (pb.BandLeadTables, "data", lambda data: data + bytes(32)),
    (pb.BandLeadTables, "parts", 0),
    (pb.BandLeadDecoding, "bits", lambda bits: bits[:-1]),
    (pb.BandLeadDecoding, "bits", lambda bits: bits + b"\0"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0].__name__}-{f[1]}")
def test_wrong_messages_are_refused(fault):
    with pytest.raises(VeilscoreError):
        score(("tax", "registry"), tamper=hostile(*fault), timeout_s=1.0)


def test_a_band_that_there_is_not_is_refused():
    bands = named(5000, 5600)  # numbers 0 to 2 of 2 bits
    with pytest.raises(VeilscoreError, match="that there is not"):
        score(
            ("tax",),
            bands=bands,
            tamper=hostile(pb.BandLeadDecoding, "bits", lambda bits: bytes(255 - b for b in bits[:-1]) + bits[-1:]),
        )


# --- trees -----------------------------------------------------------------------------------------------------------

T_CODES = {
    "bank": np.array([6, 3, 9]),
    "tax": np.array([5, 7, 4]),
    "registry": np.array([3, 8]),
    "court": np.array([4]),
}


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_bands_of_trees(n_holders):
    holders = ("tax", "registry", "court")[:n_holders]
    n, rows = 300, RNG.random(300) < 0.7
    trees = [
        random_tree(RNG, h, {"bank": T_CODES["bank"], "holder": T_CODES[h]}, sides=sides, n_leaves=6)
        for h in holders
        for sides in (("bank", "holder"), ("holder",), ("bank",))
    ]
    model = boosted(
        trees, [part("bank", "bank", T_CODES["bank"]), *(part(h, "holder", T_CODES[h], "11" * 32) for h in holders)]
    )
    codes = {p: np.stack([RNG.integers(0, k, n) for k in c], 1).astype(np.uint8) for p, c in T_CODES.items()}
    totals = plain_units(model, {p: c[rows] for p, c in codes.items()})
    bands = named(*np.unique(totals)[:: 1 + np.unique(totals).size // 9].tolist())
    sessions = {p: Session("job/score/1", p, "bank", holders) for p in ("bank", *holders)}

    def holder(name):
        request = yield from holder_receive(sessions[name], n)
        answer = HolderAnswer(
            codes[name][rows], T_CODES[name], np.zeros(int(rows.sum()), bool), disclose_unknown=True, bands=bands
        )
        mine = tuple(tree.shape() for tree in model.trees_of(name))
        return (yield from holder_score_trees(sessions[name], "coordinator", request, answer, mine))

    bank = bank_score_trees_bands(sessions["bank"], rows, codes["bank"][rows], model, bands)
    done = simulate({"bank": bank} | {h: holder(h) for h in holders}, sessions, timeout_s=20.0)
    assert np.array_equal(done["bank"].bands, bands.index(totals))
    far = model.model_copy(update={"base_points": SCORE_T})
    assert bounds(far)
    with pytest.raises(ParameterError, match="fewer decimals"):
        next(bank_score_trees_bands(sessions["bank"], rows, codes["bank"][rows], far, bands))


# --- what the parties see --------------------------------------------------------------------------------------------


def seen(own, holders=("tax", "registry")):
    """All that was sent, by kind and recipient."""
    found = {}

    def watch(sender, recipient, sequence, payload):
        found.setdefault((kind_of(payload), recipient), []).append(payload)
        return [payload]

    done = score(holders, own=own, tamper=watch)
    return done, {key: sum(map(len, payloads)) for key, payloads in found.items()}


def test_the_coordinator_hears_nothing_and_sizes_tell_nothing():
    """Whatever the scores are, the same messages of the same sizes go out, and none to the coordinator."""
    done, sizes = seen(OWN)
    other, other_sizes = seen(OWN - 3000)
    assert sizes == other_sizes
    assert not np.array_equal(done["bank"].bands, other["bank"].bands)
    assert all(recipient != "coordinator" for _, recipient in sizes)
    assert {kind for kind, recipient in sizes if recipient == "bank"} == {
        "BatchHolderRound1",
        "BatchHolderHints",
        "BandLeadBase",
        "BandLeadTables",
        "BandLeadDecoding",
    }


# --- whole jobs ------------------------------------------------------------------------------------------------------

CUTS = {"A": 560, "B": 520, "C": 490}
BAND_POLICY = {"release": {"output": "band"}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A scorecard trained where tax releases bands only, also of the hold-out."""
    home = tmp_path_factory.mktemp("banded")
    folder = write(home / "data", firms(seed=21))
    configs = nodes(folder)
    configs["tax"] = nodes(folder, holder_policy=BAND_POLICY)["tax"]
    return open_job(job(bands=CUTS, holdout_output="band"), configs, home).run()


def batch(trained, parts, *, policy=None, name="batch", **parameters):
    home = trained.stores["bank"].path.parents[2]
    folder = write(home / f"batch{RNG.integers(1 << 60)}", parts)
    give_list(home / "bank", parts["bank"]["firm"], name=folder.name)
    asked = {"model": "card", "on_missing": "missing_code", "output": "band", **parameters}
    configs = nodes(folder, holder_policy={**BAND_POLICY, **(policy or {})})
    return open_job(job("score_batch", name=name, **asked), configs, home)


def plain_totals(trained, parts):
    """Totals of new firms, from what all parties keep."""
    home, model = trained.stores["bank"].path.parents[2], load_model(trained.stores["bank"].path / "model.json")
    total = np.full(len(parts["bank"]["firm"]), model.base_points, np.int64)
    for mine in model.parts:
        code_map = CodeMap.from_json((home / mine.party / "models/card/code_map.json").read_text())
        columns = {k: v for k, v in parts[mine.party].items() if k in code_map.kinds}
        codes = code_map.transform(
            make_table(parts[mine.party]["firm"], columns, normaliser="text", kinds=code_map.kinds)
        ).codes
        row_of = match_rows(np.array(parts["bank"]["firm"]), np.array(parts[mine.party]["firm"]))
        codes = np.vstack([codes, code_map.missing.astype(np.uint8)])[row_of]
        total += sum(np.array(c.points, dtype=np.int64)[codes[:, j]] for j, c in enumerate(mine.columns))
    return total, model


def released(run):
    with (run.stores["bank"].path / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_hold_out_of_a_training_in_bands(trained):
    held = trained.stores["bank"].load_arrays("holdout")
    assert sorted(held) == ["band", "target", "weight"]
    model = load_model(trained.stores["bank"].path / "model.json")
    rows = trained.stores["bank"].load_arrays("rows")
    total = model.own_units(rows["codes"][~rows["train"]])
    for mine in model.parts[1:]:
        codes = trained.stores[mine.party].load_arrays("rows")["codes"][~rows["train"]]
        total += sum(np.array(c.points, dtype=np.int64)[codes[:, j]] for j, c in enumerate(mine.columns))
    bands = Bands.of(model.bands, model.scaling.units)
    assert np.array_equal(held["band"], bands.index(total))
    assert set(held["band"].tolist()) == {0, 1, 2, 3}
    data = bank_report(trained.stores["bank"], trained.job)
    assert (data.evaluations, data.distribution, data.calibration) == ((), None, None)
    assert {row.band: row.n for row in data.cutoffs} == {
        name: int((held["band"] == k).sum()) for k, name in enumerate(bands.names)
    }
    assert any("Bands alone were opened" in line for line in data.warnings)
    learned = {row.step: row for row in data.learned}
    assert "band of each scored row" in learned["evaluate"].label_holder
    assert "total points" not in learned["evaluate"].label_holder
    assert learned["evaluate"].coordinator == "job, sizes, timing"
    assert (trained.stores["bank"].path / "report.html").exists()


def test_a_batch_under_a_band_policy(trained):
    parts = firms(150, seed=77, prefix="new", coverage=0.8)
    run = batch(trained, parts).run()
    total, model = plain_totals(trained, parts)
    found = released(run)
    assert [row["id"] for row in found] == parts["bank"]["firm"]
    assert [row["band"] for row in found] == [model.band(score) for score in model.score(total)]
    assert set(found[0]) == {"id", "band", "tax_status", "registry_status"}
    assert len({row["band"] for row in found}) > 1
    assert {entry.recipient for entry in run.transcripts["bank"].entries} <= {"bank", "tax", "registry"}
    # no score in any file of the bank, in any form
    scores = {f"{score:.2f}" for score in model.score(total)}
    for path in run.stores["bank"].path.iterdir():
        text = path.read_bytes()
        assert not any(score.encode() in text for score in scores), path.name
        if path.suffix == ".npz":
            for array in run.stores["bank"].load_arrays(path.stem).values():
                assert not np.isin(array, total).any(), path.name
    assert run.stores["bank"].load_json("batch")["bands"] == {
        name: sum(row["band"] == name for row in found) for name in ("below all bands", "C", "B", "A")
    }


@pytest.mark.slow
def test_a_model_without_bands_and_bands_named_in_the_batch(tmp_path):
    folder = write(tmp_path / "data", firms(300, seed=22))
    run = open_job(job(holdout_fraction=0, max_openings=4), nodes(folder), tmp_path).run()
    parts = firms(60, seed=5, prefix="new", coverage=1)
    with pytest.raises(ConfigError, match=r"none is defined: name them, for example bands"):
        batch(run, parts).run()
    total, model = plain_totals(run, parts)
    cut = int(np.median(total)) // 100
    found = released(batch(run, parts, bands={"upper": cut}).run())
    expected_names = np.where(total >= cut * model.scaling.units, "upper", "below all bands")
    assert [row["band"] for row in found] == expected_names.tolist()
    # the holder keeps its own record: one of another version, or none, is refused
    path = tmp_path / "tax" / "models" / "card" / "bands.json"
    kept = path.read_text()
    other = json.dumps(json.loads(kept) | {"map_sha256": "00" * 32})
    for text, message in ((other, "of another version"), ("{", "damaged")):
        path.write_text(text)
        with pytest.raises(RefusedError, match=message):
            batch(run, parts, bands={"upper": cut}).run()
    path.unlink()
    with pytest.raises(RefusedError, match="no bands were kept"):
        batch(run, parts, bands={"upper": cut}).run()


@pytest.mark.parametrize(
    ("bands", "rules", "message"),
    [
        ({f"b{k}": 400 + 20 * k for k in range(11)}, {}, "11 bands are more than the 10"),
        ({"A": 600, "B": 596}, {}, "narrower than the 5 points"),
        ({"A": 600, "B": 560, "C": 520}, {"max_bands": 2}, "3 bands are more than the 2"),
        ({"A": 600, "B": 560}, {"min_band_width": 2.5}, "narrower than the 50 points"),
    ],
)
def test_bands_that_tell_too_much_are_refused(trained, tmp_path, bands, rules, message):
    policy = {"release": {"output": "band", **rules}}
    with pytest.raises(RefusedError, match=message):
        batch(trained, firms(60, seed=6, prefix="other", coverage=1), policy=policy, bands=bands).run()
    folder = write(tmp_path / "data", firms(60))
    with pytest.raises(RefusedError, match=message):
        open_job(job(bands=bands, holdout_output="band"), nodes(folder, holder_policy=policy), tmp_path)


def test_a_band_policy_refuses_scores_with_what_to_do(trained, tmp_path):
    with pytest.raises(RefusedError, match="releases bands only; set output: band"):
        batch(trained, firms(60, seed=6, coverage=1), output="score")
    folder = write(tmp_path / "data", firms(60))
    with pytest.raises(RefusedError, match="releases bands only; set holdout_output: band"):
        open_job(job(bands=CUTS), nodes(folder, holder_policy=BAND_POLICY), tmp_path)


def test_another_model_with_other_bands_of_the_banks_own_is_refused(trained, tmp_path):
    """A bank that edits the bands of its model gets none: holders go by those that they kept."""
    home = tmp_path / "homes"
    shutil.copytree(trained.stores["bank"].path.parents[2], home)
    path = home / "bank" / "models" / "card" / "model.json"
    model = load_model(path)
    model.model_copy(update={"bands": {**model.bands, "A": 561.0}}).save(path)
    parts = firms(60, seed=9, prefix="edited", coverage=1)
    folder = write(home / "more", parts)
    give_list(home / "bank", parts["bank"]["firm"])
    config = job("score_batch", name="batch", model="card", on_missing="missing_code", output="band")
    with pytest.raises(RefusedError, match="not those that this party accepted"):
        open_job(config, nodes(folder, holder_policy=BAND_POLICY), home).run()


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("train_scorecard", {"holdout_output": "band"}, "needs bands"),
        ("train_scorecard", {"holdout_output": "band", "bands": CUTS, "calibrate": True}, "calibrate: false"),
        ("score_batch", {"model": "card", "bands": CUTS}, "set output: band"),
        ("score_batch", {"model": "card", "output": "band", "bands": {"A": 1, "B": 1}}, "same lowest score"),
        ("score_batch", {"model": "card", "output": "band", "bands": {"A": 10**9}}, "at most nine digits"),
    ],
)
def test_jobs_that_cannot_be(task, parameters, message):
    with pytest.raises(ConfigError, match=message):
        job(task, **parameters)


def holdout_totals(run):
    """Totals of the hold-out of a boosted model or a stack, from what each party keeps."""
    model = load_model(run.stores["bank"].path / "model.json")
    held = ~run.stores["bank"].load_arrays("rows")["train"]
    codes = {p: run.stores[p].load_arrays("rows")["codes"][held].astype(np.int64) for p in ("bank", *HOLDERS)}
    parts = {h: part_of(run, h) for h in HOLDERS}
    return np.rint(model.base_points + tree_margins(model, parts, codes, model.points)).astype(np.int64), model


def assert_holdout_in_bands(run):
    total, model = holdout_totals(run)
    found = run.stores["bank"].load_arrays("holdout")["band"]
    assert np.array_equal(found, Bands.of(model.bands, model.scaling.units).index(total))
    assert np.unique(found).size > 1


@pytest.mark.slow
def test_boosted_trees_in_bands(tmp_path):
    folder = write(tmp_path / "data", firms(400, seed=23))
    asked = {"n_estimators": 4, "max_depth": 2, "learning_rate": 1, "bands": CUTS, "holdout_output": "band"}
    run = open_job(job("train_boosting", **asked), nodes(folder, holder_policy=BAND_POLICY), tmp_path).run()
    assert_holdout_in_bands(run)
    parts = firms(60, seed=5, prefix="new", coverage=1)
    assert {row["band"] for row in released(batch(run, parts).run())} <= {*CUTS, "below all bands"}


@pytest.mark.slow
def test_a_stack_in_bands(tmp_path):
    folder = write(tmp_path / "data", firms(420, seed=4))
    asked = {
        "max_bin": 6,
        "folds": 2,
        "scorecard": {"max_openings": 6},
        "boosting": {"n_estimators": 2, "max_depth": 2, "learning_rate": 0.5},
        "bands": CUTS,
        "holdout_output": "band",
    }
    with pytest.raises(RefusedError, match="set fold_scores: false"):
        open_job(job("train_stack", fold_scores=True, **asked), nodes(folder, holder_policy=BAND_POLICY), tmp_path)
    assert_holdout_in_bands(
        open_job(job("train_stack", **asked), nodes(folder, holder_policy=BAND_POLICY), tmp_path).run()
    )


def test_what_a_job_in_bands_costs_and_tells_is_known_before():
    scores = job("train_boosting", bands=CUTS)
    bands = job("train_boosting", bands=CUTS, holdout_output="band")
    for one, other in (
        (scores, bands),
        (job("score_batch", model="card", output="exact"), job("score_batch", model="card", output="band")),
    ):
        n_rows = {"bank": 100_000}
        sent = [list(estimate(asked, n_rows).values())[-1].bytes for asked in (one, other)]
        assert sent[1] > sent[0] + 4000 * 25_000
        table = {row.step: row for row in leakage_table(other.parameters)}
        told = table["score" if other.task == "score_batch" else "evaluate"]
        assert "band of each scored row" in told.bank
        assert "total points" not in told.bank
        assert (other.parties_of("align"), one.parties_of("score")[-1]) == (other.parties, "coordinator")
        assert other.parties_of("evaluate") == other.parties_of("score") == other.parties


@pytest.mark.slow
def test_bands_count_by_model_and_cut_offs(trained, tmp_path):
    """The same bands again are a repeat; other cut-offs, or the score, are another model, of which two are allowed."""
    home = tmp_path / "homes"
    shutil.copytree(trained.stores["bank"].path.parents[2], home)
    parts = firms(60, seed=31, prefix="counted", coverage=1)
    folder = write(home / "counted", parts)
    give_list(home / "bank", parts["bank"]["firm"])

    def score_them(release, **parameters):
        config = job("score_batch", name="batch", model="card", on_missing="missing_code", **parameters)
        return open_job(config, nodes(folder, holder_policy={"release": release}), home).run()

    first = released(score_them({"output": "band"}, output="band"))
    assert released(score_them({"output": "band"}, output="band", bands={"X": 560, "Y": 520, "Z": 490})) != first
    score_them({"output": "band"}, output="band", bands={"A": 561, "B": 520, "C": 490})
    with pytest.raises(RefusedError, match="2 other models"):
        score_them({"output": "band"}, output="band", bands={"A": 562, "B": 520, "C": 490})
    with pytest.raises(RefusedError, match="2 other models"):
        score_them({})


# --- real nodes ------------------------------------------------------------------------------------------------------


def test_bands_over_real_nodes_with_receipts(tmp_path):
    """The coordinator orders the job and has no part in its steps; a receipt names the band and no score."""
    folder = copy_of(finished(train), tmp_path)
    for party in HOLDERS:
        set_policy(folder, party, release={**OFTEN, "output": "band"})
    text = BATCH.replace("parameters: {", "parameters: {output: band, ")

    async def work():
        async with scoring(folder) as command:
            info = await command.call("coordinator", "Submit", cp.SubmitJob(job_yaml=text), cp.JobInfo, timeout_s=5)
            async for _ in command.stream("coordinator", "WatchJob", cp.JobRef(job_id=info.job_id), cp.JobEvent):
                pass
            return await command.call("coordinator", "Show", cp.JobRef(job_id=info.job_id), cp.JobInfo, timeout_s=5)

    info = asyncio.run(work())
    assert info.status == "done", info.error
    assert {party for step in info.steps for party in step.party_status} == {"bank", *HOLDERS}
    with (folder / "bank" / "jobs" / info.job_id / "scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert set(found[0]) == {"id", "band", "tax_status", "registry_status"}
    units = batch_units_of(folder)
    model = load_model(folder / "bank" / "models" / "firms" / "model.json")
    assert [row["band"] for row in found] == [model.band(units[row["id"]] / model.scaling.units) for row in found]
    receipt = score_receipt(folder / "bank", info.job_id, found[0]["id"])
    proved = verify_receipt(receipt.to_bytes(), load_keys(folder / "tax" / "federation.yaml"))
    assert proved[0].startswith(f"This score was released: id {found[0]['id']}, band {found[0]['band']}")
    assert "was run by bank, tax, registry, coordinator" in " ".join(proved)


def batch_units_of(folder):
    """Units of every firm, once the holders let scores out."""
    for party in HOLDERS:
        set_policy(folder, party, release=OFTEN)
    return batch_units(folder)
