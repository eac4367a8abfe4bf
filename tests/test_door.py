"""The bank's door over real TLS sockets: who gets in, what is refused and how it is said, what the log keeps."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import grpc
import pytest
import structlog
from conftest import ROOT, require
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.client import DoorClient
from veilscore.errors import ConfigError, DoorError
from veilscore.fabric.grpc_channel import PROBLEM_KEY
from veilscore.files.private import private_folder
from veilscore.keys.door_certificates import key_pem, make_certificate
from veilscore.online.door_callers import DoorCallers, hand_over, server_files
from veilscore.online.door_grpc import SERVICE
from veilscore.online.door_openapi import openapi
from veilscore.online.door_service import Door
from veilscore.online.service import door_side
from veilscore.terms import door as terms
from veilscore.terms.door import PROBLEMS, DoorConfig, Problem, ScoreAnswer, ScoreAsked
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2 as pb
from veilscore.v1 import door_pb2

ASKED = {"request_id": "a-1", "firm_id": "91310000MA1K35TQ6F", "model": "firms"}


class Bank:
    """Stands for the bank's side of online scoring, behind the door: scores by the id's last digits."""

    def __init__(self):
        self.asked, self.answered, self.pause_s, self.failure = [], {}, 0.0, None

    async def answer(self, request):
        self.asked.append(request)
        same = request.firm_id, request.model, request.output
        kept = self.answered.setdefault(request.request_id, same)
        if kept != same:
            return pb.ScoreResponse(status="refused", message="used for something else", failure="reused")
        if request.timeout_s < self.pause_s:
            await asyncio.sleep(request.timeout_s)
            return pb.ScoreResponse(status="failed", message="not answered in time", failure="late")
        await asyncio.sleep(self.pause_s)
        if self.failure is not None:
            return self.failure
        response = pb.ScoreResponse(request_id=request.request_id, status="scored", model=request.model, score=612.5)
        if request.output == "decision":
            response.step, response.steps, response.band, response.measure = 3, 5, "150000", "risk"
            response.model_version, response.model_sha256 = "job-1", bytes(32)
            return response
        response.parties.add(party="tax", status="ok", data_time_s=1.0)
        response.reasons.add(party="bank", column="debt", points_lost=3.5, text="debt: high")
        response.step, response.steps, response.band, response.probability_of_default = 7, 32, "A", 0.02
        return response


class Opened:
    """A door that listens, in a thread with a loop of its own, and its callers' folders."""

    def __init__(self, home, **settings):
        self.home, self.bank = private_folder(home), Bank()
        self.node = NodeConfig(name="bank", role="bank")
        self.config = DoorConfig(**({"port": 0, "grpc_port": 0} | settings))
        self.callers = DoorCallers(home, self.config)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def let_in(self, name="desk", may=("score", "band", "decide")):
        folder = self.home / f"for-{name}"
        server = server_files(self.home, self.node, self.config)[0]
        self.callers.add(name, may, hand_over(folder, name, 30, server.read_bytes()))
        return folder

    def __enter__(self):
        self.thread.start()
        self.door = self.run(self._open())
        self.port, self.grpc_port = self.door.ports
        return self

    async def _open(self):
        door = Door(self.home, self.node, self.config, self.bank.answer)
        await door.start()
        self.watch = asyncio.create_task(door.watch())
        return door

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def __exit__(self, *_):
        async def close():
            self.watch.cancel()
            await asyncio.gather(self.watch, return_exceptions=True)
            await self.door.stop(0.5)

        self.run(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def client(self, folder, **files):
        return DoorClient(f"https://localhost:{self.port}", folder, **files)

    def tls(self, folder=None, version=ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
        context.load_verify_locations(server_files(self.home, self.node, self.config)[0])
        if folder is not None:
            context.load_cert_chain(folder / "caller.pem", folder / "caller-key.pem")
        return context

    def send(self, folder, body=b"", method="POST", path="/v1/scores", **headers):
        """Status, headers and JSON of one request as it stands."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=self.tls(folder))
        with contextlib.closing(connection):
            connection.request(method, path, body or None, {"Content-Type": "application/json"} | headers)
            response = connection.getresponse()
            return response.status, response.headers, json.loads(response.read())

    def stub(self, folder, method="Score"):
        """A call by gRPC: bytes to bytes."""
        files = [(folder / name).read_bytes() for name in ("door.pem", "caller-key.pem", "caller.pem")]
        channel = grpc.secure_channel(f"localhost:{self.grpc_port}", grpc.ssl_channel_credentials(*files))
        return channel, channel.unary_unary(f"/{SERVICE}/{method}")


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with Opened(tmp_path_factory.mktemp("bank")) as opened:
        opened.desk = opened.let_in()
        wait_for(opened, opened.desk)
        yield opened


@pytest.fixture(autouse=True)
def no_memory(request):
    """The bank behind the shared door forgets what another test asked."""
    if "door" in request.fixturenames:
        request.getfixturevalue("door").bank.__init__()


def wait_for(opened, folder):
    """Wait until a caller who was added while the door is open gets in."""
    for _ in range(100):
        with contextlib.suppress(DoorError), opened.client(folder) as client:
            return client.health()
        time.sleep(0.05)
    raise AssertionError("the caller does not get in")


def test_a_score_by_both_forms_says_the_same(door):
    with door.client(door.desk) as client:
        answer = client.score(ASKED["firm_id"], "firms", request_id="a-1", purpose="credit", features={"debt": "3"})
    assert isinstance(answer, ScoreAnswer)
    assert (answer.status, answer.score, answer.step, answer.steps, answer.band) == ("scored", 612.5, 7, 32, "A")
    assert answer.parties[0].party == "tax"
    assert answer.reasons[0].points_lost == 3.5
    (request,) = door.bank.asked
    assert (request.request_id, request.purpose, dict(request.features)) == ("desk:a-1", "credit", {"debt": "3"})
    assert request.timeout_s == 10.0
    channel, score = door.stub(door.desk)
    with channel:
        reply = score(door_pb2.ScoreAsked(**ASKED).SerializeToString(), timeout=5)
    found = door_pb2.ScoreAnswer.FromString(reply)
    assert (found.request_id, found.score, found.step, found.parties[0].status) == ("a-1", 612.5, 7, "ok")
    assert 0 < door.bank.asked[1].timeout_s <= 5  # the call's own deadline counts
    status, headers, body = door.send(door.desk, json.dumps(ASKED).encode())
    assert (status, ScoreAnswer.model_validate(body)) == (200, answer)
    assert headers["cache-control"] == "no-store"


def test_a_decision_by_both_forms_says_the_same(door):
    with door.client(door.desk) as client:
        answer = client.decide("firm", "limit", request_id="d-1", on_missing="missing_code")
        with pytest.raises(ConfigError, match="no averages"):
            client.decide("firm", "limit", on_missing="neutral")
    assert (answer.step, answer.name, answer.steps, answer.measure) == (3, "150000", 5, "risk")
    assert "score" not in type(answer).model_fields
    (request,) = door.bank.asked
    assert (request.request_id, request.model, request.output) == ("desk:d-1", "limit", "decision")
    channel, decide = door.stub(door.desk, "Decide")
    asked = door_pb2.DecisionAsked(request_id="d-1", firm_id="firm", decision="limit", on_missing="missing_code")
    with channel:
        found = door_pb2.DecisionReply.FromString(decide(asked.SerializeToString(), timeout=5))
    assert (found.step, found.name, found.decision_sha256) == (3, "150000", bytes(32).hex())
    scores_only = door.let_in("scores-only", may=("score",))
    wait_for(door, scores_only)
    with door.client(scores_only) as client, pytest.raises(DoorError, match="this needs: decide"):
        client.decide("firm", "limit")
    door.callers.remove("scores-only")


def test_who_is_not_admitted_gets_nothing(door, tmp_path):
    hand_over(tmp_path / "stranger", "stranger", 30, (door.desk / "door.pem").read_bytes())
    with (
        pytest.raises(DoorError, match=r"trust each other|closed the connection"),
        door.client(tmp_path / "stranger") as c,
    ):
        c.health(0.3)
    for context in (door.tls(), door.tls(door.desk, ssl.TLSVersion.TLSv1_2)):  # no certificate; TLS 1.2
        assert asked_plainly(door, context) == b""
    assert asked_plainly(door, door.tls(door.desk)).startswith(b"HTTP/1.1 200")
    channel, score = door.stub(tmp_path / "stranger")
    with channel, pytest.raises(grpc.RpcError) as failed:
        score(b"", timeout=3)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert door.bank.asked == []


def asked_plainly(door, context):
    """What comes back after a handshake that the server may end; b"" where it does."""
    with contextlib.suppress(ssl.SSLError, ConnectionError), raw(door, context) as tls:
        tls.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        return tls.recv(100)
    return b""


@contextlib.contextmanager
def raw(door, context):
    plain = socket.create_connection(("localhost", door.port), timeout=10)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as tls:
        yield tls


def test_the_caller_finds_another_server(door, tmp_path):
    _, other = make_certificate("other", ("localhost",), "server", 30)
    (tmp_path / "other.pem").write_bytes(other)
    with pytest.raises(DoorError, match="trust each other"), door.client(door.desk, trust=tmp_path / "other.pem") as c:
        c.health()


def test_a_removed_caller_is_refused_at_the_next_request_also_on_an_open_connection(door):
    folder = door.let_in("branch", may=("band",))
    assert wait_for(door, folder).may == ("band",)
    with door.client(folder) as client:
        assert client.score("f", "firms", output="band").band == "A"
        with pytest.raises(DoorError, match="branch may ask for: band; this needs: score"):
            client.score("f", "firms")
        door.callers.remove("branch")
        with pytest.raises(DoorError, match="no caller's here") as refused:
            client.score("f", "firms", output="band")
    assert (refused.value.kind, refused.value.status, refused.value.may_repeat) == ("not-admitted", 403, False)
    channel, score = door.stub(folder)
    with channel, pytest.raises(grpc.RpcError):
        score(door_pb2.ScoreAsked(**ASKED).SerializeToString(), timeout=3)
    assert len(door.bank.asked) == 1


def authority(folder):
    key, now = ec.generate_private_key(ec.SECP256R1()), 0
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank's authority")])
    _, sample = make_certificate("x", (), "client", 30)
    times = x509.load_pem_x509_certificate(sample)

    def issued(common, public, *, ca):
        subject = name if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number() + now)
            .not_valid_before(times.not_valid_before_utc)
            .not_valid_after(times.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
            .sign(key, hashes.SHA256())
        )

    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(issued("", key.public_key(), ca=True).public_bytes(pem))

    def caller(common):
        own = ec.generate_private_key(ec.SECP256R1())
        place = private_folder(folder / common)
        certificate = issued(common, own.public_key(), ca=False)
        (place / "caller.pem").write_bytes(certificate.public_bytes(pem))
        (place / "caller-key.pem").write_bytes(key_pem(own, None))
        return place, certificate.fingerprint(hashes.SHA256()).hex()

    return caller


def test_the_banks_own_authority_admits_whom_it_names(tmp_path):
    issue = authority(tmp_path)
    (named, _), (lost, fingerprint), (other, _) = issue("core"), issue("lost"), issue("other")
    settings = {"client_ca": tmp_path / "ca.pem", "client_ca_names": {"core": ("score",), "lost": ("score",)}}
    with Opened(tmp_path / "home", refused=(fingerprint,), grpc_port=None, **settings) as opened:
        server = server_files(opened.home, opened.node, opened.config)[0]
        with opened.client(named, trust=server) as client:
            assert client.health().caller == "ca.core"
            assert client.score("f", "firms").score == 612.5
        for folder in (lost, other):
            with pytest.raises(DoorError, match="no caller's here"), opened.client(folder, trust=server) as client:
                client.health()


BAD = [
    (b"{", "malformed", "not JSON: line 1"),
    (b"[1]", "malformed", "not a JSON object"),
    (b"\xff{}", "malformed", "not UTF-8"),
    (b"[" * 20_000, "malformed", "nested too deeply"),
    (b'{"firm_id": "secret-firm", "firm_id": "b"}', "malformed", "stands twice"),
    (b'{"timeout_s": NaN}', "malformed", "NaN is no number"),
    (b"{}", "unusable", "request_id: is missing; firm_id: is missing; model: is missing"),
    (json.dumps(ASKED | {"modle": "x"}).encode(), "unusable", "unknown key 'modle'; did you mean 'model'"),
    (json.dumps(ASKED | {"firm_id": 913}).encode(), "unusable", "firm_id"),
    (json.dumps(ASKED | {"request_id": "a b"}).encode(), "unusable", "request_id"),
    (json.dumps(ASKED | {"timeout_s": 0}).encode(), "unusable", "timeout_s"),
    (json.dumps(ASKED | {"output": "band", "steps": 4}).encode(), "unusable", "steps belong to output: score"),
    (json.dumps(ASKED | {"consent": "{}"}).encode(), "unusable", "not a consent document"),
]


@pytest.mark.parametrize(("body", "kind", "says"), BAD, ids=range(len(BAD)))
def test_a_bad_request_is_told_in_a_sentence(door, body, kind, says):
    status, headers, found = door.send(door.desk, body)
    problem = Problem.model_validate(found)
    assert (status, problem.kind, problem.status) == (PROBLEMS[kind][0], kind, PROBLEMS[kind][0])
    assert headers["content-type"] == "application/problem+json"
    assert says in problem.detail
    assert "secret" not in problem.detail
    assert door.bank.asked == []


def test_paths_methods_types_and_sizes(door):
    whole = json.dumps(ASKED).encode()
    for kind, sent in (
        ("not-found", {"path": "/v2/scores"}),
        ("wrong-method", {"method": "GET", "body": b""}),
        ("wrong-type", {"Content-Type": "text/plain"}),
        ("too-large", {"body": json.dumps(ASKED | {"purpose": "x" * 70_000}).encode()}),
    ):
        status, headers, found = door.send(door.desk, **({"body": whole} | sent))
        assert (status, Problem.model_validate(found).kind) == (PROBLEMS[kind][0], kind)
        assert "server" not in headers
    chunks = iter([b"{" + b" " * 40_000, b" " * 40_000])  # no length said before
    status, _, found = door.send(door.desk, chunks)
    assert (status, Problem.model_validate(found).kind) == (413, "too-large")
    with raw(door, door.tls(door.desk)) as tls:  # more header than there may be
        tls.sendall(b"GET /v1/health HTTP/1.1\r\nX: " + b"x" * 40_000)
        answer = b"".join(iter(lambda: tls.recv(4096), b""))
    assert b"400" in answer.splitlines()[0]
    assert b"urn:veilscore:door:v1:malformed" in answer
    assert door.bank.asked == []


def test_a_slow_client_is_not_waited_for(tmp_path):
    with Opened(tmp_path / "home", read_s=0.3, grpc_port=None) as opened:
        folder = opened.let_in()
        wait_for(opened, folder)
        context = opened.tls(folder)
        began = time.monotonic()
        with raw(opened, context) as silent, raw(opened, context) as half, raw(opened, context) as body:
            half.sendall(b"POST /v1/sco")
            body.sendall(b"POST /v1/scores HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            body.sendall(b"Content-Length: 50\r\n\r\n{")
            assert silent.recv(100) == half.recv(100) == b""
            answer = b"".join(iter(lambda: body.recv(4096), b""))
        assert b"408" in answer.splitlines()[0]
        assert b'"detail":"the request was not there whole within 0.3 s"' in answer
        assert time.monotonic() - began < 5
        with opened.client(folder) as client:
            assert client.score("f", "firms").score == 612.5


def test_repeats_and_reuse_of_a_request_id(door):
    other = door.let_in("other")
    wait_for(door, other)
    with door.client(door.desk) as client, door.client(other) as elsewhere:
        first = client.score("firm-1", "firms", request_id="r")
        assert client.score("firm-1", "firms", request_id="r") == first
        with pytest.raises(DoorError, match="something else") as reused:
            client.score("firm-2", "firms", request_id="r")
        assert (reused.value.kind, reused.value.status, reused.value.request_id) == ("id-reused", 409, "r")
        elsewhere.score("firm-2", "firms", request_id="r")  # an id is its caller's
    assert [r.request_id for r in door.bank.asked] == ["desk:r", "desk:r", "desk:r", "other:r"]
    door.callers.remove("other")


def test_deadlines_and_what_the_client_sends_again(door):
    door.bank.pause_s = 0.2
    with door.client(door.desk) as client:
        with pytest.raises(DoorError, match="in time") as late:
            client.score("f", "firms", request_id="slow", timeout_s=0.1)
        assert (late.value.kind, late.value.status, late.value.may_repeat) == ("late", 504, True)
        door.bank.failure = pb.ScoreResponse(status="failed", message="not all parts were opened", failure="parties")
        door.bank.failure.parties.add(party="tax", status="failed", reason="cannot be reached")
        door.loop.call_later(0.4, lambda: setattr(door.bank, "failure", None))
        assert client.score("f", "firms", request_id="again", timeout_s=5).score == 612.5
    assert [r.request_id for r in door.bank.asked].count("desk:again") > 1
    refused = pb.ScoreResponse(status="failed", message="tax: no consent", failure="parties")
    refused.parties.add(party="tax", status="refused", reason="no consent")
    door.bank.failure, door.bank.pause_s = refused, 0
    with door.client(door.desk) as client, pytest.raises(DoorError, match="no consent") as none:
        client.score("f", "firms")
    assert (none.value.kind, none.value.status, none.value.parties) == ("no-result", 422, {"tax": "refused"})
    channel, score = door.stub(door.desk)
    with channel, pytest.raises(grpc.RpcError) as failed:
        score(door_pb2.ScoreAsked(**ASKED).SerializeToString(), timeout=5)
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    problem = dict(failed.value.trailing_metadata())[PROBLEM_KEY]
    assert Problem.model_validate_json(problem).parties[0].status == "refused"


def test_grpc_refuses_what_it_does_not_know(door):
    channel, score = door.stub(door.desk)
    later = door_pb2.ScoreAsked(**ASKED).SerializeToString() + b"\xc2\x3e\x01x"  # a field of a later version
    with channel:
        for body, code, says in (
            (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "no ScoreAsked"),
            (later, grpc.StatusCode.INVALID_ARGUMENT, "does not know"),
            (b"", grpc.StatusCode.INVALID_ARGUMENT, "is missing"),
            (b"x" * 70_000, grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
        ):
            with pytest.raises(grpc.RpcError) as failed:
                score(body, timeout=5)
            assert failed.value.code() == code
            assert says in failed.value.details()
    assert door.bank.asked == []


def test_rate_and_concurrency_are_one_callers(tmp_path):
    with Opened(tmp_path / "home", per_minute=3, at_once=2, grpc_port=None) as opened:
        folder, other = opened.let_in(), opened.let_in("other")
        wait_for(opened, folder)
        opened.bank.pause_s = 0.2
        body = json.dumps(ASKED).encode()
        found = []
        threads = [threading.Thread(target=lambda: found.append(opened.send(folder, body))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(status for status, _, _ in found) == [200, 200, 429]
        (busy,) = [(headers, body) for status, headers, body in found if status == 429]
        assert "run at this moment" in busy[1]["detail"]
        assert busy[0]["retry-after"] == "1"
        assert opened.send(folder, body)[0] == 200
        status, headers, problem = opened.send(folder, body)
        assert status == 429
        assert "3 times a minute" in problem["detail"]
        assert 1 <= int(headers["retry-after"]) <= 21
        assert opened.send(other, body)[0] == 200


def test_the_log_names_no_firm(door, monkeypatch):
    lines = []
    logger = SimpleNamespace(
        info=lambda event, **f: lines.append((event, f)), error=lambda *a, **f: lines.append((a, f))
    )
    desk = door.door._http._config.app.exception_handlers  # the application is the real one
    assert desk
    monkeypatch.setattr(structlog, "get_logger", lambda *_: SimpleNamespace(bind=lambda **_: logger))
    with Opened(door.home, grpc_port=None) as opened, opened.client(door.desk) as client:
        client.score("91310000MA1K35TQ6F", "firms", request_id="application-4711")
        client.score("91310000MA1K35TQ6F", "firms", request_id="application-4712")
        opened.bank.failure = "no response at all"
        with pytest.raises(DoorError, match="the node failed") as internal:
            client.score("f", "firms", timeout_s=0.1)
        assert internal.value.status == 500
    requests = [fields for event, fields in lines if event == "request"]
    assert [(r["caller"], r["status"]) for r in requests] == [("desk", 200), ("desk", 200), ("desk", 500)]
    assert requests[0]["firm"] == requests[1]["firm"] != requests[2]["firm"]
    assert requests[0]["request"] != requests[1]["request"]
    assert not any(secret in str(lines) for secret in ("91310000MA1K35TQ6F", "application-47"))


def test_the_description_is_true_and_served(door):
    committed = json.loads((ROOT / "docs" / "door.openapi.json").read_text(encoding="utf-8"))
    assert committed == openapi(), "run: veilscore door openapi > docs/door.openapi.json"
    assert door.send(door.desk, method="GET", path="/v1/openapi.json")[2] == committed
    assert CliRunner().invoke(app, ["door", "openapi"]).stdout.strip() == json.dumps(committed, indent=1)
    served = {(path, method.upper()) for path, item in committed["paths"].items() for method in item}
    routes = {(r.path, m) for r in door.door._http._config.app.routes for m in r.methods if m != "HEAD"}
    assert routes == served | {("/v1/openapi.json", "GET")}


@pytest.mark.parametrize("name", sorted(door_pb2.DESCRIPTOR.message_types_by_name))
def test_both_forms_have_the_same_fields(name):
    message = door_pb2.DESCRIPTOR.message_types_by_name[name]
    model = getattr(terms, name, None)
    assert [f.name for f in message.fields if f.name not in getattr(model, "model_fields", {})] == []
    assert model is None or set(model.model_fields) == {f.name for f in message.fields}
    assert model is not None or not message.fields


def test_the_command_adds_lists_and_removes(tmp_path):
    home = private_folder(tmp_path / "bank")
    node = home / "node.yaml"
    node.write_text("name: bank\nrole: bank\n")

    def run(*words):
        return CliRunner().invoke(app, ["door", *words, "--home", str(home)], env={"COLUMNS": "200"})

    assert "has no door" in str(run("list").exception)
    node.write_text("name: bank\nrole: bank\ndoor: {port: 7443}\n")
    added = run("add", "loan-desk", "--to", str(tmp_path / "handover"), "--may", "band")
    assert "loan-desk may ask for: band" in added.stdout
    assert sorted(p.name for p in (tmp_path / "handover").iterdir()) == ["caller-key.pem", "caller.pem", "door.pem"]
    assert all(p.stat().st_mode & 0o077 == 0 for p in (home / "door").rglob("*"))
    assert "there is a caller loan-desk" in str(run("add", "loan-desk", "--to", str(tmp_path / "x")).exception)
    assert "lower-case" in str(run("add", "Loan Desk", "--to", str(tmp_path / "x")).exception)
    assert "give --to" in str(run("add", "other").exception)
    (tmp_path / "own.pem").write_bytes(make_certificate("theirs", (), "client", 30)[1])
    assert "door's certificate to trust" in run("add", "other", "--certificate", str(tmp_path / "own.pem")).stdout
    assert "that of caller other" in str(run("add", "third", "--certificate", str(tmp_path / "own.pem")).exception)
    listed = run("list").stdout
    assert "loan-desk" in listed
    assert "364 days left" in listed
    assert "no caller any more" in run("remove", "loan-desk").stdout
    assert "there are: other" in str(run("remove", "loan-desk").exception)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"certificate": "a.pem"}, "certificate and key, or neither"),
        ({"client_ca": "a.pem"}, "belong together"),
        ({"ports": 1}, "did you mean 'port'"),
    ],
)
def test_a_wrong_section_is_told(settings, says):
    with pytest.raises(ValueError, match=says):
        DoorConfig(**settings)


def test_a_door_that_cannot_open_says_why(tmp_path, door):
    with pytest.raises(ConfigError, match="the port is in use"), Opened(tmp_path / "a", port=door.port):
        pass
    with pytest.raises(ValueError, match="a bank's node has one"):
        NodeConfig(name="tax", role="holder", door=DoorConfig())
    server_files(private_folder(tmp_path / "b"), door.node, DoorConfig())
    with pytest.raises(ConfigError, match=r"does not name door\.bank\.example"):
        server_files(tmp_path / "b", door.node, DoorConfig(names=("localhost", "door.bank.example")))
    for address in ("http://localhost:1", "localhost:7443", "https://localhost/path"):
        with pytest.raises(ConfigError, match="https://HOST:PORT"):
            DoorClient(address, door.desk)
    with pytest.raises(ConfigError, match="cannot be used"):
        DoorClient("https://localhost:1", tmp_path)
    with DoorClient(f"https://localhost:{door.grpc_port}", door.desk) as client, pytest.raises(DoorError):
        client.health(0.3)
    with door.client(door.desk) as client, pytest.raises(ConfigError, match="request_id"):
        client.score("f", "firms", request_id="not an id")


def test_without_its_extra_it_says_what_to_install(monkeypatch, tmp_path):
    for module in ("veilscore.online.door_service", "veilscore.online.door_http"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    node = NodeConfig(name="bank", role="bank", door=DoorConfig())
    with pytest.raises(ConfigError, match=r"needs starlette: pip install 'veilscore\[door\]'"):
        door_side(private_folder(tmp_path / "bank"), node, Bank())
    assert door_side(tmp_path, NodeConfig(name="bank", role="bank"), Bank()) is None


def test_curl_gets_a_score(door, tmp_path):
    curl = subprocess.run(["sh", "-c", "command -v curl"], capture_output=True, check=False).returncode == 0
    require(curl, "curl is not installed")
    (tmp_path / "asked.json").write_text(json.dumps(ASKED))
    files = {"--cert": "caller.pem", "--key": "caller-key.pem", "--cacert": "door.pem"}
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--json", f"@{tmp_path / 'asked.json'}"]
    command += [word for option, name in files.items() for word in (option, str(door.desk / name))]
    done = subprocess.run([*command, f"https://localhost:{door.port}/v1/scores"], capture_output=True, check=True)
    assert json.loads(done.stdout)["score"] == 612.5


def test_asked_messages_have_no_field_without_a_meaning():
    for model in (ScoreAsked, DoorConfig):
        assert [n for n, p in model.model_json_schema()["properties"].items() if not p.get("description", p)] == []
