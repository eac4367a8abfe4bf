"""Brings the issuer's list of withdrawn consents from the portal to every holder, until each has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from party_bank.portal.consents import OwnerConsents
from veilscore.console.link import NodeLink
from veilscore.errors import RefusedError, VeilscoreError
from veilscore.fabric.watches import described, for_ever
from veilscore.release.consent import body_of
from veilscore.v1 import control_pb2 as pb

METHOD = "Withdrawn"
_CALL_S = 5.0
_AGAIN_S = 20.0
_PAGE_S = 3.0
_ALL_AGAIN_S = 3600.0


class WithdrawalPushes:
    """Calls each holder with the newest list; what one does not take now it is given again, or gets from another.

    consents : whose list; link : to the nodes of the federation; catch_up : signs what could not be signed before.
    """

    def __init__(self, consents: OwnerConsents, link: NodeLink, catch_up: Callable[[], None]) -> None:
        self._consents, self._link, self._catch_up = consents, link, catch_up
        self._has: dict[str, int] = {}
        self._brought_s = time.monotonic()
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
            except RefusedError as error:
                self._log.error("withdrawals refused", holder=name, reason=error.message)
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
        """Push what is new, for ever, and all of it again now and then: a holder may go back to an older backup."""
        await for_ever(_AGAIN_S, [self._round], self._failed, at_once=True)

    async def _round(self) -> None:
        if time.monotonic() - self._brought_s > _ALL_AGAIN_S:
            self._brought_s = time.monotonic()
            self._has.clear()
        await asyncio.to_thread(self._catch_up)
        await self.push()

    def _failed(self, error: Exception) -> None:
        self._log.error("withdrawals", **described(error))
