"""Makes what the bank keeps of a request for an auditor, of each part that it asked a holder to open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from veilscore.arrays import CodeArray
from veilscore.evidence.online_archive import OnlineArchive
from veilscore.evidence.online_opening import DecisionRecord, LabelsKept, OnlineRecord
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

    def keep_score(self, archive: OnlineArchive, model: BankModel, own_codes: CodeArray) -> None:
        """Keep what was opened of a score; StateError if the disk does not take it."""
        if self.part.spare is None:
            return
        codes = _hex(own_codes)
        record = OnlineRecord(
            opening=self.part.spare.opening,
            model=model.sha256.hex(),
            own_codes=codes if model.trees else "",
            bands=self.ask.bands_hash.hex(),
            steps=tuple(self.ask.step_limits),
            **self._common(codes),
        )
        archive.keep(record, self.part.spare.spare_id, self.part.reply, model.artefact.save)

    def keep_decision(self, archive: OnlineArchive, held: HeldDecision, own: OwnInputs) -> None:
        """Keep what was opened of a decision; StateError if the disk does not take it."""
        record = DecisionRecord(
            spares={measure: spare.opening for measure, spare in self.part.spares.items()},
            decision=held.single.sha256.hex(),
            own_codes={measure: _hex(codes) for measure, codes in own.codes.items()},
            bound=own.bound,
            **self._common(""),
        )
        models = {measure: model.artefact for measure, model in held.models.items()} | dict(held.written)
        # by the pinned hashes, which were compared when the models were loaded: to work one out takes the whole model
        saved = {held.filed.pins[measure].model_sha256: model.save for measure, model in models.items()}
        archive.keep_decision(record, self.part.holder, self.part.reply, held.filed.save, saved)

    def _common(self, own_codes: str) -> dict[str, Any]:
        labels = None
        if self.request.pool_id:
            labels = LabelsKept(
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
