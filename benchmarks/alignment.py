"""Alignment of 100k and of a million ids a side, both parties on this machine, over the in-memory channel.

Beside it, in the same run, what Diffie-Hellman over ristretto255 would take (the protocol before ADR 25): an id hashed
to the group and raised to two secrets, at each side.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import time
from typing import Any

import numpy as np
from rbcl import crypto_core_ristretto255_from_hash as to_group
from result import emit

from veilscore.crypto.group import Scalar, raise_points
from veilscore.protocols.align import bank_align, holder_align
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session
from veilscore.wire.transcript import Transcript

BOUNDS_S = {100_000: 2.0, 1_000_000: 15.0}
CURVE_IDS = 5_000


def align(n_ids: int) -> dict[str, Any]:
    """Align two sets of which nine tenths are shared."""
    shared = n_ids * 9 // 10
    ids = [f"91310000MA1K{i:07d}" for i in range(2 * n_ids - shared)]
    bank_ids, tax_ids = ids[:n_ids], ids[-n_ids:]
    sessions = {p: Session("bench/align/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    transcripts = {p: Transcript() for p in sessions}
    roles = {
        "bank": bank_align(sessions["bank"], "tax", bank_ids),
        "tax": holder_align(sessions["tax"], tax_ids),
    }
    wall, cpu = time.perf_counter(), time.process_time()
    result = simulate(roles, sessions, transcripts=transcripts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = np.arange(n_ids) - (n_ids - shared)
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "us_an_id_and_side": 1e6 * cpu / n_ids / 2,
        "bytes_by_bank": transcripts["bank"].bytes_sent("bank"),
        "bytes_by_holder": transcripts["bank"].bytes_sent("tax"),
        "exact": bool(np.array_equal(result["tax"].row_of, np.maximum(rows, -1))),
    }


def curve_us() -> float:
    """Microseconds of processor an id and side by Diffie-Hellman."""
    ids = [f"91310000MA1K{i:07d}" for i in range(CURVE_IDS)]
    with Scalar() as own, Scalar() as other:
        start = time.process_time()
        points = b"".join(to_group(hashlib.sha512(i.encode()).digest()) for i in ids)
        raise_points(raise_points(np.frombuffer(points, np.uint8).reshape(-1, 32), own), other)
        return 1e6 * (time.process_time() - start) / CURVE_IDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-ids", type=int, nargs="+", default=list(BOUNDS_S))
    sizes = parser.parse_args().n_ids
    align(2_000)  # compiled code is loaded
    found = {n_ids: align(n_ids) for n_ids in sizes}
    curve = curve_us()
    for n_ids, one in found.items():
        print(f"{n_ids:>12,} ids a side")
        for name, value in one.items():
            print(f"  {name:<28}{value:>16,.2f}" if isinstance(value, float) else f"  {name:<28}{value!s:>16}")
    ratio = curve / found[sizes[-1]]["us_an_id_and_side"]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'curve, us an id and side':<30}{curve:>16,.1f}  ({ratio:.0f} times as much)")
    print(f"{'most memory, both sides, MB':<30}{peak_mb:>16,.0f}")
    largest = sizes[-1]
    emit(
        "alignment",
        found[largest]["wall_s"],
        "s",
        BOUNDS_S.get(largest, 15.0),
        all(one["exact"] and one["wall_s"] <= BOUNDS_S.get(n, 15.0) for n, one in found.items()),
        sizes={str(n): one for n, one in found.items()},
        curve_us_an_id_and_side=curve,
        ratio=ratio,
        peak_mb=peak_mb,
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    main()
