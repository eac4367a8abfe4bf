"""Makes what the bank keeps of a request for an auditor, of each part that it asked a holder to open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veilscore.arrays import CodeArray
from veilscore.evidence.online_archive import OnlineArchive
from veilscore.evidence.online_opening import DecisionRecord, LabelsKept, OnlineRecord, decision_name, place_of
from veilscore.evidence.online_rows import OpenedRow
from veilscore.online.bank_decision import HeldDecision, OwnInputs
from veilscore.online.model import BankModel
from veilscore.protocols.online_parts import FirmPart
from veilscore.v1 import control_pb2 as pb


@dataclass(frozen=True, repr=False)
class OpenedPart:
    """A holder's part that it was asked to open.

    ask : what all holders were asked; part : what this one answered; request : what asked to open it.
    """

    ask: pb.EncryptRecord
    part: FirmPart
    request: pb.OpenPartial

    def of_score(self, archive: OnlineArchive, model: BankModel, own_codes: CodeArray) -> OpenedRow | None:
        """Return what is kept of a score, its model kept; None where nothing was sent. StateError if the disk is full.

        What is written was checked before: it is made without a second look, which costs more than the rest.
        """
        if self.part.spare is None:
            return None
        codes, opening = _hex(own_codes), self.part.spare.opening
        archive.keep_model(model.sha256.hex(), model.artefact.save)
        record = OnlineRecord.model_construct(
            opening=opening,
            model=model.sha256.hex(),
            own_codes=codes if model.trees else "",
            bands=self.ask.bands_hash.hex(),
            steps=tuple(self.ask.step_limits),
            **self._common(codes),
        )
        return self._row(place_of(opening.commitment.hex(), self.part.spare.spare_id), record)

    def of_decision(self, archive: OnlineArchive, held: HeldDecision, own: OwnInputs) -> OpenedRow:
        """Return what is kept of a decision, all else that an auditor needs kept; StateError if the disk is full."""
        record = DecisionRecord.model_construct(
            spares={measure: spare.opening for measure, spare in self.part.spares.items()},
            decision=held.single.sha256.hex(),
            own_codes={measure: _hex(codes) for measure, codes in own.codes.items()},
            bound=own.bound,
            **self._common(""),
        )
        models = {measure: model.artefact for measure, model in held.models.items()} | dict(held.written)
        for measure, model in models.items():
            # by the pinned hash, which was compared when the model was loaded: to work it out takes the whole model
            archive.keep_model(held.filed.pins[measure].model_sha256, model.save)
        archive.keep_decision(record, self.part.holder, held.filed.save)
        return self._row(decision_name(self.ask.request_id, self.part.holder), record)

    def _row(self, name: str, record: OnlineRecord | DecisionRecord) -> OpenedRow:
        return OpenedRow(name, record.to_bytes(), self.part.reply.SerializeToString())

    def _common(self, own_codes: str) -> dict[str, Any]:
        labels = None
        if self.request.pool_id:
            labels = LabelsKept.model_construct(
                pool=self.request.pool_id,
                circuit=self.request.circuit,
                choices=self.request.choices_share.hex(),
                own_codes=own_codes,
            )
        return {
            "request": self.ask.request_id,
            "purpose": self.ask.purpose,
            "on_missing": self.ask.on_missing,
            "fresh": self.part.fresh,
            "parties": tuple(self.request.with_parties),
            "share_keys": {party: key.hex() for party, key in self.request.share_key_ids.items()},
            "labels": labels,
        }


def _hex(codes: CodeArray) -> str:
    return codes.astype("<u2").tobytes().hex()
