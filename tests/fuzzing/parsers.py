"""Every parser of what peers or files bring, as a function of bytes; what it may raise is ours, or as its text says."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fabric_network import FEDERATION, IDENTITIES
from local_jobs import firms
from test_model import make_model
from test_parsers_files import boosted_model, hash_of, stacked_model, trees

from party_bank.policy.graph import parse_graph
from party_bank.policy.unary import NotAnalysed, read_literal, read_test
from party_bank.settings import read_amount
from veilscore.crypto.group import parse_points
from veilscore.data.codes import CodeMap
from veilscore.data.codes import _hash as code_map_hash
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.table import Table, make_table
from veilscore.errors import VeilscoreError
from veilscore.estimator_file import unpack as unpack_estimator
from veilscore.evidence import exchange, opening, receipt  # noqa: F401 - classes of documents
from veilscore.evidence.documents import Document, FederationKeys
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.log import scan
from veilscore.evidence.verify import heads_in, verify_receipt
from veilscore.fabric.failures import failure_of
from veilscore.fabric.step_run import parse_session_id
from veilscore.files.backup import BackupManifest
from veilscore.files.sealed import Unsealing
from veilscore.files.store import JobStore
from veilscore.keys.door_certificates import ShownCertificate, read_authority
from veilscore.keys.identity import parse_certificate
from veilscore.keys.passkey_word import PasskeyWord
from veilscore.keys.rotation import parse_statement
from veilscore.lattice.params import T_PRIMES
from veilscore.lattice.ring import unpack as unpack_residues
from veilscore.models.decided import Pins
from veilscore.models.filed import load_model
from veilscore.models.trees import HolderTrees
from veilscore.online.door import ProblemError, parse_body
from veilscore.protocols.adding import parse_partial
from veilscore.release.catalogue import read_published
from veilscore.release.consent import Signed, body_of, read_consent, read_revocations
from veilscore.release.issuer import Issuer
from veilscore.reports.section import SignedSection
from veilscore.sandbox.submission import parse_record
from veilscore.terms.decision import parse_decision
from veilscore.terms.federation import load_federation
from veilscore.terms.job import parse_job
from veilscore.terms.settings import parse_json, parse_yaml, read_day
from veilscore.v1 import align_pb2, wire_pb2
from veilscore.wire.framing import Assembly, data_of, header_of, kind_of
from veilscore.wire.protocol import decode, encode, unpack_fields

KEYS = FederationKeys(lambda: FEDERATION)
TAX = FEDERATION.member("tax")
JOB = b"""name: kz
purpose: credit
task: train_scorecard
bank: bank
holders: [tax]
datasets: {bank: loans, tax: filings}
parameters: {bands: {A: 600.5}, max_bin: 5, disclosure: exact}
"""
DECISION = b"""format: veilscore-decision/1
name: line
measures: {pd: {model: kz}}
rules: [{when: "pd >= 0.5", then: no}]
"""
GRAPH = b"""{"nodes": [{"id": "in", "type": "inputNode", "name": "request", "position": {"x": 1, "y": 2}},
{"id": "t", "type": "decisionTableNode", "name": "line", "content": {"hitPolicy": "first",
"inputs": [{"id": "i", "name": "pd", "field": "pd"}], "outputs": [{"id": "o", "name": "line", "field": "line"}],
"rules": [{"_id": "r", "i": "< 0.1", "o": "100000"}, {"_id": "s", "i": "[0.1..0.2)", "o": "0"}]}},
{"id": "out", "type": "outputNode", "name": "response"}],
"edges": [{"id": "a", "sourceId": "in", "targetId": "t"}, {"id": "b", "sourceId": "t", "targetId": "out"}]}"""


def _made() -> tuple[Issuer, Signed, Table, tuple[bytes, ...]]:
    """An issuer, a table, and models as they are filed."""
    with tempfile.TemporaryDirectory() as folder:
        issuer = Issuer.create(Path(folder) / "portal", "portal")
        paths = [
            model.save(Path(folder) / f"{number}.json")
            for number, model in enumerate((make_model(), boosted_model(), stacked_model()))
        ]
        withdrawn = issuer.revoke(firms=["91350100M000100Y43"])
        models = tuple(path.read_bytes() for path in paths)
    own = firms(60, seed=3)["tax"]
    return issuer, withdrawn, make_table(own.pop("firm"), own, normaliser="text"), models


@dataclass(frozen=True)
class Target:
    """A parser with what it is begun with.

    covers : functions of the product that it stands for, as `file:name`; besides : errors that its docstring promises.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    covers: tuple[str, ...] = ()
    besides: tuple[type[Exception], ...] = ()


def texts(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """A parser of text, given whatever text bytes are."""
    return lambda data: parse(data.decode("utf-8", "replace"))


def hashed(parse: Callable[[str], object], hash_of: Callable[[Any], str]) -> Callable[[bytes], object]:
    """A parser of JSON with its own hash in it, given the right one: the hash is not what is tried."""

    def act(data: bytes) -> object:
        try:
            body = parse_json(data)
            if isinstance(body, dict):
                body.pop("hash", None)
                data = json.dumps(body | {"hash": hash_of(body)}).encode()
        except (ValueError, VeilscoreError):
            pass
        return parse(data.decode("utf-8", "replace"))

    return act


class _File:
    """One file of memory that a parser of paths reads again and again."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def __call__(self, name: str, parse: Callable[[Path], object]) -> Callable[[bytes], object]:
        def act(data: bytes) -> object:
            assert self.folder is not None
            path = self.folder / name
            path.write_bytes(data)
            return parse(path)

        return act


FILE = _File()


def documents() -> list[type[Document]]:
    """All classes of documents that parties exchange."""
    found, left = [], [Document]
    while left:
        one = left.pop()
        left += one.__subclasses__()
        found.append(one)
    return sorted({one for one in found if one.__module__.startswith("veilscore")}, key=lambda one: one.__qualname__)


def every_document(data: bytes) -> None:
    for one in documents():
        with contextlib.suppress(VeilscoreError):
            one.parse(data)


def message(data: bytes) -> None:
    kind_of(data)
    decode(data, align_pb2.AlignBankRound1, session="a/b/1", sender="tax")


def frame(data: bytes) -> None:
    size = int.from_bytes(data[:2], "little")
    header = header_of(data[2 : 2 + size], "tax")
    whole = Assembly(header)
    whole.add(data_of(data[2 + size :], "tax"))
    whole.finish()


def consents(data: bytes) -> None:
    signed = Signed.from_bytes(data, "tax")
    body_of(signed)
    for read in (read_consent, read_revocations):
        with contextlib.suppress(VeilscoreError):
            read(signed, {ISSUER.name: ISSUER.public_key})


def unsealed(data: bytes) -> None:
    Unsealing(io.BytesIO(data), lambda: "a long passphrase").read()


def stored(path: Path) -> None:
    JobStore(path.parent).load_arrays("arrays")


def a_frame() -> bytes:
    payload = encode(align_pb2.AlignBankRound1(n_ids=1, points=b"p" * 32))
    header = wire_pb2.Header(session="a/b/1", sender="tax", recipient="bank", size_bytes=len(payload), sha256=b"d" * 32)
    first = wire_pb2.Chunk(header=header).SerializeToString()
    return len(first).to_bytes(2, "little") + first + wire_pb2.Chunk(data=payload).SerializeToString()


def a_head() -> SignedHead:
    return SignedHead.sign(IDENTITIES["tax"], 1, bytes(32), "", 1_790_000_000_000)


def a_log() -> bytes:
    return b'E {"kind":"opened","party":"tax","time_ms":1}\nH ' + a_head().to_bytes() + b"\n"


def a_signed() -> bytes:
    body = {"kind": "consent", "issuer": "portal", "id": "c1", "firm": "f", "purpose": "credit", "issued_s": 1}
    return json.dumps({"body": json.dumps(body), "issuer": "portal", "signature": "00"}).encode()


def members() -> bytes:
    rows = [{"name": m.name, "role": m.role, "address": m.address} for m in FEDERATION.members]
    return yaml.safe_dump({"name": "t", "members": rows}).encode()


ISSUER, WITHDRAWN, TABLE, MODELS = _made()
CODE_MAP = CodeMap.fit(TABLE, generator=np.random.default_rng(1)).to_json().encode()
BINS = FixedBins.make(TABLE, "2026-01-01").to_json().encode()
TREES = HolderTrees(holder="tax", model="boost", map_sha256="11" * 32, trees=tuple(t.shape() for t in trees()))
PEM = IDENTITIES["tax"].certificate.pem
JSON = (b'{"a": [1, 2.5, "x", null, true]}', b"[]", b'{"kind": "job_receipt"}')
TARGETS = (
    Target("yaml", texts(lambda t: parse_yaml(t, "f")), (JOB, b"a: {b: [1, ~, 2026-01-01, 0x10]}"),
           ("terms/settings.py:parse_yaml",)),
    Target("json", parse_json, JSON, ("terms/settings.py:parse_json",), (ValueError,)),
    Target("day", texts(lambda t: read_day(t, "--day")), (b"2026-11-30",), ("terms/settings.py:read_day",)),
    Target("job", texts(lambda t: parse_job(t, "f")), (JOB, JOB.replace(b"train_scorecard", b"score_batch")),
           ("terms/job.py:parse_job",)),
    Target("decision", texts(lambda t: parse_decision(t, "f")), (DECISION,), ("terms/decision.py:parse_decision",)),
    Target("graph", lambda data: parse_graph(data, "line"), (GRAPH,), ("party_bank/policy/graph.py:parse_graph",)),
    Target("cells", texts(lambda t: (read_test(t), read_literal(t))), (b"[1..2)", b'"a", "b"', b"> 3 and < 5", b"7"),
           ("party_bank/policy/unary.py:read_test", "party_bank/policy/unary.py:read_literal"), (NotAnalysed,)),
    Target("amount", texts(read_amount), (b"12.50", b"1_000"), ("party_bank/settings.py:read_amount",)),
    Target("federation", FILE("federation.yaml", load_federation), (members(),)),
    Target("certificate", parse_certificate, (PEM,), ("keys/identity.py:parse_certificate",)),
    Target("shown certificate", lambda data: ShownCertificate.read(data, "f"), (PEM,),
           ("keys/door_certificates.py:ShownCertificate.read",)),
    Target("authority", lambda data: read_authority(data, "f"), (PEM, PEM + PEM),
           ("keys/door_certificates.py:read_authority",)),
    Target("key statement", lambda data: parse_statement(data, "tax"), JSON, ("keys/rotation.py:parse_statement",)),
    Target("passkey word", PasskeyWord.from_bytes, (b'{"key": "00", "vouch": "00", "client": "00", "signature": ""}',),
           ("keys/passkey_word.py:PasskeyWord.from_bytes",)),
    Target("documents", every_document, (a_head().to_bytes(), *JSON), ("evidence/documents.py:Document.parse",)),
    Target("receipt", lambda data: (verify_receipt(data, KEYS), heads_in(data)), (a_head().to_bytes(), *JSON),
           ("evidence/verify.py:verify_receipt",)),
    Target("log", FILE("log.jsonl", scan), (a_log(),)),
    Target("consent", consents, (a_signed(), WITHDRAWN.to_message().SerializeToString()),
           ("release/consent.py:Signed.from_bytes",)),
    Target("consent text", texts(lambda t: Signed.from_text(t, "f")), (a_signed(), WITHDRAWN.to_text().encode()),
           ("release/consent.py:Signed.from_text",)),
    Target("catalogue", texts(lambda t: read_published(t, "f")), (a_signed(), *JSON),
           ("release/catalogue.py:read_published",)),
    Target("section", texts(lambda t: SignedSection.from_text(t, "f")), (a_signed(), *JSON),
           ("reports/section.py:SignedSection.from_text",)),
    Target("record", parse_record, JSON, ("sandbox/submission.py:parse_record",), (ValueError,)),
    Target("door", parse_body, (b'{"firm": "f", "model": "kz", "purpose": "credit"}',),
           ("online/door.py:parse_body",), (ProblemError,)),
    Target("message", message, (encode(align_pb2.AlignBankRound1(n_ids=1, points=b"p" * 32)),),
           ("wire/protocol.py:decode",)),
    Target("frame", frame, (a_frame(),)),
    Target("fields", lambda data: unpack_fields(data, 2), (b"\1" + bytes(7) + b"a" + bytes(8),),
           ("wire/protocol.py:unpack_fields",)),
    Target("failure", lambda data: failure_of("ABORTED", "x", data, TAX),
           (b'{"error": "PeerError", "message": "m", "session": "a/b/1", "party": "tax"}',)),
    Target("session", texts(parse_session_id), (b"job-1/train/2",), ("fabric/step_run.py:parse_session_id",)),
    Target("points", lambda data: parse_points(data, 2), (bytes(64), b"\2" * 64), ("crypto/group.py:parse_points",)),
    Target("partial", lambda data: parse_partial(data, 2, "tax"), (bytes(16),), ("protocols/adding.py:parse_partial",)),
    Target("residues", lambda data: unpack_residues(data, (1, 8), T_PRIMES[:1]), (bytes(64),),
           ("lattice/ring.py:unpack",)),
    Target("code map", hashed(CodeMap.from_json, code_map_hash), (CODE_MAP,), ("data/codes.py:CodeMap.from_json",)),
    Target("fixed bins", hashed(FixedBins.from_json, hash_of), (BINS,), ("data/fixed_bins.py:FixedBins.from_json",)),
    Target("trees", texts(HolderTrees.from_json), (TREES.to_json().encode(),),
           ("models/trees.py:HolderTrees.from_json",)),
    Target("pins", Pins.from_bytes, JSON, ("models/decided.py:Pins.from_bytes",), (ValueError,)),
    Target("model", FILE("model.json", load_model), MODELS),
    Target("arrays", FILE("arrays.npz", stored), ()),
    Target("estimator", lambda data: unpack_estimator(data, "f"), (), ("estimator_file.py:unpack",)),
    Target("backup", BackupManifest.parse, (b'{"party": "tax", "made_s": 1.0, "files": {"a": "00"}}',),
           ("files/backup.py:BackupManifest.parse",)),
    Target("sealed", unsealed, (b"veilscore-sealed-1\n",)),
)  # fmt: skip
ELSEWHERE = {
    "data/ingest_database.py:read_database": "asks a database of the owner",
    "evidence/online_opening.py:OpeningLogged.read": "takes a log's entry that was parsed",
    "evidence/online_opening.py:PartsOpened.read": "takes a log's entry that was parsed",
    "lattice/hints.py:MatrixOwner.unpack": "checks lengths, then ring.py:unpack",
    "lattice/lookup.py:LookupCodes.unpack": "checks lengths, then ring.py:unpack",
}
of_name = {target.name: target for target in TARGETS}
