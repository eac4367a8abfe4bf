"""The bank's side of the band of one firm; the whole protocol is described in `veilscore.online.service`.

Set-ups of oblivious transfer need neither firm nor share: the bank makes them with the lead while it is idle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from veilscore.errors import VeilscoreError
from veilscore.evidence.online_opening import OnlineOpening, draw_opening
from veilscore.fabric.fabric import Fabric
from veilscore.online.bands_holder import InThread
from veilscore.protocols.online_band import BankBand, names_of
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.randomness import secret_bytes

STOCK = 16  # set-ups kept ready with a lead; 200 kB each at the bank


@dataclass(frozen=True, repr=False)
class Setup:
    """A set-up with a lead: what the bank is committed to, and the choices that it was sent for it."""

    setup_id: str
    role: BankBand
    opening: OnlineOpening
    choices: bytes


class BankBands:
    """The bank's set-ups with each lead.

    Parameters
    ----------
    name : of the bank.
    in_thread : runs work in its thread.
    """

    def __init__(self, name: str, in_thread: InThread) -> None:
        self._name = name
        self._stock: dict[str, deque[Setup]] = {}
        self.in_thread = in_thread
        self.fabric: Fabric

    @property
    def wanted(self) -> str:
        """Lead whose stock is not full; "" if there is none."""
        return next((lead for lead, stock in self._stock.items() if len(stock) < STOCK), "")

    async def fill(self, lead: str, timeout_s: float, least: int = STOCK) -> None:
        """Make a set-up with this lead unless there are `least`; while that works its stock is kept up."""
        stock = self._stock.setdefault(lead, deque())
        if len(stock) < least:
            try:
                stock.append(await self._made(lead, timeout_s))
            except VeilscoreError:
                self.drop(lead)
                raise

    async def take(self, lead: str, timeout_s: float) -> Setup:
        """Take a set-up out of the stock, or make one."""
        stock = self._stock.setdefault(lead, deque())
        return stock.popleft() if stock else await self._made(lead, timeout_s)

    def drop(self, lead: str) -> None:
        """Forget the stock: the lead has lost its halves."""
        self._stock.pop(lead, None)

    async def _made(self, lead: str, timeout_s: float) -> Setup:
        setup_id = secret_bytes(16).hex()
        opening = draw_opening(self._name, lead, "band", setup_id)
        role = await self.in_thread(lambda: BankBand(names_of(self._name, lead, setup_id), opening.seed_bytes))
        message = pb.BandBase(setup_id=setup_id, point=role.point, commitment=opening.commitment)
        reply = await self.fabric.call(lead, "BandBase", message, pb.BandChoices, timeout_s=timeout_s)
        await self.in_thread(lambda: role.accept(reply.points))
        return Setup(setup_id, role, opening, reply.points)


class BandCall:
    """One request's band: asked for again, the same labels are sent.

    Parameters
    ----------
    of : the bank's set-ups.
    bands : of the model.
    """

    def __init__(self, of: BankBands, bands: Bands) -> None:
        self.bands = bands
        self._of = of
        self._ready: asyncio.Task[None] | None = None
        self._sent: tuple[pb.BandLabels, Setup] | None = None

    @property
    def used(self) -> Setup | None:
        """Set-up under which labels were asked for."""
        return None if self._sent is None else self._sent[1]

    def begin(self, lead: str, timeout_s: float) -> asyncio.Task[None]:
        """See to it that there is a set-up with the likely lead, while holders encrypt."""

        async def filled() -> None:
            try:
                await self._of.fill(lead, timeout_s, 1)
            except VeilscoreError:
                return  # whoever leads in the end is asked again, and tells why not

        self._ready = asyncio.create_task(filled())
        return self._ready

    async def open(self, release_id: str, lead: str, share: int, timeout_s: float) -> tuple[str, int]:
        """Why there is no band, or "" and its number.

        Parameters
        ----------
        share : the bank's, of the total.

        Raises
        ------
        MessageError : the lead's answer is no band.
        """
        if self._ready is not None:
            await asyncio.wait([self._ready])
        reply = await self._ask(release_id, lead, share, timeout_s)
        if reply.status == "no set-up":  # the lead was restarted since: nothing was opened under these labels
            self._of.drop(lead)
            self._sent = None
            reply = await self._ask(release_id, lead, share, timeout_s)
        if reply.status != "opened" or self._sent is None:
            return reply.reason or "no band was opened; repeat the request under its id", 0
        role = self._sent[1].role
        return "", await self._of.in_thread(lambda: role.open(reply.tables, reply.decoding))

    async def _ask(self, release_id: str, lead: str, share: int, timeout_s: float) -> pb.BandTables:
        if self._sent is None:
            setup = await self._of.take(lead, timeout_s)
            labels = setup.role.labels(share, self.bands)
            self._sent = pb.BandLabels(request_id=release_id, setup_id=setup.setup_id, labels=labels), setup
        return await self._of.fabric.call(lead, "BandLabels", self._sent[0], pb.BandTables, timeout_s=timeout_s)
