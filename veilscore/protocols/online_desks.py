"""Says what the roles of one score take from their nodes: values and small functions; audits and tests give others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from veilscore.arrays import Words
from veilscore.crypto.zero_share import PairwiseKey
from veilscore.errors import MessageError, RefusedError
from veilscore.evidence.online_opening import OpeningLogged, RecordTold
from veilscore.protocols.online_measures import MeasuresAsked, RecordPart, SingleDecision
from veilscore.protocols.online_parts import FirmPart
from veilscore.protocols.online_pool import BankPool, LeadPool
from veilscore.protocols.online_spares import BankSpare, HolderSpare, Side
from veilscore.release.single import Passed
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol

Keys = dict[str, PairwiseKey]


def _none_made(holder: str, _lost: BankSpare | None) -> NoReturn:
    raise MessageError("this request has no spare and can make none", party=holder)


@dataclass(frozen=True, repr=False, kw_only=True)
class BankRequest:
    """What the bank's role takes from its node for one request; the defaults are those of a request without a node.

    ask : what each holder is asked, but for what belongs to that holder.
    sides : the bank's points for each holder, in the order of the model.
    own_units : units of the firm without any holder's part.
    take_spare, make_spare, put_back : a spare of the stock, if there is one; one with a holder where there is none, or
        instead of one that the holder has lost; one that was not used goes back.
    bands, pool, drop_pool : where a band or a step is asked for, the cut-offs; a pool with a lead that has a circuit
        (or as many as are named) left; forgets one of which the lead has lost its half.
    decision : instead of sides, their spares, own_units and bands where a decision is asked for.
    opened_before : what these parts came to when they were opened under one earlier request; None: not known.
    note : told of what is asked to be opened, before it leaves.
    """

    ask: pb.EncryptRecord
    pool: Callable[..., Protocol[BankPool]]
    sides: Mapping[str, Side] = field(default_factory=dict)
    take_spare: Callable[[str], BankSpare | None] = lambda _: None
    make_spare: Callable[[str, BankSpare | None], Protocol[BankSpare]] = _none_made
    own_units: int = 0
    bands: Bands | None = None
    decision: MeasuresAsked | None = None
    coordinator: str = ""
    limit_s: float = 10.0
    put_back: Callable[[str, BankSpare], object] = lambda *_: None
    drop_pool: Callable[[BankPool], object] = lambda _: None
    opened_before: Callable[[Sequence[FirmPart]], int | None] = lambda _: None
    note: Callable[[FirmPart, pb.OpenPartial], object] = lambda *_: None

    @property
    def holders(self) -> tuple[str, ...]:
        """Return the holders that are asked, in order."""
        return tuple(self.sides) if self.decision is None else self.decision.holders


@dataclass(frozen=True, repr=False)
class HolderRecord:
    """What a holder's node has for a request that its policy, consent and release control let pass.

    firm : its normalised id, which all holders of the request must have been asked for.
    cells : (n_cells,) of 0 and 1; those of missing values where the firm is unknown.
    reason_codes : codes of columns that its policy lets the bank know.
    holders : of the model, in order; model : its name at the holder.
    bands : where a band is asked for, those that this holder keeps of the model; of a score in steps, the steps.
    decision, parts : instead of cells and bands where a decision is asked for.
    discloses_unknown, without_others : of the policy that let it pass: whether banks learn which firms this holder does
        not know, and whether it opens its part without all holders of the model.
    """

    firm: str
    cells: Words
    known: bool
    data_time_s: float
    reason_codes: Sequence[pb.ReasonCode]
    holders: tuple[str, ...]
    passed: Passed
    bands: Bands | None = None
    model: str = ""
    decision: SingleDecision | None = None
    parts: tuple[RecordPart, ...] = ()
    discloses_unknown: bool = False
    without_others: bool = False

    @property
    def opens(self) -> Bands | SingleDecision | None:
        """Return what is opened at the lead; None of an exact score, which the coordinator adds up."""
        return self.decision or self.bands


@dataclass(frozen=True, repr=False)
class RecordSent:
    """What is on disk before a record leaves a holder that tells something by itself, as `PartOpening`."""

    passed: Passed
    logged: RecordTold


@dataclass(frozen=True, repr=False, kw_only=True)
class PartOpening:
    """What is on disk before a holder's part leaves it, and at the lead before the circuit does.

    passed : what is counted as released.
    key, request, data : "bank/request id", digest of the OpenPartial and the partial that is kept under it.
    logged : entries of the log: the part, and at the lead the circuit.
    """

    passed: Passed
    key: str
    request: bytes
    data: bytes
    logged: tuple[OpeningLogged, ...]


@dataclass(frozen=True, repr=False, kw_only=True)
class HolderDesk:
    """What a holder's role takes from its node.

    share_key_id, share_keys : which key of its own its shares of zero are made with; agrees on a key with each other
        party, None if one of them, or this one, has other keys by now.
    find : looks a record up; RefusedError where policy, consent or release control forbid it.
    take_spare : by bank and id, for a part of a model; out of the stock, if it is there.
    pool : by bank and id, if it is there.
    opened : digest and partial that were opened under "bank/request id", perhaps before a restart.
    count : counts and logs a record that tells something by itself just before it is sent; RefusedError.
    write_down : counts a release just before its part leaves (RefusedError if it may not), logs what leaves next and
        keeps it, so that it cannot leave otherwise; returns the partial that counts, the first under its key.
    """

    name: str
    coordinator: str
    share_key_id: bytes
    share_keys: Callable[[Sequence[str], Mapping[str, bytes]], Protocol[Keys | None]]
    find: Callable[[str, pb.EncryptRecord], Coroutine[Any, Any, HolderRecord]]
    take_spare: Callable[[str, str, bytes], HolderSpare | None]
    pool: Callable[[str, str], LeadPool | None]
    opened: Callable[[str], tuple[bytes, bytes] | None]
    count: Callable[[RecordSent], Coroutine[Any, Any, None]]
    write_down: Callable[[PartOpening], Coroutine[Any, Any, bytes]]


def check_opening(desk: HolderDesk, bank: str, request: pb.OpenPartial, record: HolderRecord) -> None:
    """Holder: refuse to open with others than the record was sent for; MessageError or RefusedError."""
    holders, parties = record.holders, tuple(request.with_parties)
    if len(set(parties)) != len(parties) or desk.name not in parties or not set(parties) <= set(holders):
        raise MessageError("the holders of a request are not those of the model", party=bank)
    if request.bands_hash != (b"" if record.opens is None else record.opens.sha256):
        raise MessageError("a request to open is for another output than its record was encrypted for", party=bank)
    if record.opens is not None and parties[0] != next(h for h in holders if h in parties):
        raise MessageError("the lead of a band is the first of the model's holders that take part", party=bank)
    if set(parties) != set(holders) and (record.decision is not None or not record.without_others):
        raise RefusedError(f"{desk.name} opens its part only together with all holders of the model", party=desk.name)
