"""A score online is one of few steps: which, what it costs a firm's account of bits, and what a bank cannot ask for."""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest
from consent_issuer import OFTEN, token_bytes
from finished_jobs import finished
from trial_scoring import copy_of, rows, score, score_all, scoring, set_policy, units_of

from veilscore.crypto import he
from veilscore.errors import MessageError
from veilscore.fabric.fabric import Fabric
from veilscore.models.filed import load_model
from veilscore.models.steps import middles, steps_of
from veilscore.online import model as online_model
from veilscore.release.ledger import EXACT_BITS, ReleaseLedger
from veilscore.tasks.online import LEARNS
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb

HOLDERS = ("tax", "registry")
DEFAULT = {key: value for key, value in OFTEN.items() if not key.startswith("bits")}


class Trained:
    def __init__(self, folder):
        self.folder = folder
        self.model = load_model(folder / "bank" / "models" / "firms" / "model.json")
        self.units = units_of(folder, self.model)
        self.steps = steps_of(self.model)
        tax, registry = rows(folder, "tax"), rows(folder, "registry")
        self.known = [f for f in self.units if f in tax and f in registry]
        self.unknown = [f for f in self.units if f not in tax and f in registry]


@pytest.fixture(scope="module")
def trained():
    return Trained(finished(score_all))


@pytest.fixture
def homes(trained, tmp_path):
    """Homes of holders that allow no exact scores."""
    folder = copy_of(trained.folder, tmp_path)
    for party in HOLDERS:
        set_policy(folder, party, exact_for={}, release=DEFAULT)
    return folder


def told(homes, party, firm):
    with contextlib.closing(ReleaseLedger(homes / party / "state" / "release.db")) as ledger:
        return [(r.kind, r.bits) for r in ledger.of_firm(int(ledger.firms([firm])[0]), 0.0) if r.kind == "online"]


def test_a_score_is_a_step_by_default(trained, homes, monkeypatch):
    seen, call = [], Fabric.call

    async def record(self, to, method, message, *rest, **options):
        reply = await call(self, to, method, message, *rest, **options)
        seen.extend([(self.name, to, message), (to, self.name, reply)])
        return reply

    spread = sorted(trained.known, key=trained.units.get)[:: len(trained.known) // 12]
    firms = [*spread, trained.unknown[0]]

    async def scenario():
        with monkeypatch.context() as patch:
            patch.setattr(Fabric, "call", record)
            async with scoring(homes) as command:
                again = {"output": "", "on_missing": "missing_code"}
                found = [await score(command, f"r{k}", firm, **again) for k, firm in enumerate(firms)]
                kept = await score(command, "again", firms[0], **again)
                exact = await score(command, "exact", firms[1], output="exact")
                return found, kept, exact

    found, kept, exact = asyncio.run(scenario())
    model, steps = trained.model, trained.steps
    units = np.array([trained.units[firm] for firm in firms])
    assert [r.step for r in found] == steps.index(units).tolist()
    assert {r.steps for r in found} == {len(steps.names)}
    assert [r.units for r in found] == middles(steps)[steps.index(units)].tolist()
    for response, exactly in zip(found, model.score(units), strict=True):
        assert response.status == ("fallback" if response is found[-1] else "scored")
        assert response.score == response.units / 100
        assert response.band == model.band(float(exactly))
        assert response.probability_of_default == model.probability(np.array([response.units]))[0]
        assert response.reasons
    assert len({r.step for r in found}) >= 6
    assert (kept.step, kept.status) == (found[0].step, "scored")
    assert exact.status == "failed"
    assert {p.reason for p in exact.parties} == {
        f"{party} refuses exact scores to bank: ask for steps (output: score)" for party in HOLDERS
    }
    for party in HOLDERS:
        assert [told(homes, party, firm) for firm in firms] == [[("online", steps.bits)]] * len(firms)
    # one leg less than with a request for labels of its own: what goes to the lead is what goes to others
    kinds = [type(message).__name__ for _, to, message in seen if to == "tax"]
    assert kinds.count("OpenPartial") == kinds.count("BandPartial") == len(firms)
    own = {
        "ScoreRequest",
        "ScoreResponse",
        "Hello",
        "HelloReply",
        "Empty",
        "PrepareSpare",
        "KeyStatements",
        "EvidenceReply",
        "EvidenceCall",
        "AskRevocations",
        "HeldRevocations",
    }
    sent = {(type(message).__name__, {"bank": "bank"}.get(to, "holder")) for _, to, message in seen}
    table = {(leak.kind, {"lead": "holder"}.get(leak.to, leak.to)) for leak in LEARNS if leak.only in {"", "score"}}
    assert {one for one in sent if one[0] not in own} <= table
    assert not [to for _, to, message in seen if isinstance(message, pb.AddPartial | pb.TotalRequest)]


def test_bits_of_a_firm_run_out(trained, homes, monkeypatch):
    """A bank that moves the steps learns more with each request: ten bits a year, then no more."""
    firm, other = trained.known[:2]
    shifts = iter((0, 37, 74))
    monkeypatch.setattr(online_model, "steps_of", lambda _: Bands.steps([cut + shift for cut in trained.steps.limits]))
    answers = []
    for shift in shifts:

        async def scenario(shift=shift):
            async with scoring(homes) as command:
                return await score(command, f"s{shift}", firm, output="score")

        answers.append(asyncio.run(scenario()))
    assert [a.status for a in answers] == ["scored", "scored", "failed"]
    assert "bits of this firm were told within a year" in answers[-1].parties[0].reason
    assert sum(bits for _, bits in told(homes, "tax", firm)) == 2 * trained.steps.bits <= 10
    for party in HOLDERS:
        set_policy(homes, party, exact_for={"bank": "9999-12-31"})

    async def exactly():
        async with scoring(homes) as command:
            return await score(command, "exact", other), await score(command, "exact0", firm)

    exact = asyncio.run(exactly())
    assert [r.units for r in exact] == [trained.units[other], trained.units[firm]]
    assert {r.steps for r in exact} == {0}
    assert told(homes, "tax", other) == [("online", EXACT_BITS)]


def test_steps_that_a_holder_refuses(trained, homes):
    sides = {part.party: bytes.fromhex(part.map_sha256) for part in trained.model.parts}
    good = trained.steps

    def asked(limits, sha256=None):
        return pb.EncryptRecord(
            request_id=f"r{len(limits)}",
            firm_id=trained.known[0],
            model_hash=trained.model.sha256,
            map_hash=sides["tax"],
            purpose="credit",
            on_missing="missing_code",
            consent=token_bytes(trained.known[0]),
            step_limits=limits,
            bands_hash=Bands((), tuple(limits)).sha256 if sha256 is None else sha256,
        )

    many = range(64)
    half = he.T // 2
    cases = {
        "2 to 64 steps": (asked(many), asked((3, 3)), asked((4, 3))),
        "do not fit": (asked(good.limits, bytes(32)), asked((0, half)), asked((-half, 0)), asked((0, 1 << 62))),
        "without their digest": (asked(good.limits, b""),),
    }

    async def scenario():
        async with scoring(homes) as command:
            for words, messages in cases.items():
                for message in messages:
                    with pytest.raises(MessageError, match=words):
                        await command.call("tax", "EncryptRecord", message, pb.EncryptedRecord, timeout_s=5)

    asyncio.run(scenario())


def test_fewer_steps_and_more_than_a_score_may_tell(trained, homes):
    """Eight steps take three bits of a year; 33 are given where every holder's policy lets a score tell more."""
    firm, eight = trained.known[3], steps_of(trained.model, 8)

    async def ask(*numbers):
        async with scoring(homes) as command:
            return [await score(command, f"n{n}", firm, output="score", score_steps=n) for n in numbers]

    few, usual, many = asyncio.run(ask(8, 32, 40))
    units = np.array([trained.units[firm]])
    assert (few.status, few.steps, few.step) == ("scored", len(eight.names), int(eight.index(units)[0]))
    assert (usual.status, usual.steps) == ("scored", len(trained.steps.names))
    assert many.status == "failed"
    assert {"tells more than 5 bits (bits_per_score): ask for at most 32" in p.reason for p in many.parties} == {True}
    assert [bits for _, bits in told(homes, "tax", firm)] == [eight.bits, trained.steps.bits]
    for party in HOLDERS:
        set_policy(homes, party, release=DEFAULT | {"bits_per_score": 6, "bits_per_year": 100})
    (fine,) = asyncio.run(ask(64))
    finest = steps_of(trained.model, 64)
    assert (fine.steps, fine.step) == (len(finest.names), int(finest.index(units)[0]))
