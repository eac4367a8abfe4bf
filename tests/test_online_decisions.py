"""Decisions on single firms between real nodes over TLS: equal to the plaintext, repeated, refused, charged."""

from __future__ import annotations

import asyncio

import pytest
from consent_issuer import token, token_bytes
from finished_jobs import finished
from trial_decisions import expected, file_decisions
from trial_scoring import copy_of, known_to_all, score, scoring
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.files.private import private_folder
from veilscore.release.issuer import import_consent


@pytest.fixture(scope="module")
def filed():
    return finished(file_decisions)


@pytest.fixture
def homes(filed, tmp_path):
    return copy_of(filed, private_folder(tmp_path / "homes"))


async def decide(command, request_id, firm, decision="limit", **fields):
    consent = token_bytes(firm, purpose="proactive", tasks=("decide",))
    fields = {"consent": consent, "on_missing": "missing_code"} | fields
    return await score(command, request_id, firm, model=decision, output="decision", timeout_s=20.0, **fields)


@pytest.mark.federation
@pytest.mark.slow
def test_single_decisions_are_those_of_the_plaintext(filed, homes):
    steps, known = expected(filed, "limit"), set(known_to_all(filed))
    firms = list(steps)
    chosen = [next(f for f in firms if steps[f] == k and f in known) for k in sorted({steps[f] for f in known})]
    chosen += [f for f in firms if f not in known][:2]

    async def scenario():
        async with scoring(homes) as command:
            found = [await decide(command, f"d{k}", firm) for k, firm in enumerate(chosen)]
            again = await decide(command, "d0", chosen[0])
            other = await decide(command, "d0", chosen[1])
            later = await decide(command, "later", chosen[0])
            told = await decide(command, "told", chosen[0], decision="told")
            watch = await decide(command, "w", chosen[0], decision="alarm")
            words = ["decide", chosen[1], "--decision", "limit", "--on-missing", "missing_code", "--home", str(home)]
            by_command = await asyncio.to_thread(CliRunner().invoke, app, words, env={"COLUMNS": "200"})
            spent = await decide(command, "spent", chosen[1], consent=b"")
            return found, again, other, later, told, watch, by_command, spent

    home = homes / "bank"
    kept = import_consent(home, token(chosen[1], purpose="proactive", tasks=("decide",)), "token", "1")
    found, again, other, later, told, watch, by_command, spent = asyncio.run(scenario())
    assert f"(step {steps[chosen[1]]} of 5)" in by_command.stdout
    assert not kept.exists()  # it served its one request
    assert (spent.status, {p.status for p in spent.parties}) == ("failed", {"refused"})
    assert [r.message for r in found if r.status == "failed"] == []
    assert [r.step for r in found] == [steps[firm] for firm in chosen]
    assert len({r.step for r in found}) > 2
    assert again == found[0]
    assert (other.status, other.failure) == ("refused", "reused")
    assert (later.step, later.status) == (found[0].step, "scored")
    assert (told.step, told.measure in {"card", "risk", "capacity", "bound"}) == (found[0].step, True)
    assert "month by month" in watch.message
    assert {p.party: p.status for p in found[0].parties} == {"tax": "ok", "registry": "not disclosed"}
