"""Logs and receipts: entries a second in batches, milliseconds to verify one score's receipt, cost of a batch."""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from result import emit

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import veilscore.fabric.fabric  # noqa: E402, F401, I001 - before tests load gRPC: TLS 1.3 alone

from trial_evidence import KEYS, open_log, run_jobs  # noqa: E402 - after the path is set

from veilscore.evidence.documents import load_keys  # noqa: E402
from veilscore.evidence.kept_receipts import score_receipt  # noqa: E402
from veilscore.evidence.receipt import ScoreTree  # noqa: E402
from veilscore.evidence.verify import verify_log, verify_receipt  # noqa: E402

N_ENTRIES = 100_000
MIN_PER_S = 10_000.0
MAX_VERIFY_MS = 5.0
N_SCORES = 100_000


def entries_per_second(folder: Path, batch: int, count: int) -> float:
    """Entries of a step's size, each batch signed and on disk before the next."""
    log = open_log(folder)
    entries = [
        {"kind": "score", "digest": hashlib.sha256(bytes([k % 256])).hexdigest(), "number": k, "time_ms": k}
        for k in range(count)
    ]
    started = time.perf_counter()
    for at in range(0, count, batch):
        log.append(entries[at : at + batch])
    seconds = time.perf_counter() - started
    log.close()
    verify_log(folder / "log.jsonl", KEYS)
    return count / seconds


def verify_ms(folder: Path, job_id: str) -> list[float]:
    """Milliseconds to verify one score's receipt, all signatures of four parties included."""
    keys = load_keys(folder / "tax" / "federation.yaml")
    data = score_receipt(folder / "bank", job_id, "firm000777").to_bytes()
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        verify_receipt(data, keys)
        taken.append(1e3 * (time.perf_counter() - started))
    return taken


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rates = {b: entries_per_second(folder / f"log{b}", b, N_ENTRIES if b > 1 else 2000) for b in (1, 100, 1000)}
        sys.stdout.flush()
        (job_id,) = run_jobs(folder / "trial", firms=10_000)
        taken = verify_ms(folder / "trial", job_id)
        content = b"id,score\r\n" + b"".join(b"firm%d,%d.0\r\n" % (k, k % 900) for k in range(N_SCORES))
        started = time.perf_counter()
        tree = ScoreTree(content, os.urandom(32))
        batch_s = time.perf_counter() - started
    for batch, rate in rates.items():
        print(f"{rate:12,.0f} entries a second in batches of {batch}")
    median = statistics.median(taken)
    print(f"{median:12.2f} ms to verify a score's receipt (median; worst {max(taken):.2f})")
    print(f"{batch_s:12.2f} s for the tree over {tree.scores.count:,} scores")
    holds = rates[1000] >= MIN_PER_S and median <= MAX_VERIFY_MS
    emit(
        "evidence",
        round(median, 3),
        "ms",
        MAX_VERIFY_MS,
        holds,
        entries_per_s={str(b): round(rate) for b, rate in rates.items()},
        entries_per_s_bound=MIN_PER_S,
        verify_worst_ms=round(max(taken), 3),
        batch_tree_s=round(batch_s, 3),
        scores=N_SCORES,
    )


if __name__ == "__main__":
    main()
