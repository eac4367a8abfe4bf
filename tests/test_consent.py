"""Consent documents and the holder's gate: what they say, what is refused, and how fast lists are."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from consent_issuer import ISSUERS, KEY, scope, token, token_bytes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilscore.errors import ConfigError, IdentityError, ParameterError, RefusedError, StateError
from veilscore.online.holder_decision import HolderDecisions
from veilscore.release.consent import (
    Signed,
    body_of,
    claim_of,
    issue_list,
    issue_revocations,
    issue_token,
    read_consent,
    read_revocations,
)
from veilscore.release.gate import ConsentGate
from veilscore.release.issuer import Issuer
from veilscore.release.ledger import ReleaseLedger
from veilscore.release.scope import Ask
from veilscore.release.single import Allowed, SingleGuard
from veilscore.terms.rules import ReleaseRules
from veilscore.v1.control_pb2 import EncryptRecord


def ask(**changes):
    given = {"purpose": "credit", "task": "score_online", "bank": "bank", "model": "firms", "now_s": time.time()}
    return Ask(**(given | changes))


@pytest.fixture
def gate(tmp_path):
    return ConsentGate(tmp_path, required=True, issuers=ISSUERS)


@pytest.fixture
def ledger(tmp_path):
    ledger = ReleaseLedger(tmp_path / "state" / "release.db")
    yield ledger
    ledger.close()


def revoke(home, *ids, name="a"):
    folder = home / "consents" / "revocations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(issue_revocations(KEY, "portal", ids).to_text())


def test_a_token_is_of_its_firm_alone():
    consent = read_consent(token("firm-1"), ISSUERS)
    assert (consent.kind, consent.issuer, consent.once) == ("token", "portal", True)
    assert consent.covers(["firm-1", "firm-2", ""]).tolist() == [True, False, False]
    assert "firm-1" not in token("firm-1").body.decode()


def test_documents_survive_files_and_the_wire():
    signed = token("firm-1")
    assert Signed.from_text(signed.to_text(), "file") == signed
    assert Signed.from_bytes(signed.to_message().SerializeToString(), "bank") == signed
    assert body_of(signed)["kind"] == "token"
    assert claim_of(signed).scope.purpose == "credit"
    for text in ("", "{}", "[]", '{"body": 1, "signature": ""}', '{"body": "x", "signature": "?"}'):
        with pytest.raises(ConfigError):
            Signed.from_text(text, "file")
    with pytest.raises(ConfigError):
        body_of(Signed(b"{}", b""))


def test_a_list_covers_its_firms_and_is_fast():
    firms = [f"firm-{k:06d}" for k in range(100_000)]
    signed = issue_list(KEY, "portal", firms, scope())
    start = time.perf_counter()
    consent = read_consent(signed, ISSUERS)
    covered = consent.covers([*firms, "stranger"])
    seconds = time.perf_counter() - start
    assert covered[:-1].all()
    assert not covered[-1]
    assert seconds < 5  # 0.15 s where nothing else runs


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": ""},
        {"tasks": ()},
        {"tasks": ("train",)},
        {"expires_s": 0.0},
        {"expires_s": float("inf")},
        {"models": ("x" * 201,)},
    ],
)
def test_scopes_that_cannot_be(changes):
    with pytest.raises(ParameterError):
        scope(**changes)


def test_lists_that_cannot_be():
    for firms in ([], ["a", "a"]):
        with pytest.raises(ParameterError):
            issue_list(KEY, "portal", firms, scope())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"purpose": "marketing"}, "another purpose"),
        ({"tasks": ("score_batch",)}, "does not cover task"),
        ({"bank": "other"}, "was not given to bank"),
        ({"models": ("cards",)}, "does not cover model"),
        ({"not_before_s": time.time() + 50_000, "expires_s": time.time() + 90_000}, "not valid yet"),
        ({"not_before_s": 1.0, "expires_s": time.time() - 1}, "has expired"),
    ],
)
def test_consent_for_something_else_is_refused(gate, ledger, changes, text):
    with pytest.raises(RefusedError, match=text):
        gate.check_token(token_bytes("f", **changes), "f", ask(), ledger, "bank/1")


def test_a_token_serves_one_request_and_its_retries(gate, ledger):
    data = token_bytes("f")
    for reference in ("bank/1", "bank/1"):
        spend = gate.check_token(data, "f", ask(), ledger, reference).spend
        ledger.spend(spend, reference)
    with pytest.raises(RefusedError, match="used for another request"):
        gate.check_token(data, "f", ask(), ledger, "bank/2")
    with pytest.raises(RefusedError, match="used for another request"):
        ledger.spend(spend, "bank/2")
    assert gate.check_token(token_bytes("f", once=False), "f", ask(), ledger, "bank/3").spend is None


def test_revoked_consents_are_refused(gate, ledger, tmp_path):
    data = token_bytes("f", once=False)
    gate.check_token(data, "f", ask(), ledger, "bank/1")
    revoke(tmp_path, read_consent(Signed.from_bytes(data, "bank"), ISSUERS).id)
    with pytest.raises(RefusedError, match="was revoked"):
        gate.check_token(data, "f", ask(), ledger, "bank/2")
    revoke(tmp_path, name="b")  # a newer list without it does not bring it back
    with pytest.raises(RefusedError, match="was revoked"):
        gate.check_token(data, "f", ask(), ledger, "bank/2")


def test_a_revocation_list_that_cannot_be_looked_at_lets_nothing_through(gate, ledger, tmp_path):
    data = token_bytes("f1", once=False)
    revoke(tmp_path, read_consent(Signed.from_bytes(data, "bank"), ISSUERS).id)
    folder = tmp_path / "consents" / "revocations"
    (folder / "gone.json").symlink_to(folder / "nowhere")
    with pytest.raises(StateError, match="revocations"):
        gate.check_token(data, "f1", ask(), ledger, "r")
    (folder / "gone.json").unlink()
    with pytest.raises(RefusedError, match="was revoked"):
        gate.check_token(data, "f1", ask(), ledger, "r")
    shutil.rmtree(folder)
    folder.write_text("")
    with pytest.raises(StateError, match="revocations"):
        gate.check_token(data, "f1", ask(), ledger, "r")


def test_one_firm_of_a_list_is_revoked(gate, tmp_path):
    firms = np.array(["a", "b", "c"])
    signed = issue_list(KEY, "portal", firms.tolist(), scope())
    lists = gate.check_lists([signed.to_message().SerializeToString()], ask(task="score_batch"))
    assert lists[0].covers(firms.tolist()).all()
    ended = partial(gate.revoked_of, lists[0].id, lists[0].salt, firms, "bank")
    assert not ended().any()
    from veilscore.release.consent import commit

    revoke(tmp_path, f"{lists[0].id}:{commit(lists[0].salt, ['b']).tobytes().hex()}", f"{lists[0].id}:junk")
    assert ended().tolist() == [False, True, False]
    revoke(tmp_path, lists[0].id)
    assert ended().all()
    with pytest.raises(RefusedError, match="revoked"):
        gate.check_lists([signed.to_message().SerializeToString()], ask(task="score_batch"))


def test_what_is_missing_is_refused(gate, ledger, tmp_path):
    with pytest.raises(RefusedError, match="missing"):
        gate.check_token(b"", "f", ask(), ledger, "bank/1")
    with pytest.raises(RefusedError, match="1 to 64 consent lists"):
        gate.check_lists([], ask())
    with pytest.raises(RefusedError, match="is a token, a list is needed"):
        gate.check_lists([token_bytes("f")], ask())
    with pytest.raises(RefusedError, match="lists no issuer"):
        ConsentGate(tmp_path, required=True, issuers={}).check_token(token_bytes("f"), "f", ask(), ledger, "r")
    off = ConsentGate(tmp_path, required=False, issuers={})
    assert off.check_token(b"", "f", ask(), ledger, "r").spend is None


def test_revocations_are_of_a_listed_issuer(tmp_path):
    stranger = issue_revocations(Ed25519PrivateKey.generate(), "portal", ["x"])
    with pytest.raises(IdentityError):
        read_revocations(stranger, ISSUERS)
    own = read_revocations(issue_revocations(KEY, "portal", ["x"], 5.0), ISSUERS)
    assert (own.issued_s, own.revoked) == (5.0, {"x"})
    assert "x" in json.loads(issue_revocations(KEY, "portal", ["x"]).body)["revoked"]


@pytest.mark.parametrize("once", [True, False])
def test_consent_that_ends_after_the_record_was_asked_for_opens_nothing(gate, ledger, tmp_path, once):
    signed = token("firm-1", once=once)
    found = gate.check_token(signed.to_message().SerializeToString(), "firm-1", ask(), ledger, "bank/1")
    gate.check_again(found, time.time())
    with pytest.raises(RefusedError, match="has expired or was revoked since its record was asked for"):
        gate.check_again(found, found.expires_s)
    revoke(tmp_path, claim_of(signed).id)
    with pytest.raises(RefusedError, match="was revoked since its record was asked for"):
        gate.check_again(found, time.time())


# --- consents to decisions -------------------------------------------------------------------------------------------

DECIDE = {"purpose": "proactive", "tasks": ("decide",), "holders": ("tax",), "bits": 3.0}


def test_a_consent_to_decisions_travels_with_holders_bits_and_contract():
    watch = scope(**DECIDE | {"purpose": "watch", "contract": "C-17"})
    found = read_consent(issue_token(KEY, "portal", "firm", watch), ISSUERS)
    assert found.scope == watch
    plain = read_consent(issue_token(KEY, "portal", "firm", scope()), ISSUERS)
    assert plain.scope == scope(not_before_s=plain.scope.not_before_s, expires_s=plain.scope.expires_s)
    assert "contract" not in json.loads(issue_token(KEY, "portal", "firm", scope()).body)  # as it always was


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"purpose": "credit"}, "one of the purposes proactive, application, renewal, watch, report"),
        ({"holders": ()}, "its holders"),
        ({"bits": 0.0}, "bits above 0"),
        ({"bits": math.nan}, "bits above 0"),
        ({"tasks": ("decide", "score_batch")}, "names no other task"),
        ({"purpose": "watch", "contract": ""}, "names the contract that it ends with"),
        ({"contract": "C-17"}, "and no other consent does"),
        ({"tasks": ("score_batch",)}, "are of a consent to decisions"),
    ],
)
def test_what_a_consent_to_decisions_has_to_say(changes, says):
    with pytest.raises(ParameterError, match=says):
        scope(**DECIDE | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"holder": "registry"}, "does not name registry among its holders"),
        ({"bits": 3.2}, "allows 3 bits, and this decision tells 3.2"),
        ({"purpose": "renewal"}, "is for another purpose"),
        ({"task": "score_batch"}, "does not cover task score_batch"),
        ({"model": "other"}, "does not cover model 'other'"),
    ],
)
def test_a_decision_is_held_against_its_consent(changes, says):
    asked = {"purpose": "proactive", "task": "decide", "bank": "bank", "model": "limit", "now_s": time.time()}
    ask = Ask(**asked | {"holder": "tax", "bits": 3.0} | changes)
    assert says in ask.refusal(scope(**DECIDE, models=("limit",)), "the consent")
    assert bool(ask.refusal(scope(**DECIDE, models=("limit",)), "the consent")) == bool(says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"holders": ("tax",)}, "does not name registry among its holders"),
        ({"bits": 1.0}, "allows 1 bits, and this decision tells 5"),
    ],
)
def test_a_decision_on_one_firm_is_held_against_its_consent_before_its_record_is_read(tmp_path, changes, says):
    (tmp_path / "state").mkdir()
    policy = SimpleNamespace(release=ReleaseRules(), consent="required", consent_issuers=ISSUERS, issuer_banks={})
    guard = SingleGuard(tmp_path, policy, "registry")
    decisions = HolderDecisions(tmp_path, SimpleNamespace(name="registry"), None, None, guard, lambda: policy)

    async def find(firm):
        raise LookupError(firm)

    records = SimpleNamespace(normalise=str.upper, find=find)
    filed = SimpleNamespace(decision=SimpleNamespace(name="limit", bits=5.0))
    held = SimpleNamespace(filed=filed, parts=(SimpleNamespace(records=records),))
    given = DECIDE | {"purpose": "application", "holders": ("tax", "registry"), "bits": 5.0} | changes
    request = EncryptRecord(request_id="a", firm_id="firm", purpose="application", consent=token_bytes("FIRM", **given))
    try:
        with pytest.raises(RefusedError if says else LookupError, match=says or "FIRM"):
            asyncio.run(decisions._passed("bank", request, held, Allowed(None, policy)))
    finally:
        guard.close()


def test_a_watch_ends_with_its_contract(tmp_path):
    issuer = Issuer.create(tmp_path / "portal", "portal")
    watch = scope(**DECIDE | {"purpose": "watch", "contract": "C-17"})
    ended = claim_of(issuer.token("one", watch, once=False)).id
    issuer.token("two", scope(**DECIDE | {"purpose": "watch", "contract": "C-18"}), once=False)
    signed = issuer.revoke(*issuer.of_contract("C-17"))
    assert read_revocations(signed, {"portal": issuer.public_key}).revoked == {ended}
    with pytest.raises(ConfigError, match="issued no consent that ends with contract 'C-19'"):
        issuer.of_contract("C-19")
    with pytest.raises(ConfigError, match="no consent that ends"):
        issuer.of_contract("")
