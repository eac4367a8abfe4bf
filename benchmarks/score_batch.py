"""Batch scoring: time of a holder for the opened lookup sum of all rows, by the clock on two cores and of processors.

That is all of an exact score. For a step the lead garbles a circuit besides, which is measured on some of the rows.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import TYPE_CHECKING

import numpy as np
from result import emit
from score_bands import STEPS
from score_bands import run as open_steps

from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import LOOKUP_OPEN, check_lookup
from veilscore.protocols.blocks import WORKERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUND_S = 2.5
TURN = LOOKUP_OPEN.t
LABEL = b"benchmark"


def run(codes: NDArray[np.uint8], n_codes: NDArray[np.int64], theta: NDArray[np.int64]) -> dict[str, float]:
    """Score all rows once; return seconds of each part, of processors and by the clock, bytes, and wrong rows."""
    owner = LookupCodes(codes, n_codes, LABEL, opened=True, workers=WORKERS)
    table = LookupTable(codes.shape[0], n_codes, LABEL, opened=True)
    clock = [_now()]
    cells, alpha = table.begin(theta)
    clock.append(_now())
    hints = owner.begin(cells, alpha)
    clock.append(_now())
    table.add_hints(hints)
    beta, share = table.finish()
    clock.append(_now())
    other = owner.finish(beta)
    clock.append(_now())
    (begun, made, closed, ended), (begun_wall, made_wall, closed_wall, ended_wall) = np.diff(clock, axis=0).T.tolist()
    offsets = np.concatenate(([0], np.cumsum(n_codes)[:-1]))
    expected = sum((theta[at + codes[:, c]] for c, at in enumerate(offsets)), np.zeros(codes.shape[0], np.int64))
    wrong = int(np.count_nonzero((share.astype(np.int64) + other.astype(np.int64) - expected) % TURN))
    return {
        "holder_s": made + ended,
        "holder_wall_s": made_wall + ended_wall,
        "bank_s": begun + closed,
        "bank_wall_s": begun_wall + closed_wall,
        "hint_bytes": len(hints),
        "query_bytes": len(cells) + len(alpha) + len(beta),
        "wrong_rows": wrong,
    }


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--codes", type=int, default=10)
    parser.add_argument("--coarse-rows", type=int, default=100_000, help="rows of which steps are opened too")
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    codes = rng.integers(0, args.codes, (args.rows, args.columns), dtype=np.uint8)
    n_codes = np.full(args.columns, args.codes)
    # points of either sign; the total stays far below half a turn, as scoring checks
    theta = rng.integers(-(1 << 18), 1 << 18, args.columns * args.codes)

    # compile first: the bound is on running nodes
    run(codes[:10], n_codes, theta)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(codes, n_codes, theta)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = min(args.coarse_rows, args.rows)
    totals = rng.integers(30_000, 80_000, part)
    open_steps(totals[:10], STEPS)
    found, spent, n_bytes = open_steps(totals, STEPS)
    result["wrong_rows"] += int(np.count_nonzero(found != STEPS.index(totals)))

    value = result["holder_wall_s"]
    budget = check_lookup(LOOKUP_OPEN, args.rows, args.columns, args.columns * args.codes)
    exact_s = result["holder_s"] * part / args.rows
    coarse_s = exact_s + spent["tax"]
    failure = budget.log2_failure + np.log2(args.rows)
    print(f"{args.rows:,} rows x {args.columns} columns x {args.codes} codes")
    for label, shown in (
        ("holder, s by the clock on two cores", f"{value:.2f}"),
        ("holder, s of processors", f"{result['holder_s']:.2f}"),
        ("bank, s by the clock", f"{result['bank_wall_s']:.2f}"),
        ("bank, s of processors", f"{result['bank_s']:.2f}"),
        ("rows a second, holder", f"{args.rows / value:,.0f}"),
        ("hints, MB", f"{result['hint_bytes'] / 1e6:.1f}"),
        ("query, MB", f"{result['query_bytes'] / 1e6:.1f}"),
        ("bytes a row, both ways", f"{(result['hint_bytes'] + result['query_bytes']) / args.rows:.1f}"),
        (f"{part:,} rows exact: holder, s", f"{exact_s:.2f}"),
        (f"{part:,} rows in {len(STEPS.names)} steps: lead, s", f"{coarse_s:.2f}"),
        (
            f"{part:,} rows in {len(STEPS.names)} steps: bank, s",
            f"{result['bank_s'] * part / args.rows + spent['bank']:.2f}",
        ),
        ("bytes a row more, in steps", f"{n_bytes / part:.0f}"),
        ("rows that are wrong", f"{result['wrong_rows']}"),
        ("log2 probability that any row is", f"{failure:.1f}"),
        ("peak memory, both sides in one process, MB", f"{peak / 1024:.0f}"),
        ("of which before, with the codes, MB", f"{before / 1024:.0f}"),
    ):
        print(f"  {label:<56}{shown:>12}")
    emit(
        "score_batch",
        value,
        "s",
        BOUND_S,
        value <= BOUND_S and not result["wrong_rows"],
        rows=args.rows,
        log2_failure=failure,
        peak_memory_mb=peak / 1024,
        memory_before_mb=before / 1024,
        coarse_rows=part,
        exact_s=exact_s,
        coarse_s=coarse_s,
        coarse_bytes_a_row=n_bytes / part,
        **result,
    )


if __name__ == "__main__":
    main()
