"""A bank forges, edits, swaps and replays consents: the holder refuses before it touches a record."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import pytest
from consent_issuer import ISSUERS, KEY, give_list, scope, token, token_bytes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from finished_jobs import finished
from local_jobs import firms, job, nodes, write
from trial_scoring import copy_of, rows, score, scoring, set_policy, train

from veilscore.errors import IdentityError, MessageError, RefusedError
from veilscore.node.local import open_job
from veilscore.online.records import Records
from veilscore.release.consent import Signed, issue_list, read_consent

STRANGER = Ed25519PrivateKey.generate()


def edited(signed, **changes):
    """The document with other words in its body and the old signature."""
    body = json.loads(signed.body) | changes
    return replace(signed, body=json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "forged",
    [
        token("f", key=STRANGER),
        edited(token("f"), expires_s=time.time() + 1e9),
        edited(token("f"), purpose="marketing"),
        edited(token("f"), once=False),
        edited(token("f"), issuer="nobody"),
        edited(token("f"), kind="list"),
        replace(token("f"), commitments=token("g").commitments),
        replace(token("f"), signature=token("f").signature),
        replace(token("f"), signature=b""),
        edited(issue_list(KEY, "portal", ["f"], scope()), kind="token"),
    ],
)
def test_forged_documents_are_not_the_issuers(forged):
    with pytest.raises(IdentityError):
        read_consent(forged, ISSUERS)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b'{"kind": "token"}' + b" " * (1 << 20)])
def test_rubbish_is_refused(body):
    with pytest.raises(MessageError):
        read_consent(Signed(body, b"x" * 64, b"y" * 32), ISSUERS)


def test_a_list_is_no_revocation_and_a_token_no_list():
    signed = token("f")
    as_list = replace(signed, body=signed.body.replace(b'"kind":"token"', b'"kind":"list"'))
    with pytest.raises(IdentityError):
        read_consent(as_list, ISSUERS)


@pytest.fixture(scope="module")
def trained():
    return finished(train)


def test_online_refusals_come_before_the_record_is_read(trained, tmp_path, monkeypatch):
    homes = copy_of(trained, tmp_path)
    known = [f for f in rows(homes, "bank") if f in rows(homes, "tax") and f in rows(homes, "registry")]
    firm, other = known[:2]
    found = []
    find = Records.find
    monkeypatch.setattr(Records, "find", lambda self, firm_id: found.append(self) or find(self, firm_id))
    good = token_bytes(firm)
    attempts = {
        "missing": (b"", "is missing"),
        "rubbish": (b"\xff\x00rubbish", "cannot be read"),
        "forged": (token_bytes(firm, key=STRANGER), "signature"),
        "another firm's": (token_bytes(other), "another firm's"),
        "expired": (token_bytes(firm, not_before_s=1.0, expires_s=2.0), "has expired"),
        "wrong purpose": (token_bytes(firm, purpose="marketing"), "another purpose"),
        "of a list": (issue_list(KEY, "portal", [firm], scope()).to_message().SerializeToString(), "is a list"),
    }

    async def scenario():
        async with scoring(homes) as command:
            refused = {
                name: await score(command, name, firm, consent=data, on_missing="missing_code")
                for name, (data, _) in attempts.items()
            }
            n_read = sum(r._node.role == "holder" for r in found)
            first = await score(command, "first", firm, consent=good)
            replayed = await score(command, "second", firm, consent=good)
            again = await score(command, "first", firm, consent=good)
            return refused, n_read, first, replayed, again

    refused, n_read, first, replayed, again = asyncio.run(scenario())
    for name, (_, reason) in attempts.items():
        assert refused[name].status == "failed", name
        assert all(reason in party.reason for party in refused[name].parties), name
    assert n_read == 0
    assert first.status == "scored"
    assert again == first
    assert replayed.status == "failed"
    assert "used for another request" in replayed.parties[0].reason


def test_with_consent_off_the_same_request_is_scored(trained, tmp_path):
    homes = copy_of(trained, tmp_path)
    for party in ("tax", "registry"):
        set_policy(homes, party, consent=False)  # as YAML reads a bare off
    firm = next(f for f in rows(homes, "bank") if f in rows(homes, "tax") and f in rows(homes, "registry"))

    async def scenario():
        async with scoring(homes) as command:
            return await score(command, "a", firm, consent=b"")

    assert asyncio.run(scenario()).status == "scored"


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    home = tmp_path_factory.mktemp("card")
    folder = write(home / "data", firms(400, seed=3))
    open_job(job(holdout_fraction=0, max_openings=4), nodes(folder), home).run()
    return home


@pytest.mark.parametrize(
    ("lists", "text"),
    [
        ({}, "consent lists"),
        ({"key": STRANGER}, "signature"),
        ({"purpose": "marketing"}, "consent lists"),
        ({"not_before_s": 1.0, "expires_s": 2.0}, "consent lists"),
    ],
)
def test_a_batch_without_consent_is_refused_before_scoring(card, tmp_path, lists, text, monkeypatch):
    import shutil

    home = tmp_path / "homes"
    shutil.copytree(card, home)
    parts = firms(120, seed=5, prefix="new", coverage=1)
    folder = write(home / "batch", parts)
    if lists:
        give_list(home / "bank", parts["bank"]["firm"], **lists)
    config = job("score_batch", name="batch", model="card", on_missing="missing_code")
    run = open_job(config, nodes(folder), home)
    with pytest.raises(RefusedError, match=text):
        run.run()
    assert not run.stores["tax"].has("row_of")
    assert not run.stores["tax"].has("scored")


def test_a_bank_that_sends_an_expired_list_anyway_is_refused(card, tmp_path, monkeypatch):
    import shutil

    home = tmp_path / "homes"
    shutil.copytree(card, home)
    parts = firms(120, seed=5, prefix="new", coverage=1)
    folder = write(home / "batch", parts)
    signed = give_list(home / "bank", parts["bank"]["firm"], not_before_s=1.0, expires_s=2.0)
    config = job("score_batch", name="batch", model="card", on_missing="missing_code")
    monkeypatch.setattr("veilscore.tasks.align.lists_in", lambda *_: (signed.to_message().SerializeToString(),))
    with pytest.raises(RefusedError, match="has expired"):
        open_job(config, nodes(folder), home).run()
