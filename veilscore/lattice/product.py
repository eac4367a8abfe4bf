"""Secure product: element by element products of two parties' private vectors, summed, as shares modulo t.

Source: Brakerski 2012; Fan and Vercauteren 2012 (BFV); docs/protocols/lattice.md, section 2. Since t divides
    q there is no wrap-around term, and a message lives in the limbs of t alone.
Parties: the key owner (private u) and the evaluator (private v).
Messages: public key, once; ciphertexts, one chunk a block of 8192 rows; a reply chunk a block and output.
Reveals: nothing but sizes. The key owner sees a mask uniform modulo q in c0, and in c1 a fresh encryption of
    zero under the public key; the evaluator sees ciphertexts.
Assumes: ring-LWE at 128 bits; one key for at most `openings` decrypted coefficients (checked).
Aborts: MessageError on a message of wrong size or range.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.indicator import MAX_TERMS, fold_all
from veilscore.lattice.params import PRODUCT, T, check_product
from veilscore.lattice.ring import pack, packed_size, ring, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import KEY_BYTES, PublicStream, SecretStream
from veilscore.lattice.slots import block_rows, fold, n_folded, unfold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    Limbs = NDArray[np.uint32]
    Words = NDArray[np.uint64]

N = PRODUCT.N
PRIMES = PRODUCT.primes
L = len(PRIMES)
ELEMENT_BYTES = packed_size((L, N), PRIMES)
PUBLIC_BYTES = ELEMENT_BYTES
REPLY_BYTES = 2 * ELEMENT_BYTES
OPENINGS = 1 << 28  # coefficients one key may decrypt: 10 million rows in 26 steps


def ciphertext_bytes(n_vectors: int) -> int:
    """Return the bytes of one chunk: the seed and c0 of one block of each vector, after `slots.fold`."""
    return KEY_BYTES + n_vectors * ELEMENT_BYTES


def _public_a(label: bytes) -> Limbs:
    return PublicStream(label, b"product public key").uniform((L, N), PRIMES)


def _c1(label: bytes, seed: bytes, n_vectors: int) -> Limbs:
    return PublicStream(label, b"product c1 " + seed).uniform((n_vectors, L, N), PRIMES)


def _check_vectors(values: Words, what: str) -> None:
    if values.dtype != np.uint64 or values.size == 0:
        raise ParameterError(f"{what} must be a non-empty uint64 array")
    if np.any(values >= np.uint64(T)):
        raise ParameterError(f"{what} has a value that is not below t")


def _share(values: Limbs) -> Words:
    """Return the slots modulo t (B, N) of round(v / D), from values (B, L, N) in the NTT domain."""
    scale = exact_scale(PRODUCT)
    remainder = scale.centred_remainder(ring(N, PRIMES[2:]).intt(values[:, 2:]))
    return scale.join(scale.divide(values[:, :2], ring(N, PRIMES[:2]).ntt(remainder)))


class ProductKey:
    """The key owner's side: a secret key, kept in memory for one job.

    Parameters
    ----------
    label : names protocol, session and this key; equal on both sides.
    openings : coefficients that this key may decrypt in all.
    """

    def __init__(self, label: bytes, *, openings: int = OPENINGS) -> None:
        check_product(1, openings)
        stream = SecretStream()
        this = ring_of(PRODUCT)
        self._label = label
        self._openings = openings
        self._left = openings
        self._s = this.ntt(this.lift(stream.ternary((N,))))
        pk0 = this.multiply(_public_a(label), self._s)
        this.add_to(pk0, this.ntt(this.lift(stream.noise((N,)))))
        self._public = pack(this.negate(pk0), PRIMES)

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return "<ProductKey>"

    def public(self) -> bytes:
        """Return the public key (its second half is derived from the label)."""
        return self._public

    def encrypt(self, u: Words) -> Iterator[bytes]:
        """Encrypt vectors u (V, n) below t, to be multiplied and summed; yield one chunk a block of rows."""
        _check_vectors(u, "u")
        if u.ndim != 2:
            raise ParameterError("u must have shape (V, n_samples)")
        check_product(u.shape[0], self._openings)
        return (self._encrypt_block(fold(u, k)) for k in range(-(-u.shape[1] // N)))

    def _encrypt_block(self, u: Words) -> bytes:
        this = ring_of(PRODUCT)
        scale = exact_scale(PRODUCT)
        seed = os.urandom(KEY_BYTES)
        c0 = this.negate(this.multiply(_c1(self._label, seed, u.shape[0]), self._s))
        this.add_to(c0, this.ntt(this.lift(SecretStream().noise(u.shape))))
        # D = 0 modulo its own limbs, and modulo p1, p2 the values of the message are the slots themselves
        message = scale.split(u).astype(np.uint64) * scale.D_mod[:, None] + c0[:, :2]
        c0[:, :2] = (message % scale.message[:, None]).astype(np.uint32)
        return seed + pack(c0, PRIMES)

    def decrypt(self, reply: Iterable[bytes], n_samples: int, n_outputs: int | None = None) -> Words:
        """Return this party's share of the products.

        Parameters
        ----------
        reply : chunks in the order in which the evaluator made them.
        n_samples : rows.
        n_outputs : outputs asked for; None for the form without that axis.

        Returns
        -------
        uint64 (n_samples,), or (n_outputs, n_samples).
        """
        outputs = 1 if n_outputs is None else n_outputs
        n_blocks = -(-n_samples // N)
        if n_samples < 1 or outputs < 1:
            raise ParameterError("a reply has at least one row and one output")
        if outputs * n_blocks * N > self._left:
            raise ParameterError("this key has opened all coefficients that it may; make a new key")
        self._left -= outputs * n_blocks * N
        this = ring_of(PRODUCT)
        shares = np.empty((outputs, n_blocks, N), np.uint64)
        chunks = iter(reply)
        for block in range(n_blocks):
            for output in range(outputs):
                chunk = next(chunks, None)
                if chunk is None or len(chunk) != REPLY_BYTES:
                    raise MessageError(f"a reply needs {n_blocks * outputs} chunks of {REPLY_BYTES} bytes")
                c = unpack(chunk, (2, L, N), PRIMES)
                phase = this.multiply(c[1], self._s)
                this.add_to(phase, c[0])
                shares[output, block] = _share(phase[None])[0]
        if next(chunks, None) is not None:
            raise MessageError(f"a reply has more than {n_blocks * outputs} chunks")
        total = unfold(shares, n_samples)
        return total[0] if n_outputs is None else total


class ProductEvaluator:
    """The evaluator's side.

    Parameters
    ----------
    public : the key owner's public key.
    label : as the key owner's.
    """

    def __init__(self, public: bytes, label: bytes, *, openings: int = OPENINGS) -> None:
        this = ring_of(PRODUCT)
        self._label = label
        self._openings = openings
        self._public = np.stack([unpack(public, (L, N), PRIMES), _public_a(label)])
        self._divisors = ring(N, PRIMES[2:])
        self._message = ring(N, PRIMES[:2])
        self._ring = this

    def __repr__(self) -> str:
        """Show the role alone."""
        return "<ProductEvaluator>"

    def multiply_sum(self, ciphertexts: Iterable[bytes], v: Words) -> tuple[list[bytes], Words]:
        """Return the sum over V of u_i v_i, masked, and this party's share of it.

        Parameters
        ----------
        ciphertexts : chunks of `ProductKey.encrypt`, in order.
        v : uint64 (V, n_samples), or (n_outputs, V, n_samples) for several outputs of the same ciphertexts.

        Returns
        -------
        The reply's chunks (by block, then output) and uint64 (n_samples,) or (n_outputs, n_samples).
        """
        _check_vectors(v, "v")
        if v.ndim not in {2, 3}:
            raise ParameterError("v must have shape (V, n_samples) or (n_outputs, V, n_samples)")
        stacked = v if v.ndim == 3 else v[None]
        outputs, V, n_samples = stacked.shape
        check_product(V, self._openings)
        n_blocks = -(-n_samples // N)
        shares = np.empty((outputs, n_blocks, N), np.uint64)
        reply: list[bytes] = []
        chunks = iter(ciphertexts)
        for block, chunk in enumerate(islice(chunks, n_blocks)):
            c0, c1 = self._ciphertexts(chunk, n_folded(V, block_rows(n_samples, block)))
            for output in range(outputs):
                masked, share = self._one(c0, c1, fold(stacked[output], block))
                reply.append(masked)
                shares[output, block] = share
        if len(reply) != outputs * n_blocks or next(chunks, None) is not None:
            raise MessageError(f"{n_blocks} chunks of ciphertexts were expected for {n_samples} rows")
        total = unfold(shares, n_samples)
        return reply, total if v.ndim == 3 else total[0]

    def _ciphertexts(self, chunk: bytes, V: int) -> tuple[Limbs, Limbs]:
        if len(chunk) != ciphertext_bytes(V):
            raise MessageError(f"a chunk of {V} ciphertexts takes {ciphertext_bytes(V)} bytes, not {len(chunk)}")
        c0 = unpack(chunk[KEY_BYTES:], (V, L, N), PRIMES)
        return c0, _c1(self._label, chunk[:KEY_BYTES], V)

    def _one(self, c0: Limbs, c1: Limbs, v: Words) -> tuple[bytes, Words]:
        """Return one reply chunk and the share (N,) of a block."""
        stream = SecretStream()
        this = self._ring
        total = np.empty((2, L, N), np.uint32)
        _multiply_sum(np.stack([c0, c1]), self._plain(v), this.primes_u32, total)
        # an encryption of zero hides v in c1, a uniform mask hides everything in c0
        u = this.ntt(this.lift(stream.ternary((N,))))
        zero = np.stack([this.multiply(half, u) for half in self._public])
        this.add_to(zero, this.ntt(this.lift(stream.noise((2, N)))))
        this.add_to(total, zero)
        mask = stream.uniform((L, N), PRIMES)
        this.add_to(total[0], mask)
        return pack(total, PRIMES), _share(this.negate(mask)[None])[0]

    def _plain(self, v: Words) -> Limbs:
        """Return the values (V, L, N) of the centred integer polynomials with slots v (V, N)."""
        scale = exact_scale(PRODUCT)
        values = np.empty((v.shape[0], L, N), np.uint32)
        values[:, :2] = scale.split(v)
        values[:, 2:] = self._divisors.ntt(scale.lift_centred(self._message.intt(values[:, :2])))
        return values


@njit(cache=True, nogil=True)
def _multiply_sum(c: Limbs, v: Limbs, primes: Limbs, out: Limbs) -> None:
    """Write out[h] = sum over V of c[h, V] v[V]: (2, V, L, N) by (V, L, N)."""
    acc = np.empty(v.shape[2], np.uint64)
    for half in range(2):
        for limb in range(primes.size):
            acc[:] = np.uint64(0)
            for i in range(v.shape[0]):
                x = c[half, i, limb]
                y = v[i, limb]
                for j in range(acc.size):
                    acc[j] += np.uint64(x[j]) * np.uint64(y[j])
                if i % MAX_TERMS == MAX_TERMS - 1:
                    fold_all(acc, primes[limb])
            row = out[half, limb]
            for j in range(acc.size):
                row[j] = np.uint32(acc[j] % np.uint64(primes[limb]))
