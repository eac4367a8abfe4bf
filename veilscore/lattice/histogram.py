"""Secure histogram: sums of a private vector over the cells of another party's codes, as shares modulo t.

Source: docs/protocols/lattice.md, section 1 (hints as in SimplePIR, one public a' for many secrets after
    Peikert, Vaikuntanathan and Waters 2008).
Parties: the code owner (static codes, for a job) and the vector owner (fresh vectors).
Messages: hints, once, code owner to vector owner; one `HistogramQuery` for V vectors, the other way.
Reveals: nothing but sizes; each party keeps a share, and the two add up to the sum within one unit.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and set of codes.
Aborts: MessageError on a message of wrong size or range; SecretReuseError where a secret would be used twice.
Before a share is opened to the vector owner the code owner **must** add `sampling.dither`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice import indicator
from veilscore.lattice.params import HISTOGRAM, T, check_histogram
from veilscore.lattice.ring import Ring, pack, packed_size, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import PublicStream, SecretStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Limbs = NDArray[np.uint32]
    Words = NDArray[np.uint64]

N = HISTOGRAM.N
PRIMES = HISTOGRAM.primes
L = len(PRIMES)
CELL_BYTES = packed_size((L, N), PRIMES)
CELLS_PER_CHUNK = 32  # 1.8 MB, below the usual 4 MB limit of a message


@dataclass(frozen=True, repr=False)
class HistogramQuery:
    """One query for V vectors: residues packed as in `ring.pack`.

    Attributes
    ----------
    b : (V, L, n_samples), the encrypted rows.
    beta : (V, L, cells), the masked inner products with the hints.
    alpha : (V, L, N), one sample of each vector's secret.
    """

    b: bytes
    beta: bytes
    alpha: bytes

    def __repr__(self) -> str:
        """Show the size alone."""
        return f"HistogramQuery({len(self.b) + len(self.beta) + len(self.alpha)} bytes)"


def _blocks(n_samples: int) -> int:
    return -(-n_samples // N)


def _public(label: bytes, n_samples: int) -> tuple[Limbs, Limbs]:
    """Return the values of a_1..a_K (K, L, N) and a' (L, N)."""
    rows = PublicStream(label, b"histogram a").uniform((_blocks(n_samples), L, N), PRIMES)
    return rows, PublicStream(label, b"histogram a'").uniform((L, N), PRIMES)


def _reduce(totals: NDArray[np.int64]) -> Limbs:
    """Return (R, L) signed sums as residues (1, L, R)."""
    residues = totals % np.array(PRIMES, np.int64)
    return np.ascontiguousarray(residues.T.astype(np.uint32))[None]


class HistogramCodes:
    """The code owner's side.

    Parameters
    ----------
    codes : uint8 or uint16 (n_samples, n_columns).
    n_codes : (n_columns,).
    label : names protocol, session and this set of codes; equal on both sides, never used for other codes.
    workers : threads for the hints.
    """

    def __init__(
        self, codes: NDArray[np.integer], n_codes: NDArray[np.int64], label: bytes, *, workers: int = 1
    ) -> None:
        self._rows = indicator.CellRows.of(codes, n_codes)
        check_histogram(self._rows.n_samples, self._rows.n_cells)
        self._label = label
        self._workers = workers
        self._sigma: NDArray[np.int8] | None = None
        self._hints_done = False

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"HistogramCodes(n_samples={self._rows.n_samples}, n_cells={self.n_cells})"

    @property
    def n_cells(self) -> int:
        """Number of cells, hence of sums a vector."""
        return self._rows.n_cells

    def hint_chunks(self) -> Iterator[bytes]:
        """Make the hints, a group of cells at a time, in order of cells.

        Raises
        ------
        SecretReuseError : asked twice; resend the same bytes, or make a new object under a new label.
        """
        if self._sigma is not None:
            raise SecretReuseError("hints are made once; resend the same bytes or start over with new codes")
        stream = SecretStream()
        self._sigma = stream.ternary((self.n_cells, N))
        return self._hint_chunks(stream, self._sigma)

    def _hint_chunks(self, stream: SecretStream, sigma: NDArray[np.int8]) -> Iterator[bytes]:
        ring = ring_of(HISTOGRAM)
        a, a_prime = _public(self._label, self._rows.n_samples)
        mirrored = np.ascontiguousarray(a[:, :, ::-1])  # a(1/X)
        columns = np.repeat(np.arange(self._rows.n_codes.size), self._rows.n_codes)
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, self.n_cells, CELLS_PER_CHUNK):
                cells = range(start, min(start + CELLS_PER_CHUNK, self.n_cells))
                masked = ring.multiply(ring.ntt(ring.lift(sigma[cells.start : cells.stop])), a_prime)
                ring.add_to(masked, self._cell_hints(ring, cells, columns, mirrored, pool))
                chunk = ring.intt(masked)
                ring.add_to(chunk, ring.lift(stream.noise((len(cells), N))))
                yield pack(chunk, PRIMES)
        self._hints_done = True

    def _cell_hints(
        self,
        ring: Ring,
        cells: range,
        columns: NDArray[np.int64],
        mirrored: Limbs,
        pool: ThreadPoolExecutor,
    ) -> Limbs:
        """Return the values (cells, L, N) of h_r = sum over blocks of m_r(X) a(1/X)."""
        rows = self._rows
        blocks = {c: rows.column_blocks(c, N) for c in set(columns[cells.start : cells.stop].tolist())}
        out = np.empty((len(cells), L, N), np.uint32)

        def one(cell: int) -> None:
            column = int(columns[cell])
            code = cell - int(rows.offsets[column])
            indicator.cell_hint(blocks[column], code, mirrored, *ring.tables, out[cell - cells.start])

        if self._workers == 1:
            for cell in cells:
                one(cell)
        else:
            list(pool.map(one, cells))
        return out

    def hints(self) -> bytes:
        """Return all hints at once."""
        return b"".join(self.hint_chunks())

    def evaluate(self, query: HistogramQuery) -> Words:
        """Return this party's shares (V, cells) of the sums."""
        if self._sigma is None or not self._hints_done:
            raise ProtocolError("a query came before the hints were made")
        n_samples = self._rows.n_samples
        V, rest = divmod(len(query.alpha), CELL_BYTES)
        if V < 1 or rest:
            raise MessageError(f"alpha has {len(query.alpha)} bytes; it must be a multiple of {CELL_BYTES}")
        check_histogram(n_samples, self.n_cells, V)
        alpha = unpack(query.alpha, (V, L, N), PRIMES)
        beta = unpack(query.beta, (V, L, self.n_cells), PRIMES)
        size = packed_size((L, n_samples), PRIMES)
        if len(query.b) != V * size:
            raise MessageError(f"b has {len(query.b)} bytes; {V} vectors of {n_samples} rows take {V * size}")
        ring = ring_of(HISTOGRAM)
        scale = exact_scale(HISTOGRAM)
        shares = np.empty((V, self.n_cells), np.uint64)
        for v in range(V):
            b = unpack(query.b[v * size : (v + 1) * size], (L, n_samples), PRIMES)
            acc = np.zeros((self.n_cells, L), np.uint64)
            indicator.cell_sums(self._rows.codes, self._rows.offsets, np.ascontiguousarray(b.T), acc)
            total = _reduce((acc % ring.primes_u32).astype(np.int64))
            dots = np.empty((self.n_cells, L), np.int64)
            indicator.secret_dots(alpha[v], self._sigma, dots)
            for term in (_reduce(dots), ring.negate(beta[v])[None]):
                total = (total.astype(np.uint64) + term) % ring.primes_u32[:, None]
            shares[v] = scale.round(total.astype(np.uint32))[0]
        return shares


class HistogramVectors:
    """The vector owner's side.

    Parameters
    ----------
    n_samples, n_codes : sizes of the other party's codes, as agreed beforehand.
    label : as the code owner's.
    hints : all hints, or none yet (then give them by `add_hints`).
    """

    def __init__(self, n_samples: int, n_codes: NDArray[np.int64], label: bytes, hints: Iterable[bytes] = ()) -> None:
        counts = indicator.check_n_codes(n_codes)
        self.n_samples = n_samples
        self.n_cells = int(counts.sum())
        check_histogram(n_samples, self.n_cells)
        self._a, a_prime = _public(label, n_samples)
        self._mirrored_a_prime = np.ascontiguousarray(a_prime[:, ::-1])
        self._hints = np.empty((self.n_cells, L, N), np.uint32)
        self._filled = 0
        for chunk in hints:
            self.add_hints(chunk)

    def __repr__(self) -> str:
        """Show sizes alone."""
        return f"HistogramVectors(n_samples={self.n_samples}, n_cells={self.n_cells})"

    @property
    def complete(self) -> bool:
        """Whether all hints have come."""
        return self._filled == self.n_cells

    def add_hints(self, chunk: bytes) -> None:
        """Take the next hints, of any whole number of cells, in the order in which they were made."""
        count, rest = divmod(len(chunk), CELL_BYTES)
        if rest or not 1 <= count <= self.n_cells - self._filled:
            raise MessageError(
                f"hints of {len(chunk)} bytes; {self.n_cells - self._filled} of {CELL_BYTES} are missing"
            )
        self._hints[self._filled : self._filled + count] = unpack(chunk, (count, L, N), PRIMES)
        self._filled += count

    def query(self, x: Words) -> tuple[HistogramQuery, Words]:
        """Encrypt vectors under fresh secrets.

        Parameters
        ----------
        x : uint64 (V, n_samples), below t.

        Returns
        -------
        The query, and this party's shares (V, cells). To resend, send the same query again.
        """
        if not self.complete:
            raise ProtocolError(f"a query needs all hints; {self.n_cells - self._filled} cells are missing")
        if x.ndim != 2 or x.shape[1] != self.n_samples or x.dtype != np.uint64:
            raise ParameterError(f"vectors must be uint64 of shape (V, {self.n_samples})")
        check_histogram(self.n_samples, self.n_cells, x.shape[0])
        if np.any(x >= np.uint64(T)):
            raise ParameterError("a vector has a value that is not below t")
        stream = SecretStream()
        parts = [self._encrypt(row, stream) for row in x]
        rho = stream.uniform((x.shape[0], L, self.n_cells), PRIMES)
        shares = exact_scale(HISTOGRAM).round(rho)
        beta = [
            (total.astype(np.uint64) + mask) % np.array(PRIMES, np.uint64)[:, None]
            for (_, total, _), mask in zip(parts, rho, strict=True)
        ]
        query = HistogramQuery(
            b"".join(b for b, _, _ in parts),
            pack(np.stack(beta).astype(np.uint32), PRIMES),
            b"".join(alpha for _, _, alpha in parts),
        )
        return query, shares

    def _encrypt(self, x: Words, stream: SecretStream) -> tuple[bytes, Limbs, bytes]:
        """Return b and alpha packed, and the inner products (L, cells) of the hints with the secret."""
        ring = ring_of(HISTOGRAM)
        s = stream.ternary((N,))
        s_hat = ring.ntt(ring.lift(s))
        b = ring.intt(ring.multiply(self._a, s_hat))
        ring.add_to(b, ring.lift(stream.noise((b.shape[0], N))))
        rows = np.ascontiguousarray(b.transpose(1, 0, 2)).reshape(L, -1)[:, : self.n_samples]
        scale = exact_scale(HISTOGRAM)
        # D = 0 modulo its own limbs, so the message lives in the limbs of t
        message = scale.split(x).astype(np.uint64) * scale.D_mod[:, None] + rows[:2]
        rows[:2] = (message % scale.message[:, None]).astype(np.uint32)
        alpha = ring.intt(ring.multiply(self._mirrored_a_prime, s_hat))
        ring.add_to(alpha, ring.lift(stream.noise((N,))))
        dots = np.empty((self.n_cells, L), np.int64)
        indicator.signed_dots(self._hints, s.astype(np.int32), dots)
        return pack(rows, PRIMES), _reduce(dots)[0], pack(alpha, PRIMES)
