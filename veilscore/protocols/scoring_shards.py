"""Scores many firms by a scorecard in shards of rows (`veilscore.protocols.shards`), each as `scoring` does them all.

Source   : `veilscore.protocols.scoring`; ADR 31.
Parties  : as there; the nodes agree on the batch once, their workers score. The coordinator has no shards.
Messages : BatchBankRound1 -> BatchHolderRound1 between nodes; all others of `scoring` within ShardMessage. Where totals
           are opened, holders' nodes send BatchHolderPartial of all rows to the coordinator.
Reveals  : as `scoring`, and how many shards there are.
Assumes  : as `scoring`; a party trusts the machines of its workers as that of its node.
Aborts   : as `scoring` and `shards`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.crypto import shares
from veilscore.models.loss import TURN
from veilscore.protocols.banding import bank_bands, lead_bands
from veilscore.protocols.scoring import (
    BandResult,
    BatchRequest,
    BatchResult,
    HolderAnswer,
    HolderPart,
    ask_holders,
    bank_points_share,
    lead_share,
    opened_totals,
    points_share,
    release_share,
    tell,
    zero_share_keys,
)
from veilscore.protocols.shards import InShards, in_shards, slices
from veilscore.terms.bands import Bands
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, Session

OPENS = (pb.BandLeadDecoding.__name__,)


def bank_score_shards(
    session: Session,
    coordinator: str,
    rows: Mask,
    own_points: Integers,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    inputs: bytes,
    in_parts: InShards,
) -> Protocol[BatchResult]:
    """Bank: as `bank_score`."""
    yield Send(coordinator, pb.BatchBankRound0(n_scored=own_points.size))
    unknown = yield from ask_holders(session, rows, parts, model_hash, None, inputs)
    total = yield from _bank_shards(session, own_points, parts, None, in_parts)
    return BatchResult((yield from opened_totals(session, coordinator, total, own_points, parts)), unknown)


def bank_score_bands_shards(
    session: Session,
    rows: Mask,
    own_points: Integers,
    parts: dict[str, HolderPart],
    model_hash: bytes,
    bands: Bands,
    inputs: bytes,
    in_parts: InShards,
) -> Protocol[BandResult]:
    """Bank: as `bank_score_bands`."""
    unknown = yield from ask_holders(session, rows, parts, model_hash, bands, inputs)
    return BandResult((yield from _bank_shards(session, own_points, parts, bands, in_parts)), unknown)


def holder_score_shards(
    session: Session,
    coordinator: str,
    request: BatchRequest,
    answer: HolderAnswer,
    in_parts: InShards,
) -> Protocol[int]:
    """Holder: as `holder_score`."""
    yield from tell(session, request, answer)
    n_scored = int(request.rows.sum())
    # the masks of each shard are bound to all rows of the batch, as those of `scoring` are
    bound = replace(request, inputs=request.inputs + hashlib.sha256(shares.bits_to_bytes(request.rows)).digest())
    arguments = [
        (
            replace(bound, rows=np.ones(piece.stop - piece.start, bool)),
            replace(answer, codes=np.ascontiguousarray(answer.codes[piece]), unknown=answer.unknown[piece]),
        )
        for piece in slices(n_scored, in_parts.count)
    ]
    found = yield from in_shards(session, in_parts.engage, holder_shard, arguments, OPENS)
    if answer.bands is None:
        keys = yield from zero_share_keys(session)
        yield from release_share(session, coordinator, request, answer, np.concatenate(found), keys, TURN)
    return n_scored


def _bank_shards(
    session: Session,
    own_points: Integers,
    parts: dict[str, HolderPart],
    bands: Bands | None,
    in_parts: InShards,
) -> Protocol[Integers]:
    arguments = [(own_points[piece], parts, bands) for piece in slices(own_points.size, in_parts.count)]
    return np.concatenate((yield from in_shards(session, in_parts.engage, bank_shard, arguments)))


def bank_shard(
    session: Session, own_points: Integers, parts: dict[str, HolderPart], bands: Bands | None
) -> Protocol[Integers]:
    """Bank's worker: return its shares of the totals of its rows, or their bands where these are opened."""
    total = yield from bank_points_share(session, own_points, parts)
    return total if bands is None else (yield from bank_bands(session, total, bands, TURN))


def holder_shard(session: Session, request: BatchRequest, answer: HolderAnswer) -> Protocol[Words]:
    """Holder's worker: return its shares of the totals of its rows; nothing where their bands are opened."""
    share = yield from points_share(session, answer.codes, answer.n_codes)
    if answer.bands is None:
        return share
    keys = yield from zero_share_keys(session)
    total = yield from lead_share(session, request, share, keys, TURN)
    if total is not None:
        yield from lead_bands(session, total, answer.bands, TURN)
    return share[:0]
