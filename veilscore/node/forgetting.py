"""Deletes what a node keeps of one firm, on request or since its time is over, and proves it in the log.

What names a firm goes, but for what law or the account demands, which is told with a date. Ledgers of what was opened
stay: firms stand there as keyed hashes, and without them a firm that comes back could be asked about without bound.
The steps may be cut off at any moment: each is done again by the same command, which goes on from what
HOME/state/forgetting/DIGEST.json says was there at first, so that the log has the counts of the whole, once.

An institution has more places: a file `forgetting` with `keepers(home, node)` in the package of its commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from veilscore.errors import ConfigError, DataError, EvidenceError, StateError
from veilscore.evidence.erasures import ASK, FORGOTTEN, Erasure, erasures
from veilscore.evidence.facts import SCORES_FILE
from veilscore.evidence.log import FOLDER, LOG_FILE
from veilscore.evidence.opening import AUDIT
from veilscore.evidence.receipt import ScoreTree
from veilscore.evidence.recorder import EvidenceRecorder, read_seed
from veilscore.fabric.calling import CALL_S, calling_fabric
from veilscore.fabric.process import only_one, running_pid
from veilscore.files.naming import naming
from veilscore.files.private import private_folder
from veilscore.files.sqlite_file import told
from veilscore.files.store import JobStore, write_atomically, write_text
from veilscore.release.consent import Signed, claim_of, commit
from veilscore.release.ledger import LEDGER, ReleaseLedger
from veilscore.release.pseudonyms import firm_digest
from veilscore.release.token_choice import spellings
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import Strict, read_text
from veilscore.v1 import control_pb2 as pb

NOTES = "state/forgetting"
_DAY_S = 86400.0
_ANSWERS = ("evidence/online.db", "state/online.db")
_ROWS = ("decisions.csv", "watched.json")
_SECTIONS = "state/sections.db"
_PATIENCE_S = 10.0


@dataclass(frozen=True, repr=False)
class Subject:
    """The firm that is to be forgotten.

    names : how its id may be written; digest : under the node's key; stand_in : what takes its place where rows stay.
    """

    home: Path
    names: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, home: Path, firm: str) -> Subject:
        """Return the subject for an id as somebody wrote it."""
        names = tuple(name for name in dict.fromkeys(spellings(firm)) if name.strip())
        if not names or len(names[-1].strip()) < 4:
            raise DataError("an id of a firm has 4 characters at least: a shorter one stands in words, too")
        return cls(home, names, firm_digest(home, names[min(1, len(names) - 1)]))

    @property
    def stand_in(self) -> str:
        """Return what takes the place of the id where a row stays."""
        return f"{FORGOTTEN}-{self.digest}"


@dataclass(frozen=True)
class KeptThing:
    """What a place has of the firm.

    table : by which the log counts it; place : for people; count : rows, files or marks.
    stays : why it stays, and until when; empty: it goes.
    paths : files that go on naming the firm because of it.
    """

    table: str
    place: str
    count: int
    stays: str = ""
    paths: tuple[Path, ...] = field(default=(), repr=False)


class Keeper(Protocol):
    """One kind of place in a home; each method may be called again after a kill between any two writes."""

    def find(self, firm: Subject) -> Iterable[KeptThing]:
        """Say what there is, and change nothing."""

    def forget(self, firm: Subject) -> None:  # noqa: ARG002 - for places where something goes
        """Remove what `find` said would go: nothing, unless a place says otherwise."""
        return

    def finish(self) -> None:
        """Let the disk forget as well, after the last firm."""
        return


class Results(Keeper):
    """Rows of scores, decisions and watches in the folders of jobs."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def _files(self, firm: Subject) -> list[Path]:
        found = [p for name in (SCORES_FILE, *_ROWS) for p in sorted(self._home.glob(f"jobs/*/{name}"))]
        return [path for path in found if naming(path, firm.names)]

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the files that have a row of the firm."""
        for path in self._files(firm):
            yield KeptThing("results", str(path.relative_to(self._home)), 1)

    def forget(self, firm: Subject) -> None:
        """Take the rows out; in a file of scores a leaf stays, so that receipts of other firms can still be made."""
        for path in self._files(firm):
            data = path.read_bytes()
            for name in firm.names:
                data = self._without(path, data, name, firm.stand_in)
            write_atomically(path, lambda file, data=data: file.write(data))  # type: ignore[misc]

    def _without(self, path: Path, data: bytes, name: str, stand_in: str) -> bytes:
        if path.name == SCORES_FILE:
            with contextlib.suppress(StateError):  # a job without a receipt has no secret of its salts
                tree = ScoreTree(data, read_seed(JobStore(self._home / FOLDER / "openings"), path.parent.name))
                with contextlib.suppress(EvidenceError):  # the firm is not in it
                    return tree.without(name)
                return data
        if path.suffix == ".csv":
            lines = data.split(b"\r\n")
            kept = [line for n, line in enumerate(lines) if not n or line.split(b",")[0].strip(b'"') != name.encode()]
            return b"\r\n".join(kept)
        body = json.loads(data)
        body["ids"] = [stand_in if one == name else one for one in body.get("ids", ())]
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode()


class Consents(Keeper):
    """Tokens of the firm, which go, and lists of many, which are signed as a whole."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def _covering(self, firm: Subject, *kinds: str) -> Iterator[tuple[Path, Signed]]:
        for path in (p for kind in kinds for p in sorted((self._home / "consents" / kind).glob("*.json"))):
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            rows = {signed.commitments[n : n + 32] for n in range(0, len(signed.commitments), 32)}
            if any(row.tobytes() in rows for row in commit(claim_of(signed).salt, firm.names)):
                yield path, signed

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the firm's tokens, and lists that cover it."""
        for path, _ in self._covering(firm, "tokens", "used"):
            yield KeptThing("tokens", str(path.relative_to(self._home)), 1)
        for path, signed in self._covering(firm, "lists"):
            day = day_of(claim_of(signed).scope.expires_s)
            why = f"signed for many firms as a whole; it has a salted mark of this one, no id, and ends on {day}"
            yield KeptThing("lists", str(path.relative_to(self._home)), 1, why)

    def forget(self, firm: Subject) -> None:
        """Remove the firm's tokens."""
        for path, _ in list(self._covering(firm, "tokens", "used")):
            path.unlink(missing_ok=True)


class Answers(Keeper):
    """What a node keeps of single scores so that a repeated request gets the same bytes, and their receipts.

    A holder's rows have an id only where a bank put it into that of a request. They stay: without them the same request
    could be opened a second time, with other shares.
    """

    def __init__(self, home: Path, node: NodeConfig) -> None:
        self._home, self._goes = home, node.role == "bank"

    def _matching(self, firm: Subject, act: str) -> dict[str, int]:
        """Count or delete the rows that name the firm, by file."""
        found: dict[str, int] = {}
        for name in _ANSWERS:
            path = self._home / name
            if not path.is_file():
                continue
            with (
                told(str(path), "restore it from backup"),
                contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as db,
            ):
                db.execute("PRAGMA secure_delete=ON")
                for table, column in (("unfinished", "rest"), ("answered", "body")):
                    for word in firm.names:
                        query = f"{act} FROM {table} WHERE instr(key, ?) OR instr({column}, CAST(? AS BLOB))"
                        rows = db.execute(query, (word, word))
                        found[name] = found.get(name, 0) + (rows.fetchone()[0] if act != "DELETE" else rows.rowcount)
        return found

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the files with such rows."""
        why = (
            ""
            if self._goes
            else "a bank's request has the id in its own; it must not be opened twice, and goes in 90 days"
        )
        for name, count in self._matching(firm, "SELECT COUNT(*)").items():
            if count:
                path = self._home / name
                yield KeptThing("answers", name, count, why, (path, path.with_name(f"{path.name}-wal")) * bool(why))

    def forget(self, firm: Subject) -> None:
        """Delete the rows at a bank: the same request is answered anew, and needs a consent of its own."""
        if self._goes:
            self._matching(firm, "DELETE")

    def finish(self) -> None:
        """Write the files anew, so that no free page holds a row."""
        for path in (self._home / name for name in _ANSWERS):
            if self._goes and path.is_file():
                rewritten(path)


class LoggedRequests(Keeper):
    """The node's log, which grows alone; it has an id only where somebody put it into that of a request."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield whether the log names the firm."""
        path = self._home / FOLDER / LOG_FILE
        if path.is_file() and naming(path, firm.names):
            why = "a request has the id in its own; the log proves what was opened, and nothing is ever taken out of it"
            yield KeptThing("log", f"{FOLDER}/{LOG_FILE}", 1, why, (path,))


class Ledgers(Keeper):
    """What was opened of the firm: counted under keyed hashes, for as long as the node lives."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield how much the ledgers hold."""
        why = "it bounds what may still be opened of this firm; it stands there under a keyed hash, without its id"
        if not (self._home / LEDGER).is_file():
            return
        with contextlib.closing(ReleaseLedger(self._home / LEDGER)) as ledger:
            keys = ledger.firms(firm.names).tolist()
            if count := len({r.reference for key in keys for r in ledger.of_firm(key, 0.0)}):
                yield KeptThing("ledger", LEDGER, count, why)
        if (self._home / _SECTIONS).is_file():
            marks = [f"{key:016x}" for key in keys]
            with contextlib.closing(sqlite3.connect(self._home / _SECTIONS, timeout=_PATIENCE_S)) as db:
                query = f"SELECT COUNT(*) FROM told WHERE firm IN ({','.join('?' * len(marks))})"  # noqa: S608 - marks alone
                if count := db.execute(query, marks).fetchone()[0]:
                    yield KeptThing("sections told", _SECTIONS, count, why)


class Openings(Keeper):
    """What an auditor runs steps again with: it has the data set as it was, until the sweep after `audit.days`."""

    def __init__(self, home: Path, node: NodeConfig) -> None:
        self._home, self._days = home, node.audit.days

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the openings of attempts whose files name the firm."""
        for folder in sorted(self._home.glob(f"jobs/*/{AUDIT}/*")):
            if folder.is_dir() and (paths := naming(folder, firm.names)):
                day = day_of(folder.stat().st_mtime + self._days * _DAY_S)
                why = f"an auditor may ask for this step until {day} (audit.days); `veilscore audit delete` ends it now"
                yield KeptThing("openings", str(folder.relative_to(self._home)), len(paths), why, tuple(paths))


class OwnData(Keeper):
    """The party's data sets, which are its own and no part of what this program keeps."""

    def __init__(self, home: Path, node: NodeConfig) -> None:
        self._home, self._node = home, node

    def find(self, firm: Subject) -> Iterator[KeptThing]:
        """Yield the data sets that have a row of the firm, and the events they are made of."""
        for name, dataset in self._node.datasets.items():
            places = [dataset.path, dataset.features.events if dataset.features else None]
            for place in (one for one in places if one is not None and one.exists()):
                if self._home / "batches" in place.parents:
                    continue  # written for a job
                if paths := naming(place, firm.names):
                    why = "a data set of the party's own: take the firm out where it comes from, if your law says so"
                    yield KeptThing("data sets", f"{name}, {place}", len(paths), why, tuple(paths))


def keepers_of(home: Path, node: NodeConfig) -> list[Keeper]:
    """Return all places of a home, with those of its institution."""
    found: list[Keeper] = [Results(home), Consents(home), Answers(home, node), Ledgers(home), LoggedRequests(home)]
    found += [Openings(home, node), OwnData(home, node)]
    for entry in entry_points(group="veilscore.commands", name=node.role):
        name = f"{entry.module.partition('.')[0]}.forgetting"
        if importlib.util.find_spec(name) is not None:
            try:
                found += importlib.import_module(name).keepers(home, node)
            except ModuleNotFoundError as error:  # else it would keep what nobody looked for
                raise ConfigError(f"forgetting needs {error.name} here: run `pip install 'veilscore[bank]'`") from error
    return found


@dataclass(frozen=True)
class Forgotten:
    """What came of it: what was found, and files that name the firm for no reason that was told."""

    findings: tuple[KeptThing, ...]
    unknown: tuple[Path, ...]
    logged: bool


def plan(keepers: Sequence[Keeper], firm: Subject) -> Forgotten:
    """Say what would go, and what would stay and why; nothing is changed."""
    findings = tuple(one for keeper in keepers for one in keeper.find(firm))
    return Forgotten(findings, (), logged=False)


def forget(home: Path, node: NodeConfig, keepers: Sequence[Keeper], firm: Subject, *, search: bool = True) -> Forgotten:
    """Forget a firm; a repeat finds nothing and logs nothing, one after a kill goes on.

    search : look through every file afterwards.
    Raises StateError where a place cannot be read or written: what was done stays done.
    """
    path = home / NOTES / f"{firm.digest}.json"
    found = plan(keepers, firm).findings
    gone = Counter[str]()
    for one in found:
        gone[one.table] += 0 if one.stays else one.count
    stays = Counter[str]()
    for one in found:
        stays[one.table] += one.count if one.stays else 0
    note = _note(path)
    if note is None and not +gone and any(e.firm == firm.digest for e in _logged(home)):
        return Forgotten(found, _unknown(home, found, firm) if search else (), logged=False)
    begun = _Note(number=secrets.token_hex(16), gone={}) if note is None else note
    counts = {table: max(gone[table], begun.gone.get(table, 0)) for table in {*gone, *begun.gone}}
    private_folder(path.parent)
    write_text(path, begun.model_copy(update={"gone": counts}).model_dump_json())
    for keeper in keepers:
        keeper.forget(firm)
    if search:
        for keeper in keepers:
            keeper.finish()
    unknown = _unknown(home, found, firm) if search else ()
    erased = Erasure(
        kind="forgotten",
        number=begun.number,
        firm=firm.digest,
        gone={table: n for table, n in sorted(counts.items()) if n},
        stays={table: n for table, n in sorted(stays.items()) if n} | ({"unknown": len(unknown)} if unknown else {}),
    )
    if begun.number not in {one.number for one in _logged(home)}:
        write_down(home, node, erased)
    path.unlink(missing_ok=True)
    return Forgotten(found, unknown, logged=True)


def unfinished(home: Path) -> list[str]:
    """Return the digests of firms whose forgetting was begun and did not end."""
    return sorted(path.stem for path in (home / NOTES).glob("*.json"))


def write_down(home: Path, node: NodeConfig, erased: Erasure) -> None:
    """Write a deletion into the node's log: by the node where it runs, else by this process."""
    body = erased.model_dump(mode="json")
    if running_pid(home) is not None:
        asyncio.run(_tell(home, node, json.dumps(body).encode()))
        return
    identity, federation = load_membership(home, node)
    with only_one(home):
        recorder = EvidenceRecorder(home, node, lambda: identity, lambda: federation)
        with contextlib.closing(recorder):
            recorder.open()
            recorder.noted(body.pop("kind"), **body)


async def _tell(home: Path, node: NodeConfig, body: bytes) -> None:
    fabric = calling_fabric(*load_membership(home, node))
    try:
        call = pb.EvidenceCall(ask=ASK, body=body)
        await fabric.call(node.name, "Console", call, pb.EvidenceReply, timeout_s=CALL_S, retry=False)
    finally:
        await fabric.stop(0.1)


def rewritten(path: Path) -> None:
    """Write an SQLite file anew, so that neither free pages nor its journal hold what was deleted."""
    with (
        told(str(path), "restore it from backup"),
        contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None)) as db,
    ):
        db.execute("VACUUM")
        until_s = time.monotonic() + _PATIENCE_S
        while db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] and time.monotonic() < until_s:
            time.sleep(0.1)  # somebody reads just now


def day_of(at_s: float) -> str:
    """Return a day as people write it, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at_s))


class _Note(Strict):
    """What is kept while a firm is forgotten: the number of the deletion, and what was there at first."""

    number: str
    gone: dict[str, int]


def _note(path: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be read: remove it, and begin the forgetting again") from error


def _logged(home: Path) -> list[Erasure]:
    return erasures(home) if (home / FOLDER / LOG_FILE).is_file() else []


def _unknown(home: Path, findings: Iterable[KeptThing], firm: Subject) -> tuple[Path, ...]:
    """Return the files that name the firm and that no finding accounts for."""
    told_of = {path for one in findings for path in one.paths}
    return tuple(path for path in naming(home, firm.names) if path not in told_of)
