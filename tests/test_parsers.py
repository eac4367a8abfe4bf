"""Whatever text or bytes come from outside, each parser gives a value or an error of the tree, never another one."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from fabric_network import FEDERATION, IDENTITIES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.cli.display import moment
from veilscore.errors import (
    ConfigError,
    EvidenceError,
    IdentityError,
    MessageError,
    PeerError,
    ProtocolError,
    SandboxError,
    VeilscoreError,
)
from veilscore.evidence.anchor import AnchorReceipt, TimeStamps, check_anchor
from veilscore.evidence.documents import FederationKeys, canonical, load_keys
from veilscore.evidence.heads import Countersignature, SignedHead
from veilscore.evidence.log import Log
from veilscore.evidence.merkle import MerkleTree, leaf_hash
from veilscore.evidence.opening import read_messages, read_opening
from veilscore.evidence.receipt import JobReceipt, JobStatement, Logged, ScoreTree
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.evidence.witness import Witnesses
from veilscore.fabric.failures import failure_of
from veilscore.fabric.step_run import SESSION_ID, parse_session_id, session_id
from veilscore.keys.identity import RECOVERY_OID, create_identity, parse_certificate, utc_time
from veilscore.keys.key_history import KeyHistory, PartyKeys, PinnedKey
from veilscore.keys.rotation import parse_statement
from veilscore.release.catalogue import read_published
from veilscore.release.consent import Signed, claim_of, read_consent, read_revocations
from veilscore.sandbox.address import email_address
from veilscore.sandbox.gate import gate
from veilscore.sandbox.policy import SandboxPolicy
from veilscore.sandbox.signed import read_signed
from veilscore.sandbox.submission import Manifest, read_files, read_submission
from veilscore.sandbox.submission import canonical as ascii_canonical
from veilscore.sandbox.syft_folder import FIXED, SyftJob, unpack
from veilscore.terms.bands import KeptBands
from veilscore.terms.federation import load_federation, save_federation
from veilscore.terms.job import new_job_id, parse_job
from veilscore.terms.settings import parse_yaml

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_SCALARS = st.sampled_from(
    ["2026-99-99", "2026-01-01 10:00:00 +99:99", "0b_", "0x_", "0o8", "1:99:99", "~", ".nan", "1e999", "<<", "=", "\\0"]
    + [
        f"!!{tag} {text}"
        for tag in ("int", "float", "bool", "timestamp", "binary", "map", "set", "omap", "null", "x")
        for text in ("x", "", "''", "[a]", "{a: b}")
    ]
)
_HUGE = f"0x{'f' * 4000}"
_PARAMETERS = ["C", "bands", "columns", "scorecard", "scorecard_grid", "holdout_from", "model", "monotone"]
_YAML = st.recursive(
    _SCALARS | st.text(max_size=12) | st.integers().map(str),
    lambda inner: st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
    | st.dictionaries(inner, inner, max_size=3).map(lambda d: f"{{{', '.join(f'{k}: {v}' for k, v in d.items())}}}"),
    max_leaves=6,
)  # fmt: skip


@few
@given(st.text() | _YAML.map("a: {}".format) | _YAML | st.tuples(_YAML, _YAML).map("{0[0]}: {0[1]}".format))
@example("a: 2026-99-99")
@example("a: 0b_")
@example("a: !!bool x")
@example("!!map x")
@example("a: !!timestamp x")
@example("\ud800: 1")
@example("a: " + "9" * 5000)
@example("a: 1" + ":1" * 400_000)
@example("a: " + "[" * 5000)
def test_yaml(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_yaml(text, "node.yaml"), dict)


def test_yaml_says_where():
    with pytest.raises(ConfigError, match=r"job\.yaml line 2: not valid YAML: a value cannot be read as timestamp"):
        parse_yaml("a: 1\nb: 2026-99-99", "job.yaml")


@few
@given(data=st.binary() | _YAML.map(str.encode))
def test_kept_bands(tmp_path, data):
    (tmp_path / "bands.json").write_bytes(data)
    with pytest.raises(ConfigError, match="damaged"):
        KeptBands.load(tmp_path)


JOB = """
name: kz
purpose: credit
task: {task}
bank: bank
holders: [tax]
datasets: {{bank: loans, tax: filings}}
parameters: {{{key}: {value}}}
"""


@few
@given(
    st.sampled_from(["train_scorecard", "select_model", "score_batch", "screen_features", "x"]),
    st.sampled_from(_PARAMETERS) | _YAML,
    _YAML | st.sampled_from([f"{{C: [{_HUGE}]}}", f"{{A: {_HUGE}}}", r'{"\ud800": 1}', "{C: [.nan]}"]),
)
def test_jobs(task, key, value):
    try:
        job = parse_job(JOB.format(task=task, key=key, value=value))
    except VeilscoreError:
        return
    assert len(job.sha256) == 32
    assert job.steps


@few
@given(text=st.text() | _YAML | _YAML.map("members: [{}]".format))
def test_federation_files(tmp_path, text):
    path = tmp_path / "federation.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"federation\.yaml"):
        load_federation(path)


# --- certificates and key statements ---------------------------------------------------------------------------------


def certificate(key, role="holder", **changes):
    """A self-signed certificate as `keys.identity` makes it, by another key or with other extensions."""
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "tax"), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)]
    )
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(changes.get("end", now + dt.timedelta(days=1)))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("tax")]), critical=False)
    )
    if "recovery" in changes:
        builder = builder.add_extension(x509.UnrecognizedExtension(RECOVERY_OID, changes["recovery"]), critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def x509_pem(der):
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


P256_OID = bytes.fromhex("2a8648ce3d030107")
KEY = ec.generate_private_key(ec.SECP256R1())
PEM = certificate(KEY)
WITH_RECOVERY = certificate(KEY, recovery=b"\x04\x20" + bytes(32))


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_certificates_with_other_keys(key):
    with pytest.raises(IdentityError, match="other than P-256"):
        parse_certificate(certificate(key))


def test_certificates_with_an_unknown_curve():
    der = x509.load_pem_x509_certificate(PEM).public_bytes(serialization.Encoding.DER)
    assert der.count(P256_OID) == 1
    for unknown in (b"\x2a\x86\x48\xce\x3d\x03\x01\x63", b"\x2b\x24\x03\x03\x02\x08\x01\x7f"):
        damaged = x509_pem(der.replace(P256_OID, unknown))
        with pytest.raises(IdentityError):
            parse_certificate(damaged)


@few
@given(st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_damaged_certificates(changes):
    der = bytearray(x509.load_pem_x509_certificate(WITH_RECOVERY).public_bytes(serialization.Encoding.DER))
    for place, value in changes:
        der[place % len(der)] = value
    with contextlib.suppress(IdentityError):  # a change to the byte that was there
        parse_certificate(x509_pem(bytes(der)))


@few
@given(st.binary() | st.text().map(str.encode) | st.binary().map(x509_pem))
def test_what_is_no_certificate(data):
    with pytest.raises(IdentityError):
        parse_certificate(data)


STATEMENT = {
    "kind": "rotate", "federation": "trial", "member": "tax", "fingerprint": "0" * 64, "date_ms": 1, "by": "tax",
    "signer": "0" * 64, "signature": "00" * 8, "certificate": None, "overlap_s": 0, "successor_signature": "00" * 8,
    "recovery_key": None,
}  # fmt: skip
_KEY_PEM = "-----BEGIN PUBLIC KEY-----\nMDMwDQYJKoZIhvcNAQEBBQADIgAwHwIYAP==\n-----END PUBLIC KEY-----"
_FIELDS = st.sampled_from(
    ["0" * 17, "ab" * 40, "é" * 16, "\ud800", "", "revoke", PEM.decode(), _KEY_PEM]
) | st.sampled_from([None, -1, 1 << 47, (1 << 47) + 1, 1 << 52, 1e300, True, [], {}])


@few
@given(st.dictionaries(st.sampled_from([*STATEMENT, "x"]), _FIELDS, max_size=3), st.binary(max_size=3))
@example({"signature": "0" * 17}, b"")
@example({"successor_signature": "0" * 17}, b"")
@example({"date_ms": 1 << 52}, b"")
@example({"date_ms": 1 << 47, "overlap_s": 90 * 86400}, b"")
def test_key_statements(changes, behind):
    """A peer's statement, whatever is in it, is refused, or has an effect, or is kept among those that have none."""
    pinned = parse_certificate(PEM)
    statement = STATEMENT | {"fingerprint": pinned.fingerprint, "signer": pinned.fingerprint} | changes
    with contextlib.suppress(IdentityError):
        parsed = parse_statement(json.dumps(statement).encode() + behind, "tax")
        history = KeyHistory.of("trial", [pinned], [parsed])
        assert len(history.applied) + len(history.ignored) == 1
        with contextlib.suppress(IdentityError):
            parsed.verify_recovery(pinned.fingerprint)


def test_dates_beyond_the_calendar():
    keys = PartyKeys("tax", (PinnedKey(parse_certificate(PEM), retired_s=0.0),), 0.0)
    for never in (1e300, float("nan"), -1e12, float("inf")):
        with pytest.raises(IdentityError, match="years 1 to 9999"):
            parse_certificate(PEM).check_valid(never)
        with pytest.raises(IdentityError):
            keys.verify(b"", b"", "x", never)


# --- what a peer says ------------------------------------------------------------------------------------------------


_SAID = st.dictionaries(
    st.sampled_from(["error", "message", "session", "party"]),
    st.sampled_from([None, "RefusedError", [], {}, 1, "\ud800"]),
)


@few
@given(
    st.sampled_from(["UNAVAILABLE", "ABORTED", "x"]),
    st.text(max_size=20),
    st.none() | st.binary() | st.text().map(str.encode) | _SAID.map(json.dumps).map(str.encode),
)
@example("ABORTED", "", b"[" * 8000)
@example("ABORTED", "", b'{"error": [], "message": ' + b"1" * 5000 + b"}")
def test_errors_of_peers(status, text, sent):
    failure = failure_of(status, text, sent, SimpleNamespace(name="tax", address="tax:1"))
    assert isinstance(failure.error, VeilscoreError)
    assert all(c.isprintable() for c in failure.error.message)


@few
@given(st.text() | st.from_regex(SESSION_ID))
def test_session_ids(text):
    with contextlib.suppress(ProtocolError):
        assert session_id(*parse_session_id(text)) == text


# --- consents and published data sets --------------------------------------------------------------------------------


_NESTED = "[" * 20_000
_VALUE = st.sampled_from([None, True, -1, 0, 1e300, 10**400, 253_402_300_800, [], ["x"], {}]) | (
    st.sampled_from(["", "x", "0" * 63, "0" * 64, "\ud800"])
)
_CONSENT_KEYS = [
    "purpose",
    "tasks",
    "bank",
    "models",
    "not_before_s",
    "expires_s",
    "id",
    "once",
    "salt",
    "kind",
    "issuer",
]
_CONSENT_KEYS += ["commitments_sha256", "revoked", "issued_s"]
ISSUER = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = {"portal": ISSUER.public_key().public_bytes_raw().hex()}


def signed_body(body: str, kind: str) -> Signed:
    """A document that the issuer itself signed, whatever is in it."""
    data = body.encode(errors="surrogatepass")
    return Signed(data, ISSUER.sign(b"veilscore/1 consent " + kind.encode() + b"\n" + data), bytes(32))


@few
@given(
    st.sampled_from(["token", "list", "revocations"]),
    st.dictionaries(st.sampled_from(_CONSENT_KEYS), _VALUE | st.just(float("nan")), max_size=3),
)
@example("list", {"expires_s": 10**400})
@example("token", {"expires_s": 253_402_300_800})
@example("token", {"salt": "0" * 63})
@example("revocations", {"issued_s": 10**400})
def test_consents(kind, changes):
    body = {
        "purpose": "credit", "tasks": ["score_batch"], "bank": "", "models": [], "not_before_s": 0, "expires_s": 1e9,
        "id": "0" * 32, "once": False, "salt": "0" * 64, "kind": kind, "issuer": "portal", "issued_s": 1, "revoked": [],
        "commitments_sha256": hashlib.sha256(bytes(32)).hexdigest(),
    } | changes  # fmt: skip
    signed = signed_body(json.dumps(body), kind)
    with contextlib.suppress(VeilscoreError):
        read = read_revocations if kind == "revocations" else read_consent
        found = read(signed, TRUSTED)
        assert kind == "revocations" or utc_time(found.scope.expires_s)
    with contextlib.suppress(VeilscoreError):
        claim_of(signed)


@few
@given(st.text() | st.dictionaries(st.sampled_from(["body", "signature", "commitments"]), _VALUE).map(json.dumps))
@example(_NESTED)
@example(json.dumps({"body": _NESTED, "signature": ""}))
@example(json.dumps({"body": "\ud800", "signature": ""}))
def test_documents(text):
    with contextlib.suppress(ConfigError):
        signed = Signed.from_text(text, "f")
        with contextlib.suppress(ConfigError):
            claim_of(signed)
        with pytest.raises((MessageError, IdentityError)):
            read_consent(signed, TRUSTED)
    with contextlib.suppress(ConfigError):
        read_published(text, "f")
    with contextlib.suppress(MessageError):
        Signed.from_bytes(text.encode(errors="surrogatepass"), "bank")


PUBLISHED = {
    "format": "veilscore-dataset/1", "owner": "tax", "dataset": "main", "version": "0", "published_s": 0, "n_rows": 100,
    "columns": [{"name": "c1", "kind": "number", "missing_percent": 1}], "terms": {}, "mock": "",
}  # fmt: skip


@few
@given(st.dictionaries(st.sampled_from([*PUBLISHED, "x"]), _VALUE, max_size=3))
def test_published_data_sets(changes):
    text = json.dumps({"body": json.dumps(PUBLISHED | changes), "signature": ""})
    with contextlib.suppress(ConfigError):
        assert read_published(text, "f").content.format == "veilscore-dataset/1"


# --- evidence --------------------------------------------------------------------------------------------------------


NOW_MS = int(time.time() * 1000)
KEYS = FederationKeys(lambda: FEDERATION)
KINDS = ["step", "answer", "job", "share_opened", "band_opened", "step_bound", "job_receipt", "online_receipt"]
_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("0" * 64),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=5,
)
_NAMES = st.sampled_from(["job_id", "step", "attempt", "commitment", "queries", "model", "statement", "time_ms", "x"])
_LINE = st.binary().filter(lambda data: not {10, 0}.intersection(data))  # a zero is a power loss to the log
_MESSAGE = st.tuples(st.integers(0, 5000), st.integers(0, 1 << 63), st.binary())
_ENTRY = st.builds(
    lambda kind, body: canonical(body | {"kind": kind}), st.sampled_from(KINDS) | _ANY, st.dictionaries(_NAMES, _ANY)
)


def written_log(path, bodies):
    """A log that its owner wrote and signed, whatever its entries are."""
    tree = MerkleTree(leaf_hash(body) for body in bodies)
    head = SignedHead.sign(IDENTITIES["tax"], tree.size, tree.root(), "", NOW_MS)
    path.write_bytes(b"".join(b"E " + body + b"\n" for body in bodies) + b"H " + head.to_bytes() + b"\n")


@few
@given(entries=st.lists(_ENTRY | _ANY.map(canonical) | _LINE, min_size=1, max_size=4))
@example(entries=[b'{"kind":"step_bound"}'])
@example(entries=[b'{"kind":"step_bound","attempt":"x","step":"a","job_id":"b","commitment":"c"}'])
@example(entries=[b"not JSON"])
@example(entries=[b"[]", b'{"kind":"share_opened","queries":1}'])
@example(entries=[_NESTED.encode()])
def test_logs_of_others(tmp_path, entries):
    path = tmp_path / "log.jsonl"
    written_log(path, entries)
    assert verify_log(path, KEYS)
    with contextlib.suppress(EvidenceError):
        Witnesses().add_log(path, KEYS)


@few
@given(st.binary() | _ENTRY | st.text().map(str.encode))
@example(_NESTED.encode())
@example(b'{"kind":[]}')
def test_what_is_no_receipt(data):
    with pytest.raises(EvidenceError):
        verify_receipt(data, KEYS)
    with pytest.raises(EvidenceError):
        heads_in(data)
    with pytest.raises(EvidenceError):
        Witnesses().add_receipt(data, KEYS)


def cross_signed(folder, **changes):
    """A job's receipt, signed by everybody as it should be, with a bank that states something else in it."""
    job = parse_job(JOB.format(task="score_batch", key="model", value="m"))
    job_id = new_job_id(job)
    logged, heads = {}, {}
    for name in (*job.parties, job.coordinator):
        statement = JobStatement(
            party=name, role=FEDERATION.member(name).role, job_id=job_id, request=job.sha256.hex(), policy="0" * 64,
            steps=(), files={}, time_ms=1,
        )  # fmt: skip
        entry = statement.model_dump(mode="json") | (changes if name == job.bank else {})
        with contextlib.closing(Log(folder / name, lambda name=name: IDENTITIES[name], KEYS)) as log:
            logged[name] = Logged.of(log, log.append([entry])[0])
            heads[name] = log.head
    for name, head in heads.items():
        by = tuple(Countersignature.sign(IDENTITIES[o], head, head.time_ms) for o in sorted(heads) if o != name)
        logged[name] = logged[name].model_copy(update={"countersignatures": by})
    return JobReceipt(job_id=job_id, request=job.canonical().decode(), statements=tuple(logged.values()))


def test_statements_of_a_hostile_bank(tmp_path):
    assert verify_receipt(cross_signed(tmp_path / "good").to_bytes(), KEYS)
    for number, time_ms in enumerate((1 << 47, 1 << 61)):
        with pytest.raises(EvidenceError, match="time_ms"):
            verify_receipt(cross_signed(tmp_path / f"time{number}", time_ms=time_ms).to_bytes(), KEYS)
    tree = ScoreTree(b"firm\rscore\r\nf1,600\r\n", bytes(32))
    job = cross_signed(tmp_path / "scores", scores=tree.scores.model_dump(mode="json"))
    with pytest.raises(EvidenceError, match="not a line of CSV"):
        verify_receipt(tree.receipt(job, 0).to_bytes(), KEYS)


@few
@given(token=st.binary(max_size=60))
@example(token=bytes.fromhex("30053003020102"))
def test_time_stamps(token):
    pytest.importorskip("rfc3161_client", reason="time stamps are the extra `timestamp`")
    head = SignedHead.sign(IDENTITIES["tax"], 1, bytes(32), "", NOW_MS)
    receipt = AnchorReceipt(anchor="time stamp", head=head, token=token.hex())
    with pytest.raises(EvidenceError):
        check_anchor(receipt, KEYS, [x509.load_pem_x509_certificate(PEM)])


def test_an_authority_that_speaks_no_http():
    def answer():
        with server.accept()[0] as connection:
            connection.sendall(b"\x00garbage\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=answer)
        answering.start()
        head = SignedHead.sign(IDENTITIES["tax"], 1, bytes(32), "", NOW_MS)
        with pytest.raises(PeerError, match="cannot be reached"):
            TimeStamps(f"http://127.0.0.1:{server.getsockname()[1]}/", []).submit(head, lambda _: ())
        answering.join()


@few
@given(data=st.binary() | st.binary().map(x509_pem) | _YAML.map(str.encode))
def test_key_files(tmp_path, data):
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises((ConfigError, IdentityError)):
        load_keys(path)


@few
@given(data=st.binary(max_size=60) | _ENTRY | _MESSAGE.map(lambda parts: struct.pack("<IQ", *parts[:2]) + parts[2]))
def test_records_of_attempts(tmp_path, data):
    for name in ("messages", "opening.json"):
        (tmp_path / name).write_bytes(data)
    with contextlib.suppress(EvidenceError):
        read_messages(tmp_path, "job/step/1")
    with pytest.raises(EvidenceError):
        read_opening(tmp_path)


# --- the sandbox -----------------------------------------------------------------------------------------------------


MANIFEST = {
    "name": "count", "owner": "tax", "dataset": "main", "purpose": "credit", "entry": "main.py",
    "outputs": {"n.json": {"kind": "number", "noise": {"epsilon": 1, "lower": 0, "upper": 1}}},
}  # fmt: skip
_DEEP = json.dumps({"sender": "tax", "signature": "00", "manifest": "X"}, separators=(",", ":"))


def nested(depth):
    """A record that is canonical and nested: around here json reads what it cannot write, or neither."""
    return _DEEP.replace('"X"', "[" * depth + "]" * depth).encode()


def folder_of(path, record):
    (path / "code").mkdir(parents=True, exist_ok=True)
    (path / "code" / "main.py").write_text("pass")
    (path / "submission.json").write_bytes(record)
    return path


@few
@given(
    record=st.binary()
    | st.dictionaries(st.sampled_from(["manifest", "sender", "signature"]), _ANY | st.just(MANIFEST)).map(canonical)
    | st.dictionaries(st.sampled_from([*MANIFEST, "x"]), _ANY | _VALUE).map(
        lambda changes: ascii_canonical({"manifest": MANIFEST | changes, "sender": "tax", "signature": "00"})
    )
)
@example(record=nested(300))
@example(record=nested(900))
@example(record=nested(990))
@example(record=nested(20_000))
def test_submissions(tmp_path, record):
    with pytest.raises((SandboxError, ConfigError)):
        read_submission(folder_of(tmp_path / ("0" * 64), record))


def test_nested_folders_of_a_submission(tmp_path):
    folder = folder_of(tmp_path / ("0" * 64), b"{}") / "code"
    folder.joinpath(*"d" * 40).mkdir(parents=True)
    with pytest.raises(SandboxError, match="nested deeper"):
        read_files(folder)


@few
@given(text=st.binary() | (_ANY | st.dictionaries(st.sampled_from(["content", "signature"]), _ANY)).map(canonical))
@example(text=b'{"content":[["a",1],[2,3]],"signature":"00"}')
@example(text=_NESTED.encode())
def test_signed_decisions(tmp_path, text):
    path = tmp_path / "release.json"
    path.write_bytes(text)
    with pytest.raises((SandboxError, IdentityError)):
        read_signed(path, "sandbox release", parse_certificate(PEM))


@few
@given(
    st.sampled_from(["number", "json", "table"]),
    st.binary() | _ANY.map(canonical) | st.from_regex(rb'\{"count": [0-9e]{1,4}, "value": .*\}'),
)
@example("number", b'{"count": 20, "value": 1' + b"0" * 400 + b"}")
@example("number", b'{"count": 1e1, "value": NaN}')
@example("json", b'{"count": 20, "value": ' + _NESTED.encode() + b"}")
@example("table", b'text,count\r"x\n')
def test_outputs(kind, content):
    form = {"number": {}, "json": {"keys": ["value"]}, "table": {"columns": {"text": "text", "count": "count"}}}[kind]
    manifest = Manifest.model_validate(MANIFEST | {"outputs": {"o": {"kind": kind, **form}}})
    with contextlib.suppress(SandboxError):
        assert gate({"o": content}, manifest, SandboxPolicy(), 100).files["o"].isascii()


@few
@given(text=_YAML | st.text())
def test_configuration_of_a_syft_job(tmp_path, text):
    job = SyftJob(tmp_path, "o@tax.example", "m@bank.example", "veilscore-" + "0" * 16)
    for name, content in {**FIXED, "config.yaml": text.encode(errors="surrogatepass")}.items():
        (job.inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (job.inbox / name).write_bytes(content)
    folder_of(job.inbox / "code" / "veilscore" / ("0" * 64), b"{}")
    with pytest.raises(SandboxError):
        unpack(job)


@few
@given(st.none() | st.integers() | st.text())
def test_addresses(text):
    with contextlib.suppress(ConfigError):
        assert email_address(text) == text


# --- the command -----------------------------------------------------------------------------------------------------


@few
@given(data=st.binary() | _YAML.map("members: [{}]".format).map(str.encode) | _YAML.map(str.encode))
def test_drafts_of_a_federation(tmp_path, data):
    (tmp_path / "cert.pem").write_bytes(PEM)
    (tmp_path / "f.yaml.draft").write_bytes(data)
    found = CliRunner().invoke(app, ["federation", "add", str(tmp_path / "f.yaml"), str(tmp_path / "cert.pem")])
    assert isinstance(found.exception, VeilscoreError | SystemExit | None)


@few
@given(data=_ANY.map(canonical) | _ENTRY | st.binary())
@example(data=b'{"root": NaN}')
@example(data=_NESTED.encode())
@example(data=b'{"root": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_heads_that_others_kept(tmp_path, data):
    written_log(tmp_path / "log.jsonl", [b"{}"])
    save_federation(FEDERATION, tmp_path / "f.yaml")
    (tmp_path / "seen").write_bytes(data)
    words = ["log.jsonl", "--keys", "f.yaml", "--seen", "seen"]
    paths = [str(tmp_path / word) if not word.startswith("--") else word for word in words]
    found = CliRunner().invoke(app, ["evidence", "verify-log", *paths])
    assert isinstance(found.exception, EvidenceError)


def test_dates_that_no_calendar_has():
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert {moment(at_s) for at_s in (1e300, float("nan"), -1e15)} == {"no date"}
    with pytest.raises(ConfigError, match="at most 36500"):
        create_identity(Path("nowhere"), "tax", "holder", 1e12)
