"""The bank asks holders' nodes for their sections on a firm, under the firm's own consent, and checks what comes.

Messages: WriteSection, to each holder that the consent names (veilscore/node/sections.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from party_bank.assistants.sections import SectionShelf
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.release.consent import Signed, claim_of
from veilscore.reports.section import SignedSection
from veilscore.v1 import control_pb2 as pb

METHOD = "WriteSection"
CALL_S = 60.0
Call = Callable[[str, pb.AskSection], Awaitable[pb.WrittenSection]]


@dataclass(frozen=True)
class AskedSection:
    """What came of asking one holder: how many fields it told, or why none."""

    holder: str
    fields: int
    refusal: str = ""


async def ask_sections(
    shelf: SectionShelf, call: Call, firm: str, documents: Sequence[str], dataset: str
) -> list[AskedSection]:
    """Ask every holder that the firm's consents to reports name, side by side, and keep what each of them signed.

    call : calls a holder; documents : ids of the firm's consents that the book has (`firms.report_consents`).
    dataset : name of the data set at holders, as in jobs.
    Raises RefusedError where no consent to reports of this firm is here and valid.
    """
    consents = await asyncio.to_thread(shelf.consents, firm, documents)
    if not consents:
        raise RefusedError(
            "no consent of this firm to credit reports is here and valid: ask the firm for one (the portal, or "
            "`veilscore consent import` and `veilscore bank book consents`)"
        )

    async def one(holder: str, consent: Signed) -> AskedSection:
        message = pb.AskSection(consent=consent.to_message().SerializeToString(), firm=firm, dataset=dataset)
        try:
            reply = await call(holder, message)
            signed = SignedSection.from_text(reply.section, f"what {holder} sent")
            if (signed.section.holder, signed.section.firm) != (holder, firm):
                raise RefusedError(f"{holder} sent a section of another holder or firm")
            await asyncio.to_thread(shelf.keep, signed)
        except VeilscoreError as error:
            return AskedSection(holder, 0, error.message)
        return AskedSection(holder, len(signed.section.told))

    asked = [(holder, consent) for consent in consents for holder in claim_of(consent).scope.holders]
    return sorted(await asyncio.gather(*(one(*both) for both in asked)), key=lambda found: found.holder)
