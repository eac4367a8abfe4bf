"""Audits online scores and decisions: the bank's role runs again, held against what holders logged of its messages.

Source  : docs/adr/0012 (what is proved), 0017 (by the engine of all audits, `veilscore.audit.replay`).
Inputs  : what the bank kept (`veilscore.evidence.online_opening`), all of it claims; and holders' signed logs.
Proves  : what the holder opened is the points of the model whose hash it was told, put on the very ciphertexts that it
          sent, under the seed that the bank was committed to before it had them; and that nothing else went between the
          two in that request. Of a band, that the share which the bank put into the circuit follows from those replies
          and from its own points.
Does not: say that the bank's own columns of the firm are true (of trees and bands, its factors and points follow from
          codes that it states), nor see what a bank computes with a total afterwards, nor whose record it asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from veilscore.audit.online_decisions import DecisionReplay
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
from veilscore.audit.replay import Differs, Finding, Unknown, Verdict, replay
from veilscore.evidence.online_opening import (
    BandOpened,
    CircuitOpened,
    DecisionOpened,
    OnlineRecord,
    PartOpened,
    PartsOpened,
    ShareOpened,
    place_of,
)
from veilscore.models.boosted import Boosted
from veilscore.models.model import ScoreModel
from veilscore.online.model import ModelSides
from veilscore.protocols.online import own_share
from veilscore.protocols.online_band import BankCircuit
from veilscore.protocols.online_desks import BankRequest
from veilscore.protocols.online_parts import FirmPart
from veilscore.protocols.online_spares import Side, bank_spares
from veilscore.terms.bands import MAX_STEPS, Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol

STEP = "online"


class OnlineAudit:
    """Audits scores and decisions that a bank released online.

    home : the bank's home, or a bundle made of it.
    opened, circuits : all openings in holders' logs, also those that are not looked at: a seed serves one, and a band
        or decision follows from what all its holders opened.
    made_by : SHA-256 of a model or decision -> jobs that made it and the parties in them, from receipts and logs.
    """

    def __init__(
        self,
        home: Path,
        opened: Iterable[PartOpened],
        made_by: Mapping[str, Mapping[str, frozenset[str]]],
        circuits: Iterable[CircuitOpened] = (),
    ) -> None:
        self._opened = tuple(opened)
        self._kept = OnlineKept(home, (*self._opened, *circuits), made_by)
        self._decisions = DecisionReplay(self._kept, self._opened)
        self._part = Latest(self._run)  # a part is looked at for itself, and for its band

    def finding(self, one: PartOpened | CircuitOpened) -> Finding:
        """Audit one holder's opening for one score or decision, or a lead's of one circuit."""
        verdict: Verdict = "confirmed"
        try:
            detail = self._compared(one)
        except Differs as found:
            verdict, detail = "differs", str(found)
        except Unknown as found:
            verdict, detail = "cannot be audited", str(found)
        except Exception as error:  # noqa: BLE001 - what a hostile record brings about must not end the audit
            verdict, detail = "cannot be audited", f"the reply cannot be made again: {type(error).__name__}"
        what = {PartsOpened: "decision part ", BandOpened: "band ", DecisionOpened: "decision "}.get(type(one), "")
        return Finding(one.request, f"{STEP} {what}{one.holder}", 1, verdict, one.bank, detail)

    def _compared(self, one: PartOpened | CircuitOpened) -> str:
        if isinstance(one, PartsOpened):
            return self._decisions.part(one).detail
        if isinstance(one, DecisionOpened):
            return self._decisions.circuit(one)
        return self._band(one) if isinstance(one, BandOpened) else self._part(one)[0]

    def findings(self, several: Sequence[PartOpened | CircuitOpened]) -> list[Finding]:
        """Audit several in their order, those of one request one after the other, so that none is made again twice."""
        found: dict[int, Finding] = {}
        for one in sorted(several, key=lambda one: (one.bank, one.request, isinstance(one, CircuitOpened))):
            found[id(one)] = self.finding(one)
        return [found[id(one)] for one in several]

    def _run(self, one: ShareOpened) -> tuple[str, OnlineRecord, FirmPart]:
        """Run the bank's role of one holder's part again; return what was compared, what was kept, the part."""
        place = place_of(one.commitment, one.spare)
        record = self._kept.record(one, place, OnlineRecord)
        number = self._kept.check_spare(one, record.opening, one.spare, one.commitment)
        if record.request != one.request:
            raise Differs(f"what the bank kept is of another request than {one.holder} logged")
        answers = [
            self._kept.prepared(one, f"{one.commitment}.spare"),
            self._kept.reply(one, place),
        ]
        secrets = Secrets(record.opening, self._kept.public_keys(one.holder, one.keys))
        model, job = self._kept.model(one.model, one.holder)
        if record.model != one.model:
            raise Differs(f"what the bank kept is of another model than {one.holder} logged")
        whole = ModelSides.of(model)
        sides = whole.of_record(own_codes(model, record.own_codes)[None]) if isinstance(model, Boosted) else whole
        _check_part(model, one, record)
        told = f"model {one.model[:16]}..., which {one.holder} was told{hint(record.opening)}"
        part = replay(_one_part(record, number, one.holder, sides.holders, secrets), Exchange(one, answers, told))
        own = ", by the codes of its own columns that the bank states" if record.own_codes else ""
        detail = f"points of model {one.model[:16]}... (job {job}) under spare {one.spare[:8]}..., as logged by "
        return f"{detail}{one.holder}{own}", record, part

    def _band(self, one: BandOpened) -> str:
        """Run the bank's role in the circuit of a band again, after those of all its parts."""
        pool = self._kept.pool(one)
        logged = logged_parts(one, [part for part in self._opened if isinstance(part, ShareOpened)])
        again = {holder: self._part(part) for holder, part in logged.items()}
        own = again[one.holder][1]
        absent = [p for p in own.parties if p not in logged]
        if absent:
            raise Unknown(f"give the log of {', '.join(absent)}: the bank's share follows from its masks there too")
        if {logged[p].model for p in own.parties} != {own.model}:
            raise Differs("the holders of this band were told of different models, or of another than the bank kept")
        if own.labels is None:
            raise Differs(f"the bank kept labels of another circuit than {one.holder} logged")
        model, _ = self._kept.model(own.model, one.holder)
        if isinstance(model, Boosted) and {again[p][1].own_codes for p in own.parties} != {own.labels.own_codes}:
            raise Differs("the bank states other codes of its own columns for the band than for its factors")
        codes = own_codes(model, own.labels.own_codes)[None]
        sides = ModelSides.of(model).of_record(codes)
        bands = Bands.steps(own.steps, MAX_STEPS) if own.steps else Bands.of(model.bands, model.scaling.units)
        if bands.sha256.hex() != one.bands:
            raise Differs("the cut-offs of the model kept are not those of the circuit")
        share = own_share(sides.holders, sides.own_units(codes), [again[p][2] for p in own.parties])
        check_transfers(one, pool, own.labels, lambda of, number: BankCircuit(of, number, share, bands).asked)
        return (
            f"the bank's share in the circuit of {one.holder}, by its replies to {', '.join(own.parties)}, as logged "
            "there"
        )


# --- the bank's role of one part -----------------------------------------------------------------------------------


def _one_part(
    record: OnlineRecord, number: int, holder: str, sides: Mapping[str, Side], secrets: Secrets
) -> Protocol[FirmPart]:
    ask = pb.EncryptRecord(
        request_id=record.request,
        model_hash=bytes.fromhex(record.model),
        purpose=record.purpose,
        on_missing=record.on_missing,
        bands_hash=bytes.fromhex(record.bands),
        step_limits=record.steps,
    )
    side = sides[holder]
    spares = yield from bank_spares(secrets, side, side.cells.size, record.opening.id, record.opening.n_spares)
    of = BankRequest(ask=ask, sides=sides, take_spare=lambda _: spares[number], make_spare=none_made, pool=none_made)
    return (yield from part_again(of, holder, record))


def _check_part(model: ScoreModel, one: ShareOpened, record: OnlineRecord) -> None:
    """Check that the holder was asked for its part of this very model, and that the bank's codes stand where needed."""
    part = next((part for part in model.parts if part.party == one.holder), None)
    trees = model.holder_sha256.get(one.holder, "") if isinstance(model, Boosted) else ""
    if part is None or one.part != part.map_sha256 + trees:
        raise Differs(f"model {one.model[:16]}... is for another part of {one.holder} than the one it was asked for")
    if record.own_codes and not isinstance(model, Boosted):
        raise Differs("the record has codes of the bank, which the model does not need: it was changed")
