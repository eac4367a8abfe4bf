"""What nodes have ready for requests for single firms: spares, set-ups of bands, holders' keys.

All of it lives in memory and dies with the process; the bank makes it while no requests come, or little is left.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial

import structlog

from veilscore.crypto.he import PublicContext
from veilscore.errors import PeerError, VeilscoreError
from veilscore.evidence.online_opening import OnlineArchive, OnlineOpening, Use, draw_opening
from veilscore.online.model import BankModel
from veilscore.protocols.online_band import BankSetup, bank_setup
from veilscore.protocols.online_spares import BankSpare, HolderSpare, bank_spare
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, run_calls
from veilscore.wire.protocol import Protocol, call, work
from veilscore.wire.randomness import secret_bytes

SPARES = 256  # a holder and model; a few kB each at the holder, a few bytes at the bank
LOW = 32  # from here on spares are made although requests keep coming
STOCK = 16  # set-ups of bands kept ready with a lead; 200 kB each at the bank
_HELD = 4096  # spares at a holder, all banks and models
_IDLE_S = 0.2  # without a request, before spares are made


class HolderSpares:
    """Keeps a holder's finished spares by bank and id; the oldest go first."""

    def __init__(self) -> None:
        self._spares: OrderedDict[tuple[str, str], HolderSpare] = OrderedDict()

    def add(self, bank: str, spare: HolderSpare) -> None:
        """Take a spare in."""
        self._spares[bank, spare.spare_id] = spare
        while len(self._spares) > _HELD:
            self._spares.popitem(last=False)

    def take(self, bank: str, spare_id: str, part: bytes) -> HolderSpare | None:
        """Take a spare of this part of a model out, if there is one."""
        spare = self._spares.get((bank, spare_id))
        return self._spares.pop((bank, spare_id)) if spare is not None and spare.part == part else None


class BankSpares:
    """Keeps the bank's spares by holder and model."""

    def __init__(self) -> None:
        self._stock: dict[tuple[str, str], tuple[BankModel, deque[BankSpare]]] = {}

    def take(self, holder: str, model: BankModel) -> BankSpare | None:
        """Take a spare out, if there is one; from now on this model's stock is kept up."""
        key = holder, model.artefact.name
        if key not in self._stock or self._stock[key][0] is not model:
            self._stock[key] = model, deque()
        stock = self._stock[key][1]
        return stock.popleft() if stock else None

    def add(self, holder: str, model: BankModel, spare: BankSpare) -> None:
        """Put a spare into the stock, unless the model was replaced meanwhile."""
        kept = self._stock.get((holder, model.artefact.name))
        if kept is not None and kept[0] is model:
            kept[1].append(spare)

    def drop(self, holder: str, model: BankModel) -> None:
        """Forget the stock: the holder has lost its halves."""
        kept = self._stock.get((holder, model.artefact.name))
        if kept is not None:
            kept[1].clear()

    def most_wanted(self) -> tuple[str, BankModel, int] | None:
        """Return holder and model with the smallest stock, and its size; None if all are full."""
        short = [
            (len(stock), holder, name) for (holder, name), (_, stock) in self._stock.items() if len(stock) < SPARES
        ]
        if not short:
            return None
        n, holder, name = min(short)
        return holder, self._stock[holder, name][0], n


class BankSetups:
    """Keeps the bank's set-ups with each lead; with one that does not answer none is made before a request needs it.

    make : makes one with a lead.
    """

    def __init__(self, make: Callable[[str], Protocol[BankSetup]]) -> None:
        self._make = make
        self._stock: dict[str, deque[BankSetup]] = {}
        self._ahead: dict[str, asyncio.Task[None]] = {}

    @property
    def wanted(self) -> str:
        """Return the lead whose stock is not full; "" if there is none."""
        return next((lead for lead, stock in self._stock.items() if len(stock) < STOCK), "")

    def fill(self, lead: str, least: int = STOCK) -> Protocol[None]:
        """Make a set-up with this lead unless there are `least`; while that works its stock is kept up."""
        stock = self._stock.setdefault(lead, deque())
        if len(stock) < least:
            try:
                stock.append((yield from self._make(lead)))
            except VeilscoreError:
                self.drop(lead)
                raise

    def begin(self, lead: str, caller: Calls) -> None:
        """See to it that there is a set-up with the likely lead, while holders encrypt."""
        if not self._stock.get(lead) and lead not in self._ahead:
            task = self._ahead[lead] = caller.begin(run_calls(self.fill(lead, 1), caller))
            task.add_done_callback(lambda _: self._ahead.pop(lead))

    def take(self, lead: str) -> Protocol[BankSetup]:
        """Take a set-up out of the stock, or make one."""
        ahead = self._ahead.get(lead)
        if ahead is not None:
            yield from work(partial(_ended, ahead))
        stock = self._stock.setdefault(lead, deque())
        return stock.popleft() if stock else (yield from self._make(lead))

    def drop(self, lead: str) -> None:
        """Forget the stock: the lead has lost its halves."""
        self._stock.pop(lead, None)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


class BankStock:
    """Keeps all that the bank has ready, and makes more (`protocols.online_spares.BankSecrets`).

    name : of the bank.
    caller : of its node.
    archive : keeps what an auditor needs of spares.
    """

    def __init__(self, name: str, caller: Calls, archive: OnlineArchive) -> None:
        self._name, self._caller, self._archive = name, caller, archive
        self.spares = BankSpares()
        self.setups = BankSetups(self._setup)
        self._contexts: dict[str, PublicContext] = {}
        self._refill: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("veilscore.online").bind(party=name)

    def opening(self, holder: str, use: Use, ident: str) -> OnlineOpening:
        """Draw what the next reply to a holder is bound to."""
        return draw_opening(self._name, holder, use, ident)

    def context(self, holder: str, keys_id: bytes) -> Protocol[PublicContext]:
        """Return the public keys of a holder, asked for once for each of its starts."""
        kept = self._contexts.get(holder)
        if kept is None or kept.keys_id != keys_id:
            keys = yield from call(holder, pb.AskKeys(), pb.HolderKeys)
            kept = yield from work(lambda: PublicContext(keys.public_key))
            if kept.keys_id != keys_id:
                raise PeerError(f"{holder} was restarted meanwhile; repeat the request", party=holder)
            self._contexts[holder] = kept
        return kept

    def keep(self, opening: OnlineOpening, prepared: pb.PreparedSpare) -> None:
        """Keep what an auditor needs of a spare."""
        self._archive.keep_spare(opening, prepared, self._contexts[opening.holder].public_bytes)

    def make_spare(self, holder: str, model: BankModel, limit_s: float = 10.0) -> Protocol[BankSpare]:
        """Make a spare with a holder for a model, whatever record it will serve."""
        side, n_cells = model.holders[holder], 0
        if side.part_hash:
            n_cells = max(1, model.trees[holder].n_bits)
        return bank_spare(self, side, n_cells, secret_bytes(16).hex(), limit_s)

    def _setup(self, lead: str) -> Protocol[BankSetup]:
        return bank_setup(self.opening(lead, "band", secret_bytes(16).hex()))

    def refill(self, idle_since_s: Callable[[], float | None]) -> None:
        """Begin after a request to make what is wanted, once requests are over.

        idle_since_s : monotonic time since when there was no request; None while there is one.
        """
        if self._refill is None or self._refill.done():
            self._refill = self._caller.begin(self._fill(idle_since_s))

    async def _fill(self, idle_since_s: Callable[[], float | None]) -> None:
        """Make spares and set-ups; gives up at an error, until the next request."""
        try:
            while (wanted := self.spares.most_wanted()) or self.setups.wanted:
                holder, model, n_left = wanted or ("", None, LOW)
                since_s = idle_since_s()
                if since_s is None or time.monotonic() - since_s < (_IDLE_S if n_left >= LOW else 0.0):
                    await asyncio.sleep(_IDLE_S / 10)
                    continue
                if model is not None:
                    self.spares.add(holder, model, await run_calls(self.make_spare(holder, model), self._caller))
                if self.setups.wanted:
                    await run_calls(self.setups.fill(self.setups.wanted), self._caller)
        except VeilscoreError as error:
            self._log.warning("no spares", error=type(error).__name__, message=error.message)
