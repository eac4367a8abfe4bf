"""Recorded runs against the table of who learns what, by someone who reads every message."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from chances import uniform
from local_jobs import firms, job, nodes, write
from written_models import capacity, file_capacity, filing

from veilscore.crypto import shares
from veilscore.crypto.bit_product import BitOwner, ValueOwner
from veilscore.crypto.garbled import Evaluator
from veilscore.crypto.oblivious import LabelSender
from veilscore.data.codes import CodeMap
from veilscore.lattice import bfv, hints, inner_product, lookup, packed_sums, product
from veilscore.lattice.params import SCORE_T, T
from veilscore.models.counts import BinnedColumns
from veilscore.models.logistic_problem import scales
from veilscore.models.loss import TURN
from veilscore.node.local import open_job
from veilscore.protocols import scoring
from veilscore.protocols.binning import bank_bin, holder_bin
from veilscore.tasks.table import TASKS, leakage_table, online_table, step_of, steps_of
from veilscore.wire.framing import kind_of as kind_of_body
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session

PACKED = {  # kinds that carry ring elements, and their fields that do
    "BinHolderHints": ("data",),
    "BinBankRound2": ("data",),
    "TrainBankRound0": ("product_public", "woe_enc"),
    "TrainHolderHistogramHints": ("data",),
    "TrainHolderLookupHints": ("data",),
    "TrainBankHints": ("data",),
    "TrainBankEta": ("data",),
    "TrainBankTables": ("ciphertexts",),
    "TrainLeadSigmoid": ("reply",),
    "TrainLeadCells": ("data",),
    "TrainBankResidual": ("data",),
    "TrainHolderGradient": ("reply",),
    "ScreenBankRound1": ("public_key",),
    "ScreenBankLabel": ("data",),
    "ScreenHolderSums": ("data",),
    "BoostBankHints": ("data",),
    "BoostHolderHints": ("data",),
    "BoostBankTree": ("product_public",),
    "BoostBankTables": ("ciphertexts",),
    "BoostHolderGradients": ("reply",),
    "BoostBankVectors": ("data",),
    "BoostHolderVectors": ("data",),
    "BoostBankBlock": ("ciphertexts",),
    "BoostHolderBlock": ("reply",),
    "StackBankKey": ("product_public",),
    "StackHolderHints": ("data",),
    "StackBankQuery": ("data",),
    "StackBankBlock": ("ciphertexts",),
    "StackHolderBlock": ("reply",),
    "BatchHolderHints": ("data",),
    "BatchBankQuery": ("data",),
    "BatchBankKey": ("product_public",),
    "BatchBankFactors": ("ciphertext_enc",),
    "BatchHolderReply": ("reply_enc",),
}
WORDS = {  # kinds that carry shares, each uniform without the receiver's own: field and modulus
    "BinHolderRound2": ("shares", T),
    "ScreenHolderShares": ("shares", T),
    "TrainHolderEta": ("share", TURN),
    "TrainLeadResidual": ("share", T),
    "BoostHolderMargin": ("data", T),
    "BoostProducts": ("data", T),
    "StackHolderShare": ("data", T),
    "BatchHolderPartial": ("data", TURN),
    "BatchCoordinatorTotal": ("data", TURN),
    "BandHolderPartial": ("data", TURN),
}
POINTS = ("AlignBankRound1", "AlignHolderRound1", "BandLeadBase", "BoostPoints")
# kinds whose data is uniform: labels, garbled tables, masked stores
BYTES = ("BandBankLabels", "BandLeadTables", "BoostChoices", "AlignHolderStore")
SEED_BYTES = 32
DEVIATES = 7.0


def assert_uniform(values, modulus, what):
    assert values.size >= 40, what
    assert uniform(values, modulus, int(min(64, values.size // 10))), what
    centred = (values.astype(np.float64) / modulus - 0.5) * np.sqrt(12)
    assert abs(centred.mean()) * np.sqrt(values.size) < DEVIATES, what
    if values.size > 500:
        # of a uniform variable the square has mean 1 and standard deviation sqrt(.8)
        assert abs((centred**2).mean() - 1) * np.sqrt(values.size / 0.8) < DEVIATES, what
        low = values.astype(np.uint64) & np.uint64(15)
        assert uniform(low, 16), what


@dataclass
class Record:
    """A run with all it sent, all ring elements that were read, and the shares each side was left with."""

    run: object
    parts: dict
    elements: dict = field(default_factory=dict)  # (where they were read, primes) -> list of residues
    views: dict = field(default_factory=dict)  # name of the computation -> list of (shares, modulus)
    unpacked: dict = field(default_factory=dict)  # digest -> bytes, since some are read at every step
    garbled: dict = field(default_factory=dict)  # "tables" of gates, "choices" of labels -> list of bytes

    def received(self, party, *kinds):
        return [
            (entry, message)
            for entry, message in self.run.transcripts[party].messages
            if entry.recipient == party and (not kinds or entry.kind in kinds)
        ]

    def everything(self):
        for party in self.run.transcripts:
            yield from ((party, entry, message) for entry, message in self.received(party))


@contextlib.contextmanager
def recording(record):
    """Note ring elements as they are read and shares as they are made."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (bfv, hints, inner_product, lookup, packed_sums, product):
            patch.setattr(module, "unpack", _noting_elements(record, module.unpack))
        for owner, name in (
            (hints.MatrixOwner, "evaluate_many"),
            (hints.VectorOwner, "query_many"),
            (lookup.LookupCodes, "evaluate_many"),
            (lookup.LookupTable, "query_many"),
            (product.ProductKey, "decrypt"),
            (product.ProductEvaluator, "multiply_sum"),
            (inner_product.InnerKey, "share"),
            (inner_product.InnerEvaluator, "reply"),
            (packed_sums.SumsEvaluator, "sums"),
            (packed_sums.SumsKey, "share"),
            (BitOwner, "product"),
            (ValueOwner, "multiply"),
        ):
            patch.setattr(owner, name, _noting_shares(record, owner, name))
        for owner, name, what in ((Evaluator, "feed", "tables"), (LabelSender, "extend", "choices")):
            patch.setattr(owner, name, _noting_bytes(record, getattr(owner, name), what))
        yield


def _noting_bytes(record, original, what):
    def method(self, data, *args):
        record.garbled.setdefault(what, []).append(bytes(data))
        return original(self, data, *args)

    return method


def _noting_elements(record, original):
    def unpack(data, shape, primes):
        found = original(data, shape, primes)
        caller = inspect.currentframe().f_back
        where = f"{caller.f_code.co_filename.rsplit('/', 1)[1]}:{caller.f_lineno}"
        digest = hashlib.sha256(data).digest()
        if digest not in record.unpacked:  # two holders read one public key
            record.elements.setdefault((where, primes), []).append(found)
        record.unpacked[digest] = len(data)
        return found

    return unpack


def _noting_shares(record, owner, name):
    original = getattr(owner, name)

    def method(self, *args, **options):
        result = original(self, *args, **options)
        share = result[1] if isinstance(result, tuple) else result
        params = self._shape.params if hasattr(self, "_shape") else getattr(self, "_params", None)
        modulus = T if params is None else params.t
        record.views.setdefault(f"{type(self).__name__}.{name}", []).append((np.asarray(share).ravel(), modulus))
        return result

    return method


def record_run(folder, *, flipped=False, seed=1, **parameters):
    parts = firms(420, seed=seed)
    if flipped:
        parts["bank"]["default"] = [1 - y for y in parts["bank"]["default"]]
    record = Record(None, parts)
    with recording(record):
        data = write(folder / "data", parts)
        record.run = open_job(
            job(holdout_fraction=0.4, max_openings=6, **parameters), nodes(data), folder, keep=True
        ).run()
    return record


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    """A screening; one holder has 143 columns, two chunks."""
    folder = tmp_path_factory.mktemp("screened")
    parts, rng = firms(420, seed=2), np.random.default_rng(2)
    parts["tax"] |= {f"tax_measure_{k}": rng.normal(size=len(parts["tax"]["firm"])).tolist() for k in range(140)}
    record = Record(None, parts)
    with recording(record):
        data = write(folder / "data", parts)
        record.run = open_job(job("screen_features", max_correlation=0.3), nodes(data), folder, keep=True).run()
    return record


def record_boosting(folder, **parameters):
    record = Record(None, firms(420, seed=3))
    asked = {
        "n_estimators": 4,
        "max_depth": 3,
        "early_stopping_rounds": 4,
        "subsample": 0.9,
        "holdout_fraction": 0.4,
        **parameters,
    }
    with recording(record):
        configs = nodes(write(folder / "data", record.parts))
        record.run = open_job(job("train_boosting", **asked), configs, folder, keep=True).run()
    return record


@pytest.fixture(scope="module")
def boosted(tmp_path_factory):
    return record_boosting(tmp_path_factory.mktemp("boosted"), min_leaf_rows=10)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder, record = tmp_path_factory.mktemp("stack"), Record(None, firms(420, seed=4))
    asked = {
        "folds": 2,
        "scorecard": {"max_openings": 6},
        "boosting": {"n_estimators": 3, "max_depth": 2, "min_leaf_rows": 10},
        "holdout_fraction": 0.4,
        "fold_scores": True,
    }
    with recording(record):
        configs = nodes(write(folder / "data", record.parts), holder_policy={"fold_scores": "allow"})
        record.run = open_job(job("train_stack", **asked), configs, folder, keep=True).run()
    return record


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    folder, record = tmp_path_factory.mktemp("mined"), Record(None, firms(900, seed=5))
    with recording(record):
        data = write(folder / "data", record.parts)
        record.run = open_job(job("mine_rules", segments=2, despite_noise=True), nodes(data), folder, keep=True).run()
    return record


@pytest.fixture(scope="module")
def banded(tmp_path_factory):
    bands = {"A": 560, "B": 520, "C": 490}
    return record_run(tmp_path_factory.mktemp("banded"), bands=bands, holdout_output="band")


@pytest.fixture(scope="module")
def filed(tmp_path_factory):
    """A hand-written model, and a decision over it with a knock-out."""
    folder = tmp_path_factory.mktemp("filed")
    written = file_capacity(folder, keep=True)
    asked = filing(DECISION | {"knock_outs": [{"party": "registry", "column": "sector", "is": ["steel"]}]})
    runs = written.run, open_job(asked, written.nodes, folder / "homes", keep=True).run()
    return [Record(run, {}) for run in runs]


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("flipped"), flipped=True)


# --- the table -------------------------------------------------------------------------------------------------------


def kind_of(entry, run):
    """Row of the table for a message's step: a hold-out is evaluated with the messages that score a batch."""
    return step_of(run.job, entry.session.split("/")[1]).kind


DECISION = {
    "name": "limit",
    "purpose": "proactive",
    "steps": [100_000, 500_000],
    "measures": {"capacity": {"model": "capacity", "cutoffs": [100_000, 500_000]}},
}
EXACT_AT_WISH = ("train_scorecard", "train_boosting", "train_stack", "select_model", "screen_features")


WITHOUT_OUTPUT = ("screen_features", "mine_rules", "write_model", "file_decision", "decide", "size_decision")


def default_parameters(task, **changes):
    exact = {"disclosure": "exact"}
    needed = {
        "score_batch": {"model": "card"},
        "write_model": capacity(),
        "file_decision": {"decision": DECISION},
        **{name: {"decision": "limit"} for name in ("decide", "size_decision")},
        **dict.fromkeys(EXACT_AT_WISH, exact),
    }.get(task, {})
    return TASKS[task].parameters(**needed | changes)


def leaks_of(parameters):
    found = {}  # kinds of a selection have steps of the same row
    for step in steps_of(parameters).values():
        found[step.kind] = tuple(dict.fromkeys((*found.get(step.kind, ()), *step.learns)))
    return found


SHIPPED = [name for name in TASKS if name != "toy"]
# of all steps; what batches of scores and decisions tell has tests of its own (also test_decide.py, test_sizing.py)
LEAKS = {
    (kind, leak) for task in SHIPPED for kind, leaks in leaks_of(default_parameters(task)).items() for leak in leaks
}
LEAKS = {(kind, leak) for kind, leak in LEAKS if kind not in {"score", "decide", "size"} and not leak.row}


def roles_of(party, run):
    if party in ("bank", "coordinator"):
        return {party}
    return {"holder", "lead"} if party == run.job.holders[0] else {"holder"}


def test_every_message_is_in_the_table_and_every_row_occurs(record, screened, boosted, stack, banded, mined, filed):
    rows = {(step, leak.kind, leak.to) for step, leak in LEAKS}
    assert len(rows) == len(LEAKS)
    seen = set()
    runs = (record, screened, boosted, stack, banded, mined, *filed)
    for run, (party, entry, _) in ((one.run, message) for one in runs for message in one.everything()):
        step = kind_of(entry, run)
        matching = {(step, entry.kind, role) for role in roles_of(party, record.run)} & rows
        assert matching, f"{entry.kind} to {party} in {step} is not in the table"
        seen |= matching
    assert seen == rows
    # rows of the lead occur at the lead alone
    others = {entry.kind for found in (record, banded) for party, entry, _ in found.everything() if party == "registry"}
    assert not others & {leak.kind for _, leak in LEAKS if leak.to == "lead"}
    # and what goes with exact scores does not occur with bands
    for found, other in ((record, "band"), (banded, "exact")):
        kinds = {entry.kind for _, entry, _ in found.everything()}
        assert kinds & {leak.kind for _, leak in LEAKS if leak.only}
        assert not kinds & {leak.kind for _, leak in LEAKS if leak.only == other}


OF_PRIVATE = {
    "train_scorecard": {"max_bin": 4},
    "train_stack": {"despite_noise": True},
    "select_model": {"despite_noise": True, "boosting": {"n_estimators": 4}},
    "screen_features": {"max_columns": 1, "max_correlation": 0.5},
}


@pytest.mark.parametrize(
    "task", [pytest.param(t, marks=pytest.mark.slow) if t == "select_model" else t for t in EXACT_AT_WISH]
)
def test_every_message_of_a_private_job_is_in_its_table_and_every_row_occurs(task, tmp_path):
    record = Record(None, firms(900, seed=6))
    # little noise, so that every holder has a column with an effect, and every message goes
    asked = {"disclosure": "private", "holdout_fraction": 0.4, "mu": 5} | OF_PRIVATE.get(task, {})
    with recording(record):
        configs = nodes(write(tmp_path / "data", record.parts), holder_policy={"privacy": {"job": 5, "year": 10}})
        record.run = open_job(job(task, **asked), configs, tmp_path, keep=True).run()
    table = leaks_of(record.run.job.parameters)
    rows = {(step, leak.kind, leak.to) for step, leaks in table.items() for leak in leaks if leak.only in ("", "curve")}
    seen = set()
    for party, entry, _ in record.everything():
        matching = {(kind_of(entry, record.run), entry.kind, role) for role in roles_of(party, record.run)} & rows
        assert matching, f"{entry.kind} to {party} is not in the table"
        seen |= matching
    assert seen == rows


def test_all_messages_of_forms_that_hide_are_checked_here():
    hiding = {leak.kind for _, leak in LEAKS if leak.form in ("ciphertext", "hint", "masked")}
    assert hiding <= {*PACKED, *WORDS, *POINTS, *BYTES}


@pytest.mark.parametrize("released", ["score", "band", "exact"])
@pytest.mark.parametrize("task", SHIPPED)
def test_the_table_shown_to_people_is_made_of_the_same_rows(task, released):
    told_by_default = {"monotone WOE", "association"}  # of an exact scorecard, where holders tell
    steps = {
        "train_scorecard": {"align", "bin", "train", "evaluate", *told_by_default},
        "train_boosting": {"align", "bin", "boost", "evaluate"},
        "train_stack": {"align", "bin", "train", "boost", "stack", "evaluate", "folds", *told_by_default},
        "select_model": {"align", "bin", "train", "boost", "stack", "evaluate", "folds", *told_by_default},
        "score_batch": {"consent", "align", "score"},
        "screen_features": {"align", "screen"},
        "mine_rules": {"align", "mine", "verify"},
        "write_model": {"write"},
        "file_decision": {"file"},
        "decide": {"consent", "align", "decide"},
        "size_decision": {"align", "size"},
    }[task]
    banded = {
        "score_batch": {"output": "band"},
        **{name: {} for name in WITHOUT_OUTPUT},
    }.get(task, {"holdout_output": "band", "bands": {"A": 600}})
    exact = {"output": "exact"} if task == "score_batch" else {}
    parameters = default_parameters(task, **({"band": banded, "exact": exact}.get(released, {})))
    shown = {row.step: row for row in leakage_table(parameters)}
    assert set(shown) == steps
    for step, leaks in leaks_of(parameters).items():
        for leak in leaks:
            if leak.learns != "nothing" and leak.only in ("", parameters.opens):
                column = "holder" if leak.to == "lead" else leak.to
                assert leak.learns in getattr(shown[leak.row or step], column)
    told = {leak.learns for _, leak in LEAKS if leak.to == "coordinator"}
    for row in shown.values():
        assert row.step == "folds" or set(row.coordinator.split("; ")) <= {*told, "job, sizes, timing"}


def test_every_row_says_how_much_of_a_firm_the_bank_learns():
    def how_much(task, **changes):
        return {row.step: row.how_much for row in leakage_table(default_parameters(task, **changes))}

    private = how_much("train_scorecard", disclosure="private")
    assert private == {
        "align": "nothing",
        "bin": "mu 0.39; mu 0.15 once for a version of bins",
        "train": "mu 0.32",
        "evaluate": "mu 0.50",
        "monotone WOE": "nothing",
    }
    exact = how_much("train_scorecard", disclosure="exact", monotone=True)
    assert {exact[step] for step in ("bin", "train", "evaluate", "monotone WOE")} == {"all"}
    assert exact["align"] == "nothing"
    bands = {"A": 600, "B": 550, "C": 500}
    assert how_much("score_batch")["score"] == "at most 5 bits a firm"
    assert how_much("score_batch", score_steps=8)["score"] == "at most 3 bits a firm"
    assert how_much("score_batch", output="exact")["score"] == "all"
    assert how_much("score_batch", output="band", bands=bands)["score"] == "at most 2 bits a firm"
    assert online_table("band").how_much == "at most 6 bits a firm"


def test_a_step_that_opens_something_of_firms_says_how_much():
    """Whatever is called noised or opened sums has a charge, a number of bits, or no bound."""
    for task in SHIPPED:
        for step in steps_of(default_parameters(task)).values():
            opens = [leak for leak in step.learns if leak.to == "bank" and leak.form == "opened"]
            (row,) = [r for r in leakage_table(default_parameters(task)) if r.step == step.kind]
            if step.kind != "align" and opens:
                assert row.how_much != "nothing", (task, step.kind)


def test_options_that_tell_more_have_rows_of_their_own():
    exact = {"disclosure": "exact", "max_correlation": None}
    usual = leakage_table(default_parameters("train_scorecard", **exact, monotone=False))
    more = leakage_table(default_parameters("train_scorecard", **exact, monotone=True, standard_errors=True))
    assert [row.step for row in more[len(usual) :]] == ["monotone WOE", "standard errors"]
    default = leakage_table(default_parameters("train_scorecard", disclosure="exact"))
    assert [row.step for row in default[len(usual) :]] == ["monotone WOE", "association"]
    assert "where the holder tells" in default[-1].bank
    private = leakage_table(default_parameters("train_scorecard", disclosure="private"))
    assert [(row.step, row.how_much) for row in private[4:]] == [("monotone WOE", "nothing")]


# --- what is hidden is uniform ---------------------------------------------------------------------------------------


def test_the_check_itself_finds_what_is_not_uniform():
    rng = np.random.default_rng(0)
    for values, modulus in (
        (rng.integers(0, 1 << 20, 4000), 1 << 24),
        (rng.integers(0, 20, 4000), 64),
        (np.rint(rng.normal(T / 2, T / 20, 4000)), T),
        (rng.integers(0, 1 << 20, 4000) << 4, 1 << 24),
    ):
        with pytest.raises(AssertionError):
            assert_uniform(np.asarray(values).astype(np.uint64), modulus, "plain")
    assert_uniform(rng.integers(0, T, 4000).astype(np.uint64), T, "uniform")


def test_ring_elements_are_uniform(record):
    assert len(record.elements) >= 6
    for (where, primes), found in record.elements.items():
        for limb, prime in enumerate(primes):
            values = np.concatenate([residues[..., limb, :].ravel()[: 1 << 18] for residues in found])
            assert_uniform(values[: 1 << 21], prime, f"{where} modulo {prime}")


def test_ring_elements_are_all_there_is_in_hiding_messages(record):
    sent = {}
    for _, entry, message in record.everything():
        for name in PACKED.get(entry.kind, ()):
            value = getattr(message, name)
            for piece in [value] if isinstance(value, bytes) else value:
                seed = SEED_BYTES if name in ("woe_enc", "ciphertexts", "ciphertext_enc") else 0
                sent[hashlib.sha256(piece).digest()] = len(piece) - seed
    # seeds of what is drawn and length prefixes of packed fields are the rest
    assert 0 <= sum(sent.values()) - sum(record.unpacked.values()) <= 128 * len(sent)


def test_shares_in_messages_are_uniform(record):
    steps = {kind_of(entry, record.run) for _, entry, _ in record.everything()}
    absent = "exact" if record.received("bank", "BandLeadDecoding") else "band"
    expected = {leak.kind for step, leak in LEAKS if step in steps and leak.only != absent}
    for kind, (name, modulus) in ((kind, WORDS[kind]) for kind in sorted(expected & WORDS.keys())):
        by_party = {}
        for party, _entry, message in (m for m in record.everything() if m[1].kind == kind):
            if (kind, party) == ("StackHolderShare", "bank"):
                continue  # scores of folds that the job and every policy open; rounded, so short
            by_party.setdefault(party, []).append(np.frombuffer(getattr(message, name), "<u8"))
        assert by_party, kind
        for party, words in by_party.items():
            assert_uniform(np.concatenate(words), modulus, f"{kind} to {party}")


def test_points_are_uniform(record):
    present = {entry.kind for _, entry, _ in record.everything()}
    assert present & {*POINTS}
    for kind in sorted(present & {*POINTS}):
        data = b"".join(message.points for _, entry, message in record.everything() if entry.kind == kind)
        points = np.frombuffer(data, np.uint8).reshape(-1, 32)
        assert len({point.tobytes() for point in points}) >= len(points) // 2
        # the first and last byte have fixed bits in every encoding
        assert_uniform(points[:, 1:31].ravel(), 256, kind)


@pytest.mark.parametrize("which", ["banded", "boosted", "stack"])
def test_hidden_bits_and_tables_are_uniform(which, request):
    found = request.getfixturevalue(which)
    present = {entry.kind for _, entry, _ in found.everything()} & {*BYTES}
    assert present - {"AlignHolderStore"} == (
        {"BandBankLabels", "BandLeadTables"} if which == "banded" else {"BoostChoices"}
    )
    for kind in present:
        data = b"".join(message.data for _, entry, message in found.everything() if entry.kind == kind)
        assert_uniform(np.frombuffer(data, np.uint8), 256, kind)


def test_shares_left_with_each_party_are_uniform(record, flipped):
    """Also with all labels turned round: neither view tells the labels."""
    for found in (record, flipped):
        assert len(found.views) >= 6
        for name, views in found.views.items():
            values = np.concatenate([share for share, _ in views])
            assert_uniform(values, views[0][1], name)


def test_two_views_of_opposite_labels_cannot_be_told_apart(record, flipped):
    def by_kind(found, party):
        words = {}
        for entry, message in found.received(party):
            if entry.kind in WORDS and entry.kind != "BinHolderRound2":
                name, modulus = WORDS[entry.kind]
                value = np.frombuffer(getattr(message, name), "<u8").astype(np.float64) / modulus
                words.setdefault(entry.kind, []).append(value)
        return {kind: np.concatenate(values) for kind, values in words.items()}

    for party in ("tax", "registry", "coordinator"):
        one, two = by_kind(record, party), by_kind(flipped, party)
        assert one.keys() == two.keys() != set()
        for kind in one:
            error = np.sqrt((1 / one[kind].size + 1 / two[kind].size) / 12)
            assert abs(one[kind].mean() - two[kind].mean()) < 6 * error
            spread = np.sqrt((1 / one[kind].size + 1 / two[kind].size) / 180)
            assert abs(one[kind].var() - two[kind].var()) < 6 * spread


def test_no_share_or_ciphertext_is_sent_twice(record):
    digests = [
        entry.sha256
        for party, entry, message in record.everything()
        if entry.kind in {*PACKED, *WORDS, *BYTES} - {"TrainLeadResidual"} and message.ByteSize() > 64
    ]
    assert len(digests) == len(set(digests))


# --- what must stay at home ------------------------------------------------------------------------------------------


def bits_and_bytes(values):
    """Encodings in which a small-integer vector might have slipped into a message."""
    values = np.asarray(values)
    kinds = ("<u1",) if values.dtype == bool else ("<u1", "<u2", "<u4", "<u8", "<f4", "<f8")
    found = [values.astype(kind).tobytes() for kind in kinds]
    if values.dtype == bool or set(np.unique(values).tolist()) <= {0, 1}:
        found += [np.packbits(values.astype(bool), bitorder=order).tobytes() for order in ("little", "big")]
    # long enough to be no accident, and no run of zeros
    return {data[:64] for data in found if len(data) >= 20 and data[:64].count(0) < len(data[:64]) - 8}


class Search:
    """Looks for many patterns at once in megabytes: where two bytes begin a pattern, the rest is compared."""

    def __init__(self, patterns):
        self._by_start = {}
        for pattern in patterns:
            self._by_start.setdefault(pattern[:2], []).append(pattern)
        self._begins = np.zeros(1 << 16, bool)
        self._begins[np.frombuffer(b"".join(self._by_start), "<u2")] = True

    def found(self, data):
        """Return the patterns that stand anywhere in these bytes."""
        found = set()
        for offset in (0, 1):
            words = np.frombuffer(data, "<u2", max(0, len(data) - offset) // 2, offset if len(data) > offset else 0)
            for at in (2 * np.flatnonzero(self._begins[words]) + offset).tolist():
                found |= {p for p in self._by_start[data[at : at + 2]] if data.startswith(p, at)}
        return found


def test_the_search_finds_what_a_search_for_each_pattern_finds():
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 50, 51, 400):
        data = rng.integers(0, 3, size, np.uint8).tobytes()
        patterns = {rng.integers(0, 3, length, np.uint8).tobytes() for length in (2, 3, 4, 5, 6) for _ in range(20)}
        patterns |= {data[:5], data[-5:]} if size > 5 else set()
        assert Search(patterns).found(data) == {pattern for pattern in patterns if pattern in data}


def assert_absent(patterns, messages):
    search = Search(patterns)
    for entry, data in messages:
        assert not search.found(data), f"{entry.kind} to {entry.recipient}"


def messages_to_others(record, owner):
    return [(entry, message.SerializeToString()) for party, entry, message in record.everything() if party != owner]


def test_no_id_in_any_message(record):
    known = record.parts["bank"]["firm"][:4] + record.parts["tax"]["firm"][:2]
    patterns = [b"firm-0", b"FIRM-0"]
    for firm in known:
        for text in (firm, firm.upper()):
            for name in ("sha256", "md5", "sha1"):
                digest = hashlib.new(name, text.encode(), usedforsecurity=False)
                patterns += [digest.digest(), digest.hexdigest().encode()]
    assert_absent(patterns, ((entry, message.SerializeToString()) for _, entry, message in record.everything()))


def test_no_name_of_a_column_in_any_message(record):
    names = {name for columns in record.parts.values() for name in columns if len(name) > 6}
    assert {"turnover", "arrears", "product", "default"} <= names
    patterns = {name.encode() for name in names}
    assert_absent(patterns, ((entry, message.SerializeToString()) for _, entry, message in record.everything()))


def test_no_label_in_any_message(record):
    rows = record.run.stores["bank"].load_arrays("rows")
    y, train = rows["target"], rows["train"]
    patterns = set().union(*map(bits_and_bytes, (y, y[train], y[~train], 1 - y, 1 - y[train])))
    assert_absent(patterns, messages_to_others(record, "bank"))


@pytest.mark.parametrize("owner", ["bank", "tax", "registry"])
def test_no_code_in_any_message(record, owner):
    saved = record.run.stores[owner].load_arrays("rows")
    patterns = set()
    for rows in (slice(None), saved["train"], ~saved["train"]):
        codes = saved["codes"][rows]
        patterns |= bits_and_bytes(codes.ravel())
        for column in codes.T:
            patterns |= bits_and_bytes(column)
            for code in np.unique(column):
                patterns |= bits_and_bytes(column == code)
    assert_absent(patterns, messages_to_others(record, owner))


def test_a_code_map_never_leaves_its_owner(record):
    for owner in ("bank", "tax", "registry"):
        code_map = CodeMap.from_json(record.run.stores[owner].load_json("code_map"))
        edges = np.array([e for column in code_map.columns for e in getattr(column.bins, "edges", ())])
        patterns = {np.float64(e).tobytes() for e in edges if not (8 * e).is_integer()}
        assert_absent(patterns, messages_to_others(record, owner))


# --- what is opened --------------------------------------------------------------------------------------------------


def test_the_bank_opens_d_plus_one_rounded_numbers_a_step(record):
    bank = record.run.stores["bank"]
    counts = bank.load_json("counts")
    d = sum(len(c["n_codes"]) for c in counts)
    n_train = int(bank.load_arrays("rows")["train"].sum())
    used = scales(n_train)
    from veilscore.models.design import fraction_bits

    kept = fraction_bits(record.run.job, n_train)
    per_step = {}
    for holder in record.run.job.holders:
        found = [m for e, m in record.received("bank", "TrainHolderGradient") if e.sender == holder]
        for step, message in enumerate(found):
            words = np.frombuffer(message.rounded, "<u8")
            per_step[step] = per_step.get(step, 0) + words.size
            # nothing below the rounding was sent: the words are too short to hold it
            sums = words[:-1] if holder == record.run.job.holders[0] else words
            assert int(sums.max()) <= (T >> (used.residual + used.woe - kept)) + 1
            if holder == record.run.job.holders[0]:
                assert int(words[-1]) <= (T >> (used.residual - kept)) + 1
    fit = bank.load_json("fit")
    assert list(per_step.values()) == [d + 1] * fit["n_evaluations"]


def test_holders_hear_the_range_of_each_step_and_nothing_else(record):
    for holder in record.run.job.holders:
        for _, message in record.received(holder, "TrainBankStep"):
            told = {name.name for name, _ in message.ListFields()}
            assert told <= {"step", "radius", "finished"}


def test_the_coordinator_gets_sizes_and_masked_partials_only(record):
    found = record.received("coordinator")
    assert {entry.kind for entry, _ in found} == {"BatchBankRound0", "BatchHolderPartial"}
    held = int((~record.run.stores["bank"].load_arrays("rows")["train"]).sum())
    for entry, message in found:
        if entry.kind == "BatchBankRound0":
            assert {name.name for name, _ in message.ListFields()} == {"n_scored"}
            assert message.n_scored == held
        else:
            assert_uniform(shares.shares_from_bytes(message.data, (held,), below=TURN), TURN, entry.sender)
    # and its sum is not the holders' points: the bank's mask is still on it
    total = sum(shares.shares_from_bytes(m.data, (held,)) for e, m in found if e.kind == "BatchHolderPartial")
    assert_uniform(total % np.uint64(TURN), TURN, "sum of partials")


def test_with_three_holders_two_and_the_coordinator_know_nothing_of_the_third():
    from test_scoring import N_CODES, ROWS, score

    transcripts = {}
    score(tuple(N_CODES), transcripts=transcripts)
    n = int(ROWS.sum())
    partials = {
        entry.sender: shares.shares_from_bytes(message.data, (n,), below=TURN)
        for entry, message in transcripts["coordinator"].messages
        if entry.kind == "BatchHolderPartial"
    }
    for left_out in N_CODES:
        total = sum(part for holder, part in partials.items() if holder != left_out) % np.uint64(TURN)
        assert_uniform(total, TURN, left_out)


# --- bands -----------------------------------------------------------------------------------------------------------


def test_bands_hide_as_much(banded):
    for check in (
        test_ring_elements_are_uniform,
        test_ring_elements_are_all_there_is_in_hiding_messages,
        test_shares_in_messages_are_uniform,
        test_points_are_uniform,
        test_no_share_or_ciphertext_is_sent_twice,
        test_no_id_in_any_message,
        test_no_name_of_a_column_in_any_message,
        test_no_label_in_any_message,
    ):
        check(banded)
    for name, views in banded.views.items():
        assert_uniform(np.concatenate([share for share, _ in views]), views[0][1], name)


def test_a_batch_tells_five_bits_a_firm_and_every_message_of_it_is_in_its_table(record):
    homes, batch = record.run.stores["bank"].path.parents[2], Record(None, record.parts)
    asked = job("score_batch", name="batch", model="card", on_missing="missing_code")
    with recording(batch):
        configs = nodes(homes / "data", holder_policy={"consent": "off"})
        batch.run = open_job(asked, configs, homes, keep=True).run()
    table = leaks_of(asked.parameters)
    rows = {(step, leak.kind, leak.to) for step, leaks in table.items() for leak in leaks if leak.only in ("", "score")}
    rows -= {(step, leak.kind, leak.to) for step, leaks in table.items() for leak in leaks if "Factors" in leak.kind}
    rows -= {("score", kind, to) for kind, to in (("BatchBankKey", "holder"), ("BatchHolderReply", "bank"))}  # of trees
    rows -= {("score", "ShardMessage", to) for to in ("bank", "holder")}
    seen = set()
    for party, entry, _ in batch.everything():
        matching = {(kind_of(entry, batch.run), entry.kind, role) for role in roles_of(party, batch.run)} & rows
        assert matching, f"{entry.kind} to {party} is not in the table"
        seen |= matching
    assert seen == rows
    assert not batch.received("coordinator")
    opened = [message.bits for _, message in batch.received("bank", "BandLeadDecoding")]
    n_firms = len(record.parts["bank"]["firm"])
    assert sum(map(len, opened)) == -(-5 * n_firms // 8)
    for name, views in batch.views.items():
        assert_uniform(np.concatenate([share for share, _ in views]), views[0][1], name)
    for check in (
        test_ring_elements_are_all_there_is_in_hiding_messages,
        test_shares_in_messages_are_uniform,
        test_points_are_uniform,
        test_no_share_or_ciphertext_is_sent_twice,
        test_no_id_in_any_message,
        test_no_name_of_a_column_in_any_message,
    ):
        check(batch)


def test_in_shards_the_same_messages_go_and_none_of_two_shards_is_the_same(record):
    homes, batch = record.run.stores["bank"].path.parents[2], Record(None, record.parts)
    asked = job("score_batch", name="parts", model="card", on_missing="missing_code", shards=2)
    with recording(batch):
        batch.run = open_job(asked, nodes(homes / "data", holder_policy={"consent": "off"}), homes, keep=True).run()
    table = {(leak.kind, leak.to) for leak in leaks_of(asked.parameters)["score"] if leak.only in ("", "score")}
    envelopes = [(p, e, m) for p, e, m in batch.everything() if e.kind == "ShardMessage" and not m.finished]
    kinds, first = {0: [], 1: []}, {}
    for party, entry, message in envelopes:
        kind = kind_of_body(message.body)
        assert {(kind, role) for role in roles_of(party, batch.run)} & table, f"{kind} to {party} is not in the table"
        kinds[message.shard].append((entry.sender, party, kind))
        other = first.setdefault(bytes(message.body), message.shard)
        assert other == message.shard, f"{kind} is the same in two shards"
    assert sorted(kinds[0]) == sorted(kinds[1])
    lines = (batch.run.stores["bank"].path / "scores.csv").read_text().splitlines()
    assert len(lines) == 1 + len(record.parts["bank"]["firm"])
    for name, views in batch.views.items():
        assert_uniform(np.concatenate([share for share, _ in views]), views[0][1], name)
    for check in (test_no_id_in_any_message, test_no_name_of_a_column_in_any_message):
        check(batch)


def test_with_bands_the_bank_is_sent_two_bits_a_firm_and_the_coordinator_nothing(banded):
    held = int((~banded.run.stores["bank"].load_arrays("rows")["train"]).sum())
    opened = [message.bits for _, message in banded.received("bank", "BandLeadDecoding")]
    assert sum(map(len, opened)) == -(-2 * held // 8)  # three cut-offs: a number from 0 to 3
    assert not banded.received("coordinator")
    evaluated = {e.kind for e, _ in banded.received("bank") if e.session.split("/")[1] == "evaluate"}
    assert evaluated == {"BatchHolderRound1", "BatchHolderHints", "BandLeadBase", "BandLeadTables", "BandLeadDecoding"}


@pytest.mark.parametrize("n_holders", [1, 2, 3])
def test_the_lead_sees_uniform_sums(n_holders, monkeypatch):
    """Whatever the others send: the bank's share is on every word of the sum, with one holder too."""
    from test_bands import score
    from test_scoring import N_CODES, OWN

    found, original = [], scoring.lead_bands

    def noting(session, share, *rest):
        found.append(share)
        return original(session, share, *rest)

    monkeypatch.setattr(scoring, "lead_bands", noting)
    transcripts, holders = {}, tuple(N_CODES)[:n_holders]
    score(holders, transcripts=transcripts)
    score(holders, own=OWN - 3000)
    assert_uniform(np.concatenate(found), TURN, "sum at the lead")
    sent = [m.data for e, m in transcripts[holders[0]].messages if e.kind == "BandHolderPartial"]
    assert len(sent) == n_holders - 1
    for data in sent:
        assert_uniform(np.frombuffer(data, "<u8"), TURN, "partial to the lead")
    if n_holders == 3:  # what the lead could add up of the other two tells neither
        difference = np.subtract(*(np.frombuffer(data, "<u8") for data in sent)) % np.uint64(TURN)
        assert_uniform(difference, TURN, "difference of partials")


# --- withheld cells --------------------------------------------------------------------------------------------------


def test_withheld_cells_are_never_opened():
    rng = np.random.default_rng(4)
    n, d = 400, 60
    codes = rng.integers(0, 2, (n, d)).astype(np.uint8)
    codes[:4] = 2  # four rows in a cell of their own, in every column; code 3 is empty
    n_codes = np.full(d, 4, np.int64)
    label = (rng.random(n) < 0.5).astype(np.int8)
    label[:4] = 1
    columns = BinnedColumns(
        tuple(f"c{j}" for j in range(d)), codes, n_codes, np.zeros(d, bool), np.full(d, -1, np.int64), bytes(32)
    )
    sessions = {p: Session("job/bin/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    transcripts, record = {}, Record(None, {})
    with recording(record):
        train = np.ones(n, bool)
        simulate(
            {
                "bank": bank_bin(sessions["bank"], label, None, train),
                "tax": holder_bin(sessions["tax"], lambda _: columns, n, 5),
            },
            sessions,
            transcripts=transcripts,
        )
    messages = {entry.kind: message for entry, message in transcripts["bank"].messages}
    shown = np.frombuffer(messages["BinHolderRound1"].counts, "<u4").reshape(d, 4)
    assert not shown[:, 2:].any()
    assert ((shown[:, :2] > 0).sum(axis=1) == 1).all()  # else the four rows were the difference to 400
    own = next(share for name, views in record.views.items() for share, _ in views if "Vectors" in name)
    reply = shares.shares_from_bytes(messages["BinHolderRound2"].shares, (2, d, 4))
    opened = shares.add(own.reshape(2, d, 4), reply)
    hidden = np.broadcast_to(shown == 0, opened.shape)
    assert_uniform(opened[hidden], T, "opened where withheld")
    bad = np.stack([np.bincount(codes[:, j], weights=label, minlength=4) for j in range(d)])
    errors = shares.from_ring(opened[0])[shown > 0] / 2**24 - bad[shown > 0]
    assert np.abs(errors).max() < 0.05


# --- screening -------------------------------------------------------------------------------------------------------


def test_a_screening_hides_as_much(screened):
    for check in (
        test_ring_elements_are_all_there_is_in_hiding_messages,
        test_shares_in_messages_are_uniform,
        test_points_are_uniform,
        test_no_share_or_ciphertext_is_sent_twice,
        test_no_id_in_any_message,
        test_no_name_of_a_column_in_any_message,
    ):
        check(screened)
    assert len(screened.elements) == 4  # public key, label, and the two halves of a reply
    for (where, primes), found in screened.elements.items():
        for limb, prime in enumerate(primes):
            values = np.concatenate([residues[..., limb, :].ravel() for residues in found])
            assert_uniform(values, prime, f"{where} modulo {prime}")
    assert set(screened.views) == {"SumsEvaluator.sums", "SumsKey.share"}
    for name, views in screened.views.items():
        assert_uniform(np.concatenate([share for share, _ in views]), T, name)


def test_no_label_in_any_message_of_a_screening(screened):
    label = np.array(screened.parts["bank"]["default"])
    message = screened.received("tax", "ScreenBankRound1")[0][1]
    train = shares.bits_from_bytes(message.train_mask, label.size)
    assert 0 < train.sum() < label.size
    patterns = set().union(*map(bits_and_bytes, (label, label[train], label[~train], 1 - label, 1 - label[train])))
    assert_absent(patterns, messages_to_others(screened, "bank"))


def test_a_screening_opens_no_cell_below_the_minimum_and_tells_a_holder_one_bit_a_column(screened):
    n_columns = 0
    for entry, message in screened.received("bank", "ScreenHolderChunk"):
        counts = np.frombuffer(message.shape.counts, "<u4")
        assert not ((counts > 0) & (counts < 5)).any()
        assert not any(message.shape.holdout_counts)
        n_columns += len(message.columns) if entry.sender == "tax" else 0
    assert n_columns == 143
    for _, message in screened.received("tax", "ScreenBankKept"):
        assert len(message.kept) == -(-n_columns // 8)
        assert len(message.screening_hash) == 32
    # as many words are opened as cells are shown
    shown = sum(
        int((np.frombuffer(m.shape.counts, "<u4") > 0).sum()) for _, m in screened.received("bank", "ScreenHolderChunk")
    )
    assert sum(len(m.shares) for _, m in screened.received("bank", "ScreenHolderShares")) == 8 * shown


def test_the_names_kept_at_a_holder_do_not_follow_from_the_hash(screened):
    """The hash that holders hear covers a random salt."""
    path = screened.run.stores["bank"].path / "screening.json"
    body = json.loads(path.read_text())
    assert len(body["salt"]) == 64
    told = {m.screening_hash.hex() for h in screened.run.job.holders for _, m in screened.received(h, "ScreenBankKept")}
    assert told == {body["sha256"]}


# --- boosting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["boosted", "stack"])
def test_boosting_and_stacks_hide_as_much(which, request, monkeypatch):
    boosted = request.getfixturevalue(which)
    for kind in ("BatchHolderPartial", "BatchCoordinatorTotal"):
        monkeypatch.setitem(WORDS, kind, ("data", SCORE_T))  # totals of trees have a ring of their own
    for check in (
        test_ring_elements_are_uniform,
        test_shares_in_messages_are_uniform,
        test_points_are_uniform,
        test_no_share_or_ciphertext_is_sent_twice,
        test_no_id_in_any_message,
        test_no_name_of_a_column_in_any_message,
    ):
        check(boosted)
    for name, views in boosted.views.items():
        by_modulus = {}
        for share, modulus in views:
            by_modulus.setdefault(modulus, []).append(share)
        for modulus, found in by_modulus.items():
            assert_uniform(np.concatenate(found), modulus, name)


def test_the_choice_of_splits_sends_nothing_but_what_hides(boosted):
    sealed = boosted
    for what, found in sealed.garbled.items():
        assert_uniform(np.frombuffer(b"".join(found)[: 1 << 23], "<u8"), 1 << 64, what)
    assert set(sealed.garbled) == {"tables", "choices"}
    # what the choice sends is ring elements, tables and choices of labels; little is left for all else
    sent = [m for _, entry, m in sealed.everything() if entry.kind == "BoostSealed"]
    seen = sum(sealed.unpacked.values()) + sum(len(data) for found in sealed.garbled.values() for data in found)
    other = 0
    for _, entry, message in sealed.everything():
        if entry.kind == "AlignHolderStore":
            continue
        for name in PACKED.get(entry.kind, ("data",) if entry.kind in BYTES else ()):
            value = getattr(message, name)
            other += sum(map(len, [value] if isinstance(value, bytes) else value))
    left = sum(len(m.data) for m in sent) + other - seen
    chunks = len(sealed.unpacked)  # each with a seed and a length
    assert 0 <= left <= 48 * (chunks + len(sent)) + 2 * 129 * 32  # and the base transfers with each holder


def test_no_label_and_no_code_in_any_message_of_boosting(boosted):
    found = boosted
    test_no_label_in_any_message(found)
    test_a_code_map_never_leaves_its_owner(found)
    for owner in ("bank", "tax", "registry"):
        test_no_code_in_any_message(found, owner)


def test_boosting_opens_sums_of_leaves_only(boosted):
    n_leaves = [len(tree["weights"]) for tree in json.loads(_model_text(boosted))["model"]["trees"]]
    opened = [len(message.sums) // 16 for _, message in boosted.received("bank", "BoostHolderSums")]
    assert opened[: len(n_leaves)] == n_leaves


def _model_text(found):
    return (found.run.stores["bank"].path / "model.json").read_text()
