"""What nodes have ready for requests for single firms: spares, transfers for bands, holders' keys.

All of it lives in memory and dies with the process; the bank makes it while no requests come, or little is left.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from veilscore.crypto.he import PublicContext
from veilscore.errors import IdentityError, PeerError, ProtocolError, RefusedError, VeilscoreError
from veilscore.evidence.online_archive import OnlineArchive
from veilscore.evidence.online_opening import OnlineOpening, Use, draw_opening
from veilscore.online.model import BankModel
from veilscore.online.per_bank import PerBank
from veilscore.protocols.online_pool import CIRCUITS, BankPool, bank_extends, bank_pool
from veilscore.protocols.online_spares import BankSpare, HolderSpare, bank_spares, spares_together
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, run_calls
from veilscore.wire.protocol import Protocol, call, work
from veilscore.wire.randomness import secret_bytes

SPARES = 512  # a holder and model; a few kB each at the holder, a few bytes at the bank
LOW = 160  # from here on spares are made although requests keep coming: half a second of three hundred requests each
_HELD = 4096  # spares at a holder, all banks and models
_IDLE_S = 0.2  # without a request, before spares are made


class HolderSpares:
    """Keeps a holder's finished spares by bank and id; the oldest go first, of the bank that has the most."""

    def __init__(self) -> None:
        self._spares: PerBank[HolderSpare] = PerBank(_HELD)

    def add(self, bank: str, spare: HolderSpare) -> None:
        """Take a spare in."""
        self._spares.put(bank, spare.spare_id, spare)

    def take(self, bank: str, spare_id: str, part: bytes) -> HolderSpare | None:
        """Take a spare of this part of a model out, if there is one."""
        spare = self._spares.get(bank, spare_id)
        return self._spares.pop(bank, spare_id) if spare is not None and spare.part == part else None

    def counts(self) -> dict[str, int]:
        """Return how many spares there are by bank."""
        return self._spares.counts()


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

    def add(self, holder: str, model: BankModel, spare: BankSpare) -> bool:
        """Put a spare into the stock; return False where the model was replaced meanwhile."""
        kept = self._stock.get((holder, model.artefact.name))
        if kept is None or kept[0] is not model:
            return False
        kept[1].append(spare)
        return True

    def drop(self, holder: str, model: BankModel, lost: BankSpare) -> None:
        """Forget what was made under the same keys as a spare of which the holder has lost its half."""
        kept = self._stock.get((holder, model.artefact.name))
        if kept is not None:
            left = [spare for spare in kept[1] if spare.keys_id != lost.keys_id]
            kept[1].clear()
            kept[1].extend(left)

    def counts(self) -> dict[str, int]:
        """Return how many spares there are by holder and model, as "holder/model"."""
        return {f"{holder}/{model}": len(stock) for (holder, model), (_, stock) in self._stock.items()}

    def most_wanted(self) -> dict[str, tuple[BankModel, int]]:
        """Return for each holder the model with the smallest stock, and its size; without those whose stock is full."""
        found: dict[str, tuple[BankModel, int]] = {}
        for (holder, _), (model, stock) in self._stock.items():
            if len(stock) < min(SPARES, found[holder][1] if holder in found else SPARES):
                found[holder] = model, len(stock)
        return found


class BankPools:
    """Keeps the bank's pool of transfers with each lead; with one that does not answer none is made ahead.

    make : makes one with a lead.
    caller : of the node.
    """

    def __init__(self, make: Callable[[str], Protocol[BankPool]], caller: Calls) -> None:
        self._make, self._caller = make, caller
        self._pools: dict[str, BankPool] = {}
        self._growing: dict[str, asyncio.Task[None]] = {}

    @property
    def wanted(self) -> str:
        """Return a lead with whom few circuits are left; "" if there is none."""
        return next((lead for lead, pool in self._pools.items() if pool.left < CIRCUITS // 2), "")

    def begin(self, lead: str) -> None:
        """See to it that there is a pool with the likely lead, while holders encrypt."""
        if lead not in self._pools:
            self._grow(lead)

    def take(self, lead: str, n: int = 1) -> Protocol[BankPool]:
        """Return a pool with n circuits left, made or extended where there is none."""
        while True:
            pool = self._pools.get(lead)
            if pool is not None and pool.has(n):
                return pool
            yield from work(partial(self.grown, lead))

    async def grown(self, lead: str) -> None:
        """Wait until there are more circuits with a lead; one call at a time goes to it."""
        await asyncio.shield(self._grow(lead))

    def drop(self, pool: BankPool) -> None:
        """Forget a pool of which the lead has lost its half."""
        if self._pools.get(pool.opening.holder) is pool:
            del self._pools[pool.opening.holder]

    def _grow(self, lead: str) -> asyncio.Task[None]:
        if lead not in self._growing:
            task = self._growing[lead] = self._caller.begin(run_calls(self._more(lead), self._caller))
            task.add_done_callback(lambda _: self._growing.pop(lead))
        return self._growing[lead]

    def _more(self, lead: str) -> Protocol[None]:
        """Extend the pool with a lead; a pool that is full or that the lead has lost is made anew."""
        for _ in range(2):
            kept = self._pools.get(lead)
            pool = kept if kept is not None and not kept.full else (yield from self._make(lead))
            try:
                yield from bank_extends(pool)
            except VeilscoreError:
                self.drop(pool)
                if pool is not kept:
                    raise
            else:
                self._pools[lead] = pool
                return


class BankStock:
    """Keeps all that the bank has ready, and makes more (`protocols.online_spares.BankSecrets`).

    name : of the bank.
    caller : of its node.
    archive : keeps what an auditor needs of spares.
    """

    def __init__(self, name: str, caller: Calls, archive: OnlineArchive) -> None:
        self._name, self._caller, self._archive = name, caller, archive
        self.spares = BankSpares()
        self.pools = BankPools(self._pool, caller)
        self._contexts: dict[str, PublicContext] = {}
        self._making: dict[tuple[str, int], asyncio.Task[deque[BankSpare]]] = {}
        self._refill: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("veilscore.online").bind(party=name)

    def opening(self, holder: str, use: Use, ident: str, n_spares: int = 1) -> OnlineOpening:
        """Draw what the next reply to a holder is bound to."""
        return draw_opening(self._name, holder, use, ident, n_spares)

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

    def made_spare(
        self, holder: str, model: BankModel, limit_s: float, lost: BankSpare | None = None
    ) -> Protocol[BankSpare]:
        """Return a spare of those that are being made with a holder; all requests that find none wait for the same.

        limit_s : how long this request can wait; PeerError then, while the spares are made for others.
        lost : one of which the holder has lost its half.
        """
        end_s = time.monotonic() + limit_s

        async def more() -> deque[BankSpare]:
            try:
                async with asyncio.timeout(end_s - time.monotonic()):
                    return await self.more(holder, model)
            except TimeoutError:
                raise PeerError(f"{holder} has no spare ready within {limit_s:g} s", party=holder) from None

        if lost is not None:
            self.spares.drop(holder, model, lost)
        failed = False
        while True:
            spare = self.spares.take(holder, model)
            if spare is not None:
                return spare
            try:
                left = yield from work(more)
            except (PeerError, ProtocolError) as error:
                # begun for others, perhaps, and cut in two by a restart of the holder: once more from the start
                if failed or isinstance(error, RefusedError | IdentityError):
                    raise
                failed = True
                continue
            if left:
                return left.popleft()

    async def more(self, holder: str, model: BankModel) -> deque[BankSpare]:
        """Make as many spares for a model as fit into one message, whatever records they will serve.

        Returns those that found no place in the stock, as the model was replaced: for the requests that have it still.
        """
        key = holder, id(model)
        if key not in self._making:
            task = self._making[key] = self._caller.begin(run_calls(self._make_spares(holder, model), self._caller))
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(self._making[key])

    def _make_spares(self, holder: str, model: BankModel) -> Protocol[deque[BankSpare]]:
        n_cells = _n_cells(model, holder)
        side, ident, n = model.holders[holder], secret_bytes(16).hex(), spares_together(n_cells)
        made = yield from bank_spares(self, side, n_cells, ident, n)
        return deque(spare for spare in made if not self.spares.add(holder, model, spare))

    def _pool(self, lead: str) -> Protocol[BankPool]:
        pool = yield from bank_pool(self.opening(lead, "pool", secret_bytes(16).hex()))
        yield from work(lambda: self._archive.keep_pool(pool.opening, pool.made))
        return pool

    def refill(self, idle_since_s: Callable[[], float | None]) -> None:
        """Begin after a request to make what is wanted, once requests are over.

        idle_since_s : monotonic time since when there was no request; None while there is one.
        """
        if self._refill is None or self._refill.done():
            self._refill = self._caller.begin(self._fill(idle_since_s))

    async def _fill(self, idle_since_s: Callable[[], float | None]) -> None:
        """Make spares and transfers; gives up at an error, until the next request."""
        try:
            while (wanted := self.spares.most_wanted()) or self.pools.wanted:
                since_s = idle_since_s()
                idle = since_s is not None and time.monotonic() - since_s >= _IDLE_S
                making: list[Coroutine[Any, Any, object]] = [
                    self.more(holder, model) for holder, (model, n) in wanted.items() if idle or n < LOW
                ]
                if self.pools.wanted:
                    making.append(self.pools.grown(self.pools.wanted))
                if making:
                    await asyncio.gather(*making)
                else:
                    await asyncio.sleep(_IDLE_S / 10)
        except VeilscoreError as error:
            self._log.warning("no spares", error=type(error).__name__, message=error.message)


def _n_cells(model: BankModel, holder: str) -> int:
    """Return how many numbers of a holder stand for a record."""
    side = model.holders[holder]
    return max(1, model.trees[holder].n_bits) if side.part_hash else side.cells.size
