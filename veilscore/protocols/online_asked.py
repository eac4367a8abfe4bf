"""Remembers what a bank asked of a holder under one request id, and what it was sent, until a part is opened."""

from __future__ import annotations

from dataclasses import dataclass, field

from veilscore.crypto.garbled import Garbler
from veilscore.crypto.tweaked_hash import Labels
from veilscore.errors import RefusedError
from veilscore.protocols.online_desks import HolderRecord
from veilscore.protocols.online_pool import LeadPool
from veilscore.protocols.online_spares import HolderSpare
from veilscore.v1 import control_pb2 as pb

_SENT_KEPT = 8  # records sent under one request id, by calls that were repeated
LeadLabels = tuple[LeadPool, Labels, Garbler]
Spares = tuple[object, ...]


def spares_of(request: pb.EncryptRecord | pb.OpenPartial) -> Spares:
    """Return which spares a request names."""
    return request.spare_id, *sorted(request.spare_ids.items())


@dataclass(frozen=True, repr=False)
class SentRecord:
    """A record that was sent.

    request : the last call for this record; answer : what every call for it got.
    record : with what it was let pass for.
    spares : by measure ("" of a score), what hides it.
    """

    request: pb.EncryptRecord
    record: HolderRecord
    spares: dict[str, HolderSpare]
    answer: pb.EncryptedRecord


@dataclass(repr=False)
class Asked:
    """What a bank asks for under one request id.

    sent : by spares, what was sent with them; they open that record alone.
    labels : at the lead of a band, by digest of the OpenPartial that spent them.
    """

    sent: dict[Spares, SentRecord] = field(default_factory=dict)
    labels: dict[bytes, LeadLabels] = field(default_factory=dict)

    def check_same(self, request: pb.EncryptRecord, party: str) -> None:
        """Refuse a call for another record than was sent before; RefusedError."""
        if any(_same(request) != _same(sent.request) for sent in self.sent.values()):
            raise RefusedError("this request id was used here already; use a new one", party=party)

    def keep(self, sent: SentRecord) -> None:
        """Keep what was sent last, in place of what was sent with the same spares; the oldest goes."""
        self.sent[spares_of(sent.request)] = sent
        while len(self.sent) > _SENT_KEPT:
            del self.sent[next(iter(self.sent))]

    def sent_with(self, request: pb.OpenPartial, party: str) -> SentRecord:
        """Return what was sent with the spares that a bank names, whatever was sent later; RefusedError if nothing."""
        sent = self.sent.get(spares_of(request))
        if sent is None:
            raise RefusedError("no record was sent with this spare; use a new request id", party=party)
        return sent


def _same(request: pb.EncryptRecord) -> tuple[object, ...]:
    """Return what is the same in all calls for a record under one request id."""
    part = request.map_hash, request.part_hash
    return request.firm_id, request.model_hash, request.on_missing, request.bands_hash, *part
