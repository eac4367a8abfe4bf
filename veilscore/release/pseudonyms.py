"""What stands for a firm where its id may not: at a holder for a firm it may not know, in logs for one that it does.

A rule that a holder applies to the firms it knows is an oracle: refused or not tells the bank who is known. So rules
are applied to the rows that the bank submits, and for that a holder must see which rows are the same ones as before.
The bank sends a digest of each row's id under a key that it keeps for this holder, with the digest of the key; both
follow from its home, so that the audit's replay makes them again and finds others. A holder cannot test a guessed id
against them. It learns which of the rows it does not know recur from batch to batch, and which those were once it
knows the firm.

A bank that sends other digests or changes its key leaves the protocol. It gains that rows count as new ones: it passes
`min_difference`, which 30 invented firms do as well, and the count of models a row. Firms that the holder knows count
by their ids besides, whatever the digests say; where that count alone is used up, the firm is scored as unknown and
nothing is refused (`release/budget.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from veilscore.arrays import CodeArray, Words
from veilscore.files.home_key import key_for

DIGEST_BYTES = 8  # equal digests of two rows, likely once in 2**23 batches of a million, make rules stricter
KEY_ID_BYTES = 32


@dataclass(frozen=True)
class RowDigests:
    """What a bank sends of its rows: `values` (n,) in their order, `key_id` the SHA-256 of the key."""

    values: Words = field(repr=False)
    key_id: bytes


def row_digests(home: Path, holder: str, ids: Iterable[str]) -> RowDigests:
    """Bank: return the digests of normalised ids for one holder; another holder gets others."""
    key = key_for(home, "rows", holder)
    return RowDigests(keyed(key, ids), hashlib.sha256(key).digest())


def inputs_digest(home: Path, ids: Iterable[str], codes: CodeArray) -> bytes:
    """Bank: return a digest of what it puts into a batch itself, its rows' ids and own codes (n, d), under its key.

    Where it stays the same, with model and cut-offs, a record that is the same gives what was opened before.
    """
    digest = hashlib.blake2b(key=key_for(home, "inputs"), digest_size=32)
    digest.update(np.array(codes.shape, "<u8").tobytes() + np.ascontiguousarray(codes).tobytes())
    digest.update("\n".join(ids).encode())
    return digest.digest()


def firm_digest(home: Path, firm: str) -> str:
    """Return what stands for a firm (normalised id) in a node's own logs: 16 hexadecimal digits."""
    return f"{int(keyed(key_for(home, 'firm'), [firm])[0]):016x}"


def size_offset(home: Path, dataset: str, step: int) -> int:
    """Return by how many rows a data set counts as larger before its size is padded to a step, in [0, step).

    It is secret and stays the same, so that nobody knows the size at which one firm more is a step more.
    """
    return int.from_bytes(key_for(home, "size", dataset), "little") % step


def keyed(key: bytes, ids: Iterable[str]) -> Words:
    """Return keyed hashes (n,) of ids, in their order."""
    base = hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)

    def one(firm: str) -> bytes:
        digest = base.copy()
        digest.update(firm.encode())
        return digest.digest()

    return np.frombuffer(b"".join([one(firm) for firm in ids]), "<u8").astype(np.uint64)
