"""Secure product: element by element products of two parties' private vectors, summed, as shares modulo t.

Source: Brakerski 2012; Fan and Vercauteren 2012 (BFV); docs/protocols/lattice.md, section 2. Since t divides
    q there is no wrap-around term, and a message lives in the limbs of t alone. Two parameter sets: PRODUCT for
    shares that stay shares, PRODUCT_OPEN (section 2a) for the totals of trees, whose sums come in several chunks.
Parties: the key owner (private u) and the evaluator (private v).
Messages: public key, once; ciphertexts, one chunk a block of 8192 rows; a reply chunk a block and output.
Reveals: nothing but sizes. The key owner sees a mask uniform modulo q in c0, and in c1 a fresh encryption of
    zero under the public key; the evaluator sees ciphertexts.
Assumes: ring-LWE at 128 bits; one key for at most `openings` decrypted coefficients (checked).
Aborts: MessageError on a message of wrong size or range.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import MessageError, ParameterError
from veilscore.kernels import kernel
from veilscore.lattice.indicator import MAX_TERMS, fold_all
from veilscore.lattice.params import PRODUCT, ParameterSet, check_product
from veilscore.lattice.ring import pack, packed_size, ring, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import KEY_BYTES, PublicStream, SecretStream
from veilscore.lattice.slots import block_rows, fold, n_folded, unfold
from veilscore.wire.randomness import secret_bytes

N = PRODUCT.N
PRIMES = PRODUCT.primes
L = len(PRIMES)
ELEMENT_BYTES = packed_size((L, N), PRIMES)
PUBLIC_BYTES = ELEMENT_BYTES
REPLY_BYTES = 2 * ELEMENT_BYTES
OPENINGS = 1 << 28  # coefficients one key may decrypt: 10 million rows in 26 steps


def chunks_of(reply: bytes) -> list[bytes]:
    """Return the chunks of a reply that came in one piece, one for each block of rows."""
    return [reply[at : at + REPLY_BYTES] for at in range(0, len(reply), REPLY_BYTES)]


def element_bytes(params: ParameterSet) -> int:
    """Return the bytes of one ring element of a parameter set."""
    return packed_size((len(params.primes), params.N), params.primes)


def ciphertext_bytes(n_vectors: int, params: ParameterSet = PRODUCT) -> int:
    """Return the bytes of one chunk: the seed and c0 of one block of each vector, after `slots.fold`."""
    return KEY_BYTES + n_vectors * element_bytes(params)


def _public_a(label: bytes, params: ParameterSet) -> Limbs:
    primes = params.primes
    return PublicStream(label, params.name.encode() + b" public key").uniform((len(primes), params.N), primes)


def _c1(label: bytes, seed: bytes, n_vectors: int, params: ParameterSet) -> Limbs:
    primes, purpose = params.primes, params.name.encode() + b" c1 " + seed
    return PublicStream(label, purpose).uniform((n_vectors, len(primes), params.N), primes)


def _check_vectors(values: Words, what: str, t: int) -> None:
    if values.dtype != np.uint64 or values.size == 0:
        raise ParameterError(f"{what} must be a non-empty uint64 array")
    if np.any(values >= np.uint64(t)):
        raise ParameterError(f"{what} has a value that is not below t")


def _share(values: Limbs, params: ParameterSet) -> Words:
    """Return the slots modulo t (B, N) of round(v / D), from values (B, L, N) in the NTT domain."""
    scale, cut = exact_scale(params), params.n_message
    remainder = scale.centred_remainder(ring(params.N, params.primes[cut:]).intt(values[:, cut:]))
    return scale.quotient(values[:, :cut], ring(params.N, params.primes[:cut]).ntt(remainder))


class ProductKey:
    """The key owner's side: a secret key, kept in memory for one job.

    label : names protocol, session and this key; equal on both sides.
    params : PRODUCT or PRODUCT_OPEN; equal on both sides.
    openings : coefficients that this key may decrypt in all.
    """

    def __init__(self, label: bytes, *, params: ParameterSet = PRODUCT, openings: int = OPENINGS) -> None:
        check_product(1, openings, params)
        stream = SecretStream()
        this = ring_of(params)
        self._params = params
        self._label = label
        self._openings = openings
        self._left = openings
        self._counting = threading.Lock()
        self._s = this.ntt(this.lift(stream.ternary((N,))))
        pk0 = this.multiply(_public_a(label, params), self._s)
        this.add_to(pk0, this.ntt(this.lift(stream.noise((N,)))))
        self._public = pack(this.negate(pk0), params.primes)

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "<ProductKey>"

    def public(self) -> bytes:
        """Return the public key (its second half is derived from the label)."""
        return self._public

    def encrypt(self, u: Words) -> Iterator[bytes]:
        """Encrypt vectors u (V, n) below t, to be multiplied and summed; yield one chunk a block of rows."""
        _check_vectors(u, "u", self._params.t)
        if u.ndim != 2:
            raise ParameterError("u must have shape (V, n_samples)")
        check_product(u.shape[0], self._openings, self._params)
        return (self._encrypt_block(fold(u, k)) for k in range(-(-u.shape[1] // N)))

    def _encrypt_block(self, u: Words) -> bytes:
        params = self._params
        this = ring_of(params)
        seed = secret_bytes(KEY_BYTES)
        c0 = this.negate(this.multiply(_c1(self._label, seed, u.shape[0], params), self._s))
        this.add_to(c0, this.ntt(this.lift(SecretStream().noise(u.shape))))
        exact_scale(params).embed(u, c0)  # modulo p1, p2 the values of the message are the slots themselves
        return seed + pack(c0, params.primes)

    def decrypt(self, reply: Iterable[bytes], n_samples: int, n_outputs: int | None = None) -> Words:
        """Return this party's share of the products.

        reply : chunks in the order in which the evaluator made them.
        n_samples : rows.
        n_outputs : outputs asked for; None for the form without that axis.
        Returns uint64 (n_samples,), or (n_outputs, n_samples).
        """
        outputs = 1 if n_outputs is None else n_outputs
        n_blocks = -(-n_samples // N)
        if n_samples < 1 or outputs < 1:
            raise ParameterError("a reply has at least one row and one output")
        with self._counting:
            if outputs * n_blocks * N > self._left:
                raise ParameterError("this key has opened all coefficients that it may; make a new key")
            self._left -= outputs * n_blocks * N
        params, size = self._params, 2 * element_bytes(self._params)
        this = ring_of(params)
        shares = np.empty((outputs, n_blocks, N), np.uint64)
        chunks = iter(reply)
        for block in range(n_blocks):
            for output in range(outputs):
                chunk = next(chunks, None)
                if chunk is None or len(chunk) != size:
                    raise MessageError(f"a reply needs {n_blocks * outputs} chunks of {size} bytes")
                c = unpack(chunk, (2, len(params.primes), N), params.primes)
                phase = this.multiply(c[1], self._s)
                this.add_to(phase, c[0])
                shares[output, block] = _share(phase[None], params)[0]
        if next(chunks, None) is not None:
            raise MessageError(f"a reply has more than {n_blocks * outputs} chunks")
        total = unfold(shares, n_samples, params)
        return total[0] if n_outputs is None else total


class ProductEvaluator:
    """The evaluator's side.

    public : the key owner's public key.
    label, params : as the key owner's.
    """

    def __init__(
        self, public: bytes, label: bytes, *, params: ParameterSet = PRODUCT, openings: int = OPENINGS
    ) -> None:
        this, primes, cut = ring_of(params), params.primes, params.n_message
        self._params = params
        self._label = label
        self._openings = openings
        self._public = np.stack([unpack(public, (len(primes), N), primes), _public_a(label, params)])
        self._divisors = ring(N, primes[cut:])
        self._message = ring(N, primes[:cut])
        self._ring = this

    def __repr__(self) -> str:
        """Show the role alone."""
        return "<ProductEvaluator>"

    def multiply_sum(self, ciphertexts: Iterable[bytes], v: Words) -> tuple[list[bytes], Words]:
        """Return the sum over V of u_i v_i, masked, and this party's share of it.

        ciphertexts : chunks of `ProductKey.encrypt`, in order.
        v : uint64 (V, n_samples), or (n_outputs, V, n_samples) for several outputs of the same ciphertexts.
        Returns the reply's chunks (by block, then output) and uint64 (n_samples,) or (n_outputs, n_samples).
        """
        _check_vectors(v, "v", self._params.t)
        if v.ndim not in {2, 3}:
            raise ParameterError("v must have shape (V, n_samples) or (n_outputs, V, n_samples)")
        stacked = v if v.ndim == 3 else v[None]
        outputs, V, n_samples = stacked.shape
        check_product(V, self._openings, self._params)
        n_blocks = -(-n_samples // N)
        shares = np.empty((outputs, n_blocks, N), np.uint64)
        reply: list[bytes] = []
        chunks = iter(ciphertexts)
        for block, chunk in enumerate(islice(chunks, n_blocks)):
            c0, c1 = self._ciphertexts(chunk, n_folded(V, block_rows(n_samples, block)))
            for output in range(outputs):
                masked, share = self._masked(self._sum(c0, c1, fold(stacked[output], block)))
                reply.append(masked)
                shares[output, block] = share
        if len(reply) != outputs * n_blocks or next(chunks, None) is not None:
            raise MessageError(f"{n_blocks} chunks of ciphertexts were expected for {n_samples} rows")
        total = unfold(shares, n_samples, self._params)
        return reply, total if v.ndim == 3 else total[0]

    def partial_sum(self, chunk: bytes, v: Words) -> Limbs:
        """Return the sum, not masked yet, over the vectors of one chunk of one block; safe to run in several threads.

        chunk : `ProductKey.encrypt` of some of the vectors, at most one block of rows.
        v : uint64 (V, n_rows).
        """
        _check_vectors(v, "v", self._params.t)
        if v.ndim != 2 or v.shape[1] > N:
            raise ParameterError(f"a chunk is one block of at most {N} rows")
        return self._sum(*self._ciphertexts(chunk, n_folded(*v.shape)), fold(v, 0))

    def add_sums(self, chunk: bytes, n_vectors: int, v: Words, terms: Integers, onto: Limbs | None = None) -> Limbs:
        """Add several sums of a few products each to those of other blocks, not masked yet.

        chunk : `ProductKey.encrypt` of `n_vectors` vectors c, one whole block of rows.
        v : uint64 (M, N); each is transformed once, however many sums it is in.
        terms : (outputs, T, 2) pairs (i, m): to output o comes the sum over T of c_i v_m.
        onto : uint32 (outputs, 2, L, N), changed and returned; None for zeros.
        """
        _check_vectors(v, "v", self._params.t)
        c0, c1 = self._ciphertexts(chunk, n_vectors)
        out = np.zeros((len(terms), 2, *c0.shape[1:]), np.uint32) if onto is None else onto
        _add_sums(c0, c1, self._plain(v), terms, self._ring.primes_u32, out)
        return out

    def close_sum(self, sums: list[Limbs], n_vectors: int, n_rows: int) -> tuple[bytes, Words]:
        """Return the masked reply for one block whose chunks gave these sums, and this party's share (n_rows,)."""
        check_product(n_vectors, self._openings, self._params)
        total = sums[0].copy()
        for other in sums[1:]:
            self._ring.add_to(total, other)
        reply, share = self._masked(total)
        return reply, unfold(share[None, None], n_rows, self._params)[0]

    def _ciphertexts(self, chunk: bytes, V: int) -> tuple[Limbs, Limbs]:
        params, size = self._params, ciphertext_bytes(V, self._params)
        if len(chunk) != size:
            raise MessageError(f"a chunk of {V} ciphertexts takes {size} bytes, not {len(chunk)}")
        c0 = unpack(chunk[KEY_BYTES:], (V, len(params.primes), N), params.primes)
        return c0, _c1(self._label, chunk[:KEY_BYTES], V, params)

    def _sum(self, c0: Limbs, c1: Limbs, v: Words) -> Limbs:
        """Return the sum (2, L, N) over V of c_i v_i, not masked."""
        total = np.empty((2, *c0.shape[1:]), np.uint32)
        _multiply_sum(c0, c1, self._plain(v), self._ring.primes_u32, total)
        return total

    def _masked(self, total: Limbs) -> tuple[bytes, Words]:
        """Return one reply chunk and the share (N,) of a block; `total` is overwritten."""
        stream, this, primes = SecretStream(), self._ring, self._params.primes
        # an encryption of zero hides v in c1, a uniform mask hides everything in c0
        u = this.ntt(this.lift(stream.ternary((N,))))
        zero = np.stack([this.multiply(half, u) for half in self._public])
        this.add_to(zero, this.ntt(this.lift(stream.noise((2, N)))))
        this.add_to(total, zero)
        mask = stream.uniform((len(primes), N), primes)
        this.add_to(total[0], mask)
        return pack(total, primes), _share(this.negate(mask)[None], self._params)[0]

    def _plain(self, v: Words) -> Limbs:
        """Return the values (V, L, N) of the centred integer polynomials with slots v (V, N)."""
        scale, cut = exact_scale(self._params), self._params.n_message
        values = np.empty((v.shape[0], len(self._params.primes), N), np.uint32)
        values[:, :cut] = scale.split(v)
        values[:, cut:] = self._divisors.ntt(scale.lift_centred(self._message.intt(values[:, :cut])))
        return values


@kernel("(u4[:,:,::1], u4[:,:,::1], u4[:,:,::1], u4[::1], u4[:,:,::1])")
def _multiply_sum(c0: Limbs, c1: Limbs, v: Limbs, primes: Limbs, out: Limbs) -> None:
    """Write out[h] = sum over V of c_h[V] v[V], all (V, L, N)."""
    acc = np.empty(v.shape[2], np.uint64)
    for half in range(2):
        c = c0 if half == 0 else c1
        for limb in range(primes.size):
            acc[:] = np.uint64(0)
            for i in range(v.shape[0]):
                x = c[i, limb]
                y = v[i, limb]
                for j in range(acc.size):
                    acc[j] += np.uint64(x[j]) * np.uint64(y[j])
                if i % MAX_TERMS == MAX_TERMS - 1:
                    fold_all(acc, primes[limb])
            row = out[half, limb]
            for j in range(acc.size):
                row[j] = np.uint32(acc[j] % np.uint64(primes[limb]))


@kernel("(u4[:,:,::1], u4[:,:,::1], u4[:,:,::1], i8[:,:,::1], u4[::1], u4[:,:,:,::1])")
def _add_sums(c0: Limbs, c1: Limbs, v: Limbs, terms: Integers, primes: Limbs, out: Limbs) -> None:
    """Add to out[o, h] the sum over T < MAX_TERMS of c_h[terms[o, t, 0]] v[terms[o, t, 1]]."""
    acc = np.empty(v.shape[2], np.uint64)
    for o in range(terms.shape[0]):
        for half in range(2):
            c = c0 if half == 0 else c1
            for limb in range(primes.size):
                row = out[o, half, limb]
                for j in range(acc.size):
                    acc[j] = np.uint64(row[j])
                for t in range(terms.shape[1]):
                    x = c[terms[o, t, 0], limb]
                    y = v[terms[o, t, 1], limb]
                    for j in range(acc.size):
                        acc[j] += np.uint64(x[j]) * np.uint64(y[j])
                for j in range(acc.size):
                    row[j] = np.uint32(acc[j] % np.uint64(primes[limb]))
