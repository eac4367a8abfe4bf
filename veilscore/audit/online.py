"""Audit of online scores: make the bank's reply to a holder again and compare it with what the holder logged.

Source  : docs/adr/0012.
Inputs  : what the bank kept (`veilscore.evidence.online_opening`), all of it claims; and holders' signed logs.
Proves  : what the holder opened is the points of the model whose hash it was told, put on the very ciphertexts that it
          sent, under the seed that the bank was committed to before it had them. Of a band, that the share which the
          bank put into the circuit follows from those replies and from its own points.
Does not: say that the bank's own columns of the firm are true (of trees and bands, its factors and points follow from
          codes that it states), nor see what a bank computes with a total afterwards.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from veilscore.arrays import CodeArray, Integers, Words
from veilscore.audit.replay import Differs, Finding, Unknown, Verdict
from veilscore.crypto.he import PublicContext
from veilscore.errors import ConfigError, EvidenceError, VeilscoreError
from veilscore.evidence.documents import digest
from veilscore.evidence.online_opening import (
    FOLDER,
    KEYS,
    MODELS,
    BandRecord,
    OnlineOpening,
    OnlineRecord,
    digest_of_ciphertexts,
    read_any,
    read_band,
    read_query,
    read_record,
    software_online,
)
from veilscore.evidence.witness import BandOpened, ShareOpened
from veilscore.models.boosted import Boosted
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.online.model import ModelSides, bank_trees
from veilscore.online.spares import BankSpare
from veilscore.protocols import online
from veilscore.protocols.online_band import BankBand, names_of
from veilscore.terms.bands import Bands
from veilscore.v1 import control_pb2 as pb

STEP = "online"
K = TypeVar("K", OnlineRecord, BandRecord)


@dataclass(frozen=True, repr=False)
class _Reply:
    """A reply made again; `parties` are those that the holder was asked to open with."""

    detail: str
    parties: tuple[str, ...]
    cells: Integers
    mask_total: Words
    own_codes: str


class OnlineAudit:
    """Audit of scores that a bank released online.

    Parameters
    ----------
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
        self._uses = Counter(part.commitment for part in self._opened)
        self._uses.update(band.commitment for band in bands)
        self._seeds: Counter[str] | None = None
        self._models: dict[str, ScoreModel] = {}
        self._keys: dict[str, PublicContext] = {}

    def finding(self, one: ShareOpened | BandOpened) -> Finding:
        """Audit one holder's opening for one score, or a lead's of one band."""
        verdict: Verdict = "confirmed"
        band = isinstance(one, BandOpened)
        try:
            detail = self._audit_band(one) if isinstance(one, BandOpened) else self._reply(one).detail
        except Differs as found:
            verdict, detail = "differs", str(found)
        except Unknown as found:
            verdict, detail = "cannot be audited", str(found)
        except Exception as error:  # noqa: BLE001 - what a hostile record brings about must not end the audit
            verdict, detail = "cannot be audited", f"the reply cannot be made again: {type(error).__name__}"
        step = f"{STEP} band {one.holder}" if band else f"{STEP} {one.holder}"
        return Finding(one.request, step, 1, verdict, one.bank, detail)

    def _reply(self, one: ShareOpened) -> _Reply:
        """Make the bank's reply to one holder again."""
        if not one.commitment:
            raise Unknown(f"{one.holder} logged no commitment of the bank: it ran an earlier version")
        record = self._record(one)
        query, context = self._query(one), self._context(one)
        model, job = self._model(one)
        cells = _cells(model, one, bytes.fromhex(record.own_codes))
        opening, request = record.opening, _request(one, record)
        random = online.random_factors(opening.seed_bytes, cells.size) if isinstance(model, Boosted) else None
        spared = one.spare != ""
        weights = online.lifted(random) if spared and random is not None else cells
        try:
            blinds = online.make_blinds(context, opening.seed_bytes, len(query))
            done = online.evaluate(context, query, online.encode_points(weights), blinds)
        except VeilscoreError as error:
            raise Unknown(f"the reply cannot be made again: {error}") from error
        hint = "" if opening.software == software_online() else " (or because other versions compute here)"
        told = f"model {one.model[:16]}..., which {one.holder} was told"
        if spared and digest_of_ciphertexts(done.reply) != one.reply:
            raise Differs(f"FinishSpare to {one.holder} is not what the committed seed gives for {told}{hint}")
        request.evaluated_enc[:] = () if spared else done.reply
        request.factors_share = online.pack_factors(cells, random) if spared and random is not None else b""
        if digest(request.SerializeToString(deterministic=True)) != one.ciphertexts:
            raise Differs(f"OpenPartial to {one.holder} is not what the committed seed gives for {told}{hint}")
        how = "a spare" if spared else "its ciphertexts"
        own = ", by the codes of its own columns that the bank states" if random is not None else ""
        detail = f"points of model {one.model[:16]}... (job {job}) on {how}, as logged by {one.holder}{own}"
        return _Reply(detail, tuple(request.with_parties), cells, done.mask_total, record.own_codes)

    def _audit_band(self, one: BandOpened) -> str:
        """Make the labels of the bank's share again."""
        record = self._band_record(one)
        parts = {s.holder: s for s in self._opened if (s.bank, s.request) == (one.bank, one.request)}
        if one.holder not in parts:
            raise Unknown(f"{one.holder} logged no part of its own for this band")
        replies = {holder: self._reply(part) for holder, part in parts.items()}
        parties = replies[one.holder].parties
        absent = [p for p in parties if p not in parts]
        if absent:
            raise Unknown(f"give the log of {', '.join(absent)}: the bank's share follows from its masks there too")
        if {parts[p].model for p in parties} != {record.model}:
            raise Differs("the holders of this band were told of different models, or of another than the bank kept")
        model, _ = self._model(parts[one.holder])
        if isinstance(model, Boosted) and {replies[p].own_codes for p in parties} != {record.own_codes}:
            raise Differs("the bank states other codes of its own columns for the band than for its factors")
        codes = _own_codes(model, bytes.fromhex(record.own_codes))[None]
        sides = ModelSides.of(model).of_record(codes)
        masks = [_mask(parts[p], replies[p], record) for p in parties]
        share = sides.units_without(codes, [h for h in sides.holders if h not in parties]) - sum(masks)
        bands, choices = Bands.of(model.bands, model.scaling.units), bytes.fromhex(record.choices)
        if bands.sha256.hex() != one.bands:
            raise Differs("the cut-offs of the model kept are not those of the circuit")
        if hashlib.sha256(choices).hexdigest() != one.choices:
            raise Differs(f"the choices kept are not those that {one.holder} sent: they were changed")
        role = BankBand(names_of(one.bank, one.holder, one.setup), record.opening.seed_bytes)
        role.accept(choices)
        asked = pb.BandLabels(request_id=one.request, setup_id=one.setup, labels=role.labels(share, bands))
        if digest(asked.SerializeToString(deterministic=True)) != one.labels:
            raise Differs(
                f"BandLabels to {one.holder} are not those of the share that follows from the committed seeds, the "
                "model, and the codes of its own columns that the bank states"
            )
        return (
            f"the bank's share in the circuit of {one.holder}, by its replies to {', '.join(parties)}, as logged there"
        )

    def _band_record(self, one: BandOpened) -> BandRecord:
        record = self._kept(read_band, one)
        self._check_opening(one, record.opening, "band", one.setup)
        if record.request != one.request:
            raise Differs(f"what the bank kept is of another request than {one.holder} logged")
        return record

    def _record(self, one: ShareOpened) -> OnlineRecord:
        record = self._kept(read_record, one)
        self._check_opening(one, record.opening, *(("spare", one.spare) if one.spare else ("record", one.request)))
        return record

    def _kept(self, read: Callable[[Path, str], K], one: ShareOpened | BandOpened) -> K:
        try:
            return read(self._folder, one.commitment)
        except FileNotFoundError as error:
            raise Unknown("the bank kept no opening of it, or deleted it") from error
        except (EvidenceError, OSError) as error:
            raise Differs(f"the opening was changed after the score: {error}") from error

    def _check_opening(self, one: ShareOpened | BandOpened, opening: OnlineOpening, use: str, ident: str) -> None:
        if opening.commitment.hex() != one.commitment:
            raise Differs(f"the opening is not the one that {one.holder} logged a commitment to: it was changed")
        if (opening.bank, opening.holder, opening.use, opening.id) != (one.bank, one.holder, use, ident):
            raise Differs("the bank was committed to the opening of another record")
        if self._uses[one.commitment] > 1 or self._seed_counts()[opening.seed] > 1:
            raise Differs("the seed is that of another score or holder too; a seed serves one")

    def _seed_counts(self) -> Counter[str]:
        """How often each seed occurs in all that the bank kept."""
        if self._seeds is None:
            self._seeds = Counter()
            for path in self._folder.glob("*.json"):
                try:
                    self._seeds[read_any(path).opening.seed] += 1
                except (EvidenceError, OSError):
                    continue  # shown where its score is drawn
        return self._seeds

    def _query(self, one: ShareOpened) -> tuple[bytes, ...]:
        try:
            query = read_query(self._folder, one.commitment)
        except FileNotFoundError as error:
            raise Unknown("the bank did not keep the ciphertexts that it was sent") from error
        except (EvidenceError, OSError) as error:
            raise Differs(f"the ciphertexts kept were changed after the score: {error}") from error
        if digest_of_ciphertexts(query) not in one.queries:
            raise Differs(f"the ciphertexts kept are not those that {one.holder} sent: they were changed")
        return query

    def _context(self, one: ShareOpened) -> PublicContext:
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

    def _model(self, one: ShareOpened) -> tuple[ScoreModel, str]:
        """The model that the holder was told, and a job that made it with the holder."""
        if one.model not in self._models:
            path = self._folder / MODELS / f"{one.model}.json"
            if not path.is_file():
                raise Unknown(f"the bank kept no model {one.model[:16]}..., which {one.holder} was told")
            try:
                model = load_model(path)
            except ConfigError as error:
                raise Differs(f"the model kept was changed: {error.message}") from error
            if model.sha256.hex() != one.model:
                raise Differs(f"the model kept is not {one.model[:16]}..., which {one.holder} was told")
            self._models[one.model] = model
        jobs = self._trained.get(one.model, {})
        job = next((job for job, parties in jobs.items() if one.holder in parties), None)
        if job is None:
            raise Unknown(f"no receipt or log given shows a job with {one.holder} that made model {one.model[:16]}...")
        return self._models[one.model], job


def _request(one: ShareOpened, record: OnlineRecord) -> pb.OpenPartial:
    """The request to open as the bank kept it, for what is compared in whole with the holder's digest of it."""
    try:
        request = pb.OpenPartial.FromString(bytes.fromhex(record.request))
    except DecodeError as error:
        raise Differs("the request to open cannot be read: it was changed after the score") from error
    stated = request.request_id, request.keys_id.hex(), request.commitment.hex(), record.model
    if stated != (one.request, one.keys, one.commitment, one.model):
        raise Differs(f"what the bank kept is of another request or model than {one.holder} logged")
    return request


def _cells(model: ScoreModel, one: ShareOpened, own_codes: bytes) -> Integers:
    """Points of the holder's cells; for trees the factors of a record with these codes of the bank."""
    part = next((part for part in model.parts if part.party == one.holder), None)
    trees = model.holder_sha256.get(one.holder, "") if isinstance(model, Boosted) else ""
    if part is None or one.part != part.map_sha256 + trees:
        raise Differs(f"model {one.model[:16]}... is for another part of {one.holder} than the one it was asked for")
    if not isinstance(model, Boosted):
        if own_codes:
            raise Differs("the record has codes of the bank, which the model does not need: it was changed")
        return part.points
    factors = bank_trees(model)[one.holder].record(_own_codes(model, own_codes)).factors
    return factors if factors.size else np.zeros(1, np.int64)


def _own_codes(model: ScoreModel, data: bytes) -> CodeArray:
    codes = np.frombuffer(data, "<u2") if len(data) % 2 == 0 else np.empty(0, "<u2")
    n_codes = model.parts[0].n_codes
    if codes.shape != n_codes.shape or (codes >= n_codes).any():
        raise Differs("the codes of the bank's own columns are none that the model has")
    return codes


def _mask(one: ShareOpened, reply: _Reply, record: BandRecord) -> int:
    """What the bank has to take off a holder's part; under a spare that depends on what the holder sent for it."""
    if not one.spare:
        return int(reply.mask_total[0])
    if not one.difference:
        raise Unknown(f"{one.holder} logged no digest of what it sent under its spare: it ran an earlier version")
    difference = bytes.fromhex(record.differences.get(one.holder, ""))
    if hashlib.sha256(difference).hexdigest() != one.difference:
        raise Differs(f"what the bank states that {one.holder} sent under its spare is something else")
    return int(BankSpare(one.spare, reply.mask_total).evaluated(difference, reply.cells, one.holder).mask_total[0])
