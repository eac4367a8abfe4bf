"""Brings the issuer's list of withdrawn consents from the portal to every holder, until each has it."""

from __future__ import annotations

import asyncio

import structlog

from party_bank.portal.consents import OwnerConsents
from veilscore.console.link import NodeLink
from veilscore.errors import VeilscoreError
from veilscore.fabric.watches import described
from veilscore.release.consent import body_of
from veilscore.v1 import control_pb2 as pb

METHOD = "Withdrawn"
_CALL_S = 5.0
_AGAIN_S = 20.0
_PAGE_S = 3.0


class WithdrawalPushes:
    """Calls each holder with the newest list; what one does not take now it is given again, or gets from another.

    consents : whose list; link : to the nodes of the federation.
    """

    def __init__(self, consents: OwnerConsents, link: NodeLink) -> None:
        self._consents, self._link = consents, link
        self._has: dict[str, int] = {}
        self._log = structlog.get_logger("party_bank.portal")

    async def push(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Give the list to all holders that lack it; return who has it now, and who does not yet."""
        signed = await asyncio.to_thread(self._consents.withdrawals)
        fabric = await self._link.fabric()
        holders = [m.name for m in fabric.federation.members if m.role == "holder" and m.address is not None]
        if signed is None:
            return tuple(holders), ()
        number = int(body_of(signed)["number"])
        lacking = [name for name in holders if self._has.get(name, -1) < number]
        message = signed.to_message()

        async def bring(name: str) -> None:
            try:
                await self._link.call(name, METHOD, message, pb.HeldRevocations, _CALL_S)
                self._has[name] = number
            except VeilscoreError as error:
                self._log.info("withdrawals wait", holder=name, error=type(error).__name__)

        await asyncio.gather(*(bring(name) for name in lacking))
        has = tuple(name for name in holders if self._has.get(name, -1) >= number)
        return has, tuple(name for name in holders if name not in has)

    async def soon(self) -> None:
        """Push now, for as long as a person waits for a page; what is left is pushed again later."""
        try:
            async with asyncio.timeout(_PAGE_S):
                await self.push()
        except Exception as error:  # noqa: BLE001 - what the person did is done already
            self._log.info("withdrawals wait", **described(error))

    async def keep_pushing(self) -> None:
        """Push what is new, for ever."""
        while True:
            try:
                await self.push()
            except Exception as error:  # noqa: BLE001 - this work never ends by an error
                self._log.error("withdrawals", **described(error))
            await asyncio.sleep(_AGAIN_S)
