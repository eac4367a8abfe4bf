"""A bank asks a holder for records and opens none of them, opens them when rules have changed, or opens them again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math

import pytest
import trial_scoring
from consent_issuer import ISSUERS, OFTEN, token_bytes
from finished_jobs import finished
from test_online_service import spare_for
from trial_scoring import copy_of, known_to_all, open_node, score, scoring, set_policy, train

from veilscore.errors import RefusedError
from veilscore.evidence.usage import usage
from veilscore.models.filed import load_model
from veilscore.models.steps import steps_of
from veilscore.online.records import load_map
from veilscore.release.ledger import LEDGER, ONLINE, ReleaseLedger
from veilscore.terms.bands import MAX_STEPS, Bands
from veilscore.v1 import control_pb2 as pb

TWO = Bands.steps((0,), MAX_STEPS)
USUAL = {"bits_per_year": 10.0, "repeats_per_model": 1000, "models_per_firm": 1000}


@pytest.fixture
def homes(tmp_path):
    return copy_of(finished(train), tmp_path)


class Asking:
    """A bank that writes its own messages to the tax bureau."""

    def __init__(self, homes, command):
        self.homes, self.command, self.ids = homes, command, itertools.count()
        self.model = load_model(homes / "bank" / "models" / "firms" / "model.json")
        self.firm = known_to_all(homes)[0]

    async def record(self, request_id=None, *, bands=TWO, **changes):
        """Ask for the firm's record under a spare of its own."""
        part = self.model.part("tax")
        asked = pb.EncryptRecord(
            request_id=request_id or f"q{next(self.ids)}",
            firm_id=self.firm,
            model_hash=self.model.sha256,
            map_hash=bytes.fromhex(part.map_sha256),
            purpose="credit",
            on_missing="missing_code",
            consent=token_bytes(self.firm),
            bands_hash=b"" if bands is None else bands.sha256,
            step_limits=() if bands is None else bands.limits,
            spare_id=await spare_for(self.command, "tax", self.model),
        )
        asked.MergeFrom(pb.EncryptRecord(**changes))
        return asked, await self.command.call("tax", "EncryptRecord", asked, pb.EncryptedRecord, timeout_s=5)

    async def opens(self, asked, reply):
        """Have the bureau open a record by itself."""
        opening = pb.OpenPartial(
            request_id=asked.request_id,
            spare_id=asked.spare_id,
            with_parties=["tax"],
            share_key_ids={"tax": reply.share_key_id},
        )
        await self.command.call("tax", "OpenPartial", opening, pb.OpenedPartial, timeout_s=5)


def counted(homes):
    with contextlib.closing(ReleaseLedger(homes / "tax" / LEDGER)) as ledger:
        return [one.bits for one in ledger.releases(0.0) if one.kind == ONLINE]


def changed(homes, firm, *, away):
    """Take a firm out of the bureau's data, or put it back."""
    path, kept = homes / "data" / "tax.csv", homes / "tax-kept.csv"
    if not kept.exists():
        kept.write_text(path.read_text())
    lines = kept.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not (away and line.startswith(firm))))


CHANGES = {
    "purposes": (["other"], "is not among the purposes"),
    "banks": (["another"], "does not work for bank"),
    "retired_models": (["firms"], "model 'firms' is retired here"),
    "exact_for": ({}, "refuses exact scores to bank"),
    "disclose_unknown": (False, "does not say which firms it knows"),
    "consent_issuers": ({"other": "0a" * 32}, "whose key this holder's policy does not list"),
    "issuer_banks": ({"portal": ["another"]}, "does not speak for firms of bank"),
    "online_without_others": (False, "opens its part only together with all holders"),
}


def test_a_record_that_was_sent_is_opened_by_the_policy_of_now(homes, monkeypatch):
    """What was asked for under one policy stays at the holder: opened later, it went by the bank and the task alone."""
    nodes = {}
    monkeypatch.setattr(trial_scoring, "open_node", lambda *of: nodes.setdefault(of[1], open_node(*of)))
    usual = {"consent": "required", "disclose_unknown": True, "online_without_others": True, "issuer_banks": {}}
    usual |= {"purposes": [], "banks": [], "retired_models": [], "release": OFTEN, "exact_for": {"bank": "9999-12-31"}}
    usual["consent_issuers"] = ISSUERS

    async def under(**changes):
        set_policy(homes, "tax", **usual | changes)
        await nodes["tax"].policy.take()

    async def scenario():
        async with scoring(homes) as command:
            asking = Asking(homes, command)
            for key, (value, says) in CHANGES.items():
                await under()
                sent = await asking.record(bands=None, fresh=True, on_missing="fail")
                await under(**{key: value})
                with pytest.raises(RefusedError, match=says):
                    await asking.opens(*sent)
            other = token_bytes(known_to_all(homes)[1])
            await under(consent="off")
            asked = [await asking.record(bands=None, fresh=True, consent=token) for token in (other, None)]
            await under()
            with pytest.raises(RefusedError, match="consent is another firm's"):
                await asking.opens(*asked[0])
            n_counted = len(counted(homes))
            await asking.opens(*asked[1])
            assert len(counted(homes)) == n_counted + 1

    asyncio.run(scenario())


def test_codes_for_reasons_are_counted_before_they_leave(homes):
    """The bin of a column came with the record, and was counted with the opening that a bank never asked for."""
    code_map = load_map(homes / "tax" / "models" / "firms" / "code_map.json")
    bits = 1.0 + math.log2(code_map.n_codes[0])
    set_policy(homes, "tax", reason_columns=[code_map.names[0]], release=USUAL)

    async def scenario():
        async with scoring(homes) as command:
            asking = Asking(homes, command)
            answers = [(await asking.record(fresh=True))[1] for _ in range(int(10 // bits))]
            with pytest.raises(RefusedError, match="release budget"):
                await asking.record(fresh=True)
            return answers

    answers = asyncio.run(scenario())
    (use,) = (one for one in usage(homes / "tax") if one.singles)
    assert (use.singles, use.purpose, use.model) == (len(answers), "credit", "firms")
    assert all(answer.reason_codes for answer in answers)
    assert counted(homes) == [pytest.approx(bits)] * len(answers)


def test_that_a_record_changed_is_counted_before_it_is_told(homes):
    """A bank that asked each day heard at no cost when a firm's record became another, so that it is known at all."""
    set_policy(homes, "tax", release=USUAL, disclose_unknown=False)

    async def scenario():
        async with scoring(homes) as command:
            asking = Asking(homes, command)
            bands = steps_of(asking.model, 2)
            assert (await asking.record(bands=bands))[1].difference_share
            assert counted(homes) == []  # nothing is told: there is none before to compare with
            fields = {"output": "score", "score_steps": 2, "on_missing": "missing_code"}
            assert (await score(command, "a", asking.firm, **fields)).status == "scored"
            assert (await asking.record(bands=bands))[1].released_as
            assert counted(homes) == [1.0]
            changed(homes, asking.firm, away=True)
            assert (await asking.record("told", bands=bands))[1].difference_share
            assert counted(homes) == [1.0, 1.0]
            changed(homes, asking.firm, away=False)
            assert (await asking.record(bands=bands))[1].released_as  # as it was when it was opened

    asyncio.run(scenario())
    assert sum(one.singles for one in usage(homes / "tax")) == 2
