"""Audits online scores: the bank's role runs again with what holders had answered, held against what they logged.

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

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from veilscore.arrays import CodeArray
from veilscore.audit.replay import Differs, Finding, Unknown, Verdict, replay
from veilscore.crypto.he import PublicContext
from veilscore.errors import ConfigError, EvidenceError, VeilscoreError
from veilscore.evidence.documents import Document
from veilscore.evidence.online_opening import (
    FOLDER,
    KEYS,
    MODELS,
    POOLS,
    BandOpened,
    OnlineOpening,
    OnlineRecord,
    OpeningLogged,
    PoolRecord,
    ShareOpened,
    Use,
    digests_of,
    place_of,
    software_online,
)
from veilscore.models.boosted import Boosted
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.online.model import ModelSides
from veilscore.protocols.online import bank_opens, bank_record, own_share
from veilscore.protocols.online_band import BankCircuit
from veilscore.protocols.online_desks import BankRequest
from veilscore.protocols.online_parts import FirmPart
from veilscore.protocols.online_pool import CIRCUITS, BankPool, LabelsAsked, bank_extends, bank_pool
from veilscore.protocols.online_spares import Side, bank_spares, spare_ids
from veilscore.terms.bands import MAX_STEPS, Bands
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol

STEP = "online"
D = TypeVar("D", bound=Document)
M = TypeVar("M", bound=Message)
_NOT_LOGGED = (pb.OpenedPartial, pb.Empty)  # nothing that the bank sends follows from them


class _Exchange:
    """What passed between the bank and one holder, by the holder's log (`veilscore.audit.replay.Record`).

    answers : of the holder, as the bank kept them.
    told : what the bank's messages should follow from.
    """

    def __init__(self, one: OpeningLogged, answers: Sequence[Message], told: str) -> None:
        self._one, self._told = one, told
        self._packs = {type(answer): answer for answer in answers}

    def sent(self, to: str, message: Message) -> None:
        """Compare a call with what the holder logged of it."""
        for kind, digest in digests_of(message).items():
            if digest != self._one.messages.get(kind):
                raise Differs(f"{kind} to {to} is not what the committed seed gives for {self._told}")

    def received(self, sender: str, kind: type[Message]) -> Message:
        """Return the answer that the bank kept, which has to be the one that the holder logged."""
        if kind in _NOT_LOGGED:
            return kind()
        answer = self._packs[kind]
        if digests_of(answer).items() <= self._one.messages.items():
            return answer
        raise Differs(f"the {kind.__name__} kept is not what {sender} sent: it was changed after the score")

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Do nothing: online there is nothing to go on from."""


@dataclass(frozen=True)
class _Secrets:
    """What the bank drew for a spare, and the keys that the holder logged (`protocols.online_spares.BankSecrets`)."""

    kept: OnlineOpening
    keys: PublicContext

    def opening(self, _holder: str, _use: Use, _ident: str) -> OnlineOpening:
        """Give the opening that was kept."""
        return self.kept

    def context(self, _holder: str, _keys_id: bytes) -> Protocol[PublicContext]:
        """Give the keys."""
        return self.keys
        yield

    def keep(self, opening: OnlineOpening, prepared: pb.PreparedSpare) -> None:
        """Do nothing: it was kept."""


class OnlineAudit:
    """Audits scores that a bank released online.

    home : the bank's home, or a bundle made of it.
    opened, bands : all openings in holders' logs, also those that are not looked at: a seed serves one, and a band
        follows from what all its holders opened.
    trained : SHA-256 of a model -> jobs that made it and the parties in them, from receipts and logs.
    """

    def __init__(
        self,
        home: Path,
        opened: Iterable[ShareOpened],
        trained: Mapping[str, Mapping[str, frozenset[str]]],
        bands: Iterable[BandOpened] = (),
    ) -> None:
        self._folder, self._trained = home / FOLDER, trained
        self._opened = tuple(opened)
        self._uses = Counter(_used(one) for one in (*self._opened, *bands))
        # spares of one opening were made together, from one answer of the holder
        self._packs: dict[str, set[str]] = {}
        for part in self._opened:
            self._packs.setdefault(part.commitment, set()).add(part.messages.get(pb.PreparedSpare.__name__, ""))
        self._seeds: dict[str, set[bytes]] = {}
        self._models: dict[str, ScoreModel] = {}
        self._keys: dict[str, PublicContext] = {}

    def finding(self, one: ShareOpened | BandOpened) -> Finding:
        """Audit one holder's opening for one score, or a lead's of one band."""
        verdict: Verdict = "confirmed"
        try:
            detail = self._band(one) if isinstance(one, BandOpened) else self._part(one)[0]
        except Differs as found:
            verdict, detail = "differs", str(found)
        except Unknown as found:
            verdict, detail = "cannot be audited", str(found)
        except Exception as error:  # noqa: BLE001 - what a hostile record brings about must not end the audit
            verdict, detail = "cannot be audited", f"the reply cannot be made again: {type(error).__name__}"
        step = f"{STEP} band {one.holder}" if isinstance(one, BandOpened) else f"{STEP} {one.holder}"
        return Finding(one.request, step, 1, verdict, one.bank, detail)

    def _part(self, one: ShareOpened) -> tuple[str, OnlineRecord, FirmPart]:
        """Run the bank's role of one holder's part again; return what was compared, what was kept, and the part."""
        record = self._record(one)
        known = one.spare in spare_ids(record.opening.id, record.n_spares)
        ident = record.opening.id if known and record.spare == (one.spare if record.n_spares > 1 else "") else one.spare
        self._check_opening(one, record.opening, record.request, "spare", ident)
        place = place_of(one.commitment, one.spare)
        answers = [
            self._answer(one, pb.PreparedSpare, f"{one.commitment}.spare"),
            self._answer(one, pb.EncryptedRecord, f"{place}.reply"),
        ]
        secrets = _Secrets(record.opening, self._public_keys(one))
        model, job = self._model(one.model, one.holder)
        if record.model != one.model:
            raise Differs(f"what the bank kept is of another model than {one.holder} logged")
        whole = ModelSides.of(model)
        sides = whole.of_record(_own_codes(model, record.own_codes)[None]) if isinstance(model, Boosted) else whole
        _check_part(model, one, record)
        told = f"model {one.model[:16]}..., which {one.holder} was told{_hint(record.opening)}"
        part = replay(_one_part(record, one, sides.holders, secrets), _Exchange(one, answers, told))
        own = ", by the codes of its own columns that the bank states" if record.own_codes else ""
        detail = f"points of model {one.model[:16]}... (job {job}) under spare {one.spare[:8]}..., as logged by "
        return f"{detail}{one.holder}{own}", record, part

    def _band(self, one: BandOpened) -> str:
        """Run the bank's role in the circuit of a band again, after those of all its parts."""
        pool = self._pool(one)
        self._check_opening(one, pool.opening, one.request, "pool", one.pool)
        logged = {s.holder: s for s in self._opened if (s.bank, s.request) == (one.bank, one.request)}
        if one.holder not in logged:
            raise Unknown(f"{one.holder} logged no part of its own for this band")
        again = {holder: self._part(part) for holder, part in logged.items()}
        parties = again[one.holder][1].parties
        absent = [p for p in parties if p not in logged]
        if absent:
            raise Unknown(f"give the log of {', '.join(absent)}: the bank's share follows from its masks there too")
        own = again[one.holder][1]
        if {logged[p].model for p in parties} != {own.model}:
            raise Differs("the holders of this band were told of different models, or of another than the bank kept")
        if own.labels is None or (own.labels.pool, str(own.labels.circuit)) != (one.pool, one.circuit):
            raise Differs(f"the bank kept labels of another circuit than {one.holder} logged")
        model, _ = self._model(own.model, one.holder)
        if isinstance(model, Boosted) and {again[p][1].own_codes for p in parties} != {own.labels.own_codes}:
            raise Differs("the bank states other codes of its own columns for the band than for its factors")
        codes = _own_codes(model, own.labels.own_codes)[None]
        sides = ModelSides.of(model).of_record(codes)
        bands = Bands.steps(own.steps, MAX_STEPS) if own.steps else Bands.of(model.bands, model.scaling.units)
        if bands.sha256.hex() != one.bands:
            raise Differs("the cut-offs of the model kept are not those of the circuit")
        share = own_share(sides.holders, sides.own_units(codes), [again[p][2] for p in parties])
        calls = _Exchange(one, [_made(pool)], "its pool of transfers" + _hint(pool.opening))
        transfers = replay(_one_pool(pool, own.labels.circuit), calls)
        asked = BankCircuit(transfers, own.labels.circuit, share, bands).asked
        if asked.choices.hex() != own.labels.choices:  # which the holder logged in OpenPartial
            raise Differs(
                f"choices of labels to {one.holder} are not what the committed seed gives for the share that follows "
                "from its seeds, the model, and the codes of its own columns that it states" + _hint(pool.opening)
            )
        return (
            f"the bank's share in the circuit of {one.holder}, by its replies to {', '.join(parties)}, as logged there"
        )

    # what was kept, all of it claims

    def _record(self, one: ShareOpened) -> OnlineRecord:
        if not one.messages:
            raise Unknown(f"{one.holder} logged no messages of the bank: it ran an earlier version")
        return self._kept(place_of(one.commitment, one.spare) + ".json", OnlineRecord)

    def _pool(self, one: BandOpened) -> PoolRecord:
        if not one.pool:
            raise Unknown(f"{one.holder} logged no pool of transfers for this band: it ran an earlier version")
        return self._kept(f"{POOLS}/{one.commitment}", PoolRecord)

    def _kept(self, name: str, kind: type[D]) -> D:
        try:
            return kind.parse((self._folder / name).read_bytes())
        except (EvidenceError, OSError) as error:
            _missing_or_changed(error, "the bank kept no opening of it, or deleted it", "the opening")

    def _answer(self, one: OpeningLogged, kind: type[M], name: str) -> M:
        """Return what a holder had answered, as it was kept; `_Exchange` compares it."""
        try:
            return kind.FromString((self._folder / name).read_bytes())
        except (DecodeError, OSError) as error:
            what = f"the {kind.__name__} kept"
            _missing_or_changed(error, f"the bank did not keep what {one.holder} sent", what)

    def _check_opening(self, one: OpeningLogged, opening: OnlineOpening, request: str, use: Use, ident: str) -> None:
        if opening.commitment.hex() != one.commitment:
            raise Differs(f"the opening is not the one that {one.holder} logged a commitment to: it was changed")
        if (opening.bank, opening.holder, opening.use, opening.id) != (one.bank, one.holder, use, ident):
            raise Differs("the bank was committed to the opening of another record")
        several = len(self._packs.get(one.commitment, ())) > 1 or len(self._drawn_from(opening.seed)) > 1
        if several or self._uses[_used(one)] > 1:
            raise Differs("the seed is that of another score or holder too; a seed serves one")
        if request != one.request:
            raise Differs(f"what the bank kept is of another request than {one.holder} logged")

    def _drawn_from(self, seed: str) -> set[bytes]:
        """Return the commitments to a seed in all that the bank kept."""
        if not self._seeds:
            self._count(OnlineRecord, self._folder.glob("*.json"))
            self._count(PoolRecord, (self._folder / POOLS).glob("*"))
        return self._seeds.get(seed, set())

    def _count(self, kind: type[OnlineRecord | PoolRecord], paths: Iterable[Path]) -> None:
        for path in paths:
            with contextlib.suppress(EvidenceError, OSError):  # shown where its score is drawn
                opening = kind.parse(path.read_bytes()).opening
                self._seeds.setdefault(opening.seed, set()).add(opening.commitment)

    def _public_keys(self, one: ShareOpened) -> PublicContext:
        if one.keys not in self._keys:
            try:
                data = (self._folder / KEYS / one.keys).read_bytes()
            except OSError as error:
                raise Unknown(f"the bank did not keep {one.holder}'s public keys") from error
            if hashlib.sha256(data).hexdigest() != one.keys:
                raise Differs(f"the keys kept are not those of {one.holder}: they were changed")
            try:
                self._keys[one.keys] = PublicContext(data)
            except VeilscoreError as error:
                raise Unknown(f"{one.holder}'s public keys are unusable: {error.message}") from error
        return self._keys[one.keys]

    def _model(self, sha256: str, holder: str) -> tuple[ScoreModel, str]:
        """Return the model that a holder was told, and a job that made it with the holder."""
        if sha256 not in self._models:
            path = self._folder / MODELS / f"{sha256}.json"
            if not path.is_file():
                raise Unknown(f"the bank kept no model {sha256[:16]}..., which {holder} was told")
            try:
                model = load_model(path)
            except ConfigError as error:
                raise Differs(f"the model kept was changed: {error.message}") from error
            if model.sha256.hex() != sha256:
                raise Differs(f"the model kept is not {sha256[:16]}..., which {holder} was told")
            self._models[sha256] = model
        jobs = self._trained.get(sha256, {})
        job = next((job for job, parties in jobs.items() if holder in parties), None)
        if job is None:
            raise Unknown(f"no receipt or log given shows a job with {holder} that made model {sha256[:16]}...")
        return self._models[sha256], job


# --- the bank's roles, of one part and one pool -----------------------------------------------------------------------


def _one_part(
    record: OnlineRecord, one: ShareOpened, sides: Mapping[str, Side], secrets: _Secrets
) -> Protocol[FirmPart]:
    ask = pb.EncryptRecord(
        request_id=record.request,
        model_hash=bytes.fromhex(record.model),
        purpose=record.purpose,
        on_missing=record.on_missing,
        bands_hash=bytes.fromhex(record.bands),
        step_limits=record.steps,
    )
    side, n, holder = sides[one.holder], record.n_spares, one.holder
    spares = yield from bank_spares(secrets, side, side.cells.size, record.opening.id, n)
    spare = spares[spare_ids(record.opening.id, n).index(one.spare)]
    of = BankRequest(ask=ask, sides=sides, take_spare=lambda _: spare, make_spare=_none_made, pool=_none_made)
    part = yield from bank_record(of, holder, fresh=record.fresh)
    share_keys = {party: bytes.fromhex(key) for party, key in record.share_keys.items()}
    kept = record.labels
    # the choices are held against the share once all parts of the band are known
    asked = None if kept is None else LabelsAsked(kept.pool, kept.circuit, bytes.fromhex(kept.choices))
    yield from bank_opens(of, part, record.parties, share_keys, asked)
    return part


def _one_pool(pool: PoolRecord, circuit: int) -> Protocol[BankPool]:
    """Make a pool as far as the message that made a circuit's transfers, which the holder logged with the circuit."""
    again = yield from bank_pool(pool.opening)
    for _ in range(circuit // CIRCUITS):
        again.extend()
    yield from bank_extends(again)
    return again


def _made(pool: PoolRecord) -> pb.MadePool:
    try:
        return pb.MadePool.FromString(bytes.fromhex(pool.made))
    except DecodeError as error:
        raise Differs(f"the MadePool kept was changed after the score: {error}") from error


def _used(one: OpeningLogged) -> tuple[str, str]:
    """Return what serves one score: a spare, or a circuit of a pool."""
    if isinstance(one, BandOpened):
        return one.commitment, one.circuit
    return one.commitment, one.spare if isinstance(one, ShareOpened) else ""


def _none_made(holder: str) -> NoReturn:
    raise Unknown(f"the part of {holder} needs something that is not logged")


def _check_part(model: ScoreModel, one: ShareOpened, record: OnlineRecord) -> None:
    """Check that the holder was asked for its part of this very model, and that the bank's codes stand where needed."""
    part = next((part for part in model.parts if part.party == one.holder), None)
    trees = model.holder_sha256.get(one.holder, "") if isinstance(model, Boosted) else ""
    if part is None or one.part != part.map_sha256 + trees:
        raise Differs(f"model {one.model[:16]}... is for another part of {one.holder} than the one it was asked for")
    if record.own_codes and not isinstance(model, Boosted):
        raise Differs("the record has codes of the bank, which the model does not need: it was changed")


def _own_codes(model: ScoreModel, text: str) -> CodeArray:
    data = bytes.fromhex(text)
    codes = np.frombuffer(data, "<u2") if len(data) % 2 == 0 else np.empty(0, "<u2")
    n_codes = model.parts[0].n_codes
    if codes.shape != n_codes.shape or (codes >= n_codes).any():
        raise Differs("the codes of the bank's own columns are none that the model has")
    return codes


def _hint(opening: OnlineOpening) -> str:
    return "" if opening.software == software_online() else " (or because other versions compute here)"


def _missing_or_changed(error: Exception, missing: str, what: str) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise Unknown(missing) from error
    raise Differs(f"{what} was changed after the score: {error}") from error
