"""Scores of real nodes, and their audit from the holders' logs; for tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from trial_scoring import known_to_all, score, scoring

from veilscore.audit.online import OnlineAudit
from veilscore.evidence.documents import load_keys
from veilscore.evidence.online_archive import FOLDER
from veilscore.evidence.online_rows import ROWS, OpenedParts
from veilscore.evidence.witness import Witnesses
from veilscore.online import stock as online_stock
from veilscore.online.stock import BankSpares
from veilscore.protocols import online_spares

if TYPE_CHECKING:
    from pathlib import Path

    from veilscore.audit.replay import Finding
    from veilscore.evidence.online_opening import ShareOpened
    from veilscore.v1 import control_pb2 as pb

HOLDERS = ("tax", "registry")


def known(homes: Path, count: int) -> list[str]:
    """Firms that every party has."""
    return known_to_all(homes)[:count]


def released(
    homes: Path,
    firms: list[str],
    *,
    model: str = "firms",
    spared: int = 0,
    honest: bool = True,
    prefix: str = "r",
    output: str = "exact",
) -> list[pb.ScoreResponse]:
    """Score firms one after the other, the last `spared` of them from spares where the nodes make them."""
    responses = []

    async def work() -> None:
        async with scoring(homes) as command:
            for number, firm in enumerate(firms):
                if spared and number == len(firms) - spared:
                    await stocked(spared)
                asked = {"model": model, "on_missing": "missing_code", "output": output}
                response = await score(command, f"{prefix}{number}", firm, **asked)
                assert not honest or response.status in {"scored", "fallback"}, response
                responses.append(response)

    asyncio.run(work())
    return responses


made: list[int] = []


async def stocked(n: int) -> None:
    """Wait until the bank of this process has made so many spares with each holder."""
    for _ in range(300):
        if len(made) >= n * len(HOLDERS):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no spares")


def counted(monkeypatch, spares: int) -> None:
    """Bound the stock of spares, and count what is made; 0: none are made but one for each request."""
    made.clear()
    if not spares:
        monkeypatch.setattr(online_spares, "MOST_SPARES", 1)
    add = BankSpares.add
    monkeypatch.setattr(BankSpares, "add", lambda *arguments: made.append(1) or add(*arguments))
    monkeypatch.setattr(online_stock, "SPARES", spares)
    monkeypatch.setattr(online_stock, "_IDLE_S", 0.01)


def unpacked(bank: Path) -> Path:
    """Turn what a bank keeps of its scores into files, as in a bundle, so that a test can change it."""
    folder = bank / FOLDER
    parts = OpenedParts(folder)
    for name, record in list(parts.records()):
        (folder / f"{name}.reply").write_bytes(parts.reply(name))
        (folder / f"{name}.json").write_bytes(record)
    for path in folder.glob(f"{ROWS}*"):
        path.unlink()
    return bank


def kept_parts(bank: Path) -> dict[str, bytes]:
    """Return the bank's records of what holders opened, by name."""
    return dict(OpenedParts(bank / FOLDER).records())


def witnessed(homes: Path, *holders: str) -> Witnesses:
    """What these holders logged, by verified logs."""
    witnesses = Witnesses()
    for holder in holders or HOLDERS:
        witnesses.add_log(homes / holder / "evidence" / "log.jsonl", load_keys(homes / "federation.yaml"))
    return witnesses


def logged(homes: Path, *holders: str) -> list[ShareOpened]:
    """What these holders logged when they opened their parts."""
    return witnessed(homes, *holders).opened


def audit(
    homes: Path, bank: Path | None = None, *, trained: bool = True, holders: tuple[str, ...] = ()
) -> list[Finding]:
    """Findings of all opened parts, in the order of the logs: first the tax bureau's; then those of bands."""
    logs = witnessed(homes, *holders)
    made_by = {one.model: {"job": frozenset(HOLDERS)} for one in logs.opened} if trained else {}
    found = OnlineAudit(bank or homes / "bank", logs.opened, made_by, logs.circuits)
    return found.findings([*logs.opened, *logs.circuits])
