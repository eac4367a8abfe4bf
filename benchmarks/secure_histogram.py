"""Secure histogram: processor time of a vector, both sides together, on one core."""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import paillier
from result import emit

from veilscore.lattice.histogram import HistogramCodes, HistogramVectors
from veilscore.lattice.params import T, check_histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUND_MS = 50.0
BOUND_SETUP_S = 10.0
ROUNDS = 7
BATCH = 8


def plain_sums(codes: NDArray[np.uint8], n_codes: int, x: NDArray[np.uint64]) -> NDArray[np.object_]:
    """Return the exact sums modulo t of x (n,) by cell, from three pieces that floats add exactly."""
    sums: list[int] = []
    for column in codes.T:
        pieces = [
            np.bincount(column, ((x >> np.uint64(shift)) & np.uint64(0xFFFFF)).astype(np.float64), n_codes)
            for shift in (0, 20, 40)
        ]
        sums.extend(sum(int(piece[k]) << (20 * i) for i, piece in enumerate(pieces)) % T for k in range(n_codes))
    return np.array(sums, np.object_)


def run(owner: HistogramCodes, vectors: HistogramVectors, x: NDArray[np.uint64]) -> tuple[float, float, object, int]:
    """Return processor seconds of each side, the reconstructed sums (V, cells) and the bytes of the query."""
    start = time.process_time()
    query, share = vectors.query(x)
    middle = time.process_time()
    other = owner.evaluate(query)
    end = time.process_time()
    size = len(query.b) + len(query.beta) + len(query.alpha)
    return middle - start, end - middle, (share.astype(object) + other) % T, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--codes", type=int, default=32)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    codes = rng.integers(0, args.codes, (args.rows, args.columns), dtype=np.uint8)
    n_codes = np.full(args.columns, args.codes)
    x = rng.integers(0, T, (BATCH, args.rows), dtype=np.uint64)

    # compile first: the bound is on running nodes
    warm = HistogramCodes(codes[:10], n_codes, b"warm-up")
    run(warm, HistogramVectors(10, n_codes, b"warm-up", warm.hint_chunks()), x[:1, :10])

    start = time.process_time()
    owner = HistogramCodes(codes, n_codes, b"benchmark")
    hints = list(owner.hint_chunks())
    hints_s = time.process_time() - start
    vectors = HistogramVectors(args.rows, n_codes, b"benchmark", hints)
    setup_s = time.process_time() - start

    expected = np.stack([plain_sums(codes, args.codes, row) for row in x])
    single = [run(owner, vectors, x[i % BATCH : i % BATCH + 1]) for i in range(ROUNDS)]
    batch = run(owner, vectors, x)
    distances = [(got - expected[i % BATCH]) % T for i, (_, _, got, _) in enumerate(single)]
    distances.append((batch[2] - expected) % T)
    units = max(int(np.minimum(d, T - d).max()) for d in distances)

    query_ms = 1e3 * median(r[0] for r in single)
    evaluate_ms = 1e3 * median(r[1] for r in single)
    value = query_ms + evaluate_ms
    yardstick = paillier.sample()
    paillier_s = yardstick.vector_s(args.rows, args.columns)
    failure = check_histogram(args.rows, args.columns * args.codes).log2_failure
    print(f"{args.rows:,} rows x {args.columns} columns x {args.codes} codes, one core, processor time")
    for label, shown in (
        ("set-up, code owner, s", f"{hints_s:.2f}"),
        ("set-up, both sides, s", f"{setup_s:.2f}"),
        ("a vector, vector owner, ms", f"{query_ms:.1f}"),
        ("a vector, code owner, ms", f"{evaluate_ms:.1f}"),
        ("a vector, both sides, ms", f"{value:.1f}"),
        (f"the same, {BATCH} vectors at once, ms", f"{1e3 * (batch[0] + batch[1]) / BATCH:.1f}"),
        ("largest error, units of the last place", f"{units}"),
        ("log2 probability of an error, a cell", f"{failure:.1f}"),
        ("hints, MB", f"{sum(map(len, hints)) / 1e6:.1f}"),
        ("a vector, MB", f"{single[0][3] / 1e6:.2f}"),
        (f"Paillier ({yardstick.arithmetic}), s, extrapolated", f"{paillier_s:.0f}"),
        ("times faster than Paillier", f"{1e3 * paillier_s / value:,.0f}"),
    ):
        print(f"  {label:<56}{shown:>12}")
    emit(
        "secure_histogram",
        value,
        "ms",
        BOUND_MS,
        value <= BOUND_MS and setup_s <= BOUND_SETUP_S and units <= 1,
        setup_s=setup_s,
        setup_bound_s=BOUND_SETUP_S,
        query_ms=query_ms,
        evaluate_ms=evaluate_ms,
        batch_ms=1e3 * (batch[0] + batch[1]) / BATCH,
        largest_error_units=units,
        hint_bytes=sum(map(len, hints)),
        query_bytes=single[0][3],
        paillier_extrapolated_s=paillier_s,
        paillier_arithmetic=yardstick.arithmetic,
        paillier_encryption_ms=1e3 * yardstick.encryption_s,
        paillier_addition_us=1e6 * yardstick.addition_s,
    )


if __name__ == "__main__":
    main()
