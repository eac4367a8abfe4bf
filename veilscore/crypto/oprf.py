"""An oblivious pseudo-random function: one party learns its values at ids of its own, the other can compute all values.

Source: Pinkas, Rosulek, Trieu and Yanai 2020, over transfers extended by a code (Kolesnikov, Kumaresan, Rosulek and
    Trieu 2016; Orru, Orsini and Scholl 2017). The receiver's store (`okvs.py`) gives for each of its ids the id's own
    random value v(id). Transfers put its slots, encoded by C (`linear_code.py`), under the sender's secret bits s: of
    each slot the receiver has t, the sender q = t xor (s and C(slot)). All of it is linear, so for sums over the slots
    of an id, Q(id) xor (s and C(v(id))) is the receiver's T(id) where the id is in its store. The function is a hash of
    that; anywhere else it differs from what the receiver knows by s at 172 places or more.
    Columns that are no code of one store would tell s bit by bit: the receiver shows 128 parities of its columns and of
    its store, which random bits hide, and the sender compares.
Parties: the receiver, who has ids; the sender, who draws s.
Messages: number of ids, key of digests and base point; base choices; then 64 bytes a slot, and parities.
Reveals: the number of ids to which the receiver pads.
Assumes: computational Diffie-Hellman in ristretto255, AES-256-CTR as a pseudo-random generator, SHA-256 and BLAKE2b as
    random oracles. A receiver that cheats may have as many ids in its store as there are slots, 1.23 for each that it
    says and some more (ADR 25), and guess bits of s, of which one that is wrong ends the protocol.
Aborts: MessageError on a message of wrong size, an invalid point, or columns that do not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import linear_code, okvs
from veilscore.crypto.base_transfers import Columns, Offerer, choose
from veilscore.crypto.bit_matrix import WORD, to_columns, to_rows
from veilscore.crypto.blake2b import BLOCK_BYTES, KEY_BYTES, compress, derived_key, hash_texts, keyed_state
from veilscore.crypto.linear_code import DIMENSION, LENGTH
from veilscore.crypto.parities import SPARE, draw_coefficients, parities
from veilscore.errors import IdError, MessageError
from veilscore.kernels import kernel
from veilscore.wire.protocol import pack_fields
from veilscore.wire.randomness import secret_bytes

VALUE_BYTES = 12  # two sets of 5 million have two values by chance alike in one of 2^51 jobs
PART = 1 << 16  # slots
_KEYS_TRIED = 4
_PARITY_WORDS = (LENGTH + DIMENSION) * SPARE


def n_parts(n_ids: int) -> int:
    """Return the number of parts in which the slots of `n_ids` go."""
    return -(-okvs.n_slots(n_ids) // PART)


def _words(n_ids: int, part: int) -> int:
    return min(PART, okvs.n_slots(n_ids) - part * PART) // WORD


def part_bytes(n_ids: int, part: int) -> int:
    """Return the size of a part."""
    return 8 * (LENGTH * (_words(n_ids, part) + SPARE) + _PARITY_WORDS)


def digests_of(label: bytes, key: bytes, ids: Sequence[str]) -> Words:
    """Return the digests (n, 4) of ids, which are not empty.

    label : names protocol, session and purpose.
    key : drawn by the receiver.
    """
    return hash_texts(ids, derived_key(pack_fields(b"veilscore/oprf ids/v1", label, key)))


class Receiver:
    """The side that learns the values at its own ids, all different and not empty.

    label : names protocol, session and purpose; equal on both sides.
    n_padded : how many ids it says it has, at least as many as it has.
    """

    def __init__(self, label: bytes, ids: Sequence[str], n_padded: int) -> None:
        self._label, self._n = label, n_padded
        self._offerer = Offerer(label, LENGTH)
        self._columns: tuple[Columns, Columns] | None = None
        self._rows = _empty_rows(okvs.n_slots(n_padded))
        self._part = 0
        for _ in range(_KEYS_TRIED):
            self.key = secret_bytes(KEY_BYTES)
            self._digests = digests_of(label, self.key, ids)
            slots = okvs.encode(self._digests, okvs.segment_size(n_padded))
            if slots is not None:
                self._slots = slots
                return
        raise IdError(f"{len(ids)} ids cannot be encoded under {_KEYS_TRIED} keys: some must be equal")

    def __repr__(self) -> str:
        """Show nothing of ids and keys."""
        return "<Receiver>"

    def point(self) -> bytes:
        """Return the base point for the sender."""
        return self._offerer.point()

    def accept(self, choices: bytes) -> None:
        """Take the sender's base choices, once (`MessageError` on a wrong size or an invalid point)."""
        self._columns = self._offerer.accept(choices)

    def next_part(self) -> bytes:
        """Return the next part of the slots for the sender, who must get each of the `n_parts`, in order."""
        if self._columns is None:
            raise MessageError("slots were asked for before the base transfers")
        n_words, start = _words(self._n, self._part), self._part * PART
        own = self._columns[0].read(n_words + SPARE)
        store = np.empty((DIMENSION, n_words + SPARE), np.uint64)
        to_columns(self._slots[start : start + n_words * WORD], store)
        store[:, n_words:] = np.frombuffer(secret_bytes(8 * SPARE * DIMENSION), "<u8").reshape(DIMENSION, SPARE)
        message = np.empty(part_bytes(self._n, self._part) // 8, np.uint64)
        data = message[: own.size].reshape(own.shape)
        np.bitwise_xor(own, self._columns[1].read(n_words + SPARE), out=data)
        linear_code.add_code(store, data)
        drawn = draw_coefficients(self._label, self._part, data)
        message[own.size :] = np.concatenate([parities(drawn, own), parities(drawn, store)]).reshape(-1)
        self._rows[start : start + n_words * WORD] = to_rows(own, n_words)
        self._part += 1
        return message.tobytes()

    def values(self) -> Words:
        """Return the values at the ids, in their order, after the last part: (n, 2), 64 bits and 32."""
        return _values(self._label, self._digests, self._rows, np.zeros((0, 256, LENGTH // WORD), np.uint64))


class Sender:
    """The side that can compute all values.

    label : as the receiver's.
    n_padded : number of ids, as the receiver says.
    key : of the digests, drawn by the receiver.
    point : the receiver's base point.
    Raises MessageError: the key or the point is not one.
    """

    def __init__(self, label: bytes, n_padded: int, key: bytes, point: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise MessageError(f"a key of digests has {KEY_BYTES} bytes, got {len(key)}")
        self._label, self._n, self._key = label, n_padded, key
        self._secret = np.frombuffer(secret_bytes(LENGTH // 8), "<u8")
        chosen = np.unpackbits(self._secret.view(np.uint8), bitorder="little").astype(bool)
        self._choices, self._columns = choose(label, point, chosen)
        self._chosen = np.where(chosen, ~np.uint64(0), np.uint64(0))[:, None]
        self._rows = _empty_rows(okvs.n_slots(n_padded))
        self._part = 0

    def __repr__(self) -> str:
        """Show nothing of the secret."""
        return "<Sender>"

    def choices(self) -> bytes:
        """Return the base choices for the receiver."""
        return self._choices

    def take(self, part: bytes) -> None:
        """Take the next part of the receiver's slots.

        Raises MessageError: it has another size, or its columns do not agree; the sender must not go on then.
        """
        if len(part) != part_bytes(self._n, self._part):
            raise MessageError(
                f"part {self._part} of the slots has {part_bytes(self._n, self._part)} bytes, got {len(part)}"
            )
        n_words, start = _words(self._n, self._part), self._part * PART
        data, shown = np.split(np.frombuffer(part, "<u8"), [LENGTH * (n_words + SPARE)])
        data, shown = data.reshape(LENGTH, -1), shown.reshape(-1, SPARE)
        columns = self._columns.read(n_words + SPARE)
        columns ^= data & self._chosen
        found = parities(draw_coefficients(self._label, self._part, data), columns)
        claimed = np.zeros((LENGTH, SPARE), np.uint64)
        linear_code.add_code(shown[LENGTH:].copy(), claimed)
        if not np.array_equal(found, shown[:LENGTH] ^ (claimed & self._chosen)):
            raise MessageError("the columns of slots do not agree: they are no code of one set of ids")
        self._rows[start : start + n_words * WORD] = to_rows(columns, n_words)
        self._part += 1

    def values(self, ids: Sequence[str]) -> Words:
        """Return the values at ids, which are not empty, after the last part: (n, 2), 64 bits and 32."""
        code = np.zeros((-(-DIMENSION // 8) * 8, LENGTH // WORD), np.uint64)
        code[:DIMENSION] = linear_code.ROWS & self._secret
        return _values(self._label, digests_of(self._label, self._key, ids), self._rows, linear_code.tables(code))


def _empty_rows(n: int) -> Words:
    """Return room for n rows of 64 bytes, each in one line of the cache."""
    room = np.empty(LENGTH // WORD * (n + 1), np.uint64)
    start = -room.ctypes.data % (LENGTH // 8) // 8
    return room[start:][: LENGTH // WORD * n].reshape(n, -1)


def _values(label: bytes, digests: Words, rows: Words, code: Words) -> Words:
    state = keyed_state(derived_key(pack_fields(b"veilscore/oprf values/v1", label)), VALUE_BYTES)
    out = np.empty((len(digests), 2), np.uint64)
    segment = np.uint64((len(rows) - okvs.DENSE) // 3)
    _hash_sums(digests, segment, rows, linear_code.tables(rows[-okvs.DENSE :]), code, state, out)
    return out


@kernel("(u8[:,::1], u8, u8[:,::1], u8[:,:,::1], u8[:,:,::1], u8[::1], u8[:,::1])")
def _hash_sums(digests: Any, segment: Any, rows: Any, dense: Any, code: Any, state: Any, out: Any) -> None:
    """Hash of each digest and its sum of rows, to which goes what `code` says of its value, if that is not empty.

    dense, code : tables by bytes, of the dense rows and of the code: (8, 256, 8), (10, 256, 8).
    """
    block = np.zeros(16, np.uint64)
    n_bytes = BLOCK_BYTES + 8 * (8 + 4)
    for i in range(digests.shape[0]):
        digest = digests[i]
        first, second, third = okvs.places(digest, segment)
        for w in range(8):
            block[w] = rows[first, w] ^ rows[second, w] ^ rows[third, w]
        bits = okvs.dense_bits(digest)
        for g in range(8):
            row = dense[g, np.int64(bits >> np.uint64(8 * g) & np.uint64(255))]
            for w in range(8):
                block[w] ^= row[w]
        low, high = okvs.value_of(digest)
        for g in range(code.shape[0]):
            byte = low >> np.uint64(8 * g) if g < 8 else high >> np.uint64(8 * (g - 8))
            row = code[g, np.int64(byte & np.uint64(255))]
            for w in range(8):
                block[w] ^= row[w]
        for w in range(4):
            block[8 + w] = digest[w]
        h = compress(state, block, n_bytes, True)
        out[i, 0], out[i, 1] = h[0], h[1] & np.uint64(0xFFFFFFFF)
