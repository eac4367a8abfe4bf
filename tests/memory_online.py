"""All parties of an online score in memory: real roles, real encryption, real coordinator; no nodes, no files."""

from __future__ import annotations

import hashlib
import itertools
from functools import partial
from types import SimpleNamespace

from coordinator.totals import Totals
from veilscore.crypto.he import PublicContext, SecretContext
from veilscore.errors import RefusedError
from veilscore.evidence.online_opening import draw_opening
from veilscore.online.share_keys import ShareKeys
from veilscore.online.stock import HolderSpares
from veilscore.protocols.online import CALLER, bank_score, holder_score
from veilscore.protocols.online_desks import BankRequest, HolderDesk, HolderRecord
from veilscore.protocols.online_pool import LeadPool, bank_extends, bank_pool
from veilscore.protocols.online_spares import bank_spare, holder_spare
from veilscore.release.single import Passed
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.calls import Calls, Served, run_calls
from veilscore.wire.protocol import call, work

MODEL = hashlib.sha256(b"model").digest()
_SECRETS = {}


async def now(do):
    return do()


class Network:
    """Calls by name; each message passes as bytes and is remembered as (sender, recipient, message)."""

    def __init__(self):
        self.parties, self.seen = {}, []

    def caller(self, sender):
        async def make(to, method, request, reply, *, timeout_s):
            assert method == type(request).__name__
            assert timeout_s > 0
            request = self._carried(sender, to, request)
            return self._carried(to, sender, await self.parties[to].answer(sender, request), reply)

        return Calls(make, now)

    def _carried(self, sender, to, message, kind=None):
        carried = (kind or type(message)).FromString(message.SerializeToString())
        self.seen.append((sender, to, carried))
        return carried


class MemoryCoordinator:
    def __init__(self, network):
        self.name, self._totals = "coordinator", Totals(5.0)
        network.parties[self.name] = self

    async def answer(self, sender, request):
        handler = self._totals.add_partial if isinstance(request, pb.AddPartial) else self._totals.total
        return await handler(request, SimpleNamespace(name=sender))


class MemoryHolder:
    """A holder with one record; what it logs, admits and keeps is there to be looked at."""

    def __init__(self, network, name, cells, holders, *, bands=None, known=True, refuses="", part=b"m" * 32):
        self.name = name
        self.cells, self.holders, self.bands, self.known, self.refuses = cells, holders, bands, known, refuses
        self.part, self.released_as = part, ""
        self.discloses_unknown, self.without_others = True, False
        self.share_keys = ShareKeys(name)
        self.logged, self.admitted, self.kept = [], 0, {}
        self.spares, self.pools, self.roles = HolderSpares(), {}, {}
        self.caller = network.caller(name)
        network.parties[name] = self

    def secret(self):
        return _SECRETS.setdefault(self.name, SecretContext())

    @property
    def desk(self):
        return HolderDesk(
            name=self.name,
            coordinator="coordinator",
            share_key_id=self.share_keys.id,
            share_keys=self.share_keys.with_peers,
            find=self.find,
            take_spare=self.spares.take,
            pool=lambda bank, pool_id: self.pools.get((bank, pool_id)),
            opened=self.kept.get,
            count=self.count,
            write_down=self.write_down,
        )

    async def answer(self, sender, request):
        member = SimpleNamespace(name=sender)
        if isinstance(request, pb.ShareKey):
            return await self.share_keys.answer(request, member)
        if isinstance(request, pb.AskKeys):
            return pb.HolderKeys(public_key=self.secret().public_bytes, keys_id=self.secret().keys_id)
        if isinstance(request, pb.MakePool | pb.ExtendPool):
            return self._pool(sender, request)
        if isinstance(request, pb.BandPartial):
            self.roles[request.bank, request.request_id].put(sender, request)
            return pb.Empty()
        if isinstance(request, pb.PrepareSpare | pb.FinishSpare):
            spare = partial(holder_spare, sender, self.secret, self.n_cells, self.spares.add)
            return await self._asked((sender, "spare", request.spare_id), spare, request)
        key = sender, request.request_id
        return await self._asked(key, partial(holder_score, self.desk, *key), request)

    def _pool(self, sender, request):
        if isinstance(request, pb.MakePool):
            pool = self.pools[sender, request.pool_id] = LeadPool.of(sender, self.name, request, 0)
            return pool.made
        if (sender, request.pool_id) not in self.pools:
            raise RefusedError("no such pool", party=self.name)
        self.pools[sender, request.pool_id].extend(request)
        return pb.Empty()

    async def _asked(self, key, role, request):
        served = self.roles[key] = self.roles.get(key) or Served(role(), self.caller)
        try:
            return await served.ask(key[0], request)
        finally:
            if served.ended:
                del self.roles[key]

    async def find(self, _bank, request):
        if self.refuses:
            raise RefusedError(self.refuses, party=self.name)
        passed = Passed(None, None, 1, self.released_as)
        told = {"discloses_unknown": self.discloses_unknown, "without_others": self.without_others}
        return HolderRecord(request.firm_id, self.cells, self.known, 1.0, (), self.holders, passed, self.bands, **told)

    async def n_cells(self, _bank, _asked):
        return self.cells.size

    async def count(self, sent):
        self.admit(sent.passed)
        self.logged.append(sent.logged)

    async def write_down(self, opening):
        self.admit(opening.passed)
        self.logged += opening.logged
        return self.kept.setdefault(opening.key, (opening.request, opening.data))[1]

    def admit(self, _passed):
        self.admitted += 1


class MemoryBank:
    """The bank's side of some points, with a stock of spares that a test fills."""

    def __init__(self, network, sides, own_units=0, bands=None):
        self.network, self.sides, self.own_units, self.bands = network, sides, own_units, bands
        self.caller = network.caller("bank")
        self.stock, self.contexts, self.opens, self.before = {holder: [] for holder in sides}, {}, {}, None
        self.pools, self._numbers = {}, itertools.count()

    def opening(self, holder, use, ident, n_spares=1):
        return draw_opening("bank", holder, use, ident, n_spares)

    def context(self, holder, keys_id):
        if keys_id not in self.contexts:
            keys = yield from call(holder, pb.AskKeys(), pb.HolderKeys)
            self.contexts[keys_id] = yield from work(lambda: PublicContext(keys.public_key))
        return self.contexts[keys_id]

    def keep(self, opening, prepared):
        """Nothing is kept."""

    def pool(self, lead, n=1):
        if lead not in self.pools:
            self.pools[lead] = yield from bank_pool(self.opening(lead, "pool", f"pool{next(self._numbers)}"))
        if not self.pools[lead].has(n):
            yield from bank_extends(self.pools[lead])
        return self.pools[lead]

    def drop_pool(self, pool):
        del self.pools[pool.opening.holder]

    def make_spare(self, holder, _lost=None):
        side = self.sides[holder]
        return bank_spare(self, side, side.cells.size, f"spare{next(self._numbers)}")

    async def make_spares(self):
        for holder in self.sides:
            self.stock[holder].append(await run_calls(self.make_spare(holder), self.caller))

    def role(self, request_id, on_missing="fail", firm="firm"):
        """Role of one request, which `score` asks."""
        bands_hash = b"" if self.bands is None else self.bands.sha256
        ask = pb.EncryptRecord(
            request_id=request_id, firm_id=firm, model_hash=MODEL, on_missing=on_missing, bands_hash=bands_hash
        )
        request = BankRequest(
            ask=ask,
            sides=self.sides,
            own_units=self.own_units,
            bands=self.bands,
            coordinator="coordinator",
            limit_s=10.0,
            take_spare=lambda holder: self.stock[holder].pop() if self.stock[holder] else None,
            make_spare=self.make_spare,
            put_back=lambda holder, spare: self.stock[holder].append(spare),
            pool=self.pool,
            drop_pool=self.drop_pool,
            opened_before=lambda _: self.before,
            note=lambda part, sent: self.opens.update({part.holder: sent}),
        )
        return Served(bank_score(request), self.caller)

    async def score(self, request_id, on_missing="fail"):
        return await self.role(request_id, on_missing).ask(CALLER, pb.ScoreRequest())
