"""A holder's side of the band of one firm; the whole protocol is described in `veilscore.online.service`.

The lead opens one circuit for a request id: other labels, under another set-up or not, are refused, since a bank that
shifts its own share could search for the score that way. What is needed for it lives in memory; after a restart of the
lead the request is lost and a new id is asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from veilscore.arrays import Words
from veilscore.errors import ConfigError, MessageError, PeerError, ProtocolError, RefusedError
from veilscore.evidence.online_opening import check_commitment
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.fabric import Fabric
from veilscore.protocols.adding import add_partials, parse_partial
from veilscore.protocols.online_band import LeadBand, names_of
from veilscore.terms.bands import Bands, KeptBands
from veilscore.terms.federation import Member
from veilscore.terms.policy import SCORE_ONLINE, NodePolicy, Request
from veilscore.v1 import control_pb2 as pb

R = TypeVar("R")
_PEER_S = 10.0
_REQUESTS_KEPT = 4096
_SETUPS_KEPT = 256  # at a lead, all banks; a hundred kB or so each
_ID_CHARACTERS = 100
_MOST_PARTIES = 1000


class InThread(Protocol):
    """Runs work in a node's own thread."""

    async def __call__(self, work: Callable[[], R]) -> R:
        """Result of `work`."""


def kept_bands(folder: Path, policy: NodePolicy, map_hash: bytes, bands_hash: bytes) -> Bands:
    """Holder: the bands that it keeps of a model, which must be those of the request.

    Parameters
    ----------
    folder : of the model in the holder's home.
    map_hash, bands_hash : of the request.

    Raises
    ------
    RefusedError : none are kept, they are others, or the policy does not let them out; says what to do.
    """
    try:
        kept = KeptBands.load(folder)
        bands = Bands.of(kept.bands, kept.units)
    except ConfigError as error:
        raise RefusedError(error.message) from None
    if kept.map_sha256 != map_hash.hex():
        raise RefusedError("the bands kept here are of another version of the model: restore bands.json from backup")
    if bands.sha256 != bands_hash:
        raise RefusedError(
            "the bands of the request are not those that this party accepted with the training job: score with the "
            "model as it was trained, or name other bands in a batch"
        )
    policy.release.allow_bands(bands, kept.units, kept.pdo)
    return bands


@dataclass(frozen=True, repr=False)
class _Setup:
    """A set-up at the lead; `commitment` is the bank's, to the seed of its side."""

    point: bytes
    commitment: bytes
    made: asyncio.Task[LeadBand]


@dataclass
class _Request:
    """A request at the lead; `parties` and `bands` are there once the lead has opened its own part."""

    parts: dict[str, tuple[tuple[str, ...], bytes]] = field(default_factory=dict, repr=False)
    parties: tuple[str, ...] = ()
    bands: Bands | None = None
    asked: bytes = b""
    answer: asyncio.Task[pb.BandTables] | None = None


class LeadBands:
    """A holder's side of bands: sends its part to the lead, or as the lead adds parts up and opens the band.

    Parameters
    ----------
    name, policy : of the holder.
    in_thread : its thread.
    """

    def __init__(self, name: str, policy: NodePolicy, in_thread: InThread) -> None:
        self._name = name
        self._policy = policy
        self._in_thread = in_thread
        self.evidence: EvidenceRecorder | None = None
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._setups: OrderedDict[str, _Setup] = OrderedDict()
        self._fabric: Fabric

    def register(self, fabric: Fabric) -> None:
        """Offer the calls of the lead."""
        self._fabric = fabric
        fabric.register("BandPartial", {"holder"}, pb.BandPartial, self._partial)
        fabric.register("BandBase", {"bank"}, pb.BandBase, self._base)
        fabric.register("BandLabels", {"bank"}, pb.BandLabels, self._labels)

    # 2. open

    async def send(self, bank: str, request: pb.OpenPartial, partial: bytes, bands: Bands | None) -> pb.OpenedPartial:
        """Bring this holder's opened part to the lead, who is the first of the parties.

        Parameters
        ----------
        partial : as it was written down.
        bands : of the request; None in a repeat, and after a restart.
        """
        lead = request.with_parties[0]
        if lead != self._name:
            message = pb.BandPartial(
                request_id=request.request_id, bank=bank, partial_share=partial, with_parties=request.with_parties
            )
            await self._fabric.call(lead, "BandPartial", message, pb.Empty, timeout_s=_PEER_S)
            return pb.OpenedPartial(status="opened")
        mine = self._request(f"{bank}/{request.request_id}")
        if mine.bands is None and bands is not None:
            mine.parties, mine.bands = tuple(request.with_parties), bands
            mine.parts[self._name] = mine.parties, partial
        if mine.bands is None:
            return pb.OpenedPartial(status="lost", reason=_lost(self._name))
        return pb.OpenedPartial(status="opened")

    async def _partial(self, message: pb.BandPartial, peer: Member) -> pb.Empty:
        parties = tuple(message.with_parties)
        if not parties or parties[0] != self._name or peer.name not in parties[1:] or len(parties) > _MOST_PARTIES:
            raise ProtocolError(f"{peer.name} sent a part of a band that {self._name} does not lead", party=peer.name)
        parse_partial(message.partial_share, 1, peer.name)
        request = self._request(f"{_id(message.bank, peer)}/{_id(message.request_id, peer)}")
        part = parties, message.partial_share
        if request.parts.setdefault(peer.name, part) != part:
            raise ProtocolError(
                f"{peer.name} sent a second, different partial for one request; use a new request id", party=peer.name
            )
        return pb.Empty()

    # 1. set-ups, also ahead of requests

    async def _base(self, message: pb.BandBase, peer: Member) -> pb.BandChoices:
        self._policy.allows(Request(bank=peer.name, purpose=None, task=SCORE_ONLINE), self._name)
        setup_id = _id(message.setup_id, peer)
        key, point, name = f"{peer.name}/{setup_id}", message.point, peer.name
        check_commitment(message.commitment, name)
        kept = self._setups.get(key)
        if kept is None:
            names = names_of(name, self._name, setup_id)
            made = asyncio.ensure_future(self._in_thread(lambda: LeadBand(names, point)))
            kept = self._setups[key] = _Setup(point, message.commitment, made)
            while len(self._setups) > _SETUPS_KEPT:
                self._setups.popitem(last=False)
        if (kept.point, kept.commitment) != (point, message.commitment):
            raise MessageError("this set-up was made with another point or commitment", party=name)
        return pb.BandChoices(points=(await asyncio.shield(kept.made)).choices)

    # 3. the band

    async def _labels(self, message: pb.BandLabels, peer: Member) -> pb.BandTables:
        key = f"{peer.name}/{_id(message.request_id, peer)}"
        setup = f"{peer.name}/{_id(message.setup_id, peer)}"
        request = self._requests.get(key)
        if request is None or request.bands is None:
            return pb.BandTables(status="lost", reason=_lost(self._name))
        digest = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        if request.answer is None:
            if setup not in self._setups:
                return pb.BandTables(status="no set-up")
            share, bands = _sum_of_parts(request), request.bands
            # nothing is awaited from here to the task, so that no other labels come between
            request.asked = digest
            used = self._setups.pop(setup)
            request.answer = asyncio.ensure_future(self._garble(used, message, peer.name, share, bands))
        elif request.asked != digest:
            return pb.BandTables(status="refused", reason="a band was opened under this request id; use a new one")
        return await asyncio.shield(request.answer)

    async def _garble(
        self, setup: _Setup, message: pb.BandLabels, bank: str, share: Words, bands: Bands
    ) -> pb.BandTables:
        role = await setup.made

        def work() -> tuple[bytes, bytes]:
            found = role.answer(message.labels, share, bands)
            if self.evidence is not None:
                self.evidence.band_opened(message, bank, setup.commitment, role.choices, bands.sha256)
            return found

        tables, decoding = await self._in_thread(work)
        return pb.BandTables(status="opened", tables=tables, decoding=decoding)

    def _request(self, key: str) -> _Request:
        request = self._requests.setdefault(key, _Request())
        while len(self._requests) > _REQUESTS_KEPT:
            self._requests.popitem(last=False)
        return request


def _sum_of_parts(request: _Request) -> Words:
    """Sum (1,) modulo T of the parts of all that take part."""
    late = [p for p in request.parties if p not in request.parts]
    if late:
        raise PeerError(f"no partial from {', '.join(late)} yet; repeat the request")
    if any(request.parts[p][0] != request.parties for p in request.parties):
        raise ProtocolError("the holders of this request are not those it began with; use a new request id")
    return add_partials([parse_partial(request.parts[p][1], 1, p) for p in request.parties])


def _lost(name: str) -> str:
    return f"{name} was restarted since, or is overloaded; use a new request id"


def _id(text: str, peer: Member) -> str:
    if not (0 < len(text) <= _ID_CHARACTERS and text.isascii() and text.isprintable() and "/" not in text):
        raise ProtocolError("an id is 1 to 100 printable ASCII characters without a slash", party=peer.name)
    return text
