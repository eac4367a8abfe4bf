"""Alignment of 100k ids a side, both parties on this machine, over the in-memory channel."""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
from result import emit

from veilscore.crypto.group import Scalar, hash_to_group, raise_points
from veilscore.protocols.align import bank_align, holder_align
from veilscore.wire.memory import simulate
from veilscore.wire.protocol import Session
from veilscore.wire.transcript import Transcript

BOUND_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-ids", type=int, default=100_000)
    n_ids = parser.parse_args().n_ids
    shared = n_ids * 9 // 10
    ids = [f"91310000MA1K{i:06d}" for i in range(2 * n_ids - shared)]
    bank_ids, tax_ids = ids[:n_ids], ids[-n_ids:]
    with Scalar() as scalar:
        raise_points(hash_to_group(b"compile", ids[:8]), scalar)
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
    exact = bool(np.array_equal(result["tax"].row_of, np.maximum(rows, -1)))
    sent = transcripts["bank"].bytes_sent("bank") + transcripts["bank"].bytes_sent("tax")
    print(f"{'ids a side':<28}{n_ids:>12,}")
    print(f"{'wall s':<28}{wall:>12.2f}")
    print(f"{'processor s, both sides':<28}{cpu:>12.2f}")
    print(f"{'microseconds an id and side':<28}{1e6 * cpu / n_ids / 2:>12.1f}")
    print(f"{'bytes sent':<28}{sent:>12,}")
    print(f"{'equals the left join':<28}{exact!s:>12}")
    emit(
        "alignment",
        wall,
        "s",
        BOUND_S,
        wall <= BOUND_S and exact,
        n_ids=n_ids,
        cpu_s=cpu,
        bytes_sent=sent,
        exact=exact,
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    main()
