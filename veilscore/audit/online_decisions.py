"""Audits decisions on single firms: the bank's role of all measures at one holder, and its half of the one circuit.

Proves  : of a part, as of a score, that the points under each spare are those of the model that the decision pins. Of
          the circuit, that what the bank put in follows from its replies, the points of its models, and its own codes
          and bound, as it states them: choices are bound by the pool's seed, so that no other bound fits them.
Does not: say that those codes and that bound are the firm's; nor see whose record it asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from veilscore.audit.online_kept import (
    Exchange,
    Latest,
    OnlineKept,
    Secrets,
    check_transfers,
    hint,
    logged_parts,
    none_made,
    own_codes,
    part_again,
)
from veilscore.audit.replay import Differs, Unknown, replay
from veilscore.evidence.online_opening import (
    DecisionOpened,
    DecisionRecord,
    PartOpened,
    PartsOpened,
    decision_name,
)
from veilscore.models.decided import FiledDecision
from veilscore.models.model import Scorecard, ScoreModel
from veilscore.online.bank_decision import measures_of
from veilscore.online.model import ModelSides
from veilscore.protocols.online_desks import BankRequest
from veilscore.protocols.online_measures import BankDecision, MeasuresAsked, SingleDecision
from veilscore.protocols.online_parts import FirmPart
from veilscore.protocols.online_spares import BankSpare, bank_spares
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol


@dataclass(frozen=True)
class _Part:
    """What one holder opened, made again.

    asked : what the bank's role took, from what it kept; part : what it went on with.
    job : that filed the decision.
    """

    record: DecisionRecord
    asked: MeasuresAsked
    part: FirmPart
    job: str

    @cached_property
    def detail(self) -> str:
        """Return what was compared, in words."""
        spares = ", ".join(f"{m} under spare {o.id[:8]}..." for m, o in sorted(self.record.spares.items()))
        points = f"points of {spares}" if spares else "no points: it knows its own"
        return (
            f"decision {self.record.decision[:16]}... (job {self.job}): {points}, as logged by {self.part.holder}, by "
            "the codes of its own columns that the bank states"
        )


class DecisionReplay:
    """Runs the bank's role of decisions again; `part` gives that at one holder, once for those looked at last.

    kept : what the bank kept; opened : all parts in holders' logs.
    """

    def __init__(self, kept: OnlineKept, opened: Iterable[PartOpened]) -> None:
        self._kept, self._opened = kept, [one for one in opened if isinstance(one, PartsOpened)]
        self._sides: dict[str, ModelSides] = {}
        self.part = Latest(self._part)  # a part is looked at for itself, and for its circuit

    def _part(self, one: PartsOpened) -> _Part:
        """Run the bank's role at one holder again; raises Differs or Unknown."""
        name = decision_name(one.request, one.holder)
        record = self._kept.record(one, name, DecisionRecord)
        if (record.request, record.decision) != (one.request, one.decision):
            raise Differs(f"what the bank kept is of another request or decision than {one.holder} logged")
        filed, job = self._kept.decision(one.decision, one.holder)
        asked = self._asked(filed, record, one.holder)
        reply = self._kept.reply(one, name)
        spares = self._spares(one, filed, record, asked)
        told = f"decision {one.decision[:16]}..., which {one.holder} was told{_hints(record)}"
        part = replay(_one_part(record, filed, one.holder, asked, spares), Exchange(one, [reply], told))
        return _Part(record, asked, part, job)

    def circuit(self, one: DecisionOpened) -> str:
        """Run the bank's half of a circuit again, after those of all parts; return what was compared."""
        pool = self._kept.pool(one)
        logged = logged_parts(one, self._opened)
        again = {holder: self.part(part) for holder, part in logged.items()}
        own = again[one.holder].record
        absent = [p for p in own.parties if p not in logged]
        if absent:
            raise Unknown(f"give the log of {', '.join(absent)}: the bank's share follows from its masks there too")
        if {logged[p].decision for p in own.parties} != {one.decision}:
            raise Differs("the holders of this decision were told of different ones")
        if any(part.record.own_codes != own.own_codes for part in again.values()):
            raise Differs("the bank states other codes of its own columns for one holder than for another")
        if own.labels is None:
            raise Differs(f"the bank kept labels of another circuit than {one.holder} logged")
        asked = again[one.holder].asked
        shares = asked.shares([again[p].part.masks for p in own.parties])
        check_transfers(
            one,
            pool,
            own.labels,
            lambda of, number: BankDecision(of, number, asked.decision, shares, own.bound).asked,
        )
        parties = ", ".join(own.parties)
        return (
            f"the bank's shares and bound in the circuit of {one.holder}, by its replies to {parties}, as logged there"
        )

    def _asked(self, filed: FiledDecision, record: DecisionRecord, holder: str) -> MeasuresAsked:
        """Return what the bank's role took for one decision, from its models and what it states of its own."""
        models: dict[str, ScoreModel] = {}
        for measure, pin in filed.pins.items():
            having = holder if holder in pin.maps else next(iter(pin.maps), holder)
            models[measure] = self._kept.model(pin.model_sha256, having)[0]
        if set(record.own_codes) != set(models) or record.bound > filed.decision.n_steps:
            raise Differs("the bank states codes of other measures than the decision has, or a bound that there is not")
        codes = {measure: own_codes(model, record.own_codes[measure])[None] for measure, model in models.items()}
        for measure, pin in filed.pins.items():
            if not pin.written and pin.model_sha256 not in self._sides:
                self._sides[pin.model_sha256] = ModelSides.of(models[measure])
        sides = {m: self._sides[pin.model_sha256] for m, pin in filed.pins.items() if not pin.written}
        written = {m: model for m, model in models.items() if m not in sides and isinstance(model, Scorecard)}
        of_record, units = measures_of(sides, written, codes)
        return MeasuresAsked(
            decision=SingleDecision.of(filed),
            holders=record.parties,
            sides={measure: model.holders for measure, model in of_record.items()},
            known=filed.known_points,
            own=units,
            bound=record.bound,
            take_spare=none_made,
            make_spare=none_made,
        )

    def _spares(
        self, one: PartsOpened, filed: FiledDecision, record: DecisionRecord, asked: MeasuresAsked
    ) -> dict[str, BankSpare]:
        """Make the spares of all measures again, each held against what the holder logged of it."""
        trained, found, logged = asked.trained(one.holder), {}, one.spares
        if not set(logged) == set(record.spares) == set(trained):
            raise Differs(f"the bank kept spares of other measures than {one.holder} logged, or the decision has there")
        for measure, said in logged.items():
            opening, pin, side = record.spares[measure], filed.pins[measure], trained[measure]
            number = self._kept.check_spare(one, opening, said.spare, said.commitment)
            if said.part != pin.maps[one.holder] + pin.trees.get(one.holder, ""):
                raise Differs(f"measure {measure}: {one.holder} was asked for another part than the decision's")
            name = f"{decision_name(one.request, one.holder)}.{measure}.spare"
            answer = self._kept.prepared(one, name)
            secrets = Secrets(opening, self._kept.public_keys(one.holder, said.keys))
            told = f"measure {measure} of decision {one.decision[:16]}...{hint(opening)}"
            role = bank_spares(secrets, side, side.cells.size, opening.id, opening.n_spares)
            found[measure] = replay(role, Exchange(one, [answer], told, measure))[number]
        return found


def _one_part(
    record: DecisionRecord,
    filed: FiledDecision,
    holder: str,
    asked: MeasuresAsked,
    spares: dict[str, BankSpare],
) -> Protocol[FirmPart]:
    sha256 = filed.sha256
    ask = pb.EncryptRecord(
        request_id=record.request,
        model_hash=sha256,
        map_hash=sha256,
        bands_hash=sha256,
        decision=filed.decision.name,
        purpose=record.purpose,
        on_missing=record.on_missing,
    )
    of = BankRequest(
        ask=ask,
        pool=none_made,
        decision=replace(asked, take_spare=lambda _, measure: spares[measure]),
    )
    return (yield from part_again(of, holder, record))


def _hints(record: DecisionRecord) -> str:
    return next(filter(None, map(hint, record.openings)), "")
