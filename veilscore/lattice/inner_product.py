"""Secure sums over rows of products: several inner products of two parties' private vectors, as shares modulo t.

Source: docs/protocols/lattice.md, section 2b; BFV as in `product.py`. The sum of the slots of a product is N times its
    constant coefficient, so one coefficient of each sum is enough.
Parties: the key owner (private u) and the evaluator (private v).
Messages: public key, once; ciphertexts, one chunk a block of 4096 rows; one reply for all sums.
Reveals: nothing but sizes. The key owner sees drawn constants in place of c0, and in c1 a fresh encryption of zero; the
    evaluator sees ciphertexts.
Assumes: ring-LWE at 128 bits; a share that is opened gets noise or dither first: it is right within one unit.
Aborts: MessageError on a message of wrong size or range; SecretReuseError where an evaluator is used after its reply.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Integers, Limbs, Words
from veilscore.errors import MessageError, ParameterError, ProtocolError, SecretReuseError
from veilscore.kernels import kernel
from veilscore.lattice.bfv import BfvEvaluator, BfvKey, check_vectors, element_bytes
from veilscore.lattice.indicator import signed_dots
from veilscore.lattice.params import INNER, INNER_REPLY, check_inner
from veilscore.lattice.ring import pack, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import KEY_BYTES, PublicStream
from veilscore.wire.randomness import secret_bytes

N, T = INNER.N, INNER.t
PUBLIC_BYTES = element_bytes(INNER)
MAX_TERMS = 12  # of a sum in one block
_KEPT = len(INNER_REPLY.primes)  # limbs of a reply; the others are divided away
_P = np.array(INNER_REPLY.primes, np.uint64)


def reply_bytes(n_sums: int) -> int:
    """Return the bytes of the reply: a seed, and c1 of each sum."""
    return KEY_BYTES + n_sums * element_bytes(INNER_REPLY)


def _constants(label: bytes, seed: bytes, n_sums: int) -> Limbs:
    """Return what stands for the constant coefficients of c0 (n_sums, L)."""
    stream = PublicStream(label, INNER.name.encode() + b" reply c0 " + seed)
    return np.ascontiguousarray(stream.uniform((_KEPT, n_sums), INNER_REPLY.primes).T)


class InnerKey(BfvKey):
    """The key owner's side: a secret key, kept in memory for one job.

    label : names protocol, session and this key; equal on both sides.
    """

    def __init__(self, label: bytes) -> None:
        super().__init__(label, INNER)

    def encrypt(self, u: Words) -> bytes:
        """Encrypt one block of vectors u (V, N) below t."""
        check_vectors(u, "u", T)
        if u.ndim != 2 or u.shape[1] != N:
            raise ParameterError(f"a block has {N} rows; fill the last with zeros")
        return self.encrypt_block(u * np.uint64(N) % np.uint64(T))  # t N is below 2^64; see the source

    def share(self, reply: bytes, n_sums: int) -> Words:
        """Return this party's shares (n_sums,) of the sums that a reply holds."""
        if n_sums < 1 or len(reply) != reply_bytes(n_sums):
            raise MessageError(f"a reply of {len(reply)} bytes does not hold {n_sums} sums")
        c1 = unpack(reply[KEY_BYTES:], (n_sums, _KEPT, N), INNER_REPLY.primes)
        # the constant coefficient of c1 s is the inner product with s(1/X)
        mirrored = np.concatenate([self._secret[:1], -self._secret[:0:-1]]).astype(np.int32)
        dots = np.empty((1, n_sums, _KEPT), np.int64)
        signed_dots(c1, mirrored[None], dots)
        total = (_constants(self._label, reply[:KEY_BYTES], n_sums) + dots[0]) % _P.astype(np.int64)
        return _rounded(total.astype(np.uint32))


class InnerEvaluator(BfvEvaluator):
    """The evaluator's side, for one reply: the sums are dropped with it, so that no share is opened with noise twice.

    public : the key owner's public key; label : as the key owner's.
    terms : (n_sums, T, 2) pairs (i, m): to a sum comes the inner product of vector i of u and m of v, T at most
        `MAX_TERMS`.
    """

    def __init__(self, public: bytes, label: bytes, terms: Integers) -> None:
        super().__init__(public, label, INNER)
        if terms.ndim != 3 or terms.shape[2] != 2 or not terms.size or terms.min() < 0 or terms.shape[1] > MAX_TERMS:
            raise ParameterError(f"a sum has 1 to {MAX_TERMS} terms, each a pair of vectors")
        check_inner(terms.shape[1])
        self._terms, self._n_products = terms, 0
        self._sums: Limbs | None = np.zeros((len(terms), 2, len(INNER.primes), N), np.uint32)

    def add(self, chunk: bytes, n_vectors: int, v: Limbs) -> None:
        """Add the products of one block.

        chunk : `InnerKey.encrypt` of `n_vectors` vectors.
        v : (M, 2, N) residues modulo the two primes of t; each vector is transformed once, however many sums it is in.
        """
        if self._sums is None:
            raise SecretReuseError("the reply was given; other products take another evaluator")
        if self._terms[..., 0].max() >= n_vectors or self._terms[..., 1].max() >= len(v):
            raise ParameterError("a term names a vector that is not there")
        check_inner(self._n_products + self._terms.shape[1])
        c0, c1 = self.ciphertexts(chunk, n_vectors)
        _add_sums(c0, c1, self.plain_of(v), self._terms, self._ring.primes_u32, self._sums)
        self._n_products += self._terms.shape[1]

    def reply(self) -> tuple[bytes, Words]:
        """Return the reply and this party's shares (n_sums,), once."""
        if self._sums is None:
            raise SecretReuseError("the reply was given; it is given once")
        if not self._n_products:
            raise ProtocolError("a reply was asked for before any product")
        seed, kept, constants = secret_bytes(KEY_BYTES), [], []
        sums, self._sums = self._sums, None
        for total in sums:
            self._ring.add_to(total, self.zero())
            small = _divided(self._ring.intt(total))
            kept.append(small[1])
            constants.append(small[0, :, 0])
        drawn = _constants(self._label, seed, len(kept)).astype(np.uint64)
        share = _rounded(((np.stack(constants) + _P - drawn) % _P).astype(np.uint32))
        return seed + pack(np.stack(kept), INNER_REPLY.primes), share


def _divided(limbs: Limbs) -> Limbs:
    """Return coefficients (..., L, N) divided by the limbs that a reply leaves out, rounded: (..., kept, N)."""
    rest = limbs.astype(np.int64)
    while rest.shape[-2] > _KEPT:
        p, primes = INNER.primes[rest.shape[-2] - 1], INNER.primes[: rest.shape[-2] - 1]
        last = rest[..., -1:, :]
        last = np.where(last > p // 2, last - p, last)
        moduli = np.array(primes, np.int64)[:, None]
        inverse = np.array([pow(p, -1, m) for m in primes], np.int64)[:, None]
        rest = (rest[..., :-1, :] - last) % moduli * inverse % moduli
    return np.ascontiguousarray(rest.astype(np.uint32))


def _rounded(constants: Limbs) -> Words:
    """Return round(v / D) modulo t of residues (n_sums, kept)."""
    share: Words = exact_scale(INNER_REPLY).round(np.ascontiguousarray(constants.T)[None])[0]
    return share


@kernel("(u4[:,:,::1], u4[:,:,::1], u4[:,:,::1], i8[:,:,::1], u4[::1], u4[:,:,:,::1])")
def _add_sums(c0: Limbs, c1: Limbs, v: Limbs, terms: Integers, primes: Limbs, out: Limbs) -> None:
    """Add to out[o, h] the sum over t of c_h[terms[o, t, 0]] v[terms[o, t, 1]], each below 2^44."""
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
