"""Secure product: element by element products of two parties' private vectors, summed, as shares modulo t.

Source: Brakerski 2012; Fan and Vercauteren 2012 (BFV); docs/protocols/lattice.md, section 2. Since t divides
    q there is no wrap-around term, and a message lives in the limbs of t alone. Two parameter sets: PRODUCT for
    shares that stay shares, PRODUCT_OPEN (section 2a) for the totals of trees, whose sums come in several chunks.
Parties: the key owner (private u) and the evaluator (private v).
Messages: public key, once; ciphertexts, one chunk a block of 8192 rows; a reply chunk a block and output.
Reveals: nothing but sizes. The key owner sees a c0 that is uniform modulo q, sent as its seed, and in c1 a fresh
    encryption of zero under the public key; the evaluator sees ciphertexts.
Assumes: ring-LWE at 128 bits; one key for at most `openings` decrypted coefficients (checked).
Aborts: MessageError on a message of wrong size or range.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from veilscore.arrays import Limbs, Words
from veilscore.errors import MessageError, ParameterError
from veilscore.kernels import kernel
from veilscore.lattice.bfv import BfvEvaluator, BfvKey, check_vectors, chunk_bytes, drawn, element_bytes
from veilscore.lattice.indicator import MAX_TERMS, fold_all
from veilscore.lattice.params import PRODUCT, ParameterSet, check_product
from veilscore.lattice.ring import pack, ring, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import KEY_BYTES
from veilscore.lattice.slots import block_rows, fold, n_folded, unfold
from veilscore.wire.randomness import secret_bytes

N = PRODUCT.N
PRIMES = PRODUCT.primes
L = len(PRIMES)
PUBLIC_BYTES = element_bytes(PRODUCT)
REPLY_BYTES = KEY_BYTES + PUBLIC_BYTES  # the seed of c0, and c1
OPENINGS = 1 << 28  # coefficients one key may decrypt: 10 million rows in 26 steps


def chunks_of(reply: bytes) -> list[bytes]:
    """Return the chunks of a reply that came in one piece, one for each block of rows."""
    return [reply[at : at + REPLY_BYTES] for at in range(0, len(reply), REPLY_BYTES)]


def ciphertext_bytes(n_vectors: int, params: ParameterSet = PRODUCT) -> int:
    """Return the bytes of one chunk: the seed and c0 of one block of each vector, after `slots.fold`."""
    return chunk_bytes(n_vectors, params)


def _share(values: Limbs, params: ParameterSet) -> Words:
    """Return the slots modulo t (B, N) of round(v / D), from values (B, L, N) in the NTT domain."""
    scale, cut = exact_scale(params), params.n_message
    remainder = scale.centred_remainder(ring(params.N, params.primes[cut:]).intt(values[:, cut:]))
    return scale.quotient(values[:, :cut], ring(params.N, params.primes[:cut]).ntt(remainder))


class ProductKey(BfvKey):
    """The key owner's side.

    label : names protocol, session and this key; equal on both sides.
    params : PRODUCT or PRODUCT_OPEN; equal on both sides.
    openings : coefficients that this key may decrypt in all.
    """

    def __init__(self, label: bytes, *, params: ParameterSet = PRODUCT, openings: int = OPENINGS) -> None:
        check_product(1, openings, params)
        super().__init__(label, params)
        self._openings = openings
        self._left = openings
        self._counting = threading.Lock()

    def encrypt(self, u: Words) -> Iterator[bytes]:
        """Encrypt vectors u (V, n) below t, to be multiplied and summed; yield one chunk a block of rows."""
        check_vectors(u, "u", self._params.t)
        if u.ndim != 2:
            raise ParameterError("u must have shape (V, n_samples)")
        check_product(u.shape[0], self._openings, self._params)
        return (self.encrypt_block(fold(u, k)) for k in range(-(-u.shape[1] // N)))

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
        params, size = self._params, KEY_BYTES + element_bytes(self._params)
        this = ring_of(params)
        shares = np.empty((outputs, n_blocks, N), np.uint64)
        chunks = iter(reply)
        for block in range(n_blocks):
            for output in range(outputs):
                chunk = next(chunks, None)
                if chunk is None or len(chunk) != size:
                    raise MessageError(f"a reply needs {n_blocks * outputs} chunks of {size} bytes")
                phase = this.multiply(unpack(chunk[KEY_BYTES:], (len(params.primes), N), params.primes), self._s)
                this.add_to(phase, drawn(self._label, b" reply c0 " + chunk[:KEY_BYTES], params))
                shares[output, block] = _share(phase[None], params)[0]
        if next(chunks, None) is not None:
            raise MessageError(f"a reply has more than {n_blocks * outputs} chunks")
        total = unfold(shares, n_samples, params)
        return total[0] if n_outputs is None else total


class ProductEvaluator(BfvEvaluator):
    """The evaluator's side.

    public : the key owner's public key.
    label, params : as the key owner's.
    """

    def __init__(
        self, public: bytes, label: bytes, *, params: ParameterSet = PRODUCT, openings: int = OPENINGS
    ) -> None:
        super().__init__(public, label, params)
        self._openings = openings

    def multiply_sum(self, ciphertexts: Iterable[bytes], v: Words) -> tuple[list[bytes], Words]:
        """Return the sum over V of u_i v_i, masked, and this party's share of it.

        ciphertexts : chunks of `ProductKey.encrypt`, in order.
        v : uint64 (V, n_samples), or (n_outputs, V, n_samples) for several outputs of the same ciphertexts.
        Returns the reply's chunks (by block, then output) and uint64 (n_samples,) or (n_outputs, n_samples).
        """
        check_vectors(v, "v", self._params.t)
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
            c0, c1 = self.ciphertexts(chunk, n_folded(V, block_rows(n_samples, block)))
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
        check_vectors(v, "v", self._params.t)
        if v.ndim != 2 or v.shape[1] > N:
            raise ParameterError(f"a chunk is one block of at most {N} rows")
        return self._sum(*self.ciphertexts(chunk, n_folded(*v.shape)), fold(v, 0))

    def close_sum(self, sums: list[Limbs], n_vectors: int, n_rows: int) -> tuple[bytes, Words]:
        """Return the masked reply for one block whose chunks gave these sums, and this party's share (n_rows,)."""
        check_product(n_vectors, self._openings, self._params)
        total = sums[0].copy()
        for other in sums[1:]:
            self._ring.add_to(total, other)
        reply, share = self._masked(total)
        return reply, unfold(share[None, None], n_rows, self._params)[0]

    def _sum(self, c0: Limbs, c1: Limbs, v: Words) -> Limbs:
        """Return the sum (2, L, N) over V of c_i v_i, not masked."""
        total = np.empty((2, *c0.shape[1:]), np.uint32)
        _multiply_sum(c0, c1, self.plain(v), self._ring.primes_u32, total)
        return total

    def _masked(self, total: Limbs) -> tuple[bytes, Words]:
        """Return one reply chunk and the share (N,) of a block; `total` is overwritten."""
        this, seed = self._ring, secret_bytes(KEY_BYTES)
        # an encryption of zero hides v in c1; c0 is drawn, and the mask that makes it so stays in the share
        this.add_to(total, self.zero())
        this.add_to(total[0], this.negate(drawn(self._label, b" reply c0 " + seed, self._params)))
        return seed + pack(total[1], self._params.primes), _share(total[:1], self._params)[0]


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
