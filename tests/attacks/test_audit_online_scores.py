"""A bank that scores online with other weights than the model's it names, or changes its evidence afterwards.

Each attack goes through at that moment, as SECURITY.md says, and the audit names the bank, request and holder. The
control is the honest run, which is confirmed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from finished_jobs import finished
from trial_audit import rewrite
from trial_online_audit import audit, counted, known, logged, released, unpacked, witnessed
from trial_scoring import copy_of, train_trees

from veilscore.audit.online import OnlineAudit
from veilscore.crypto.encrypted_cells import encode_points
from veilscore.evidence import online_opening
from veilscore.evidence.online_archive import FOLDER, POOLS
from veilscore.evidence.online_opening import place_of
from veilscore.evidence.online_rows import ROWS, OpenedParts, OpenedRow, OpenedRows
from veilscore.fabric.fabric import Fabric
from veilscore.models.filed import load_model
from veilscore.online import stock as online_stock
from veilscore.online.model import BankModel
from veilscore.protocols import online, online_spares
from veilscore.protocols.online_spares import BankSpare
from veilscore.v1 import control_pb2 as pb


@pytest.fixture(scope="module")
def trained():
    return finished(train_trees)


@pytest.fixture
def homes(trained, tmp_path):
    return copy_of(trained, tmp_path)


@pytest.fixture(scope="module")
def honest(trained, tmp_path_factory):
    """Honest scores of both models, from spares and without."""
    folder = copy_of(trained, tmp_path_factory.mktemp("honest"))
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, 1)
        firms = known(folder, 4)
        released(folder, firms[:2], spared=1)
        counted(patch, 1)
        released(folder, firms[2:], model="trees", spared=1, prefix="t")
    found = audit(folder)
    assert {f.verdict for f in found} == {"confirmed"}
    assert len(found) == 8
    return folder


@pytest.fixture
def bank(honest, tmp_path):
    """The honest bank's home in a folder of its own, to be tampered with."""
    return unpacked(shutil.copytree(honest / "bank", tmp_path / "bank"))


def attacked(homes, *, model="firms", spared=0, n_firms=2):
    """Scores of a bank as it is patched by now."""
    return released(homes, known(homes, n_firms), model=model, spared=spared, honest=False)


def kept_of(one):
    """Name of what the bank kept of one opening."""
    return f"{place_of(one.commitment, one.spare)}.json"


def named(findings, holder, *words):
    """All that this holder opened differs, by the bank."""
    mine = [f for f in findings if f.step == f"online {holder}"]
    assert mine
    for f in mine:
        assert (f.verdict, f.party) == ("differs", "bank"), f
        assert len(f.job_id) == 32
        for word in words:
            assert word in f.detail, f.detail


# --- other weights than the model's ----------------------------------------------------------------------------------


def one_cell(patch, party="tax"):
    """Points on a single cell of one holder: the total tells whether the firm has that code."""
    honest_evaluated = online_spares._evaluated

    def evaluated(context, prepared, side, random, opening, n):
        if side.party == party:
            points = np.zeros(side.cells.size if random is None else random.shape[1], np.int64)
            points[0] = 1
            side, random = replace(side, encoded=encode_points(points, n)), None
        return honest_evaluated(context, prepared, side, random, opening, n)

    patch.setattr(online_spares, "_evaluated", evaluated)


@pytest.mark.parametrize(("model", "spared"), [("firms", 0), ("firms", 1), ("trees", 0)])
def test_other_weights_on_a_record(homes, monkeypatch, model, spared):
    """With a spare that was made when the request came, or before."""
    counted(monkeypatch, spared)
    with monkeypatch.context() as patch:
        one_cell(patch)
        attacked(homes, model=model, spared=spared)
    found = audit(homes)
    named(found, "tax", "FinishSpare to tax is not what the committed seed gives for model")
    assert {f.verdict for f in found if f.step == "online registry"} == {"confirmed"}


def test_other_factors_of_trees_when_a_spare_is_opened(homes, monkeypatch):
    """The reply on random numbers is the honest one; the factors that come later are those of one indicator."""
    counted(monkeypatch, 1)
    honest_mask, honest_factors = BankSpare.mask_of, BankSpare.factors_of

    def one_indicator(cells):
        return np.eye(1, cells.size, dtype=np.int64)[0]

    with monkeypatch.context() as patch:
        patch.setattr(
            BankSpare, "mask_of", lambda self, d, cells, holder: honest_mask(self, d, one_indicator(cells), holder)
        )
        patch.setattr(BankSpare, "factors_of", lambda self, cells: honest_factors(self, one_indicator(cells)))
        attacked(homes, model="trees", spared=1)
    found = audit(homes)
    assert len(found) == 4
    for holder in ("tax", "registry"):
        named(found, holder, f"OpenPartial to {holder} is not what the committed seed gives")


def test_another_model_under_the_hash_of_the_approved_one(homes, monkeypatch):
    counted(monkeypatch, 0)
    folder = homes / "bank" / "models" / "firms"
    model = load_model(folder / "model.json")
    doubled = model.model_dump()
    for column in doubled["parts"][1]["columns"]:
        column["points"] = [2 * p for p in column["points"]]
    type(model).model_validate(doubled).save(folder / "model.json")
    (homes / "bank" / FOLDER / "models").mkdir(parents=True)
    model.save(homes / "bank" / FOLDER / "models" / f"{model.sha256.hex()}.json")
    honest_init = BankModel.__init__
    with monkeypatch.context() as patch:
        patch.setattr(
            BankModel, "__init__", lambda self, **known: honest_init(self, **{**known, "sha256": model.sha256})
        )
        attacked(homes)
    found = audit(homes)
    assert {one.model for one in logged(homes)} == {model.sha256.hex()}
    named(found, "tax", model.sha256.hex()[:16])


@pytest.mark.parametrize(("model", "spared"), [("firms", 0), ("firms", 1), ("trees", 0)])
def test_a_shifted_share_in_the_circuit_of_a_band(homes, monkeypatch, model, spared):
    """The bank adds to its own share: the band it hears is that of another score. Its replies are honest."""
    counted(monkeypatch, spared)
    honest_share = online.own_share
    with monkeypatch.context() as patch:
        patch.setattr(online, "own_share", lambda *arguments: honest_share(*arguments) + 1000)
        released(homes, known(homes, 2), model=model, spared=spared, output="band")
    found = audit(homes)
    assert {f.verdict for f in found if "band" not in f.step} == {"confirmed"}
    bands = [f for f in found if "band" in f.step]
    assert [(f.step, f.verdict, f.party) for f in bands] == [("online band tax", "differs", "bank")] * 2
    assert all("to tax are not what the committed seed gives for the share that" in f.detail for f in bands)


def test_what_was_kept_of_a_band_and_changed_afterwards(homes, tmp_path, monkeypatch):
    counted(monkeypatch, 1)
    released(homes, known(homes, 2), spared=1, output="band")
    logs = witnessed(homes)
    made = {one.model: {"job": frozenset({"tax", "registry"})} for one in logs.opened}
    assert {f.verdict for f in audit(homes)} == {"confirmed"}
    bank, band = unpacked(homes / "bank"), logs.circuits[1]  # with spares
    part = next(one for one in logs.opened if (one.holder, one.request) == ("tax", band.request))
    path, pool = bank / FOLDER / kept_of(part), bank / FOLDER / POOLS / band.commitment
    codes = load_model(bank / "models" / "firms" / "model.json").parts[0].n_codes - 1
    changes = {
        "choices of labels to tax": lambda b: b["labels"].update(own_codes=codes.astype("<u2").tobytes().hex()),
        "none that the model has": lambda b: b["labels"].update(own_codes=""),
        "another request": lambda b: b.update(request="0" * 32),
        "another model": lambda b: b.update(model="0" * 64),
        "OpenPartial to tax is not": lambda b: b["labels"].update(choices="00000000"),
        "OpenPartial to tax is": lambda b: b.update(labels=None),
    }

    def differs(words):
        found = OnlineAudit(bank, logs.opened, made, logs.circuits).finding(band)
        assert (found.verdict, found.party) == ("differs", "bank"), words
        assert words in found.detail

    whole = path.read_bytes()
    for words, change in changes.items():
        rewrite(path, change)
        differs(words)
        path.write_bytes(whole)
    kept = path.with_suffix(".reply")
    content = kept.read_bytes()
    message = pb.EncryptedRecord.FromString(content)
    message.difference_share = bytes(len(message.difference_share))  # what was sent under a spare
    kept.write_bytes(message.SerializeToString())
    differs("the EncryptedRecord kept is not what tax sent")
    kept.write_bytes(content)
    of_pool = {
        "the MadePool kept": lambda b: b.update(made=pb.MadePool(points=bytes(4096)).SerializeToString().hex()),
        "logged a commitment to": lambda b: b["opening"].update(seed="0" * 64),
    }
    whole = pool.read_bytes()
    for words, change in of_pool.items():
        rewrite(pool, change)
        differs(words)
        pool.write_bytes(whole)
    pool.unlink()
    assert OnlineAudit(bank, logs.opened, made, logs.circuits).finding(band).verdict == "cannot be audited"
    pool.write_bytes(whole)
    path.unlink()
    assert OnlineAudit(bank, logs.opened, made, logs.circuits).finding(band).verdict == "cannot be audited"


def test_a_model_that_no_job_made(homes, monkeypatch):
    """A bank may name the hash of a model that it made up; no party's statement shows where it comes from."""
    counted(monkeypatch, 0)
    attacked(homes, n_firms=1)
    opened = logged(homes)
    others = {one.model: {"job": frozenset({"registry"})} for one in opened}
    for trained_by in ({}, others):
        found = [OnlineAudit(homes / "bank", opened, trained_by).finding(one) for one in opened if one.holder == "tax"]
        assert [f.verdict for f in found] == ["cannot be audited"]
        assert "no receipt or log given shows a job with tax" in found[0].detail


def test_ciphertexts_of_another_spare(homes, monkeypatch):
    """What the holder sent for the first request is evaluated once more under the second."""
    counted(monkeypatch, 0)
    honest_evaluate, first = online_spares.evaluate, {}

    def replayed(context, query, points, blinds=()):
        return honest_evaluate(context, first.setdefault(context.keys_id, query), points, blinds)

    with monkeypatch.context() as patch:
        patch.setattr(online_spares, "evaluate", replayed)
        responses = attacked(homes)
    assert responses[0].status == "scored"
    verdicts = [f.verdict for f in audit(homes) if f.step == "online tax"]
    assert verdicts == ["confirmed", "differs"]


# --- randomness of its choice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spared", [0, 1])
def test_masks_of_its_own_choice(homes, monkeypatch, spared):
    """Else a bank could look for masks under which other weights look like the right ones."""
    counted(monkeypatch, spared)
    honest_blinds = online_spares.make_blinds
    with monkeypatch.context() as patch:
        patch.setattr(online_spares, "make_blinds", lambda c, _, n: honest_blinds(c, os.urandom(32), n))
        attacked(homes, spared=spared, n_firms=1 + spared)
    for holder in ("tax", "registry"):
        named(audit(homes), holder, "is not what the committed seed gives")


def test_random_factors_of_its_own_choice(homes, monkeypatch):
    counted(monkeypatch, 1)
    with monkeypatch.context() as patch:
        patch.setattr(online_spares, "random_factors", lambda _, n: np.zeros(n, np.int64))
        attacked(homes, model="trees", spared=1)
    found = audit(homes)
    assert len(found) == 4
    for holder in ("tax", "registry"):
        named(found, holder, f"FinishSpare to {holder} is not what the committed seed gives")


def test_one_seed_for_two_requests(homes, monkeypatch):
    counted(monkeypatch, 0)
    with monkeypatch.context() as patch:
        patch.setattr(online_opening.secrets, "token_hex", lambda size: "5" * (2 * size))
        attacked(homes)
    for holder in ("tax", "registry"):
        named(audit(homes), holder, "a seed serves one")


def test_one_commitment_for_two_requests(homes, monkeypatch):
    counted(monkeypatch, 0)
    honest_draw, drawn = online_stock.draw_opening, {}

    def same(bank, holder, *rest):
        return drawn.setdefault(holder, honest_draw(bank, holder, *rest))

    with monkeypatch.context() as patch:
        patch.setattr(online_stock, "draw_opening", same)
        attacked(homes)
    found = [f for f in audit(homes) if f.step == "online tax"]
    assert [f.verdict for f in found] == ["differs", "differs"]
    assert "a seed serves one" in found[0].detail
    assert "another record" in found[1].detail


@pytest.mark.parametrize(
    ("method", "field", "value", "reason"),
    [
        ("PrepareSpare", "commitment", b"", "bound to no seed of its reply"),
        ("OpenPartial", "spare_id", "another", "no record was sent with this spare; use a new request id"),
    ],
)
def test_nothing_is_opened_without_a_commitment_from_before_it(homes, monkeypatch, method, field, value, reason):
    """A bank that would choose its seed when it has the ciphertexts: none are sent before, and no others are opened."""
    counted(monkeypatch, 0)
    honest_call = Fabric.call

    async def late(self, to, called, message, *rest, **options):
        if called == method:
            setattr(message, field, value)
        return await honest_call(self, to, called, message, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Fabric, "call", late)
        (response,) = attacked(homes, n_firms=1)
    assert response.status == "failed"
    reasons = [p.reason for p in response.parties if p.reason]
    assert reasons
    assert all(reason in one for one in reasons)
    assert logged(homes) == []


# --- evidence changed afterwards -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "0" * 64), ("id", "other"), ("holder", "court"), ("use", "pool"), ("software", {})],
)
def test_an_opening_that_was_changed(honest, bank, field, value):
    for one in logged(honest):
        rewrite(bank / FOLDER / kept_of(one), lambda body: body["opening"].update({field: value}))
    found = {f.verdict: f for f in audit(honest, bank)}
    assert list(found) == ["differs"]
    assert "it was changed" in found["differs"].detail


@pytest.mark.parametrize("size", [0, 1, 100])
def test_an_opening_that_was_cut(honest, bank, size):
    for path in (bank / FOLDER).glob("*.json"):
        path.write_bytes(path.read_bytes()[:size])
    named(audit(honest, bank), "tax", "the opening was changed")


def test_requests_models_keys_and_ciphertexts_that_were_changed(honest, bank):
    whole = bank / FOLDER
    for pattern, words in (
        ("*.reply", "the EncryptedRecord kept"),
        ("*.spare", "the PreparedSpare kept"),
        ("keys/*", "the keys kept are not those"),
        ("models/*", "the model kept was changed"),
    ):
        paths = list(whole.glob(pattern))
        kept = {path: path.read_bytes() for path in paths}
        for path, data in kept.items():
            at = len(data) // 2
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            path.write_bytes(data.replace(b"1", b"2", 9) if path.suffix == ".json" else changed)
        named(audit(honest, bank), "tax", words)
        for path, data in kept.items():
            path.write_bytes(data)
    assert {f.verdict for f in audit(honest, bank)} == {"confirmed"}


def test_the_model_of_another_hash(honest, bank):
    one, two = sorted((bank / FOLDER / "models").iterdir())
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    named(audit(honest, bank), "registry", "the model kept is not")


def test_own_codes_that_were_changed(honest, bank):
    """Of trees: codes of the bank's own columns that lead to other factors, and codes that the model does not have."""
    trees = load_model(honest / "bank" / "models" / "trees" / "model.json")
    opened = [one for one in logged(honest) if one.model == trees.sha256.hex()]
    n_codes = trees.parts[0].n_codes
    for codes, word in (((n_codes - 1), "OpenPartial"), (n_codes, "none that the model has"), (n_codes[1:], "none")):
        found = []
        for one in opened:
            path = bank / FOLDER / kept_of(one)
            rewrite(path, lambda body, codes=codes: body.update(own_codes=codes.astype("<u2").tobytes().hex()))
            made = {one.model: {"job": frozenset({"tax", "registry"})}}
            found.append(OnlineAudit(bank, opened, made).finding(one))
        assert "differs" in {f.verdict for f in found}
        assert any(word in f.detail for f in found)


def test_every_changed_byte_of_an_opening_is_found(honest, bank):
    one = logged(honest, "tax")[0]
    path = bank / FOLDER / kept_of(one)
    whole = path.read_bytes()
    made = {one.model: {"job": frozenset({"tax", "registry"})}}
    assert OnlineAudit(bank, [one], made).finding(one).verdict == "confirmed"
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert OnlineAudit(bank, [one], made).finding(one).verdict != "confirmed", at


def test_a_changed_row_of_what_was_kept_is_found(honest, tmp_path):
    """The bank's own file of openings, as its node writes it."""
    bank, one = shutil.copytree(honest / "bank", tmp_path / "bank"), logged(honest, "tax")[0]
    made = {one.model: {"job": frozenset({"tax", "registry"})}}
    verdicts = []
    name, rows = kept_of(one).removesuffix(".json"), OpenedRows(bank / FOLDER)
    parts = OpenedParts(bank / FOLDER)
    whole = parts.record(name), parts.reply(name)
    for column in (0, 1):
        data = whole[column]
        for changed in (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], data[:-1], b""):
            rows.keep([OpenedRow(name, *((changed, whole[1]) if column == 0 else (whole[0], changed)))])
            verdicts.append(OnlineAudit(bank, [one], made).finding(one).verdict)
    rows.keep([OpenedRow(name, *whole)])
    rows.close()
    assert set(verdicts) == {"differs"}
    assert len(verdicts) == 6
    assert OnlineAudit(bank, [one], made).finding(one).verdict == "confirmed"
    (bank / FOLDER / ROWS).write_bytes(b"no database" * 100)
    assert OnlineAudit(bank, [one], made).finding(one).verdict == "cannot be audited"
