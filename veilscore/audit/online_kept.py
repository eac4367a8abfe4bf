"""What the bank kept of online scores and decisions, all of it claims, is held against what holders logged."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from veilscore.arrays import CodeArray
from veilscore.audit.replay import Differs, Unknown, other_versions, replay
from veilscore.crypto.he import PublicContext
from veilscore.errors import ConfigError, EvidenceError, VeilscoreError
from veilscore.evidence.documents import Document
from veilscore.evidence.online_archive import DECISIONS, FOLDER, KEYS, MODELS, POOLS
from veilscore.evidence.online_opening import (
    CircuitOpened,
    DecisionRecord,
    LabelsKept,
    OnlineOpening,
    OnlineRecord,
    OpeningLogged,
    PartOpened,
    PartsOpened,
    PoolRecord,
    ShareOpened,
    Use,
    digests_of,
    record_of,
    software_online,
)
from veilscore.evidence.online_rows import OpenedParts
from veilscore.models.decided import FiledDecision
from veilscore.models.filed import load_model
from veilscore.models.model import ScoreModel
from veilscore.protocols.online import bank_opens, bank_record
from veilscore.protocols.online_desks import BankRequest
from veilscore.protocols.online_parts import FirmPart
from veilscore.protocols.online_pool import CIRCUITS, BankPool, LabelsAsked, bank_extends, bank_pool
from veilscore.protocols.online_spares import spare_ids
from veilscore.v1 import control_pb2 as pb
from veilscore.wire.protocol import Protocol

D = TypeVar("D", bound=Document)
M = TypeVar("M", bound=Message)
L = TypeVar("L", ShareOpened, PartsOpened)
K = TypeVar("K")
R = TypeVar("R")
_PARTS_KEPT = 64
_NOT_LOGGED = (pb.OpenedPartial, pb.Empty)  # nothing that the bank sends follows from them


class Latest(Generic[K, R]):
    """Works something out for what is looked at, and keeps what came out for those looked at last.

    A request has few parts: an audit of a year holds no more of them in memory than one of a day.
    """

    def __init__(self, work: Callable[[K], R], most: int = _PARTS_KEPT) -> None:
        self._work, self._most = work, most
        self._found: dict[int, tuple[K, R]] = {}

    def __call__(self, one: K) -> R:
        """Return what comes out, worked out or kept; what it raises is not kept."""
        kept = self._found.pop(id(one), None)
        self._found[id(one)] = (one, self._work(one)) if kept is None else kept
        if len(self._found) > self._most:
            del self._found[next(iter(self._found))]
        return self._found[id(one)][1]


class Exchange:
    """What passed between the bank and one holder, by the holder's log (`veilscore.audit.replay.Record`).

    answers : of the holder, as the bank kept them.
    told : what the bank's messages should follow from.
    measure : of a decision, whose spare this is about: kinds are logged with its name.
    """

    def __init__(self, one: OpeningLogged, answers: Sequence[Message], told: str, measure: str = "") -> None:
        self._one, self._told, self._named = one, told, f" {measure}" if measure else ""
        self._answers = {type(answer): answer for answer in answers}

    def sent(self, to: str, message: Message) -> None:
        """Compare a call with what the holder logged of it."""
        for kind, digest in digests_of(message).items():
            if digest != self._one.messages.get(kind + self._named):
                raise Differs(f"{kind} to {to} is not what the committed seed gives for {self._told}")

    def received(self, sender: str, kind: type[Message]) -> Message:
        """Return the answer that the bank kept, which has to be the one that the holder logged."""
        if kind in _NOT_LOGGED:
            return kind()
        answer = self._answers[kind]
        if all(digest == self._one.messages.get(name + self._named) for name, digest in digests_of(answer).items()):
            return answer
        raise Differs(f"the {kind.__name__} kept is not what {sender} sent: it was changed after the score")

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Do nothing: online there is nothing to go on from."""


@dataclass(frozen=True)
class Secrets:
    """What the bank drew for a spare, and the keys that the holder logged (`protocols.online_spares.BankSecrets`)."""

    kept: OnlineOpening
    keys: PublicContext

    def opening(self, _holder: str, _use: Use, _ident: str, _n_spares: int = 1) -> OnlineOpening:
        """Give the opening that was kept."""
        return self.kept

    def context(self, _holder: str, _keys_id: bytes) -> Protocol[PublicContext]:
        """Give the keys."""
        return self.keys
        yield

    def keep(self, opening: OnlineOpening, prepared: pb.PreparedSpare) -> None:
        """Do nothing: it was kept."""


class OnlineKept:
    """Reads what the bank kept, and says where it does not hold.

    home : the bank's home, or a bundle made of it.
    opened : all openings in holders' logs, also those that are not looked at: a seed serves one.
    made_by : SHA-256 of a model or decision -> jobs that made it and the parties in them, from receipts and logs.
    """

    def __init__(
        self,
        home: Path,
        opened: Iterable[PartOpened | CircuitOpened],
        made_by: Mapping[str, Mapping[str, frozenset[str]]],
    ) -> None:
        self._folder, self._made_by = home / FOLDER, made_by
        self._parts = OpenedParts(self._folder)
        opened = tuple(opened)
        # what was logged twice, as its journal failed and the bank sent the same again, is one use
        distinct = {(use, _request_of(one)) for one in opened for use in _uses_of(one)}
        self._uses = Counter(use for use, _ in distinct)
        # spares of one opening were made together, from one answer of the holder
        self._answers: dict[str, set[str]] = {}
        for commitment, answer in chain.from_iterable(map(_answers_of, opened)):
            self._answers.setdefault(commitment, set()).add(answer)
        self._seeds: dict[str, set[bytes]] = {}
        self._models: dict[str, ScoreModel] = {}
        self._keys: dict[str, PublicContext] = {}

    def record(self, one: PartOpened, name: str, kind: type[D]) -> D:
        """Return the record that the bank kept under a name of what a holder opened."""
        if not one.messages:
            raise Unknown(f"{one.holder} logged no messages of the bank: it ran an earlier version")
        return self._read(kind, lambda: self._parts.record(name))

    def pool(self, one: CircuitOpened) -> PoolRecord:
        """Return what the bank kept of the pool that a lead's circuit is from."""
        if not one.pool:
            raise Unknown(f"{one.holder} logged no pool of transfers for this circuit: it ran an earlier version")
        pool = self._read(PoolRecord, (self._folder / POOLS / one.commitment).read_bytes)
        self.check_opening(one, pool.opening, "pool", one.pool, (one.commitment, one.circuit))
        return pool

    def _read(self, kind: type[D], read: Callable[[], bytes]) -> D:
        try:
            return kind.parse(read())
        except (EvidenceError, OSError) as error:
            _missing_or_changed(error, "the bank kept no opening of it, or deleted it", "the opening")

    def reply(self, one: PartOpened, name: str) -> pb.EncryptedRecord:
        """Return what a holder had answered with its record, as it was kept; `Exchange` compares it."""
        return self._answer(one, pb.EncryptedRecord, lambda: self._parts.reply(name))

    def prepared(self, one: PartOpened, name: str) -> pb.PreparedSpare:
        """Return what a holder had sent for its spares, from the file of this name."""
        return self._answer(one, pb.PreparedSpare, (self._folder / name).read_bytes)

    def _answer(self, one: PartOpened, kind: type[M], read: Callable[[], bytes]) -> M:
        try:
            return kind.FromString(read())
        except (DecodeError, OSError) as error:
            what = f"the {kind.__name__} kept"
            _missing_or_changed(error, f"the bank did not keep what {one.holder} sent", what)

    def check_opening(
        self, one: OpeningLogged, opening: OnlineOpening, use: Use, ident: str, used: tuple[str, str]
    ) -> None:
        """Hold an opening against the commitment that a holder logged (`used`, with the spare, or the circuit)."""
        if opening.commitment.hex() != used[0]:
            raise Differs(f"the opening is not the one that {one.holder} logged a commitment to: it was changed")
        if (opening.bank, opening.holder, opening.use, opening.id) != (one.bank, one.holder, use, ident):
            raise Differs("the bank was committed to the opening of another record")
        several = len(self._answers.get(used[0], ())) > 1 or len(self._drawn_from(opening.seed)) > 1
        if several or self._uses[used] > 1:
            raise Differs("the seed is that of another score or holder too; a seed serves one")

    def check_spare(self, one: OpeningLogged, opening: OnlineOpening, spare_id: str, commitment: str) -> int:
        """Hold a spare's opening against what a holder logged of it; return its number among those made together."""
        ids = spare_ids(opening.id, opening.n_spares)
        # of several made together each has its number behind the id of all, which alone is none of them
        ident = opening.id if spare_id in ids else f"not {opening.id}"
        self.check_opening(one, opening, "spare", ident, (commitment, spare_id))
        return ids.index(spare_id)

    def _drawn_from(self, seed: str) -> set[bytes]:
        """Return the commitments to a seed in all that the bank kept."""
        if not self._seeds:
            for opening in self._all_openings():
                self._seeds.setdefault(opening.seed, set()).add(opening.commitment)
        return self._seeds.get(seed, set())

    def _all_openings(self) -> Iterator[OnlineOpening]:
        """Yield the openings of all that the bank kept; what cannot be read shows where its score is drawn."""
        for _, data in self._parts.records():
            with contextlib.suppress(EvidenceError):
                yield from record_of(data).openings
        for path in (self._folder / POOLS).glob("*"):
            with contextlib.suppress(EvidenceError, OSError):
                yield PoolRecord.parse(path.read_bytes()).opening

    def public_keys(self, holder: str, keys: str) -> PublicContext:
        """Return the public keys of a holder that it logged the SHA-256 of."""
        if keys not in self._keys:
            try:
                data = (self._folder / KEYS / keys).read_bytes()
            except OSError as error:
                raise Unknown(f"the bank did not keep {holder}'s public keys") from error
            if hashlib.sha256(data).hexdigest() != keys:
                raise Differs(f"the keys kept are not those of {holder}: they were changed")
            try:
                self._keys[keys] = PublicContext(data)
            except VeilscoreError as error:
                raise Unknown(f"{holder}'s public keys are unusable: {error.message}") from error
        return self._keys[keys]

    def model(self, sha256: str, holder: str) -> tuple[ScoreModel, str]:
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
        return self._models[sha256], self._job(f"made model {sha256[:16]}...", sha256, holder)

    def decision(self, sha256: str, holder: str) -> tuple[FiledDecision, str]:
        """Return the decision that a holder was told, and a job that filed it with the holder."""
        folder = self._folder / DECISIONS / sha256
        if not folder.is_dir():
            raise Unknown(f"the bank kept no decision {sha256[:16]}..., which {holder} was told")
        try:
            filed = FiledDecision.load(folder)
        except ConfigError as error:
            raise Differs(f"the decision kept was changed: {error.message}") from error
        if filed.sha256.hex() != sha256:
            raise Differs(f"the decision kept is not {sha256[:16]}..., which {holder} was told")
        return filed, self._job(f"filed decision {sha256[:16]}...", sha256, holder)

    def _job(self, what: str, sha256: str, holder: str) -> str:
        jobs = self._made_by.get(sha256, {})
        job = next((job for job, parties in jobs.items() if holder in parties), None)
        if job is None:
            raise Unknown(f"no receipt or log given shows a job with {holder} that {what}")
        return job


def part_again(of: BankRequest, holder: str, record: OnlineRecord | DecisionRecord) -> Protocol[FirmPart]:
    """Take the bank's role at one holder again, from the record to the opening, by what the bank kept of both."""
    part = yield from bank_record(of, holder, fresh=record.fresh)
    share_keys = {party: bytes.fromhex(key) for party, key in record.share_keys.items()}
    kept = record.labels
    # the choices are held against the shares once all parts are known
    asked = None if kept is None else LabelsAsked(kept.pool, kept.circuit, bytes.fromhex(kept.choices))
    yield from bank_opens(of, part, record.parties, share_keys, asked)
    return part


def _pool_again(pool: PoolRecord, circuit: int) -> Protocol[BankPool]:
    """Make a pool as far as the message that made a circuit's transfers, which the lead logged with the circuit."""
    again = yield from bank_pool(pool.opening)
    for _ in range(circuit // CIRCUITS):
        again.extend()
    yield from bank_extends(again)
    return again


def check_transfers(
    one: CircuitOpened, pool: PoolRecord, labels: LabelsKept, asked_of: Callable[[BankPool, int], LabelsAsked]
) -> None:
    """Hold what the bank asked a lead of a circuit against its pool and against what it has to put in.

    labels : that the bank kept; the lead logged them in OpenPartial, which was compared.
    asked_of : makes what asks for the labels again.
    """
    if (labels.pool, str(labels.circuit)) != (one.pool, one.circuit):
        raise Differs(f"the bank kept labels of another circuit than {one.holder} logged")
    try:
        made = pb.MadePool.FromString(bytes.fromhex(pool.made))
    except DecodeError as error:
        raise Differs(f"the MadePool kept was changed after the score: {error}") from error
    calls = Exchange(one, [made], "its pool of transfers" + hint(pool.opening))
    transfers = replay(_pool_again(pool, labels.circuit), calls)
    if asked_of(transfers, labels.circuit).choices.hex() != labels.choices:
        raise Differs(
            f"choices of labels to {one.holder} are not what the committed seed gives for the share that follows "
            "from its seeds, the model, and the codes of its own columns that it states" + hint(pool.opening)
        )


def logged_parts(one: CircuitOpened, opened: Iterable[L]) -> dict[str, L]:
    """Return what the holders of a circuit logged of their parts, by holder; Unknown without the lead's own."""
    logged = {part.holder: part for part in opened if (part.bank, part.request) == (one.bank, one.request)}
    if one.holder not in logged:
        raise Unknown(f"{one.holder} logged no part of its own for this circuit")
    return logged


def own_codes(model: ScoreModel, text: str) -> CodeArray:
    """Return the bank's own codes (n_columns,) of a firm, as it states them."""
    data = bytes.fromhex(text)
    codes = np.frombuffer(data, "<u2") if len(data) % 2 == 0 else np.empty(0, "<u2")
    n_codes = model.parts[0].n_codes
    if codes.shape != n_codes.shape or (codes >= n_codes).any():
        raise Differs("the codes of the bank's own columns are none that the model has")
    return codes


def hint(opening: OnlineOpening) -> str:
    """Return what else may be behind a difference."""
    return other_versions(opening.software, software_online())


def none_made(holder: str, *_: object) -> NoReturn:
    """Make nothing: all that a role asks for again has to be kept or logged."""
    raise Unknown(f"the part of {holder} needs something that is not logged")


def _request_of(one: OpeningLogged) -> tuple[str, ...]:
    """Return what is the same where a holder logged one opening again."""
    return one.holder, one.bank, one.request, one.messages.get(pb.OpenPartial.__name__, "")


def _uses_of(one: PartOpened | CircuitOpened) -> list[tuple[str, str]]:
    """Return what serves one score: a spare, or a circuit of a pool."""
    if isinstance(one, CircuitOpened):
        return [(one.commitment, one.circuit)]
    if isinstance(one, PartsOpened):
        return [(spare.commitment, spare.spare) for spare in one.spares.values()]
    return [(one.commitment, one.spare)]


def _answers_of(one: PartOpened | CircuitOpened) -> list[tuple[str, str]]:
    """Return the commitments of the spares that were used, and digests of what the holder had answered for them."""
    kind = pb.PreparedSpare.__name__
    if isinstance(one, PartsOpened):
        return [(spare.commitment, one.messages.get(f"{kind} {m}", "")) for m, spare in one.spares.items()]
    return [(one.commitment, one.messages.get(kind, ""))] if isinstance(one, ShareOpened) else []


def _missing_or_changed(error: Exception, missing: str, what: str) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise Unknown(missing) from error
    raise Differs(f"{what} was changed after the score: {error}") from error
