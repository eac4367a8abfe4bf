"""BFV encryption of a few records' slots under a holder's own key; the only file that imports TenSEAL.

Source: Fan and Vercauteren 2012 (BFV), Smart and Vercauteren 2014 (slots), through TenSEAL's binding of
SEAL.
Parties: a holder owns a `SecretContext`; the bank gets its `PublicContext` and no more. Security notion: a
query is IND-CPA under ring-LWE at 128 bits. A reply shows the holder nothing but its decryption, in which
every slot is masked: an encryption of zero under the public key hides how the reply was computed, and
switching down to one limb leaves of the weights' noise a statistical distance of about 2^-61 a reply. It
does *not* protect a bank from a holder that makes up its public key, nor say anything about who sent what.

Noise budget in bits: 124 fresh, 94 after the weights and the mask, 11 in the reply. Slots are uint64 arrays
of shape (N_SLOTS,), values in [0, T). Nothing is written to disk: SEAL's files are anonymous files in
memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from tenseal import sealapi

from veilscore.arrays import Words
from veilscore.errors import MessageError, ParameterError, SecretReuseError
from veilscore.files.machine import memory_file
from veilscore.lattice.params import ONLINE_T, SECURITY_BITS
from veilscore.wire.randomness import secret_bytes, seeded

N_SLOTS = 8192
LIMB_BITS = (44, 55, 55, 60)  # the last is used for keys only; a reply keeps the first
T = ONLINE_T

_HEADER_BYTES = 16
_MAGIC = b"\x5e\xa1"
_LIMB_BYTES = 2 * 8 * N_SLOTS  # two polynomials
_SLACK_BYTES = 8192  # headers, and what compression adds to random bytes
MAX_QUERY_BYTES = 3 * _LIMB_BYTES + _SLACK_BYTES
MAX_REPLY_BYTES = _LIMB_BYTES + _SLACK_BYTES
MAX_PUBLIC_BYTES = 4 * _LIMB_BYTES + _SLACK_BYTES
_PRNG_SEED_BYTES = 64  # of SEAL's SHAKE-256 generator
_FILLER = b"veilscore/1 filler of slots\0"
_LOAD_ERRORS = (RuntimeError, ValueError, IndexError, MemoryError, OverflowError)


def check_parameters(n_slots: int, limb_bits: tuple[int, ...], t: int) -> None:
    """Refuse parameters below 128 bits of security, or without slots.

    Raises ParameterError: names the bound that does not hold.
    """
    allowed = SECURITY_BITS.get(n_slots, 0)
    if sum(limb_bits) > allowed:
        raise ParameterError(
            f"a modulus of {sum(limb_bits)} bits at dimension {n_slots} is below 128 bits of security; "
            f"at most {allowed} bits are allowed"
        )
    if t % (2 * n_slots) != 1:
        raise ParameterError(f"the plaintext modulus {t} is not 1 modulo {2 * n_slots}: there would be no slots")


@cache
def _parameters() -> Any:
    """Return SEAL's parameters; the same for all parties."""
    check_parameters(N_SLOTS, LIMB_BITS, T)
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(N_SLOTS)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(N_SLOTS, list(LIMB_BITS)))
    parameters.set_plain_modulus(sealapi.PlainModulus.Batching(N_SLOTS, T.bit_length()))
    return parameters


@cache
def _seal() -> Any:
    """Return SEAL's context, made once."""
    context = sealapi.SEALContext(_parameters(), True, sealapi.SEC_LEVEL_TYPE.TC128)
    found = context.first_context_data().parms().plain_modulus().value()
    if not context.parameters_set() or found != T:
        raise ParameterError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context


def _seal_drawing_from(seed: bytes) -> Any:
    """Return a context of which each encryption draws the same from `seed`: fit for one only; about 7 ms."""
    parameters = sealapi.EncryptionParameters(_parameters())
    words = np.frombuffer(seed, "<u8").tolist()
    parameters.set_random_generator(sealapi.Shake256PRNGFactory(words))
    # its first level is that of `_seal()`; lower ones are not needed to encrypt
    return sealapi.SEALContext(parameters, False, sealapi.SEC_LEVEL_TYPE.TC128)


def uniform_slots(n: int = N_SLOTS) -> Words:
    """Draw n values uniform in [0, T), secret."""
    limit = np.uint64(2**64 - 2**64 % T)
    drawn = np.frombuffer(secret_bytes(8 * n), "<u8").astype(np.uint64)
    while (over := drawn >= limit).any():
        drawn[over] = np.frombuffer(secret_bytes(8 * int(over.sum())), "<u8")
    return drawn % np.uint64(T)


class SecretContext:
    """A holder's keys: made at its start, never written, never sent."""

    def __init__(self) -> None:
        generator = sealapi.KeyGenerator(_seal())
        secret = generator.secret_key()
        public = sealapi.PublicKey()
        generator.create_public_key(public)
        self.public_bytes = _save(public)
        self.keys_id = keys_id(self.public_bytes)
        self._encryptor = sealapi.Encryptor(_seal(), secret)
        self._decryptor = sealapi.Decryptor(_seal(), secret)
        self._encoder = sealapi.BatchEncoder(_seal())

    def __repr__(self) -> str:
        """Name only: the keys are secret."""
        return "SecretContext(secret)"

    def __reduce__(self) -> str:
        """Refuse to be copied or written."""
        raise SecretReuseError("a holder's secret keys cannot be copied or stored")

    def encrypt(self, slots: Words) -> bytes:
        """Encrypt (N_SLOTS,) values in [0, T); about 178 kB."""
        plain = sealapi.Plaintext()
        self._encoder.encode(_checked(slots, N_SLOTS).tolist(), plain)
        return _save(self._encryptor.encrypt_symmetric(plain))

    def decrypt(self, reply: bytes) -> Words:
        """Decrypt the bank's reply to (N_SLOTS,) values in [0, T).

        Raises MessageError: the bytes are not a reply of these parameters.
        """
        ciphertext = _load_ciphertext(reply, MAX_REPLY_BYTES, _seal().last_parms_id())
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(ciphertext, plain)
        return np.array(self._encoder.decode_uint64(plain), np.uint64)

    def noise_budget(self, data: bytes, *, reply: bool) -> int:
        """Bits of noise that a query or reply can still take; 0 means that it no longer decrypts."""
        level = _seal().last_parms_id() if reply else _seal().first_parms_id()
        return int(self._decryptor.invariant_noise_budget(_load_ciphertext(data, MAX_QUERY_BYTES, level)))


@dataclass(frozen=True)
class Weights:
    """The bank's slot weights, encoded once for a model and a number of records."""

    plain: Any = field(repr=False)


class Blind:
    """Mask uniform on all slots, encrypted with the holder's public key: for one reply."""

    def __init__(self, mask: Words, ciphertext: Any) -> None:
        self._mask = mask
        self._ciphertext = ciphertext

    def __repr__(self) -> str:
        """Name only: the mask is secret."""
        return "Blind(secret)"

    def __reduce__(self) -> str:
        """Refuse to be copied or written."""
        raise SecretReuseError("a mask cannot be copied or stored")

    def take(self) -> tuple[Words, Any]:
        """Give mask and ciphertext, once.

        Raises SecretReuseError: the second time.
        """
        if self._ciphertext is None:
            raise SecretReuseError("a mask was asked for twice: each reply takes a new one")
        taken = self._mask, self._ciphertext
        self._ciphertext = None
        return taken


class PublicContext:
    """What the bank has of one holder's keys: enough to evaluate, not to decrypt.

    public_bytes : the holder's `SecretContext.public_bytes`.
    Raises MessageError: not a public key of these parameters.
    """

    def __init__(self, public_bytes: bytes) -> None:
        key = _load(sealapi.PublicKey(), public_bytes, MAX_PUBLIC_BYTES)
        if not sealapi.is_valid_for(key, _seal()) or key.data().is_transparent():
            raise MessageError("a public key is not valid for the parameters of online scoring")
        self.public_bytes = public_bytes
        self.keys_id = keys_id(public_bytes)
        self._key = key
        self._evaluator = sealapi.Evaluator(_seal())
        self._encoder = sealapi.BatchEncoder(_seal())

    def blind(self) -> Blind:
        """Make a mask for one reply; about 10 ms, which can be spent before the request comes.

        Mask and randomness of its encryption come from `veilscore.wire.randomness`, so an auditor can make it again.
        """
        mask = uniform_slots()
        plain, ciphertext = sealapi.Plaintext(), sealapi.Ciphertext()
        self._encoder.encode(mask.tolist(), plain)
        context = _seal_drawing_from(secret_bytes(_PRNG_SEED_BYTES))
        sealapi.Encryptor(context, self._key).encrypt(plain, ciphertext)
        return Blind(mask, ciphertext)

    def evaluate(self, query: bytes, weights: Weights, blind: Blind) -> tuple[bytes, Words]:
        """Multiply a query by the weights and mask every slot.

        query : `SecretContext.encrypt` of the same keys.
        blind : fresh, from `blind()` of this context.
        Returns the reply (about 107 kB) and the mask, uint64 (N_SLOTS,).
        Raises MessageError: the bytes are not a query of these parameters.
        """
        product = _load_ciphertext(query, MAX_QUERY_BYTES, _seal().first_parms_id())
        mask, mask_enc = blind.take()
        self._evaluator.multiply_plain_inplace(product, weights.plain)
        self._evaluator.add_inplace(product, mask_enc)
        self._evaluator.mod_switch_to_inplace(product, _seal().last_parms_id())
        return _save(product), mask


def encode_weights(weights: Words) -> Weights:
    """Encode slot weights; the slots beyond them get random ones, so that no polynomial of weights is zero.

    Those follow from the weights, so that an auditor finds the same; a holder sees no slot without its mask.

    weights : uint64 (n,) in [0, T), n < N_SLOTS.
    """
    _checked(weights, None)
    if len(weights) >= N_SLOTS:
        raise ParameterError(f"{len(weights)} weights do not fit {N_SLOTS - 1} slots")
    from_weights = hashlib.sha256(_FILLER + weights.astype("<u8").tobytes()).digest()
    filled = np.maximum(seeded(from_weights, uniform_slots), 1)
    filled[: len(weights)] = weights
    plain = sealapi.Plaintext()
    sealapi.BatchEncoder(_seal()).encode(filled.tolist(), plain)
    return Weights(plain)


def keys_id(public_bytes: bytes) -> bytes:
    """Name of a holder's keys: SHA-256 of the public part."""
    return hashlib.sha256(public_bytes).digest()


def _checked(slots: Words, size: int | None) -> Words:
    """Refuse slots of a wrong size or range."""
    if slots.dtype != np.uint64 or slots.ndim != 1 or (size is not None and len(slots) != size):
        raise ParameterError(f"slots are a uint64 array of {size or 'one dimension'}, got {slots.shape}")
    if (slots >= T).any():
        raise ParameterError(f"a slot's value is not below {T}")
    return slots


def _save(thing: Any) -> bytes:
    """Bytes of a SEAL object."""
    with memory_file() as file:  # SEAL reads and writes by path only
        thing.save(file.path)
        return file.read()


def _load(into: Any, data: bytes, max_bytes: int) -> Any:
    """Read a SEAL object from hostile bytes."""
    if not _HEADER_BYTES < len(data) <= max_bytes:
        raise MessageError(f"a ciphertext or key of {len(data)} bytes is empty or above {max_bytes} bytes")
    if data[:2] != _MAGIC or int.from_bytes(data[8:16], "little") != len(data):
        raise MessageError("a ciphertext or key is truncated or not in SEAL's format")
    with memory_file(data) as file:
        try:
            into.load(_seal(), file.path)
        except _LOAD_ERRORS as error:
            raise MessageError("a ciphertext or key is broken, or of other parameters") from error
    return into


def _load_ciphertext(data: bytes, max_bytes: int, parms_id: list[int]) -> Any:
    """Read a ciphertext from hostile bytes, demanding two polynomials at the level `parms_id`."""
    ciphertext = _load(sealapi.Ciphertext(), data, max_bytes)
    if (
        ciphertext.parms_id() != parms_id
        or ciphertext.size() != 2
        or ciphertext.is_ntt_form()
        or ciphertext.is_transparent()
        or not sealapi.is_valid_for(ciphertext, _seal())
    ):
        raise MessageError("a ciphertext is of the wrong modulus, size or form, or hides nothing")
    return ciphertext
