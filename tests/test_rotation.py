"""Keys are replaced and revoked while the federation runs: the rules, real TLS on loopback, and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import time

import grpc
import pytest
import yaml
from fabric_network import QUICK, ROLES, accepted_member, federation_of, header, make_fabric, raw_channel, running
from trial_federation import commanding, make_homes, open_trial, show, submit, until, watch
from trial_federation import running as running_nodes
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import ConfigError, IdentityError, PeerError, VeilscoreError
from veilscore.keys.identity import create_identity, load_identity, load_recovery_key, parse_certificate
from veilscore.keys.rotation import (
    KeyStatement,
    move,
    parse_statement,
    revoke_by_recovery,
    revoke_by_vote,
    rotate,
)
from veilscore.terms.federation import Federation, add_statements, load_federation, save_federation
from veilscore.v1 import control_pb2
from veilscore.wire.protocol import VERSION

NOW_S = time.time()
NOW_MS = int(NOW_S * 1000)
NAME = "test"
WEEK_S = 7 * 86_400


@pytest.fixture(scope="module", autouse=True)
def _today():
    """Certificates made here are valid from ten minutes ago; collection of a whole run lies further back."""
    global NOW_S, NOW_MS  # noqa: PLW0603 - read by name all over this file
    NOW_S = time.time()
    NOW_MS = int(NOW_S * 1000)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Identities with recovery keys, and two successors of tax."""
    folder = tmp_path_factory.mktemp("identities")
    identities = {
        name: create_identity(folder / name, name, role, passphrase=lambda: None, recovery=True)
        for name, role in ROLES.items()
    }
    recovery = identities["tax"].certificate.recovery
    for name in ("tax2", "tax3"):
        identities[name] = create_identity(folder / name, "tax", "holder", passphrase=lambda: None, recovery=recovery)
    return identities, load_recovery_key(folder / "tax" / "recovery.pem"), folder


@pytest.fixture
def ids(made):
    return made[0]


@pytest.fixture
def base(ids):
    return federation_of(ids[name] for name in ROLES)


def to_tax2(ids, **changes):
    arguments = {"federation": NAME, "overlap_s": WEEK_S, "date_ms": NOW_MS} | changes
    return rotate(ids["tax"], ids["tax2"], **arguments)


def vote(ids, who, date_ms=None, key="tax"):
    return revoke_by_vote(ids[who], "tax", ids[key].fingerprint, NAME, NOW_MS if date_ms is None else date_ms)


# the rules


def test_successor_and_old_key_are_both_accepted_for_the_overlap(ids, base):
    federation = base.with_statements([to_tax2(ids)])
    old, new = ids["tax"], ids["tax2"]
    assert federation.member("tax").fingerprint == new.fingerprint
    assert [c.fingerprint for c in federation.history.accepted("tax", NOW_S + 1)] == [new.fingerprint, old.fingerprint]
    assert [c.fingerprint for c in federation.history.accepted("tax", NOW_S + WEEK_S + 1)] == [new.fingerprint]
    assert accepted_member(federation, old.fingerprint, NOW_S + 1).name == "tax"
    assert accepted_member(federation, old.fingerprint, NOW_S + WEEK_S + 1) is None
    assert base.member("tax").fingerprint == old.fingerprint


def test_signature_counts_by_its_date(made, base):
    ids, recovery, _ = made
    signature = ids["tax"].sign(b"receipt", "receipt")
    lost_ms = NOW_MS + 5000
    federation = base.with_statements(
        [revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, lost_ms, ids["tax2"])]
    )
    keys = federation.keys_of("tax", NOW_S + 100)
    keys.verify(b"receipt", signature, "receipt", signed_s=NOW_S)
    with pytest.raises(IdentityError, match=r"dated 20.*was revoked on .* by its recovery key"):
        keys.verify(b"receipt", signature, "receipt", signed_s=NOW_S + 6)
    with pytest.raises(IdentityError, match="was revoked"):
        keys.verify(b"receipt", signature, "receipt")
    keys.verify(b"receipt", ids["tax2"].sign(b"receipt", "receipt"), "receipt")
    with pytest.raises(IdentityError, match="not tax's"):
        keys.verify(b"receipt", ids["tax3"].sign(b"receipt", "receipt"), "receipt")


def test_file_round_trip_and_two_writers(ids, base, tmp_path):
    path = tmp_path / "federation.yaml"
    save_federation(base, path)
    assert "statements" not in path.read_text()
    add_statements(path, [to_tax2(ids)])
    add_statements(path, [vote(ids, "bank", NOW_MS + 1)])
    loaded = load_federation(path)
    assert len(loaded.statements) == 2
    assert loaded == base.with_statements(loaded.statements)
    assert loaded == loaded.with_statements([to_tax2(ids)])  # another signature of the same text is no other statement
    assert loaded.history.digest == base.with_statements(loaded.statements).history.digest
    assert loaded.member("tax").fingerprint == ids["tax2"].fingerprint


def test_statement_survives_the_wire_and_refuses_strangers_bytes(ids):
    statement = to_tax2(ids)
    assert parse_statement(statement.to_bytes(), "tax") == statement
    for data in (b"", b"{}", b"[" * 10_000, b"x" * 20_000, statement.to_bytes().replace(b'"rotate"', b'"steal"')):
        with pytest.raises(IdentityError, match="key statement from tax"):
            parse_statement(data, "tax")


def forged(ids, **changes):
    return to_tax2(ids).model_copy(update=changes)


def forged_vote(ids):
    return vote(ids, "bank").model_copy(update={"by": "registry", "signer": ids["registry"].fingerprint})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: forged(i, overlap_s=90 * 86_400), "not tax's, or what it signed was changed"),
        (lambda i: forged(i, certificate=i["tax3"].certificate.pem.decode()), "what it signed was changed"),
        (lambda i: forged(i, successor_signature=None), "not tax's"),
        (lambda i: forged(i, federation="other"), "another federation"),
        (lambda i: forged(i, member="nobody"), "another federation or member"),
        (lambda i: forged(i, by="bank"), "named by the key it follows"),
        (lambda i: rotate(i["tax"], i["registry"], NAME, WEEK_S, NOW_MS), "another name, role or recovery key"),
        (lambda i: rotate(i["tax"], i["tax"], NAME, WEEK_S, NOW_MS), "in use already"),
        (lambda i: rotate(i["tax2"], i["tax3"], NAME, WEEK_S, NOW_MS), "key that tax does not have"),
        (lambda i: to_tax2(i, date_ms=NOW_MS - 86_400_000), "not valid yet"),
        (lambda i: to_tax2(i, date_ms=NOW_MS + 400 * 86_400_000), "expired"),
        (lambda i: vote(i, "operator"), "only nodes"),
        (forged_vote, "what it signed was changed"),
    ],
)
def test_statement_that_does_not_hold_has_no_effect(ids, base, change, words):
    statement = change(ids)
    history = Federation(name=NAME, members=base.members, statements=(statement,)).history
    assert [words in reason for _, reason in history.ignored] == [True], history.ignored
    assert base.with_statements([statement]).statements == ()
    assert [c.fingerprint for c in history.accepted("tax", NOW_S)] == [ids["tax"].fingerprint]


def test_certificate_without_or_with_another_recovery_key_cannot_follow(ids, base, tmp_path):
    for number, recovery in enumerate((False, True)):
        thief = create_identity(tmp_path / str(number), "tax", "holder", passphrase=lambda: None, recovery=recovery)
        assert base.with_statements([rotate(ids["tax"], thief, NAME, WEEK_S, NOW_MS)]).statements == ()


def test_second_successor_and_backdated_one_are_refused(ids, base):
    federation = base.with_statements([to_tax2(ids)])
    for date_ms in (NOW_MS - 60_000, NOW_MS + 1):
        late = rotate(ids["tax"], ids["tax3"], NAME, WEEK_S, date_ms)
        assert federation.with_statements([late]).statements == federation.statements


def test_majority_of_the_other_nodes_revokes(ids, base):
    # Others of tax: bank, registry, coordinator; two of them are a majority, and the operator has no vote.
    federation = base.with_statements([vote(ids, "bank")])
    assert federation.history.missing_votes("tax", ids["tax"].fingerprint) == 1
    assert accepted_member(federation, ids["tax"].fingerprint, NOW_S + 10) is not None
    twice = federation.with_statements([vote(ids, "bank", NOW_MS + 1)])
    assert len(twice.statements) == 1
    federation = federation.with_statements([vote(ids, "coordinator", NOW_MS + 2000)])
    assert accepted_member(federation, ids["tax"].fingerprint, NOW_S + 10) is None
    refusal = federation.history.find(ids["tax"].fingerprint).refusal(NOW_S + 10)
    assert "revoked" in refusal
    assert "bank, coordinator" in refusal
    backdated = to_tax2(ids, date_ms=NOW_MS - 1000)
    assert federation.with_statements([backdated]).statements == federation.statements


def test_votes_count_in_every_order_and_none_puts_the_revocation_off(ids, base):
    """A vote dated far ahead, taken in first, is one vote of three: the two others revoke when they say."""
    votes = [vote(ids, "registry", NOW_MS + 300 * 86_400_000), vote(ids, "bank"), vote(ids, "coordinator", NOW_MS + 1)]
    found = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)):
        federation = base
        for place in order:
            federation = federation.with_statements([votes[place]])
        assert federation.history.accepted("tax", NOW_S + 1) == ()
        found.append((federation.history.digest, federation.history.keys))
    assert len({digest for digest, _ in found}) == 1
    assert len({keys["tax"][0].revoked_s for _, keys in found}) == 1


def test_what_a_thief_signs_leaves_the_owner_recovery_and_statements(made, base, tmp_path):
    ids, recovery, _ = made
    spam = [move(ids["tax"], f"thief.example.org:{n + 1}", NAME, NOW_MS + n) for n in range(120)]
    flooded = base.with_statements(spam)
    assert len(flooded.statements) == 100
    assert flooded.with_statements([to_tax2(ids, date_ms=NOW_MS + 500)]).statements == flooded.statements
    lost = revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS + 1000, ids["tax2"])
    recovered = flooded.with_statements([lost])
    assert recovered.member("tax").fingerprint == ids["tax2"].fingerprint
    back = recovered.with_statements([move(ids["tax2"], "tax.example.org:1", NAME, NOW_MS + 2000)])
    assert back.member("tax").address == "tax.example.org:1"
    # who has the recovery key too comes second, also where votes had revoked the key before
    for before in (base, base.with_statements([vote(ids, "bank"), vote(ids, "registry")])):
        first = before.with_statements([lost])
        again = revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS + 3000, ids["tax3"])
        assert first.with_statements([again]).member("tax").fingerprint == ids["tax2"].fingerprint
    # and votes against the lost key do not reach the one that the recovery key named
    late = recovered.with_statements([vote(ids, who, NOW_MS + 4000) for who in ("bank", "coordinator", "registry")])
    assert late.history.accepted("tax", NOW_S + 9) == (ids["tax2"].certificate,)
    # a member cannot unsay all that it ever signed
    unsaid = revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, 0, ids["tax2"])
    assert not base.with_statements([unsaid]).statements


def test_own_key_cannot_vote_and_recovery_key_of_another_does_not_hold(made, base):
    ids, _, folder = made
    own = revoke_by_vote(ids["tax"], "tax", ids["tax"].fingerprint, NAME, NOW_MS)
    other = load_recovery_key(folder / "bank" / "recovery.pem")
    foreign = revoke_by_recovery(other, "tax", ids["tax"].fingerprint, NAME, NOW_MS)
    assert base.with_statements([own, foreign]).statements == ()


def test_recovery_takes_back_what_a_thief_named(made, base):
    ids, recovery, _ = made
    thief = base.with_statements([to_tax2(ids)])
    federation = thief.with_statements(
        [revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS + 1, ids["tax3"])]
    )
    assert [c.fingerprint for c in federation.history.accepted("tax", NOW_S + 1)] == [ids["tax3"].fingerprint]
    kept = thief.with_statements(
        [revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS + 1, ids["tax2"])]
    )
    assert [c.fingerprint for c in kept.history.accepted("tax", NOW_S + 1)] == [ids["tax2"].fingerprint]


def test_history_is_quick_for_many_statements(ids, base):
    flood = [vote(ids, "bank", NOW_MS + n) for n in range(200)]
    assert len(base.with_statements(flood).statements) == 1


# over TLS


def of_network(ids, base, *names, **options):
    return [make_fabric(n, identity=ids[n], federation=base, **options) for n in names]


async def ping(fabric, to):
    return await fabric.call(to, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=2, retry=False)


async def pong(_request, _peer):
    return control_pb2.Empty()


async def slow(_request, _peer):
    await asyncio.sleep(1)
    return control_pb2.Empty()


async def endless(_request, _peer):
    await asyncio.sleep(600)


def test_server_and_client_change_keys_while_a_call_runs(ids, base):
    async def scenario():
        tax, bank = of_network(ids, base, "tax", "bank")
        for fabric in (tax, bank):
            fabric.register("Ping", {"bank", "holder"}, control_pb2.Empty, pong)
            fabric.register("Slow", {"bank", "holder"}, control_pb2.Empty, slow)
        async with running(tax, bank):
            await ping(bank, "tax")
            begun = [
                asyncio.create_task(a.call(b, "Slow", control_pb2.Empty(), control_pb2.Empty, timeout_s=5, retry=False))
                for a, b in ((bank, "tax"), (tax, "bank"))
            ]
            await asyncio.sleep(0.2)
            statement = to_tax2(ids)
            await bank.renew(bank.federation.with_statements([statement]))
            await tax.renew(tax.federation.with_statements([statement]), ids["tax2"])
            await ping(bank, "tax")
            await ping(tax, "bank")
            assert await asyncio.gather(*begun) == [control_pb2.Empty()] * 2
            async with raw_channel(tax, ids["bank"], ids["tax2"]) as channel:  # the new key is what tax shows now
                await channel.channel_ready()

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_replaced_key_is_refused_when_the_overlap_is_over(ids, base):
    clock = {"ahead_s": 0.0}

    async def scenario():
        (tax,) = of_network(ids, base, "tax")
        (bank,) = of_network(ids, base, "bank", clock=lambda: time.time() + clock["ahead_s"], limits=WIDE_CLOCKS)
        bank.register("Ping", {"holder"}, control_pb2.Empty, pong)
        async with running(tax, bank):
            await ping(tax, "bank")
            await bank.renew(bank.federation.with_statements([to_tax2(ids)]))
            await ping(tax, "bank")
            clock["ahead_s"] = WEEK_S + 60
            with pytest.raises(IdentityError, match="was replaced and is not accepted since"):
                await ping(tax, "bank")
            with pytest.raises(PeerError):
                await connect_anew(bank, ids["tax"])

    asyncio.run(asyncio.wait_for(scenario(), 120))


WIDE_CLOCKS = QUICK.__class__(**{**{k: getattr(QUICK, k) for k in QUICK.__dataclass_fields__}, "clock_skew_s": 1e7})


async def connect_anew(to, identity):
    """Open a new connection with this identity; PeerError if TLS refuses it."""
    async with raw_channel(to, identity, to.identity) as channel:
        try:
            await channel.unary_unary("/veilscore.v1.Fabric/None")(b"", timeout=1.5)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # which a node that lets it in answers
                raise PeerError("no connection") from error


def test_revoked_key_is_cut_off(made, base):
    ids, recovery, _ = made
    revocation = revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS, ids["tax2"])

    async def scenario():
        tax, bank = of_network(ids, base, "tax", "bank")
        bank.register("Ping", {"holder"}, control_pb2.Empty, pong)
        bank.register("Endless", {"holder"}, control_pb2.Empty, endless)
        tax.register("Endless", {"bank"}, control_pb2.Empty, endless)
        async with running(tax, bank):
            await connect_anew(bank, ids["tax"])
            begun = [
                asyncio.create_task(
                    a.call(b, "Endless", control_pb2.Empty(), control_pb2.Empty, timeout_s=100, retry=False)
                )
                for a, b in ((bank, "tax"), (tax, "bank"))
            ]
            await asyncio.sleep(0.2)
            start_s = time.monotonic()
            await bank.renew(bank.federation.with_statements([revocation]))
            ended = await asyncio.gather(*begun, return_exceptions=True)
            assert time.monotonic() - start_s < 30  # cut, not waited for
            assert all(isinstance(e, PeerError) for e in ended), ended
            with pytest.raises(PeerError):
                await ping(tax, "bank")
            with pytest.raises(PeerError):
                await connect_anew(bank, ids["tax"])
            await connect_anew(bank, ids["tax2"])
            with pytest.raises(IdentityError, match="does not show the certificate"):  # tax still shows the revoked one
                await ping(bank, "tax")

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_connection_of_a_revoked_key_is_closed_not_only_refused(made, base):
    ids, recovery, _ = made
    revocation = revoke_by_recovery(recovery, "tax", ids["tax"].fingerprint, NAME, NOW_MS, ids["tax2"])

    async def scenario():
        (bank,) = of_network(ids, base, "bank")
        async with running(bank), raw_channel(bank, ids["tax"], ids["bank"]) as channel:
            call = channel.stream_unary("/veilscore.v1.Fabric/Deliver")(metadata=(("veilscore-version", VERSION),))
            await call.write(header(b"x" * 9, sender="tax", recipient="bank").SerializeToString())
            await asyncio.sleep(0.2)
            state = channel.get_state()
            await bank.renew(bank.federation.with_statements([revocation]))
            await asyncio.wait_for(channel.wait_for_state_change(state), 30)
            call.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 120))


# nodes


@pytest.mark.slow
def test_jobs_run_before_during_and_after_a_rotation(tmp_path):
    homes = make_homes(tmp_path)
    before = load_identity(homes / "tax" / "identity").fingerprint

    async def scenario():
        nodes = open_trial(homes)
        async with running_nodes(nodes), commanding(homes / "bank") as command:
            first = await submit(command)
            await watch(command, first)
            (homes / "tax" / "fault_bin").write_text("sleep 3")
            second = await submit(command)
            watching = asyncio.create_task(watch(command, second))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(veilscore, "keys", "rotate", homes / "tax")
            await until(lambda: nodes["tax"].fabric.identity.fingerprint != before)
            assert (await show(command, second)).status == "running"  # the job outlived the change of key
            await watching
        async with commanding(homes / "bank") as command:
            pass
        return first, second, nodes

    async def whole():
        first, second, nodes = await scenario()
        again = open_trial(homes)  # and after a restart the new key is the one in use
        async with running_nodes(again), commanding(homes / "bank") as command:
            third = await submit(command)
            await watch(command, third)
            infos = [await show(command, job) for job in (first, second, third)]
        return infos, nodes, again

    infos, nodes, again = asyncio.run(asyncio.wait_for(whole(), 180))
    assert [i.status for i in infos] == ["done"] * 3, [i.error for i in infos]
    assert [s.attempt for s in infos[1].steps] == [1, 1, 1]  # no step was repeated
    after = again["tax"].fabric.identity.fingerprint
    assert after == nodes["tax"].fabric.identity.fingerprint != before
    for name in nodes:
        federation = load_federation(homes / name / "federation.yaml")
        assert federation.member("tax").fingerprint == after, name


@pytest.mark.slow
def test_node_that_was_down_learns_of_the_new_key(tmp_path):
    homes = make_homes(tmp_path)

    async def scenario():
        nodes = open_trial(homes)
        late = nodes.pop("registry")
        async with running_nodes(nodes):
            veilscore("keys", "rotate", homes / "tax")
            await until(lambda: load_federation(homes / "bank" / "federation.yaml").statements)
            assert nodes["tax"].fabric.identity.fingerprint == load_identity(homes / "tax" / "identity").fingerprint
            async with running_nodes({"registry": late}):
                await until(lambda: load_federation(homes / "registry" / "federation.yaml").statements)
                await until((homes / "tax" / "identity" / "current").exists)

    asyncio.run(asyncio.wait_for(scenario(), 180))


async def shows_its_new_key(fabric, member):
    """Wait: for a moment after the others have its statement, a node still serves with the key of before."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(PeerError):
                await fabric.call(member, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=5)
                return
            await asyncio.sleep(0.05)


def test_recovery_cuts_off_a_thief_and_the_owner_goes_on(tmp_path):
    homes = make_homes(tmp_path)
    safe = tmp_path / "recovery.pem"
    (homes / "tax" / "identity" / "recovery.pem").rename(safe)
    stolen = load_identity(homes / "tax" / "identity")

    async def scenario():
        nodes = open_trial(homes)
        async with running_nodes(nodes), commanding(homes / "bank") as command:
            await connect_anew(nodes["bank"].fabric, stolen)
            await asyncio.to_thread(veilscore, "keys", "recover", homes / "tax", safe)
            await until(lambda: nodes["tax"].fabric.identity.fingerprint != stolen.fingerprint)
            for name in ("bank", "registry", "coordinator"):
                await until(lambda name=name: nodes[name].fabric.federation.statements)
                with pytest.raises(PeerError):
                    await connect_anew(nodes[name].fabric, stolen)
            await shows_its_new_key(nodes["coordinator"].fabric, "tax")
            job = await submit(command)
            await watch(command, job)
            return await show(command, job)

    assert asyncio.run(asyncio.wait_for(scenario(), 180)).status == "done"


# the command, on real processes


def veilscore(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result.output


@pytest.mark.slow
@pytest.mark.federation
def test_processes_rotate_and_a_majority_revokes(tmp_path):
    parties = ("--party", "bank:bank", "--party", "tax:holder", "--party", "registry:holder")
    homes = tmp_path / "trial"
    veilscore("init", homes, *parties)
    old = load_identity(homes / "tax" / "identity")
    try:
        veilscore("up", homes)
        assert "new key of tax" in veilscore("keys", "rotate", homes / "tax", "--overlap-days", 1)
        wait_for((homes / "tax" / "identity" / "current").exists)
        new = load_identity(homes / "tax" / "identity")
        assert new.fingerprint != old.fingerprint
        shown = veilscore("keys", "show", homes / "bank")
        assert new.fingerprint in shown
        assert "accepted until" in shown
        status = veilscore("node", "status", homes / "bank")  # a connection of the bank's command to every node
        assert "failed" not in status, status

        assert "1 more node must ask" in veilscore("keys", "revoke", homes / "bank", "tax")
        wait_for(lambda: load_federation(homes / "registry" / "federation.yaml").history.applied[-1].kind == "revoke")
        assert "revoked" in veilscore("keys", "revoke", homes / "registry", "tax", "--fingerprint", old.fingerprint[:9])
        for name in ("bank", "coordinator"):
            wait_for(lambda name=name: len(load_federation(homes / name / "federation.yaml").statements) == 3)
        with pytest.raises(ConfigError, match="already"):
            veilscore("keys", "revoke", homes / "bank", "tax")
        assert veilscore("node", "status", homes / "tax").count("failed") == 3  # the successor fell with the old key
        assert "tax was revoked" in " ".join(veilscore("node", "status", homes / "bank").split())
    finally:
        veilscore("down", homes)


def wait_for(condition, limit_s=120.0):
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "nothing happened"
        time.sleep(0.05)


def test_mistakes_of_the_command(tmp_path):
    veilscore("init", tmp_path / "trial", "--party", "bank:bank", "--party", "tax:holder")
    home = tmp_path / "trial" / "tax"
    with pytest.raises(ConfigError, match="use `veilscore keys recover`"):
        veilscore("keys", "revoke", home, "tax")
    with pytest.raises(IdentityError, match="no member"):
        veilscore("keys", "revoke", home, "taks")
    with pytest.raises(ConfigError, match="no keys that begin with"):
        veilscore("keys", "revoke", tmp_path / "trial" / "bank", "tax", "--fingerprint", "zz")
    with pytest.raises(ConfigError, match=r"recovery key .* cannot be read"):
        veilscore("keys", "recover", home, tmp_path / "nowhere.pem")
    with pytest.raises(ConfigError, match="statement has no effect: the recovery key is not the one"):
        veilscore("keys", "recover", home, tmp_path / "trial" / "bank" / "identity" / "recovery.pem")
    veilscore("keys", "rotate", home)
    with pytest.raises(ConfigError, match="has not gone over to yet"):
        veilscore("keys", "rotate", home)
    other = tmp_path / "trial" / "bank"
    assert "1 new" in veilscore("keys", "take", other, home / "federation.yaml")
    assert "0 new" in veilscore("keys", "take", other, home / "federation.yaml")
    path = home / "federation.yaml"
    content = yaml.safe_load(path.read_text())
    content["statements"][0]["overlap_s"] = 1
    path.write_text(yaml.safe_dump(content))
    assert "ignored: rotate of tax" in veilscore("keys", "show", home)
    content["statements"][0]["extra"] = 1
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"statements\.1\.extra: unknown key"):
        load_federation(path)


def test_certificate_that_commits_to_nonsense_is_refused(made):
    assert parse_certificate(made[0]["tax"].certificate.pem).recovery == made[0]["tax2"].certificate.recovery
    assert KeyStatement.model_fields.keys() >= {"signature", "successor_signature"}
