"""The prime-order group ristretto255, on whole arrays of points.

Source: RFC 9496; the arithmetic is libsodium's (constant time), called from compiled loops that hold no
interpreter lock. Security notion: computational Diffie-Hellman. It does *not* hide how
many points there are, nor protect a scalar from whoever can read this process's memory.

Points are uint8 arrays of shape (n, 32), the canonical encodings of RFC 9496; the identity is refused.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numba import types
from numpy.typing import NDArray

from veilscore.errors import MessageError, SecretReuseError
from veilscore.kernels import kernel
from veilscore.wire.randomness import secret_bytes

POINT_BYTES = 32
DIGEST_BYTES = 64
ORDER = 2**252 + 27742317777372353535851937790883648493


def _loaded() -> bool:
    """Load libsodium when points are first needed: a node starts, and most commands end, without it."""
    import veilscore.crypto.sodium  # noqa: F401, PLC0415 - loads the library when it is first imported

    return True


_p = types.voidptr
_scalarmult = types.ExternalFunction("crypto_scalarmult_ristretto255", types.int32(_p, _p, _p))
_scalarmult_base = types.ExternalFunction("crypto_scalarmult_ristretto255_base", types.int32(_p, _p))
_is_valid = types.ExternalFunction("crypto_core_ristretto255_is_valid_point", types.int32(_p))


@kernel("(u1[:,::1], Array(u1, 2, 'C', True), u1[::1])", "(u1[:,::1], u1[:,::1], u1[::1])", needs=_loaded)
def _raise_rows(out: Any, points: Any, scalar: Any) -> int:
    """Out[i] = points[i]^scalar; returns how many encodings were not canonical or the identity."""
    bad = 0
    for i in range(len(points)):
        if _scalarmult(out[i].ctypes, scalar.ctypes, points[i].ctypes) != 0:
            bad += 1
    return bad


@kernel("(u1[:,::1], u1[::1])", needs=_loaded)
def _raise_base(out: Any, scalar: Any) -> None:
    _scalarmult_base(out[0].ctypes, scalar.ctypes)  # fails for the scalar 0 alone


@kernel("(Array(u1, 2, 'C', True),)", needs=_loaded)
def _count_invalid(points: Any) -> int:
    """How many encodings are not canonical or the identity."""
    bad = 0
    for i in range(len(points)):
        if _is_valid(points[i].ctypes) != 1 or not points[i].any():
            bad += 1
    return bad


class Scalar:
    """A secret exponent for one session, uniform in [1, ORDER).

    A context manager that destroys it at the end.
    """

    def __init__(self) -> None:
        value = 0
        while not value:  # 512 bits modulo the order: distance from uniform below 2^-256
            value = int.from_bytes(secret_bytes(DIGEST_BYTES), "little") % ORDER
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(
            bytearray(value.to_bytes(POINT_BYTES, "little")), np.uint8
        )

    def __repr__(self) -> str:
        """Name only: the value is secret."""
        return "Scalar(secret)"

    def __reduce__(self) -> str:
        """Refuse to be copied or written."""
        raise SecretReuseError("a secret scalar cannot be copied or stored")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secret."""
        self.destroy()

    def destroy(self) -> None:
        """Overwrite the secret; it cannot be used again."""
        if self._bytes is not None:
            self._bytes.fill(0)
        self._bytes = None

    def reveal_to_kernel(self) -> NDArray[np.uint8]:
        """Bytes for the compiled loops of this file.

        Raises SecretReuseError: it was destroyed.
        """
        if self._bytes is None:
            raise SecretReuseError("this session's secret scalar was destroyed; start a new attempt")
        return self._bytes


def raise_generator(scalar: Scalar) -> NDArray[np.uint8]:
    """Return the power of the group's generator: uint8 (1, 32)."""
    _loaded()
    out = np.empty((1, POINT_BYTES), np.uint8)
    _raise_base(out, scalar.reveal_to_kernel())
    return out


def raise_points(points: NDArray[np.uint8], scalar: Scalar) -> NDArray[np.uint8]:
    """points[i]^scalar for all i.

    points : uint8 (n, 32).
    Raises MessageError: a point is not canonical, not on the curve, or the identity.
    """
    _loaded()
    out = np.empty_like(points)
    _refuse(_raise_rows(out, points, scalar.reveal_to_kernel()))
    return out


def check_points(points: NDArray[np.uint8]) -> None:
    """Refuse encodings that are not canonical, not on the curve, or the identity.

    Raises MessageError: if there is one.
    """
    _loaded()
    _refuse(_count_invalid(points))


def add_points(first: bytes, second: bytes) -> bytes:
    """Return the sum of two checked points (in the group's multiplicative words, their product)."""
    from veilscore.crypto.sodium import crypto_core_ristretto255_add  # noqa: PLC0415 - as above

    return bytes(crypto_core_ristretto255_add(first, second))


def subtract_points(first: bytes, second: bytes) -> bytes:
    """Return the difference of two checked points."""
    from veilscore.crypto.sodium import crypto_core_ristretto255_sub  # noqa: PLC0415 - as above

    return bytes(crypto_core_ristretto255_sub(first, second))


def parse_points(data: bytes, n: int) -> NDArray[np.uint8]:
    """View `data` as n points; checks the length only.

    Raises MessageError: the length is not 32 n bytes.
    """
    if len(data) != n * POINT_BYTES:
        raise MessageError(f"expected {n} points of {POINT_BYTES} bytes, got {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(n, POINT_BYTES)


def _refuse(bad: int) -> None:
    if bad:
        raise MessageError(f"{bad} received points are not valid ristretto255 elements, or the identity")
