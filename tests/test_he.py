"""BFV: exact results, the reviewed noise budgets, masks, hidden secrets, and refusal of hostile bytes."""

from __future__ import annotations

import os
import pickle
import tempfile

import numpy as np
import pytest
from tenseal import sealapi

from veilscore.crypto import he
from veilscore.errors import MessageError, ParameterError, SecretReuseError


@pytest.fixture(scope="module")
def holder():
    return he.SecretContext()


@pytest.fixture(scope="module")
def bank(holder):
    return he.PublicContext(holder.public_bytes)


@pytest.fixture(scope="module")
def weights():
    return he.encode_weights(np.arange(1000, dtype=np.uint64))


@pytest.fixture(scope="module")
def query(holder):
    return holder.encrypt(he.uniform_slots())


def test_product_and_mask_are_exact(holder, bank):
    slots, points = he.uniform_slots(), he.uniform_slots(he.N_SLOTS - 1)
    slots[-1] = 0
    reply, mask = bank.evaluate(holder.encrypt(slots), he.encode_weights(points), bank.blind())
    expected = (slots[:-1] * points + mask[:-1]) % np.uint64(he.T)  # below 2^51
    assert np.array_equal(holder.decrypt(reply)[:-1], expected)


def test_noise_budgets_as_reviewed(holder, bank, weights, query):
    assert holder.noise_budget(query, reply=False) >= 121
    for _ in range(5):
        reply, _ = bank.evaluate(query, weights, bank.blind())
        assert holder.noise_budget(reply, reply=True) >= 10


def test_zero_weights_still_make_a_masked_reply(holder, bank, query):
    reply, mask = bank.evaluate(query, he.encode_weights(np.zeros(100, np.uint64)), bank.blind())
    assert np.array_equal(holder.decrypt(reply)[:100], mask[:100])


def test_reply_hides_the_weights_behind_a_uniform_mask(holder, bank, query):
    heavy = he.encode_weights(np.full(he.N_SLOTS - 1, he.T // 2, np.uint64))
    opened = holder.decrypt(bank.evaluate(query, heavy, bank.blind())[0]).astype(float) / he.T
    # uniform: mean 1/2 with sd 0.0032, and every sixteenth holds 512 with sd 22
    assert abs(opened.mean() - 0.5) < 0.02
    assert np.abs(np.histogram(opened, 16, (0, 1))[0] - 512).max() < 150


def test_the_same_query_is_answered_and_asked_afresh(holder, bank, weights, query):
    replies = {bank.evaluate(query, weights, bank.blind())[0] for _ in range(3)}
    assert len(replies) == 3
    slots = np.zeros(he.N_SLOTS, np.uint64)
    assert len({holder.encrypt(slots) for _ in range(3)}) == 3


def test_uniform_slots():
    drawn = he.uniform_slots(200_000)
    assert drawn.dtype == np.uint64
    assert drawn.max() < he.T
    assert abs(drawn.mean() / he.T - 0.5) < 0.004  # sd 0.00065
    assert len(np.unique(drawn)) > 199_000


def test_a_mask_is_for_one_reply(bank, weights, query):
    blind = bank.blind()
    bank.evaluate(query, weights, blind)
    with pytest.raises(SecretReuseError):
        bank.evaluate(query, weights, blind)


def test_secrets_hide_and_cannot_be_stored(holder, bank):
    for secret in (holder, bank.blind()):
        assert "secret" in repr(secret)
        with pytest.raises(SecretReuseError):
            pickle.dumps(secret)
    assert not hasattr(bank, "decrypt")
    assert bank.keys_id == holder.keys_id != he.SecretContext().keys_id


def test_nothing_stays_on_disk_without_memory_files(monkeypatch, tmp_path, holder, bank, weights):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    slots = np.ones(he.N_SLOTS, np.uint64)
    reply, mask = bank.evaluate(holder.encrypt(slots), weights, bank.blind())
    assert holder.decrypt(reply)[7] == (mask[7] + 7) % he.T
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_slots", "limbs", "t"),
    [(8192, (60, 60, 60, 60), he.T), (4096, he.LIMB_BITS, he.T), (1000, (20,), he.T), (8192, (60,), he.T + 2)],
)
def test_weak_parameters_are_refused(n_slots, limbs, t):
    with pytest.raises(ParameterError):
        he.check_parameters(n_slots, limbs, t)


@pytest.mark.parametrize(
    "slots",
    [
        np.zeros(10, np.uint64),
        np.zeros(he.N_SLOTS, np.int64),
        np.full(he.N_SLOTS, he.T, np.uint64),
        np.zeros((2, he.N_SLOTS), np.uint64),
    ],
)
def test_bad_slots_are_refused(holder, slots):
    with pytest.raises(ParameterError):
        holder.encrypt(slots)


def test_too_many_weights_are_refused():
    with pytest.raises(ParameterError):
        he.encode_weights(np.zeros(he.N_SLOTS, np.uint64))


def of_other_parameters():
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(4096, [36, 36, 37]))
    parameters.set_plain_modulus(sealapi.PlainModulus.Batching(4096, 20))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    public, ciphertext = sealapi.PublicKey(), sealapi.Ciphertext()
    sealapi.KeyGenerator(context).create_public_key(public)
    sealapi.Encryptor(context, public).encrypt_zero(ciphertext)
    return he._save(ciphertext), he._save(public)


def product_of_queries(query):
    """Three polynomials, as no plain multiplication gives."""
    one = he._load_ciphertext(query, he.MAX_QUERY_BYTES, he._seal().first_parms_id())
    sealapi.Evaluator(he._seal()).multiply_inplace(one, one)
    return he._save(one)


def test_ciphertexts_of_wrong_modulus_size_or_form_are_refused(holder, bank, weights, query):
    reply, _ = bank.evaluate(query, weights, bank.blind())
    foreign, foreign_key = of_other_parameters()
    for bad in (reply, foreign, product_of_queries(query), holder.public_bytes, b"", b"x" * 1000):
        with pytest.raises(MessageError):
            bank.evaluate(bad, weights, bank.blind())
    for bad in (query, foreign, holder.public_bytes, b""):
        with pytest.raises(MessageError):
            holder.decrypt(bad)
    for bad in (query, foreign_key, b"", holder.public_bytes + b"x" * 2**20):
        with pytest.raises(MessageError):
            he.PublicContext(bad)


def test_a_transparent_ciphertext_is_refused(bank, weights, query):
    one = he._load_ciphertext(query, he.MAX_QUERY_BYTES, he._seal().first_parms_id())
    empty = sealapi.Ciphertext()
    with pytest.raises(MessageError):
        bank.evaluate(he._save(empty), weights, bank.blind())
    assert not one.is_transparent()


def damaged(data, rng, kind):
    broken = bytearray(data)
    if kind == "header":
        broken[rng.integers(0, 120)] ^= 1 << rng.integers(0, 8)
    elif kind == "truncated":
        broken = broken[: rng.integers(17, len(broken))]
        broken[8:16] = len(broken).to_bytes(8, "little")
    elif kind == "uncompressed":
        broken[5] = 0
    else:
        broken[16:] = rng.bytes(len(broken) - 16)
    return bytes(broken)


@pytest.mark.parametrize("kind", ["header", "truncated", "uncompressed", "random"])
def test_damaged_bytes_raise_nothing_but_message_errors(kind, holder, bank, weights, query):
    rng = np.random.default_rng(7)
    reply, _ = bank.evaluate(query, weights, bank.blind())
    refused = 0
    for _ in range(25):
        for data, read in (
            (query, lambda d: bank.evaluate(d, weights, bank.blind())),
            (reply, holder.decrypt),
            (holder.public_bytes, he.PublicContext),
        ):
            try:
                read(damaged(data, rng, kind))
            except MessageError:
                refused += 1
    assert refused > 60 if kind != "header" else refused > 20
