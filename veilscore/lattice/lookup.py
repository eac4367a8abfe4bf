"""Secure lookup sum: for each row the sum over columns of theta[column, code], as shares modulo 2^24.

Source: docs/protocols/lattice.md, section 3 (the histogram turned round: hints once, one message a step).
Parties: the code owner (private codes, for a job) and the table owner (private theta, new each step).
Messages: hints, once, code owner to table owner; one `LookupQuery` a step, the other way; no reply. Where there is one
    table, its cells may go first: hints and sums are then made in one pass over the rows, and beta follows.
Reveals: nothing but sizes; each party keeps a share of each row's sum, to one unit, or (`opened`) exact but for 2^-50.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and set of codes.
Aborts: MessageError on a message of wrong size or range; SecretReuseError where a secret would be used twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice import indicator
from veilscore.lattice.params import LOOKUP_OPEN, LOOKUP_TRAIN, MAX_VECTORS, ParameterSet, check_lookup
from veilscore.lattice.ring import pack, packed_size, ring_of, unpack
from veilscore.lattice.rounding import encode_scaled, scale_of
from veilscore.lattice.sampling import KEY_BYTES, PublicStream, SecretStream
from veilscore.wire.randomness import secret_bytes

BLOCKS_AT_ONCE = 16  # bounds the memory of one pass


def counted(n_codes: Integers) -> Integers:
    """Return how many codes of each column have a cell: all but the last, which a row without a cell has."""
    return n_codes - 1 if n_codes.max() > 1 else n_codes


def _from_last(theta: Integers, n_codes: Integers, t: int) -> tuple[Integers, Integers]:
    """Return tables modulo t less the value of each column's last code, without that code; and sums of these (V,)."""
    total = np.zeros(len(theta), np.int64)
    if n_codes.max() == 1:
        return theta, total
    ends = np.cumsum(n_codes)
    last = theta[:, ends - 1]
    for column in last.T:  # one at a time: t may have 60 bits, and a sum of many would wrap
        total = (total + column) % t
    return np.delete(theta - np.repeat(last, n_codes, axis=1), ends - 1, axis=1) % t, total


@dataclass(frozen=True, repr=False)
class LookupQuery:
    """One query for V tables, in the NTT domain: values packed as in `ring.pack`.

    cells : (V, cells, L, N), theta of each cell but the last of its column, less that of the last, as constants.
    alpha : (V, L, N), one sample of each vector's secret.
    beta : a seed a table, of the masked hints times its secret (K, L, N), one a block of N rows.
    """

    cells: bytes
    alpha: bytes
    beta: bytes

    def __repr__(self) -> str:
        """Show the size alone."""
        return f"LookupQuery({len(self.cells) + len(self.alpha) + len(self.beta)} bytes)"

    def pack(self) -> bytes:
        """Return the query as one message; `LookupCodes.unpack` reads it."""
        return self.cells + self.alpha + self.beta


@dataclass(frozen=True)
class _Shape:
    """Sizes and public elements that both parties derive alike."""

    params: ParameterSet
    n_samples: int
    n_cells: int
    label: bytes

    @property
    def n_blocks(self) -> int:
        return -(-self.n_samples // self.params.N)

    def limbs(self, *lead: int) -> tuple[int, ...]:
        return (*lead, len(self.params.primes), self.params.N)

    @property
    def element_bytes(self) -> int:
        return packed_size(self.limbs(), self.params.primes)

    @property
    def hint_bytes(self) -> int:
        return self.n_blocks * self.element_bytes

    @property
    def query_bytes(self) -> int:
        return (self.n_cells + 1) * self.element_bytes + KEY_BYTES

    def beta(self, seed: bytes) -> Limbs:
        """Return the values (K, L, N) that stand for masked hints; the mask is what makes them so."""
        purpose = self.params.name.encode() + b" beta " + seed
        return PublicStream(self.label, purpose).uniform(self.limbs(self.n_blocks), self.params.primes)

    def public(self) -> tuple[Limbs, Limbs]:
        """Return the values of a_cell (cells, L, N) and a' (L, N)."""
        purpose = self.params.name.encode()
        primes = self.params.primes
        cells = PublicStream(self.label, purpose + b" a").uniform(self.limbs(self.n_cells), primes)
        return cells, PublicStream(self.label, purpose + b" a'").uniform(self.limbs(), primes)


def lookup_bytes(n_samples: int, n_codes: Integers) -> tuple[int, int]:
    """Return the bytes of the hints, and of a query for one table, of a lookup in training."""
    shape = _Shape(LOOKUP_TRAIN, n_samples, int(counted(n_codes).sum()), b"")
    return shape.hint_bytes, shape.query_bytes


def check_theta(theta: NDArray[np.integer], n_cells: int, t: int = LOOKUP_TRAIN.t) -> Words:
    """Return tables (V, cells) modulo t, or raise ParameterError."""
    if theta.ndim != 2 or theta.shape[1] != n_cells or not np.issubdtype(theta.dtype, np.integer):
        raise ParameterError(f"theta must be integers of shape (V, {n_cells})")
    if not 1 <= theta.shape[0] <= MAX_VECTORS:
        raise ParameterError(f"a query takes between 1 and {MAX_VECTORS} tables")
    if theta.min() < -(t // 2) or theta.max() >= t:
        raise ParameterError(f"a value of theta is outside [{-(t // 2)}, {t}); use a smaller scale")
    return (theta.astype(np.int64) % t).astype(np.uint64)


def _shape(n_samples: int, n_codes: Integers, label: bytes, params: ParameterSet) -> _Shape:
    check_lookup(params, n_samples, n_codes.size, int(n_codes.sum()))
    return _Shape(params, n_samples, int(counted(n_codes).sum()), label)


def _params(opened: bool) -> ParameterSet:  # noqa: FBT001  # private, and named by its callers
    return LOOKUP_OPEN if opened else LOOKUP_TRAIN


class LookupCodes:
    """The code owner's side.

    codes : uint8 or uint16 (n_samples, n_columns).
    n_codes : (n_columns,).
    label : names protocol, session and this set of codes; equal on both sides, never used for other codes.
    opened : whether the sums will be opened (a larger modulus makes the shares exact).
    params : the parameter set, where `opened` does not say it: that of trees, which also are opened.
    workers : threads, over blocks of rows.
    """

    def __init__(
        self,
        codes: NDArray[np.integer],
        n_codes: Integers,
        label: bytes,
        *,
        opened: bool = False,
        params: ParameterSet | None = None,
        workers: int = 1,
    ) -> None:
        self._rows = indicator.CellRows.of(codes, n_codes)
        self._shape = _shape(self._rows.n_samples, self._rows.n_codes, label, params or _params(opened))
        self._workers = workers
        self._sigma: NDArray[np.int8] | None = None
        self._hints_done = False
        self._begun: Limbs | None = None

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"LookupCodes(n_samples={self._rows.n_samples}, n_cells={self._rows.n_cells})"

    def hint_chunks(self) -> Iterator[bytes]:
        """Make the hints, one a block of rows, in order of rows.

        Raises SecretReuseError: asked twice; resend the same bytes, or make a new object under a new label.
        """
        if self._sigma is not None:
            raise SecretReuseError("hints are made once; resend the same bytes or start over with new codes")
        stream = SecretStream()
        self._sigma = stream.ternary((self._shape.n_blocks, self._shape.params.N))
        return self._hint_chunks(stream, self._sigma)

    def _hint_chunks(self, stream: SecretStream, sigma: NDArray[np.int8]) -> Iterator[bytes]:
        ring = ring_of(self._shape.params)
        a, a_prime = self._shape.public()
        for start, sums in self._block_sums(a[None]):
            secret = ring.ntt(ring.lift(sigma[start : start + sums.shape[0]]))
            yield from self._packed_hints(stream, secret, a_prime, sums[:, 0])
        self._hints_done = True

    def _packed_hints(self, stream: SecretStream, secret: Limbs, a_prime: Limbs, sums: Limbs) -> Iterator[bytes]:
        params = self._shape.params
        ring = ring_of(params)
        hint = ring.multiply(secret, a_prime)
        ring.add_to(hint, np.ascontiguousarray(sums))
        ring.add_to(hint, ring.ntt(ring.lift(stream.noise((sums.shape[0], params.N)))))
        for block in hint:
            yield pack(block, params.primes)

    def begin(self, cells: bytes, alpha: bytes) -> bytes:
        """Return all hints, and keep the sums of the one table whose cells came first, for `finish`."""
        if self._sigma is not None:
            raise SecretReuseError("hints are made once; resend the same bytes or start over with new codes")
        shape, primes = self._shape, self._shape.params.primes
        values, sample = unpack(cells, shape.limbs(shape.n_cells), primes), unpack(alpha, shape.limbs(), primes)
        ring, stream = ring_of(shape.params), SecretStream()
        self._sigma = stream.ternary((shape.n_blocks, shape.params.N))
        a, a_prime = shape.public()
        hints, kept = list[bytes](), np.empty(shape.limbs(shape.n_blocks), np.uint32)
        for start, sums in self._block_sums(np.stack([a, values])):
            stop = start + sums.shape[0]
            secret = ring.ntt(ring.lift(self._sigma[start:stop]))
            hints += self._packed_hints(stream, secret, a_prime, sums[:, 0])
            kept[start:stop] = ring.multiply(secret, sample)
            ring.add_to(kept[start:stop], np.ascontiguousarray(sums[:, 1]))
        self._begun = kept
        return b"".join(hints)

    def finish(self, beta: bytes) -> Words:
        """Return this party's share (n_samples,) of the sums that `begin` made."""
        if self._begun is None:
            raise ProtocolError("the last part of a query came before its cells")
        if len(beta) != KEY_BYTES:
            raise MessageError(f"beta is a seed of {KEY_BYTES} bytes, not {len(beta)}")
        params, total = self._shape.params, self._begun
        self._begun = None  # another beta would be another query
        ring = ring_of(params)
        ring.add_to(total, ring.negate(self._shape.beta(beta)))
        share: Words = scale_of(params).round(ring.intt(total)).reshape(-1)[: self._shape.n_samples].copy()
        return share

    @property
    def hint_bytes(self) -> int:
        """Bytes of all hints."""
        return self._shape.hint_bytes

    @property
    def begin_bytes(self) -> tuple[int, int]:
        """Bytes of the cells and of alpha of one table."""
        return self._shape.n_cells * self._shape.element_bytes, self._shape.element_bytes

    @property
    def finish_bytes(self) -> int:
        """Bytes of beta of one table."""
        return KEY_BYTES

    def hints(self) -> bytes:
        """Return all hints at once."""
        return b"".join(self.hint_chunks())

    def _block_sums(self, multipliers: Limbs) -> Iterator[tuple[int, Limbs]]:
        """Yield a first block, and the values (blocks, V, L, N) of the sums of m_cell,k multiplier_v,cell."""
        params = self._shape.params
        tables = ring_of(params).tables
        V, counts = multipliers.shape[0], counted(self._rows.n_codes)

        def one(block: int) -> Limbs:
            rows = self._rows.codes[block * params.N : (block + 1) * params.N]
            columns = np.full((rows.shape[1], params.N), -1, np.int32)
            columns[:, : rows.shape[0]] = rows.T
            out = np.empty(self._shape.limbs(V), np.uint32)
            indicator.block_sum(columns, counts, multipliers, *tables, out)
            return out

        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, self._shape.n_blocks, BLOCKS_AT_ONCE):
                blocks = range(start, min(start + BLOCKS_AT_ONCE, self._shape.n_blocks))
                yield start, np.stack(list(pool.map(one, blocks)))

    @property
    def query_bytes(self) -> int:
        """Bytes of a packed query for one table."""
        return self._shape.query_bytes

    def unpack(self, data: bytes) -> LookupQuery:
        """Read what `LookupQuery.pack` wrote, for any whole number of tables."""
        V, rest = divmod(len(data), self._shape.query_bytes)
        if V < 1 or rest:
            raise MessageError(f"a query has {len(data)} bytes; it must be a multiple of {self._shape.query_bytes}")
        first = V * self._shape.n_cells * self._shape.element_bytes
        second = first + V * self._shape.element_bytes
        return LookupQuery(data[:first], data[first:second], data[second:])

    def evaluate_bytes(self, data: bytes) -> Words:
        """Return this party's share (n_samples,) for a packed query of one table."""
        return self.evaluate(self.unpack(data))

    def evaluate(self, query: LookupQuery) -> Words:
        """Return this party's share (n_samples,) of the sums of one table."""
        shares = self.evaluate_many(query)
        if shares.shape[0] != 1:
            raise MessageError(f"the query is for {shares.shape[0]} tables; one was expected")
        share: Words = shares[0]
        return share

    def evaluate_many(self, query: LookupQuery) -> Words:
        """Return this party's shares (V, n_samples) of the sums of V tables."""
        if self._sigma is None or not self._hints_done:
            raise ProtocolError("a query came before the hints were made")
        shape = self._shape
        params = shape.params
        V, rest = divmod(len(query.alpha), shape.element_bytes)
        if rest or not 1 <= V <= MAX_VECTORS:
            raise MessageError(f"alpha has {len(query.alpha)} bytes; elements take {shape.element_bytes}")
        if len(query.beta) != V * KEY_BYTES:
            raise MessageError(f"beta has {len(query.beta)} bytes; a table's seed takes {KEY_BYTES}")
        alpha = unpack(query.alpha, shape.limbs(V), params.primes)
        beta = [shape.beta(query.beta[v * KEY_BYTES : (v + 1) * KEY_BYTES]) for v in range(V)]
        cells = unpack(query.cells, shape.limbs(V, shape.n_cells), params.primes)
        ring = ring_of(params)
        shares = np.empty((V, shape.n_blocks, params.N), np.uint64)
        for start, sums in self._block_sums(cells):
            stop = start + sums.shape[0]
            sigma = ring.ntt(ring.lift(self._sigma[start:stop]))
            for v in range(V):
                out = ring.multiply(sigma, alpha[v])
                ring.add_to(out, sums[:, v].copy())
                ring.add_to(out, ring.negate(beta[v][start:stop]))
                shares[v, start:stop] = scale_of(params).round(ring.intt(out))
        return shares.reshape(V, -1)[:, : shape.n_samples].copy()


class LookupTable:
    """The table owner's side.

    n_samples, n_codes : sizes of the other party's codes, as agreed beforehand.
    label, opened, params : as the code owner's.
    hints : all hints, or none yet (then give them by `add_hints`).
    """

    def __init__(
        self,
        n_samples: int,
        n_codes: Integers,
        label: bytes,
        *,
        opened: bool = False,
        params: ParameterSet | None = None,
        hints: Iterable[bytes] = (),
    ) -> None:
        self._n_codes = indicator.check_n_codes(n_codes)
        self._shape = _shape(n_samples, self._n_codes, label, params or _params(opened))
        self._a, self._a_prime = self._shape.public()
        self._begun: tuple[Limbs, int] | None = None
        self._hints = np.empty(self._shape.limbs(self._shape.n_blocks), np.uint32)
        self._filled = 0
        for chunk in hints:
            self.add_hints(chunk)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"LookupTable(n_samples={self._shape.n_samples}, n_cells={int(self._n_codes.sum())})"

    @property
    def complete(self) -> bool:
        """Whether all hints have come."""
        return self._filled == self._shape.n_blocks

    @property
    def hint_bytes(self) -> int:
        """Bytes of all hints."""
        return self._shape.hint_bytes

    @property
    def hint_unit(self) -> int:
        """Bytes of a block's hint, of which `add_hints` takes whole ones."""
        return self._shape.element_bytes

    def add_hints(self, chunk: bytes) -> None:
        """Take the next hints, of any whole number of blocks, in the order in which they were made."""
        count, rest = divmod(len(chunk), self._shape.element_bytes)
        missing = self._shape.n_blocks - self._filled
        if rest or not 1 <= count <= missing:
            raise MessageError(
                f"hints of {len(chunk)} bytes; {missing} blocks of {self._shape.element_bytes} are missing"
            )
        block = unpack(chunk, self._shape.limbs(count), self._shape.params.primes)
        self._hints[self._filled : self._filled + count] = block
        self._filled += count

    def query(self, theta: NDArray[np.integer]) -> tuple[LookupQuery, Words]:
        """Encrypt one table (cells,) under a fresh secret; also return this party's share (n_samples,)."""
        query, shares = self.query_many(np.asarray(theta)[None])
        return query, shares[0]

    def query_many(self, theta: NDArray[np.integer]) -> tuple[LookupQuery, Words]:
        """Encrypt tables, each under a fresh secret.

        theta : integers (V, cells) in [-t/2, t), taken modulo t (2^24, but for trees).
        Returns the query, and this party's shares (V, n_samples). To resend, send the same query again.
        """
        self._check_complete()
        tables, constant = self._tables(theta)
        stream = SecretStream()
        secrets, cells, alpha = zip(*(self._encrypt(row, stream) for row in tables), strict=True)
        closed = (self._close(s, int(more)) for s, more in zip(secrets, constant, strict=True))
        beta, shares = zip(*closed, strict=True)
        return LookupQuery(b"".join(cells), b"".join(alpha), b"".join(beta)), np.stack(shares)

    def begin(self, theta: NDArray[np.integer]) -> tuple[bytes, bytes]:
        """Encrypt one table (cells,) before the hints come; return cells and alpha. `finish` gives the rest."""
        if self._begun is not None:
            raise SecretReuseError("a table is begun already; resend the same bytes")
        tables, constant = self._tables(np.asarray(theta)[None])
        stream = SecretStream()
        s, cells, alpha = self._encrypt(tables[0], stream)
        self._begun = s, int(constant[0])
        return cells, alpha

    def finish(self) -> tuple[bytes, Words]:
        """Return beta of the table that was begun, and this party's share (n_samples,)."""
        self._check_complete()
        if self._begun is None:
            raise ProtocolError("no table was begun")
        begun, self._begun = self._begun, None
        return self._close(*begun)

    def _check_complete(self) -> None:
        if not self.complete:
            raise ProtocolError(f"a query needs all hints; {self._shape.n_blocks - self._filled} blocks are missing")

    def _tables(self, theta: NDArray[np.integer]) -> tuple[Words, Integers]:
        """Return what is looked up (V, cells), modulo t, and what is added to each table's sums (V,)."""
        t = self._shape.params.t
        checked = check_theta(theta, int(self._n_codes.sum()), t).astype(np.int64)
        tables, constant = _from_last(checked, self._n_codes, t)
        return tables.astype(np.uint64), constant

    def _encrypt(self, theta: Words, stream: SecretStream) -> tuple[Limbs, bytes, bytes]:
        """Return the secret, and cells and alpha packed."""
        params = self._shape.params
        primes = params.primes
        ring = ring_of(params)
        s = ring.ntt(ring.lift(stream.ternary((params.N,))))
        cells = ring.multiply(self._a, s)
        ring.add_to(cells, ring.ntt(ring.lift(stream.noise((self._shape.n_cells, params.N)))))
        constants = encode_scaled(theta, params)
        # the values of a constant polynomial are that constant everywhere
        ring.add_to(cells, np.repeat(constants[:, :, None], params.N, axis=2))
        alpha = ring.multiply(self._a_prime, s)
        ring.add_to(alpha, ring.ntt(ring.lift(stream.noise((params.N,)))))
        return s, pack(cells, primes), pack(alpha, primes)

    def _close(self, s: Limbs, constant: int) -> tuple[bytes, Words]:
        """Return the seed of beta, and this party's share, with a constant added to each sum."""
        shape, params = self._shape, self._shape.params
        ring, seed = ring_of(params), secret_bytes(KEY_BYTES)
        rho = ring.negate(ring.multiply(self._hints, s))
        ring.add_to(rho, shape.beta(seed))
        share = scale_of(params).round(ring.intt(rho)).reshape(-1)[: shape.n_samples]
        return seed, (share + np.uint64(constant)) % np.uint64(params.t)
