"""The fabric over real sockets and real TLS: what is refused, what is repeated, what is said."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from fabric_network import (
    IDENTITIES,
    QUICK,
    deliver_raw,
    federation_of,
    header,
    make_fabric,
    make_identity,
    on_network,
    point,
    raw_channel,
    running,
    session,
)

from veilscore.errors import (
    ConfigError,
    IdentityError,
    JobError,
    MessageError,
    PeerError,
    ProtocolError,
    RefusedError,
)
from veilscore.fabric.fabric import Fabric
from veilscore.v1 import align_pb2, control_pb2, wire_pb2
from veilscore.wire.inbox import Inbox, QueueFullError, WireLimits
from veilscore.wire.protocol import encode

JobRef, JobInfo = control_pb2.JobRef, control_pb2.JobInfo
DAY_S = 86_400.0
MIB = 1 << 20


def data(payload: bytes) -> wire_pb2.Chunk:
    return wire_pb2.Chunk(data=payload)


async def ask(fabric: Fabric, peer: str, method: str = "Ask", *, timeout_s: float = 5.0, **options):
    return await fabric.call(peer, method, JobRef(job_id="j"), JobInfo, timeout_s=timeout_s, **options)


async def echo(request, _peer):
    return JobInfo(job_id=request.job_id)


# --- control calls ---


def test_call_and_stream():
    async def count(request, peer):
        for number in range(3):
            yield JobInfo(job_id=request.job_id, name=f"{peer.name} {number}")

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, echo)
        tax.register("Count", {"bank"}, JobRef, count, stream=True)
        reply = await ask(bank, "tax")
        replies = [r.name async for r in bank.stream("tax", "Count", JobRef(job_id="j"), JobInfo)]
        return reply.job_id, replies

    assert on_network(scenario, "bank", "tax") == ("j", ["bank 0", "bank 1", "bank 2"])


def test_operator_calls_without_a_server():
    async def scenario(operator, coordinator):
        coordinator.register("Ask", {"operator"}, JobRef, echo)
        await point(operator, "coordinator", coordinator.port)
        assert operator.port is None
        return (await ask(operator, "coordinator")).job_id

    assert on_network(scenario, "operator", "coordinator") == "j"


@pytest.mark.parametrize("kind", [ConfigError, JobError, MessageError, PeerError, ProtocolError, RefusedError])
def test_errors_keep_class_message_session_and_party(kind):
    async def fail(_request, _peer):
        raise kind("too bad: ungültig", session="job/step/1")

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, fail)
        with pytest.raises(kind) as caught:
            await ask(bank, "tax")
        return caught.value

    error = on_network(scenario, "bank", "tax")
    assert type(error) is kind
    assert (error.message, error.session, error.party) == ("too bad: ungültig", "job/step/1", "tax")


def test_error_in_the_middle_of_a_stream():
    async def fail(_request, _peer):
        yield JobInfo(name="first")
        raise RefusedError("no more")

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, fail, stream=True)
        replies = bank.stream("tax", "Ask", JobRef(), JobInfo)
        assert (await anext(replies)).name == "first"
        with pytest.raises(RefusedError, match="no more"):
            await anext(replies)

    on_network(scenario, "bank", "tax")


def test_reader_that_leaves_a_stream_ends_the_handler():
    ended = asyncio.Event()

    async def forever(_request, _peer):
        try:
            while True:
                yield JobInfo()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, forever, stream=True)
        replies = bank.stream("tax", "Ask", JobRef(), JobInfo)
        await anext(replies)
        await replies.aclose()
        await asyncio.wait_for(ended.wait(), 30)

    on_network(scenario, "bank", "tax")


def test_node_that_stops_ends_its_streams():
    async def forever(_request, _peer):
        while True:
            yield JobInfo()
            await asyncio.sleep(0.01)

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, forever, stream=True)
        replies = bank.stream("tax", "Ask", JobRef(), JobInfo)
        await anext(replies)
        await tax.stop(0)
        with pytest.raises(PeerError, match=r"tax at .* (stopped while answering|cannot be reached)"):
            _ = [reply async for reply in replies]

    on_network(scenario, "bank", "tax")


def test_unexpected_exception_says_nothing_to_the_peer(capsys):
    async def fail(_request, _peer):
        raise KeyError("firm 91350100M000100Y43")

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, fail)
        with pytest.raises(PeerError, match="internal error, see the log of tax") as caught:
            await ask(bank, "tax")
        return caught.value

    error = on_network(scenario, "bank", "tax")
    logged = capsys.readouterr().out
    assert "91350100M000100Y43" not in str(error) + repr(error.__cause__) + logged
    assert "KeyError" in logged


def test_unknown_method_is_a_clear_error():
    async def scenario(bank, tax):
        with pytest.raises(PeerError, match="does not offer this call"):
            await ask(bank, "tax", "Nonsense")

    on_network(scenario, "bank", "tax")


def test_slow_handler_meets_the_deadline():
    async def sleep(_request, _peer):
        await asyncio.sleep(5)

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, sleep)
        with pytest.raises(PeerError, match="did not answer in time"):
            await ask(bank, "tax", timeout_s=0.2)

    on_network(scenario, "bank", "tax")


def test_request_over_the_control_limit():
    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, echo)
        big = JobRef(job_id="x" * (3 * MIB))
        with pytest.raises(MessageError, match="over the size limit"):
            await bank.call("tax", "Ask", big, JobInfo, timeout_s=1)

    on_network(scenario, "bank", "tax", limits=WireLimits(control_bytes=2 * MIB))


def test_node_that_is_down():
    async def scenario(bank):
        with pytest.raises(PeerError, match=r"tax at 127\.0\.0\.1:2 cannot be reached"):
            await ask(bank, "tax", timeout_s=0.3)
        with pytest.raises(ConfigError, match="no address"):
            await ask(bank, "operator")
        with pytest.raises(IdentityError, match="no member 'land'"):
            await ask(bank, "land")

    on_network(scenario, "bank")


def test_one_failed_try_without_retry():
    async def scenario(bank):
        began = time.monotonic()
        with pytest.raises(PeerError, match="cannot be reached"):
            await ask(bank, "tax", timeout_s=30, retry=False)
        return time.monotonic() - began

    assert on_network(scenario, "bank") < 10


def test_two_nodes_on_one_port():
    async def scenario(bank):
        second = make_fabric("tax", listen=f"127.0.0.1:{bank.port}")
        with pytest.raises(ConfigError, match=rf"tax cannot listen on 127\.0\.0\.1:{bank.port}: the port is in use"):
            await second.start()
        await second.stop()

    on_network(scenario, "bank")


# --- who may connect ---


def test_unknown_certificate_gets_no_connection():
    seen = []

    async def scenario():
        stranger = make_identity("bank", "bank")
        others = [i for i in IDENTITIES.values() if i.name != "bank"]
        impostor = make_fabric("bank", identity=stranger, federation=federation_of([stranger, *others]))
        tax = make_fabric("tax")
        tax.register("Ask", {"bank"}, JobRef, lambda request, peer: seen.append(peer))
        async with running(tax, impostor):
            with pytest.raises(PeerError, match="does not know this node's certificate"):
                await ask(impostor, "tax", timeout_s=0.5)

    asyncio.run(scenario())
    assert seen == []


def test_expired_certificate_gets_no_connection():
    expired = make_identity("bank", "bank", days=-1)
    rest = [i for i in IDENTITIES.values() if i.name != "bank"]
    federation = federation_of([expired, *rest])

    async def scenario():
        tax = make_fabric("tax", federation=federation)
        async with running(tax), raw_channel(tax, expired) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(b"", timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(IdentityError, match="certificate of bank has expired"):
            make_fabric("bank", identity=expired, federation=federation)
        with pytest.raises(IdentityError, match="certificate of bank has expired"):
            await ask(tax, "bank")

    asyncio.run(scenario())


def test_certificate_that_expires_while_connected():
    now_s = [time.time()]

    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", clock=lambda: now_s[0])
        tax.register("Ask", {"bank"}, JobRef, echo)
        async with running(bank, tax):
            await ask(bank, "tax")
            now_s[0] += 366 * DAY_S
            with pytest.raises(IdentityError, match=r"certificate of bank has expired.*make a new identity"):
                await ask(bank, "tax")

    asyncio.run(scenario())


def test_identity_other_than_the_pinned_one_cannot_start():
    with pytest.raises(IdentityError, match="pins another certificate for bank"):
        make_fabric("bank", identity=make_identity("bank", "bank"))


def test_server_with_another_certificate_than_pinned():
    async def scenario():
        stranger = make_identity("tax", "holder")
        rest = [i for i in IDENTITIES.values() if i.name != "tax"]
        impostor = make_fabric("tax", identity=stranger, federation=federation_of([stranger, *rest]))
        bank = make_fabric("bank")
        async with running(bank, impostor):
            with pytest.raises(IdentityError, match=r"does not show the certificate .* pins for it"):
                await ask(bank, "tax")

    asyncio.run(scenario())


def test_address_of_another_member():
    async def scenario(bank, tax, registry):
        await point(bank, "tax", registry.port)
        with pytest.raises(IdentityError, match="another node is there"):
            await ask(bank, "tax")

    on_network(scenario, "bank", "tax", "registry")


def test_member_certificate_cannot_vouch_for_others():
    """A pinned certificate is no authority: what its key signs is not trusted."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    tax = IDENTITIES["tax"]
    issuer = x509.load_pem_x509_certificate(tax.certificate.pem)
    bank = x509.load_pem_x509_certificate(IDENTITIES["bank"].certificate.pem)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(bank.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank")]), critical=False)
        .sign(
            serialization.load_pem_private_key(tax.key_pem(), None),  # type: ignore[arg-type]
            hashes.SHA256(),
        )
    )
    forged_pem = forged.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    async def scenario(registry):
        credentials = grpc.ssl_channel_credentials(
            IDENTITIES["registry"].certificate.pem, key_pem, forged_pem + tax.certificate.pem
        )
        options = [("grpc.ssl_target_name_override", "registry")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{registry.port}", credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(b"", timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    on_network(scenario, "registry")


def test_no_certificate_no_connection():
    async def scenario(tax):
        credentials = grpc.ssl_channel_credentials(IDENTITIES["tax"].certificate.pem)
        options = [("grpc.ssl_target_name_override", "tax")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{tax.port}", credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(b"", timeout=0.5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    on_network(scenario, "tax")


def test_plaintext_gets_no_connection():
    async def scenario(tax):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{tax.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(b"", timeout=0.5)

    on_network(scenario, "tax")


def test_wrong_role_is_refused_before_the_request_is_parsed():
    async def raw(tax, sender):
        async with raw_channel(tax, IDENTITIES[sender]) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/veilscore.v1.Fabric/Ask")(
                    b"\xff\xff not a message", timeout=1, metadata=(("veilscore-version", "veilscore/1"),)
                )
            return caught.value

    async def scenario(tax, registry):
        tax.register("Ask", {"bank", "operator"}, JobRef, echo)
        with pytest.raises(IdentityError, match="registry has role holder; this call is for bank, operator"):
            await ask(registry, "tax")
        return await raw(tax, "registry"), await raw(tax, "bank")

    wrong_role, right_role = on_network(scenario, "tax", "registry")
    assert wrong_role.code() is grpc.StatusCode.UNAUTHENTICATED
    assert right_role.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "JobRef from bank cannot be parsed" in right_role.details()


def test_operator_delivers_no_protocol_message():
    async def scenario(tax):
        with pytest.raises(grpc.aio.AioRpcError, match="operator has role operator") as caught:
            await deliver_raw(tax, [header(b"x", sender="operator"), data(b"x")], sender="operator")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    on_network(scenario, "tax")


def test_registering_an_unknown_role_is_refused():
    with pytest.raises(ConfigError, match="unknown roles king"):
        make_fabric("bank").register("Ask", {"king"}, JobRef, echo)


# --- version and clock ---


def test_version_mismatch_names_both_versions():
    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", version="veilscore/2")
        async with running(bank, tax):
            with pytest.raises(
                IdentityError, match=r"bank speaks 'veilscore/1', tax speaks 'veilscore/2': .*same release"
            ):
                await ask(bank, "tax")
            with pytest.raises(IdentityError, match=r"'veilscore/2'.*'veilscore/1'"):
                await tax.channel(session("tax")).send("bank", b"x")

    asyncio.run(scenario())


def test_caller_without_a_version_is_refused():
    async def scenario(tax):
        async with raw_channel(tax, IDENTITIES["bank"]) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="bank speaks 'no version'"):
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(b"", timeout=1)

    on_network(scenario, "tax")


@pytest.mark.parametrize(("skew_s", "what"), [(600, "behind"), (-600, "ahead of")])
def test_clock_skew_says_whose_clock_differs(skew_s, what):
    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", clock=lambda: time.time() + skew_s)
        async with running(bank, tax):
            with pytest.raises(IdentityError, match=rf"clock of bank is (599|600) s {what} that of tax"):
                await ask(bank, "tax")

    asyncio.run(scenario())


def test_small_clock_skew_is_fine():
    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", clock=lambda: time.time() + 200)
        tax.register("Ask", {"bank"}, JobRef, echo)
        async with running(bank, tax):
            return (await ask(bank, "tax")).job_id

    assert asyncio.run(scenario()) == "j"


def test_hello_in_the_name_of_another():
    async def scenario(tax):
        hello = control_pb2.Hello(version="veilscore/1", party="registry", role="holder")
        async with raw_channel(tax, IDENTITIES["bank"]) as channel:
            with pytest.raises(grpc.aio.AioRpcError, match="presents itself as another"):
                await channel.unary_unary("/veilscore.v1.Fabric/Hello")(
                    hello.SerializeToString(), timeout=1, metadata=(("veilscore-version", "veilscore/1"),)
                )

    on_network(scenario, "tax")


# --- hostile messages ---


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "cannot be parsed|does not begin with a header"),
        ([data(b"abc")], "does not begin with a header"),
        ([b"\xff\xff\xff"], "Chunk from bank cannot be parsed"),
        ([header(b"abc", sender="registry"), data(b"abc")], "IdentityError.*in the name of another party"),
        ([header(b"abc", recipient="registry"), data(b"abc")], "is for another party"),
        ([header(b"abc", session="other/step/1"), data(b"abc")], "session is unknown at tax"),
        ([header(b"abc", session=""), data(b"abc")], "no proper session id"),
        ([header(b"abc", session="x" * 300), data(b"abc")], "no proper session id"),
        ([header(b"abc", sha256=b"short"), data(b"abc")], "no proper session id or digest"),
        ([header(b"abc", size_bytes=1 << 40), data(b"abc")], "1099511627776 bytes declared, the limit is"),
        ([header(b"abc"), data(b"abcd")], "more data than the 3 bytes declared"),
        ([header(b"abc"), data(b"abc"), data(b"d")], "more data than the 3 bytes declared"),
        ([header(b"abc"), data(b"ab")], "truncated: 2 of 3 bytes"),
        ([header(b"abc")], "truncated: 0 of 3 bytes"),
        ([header(b"abc"), data(b"abd")], "do not have the digest"),
        ([header(b"abc"), data(b""), data(b"abc")], "a piece of 0 bytes"),
        ([header(b"abc"), header(b"abc")], "a second header"),
        ([header(b"abc"), b"\x12\x7fabc"], "Chunk from bank cannot be parsed"),
        ([header(bytes(2 * MIB)), data(bytes(MIB + 1))], "a piece of 1048577 bytes"),
        ([header(b"abc", sequence=5), data(b"abc")], "out of order: 0 comes next"),
    ],
)
def test_bad_message_is_refused_and_leaves_nothing(chunks, reason):
    async def scenario(tax):
        with pytest.raises(grpc.aio.AioRpcError, match=reason) as caught:
            await deliver_raw(tax, chunks)
        assert "Traceback" not in str(caught.value.details())
        ack = await deliver_raw(tax, [header(b"good"), data(b"good")])
        assert not ack.duplicate
        return await tax.channel(session("tax")).receive("bank")

    accept = lambda session_id, _sender: session_id.startswith("job/")  # noqa: E731 - one line, one use
    assert on_network(scenario, "tax", accept_session=accept) == b"good"


def test_unusual_encoding_of_data_is_understood():
    """A length in more bytes than it needs is legal protobuf."""

    async def scenario(tax):
        await deliver_raw(tax, [header(b"abc"), b"\x12\x83\x00abc"])
        return await tax.channel(session("tax")).receive("bank")

    assert on_network(scenario, "tax") == b"abc"


def test_stalled_sender_is_given_up():
    async def stalled(chunks):
        for chunk in chunks:
            yield chunk.SerializeToString()
        await asyncio.sleep(5)

    async def scenario(tax):
        async with raw_channel(tax, IDENTITIES["bank"]) as channel:
            for chunks in ([], [header(b"abc")], [header(b"abc"), data(b"ab")]):
                call = channel.stream_unary("/veilscore.v1.Fabric/Deliver")(
                    stalled(chunks), metadata=(("veilscore-version", "veilscore/1"),)
                )
                with pytest.raises(grpc.aio.AioRpcError, match=r"did not arrive whole within 0\.2 s"):
                    await call
        assert tax._sessions.get("job/step/1").inbox.used_bytes == 0

    on_network(scenario, "tax", limits=WireLimits(deliver_timeout_s=0.2))


def test_repeat_is_a_duplicate_and_changed_repeat_refused():
    async def scenario(tax):
        message = [header(b"abc"), data(b"abc")]
        first, second = await deliver_raw(tax, message), await deliver_raw(tax, message)
        assert (first.duplicate, second.duplicate) == (False, True)
        with pytest.raises(grpc.aio.AioRpcError, match="arrived before with other content"):
            await deliver_raw(tax, [header(b"abd"), data(b"abd")])
        channel = tax.channel(session("tax"))
        assert await channel.receive("bank") == b"abc"
        with pytest.raises(PeerError, match="no message from bank"):
            await channel.receive("bank")
        assert tax.bytes_received("job/step/1") == 3

    on_network(scenario, "tax", limits=WireLimits(receive_timeout_s=0.2))


def test_late_repeat_after_the_session_ended():
    async def scenario(tax):
        message = [header(b"abc"), data(b"abc")]
        await deliver_raw(tax, message)
        tax.close_session("job/step/1")
        assert (await deliver_raw(tax, message)).duplicate
        with pytest.raises(grpc.aio.AioRpcError, match="session is closed"):
            await deliver_raw(tax, [header(b"new", sequence=1), data(b"new")])
        with pytest.raises(PeerError, match="session is closed"):
            tax.channel(session("tax"))

    on_network(scenario, "tax")


def test_accept_session_is_asked_once_a_sender_and_may_refuse_with_a_reason():
    asked = []

    def accept(session_id, sender):
        asked.append((session_id, sender))
        if sender == "registry":
            raise RefusedError("registry is not in this job", session=session_id)
        return True

    async def scenario(bank, tax, registry):
        for _ in range(3):
            await bank.channel(session("bank")).send("tax", b"x")
        with pytest.raises(RefusedError, match="not in this job"):
            await registry.channel(session("registry")).send("tax", b"x")

    on_network(scenario, "bank", "tax", "registry", accept_session=accept)
    assert asked == [("job/step/1", "bank"), ("job/step/1", "registry")]


def test_own_message_over_the_limit_is_not_sent():
    async def scenario(bank):
        with pytest.raises(MessageError, match="message of 101 bytes to tax is over the limit of 100"):
            await bank.channel(session("bank")).send("tax", bytes(101))

    on_network(scenario, "bank", limits=WireLimits(message_bytes=100))


# --- back-pressure, ends, repeats ---


def test_full_queue_of_a_slow_peer_is_an_error_when_the_time_is_over():
    limits = WireLimits(message_bytes=1000, inbox_bytes=1000, queue_wait_s=0.1, retry_s=0.4, deliver_timeout_s=0.4)

    async def scenario(bank, tax):
        channel = bank.channel(session("bank"))
        await channel.send("tax", bytes(900))
        with pytest.raises(PeerError, match="queue full: 900 bytes wait to be read, the limit is 1000"):
            await channel.send("tax", bytes(200))
        assert len(await tax.channel(session("tax")).receive("bank")) == 900
        await channel.send("tax", bytes(200))
        return len(await tax.channel(session("tax")).receive("bank"))

    assert on_network(scenario, "bank", "tax", limits=limits) == 200


def test_sender_waits_for_a_slow_reader():
    limits = WireLimits(message_bytes=MIB, inbox_bytes=2 * MIB, queue_wait_s=0.1, retry_s=5)

    async def scenario(bank, tax):
        async def send():
            for number in range(10):
                await bank.channel(session("bank")).send("tax", bytes([number]) * MIB)

        sending = asyncio.create_task(send())
        got, largest = [], 0
        for _ in range(10):
            await asyncio.sleep(0.05)
            largest = max(largest, tax._sessions.get("job/step/1").inbox.used_bytes)
            got.append((await tax.channel(session("tax")).receive("bank"))[0])
        await sending
        return got, largest

    got, largest = on_network(scenario, "bank", "tax", limits=limits)
    assert got == list(range(10))
    assert largest <= 2 * MIB


def test_awaited_message_gets_into_a_full_inbox():
    """Otherwise a reader of bank would wait behind what registry filled the inbox with."""
    limits = WireLimits(message_bytes=100, inbox_bytes=100, queue_wait_s=0.2, retry_s=1, receive_timeout_s=1)

    async def scenario(bank, tax, registry):
        await registry.channel(session("registry")).send("tax", bytes(100))
        reading = asyncio.create_task(tax.channel(session("tax")).receive("bank"))
        await bank.channel(session("bank")).send("tax", b"awaited")
        return await reading

    assert on_network(scenario, "bank", "tax", "registry", limits=limits) == b"awaited"


def test_closing_a_session_wakes_reader_and_sender():
    limits = WireLimits(message_bytes=100, inbox_bytes=100)

    async def scenario(bank, tax):
        await bank.channel(session("bank")).send("tax", bytes(100))
        reading = asyncio.create_task(bank.channel(session("bank")).receive("tax"))
        sending = asyncio.create_task(bank.channel(session("bank")).send("tax", b"x"))
        await asyncio.sleep(0.1)
        bank.close_session("job/step/1", "the job was cancelled")
        done = await asyncio.wait_for(asyncio.gather(reading, sending, return_exceptions=True), 30)
        assert [type(e) for e in done] == [PeerError, PeerError]
        assert all("the job was cancelled" in str(e) for e in done)

    on_network(scenario, "bank", "tax", limits=limits)


def test_cancelled_send_can_only_be_repeated_and_arrives_once():
    limits = WireLimits(message_bytes=100, inbox_bytes=100, receive_timeout_s=1)

    async def scenario(bank, tax):
        channel, reader = bank.channel(session("bank")), tax.channel(session("tax"))
        await channel.send("tax", bytes(100))
        sending = asyncio.create_task(channel.send("tax", b"second"))
        await asyncio.sleep(0.1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(ProtocolError, match="message 1 to tax failed before and may have arrived"):
            await channel.send("tax", b"other")
        assert len(await reader.receive("bank")) == 100
        await channel.send("tax", b"second")
        await channel.send("tax", b"third")
        return await reader.receive("bank"), await reader.receive("bank")

    assert on_network(scenario, "bank", "tax", limits=limits) == (b"second", b"third")


def test_peer_that_starts_late_gets_the_message():
    async def scenario():
        bank, first = make_fabric("bank"), make_fabric("tax")
        async with running(bank, first):
            await bank.channel(session("bank", 1)).send("tax", b"before")
            port = first.port
            await first.stop(0)
            sending = asyncio.create_task(bank.channel(session("bank", 2)).send("tax", b"after"))
            await asyncio.sleep(0.2)
            assert not sending.done()
            second = make_fabric("tax", listen=f"127.0.0.1:{port}")
            await second.start()
            await sending
            received = await second.channel(session("tax", 2)).receive("bank")
            await second.stop(0)
            return received

    assert asyncio.run(scenario()) == b"after"


def test_peer_that_restarted_within_a_step_is_a_clear_error():
    async def scenario():
        bank, first = make_fabric("bank"), make_fabric("tax")
        async with running(bank, first):
            channel = bank.channel(session("bank"))
            await channel.send("tax", b"first")
            port = first.port
            await first.stop(0)
            second = make_fabric("tax", listen=f"127.0.0.1:{port}")
            await second.start()
            with pytest.raises(ProtocolError, match=r"message 1 from bank is out of order.*restarted"):
                await channel.send("tax", b"second")
            await second.stop(0)

    asyncio.run(scenario())


def test_lost_acknowledgement_is_repeated_without_harm(monkeypatch):
    async def scenario(bank, tax):
        take, attempts = tax._take, []

        async def take_and_lose(peer, caller):
            ack = await take(peer, caller)
            attempts.append(ack.duplicate)
            if len(attempts) == 1:
                await caller._context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
            return ack

        monkeypatch.setattr(tax, "_take", take_and_lose)
        await bank.channel(session("bank")).send("tax", b"once")
        assert await tax.channel(session("tax")).receive("bank") == b"once"
        return attempts

    assert on_network(scenario, "bank", "tax") == [False, True]


def test_traffic_is_counted_by_kind_on_both_sides():
    async def scenario(bank, tax):
        payload = encode(align_pb2.AlignBankRound1(n_ids=7))
        for _ in range(2):
            await bank.channel(session("bank")).send("tax", payload)
        sent, received = bank.traffic("job/step/1"), tax.traffic("job/step/1")
        assert sent == received
        assert bank.bytes_sent("job/step/1") == tax.bytes_received("job/step/1") == 2 * len(payload)
        assert (bank.bytes_received("job/step/1"), bank.bytes_sent("none")) == (0, 0)
        bank.close_session("job/step/1")
        assert bank.bytes_sent("job/step/1") == 2 * len(payload)
        return [(t.sender, t.recipient, t.kind, t.messages) for t in sent]

    assert on_network(scenario, "bank", "tax") == [("bank", "tax", "AlignBankRound1", 2)]


def test_limits_must_fit_together():
    with pytest.raises(ConfigError, match="at most the inbox's"):
        WireLimits(message_bytes=2, inbox_bytes=1)


def test_inbox_gives_its_space_back():
    async def scenario():
        inbox = Inbox("s", WireLimits(message_bytes=10, inbox_bytes=10))
        with pytest.raises(MessageError):
            async with inbox.space(header(bytes(10)).header, 0.1):
                raise MessageError("truncated")
        assert inbox.used_bytes == 0
        message = header(bytes(10)).header
        assert not inbox.put(message, bytes(10))
        with pytest.raises(QueueFullError):
            async with inbox.space(header(bytes(1), sequence=1).header, 0.01):
                pass
        inbox.close("over")
        assert inbox.used_bytes == 0

    asyncio.run(scenario())


def test_error_text_of_a_peer_is_made_plain():
    async def fail(_request, _peer):
        raise RefusedError("red\x1b[31m\nalert" + "x" * 5000)

    async def scenario(bank, tax):
        tax.register("Ask", {"bank"}, JobRef, fail)
        with pytest.raises(RefusedError) as caught:
            await ask(bank, "tax")
        return caught.value.message

    message = on_network(scenario, "bank", "tax")
    assert message.startswith("red [31m alertxxx")
    assert len(message) == 1000


def test_fabric_hides_its_key():
    fabric = make_fabric("bank", limits=QUICK)
    assert "PRIVATE" not in repr(vars(fabric))
