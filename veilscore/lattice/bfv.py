"""One key's ciphertexts of vectors, and what multiplies them: the common part of `product.py` and `inner_product.py`.

Source: Brakerski 2012; Fan and Vercauteren 2012 (BFV), in the form of docs/protocols/lattice.md, section 2: t divides
    q, so a message lives in the limbs of t alone, there as its slots.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Limbs, Words
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.params import ParameterSet
from veilscore.lattice.ring import pack, packed_size, ring, ring_of, unpack
from veilscore.lattice.rounding import exact_scale
from veilscore.lattice.sampling import KEY_BYTES, PublicStream, SecretStream
from veilscore.wire.randomness import secret_bytes


def element_bytes(params: ParameterSet) -> int:
    """Return the bytes of one ring element of a parameter set."""
    return packed_size((len(params.primes), params.N), params.primes)


def chunk_bytes(n_vectors: int, params: ParameterSet) -> int:
    """Return the bytes of the ciphertexts of one block of vectors: a seed and c0 of each."""
    return KEY_BYTES + n_vectors * element_bytes(params)


def drawn(label: bytes, purpose: bytes, params: ParameterSet, *lead: int) -> Limbs:
    """Return public elements (*lead, L, N) of a label that no peer chooses."""
    primes = params.primes
    return PublicStream(label, params.name.encode() + purpose).uniform((*lead, len(primes), params.N), primes)


def check_vectors(values: Words, what: str, t: int) -> None:
    """Refuse what is no array of residues modulo t."""
    if values.dtype != np.uint64 or values.size == 0:
        raise ParameterError(f"{what} must be a non-empty uint64 array")
    if np.any(values >= np.uint64(t)):
        raise ParameterError(f"{what} has a value that is not below t")


class BfvKey:
    """A secret key, kept in memory for one job.

    label : names protocol, session and this key; equal on both sides.
    """

    def __init__(self, label: bytes, params: ParameterSet) -> None:
        stream, this = SecretStream(), ring_of(params)
        self._params, self._label = params, label
        self._secret = stream.ternary((params.N,))
        self._s = this.ntt(this.lift(self._secret))
        pk0 = this.multiply(drawn(label, b" public key", params), self._s)
        this.add_to(pk0, this.ntt(this.lift(stream.noise((params.N,)))))
        self._public = pack(this.negate(pk0), params.primes)

    def __repr__(self) -> str:
        """Show nothing of the key."""
        return f"<{type(self).__name__}>"

    def public(self) -> bytes:
        """Return the public key (its second half is derived from the label)."""
        return self._public

    def encrypt_block(self, u: Words) -> bytes:
        """Encrypt one block of vectors (V, N), each value a slot."""
        params = self._params
        this = ring_of(params)
        seed = secret_bytes(KEY_BYTES)
        c0 = this.negate(this.multiply(drawn(self._label, b" c1 " + seed, params, u.shape[0]), self._s))
        this.add_to(c0, this.ntt(this.lift(SecretStream().noise(u.shape))))
        exact_scale(params).embed(u, c0)  # modulo p1, p2 the values of the message are the slots themselves
        return seed + pack(c0, params.primes)


class BfvEvaluator:
    """Reads ciphertexts of a key, and makes plain vectors and encryptions of zero that go with them.

    public : the key owner's public key.
    label, params : as the key owner's.
    """

    def __init__(self, public: bytes, label: bytes, params: ParameterSet) -> None:
        primes, cut = params.primes, params.n_message
        self._params, self._label, self._ring = params, label, ring_of(params)
        read = unpack(public, (len(primes), params.N), primes)
        self._public = np.stack([read, drawn(label, b" public key", params)])
        self._divisors, self._message = ring(params.N, primes[cut:]), ring(params.N, primes[:cut])

    def __repr__(self) -> str:
        """Show the role alone."""
        return f"<{type(self).__name__}>"

    def ciphertexts(self, chunk: bytes, n_vectors: int) -> tuple[Limbs, Limbs]:
        """Return c0 and c1 (V, L, N) of one block of vectors."""
        params, size = self._params, chunk_bytes(n_vectors, self._params)
        if len(chunk) != size:
            raise MessageError(f"a chunk of {n_vectors} ciphertexts takes {size} bytes, not {len(chunk)}")
        c0 = unpack(chunk[KEY_BYTES:], (n_vectors, len(params.primes), params.N), params.primes)
        return c0, drawn(self._label, b" c1 " + chunk[:KEY_BYTES], params, n_vectors)

    def plain(self, v: Words) -> Limbs:
        """Return the values (V, L, N) of the centred integer polynomials with slots v (V, N)."""
        return self.plain_of(exact_scale(self._params).split(v))

    def plain_of(self, slots: Limbs) -> Limbs:
        """Return the same from residues of the slots modulo p1, p2 (V, 2, N)."""
        params, cut = self._params, self._params.n_message
        values = np.empty((slots.shape[0], len(params.primes), params.N), np.uint32)
        values[:, :cut] = slots
        values[:, cut:] = self._divisors.ntt(exact_scale(params).lift_centred(self._message.intt(slots)))
        return values

    def zero(self) -> Limbs:
        """Return a fresh encryption of zero (2, L, N), which hides by what else a ciphertext was multiplied."""
        stream, this, N = SecretStream(), self._ring, self._params.N
        w = this.ntt(this.lift(stream.ternary((N,))))
        out = np.stack([this.multiply(half, w) for half in self._public])
        this.add_to(out, this.ntt(this.lift(stream.noise((2, N)))))
        return out
