"""Files at all parties what a bank wrote: a hand-written model, or a decision over filed models.

Source   : docs/decisions.md; hashes of what each party keeps, compared before anything is filed.
Parties  : The bank, and every holder of the job, each of which has accepted the job with all that is written in it.
Messages : For a model WriteHolderMap (to the bank). For a decision FileBankPins -> FileHolderMap -> FileBankDecision.
Reveals  : To the bank, that holders publish the bins it names and have the models it names, by hashes of their code
           maps. To the holders, which versions of models a decision uses and its cut-offs in units; everything else
           stands in the job.
Assumes  : SHA-256 binds. A bank that leaves the protocol files something else at home; the hash then differs from the
           holders' and they refuse to apply it.
Aborts   : RefusedError where a holder does not publish a bin, or has no such version of a model; MessageError on a hash
           or a number of codes that cannot be; ProtocolError where the whole is not the same at both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from veilscore.errors import MessageError, ProtocolError
from veilscore.v1 import filing_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, Session, receive

HASH_BYTES = 32
MAX_PINS_BYTES = 1 << 18  # eight measures with a hash or two of each of 16 holders have a fiftieth of it


@dataclass(frozen=True)
class HolderMap:
    """What a holder tells of the code map that it made: its hash, and the codes of each column."""

    map_hash: bytes
    n_codes: tuple[int, ...]


def bank_write(session: Session) -> Protocol[dict[str, HolderMap]]:
    """Bank: return what each holder made of the bins that are written for."""
    found = {}
    for holder in session.holders:
        message = yield from receive(holder, pb.WriteHolderMap)
        _check_hash(message.map_hash, holder)
        found[holder] = HolderMap(message.map_hash, tuple(message.n_codes))
    return found


def holder_write(session: Session, made: HolderMap) -> Protocol[None]:
    """Holder: tell the bank what it made."""
    yield Send(session.bank, pb.WriteHolderMap(map_hash=made.map_hash, n_codes=made.n_codes))


def bank_file(session: Session, pins: bytes, whole: Callable[[Mapping[str, str]], bytes]) -> Protocol[None]:
    """Bank: pin the versions of models at every holder.

    whole : makes of the hashes (hexadecimal) of the holders' knock-outs what is filed, and returns its digest.
    """
    for holder in session.holders:
        yield Send(holder, pb.FileBankPins(pins=pins))
    maps = {}
    for holder in session.holders:
        message = yield from receive(holder, pb.FileHolderMap)
        if message.map_hash:
            _check_hash(message.map_hash, holder)
            maps[holder] = message.map_hash
    digest = whole({holder: map_hash.hex() for holder, map_hash in maps.items()})
    for holder in session.holders:
        yield Send(holder, pb.FileBankDecision(decision_hash=digest, knock_outs=maps))


def holder_file(
    session: Session, answer: Callable[[bytes], bytes], whole: Callable[[Mapping[str, str]], bytes]
) -> Protocol[None]:
    """Holder: check the bank's pins, and that both file the same.

    answer : checks the pins and returns the hash of the holder's own code map of knock-outs, empty without any.
    whole : as for `bank_file`.
    """
    message = yield from receive(session.bank, pb.FileBankPins)
    if len(message.pins) > MAX_PINS_BYTES:
        raise MessageError(f"pins of a decision have at most {MAX_PINS_BYTES} bytes", party=session.bank)
    own = answer(message.pins)
    yield Send(session.bank, pb.FileHolderMap(map_hash=own))
    told = yield from receive(session.bank, pb.FileBankDecision)
    maps = dict(told.knock_outs)
    if not set(maps) <= set(session.holders) or maps.get(session.party, b"") != own:
        raise ProtocolError("the bank names other knock-outs than this party's", party=session.bank)
    for map_hash in maps.values():
        _check_hash(map_hash, session.bank)
    if whole({holder: map_hash.hex() for holder, map_hash in maps.items()}) != told.decision_hash:
        raise ProtocolError(
            "the bank files another decision than this party: both need one version of Veilscore", party=session.bank
        )


def _check_hash(found: bytes, party: str) -> None:
    if len(found) != HASH_BYTES:
        raise MessageError(f"a hash has {HASH_BYTES} bytes", party=party)
