"""A bank searches for a score by online bands: it shifts its own share and reads on which side of a cut-off it falls.

Under one request id the lead opens one circuit, whatever is sent; under new ones each opening counts as a repeat. The
control is the same search with release control off, which finds the score to the unit.
"""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest
from consent_issuer import token_bytes
from finished_jobs import finished
from trial_scoring import copy_of, known_to_all, score, scoring, set_policy, train

from veilscore.crypto import encrypted_cells, he
from veilscore.crypto.he import PublicContext
from veilscore.errors import MessageError, RefusedError
from veilscore.evidence.online_opening import draw_opening
from veilscore.models.filed import load_model
from veilscore.online.bank import OnlineBank
from veilscore.protocols import online, online_band
from veilscore.protocols.online_band import BankCircuit
from veilscore.protocols.online_pool import BankPool
from veilscore.protocols.online_spares import BankSpare
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb

BAND_ONLY = {"output": "band"}
OFF = {"output": "band", "control": "off"}
HOLDERS = ("tax", "registry")


@pytest.fixture(scope="module")
def trained():
    return finished(train)


@pytest.fixture
def homes(trained, tmp_path):
    return copy_of(trained, tmp_path)


def set_release(homes, release):
    for party in HOLDERS:
        set_policy(homes, party, release=release)


def victim(homes):
    return known_to_all(homes)[0]


# --- new request ids -------------------------------------------------------------------------------------------------


def search(homes, monkeypatch):
    """Bounds of the victim's units by shifts of the bank's share against the cut-off at 550 points, and the refusal."""
    shift, share = [0], online.own_share
    monkeypatch.setattr(online, "own_share", lambda *arguments: share(*arguments) - shift[0])
    monkeypatch.setattr(OnlineBank, "_opened_before", lambda *_: None)  # the bank forgets what it got before
    firm, cut, low, high = victim(homes), 55_000, 0, 1 << 17

    async def scenario():
        nonlocal low, high
        async with scoring(homes) as command:
            while high - low > 1:
                middle = (low + high) // 2
                shift[0] = middle - cut
                answer = await score(command, f"q{middle}", firm, output="band", timeout_s=20.0)
                if answer.status != "scored":
                    return " ".join(p.reason for p in answer.parties)
                low, high = (middle, high) if answer.band_number >= 2 else (low, middle)
            return ""

    refusal = asyncio.run(scenario())
    monkeypatch.setattr(online, "own_share", share)
    set_release(homes, {"control": "off"})

    async def truth():
        async with scoring(homes) as command:
            return (await score(command, "truth", firm)).units

    return low, high, refusal, asyncio.run(truth())


@pytest.mark.slow
@pytest.mark.parametrize("release", [OFF, BAND_ONLY], ids=["off", "default"])
def test_shifting_the_banks_share_from_request_to_request(homes, monkeypatch, release):
    set_release(homes, release)
    low, high, refusal, units = search(homes, monkeypatch)
    assert low <= units < high
    if release is OFF:
        assert (high - low, refusal) == (1, "")
    else:
        assert "opened too often" in refusal
        assert high - low >= 1 << 14  # the first opening and two repeats tell three bits of seventeen


# --- one request id --------------------------------------------------------------------------------------------------


class Dishonest:
    """The bank's side written by an attacker, from its model and the calls that holders offer."""

    def __init__(self, homes, command):
        self.model = load_model(homes / "bank" / "models" / "firms" / "model.json")
        self.bands = Bands.of(self.model.bands, self.model.scaling.units)
        self.command, self.firm = command, victim(homes)

    async def call(self, holder, method, message, reply):
        return await self.command.call(holder, method, message, reply, timeout_s=10)

    async def record(self, holder, request_id, spare_id=""):
        message = pb.EncryptRecord(
            request_id=request_id,
            firm_id=self.firm,
            model_hash=self.model.sha256,
            map_hash=bytes.fromhex(self.model.part(holder).map_sha256),
            purpose="credit",
            on_missing="missing_code",
            bands_hash=self.bands.sha256,
            consent=token_bytes(self.firm),
            spare_id=spare_id,
        )
        return await self.call(holder, "EncryptRecord", message, pb.EncryptedRecord)

    async def spare(self, holder):
        """A spare as the bank's node makes it; its id and the mask."""
        part = self.model.part(holder)
        prepare = pb.PrepareSpare(
            spare_id=os.urandom(8).hex(), map_hash=bytes.fromhex(part.map_sha256), commitment=bytes(32)
        )
        prepared = await self.call(holder, "PrepareSpare", prepare, pb.PreparedSpare)
        keys = await self.call(holder, "AskKeys", pb.AskKeys(), pb.HolderKeys)
        points = encrypted_cells.encode_points(part.points)
        done = encrypted_cells.evaluate(PublicContext(keys.public_key), tuple(prepared.ciphertext_enc), points)
        finish = pb.FinishSpare(spare_id=prepare.spare_id, evaluated_enc=done.reply)
        await self.call(holder, "FinishSpare", finish, pb.Empty)
        return BankSpare(prepare.spare_id, int(done.mask_total[0]), None, None)

    async def ask_to_open(self, request_id):
        """Both holders send the record; the sum of the bank's masks, and what then asks them to open."""
        spares = {holder: await self.spare(holder) for holder in HOLDERS}
        replies = {holder: await self.record(holder, request_id, spares[holder].spare_id) for holder in HOLDERS}
        ids = {holder: reply.share_key_id for holder, reply in replies.items()}
        mask, sent = 0, {}
        for holder, reply in replies.items():
            mask += spares[holder].mask_of(reply.difference_share, self.model.part(holder).points, holder)
            sent[holder] = pb.OpenPartial(
                request_id=request_id,
                spare_id=spares[holder].spare_id,
                with_parties=HOLDERS,
                share_key_ids=ids,
                bands_hash=self.bands.sha256,
            )
        return mask, sent

    async def opened(self, holder, message):
        return await self.call(holder, "OpenPartial", message, pb.OpenedPartial)

    async def refused(self, words, holder, method, message, reply):
        with pytest.raises(RefusedError, match=words):
            await self.call(holder, method, message, reply)

    async def pool(self, pool_id):
        pool = BankPool(draw_opening("bank", "tax", "pool", pool_id))
        pool.accept(await self.call("tax", "MakePool", pool.asked, pb.MadePool))
        await self.call("tax", "ExtendPool", pool.extend(), pb.Empty)
        return pool

    async def band(self, message, pool, share):
        """What was sent, the lead's reply or refusal, and the band."""
        circuit = BankCircuit(pool, pool.take(), share, self.bands)
        request = pb.OpenPartial.FromString(message.SerializeToString())
        request.pool_id, request.circuit, request.choices_share = circuit.asked
        try:
            reply = await self.opened("tax", request)
        except RefusedError as refusal:
            return request, refusal, None
        return request, reply, circuit.open(reply.tables, reply.decoding)


def test_shifting_the_banks_share_under_one_request_id(homes):
    """Neither other labels, nor another pool, nor asking at once, nor opening again gets a second band."""
    set_release(homes, BAND_ONLY)

    async def scenario():
        async with scoring(homes) as command:
            bank = Dishonest(homes, command)
            mask, sent = await bank.ask_to_open("one")
            pool = await bank.pool("p")
            own = bank.model.base_points - mask
            assert await bank.opened("registry", sent["registry"]) == pb.OpenedPartial()
            # two different shifts at once: one of them is answered
            both = await asyncio.gather(*(bank.band(sent["tax"], pool, own + 7000 * k) for k in range(2)))
            assert sorted(type(reply).__name__ for _, reply, _ in both) == ["OpenedPartial", "RefusedError"]
            first, reply, band = next(one for one in both if isinstance(one[1], pb.OpenedPartial))
            assert 0 <= band <= 3
            assert await bank.opened("tax", first) == reply  # a retry
            for other in (pool, await bank.pool("q")):
                _, shifted, _ = await bank.band(sent["tax"], other, own + 20_000)
                assert "another reply was opened under this request id" in str(shifted)
            changed = pb.OpenPartial.FromString(first.SerializeToString())
            changed.choices_share = bytes(len(first.choices_share))
            await bank.refused("another reply", "tax", "OpenPartial", changed, pb.OpenedPartial)
            sent["tax"] = first
            for holder, message in sent.items():  # the same bytes open nothing new, other bytes nothing
                again = await bank.opened(holder, message)
                assert again == (reply if holder == "tax" else pb.OpenedPartial())
                message.factors_share = b"other"
                await bank.refused("another reply", holder, "OpenPartial", message, pb.OpenedPartial)
                with pytest.raises(RefusedError, match="used here already"):
                    await bank.record(holder, "one")
            return sent, own

    sent, own = asyncio.run(scenario())

    async def after_a_restart_of_the_lead():
        async with scoring(homes) as command:
            bank = Dishonest(homes, command)
            sent["tax"].factors_share = b""  # as it was
            await bank.refused("use a new request id", "tax", "OpenPartial", sent["tax"], pb.OpenedPartial)
            with pytest.raises(RefusedError, match="used here already"):
                await bank.record("tax", "one")
            _, reply, _ = await bank.band(sent["tax"], await bank.pool("r"), own + 20_000)
            assert "another reply" in str(reply)

    asyncio.run(after_a_restart_of_the_lead())


def test_a_band_request_cannot_be_turned_into_one_for_the_score(homes):
    """A record that was encrypted for a band is opened to no coordinator, nor by other leads."""
    set_release(homes, BAND_ONLY)

    async def scenario():
        async with scoring(homes) as command:
            bank = Dishonest(homes, command)
            spare = await bank.spare("tax")
            await bank.record("tax", "one", spare.spare_id)
            fields = {"request_id": "one", "spare_id": spare.spare_id}
            for changes in (
                {"with_parties": HOLDERS},
                {"with_parties": HOLDERS, "bands_hash": bytes(32)},
                {"with_parties": HOLDERS[::-1], "bands_hash": bank.bands.sha256},
            ):
                with pytest.raises(MessageError, match=r"another output|lead of a band"):
                    await bank.call("tax", "OpenPartial", pb.OpenPartial(**fields, **changes), pb.OpenedPartial)

    asyncio.run(scenario())


@pytest.mark.slow
def test_the_leads_sum_is_uniform_without_the_banks_masks(homes, monkeypatch):
    """What a curious lead holds of one firm, asked for many times, says nothing of its total."""
    set_release(homes, OFF)
    sums, add = [], online_band.sum_of_parts
    monkeypatch.setattr(online_band, "sum_of_parts", lambda *parts: sums.append(add(*parts)) or add(*parts))
    monkeypatch.setattr(OnlineBank, "_opened_before", lambda *_: None)

    async def scenario():
        async with scoring(homes) as command:
            for k in range(60):
                await score(command, f"q{k}", victim(homes), output="band", timeout_s=20.0)

    asyncio.run(scenario())
    found = np.array([int(one[0]) for one in sums])
    assert np.unique(found).size == 60
    assert abs((found / he.T - 0.5).mean()) < 6 * np.sqrt(1 / 12 / 60)
