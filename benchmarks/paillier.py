"""A yardstick: the same histogram by Paillier's additive encryption, extrapolated from a sample.

Paillier (1999) at a 2048-bit modulus: an encryption is one power r^n modulo n^2, an addition one product modulo
n^2. The library `phe` is used where it is installed; otherwise the two operations run on OpenSSL's integers.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_BITS = 2048
ENCRYPTIONS = 20
ADDITIONS = 4000


@dataclass(frozen=True)
class Sample:
    """Processor seconds of one operation, and what they were measured with."""

    arithmetic: str
    encryption_s: float
    addition_s: float

    def vector_s(self, n_samples: int, n_columns: int) -> float:
        """Return the time of one vector: every row encrypted once and added in every column; no decryption."""
        return n_samples * (self.encryption_s + n_columns * self.addition_s)


def _seconds(step: Callable[[], object], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        step()
    return (time.process_time() - start) / count


def _by_library() -> Sample:
    paillier = importlib.import_module("phe.paillier")

    public, _ = paillier.generate_paillier_keypair(n_length=KEY_BITS)
    total, one = public.encrypt(1), public.encrypt(2)
    arithmetic = "phe with gmpy2" if importlib.util.find_spec("gmpy2") else "phe on Python integers"
    return Sample(
        arithmetic,
        _seconds(lambda: public.encrypt(3), ENCRYPTIONS),
        _seconds(lambda: total._add_encrypted(one), ADDITIONS),  # noqa: SLF001  # the addition without re-blinding
    )


def _by_openssl() -> Sample:
    crypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
    for name in ("BN_new", "BN_bin2bn", "BN_CTX_new", "BN_MONT_CTX_new"):
        getattr(crypto, name).restype = ctypes.c_void_p

    def number(value: int, size: int = KEY_BITS // 4) -> ctypes.c_void_p:
        return ctypes.c_void_p(crypto.BN_bin2bn(value.to_bytes(size, "big"), size, None))

    n = secrets.randbits(KEY_BITS) | (1 << (KEY_BITS - 1)) | 1
    square, exponent, x = number(n * n), number(n), number(secrets.randbits(2 * KEY_BITS) % (n * n))
    out, context = ctypes.c_void_p(crypto.BN_new()), ctypes.c_void_p(crypto.BN_CTX_new())
    montgomery = ctypes.c_void_p(crypto.BN_MONT_CTX_new())
    crypto.BN_MONT_CTX_set(montgomery, square, context)
    return Sample(
        "OpenSSL integers",
        _seconds(lambda: crypto.BN_mod_exp(out, x, exponent, square, context), ENCRYPTIONS),
        _seconds(lambda: crypto.BN_mod_mul_montgomery(out, x, x, montgomery, context), ADDITIONS),
    )


def sample() -> Sample:
    """Measure the two operations with what is installed."""
    return _by_library() if importlib.util.find_spec("phe") else _by_openssl()
