"""AES-128 under public keys, and products of bit polynomials, by the processor's own instructions.

Source: FIPS 197; by way of LLVM, `aesenc` and `pclmulqdq` on x86-64, `aese`, `aesmc` and `pmull` on AArch64.
Code that uses them must not even be compiled where numba's target lacks them: call `has_aes` and `has_clmul` first.
Numba's cache keeps compiled code apart by target and its features, so that of another machine is not used.

A block is two 64-bit words in the order of memory, as everywhere in `veilscore.crypto`. The key schedule looks bytes up
in a table, so its time tells of the key: keys are public here. Secret keys go to OpenSSL.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from veilscore.kernels import inlined, kernel

KEY_BYTES = 16
ROUNDS = 10

u64 = np.uint64
_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
_BLOCK = ir.VectorType(_WORD, 2)
_BYTES = ir.VectorType(ir.IntType(8), 16)
_PAIR: Any = types.UniTuple(types.uint64, 2)
_ARM = llvm.get_process_triple().startswith(("aarch64", "arm64"))


@cache
def _features() -> frozenset[str]:
    """Return what numba compiles for; its options can make that less than the machine has."""
    _triple, _name, features = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(features.split(","))


def has_aes() -> bool:
    """Whether compiled code may call `encrypt`."""
    return "+aes" in _features()


def has_clmul() -> bool:
    """Whether compiled code may call `multiply`."""
    return ("+aes" if _ARM else "+pclmul") in _features()


# --- instructions ---


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an intrinsic of LLVM, declared where it is not yet."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [v.type for v in values]), name)
    return builder.call(function, values)


def _pack(builder: Any, low: Any, high: Any) -> Any:
    half = builder.insert_element(ir.Constant(_BLOCK, ir.Undefined), low, ir.Constant(_INDEX, 0))
    return builder.insert_element(half, high, ir.Constant(_INDEX, 1))


def _unpack(context: Any, builder: Any, block: Any) -> Any:
    words = [builder.extract_element(block, ir.Constant(_INDEX, i)) for i in range(2)]
    return context.make_tuple(builder, _PAIR, words)


def _round(name: str, *, last: bool) -> Any:
    """Make a round of AES: (low, high, low of key, high of key) to (low, high)."""

    @intrinsic
    def instruction(_typing: Any, _low: Any, _high: Any, _key_low: Any, _key_high: Any) -> Any:
        def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            state, key = _pack(builder, *arguments[:2]), _pack(builder, *arguments[2:])
            if _ARM:  # the key is added before the round there: add none, and ours afterwards
                zero = ir.Constant(_BYTES, [0] * 16)
                done = _call(builder, "llvm.aarch64.crypto.aese", _BYTES, builder.bitcast(state, _BYTES), zero)
                if not last:
                    done = _call(builder, "llvm.aarch64.crypto.aesmc", _BYTES, done)
                return _unpack(context, builder, builder.xor(builder.bitcast(done, _BLOCK), key))
            return _unpack(context, builder, _call(builder, f"llvm.x86.aesni.{name}", _BLOCK, state, key))

        word = types.uint64
        return _PAIR(word, word, word, word), emit

    return instruction


_middle = _round("aesenc", last=False)
_last = _round("aesenclast", last=True)


def _multiply(_typing: Any, _left: Any, _right: Any) -> Any:
    """Product of two polynomials over GF(2) of 64 bits each: (low, high)."""

    def emit(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        if _ARM:
            product = _call(builder, "llvm.aarch64.neon.pmull64", _BYTES, *arguments)
            return _unpack(context, builder, builder.bitcast(product, _BLOCK))
        zero = ir.Constant(_WORD, 0)
        left, right = (_pack(builder, word, zero) for word in arguments)
        lower = ir.Constant(ir.IntType(8), 0)
        return _unpack(context, builder, _call(builder, "llvm.x86.pclmulqdq", _BLOCK, left, right, lower))

    return _PAIR(types.uint64, types.uint64), emit


multiply: Any = intrinsic(_multiply)


@inlined
def encrypt(low: Any, high: Any, schedule: Any) -> Any:
    """AES-128 of one block."""
    low ^= schedule[0, 0]
    high ^= schedule[0, 1]
    for r in range(1, ROUNDS):
        low, high = _middle(low, high, schedule[r, 0], schedule[r, 1])
    return _last(low, high, schedule[ROUNDS, 0], schedule[ROUNDS, 1])


# --- key schedule ---


def _substitution() -> NDArray[np.uint32]:
    """S-box (FIPS 197, 5.1.1): inverse in GF(2^8), then an affine map; powers of 3 and of 1/3 run through the field."""
    box = np.full(256, 0x63, np.uint32)
    power = inverse = 1
    for _ in range(255):
        power ^= power << 1 ^ (0x11B if power & 0x80 else 0)
        for shift in (1, 2, 4):
            inverse = (inverse ^ inverse << shift) & 0xFF
        inverse ^= 0x09 if inverse & 0x80 else 0
        turned = inverse * 0x101
        box[power] = (inverse ^ turned >> 7 ^ turned >> 6 ^ turned >> 5 ^ turned >> 4) & 0xFF ^ 0x63
    return box


_BOX = _substitution()


@kernel()
def expand_key(key: Any) -> Any:
    """Key schedule (11, 2) of a public key, its bytes as uint32 (4,) (FIPS 197, 5.2, low byte first)."""
    box = _BOX
    words = np.empty(4 * (ROUNDS + 1), np.uint32)
    words[:4] = key
    last = key[3]
    constant = np.uint32(1)
    for i in range(4, words.size):
        if i % 4 == 0:
            turned = (last >> np.uint32(8)) | (last << np.uint32(24))
            last = constant
            for shift in range(0, 32, 8):
                last ^= box[(turned >> np.uint32(shift)) & np.uint32(255)] << np.uint32(shift)
            constant = np.uint32((constant << np.uint32(1)) ^ ((constant >> np.uint32(7)) * np.uint32(0x11B)))
        last = np.uint32(last ^ words[i - 4])
        words[i] = last
    return words.view(np.uint64).reshape(ROUNDS + 1, 2)


@kernel("(Array(u4, 1, 'C', True), u8[:,::1], u8[:,::1])", needs=has_aes)
def encrypt_blocks(key: Any, blocks: Any, out: Any) -> None:
    """AES-128 of each block (n, 2) under a public key (4,)."""
    schedule = expand_key(key)
    for i in range(blocks.shape[0]):
        out[i, 0], out[i, 1] = encrypt(blocks[i, 0], blocks[i, 1], schedule)
