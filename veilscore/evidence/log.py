"""A party's append-only log is one file of entries as canonical JSON, with a signed Merkle head after each batch.

Lines of the file: `E {entry}` for each entry, then `H {signed head}`; one write and one fsync for both. A batch
counts once its head is on disk. What a crash leaves after the last head (a cut line, entries without a head, blocks of
zeros) is a torn tail: nobody was told that it was logged. It is cut off at the next opening, which the log records.
Where a caller waits (one score), an entry is written ahead of its head: it counts once it is on disk itself, and the
head over it and others like it follows in a moment. If a crash comes between, the next opening signs such entries, by
their kinds alone, and records that they were found unsigned.

Source  : RFC 9162 (tree and heads). Entries hold digests, sizes and times; a firm's id only inside a salted hash.
Protects: any change of a byte and any missing, added or moved entry is found, up to the last head anybody kept.
Does not: stop the owner from changing the end that nobody has seen, or, for entries ahead of their head, whoever can
          write the file while the node is down; countersigned and anchored heads (heads.py, anchor.py) make it visible.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilscore.errors import EvidenceError, StateError
from veilscore.evidence.documents import Keys, Signer, canonical, digest
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.merkle import MerkleTree, leaf_hash
from veilscore.files.private import private_folder

FOLDER = "evidence"  # of a home
LOG_FILE = "log.jsonl"
MAX_ENTRY_BYTES = 1 << 20
MAX_BATCH = 100_000
_ENTRY, _HEAD = b"E ", b"H "


@dataclass(frozen=True)
class LogFile:
    """A log file as it was read, up to its last head.

    places : (offset, size) of every entry's JSON in the file.
    end : offset behind the last head; what follows is torn, or ahead of its head.
    torn : bytes behind it.
    """

    tree: MerkleTree
    places: list[tuple[int, int]]
    head: SignedHead | None
    heads: list[SignedHead]
    end: int
    torn: bytes


def scan(path: Path, *, visit: Callable[[int, bytes], None] | None = None) -> LogFile:
    """Read a log file, recompute its tree and compare it with every head; signatures are not checked.

    visit : called with index and JSON of every entry that a head covers.
    Raises EvidenceError where something before the last head was changed, dropped, added or moved, and says where;
        StateError where the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise StateError(f"log {path} cannot be read: {error.strerror}") from error
    tree = MerkleTree()
    heads: list[SignedHead] = []
    places: list[tuple[int, int]] = []
    end = start = line = 0
    waiting: list[tuple[int, int]] = []
    sure = _sure(data)
    while (stop := data.find(b"\n", start)) >= 0:
        line += 1
        tag, body = data[start : start + 2], data[start + 2 : stop]
        if tag == _ENTRY:
            waiting.append((start + 2, len(body)))
        elif end > sure:  # behind the last intact head nothing is known to be whole
            break
        elif tag == _HEAD:
            tree.extend(leaf_hash(data[at : at + n]) for at, n in waiting)
            heads.append(_checked_head(body, tree, heads, f"{path.name}, line {line}"))
            if visit:
                for number, (at, n) in enumerate(waiting, start=len(places)):
                    visit(number, data[at : at + n])
            places += waiting
            waiting, end = [], stop + 1
        else:
            raise EvidenceError(f"{path.name}, line {line} is neither an entry nor a head: the log was changed")
        start = stop + 1
    return LogFile(tree, places, heads[-1] if heads else None, heads, end, data[end:])


def _sure(data: bytes) -> int:
    """Return the offset of the last intact head; a power loss can leave zero bytes in the last write, after it.

    Zeros before the last head but one are no power loss: then it is the end of `data`, so that `scan` finds them.
    """
    last = data.rfind(b"\nH ")
    before = data.rfind(b"\nH ", 0, max(last, 0))
    zero = data.find(b"\0", before + 1)
    return len(data) if zero < 0 else last if zero > last else before


def _checked_head(body: bytes, tree: MerkleTree, before: Sequence[SignedHead], where: str) -> SignedHead:
    try:
        head = SignedHead.parse(body)
    except EvidenceError as error:
        raise EvidenceError(f"{where}: the head was changed: {error.message}") from error
    if head.previous != (digest(before[-1].to_bytes()) if before else ""):
        raise EvidenceError(f"{where}: the head before this one was changed or left out", party=head.party)
    if (head.size, head.root_bytes) != (tree.size, tree.root()):
        raise EvidenceError(
            f"{where}: the entries before this head are not those that {head.party} signed: one was changed, "
            "dropped, added or moved",
            party=head.party,
        )
    return head


class Log:
    """One party's log, open for appending by any thread of one process at a time.

    folder : made if absent; holds log.jsonl.
    signer : gives the party's identity in use (it changes when keys are rotated).
    keys : to check the last head with.
    clock : seconds since the epoch.
    visit : called with index and JSON of every entry that is there already.
    ahead : kinds of entries that may be written ahead of their head.
    Raises EvidenceError where the log was changed, and leaves it as it is; StateError where it cannot be read or
        written, or another process has it.
    """

    def __init__(
        self,
        folder: Path,
        signer: Callable[[], Signer],
        keys: Keys,
        *,
        clock: Callable[[], float] = time.time,
        visit: Callable[[int, bytes], None] | None = None,
        ahead: frozenset[str] = frozenset(),
    ) -> None:
        self.path = folder / LOG_FILE
        self._signer, self._clock, self._ahead = signer, clock, ahead
        self._lock = threading.Lock()
        self._file = self._open(folder)
        try:
            found = scan(self.path, visit=visit)
            if found.head is not None:
                _check_owner(found.head, signer().name, keys)
            self._go_on(found, visit)
        except BaseException:
            os.close(self._file)
            raise

    def _go_on(self, found: LogFile, visit: Callable[[int, bytes], None] | None) -> None:
        self._tree, self._places, self._end = found.tree, found.places, found.end
        self._head = found.head
        self._previous = digest(found.head.to_bytes()) if found.head else ""
        self._whole = True  # the file ends where this object thinks it does
        unsigned = self._adopt(found.torn, visit) if found.head else 0
        torn = found.torn[self._end - found.end :]
        self.torn_bytes = len(torn)
        if torn:
            self._cut(self._end)
        self._flush()  # a process that was killed may have left a head that is not on disk yet
        if found.head is None:
            self.append([{"kind": "opened", "party": self._signer().name, "time_ms": self.now_ms()}])
        if found.torn:
            entry = {"kind": "recovered", "unsigned": unsigned, "bytes": len(torn), "sha256": digest(torn)}
            self.append([entry | {"time_ms": self.now_ms()}])

    def _adopt(self, tail: bytes, visit: Callable[[int, bytes], None] | None) -> int:
        """Take in the entries that a crash left without their head, and return how many they are."""
        first = self.size
        for line in tail.split(b"\n")[:-1]:
            body = line[2:]
            if not line.startswith(_ENTRY) or _kind_of(body) not in self._ahead:
                break
            self._tree.extend([leaf_hash(body)])
            if visit:
                visit(self.size, body)
            self._place(body)
        return self.size - first

    def _place(self, body: bytes) -> None:
        """Note where an entry that is on disk now stands."""
        self._places.append((self._end + len(_ENTRY), len(body)))
        self._end += len(_ENTRY) + len(body) + 1

    def _open(self, folder: Path) -> int:
        try:
            private_folder(folder)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"log {self.path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StateError(f"log {self.path} is in use by another process: stop that first") from error
        return descriptor

    def close(self) -> None:
        """Close the file; entries that have no head yet get one, if it can be written."""
        with self._lock:
            if self._file >= 0:
                try:
                    with contextlib.suppress(StateError):
                        self._sign_head()
                finally:
                    os.close(self._file)
                    self._file = -1

    def now_ms(self) -> int:
        """Return the time for an entry, milliseconds since the epoch."""
        return int(self._clock() * 1000)

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return len(self._places)

    @property
    def head(self) -> SignedHead:
        """Return the head over everything in the log, signed now if entries have none yet."""
        with self._lock:
            self._sign_head()
            if self._head is None:
                raise EvidenceError("the log has no entry yet")
            return self._head

    def append(self, entries: Sequence[dict[str, Any]], *, head_later: bool = False) -> range:
        """Write entries and a head over them, and return their indices once they are on disk.

        head_later : somebody waits, so entries alone are written, and the caller sees to it that `sign_head` is called
            in a moment. A signature takes half as long as an fsync, and one may stand for many entries.
        Raises EvidenceError for no entry, too many, one that is too long, or one of a kind that has its head with it;
            StateError where the disk is full or cannot be written, and then nothing was appended.
        """
        bodies = [canonical(entry) for entry in entries]
        if not 0 < len(bodies) <= MAX_BATCH or max(map(len, bodies)) > MAX_ENTRY_BYTES:
            raise EvidenceError(f"1 to {MAX_BATCH} entries at once, each of at most {MAX_ENTRY_BYTES} bytes")
        if head_later and not {str(entry.get("kind")) for entry in entries} <= self._ahead:
            raise EvidenceError(f"only entries of the kinds {sorted(self._ahead)} are written ahead of their head")
        with self._lock:
            first = self.size
            self._tree.extend(map(leaf_hash, bodies))
            try:
                self._write(bodies, with_head=not head_later)
            except BaseException:  # the tree may never be ahead of the file
                self._tree.cut(first)
                raise
            return range(first, self.size)

    def sign_head(self) -> None:
        """Sign and write a head over the entries that have none, if there are any; StateError as from `append`."""
        with self._lock:
            self._sign_head()

    def _sign_head(self) -> None:
        if self._file >= 0 and self._head is not None and self._head.size < self.size:
            self._write([], with_head=True)

    def _write(self, bodies: list[bytes], *, with_head: bool) -> None:
        """Write entries, and behind them a head of the tree as it is, if wanted."""
        data, head, signed = b"".join([_ENTRY + body + b"\n" for body in bodies]), self._head, b""
        if with_head:
            head = SignedHead.sign(self._signer(), self._tree.size, self._tree.root(), self._previous, self.now_ms())
            signed = head.to_bytes()
            data += _HEAD + signed + b"\n"
        self._put(data)
        end = self._end + len(data)
        for body in bodies:
            self._place(body)
        self._end = end
        if with_head:
            self._head, self._previous = head, digest(signed)

    def _put(self, data: bytes) -> None:
        if not self._whole:  # an earlier write failed and could not be taken back
            self._cut(self._end)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError as error:
            self._cut(self._end)
            raise StateError(f"log {self.path} cannot be written: {error.strerror}; free space, then go on") from error

    def _cut(self, end: int) -> None:
        """Remove what stands behind `end`; until that has succeeded nothing is written."""
        self._whole = False
        try:
            os.ftruncate(self._file, end)
        except OSError as error:
            raise StateError(f"log {self.path} cannot be repaired: {error.strerror}") from error
        self._flush()
        self._whole = True

    def _flush(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise StateError(f"log {self.path} cannot be written: {error.strerror}") from error

    def entry(self, index: int) -> bytes:
        """Return the JSON of one entry."""
        with self._lock:
            if not 0 <= index < self.size:
                raise EvidenceError(f"the log has {self.size} entries, none with number {index}")
            at, n = self._places[index]
            return os.pread(self._file, n, at)

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """Yield the JSON of the entries from `start` on."""
        for index in range(start, self.size):
            yield self.entry(index)

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the path of an entry in the tree of `size` entries."""
        with self._lock:
            return self._tree.inclusion(index, size)

    def continues(self, head: SignedHead) -> bool:
        """Return whether the log, up to the size of a head of it, is what that head was signed for."""
        with self._lock:
            return head.size <= self.size and self._tree.root(head.size) == head.root_bytes

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """Return the path from the tree of `old` entries to that of `size`."""
        with self._lock:
            return self._tree.consistency(old, size)


def _kind_of(body: bytes) -> str:
    """Return the kind of an entry; "" if it is none, or not in canonical form."""
    try:
        entry = json.loads(body)
        return str(entry["kind"]) if canonical(entry) == body else ""
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def _check_owner(head: SignedHead, name: str, keys: Keys) -> None:
    if head.party != name:
        raise EvidenceError(f"this log is {head.party}'s, the identity is that of {name}", party=name)
    head.verify(keys)
