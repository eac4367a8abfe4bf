"""Mutates inputs of every parser and keeps those that reach new lines: ``python tests/fuzzing/fuzz.py --inputs N``.

An input is found by its seed, its parser and its number; one that raises anything but our own errors is printed, and is
to be kept in corpus/PARSER.hex, whose lines are what every run begins with.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import parsers
from parsers import TARGETS, Target

from veilscore.errors import VeilscoreError

CORPUS = Path(__file__).with_name("corpus")
MOST_BYTES, MOST_KEPT, SLOW_S = 4096, 400, 2.0
_PRODUCT = tuple(str(Path(parsers.__file__).parents[2] / name) for name in ("veilscore", "party_bank"))
ODD = (
    b"null",
    b"true", b"-1", b"1e999", b"NaN", b'"\\ud800"', b"9" * 400, b"[" * 300, b'{"a":' * 300, b"{}", b"[]", b'""',
    b"\0", b"\xff\xff\xff\xff", b"!!int x", b"2026-99-99", b"\r\n", b"<<", b"&a [*a]", b"../x", b"0x", b"1:99:99",
    b"\xed\xa0\x80", b"E ", b"H ", b"-----BEGIN CERTIFICATE-----\n", b"1" + b"0" * 30,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 64, 10**400, 0.5, 1e308, "", "x", "\ud800", "\0", [], {}, [[]], {"a": 1}, "9" * 50,
    [None] * 9,
)  # fmt: skip


def corpus_of(target: Target) -> list[bytes]:
    path = CORPUS / f"{target.name.replace(' ', '_')}.hex"
    kept = [bytes.fromhex(line) for line in path.read_text().split()] if path.is_file() else []
    return [*target.seeds, *kept] or [b""]


def mutated(rng: random.Random, pool: list[bytes]) -> bytes:
    """Return an input a few changes away from one of the pool."""
    data = rng.choice(pool)
    if rng.random() < 0.35 and data[:1] in b"[{":
        try:
            return json.dumps(_other_value(rng, json.loads(data))).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            pass
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randint(0, len(found))
        to = min(len(found), at + rng.choice((1, 2, 4, 16, 64)))
        act = rng.randrange(7)
        if act == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif act == 1:
            found[at:to] = rng.choice(ODD)
        elif act == 2:
            del found[at:to]
        elif act == 3:
            found[at:at] = found[at:to] * rng.choice((1, 3))
        elif act == 4:
            other = rng.choice(pool)
            start = rng.randint(0, len(other))
            found[at:to] = other[start : start + rng.choice((1, 8, 64, 256))]
        elif act == 5:
            del found[at:]
        else:
            found[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
    return bytes(found[:MOST_BYTES])


def _other_value(rng: random.Random, body: Any) -> Any:
    """Put an odd value in some place of a JSON value."""
    if not isinstance(body, (dict, list)) or not body or rng.random() < 0.15:
        return rng.choice(VALUES)
    keys = list(body) if isinstance(body, dict) else list(range(len(body)))
    key = rng.choice(keys)
    if isinstance(body, dict) and rng.random() < 0.1:
        return {name: value for name, value in body.items() if name != key}
    body[key] = _other_value(rng, body[key])
    return body


def _lines(seen: set[tuple[int, int]], new: list[bool]) -> Any:
    def local(frame: Any, event: str, _: object) -> Any:
        if event == "line":
            place = (id(frame.f_code), frame.f_lineno)
            if place not in seen:
                seen.add(place)
                new[0] = True
        return local

    return lambda frame, _event, _: local if frame.f_code.co_filename.startswith(_PRODUCT) else None


def fuzz(target: Target, inputs: int, seed: int, seconds: float) -> dict[str, Any]:
    """Give a parser so many inputs, or as many as these seconds allow; returns what came of it."""
    rng = random.Random(f"{seed} {target.name}")
    pool, kept, seen = corpus_of(target), [], set()
    allowed = (VeilscoreError, *target.besides)
    outcomes: Counter[str] = Counter()
    failed: dict[str, tuple[bytes, str]] = {}
    began, n = time.monotonic(), 0
    while n < inputs and time.monotonic() - began < seconds:
        data = pool[n] if n < len(pool) and not kept else mutated(rng, pool)
        new, traced = [False], n < 200 or n % 8 == 0
        start = time.monotonic()
        if traced:
            sys.settrace(_lines(seen, new))
        try:
            target.parse(data)
            outcomes["taken"] += 1
        except allowed as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 - any other error is what is looked for
            sys.settrace(None)
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {place.filename}:{place.lineno}"
            failed.setdefault(what, (data, traceback.format_exc()))
        finally:
            sys.settrace(None)
        if (took := time.monotonic() - start) > SLOW_S:
            failed.setdefault(f"took {took:.1f} s", (data, ""))
        if new[0] and n >= len(TARGETS) and len(pool) < MOST_KEPT:
            pool.append(data)
            kept.append(data)
        n += 1
    return {"inputs": n, "outcomes": outcomes, "failed": failed, "kept": kept, "lines": len(seen)}


def keep(target: Target, inputs: list[bytes], most: int = 24) -> None:
    """Add inputs to the corpus, the shortest first."""
    path = CORPUS / f"{target.name.replace(' ', '_')}.hex"
    before = path.read_text().split() if path.is_file() else []
    new = [one.hex() for one in sorted(inputs, key=len) if len(one) <= 1024]
    path.write_text("\n".join([*before, *(one for one in new if one not in before)][:most]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each parser")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="most for each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of parsers")
    parser.add_argument("--keep", action="store_true", help="add what reached new lines to the corpus")
    options = parser.parse_args()
    bad = 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        parsers.FILE.folder = Path(folder)
        for target in TARGETS:
            if options.only and target.name not in options.only:
                continue
            found = fuzz(target, options.inputs, options.seed, options.seconds)
            came = ", ".join(f"{n} {what}" for what, n in found["outcomes"].most_common())
            print(f"{target.name:18} {found['inputs']:8d} inputs {found['lines']:5d} lines: {came}", flush=True)
            for what, (data, trace) in found["failed"].items():
                bad += 1
                print(f"FAILED {target.name}: {what}\n  input {data[:600].hex()}\n{trace}")
            if options.keep:
                keep(target, [*(data for data, _ in found["failed"].values()), *found["kept"]])
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
