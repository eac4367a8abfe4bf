"""A static private 0/1 matrix times fresh private vectors, as shares: the core of the histogram and the row lookup.

Source: docs/protocols/lattice.md, section 1 (hints as in SimplePIR, one public a' for many secrets after
    Peikert, Vaikuntanathan and Waters 2008).
Parties: the matrix owner (static, for a job) and the vector owner (fresh vectors).
Messages: hints, once, matrix owner to vector owner; one `VectorQuery` for V vectors, the other way.
Reveals: nothing but sizes; each party keeps a share of every product, and the two add up within one unit.
Assumes: ring-LWE at 128 bits; both give the same label, fresh for the session and matrix.
Aborts: MessageError on a message of wrong size or range; SecretReuseError where a secret would be used twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.lattice import indicator
from veilscore.lattice.params import ParameterSet, check_vectors
from veilscore.lattice.ring import Ring, pack, packed_size, ring_of, unpack
from veilscore.lattice.rounding import scale_of
from veilscore.lattice.sampling import KEY_BYTES, PublicStream, SecretStream
from veilscore.wire.protocol import fields_bytes
from veilscore.wire.randomness import secret_bytes

CHUNK_BYTES = 1 << 21  # below the usual 4 MB limit of a message


class Matrix(Protocol):
    """A 0/1 matrix (n_outputs, n_positions), given by the positions of each output."""

    def positions(self, start: int, stop: int) -> list[NDArray[np.int32]]:
        """Return the ascending positions of outputs start to stop."""

    def sums(self, b: Limbs) -> Words:
        """Return the plain sums (n_outputs, L) of b (n_positions, L) over the positions of each output."""


@dataclass(frozen=True)
class Shape:
    """Sizes and public elements that both parties derive alike.

    params : parameter set; shares are modulo its t.
    n_positions, n_outputs : length of a vector and of the result.
    output : what one output is called in messages.
    label, purpose : session and matrix; and the role of the public elements in it.
    """

    params: ParameterSet
    n_positions: int
    n_outputs: int
    output: str
    label: bytes
    purpose: bytes

    @property
    def n_limbs(self) -> int:
        """Number of limbs."""
        return len(self.params.primes)

    @property
    def output_bytes(self) -> int:
        """Bytes of one hint, and of alpha of one vector."""
        return packed_size((self.n_limbs, self.params.N), self.params.primes)

    @property
    def field_bytes(self) -> tuple[int, int, int]:
        """Bytes of b, beta and alpha of one vector."""
        primes = self.params.primes
        return packed_size((self.n_limbs, self.n_positions), primes), KEY_BYTES, self.output_bytes

    def beta(self, seed: bytes) -> Limbs:
        """Return the residues (L, n_outputs) that stand for a vector's masked inner products with the hints."""
        stream = PublicStream(self.label, self.purpose + b" beta " + seed)
        return stream.uniform((self.n_limbs, self.n_outputs), self.params.primes)

    def public(self) -> tuple[Limbs, Limbs]:
        """Return the values of a_1..a_K (K, L, N), one a block of N positions, and a' (L, N)."""
        N, primes = self.params.N, self.params.primes
        n_blocks = -(-self.n_positions // N)
        blocks = PublicStream(self.label, self.purpose + b" a").uniform((n_blocks, self.n_limbs, N), primes)
        return blocks, PublicStream(self.label, self.purpose + b" a'").uniform((self.n_limbs, N), primes)


@dataclass(frozen=True, repr=False)
class VectorQuery:
    """One query for V vectors: residues packed as in `ring.pack`.

    b : (V, L, n_positions), the encrypted vectors.
    beta : a seed a vector, of the masked inner products with the hints (L, n_outputs).
    alpha : (V, L, N), one sample of each vector's secret.
    """

    b: bytes
    beta: bytes
    alpha: bytes

    def __repr__(self) -> str:
        """Show the size alone."""
        return f"VectorQuery({len(self.b) + len(self.beta) + len(self.alpha)} bytes)"

    def pack(self) -> bytes:
        """Return the query as one message; `MatrixOwner.unpack` reads it."""
        return self.b + self.beta + self.alpha


def _reduce(totals: Integers, primes: tuple[int, ...]) -> Limbs:
    """Return (R, L) signed sums as residues (L, R)."""
    residues = totals % np.array(primes, np.int64)
    return np.ascontiguousarray(residues.T.astype(np.uint32))


class MatrixOwner:
    """The matrix owner's side.

    matrix : private, not changed afterwards.
    shape : as the vector owner's; its label is never used for another matrix.
    workers : threads for the hints.
    """

    def __init__(self, matrix: Matrix, shape: Shape, *, workers: int = 1) -> None:
        self._matrix = matrix
        self._shape = shape
        self._workers = workers
        self._sigma: NDArray[np.int8] | None = None
        self._hints_done = False

    def hint_chunks(self) -> Iterator[bytes]:
        """Make the hints, a group of outputs at a time, in order.

        Raises SecretReuseError: asked twice; resend the same bytes, or make a new object under a new label.
        """
        if self._sigma is not None:
            raise SecretReuseError("hints are made once; resend the same bytes or start over with new codes")
        stream = SecretStream()
        self._sigma = stream.ternary((self._shape.n_outputs, self._shape.params.N))
        return self._hint_chunks(stream, self._sigma)

    def _hint_chunks(self, stream: SecretStream, sigma: NDArray[np.int8]) -> Iterator[bytes]:
        shape, params = self._shape, self._shape.params
        ring = ring_of(params)
        a, a_prime = shape.public()
        mirrored = np.ascontiguousarray(a[:, :, ::-1])  # a(1/X)
        step = max(1, CHUNK_BYTES // shape.output_bytes)
        with ThreadPoolExecutor(self._workers) as pool:
            for start in range(0, shape.n_outputs, step):
                stop = min(start + step, shape.n_outputs)
                masked = ring.multiply(ring.ntt(ring.lift(sigma[start:stop])), a_prime)
                ring.add_to(masked, self._plain_hints(ring, start, stop, mirrored, pool))
                chunk = ring.intt(masked)
                ring.add_to(chunk, ring.lift(stream.noise((stop - start, params.N))))
                yield pack(chunk, params.primes)
        self._hints_done = True

    def _plain_hints(self, ring: Ring, start: int, stop: int, mirrored: Limbs, pool: ThreadPoolExecutor) -> Limbs:
        """Return the values (stop - start, L, N) of h_r = sum over blocks of m_r(X) a(1/X)."""
        positions = self._matrix.positions(start, stop)
        out = np.empty((stop - start, *mirrored.shape[1:]), np.uint32)

        def one(i: int) -> None:
            indicator.hint(positions[i], mirrored, *ring.tables, out[i])

        if self._workers == 1:
            for i in range(stop - start):
                one(i)
        else:
            list(pool.map(one, range(stop - start)))
        return out

    @property
    def hint_bytes(self) -> int:
        """Bytes of all hints."""
        return self._shape.n_outputs * self._shape.output_bytes

    def hints(self) -> bytes:
        """Return all hints at once."""
        return b"".join(self.hint_chunks())

    def narrow(self, matrix: Matrix, outputs: Integers) -> None:
        """Keep some outputs alone, with the hints made for all; `matrix` has these outputs."""
        if self._sigma is None or not self._hints_done:
            raise ProtocolError("some outputs were asked for before the hints were made")
        self._matrix, self._shape = matrix, replace(self._shape, n_outputs=outputs.size)
        self._sigma = self._sigma[outputs]

    @property
    def query_bytes(self) -> int:
        """Bytes of a packed query for one vector."""
        return sum(self._shape.field_bytes)

    def fields_bytes(self, n_vectors: int) -> int:
        """Return the bytes of a query for some vectors, sent as three fields."""
        return fields_bytes(*(n_vectors * size for size in self._shape.field_bytes))

    def unpack(self, data: bytes) -> VectorQuery:
        """Read what `VectorQuery.pack` wrote, for any whole number of vectors."""
        b, beta, alpha = self._shape.field_bytes
        V, rest = divmod(len(data), b + beta + alpha)
        if V < 1 or rest:
            raise MessageError(f"a query has {len(data)} bytes; it must be a multiple of {b + beta + alpha}")
        return VectorQuery(data[: V * b], data[V * b : V * (b + beta)], data[V * (b + beta) :])

    def evaluate_many(self, query: VectorQuery) -> Words:
        """Return this party's shares (V, n_outputs) of the products."""
        if self._sigma is None or not self._hints_done:
            raise ProtocolError("a query came before the hints were made")
        shape, primes = self._shape, self._shape.params.primes
        size, _, element = shape.field_bytes
        V, rest = divmod(len(query.alpha), element)
        if V < 1 or rest:
            raise MessageError(f"alpha has {len(query.alpha)} bytes; it must be a multiple of {element}")
        check_vectors(V)
        alpha = unpack(query.alpha, (V, shape.n_limbs, shape.params.N), primes)
        if len(query.beta) != V * KEY_BYTES:
            raise MessageError(f"beta has {len(query.beta)} bytes; a vector's seed takes {KEY_BYTES}")
        if len(query.b) != V * size:
            raise MessageError(f"b has {len(query.b)} bytes; {V} vectors of {shape.n_positions} take {V * size}")
        ring = ring_of(shape.params)
        shares = np.empty((V, shape.n_outputs), np.uint64)
        for v in range(V):
            b = unpack(query.b[v * size : (v + 1) * size], (shape.n_limbs, shape.n_positions), primes)
            sums = self._matrix.sums(np.ascontiguousarray(b.T))
            total = _reduce((sums % ring.primes_u32).astype(np.int64), primes)
            dots = np.empty((shape.n_outputs, shape.n_limbs), np.int64)
            indicator.secret_dots(alpha[v], self._sigma, dots)
            beta = shape.beta(query.beta[v * KEY_BYTES : (v + 1) * KEY_BYTES])
            for term in (_reduce(dots, primes), ring.negate(beta)):
                total = ((total.astype(np.uint64) + term) % ring.primes_u32[:, None]).astype(np.uint32)
            shares[v] = scale_of(shape.params).round(total[None])[0]
        return shares


class VectorOwner:
    """The vector owner's side.

    shape : as the matrix owner's.
    hints : all hints, or none yet (then give them by `add_hints`).
    """

    def __init__(self, shape: Shape, hints: Iterable[bytes] = ()) -> None:
        self._shape = shape
        self._a, a_prime = shape.public()
        self._mirrored_a_prime = np.ascontiguousarray(a_prime[:, ::-1])
        self._hints = np.empty((shape.n_outputs, shape.n_limbs, shape.params.N), np.uint32)
        self._filled = 0
        for chunk in hints:
            self.add_hints(chunk)

    @property
    def complete(self) -> bool:
        """Whether all hints have come."""
        return self._filled == self._shape.n_outputs

    def narrow(self, outputs: Integers) -> None:
        """Keep the hints of some outputs alone."""
        if not self.complete:
            raise ProtocolError("some outputs were asked for before all hints came")
        self._shape, self._filled = replace(self._shape, n_outputs=outputs.size), outputs.size
        self._hints = self._hints[outputs]

    @property
    def hint_bytes(self) -> int:
        """Bytes of all hints."""
        return self._shape.n_outputs * self._shape.output_bytes

    @property
    def hint_unit(self) -> int:
        """Bytes of one hint, of which `add_hints` takes whole ones."""
        return self._shape.output_bytes

    def add_hints(self, chunk: bytes) -> None:
        """Take the next hints, of any whole number of outputs, in the order in which they were made."""
        shape = self._shape
        count, rest = divmod(len(chunk), shape.output_bytes)
        missing = shape.n_outputs - self._filled
        if rest or not 1 <= count <= missing:
            raise MessageError(f"hints of {len(chunk)} bytes; {missing} of {shape.output_bytes} are missing")
        block = unpack(chunk, (count, shape.n_limbs, shape.params.N), shape.params.primes)
        self._hints[self._filled : self._filled + count] = block
        self._filled += count

    def query_many(self, x: Words) -> tuple[VectorQuery, Words]:
        """Encrypt vectors, each under a fresh secret.

        x : uint64 (V, n_positions), below t.
        Returns the query, and this party's shares (V, n_outputs). To resend, send the same query again.
        """
        shape, primes = self._shape, self._shape.params.primes
        if not self.complete:
            missing = shape.n_outputs - self._filled
            raise ProtocolError(f"a query needs all hints; {missing} {shape.output} are missing")
        if x.ndim != 2 or x.shape[1] != shape.n_positions or x.dtype != np.uint64:
            raise ParameterError(f"vectors must be uint64 of shape (V, {shape.n_positions})")
        check_vectors(x.shape[0])
        if np.any(x >= np.uint64(shape.params.t)):
            raise ParameterError("a vector has a value that is not below t")
        stream = SecretStream()
        parts = [self._encrypt(row, stream) for row in x]
        seeds = [secret_bytes(KEY_BYTES) for _ in x]
        dots = np.empty((x.shape[0], shape.n_outputs, shape.n_limbs), np.int64)
        indicator.signed_dots(self._hints, np.stack([s for _, s, _ in parts]).astype(np.int32), dots)
        p = np.array(primes, np.uint64)[:, None]  # the masks are what makes the products look drawn
        rho = [(shape.beta(seed) + p - _reduce(dot, primes)) % p for dot, seed in zip(dots, seeds, strict=True)]
        query = VectorQuery(
            b"".join(b for b, _, _ in parts),
            b"".join(seeds),
            b"".join(alpha for _, _, alpha in parts),
        )
        return query, scale_of(shape.params).round(np.stack(rho).astype(np.uint32))

    def _encrypt(self, x: Words, stream: SecretStream) -> tuple[bytes, NDArray[np.int8], bytes]:
        """Return b packed, the secret (N,), and alpha packed."""
        shape, params = self._shape, self._shape.params
        ring = ring_of(params)
        s = stream.ternary((params.N,))
        s_hat = ring.ntt(ring.lift(s))
        b = ring.intt(ring.multiply(self._a, s_hat))
        ring.add_to(b, ring.lift(stream.noise((b.shape[0], params.N))))
        values = np.ascontiguousarray(b.transpose(1, 0, 2)).reshape(shape.n_limbs, -1)[:, : shape.n_positions]
        scale_of(params).embed(x, values)
        alpha = ring.intt(ring.multiply(self._mirrored_a_prime, s_hat))
        ring.add_to(alpha, ring.lift(stream.noise((params.N,))))
        return pack(values, params.primes), s, pack(alpha, params.primes)
