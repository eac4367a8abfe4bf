"""Merkle trees prove that an entry is in a log, and that a longer log continues a shorter one.

A leaf is hashed as SHA-256(0x00 || data), two subtrees as SHA-256(0x01 || left || right); the left subtree of n leaves
holds the largest power of two below n.

Source : RFC 9162, section 2.1 (the same trees as RFC 6962).
Assumes: SHA-256 is collision resistant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from veilscore.errors import EvidenceError

HASH_BYTES = 32
MAX_PATH = 64  # a tree of 2^63 leaves
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """Grows a tree over hashes of leaves (32 bytes); it keeps every complete subtree's hash, 64 bytes a leaf."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]  # level k: hashes of complete subtrees of 2^k leaves
        self.extend(leaves)

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0])

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append hashes of leaves."""
        # node_hash is written out here: a log of a million entries is hashed at every start
        sha256, levels = hashlib.sha256, self._levels
        levels[0].extend(leaves)
        level = 0
        while len(levels[level]) > 1:
            if level + 1 == len(levels):
                levels.append([])
            below, above = levels[level], levels[level + 1]
            first, end = 2 * len(above), len(below) - 1
            above.extend(sha256(b"\x01" + below[i] + below[i + 1]).digest() for i in range(first, end, 2))
            level += 1

    def cut(self, size: int) -> None:
        """Forget the leaves from `size` on."""
        for level, hashes in enumerate(self._levels):
            del hashes[size >> level :]

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` leaves, by default all; EvidenceError if there are fewer."""
        size = self._checked(self.size if size is None else size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the path that proves leaf `index` in the tree of the first `size` leaves."""
        size = self._checked(self.size if size is None else size)
        if not 0 <= index < size:
            raise EvidenceError(f"there is no entry {index} in a tree of {size}")
        path, start, end = [], 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            left = index < middle
            path.append(self._subtree(middle, end) if left else self._subtree(start, middle))
            start, end = (start, middle) if left else (middle, end)
        return path[::-1]

    def consistency(self, old: int, size: int | None = None) -> list[bytes]:
        """Return the path that proves the tree of `old` leaves to be the beginning of that of `size` leaves."""
        size = self._checked(self.size if size is None else size)
        if not 0 <= old <= size:
            raise EvidenceError(f"a tree of {size} entries does not continue one of {old}")
        if old in {0, size}:
            return []
        path, start, end, whole = [], 0, size, True
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start, whole = middle, False
        return ([] if whole else [self._subtree(start, end)]) + path[::-1]

    def _checked(self, size: int) -> int:
        if not 0 <= size <= self.size:
            raise EvidenceError(f"the log has {self.size} entries, not {size}")
        return size

    def _subtree(self, start: int, end: int) -> bytes:
        """Return the hash over leaves start to end; `start` is a multiple of the least power of two that holds them."""
        n = end - start
        if n & (n - 1) == 0:
            level = n.bit_length() - 1
            return self._levels[level][start >> level]
        middle = start + _split(n)
        return node_hash(self._subtree(start, middle), self._subtree(middle, end))


def _split(n: int) -> int:
    """Return the largest power of two below `n` (n > 1)."""
    return 1 << ((n - 1).bit_length() - 1)


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Verify that a leaf is entry `index` of the tree with `size` leaves and this root (RFC 9162, 2.1.3.2).

    Raises EvidenceError where it is not.
    """
    _check_path(path)
    if not 0 <= index < size:
        raise EvidenceError(f"inclusion proof is for entry {index} of {size}")
    at, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            raise EvidenceError("inclusion proof is too long")
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    if last != 0 or found != root:
        raise EvidenceError(f"inclusion proof fails: what is shown is not entry {index} of the signed log")


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> None:
    """Verify that the tree of `size` leaves continues that of `old` leaves (RFC 9162, 2.1.4.2).

    Raises EvidenceError where it does not: entries were changed, dropped or put in between.
    """
    _check_path(path)
    if not 0 <= old <= size:
        raise EvidenceError(f"the log became shorter: {old} entries were signed, now {size}")
    if old in {0, size}:
        expected = EMPTY_ROOT if old == 0 else root
        if path or old_root != expected or (size == 0 and root != EMPTY_ROOT):
            raise EvidenceError(f"two different logs of {old} entries were signed")
        return
    steps = list(path)
    if old & (old - 1) == 0:  # a whole subtree: the path leaves its root out, which is the old root
        steps.insert(0, old_root)
    if not steps:
        raise EvidenceError("consistency proof is missing")
    if _roots_of(old, size, steps) != (old_root, root):
        raise EvidenceError(f"consistency proof fails: the log of {size} entries does not continue that of {old}")


def _roots_of(old: int, size: int, steps: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return both roots as a consistency proof has them; None if it is too long or too short."""
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return (first, second) if last == 0 else None


def _check_path(path: Sequence[bytes]) -> None:
    if len(path) > MAX_PATH or any(len(step) != HASH_BYTES for step in path):
        raise EvidenceError("a Merkle proof is made of at most 64 hashes of 32 bytes")
