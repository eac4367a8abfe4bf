"""crypto/aes.py: known answers, OpenSSL as oracle, and the cache of compiled code between machines of two kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from veilscore.crypto import aes

BYTES = st.binary(min_size=16, max_size=16)
needs_aes = pytest.mark.skipif(not aes.has_aes(), reason="no AES instructions here")


def key_words(key):
    return np.frombuffer(key, "<u4")


def encrypted(key, data):
    out = np.empty((len(data) // 16, 2), np.uint64)
    aes.encrypt_blocks(key_words(key), np.frombuffer(data, np.uint64).reshape(-1, 2).copy(), out)
    return out.tobytes()


def by_openssl(key, data):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(data)  # noqa: S305 - single blocks


@needs_aes
@pytest.mark.parametrize(
    ("key", "block", "expected"),
    [  # FIPS 197, appendices B and C.1
        ("2b7e151628aed2a6abf7158809cf4f3c", "3243f6a8885a308d313198a2e0370734", "3925841d02dc09fbdc118597196a0b32"),
        ("000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"),
    ],
)
def test_known_answers(key, block, expected):
    assert encrypted(bytes.fromhex(key), bytes.fromhex(block)).hex() == expected


def test_known_key_schedule():
    """FIPS 197, appendix A.1, by the source: compiled it is part of the kernels that call it, and answers as above."""
    schedule = aes.expand_key.py_func(key_words(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")))
    rounds = [row.tobytes().hex() for row in schedule]
    assert rounds[0] == "2b7e151628aed2a6abf7158809cf4f3c"
    assert rounds[1] == "a0fafe1788542cb123a339392a6c7605"
    assert rounds[9] == "ac7766f319fadc2128d12941575c006e"
    assert rounds[10] == "d014f9a8c9ee2589e13f0cc8b6630ca6"


@needs_aes
@settings(deadline=None)  # the first one compiles
@given(BYTES, st.lists(BYTES, max_size=5).map(b"".join))
def test_blocks_are_those_of_openssl(key, data):
    assert encrypted(key, data) == by_openssl(key, data)


def test_the_substitution_is_a_permutation_without_fixed_points():
    box = aes._BOX.tolist()
    assert sorted(box) == list(range(256))
    assert all(value not in (at, at ^ 0xFF) for at, value in enumerate(box))
    assert (box[0], box[0x53]) == (0x63, 0xED)  # FIPS 197, 5.1.1


@njit
def product(left, right):
    return aes.multiply(left, right)


@pytest.mark.skipif(not aes.has_clmul(), reason="no carry-less multiplication here")
@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_products_without_carries(left, right):
    expected = 0
    for k in range(64):
        expected ^= left << k if right >> k & 1 else 0
    low, high = product(np.uint64(left), np.uint64(right))
    assert low | high << 64 == expected


SCRIPT = """
import hashlib, json
import numpy as np
from veilscore import kernels
from veilscore.crypto import aes, half_gates
from veilscore.crypto.tweaked_hash import TweakedHash

words = np.arange(2 * 3 * 40, dtype=np.uint64).reshape(3, 40, 2) * np.uint64(0x9E3779B97F4A7C15)
table = np.empty((120, 4), np.uint64)
offset, key = np.array([5, 7], np.uint64), TweakedHash(b"cache").advance(240)
labels = half_gates.garble(half_gates.CARRIES, (words, words[::-1], words), offset, key, table)
made = {kernel.name.rpartition(".")[2]: kernel for kernel in kernels.kernels}
garble = made["_garble"]
print(json.dumps({
    "aes": aes.has_aes(),
    "clmul": aes.has_clmul(),
    "loaded": sum(garble.dispatcher.stats.cache_hits.values()),
    "compiled": len(garble.dispatcher.signatures),
    "files": sorted(garble.file_names() | made["encrypt_blocks"].file_names()),
    "missing": len(garble.missing()),
    "digest": hashlib.sha256(table.tobytes() + labels.tobytes()).hexdigest(),
}))
"""


def on_machine(**options):
    environment = {**os.environ, **options}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
@needs_aes
def test_compiled_code_is_cached_and_not_used_where_there_are_no_instructions():
    """One folder of compiled code, as on a disk that two machines share: the second one has a plain processor."""
    first = on_machine()
    plain = on_machine(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    again = on_machine()
    assert (first["aes"], plain["aes"], plain["clmul"], again["aes"]) == (True, False, False, True)
    assert (again["loaded"], again["compiled"]) == (1, 1)
    assert (plain["loaded"], plain["compiled"], plain["missing"]) == (0, 0, 0)
    assert not {*first["files"]} & {*plain["files"]}
    assert first["digest"] == plain["digest"] == again["digest"]
