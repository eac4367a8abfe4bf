"""Online scoring between real nodes over TLS: agreement with batch, retries, missing parties, reasons."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading

import numpy as np
import pytest
from consent_issuer import token_bytes
from finished_jobs import finished
from trial_evidence import log_path
from trial_online_audit import kept_parts
from trial_scoring import PARTIES, copy_of, rows, score, score_all, scoring, set_policy, units_of

from veilscore.crypto.encrypted_cells import encode_points, evaluate
from veilscore.crypto.he import PublicContext
from veilscore.errors import (
    DataError,
    EvidenceError,
    IdentityError,
    MessageError,
    PeerError,
    ProtocolError,
    RefusedError,
    StateError,
)
from veilscore.evidence.documents import load_keys
from veilscore.evidence.log import scan
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.evidence.verify import verify_log, verify_receipt
from veilscore.fabric.fabric import Fabric
from veilscore.files.journal import Journal
from veilscore.keys.identity import load_identity
from veilscore.models.filed import load_model
from veilscore.online import stock as online_stock
from veilscore.online.bank import OnlineBank
from veilscore.online.model import codes_of_features
from veilscore.online.records import load_map
from veilscore.online.stock import BankSpares, BankStock
from veilscore.protocols import online_spares
from veilscore.protocols.online_spares import HolderSpare
from veilscore.terms.federation import load_federation
from veilscore.v1 import control_pb2 as pb


class Trained:
    """Homes with a model, batch scores of all firms, and firms by who knows them."""

    def __init__(self, folder):
        self.folder = folder
        self.model = load_model(folder / "bank" / "models" / "firms" / "model.json")
        self.units = units_of(folder, self.model)
        tax, registry = rows(folder, "tax"), rows(folder, "registry")
        self.known = [f for f in self.units if f in tax and f in registry]
        self.not_at_tax = [f for f in self.units if f not in tax and f in registry]


@pytest.fixture(scope="module")
def trained():
    return Trained(finished(score_all))


@pytest.fixture
def homes(trained, tmp_path):
    return copy_of(trained.folder, tmp_path)


def statuses(response):
    return {p.party: p.status for p in response.parties}


def average(model, party):
    """Mean points of each column over the training rows, rounded, added up."""
    return sum(
        round(sum(n * p for n, p in zip(c.rows, c.points, strict=True)) / sum(c.rows))
        for c in model.part(party).columns
    )


def test_online_and_batch_agree_to_the_last_unit(trained, homes):
    firms = [*trained.known[:12], *trained.not_at_tax[:3]]

    async def scenario():
        async with scoring(homes) as command:
            return await asyncio.gather(
                *(score(command, f"r{i}", firm, on_missing="missing_code") for i, firm in enumerate(firms))
            )

    responses = asyncio.run(scenario())
    assert [r.units for r in responses] == [trained.units[firm] for firm in firms]
    assert [r.status for r in responses] == ["scored"] * 12 + ["fallback"] * 3
    assert statuses(responses[0]) == {"tax": "ok", "registry": "ok"}
    assert statuses(responses[-1]) == {"tax": "unknown", "registry": "ok"}
    assert "tax does not know the firm" in responses[-1].message
    first = responses[0]
    assert first.score == first.units / trained.model.scaling.units
    assert first.band == trained.model.band(first.score)
    assert 0 < first.probability_of_default < 1
    assert (first.model, first.model_version) == ("firms", trained.model.version)
    assert first.model_sha256 == trained.model.sha256


def test_features_instead_of_a_row(trained, homes):
    firm = trained.known[0]
    row = rows(homes, "bank")[firm]
    names = load_map(homes / "bank" / "models" / "firms" / "code_map.json").names
    features = {name: row[name] for name in names}

    async def scenario():
        async with scoring(homes) as command:
            unlisted = next(f for f in rows(homes, "tax") if f not in trained.units)
            return [
                await score(command, "a", firm, features=features),
                await score(command, "b", firm, features={}),
                await score(command, "c", firm, features={"x": "1"}),
                await score(command, "d", unlisted),
                await score(command, "e", "not an id"),
                await score(command, "f", firm, model="../firms"),
            ]

    given, own, wrong, unlisted, malformed, no_model = asyncio.run(scenario())
    assert given.units == own.units == trained.units[firm]
    assert wrong.status == unlisted.status == malformed.status == no_model.status == "failed"
    assert "unknown: x" in wrong.message
    assert "send its features" in unlisted.message
    assert "malformed" in malformed.message
    assert "no model" in no_model.message


def test_features_are_read_like_the_data_set(trained):
    code_map = load_map(trained.folder / "bank" / "models" / "firms" / "code_map.json")
    row = next(iter(rows(trained.folder, "bank").values()))
    good = {name: row[name] for name in code_map.names}
    number = next(c.name for c in code_map.columns if c.bins.kind == "number")
    codes, unseen = codes_of_features(code_map, good | {number: "NA"})
    assert codes[0, code_map.names.index(number)] == code_map.missing[code_map.names.index(number)]
    assert not unseen
    assert codes_of_features(code_map, good | {number: "2024-03-01"})[0].shape == (1, len(code_map.names))
    for text in ("inf", "many"):
        with pytest.raises(DataError, match=number):
            codes_of_features(code_map, good | {number: text})
    for name in (c.name for c in code_map.columns if c.bins.kind == "category"):
        assert codes_of_features(code_map, good | {name: "never seen"})[1] == [name]


def test_retry_gets_the_same_response_also_after_a_restart(trained, homes):
    firm, other = trained.known[:2]

    async def first():
        async with scoring(homes) as command:
            twice = await asyncio.gather(score(command, "a", firm), score(command, "a", firm))
            again = await score(command, "a", firm, timeout_s=3)
            return [*twice, again, await score(command, "a", other)]

    async def restarted():
        async with scoring(homes) as command:
            return await score(command, "a", firm), await score(command, "b", firm)

    one, two, three, conflict = asyncio.run(first())
    assert one == two == three
    assert conflict.status == "refused"
    assert "new one" in conflict.message
    kept, fresh = asyncio.run(restarted())
    assert kept == one
    assert fresh.units == one.units
    with sqlite3.connect(homes / "tax" / "state" / "online.db") as db:
        keys = [row[0] for row in db.execute("SELECT key FROM answered")]
    assert len(keys) == 1  # the second request is answered from what the first opened
    assert firm.encode() not in (homes / "tax" / "state" / "online.db").read_bytes()


def nothing(*_):
    """What a crash came before."""


async def start_and_stop(folder):
    async with scoring(folder):
        pass


def test_a_crash_right_after_scores_left_costs_no_receipt(trained, homes, tmp_path, monkeypatch):
    """Homes as they were when the responses came: no head was signed and no receipt made yet."""
    crashed = tmp_path / "crashed"

    async def scenario():
        with monkeypatch.context() as patch:
            patch.setattr(OnlineBank, "_keep", nothing)
            patch.setattr(EvidenceRecorder, "_sign_soon", lambda _: None)
            async with scoring(homes) as command:
                found = [await score(command, name, firm) for name, firm in zip("ab", trained.known, strict=False)]
                shutil.copytree(homes, crashed)
                return found

    responses = asyncio.run(scenario())
    assert [r.status for r in responses] == ["scored", "scored"]
    with pytest.raises(EvidenceError, match="starts again"):
        online_receipt(crashed / "bank", "a")
    keys = load_keys(homes / "tax" / "federation.yaml")
    before = {party: scan(log_path(crashed, party)) for party in PARTIES}
    assert [found.torn.count(b"\n") for found in before.values()] == [2, 2, 2]
    asyncio.run(start_and_stop(crashed))
    for name, firm in zip("ab", trained.known, strict=False):
        proved = " ".join(verify_receipt(online_receipt(crashed / "bank", name).to_bytes(), keys))
        assert firm in proved
    for party, found in before.items():
        path = log_path(crashed, party)
        assert found.torn in path.read_bytes()
        assert b'"unsigned":2' in path.read_bytes()
        assert "not signed" not in verify_log(path, keys, [found.head])[-1]
    journal = Journal(crashed / "bank" / "state" / "online.db")
    assert journal.unfinished() == []
    assert journal.get("a")[1] == responses[0].SerializeToString()
    journal.close()


def test_an_opening_is_kept_for_the_audit_though_its_receipt_fails(trained, homes, monkeypatch):
    def full(*_):
        raise StateError("disk is full")

    async def scenario():
        with monkeypatch.context() as patch:
            patch.setattr(EvidenceRecorder, "keep_receipts", full)
            async with scoring(homes) as command:
                return await score(command, "a", trained.known[0])

    assert asyncio.run(scenario()).status == "scored"
    assert len(kept_parts(homes / "bank")) == 2
    with pytest.raises(EvidenceError):
        online_receipt(homes / "bank", "a")
    asyncio.run(start_and_stop(homes))
    verify_receipt(online_receipt(homes / "bank", "a").to_bytes(), load_keys(homes / "tax" / "federation.yaml"))


def test_no_receipt_is_made_from_another_entry(trained, homes, monkeypatch):
    """The log was moved away while a receipt was left to be made."""

    async def scenario(name):
        async with scoring(homes) as command:
            return await score(command, name, trained.known[0])

    log, journal = log_path(homes, "bank"), homes / "bank" / "state" / "online.db"
    with monkeypatch.context() as patch:
        patch.setattr(OnlineBank, "_keep", nothing)
        assert asyncio.run(scenario("a")).status == "scored"
    log.rename(log.with_suffix(".away"))
    for name in ("b", "c", "d"):
        asyncio.run(scenario(name))
    opened = Journal(journal)
    assert [key for key, _, _ in opened.unfinished()] == ["a"]
    opened.close()
    log.with_suffix(".away").rename(log)
    asyncio.run(scenario("e"))
    keys = load_keys(homes / "tax" / "federation.yaml")
    assert trained.known[0] in " ".join(verify_receipt(online_receipt(homes / "bank", "a").to_bytes(), keys))


def test_what_a_bank_gave_up_while_it_was_logged_gets_its_head(trained, homes, monkeypatch):
    """The bank cancels as soon as another holder refuses; the thread that logs goes on by itself."""
    slow, entered = threading.Event(), threading.Event()
    online_opened = EvidenceRecorder.online_opened

    def wait(self, *args):
        entered.set()
        assert slow.wait(60)
        online_opened(self, *args)

    async def scenario():
        monkeypatch.setattr(EvidenceRecorder, "online_opened", wait)
        async with scoring(homes) as command:
            for number in range(60):  # on a busy machine a request may end before anything was opened
                with contextlib.suppress(PeerError):
                    await score(command, f"a{number}", trained.known[0], timeout_s=1.0)
                if entered.is_set():
                    break
            slow.set()
            for _ in range(1000):
                logged = any(b'"share_opened"' in path.read_bytes() for path in logs)
                if logged and not any(scan(path).torn for path in logs):
                    return
                await asyncio.sleep(0.02)
            raise AssertionError("an opened share without a head")

    logs = [log_path(homes, party) for party in ("tax", "registry")]
    asyncio.run(scenario())


def test_receipt_and_heads_are_there_a_moment_after_the_score(trained, homes):
    logs = [log_path(homes, party) for party in PARTIES]

    async def scenario():
        async with scoring(homes) as command:
            await score(command, "a", trained.known[0])
            for _ in range(500):
                with contextlib.suppress(EvidenceError):
                    receipt = online_receipt(homes / "bank", "a")
                    if not any(scan(path).torn for path in logs):
                        return receipt
                await asyncio.sleep(0.02)
        raise AssertionError("no receipt, or a log without its head, after 10 s")

    receipt = asyncio.run(scenario())
    verify_receipt(receipt.to_bytes(), load_keys(homes / "tax" / "federation.yaml"))


def test_rule_fail(trained, homes):
    set_policy(homes, "registry", disclose_unknown=False)

    async def scenario():
        async with scoring(homes) as command:
            return await score(command, "a", trained.not_at_tax[0]), await score(
                command, "b", trained.not_at_tax[0], on_missing="missing_code"
            )

    failed, fallback = asyncio.run(scenario())
    assert (failed.status, failed.units, failed.score) == ("failed", 0, 0.0)
    assert statuses(failed) == {"tax": "unknown", "registry": "refused"}
    assert "does not say which firms it knows" in failed.parties[1].reason
    assert statuses(fallback) == {"tax": "unknown", "registry": "not disclosed"}
    assert fallback.units == trained.units[trained.not_at_tax[0]]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"online_scoring": False}, "online scoring"),
        ({"purposes": ["marketing"]}, "purpose 'credit'"),
        ({"banks": ["other"]}, "does not work for bank"),
        ({"release": {"output": "band"}}, "ask for a band (output: band)"),
    ],
)
def test_refusing_holder(trained, homes, policy, reason):
    set_policy(homes, "registry", **policy)

    async def scenario():
        async with scoring(homes) as command:
            return [await score(command, rule, trained.known[0], on_missing=rule) for rule in ("fail", "neutral")]

    failed, neutral = asyncio.run(scenario())
    assert failed.status == "failed"
    assert statuses(failed) == {"tax": "ok", "registry": "refused"}
    assert reason in failed.parties[1].reason
    # tax does not show its part alone, so both count with their averages
    assert statuses(neutral) == {"tax": "refused", "registry": "refused"}
    assert neutral.status == "fallback"
    assert "only together" in neutral.parties[0].reason
    codes = load_map(homes / "bank" / "models" / "firms" / "code_map.json")
    own = codes_of_features(codes, {n: rows(homes, "bank")[trained.known[0]][n] for n in codes.names})[0]
    averages = average(trained.model, "tax") + average(trained.model, "registry")
    assert neutral.units == trained.model.own_units(own)[0] + averages


def test_unreachable_holder_and_a_policy_that_opens_without_others(trained, homes):
    set_policy(homes, "tax", online_without_others=True)
    firm = trained.known[0]

    async def scenario():
        async with scoring(homes, "bank", "tax", "coordinator") as command:
            failed, neutral = await asyncio.gather(
                score(command, "a", firm, timeout_s=2), score(command, "b", firm, timeout_s=2, on_missing="neutral")
            )
        async with scoring(homes) as command:
            return failed, neutral, await score(command, "a", firm)

    failed, neutral, later = asyncio.run(scenario())
    assert statuses(failed) == {"tax": "ok", "registry": "failed"}
    assert statuses(neutral) == {"tax": "ok", "registry": "failed"}
    assert (failed.status, neutral.status, later.status) == ("failed", "fallback", "scored")
    assert later.units == trained.units[firm]  # a failed request may be repeated under its id
    codes = load_map(homes / "registry" / "models" / "firms" / "code_map.json")
    row = rows(homes, "registry")[firm]
    part = trained.model.part("registry")
    at = codes_of_features(codes, {n: row[n] for n in codes.names})[0][0]
    own = sum(c.points[code] for c, code in zip(part.columns, at, strict=True))
    assert neutral.units == later.units - own + average(trained.model, "registry")


def test_only_the_banks_own_people_score(trained, homes):
    async def scenario():
        async with scoring(homes):
            holder = Fabric(
                load_identity(homes / "tax" / "identity"),
                load_federation(homes / "federation.yaml"),
                accept_session=lambda _s, _p: False,
            )
            try:
                await score(holder, "a", trained.known[0])
            finally:
                await holder.stop(0.1)

    with pytest.raises(IdentityError, match="role holder"):
        asyncio.run(scenario())


async def opened_by_both(homes, command, request_id, firm):
    """Ask for a score until both holders have opened their parts; there is no coordinator to add them up."""
    journals = [homes / party / "state" / "online.db" for party in ("tax", "registry")]
    before = [answers(path) for path in journals]
    while True:
        response = await score(command, request_id, firm, timeout_s=1)
        if all(answers(path) > count for path, count in zip(journals, before, strict=True)):
            return response


def answers(journal):
    with contextlib.closing(sqlite3.connect(journal)) as db:
        return db.execute("SELECT count(*) FROM answered").fetchone()[0]


@pytest.mark.slow
def test_interrupted_opening_goes_on_under_its_id(trained, homes):
    firm, other = trained.known[:2]

    async def scenario():
        async with scoring(homes, "bank") as command:
            async with scoring(homes, "tax", "registry"):
                lost = await opened_by_both(homes, command, "a", firm)
                async with scoring(homes, "coordinator"):
                    again = await score(command, "a", firm)
                half = await opened_by_both(homes, command, "b", other)
            async with scoring(homes, "tax", "registry", "coordinator"):
                over = await score(command, "b", other)
                return lost, again, half, over, await score(command, "c", firm)

    lost, again, half, over, fresh = asyncio.run(scenario())
    assert lost.status == half.status == "failed"
    assert again.status == "scored"
    assert again.units == fresh.units == trained.units[firm]
    # both holders opened "b" before they were restarted and send the same partials again: still the right total
    assert over.status == "scored"
    assert over.units == trained.units[other]


@pytest.mark.slow
def test_restarts_within_a_request_need_a_new_id(trained, homes):
    firm = trained.known[0]

    async def scenario():
        async with scoring(homes, "tax", "registry"):
            async with scoring(homes, "bank") as command:
                await opened_by_both(homes, command, "a", firm)
            async with scoring(homes, "bank", "coordinator") as command:
                bank = await score(command, "a", firm)
        async with scoring(homes, "bank", "coordinator") as command:
            async with scoring(homes, "registry"):
                await score(command, "b", firm, timeout_s=1)  # nothing was opened: may be repeated
            async with scoring(homes, "tax", "registry"):
                return bank, await score(command, "b", firm), await score(command, "c", firm)

    bank, repeated, fresh = asyncio.run(scenario())
    assert bank.status == "failed"
    assert "new one" in bank.parties[0].reason
    assert repeated.units == fresh.units == trained.units[firm]


def test_spares_give_the_same_scores(trained, homes, monkeypatch):
    monkeypatch.setattr(online_stock, "_IDLE_S", 0.01)
    monkeypatch.setattr(online_stock, "SPARES", 3)
    monkeypatch.setattr(online_spares, "MOST_SPARES", 1)  # none more than that are made together
    used, made, at_once = [], [], []
    add, difference, made_spare = BankSpares.add, HolderSpare.difference, BankStock.made_spare
    monkeypatch.setattr(BankStock, "made_spare", lambda *arguments: at_once.append(1) or made_spare(*arguments))
    monkeypatch.setattr(BankSpares, "add", lambda *arguments: made.append(1) or add(*arguments))
    monkeypatch.setattr(
        HolderSpare, "difference", lambda *arguments: used.append(arguments[0]) or difference(*arguments)
    )

    async def stocked(n):
        for _ in range(200):
            if len(made) >= n:
                return
            await asyncio.sleep(0.1)

    async def scenario():
        async with scoring(homes, "bank", "coordinator") as command:
            async with scoring(homes, "tax", "registry"):
                first = await score(command, "first", trained.known[0])
                assert (len(used), len(at_once)) == (2, 2)  # there is no stock before a model is asked for
                await stocked(2 + 6)
                # other firms than the first: a repeat is answered without its spare, which goes back
                several = await asyncio.gather(*(score(command, f, f) for f in trained.known[1:6]))
                counts = len(used), len(at_once)
                await stocked(2 + 6 + 4 + 6)
                again = await score(command, "again", trained.known[0])
                assert (len(used), len(at_once)) == counts
            async with scoring(homes, "tax", "registry"):  # restarted: their halves of the spares are gone
                later = await score(command, "later", trained.known[6])
                return first, several, counts, again, later, len(at_once) - counts[1]

    first, several, counts, again, later, n_later = asyncio.run(scenario())
    assert [r.units for r in several] == [trained.units[f] for f in trained.known[1:6]]
    assert counts == (2 + 10, 2 + 4)  # three spares of two holders, the rest made at once
    assert first.units == again.units == trained.units[trained.known[0]]
    assert (later.units, n_later) == (trained.units[trained.known[6]], 2)
    assert (len(used), len(at_once)) == (counts[0] + 2, counts[1] + 2)


def test_changed_data_are_seen(trained, homes):
    firm = trained.known[0]
    path = homes / "data" / "tax.csv"
    whole = path.read_text()

    async def scenario():
        async with scoring(homes) as command:
            before = await score(command, "a", firm)
            lines = whole.splitlines(keepends=True)
            path.write_text("".join(line for line in lines if not line.startswith(firm)))
            os.utime(path, (1_800_000_000, 1_800_000_000))
            gone = await score(command, "b", firm)
            path.write_text("uscc\nsecret_cell\n")
            broken = await score(command, "c", firm)
            path.write_text(whole)
            return before, gone, broken, await score(command, "d", firm)

    before, gone, broken, after = asyncio.run(scenario())
    assert before.status == after.status == "scored"
    assert before.parties[0].data_time_s == pytest.approx(path.stat().st_mtime, abs=3600)
    assert statuses(gone)["tax"] == "unknown"
    assert gone.parties[0].data_time_s == 1_800_000_000
    assert statuses(broken)["tax"] == "failed"
    assert "its own log says why" in broken.parties[0].reason


def test_lost_code_map(trained, homes):
    for folder in ("models/firms", "jobs"):
        shutil.rmtree(homes / "tax" / folder)

    async def scenario():
        async with scoring(homes) as command:
            return await score(command, "a", trained.known[0])

    response = asyncio.run(scenario())
    assert response.status == "failed"
    assert "backup" in response.parties[0].reason


def test_reasons(trained, homes):
    names = load_map(homes / "tax" / "models" / "firms" / "code_map.json").names
    set_policy(homes, "tax", reason_columns=[names[0], names[2]])

    async def scenario():
        async with scoring(homes) as command:
            return [await score(command, firm, firm, n_reasons=100) for firm in trained.known[:5]] + [
                await score(command, "few", trained.known[0])
            ]

    *responses, few = asyncio.run(scenario())
    best = trained.model.base_points + sum(max(c.points) for part in trained.model.parts for c in part.columns)
    for response in responses:
        lost = [r.points_lost for r in response.reasons]
        assert lost == sorted(lost, reverse=True)
        assert (
            round(trained.model.scaling.units * sum(lost)) == best - response.units
        )  # the lines account for every unit lost
        named = {r.column for r in response.reasons if r.party == "tax"}
        assert named <= {names[0], names[2]}
        assert {r.party for r in response.reasons} <= {"bank", "tax", "tax, registry"}
        assert not any(r.party == "registry" for r in response.reasons)
    assert len(few.reasons) == 4
    assert any(r.party == "tax" for response in responses for r in response.reasons)


async def spare_for(command, holder, model, commitment=bytes(32)):
    """Make a spare with a holder as the bank's node does; its points are masked zeros here."""
    part = model.part(holder)
    prepare = pb.PrepareSpare(
        spare_id=os.urandom(8).hex(), map_hash=bytes.fromhex(part.map_sha256), commitment=commitment
    )
    prepared = await command.call(holder, "PrepareSpare", prepare, pb.PreparedSpare, timeout_s=5)
    keys = await command.call(holder, "AskKeys", pb.AskKeys(), pb.HolderKeys, timeout_s=5)
    points = encode_points(np.zeros(len(part.points), np.int64))
    done = evaluate(PublicContext(keys.public_key), tuple(prepared.ciphertext_enc), points)
    finish = pb.FinishSpare(spare_id=prepare.spare_id, evaluated_enc=done.reply)
    await command.call(holder, "FinishSpare", finish, pb.Empty, timeout_s=5)
    return prepare.spare_id


def test_holder_refuses_what_a_bank_may_not_ask(trained, homes):
    part = trained.model.part("tax")
    record = pb.EncryptRecord(
        request_id="q",
        firm_id=trained.known[0],
        model_hash=trained.model.sha256,
        map_hash=bytes.fromhex(part.map_sha256),
        purpose="credit",
        on_missing="missing_code",
        consent=token_bytes(trained.known[0]),
    )

    async def scenario():
        async with scoring(homes) as command:

            async def encrypt(**changes):
                message = pb.EncryptRecord()
                message.CopyFrom(record)
                message.MergeFrom(pb.EncryptRecord(**changes))
                return await command.call("tax", "EncryptRecord", message, pb.EncryptedRecord, timeout_s=5)

            async def opened(**fields):
                fields = {"request_id": "q", "spare_id": spare_id, "with_parties": ["tax", "registry"]} | fields
                return await command.call("tax", "OpenPartial", pb.OpenPartial(**fields), pb.OpenedPartial, timeout_s=5)

            async def refused(call, words):
                with pytest.raises(RefusedError, match=words):
                    await call

            assert (await encrypt()).no_spare
            spare_id = await spare_for(command, "tax", trained.model)
            reply = await encrypt(spare_id=spare_id)
            assert reply.difference_share
            assert not reply.unknown
            assert (await encrypt(spare_id=spare_id)).difference_share == reply.difference_share
            other = trained.known[1]
            await refused(encrypt(firm_id=other), "consent is another firm's")
            await refused(encrypt(firm_id=other, consent=token_bytes(other)), "used here already")
            await refused(encrypt(map_hash=bytes(32)), "code map")
            for changes in (
                {"map_hash": b"x"},
                {"on_missing": "guess"},
                {"firm_id": "9" * 101},
            ):
                with pytest.raises(MessageError):
                    await encrypt(**changes)
            with pytest.raises(MessageError):
                await spare_for(command, "tax", trained.model, commitment=b"none")
            lost = "use a new request id"
            await refused(opened(request_id="never"), lost)
            await refused(opened(spare_id="other", share_key_ids={"tax": reply.share_key_id}), lost)
            await refused(opened(with_parties=["tax"]), "only together")
            await refused(opened(), lost)  # no ids of the holders' keys
            for parties in (["registry"], ["tax", "tax"], ["tax", "bank"], []):
                with pytest.raises(MessageError):
                    await opened(with_parties=parties)
            ids = {"tax": reply.share_key_id, "registry": bytes(32)}
            await refused(opened(share_key_ids=ids), lost)

    asyncio.run(scenario())


def test_unusable_requests_are_refused(trained, homes):
    async def scenario():
        async with scoring(homes, "bank") as command:
            for request_id, fields in (
                ("", {}),
                ("x" * 101, {}),
                ("a", {"on_missing": "guess"}),
                ("a", {"timeout_s": -1.0}),
            ):
                request = pb.ScoreRequest(**({"request_id": request_id, "firm_id": "f", "model": "firms"} | fields))
                with pytest.raises(MessageError):
                    await command.call("bank", "Score", request, pb.ScoreResponse, timeout_s=5)

    asyncio.run(scenario())


def test_journal_keeps_the_first_answer(tmp_path):
    path = tmp_path / "state" / "online.db"
    journal = Journal(path)
    assert journal.get("a") is None
    assert journal.keep("a", b"d", b"one") == b"one"
    assert journal.keep("a", b"d", b"two") == b"one"
    with pytest.raises(ProtocolError, match="new request id"):
        journal.keep("a", b"other", b"three")
    assert journal.keep("b", b"d", b"two", b"to do") == b"two"
    assert journal.keep("b", b"d", b"two", b"to do again") == b"two"
    journal.close()
    journal = Journal(path)
    assert journal.get("a") == (b"d", b"one")
    assert journal.unfinished() == [("b", b"two", b"to do")]
    journal.finished(["b"])
    assert journal.unfinished() == []
    journal.keep("c", b"d", b"old", b"to do")
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE answered SET time_s = 0 WHERE key = 'c'")
    journal = Journal(path)  # forgets both
    assert journal.keep("c", b"e", b"new", b"again") == b"new"
    assert journal.unfinished() == [("c", b"new", b"again")]
    journal.close()
    assert path.stat().st_mode & 0o777 == 0o600
