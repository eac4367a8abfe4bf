"""Feature screening of wide data, against the same figures on pooled data."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from local_jobs import firms, job, nodes, write

from veilscore.cli import app
from veilscore.data import codes as codes_module
from veilscore.data.codes import CodeMap, permutation_of
from veilscore.data.table import make_table
from veilscore.errors import ConfigError, DataError, MessageError, RefusedError, SchemaError, VeilscoreError
from veilscore.models.association import associated_pairs, cramers_v
from veilscore.models.counts import BinnedColumns, cell_counts
from veilscore.models.screening import MEASURED, ScreenedColumn, ScreeningLimits, choose
from veilscore.models.stability import population_stability
from veilscore.models.woe import woe_table
from veilscore.node.local import open_job
from veilscore.protocols.binning import withheld_cells
from veilscore.protocols.screening import ColumnChunk, bank_screen, holder_screen
from veilscore.tasks.context import split
from veilscore.v1 import screening_pb2 as pb
from veilscore.wire.framing import kind_of
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session, decode, encode

NO_LIMITS = {"min_iv": 0, "max_missing": None, "max_stability": None, "max_correlation": None}


@pytest.fixture(scope="module", autouse=True)
def same_permutations():
    """Code numbers by the number of bins alone: which of two equal bins merges first depends on them, and so IV."""

    def permutation(bins, generator, *, ordered):
        return permutation_of(bins, np.random.default_rng(bins.n_bins), ordered=ordered)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes_module, "permutation_of", permutation)
        yield


def wide(n=400, seed=0, n_columns=150):
    """Firms whose tax columns are many: copies of its signals with noise, missing values, constants, categories."""
    parts = firms(n, seed=seed)
    rng = np.random.default_rng(seed)
    tax = parts["tax"]
    base, rows = np.array(tax["turnover"]), len(tax["firm"])
    for k in range(n_columns):
        values = np.round(base * (k % 5) / 4 + rng.normal(0, 1, rows), 3)
        tax[f"wide_{k:03d}"] = [v if rng.random() > 0.02 * (k % 4) else "" for v in values.tolist()]
    tax["same"] = [7] * rows
    tax["nothing"] = [""] * rows
    tax["sparse"] = [1 if k % 40 == 0 else "" for k in range(rows)]
    tax["sector"] = [("a", "b", "c", "d")[k] for k in rng.integers(0, 4, rows)]
    return parts


def screen(folder, parts, *, policy=None, keep=False, name="wide", **parameters):
    write(folder / "data", parts)
    config = nodes(folder / "data", holder_policy=policy)
    run = open_job(job("screen_features", name=name, **parameters), config, folder / "homes", keep=keep)
    return run.run()


def result(run):
    return json.loads((run.stores["bank"].path / "screening.json").read_text())


def rows_of(run, party):
    return [row for row in result(run)["columns"] if row["party"] == party]


def kept_at(run, party):
    return json.loads((run.stores[party].path / "kept.json").read_text())


def own_table(run, parts, party):
    special = ("firm", "default", "weight", "opened")
    columns = {name: values for name, values in parts[party].items() if name not in special}
    typed = {k: [None if v == "" else v for v in values] for k, values in columns.items()}
    label = parts[party].get("default")
    return make_table(parts[party]["firm"], typed, label, normaliser="text")


def oracle(run, parts, party):
    """Name -> (iv, missing rate, stability) of a party's columns, from all data in one place."""
    bank = own_table(run, parts, "bank")
    train, target = split(bank, run.job), bank.label.astype(int)
    table = bank if party == "bank" else own_table(run, parts, party)
    at = {firm: k for k, firm in enumerate(table.ids.tolist())}
    row_of = np.array([at.get(firm, -1) for firm in bank.ids.tolist()])
    known = row_of >= 0
    fitted = CodeMap.fit(table, row_of[known & train], ordered=party == "bank", min_bin_count=30)
    codes = fitted.transform(table).take_rows(row_of)
    n_codes = fitted.n_codes
    counts = cell_counts(codes.codes[train], n_codes)
    bad = cell_counts(codes.codes[train], n_codes, target[train].astype(float))
    if party != "bank":
        hidden = withheld_cells(counts.astype(np.int64), n_codes, 5)
        counts, bad = np.where(hidden, 0, counts), np.where(hidden, 0, bad)
    order = fitted.public_order()
    ivs = woe_table(
        n_codes,
        bad,
        counts - bad,
        total_bad=float(target[train].sum()),
        total_good=float((1 - target[train]).sum()),
        ordered=np.array([c.kind == "ordered" for c in order]),
        missing_code=np.array([-1 if c.missing is None else c.missing for c in order]),
    ).iv
    found = {}
    for j, name in enumerate(fitted.names):
        parts_of = [np.bincount(codes.codes[known & m, j], minlength=n_codes[j]) for m in (train, ~train)]
        seen = parts_of[0] + parts_of[1] > 0
        missing = parts_of[0][fitted.missing[j]]
        rate = missing / parts_of[0].sum() if party == "bank" or missing >= 5 else 0.0
        found[name] = (ivs[j], rate, population_stability(*(p[seen] for p in parts_of)))
    return found


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts():
    return wide(seed=1)


@pytest.fixture(scope="module")
def screened(tmp_path_factory, parts):
    return screen(tmp_path_factory.mktemp("wide"), parts, policy={"publish_column_names": True}, **NO_LIMITS)


def test_figures_are_those_of_pooled_data(screened, parts):
    assert screened.job.steps == ("align", "screen")
    checked = 0
    for party in ("bank", "tax", "registry"):
        expected = oracle(screened, parts, party)
        rows = rows_of(screened, party)
        measured = [row for row in rows if row["iv"] is not None]
        assert [row["name"] for row in measured] == list(expected)
        for row in measured:
            iv, rate, shift = expected[row["name"]]
            assert row["iv"] == pytest.approx(iv, abs=1e-9)
            assert row["missing_rate"] == pytest.approx(rate, abs=6e-4)
            assert row["stability"] == pytest.approx(shift, abs=6e-4)
            checked += 1
    assert checked > 155  # more than one chunk


def test_columns_without_information_are_left_out_and_named(screened):
    rows = {row["name"]: row for row in rows_of(screened, "tax")}
    for name in ("same", "nothing"):
        assert not rows[name]["kept"]
        assert rows[name]["reason"] == "one value, or none"
        assert rows[name]["iv"] is None
    assert rows["nothing"]["missing_rate"] == 1.0
    assert all(rows[name]["kept"] for name in rows if rows[name]["iv"])


def test_each_party_keeps_its_own_names(screened, parts):
    body = result(screened)
    for party in ("bank", "tax", "registry"):
        kept = kept_at(screened, party)
        assert kept["columns"] == [row["name"] for row in rows_of(screened, party) if row["kept"]]
        assert set(kept["columns"]) < set(parts[party])
        assert kept["screening"] == body["sha256"]
        assert (screened.stores[party].path.parents[1] / "screenings/wide/kept.json").is_file()
    with (screened.stores["bank"].path / "screening.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(body["columns"])
    ivs = [float(row["iv"]) for row in table if row["kept"] == "yes"]
    assert ivs == sorted(ivs, reverse=True)


def test_limits_choose(tmp_path, parts):
    run = screen(tmp_path, parts, max_missing=0.9, max_columns=12, min_iv=0.12, max_correlation=0.35, max_stability=0.3)
    rows = rows_of(run, "tax")
    assert [row["name"] for row in rows] == [f"tax.c{k + 1}" for k in range(len(rows))]
    reasons = [row["reason"] for row in rows]
    for start in ("missing in too many", "IV ", "association above 0.35 with tax.c", "not among the 12"):
        assert any(reason.startswith(start) for reason in reasons), start
    assert sum(row["kept"] for row in result(run)["columns"]) == 12
    # of two associated columns the one with the higher IV stays
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        if row["reason"].startswith("association"):
            assert by_name[row["reason"].rsplit(" ", 1)[1]]["iv"] >= row["iv"]
    assert len(kept_at(run, "tax")["columns"]) == sum(row["kept"] for row in rows)
    assert all(not name.startswith("tax.") for name in kept_at(run, "tax")["columns"])


def test_columns_of_constants_fill_a_whole_chunk(tmp_path):
    parts = firms(320, seed=3)
    rows = len(parts["tax"]["firm"])
    parts["tax"] = {"firm": parts["tax"]["firm"], **{f"k{j}": [j] * rows for j in range(130)}, **parts["tax"]}
    run = screen(tmp_path, parts, **NO_LIMITS)
    tax = rows_of(run, "tax")
    assert [row["iv"] is None for row in tax] == [True] * 130 + [False] * 3


def test_before_and_after_a_date(tmp_path):
    parts = firms(500, seed=4)
    run = screen(tmp_path, parts, holdout_from="2022-10-01", **NO_LIMITS)
    train = np.array([day < "2022-10-01" for day in parts["bank"]["opened"]])
    assert (result(run)["n_train"], result(run)["n_holdout"]) == (train.sum(), (~train).sum())
    assert all(row["stability"] is not None for row in result(run)["columns"])


def test_without_holdout_there_is_no_stability(tmp_path):
    run = screen(tmp_path, firms(200, seed=5), holdout_fraction=0)
    assert all(row["stability"] is None for row in result(run)["columns"])


# --- what is told ----------------------------------------------------------------------------------------------------


def test_a_holder_that_publishes_nothing(tmp_path, parts):
    hidden = {**NO_LIMITS, "max_missing": 0.9}
    run = screen(tmp_path, parts, policy={"publish_screening": False}, **hidden)
    rows = rows_of(run, "tax")
    assert all(row["missing_rate"] is None and row["stability"] is None for row in rows)
    assert {row["reason"] for row in rows if row["iv"] is None} == {"left out by its owner"}
    assert "sparse" not in kept_at(run, "tax")["columns"]
    assert all(row["missing_rate"] is not None for row in rows_of(run, "bank"))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"tasks": ("train_scorecard",)}, "does not allow task screen_features"),
        ({"publish_screening": False}, "set max_correlation: null"),
    ],
)
def test_policies_refuse(tmp_path, policy, message):
    with pytest.raises(RefusedError, match=message):
        screen(tmp_path, firms(60), policy=policy)


def test_few_missing_values_are_told_as_none(tmp_path):
    parts = firms(200, seed=6)
    parts["tax"]["arrears"] = ["" if k == 3 else float(k) for k in range(len(parts["tax"]["firm"]))]
    run = screen(tmp_path, parts, policy={"publish_column_names": True}, holdout_fraction=0, **NO_LIMITS)
    rates = {row["name"]: row["missing_rate"] for row in rows_of(run, "tax")}
    assert rates["arrears"] == 0.0


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_screening_goes_on(tmp_path, parts, screened):
    folder = write(tmp_path / "data", parts)
    policy = {"publish_column_names": True}
    run = open_job(
        job("screen_features", name="wide", **NO_LIMITS), nodes(folder, holder_policy=policy), tmp_path, keep=True
    )
    run.step("align")

    def cut(sender, recipient, sequence, payload):
        second = sender == "tax" and kind_of(payload) == "ScreenHolderChunk" and sequence > 0
        return [] if second else [payload]

    with pytest.raises(VeilscoreError):
        run.step("screen", tamper=cut, timeout_s=6.0)
    done = run.stores["bank"].load_json("checkpoint_screen")["chunks"]
    assert len(done["tax"]) == 1
    run.step("screen", attempt=2)
    assert not run.stores["bank"].has("checkpoint_screen")
    found, expected = result(run)["columns"], result(screened)["columns"]
    assert [(r["name"], r["kept"]) for r in found] == [(r["name"], r["kept"]) for r in expected]
    assert [r["iv"] for r in found] == pytest.approx([r["iv"] for r in expected], nan_ok=True, abs=1e-9)
    chunks = [
        message.chunk
        for entry, message in run.transcripts["bank"].messages
        if (entry.kind, entry.sender, entry.session[-2:]) == ("ScreenHolderChunk", "tax", "/2")
    ]
    assert chunks == [1, 2]  # the first was not sent again; the last says that there are no more


def test_rows_that_change_within_a_job_are_refused(tmp_path):
    parts = firms(320, seed=7)
    folder = write(tmp_path / "data", parts)
    run = open_job(job("screen_features"), nodes(folder), tmp_path)
    run.step("align")
    write(folder, {"tax": {name: values[::-1] for name, values in parts["tax"].items()}})
    with pytest.raises(DataError, match="changed since this job was aligned"):
        run.step("screen")


# --- columns_from ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns_from")
    parts = wide(seed=9, n_columns=12)
    return folder, parts, screen(folder, parts, max_columns=20, min_iv=0)


def train_on(home, columns_from, **parameters):
    folder, _, _ = home
    run = open_job(
        job(columns_from=columns_from, holdout_fraction=0, max_openings=30, **parameters),
        nodes(folder / "data"),
        folder / "homes",
    )
    run.step("align")
    run.step("bin")
    return run


def test_training_takes_the_columns_kept(home):
    run = train_on(home, f"wide@{result(home[2])['sha256'][:16]}")
    for party in run.job.parties:
        trained = CodeMap.from_json(run.stores[party].load_json("code_map"))
        assert list(trained.names) == kept_at(home[2], party)["columns"]
    run.step("train")
    assert run.stores["bank"].load_json("fit")["converged"]


def test_a_screening_that_is_missing_other_or_changed_is_refused(home, tmp_path):
    with pytest.raises(SchemaError, match="no screening 'other' at"):
        train_on(home, "other")
    with pytest.raises(SchemaError, match=r"has hash [0-9a-f]{16}, the job asks for 0123456789abcdef"):
        train_on(home, "wide@0123456789abcdef")
    path = home[2].stores["tax"].path.parents[1] / "screenings/wide/kept.json"
    text = path.read_text()
    try:
        body = json.loads(text)
        path.write_text(json.dumps({**body, "columns": [*body["columns"], "same"]}))
        with pytest.raises(SchemaError, match=r"was changed: its hash does not match"):
            train_on(home, "wide")
        path.write_text("{")
        with pytest.raises(SchemaError, match="no list of kept columns"):
            train_on(home, "wide")
    finally:
        path.write_text(text)


def test_a_screening_that_kept_nothing_is_refused(tmp_path):
    parts = firms(320, seed=10)
    run = screen(tmp_path, parts, min_iv=50)
    assert not any(row["kept"] for row in result(run)["columns"])
    with pytest.raises(DataError, match="kept no column of"):
        train_on((tmp_path, parts, run), "wide")


def test_two_choices_of_columns_are_refused():
    with pytest.raises(ConfigError, match="leave one out"):
        job(columns_from="wide", columns={"tax": {"include": ["a"]}})
    assert job(columns_from="wide", columns={"tax": {"exclude": ["a"]}}).training.columns_from == "wide"
    with pytest.raises(ConfigError, match="columns_from"):
        job(columns_from="../wide")


def test_the_command_shows_a_screening(screened, capsys):
    home = screened.stores["bank"].path.parents[1]
    (home / "node.yaml").touch()
    app(["screening", "show", "wide", "--home", str(home), "--top", "5"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert result(screened)["sha256"][:16] in shown
    assert "population" in shown
    with pytest.raises(ConfigError, match="no screening"):
        app(["screening", "show", "other", "--home", str(home)], standalone_mode=False)


# --- plaintext parts -------------------------------------------------------------------------------------------------


def test_associated_pairs_are_those_of_cramers_v():
    rng = np.random.default_rng(0)
    n, sizes = 500, np.array([4, 1, 6, 3, 9, 2, 4, 5])
    codes = np.stack([rng.integers(0, k, n) for k in sizes], 1).astype(np.uint8)
    codes[:, 6] = np.where(rng.random(n) < 0.7, codes[:, 0], codes[:, 6])
    codes[:, 2] = codes[:, 3] * 2  # codes 1, 3 and 5 are empty
    for limit in (0.05, 0.3, 0.9):
        strong = np.triu(cramers_v(codes, sizes) > limit, 1)
        doubtful = np.abs(cramers_v(codes, sizes) - limit) < 0.006
        found = np.zeros_like(strong)
        found[tuple(associated_pairs(codes.T, sizes, limit).T)] = True
        assert np.array_equal(found | np.triu(doubtful, 1), strong | np.triu(doubtful, 1))
        assert found.any()
    assert associated_pairs(np.zeros((0, 5), np.uint8), np.zeros(0, np.int64), 0.5).shape == (0, 2)


def test_pruning_is_by_party_and_from_the_highest_iv_down():
    ivs = {"a": (0.5, 0.4, 0.3), "b": (0.45, 0.01, None)}
    columns = [
        ScreenedColumn(party, f"{party}{k}", iv, None, None, iv is not None, "" if iv is not None else "gone")
        for party, values in ivs.items()
        for k, iv in enumerate(values)
    ]
    pairs = {"a": np.array([[0, 1], [1, 2]]), "b": np.array([[0, 1]])}
    chosen = choose(columns, pairs, ScreeningLimits(None, None, 0.02, 0.9, None))
    assert [c.name for c in chosen if c.kept] == ["a0", "a2", "b0"]
    assert [c.reason for c in chosen if not c.kept] == ["association above 0.9 with a0", "IV 0.010 below 0.02", "gone"]
    fewer = choose(columns, pairs, ScreeningLimits(None, None, 0.02, 0.9, 2))
    assert [c.name for c in fewer if c.kept] == ["a0", "b0"]


# --- hostile peers ---------------------------------------------------------------------------------------------------

N = 200
TARGET = (np.arange(N) % 3 == 0).astype(np.int8)
TRAIN = np.arange(N) % 5 > 0


def protocol_run(tamper=None, *, pairs=((0, 1),)):
    rng = np.random.default_rng(0)
    sizes = np.array([4, 3], np.int64)
    codes = np.stack([rng.integers(0, k, N) for k in sizes], 1).astype(np.uint8)
    columns = BinnedColumns(("c1", "c2"), codes, sizes, np.zeros(2, bool), np.full(2, -1, np.int64), bytes(32))
    chunk = ColumnChunk(("c1", "c2"), np.full(2, MEASURED, np.uint8), np.zeros(2), np.full(2, 0.1), columns)
    sessions = {p: Session("job/screen/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    seen = []

    def measure(found):
        seen.append(found.counts)
        return [{"name": name} for name in found.names]

    kept = {"tax": np.array([True, False])}
    bank = bank_screen(sessions["bank"], TARGET, TRAIN, measure, lambda _: (kept, bytes(32)), with_pairs=True)
    holder = holder_screen(sessions["tax"], lambda _: (1, iter([chunk])), N, 5, lambda: np.array(pairs))
    done = simulate({"bank": bank, "tax": holder}, sessions, tamper=tamper, timeout_s=5.0)
    return codes, seen, done


def test_the_protocol_opens_counts_alone():
    codes, (counts,), done = protocol_run()
    rows = codes[TRAIN, 0], TARGET[TRAIN]
    assert np.array_equal(counts.bad[:4], np.bincount(rows[0], weights=rows[1], minlength=4))
    assert np.array_equal(counts.good + counts.bad, counts.counts)
    assert not counts.holdout_counts.any()
    kept, digest = done["tax"]
    assert kept.tolist() == [True, False]
    assert digest == bytes(32)


def changed(kind, change):
    """Tamper that applies `change` to every message of one kind."""

    def tamper(sender, recipient, sequence, payload):
        if kind_of(payload) != kind.__name__:
            return [payload]
        message = decode(payload, kind, session="", sender=sender)
        change(message)
        return [encode(message)]

    return tamper


def set_to(field, value):
    return lambda message: setattr(message, field, value)


def in_list(field, values):
    def change(message):
        del getattr(message, field)[:]
        getattr(message, field).extend(values)

    return change


@pytest.mark.parametrize(
    ("kind", "change", "text"),
    [
        (pb.ScreenBankRound1, set_to("n_samples", 7), "aligned were"),
        (pb.ScreenBankRound1, set_to("n_train", 7), "contradicts its count"),
        (pb.ScreenBankRound1, set_to("train_mask", b"\xff"), "mask"),
        (pb.ScreenBankRound1, set_to("public_key", b"\xff"), "ring elements"),
        (pb.ScreenBankRound1, set_to("chunks_done", 9), "measured 9 chunks"),
        (pb.ScreenBankLabel, set_to("data", b"0"), "with 1 bytes came, due is"),
        (pb.ScreenHolderChunk, set_to("chunk", 4), "came in place of"),
        (pb.ScreenHolderChunk, set_to("chunks", 1 << 30), "came in place of"),
        (pb.ScreenHolderChunk, set_to("status", b"\x09\x00"), "known status"),
        (pb.ScreenHolderChunk, set_to("status", b"\x00\x01"), "not those of the measured"),
        (pb.ScreenHolderChunk, set_to("status", b"\x01\x01"), "described for no column"),
        (pb.ScreenHolderChunk, in_list("columns", ["c1", "c1"]), "known status"),
        (pb.ScreenHolderChunk, in_list("columns", ["c1", "x" * 300]), "wrong length"),
        (pb.ScreenHolderChunk, in_list("missing_rate", [0.5, 1.5]), "out of range"),
        (pb.ScreenHolderChunk, in_list("stability", [float("nan"), 0.0]), "out of range"),
        (pb.ScreenHolderChunk, in_list("stability", [0.0]), "out of range"),
        (pb.ScreenHolderChunk, lambda m: m.ClearField("shape"), "missing for measured"),
        (pb.ScreenHolderChunk, lambda m: setattr(m.shape, "holdout_counts", b"\x01" * 28), "not those of the measured"),
        (pb.ScreenHolderChunk, lambda m: setattr(m.shape, "counts", b"\xff" * 28), "exceed the training rows"),
        (pb.ScreenHolderSums, set_to("data", b"0"), "with 1 bytes came, due is"),
        (pb.ScreenHolderShares, set_to("shares", b"\xff" * 56), "share ring"),
        (pb.ScreenHolderShares, set_to("shares", bytes(56)), "outside the holder's bin sizes"),
        (pb.ScreenBankNext, set_to("chunk", 3), "in place of"),
        (pb.ScreenHolderPairs, set_to("data", b"123"), "8 bytes each"),
        (pb.ScreenHolderPairs, set_to("data", np.array([1, 0], "<u4").tobytes()), "not in order"),
        (pb.ScreenHolderPairs, set_to("data", np.array([0, 9], "<u4").tobytes()), "not there"),
        (pb.ScreenHolderPairs, set_to("data", np.array([0, 1, 0, 1], "<u4").tobytes()), "or more than 8 bytes"),
        (pb.ScreenBankKept, set_to("kept", b""), "mask"),
        (pb.ScreenBankKept, set_to("screening_hash", b"1"), "hash is short"),
    ],
)
def test_what_a_peer_sends_is_checked(kind, change, text):
    with pytest.raises(MessageError, match=text):
        protocol_run(changed(kind, change))
