"""Processor time of one online score with two holders, all parties added up, no network."""

from __future__ import annotations

import argparse
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from result import emit

from veilscore.crypto import encrypted_cells, he
from veilscore.crypto.zero_share import PairwiseKey, share_context, zero_share
from veilscore.protocols import adding

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUND_MS = 20.0
N_COLUMNS, N_CODES = 20, 10
HOLDERS = ("registry", "tax")
ANSWERING = ("encrypt", "evaluate", "open")


class Stopwatch:
    """Processor milliseconds of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        start = time.process_time()
        yield
        self.stages.setdefault(name, []).append(1e3 * (time.process_time() - start))

    def per_score(self, n_scores: int) -> float:
        """Median over scores of the stages that answer a request, all holders."""
        times = np.array([self.stages[s] for s in ANSWERING]).sum(axis=0)
        return float(np.median(times.reshape(n_scores, len(HOLDERS)).sum(axis=1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    rng, watch = np.random.default_rng(0), Stopwatch()
    n_codes = np.full(N_COLUMNS, N_CODES)
    secret = {h: he.SecretContext() for h in HOLDERS}
    public = {h: he.PublicContext(secret[h].public_bytes) for h in HOLDERS}
    points = {h: rng.integers(-500, 500, N_COLUMNS * N_CODES) for h in HOLDERS}
    encoded = {h: encrypted_cells.encode_points(points[h]) for h in HOLDERS}
    key = PairwiseKey(bytes(32))
    exact, sizes = True, (0, 0)
    for request in range(repeats):
        context = share_context(str(request), HOLDERS, b"model", b"firm")
        partials, masks, expected = [], [], 0
        for holder, peer in zip(HOLDERS, HOLDERS[::-1], strict=True):
            codes = rng.integers(0, N_CODES, (1, N_COLUMNS))
            with watch.stage("mask made beforehand"):
                blinds = [public[holder].blind()]
            with watch.stage("encrypt"):
                query = encrypted_cells.encrypt_cells(secret[holder], encrypted_cells.one_hot(codes, n_codes))
            with watch.stage("evaluate"):
                done = encrypted_cells.evaluate(public[holder], query, encoded[holder], blinds)
            with watch.stage("open"):
                share = zero_share(holder, {peer: key}, context, 1, he.T)
                partials.append(encrypted_cells.open_partial(secret[holder], done.reply, 1, len(points[holder]), share))
            masks.append(done.mask_total)
            expected += int(points[holder][np.arange(N_COLUMNS) * N_CODES + codes[0]].sum())
            sizes = len(query[0]), len(done.reply[0])
        total = (adding.add_partials(partials).astype(np.int64) - np.sum(masks, axis=0, dtype=np.int64)) % he.T
        exact &= total.tolist() == [expected % he.T]
    value = watch.per_score(repeats)
    for stage, times in watch.stages.items():
        print(f"{stage + ', ms a holder':<36}{median(times):>10.2f}")
    print(f"{'one score, two holders, ms':<36}{value:>10.2f}")
    print(f"{'query, bytes a holder':<36}{sizes[0]:>10,}")
    print(f"{'reply, bytes a holder':<36}{sizes[1]:>10,}")
    emit(
        "score_online_kernel",
        value,
        "ms",
        BOUND_MS,
        exact and value <= BOUND_MS,
        exact=exact,
        query_bytes=sizes[0],
        reply_bytes=sizes[1],
        **{stage.replace(" ", "_") + "_ms": median(times) for stage, times in watch.stages.items()},
    )


if __name__ == "__main__":
    main()
