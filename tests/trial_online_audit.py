"""Scores of real nodes, and their audit from the holders' logs; for tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from trial_scoring import score, scoring

from veilscore.evidence.documents import load_keys
from veilscore.evidence.online_audit import OnlineAudit
from veilscore.evidence.witness import Witnesses
from veilscore.node.online_spares import BankSpares

if TYPE_CHECKING:
    from pathlib import Path

    from veilscore.evidence.audit import Finding
    from veilscore.evidence.witness import ShareOpened

HOLDERS = ("tax", "registry")


def released(homes: Path, firms: list[str], *, model: str = "firms", spared: int = 0) -> None:
    """Score firms one after the other, the last `spared` of them from spares where the nodes make them."""

    async def work() -> None:
        async with scoring(homes) as command:
            for number, firm in enumerate(firms):
                if spared and number == len(firms) - spared:
                    await _stocked(spared)
                response = await score(command, f"r{number}", firm, model=model, on_missing="missing_code")
                assert response.status in {"scored", "fallback"}, response

    asyncio.run(work())


async def _stocked(n: int) -> None:
    """Wait until the bank of this process has made so many spares with each holder."""
    for _ in range(300):
        if len(made) >= n * len(HOLDERS):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no spares")


made: list[int] = []


def counted(monkeypatch, spares: int) -> None:
    """Bound the stock of spares, and count what is made; 0: none are made."""
    from veilscore.node import online_bank, online_spares

    made.clear()
    add = BankSpares.add
    monkeypatch.setattr(BankSpares, "add", lambda *arguments: made.append(1) or add(*arguments))
    monkeypatch.setattr(online_spares, "SPARES", spares)
    monkeypatch.setattr(online_bank, "_IDLE_S", 0.01)


def logged(homes: Path, *holders: str) -> list[ShareOpened]:
    """What these holders logged when they opened their parts, by verified logs."""
    witnesses = Witnesses()
    for holder in holders or HOLDERS:
        witnesses.add_log(homes / holder / "evidence" / "log.jsonl", load_keys(homes / "federation.yaml"))
    return witnesses.opened


def audit(homes: Path, bank: Path | None = None, *, trained: bool = True) -> list[Finding]:
    """Findings of all opened parts, in the order of the logs: first the tax bureau's."""
    opened = logged(homes)
    made_by = {one.model: {"job": frozenset(HOLDERS)} for one in opened} if trained else {}
    found = OnlineAudit(bank or homes / "bank", opened, made_by)
    return [found.finding(one) for one in opened]
