"""A firm that ends every consent is refused by any token and list, at every holder, once one holder knows."""

import asyncio
import concurrent.futures
import contextlib
import time
from dataclasses import replace

import numpy as np
import pytest
from consent_issuer import ISSUERS, KEY, scope, token
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trial_federation import commanding, make_homes, open_trial, running, until

from veilscore.errors import ConfigError, IdentityError, RefusedError, VeilscoreError
from veilscore.release import revocation_watch
from veilscore.release.consent import claim_of, issue_list, issue_revocations, issue_token, read_revocations
from veilscore.release.gate import ConsentGate
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.ledger import ReleaseLedger
from veilscore.release.revocations import RevocationLists
from veilscore.release.scope import Ask
from veilscore.v1 import control_pb2 as pb


def ask(task="score_online"):
    return Ask("credit", task, "bank", "m", time.time())


def listed(number, firms=(), ids=()):
    return issue_revocations(KEY, "portal", ids, firms=firms, number=number)


def bring(home, signed, number):
    import_consent(home, signed, "revocations", f"portal-{number}")


@pytest.fixture
def gate(tmp_path):
    return ConsentGate(tmp_path, required=True, issuers=ISSUERS)


def test_a_revoked_firm_is_refused_by_every_consent_and_others_are_not(gate, tmp_path):
    firms = np.array([f"f{k}" for k in range(5)])
    signed = issue_list(KEY, "portal", firms.tolist(), scope())
    with contextlib.closing(ReleaseLedger(tmp_path / "release.db")) as ledger:
        tokens = [token("f1", once=once).to_message().SerializeToString() for once in (True, False)]
        earlier = [gate.check_token(data, "f1", ask(), ledger, "bank/1") for data in tokens]
        bring(tmp_path, listed(1, ["f1", "f3"]), 1)
        for data, found in zip(tokens, earlier, strict=True):
            with pytest.raises(RefusedError, match="was revoked"):
                gate.check_token(data, "f1", ask(), ledger, "bank/2")
            with pytest.raises(RefusedError, match="was revoked since its record was asked for"):
                gate.check_again(found, time.time())
        assert gate.check_token(token("f2").to_message().SerializeToString(), "f2", ask(), ledger, "bank/3").spend
    claim = claim_of(signed)
    assert gate.revoked_of(claim.id, claim.salt, firms, "bank").tolist() == [False, True, False, True, False]


def test_an_issuer_that_speaks_for_one_bank_ends_and_gives_nothing_at_another(tmp_path):
    """A bank's own issuer could else end what firms agreed to with another bank, or agree for them."""
    key = Ed25519PrivateKey.generate()
    issuers = ISSUERS | {"second": key.public_key().public_bytes_raw().hex()}
    gate = ConsentGate(tmp_path, required=True, issuers=issuers, banks={"second": ("other",)})
    firms = np.array(["f1", "f2"])
    signed = issue_list(KEY, "portal", firms.tolist(), replace(scope(), bank=""))
    data, claim = signed.to_message().SerializeToString(), claim_of(signed)
    own = issue_token(key, "second", "f1", replace(scope(), bank="")).to_message().SerializeToString()
    of_other = replace(ask(), bank="other")
    with contextlib.closing(ReleaseLedger(tmp_path / "release.db")) as ledger:
        with pytest.raises(RefusedError, match="second, who does not speak for firms of bank here"):
            gate.check_token(own, "f1", ask(), ledger, "bank/1")
        assert gate.check_token(own, "f1", of_other, ledger, "other/1").spend
        ended = issue_revocations(key, "second", [claim.id], firms=["f1"], number=1)
        import_consent(tmp_path, ended, "revocations", "second-1")
        assert gate.check_lists([data], ask())[0].covers(firms.tolist()).all()
        assert not gate.revoked_of(claim.id, claim.salt, firms, "bank").any()
        assert gate.revoked_of(claim.id, claim.salt, firms, "other").all()
        with pytest.raises(RefusedError, match="was revoked"):
            gate.check_lists([data], of_other)
        with pytest.raises(RefusedError, match="was revoked"):
            gate.check_token(own, "f1", of_other, ledger, "other/2")


def test_a_list_tells_neither_how_many_firms_nor_which_were_in_the_one_before():
    lists = [read_revocations(listed(n, [f"f{k}" for k in range(n)]), ISSUERS) for n in (0, 1, 63, 64, 65)]
    assert [one.firms.shape for one in lists] == [(64, 32)] * 4 + [(128, 32)]
    again = read_revocations(listed(64, [f"f{k}" for k in range(64)]), ISSUERS)
    rows = {row.tobytes() for row in lists[3].firms}
    assert rows.isdisjoint(row.tobytes() for row in again.firms)
    assert "zebra" not in listed(1, ["zebra"]).body.decode()  # no id of hexadecimal digits, which stand there by chance


def test_an_older_list_brings_no_firm_and_no_consent_back(gate, tmp_path):
    lists = RevocationLists(tmp_path, ISSUERS)
    assert lists.take(listed(2, ["f1"], ["0a", "0b"]))
    assert not lists.take(listed(1, [], []))
    assert not lists.take(listed(2, [], []))
    bring(tmp_path, listed(1, [], ["0c"]), 1)  # by hand
    now = lists.now()
    assert (now.firms(["f1", "f2"]).tolist(), now.consents) == ([True, False], {"0a", "0b", "0c"})
    assert lists.take(listed(3, ["f2"], ["0a", "0b"]))  # f1 consents anew, by its issuer's word
    now = lists.now()
    assert (now.firms(["f1", "f2"]).tolist(), now.consents) == ([False, True], {"0a", "0b", "0c"})
    assert {p.name for p in (tmp_path / "consents/revocations").iterdir()} == {"portal-1.json", "portal-3.json"}
    forged = issue_revocations(Issuer.create(tmp_path / "other", "portal")._key, "portal", [], number=9)
    with pytest.raises(IdentityError):
        lists.take(forged)


def test_an_issuer_signs_nothing_for_a_revoked_firm_until_it_is_lifted(tmp_path):
    issuer = Issuer.create(tmp_path / "portal", "portal")
    keys = {"portal": issuer.public_key}
    first = read_revocations(issuer.revoke(firms=["f1", "f2"]), keys)
    assert (first.number, first.covers(["f1", "f2", "f3"]).tolist()) == (1, [True, True, False])
    for sign in (lambda: issuer.token("f1", scope()), lambda: issuer.list(["f3", "f2"], scope())):
        with pytest.raises(ConfigError, match=r"ended every consent.*--lift"):
            sign()
    with pytest.raises(ConfigError, match="not revoked at portal"):
        issuer.revoke(lift=["f3"])
    second = read_revocations(Issuer.load(tmp_path / "portal").revoke(lift=["f1"]), keys)
    assert (second.number, second.covers(["f1", "f2"]).tolist()) == (2, [False, True])
    assert issuer.token("f1", scope())


def test_of_lists_that_are_made_at_once_the_last_has_all(tmp_path):
    """A portal and a command, or two portals: each reads, extends and writes the issuer's files."""
    issuer = Issuer.create(tmp_path / "portal", "portal")
    ids = [claim_of(issuer.token("f1", scope())).id for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda one: Issuer.load(tmp_path / "portal").revoke(one), ids))
    lists = sorted((read_revocations(one, {"portal": issuer.public_key}) for one in made), key=lambda one: one.number)
    assert [one.number for one in lists] == list(range(1, 9))
    assert lists[-1].revoked == set(ids)


def test_a_list_brought_to_one_holder_reaches_all_by_itself(tmp_path, monkeypatch):
    """In pieces; a holder that is down fetches it when it starts, before it serves anybody."""
    monkeypatch.setattr(revocation_watch, "_PIECE_BYTES", 1000)
    policy = {"consent_issuers": ISSUERS}
    homes = make_homes(tmp_path, tax=policy, registry=policy)
    bring(homes / "tax", listed(1, [], ["0a"]), 1)

    def known(name):
        return RevocationLists(homes / name, ISSUERS).now()

    async def work():
        nodes = open_trial(homes, "tax", "registry")
        for node in nodes.values():
            node.revocations.poll_s = 0.05
        async with running({"tax": nodes["tax"]}):
            await nodes["registry"].start()
            try:
                assert known("registry").consents == {"0a"}  # from its start on
                bring(homes / "tax", listed(2, ["f1"], ["0a"]), 2)
                await until(lambda: known("registry").firms(["f1"])[0])
                assert not known("registry").firms(["f2"])[0]
                async with commanding(homes / "bank") as bank:
                    with pytest.raises(IdentityError, match="bank"):
                        await bank.call("tax", "Revocations", pb.AskRevocations(), pb.HeldRevocations, timeout_s=5)
                async with commanding(homes / "registry") as registry:
                    for wrong in (("portal", 1), ("portal", 3), ("other", 2)):
                        asked = pb.AskRevocations(issuer=wrong[0], number=wrong[1])
                        with pytest.raises(RefusedError, match="not here any more"):
                            await registry.call("tax", "Revocations", asked, pb.HeldRevocations, timeout_s=5)
            finally:
                await nodes["registry"].stop(0.1)

    asyncio.run(work())


def test_a_bank_brings_what_owners_withdrew(tmp_path):
    """The bank's portal calls each holder; a list counts by its issuer's signature and number, whoever brings it."""
    homes = make_homes(tmp_path, tax={"consent_issuers": ISSUERS})

    async def work():
        nodes = open_trial(homes, "tax")
        async with running(nodes), commanding(homes / "bank") as bank, commanding(homes / "registry") as registry:

            async def brought(by, signed):
                await by.call("tax", "Withdrawn", signed.to_message(), pb.HeldRevocations, timeout_s=5)
                return RevocationLists(homes / "tax", ISSUERS).now()

            known = await brought(bank, listed(2, ["f1"], ["0a"]))
            assert (known.consents, known.firms(["f1", "f2"]).tolist()) == ({"0a"}, [True, False])
            first = listed(3, ["f1"], ["0a"])
            for _ in range(2):
                await brought(bank, first)  # again, as after a lost answer
            for other in (listed(1, [], []), listed(3, [], ["0a"])):
                with pytest.raises(RefusedError, match="same or a higher number is here"):
                    await brought(bank, other)
            assert RevocationLists(homes / "tax", ISSUERS).now().firms(["f1"])[0], "an older list is not taken"
            stranger = issue_revocations(Ed25519PrivateKey.generate(), "portal", ["0b"], number=4)
            with pytest.raises(VeilscoreError):
                await brought(bank, stranger)
            with pytest.raises(VeilscoreError):
                await brought(registry, listed(5, [], ["0c"]))
            assert RevocationLists(homes / "tax", ISSUERS).now().consents == {"0a"}

    asyncio.run(work())
