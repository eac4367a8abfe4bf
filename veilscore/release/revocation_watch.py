"""Holders fetch newer revocation lists from each other, so that a list brought to one of them reaches all.

Messages: Revocations, from holder to holder. Without an issuer the answer says which lists there are; with one, it is
          a piece of its newest list. Withdrawn, from a bank whose portal firms' owners withdraw at: a list.
Reveals : to other holders of the federation what the issuer's list says: ids of consents, and commitments to firms
          among random ones, which whoever has the list can test a guessed id against. Banks and the coordinator do not
          get it. To a bank that brings a list: whether this holder has it now, or another with no lower number.
Assumes : nothing of who hands a list on: it counts by its issuer's signature, and below the number that is known it
          is not taken.
"""

from __future__ import annotations

import asyncio

import structlog

from veilscore.errors import MessageError, RefusedError, VeilscoreError
from veilscore.fabric.fabric import Fabric
from veilscore.fabric.watches import described, for_ever
from veilscore.release.consent import Signed
from veilscore.release.revocations import RevocationLists
from veilscore.terms.federation import Member
from veilscore.v1 import control_pb2 as pb

POLL_S = 30.0
CALL_S = 10.0
_PIECE_BYTES = 4 << 20
_MOST_BYTES = 256 << 20
_MOST_ISSUERS = 1000


class RevocationWatch:
    """Fetches newer lists for one holder, and gives others what it has.

    lists : the holder's own; what is fetched is kept there.
    fabric : `Revocations` is registered at it.
    """

    def __init__(self, lists: RevocationLists, issuers: dict[str, str], fabric: Fabric) -> None:
        self._lists, self._issuers, self._fabric = lists, issuers, fabric
        self.poll_s = POLL_S
        self._log = structlog.get_logger("veilscore.release.revocation_watch").bind(party=fabric.name)
        fabric.register("Revocations", {"holder"}, pb.AskRevocations, self._answer)
        fabric.register("Withdrawn", {"bank"}, pb.SignedConsent, self._brought)

    def trust(self, issuers: dict[str, str]) -> None:
        """Take lists of these issuers from now on, as a new policy names them."""
        if issuers != self._issuers:
            self._lists, self._issuers = self._lists.of(issuers), issuers

    async def watch(self) -> None:
        """Fetch what is newer, for ever."""
        await for_ever(self.poll_s, (self.fetch_all,), self._failed)

    def _failed(self, error: Exception) -> None:
        said = {"message": error.message} if isinstance(error, VeilscoreError) else described(error)
        self._log.error("revocations", **said)

    async def fetch_all(self, timeout_s: float = CALL_S) -> None:
        """Ask all other holders once and take what is newer; one that does not answer is asked again later."""
        others = [
            m.name
            for m in self._fabric.federation.members
            if m.role == "holder" and m.address is not None and m.name != self._fabric.name
        ]
        await asyncio.gather(*(self._fetch(name, timeout_s) for name in others if self._issuers))

    async def _fetch(self, name: str, timeout_s: float) -> None:
        try:
            held = await self._ask(name, pb.AskRevocations(), timeout_s)
            if len(held.numbers) > _MOST_ISSUERS:
                raise MessageError(f"{name} names more than {_MOST_ISSUERS} issuers", party=name)
            known = (await asyncio.to_thread(self._lists.now)).newest
            for issuer, number in sorted(held.numbers.items()):
                if issuer in self._issuers and (issuer not in known or number > known[issuer][0].number):
                    signed = Signed.from_bytes(await self._whole(name, issuer, number), name)
                    if await asyncio.to_thread(self._lists.take, signed):
                        self._log.warning("revocation list", issuer=issuer, number=number, source=name)
        except VeilscoreError as error:
            self._log.info("revocations not fetched", member=name, error=type(error).__name__)

    async def _whole(self, name: str, issuer: str, number: int) -> bytes:
        data = b""
        while True:
            asked = pb.AskRevocations(issuer=issuer, number=number, offset=len(data))
            held = await self._ask(name, asked, CALL_S)
            data += held.piece
            if not held.piece or held.size > _MOST_BYTES or len(data) > held.size:
                raise MessageError(f"{name} sent a revocation list that is none", party=name)
            if len(data) == held.size:
                return data

    async def _ask(self, name: str, asked: pb.AskRevocations, timeout_s: float) -> pb.HeldRevocations:
        return await self._fabric.call(name, "Revocations", asked, pb.HeldRevocations, timeout_s=timeout_s, retry=False)

    async def _brought(self, brought: pb.SignedConsent, peer: Member) -> pb.HeldRevocations:
        """Take a list that a bank brings, where an issuer that this holder trusts signed it; it counts as any other.

        RefusedError where the one that is here has another content and no lower number, so that no withdrawal is lost
        without a word.
        """
        signed = Signed.from_bytes(brought.SerializeToString(), peer.name)
        if await asyncio.to_thread(self._lists.take, signed):
            self._log.warning("revocation list", source=peer.name)
        elif signed.body not in {one.body for _, one in (await asyncio.to_thread(self._lists.now)).newest.values()}:
            raise RefusedError(
                "a list of this issuer with the same or a higher number is here: bring the newest, and see whether the "
                "issuer's folder was restored from a backup or is used twice",
                party=peer.name,
            )
        return pb.HeldRevocations()

    async def _answer(self, asked: pb.AskRevocations, peer: Member) -> pb.HeldRevocations:
        newest = (await asyncio.to_thread(self._lists.now)).newest
        if not asked.issuer:
            return pb.HeldRevocations(numbers={issuer: one.number for issuer, (one, _) in newest.items()})
        found = newest.get(asked.issuer)
        if found is None or found[0].number != asked.number:
            raise RefusedError("this list is not here any more, or not yet: ask again which there are", party=peer.name)
        data = found[1].to_message().SerializeToString()
        piece = data[asked.offset : asked.offset + _PIECE_BYTES]
        return pb.HeldRevocations(size=len(data), piece=piece)
