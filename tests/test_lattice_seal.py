"""Cross-checks against Microsoft SEAL, through TenSEAL's binding.

SEAL takes our primes as they are, uses the same smallest root of unity and the same order of values, so transforms
and products agree word for word. It keeps its last prime for key switching; each set is therefore also tried with
its primes reversed. SEAL refuses a plaintext modulus that divides q, so decryption of one by the other is possible
for the lookup's modulus alone (t = 2^24); histogram and product are compared as ring arithmetic.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tenseal import sealapi as seal

from veilscore.lattice import params
from veilscore.lattice.params import ParameterSet
from veilscore.lattice.ring import ring, ring_of
from veilscore.lattice.rounding import encode_scaled, round_scaled
from veilscore.lattice.sampling import SecretStream

SETS = (params.HISTOGRAM, params.LOOKUP_TRAIN, params.LOOKUP_OPEN, params.PRODUCT)
PLAIN = 1 << 24
SMALL_PLAIN = 1 << 20  # below a limb of 24 bits, which may be all that SEAL leaves for data
OPEN = params.LOOKUP_OPEN
# the limbs that SEAL leaves for data
DATA = ParameterSet("SEAL's data level", OPEN.N, PLAIN, OPEN.primes[:-1], 0)
in_both_orders = pytest.mark.parametrize(
    ("N", "primes"),
    [(s.N, primes) for s in SETS for primes in (s.primes, s.primes[::-1])],
    ids=[f"{s.name}, {order}" for s in SETS for order in ("as is", "reversed")],
)


class Seal:
    """A BFV context on given primes, with keys."""

    def __init__(self, N, primes, plain_modulus=PLAIN):
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(N)
        parameters.set_coeff_modulus([seal.Modulus(p) for p in primes])
        parameters.set_plain_modulus(seal.Modulus(plain_modulus))
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            return
        self.keys = seal.KeyGenerator(self.context)
        # the binding's data() points into the key, so the key must outlive it
        self.secret = self.keys.secret_key()
        self.evaluator = seal.Evaluator(self.context)
        self.shape = (len(primes) - 1, N)

    def plaintext(self, values):
        terms = [f"{int(v):X}x^{i}" for i, v in enumerate(values) if v]
        return seal.Plaintext(" + ".join(reversed(terms)).replace("x^0", "") or "0")

    def encrypt(self, values):
        public = seal.PublicKey()
        self.keys.create_public_key(public)
        out = seal.Ciphertext()
        seal.Encryptor(self.context, public).encrypt(self.plaintext(values), out)
        return out

    def limbs(self, ciphertext):
        count = 2 * self.shape[0] * self.shape[1]
        return np.array([ciphertext[i] for i in range(count)], np.uint32).reshape(2, *self.shape)

    def values(self, plaintext):
        count = self.shape[0] * self.shape[1]
        return np.array([plaintext.data(i) for i in range(count)], np.uint32).reshape(self.shape)

    def decrypt(self, ciphertext):
        out = seal.Plaintext()
        seal.Decryptor(self.context, self.secret).decrypt(ciphertext, out)
        return np.array([out.data(i) for i in range(out.coeff_count())])

    def load(self, limbs, folder):
        """Make a SEAL ciphertext of our limbs (2, L, N), through its uncompressed file format."""
        sample = folder / "sample"
        zero = self.encrypt([0])
        zero.save(str(sample))
        version = sample.read_bytes()[3:5]

        def framed(payload):
            return struct.pack("<HB2sBHQ", 0xA15E, 16, version, 0, 0, 16 + len(payload)) + payload

        words = framed(struct.pack("<Q", limbs.size) + limbs.astype("<u8").tobytes())
        fields = struct.pack("<4Q?3QdQ", *zero.parms_id(), False, 2, self.shape[1], self.shape[0], 1.0, 1)
        crafted = folder / "crafted"
        crafted.write_bytes(framed(fields + words))
        out = seal.Ciphertext()
        out.load(self.context, str(crafted))
        return out


@pytest.fixture(scope="module")
def opened():
    return Seal(OPEN.N, OPEN.primes)


@in_both_orders
def test_seal_takes_the_parameters_at_128_bits(N, primes):
    assert Seal(N, primes, SMALL_PLAIN).context.parameters_set()


@pytest.mark.parametrize("prime", params.T_PRIMES)
def test_seal_refuses_a_plaintext_modulus_that_divides_q(prime):
    message = Seal(4096, params.HISTOGRAM.primes, prime).context.parameters_error_message()
    assert "not coprime" in message


@in_both_orders
def test_same_transform(N, primes):
    other = Seal(N, primes, SMALL_PLAIN)
    values = np.random.default_rng(1).integers(0, SMALL_PLAIN // 2, N)
    plain = other.plaintext(values)
    other.evaluator.transform_to_ntt_inplace(plain, other.context.first_parms_id())
    this = ring(N, primes[:-1])
    ours = this.ntt(np.repeat(values[None].astype(np.uint32), len(primes) - 1, axis=0))
    assert (other.values(plain) == ours).all()


@in_both_orders
def test_same_negacyclic_product(N, primes):
    """A ciphertext times a 0/1 polynomial, limb by limb, as the kernel uses it."""
    other = Seal(N, primes, SMALL_PLAIN)
    cell = np.random.default_rng(2).integers(0, 2, N).astype(np.int8)
    ciphertext = other.encrypt([1, 2, 3])
    before = other.limbs(ciphertext)
    other.evaluator.multiply_plain_inplace(ciphertext, other.plaintext(cell))
    this = ring(N, primes[:-1])
    ours = this.intt(this.multiply(this.ntt(before), this.ntt(this.lift(cell))))
    assert (other.limbs(ciphertext) == ours).all()


def test_we_decrypt_seal(opened):
    message = np.random.default_rng(3).integers(0, PLAIN, OPEN.N)
    c0, c1 = opened.limbs(opened.encrypt(message))
    this = ring_of(DATA)
    phase = this.intt(this.multiply(this.ntt(c1), opened.values(opened.secret.data())))
    this.add_to(phase, c0)
    assert (round_scaled(phase[None], DATA)[0] == message.astype(np.uint64)).all()


def test_seal_decrypts_us(opened, tmp_path):
    """The lookup's encryption of theta, a s + e + round(q theta / t), under SEAL's secret key."""
    message = np.random.default_rng(4).integers(0, PLAIN, OPEN.N, dtype=np.uint64)
    stream = SecretStream()
    this = ring_of(DATA)
    a = stream.uniform(opened.shape, DATA.primes)
    c0 = this.intt(this.multiply(this.ntt(a), opened.values(opened.secret.data())))
    this.add_to(c0, this.lift(stream.noise((OPEN.N,))))
    this.add_to(c0, np.ascontiguousarray(encode_scaled(message, DATA).T))
    decrypted = opened.decrypt(opened.load(np.stack([c0, this.negate(a)]), tmp_path))
    assert (decrypted == message).all()


def test_seals_secret_is_ternary_in_our_transform(opened):
    s = ring_of(DATA).intt(opened.values(opened.secret.data()))
    assert np.isin(s.astype(np.int64) - np.array(DATA.primes)[:, None] * (s > 1), (-1, 0, 1)).all()
