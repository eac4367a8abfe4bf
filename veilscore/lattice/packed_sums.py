"""Packed sums: one private vector, encrypted once, summed over the cells of many columns, as shares modulo t.

Source: BFV with the parameters of the histogram (docs/protocols/lattice.md, section 1), inner products in the
    coefficients of a polynomial product as in Cheetah (Huang et al. 2022); the reply is hidden as in `product.py`.
Parties: the vector owner (one vector) and the code owner (any number of sets of codes of the same rows).
Messages: public key and ciphertexts, once, vector owner to code owner; then a reply for each set of codes.
Reveals: nothing but sizes and which cells are asked for. The vector owner sees, of each reply, c1, a ring-LWE sample
    under a fresh secret, and c0 under a mask uniform modulo q; the code owner sees ring-LWE samples.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and vector.
Aborts: MessageError on a message of wrong size or range; SecretReuseError for a second vector under one key.

A block of k rows is x(X) = sum of x_i X^i, and M = N / k cells share one polynomial w(X) = sum of X^(lk - i) over the
rows i of cell l; the coefficient lk of w x is then the sum over the cell, and no other term falls on it. What the hint
form pays once a cell (57 KB) this one pays once for M cells, and once for each block: it wins where one vector meets
many cells, and loses where many vectors meet the same cells.

Before a share is opened to the vector owner the code owner **must** add `sampling.dither`: the rounding of its share
depends on sums of errors that the vector owner knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import CodeArray, Integers, Limbs, Mask, Words
from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.kernels import inlined, kernel
from veilscore.lattice.indicator import MAX_TERMS, CellRows, fold_all
from veilscore.lattice.ntt import forward
from veilscore.lattice.params import HISTOGRAM, NOISE_SD, TAIL_SDS, T, check_histogram
from veilscore.lattice.ring import pack, packed_size, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import PublicStream, SecretStream

N = HISTOGRAM.N
PRIMES = HISTOGRAM.primes
L = len(PRIMES)
ELEMENT_BYTES = packed_size((L, N), PRIMES)
MIN_BLOCK_ROWS = 64
MAX_BLOCKS = 1024  # the code owner keeps two ring elements a block, 128 KB
CHUNK_BLOCKS = 64  # ciphertexts in one chunk, 3.7 MB
u32, u64 = np.uint32, np.uint64


def block_rows(n_samples: int) -> int:
    """Rows of a block, a power of two: 64, or as many as keep the blocks at `MAX_BLOCKS`."""
    wanted = -(-n_samples // MAX_BLOCKS)
    rows = max(MIN_BLOCK_ROWS, 1 << max(0, wanted - 1).bit_length())
    if rows > N:
        raise ParameterError(f"packed sums take at most {N * MAX_BLOCKS} rows, not {n_samples}")
    return rows


def check_packed_sums(n_samples: int, n_cells: int, largest: int = 1) -> None:
    """Bound the noise, or raise ParameterError; `largest` is the largest weight of a row.

    A coefficient gathers errors of at most n_samples M terms, M cells of N / M rows a block, each times a weight, and
    those of the encryption of zero.
    """
    check_histogram(n_samples, max(1, min(n_cells, N)))
    sd = NOISE_SD * np.sqrt(float(n_samples * (N // block_rows(n_samples))) * largest**2 + 2 * N)
    if 4 * TAIL_SDS * sd >= HISTOGRAM.delta:
        raise ParameterError(f"packed sums of {n_samples} rows: the noise does not fit under q/t")


def query_bytes(n_samples: int) -> int:
    """Bytes of all ciphertexts of a vector."""
    return -(-n_samples // block_rows(n_samples)) * ELEMENT_BYTES


def reply_bytes(n_samples: int, n_cells: int) -> int:
    """Bytes of the reply for this many cells."""
    groups = -(-n_cells // (N // block_rows(n_samples)))
    return groups * ELEMENT_BYTES + packed_size((L, n_cells), PRIMES)


def _blocks(label: bytes, n_blocks: int) -> Limbs:
    """Values (K, L, N) of one public element a block."""
    return PublicStream(label, b"packed sums a").uniform((n_blocks, L, N), PRIMES)


def _key_element(label: bytes) -> Limbs:
    return PublicStream(label, b"packed sums key").uniform((L, N), PRIMES)


class SumsKey:
    """The vector owner's side: a secret key, kept in memory, for one vector.

    label : names protocol, session and recipient; equal on both sides, never used for another vector.
    n_samples : length of the vector.
    """

    def __init__(self, label: bytes, n_samples: int) -> None:
        check_packed_sums(n_samples, 1)
        stream, ring = SecretStream(), ring_of(HISTOGRAM)
        self._label = label
        self._n_samples = n_samples
        self._used = False
        self._s = ring.ntt(ring.lift(stream.ternary((N,))))
        key = ring.multiply(_key_element(label), self._s)
        ring.add_to(key, ring.ntt(ring.lift(stream.noise((N,)))))
        self._public = pack(key, PRIMES)

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "<SumsKey>"

    def public(self) -> bytes:
        """Return the public key a' s + e (a' is derived from the label)."""
        return self._public

    def encrypt(self, x: Words) -> Iterator[bytes]:
        """Encrypt the vector x (n_samples,) below t, in chunks of `CHUNK_BLOCKS` blocks.

        Raises SecretReuseError: asked twice; resend the same bytes, or make a new key under a new label.
        """
        if x.shape != (self._n_samples,) or x.dtype != np.uint64 or np.any(x >= u64(T)):
            raise ParameterError(f"the vector must be uint64 ({self._n_samples},), below t")
        if self._used:
            raise SecretReuseError("a key encrypts one vector; resend the same bytes or start over with a new key")
        self._used = True
        return self._chunks(x)

    def _chunks(self, x: Words) -> Iterator[bytes]:
        rows, ring, stream = block_rows(self._n_samples), ring_of(HISTOGRAM), SecretStream()
        n_blocks = -(-x.size // rows)
        padded = np.zeros((n_blocks, rows), np.uint64)
        padded.ravel()[: x.size] = x
        a = _blocks(self._label, n_blocks)
        for start in range(0, n_blocks, CHUNK_BLOCKS):
            part = padded[start : start + CHUNK_BLOCKS]
            b = ring.lift(stream.noise((part.shape[0], N)))
            for block, values in zip(b, part, strict=True):
                message = np.ascontiguousarray(block[:, :rows])
                exact_scale(HISTOGRAM).embed(values, message)
                block[:, :rows] = message
            b = ring.ntt(b)
            ring.add_to(b, ring.multiply(a[start : start + CHUNK_BLOCKS], self._s))
            yield pack(b, PRIMES)

    def share(self, reply: bytes, n_cells: int) -> Words:
        """Return this party's shares (n_cells,) of the sums that a reply holds."""
        lanes = N // block_rows(self._n_samples)
        groups = -(-n_cells // lanes)
        if n_cells < 1 or len(reply) != reply_bytes(self._n_samples, n_cells):
            raise MessageError(f"a reply of {len(reply)} bytes does not hold the sums of {n_cells} cells")
        ring, at = ring_of(HISTOGRAM), groups * ELEMENT_BYTES
        phase = ring.intt(ring.multiply(ring.ntt(unpack(reply[:at], (groups, L, N), PRIMES)), self._s))
        inner = phase[:, :, :: N // lanes].transpose(1, 0, 2).reshape(L, -1)[:, :n_cells]
        p = ring.primes_u32[:, None]
        c0 = unpack(reply[at:], (L, n_cells), PRIMES)
        total = ((c0.astype(np.uint64) + p - inner) % p).astype(np.uint32)
        share: Words = exact_scale(HISTOGRAM).round(total[None])[0]
        return share


class SumsEvaluator:
    """The code owner's side.

    label, n_samples : as the vector owner's.
    public : the vector owner's public key.
    """

    def __init__(self, label: bytes, n_samples: int, public: bytes) -> None:
        check_packed_sums(n_samples, 1)
        self._n_samples = n_samples
        self._rows = block_rows(n_samples)
        self._public = np.stack([unpack(public, (L, N), PRIMES), _key_element(label)])
        self._label = label
        self._filled = 0
        self._values = np.empty((-(-n_samples // self._rows), 2, L, N), np.uint32)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"SumsEvaluator(n_samples={self._n_samples})"

    def add(self, chunk: bytes) -> None:
        """Take the next ciphertexts, in the order in which they were made."""
        count, rest = divmod(len(chunk), ELEMENT_BYTES)
        missing = self._values.shape[0] - self._filled
        if rest or not 1 <= count <= missing:
            raise MessageError(f"ciphertexts of {len(chunk)} bytes; {missing} of {ELEMENT_BYTES} are missing")
        self._values[self._filled : self._filled + count, 0] = unpack(chunk, (count, L, N), PRIMES)
        self._filled += count
        if self._filled == self._values.shape[0]:
            self._values[:, 1] = _blocks(self._label, self._filled)

    def sums(self, codes: NDArray[np.integer], n_codes: Integers, wanted: Mask) -> tuple[bytes, Words]:
        """Sum the vector over cells.

        codes : uint8 or uint16 (n_samples, n_columns).
        n_codes : (n_columns,).
        wanted : (cells,) which cells are summed; known to both parties.
        Returns the reply and this party's shares (n_wanted,).
        """
        if self._filled < self._values.shape[0]:
            raise ProtocolError("sums were asked for before all ciphertexts came")
        rows = CellRows.of(codes, n_codes)
        n_cells = int(wanted.sum())
        if rows.n_samples != self._n_samples or wanted.shape != (rows.n_cells,) or n_cells < 1:
            raise ParameterError(f"codes must have {self._n_samples} rows and at least one wanted cell")
        check_packed_sums(self._n_samples, n_cells)
        lane_of = np.where(wanted, np.cumsum(wanted) - 1, -1)
        first, column_lanes = rows.offsets, _lane_ranges(rows, wanted)
        by_column: CodeArray = np.ascontiguousarray(rows.codes.T)
        lanes, tables = N // self._rows, ring_of(HISTOGRAM).tables

        def group(start: int, total: Limbs) -> None:
            touched = np.flatnonzero((column_lanes[:, 0] < start + lanes) & (column_lanes[:, 1] > start))
            columns = slice(int(touched[0]), int(touched[-1]) + 1)
            _group(by_column[columns], first[columns], lane_of, start, self._rows, self._values, *tables, total)

        return self._reply(n_cells, group)

    def weighted(self, weights: NDArray[np.int32]) -> tuple[bytes, Words]:
        """Sum the vector over all rows, each times a private whole number; a reply and shares as `sums` gives them.

        weights : (n_sums, n_samples).
        """
        if self._filled < self._values.shape[0]:
            raise ProtocolError("sums were asked for before all ciphertexts came")
        if weights.ndim != 2 or weights.shape[1] != self._n_samples or not len(weights) or weights.dtype != np.int32:
            raise ParameterError(f"weights must be int32 of {self._n_samples} rows, for at least one sum")
        check_packed_sums(self._n_samples, len(weights), int(np.abs(weights.astype(np.int64)).max()))
        lanes, tables = N // self._rows, ring_of(HISTOGRAM).tables

        def group(start: int, total: Limbs) -> None:
            part = np.ascontiguousarray(weights[start : start + lanes])
            _weighted_group(part, self._rows, self._values, *tables, total)

        return self._reply(len(weights), group)

    def _reply(self, n_cells: int, group: Callable[[int, Limbs], None]) -> tuple[bytes, Words]:
        """Hide the sums that `group` writes, from a first lane on, for as many lanes as a block has."""
        lanes, ring = N // self._rows, ring_of(HISTOGRAM)
        c1, c0 = [], []
        for start in range(0, n_cells, lanes):
            total = np.empty((2, L, N), np.uint32)
            group(start, total)
            masked = self._hidden(total)
            c1.append(masked[1])
            c0.append(masked[0][:, :: self._rows])
        sums = np.concatenate(c0, axis=1)[:, :n_cells]
        mask = SecretStream().uniform((L, n_cells), PRIMES)
        p = ring.primes_u32[:, None]
        sent = ((sums.astype(np.uint64) + mask) % p).astype(np.uint32)
        share = exact_scale(HISTOGRAM).round(ring.negate(mask)[None])[0]
        return pack(np.stack(c1), PRIMES) + pack(sent, PRIMES), share

    def _hidden(self, total: Limbs) -> Limbs:
        """Coefficients of both halves after adding a fresh encryption of zero; c0 still needs its mask."""
        ring, stream = ring_of(HISTOGRAM), SecretStream()
        w = ring.ntt(ring.lift(stream.ternary((N,))))
        ring.add_to(total, np.stack([ring.multiply(half, w) for half in self._public]))
        out = ring.intt(total)
        ring.add_to(out, ring.lift(stream.noise((2, N))))
        return out


def _lane_ranges(rows: CellRows, wanted: Mask) -> Integers:
    """(n_columns, 2) first lane of each column and the one after its last."""
    before = np.concatenate(([0], np.cumsum(wanted)))
    return np.stack([before[rows.offsets], before[rows.offsets + rows.n_codes]], axis=1).astype(np.int64)


@kernel(
    "(u1[:,::1], i8[::1], i8[::1], i8, i8, u4[:,:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[:,:,::1])",
    "(u2[:,::1], i8[::1], i8[::1], i8, i8, u4[:,:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[:,:,::1])",
)
def _group(
    codes: CodeArray,
    offsets: Integers,
    lane_of: Integers,
    start: int,
    k: int,
    values: Limbs,
    w: Limbs,
    w_shoup: Limbs,
    primes: Limbs,
    out: Limbs,
) -> None:
    """Write out[h] = sum over blocks of w_block c_block[h] for the lanes from `start` on, in the NTT domain.

    codes : (n_columns, n_samples) of the columns that have such lanes; offsets (n_columns,) their first cells.
    lane_of : (cells,) lane of a cell, -1 for none.
    values : (K, 2, L, N) ciphertexts; out (2, L, N), overwritten.
    """
    coefficients = np.empty(out.shape[2], np.int32)
    acc = np.zeros(out.shape, np.uint64)
    for block in range(values.shape[0]):
        _signs(codes[:, block * k : (block + 1) * k], offsets, lane_of, start, k, coefficients)
        _add_block(coefficients, block, values[block], w, w_shoup, primes, acc)
    _reduce(acc, primes, out)


@kernel("(i4[:,::1], i8, u4[:,:,:,::1], u4[:,::1], u4[:,::1], u4[::1], u4[:,:,::1])")
def _weighted_group(
    weights: NDArray[np.int32],
    k: int,
    values: Limbs,
    w: Limbs,
    w_shoup: Limbs,
    primes: Limbs,
    out: Limbs,
) -> None:
    """Do as `_group` with the weights (lanes, n_samples) of rows in place of codes."""
    n_samples, N = weights.shape[1], out.shape[2]
    coefficients = np.empty(N, np.int32)
    acc = np.zeros(out.shape, np.uint64)
    for block in range(values.shape[0]):
        coefficients[:] = 0
        for lane in range(weights.shape[0]):
            for i in range(min(k, n_samples - block * k)):
                at = lane * k - i
                weight = weights[lane, block * k + i]
                coefficients[at if at >= 0 else at + N] = weight if at >= 0 else -weight  # X^N = -1
        _add_block(coefficients, block, values[block], w, w_shoup, primes, acc)
    _reduce(acc, primes, out)


@inlined
def _add_block(
    coefficients: NDArray[np.int32],
    block: int,
    values: Limbs,
    w: Limbs,
    w_shoup: Limbs,
    primes: Limbs,
    acc: Words,
) -> None:
    """Add w c of one block to acc (2, L, N), w of these signed coefficients (N,), c (2, L, N) in the NTT domain."""
    N = coefficients.size
    poly = np.empty(N, np.uint32)
    for limb in range(primes.size):
        p = primes[limb]
        for i in range(N):
            size = u32(abs(np.int64(coefficients[i])) % np.int64(p))
            poly[i] = u32(p - size) if coefficients[i] < 0 and size > u32(0) else size
        forward(poly, w[limb], w_shoup[limb], p)
        for half in range(acc.shape[0]):
            part, x = acc[half, limb], values[half, limb]
            for i in range(N):
                part[i] += u64(poly[i]) * u64(x[i])
            if block % MAX_TERMS == MAX_TERMS - 1:
                fold_all(part, p)


@inlined
def _reduce(acc: Words, primes: Limbs, out: Limbs) -> None:
    for half in range(out.shape[0]):
        for limb in range(out.shape[1]):
            for i in range(out.shape[2]):
                out[half, limb, i] = u32(acc[half, limb, i] % u64(primes[limb]))


@inlined
def _signs(
    codes: CodeArray,
    offsets: Integers,
    lane_of: Integers,
    start: int,
    k: int,
    out: NDArray[np.int32],
) -> None:
    """Write the coefficients (N,) of w(X) for the rows of one block, codes (n_columns, rows)."""
    out[:] = 0
    lanes = out.size // k
    for c in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            lane = lane_of[offsets[c] + np.int64(codes[c, i])] - start
            if 0 <= lane < lanes:
                at = lane * k - i
                if at >= 0:
                    out[at] = 1
                else:
                    out[at + out.size] = -1  # X^N = -1
